"""CPU microseconds of each stage of a call, in one process, without a network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.machines import ANSWER, REQUEST, TAGS
from costbearer.attribution import Bearer, Said, attribute
from costbearer.contract import Prices
from costbearer.dialects import eventstream
from costbearer.dialects.base import CallRequest, Operation, Place
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.registry import Exchange, all_dialects
from costbearer.forms import draft
from costbearer.gateway import settle
from costbearer.gateway.settle import Ending
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.ledger import Entry
from costbearer.prices import PriceBook
from costbearer.stores import archive
from costbearer.stores.control import Actor, Control

BEARER = Bearer(key_id="key_bench", owner="ada.byron", team="search", agent="ranker", workload="rerank")


def measure(quick: bool) -> list[tuple[str, str]]:
    loops = 1_000 if quick else 10_000
    dialect, book = OpenAIChat(), Prices(PriceBook.loads(archive.bundled()))
    plain = msgspec.json.encode(REQUEST)
    tagged = msgspec.json.encode(REQUEST | TAGS)
    answer = msgspec.json.encode(ANSWER)
    asked, said = dialect.read(plain), dialect.read(tagged)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        journal = JournalWriter.open(Path(name) / "journal")
        with Control.open(Path(name) / "data" / "control.sqlite") as control:
            labels = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
            key = control.issue(draft(labels, now, 90), Actor("bench", "bench", "bench")).text
            ring = control.load_keyring()
        intent = Entry(
            journal=journal.id,
            sequence=1,
            request_id="req_bench",
            call_id="req_bench.1",
            started_at=now,
            provider="openai",
            request_model="gpt-4o-mini",
            attribution=attribute(BEARER, Said(), _hashed).fields,
            reason_unknown="in_flight",
            owner="ada.byron",
            team="search",
            agent="ranker",
            workload="rerank",
        )
        ending = Ending(status="ok", ended_at=now, duration_ms=1, http_status=200)
        reading = dialect.whole(asked, answer)
        outcome = settle.read(intent, ending, reading, asked, book, price_provider="openai")

        def write_both() -> None:
            sequence = journal.next_sequence
            journal.append(Intent(entry=msgspec.structs.replace(intent, sequence=sequence)))
            journal.append(Outcome(entry=msgspec.structs.replace(outcome, sequence=sequence)))

        steps: list[tuple[str, Callable[[], object]]] = [
            ("authenticate", lambda: ring.authenticate(key, now)),
            ("read the request", lambda: dialect.read(plain)),
            ("read the request, with tags", lambda: dialect.read(tagged)),
            ("attribute", lambda: attribute(BEARER, Said(), _hashed)),
            ("attribute, with tags", lambda: attribute(BEARER, Said(body_tags=said.tags), _hashed)),
            ("take the tags off the body", lambda: dialect.outgoing(said, "gpt-4o-mini")),
            ("read the reply", lambda: dialect.whole(asked, answer)),
            ("rate and close", lambda: settle.read(intent, ending, reading, asked, book, price_provider="openai")),
            ("journal, intent and outcome", write_both),
        ]
        steps += _translation()
        rows = [(f"CPU: {what}", f"{_cost_us(step, loops):.1f} µs") for what, step in steps]
        journal.close()
    return rows


def _translation() -> list[tuple[str, Callable[[], object]]]:
    """What translation adds to a call of 10 kB, request and answer together, and to one chunk of a stream."""
    said = "The harbour is wide, and the ships in it are many; each has a berth, a master and a port of registry. "
    schema = {"type": "object", "properties": {"port": {"type": "string"}, "depth_m": {"type": "number"}}}
    tools = [
        {"type": "function", "function": {"name": name, "description": said, "parameters": schema}}
        for name in ("find_ship", "find_berth")
    ]
    turns = [{"role": role, "content": said * 7} for role in ("user", "assistant") * 5]
    asking = {"model": "m", "messages": [{"role": "system", "content": said}, *turns], "tools": tools}
    body = msgspec.json.encode(asking)
    steps: list[tuple[str, Callable[[], object]]] = []
    exchange = Exchange(all_dialects())
    for provider, (model, answer) in _answers(said * 15).items():
        operation = exchange.operation("openai", "chat", provider)
        assert operation is not None
        steps += _translating(provider, operation, operation.read(body), model, msgspec.json.encode(answer))
    return steps


def _translating(
    provider: str, operation: Operation, asked: CallRequest, model: str, answer: bytes
) -> list[tuple[str, Callable[[], object]]]:
    size = f"{(len(asked.body) + len(answer)) / 1000:.0f} kB"
    chunk = CHUNKS[provider]
    reader = operation.stream_reader(asked)
    return [
        (f"translate a request to {provider}, call of {size}", lambda: operation.outgoing(asked, model)),
        (f"translate its answer, call of {size}", lambda: operation.shown(asked, 200, answer)),
        (f"a chunk of {provider}'s, translated", lambda: reader.feed(chunk)),
    ]


def _answers(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """By provider a model and a whole answer with a tool call."""
    arguments = {"port": "Kiel"}
    called = {"type": "tool_use", "id": "toolu_1", "name": "find_ship", "input": arguments}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-6",
        "content": [{"type": "text", "text": text}, called],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 2_000, "output_tokens": 400, "cache_read_input_tokens": 0},
    }
    parts = [{"text": text}, {"functionCall": {"name": "find_ship", "args": arguments}}]
    candidate = {"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": "STOP"}
    gemini = {
        "candidates": [candidate],
        "usageMetadata": {"promptTokenCount": 2_000, "candidatesTokenCount": 400, "totalTokenCount": 2_400},
        "modelVersion": "gemini-2.5-pro",
        "responseId": "r1",
    }
    content = [{"text": text}, {"toolUse": {"toolUseId": "t1", "name": "find_ship", "input": arguments}}]
    converse = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 2_000, "outputTokens": 400, "totalTokens": 2_400},
        "metrics": {"latencyMs": 900},
    }
    return {
        "anthropic": ("claude-sonnet-4-6", message),
        "gemini": ("gemini-2.5-pro", gemini),
        "bedrock": ("us.amazon.nova-lite-v1:0", converse),
    }


def _event(data: dict[str, Any], name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"


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
        }
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
        found[name] = _cost_us(lambda reader=reader, chunk=chunk: reader.feed(chunk), loops)  # type: ignore[misc]
    return found


def _cost_us(step: Callable[[], object], loops: int) -> float:
    """The best of five: what the step costs when nothing else disturbs it."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for _ in range(loops // 5):
            step()
        best = min(best, (time.process_time_ns() - began) / (loops // 5) / 1000)
    return best


def _hashed(field: str, value: str) -> str:
    return f"{field}:{value}"
