"""Where fuzzing begins: sound inputs for each target, made by the same hands that make those of the tests."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from costbearer.dialects.eventstream import encode as frame
from costbearer.frames import HEADER_BYTES, Frame, Intent, Opening, Outcome, encode
from costbearer.keys import new_key
from fuzz.calls import operations
from fuzz.records import JOURNAL
from fuzz.wire import BOUNDARY
from tests.factories import BORN, make_entry, make_intent, make_unknown
from tests.test_logformats import CASES
from tests.usagelogs import WRITERS, clean

HELLO = [{"role": "user", "content": "hello"}]
TAGS = {"tags": ["feature:search", "team:red"]}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def sse(*data: Any) -> bytes:
    return b"".join(b"data: " + text(each) + b"\n\n" for each in data)


# -- wire formats

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 2}}
CHAT = {"id": "c", "model": "gpt-4.1-mini", "choices": [{"index": 0, "delta": {"content": "h\u00e9\n\n"}}]}
CHATTED = b": comment\n\n" + sse(CHAT, CHAT | {"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
COUNTED = {"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 2}, "output_tokens": 2}
MESSAGE = sse(
    {"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-6", "usage": COUNTED}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
)
RESPONSE = {"id": "r", "model": "gpt-5", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 2}}
RESPONDED = sse(
    {"type": "response.created", "response": RESPONSE | {"usage": None}},
    {"type": "response.output_text.delta", "delta": "x"},
    {"type": "response.output_item.done", "item": {"type": "web_search_call", "id": "w", "status": "completed"}},
    {"type": "response.completed", "response": RESPONSE},
)
EVENTS = (
    CHATTED,
    CHATTED.replace(b"\n", b"\r\n"),
    MESSAGE.replace(b'data: {"type": "message_stop', b'event: message_stop\ndata: {"type": "message_stop'),
    RESPONDED,
    b"\xef\xbb\xbfevent: a\rdata: 1\rdata: 2\r\r: comment\n\ndata\n\n",
)
FRAMES = (
    frame({":event-type": "chunk"}, b'{"bytes":"e30="}') + frame({":event-type": "metadata"}, text({"usage": {}})),
    frame({}, b""),
)
ELEMENTS = (b'[{\n  "a": [1, {"b": "}]\\"{\\\\"}]\n}\n,\r\n{"c": {}}\n]\n', b'{"a":1}', b"[]")
MEMBERS = (
    text({"model": "m", "metadata": TAGS, "messages": HELLO, "n": 1.50}),
    b'{ "a" : "\\u0061\\n" ,\n"\\u0062":[1,{"c":null}] , "":{} }',
    b"{}",
)


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


FORM = (
    part("model", b"whisper-1")
    + part("file", b"RIFF\r\n\x00\xff", '; filename="a.wav"')
    + part("metadata", text(TAGS))
    + part("n", b"3")
    + part("stream", b"true")
    + f"--{BOUNDARY}--\r\n".encode()
)
SPELT = part("model", b"m") + part("metadata[tags][]", b"a:b") + part("size", b"1") + f"--{BOUNDARY}--".encode()
FORMS = (b"\x00" + FORM, b"\x01" + SPELT, b"\x00\r\n" + FORM)


# -- calls

REQUESTS: tuple[Any, ...] = (
    {"model": "m", "messages": HELLO, "metadata": TAGS, "max_tokens": 9, "stream": True, "n": 2, "tools": []},
    {"model": "m", "input": "x", "metadata": TAGS, "max_output_tokens": 9, "background": True, "service_tier": "flex"},
    {"model": "m", "messages": HELLO, "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "thinking": {}},
    {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "generationConfig": {"maxOutputTokens": 4}},
    {"messages": [{"role": "user", "content": [{"text": "x"}]}], "inferenceConfig": {"maxTokens": 4}},
    {"requests": [{"custom_id": "a", "params": {"model": "m", "max_tokens": 1, "messages": HELLO}}]},
    {"model": "m", "query": "q", "documents": ["a"], "prompt": "a picture", "size": "1024x1024", "voice": "v"},
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "stop": ["x"],
        "temperature": 0.5,
    },
)
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "hé"}, {"functionCall": {"name": "f", "args": {}}}]}}],
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 13},
    "modelVersion": "gemini-3.8-flash",
    "responseId": "r",
}
CONVERSE = {
    "output": {"message": {"role": "assistant", "content": [{"text": "x"}]}},
    "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 30, "cacheReadInputTokens": 20},
    "stopReason": "end_turn",
}
ANTHROPIC = {
    "id": "msg_1",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}],
    "usage": COUNTED,
    "stop_reason": "end_turn",
}
REPLIES: tuple[bytes, ...] = (
    text({"id": "c", "model": "gpt-4.1-mini", "choices": [{"message": {"content": "x"}}], "usage": USAGE}),
    text(ANTHROPIC),
    text(GEMINI),
    text([GEMINI, GEMINI]),
    sse(GEMINI, GEMINI),
    text(CONVERSE),
    text(
        {
            "id": "r",
            "status": "completed",
            "usage": {"input_tokens": 1, "output_tokens": 2},
            "created_at": 1_790_000_000,
        }
    ),
    text({"id": "b", "status": "completed", "output_file_id": "f", "request_counts": {}, "created_at": 1_763_000_000}),
    text({"id": "v1_a", "status": "completed", "usage": {"total_input_tokens": 1}, "created": "2026-11-22T10:00:05Z"}),
    text({"usage": {"billed_units": {"input_tokens": 3, "search_units": 1}}, "meta": {"billed_units": {}}}),
    text({"error": {"type": "invalid_request_error", "code": "x", "message": "m"}}),
    text({"results": [{"inputTextTokenCount": 3}], "inputTextTokenCount": 2, "usage": 1.5, "cost": 0.0012}),
    *EVENTS[:4],
    frame({":event-type": "messageStart"}, text({"role": "assistant"}))
    + frame({":event-type": "contentBlockDelta"}, text({"delta": {"text": "x"}, "contentBlockIndex": 0}))
    + frame({":event-type": "messageStop"}, text({"stopReason": "end_turn"}))
    + frame({":event-type": "metadata"}, text({"usage": CONVERSE["usage"]})),
    frame({":event-type": "chunk"}, text({"bytes": "eyJ0eXBlIjoibWVzc2FnZV9zdG9wIn0="})),
    b'{"id":"a","custom_id":"b","result":{"type":"succeeded","message":' + text(ANTHROPIC) + b"}}\n",
)


def requests(family: str) -> list[bytes]:
    """Every request for every operation: what is none of it is refused, which is a path too."""
    bodies = [*map(text, REQUESTS), FORM]
    return [bytes([place]) + body for place in range(len(operations(family))) for body in bodies]


def replies(family: str) -> list[bytes]:
    return [bytes([place]) + body for place in range(len(operations(family))) for body in REPLIES]


# -- our own records, and what callers say

KEYS = (new_key(lambda below: below // 3).text.encode(), b"cbk_short", b"sk-proj-abc", b"key_0123456789AB")
SAID = (
    b"feature:two,release:7%2C\nteam=red;p=1,user_id=bob\n00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n"
    b"feature:one\nuser:jane@example.com",
    b"\ncustomer_id=%E2%82%AC\nx\ntenant:t",
)


def segment(*frames: Frame, first: int = 1) -> bytes:
    out = bytearray()
    for sequence, each in enumerate(frames, first):
        buffer = bytearray(HEADER_BYTES)
        encode(each, sequence, buffer)
        out += buffer
    return bytes(out)


OPENED = Opening(JOURNAL, 1, datetime(2026, 11, 22, tzinfo=UTC), "fuzz", "1", None)
SEGMENT = segment(
    OPENED,
    Intent(make_intent(JOURNAL, 2)),
    Outcome(make_entry(JOURNAL, 2)),
    Intent(make_intent(JOURNAL, 4)),
    Intent(make_intent(JOURNAL, 5)),
    Outcome(make_unknown(JOURNAL, 5, started_at=BORN)),
)
SEGMENTS = (SEGMENT, SEGMENT[:-9], segment(OPENED), SEGMENT + b"\x00" * 30, SEGMENT[300:], SEGMENT * 2, b"")


# -- files

CALLS = clean(4)
LOGS = [writer(CALLS).encode() for writer in WRITERS.values()] + [text(case[1]) for case in CASES.values()]


def _parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"model": ["gpt-4o"], "input_tokens": [1], "output_tokens": [2], "cost": ["0.1"]}), out)
    return out.getvalue()


def logs() -> list[bytes]:
    packed = [gzip.compress(LOGS[0], mtime=0), bytes(pa.compress(LOGS[1], codec="zstd", asbytes=True)), _parquet()]
    return [*LOGS, *packed, LOGS[0].decode().encode("utf-16")]


BILLS = (
    text({"data": [{"start_time": 1, "end_time": 86401, "results": [{"amount": {"value": 1.5, "currency": "usd"}}]}]}),
    text(
        {
            "data": [
                {
                    "starting_at": "2026-10-05T00:00:00Z",
                    "ending_at": "2026-10-06T00:00:00Z",
                    "results": [{"currency": "USD", "amount": "123.45", "model": "claude-sonnet-4-6"}],
                }
            ]
        }
    ),
    b"date,amount,model\n2026-10-05,1.50,gpt-4o\n2026-10-06,$2,gpt-4o\n",
    b"lineItem/UsageStartDate,lineItem/UnblendedCost,lineItem/UsageType,lineItem/ProductCode\n"
    b"2026-10-05T00:00:00Z,0.5,USE1-Claude-input-tokens,AmazonBedrock\n",
)
CONTRACTS = (
    b'[[terms]]\nprovider = "openai"\nmodel = "gpt-5*"\nsince = 2026-01-01\ndiscount = "12.5"\n\n[[terms]]\n'
    b'provider = "anthropic"\nmodel = "claude-opus-5"\nprices_per_million = { input = "4.20", output = "21" }\n\n'
    b'[[commitments]]\nname = "ptu"\nprovider = "azure"\nmodel = "gpt-4.1*"\nfee = "730"\nevery = "month"\n'
    b"since = 2026-01-01\n",
    b"provider,model,since,until,meter,price,per\nopenai,gpt-5,2026-01-01,2027-01-01,input,2.5,1000000\n",
)
OWNERS = (
    b"ownership:\n  - key: sk-search-1\n    team: search\n    owner: ana\n    from: 2026-01-01\n",
    b"key,team,owner,from\nsk-1,search,ana,2026-10-01\nsk-*,red,bo,\n",
)
SETTINGS = (
    b'data = "x"\n[gateway]\nport = 4000\n[providers.openai]\ndialect = "openai"\nbase_url = "https://api.openai.com/v1"\n'
    b'api_key = "fuzz-credential"\n[[routes]]\nmodel = "gpt-*"\nproviders = ["openai"]\n',
)
VIEWS = (
    b'[[views]]\nname = "Search"\npage = "/explore"\ndescription = "d"\n[views.ask]\nby = "team"\n'
    b'where = ["team=a", "team=b"]\n',
)
ARCHIVE = {
    "format": 2,
    "as_of": "2026-11-22",
    "generated": "by hand",
    "license": "",
    "prices": "USD",
    "sources": {},
    "units": {"input": {"per": "token"}},
    "providers": [{"id": "openai", "name": "OpenAI", "api_pattern": "https://x", "match": {"contains": "gpt"}}],
    "aliases": [{"provider": "openai", "name": "g", "model": "gpt-4o", "until": "2024-10-02", "source": "x"}],
    "models": [
        {
            "provider": "openai",
            "id": "gpt-4o",
            "match": {"or": [{"starts_with": "gpt-4o"}, {"regex": "^gpt.4o$"}]},
            "prices": [{"prices": {"input": "0.0000025"}, "until": "2026-05-13"}, {"prices": {"input": "0.000002"}}],
            "variants": [{"prices": {"input": "0.000001"}, "when": {"tier": "batch"}, "source": "x"}],
        }
    ],
}
ARCHIVES = (text(ARCHIVE),)
