"""The dialect `anthropic`: requests, and every rule by which a message's usage is read."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.anthropic import Anthropic
from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.anthropic_plain import DEFINED_TOOL_TOKENS_MAX, TOOL_USE_TOKENS_MAX
from costbearer.dialects.base import CallRequest, Dialect, Operation, Reading
from costbearer.usage import Usage, Work, leaves

FAMILY: Dialect = Anthropic()
DIALECT: Operation = AnthropicMessages()
HELLO = {"role": "user", "content": "hello"}


def ask(**changes: Any) -> CallRequest:
    fields: dict[str, Any] = {"operation": "chat", "model": "asked", "stream": True, "body": b"{}"}
    return CallRequest(**fields | changes)


def read(**members: Any) -> CallRequest:
    return DIALECT.read(json.dumps({"model": "m", "max_tokens": 64, "messages": [HELLO], **members}).encode())


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **members}).encode() + b"\n\n"


def start(usage: Any, **members: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "served", "content": [], "usage": usage}
    return event("message_start", message=message | members)


def text(words: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


def delta(usage: Any, stop: str | None = "end_turn") -> bytes:
    return event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=usage)


STOP = event("message_stop")


def stream(body: bytes, size: int | None = None, **request: Any) -> tuple[Reading, bytes, bool]:
    """(what was read, what the caller saw, did the end marker pass?) of a stream in pieces of this size."""
    reader = DIALECT.stream_reader(ask(**request))
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step)) + reader.rest()
    return reader.reading(), seen, reader.ended


def whole(usage: Any, request: dict[str, Any] | None = None, **members: Any) -> Reading:
    body = {"id": "msg_1", "type": "message", "model": "served", "content": [{"type": "text", "text": "Hi"}]}
    body |= {"stop_reason": "end_turn", "usage": usage, **members}
    return DIALECT.whole(ask(stream=False, **(request or {})), json.dumps(body).encode())


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


# -- requests


def test_a_plain_request() -> None:
    request = read()
    assert request == ask(model="m", stream=False, body=request.body, max_output_tokens=64)
    assert DIALECT.outgoing(request, "m").body is request.body


@pytest.mark.parametrize(
    "members, expected",
    [
        ({"stream": True}, {"stream": True, "wants_usage": True}),
        ({"max_tokens": 0}, {"max_output_tokens": 0}),
        ({"max_tokens": None}, {"max_output_tokens": None}),
        (
            {"service_tier": "standard_only", "speed": "fast", "inference_geo": "us"},
            {"tier": "standard_only", "speed": "fast", "geo": "us"},
        ),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}, {"cache_ttl_1h": False}),
        (
            {"system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
            {"cache_ttl_1h": True},
        ),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"ttl": "5m"}}]}, {"cache_ttl_1h": False}),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, {"cache_ttl_1h": True}),
        ({"system": '"ttl": "1h"'}, {"cache_ttl_1h": False}),
        ({"metadata": {"user_id": "u", "tags": ["a:b"]}}, {"tags": ("a:b",), "has_tags": True}),
    ],
)
def test_what_is_read_of_a_request(members: dict[str, Any], expected: dict[str, Any]) -> None:
    request = read(**members)
    assert {name: getattr(request, name) for name in expected} == expected


def blocks(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    "members, open_ended, overhead",
    [
        ({}, False, 0),
        ({"system": "be kind"}, False, 0),
        (blocks({"type": "text", "text": "a"}, {"type": "tool_use", "input": {"type": "image"}}), False, 0),
        (blocks({"type": "image", "source": {"type": "base64", "data": "AA"}}), True, 0),
        (blocks({"type": "document", "source": {"type": "text", "data": "a"}}), False, 0),
        (blocks({"type": "document", "source": {"type": "base64", "data": "AA"}}), True, 0),
        (blocks({"type": "document"}), True, 0),
        (blocks({"type": "tool_result", "content": "done"}), False, 0),
        (blocks({"type": "tool_result", "content": [{"type": "text", "text": "a"}]}), False, 0),
        (blocks({"type": "tool_result", "content": [{"type": "image"}]}), True, 0),
        (blocks({"type": "container_upload", "file_id": "f"}), True, 0),
        (blocks({"type": "something_new"}), True, 0),
        (blocks({"type": {}}), True, 0),
        ({"system": [{"type": "image"}]}, True, 0),
        ({"messages": 5}, True, 0),
        ({"tools": [{"name": "f", "input_schema": {}}]}, False, TOOL_USE_TOKENS_MAX),
        ({"tools": [{"type": "custom", "name": "f"}, {"name": "g"}]}, False, TOOL_USE_TOKENS_MAX),
        ({"tools": [{"type": "bash_20250124"}]}, False, TOOL_USE_TOKENS_MAX + DEFINED_TOOL_TOKENS_MAX),
        ({"tools": [{"type": "web_search_20260209"}]}, True, TOOL_USE_TOKENS_MAX),
        ({"tools": [{"type": []}]}, True, TOOL_USE_TOKENS_MAX),
        ({"tools": []}, False, 0),
        ({"output_config": {"format": {}}}, False, TOOL_USE_TOKENS_MAX),
        ({"mcp_servers": [{"url": "https://a"}]}, True, 0),
        ({"context_management": {"edits": []}}, True, 0),
        ({"fallbacks": ["other"]}, True, 0),
        ({"container": None}, False, 0),
    ],
)
def test_input_beyond_the_bytes(members: dict[str, Any], open_ended: bool, overhead: int) -> None:
    request = read(**members)
    assert (request.open_ended, request.overhead_tokens) == (open_ended, overhead)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b'{"model":"m"', "cut off"),
        (b"{}", 'no "model"'),
        (b'{"model":["m"]}', '"model" must be a string, not an array'),
        (b'{"model":"m","stream":"yes"}', '"stream" must be true or false'),
        (b'{"model":"m","max_tokens":1e3}', '"max_tokens" must be a whole number'),
        (b'{"model":"m","metadata":{"tags":{}}}', '"metadata.tags" must be a list of strings'),
        (b'{"model":"m","model":"m"}', "'model' twice"),
    ],
)
def test_faulty_requests(body: bytes, words: str) -> None:
    with pytest.raises(errors.BodyInvalid) as caught:
        DIALECT.read(body)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "body, model, expected",
    [
        (b'{"model":"m","metadata":{"user_id":"u","tags":[]}}', "m", b'{"model":"m","metadata":{"user_id":"u"}}'),
        (b'{"metadata":{"tags":["a:b"]},"model":"m"}', "m", b'{"model":"m"}'),
        (b'{"model": "m", "stream":true}', "n", b'{"model": "n", "stream":true}'),
        (b'{"metadata":{"tags":["a:b"]},"model":"m"}', "n", b'{"model":"n"}'),
        (b'{"model":"m","stream":true}', "m", b'{"model":"m","stream":true}'),
    ],
)
def test_outgoing_changes_what_it_must_and_no_other_byte(body: bytes, model: str, expected: bytes) -> None:
    assert DIALECT.outgoing(DIALECT.read(body), model).body == expected


# -- usage of whole messages

FULL = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 418,
    "cache_read_input_tokens": 1111,
    "cache_creation": {"ephemeral_5m_input_tokens": 318, "ephemeral_1h_input_tokens": 100},
    "output_tokens": 33,
    "output_tokens_details": {"thinking_tokens": 20},
    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
    "service_tier": "priority",
    "inference_geo": "us",
    "speed": "fast",
}
FULL_USAGE = Usage(
    input_tokens=1532,
    output_tokens=33,
    cache_read_input_tokens=1111,
    cache_creation_input_tokens=418,
    cache_creation_1h_input_tokens=100,
    reasoning_output_tokens=20,
    web_search_requests=0,
)


def test_input_contains_its_three_disjoint_parts() -> None:
    reading = whole(FULL)
    assert only(reading) == FULL_USAGE
    assert leaves(FULL_USAGE) == {
        "input": 3,
        "cache_read_input": 1111,
        "cache_creation_input": 318,
        "cache_creation_1h_input": 100,
        "output": 13,
        "reasoning_output": 20,
    }
    assert (reading.tier, reading.geo, reading.speed) == ("priority", "us", "fast")
    assert (reading.response_id, reading.response_model, reading.complete, reading.notes) == (
        "msg_1",
        "served",
        True,
        (),
    )
    assert reading.work[0].largest_input_tokens == 1532


def test_counts_that_are_not_stated_stay_absent() -> None:
    assert only(whole({"input_tokens": 5, "output_tokens": 2})) == Usage(input_tokens=5, output_tokens=2)


@pytest.mark.parametrize(
    "split, ttl_1h, hour, note",
    [
        ({"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}, True, 0, None),
        ({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100}, False, 100, None),
        ({"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}, False, 40, None),
        # Without a split all of it lives as long as was asked for.
        (None, False, None, "cache_ttl_assumed"),
        (None, True, 100, "cache_ttl_assumed"),
        ({}, True, 100, "cache_ttl_assumed"),
        # A split that does not account for all of it.
        ({"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 0}, False, 0, "cache_ttl_assumed"),
        ({"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 0}, True, 30, "cache_ttl_assumed"),
        ({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 70}, False, 70, "cache_ttl_assumed"),
        ({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 70}, True, 100, "cache_ttl_assumed"),
        # A split of more than there is.
        ({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 300}, False, 100, "cache_split_stale"),
        ({"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 0}, True, 0, "cache_split_stale"),
    ],
)
def test_how_long_cache_writes_live(split: Any, ttl_1h: bool, hour: int | None, note: str | None) -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 100, "cache_creation": split}
    reading = whole(usage, {"cache_ttl_1h": ttl_1h})
    assert only(reading).cache_creation_1h_input_tokens == hour
    assert reading.notes == (() if note is None else (note,))
    leaves(only(reading))


def test_a_split_alone_states_its_sum() -> None:
    split = {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 3}
    usage = only(whole({"input_tokens": 1, "output_tokens": 2, "cache_creation": split}))
    assert (usage.cache_creation_input_tokens, usage.cache_creation_1h_input_tokens, usage.input_tokens) == (10, 3, 11)


@pytest.mark.parametrize(
    "usage, members",
    [
        ({"server_tool_use": {"web_search_requests": 2}}, {}),
        ({"server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 1}}, {}),
        ({}, {"content": [{"type": "server_tool_use", "input": {}}]}),
        ({}, {"content": [{"type": "mcp_tool_use", "input": {}}]}),
        ({}, {"stop_reason": "pause_turn"}),
    ],
)
def test_a_sum_over_several_steps_has_no_largest_step(usage: dict[str, Any], members: dict[str, Any]) -> None:
    reading = whole({"input_tokens": 404_500, "output_tokens": 9, **usage}, **members)
    assert reading.work[0].largest_input_tokens is None
    assert reading.work[0].usage.input_tokens == 404_500


@pytest.mark.parametrize(
    "usage, expected, notes",
    [
        (None, None, ("usage_absent",)),
        ({}, None, ("usage_absent",)),
        ("five", None, ("usage_malformed", "usage_absent")),
        ({"input_tokens": 5}, Usage(input_tokens=5), ("final_usage_absent",)),
        ({"output_tokens": 5}, Usage(output_tokens=5), ("usage_partial",)),
        ({"input_tokens": 5.0, "output_tokens": 5}, Usage(output_tokens=5), ("usage_malformed",)),
        ({"input_tokens": "5", "output_tokens": 5}, Usage(output_tokens=5), ("usage_malformed",)),
        ({"input_tokens": 5, "output_tokens": -5}, Usage(input_tokens=5), ("usage_malformed",)),
        (
            {"input_tokens": 5, "output_tokens": 5, "cache_creation": 3},
            Usage(input_tokens=5, output_tokens=5),
            ("usage_malformed",),
        ),
        ({"input_tokens": 0, "output_tokens": 5}, Usage(output_tokens=5), ("input_zero",)),
    ],
)
def test_usage_that_cannot_be_relied_on(usage: Any, expected: Usage | None, notes: tuple[str, ...]) -> None:
    reading = whole(usage)
    assert [work.usage for work in reading.work] == ([] if expected is None else [expected])
    assert (reading.notes, reading.complete) == (notes, False)


@pytest.mark.parametrize(
    "body, notes",
    [
        (b"", ("body_not_json",)),
        (b"<html>", ("body_not_json",)),
        (b'{"usage":{"input_tokens":1', ("body_not_json",)),
        (b'{"usage":' + b"[" * 100_000, ("body_not_json",)),
        (b"[1]", ("body_unexpected", "usage_absent")),
        (b"{}", ("usage_absent",)),
    ],
)
def test_replies_that_are_no_message(body: bytes, notes: tuple[str, ...]) -> None:
    reading = DIALECT.whole(ask(stream=False), body)
    assert (reading.notes, reading.complete, reading.work) == (notes, False, ())


def test_counting_tokens_is_free_and_complete() -> None:
    request = FAMILY.operations["count_tokens"].read(b'{"model":"m","messages":[]}')
    assert DIALECT.whole(request, b'{"input_tokens":14}') == Reading(complete=True)
    failed = DIALECT.whole(request, b'{"type":"error","error":{"type":"api_error"}}')
    assert (failed.complete, failed.error_code) == (False, "api_error")


def test_generated_bytes_of_a_whole_message() -> None:
    content = [
        {"type": "thinking", "thinking": "añ", "signature": "xxxx"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "name": "f", "input": {"a": 1.5}},
        {"type": "compaction", "content": "sum"},
        {"type": "web_search_tool_result", "content": [{"type": "web_search_result", "title": "long"}]},
        None,
    ]
    # {"a":"1.5"}: the number's text, one digit more or less does not matter to an estimate.
    assert whole(FULL, content=content).generated_bytes == 3 + 2 + len('{"a":"1.5"}') + 3


# -- iterations


def step(kind: str, uncached: int, output: int, model: str | None = None, **more: Any) -> dict[str, Any]:
    counts = {"type": kind, "input_tokens": uncached, "output_tokens": output}
    return (
        counts
        | {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        | more
        | ({"model": model} if model else {})
    )


def did(model: str, uncached: int, output: int, **more: Any) -> Work:
    counts = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0} | more
    usage = Usage(input_tokens=uncached, output_tokens=output, **counts)
    return Work(model=model, usage=usage, largest_input_tokens=uncached)


@pytest.mark.parametrize(
    "top, steps, expected, served, notes",
    [
        # Compaction is in no total.
        (
            (220, 8, {}),
            [step("compaction", 55_196, 125), step("message", 220, 8)],
            [did("served", 55_196, 125), did("served", 220, 8)],
            "served",
            ("iteration:compaction",),
        ),
        # An advisor is another model, and in no total either. Thinking and searches belong to the model that answered.
        (
            (
                2411,
                145,
                {"output_tokens_details": {"thinking_tokens": 139}, "server_tool_use": {"web_search_requests": 3}},
            ),
            [step("message", 1128, 135), step("advisor_message", 2543, 18, "adviser"), step("message", 1283, 10)],
            [
                did("served", 1128, 135, reasoning_output_tokens=135),
                did("adviser", 2543, 18),
                did("served", 1283, 10, reasoning_output_tokens=4, web_search_requests=3),
            ],
            "served",
            ("iteration:advisor_message",),
        ),
        # A fallback: the hop that declined is a line of its own, and the model that served is not the one in `model`.
        (
            (412, 264, {}),
            [step("message", 408, 0, "declined"), step("fallback_message", 412, 264, "fallback")],
            [did("declined", 408, 0), did("fallback", 412, 264)],
            "fallback",
            ("fallback_declined_hop", "iteration:fallback_message"),
        ),
        # A hop that declined without a token is no work at all.
        (
            (412, 264, {}),
            [step("message", 0, 0, "declined"), step("fallback_message", 412, 264, "fallback")],
            [did("fallback", 412, 264)],
            "fallback",
            ("iteration:fallback_message",),
        ),
        # Earlier steps of the hop that served.
        (
            (500, 30, {}),
            [step("message", 200, 10, "fallback"), step("fallback_message", 300, 20, "fallback")],
            [did("fallback", 200, 10), did("fallback", 300, 20)],
            "fallback",
            ("iteration:fallback_message",),
        ),
        # A kind nobody has told of is work like any other, by its own model.
        (
            (7, 8, {}),
            [step("message", 5, 5), step("new kind", 2, 3, "other")],
            [did("served", 5, 5), did("other", 2, 3)],
            "served",
            ("iteration:unnamed",),
        ),
    ],
)
def test_iterations_are_what_is_billed(
    top: tuple[int, int, dict[str, Any]],
    steps: list[dict[str, Any]],
    expected: list[Work],
    served: str,
    notes: tuple[str, ...],
) -> None:
    usage = {"input_tokens": top[0], "output_tokens": top[1], **top[2], "iterations": steps}
    reading = whole(usage)
    assert list(reading.work) == expected
    assert (reading.complete, reading.response_model, reading.notes) == (True, served, notes)
    streamed, _, _ = stream(start({"input_tokens": 1, "output_tokens": 1}) + delta(usage) + STOP)
    assert (streamed.work, streamed.response_model, streamed.notes) == (reading.work, served, notes)


def test_each_step_has_its_own_cache_writes() -> None:
    hour = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 50}
    steps = [
        step("message", 5, 5, cache_creation_input_tokens=50, cache_creation=hour),
        step("message", 6, 6, cache_read_input_tokens=50),
    ]
    first, second = whole({"input_tokens": 11, "output_tokens": 11, "iterations": steps}).work
    assert (first.usage.input_tokens, first.usage.cache_creation_1h_input_tokens) == (55, 50)
    assert (second.usage.input_tokens, second.usage.cache_read_input_tokens) == (56, 50)


@pytest.mark.parametrize("iterations", [None, [], 5, {}])
def test_without_iterations_the_totals_are_billed(iterations: Any) -> None:
    reading = whole({"input_tokens": 5, "output_tokens": 6, "iterations": iterations})
    assert only(reading) == Usage(input_tokens=5, output_tokens=6)


@pytest.mark.parametrize(
    "steps, note",
    [
        ([step("message", 5, 1)], "iterations_incomplete"),
        ([step("message", 4, 6)], "iterations_incomplete"),
        ([step("message", 5, 6), 7], "usage_malformed"),
        ([step("message", 5, 6) | {"input_tokens": "5"}], "usage_malformed"),
    ],
)
def test_iterations_that_do_not_account_for_the_totals(steps: list[Any], note: str) -> None:
    reading = whole({"input_tokens": 5, "output_tokens": 6, "iterations": steps})
    assert not reading.complete
    assert note in reading.notes


def test_a_fallback_block_names_the_model_that_serves_where_no_iterations_do() -> None:
    block = {"type": "fallback", "from": {"model": "served"}, "to": {"model": "fallback"}}
    body = start({"input_tokens": 9, "output_tokens": 1}) + event("content_block_start", index=0, content_block=block)
    cut, _, _ = stream(body)
    assert (cut.response_model, cut.work[0].model) == ("fallback", "fallback")
    ended, _, _ = stream(body + delta({"output_tokens": 5}) + STOP)
    assert (ended.response_model, ended.work[0].model) == ("fallback", "fallback")
    assert whole({"input_tokens": 9, "output_tokens": 5}, content=[block]).work[0].model == "fallback"


def test_a_redeemed_fallback_credit_is_noted() -> None:
    usage = {"input_tokens": 5, "output_tokens": 6, "fallback_credit": {"type": "redeemed"}}
    assert whole(usage).notes == ("fallback_credit:redeemed",)


# -- streams

BEGIN = start(
    {
        "input_tokens": 2,
        "cache_creation_input_tokens": 3068,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 3068, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 69,
        "service_tier": "standard",
        "inference_geo": "global",
        "speed": "fast",
    }
)


@pytest.mark.parametrize(
    "body, expected, notes",
    [
        # Older models: the delta has nothing but the output.
        (
            BEGIN + text("Hi") + delta({"output_tokens": 20}) + STOP,
            Usage(
                input_tokens=3070,
                output_tokens=20,
                cache_read_input_tokens=0,
                cache_creation_input_tokens=3068,
                cache_creation_1h_input_tokens=0,
            ),
            (),
        ),
        # Field by field: input, reads and writes are stated anew, the split of the writes is not.
        (
            BEGIN
            + delta(
                {
                    "input_tokens": 6,
                    "cache_creation_input_tokens": 3337,
                    "cache_read_input_tokens": 6289,
                    "output_tokens": 198,
                    "output_tokens_details": {"thinking_tokens": 8},
                }
            )
            + STOP,
            Usage(
                input_tokens=9632,
                output_tokens=198,
                cache_read_input_tokens=6289,
                cache_creation_input_tokens=3337,
                cache_creation_1h_input_tokens=0,
                reasoning_output_tokens=8,
            ),
            ("cache_ttl_assumed",),
        ),
        # Null is not a statement.
        (
            start({"input_tokens": 5, "output_tokens": 1}) + delta({"input_tokens": None, "output_tokens": 3}) + STOP,
            Usage(input_tokens=5, output_tokens=3),
            (),
        ),
        # Down as well as up: the last word counts, not the largest.
        (
            start({"input_tokens": 500, "output_tokens": 9}) + delta({"input_tokens": 5, "output_tokens": 3}) + STOP,
            Usage(input_tokens=5, output_tokens=3),
            (),
        ),
        # Several deltas: cumulative, never added.
        (
            start({"input_tokens": 5, "output_tokens": 1})
            + delta({"output_tokens": 10, "server_tool_use": {"web_search_requests": 1}}, stop=None)
            + delta({"input_tokens": 50, "output_tokens": 30, "server_tool_use": {"web_search_requests": 2}})
            + STOP,
            Usage(input_tokens=50, output_tokens=30, web_search_requests=2),
            (),
        ),
        # OpenRouter: the input comes at the end.
        (
            start({"input_tokens": 0, "output_tokens": 0}) + delta({"input_tokens": 17, "output_tokens": 3}) + STOP,
            Usage(input_tokens=17, output_tokens=3),
            (),
        ),
        # A proxy that retries splices a second start into the stream.
        (
            start({"input_tokens": 17, "output_tokens": 1})
            + text("a")
            + start({"input_tokens": 18, "output_tokens": 1})
            + delta({"output_tokens": 65})
            + STOP,
            Usage(input_tokens=18, output_tokens=65),
            ("message_start_repeated",),
        ),
        (
            start({"input_tokens": 17, "output_tokens": 1}) + start(None) + delta({"output_tokens": 65}) + STOP,
            Usage(input_tokens=17, output_tokens=65),
            ("message_start_repeated",),
        ),
        # Cut after the last delta, before the end marker.
        (
            start({"input_tokens": 5, "output_tokens": 1}) + delta({"output_tokens": 3}),
            Usage(input_tokens=5, output_tokens=3),
            (),
        ),
        (
            start({"input_tokens": 5, "output_tokens": 1}) + delta({"output_tokens": 3})[:-2],
            Usage(input_tokens=5, output_tokens=3),
            (),
        ),
    ],
)
def test_how_a_stream_adds_up(body: bytes, expected: Usage, notes: tuple[str, ...]) -> None:
    reading, seen, ended = stream(body)
    assert seen == body
    assert ended is body.endswith(STOP)
    assert only(reading) == expected
    assert (reading.complete, reading.notes) == (True, notes)


def test_the_start_keeps_what_the_delta_lacks() -> None:
    reading, _, _ = stream(BEGIN + delta({"output_tokens": 20}) + STOP)
    assert (reading.tier, reading.geo, reading.speed) == ("standard", "global", "fast")
    body = BEGIN + delta({"output_tokens": 20, "service_tier": "priority"}) + STOP
    assert stream(body)[0].tier == "priority"


@pytest.mark.parametrize(
    "body, works, notes",
    [
        (BEGIN + text("Hi"), True, ("final_usage_absent",)),
        (BEGIN + STOP, True, ("final_usage_absent",)),
        (BEGIN + delta(None) + STOP, True, ("final_usage_absent",)),
        (BEGIN + delta({"input_tokens": 2}) + STOP, True, ("final_usage_absent",)),
        (BEGIN + delta({"output_tokens": 5}, stop=None), True, ()),
        (BEGIN + delta({"output_tokens": 5})[:-3], True, ("cut_mid_event", "final_usage_absent")),
        (BEGIN + delta({"output_tokens": "5"}) + STOP, True, ("usage_malformed",)),
        (BEGIN + delta("five") + STOP, True, ("usage_malformed", "final_usage_absent")),
        (start({"input_tokens": 0, "output_tokens": 1}) + text("Hi"), False, ("final_usage_absent",)),
        (start("?"), False, ("usage_malformed", "usage_absent")),
        (text("Hi"), False, ("usage_absent",)),
        (b"", False, ("usage_absent",)),
        (STOP, False, ("usage_absent",)),
        (b"data: {oops\n\n", False, ("event_malformed", "usage_absent")),
    ],
)
def test_streams_without_their_totals(body: bytes, works: bool, notes: tuple[str, ...]) -> None:
    reading, seen, _ = stream(body)
    assert seen == body
    assert (reading.complete, reading.notes) == (False, notes)
    assert len(reading.work) == works
    if works and "final_usage_absent" in notes:
        assert (only(reading).input_tokens, only(reading).output_tokens) == (3070, None)


def test_a_loop_of_server_tools_has_no_largest_step() -> None:
    block = {"type": "server_tool_use", "id": "s", "name": "bash_code_execution", "input": {}}
    call = event("content_block_start", index=0, content_block=block)
    plain, _, _ = stream(BEGIN + delta({"output_tokens": 5}) + STOP)
    looped, _, _ = stream(BEGIN + call + delta({"output_tokens": 5}) + STOP)
    paused, _, _ = stream(BEGIN + delta({"output_tokens": 5}, stop="pause_turn") + STOP)
    assert [reading.work[0].largest_input_tokens for reading in (plain, looped, paused)] == [3070, None, None]


@pytest.mark.parametrize(
    "piece, size",
    [
        ({"type": "text_delta", "text": "añ🎈"}, 7),
        ({"type": "thinking_delta", "thinking": "hmm"}, 3),
        ({"type": "input_json_delta", "partial_json": '{"a'}, 3),
        ({"type": "compaction_delta", "content": "sum"}, 3),
        ({"type": "signature_delta", "signature": "abcdef"}, 0),
        ({"type": "citations_delta", "citation": {"cited_text": "abc"}}, 0),
        ({"type": "text_delta", "text": None}, 0),
        ("text", 0),
    ],
)
def test_generated_bytes(piece: Any, size: int) -> None:
    assert stream(event("content_block_delta", index=0, delta=piece))[0].generated_bytes == size


def test_text_with_which_a_block_begins_counts() -> None:
    block = {"type": "text", "text": "abc"}
    assert stream(event("content_block_start", index=0, content_block=block))[0].generated_bytes == 3


@pytest.mark.parametrize(
    "error, code",
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded_error"),
        ({"type": "no spaces allowed"}, "provider_error"),
        ("broken", "provider_error"),
    ],
)
def test_errors_are_known_by_their_type(error: Any, code: str) -> None:
    body = BEGIN + text("Hi") + event("error", error=error)
    reading, seen, ended = stream(body)
    assert (reading.error_code, seen, ended, reading.complete) == (code, body, False, False)
    assert "error_in_stream" in reading.notes
    whole_error = json.dumps({"type": "error", "error": error}).encode()
    assert DIALECT.whole(ask(stream=False), whole_error).error_code == code


ANY_STREAM = {
    "text": BEGIN + event("ping") + text("añ\n\nevent: x\n") + event("news") + delta({"output_tokens": 9}) + STOP,
    "crlf": (BEGIN + text("a\r\n") + delta({"output_tokens": 9}) + STOP).replace(b"\n", b"\r\n"),
    "iterations": BEGIN + delta({"output_tokens": 9, "iterations": [step("message", 3070, 9)]}) + STOP,
    "no end": BEGIN + text("a") + delta({"output_tokens": 9}) + b'data: {"type":"message_stop"}',
    "done": BEGIN + delta({"output_tokens": 9}) + STOP + b"data: [DONE]\n\n",
}


@pytest.mark.parametrize("body", ANY_STREAM.values(), ids=ANY_STREAM)
def test_cuts_between_chunks_change_nothing(body: bytes) -> None:
    at_once = stream(body)
    assert at_once[1:] == (body, True)
    assert at_once[0].complete
    assert stream(body, 1) == at_once
    for place in range(1, len(body)):
        reader = DIALECT.stream_reader(ask())
        seen = reader.feed(body[:place]) + reader.feed(body[place:])
        reading = reader.reading()
        assert (reading, seen + reader.rest(), reader.ended) == at_once


def test_a_stream_cut_at_any_byte_is_never_complete_without_its_totals() -> None:
    body = BEGIN + text("one") + delta({"output_tokens": 9}) + STOP
    stated, needed = len(BEGIN) - 2, len(body) - len(STOP) - 2
    for place in range(len(body) + 1):
        reading, seen, _ = stream(body[:place])
        assert seen == body[:place]
        assert reading.complete is (place >= needed)
        assert bool(reading.work) is (place >= stated)


MEMBERS = [
    *("type", "message", "usage", "delta", "content_block", "error", "model", "id", "content", "iterations", "to"),
    *("input_tokens", "output_tokens", "cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens"),
    *(
        "ephemeral_1h_input_tokens",
        "server_tool_use",
        "web_search_requests",
        "output_tokens_details",
        "thinking_tokens",
    ),
    *("stop_reason", "service_tier", "text", "input", "fallback_credit"),
]
KINDS = [
    *("message_start", "message_delta", "content_block_start", "content_block_delta", "error", "message_stop"),
    *("message", "compaction", "fallback_message", "fallback"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**13) | st.just(7.5) | st.text(max_size=4) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=6),
    max_leaves=25,
)


@given(st.lists(json_values, max_size=4), st.booleans())
def test_no_json_raises(values: list[Any], ttl_1h: bool) -> None:
    body = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    reading, seen, _ = stream(body, cache_ttl_1h=ttl_1h)
    assert seen == body
    assert not reading.complete or reading.work
    for value in values:
        DIALECT.whole(ask(stream=False), json.dumps(value).encode())


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b'{"type":"message_start"', b"}"])))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    reader = DIALECT.stream_reader(ask())
    seen = b"".join(reader.feed(chunk) for chunk in chunks)
    reader.reading()
    assert seen + reader.rest() == b"".join(chunks)
    DIALECT.whole(ask(stream=False), b"".join(chunks))


# -- headers and errors


def test_headers() -> None:
    assert FAMILY.credential_headers("sk-ant-fake") == (("x-api-key", "sk-ant-fake"),)
    assert FAMILY.provider_request_id({"request-id": "req_1"}) == "req_1"
    assert FAMILY.provider_request_id({}) is None
    assert {"anthropic-version", "anthropic-beta"} <= FAMILY.forwarded_headers
    assert "anthropic-ratelimit-input-tokens-remaining" in FAMILY.relayed_headers
    for headers in (FAMILY.forwarded_headers, FAMILY.relayed_headers):
        assert all(name == name.lower() for name in headers)
        assert not headers & {"x-api-key", "authorization", "cookie", "set-cookie", "baggage", "accept-encoding"}


REFUSALS = [
    (errors.KeyExpired("old"), anthropic.AuthenticationError, "authentication_error"),
    (errors.BodyInvalid("bad"), anthropic.BadRequestError, "invalid_request_error"),
    (errors.BodyTooLarge("big"), anthropic.APIStatusError, "request_too_large"),
    (errors.EndpointNotMetered("where"), anthropic.NotFoundError, "not_found_error"),
    (errors.RateLimited("slow"), anthropic.RateLimitError, "rate_limit_error"),
    (errors.UpstreamFailed("down"), anthropic.InternalServerError, "api_error"),
    (errors.ShuttingDown("bye"), anthropic.APIStatusError, "overloaded_error"),
    (errors.UpstreamTimeout("late"), anthropic.APIStatusError, "timeout_error"),
]


def client(status: int, body: bytes, content_type: str) -> anthropic.Anthropic:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": content_type}, request=request)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return anthropic.Anthropic(
        api_key="sk-ant-fake", base_url="http://gateway.invalid", max_retries=0, http_client=http
    )


@pytest.mark.parametrize("refused, kind, named", REFUSALS)
def test_the_sdk_raises_errors_with_our_code(refused: errors.CallRefused, kind: type[Exception], named: str) -> None:
    body = FAMILY.error_body(refused, "req_1")
    with client(refused.http_status, body, "application/json") as sdk, pytest.raises(kind) as caught:
        sdk.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    error = caught.value
    assert isinstance(error, anthropic.APIStatusError)
    assert (error.error_code, error.api_message) == (refused.code, refused.message)
    assert json.loads(body) == error.body
    assert isinstance(error.body, dict)
    assert (error.body["error"]["type"], error.body["error"]["code"], error.body["request_id"]) == (
        named,
        refused.code,
        "req_1",
    )


def test_the_sdk_raises_an_error_inside_a_stream_with_our_code() -> None:
    body = BEGIN + FAMILY.error_event(errors.UpstreamFailed("it broke"), "req_1")
    with client(200, body, "text/event-stream") as sdk:
        events = sdk.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}], stream=True)
        assert next(events).type == "message_start"
        with pytest.raises(anthropic.APIStatusError) as caught:
            next(events)
    assert caught.value.error_code == "upstream_failed"
