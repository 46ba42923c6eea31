"""The neutral form to and from Anthropic's Messages API.

Shapes: https://docs.anthropic.com/en/api/messages and /messages-streaming, as the types of the `anthropic` package
state them. What is translated by a rule of its own:

* `max_tokens` is required. Where the caller sets no limit it is the most that the model gives (`claude.LIMITS`).
* A form of answer is `output_config.format`; any JSON object without a schema cannot be asked for.
* Effort is told in `claude`. The reasoning comes back as a summary; newer models leave it out unless asked for it.
* Sampling parameters are sent as asked. Models from Claude 4.7 on refuse them, and say so by their name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from costbearer.dialects import reply, sse
from costbearer.dialects.base import NOTHING, Outgoing
from costbearer.dialects.claude import limit_of, thinking_of
from costbearer.dialects.neutral import (
    LOST,
    Answer,
    Ask,
    Begun,
    CallBegun,
    CallMore,
    Document,
    Event,
    Fault,
    Finish,
    Finished,
    Format,
    Image,
    Lifetime,
    Part,
    Reasoned,
    Said,
    Sound,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolResult,
    described,
    finish,
    member,
    refuse,
    returned,
    text,
)

NAME = "Anthropic"
MAKER = "anthropic-claude-v1"
"""The `format` of Anthropic's reasoning, as OpenRouter calls it."""

VERSION = "2023-06-01"
"""The version of the API whose wire format this is (https://docs.anthropic.com/en/api/versioning)."""

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}

_EMPTY = msgspec.Raw(b"{}")
_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_encode = msgspec.json.Encoder().encode


