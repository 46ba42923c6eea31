"""Cohere: billed units, not tokens; streams, rerank and embeddings; errors in its own shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import CallRequest, Reading
from costbearer.dialects.cohere import Cohere
from costbearer.errors import BodyInvalid, UpstreamFailed
from costbearer.usage import Usage, Work

COHERE = Cohere()
CHAT, RERANK, EMBED = (COHERE.operations[name] for name in ("chat", "rerank", "embeddings"))
BILLED = {
    "billed_units": {"input_tokens": 12, "output_tokens": 7},
    "tokens": {"input_tokens": 507, "output_tokens": 10},
}
COUNTED = Usage(input_tokens=12, output_tokens=7)


def ask(operation: Any = CHAT, **members: Any) -> CallRequest:
    found: CallRequest = operation.read(json.dumps({"model": "command-r", **members}).encode())
    return found


def whole(usage: Any, **members: Any) -> Reading:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Grüße"}]
    body = {"id": "c-1", "message": {"role": "assistant", "content": content}, "usage": usage, **members}
    return CHAT.whole(ask(), json.dumps(body).encode())


@pytest.mark.parametrize(
    "operation, members, expected",
    [
        (CHAT, {}, {"operation": "chat", "max_output_tokens": None, "open_ended": False, "stream": False}),
        (CHAT, {"stream": True, "max_tokens": 9}, {"stream": True, "max_output_tokens": 9}),
        (CHAT, {"documents": ["x"]}, {"open_ended": True}),
        (RERANK, {"query": "q", "documents": []}, {"operation": "rerank", "open_ended": True, "max_output_tokens": 0}),
        (EMBED, {"texts": ["x"]}, {"operation": "embeddings", "open_ended": False}),
        (EMBED, {"images": ["data:"]}, {"open_ended": True}),
    ],
)
def test_requests(operation: Any, members: dict[str, Any], expected: dict[str, Any]) -> None:
    request = ask(operation, **members)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize("operation, path", [(CHAT, "/v2/chat"), (RERANK, "/v2/rerank"), (EMBED, "/v2/embed")])
def test_outgoing(operation: Any, path: str) -> None:
    request = ask(operation, metadata={"tags": ["a:b"]})
    assert request.tags == ("a:b",)
    assert operation.outgoing(request, "other")[:2] == (path, b'{"model": "other"}')
    with pytest.raises(BodyInvalid):
        operation.read(b"{}")


@pytest.mark.parametrize(
    "usage, expected, complete, notes",
    [
        (BILLED, COUNTED, True, ()),
        (BILLED | {"cached_tokens": 448}, COUNTED, True, ()),
        (
            {"billed_units": {"input_tokens": 12.0, "output_tokens": 7.0, "search_units": 1, "classifications": 0}},
            Usage(input_tokens=12, output_tokens=7, search_units=1),
            True,
            (),
        ),
        ({"billed_units": {"input_tokens": 12}}, Usage(input_tokens=12), False, ("usage_partial",)),
        (
            {"billed_units": {"input_tokens": 12.5, "output_tokens": 7}},
            Usage(output_tokens=7),
            False,
            ("usage_malformed",),
        ),
        ({"billed_units": {"input_tokens": 1e300}}, None, False, ("usage_malformed",)),
        ({"billed_units": []}, None, False, ("usage_absent",)),
        ({"tokens": {"input_tokens": 507}}, None, False, ("usage_absent",)),
        (None, None, False, ("usage_absent",)),
        ([], None, False, ("usage_absent",)),
    ],
)
def test_what_is_billed(usage: Any, expected: Usage | None, complete: bool, notes: tuple[str, ...]) -> None:
    reading = whole(usage)
    assert [(work.model, work.usage) for work in reading.work] == (
        [] if expected is None else [("command-r", expected)]
    )
    assert (reading.complete, reading.notes, reading.response_id) == (complete, notes, "c-1")
    assert reading.generated_bytes == 9


@pytest.mark.parametrize(
    "operation, billed, expected, complete",
    [
        (RERANK, {"search_units": 2}, Usage(search_units=2), True),
        (EMBED, {"input_tokens": 5}, Usage(input_tokens=5), True),
        (EMBED, {"input_tokens": 5, "image_tokens": 70}, Usage(input_tokens=75, image_input_tokens=70), True),
        (EMBED, {"input_tokens": 5, "images": 1}, Usage(input_tokens=5), False),
        (EMBED, {}, None, False),
    ],
)
def test_what_meta_states(operation: Any, billed: Any, expected: Usage | None, complete: bool) -> None:
    body = json.dumps({"id": "r-1", "results": [], "meta": {"billed_units": billed}}).encode()
    reading = operation.whole(ask(operation), body)
    assert [work.usage for work in reading.work] == ([] if expected is None else [expected])
    assert reading.complete is complete


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


STREAM = (
    event("message-start", id="c-1", delta={"message": {"role": "assistant", "content": []}})
    + event("content-delta", index=0, delta={"message": {"content": {"text": "Grüße"}}})
    + event("tool-plan-delta", delta={"message": {"tool_plan": "plan"}})
    + event("tool-call-delta", index=0, delta={"message": {"tool_calls": {"function": {"arguments": "{}"}}}})
    + event("message-end", delta={"finish_reason": "COMPLETE", "usage": BILLED})
)


def stream(body: bytes, size: int | None = None) -> tuple[Reading, bytes, bool]:
    reader = CHAT.stream_reader(ask(stream=True))
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step))
    ended = reader.ended
    seen += reader.rest()
    return reader.reading(), seen, ended


@pytest.mark.parametrize("size", [None, 1, 7, 100])
@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n"])
def test_a_stream(size: int | None, tail: bytes) -> None:
    reading, seen, ended = stream(STREAM + tail, size)
    assert (seen, ended, reading.complete, reading.response_id) == (STREAM + tail, True, True, "c-1")
    assert reading.work == (Work(model="command-r", usage=COUNTED, largest_input_tokens=12),)
    assert reading.generated_bytes == 13


def test_a_stream_cut_anywhere_is_not_complete() -> None:
    for end in range(len(STREAM) - 2):
        reading, seen, ended = stream(STREAM[:end])
        assert (seen, ended, reading.complete) == (STREAM[:end], False, False)


def test_a_stream_that_ends_with_an_error() -> None:
    reading, _, ended = stream(event("message-end", delta={"finish_reason": "ERROR", "error": "x"}))
    assert (reading.error_code, ended, reading.complete) == ("error", True, False)
    assert stream(event("message-end", delta={"finish_reason": []}))[0].error_code is None


def test_the_family() -> None:
    assert COHERE.credential_headers("k") == (("authorization", "Bearer k"),)
    assert COHERE.provider_request_id({"x-debug-trace-id": "t"}) == "t"
    refused = UpstreamFailed("no")
    assert json.loads(COHERE.error_body(refused, "req_1")) == {"id": "req_1", "message": "no", "code": refused.code}
    reading, _, ended = stream(COHERE.error_event(refused, "req_1"))
    assert (reading.error_code, ended) == ("error", True)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 700))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    for body in (noise, STREAM[:at] + noise, b"data: " + noise + b"\n\n", b"[" * 3000):
        stream(body)
        assert not CHAT.whole(ask(), body).complete
        RERANK.whole(ask(RERANK), body)
