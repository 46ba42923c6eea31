"""Cohere's own API, version 2: chat, rerank and embeddings.

Base URLs of its providers end before `/v2`. Shapes: https://docs.cohere.com/reference/chat. What is billed is stated
as `billed_units`; the `tokens` beside it count what the model really saw, with its template and what was cached, and
are not billed. Replies do not name their model: it is the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import form, reply, stored
from costbearer.dialects.base import (
    NOTHING,
    NOWHERE,
    CallRequest,
    Family,
    Operation,
    Outgoing,
    Place,
    Plain,
    Reading,
    ReplyReader,
    Signing,
)
from costbearer.dialects.reply import Counts, Notes
from costbearer.errors import CallRefused
from costbearer.usage import Usage, Work

_OPEN_MEMBERS = frozenset({"documents", "tools", "images", "inputs"})
"""Members by which the provider adds a template of its own, or whose bytes do not bound their tokens."""

_ENDS = "message-end"
_FAILED = frozenset({"ERROR", "ERROR_TOXIC", "TIMEOUT"})


class _Told(msgspec.Struct, gc=False):
    """Of a reply or an event, what is read. Types are checked where they are used, so that none can fail it."""

    type: Any = None
    id: Any = None
    usage: Any = None
    meta: Any = None
    delta: Any = None
    message: Any = None


_told = reply.decoder(_Told)


class Cohere(Family):
    """The dialect `cohere`."""

    def __init__(self) -> None:
        self.name = "cohere"
        self.operations: Mapping[str, Operation] = {
            "chat": CohereChat(),
            "rerank": CohereBilled("rerank", "/v2/rerank"),
            "embeddings": CohereBilled("embeddings", "/v2/embed"),
        }
        self.forwarded_headers = FORWARDED_HEADERS
        self.relayed_headers = RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {credential}"),)

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        return reply.name(headers.get("x-debug-trace-id"))

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """The shape of https://docs.cohere.com/reference/errors; `code` is ours."""
        return msgspec.json.encode({"id": request_id, "message": refused.message, "code": refused.code})

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        """The end of a message with an error, as Cohere's streams tell of one."""
        delta = {"finish_reason": "ERROR", "error": refused.message, "code": refused.code}
        told = {"type": _ENDS, "id": request_id, "delta": delta}
        return b"event: message-end\ndata: " + msgspec.json.encode(told) + b"\n\n"


