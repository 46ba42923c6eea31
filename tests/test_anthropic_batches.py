"""Message Batches: costs are in the results, and the results are behind the gateway."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.anthropic_batches import operations, read_batch, read_results
from costbearer.dialects.base import Job, Place, Reading
from costbearer.errors import BodyInvalid

OPERATIONS = operations()
AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
URL = "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"


def batch(status: str = "ended", **members: Any) -> bytes:
    stated = {
        "id": "msgbatch_1",
        "type": "message_batch",
        "processing_status": status,
        "created_at": "2026-11-22T10:00:00Z",
        "request_counts": {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0},
        "results_url": URL if status == "ended" else None,
    }
    return json.dumps(stated | members).encode()


def result(model: str = "claude-haiku-4-5-20251001", tokens: int = 10, **usage: Any) -> bytes:
    counts = {"input_tokens": tokens, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 6}
    message = {
        "id": "msg_1",
        "type": "message",
        "model": model,
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": counts | {"output_tokens": 5, "service_tier": "batch"} | usage,
    }
    return json.dumps({"custom_id": "c", "result": {"type": "succeeded", "message": message}}).encode() + b"\n"


def failed(kind: str) -> bytes:
    return json.dumps({"custom_id": "c", "result": {"type": kind, "error": {"type": "error"}}}).encode() + b"\n"


@pytest.mark.parametrize("status", ["in_progress", "canceling", "odd", None])
def test_a_batch_that_runs(status: Any) -> None:
    expected = Reading(response_id="msgbatch_1", tier="batch", job=Job("msgbatch_1", "pending", AT))
    assert read_batch(batch(status)) == expected


def test_a_batch_that_has_ended_tells_its_cost_in_its_results() -> None:
    reading = read_batch(batch())
    assert reading.job == Job("msgbatch_1", "pending", AT, "msgbatch_1")
    assert (reading.complete, reading.notes) == (False, ("usage_in_results",))


def test_a_batch_without_a_success_used_nothing() -> None:
    reading = read_batch(batch(request_counts={"succeeded": 0, "canceled": 2}))
    assert (reading.job, reading.work, reading.complete) == (Job("msgbatch_1", "failed", AT), (), True)


@pytest.mark.parametrize(
    "body, complete, code",
    [
        (b'{"data":[],"has_more":false}', True, None),
        (b'{"id":"msgbatch_1","type":"message_batch_deleted"}', True, None),
        (b'{"type":"error","error":{"type":"not_found_error"}}', False, "not_found_error"),
        (b"[]", False, None),
        (b"", False, None),
    ],
)
def test_what_is_no_batch(body: bytes, complete: bool, code: str | None) -> None:
    reading = read_batch(body)
    assert (reading.complete, reading.error_code, reading.job, reading.work) == (complete, code, None, ())


def test_results_of_two_models() -> None:
    other = result("claude-opus-4-8", 7, server_tool_use={"web_search_requests": 2})
    lines = (result() + failed("errored") + other + failed("expired") + failed("canceled") + result()).split(b"\n")
    reading = read_results(lines, Job("msgbatch_1", "done"))
    usages = {work.model: work.usage for work in reading.work}
    haiku, opus = usages["claude-haiku-4-5-20251001"], usages["claude-opus-4-8"]
    assert (haiku.input_tokens, haiku.cache_read_input_tokens, haiku.output_tokens) == (40, 12, 10)
    assert (opus.input_tokens, opus.web_search_requests) == (17, 2)
    assert (reading.complete, reading.tier, reading.job) == (True, "batch", Job("msgbatch_1", "done"))


@pytest.mark.parametrize("line", [result(output_tokens=None), result(model=""), b'{"custom_id":"c","result":{}}\n'])
def test_results_that_are_not_sound_settle_nothing(line: bytes) -> None:
    reading = read_results([result(), line], Job("msgbatch_1", "done"))
    assert (reading.complete, reading.job) == (False, None)
    assert reading.work[0].usage.input_tokens in {20, 40}


def test_one_geo_of_all_results_is_told() -> None:
    assert read_results([result(inference_geo="us"), result(inference_geo="us")]).geo == "us"
    mixed = read_results([result(inference_geo="us"), result(inference_geo="global")])
    assert (mixed.geo, mixed.complete) == (None, False)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_results_are_read_as_they_pass(size: int) -> None:
    results = OPERATIONS["messages.batches.results"]
    request = results.read(b"", Place("GET", params={"id": "msgbatch_1"}))
    body = result() + failed("errored") + result()
    reader = results.stream_reader(request, {"content-length": str(len(body))})
    seen = b"".join(reader.feed(body[at : at + size]) for at in range(0, len(body), size)) + reader.rest()
    reading = reader.reading()
    assert (seen, reading.job, reading.complete) == (body, Job("msgbatch_1", "done"), True)
    assert results.whole(request, body) == reading
    assert results.whole(request, b'{"type":"error","error":{"type":"t"}}').error_code == "t"
    assert "application/x-jsonl" in results.streams


def test_creating_a_batch() -> None:
    create = OPERATIONS["messages.batches.create"]
    body = b'{"requests":[{"custom_id":"c","params":{"model":"m","metadata":{"user_id":"u"},"tags":1}}]}'
    request = create.read(body, Place("POST", "/v1/messages/batches", "beta=true"))
    assert (request.free, request.model, request.open_ended) == (False, "", True)
    outgoing = create.outgoing(request, "")
    assert (outgoing.path, outgoing.method) == ("/v1/messages/batches?beta=true", "POST")
    assert outgoing.body is body
    assert create.whole(request, batch("in_progress")).job == Job("msgbatch_1", "pending", AT)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"[]", "must be a JSON object"),
        (b'{"requests":[{},{"params":{"metadata":{"tags":["a:b"]}}}]}', "requests[1].params.metadata.tags"),
    ],
)
def test_faulty_requests(body: bytes, words: str) -> None:
    with pytest.raises(BodyInvalid) as caught:
        OPERATIONS["messages.batches.create"].read(body)
    assert words in caught.value.message


@pytest.mark.parametrize("body", [b'{"requests":7,"x":"tags"}', b'{"requests":[{"params":null}],"tags":[]}'])
def test_odd_requests_are_the_providers_to_refuse(body: bytes) -> None:
    assert OPERATIONS["messages.batches.create"].read(body).body is body


@pytest.mark.parametrize(
    "name, method, path",
    [
        ("list", "GET", "/v1/messages/batches"),
        ("retrieve", "GET", "/v1/messages/batches/msgbatch_1"),
        ("delete", "DELETE", "/v1/messages/batches/msgbatch_1"),
        ("cancel", "POST", "/v1/messages/batches/msgbatch_1/cancel"),
        ("results", "GET", "/v1/messages/batches/msgbatch_1/results"),
    ],
)
def test_the_others_are_free(name: str, method: str, path: str) -> None:
    operation = OPERATIONS[f"messages.batches.{name}"]
    request = operation.read(b"", Place(method, params={"id": "msgbatch_1"}))
    assert request.free
    assert operation.outgoing(request, "")[:5] == (path, b"", method, None, ())


@pytest.mark.parametrize("name", ["create", "list", "retrieve", "cancel"])
def test_callers_are_sent_to_the_gateway_for_their_results(name: str) -> None:
    operation = OPERATIONS[f"messages.batches.{name}"]
    request = operation.read(b"{}" if name == "create" else b"")
    shown = operation.shown(request, 200, batch())
    assert json.loads(shown) == json.loads(batch()) | {"results_url": "/v1/messages/batches/msgbatch_1/results"}
    listed = b'{"data":[' + batch() + b", " + batch("in_progress") + b"]}"
    assert b"https://" not in operation.shown(request, 200, listed)
    assert operation.shown(request, 404, b'{"x":1}') == b'{"x":1}'


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 500))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    for body in (noise, batch()[:at] + noise):
        read_batch(body)
    for line in (noise, result()[:at] + noise):
        read_results([result(), line])
