"""The neutral form to and from Bedrock's Converse and ConverseStream.

Shapes: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, as the service model of
botocore states them. What is translated by a rule of its own:

* Effort is not part of Converse; it goes into `additionalModelRequestFields`, in the words of the model's maker, for
  those whose words are documented: Claude
  (https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html), Nova 2
  (https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html) and OpenAI's open models.
* Converse cannot be told not to call a tool; where no tool was called before, leaving the tools out says the same.
* A form of answer is `outputConfig.textFormat`
  (https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html).
* The name of a document may have few characters; others become `_`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import bedrock_converse, bedrock_names, eventstream, reply
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
    Effort,
    Event,
    Fault,
    Finish,
    Finished,
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
    finish,
    member,
    objects,
    refuse,
    returned,
    text,
)

NAME = "Bedrock"
MAKER = "bedrock-converse-v1"

TIERS: Mapping[str, str | None] = MappingProxyType(
    {"auto": None, "default": "default", "flex": "flex", "priority": "priority", "fast": "priority"}
)
IMAGE_FORMATS = frozenset({"png", "jpeg", "gif", "webp"})
DOCUMENT_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "application/pdf": "pdf",
        "text/csv": "csv",
        "application/msword": "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/vnd.ms-excel": "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
        "text/html": "html",
        "text/plain": "txt",
        "text/markdown": "md",
    }
)
FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
ERRORS: Mapping[int, str] = MappingProxyType(
    {
        400: "ValidationException",
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        408: "ModelTimeoutException",
        424: "ModelErrorException",
        429: "ThrottlingException",
        500: "InternalServerException",
        503: "ServiceUnavailableException",
    }
)
"""The errors of the service model by their status. The name itself is in a header, which is relayed to the caller."""

NAME_CHARS_MAX = 200
_NOT_OF_NAMES = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_SPACES = re.compile(r" {2,}")
_NOVA_EFFORTS: Mapping[Effort, str] = MappingProxyType(
    {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
)
_OPEN_EFFORTS = frozenset({"low", "medium", "high"})
_CACHE_POINT = {"cachePoint": {"type": "default"}}
_EMPTY = msgspec.Raw(b"{}")
_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_encode = msgspec.json.Encoder().encode


class Speech:
    """Bedrock's words. One instance serves all calls."""

    name = NAME

    def outgoing(self, ask: Ask, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The native request, with the verified labels for AWS's logs. Raises `BodyInvalid` naming what cannot be
        asked."""
        body = request(ask, model)
        if labels:
            body["requestMetadata"] = bedrock_converse.metadata(labels, {})
        return Outgoing(bedrock_names.path(model, "converse-stream" if ask.stream else "converse"), _encode(body))

    def answer(self, body: bytes) -> Answer | Fault:
        return answer(body)

    def fault(self, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> Fault:
        return _fault(status, _whole(body), headers)

    def events(self) -> Events:
        return Events()


# -- the request


def request(ask: Ask, model: str) -> dict[str, Any]:
    """The body of a Converse request; the model is in its path."""
    for name, value in (
        ("frequency_penalty", ask.frequency_penalty),
        ("presence_penalty", ask.presence_penalty),
        ("seed", ask.seed),
    ):
        if value is not None:
            raise refuse(NAME, name, "Converse has no such parameter")
    if ask.temperature is not None and ask.temperature > 1:
        raise refuse(NAME, "temperature", "it must lie between 0 and 1 there")
    if not ask.parallel and ask.tools:
        raise refuse(NAME, "parallel_tool_calls", "it cannot be told to make one call at a time")
    body: dict[str, Any] = {
        "messages": [{"role": turn.role, "content": _blocks(returned(turn.parts, MAKER))} for turn in ask.turns]
    }
    if ask.system:
        body["system"] = _blocks(ask.system)
    config = {
        "maxTokens": ask.limit,
        "temperature": ask.temperature,
        "topP": ask.top_p,
        "stopSequences": ask.stop or None,
    }
    config = {name: value for name, value in config.items() if value is not None}
    if config:
        body["inferenceConfig"] = config
    tools = _tool_config(ask)
    if tools:
        body["toolConfig"] = tools
    if ask.format is not None:
        body["outputConfig"] = _output(ask)
    if ask.effort is not None:
        fields = _thinking(ask.effort, model, ask.limit or limit_of(model))
        if fields:
            body["additionalModelRequestFields"] = fields
    if ask.tier is not None:
        if ask.tier not in TIERS:
            raise refuse(NAME, "service_tier", f"it knows {', '.join(TIERS)}")
        if TIERS[ask.tier] is not None:
            body["serviceTier"] = {"type": TIERS[ask.tier]}
    return body


def _thinking(effort: Effort, model: str, limit: int) -> dict[str, Any]:
    if "claude" in model:
        fields = thinking_of(effort, model, limit, NAME)
        if "effort" in fields:
            fields["output_config"] = {"effort": fields.pop("effort")}
        return fields
    if "nova-2" in model:
        if effort == "none":
            return {"reasoningConfig": {"type": "disabled"}}
        if effort in _NOVA_EFFORTS:
            return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": _NOVA_EFFORTS[effort]}}
        raise refuse(NAME, "reasoning_effort", f"Nova knows {', '.join(('none', *_NOVA_EFFORTS))}")
    if "gpt-oss" in model and effort in _OPEN_EFFORTS:
        return {"reasoning_effort": effort}
    raise refuse(NAME, "reasoning_effort", f"it is not known how to ask {model[:100]} for it")


def _blocks(parts: tuple[Part, ...] | tuple[Text, ...]) -> list[dict[str, Any]]:
    """Content blocks; a place to cache up to is a block of its own."""
    found: list[dict[str, Any]] = []
    for part in parts:
        found.append(_block(part))
        cache = part.cache if isinstance(part, Text | Image | Document) else None
        if cache is not None:
            found.append(_cache_point(cache))
    return found


def _cache_point(cache: Lifetime) -> dict[str, Any]:
    return _CACHE_POINT if cache == "5m" else {"cachePoint": {"type": "default", "ttl": cache}}


def _block(part: Part) -> dict[str, Any]:
    if type(part) is Text:
        return {"text": part.text}
    if type(part) is ToolCall:
        return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
    if type(part) is ToolResult:
        texts = [{"text": said.text} for said in part.texts] or [{"text": ""}]
        return {"toolResult": {"toolUseId": part.call_id, "content": texts}}
    if type(part) is Image:
        return {"image": _image(part)}
    if type(part) is Sound:
        return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
    if type(part) is Document:
        return {"document": _document(part)}
    assert type(part) is Thought
    if part.sealed is not None:
        return {"reasoningContent": {"redactedContent": part.sealed}}
    return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}


def _image(image: Image) -> dict[str, Any]:
    if image.url is not None:
        if image.url[:5].lower() != "s3://":
            raise refuse(NAME, image.where, "it takes no address on the web; send a data URL")
        kind = image.url.rpartition(".")[2].lower()
        source: dict[str, Any] = {"s3Location": {"uri": image.url}}
    else:
        kind = (image.media_type or "").rpartition("/")[2]
        source = {"bytes": image.data}
    kind = "jpeg" if kind == "jpg" else kind
    if kind not in IMAGE_FORMATS:
        raise refuse(NAME, image.where, f"it takes {', '.join(sorted(IMAGE_FORMATS))}")
    return {"format": kind, "source": source}


def _document(document: Document) -> dict[str, Any]:
    kind = DOCUMENT_FORMATS.get(document.media_type)
    if kind is None:
        raise refuse(NAME, f"{document.where}.file_data", f"it takes {', '.join(DOCUMENT_FORMATS)}")
    name = _SPACES.sub(" ", _NOT_OF_NAMES.sub("-", document.name or ""))[:NAME_CHARS_MAX].strip()
    return {"format": kind, "name": name or "document", "source": {"bytes": document.data}}


def _tool_config(ask: Ask) -> dict[str, Any]:
    if not ask.tools:
        return {}
    choice = ask.tool_choice
    if choice is not None and choice.mode == "none":
        if any(isinstance(part, ToolCall | ToolResult) for turn in ask.turns for part in turn.parts):
            raise refuse(NAME, "tool_choice", "once a tool was called Converse cannot be told to call none")
        return {}
    tools: list[dict[str, Any]] = []
    for tool in ask.tools:
        tools.append({"toolSpec": _tool(tool)})
        if tool.cache is not None:
            tools.append(_cache_point(tool.cache))
    config: dict[str, Any] = {"tools": tools}
    if choice is not None:
        config["toolChoice"] = {
            "auto": {"auto": {}},
            "required": {"any": {}},
            "named": {"tool": {"name": choice.name}},
        }[choice.mode]
    return config


def _tool(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    found["inputSchema"] = {"json": tool.parameters or _NO_PARAMETERS}
    if tool.strict is not None:
        found["strict"] = tool.strict
    return found


def _output(ask: Ask) -> dict[str, Any]:
    wanted = ask.format
    assert wanted is not None
    if wanted.schema is None:
        raise refuse(NAME, "response_format", "without a schema it gives no JSON; use json_schema")
    schema = {"schema": bytes(wanted.schema).decode(), "name": wanted.name}
    if wanted.description:
        schema["description"] = wanted.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


# -- the answer


class _ToolUse(msgspec.Struct, gc=False):
    toolUseId: Any = None  # noqa: N815 - the API's names
    name: Any = None
    input: msgspec.Raw = _EMPTY


class _Block(msgspec.Struct, gc=False):
    """A content block; types are checked where they are used, so that none can fail it."""

    text: Any = None
    toolUse: _ToolUse | None = None  # noqa: N815
    reasoningContent: Any = None  # noqa: N815
    citationsContent: Any = None  # noqa: N815
    image: Any = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] = []


class _Output(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Reply(msgspec.Struct, gc=False):
    output: _Output | None = None
    stopReason: Any = None  # noqa: N815
    message: Any = None


_reply = msgspec.json.Decoder(_Reply).decode
_whole = msgspec.json.Decoder(Any).decode
_event = msgspec.json.Decoder(dict[str, Any]).decode


def answer(body: bytes) -> Answer | Fault:
    """A reply that came whole. Raises one of `reply.UNREADABLE`."""
    found = _reply(body)
    if found.output is None and found.message is not None:
        return _fault(0, {"message": found.message}, NOTHING)
    message = None if found.output is None else found.output.message
    parts: list[Part] = []
    for block in message.content if message is not None else []:
        parts += _part(block)
    return Answer(
        None, None, tuple(parts), finish(found.stopReason, FINISHES, tuple(parts)), reply.name(found.stopReason)
    )


def _part(block: _Block) -> list[Part]:
    if block.toolUse is not None:
        call = block.toolUse
        return [ToolCall(text(call.toolUseId), text(call.name), call.input)]
    if type(block.text) is str:
        return [Text(block.text)]
    if type(block.reasoningContent) is dict:
        sealed = block.reasoningContent.get("redactedContent")
        if type(sealed) is str:
            return [Thought(MAKER, sealed=sealed)]
        said = member(block.reasoningContent, "reasoningText")
        return [Thought(MAKER, text(said.get("text")), text(said.get("signature")) or None)]
    if type(block.citationsContent) is dict:
        return [Text(text(item.get("text"))) for item in objects(block.citationsContent.get("content"))]
    if type(block.image) is dict:
        return [_shown(text(block.image.get("format")), member(block.image, "source"))]
    return []


def _shown(kind: str, source: dict[str, Any]) -> Image:
    return Image("", media_type=f"image/{kind or 'png'}", data=text(source.get("bytes")))


def _fault(status: int, body: object, headers: Mapping[str, str]) -> Fault:
    """Of `{"message"}`; the name of the error stands in a header, before a colon and an address, or in the body, or
    follows from the status (https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html, operation errors)."""
    said = body if type(body) is dict else {}
    named = headers.get("x-amzn-errortype") or text(said.get("__type"))
    kind = named.rpartition("#")[2].partition(":")[0]
    kind = reply.code(kind, otherwise="") or ERRORS.get(status, reply.ERROR_CODE_UNKNOWN)
    return Fault(kind, kind, text(said.get("message")) or text(said.get("Message")))


class Events:
    """The events of one stream of frames."""

    def __init__(self) -> None:
        self._splitter = eventstream.Splitter()
        self._calls: dict[object, int] = {}
        self._silent: set[int] = set()
        self._image = ""
        self._thought: list[str] | None = None
        self._signature: str | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """What these bytes tell."""
        found: list[Event] = []
        for frame in self._splitter.feed(chunk):
            found += self._read(frame)
        return found

    def rest(self) -> list[Event]:
        """Part of a frame is never read: its checksum is at its end."""
        return [LOST] if self._splitter.rest() else []

    def _read(self, frame: eventstream.Frame) -> list[Event]:
        headers = frame.headers
        if headers is None:
            return [LOST]
        kind = headers.get(":event-type")
        try:
            body = _event(frame.payload) if frame.payload else {}
        except reply.UNREADABLE:
            return [LOST]
        if kind is None:
            return self._failed(headers, body)
        if kind == "contentBlockDelta":
            return self._delta(body.get("contentBlockIndex"), member(body, "delta"))
        if kind == "contentBlockStart":
            return self._started(body.get("contentBlockIndex"), member(body, "start"))
        if kind == "contentBlockStop":
            return self._stopped(body.get("contentBlockIndex"))
        if kind == "messageStart":
            return [Begun(None, None)]
        if kind == "messageStop":
            reason = body.get("stopReason")
            ended = FINISHES.get(reason, "stop") if type(reason) is str else "stop"
            return [Finished(ended, reply.name(reason))]
        return []

    def _failed(self, headers: Mapping[str, str], body: dict[str, Any]) -> list[Event]:
        """An exception that the service model knows, or an error that only its frame's headers describe."""
        kind = bedrock_converse.exception_code(headers)
        return [Fault(kind, kind, text(body.get("message")) or headers.get(":error-message", ""))]

    def _delta(self, index: object, delta: dict[str, Any]) -> list[Event]:
        said = delta.get("text")
        if type(said) is str:
            return [Said(said)]
        if "toolUse" in delta:
            call = self._calls.get(index) if type(index) is int else None
            arguments = text(member(delta, "toolUse").get("input"))
            if call is None or not arguments:
                return []
            self._silent.discard(call)
            return [CallMore(call, arguments)]
        if "reasoningContent" in delta:
            return self._reasoned(member(delta, "reasoningContent"))
        if "image" in delta:
            return [_shown(self._image, member(member(delta, "image"), "source"))]
        return []

    def _reasoned(self, delta: dict[str, Any]) -> list[Event]:
        sealed = delta.get("redactedContent")
        if type(sealed) is str:
            return [Thought(MAKER, sealed=sealed)]
        if self._thought is None:
            self._thought = []
        if type(delta.get("signature")) is str:
            self._signature = (self._signature or "") + delta["signature"]
        said = text(delta.get("text"))
        self._thought.append(said)
        return [Reasoned(said)] if said else []

    def _started(self, index: object, start: dict[str, Any]) -> list[Event]:
        if "image" in start:
            self._image = text(member(start, "image").get("format"))
        if "toolUse" not in start or type(index) is not int:
            return []
        tool = member(start, "toolUse")
        call = len(self._calls)
        self._calls[index] = call
        self._silent.add(call)
        return [CallBegun(call, text(tool.get("toolUseId")), text(tool.get("name")))]

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
