"""What translation adds to a call of 10 kB, request and answer together, and to one chunk of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects import eventstream
from costbearer.dialects.registry import Exchange, all_dialects

Steps = list[tuple[str, Callable[[], object]]]

SAID = "The harbour is wide, and the ships in it are many; each has a berth, a master and a port of registry. "
SCHEMA = {"type": "object", "properties": {"port": {"type": "string"}, "depth_m": {"type": "number"}}}
TEXT = SAID * 15


class _Native(NamedTuple):
    """A provider that is asked: the operation in its own words, a model, an answer, and one chunk of a stream."""

    provider: str
    operation: str
    model: str
    answer: dict[str, Any]
    chunk: bytes


def steps() -> Steps:
    """The pieces of work of each provider that callers of OpenAI's dialect reach, by what they are."""
    return [step for native in (_anthropic(), _gemini(), _bedrock()) for step in _steps(native, _request())]


def _steps(native: _Native, body: bytes) -> Steps:
    dialects = all_dialects()
    own = dialects[native.provider].operations[native.operation]
    operation = Exchange(dialects).operation("openai", "chat", native.provider)
    assert operation is not None
    asked, answer = operation.read(body), msgspec.json.encode(native.answer)
    assert TEXT.encode() in (operation.shown(asked, 200, answer) or b""), "the answer must come through"
    before, after = own.stream_reader(asked), operation.stream_reader(asked)
    assert b" harbour" in after.feed(native.chunk), "the chunk must come through"
    size, name = f"{(len(body) + len(answer)) / 1000:.0f} kB", native.provider.capitalize()
    return [
        (f"translate a request to {name}, call of {size}", lambda: operation.outgoing(asked, native.model)),
        (f"translate the answer of {name}, call of {size}", lambda: operation.shown(asked, 200, answer)),
        (f"a chunk of {name}'s, as it is", lambda: before.feed(native.chunk)),
        (f"a chunk of {name}'s, translated", lambda: after.feed(native.chunk)),
    ]


def _request() -> bytes:
    tools = [
        {"type": "function", "function": {"name": name, "description": SAID, "parameters": SCHEMA}}
        for name in ("find_ship", "find_berth")
    ]
    turns = [{"role": role, "content": SAID * 7} for role in ("user", "assistant") * 5]
    asking = {"model": "m", "messages": [{"role": "system", "content": SAID}, *turns], "tools": tools}
    return msgspec.json.encode(asking)


def _anthropic() -> _Native:
    content = [
        {"type": "text", "text": TEXT},
        {"type": "tool_use", "id": "toolu_1", "name": "find_ship", "input": {"port": "Kiel"}},
    ]
    usage = {"input_tokens": 2_000, "output_tokens": 400, "cache_read_input_tokens": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6", "content": content}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " harbour"}}
    chunk = b"event: content_block_delta\ndata: " + msgspec.json.encode(delta) + b"\n\n"
    answer = message | {"stop_reason": "tool_use", "usage": usage}
    return _Native("anthropic", "chat", "claude-sonnet-4-6", answer, chunk)


def _gemini() -> _Native:
    parts = [{"text": TEXT}, {"functionCall": {"name": "find_ship", "args": {"port": "Kiel"}}}]
    counts = {"promptTokenCount": 2_000, "candidatesTokenCount": 400, "totalTokenCount": 2_400}
    said = {"modelVersion": "gemini-2.5-flash", "responseId": "r1", "usageMetadata": counts}
    answer = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        **said,
    }
    told = {"candidates": [{"content": {"role": "model", "parts": [{"text": " harbour"}]}, "index": 0}], **said}
    return _Native("gemini", "chat", "gemini-2.5-flash", answer, b"data: " + msgspec.json.encode(told) + b"\r\n\r\n")


def _bedrock() -> _Native:
    content = [{"text": TEXT}, {"toolUse": {"toolUseId": "t1", "name": "find_ship", "input": {"port": "Kiel"}}}]
    answer = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 2_000, "outputTokens": 400, "totalTokens": 2_400},
        "metrics": {"latencyMs": 900},
    }
    headers = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
    delta = {"contentBlockIndex": 0, "delta": {"text": " harbour"}, "p": "abcdefgh"}
    chunk = eventstream.encode(headers, msgspec.json.encode(delta))
    return _Native("bedrock", "converse", "us.anthropic.claude-sonnet-4-6", answer, chunk)