class Speech:
    """Anthropic's words. One instance serves all calls."""

    name = NAME

    def outgoing(self, ask: Ask, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The native request. Raises `BodyInvalid` naming what cannot be asked."""
        return Outgoing("/v1/messages", _encode(request(ask, model)), headers=(("anthropic-version", VERSION),))

    def answer(self, body: bytes) -> Answer | Fault:
        return answer(body)

    def fault(self, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> Fault:
        return _fault(_whole(body))

    def events(self) -> Events:
        return Events()


# -- the request


def request(ask: Ask, model: str) -> dict[str, Any]:
    """The body of a message's request."""
    for name, value in (
        ("frequency_penalty", ask.frequency_penalty),
        ("presence_penalty", ask.presence_penalty),
        ("seed", ask.seed),
    ):
        if value is not None:
            raise refuse(NAME, name, "it has no such parameter")
    if ask.temperature is not None and ask.temperature > 1:
        raise refuse(NAME, "temperature", "it must lie between 0 and 1 there")
    limit = ask.limit or limit_of(model)
    body: dict[str, Any] = {"model": model, "max_tokens": limit}
    if ask.system:
        body["system"] = _content(ask.system)
    body["messages"] = [{"role": turn.role, "content": _content(returned(turn.parts, MAKER))} for turn in ask.turns]
    if ask.tools:
        body["tools"] = [_tool(tool) for tool in ask.tools]
        choice = _tool_choice(ask)
        if choice is not None:
            body["tool_choice"] = choice
    config: dict[str, Any] = {}
    if ask.format is not None:
        config["format"] = _format(ask.format)
    if ask.effort is not None:
        thinking = thinking_of(ask.effort, model, limit, NAME)
        if "effort" in thinking:
            config["effort"] = thinking.pop("effort")
        body |= thinking
    if config:
        body["output_config"] = config
    if ask.stop:
        body["stop_sequences"] = ask.stop
    if ask.temperature is not None:
        body["temperature"] = ask.temperature
    if ask.top_p is not None:
        body["top_p"] = ask.top_p
    if ask.tier is not None:
        body["service_tier"] = _tier(ask.tier)
    if ask.stream:
        body["stream"] = True
    return body


def _tier(tier: str) -> str:
    if tier == "auto":
        return "auto"
    if tier == "default":
        return "standard_only"
    raise refuse(NAME, "service_tier", "it knows auto and default only")


def _content(parts: tuple[Part, ...] | tuple[Text, ...]) -> str | list[dict[str, Any]]:
    if len(parts) == 1:
        only = parts[0]
        if type(only) is Text and only.cache is None:
            return only.text
    return [_block(part) for part in parts]


def _block(part: Part) -> dict[str, Any]:
    if type(part) is Text:
        block = {"type": "text", "text": part.text}
        return block if part.cache is None else _marked(block, part.cache)
    if type(part) is ToolCall:
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    if type(part) is ToolResult:
        return {"type": "tool_result", "tool_use_id": part.call_id, "content": _content(part.texts)}
    if type(part) is Image:
        return _marked({"type": "image", "source": _image_source(part)}, part.cache)
    if type(part) is Document:
        return _document(part)
    if type(part) is Thought:
        if part.sealed is not None:
            return {"type": "redacted_thinking", "data": part.sealed}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    assert type(part) is Sound
    raise refuse(NAME, part.where.removesuffix(".format"), "it takes no sound")


def _marked(block: dict[str, Any], cache: Lifetime | None) -> dict[str, Any]:
    if cache is not None:
        block["cache_control"] = {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}
    return block


def _image_source(image: Image) -> dict[str, Any]:
    if image.url is not None:
        if image.url[:4].lower() != "http":
            raise refuse(NAME, image.where, "it takes addresses on the web only")
        return {"type": "url", "url": image.url}
    if image.media_type not in IMAGE_TYPES:
        raise refuse(NAME, image.where, f"it takes {', '.join(sorted(IMAGE_TYPES))}")
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _document(document: Document) -> dict[str, Any]:
    source: dict[str, Any]
    if document.media_type == "application/pdf":
        source = {"type": "base64", "media_type": "application/pdf", "data": document.data}
    elif document.media_type == "text/plain":
        source = {"type": "text", "media_type": "text/plain", "data": plain_text(document, NAME)}
    else:
        raise refuse(NAME, f"{document.where}.file_data", "it takes application/pdf and text/plain")
    block = {"type": "document", "source": source}
    if document.name is not None:
        block["title"] = document.name
    return _marked(block, document.cache)


def plain_text(document: Document, provider: str) -> str:
    """The text of a text file. Raises `BodyInvalid` where it is not base64 of UTF-8."""
    try:
        return base64.b64decode(document.data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise refuse(provider, f"{document.where}.file_data", "it is not base64 of UTF-8 text") from None


def _tool(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        found["description"] = tool.description
    found["input_schema"] = tool.parameters or _NO_PARAMETERS
    if tool.strict is not None:
        found["strict"] = tool.strict
    return _marked(found, tool.cache)


def _tool_choice(ask: Ask) -> dict[str, Any] | None:
    choice = ask.tool_choice
    if choice is None and ask.parallel:
        return None
    mode = "auto" if choice is None else {"required": "any", "named": "tool"}.get(choice.mode, choice.mode)
    found: dict[str, Any] = {"type": mode}
    if choice is not None and choice.name is not None:
        found["name"] = choice.name
    if not ask.parallel and mode != "none":
        found["disable_parallel_tool_use"] = True
    return found


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.schema is None:
        raise refuse(NAME, "response_format", "without a schema it gives no JSON; use json_schema")
    return {"type": "json_schema", "schema": described(wanted)}


# -- the answer


class _Block(msgspec.Struct, frozen=True, gc=False):
    """A content block; types are checked where they are used, so that none can fail it."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = _EMPTY


class _Message(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    content: list[_Block] = []
    stop_reason: Any = None
    stop_details: Any = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    index: Any = None
    delta: Any = None
    message: Any = None
    content_block: _Block = _Block()
    error: Any = None


_message = msgspec.json.Decoder(_Message).decode
_event = msgspec.json.Decoder(_Event).decode
_whole = msgspec.json.Decoder(Any).decode


def answer(body: bytes) -> Answer | Fault:
    """A message that came whole. Raises one of `reply.UNREADABLE`."""
    message = _message(body)
    if message.error:
        return _fault({"error": message.error})
    parts: list[Part] = []
    for block in message.content:
        part = _part(block)
        if part is not None:
            parts.append(part)
    return Answer(
        reply.name(message.id),
        reply.name(message.model),
        tuple(parts),
        finish(message.stop_reason, FINISHES, tuple(parts)),
        reply.name(message.stop_reason),
        _refusal(message.stop_reason, message.stop_details),
    )


def _part(block: _Block) -> Part | None:
    if block.type == "text":
        return Text(text(block.text))
    if block.type == "tool_use":
        return ToolCall(text(block.id), text(block.name), block.input)
    if block.type == "thinking":
        return Thought(MAKER, text(block.thinking), text(block.signature) or None)
    if block.type == "redacted_thinking":
        return Thought(MAKER, sealed=text(block.data))
    return None


def _refusal(reason: object, details: object) -> str | None:
    """What the model's maker says of a refusal: OpenAI puts it where the model's own words would be."""
    if reason != "refusal":
        return None
    said = details if type(details) is dict else {}
    return text(said.get("explanation")) or text(said.get("category")) or "The model refused to answer."


def _fault(body: object) -> Fault:
    """Of `{"type": "error", "error": {"type", "message"}}`; the type is all the code there is."""
    error = member(body, "error")
    kind = text(error.get("type")) or reply.ERROR_CODE_UNKNOWN
    return Fault(kind, kind, text(error.get("message")))


class Events:
    """The events of one stream."""

    def __init__(self) -> None:
        self._splitter = sse.Splitter()
        self._calls: dict[object, int] = {}
        self._begun_calls = 0
        self._silent: set[int] = set()
        self._thought: list[str] | None = None
        self._signature: str | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """What these bytes tell."""
        found: list[Event] = []
        for raw in self._splitter.feed(chunk):
            found += self._read(raw)
        return found

    def rest(self) -> list[Event]:
        """What is left where the last event lost its closing line end."""
        left = self._splitter.rest()
        return self._read(left) if left else []

    def _read(self, raw: bytes) -> list[Event]:
        data = sse.data(raw)
        if data is None:
            return [LOST] if type(raw) is sse.Fragment else []
        try:
            return self._event(_event(data))
        except reply.UNREADABLE:
            return [LOST] if data.strip() else []

    def _event(self, event: _Event) -> list[Event]:
        kind = event.type
        if kind == "content_block_delta":
            return self._delta(event.index, event.delta)
        if kind == "content_block_start":
            return self._started(event.index, event.content_block)
        if kind == "content_block_stop":
            return self._stopped(event.index)
        if kind == "message_start":
            message = event.message if type(event.message) is dict else {}
            return [Begun(reply.name(message.get("id")), reply.name(message.get("model")))]
        if kind == "message_delta":
            delta = event.delta if type(event.delta) is dict else {}
            reason = delta.get("stop_reason")
            if reason is None:
                return []
            ended = FINISHES.get(reason, "stop") if type(reason) is str else "stop"
            return [Finished(ended, reply.name(reason), _refusal(reason, delta.get("stop_details")))]
        if kind == "error":
            return [_fault({"error": event.error})]
        return []

    def _delta(self, index: object, delta: object) -> list[Event]:
        if type(delta) is not dict:
            return []
        kind = delta.get("type")
        if kind == "text_delta":
            return [Said(text(delta.get("text")))]
        if kind == "input_json_delta":
            call = self._calls.get(index) if type(index) is int else None
            arguments = text(delta.get("partial_json"))
            if call is None or not arguments:
                return []
            self._silent.discard(call)
            return [CallMore(call, arguments)]
        if kind == "thinking_delta" and self._thought is not None:
            thinking = text(delta.get("thinking"))
            self._thought.append(thinking)
            return [Reasoned(thinking)] if thinking else []
        if kind == "signature_delta":
            self._signature = (self._signature or "") + text(delta.get("signature"))
        return []

    def _started(self, index: object, block: _Block) -> list[Event]:
        if block.type == "tool_use" and type(index) is int:
            call, self._begun_calls = self._begun_calls, self._begun_calls + 1
            self._calls[index] = call
            given = bytes(block.input)
            known = "" if given in (b"{}", b"null") else given.decode()
            if not known:
                self._silent.add(call)
            return [CallBegun(call, text(block.id), text(block.name), known)]
        if block.type == "thinking":
            first = text(block.thinking)
            self._thought, self._signature = [first], text(block.signature) or None
            return [Reasoned(first)] if first else []
        if block.type == "redacted_thinking":
            return [Thought(MAKER, sealed=text(block.data))]
        if block.type == "text" and block.text:
            return [Said(text(block.text))]
        return []

    def _stopped(self, index: object) -> list[Event]:
        call = self._calls.get(index) if type(index) is int else None
        if call is not None and call in self._silent:
            # A tool without parameters is called without any; OpenAI's callers expect JSON all the same.
            self._silent.discard(call)
            return [CallMore(call, "{}")]
        if self._thought is None:
            return []
        whole = Thought(MAKER, "".join(self._thought), self._signature)
        self._thought, self._signature = None, None
        return [whole]
