"""The Gemini API's interactions: made, streamed, run in the background, and looked at again.

Shapes: https://ai.google.dev/api/interactions-api and the types of the google-genai SDK. The rules of usage are those
of `gemini_usage`; besides:

* Retrieving, deleting and cancelling a stored interaction are free. An interaction that ran in the background is paid
  for where it was asked for; who retrieves it learns what it used, which the reading gives as the result of that `Job`.
* A stream begins with the interaction without its usage; the event that completes it has it. `grounding_tool_count`
  counts searches where it is there, else the queries in the steps do.
* A loop over tools sums the input of its turns; then only the first turn's size is stated, and long-context prices
  cannot be told from the sum.
* An agent works with models of its own choice; without a price for the agent its cost is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, jsonedit, reply
from costbearer.dialects import gemini_request as requests
from costbearer.dialects.base import JSON, NOTHING, NOWHERE, CallRequest, Job, Outgoing, Place, Plain, Reading
from costbearer.dialects.gemini_usage import Grounding, inclusive, read_interaction_usage, read_tier, tier_word
from costbearer.dialects.reply import Notes
from costbearer.errors import BodyInvalid
from costbearer.usage import Work

INTERACTIONS = "interactions"
PATH = "/v1beta/interactions"
UNDER_WAY = frozenset({"queued", "in_progress"})
COMPLETED = frozenset({"interaction.completed", "interaction.complete"})
"""The event with the usage, under its name of today and of the API's revisions before May 2026."""

_OPEN_MEMBERS = frozenset({"previous_interaction_id", "cached_content", "agent", "environment", "continuation_token"})
_CONTAINED = frozenset({None, "text", "user_input", "model_output", "thought", "function_call", "function_result"})
_CONTENTS = ("content", "result", "summary")
_BOOLEAN = re.compile(r"true|false", re.IGNORECASE)
_QUERY = {
    "alt": re.compile(r"json|sse"),
    "stream": _BOOLEAN,
    "include_input": _BOOLEAN,
    "includeInput": _BOOLEAN,
    "last_event_id": re.compile(r"[!-~]{1,1024}"),
    "lastEventId": re.compile(r"[!-~]{1,1024}"),
}
_METHODS = {"retrieve": "GET", "delete": "DELETE", "cancel": "POST"}


class _Interaction(msgspec.Struct, gc=False):
    """Of an interaction, what is read. Types are checked where they are used, so that none can fail it."""

    id: Any = None
    model: Any = None
    status: Any = None
    usage: Any = None
    created: Any = None
    service_tier: Any = None
    background: Any = None
    steps: Any = None
    outputs: Any = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    event_type: Any = None
    interaction: msgspec.Raw = msgspec.Raw(b"null")
    step: Any = None
    delta: Any = None
    status: Any = None
    interaction_id: Any = None
    error: Any = None


_interaction = reply.decoder(_Interaction)
_event = reply.decoder(_Event)
_any = bounds.bounded(msgspec.json.Decoder(Any).decode)
_tools = bounds.bounded(msgspec.json.Decoder(list[dict[str, Any]]).decode)


