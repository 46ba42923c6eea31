"""Gemini's `generateContent`, streamed or not, and `countTokens`; the same on the Gemini API and on Vertex AI.

Shapes: https://ai.google.dev/api/generate-content and
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference. How usage is read is told in
`gemini_usage`. Of a reply:

* In a stream nearly every chunk states the usage so far; of each field the last chunk that has it holds. What is stated
  with or after the chunk that finishes the last candidate is final.
* A stream has no end marker: it is over once every candidate that was asked for is finished, or the prompt was blocked.
* With `alt=sse` a stream is server-sent events, without it one JSON array; both are read alike.
* `modelVersion` is the model that served the call, `responseId` the provider's id of the reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, reply
from costbearer.dialects import gemini_request as requests
from costbearer.dialects.base import (
    EVENT_STREAM,
    JSON,
    NOTHING,
    NOWHERE,
    CallRequest,
    Outgoing,
    Place,
    Plain,
    Reading,
    ReplyReader,
)
from costbearer.dialects.gemini_usage import Grounding, inclusive, read_content_usage, read_tier
from costbearer.dialects.jsonarray import Splitter
from costbearer.dialects.reply import Notes
from costbearer.dialects.sse import Fragment
from costbearer.usage import Work

CHOICES_MAX = 128
"""More candidates than any model gives."""

GENERATE, STREAM, COUNT = "generateContent", "streamGenerateContent", "countTokens"

_CONTAINED_PARTS = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "thought_signature",
        "functionCall",
        "function_call",
        "functionResponse",
        "function_response",
        "executableCode",
        "executable_code",
        "codeExecutionResult",
        "code_execution_result",
    }
)
_CALLER_TOOLS = frozenset({"functionDeclarations", "function_declarations"})
_FUNCTION_RESPONSES = ("functionResponse", "function_response")
_UNFINISHED = (None, 0, "FINISH_REASON_UNSPECIFIED")
_ARRAY_SIGNS = b" \t\r\n,[]"
_UNSAID = msgspec.Raw()
_NULL = b"null"
USAGES_KEPT_MAX = 64
"""Statements of usage that are kept unread: nearly every chunk makes one, and the next one replaces it."""


class _Chunk(msgspec.Struct, gc=False):
    """Of a chunk or whole reply, what is read. Types are checked where they are used, so that none can fail it."""

    candidates: Any = None
    usageMetadata: msgspec.Raw = _UNSAID  # noqa: N815 - the API's name
    modelVersion: Any = None  # noqa: N815
    responseId: Any = None  # noqa: N815
    promptFeedback: Any = None  # noqa: N815
    error: Any = None


class _Content(msgspec.Struct, gc=False):
    parts: list[dict[str, msgspec.Raw]] | dict[str, msgspec.Raw] | None = None


class _PlainPart(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    text: str
    thought: bool = False


class _PlainContent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    parts: list[_PlainPart]
    role: str = ""


class _PlainCandidate(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    content: _PlainContent
    index: int = 0


class _PlainChunk(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A chunk of text as nearly all of a stream's are, with nothing else in it that would have to be read."""

    candidates: list[_PlainCandidate]
    usageMetadata: msgspec.Raw = _UNSAID  # noqa: N815 - the API's name
    modelVersion: str | None = None  # noqa: N815
    responseId: str | None = None  # noqa: N815


_plain_chunk = msgspec.json.Decoder(_PlainChunk).decode
_chunk = reply.decoder(_Chunk)
_chunks = reply.decoder(list[_Chunk])
_contents = bounds.bounded(msgspec.json.Decoder(list[_Content] | _Content | None).decode)
_tools = bounds.bounded(msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | dict[str, msgspec.Raw] | None).decode)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode


