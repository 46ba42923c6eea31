"""The simulated Bedrock runtime: Converse, InvokeModel, their streams and CountTokens, in AWS's words.

Shapes follow https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html. How a
reply is made and what it costs is the simulated Anthropic API's doing, under this module's models; here requests are
turned into that form and its replies into Bedrock's. Streams are binary frames, and an InvokeModel reply has AWS's own
meter around it: headers where it is whole, `amazon-bedrock-invocationMetrics` in a stream's last event.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from msgspec import json
from msgspec.structs import replace

from costbearer.simulator import anthropic
from costbearer.simulator.prices import PriceList, Sampling, Terms
from costbearer.simulator.reply import Ask, Bill, Piece, Plan, Refusal, encode
from costbearer.simulator.text import count

NAME = "bedrock"
FRAMES = "application/vnd.amazon.eventstream"
ACTIONS = {
    "converse": "converse",
    "converse-stream": "converse",
    "invoke": "invoke",
    "invoke-with-response-stream": "invoke",
    "count-tokens": "count_tokens",
}
EMBEDDING_NUMBERS = 8

_STOPS = {"end_turn": "end_turn", "tool_use": "tool_use", "max_tokens": "max_tokens"}
_ERRORS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """One address of the runtime: an action on a model. It is what the API calls a provider."""

    action: str
    model: str

    NAME = NAME

    @property
    def operation(self) -> str:
        """What the books call it."""
        return ACTIONS[self.action]

    @property
    def streams(self) -> bool:
        """Does this action answer with a stream?"""
        return self.action.endswith("-stream")

    def headers(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """The headers of every reply."""
        return (("x-amzn-requestid", request_id),)

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG002 - all providers' signature
        """An error in the shape of this API."""
        return encode({"message": refusal.message})

    def unauthorized(self) -> Refusal:
        """The credential is missing or wrong."""
        return refusal(403, "The security token included in the request is invalid.")

    def ordered(self, status: int) -> Refusal:
        """The error that AWS gives with a status."""
        return refusal(status, f"The simulator was told to answer {status}.")

    def invalid(self, message: str) -> Refusal:
        """A request that cannot be understood."""
        return refusal(400, message)

    def models(self, prices: PriceList) -> bytes:  # noqa: ARG002 - all providers' signature
        """The runtime lists no models."""
        return encode({})

    def understood(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as the simulated Anthropic API takes it, with the body that came under `body`."""
        base: dict[str, Any] = {"model": self.model, "stream": self.streams, "messages": None, "body": body}
        if self.action == "count-tokens":
            wanted = body.get("input")
            inner = wanted.get("converse") if isinstance(wanted, dict) else None
            return base | (_of_converse(inner) if isinstance(inner, dict) else {})
        if self.operation == "invoke" and "anthropic_version" in body:
            return base | {name: value for name, value in body.items() if name != "anthropic_version"}
        if self.operation == "invoke" and isinstance(body.get("inputText"), str):
            return base | {"messages": [{"role": "user", "content": body["inputText"]}], "max_tokens": 1}
        return base | _of_converse(body)

    def check(self, body: dict[str, Any], prices: PriceList) -> Refusal | None:
        """What this API refuses with 400."""
        if prices.find(self.model, NAME) is None:
            return self.invalid("The provided model identifier is invalid.")
        messages = body["messages"]
        if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
            return self.invalid("1 validation error detected: Value at 'messages' failed to satisfy constraint.")
        if not isinstance(body.get("max_tokens"), int):
            return self.invalid("#: required key [max_tokens] not found")
        metadata = body["body"].get("requestMetadata")
        if metadata is not None and (not isinstance(metadata, dict) or len(metadata) > 16):
            return self.invalid("1 validation error detected: Value at 'requestMetadata' failed to satisfy constraint.")
        for name in (body.get("metadata") or {}) if self.operation == "invoke" else ():
            if name != "user_id":
                return self.invalid(f"metadata.{name}: Extra inputs are not permitted")
        return None

    def plan(self, ask: Ask) -> Plan | Refusal:
        """The reply to a request that has passed `check`."""
        if self.operation == "count_tokens":
            counted = json.decode(anthropic.counted(ask).pieces[0].data)
            return Plan(200, (Piece(encode({"inputTokens": counted["input_tokens"]}), 0),))
        if "inputText" in ask.body["body"]:
            return _embedding(ask)
        made = anthropic.plan(ask)
        if isinstance(made, Refusal):
            return refusal(400, made.message)
        claude = "anthropic_version" in ask.body["body"]
        # No two replies under one id are alike in their padding and latency, so none is kept to be given again.
        made = replace(made, repeatable=False)
        if not self.streams:
            return _whole(made, ask, invoked=self.operation == "invoke", claude=claude)
        if self.operation == "converse":
            return _framed(made, ask, _event)
        return _framed(made, ask, _claude_chunk if claude else _nova_chunk)