class CohereChat(Plain):
    """The operation `chat`."""

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        return _asked("chat", fields, body, place, stream=fields.flag("stream") or False)

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, "/v2/chat", model)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a message that came whole, or an error body. Never raises."""
        try:
            found = _told(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        return _message(request, found.usage, reply.name(found.id), Notes(), _whole_size(found.message))


class CohereBilled(stored.Unstreamed):
    """The operations `rerank` and `embeddings`, which state what is billed in `meta`."""

    def __init__(self, operation: str, path: str) -> None:
        self._operation = operation
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        return _asked(self._operation, bodies.Fields(body), body, place, stream=False)

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, self._path, model)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply, or an error body. Never raises."""
        try:
            found = _told(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        return _reading(request, found.meta, reply.name(found.id), Notes())


class StreamReader(reply.EventReader):
    """Reads a stream of events; every event is relayed. `message-end` ends it and states what is billed."""

    def __init__(self, request: CallRequest) -> None:
        super().__init__()
        self._request = request
        self._id: str | None = None
        self._usage: object = None
        self._generated = 0
        self._error: str | None = None

    def take(self, data: bytes) -> bool:
        found = _told(data)
        delta = found.delta if type(found.delta) is dict else {}
        if self._id is None:
            self._id = reply.name(found.id)
        if found.type == _ENDS:
            self.ended = True
            self._usage = delta.get("usage")
            finish = delta.get("finish_reason")
            if type(finish) is str and finish in _FAILED:
                self._error = finish.lower()
                self.notes.add("error_in_stream")
        else:
            self._generated += _delta_size(delta.get("message"))
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        told = _message(self._request, self._usage, self._id, self.notes, self._generated)
        return msgspec.structs.replace(told, complete=told.complete and self.ended, error_code=self._error)


def _asked(operation: str, fields: bodies.Fields, body: bytes, place: Place, *, stream: bool) -> CallRequest:
    tags = fields.tags()
    return CallRequest(
        operation=operation,
        model=fields.model(),
        stream=stream,
        body=body,
        place=place,
        tags=tags or (),
        has_tags=tags is not None,
        max_output_tokens=fields.whole("max_tokens") if operation == "chat" else 0,
        open_ended=operation == "rerank" or fields.states_any(_OPEN_MEMBERS),
    )


def _message(request: CallRequest, stated: object, reply_id: str | None, noted: Notes, generated: int) -> Reading:
    """The reading of a message's usage, of which input and output must be stated."""
    told = _reading(request, stated, reply_id, noted)
    told = msgspec.structs.replace(told, generated_bytes=generated)
    if told.complete and (told.work[0].usage.input_tokens is None or told.work[0].usage.output_tokens is None):
        return msgspec.structs.replace(told, complete=False, notes=(*told.notes, "usage_partial"))
    return told


def _reading(request: CallRequest, stated: object, reply_id: str | None, noted: Notes) -> Reading:
    """The reading of an object that has `billed_units`."""
    notes = Notes()
    notes.add(*noted.codes())
    billed = stated.get("billed_units") if type(stated) is dict else None
    counts = Counts({name: _whole(value) for name, value in billed.items()} if type(billed) is dict else {})
    text, image = counts.take("input_tokens"), counts.take("image_tokens")
    usage = Usage(
        input_tokens=text if image is None else (text or 0) + image,
        image_input_tokens=image,
        output_tokens=counts.take("output_tokens"),
        search_units=counts.take("search_units"),
    )
    pictures = counts.take("images")
    sound = usage != Usage() and not counts.faults and not pictures
    if counts.faults:
        notes.add("usage_malformed")
    elif usage == Usage():
        notes.add("usage_absent")
    if pictures:
        notes.add("images_unmetered")
    work = Work(model=request.model, usage=usage, largest_input_tokens=usage.input_tokens)
    return Reading(
        work=() if usage == Usage() else (work,),
        complete=sound,
        response_id=reply_id,
        notes=notes.codes(),
    )


def _whole(value: object) -> object:
    """A count that is spelled `12.0`, which the API's schema calls a number."""
    if type(value) is reply.Number:
        whole, point, part = value.partition(".")
        if point and whole.isdecimal() and not part.strip("0"):
            return int(whole) if len(whole) < 16 else value
    return value


def _whole_size(message: object) -> int:
    content = message.get("content") if type(message) is dict else None
    found = 0
    for part in content if type(content) is list else ():
        if type(part) is dict:
            found += reply.size(part.get("text")) + reply.size(part.get("thinking"))
    return found


def _delta_size(message: object) -> int:
    """Generated text in an event's delta: content, thinking, a plan for tools, their arguments."""
    if type(message) is not dict:
        return 0
    found = reply.size(message.get("tool_plan"))
    content, calls = message.get("content"), message.get("tool_calls")
    if type(content) is dict:
        found += reply.size(content.get("text")) + reply.size(content.get("thinking"))
    function = calls.get("function") if type(calls) is dict else None
    if type(function) is dict:
        found += reply.size(function.get("name")) + reply.size(function.get("arguments"))
    return found


FORWARDED_HEADERS = frozenset({"accept", "traceparent", "user-agent", "x-client-name"})

RELAYED_HEADERS = frozenset({"content-type", "retry-after", "x-debug-trace-id"})
"""Not among them: the provider's cookies, the caller's trial limits, and what its own proxies add."""
