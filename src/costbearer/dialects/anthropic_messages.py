"""Anthropic's Messages API.

Shapes: https://docs.anthropic.com/en/api/messages and /messages-streaming. The rules by which usage is read:

* Input comes in three disjoint counts (uncached, cache writes, cache reads); ours contains all three.
* `output_tokens` contains thinking and is what is billed; the text seen may be a summary and is never counted for it.
* In a stream `message_start` states the input so far and `message_delta` the totals: each field that the last delta
  states replaces what was known, a field it lacks (the split of cache writes, tier, geo, speed) stays as the start
  had it. Never a sum, never a maximum: input grows with every step of a server-tool loop, and falls where a compaction
  moves it into an iteration.
* `iterations` lists sampling steps with models of their own (compaction, advisor, fallback). Compaction and advisor are
  in no total, and in a fallback the totals show only the model that served; so with iterations the steps are what is
  billed, and without them the totals.
* Cache writes whose lifetime is not stated take the one the request asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from costbearer.dialects import anthropic_plain, bounds, jsonedit, reply
from costbearer.dialects import body as bodies
from costbearer.dialects.anthropic_plain import (
    CONTAINED_BLOCKS,
    COUNT_TOKENS,
    DEFINED_TOOL_TOKENS_MAX,
    DEFINED_TOOLS,
    ONE_HOUR,
    SERVER_STEPS,
    TOOL_USE_TOKENS_MAX,
)
from costbearer.dialects.anthropic_usage import Message, read_work
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Plain, Reading, ReplyReader
from costbearer.dialects.reply import Notes

_OPEN_MEMBERS = frozenset({"container", "mcp_servers", "context_management", "compaction", "fallbacks", "thread"})
"""Members by which the provider adds input, steps or models of its own."""

_DELTA_TEXTS = ("text", "thinking", "partial_json", "content")
_BLOCK_TEXTS = ("text", "thinking", "content")
_OUTPUT_FORMS = frozenset({"output_config", "output_format"})
_ARRAY = ord("[")
_TEXT_OR_NULL = b'"n'


class _Event(msgspec.Struct, gc=False):
    """Of an event or whole message, what is read. Types are checked where they are used, so that none can fail it."""

    type: Any = None
    delta: Any = None
    message: Any = None
    usage: Any = None
    content_block: Any = None
    error: Any = None


class _Whole(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    content: Any = None
    stop_reason: Any = None
    usage: Any = None
    error: Any = None


class _Source(msgspec.Struct, gc=False):
    type: Any = None


class _Block(msgspec.Struct, gc=False):
    type: Any = None
    content: msgspec.Raw = msgspec.Raw(b"null")
    source: Any = None


class _Turn(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Tool(msgspec.Struct, gc=False):
    type: Any = None


_event = reply.decoder(_Event)
_whole = reply.decoder(_Whole)
_turns = bounds.bounded(msgspec.json.Decoder(list[_Turn]).decode)
_blocks = bounds.bounded(msgspec.json.Decoder(list[_Block]).decode)
_tools = bounds.bounded(msgspec.json.Decoder(list[_Tool]).decode)


class AnthropicMessages(Plain):
    """The operations `chat` and `count_tokens`, which have the same request."""

    def __init__(self, operation: str = "chat", path: str = "/v1/messages") -> None:
        self._operation = operation
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        return anthropic_plain.read(self._operation, body) or self._member_by_member(self._operation, body)

    def _member_by_member(self, operation: str, body: bytes) -> CallRequest:
        fields = bodies.Fields(body)
        tags = fields.tags()
        overhead, open_ended = _beyond_the_bytes(fields)
        return CallRequest(
            operation=operation,
            model=fields.model(),
            stream=fields.flag("stream") or False,
            body=body,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=fields.whole("max_tokens"),
            open_ended=open_ended,
            tier=fields.word("service_tier"),
            speed=fields.word("speed"),
            geo=fields.word("inference_geo"),
            cache_ttl_1h=b'"ttl"' in body and ONE_HOUR.search(body) is not None,
            overhead_tokens=overhead,
            free=operation == COUNT_TOKENS,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes.

        Where nothing must change the very same object is given back.
        """
        return Outgoing(self._path, self.body_for(request, model))

    def body_for(self, request: CallRequest, model: str) -> bytes:
        """The body alone."""
        if not request.has_tags and model == request.model:
            return request.body
        edited = bodies.outgoing(request.body, request.has_tags, model if model != request.model else None)
        if edited is not None:
            return edited
        revision = jsonedit.Revision(request.body)
        if request.has_tags:
            bodies.drop_tags(revision)
        if model != request.model:
            revision.replace("model", msgspec.json.encode(model))
        return revision.text()

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a message that came whole, or an error body. Never raises.

        `count_tokens` is free: its reply gives a complete reading without work.
        """
        plain = None if request.operation == COUNT_TOKENS else anthropic_plain.whole(request, body)
        return plain or self._tolerant(request, body)

    def _tolerant(self, request: CallRequest, body: bytes) -> Reading:
        try:
            found = _whole(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        if request.operation == COUNT_TOKENS:
            return Reading(complete=not found.error, error_code=_error_code(found.error))
        told = _Told(request)
        told.whole(found)
        return told.reading(Notes(), ended=True)


class _Told:
    """What a reply has told so far."""

    def __init__(self, request: CallRequest) -> None:
        self._request = request
        self._id: str | None = None
        self._model: str | None = None
        self._served_by: str | None = None
        self._start: dict[str, Any] | None = None
        self._final: dict[str, Any] = {}
        self._stopped = False
        self._server_steps = False
        self._generated = 0
        self._error_code: str | None = None
        self._notes = Notes()

    def event(self, event: _Event) -> None:
        if event.type == "message_start":
            self._started(event.message)
        elif event.type == "content_block_start":
            self._block(event.content_block, _BLOCK_TEXTS)
        elif event.type == "message_delta":
            delta = event.delta
            if type(delta) is dict and delta.get("stop_reason") is not None:
                self._stopped = True
                self._server_steps = self._server_steps or delta["stop_reason"] == "pause_turn"
            self._totals(event.usage)
        elif event.type == "error":
            self._error_code = _error_code(event.error)
            self._notes.add("error_in_stream")

    def generated(self, delta: object) -> None:
        """A delta of a content block: text, thinking, pieces of a tool's arguments, a compaction's summary."""
        if type(delta) is dict:
            for member in _DELTA_TEXTS:
                if member in delta:
                    text = delta[member]
                    if type(text) is str:
                        self._generated += len(text) if text.isascii() else reply.size(text)

    def whole(self, message: _Whole) -> None:
        self._id, self._model = reply.name(message.id), reply.name(message.model)
        for block in message.content if type(message.content) is list else ():
            self._block(block, _BLOCK_TEXTS)
            if type(block) is dict and type(block.get("input")) is dict:
                self._generated += reply.json_size(block["input"])
        self._stopped = True
        self._server_steps = self._server_steps or message.stop_reason == "pause_turn"
        self._totals(message.usage)
        self._error_code = _error_code(message.error)

    def _started(self, message: object) -> None:
        """A second start is a proxy's artefact (a retry spliced into one stream): what it states replaces the first."""
        if type(message) is not dict:
            return
        if self._start is not None:
            self._notes.add("message_start_repeated")
        self._id = reply.name(message.get("id")) or self._id
        self._model = reply.name(message.get("model")) or self._model
        usage = message.get("usage")
        if usage is not None and type(usage) is not dict:
            self._notes.add("usage_malformed")
        self._start = _over(self._start or {}, usage)

    def _block(self, block: object, texts: tuple[str, ...]) -> None:
        if type(block) is not dict:
            return
        kind = block.get("type")
        if type(kind) is str and kind in SERVER_STEPS:
            self._server_steps = True
        elif kind == "fallback":
            to = block.get("to")
            self._served_by = (reply.name(to.get("model")) if type(to) is dict else None) or self._served_by
        self._generated += sum(reply.size(block.get(member)) for member in texts)

    def _totals(self, usage: object) -> None:
        if usage is not None and type(usage) is not dict:
            self._notes.add("usage_malformed")
        self._final = _over(self._final, usage)

    def reading(self, noted: Notes, *, ended: bool) -> Reading:
        notes = Notes()
        notes.add(*noted.codes(), *self._notes.codes())
        message = Message(
            usage=_over(self._start or {}, self._final),
            is_final="output_tokens" in self._final or "iterations" in self._final,
            model=self._served_by or self._model or self._request.model,
            model_is_known=self._served_by is not None,
            server_steps=self._server_steps,
            ttl_1h=self._request.cache_ttl_1h,
        )
        work, served_by, sound = read_work(message, notes)
        if not message.usage:
            notes.add("usage_absent")
        elif not message.is_final:
            notes.add("final_usage_absent")
        return Reading(
            work=work,
            complete=sound and message.is_final and (ended or self._stopped) and "usage_malformed" not in notes.codes(),
            response_model=served_by or self._model,
            response_id=self._id,
            tier=reply.name(message.usage.get("service_tier")),
            speed=reply.name(message.usage.get("speed")),
            geo=reply.name(message.usage.get("inference_geo")),
            generated_bytes=self._generated,
            error_code=self._error_code,
            notes=notes.codes(),
        )