def refusal(status: int, message: str) -> Refusal:
    """An error with AWS's name for its status, in the header where its SDKs look for it."""
    kind = _ERRORS.get(status, "InternalServerException" if status >= 500 else "ValidationException")
    named = (("x-amzn-errortype", f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"),)
    return Refusal(status, kind, message, headers=named)


def find(path: str) -> Runtime | None:
    """What is asked at this path; None where it is none of this API's."""
    head, _, action = path.rpartition("/")
    if not head.startswith("/model/") or action not in ACTIONS:
        return None
    model = unquote(head.removeprefix("/model/"))
    return Runtime(action, model.rpartition("/")[2] if model.startswith("arn:") else model)


# ---- requests ----------------------------------------------------------------------------------------------------


def _of_converse(body: dict[str, Any]) -> dict[str, Any]:
    """A Converse body (Nova's own is alike) as a Messages body."""
    config = body.get("inferenceConfig") or {}
    turns = body.get("messages")
    extra = body.get("additionalModelRequestFields") or {}
    asked: dict[str, Any] = {"max_tokens": config.get("maxTokens", 512), "thinking": extra.get("thinking")}
    if isinstance(turns, list):
        asked["messages"] = [
            {"role": turn.get("role"), "content": _blocks(turn.get("content"))} if isinstance(turn, dict) else turn
            for turn in turns
        ]
    if body.get("system"):
        asked["system"] = _blocks(body["system"])
    specs = [tool["toolSpec"] for tool in (body.get("toolConfig") or {}).get("tools", ()) if "toolSpec" in tool]
    if specs:
        asked["tools"] = [{"name": spec["name"], "input_schema": spec["inputSchema"]["json"]} for spec in specs]
    return asked


def _blocks(content: object) -> list[Any]:
    """Content blocks; a `cachePoint` marks the block before it."""
    blocks: list[Any] = []
    for block in content if isinstance(content, list) else ():
        point = block.get("cachePoint") if isinstance(block, dict) else None
        if point is not None and blocks:
            blocks[-1]["cache_control"] = {"type": "ephemeral", "ttl": point.get("ttl", "5m")}
        elif isinstance(block, dict) and "text" in block:
            blocks.append({"type": "text", "text": block["text"]})
        elif isinstance(block, dict) and "toolUse" in block:
            used = block["toolUse"]
            blocks.append({"type": "tool_use", "id": used["toolUseId"], "name": used["name"], "input": used["input"]})
        elif isinstance(block, dict) and "toolResult" in block:
            result = block["toolResult"]
            blocks.append({"type": "tool_result", "tool_use_id": result["toolUseId"], "content": result["content"]})
        else:
            blocks.append({"type": "unknown", "block": block})
    return blocks


# ---- replies -----------------------------------------------------------------------------------------------------


def _usage(used: dict[str, Any]) -> dict[str, Any]:
    """The Converse usage object; like the real one it names the cache counts twice."""
    read, written = used["cache_read_input_tokens"], used["cache_creation_input_tokens"]
    stated = {
        "inputTokens": used["input_tokens"],
        "outputTokens": used["output_tokens"],
        "totalTokens": used["input_tokens"] + used["output_tokens"] + read + written,
        "cacheReadInputTokens": read,
        "cacheReadInputTokenCount": read,
        "cacheWriteInputTokens": written,
        "cacheWriteInputTokenCount": written,
        "serverToolUsage": {},
    }
    if written:
        split = used["cache_creation"]
        stated["cacheDetails"] = [
            {"ttl": ttl, "inputTokens": split[f"ephemeral_{ttl}_input_tokens"]} for ttl in ("5m", "1h")
        ]
    return stated


def _meter(used: dict[str, Any]) -> dict[str, int]:
    return {
        "inputTokenCount": used["input_tokens"],
        "outputTokenCount": used["output_tokens"],
        "cacheReadInputTokenCount": used["cache_read_input_tokens"],
        "cacheWriteInputTokenCount": used["cache_creation_input_tokens"],
    }


def _meter_headers(used: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    names = ("input", "output", "cache-read-input", "cache-write-input")
    counts = zip(names, _meter(used).values(), strict=True)
    return tuple((f"x-amzn-bedrock-{name}-token-count", str(number)) for name, number in counts)


def _part(block: dict[str, Any]) -> dict[str, Any]:
    """A content block of a whole answer in Converse's form."""
    if block["type"] == "tool_use":
        return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}
    if block["type"] == "thinking":
        return {"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}}
    return {"text": block["text"]}


def _whole(made: Plan, ask: Ask, *, invoked: bool, claude: bool) -> Plan:
    assert made.final is not None
    used = made.final.usage
    stated = not ask.orders.no_usage
    headers = _meter_headers(used) if invoked and stated else ()
    if claude:
        return replace(made, headers=headers)
    answer = json.decode(made.pieces[0].data)
    reply: dict[str, Any] = {
        "output": {"message": {"role": "assistant", "content": [_part(block) for block in answer["content"]]}},
        "stopReason": _STOPS[answer["stop_reason"]],
        "metrics": {"latencyMs": 5},
    }
    if stated:
        reply["usage"] = _usage(used)
    return replace(made, pieces=(Piece(encode(reply), made.tokens),), headers=headers)


def _embedding(ask: Ask) -> Plan:
    text = ask.body["body"]["inputText"]
    tokens = max(1, count(text.encode("utf-8", "surrogatepass"), ask.world.seed))
    used = {"input_tokens": tokens, "output_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    card = ask.world.prices.cards[ask.body["model"]]
    vector = [round(((ask.draws.extra >> number) % 2000 - 1000) / 1000, 3) for number in range(EMBEDDING_NUMBERS)]
    headers = (_meter_headers(used)[0],)
    reply: dict[str, Any] = {"embedding": vector, "inputTextTokenCount": tokens}
    cost = ask.world.prices.cost((Sampling(card.model, tokens, 0),), Terms("standard", fixed=ask.orders.cost))
    return Plan(200, (Piece(encode(reply), 0),), card.served_as, final=Bill(used, cost), headers=headers)


# ---- streams -----------------------------------------------------------------------------------------------------

_Convert = Callable[[dict[str, Any], dict[str, Any], bool], Iterator[bytes]]
"""(event of the simulated Anthropic API, final usage, is usage stated?) -> frames."""


def _framed(made: Plan, ask: Ask, convert: _Convert) -> Plan:
    """The stream's events as frames. Tokens of an event without a frame of its own come with the next one."""
    assert made.final is not None
    pieces: list[Piece] = []
    waiting = 0
    for data, tokens in made.pieces:
        waiting += tokens
        event = json.decode(data.partition(b"data: ")[2])
        for frame in convert(event, made.final.usage, not ask.orders.no_usage):
            pieces.append(Piece(frame, waiting))
            waiting = 0
    if ask.orders.usage_twice:
        pieces.append(Piece(pieces[-1].data, 0))
    failed = frame_of({":exception-type": "internalServerException"}, {"message": "Internal error."}, "exception")
    return replace(made, pieces=tuple(pieces), content_type=FRAMES, error_event=failed)


def _event(event: dict[str, Any], used: dict[str, Any], stated: bool) -> Iterator[bytes]:
    """An event of ConverseStream."""
    for name, payload in _told(event):
        yield frame_of({":event-type": name}, payload | {"p": "abcdefgh"[: len(name) % 8]})
    if event["type"] == "message_stop":
        closing: dict[str, Any] = {"metrics": {"latencyMs": 5}, "p": "abc"}
        if stated:
            closing["usage"] = _usage(used)
        yield frame_of({":event-type": "metadata"}, closing)


def _nova_chunk(event: dict[str, Any], used: dict[str, Any], stated: bool) -> Iterator[bytes]:
    """The same events as a Nova model streams them through InvokeModel."""
    for name, payload in _told(event):
        yield _chunk({name: payload})
    if event["type"] == "message_stop":
        closing: dict[str, Any] = {"metadata": {"metrics": {}, "trace": {}}}
        if stated:
            closing["metadata"]["usage"] = _usage(used)
            closing["amazon-bedrock-invocationMetrics"] = _meter(used) | {"invocationLatency": 5, "firstByteLatency": 2}
        yield _chunk(closing)


def _claude_chunk(event: dict[str, Any], used: dict[str, Any], stated: bool) -> Iterator[bytes]:
    """An event of the Messages API, the last one with AWS's meter."""
    if event["type"] == "ping":
        return
    if event["type"] == "message_stop" and stated:
        event["amazon-bedrock-invocationMetrics"] = _meter(used) | {"invocationLatency": 5, "firstByteLatency": 2}
    yield _chunk(event)


def _told(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of a Converse event; text begins without one."""
    kind = event["type"]
    if kind == "message_start":
        yield "messageStart", {"role": "assistant"}
    elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
        tool = event["content_block"]
        start = {"toolUse": {"toolUseId": tool["id"], "name": tool["name"]}}
        yield "contentBlockStart", {"contentBlockIndex": event["index"], "start": start}
    elif kind == "content_block_delta":
        delta = event["delta"]
        said: dict[str, Any] = {"text": delta.get("text", "")}
        if "partial_json" in delta:
            said = {"toolUse": {"input": delta["partial_json"]}}
        elif "thinking" in delta or "signature" in delta:
            said = {"reasoningContent": {"text": delta["thinking"]} if "thinking" in delta else {"signature": "c2ln"}}
        yield "contentBlockDelta", {"contentBlockIndex": event["index"], "delta": said}
    elif kind == "content_block_stop":
        yield "contentBlockStop", {"contentBlockIndex": event["index"]}
    elif kind == "message_delta" and event["delta"]["stop_reason"] is not None:
        yield "messageStop", {"stopReason": _STOPS[event["delta"]["stop_reason"]]}


def _chunk(inner: dict[str, Any]) -> bytes:
    """A frame of InvokeModelWithResponseStream."""
    text = base64.b64encode(encode(inner)).decode()
    return frame_of({":event-type": "chunk"}, {"bytes": text, "p": "abcdefghijklmnop"[: len(text) % 16]})


def frame_of(headers: dict[str, str], payload: dict[str, Any], kind: str = "event") -> bytes:
    """One binary frame: lengths and their checksum, headers, payload, checksum of all."""
    block = b""
    for name, value in (headers | {":content-type": "application/json", ":message-type": kind}).items():
        block += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = encode(payload)
    start = struct.pack(">II", 16 + len(block) + len(body), len(block))
    frame = start + struct.pack(">I", zlib.crc32(start)) + block + body
    return frame + struct.pack(">I", zlib.crc32(frame))
