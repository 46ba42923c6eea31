"""What reading the usage on the way costs, chunk by chunk, for each API."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.stages import cost_us
from costbearer.dialects import eventstream
from costbearer.dialects.base import Place
from costbearer.dialects.registry import all_dialects


def _event(data: dict[str, Any], name: str = "", end: bytes = b"\n\n") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + end


CHUNKS: dict[str, bytes] = {
    "openai": _event(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-4o-mini-2024-07-18",
            "choices": [{"index": 0, "delta": {"content": " harbour"}, "finish_reason": None}],
            "usage": None,
        }
    ),
    "responses": _event(
        {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": " harbour",
            "sequence_number": 7,
        },
        "response.output_text.delta",
    ),
    "anthropic": _event(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " harbour"}},
        "content_block_delta",
    ),
    "gemini": _event(
        {
            "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": " harbour"}]}}],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13},
            "modelVersion": "gemini-2.5-pro",
            "responseId": "r1",
        },
        end=b"\r\n\r\n",
    ),
    "bedrock": eventstream.encode(
        {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"},
        msgspec.json.encode({"contentBlockIndex": 0, "delta": {"text": " harbour"}, "p": "abcdefgh"}),
    ),
}
"""One chunk of a stream as each API sends it, with the few bytes of text that a token is."""

_STREAMED = {
    "openai": ("openai", "chat"),
    "responses": ("openai", "responses"),
    "anthropic": ("anthropic", "chat"),
    "gemini": ("gemini", "chat.stream"),
    "bedrock": ("bedrock", "converse_stream"),
}


def reading_us(loops: int) -> dict[str, float]:
    """CPU microseconds of reading one chunk on its way, by API."""
    dialects, found = all_dialects(), {}
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "stream": True, "messages": [], "input": "x"})
    for name, (dialect, operation) in _STREAMED.items():
        reads = dialects[dialect].operations[operation]
        asked = reads.read(body, Place("POST", params={"model": "m"}))
        reader = reads.stream_reader(asked)
        chunk = CHUNKS[name]
        found[name] = cost_us(lambda reader=reader, chunk=chunk: reader.feed(chunk), loops)  # type: ignore[misc]
    return found