class GeminiContent(Plain):
    """The operations `chat`, `chat.stream` and `count_tokens`, which have the same request."""

    def __init__(self, verb: str = GENERATE) -> None:
        self._verb = verb
        self._operation = "count_tokens" if verb == COUNT else "chat"
        if verb == STREAM:
            self.streams = MappingProxyType({EVENT_STREAM: EVENT_STREAM, JSON: JSON})

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        requests.query_of(place)
        fields = bodies.Fields(body)
        tags = fields.tags()
        limit, choices = _limits(fields)
        return CallRequest(
            operation=self._operation,
            model=requests.model_of(place),
            stream=self._verb == STREAM,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=limit,
            choices=choices,
            open_ended=_open_ended(fields),
            tier=requests.tier_of(fields, place),
            geo=requests.geo_of(place),
            free=self._verb == COUNT,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, labels on where it is Vertex AI's; else the caller's bytes. The model is
        in the path, and renamed in the body where the body repeats it."""
        body = requests.without_tags(request)
        if model != request.model:
            body = requests.renamed(body, model)
        if requests.is_vertex(request.place) and self._verb != COUNT:
            body = requests.with_labels(body, labels)
        return Outgoing(requests.path_to(request, model, self._verb), body)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        if headers.get("content-type", EVENT_STREAM).startswith(JSON):
            return ArrayReader(request, headers)
        return StreamReader(request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole, an array of chunks too, or an error body. Never raises.

        `countTokens` is free (https://ai.google.dev/gemini-api/docs/tokens): its reply gives a complete reading without
        work.
        """
        try:
            chunks = _chunks(body) if body.lstrip().startswith(b"[") else [_chunk(body)]
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        told = Told(request, headers)
        for chunk in chunks:
            told.read(chunk)
        if request.operation == "count_tokens":
            return Reading(complete=told.error_code is None, error_code=told.error_code)
        return told.reading(Notes())


class Told:
    """What a reply has told so far, chunk by chunk."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str]) -> None:
        self._request = request
        self._headers = headers
        self._id: str | None = None
        self._model: str | None = None
        self._usages: list[bytes] = []
        self._usage: dict[str, Any] = {}
        self._usage_is_final = False
        self._unreadable = False
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._blocked = False
        self._generated = 0
        self._grounding = Grounding()
        self._notes = Notes()
        self.error_code: str | None = None

    @property
    def ended(self) -> bool:
        """Nothing more is to come, whatever the connection does."""
        return self._blocked or len(self._finished) >= self._request.choices

    def read_plain(self, chunk: _PlainChunk) -> None:
        """What `read` would take from the same chunk."""
        for candidate in chunk.candidates:
            for part in candidate.content.parts:
                text = part.text
                self._generated += len(text) if text.isascii() else reply.size(text)
            self._open.add(candidate.index)
        if chunk.usageMetadata is not _UNSAID:
            self._stated(bytes(chunk.usageMetadata))
        if self._id is None:
            self._id = reply.name(chunk.responseId)
        if self._model is None:
            self._model = reply.name(chunk.modelVersion)

    def read(self, chunk: _Chunk) -> None:
        """A chunk of a stream, or a reply that came whole."""
        if type(chunk.candidates) is list:
            for candidate in chunk.candidates:
                if type(candidate) is dict:
                    self._candidate(candidate)
        if chunk.promptFeedback is not None and type(chunk.promptFeedback) is dict:
            self._blocked = self._blocked or chunk.promptFeedback.get("blockReason") not in (None, 0)
        if chunk.usageMetadata is not _UNSAID:
            self._stated(bytes(chunk.usageMetadata))
        if self._id is None:
            self._id = reply.name(chunk.responseId)
        if self._model is None:
            self._model = reply.name(chunk.modelVersion)
        if chunk.error:
            self._failed(chunk.error)

    def _candidate(self, candidate: dict[str, Any]) -> None:
        index = candidate.get("index", 0)
        index = index if type(index) is int else 0
        content = candidate.get("content")
        if type(content) is dict and type(content.get("parts")) is list:
            for part in content["parts"]:
                text = part.get("text") if type(part) is dict else None
                if type(text) is str and text.isascii():
                    # What nearly every part is; counted without the look at what else one may hold.
                    self._generated += len(text)
                elif type(part) is dict:
                    self._generated += _generated(part)
        if candidate.get("finishReason") in _UNFINISHED:
            self._open.add(index)
        else:
            self._finished.add(index)
            self._open.discard(index)
        grounding = candidate.get("groundingMetadata")
        if grounding and type(grounding) is dict:
            self._grounded(grounding)

    def _grounded(self, grounding: dict[str, Any]) -> None:
        self._grounding.add(grounding.get("webSearchQueries"))
        self._grounding.add(grounding.get("imageSearchQueries"))
        chunks = grounding.get("groundingChunks")
        if type(chunks) is list and any(type(chunk) is dict and "maps" in chunk for chunk in chunks):
            self._grounding.maps = True

    def _stated(self, usage: bytes) -> None:
        if not usage.startswith(b"{"):
            self._unreadable = self._unreadable or usage != _NULL
            return
        self._usages.append(usage)
        self._usage_is_final = self._blocked or (bool(self._finished) and not self._open)
        if len(self._usages) > USAGES_KEPT_MAX:
            self._know_usages()

    def _know_usages(self) -> None:
        """Read what was stated: of each count the last statement that has it holds."""
        for usage in self._usages:
            try:
                said: dict[str, Any] = msgspec.json.decode(usage)
            except reply.UNREADABLE:
                self._unreadable = True
                continue
            self._usage |= {name: value for name, value in said.items() if value is not None}
        self._usages.clear()

    def _failed(self, error: object) -> None:
        if type(error) is dict:
            self.error_code = reply.code(error.get("status"), error.get("code"))
        else:
            self.error_code = reply.ERROR_CODE_UNKNOWN
        if self._request.stream:
            self._notes.add("error_in_stream")

    def reading(self, noted: Notes) -> Reading:
        """What was said, at the end of the reply or where it was cut."""
        notes = Notes()
        notes.add(*noted.codes(), *self._notes.codes())
        work: tuple[Work, ...] = ()
        self._know_usages()
        stated = self._usage
        sound = not self._unreadable
        if self._unreadable:
            notes.add("usage_malformed")
        if not stated:
            notes.add("usage_absent")
            sound = False
        else:
            counts, all_counts = read_content_usage(stated, notes)
            usage, usable = inclusive(counts, notes)
            sound = sound and all_counts and usable
            model = self._model or self._request.model
            searches = self._grounding.requests(model)
            if searches:
                usage = msgspec.structs.replace(usage, web_search_requests=searches)
            if usage.input_tokens is not None or usage.output_tokens is not None:
                work = (Work(model=model, usage=usage, largest_input_tokens=counts.prompt.tokens),)
            if not self._usage_is_final:
                notes.add("final_usage_absent")
        if self._grounding.maps:
            # Its fee is not in any price list here, so that the sum would not be the cost.
            notes.add("maps_grounding_unpriced")
            sound = False
        return Reading(
            work=work,
            complete=sound and self._usage_is_final,
            response_model=self._model,
            response_id=self._id,
            tier=self._tier(stated, notes),
            geo=self._request.geo,
            generated_bytes=self._generated,
            error_code=self.error_code,
            notes=notes.codes(),
        )

    def _tier(self, usage: dict[str, Any], notes: Notes) -> str | None:
        """The tier stated; else a special one that was asked for and not denied."""
        tier = read_tier(usage, self._headers)
        asked = self._request.tier
        if tier is None and asked not in (None, "standard"):
            notes.add("tier_assumed")
            return asked
        return tier


class StreamReader(reply.EventReader):
    """Reads a stream of server-sent events; every event is relayed."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> None:
        super().__init__()
        self._told = Told(request, headers)
        self._plain = True

    def take(self, data: bytes) -> bool:
        told = self._told
        if self._plain:
            try:
                told.read_plain(_plain_chunk(data))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                # What has more to say once will have it again (safety ratings), or is at its end.
                self._plain = False
            else:
                return True
        told.read(_chunk(data))
        if told.ended:
            self.ended = True
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes)


