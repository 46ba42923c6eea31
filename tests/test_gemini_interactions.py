"""Interactions: made, streamed, in the background, and what is learned from a stored one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.base import CallRequest, Job, Operation, Place, Reading
from costbearer.dialects.gemini_interactions import GeminiInteraction, StoredInteraction
from costbearer.usage import Usage

MAKE: Operation = GeminiInteraction()
LOOK: Operation = StoredInteraction("retrieve")
PLACE = Place(path="/v1beta/interactions")
STORED = Place("GET", "/v1beta/interactions/v1_abc", params={"id": "v1_abc"})
CREATED = datetime(2026, 11, 22, 10, 0, 5, tzinfo=UTC)
USAGE = {
    "total_input_tokens": 22,
    "total_cached_tokens": 0,
    "total_output_tokens": 100,
    "total_thought_tokens": 30,
    "total_tool_use_tokens": 8,
    "total_tokens": 160,
}
COUNTS = Usage(input_tokens=30, output_tokens=130, reasoning_output_tokens=30, cache_read_input_tokens=0)


def ask(**members: Any) -> CallRequest:
    body = {"model": "gemini-3.8-flash", "input": "What is owed?", **members}
    return MAKE.read(json.dumps(body).encode(), PLACE)


def made(status: str = "completed", usage: Any = USAGE, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"id": "v1_abc", "object": "interaction", "model": "gemini-3.8-flash", "status": status}
    body |= {"created": "2026-11-22T12:00:05+02:00", "steps": [output("Nothing.")]} | more
    return body if usage is None else body | {"usage": usage}


def output(text: str) -> dict[str, Any]:
    return {"type": "model_output", "content": [{"type": "text", "text": text}]}


def events(*listed: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: " + each["event_type"].encode() + b"\ndata: " + json.dumps(each).encode() + b"\n\n" for each in listed
    )


def usual(**final: Any) -> bytes:
    return events(
        {"event_type": "interaction.created", "interaction": made("in_progress", None, steps=None)},
        {"event_type": "interaction.status_update", "interaction_id": "v1_abc", "status": "in_progress"},
        {"event_type": "step.start", "index": 0, "step": {"type": "thought"}},
        {"event_type": "step.delta", "index": 0, "delta": {"type": "thought_signature", "signature": "c2ln"}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "text", "text": "Not\u00ed"}},
        {"event_type": "interaction.completed", "interaction": made(steps=None, **final)},
    )


def whole(body: Any, request: CallRequest | None = None, operation: Operation = MAKE) -> Reading:
    return operation.whole(request or ask(), json.dumps(body).encode())


def stream(body: bytes, request: CallRequest, size: int | None = None) -> tuple[Reading, bytes, bool]:
    reader = MAKE.stream_reader(request)
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step)) + reader.rest()
    return reader.reading(), seen, reader.ended


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


# -- requests


def test_a_request() -> None:
    asked = ask(
        stream=True, service_tier="flex", generation_config={"max_output_tokens": 50}, metadata={"tags": ["a:b"]}
    )
    assert (asked.operation, asked.model, asked.stream, asked.background) == (
        "interactions",
        "gemini-3.8-flash",
        True,
        False,
    )
    assert (asked.max_output_tokens, asked.tier, asked.open_ended, asked.tags) == (50, "flex", False, ("a:b",))
    sent = MAKE.outgoing(asked, "gemini-2.5-pro", {"team": "x"})
    assert sent.path == "/v1beta/interactions"
    body = json.loads(sent.body)
    assert body["model"] == "gemini-2.5-pro"
    assert "metadata" not in body
    assert "labels" not in body


def test_the_very_same_bytes_are_sent_where_nothing_must_change() -> None:
    asked = ask(model="models/gemini-3.8-flash")
    assert asked.model == "gemini-3.8-flash"
    assert MAKE.outgoing(asked, asked.model).body is asked.body


def test_an_agent_stands_in_the_place_of_a_model() -> None:
    asked = ask(model=None, agent="deep-research-preview", background=True)
    assert (asked.model, asked.background, asked.open_ended) == ("deep-research-preview", True, True)
    asked = MAKE.read(b'{"agent":"a","input":"x"}', PLACE)
    assert json.loads(MAKE.outgoing(asked, "b").body)["agent"] == "b"


@pytest.mark.parametrize(
    "given",
    [
        [{"type": "text", "text": "a"}],
        [{"role": "user", "content": "a"}],
        [{"type": "user_input", "content": [{"type": "text", "text": "a"}]}, {"type": "thought", "signature": "s"}],
        [{"type": "function_result", "call_id": "c", "result": {"n": 1}}],
        {"type": "text", "text": "a"},
    ],
)
def test_input_whose_bytes_bound_its_tokens(given: Any) -> None:
    assert not ask(input=given, tools=[{"type": "function", "name": "f"}]).open_ended


@pytest.mark.parametrize(
    "members",
    [
        {"input": [{"type": "image", "data": "iVBO"}]},
        {"input": [{"role": "user", "content": [{"type": "audio", "uri": "files/x"}]}]},
        {"input": [{"type": "function_result", "result": [{"type": "image"}]}]},
        {"input": [{"type": 7}]},
        {"tools": [{"type": "google_search"}]},
        {"tools": {"type": "function"}},
        {"previous_interaction_id": "v1_x"},
        {"cached_content": "cachedContents/x"},
        {"environment": "env"},
    ],
)
def test_input_whose_bytes_do_not_bound_its_tokens(members: dict[str, Any]) -> None:
    assert ask(**members).open_ended


@pytest.mark.parametrize("body", [b"{}", b'{"input":"x","model":7}', b'{"model":"m","stream":1}', b"["])
def test_a_faulty_request_is_refused(body: bytes) -> None:
    with pytest.raises(errors.BodyInvalid):
        MAKE.read(body, PLACE)


@pytest.mark.parametrize(
    ("what", "method", "path", "content_type"),
    [
        ("retrieve", "GET", "/v1beta/interactions/v1_abc", None),
        ("delete", "DELETE", "/v1/interactions/v1_abc", None),
        ("cancel", "POST", "/v1beta/interactions/v1_abc/cancel", "application/json"),
    ],
)
def test_requests_about_a_stored_interaction(what: Any, method: str, path: str, content_type: str | None) -> None:
    operation = StoredInteraction(what)
    query = "stream=true&key=AIzaFAKE&last_event_id=e1"
    asked = operation.read(b"", STORED._replace(path=path, query=query))
    assert (asked.operation, asked.model, asked.free, asked.stream) == (f"interactions.{what}", "", True, True)
    sent = operation.outgoing(asked, "")
    assert (sent.method, sent.path, sent.body, sent.content_type) == (
        method,
        f"{path}?stream=true&last_event_id=e1",
        b"",
        content_type,
    )


def test_a_query_that_could_hide_the_usage_is_refused() -> None:
    for operation, place in ((MAKE, PLACE), (LOOK, STORED)):
        with pytest.raises(errors.BodyInvalid, match="query parameter"):
            operation.read(b'{"model":"m"}', place._replace(query="fields=id"))
    with pytest.raises(errors.BodyInvalid, match="names no interaction"):
        LOOK.read(b"", PLACE)


# -- replies


def test_a_whole_interaction() -> None:
    reading = whole(made(service_tier="standard"))
    assert only(reading) == COUNTS
    assert (reading.complete, reading.job, reading.tier) == (True, None, "standard")
    assert (reading.response_id, reading.response_model, reading.generated_bytes) == ("v1_abc", "gemini-3.8-flash", 8)
    assert reading.work[0].largest_input_tokens == 22


def test_a_loop_sums_its_turns_so_that_no_step_is_known_to_be_long() -> None:
    looped = whole(made(usage={**USAGE, "initial_input_tokens": 10}))
    assert looped.work[0].largest_input_tokens is None
    single = whole(made(usage={**USAGE, "initial_input_tokens": 22}))
    assert single.work[0].largest_input_tokens == 22


@pytest.mark.parametrize(
    ("steps", "usage", "model", "searches"),
    [
        ([{"type": "google_search_call", "arguments": {"queries": ["a", "b"]}}], {}, "gemini-2.5-flash", 1),
        ([{"type": "google_search_call", "arguments": {"queries": ["a", "b"]}}], {}, "gemini-3.8-flash", 2),
        ([], {"grounding_tool_count": [{"type": "google_search", "count": 4}]}, "gemini-3.8-flash", 4),
        ([], {"grounding_tool_count": [{"type": "retrieval", "count": 4}, 7]}, "gemini-3.8-flash", None),
        ([], {}, "gemini-3.8-flash", None),
    ],
)
def test_searches(steps: list[Any], usage: dict[str, Any], model: str, searches: int | None) -> None:
    reading = whole(made(usage=USAGE | usage, steps=steps, model=model))
    assert reading.complete
    assert only(reading).web_search_requests == searches


@pytest.mark.parametrize(
    "more",
    [
        {"steps": [{"type": "google_maps_call", "arguments": {"queries": ["quay"]}}]},
        {"usage": USAGE | {"grounding_tool_count": [{"type": "google_maps", "count": 1}]}},
    ],
)
def test_maps_have_no_price_here(more: dict[str, Any]) -> None:
    reading = whole(made(**more))
    assert not reading.complete
    assert reading.notes == ("maps_grounding_unpriced",)


def test_a_stream_split_anywhere_reads_the_same_and_passes_unchanged() -> None:
    body = usual(service_tier="standard")
    reading, seen, ended = stream(body, ask(stream=True))
    assert seen == body
    assert ended
    assert reading.complete
    assert only(reading) == COUNTS
    assert (reading.generated_bytes, reading.tier, reading.job) == (5, "standard", None)
    for size in range(1, len(body)):
        assert stream(body, ask(stream=True), size) == (reading, seen, ended)


def test_the_older_name_of_the_last_event() -> None:
    body = usual().replace(b"interaction.completed", b"interaction.complete") + b"event: done\ndata: [DONE]\n\n"
    reading, seen, ended = stream(body, ask(stream=True))
    assert seen == body
    assert (reading.complete, ended, reading.notes) == (True, True, ())


def test_a_stream_that_was_cut_is_estimated_and_one_in_the_background_goes_on() -> None:
    body = usual()
    cut = body[: body.rindex(b"event: ")]
    reading, _, ended = stream(cut, ask(stream=True))
    assert (reading.complete, reading.job, ended, reading.generated_bytes) == (False, None, False, 5)
    assert "usage_absent" in reading.notes
    reading, _, _ = stream(cut, ask(stream=True, background=True))
    assert reading.job == Job("v1_abc", "pending", CREATED)
    assert (reading.complete, reading.work) == (False, ())


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_work_in_the_background_is_paid_for_where_it_was_asked_for(status: str) -> None:
    reading = whole(made(status, None, steps=None), ask(background=True))
    assert reading.job == Job("v1_abc", "pending", CREATED)
    assert (reading.complete, reading.work) == (False, ())
    assert reading.response_id == "v1_abc"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("completed", "done"),
        ("requires_action", "done"),
        ("incomplete", "done"),
        ("cancelled", "done"),
        ("budget_exceeded", "done"),
        ("failed", "failed"),
    ],
)
def test_who_retrieves_a_stored_interaction_learns_what_it_used(status: str, state: Any) -> None:
    request = LOOK.read(b"", STORED)
    reading = whole(made(status, service_tier="flex"), request, LOOK)
    assert reading.job == Job("v1_abc", state, CREATED)
    assert only(reading) == COUNTS
    assert reading.complete
    assert reading.tier == "flex"
    reading = whole(made("in_progress", None), request, LOOK)
    assert reading.job == Job("v1_abc", "pending", CREATED)
    reading, _, ended = stream(usual(), LOOK.read(b"", STORED._replace(query="stream=true")))
    assert (reading.job, ended) == (Job("v1_abc", "done", CREATED), True)


@pytest.mark.parametrize("body", [b"", b"{}", b"{}\n"])
def test_a_deletion_says_nothing(body: bytes) -> None:
    operation = StoredInteraction("delete")
    assert operation.whole(operation.read(b"", STORED), body) == Reading(complete=True)


def test_a_failure() -> None:
    reading = whole(made("failed", None, error={"code": "internal", "message": "m"}))
    assert (reading.error_code, reading.complete, reading.job) == ("internal", False, None)
    error = {"event_type": "error", "error": {"code": "https://errors.example/overloaded", "message": "m"}}
    reading, seen, ended = stream(events(error), ask(stream=True))
    assert (reading.error_code, ended, seen) == ("provider_error", False, events(error))
    assert "error_in_stream" in reading.notes


@pytest.mark.parametrize("created", [None, 7, "yesterday", "2026-11-22T10:00:05"])
def test_a_time_without_its_zone_is_no_time(created: object) -> None:
    reading = whole(made("completed", created=created), LOOK.read(b"", STORED), LOOK)
    assert reading.job == Job("v1_abc", "done", None)


@given(st.binary(max_size=120))
def test_no_bytes_raise(noise: bytes) -> None:
    assert not MAKE.whole(ask(), noise).complete
    body = b"data: " + noise + b"\n\n"
    reading, seen, _ = stream(body, ask(stream=True))
    assert seen == body
    assert not reading.complete


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "arguments", "queries", "usage", "status", "steps", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["id", "model", "status", "usage", "steps", "outputs", "error", "created", "background"]),
        anything,
    )
)
def test_members_of_any_type_never_raise(body: dict[str, Any]) -> None:
    whole(body)
    whole(body, LOOK.read(b"", STORED), LOOK)
    event = {"event_type": "interaction.completed", "interaction": body, "step": body.get("steps"), "delta": body}
    stream(events(event), ask(stream=True))