class StreamReader(reply.EventReader):
    """Reads a stream of events; every event is relayed. `message_stop` ends it."""

    def __init__(self, request: CallRequest) -> None:
        super().__init__()
        self._told = _Told(request)

    def take(self, data: bytes) -> bool:
        event = _event(data)
        if event.type == "content_block_delta":
            self._told.generated(event.delta)
        elif event.type == "message_stop":
            self.ended = True
        else:
            self._told.event(event)
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes, ended=self.ended)


def _over(known: dict[str, Any], stated: object) -> dict[str, Any]:
    """Field by field: what is stated replaces what is known; null and absent fields leave it."""
    if type(stated) is not dict:
        return known
    return known | {member: value for member, value in stated.items() if value is not None}


def _error_code(error: object) -> str | None:
    if not error:
        return None
    return reply.code(error.get("type")) if type(error) is dict else reply.ERROR_CODE_UNKNOWN


def _beyond_the_bytes(fields: bodies.Fields) -> tuple[int, bool]:
    """(tokens the API adds by its own rules, may the input be larger than that and the bytes say?).

    Unreadable members count as such: the provider will refuse them.
    """
    open_ended = fields.states_any(_OPEN_MEMBERS)
    overhead = TOOL_USE_TOKENS_MAX if fields.states_any(_OUTPUT_FORMS) else 0
    try:
        tools = fields.raw("tools")
        for tool in _tools(tools) if tools is not None else ():
            overhead = overhead or TOOL_USE_TOKENS_MAX
            if type(tool.type) is str and DEFINED_TOOLS.match(tool.type):
                overhead += DEFINED_TOOL_TOKENS_MAX
            elif tool.type not in (None, "custom"):
                open_ended = True
        messages = fields.raw("messages")
        contents = [turn.content for turn in _turns(messages)] if messages is not None else []
        system = fields.raw("system")
        if system is not None:
            contents.append(system)
        for content in contents:
            if memoryview(content)[0] not in _TEXT_OR_NULL and _has_content_elsewhere(content):
                open_ended = True
    except (*reply.UNREADABLE, TypeError):
        open_ended = True
    return overhead, open_ended


def _has_content_elsewhere(content: msgspec.Raw) -> bool:
    """A block whose tokens its bytes do not bound: images and documents, be they inside the body, and unknown kinds."""
    first = memoryview(content)[0]
    if first != _ARRAY:
        return first not in _TEXT_OR_NULL
    return any(_is_elsewhere(block) for block in _blocks(content))


def _is_elsewhere(block: _Block) -> bool:
    if block.type == "document":
        source = block.source
        return type(source) is not dict or source.get("type") != "text"
    if block.type not in CONTAINED_BLOCKS:
        return True
    return block.type == "tool_result" and _has_content_elsewhere(block.content)