class ArrayReader:
    """Reads a stream that is one JSON array; its elements are relayed whole."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> None:
        self.ended = False
        self._told = Told(request, headers)
        self._splitter = Splitter()
        self._notes = Notes()
        self._left = b""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller shall see of what has come so far."""
        pieces = self._splitter.feed(chunk)
        for piece in pieces:
            self._read(piece)
        if self._splitter.closed or self._told.ended:
            self.ended = True
        return b"".join(pieces)

    def rest(self) -> bytes:
        """What is left of an element that has not ended."""
        self._finish()
        left, self._left = self._left, b""
        return left

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self._finish()
        return self._told.reading(self._notes)

    def _finish(self) -> None:
        left = self._splitter.rest()
        if left.strip(_ARRAY_SIGNS):
            self._notes.add("cut_mid_event")
        self._left += left

    def _read(self, piece: bytes) -> None:
        text = piece.strip(_ARRAY_SIGNS)
        if not text or type(piece) is Fragment:
            return
        try:
            self._told.read(_chunk(text))
        except reply.UNREADABLE:
            self._notes.add("event_malformed")


def _generated(part: dict[str, Any]) -> int:
    """UTF-8 bytes that a part was generated as: text, a function's name and arguments, code. Results of code are not
    generated, and the bytes of images and sound say nothing of their tokens."""
    found = reply.size(part.get("text"))
    call = part.get("functionCall")
    if type(call) is dict:
        found += reply.size(call.get("name"))
        if call.get("args") is not None:
            found += reply.json_size(call["args"])
    code = part.get("executableCode")
    if type(code) is dict:
        found += reply.size(code.get("code"))
    return found