class GeminiInteraction(Plain):
    """The operation `interactions`."""

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        requests.query_of(place, _QUERY)
        fields = bodies.Fields(body)
        tags = fields.tags()
        config = fields.object("generation_config")
        return CallRequest(
            operation=INTERACTIONS,
            model=_model(fields),
            stream=fields.flag("stream") or False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=None if config is None else config.whole("max_output_tokens") or None,
            open_ended=_open_ended(fields),
            tier=requests.tier_of(fields, place),
            background=fields.flag("background") or False,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model or agent renamed; else the caller's bytes."""
        body = requests.without_tags(request)
        if model != request.model:
            revision = jsonedit.Revision(body)
            revision.replace("model" if revision.value("model") is not None else "agent", msgspec.json.encode(model))
            body = revision.text()
        path = request.place.path or PATH
        return Outgoing(requests.with_query(path, requests.query_of(request.place, _QUERY)), body)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> StreamReader:
        return StreamReader(request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read an interaction that came whole, or an error body. Never raises."""
        return _whole(request, body, headers)


class StoredInteraction(Plain):
    """What can be done with one stored interaction: `retrieve`, `delete`, `cancel`. Free, and without a model."""

    def __init__(self, what: Literal["retrieve", "delete", "cancel"]) -> None:
        self._operation = f"{INTERACTIONS}.{what}"
        self._method = _METHODS[what]

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        query = dict(requests.query_of(place, _QUERY))
        if not place.params.get("id"):
            raise BodyInvalid(f"the path names no interaction; it must be such as {PATH}/{{id}}")
        stream = query.get("stream", "").lower() == "true"
        return CallRequest(operation=self._operation, model="", stream=stream, body=b"", place=place, free=True)

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The same request without credentials of the caller's."""
        place = request.place
        return Outgoing(
            requests.with_query(place.path, requests.query_of(place, _QUERY)),
            b"",
            self._method,
            JSON if self._method == "POST" else None,
        )

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> StreamReader:
        return StreamReader(request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read an interaction, or the empty reply of a deletion. Never raises."""
        if not body.strip():
            return Reading(complete=True)
        return _whole(request, body, headers)


def _whole(request: CallRequest, body: bytes, headers: Mapping[str, str]) -> Reading:
    told = _Told(request, headers)
    try:
        told.interaction(_interaction(body), is_final=True)
    except msgspec.ValidationError:
        return Reading(notes=("body_unexpected", "usage_absent"))
    except reply.UNREADABLE:
        return Reading(notes=("body_not_json",))
    return told.reading(Notes())


class _Told:
    """What a reply has told so far."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self._headers = headers
        self._id: str | None = None
        self._model: str | None = None
        self._status: str | None = None
        self._tier: str | None = None
        self._created: datetime | None = None
        self._background = request.background
        self._usage: dict[str, Any] | None = None
        self._ended = False
        self._generated = 0
        self._grounding = Grounding()
        self._error_code: str | None = None
        self._notes = Notes()

    def event(self, event: _Event) -> bool:
        """An event of a stream. Says whether it ends the stream."""
        is_final = type(event.event_type) is str and event.event_type in COMPLETED
        if memoryview(event.interaction)[0] == ord("{"):
            self.interaction(_interaction(bytes(event.interaction)), is_final=is_final)
        if type(event.step) is dict:
            self._step(event.step)
        if type(event.delta) is dict:
            self._step(event.delta)
        self._id = self._id or reply.name(event.interaction_id)
        if event.status is not None:
            self._status = reply.name(event.status) or self._status
        if event.error:
            self._failed(event.error)
            self._notes.add("error_in_stream")
        return is_final

    def interaction(self, found: _Interaction, *, is_final: bool) -> None:
        """An interaction as it stands; what it states replaces what was known."""
        self._id = reply.name(found.id) or self._id
        self._model = reply.name(found.model) or self._model
        self._status = reply.name(found.status) or self._status
        self._tier = tier_word(found.service_tier) or self._tier
        self._created = _time(found.created) or self._created
        self._background = self._background or found.background is True
        self._ended = self._ended or (is_final and self._status not in UNDER_WAY)
        for listed in (found.steps, found.outputs):
            for step in listed if type(listed) is list else ():
                if type(step) is dict:
                    self._step(step)
        if type(found.usage) is dict and found.usage:
            self._usage = found.usage
        elif found.usage is not None and found.usage != {}:
            self._notes.add("usage_malformed")
        if found.error:
            self._failed(found.error)

    def _step(self, step: dict[str, Any]) -> None:
        """A step, a content or a delta of either: what was generated, and which searches were made."""
        kind, arguments = reply.name(step.get("type")), step.get("arguments")
        if kind == "google_search_call" and type(arguments) is dict:
            self._grounding.add(arguments.get("queries"))
        elif kind == "google_maps_call":
            self._grounding.maps = True
        text = step.get("text")
        if text is not None:
            self._generated += reply.size(text)
        self._generated += reply.size(step.get("name"))
        self._generated += reply.size(arguments) if type(arguments) is str else 0
        self._generated += reply.json_size(arguments) if type(arguments) is dict else 0
        if kind not in _RESULTS:
            for name in _CONTENTS:
                inner = step.get(name)
                for part in inner if type(inner) is list else (inner,):
                    if type(part) is dict:
                        self._generated += reply.size(part.get("text"))

    def _failed(self, error: object) -> None:
        if type(error) is dict:
            self._error_code = reply.code(error.get("status"), error.get("code"))
        else:
            self._error_code = reply.ERROR_CODE_UNKNOWN

    def reading(self, noted: Notes) -> Reading:
        """What was said, at the end of the reply or where it was cut."""
        notes = Notes()
        notes.add(*noted.codes(), *self._notes.codes())
        is_stored = self._request.free
        if is_stored and self._id is None and self._usage is None:
            return Reading(complete=self._error_code is None, error_code=self._error_code, notes=noted.codes())
        under_way = not self._ended and self._error_code is None
        whole = not self._request.stream
        if under_way and self._id is not None and (is_stored or self._background or (whole and self._is_pending)):
            return self._reading((), False, self._job("pending"), notes)
        work, sound = self._work(notes)
        job = None
        if is_stored and self._id is not None and self._ended:
            job = self._job("failed" if self._status == "failed" else "done")
        return self._reading(work, sound and self._ended, job, notes)

    @property
    def _is_pending(self) -> bool:
        return self._status in UNDER_WAY

    def _work(self, notes: Notes) -> tuple[tuple[Work, ...], bool]:
        """What was used, and whether it can be relied on."""
        stated = self._usage
        if stated is None:
            notes.add("usage_absent")
            return (), False
        counts, all_counts = read_interaction_usage(stated, notes)
        usage, usable = inclusive(counts, notes)
        self._count_tools(stated.get("grounding_tool_count"))
        model = self._model or self._request.model
        searches = self._grounding.requests(model)
        if searches is not None:
            usage = msgspec.structs.replace(usage, web_search_requests=searches)
        sound = all_counts and usable and "usage_malformed" not in notes.codes()
        if self._grounding.maps:
            # Its fee is not in any price list here, so that the sum would not be the cost.
            notes.add("maps_grounding_unpriced")
            sound = False
        if usage.input_tokens is None and usage.output_tokens is None:
            return (), False
        first = stated.get("initial_input_tokens")
        largest = counts.prompt.tokens if first is None or first == counts.prompt.tokens else None
        return (Work(model=model, usage=usage, largest_input_tokens=largest),), sound

    def _count_tools(self, listed: object) -> None:
        for each in listed if type(listed) is list else ():
            count = each.get("count") if type(each) is dict else None
            if type(count) is int and count > 0:
                if each.get("type") == "google_search":
                    self._grounding.state(count)
                elif each.get("type") == "google_maps":
                    self._grounding.maps = True

    def _job(self, state: Literal["pending", "done", "failed"]) -> Job:
        assert self._id is not None, "a job has an id"
        return Job(self._id, state, self._created)

    def _reading(self, work: tuple[Work, ...], complete: bool, job: Job | None, notes: Notes) -> Reading:
        tier, asked = self._tier or read_tier({}, self._headers), self._request.tier
        if tier is None and asked not in (None, "standard"):
            notes.add("tier_assumed")
            tier = asked
        return Reading(
            work=work,
            complete=complete,
            response_model=self._model,
            response_id=self._id,
            tier=tier,
            generated_bytes=self._generated,
            error_code=self._error_code,
            job=job,
            notes=notes.codes(),
        )


_RESULTS = frozenset({"function_result", "code_execution_result", "google_search_result", "url_context_result"})
"""Steps that bring input to the model; what they hold was not generated."""


class StreamReader(reply.EventReader):
    """Reads a stream of events; every event is relayed. The completed interaction ends it."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> None:
        super().__init__()
        self._told = _Told(request, headers)

    def take(self, data: bytes) -> bool:
        if self._told.event(_event(data)):
            self.ended = True
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes)


def _model(fields: bodies.Fields) -> str:
    """The model, or the agent in its place."""
    if fields.raw("model") is None:
        agent = fields.word("agent")
        if agent is not None:
            return agent
    return fields.model().removeprefix(requests.MODEL_PREFIX)


def _open_ended(fields: bodies.Fields) -> bool:
    """Does the body refer to content it does not hold, or hold content whose bytes do not bound its tokens?"""
    if fields.states_any(_OPEN_MEMBERS):
        return True
    try:
        tools = fields.raw("tools")
        if tools is not None and any(tool.get("type") != "function" for tool in _tools(tools)):
            return True
        given = fields.raw("input")
        return given is not None and not _is_contained(_any(given))
    except reply.UNREADABLE:
        return True


def _is_contained(given: object) -> bool:
    """Only text, and what goes back and forth with the caller's own functions."""
    if type(given) is list:
        return all(_is_contained(each) for each in given)
    if type(given) is not dict:
        return True
    kind = given.get("type")
    if type(kind) not in (str, type(None)) or kind not in _CONTAINED:
        return False
    return all(_is_contained(given[name]) for name in _CONTENTS if name in given)


def _time(stated: object) -> datetime | None:
    """An RFC 3339 time with its zone, in UTC; None for anything else."""
    if type(stated) is not str:
        return None
    try:
        found = datetime.fromisoformat(stated)
    except ValueError:
        return None
    return None if found.tzinfo is None else found.astimezone(UTC)
