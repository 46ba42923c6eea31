"""Batches: when their cost is known, from the object or from the lines of its output file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import Job, Place, Reading
from costbearer.dialects.openai_batches import operations, read_batch, read_line, read_output
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, Work

OPERATIONS = operations()
CREATED = 1_763_000_000
AT = datetime(2025, 11, 13, 2, 13, 20, tzinfo=UTC)
USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 100},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 200},
    "total_tokens": 1500,
}
COUNTED = Usage(input_tokens=1000, cache_read_input_tokens=100, output_tokens=500, reasoning_output_tokens=200)


def batch(status: str = "completed", **members: Any) -> bytes:
    stated = {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "status": status,
        "model": "gpt-4o-mini-2024-07-18",
        "created_at": CREATED,
        "input_file_id": "file-in",
        "output_file_id": "file-out",
        "error_file_id": None,
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
        "usage": USAGE,
    }
    return json.dumps(stated | members).encode()


def reading(body: bytes) -> Reading:
    found = read_batch(body)
    assert found is not None
    return found.reading


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "something_new", 7])
def test_a_batch_that_runs(status: Any) -> None:
    found = read_batch(batch(status, usage=None, output_file_id=None))
    assert found is not None
    assert found.reading == Reading(
        response_model="gpt-4o-mini-2024-07-18",
        response_id="batch_1",
        tier="batch",
        job=Job("batch_1", "pending", AT),
    )
    assert (found.ended, found.output_file_id) == (False, None)


@pytest.mark.parametrize("status, state", [("completed", "done"), ("expired", "done"), ("cancelled", "done")])
def test_a_batch_that_states_what_it_used(status: str, state: Any) -> None:
    found = read_batch(batch(status, error_file_id="file-err"))
    assert found is not None
    assert found.reading == Reading(
        work=(Work(model="gpt-4o-mini-2024-07-18", usage=COUNTED),),
        complete=True,
        response_model="gpt-4o-mini-2024-07-18",
        response_id="batch_1",
        tier="batch",
        job=Job("batch_1", state, AT),
    )
    assert (found.ended, found.output_file_id, found.error_file_id) == (True, "file-out", "file-err")


def test_the_size_of_a_single_request_is_known() -> None:
    one = reading(batch(request_counts={"total": 1, "completed": 1, "failed": 0}))
    assert one.work[0].largest_input_tokens == 1000


@pytest.mark.parametrize(
    "status, members, state",
    [
        ("failed", {"request_counts": {"total": 0, "completed": 0, "failed": 0}, "usage": None}, "failed"),
        ("failed", {"request_counts": None, "usage": None, "output_file_id": None}, "failed"),
        ("cancelled", {"request_counts": {"completed": 0}, "usage": None, "output_file_id": None}, "failed"),
        ("expired", {"request_counts": {"completed": 0}, "usage": {"input_tokens": 0, "output_tokens": 0}}, "failed"),
        ("completed", {"endpoint": "/v1/moderations"}, "done"),
    ],
)
def test_a_batch_that_used_nothing(status: str, members: dict[str, Any], state: Any) -> None:
    found = reading(batch(status, **members))
    assert (found.work, found.complete) == ((), True)
    assert found.job == Job("batch_1", state, AT)


@pytest.mark.parametrize(
    "members, note",
    [
        ({"usage": None}, None),
        ({"usage": {}}, None),
        ({"usage": {"input_tokens": 0, "output_tokens": 0}}, None),
        ({"model": None}, None),
        ({"endpoint": "/v1/responses"}, None),
        ({"endpoint": "/v1/images/generations"}, None),
        ({"endpoint": {}}, None),
        ({"usage": USAGE | {"input_tokens": 1.5}}, "usage_malformed"),
        ({"usage": USAGE | {"output_tokens": None}}, "usage_partial"),
    ],
)
def test_a_batch_whose_output_file_tells(members: dict[str, Any], note: str | None) -> None:
    found = read_batch(batch(**members))
    assert found is not None
    assert found.ended
    assert found.reading.job == Job("batch_1", "pending", AT, "file-out")
    assert (found.reading.work, found.reading.complete) == ((), False)
    assert found.reading.notes == (*((note,) if note else ()), "usage_in_output_file")


@pytest.mark.parametrize(
    "members, note",
    [
        ({"usage": None}, "usage_absent"),
        ({"model": None}, "model_absent"),
        ({"endpoint": "/v1/responses"}, "usage_partial"),
    ],
)
def test_a_batch_that_nobody_can_tell_of(members: dict[str, Any], note: str) -> None:
    found = reading(batch(output_file_id=None, **members))
    assert (found.job, found.work, found.complete, found.notes) == (Job("batch_1", "done", AT), (), False, (note,))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":"batch_1"}', b'{"object":"batch","id":7}', b"[" * 5000])
def test_what_is_no_batch(body: bytes) -> None:
    assert read_batch(body) is None
    for operation in ("batches.create", "batches.retrieve"):
        found = OPERATIONS[operation].whole(OPERATIONS[operation].read(b"{}"), body)
        assert (found.job, found.complete, found.notes) == (None, False, ("body_unexpected",))


def test_an_error_instead_of_a_batch() -> None:
    retrieve = OPERATIONS["batches.retrieve"]
    found = retrieve.whole(retrieve.read(b""), b'{"error":{"code":"no_such_batch"}}')
    assert (found.error_code, found.complete, found.job, found.notes) == ("no_such_batch", False, None, ())


def test_creating_a_batch_is_what_costs() -> None:
    create = OPERATIONS["batches.create"]
    body = b'{"input_file_id":"file-in","endpoint":"/v1/embeddings","metadata":{"tags":["a:b"],"k":"v"}}'
    request = create.read(body, Place("POST", "/v1/batches"))
    assert (request.free, request.model, request.open_ended, request.tags) == (False, "", True, ("a:b",))
    outgoing = create.outgoing(request, "")
    assert outgoing.body == b'{"input_file_id":"file-in","endpoint":"/v1/embeddings","metadata":{"k":"v"}}'
    assert (outgoing.method, outgoing.path) == ("POST", "/batches")
    made = create.whole(request, batch("validating", usage=None))
    assert made.job == Job("batch_1", "pending", AT)
    with pytest.raises(BodyInvalid):
        create.read(b"")


@pytest.mark.parametrize(
    "name, method, query, path",
    [
        ("batches.list", "GET", "limit=2", "/batches?limit=2"),
        ("batches.retrieve", "GET", "", "/batches/batch_1"),
        ("batches.cancel", "POST", "", "/batches/batch_1/cancel"),
    ],
)
def test_the_others_are_free(name: str, method: str, query: str, path: str) -> None:
    operation = OPERATIONS[name]
    request = operation.read(b"", Place(method, query=query, params={"id": "batch_1"}))
    assert request.free
    assert operation.outgoing(request, "")[:5] == (path, b"", method, None, ())


def answered(body: Any, status: int = 200, error: Any = None) -> bytes:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "batch_req_1", "custom_id": "c", "response": response, "error": error}).encode()


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    "service_tier": "default",
}
TEXT = CHAT | {"object": "text_completion", "model": "t", "choices": [{"text": "x", "finish_reason": "stop"}]}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-5-2025-08-07",
    "output": [{"type": "web_search_call", "status": "completed", "action": {"type": "search"}}],
    "usage": {"input_tokens": 20, "input_tokens_details": {}, "output_tokens": 6, "output_tokens_details": {}},
}
VECTORS = {"object": "list", "model": "text-embedding-3-small", "data": [], "usage": {"prompt_tokens": 8}}
PICTURES = {"created": 1, "data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 9, "output_tokens": 100}}
MODERATION = {"id": "modr-1", "model": "omni-moderation-latest", "results": [{}]}


@pytest.mark.parametrize(
    "body, expected",
    [
        (CHAT, ("gpt-4o-mini-2024-07-18", Usage(input_tokens=10, output_tokens=5))),
        (TEXT, ("t", Usage(input_tokens=10, output_tokens=5))),
        (RESPONSE, ("gpt-5-2025-08-07", Usage(input_tokens=20, output_tokens=6, web_search_requests=1))),
        (VECTORS, ("text-embedding-3-small", Usage(input_tokens=8))),
        (PICTURES, ("given", Usage(input_tokens=9, output_tokens=100, image_output_tokens=100))),
    ],
)
def test_lines(body: Any, expected: tuple[str, Usage]) -> None:
    found = read_line(answered(body), "given")
    assert ([(work.model, work.usage) for work in found.work], found.complete) == ([expected], True)


@pytest.mark.parametrize(
    "line",
    [
        answered(MODERATION),
        answered({"error": {"message": "x"}}, 400),
        answered({"error": {}}, 500, {"code": "c"}),
        json.dumps({"custom_id": "c", "response": None, "error": {"code": "batch_expired"}}).encode(),
    ],
)
def test_lines_that_are_not_billed(line: bytes) -> None:
    assert read_line(line) == Reading(complete=True)


@pytest.mark.parametrize(
    "body, note",
    [
        (PICTURES, "model_absent"),
        ({"object": "video"}, "body_unexpected"),
        ({"object": []}, "body_unexpected"),
        (CHAT | {"usage": None}, "usage_absent"),
    ],
)
def test_lines_that_cannot_be_read_soundly(body: Any, note: str) -> None:
    found = read_line(answered(body))
    assert (found.complete, note in found.notes, found.work) == (False, True, ())


def test_a_file_of_several_models() -> None:
    lines = [answered(CHAT), answered(VECTORS), answered(CHAT), answered({}, 400), answered(RESPONSE), b""]
    found = read_output(lines, Job("batch_1", "done", AT))
    assert [(work.model, work.usage.input_tokens) for work in found.work] == [
        ("gpt-4o-mini-2024-07-18", 20),
        ("text-embedding-3-small", 8),
        ("gpt-5-2025-08-07", 20),
    ]
    assert (found.complete, found.tier, found.job) == (True, "batch", Job("batch_1", "done", AT))


def test_half_a_line_makes_a_file_incomplete() -> None:
    found = read_output([answered(CHAT), answered(CHAT)[:-30]], Job("batch_1", "done"))
    assert (found.complete, found.job, found.notes) == (False, None, ("line_malformed",))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 500))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    for body in (noise, batch()[:at] + noise):
        read_batch(body)
    for line in (noise, answered(CHAT)[:at] + noise, b'{"custom_id":"c","response":{"status_code":200,"body":' + noise):
        read_output([answered(CHAT), line])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["status", "usage", "model", "created_at", "request_counts", "output_file_id", "endpoint"]),
        st.sampled_from([None, True, -1, 10**20, 1.5, "", "completed", [], {}, {"completed": "x"}, [1], "x" * 300]),
    )
)
def test_no_batch_raises(members: dict[str, Any]) -> None:
    found = read_batch(batch(**{"status": "completed", **members}))
    assert found is not None
    assert found.reading.job is not None