def _limits(fields: bodies.Fields) -> tuple[int | None, int]:
    """The most output tokens of a candidate, thoughts among them, and the number of candidates."""
    config = fields.object(requests.either(fields, "generationConfig", "generation_config"))
    if config is None:
        return None, 1
    limit = config.whole(requests.either(config, "maxOutputTokens", "max_output_tokens"))
    choices = config.whole(requests.either(config, "candidateCount", "candidate_count"), high=CHOICES_MAX)
    return limit or None, choices or 1


def _open_ended(fields: bodies.Fields) -> bool:
    """Does the body refer to content it does not hold, or hold content whose bytes do not bound its tokens?"""
    for name in ("cachedContent", "cached_content"):
        if fields.raw(name) is not None:
            return True
    try:
        tools = _tools(fields.raw("tools") or b"null")
        for tool in [tools] if isinstance(tools, dict) else tools or ():
            if not tool.keys() <= _CALLER_TOOLS:
                return True
        for name in ("contents", "systemInstruction", "system_instruction"):
            value = fields.raw(name)
            if value is not None and has_media(value):
                return True
        inner = fields.raw(requests.either(fields, "generateContentRequest", "generate_content_request"))
    except (*reply.UNREADABLE, TypeError):
        return True
    return inner is not None


def has_media(value: msgspec.Raw) -> bool:
    """Does a content, or a list of them, hold more than text, calls of functions and their results?

    Raises one of `reply.UNREADABLE` for what is neither.
    """
    contents = _contents(value)
    for content in [contents] if isinstance(contents, _Content) else contents or ():
        parts = content.parts
        for part in [parts] if isinstance(parts, dict) else parts or ():
            if not part.keys() <= _CONTAINED_PARTS:
                return True
            for name in _FUNCTION_RESPONSES:
                # A function may answer with images too.
                if name in part and "parts" in (_members(part[name]) or ()):
                    return True
    return False
