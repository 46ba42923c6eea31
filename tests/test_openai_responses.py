"""The operations `responses`: requests, the bytes that are sent on, and every way in which a response states usage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.base import NOTHING, CallRequest, Job, Operation, Place, Reading
from costbearer.dialects.openai import OpenAI
from costbearer.dialects.openai_responses import operations
from costbearer.dialects.openai_responses_usage import IMAGE_MODEL_UNSTATED
from costbearer.usage import Usage, Work, leaves

OPERATIONS = operations()
RESPONSES = OPERATIONS["responses"]
RETRIEVE = OPERATIONS["responses.retrieve"]
CREATED = 1_790_000_000
CREATED_AT = datetime.fromtimestamp(CREATED, UTC)


def ask(**changes: Any) -> CallRequest:
    """A request that was read."""
    fields: dict[str, Any] = {"operation": "responses", "model": "asked", "stream": True, "body": b"{}"}
    return CallRequest(**fields | changes)


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hello", **members}).encode()


def read(operation: Operation = RESPONSES, **members: Any) -> CallRequest:
    return operation.read(body(**members))


def counted(given: int = 10, made: int = 4, **more: Any) -> dict[str, Any]:
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made, **more}


def answer(usage: Any = None, status: str = "completed", **members: Any) -> dict[str, Any]:
    base = {"id": "resp_1", "object": "response", "created_at": CREATED, "model": "served", "status": status}
    return {**base, "output": [message()], "usage": usage, **members}


def message(text: str = "Hi") -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def search(kind: str | None = "search", **members: Any) -> dict[str, Any]:
    action = {} if kind is None else {"action": {"type": kind}}
    return {"id": "ws_1", "type": "web_search_call", "status": "completed", **action, **members}


def ran(container: str | None, **members: Any) -> dict[str, Any]:
    return {"type": "code_interpreter_call", "container_id": container, "code": "1", **members}


def drew(status: str = "completed", **members: Any) -> dict[str, Any]:
    return {"type": "image_generation_call", "status": status, "result": "QUJD", **members}


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **members}).encode() + b"\n\n"


def delta(text: str = "Hi", kind: str = "output_text") -> bytes:
    return event(f"response.{kind}.delta", delta=text, item_id="msg_1", output_index=0)


def item(found: dict[str, Any], kind: str = "done", index: int = 0) -> bytes:
    return event(f"response.output_item.{kind}", item=found, output_index=index)


def opened(**members: Any) -> bytes:
    begun = answer(None, "in_progress", output=[], service_tier="auto", **members)
    return event("response.created", response=begun) + event("response.in_progress", response=begun)


def ended(usage: Any = None, status: str = "completed", **members: Any) -> bytes:
    return event(f"response.{status}", response=answer(counted() if usage is None else usage, status, **members))


def stream(
    data: bytes, size: int | None = None, operation: Operation = RESPONSES, **request: Any
) -> tuple[Reading, bytes, bool]:
    """(what was read, what the caller saw, did the end pass?) of a stream in pieces of this size."""
    reader = operation.stream_reader(ask(**request))
    step = size or len(data) or 1
    seen = b"".join(reader.feed(data[at : at + step]) for at in range(0, len(data), step)) + reader.rest()
    return reader.reading(), seen, reader.ended


def whole(found: Any, operation: Operation = RESPONSES, **request: Any) -> Reading:
    data = found if isinstance(found, bytes) else json.dumps(found).encode()
    return operation.whole(ask(stream=False, **request), data)


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


# -- requests


def test_a_plain_request_is_sent_on_as_it_is() -> None:
    request = read()
    assert request == ask(model="m", stream=False, body=request.body)
    sent = RESPONSES.outgoing(request, "m")
    assert (sent.path, sent.method, sent.content_type) == ("/responses", "POST", "application/json")
    assert sent.body is request.body


@pytest.mark.parametrize(
    "members, expected",
    [
        ({"max_output_tokens": 70}, {"max_output_tokens": 70}),
        ({"max_output_tokens": None, "stream": None, "metadata": None, "background": None}, {"background": False}),
        ({"stream": True, "background": True}, {"stream": True, "background": True}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, {"wants_usage": True}),
        ({"service_tier": "flex"}, {"tier": "flex"}),
        ({"service_tier": 5}, {"tier": None}),
        ({"background": True, "background_options": {"completion_window": "8h"}}, {"tier": "background_8h"}),
        ({"background": True, "background_options": {"completion_window": "soonest"}}, {"tier": None}),
        ({"background_options": None, "service_tier": "priority"}, {"tier": "priority"}),
        ({"metadata": {"a": "b"}}, {"tags": (), "has_tags": False}),
        ({"metadata": {"tags": []}}, {"tags": (), "has_tags": True}),
        ({"metadata": {"tags": ["a:b", " ☃"], "c": "d"}}, {"tags": ("a:b", " ☃"), "has_tags": True}),
    ],
)
def test_what_is_read_of_a_request(members: dict[str, Any], expected: dict[str, Any]) -> None:
    request = read(**members)
    assert {name: getattr(request, name) for name in expected} == expected
    assert request.free is False


def said(*parts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts), **members}]}


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, False),
        ({"instructions": "short", "input": [{"role": "user", "content": "hi"}]}, False),
        (said({"type": "input_text", "text": '"type":"input_image"'}), False),
        (said({"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://a"}), True),
        (said({"type": "input_image", "image_url": "data:image/png;base64,AA"}), True),
        (said({"type": "input_file", "file_id": "file_1"}), True),
        (said({"type": "input_audio"}), True),
        (said({"type": ["input_text"]}), True),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, False),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "long"}]}, False),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, True),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_text"}]}]}, False),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "AAAA"}]}, False),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ({"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]}, True),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, True),
        ({"input": [{"role": "user", "content": {"type": "input_text"}}]}, True),
        ({"input": {"role": "user"}}, True),
        ({"input": ["hello"]}, True),
        ({"input": None}, False),
        ({"tools": [{"type": "function"}, {"type": "custom"}, {"type": "namespace"}]}, False),
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": [{"type": "mcp"}]}, True),
        ({"tools": [{"type": ["function"]}]}, True),
        ({"tools": {"type": "function"}}, True),
        ({"previous_response_id": "resp_0"}, True),
        ({"previous_response_id": None}, False),
        ({"conversation": "conv_1"}, True),
        ({"conversation": {"id": "conv_1"}}, True),
        ({"prompt": {"id": "pmpt_1"}}, True),
        ({"context_management": [{"type": "compaction"}]}, True),
        ({"plugins": [{"id": "web"}]}, True),
    ],
)
def test_input_that_the_bytes_do_not_bound(members: dict[str, Any], expected: bool) -> None:
    assert read(**members).open_ended is expected


@pytest.mark.parametrize(
    "members, named",
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"background": 1}, "background"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"metadata": {"tags": "a:b"}}, "metadata.tags"),
        ({"metadata": {"tags": [1]}}, "metadata.tags"),
        ({"metadata": ["a:b"]}, "metadata"),
        ({"background_options": "8h"}, "background_options"),
    ],
)
def test_a_fault_is_named(members: dict[str, Any], named: str) -> None:
    with pytest.raises(errors.BodyInvalid, match=f'"{named}"'):
        read(**members)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"model":"m"', b'{"model":"m","model":"n"}', b'{"model":"\xff"}'])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    for name in ("responses", "responses.compact", "responses.input_tokens"):
        with pytest.raises(errors.BodyInvalid):
            OPERATIONS[name].read(data)


@pytest.mark.parametrize("name", ["responses", "responses.compact", "responses.input_tokens"])
@pytest.mark.parametrize(
    "data, model, expected",
    [
        (b'{"model":"m","input":"x"}', "n", b'{"model":"n","input":"x"}'),
        (b'{"metadata":{"tags":["a:b"]},"model":"m"}', "m", b'{"model":"m"}'),
        (b'{"model":"m", "metadata": {"k":"v" ,"tags":["a"]}}', "m", b'{"model":"m", "metadata": {"k":"v"}}'),
        (b'{"mod\\u0065l":"m","metadata":{"tags":[]},"input":1.50}', "n", b'{"mod\\u0065l":"n","input":1.50}'),
        (b'{"input":"\\"tags\\":[1]","metadata":{"tags":["a"]},"model":"m"}', "m", None),
    ],
)
def test_tags_come_off_and_the_model_is_renamed(name: str, data: bytes, model: str, expected: bytes | None) -> None:
    operation = OPERATIONS[name]
    sent = operation.outgoing(operation.read(data), model).body
    assert expected is None or sent == expected
    decoded = json.loads(sent)
    assert "tags" not in decoded.get("metadata", {})
    original = json.loads(data)
    original.pop("metadata") if "metadata" in original else None
    decoded.pop("metadata", None)
    assert decoded == {**original, "model": model}


def stored(name: str, method: str, query: str = "", response_id: str = "resp_1") -> tuple[Operation, CallRequest]:
    operation = OPERATIONS[name]
    return operation, operation.read(b"", Place(method, "", query, {"id": response_id}))


@pytest.mark.parametrize(
    "name, method, query, path",
    [
        ("responses.retrieve", "GET", "", "/responses/resp_1"),
        ("responses.retrieve", "GET", "include[]=a&stream=false", "/responses/resp_1?include[]=a&stream=false"),
        ("responses.delete", "DELETE", "", "/responses/resp_1"),
        ("responses.cancel", "POST", "", "/responses/resp_1/cancel"),
        ("responses.input_items", "GET", "limit=2&after=msg_1", "/responses/resp_1/input_items?limit=2&after=msg_1"),
    ],
)
def test_requests_about_a_stored_response(name: str, method: str, query: str, path: str) -> None:
    operation, request = stored(name, method, query)
    assert (request.operation, request.model, request.free, request.stream) == (name, "", True, False)
    sent = operation.outgoing(request, "")
    assert (sent.method, sent.path, sent.body) == (method, path, b"")


@pytest.mark.parametrize(
    "query, expected",
    [
        ("stream=true&starting_after=4", True),
        ("stream=True", True),
        ("stream=1", True),
        ("", False),
        ("stream=0", False),
    ],
)
def test_a_retrieval_may_be_a_stream(query: str, expected: bool) -> None:
    assert stored("responses.retrieve", "GET", query)[1].stream is expected


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    operation, request = stored("responses.retrieve", "GET", response_id="a/../b?c#d e")
    assert operation.outgoing(request, "").path == "/responses/a%2F..%2Fb%3Fc%23d%20e"
    with pytest.raises(errors.BodyInvalid, match="names no response"):
        RETRIEVE.read(b"", Place("GET", params=NOTHING))
    with pytest.raises(errors.BodyInvalid, match="query"):
        stored("responses.retrieve", "GET", "a=b c\r\nx: y")


def test_tokens_are_counted_without_a_model_too() -> None:
    operation = OPERATIONS["responses.input_tokens"]
    request = operation.read(b'{"input":"hello"}')
    assert (request.model, request.free) == ("", True)
    assert operation.outgoing(request, "").body is request.body


def test_the_family_has_them_all() -> None:
    assert OPERATIONS.keys() <= OpenAI().operations.keys()
    assert operations("/v2/r")["responses.compact"].outgoing(read(), "m").path == "/v2/r/compact"


# -- usage


FULL = counted(
    100,
    50,
    input_tokens_details={"cached_tokens": 60, "cache_write_tokens": 30},
    output_tokens_details={"reasoning_tokens": 20},
)


@pytest.mark.parametrize(
    "usage, expected, notes",
    [
        (counted(), Usage(input_tokens=10, output_tokens=4), ()),
        (
            FULL,
            Usage(
                input_tokens=100,
                output_tokens=50,
                cache_read_input_tokens=60,
                cache_creation_input_tokens=30,
                reasoning_output_tokens=20,
            ),
            (),
        ),
        (counted(input_tokens_details=None, output_tokens_details=None), Usage(input_tokens=10, output_tokens=4), ()),
        (counted(input_tokens_details={}, output_tokens_details={}), Usage(input_tokens=10, output_tokens=4), ()),
        ({"input_tokens": 10, "output_tokens": 4}, Usage(input_tokens=10, output_tokens=4), ()),
        (
            # xAI states reasoning inside here, unlike in its chat completions.
            counted(10, 30, output_tokens_details={"reasoning_tokens": 25}, num_sources_used=0),
            Usage(input_tokens=10, output_tokens=30, reasoning_output_tokens=25),
            (),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 4,
                "total_tokens": 39,
                "output_tokens_details": {"reasoning_tokens": 25},
            },
            Usage(input_tokens=10, output_tokens=29, reasoning_output_tokens=25),
            ("reasoning_outside_output",),
        ),
        (
            {"input_tokens": 10, "output_tokens": 4, "total_tokens": 20},
            Usage(input_tokens=10, output_tokens=10),
            ("output_from_total",),
        ),
        (
            {"input_tokens": 10, "output_tokens": 4, "total_tokens": 3},
            Usage(input_tokens=10, output_tokens=4),
            ("total_mismatch",),
        ),
        (
            counted(
                input_tokens_details={"cached_tokens": 0, "audio_tokens": 3}, output_tokens_details={"audio_tokens": 1}
            ),
            Usage(
                input_tokens=10, output_tokens=4, cache_read_input_tokens=0, audio_input_tokens=3, audio_output_tokens=1
            ),
            (),
        ),
    ],
)
def test_usage_whole_and_streamed(usage: dict[str, Any], expected: Usage, notes: tuple[str, ...]) -> None:
    for reading in (whole(answer(usage)), stream(opened() + delta() + ended(usage))[0]):
        assert only(reading) == expected
        assert (reading.complete, reading.notes) == (True, notes)
        assert (reading.response_model, reading.response_id, reading.job) == ("served", "resp_1", None)
        assert reading.work[0].largest_input_tokens == expected.input_tokens
        assert reading.generated_bytes == 2
        leaves(expected)


@pytest.mark.parametrize(
    "usage, notes",
    [
        (None, {"usage_absent"}),
        ({}, {"usage_absent"}),
        ("none", {"usage_malformed", "usage_absent"}),
        ([1], {"usage_malformed", "usage_absent"}),
        ({"input_tokens": 10}, {"usage_partial"}),
        ({"output_tokens": 4}, {"usage_partial"}),
        (counted(0, 4), {"input_zero"}),
        (counted(10, 4, input_tokens_details=[5]), {"usage_malformed"}),
        (counted(10, 4, input_tokens_details={"cached_tokens": -1}), {"usage_malformed"}),
        (counted(10, 4, output_tokens_details={"reasoning_tokens": 1.5}), {"usage_malformed"}),
        ({"input_tokens": "10", "output_tokens": True}, {"usage_malformed", "usage_partial"}),
        ({"input_tokens": 10**40, "output_tokens": 4}, {"usage_malformed", "usage_partial"}),
        (
            counted(10, 4, input_tokens_details={"cache_write_tokens_details": {"ttl_12h_tokens": 2}}),
            {"cache_write_12h"},
        ),
    ],
)
def test_what_cannot_be_relied_on_is_not_complete(usage: Any, notes: set[str]) -> None:
    for reading in (whole(answer(usage)), stream(opened() + event("response.completed", response=answer(usage)))[0]):
        assert reading.complete is False
        assert set(reading.notes) == notes


@pytest.mark.parametrize("lifetimes", [{"ttl_12h_tokens": 0, "ttl_30m_tokens": 3}, {"ttl_30m_tokens": 3}, None])
def test_cache_writes_of_the_usual_lifetime_are_what_the_price_is_for(lifetimes: Any) -> None:
    details = {"cache_write_tokens": 3, "cache_write_tokens_details": lifetimes}
    reading = whole(answer(counted(input_tokens_details=details)))
    assert (reading.complete, only(reading).cache_creation_input_tokens) == (True, 3)


@pytest.mark.parametrize(
    "asked, stated, expected",
    [
        (None, "default", "default"),
        ("priority", "default", "default"),
        ("fast", "priority", "priority"),
        ("flex", None, None),
        ("background_2h", "default", "background_2h"),
    ],
)
def test_the_tier_is_the_one_it_was_served_at(asked: str | None, stated: str | None, expected: str | None) -> None:
    found = answer(counted(), service_tier=stated)
    assert whole(found, tier=asked).tier == expected
    begun = opened().replace(b'"auto"', b"null") if stated is None else opened()
    assert stream(begun + event("response.completed", response=found), tier=asked)[0].tier == expected


# -- tools


@pytest.mark.parametrize(
    "output, more, expected, notes",
    [
        ([search()], {}, {"web_search_requests": 1}, ()),
        ([search(), search("open_page"), search("find_in_page")], {}, {"web_search_requests": 1}, ()),
        ([search(), search(), search(None)], {}, {"web_search_requests": 3}, ()),
        ([search("open_page")], {}, {}, ()),
        ([search(action="search")], {}, {"web_search_requests": 1}, ()),
        (
            # Searches that the provider discounts are not billed.
            [search(), search()],
            {"tool_usage": {"web_search": {"num_requests": 1}}},
            {"web_search_requests": 1},
            ("web_search_count_differs",),
        ),
        ([], {"tool_usage": {"web_search": {"num_requests": 0}}}, {"web_search_requests": 0}, ()),
        ([search()], {"tool_usage": {"web_search": {"num_requests": "1"}}}, {"web_search_requests": 1}, ()),
        ([search()], {"tool_usage": ["web_search"]}, {"web_search_requests": 1}, ()),
        ([{"type": "file_search_call"}, {"type": "file_search_call"}], {}, {"file_search_requests": 2}, ()),
        ([ran("c1"), ran("c1")], {}, {"code_interpreter_sessions": 1}, ("container_time_unstated",)),
        ([ran("c1"), ran("c2"), ran(None)], {}, {"code_interpreter_sessions": 3}, ("container_time_unstated",)),
        (
            [ran("c1"), {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "c1"}}],
            {},
            {"code_interpreter_sessions": 1},
            ("container_time_unstated",),
        ),
        ([{"type": "shell_call", "environment": {"type": "local"}}, {"type": "shell_call"}], {}, {}, ()),
        ([{"type": "mcp_call", "name": "f"}, {"type": "computer_call"}, {"type": "mcp_list_tools"}], {}, {}, ()),
        ([{"type": ["web_search_call"]}, "web_search_call", None], {}, {}, ()),
    ],
)
def test_tools_are_counted_in_the_output(
    output: list[Any], more: dict[str, Any], expected: dict[str, int], notes: tuple[str, ...]
) -> None:
    found = answer(counted(), output=[*output, message()], **more)
    streamed = opened() + b"".join(item(one, "added", at) for at, one in enumerate(output) if isinstance(one, dict))
    for reading in (whole(found), stream(streamed + event("response.completed", response=found))[0]):
        assert only(reading) == Usage(input_tokens=10, output_tokens=4, **expected)
        assert (reading.complete, reading.notes) == (True, notes)


@pytest.mark.parametrize(
    "output, expected",
    [
        ([message(), {"type": "function_call"}, {"type": "reasoning"}, {"type": "computer_call"}], 10),
        ([search("open_page"), message()], None),
        ([ran("c1"), message()], None),
        ([{"type": "mcp_call"}], None),
    ],
)
def test_a_loop_of_tools_has_no_largest_step(output: list[dict[str, Any]], expected: int | None) -> None:
    assert whole(answer(counted(), output=output)).work[0].largest_input_tokens == expected


def test_calls_of_a_stream_count_where_its_last_event_lists_none() -> None:
    calls = [search(id="a"), search(id="b"), {"id": "c", "type": "file_search_call"}, ran("c1", id="d")]
    pieces = [item(call, kind, at) for at, call in enumerate(calls) for kind in ("added", "done")]
    reading, _, _ = stream(opened() + b"".join(pieces) + ended(output=[]))
    assert only(reading) == Usage(
        input_tokens=10, output_tokens=4, web_search_requests=2, file_search_requests=1, code_interpreter_sessions=1
    )
    assert reading.complete


def test_an_item_that_learns_what_it_is_counts_once() -> None:
    pieces = item(search(None, id="a"), "added") + item(search("open_page", id="a"))
    unnamed = {"type": "file_search_call"}
    pieces += item(unnamed, "added", 1) + item(unnamed, "done", 1)
    reading, _, _ = stream(opened() + pieces + ended(output=[]))
    assert only(reading) == Usage(input_tokens=10, output_tokens=4, file_search_requests=1)


@pytest.mark.parametrize(
    "output, served, asked, expected",
    [
        ([search()], [{"type": "web_search"}], None, None),
        ([search()], [{"type": "web_search_preview_2025_03_11"}], None, "tool=web_search_preview"),
        ([search()], None, [{"type": "web_search_preview"}], "tool=web_search_preview"),
        ([search("open_page")], [{"type": "web_search_preview"}], None, None),
        ([ran("c1")], [{"type": "code_interpreter", "container": {"type": "auto"}}], None, "container=1g"),
        ([ran("c1")], None, [{"type": "code_interpreter", "container": {"memory_limit": "4g"}}], "container=4g"),
        ([ran("c1")], [{"type": "code_interpreter", "container": "c1"}], None, None),
        ([], [{"type": "code_interpreter", "container": {"type": "auto"}}], None, None),
        (
            [search(), ran("c1")],
            ["x", {"type": 1}, {"type": "web_search_preview"}, {"type": "code_interpreter", "container": {}}],
            None,
            "tool=web_search_preview,container=1g",
        ),
    ],
)
def test_what_the_fees_depend_on(output: list[Any], served: Any, asked: Any, expected: str | None) -> None:
    found = answer(counted(), output=output, tools=served)
    assert whole(found, body=body(tools=asked)).variant == expected


TOKENS: dict[str, Any] = {
    "input_tokens": 60,
    "input_tokens_details": {"image_tokens": 40, "text_tokens": 20},
    "output_tokens": 1056,
    "output_tokens_details": {"image_tokens": 1000, "text_tokens": 56},
    "total_tokens": 1116,
}
NO_TOKENS: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
NAMED = [{"type": "image_generation", "model": "gpt-image-x"}]
IMAGE = Usage(input_tokens=60, image_input_tokens=40, output_tokens=1056, image_output_tokens=1000)


@pytest.mark.parametrize(
    "output, tokens, tools, model, expected",
    [
        ([drew()], TOKENS, NAMED, "gpt-image-x", IMAGE),
        ([], TOKENS, NAMED, "gpt-image-x", IMAGE),
        (
            [drew()],
            {"input_tokens": 5, "output_tokens": 7},
            NAMED,
            "gpt-image-x",
            Usage(input_tokens=5, output_tokens=7, image_output_tokens=7),
        ),
        (
            [drew()],
            TOKENS
            | {"cached_tokens": 30, "cached_tokens_details": {"cached_image_tokens": 20, "cached_text_tokens": 10}},
            NAMED,
            "gpt-image-x",
            Usage(
                input_tokens=60,
                image_input_tokens=40,
                cache_read_input_tokens=30,
                cache_read_image_input_tokens=20,
                output_tokens=1056,
                image_output_tokens=1000,
            ),
        ),
        ([drew(), drew("failed")], None, NAMED, "gpt-image-x", Usage(generated_images=1)),
        ([drew(), drew()], NO_TOKENS, [{"type": "image_generation"}], "asked-image", Usage(generated_images=2)),
        ([drew("generating")], "none", None, "asked-image", Usage(generated_images=1)),
    ],
)
def test_images_are_the_work_of_their_model(
    output: list[Any], tokens: Any, tools: Any, model: str, expected: Usage
) -> None:
    asked = body(tools=[{"type": "function"}, {"type": "image_generation", "model": "asked-image"}])
    found = answer(counted(), output=[*output, message()], tools=tools, tool_usage={"image_gen": tokens})
    reading = whole(found, body=asked)
    main, image = reading.work
    assert main == Work(
        model="served", usage=Usage(input_tokens=10, output_tokens=4), largest_input_tokens=main.largest_input_tokens
    )
    assert image == Work(model=model, usage=expected, largest_input_tokens=expected.input_tokens)
    assert reading.complete
    assert ("image_tokens_unstated" in reading.notes) is (expected.generated_images is not None)
    leaves(expected)


def test_images_of_an_unnamed_model_are_never_free() -> None:
    for asked in (b"{}", b"not json", body(tools="none")):
        image = whole(answer(counted(), output=[drew()]), body=asked).work[1]
        assert image == Work(model=IMAGE_MODEL_UNSTATED, usage=Usage(generated_images=1))


def test_damaged_image_tokens_are_not_relied_on() -> None:
    reading = whole(answer(counted(), tool_usage={"image_gen": {"output_tokens": -4}}))
    assert (reading.complete, reading.notes) == (False, ("usage_malformed",))


def test_only_failed_images_are_no_work() -> None:
    assert len(whole(answer(counted(), output=[drew("failed")])).work) == 1


def test_the_author_of_an_svg_is_a_model_of_its_own() -> None:
    drawn = {"input_tokens": 5, "output_tokens": 9, "reasoning_tokens": 3, "total_tokens": 14, "model": "author"}
    reading = whole(answer(counted(), output=[drew(svg_usage=drawn)]))
    usage = Usage(input_tokens=5, output_tokens=9, reasoning_output_tokens=3)
    assert reading.work[1:] == (Work(model="author", usage=usage, largest_input_tokens=5),)
    assert reading.notes == ("svg_usage",)


# -- stated costs


@pytest.mark.parametrize(
    "stated, expected, notes",
    [
        ('"cost":0.0000113,"is_byok":false,"cost_details":{"upstream_inference_cost":null}', "0.0000113", ()),
        ('"cost":0.5,"is_byok":true,"cost_details":{"upstream_inference_cost":0.25}', "0.75", ("byok",)),
        (
            '"cost":0.001,"is_byok":true,"cost_details":{"upstream_inference_cost":null,'
            '"upstream_inference_input_cost":0.02,"upstream_inference_output_cost":3e-1}',
            "0.321",
            ("byok",),
        ),
        (
            '"cost":0,"is_byok":true,"cost_details":{"upstream_inference_input_cost":0.02}',
            None,
            ("byok", "cost_unreadable"),
        ),
        ('"cost_in_usd_ticks":1641500', "0.00016415", ()),
        ('"cost_in_usd_ticks":-1', None, ("cost_unreadable",)),
        ('"cost":"free"', None, ("cost_unreadable",)),
        ('"cost":null', None, ()),
    ],
)
def test_a_stated_cost_is_exact(stated: str, expected: str | None, notes: tuple[str, ...]) -> None:
    found = json.dumps(answer("USAGE")).replace('"USAGE"', '{"input_tokens":10,"output_tokens":4,' + stated + "}")
    for reading in (
        whole(found.encode()),
        stream(b'data: {"type":"response.completed","response":%b}\n\n' % found.encode())[0],
    ):
        assert reading.provider_cost_usd == (None if expected is None else Decimal(expected))
        assert reading.notes == notes


@pytest.mark.parametrize(
    "called, cost, fees, unmetered",
    [
        ({"web_search_calls": 2, "x_search_calls": 0}, None, {"web_search_requests": 2}, False),
        ({"web_search_calls": 0, "x_search_calls": 3}, None, {"web_search_requests": 0}, True),
        ({"x_search_calls": 3}, 5, {}, True),
        ({"file_search_calls": 1, "mcp_calls": 4}, None, {"file_search_requests": 1}, False),
        ({"code_interpreter_calls": 1}, None, {}, True),
        ([1], None, {}, False),
    ],
)
def test_the_calls_that_xai_counts(called: Any, cost: int | None, fees: dict[str, int], unmetered: bool) -> None:
    usage = counted(server_side_tool_usage_details=called, num_server_side_tools_used=3)
    reading = whole(answer(usage if cost is None else usage | {"cost_in_usd_ticks": cost}))
    assert only(reading) == Usage(input_tokens=10, output_tokens=4, **fees)
    assert reading.work[0].largest_input_tokens is None
    assert reading.complete is (cost is not None or not unmetered)
    assert ("tool_fee_unmetered" in reading.notes) is unmetered


def test_the_searches_that_openrouter_counts() -> None:
    reading = whole(answer(counted(server_tool_use_details={"web_search_requests": 2})))
    assert only(reading).web_search_requests == 2


# -- streams


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_each_end_may_carry_the_usage(status: str) -> None:
    reading, _, is_end = stream(opened() + delta() + ended(status=status))
    assert is_end
    assert only(reading) == Usage(input_tokens=10, output_tokens=4)
    assert (reading.complete, reading.error_code) == (True, None)


def test_an_end_that_does_not_say_its_status_is_one() -> None:
    last = answer(counted())
    del last["status"]
    for kind in ("response.completed", "response.done"):
        reading, _, is_end = stream(opened() + event(kind, response=last), background=True)
        assert is_end and reading.complete and reading.job is None


def test_the_end_is_known_before_what_follows_it() -> None:
    reader = RESPONSES.stream_reader(ask())
    reader.feed(opened() + delta())
    assert not reader.ended
    reader.feed(ended())
    assert reader.ended
    reader.feed(b": bye\n\ndata: [DONE]\n\n")
    assert reader.reading().complete


def test_a_usage_that_comes_twice_counts_once() -> None:
    reading, _, _ = stream(opened() + ended(counted(10, 4)) + ended(counted(12, 5)))
    assert only(reading) == Usage(input_tokens=12, output_tokens=5)
    assert reading.notes == ("usage_repeated",)


def test_a_usage_before_the_end_is_not_the_usage() -> None:
    begun = event("response.in_progress", response=answer(counted(0, 0), "in_progress", output=[]))
    reading, _, _ = stream(begun + ended())
    assert (only(reading).input_tokens, reading.complete, reading.notes) == (10, True, ())
    cut, _, _ = stream(begun + delta("abc"))
    assert (cut.work, cut.complete, cut.generated_bytes) == ((), False, 3)


@pytest.mark.parametrize(
    "kind, text, expected",
    [
        ("output_text", "naïve", 6),
        ("refusal", "no", 2),
        ("reasoning_text", "hm", 2),
        ("reasoning_summary_text", "hm", 2),
        ("function_call_arguments", "{}", 2),
        ("custom_tool_call_input", "go", 2),
        ("code_interpreter_call_code", "1", 1),
        ("mcp_call_arguments", "{}", 2),
        ("audio.transcript", "hi", 2),
        ("audio", "QUJD", 0),
        ("shell_call_output_content", {"stdout": "x"}, 0),
    ],
)
def test_generated_text_is_counted_for_an_estimate(kind: str, text: Any, expected: int) -> None:
    reading, _, is_end = stream(opened() + delta(text, kind))
    assert (reading.generated_bytes, reading.complete, is_end) == (expected, False, False)
    assert reading.notes == ("usage_absent",)


def test_a_cut_stream_knows_the_fees_it_saw() -> None:
    reading, _, _ = stream(opened() + item(search()) + item(drew(id="ig_1"), index=1) + delta())
    assert [work.usage for work in reading.work] == [Usage(web_search_requests=1), Usage(generated_images=1)]
    assert (reading.complete, reading.job) == (False, None)


@pytest.mark.parametrize(
    "data, code",
    [
        (event("error", code="server_error", message="sorry"), "server_error"),
        (event("error", error={"type": "overloaded", "message": "sorry"}), "overloaded"),
        (event("error", code="a sentence, not a code"), "provider_error"),
        (b'data: {"error":{"code":502,"message":"bad"}}\n\n', "502"),
        (b'data: {"error":"bad"}\n\n', "provider_error"),
    ],
)
def test_an_error_event_is_no_end(data: bytes, code: str) -> None:
    reading, seen, is_end = stream(opened() + delta() + data)
    assert data in seen
    assert (reading.error_code, reading.complete, is_end) == (code, False, False)
    assert "error_in_stream" in reading.notes
    after, _, is_end = stream(opened() + data + ended(status="failed", error={"code": "rate_limit_exceeded"}))
    assert (after.error_code, after.complete, is_end) == ("rate_limit_exceeded", True, True)


def test_a_failed_response_without_usage_is_not_complete() -> None:
    failed = answer(None, "failed", error={"code": "server_error", "message": "sorry"}, output=[])
    for reading in (whole(failed), stream(opened() + event("response.failed", response=failed))[0]):
        assert (reading.error_code, reading.complete, reading.work, reading.job) == ("server_error", False, (), None)


def test_a_response_that_failed_at_its_start_used_nothing() -> None:
    reading = whole(answer(counted(0, 0), "failed", error={"code": "x"}))
    assert (only(reading), reading.complete) == (Usage(input_tokens=0, output_tokens=0), True)


# -- the background and what is stored

PENDING = Job("resp_1", "pending", CREATED_AT)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_in_the_background_is_pending(status: str) -> None:
    reading = whole(answer(None, status, background=True, output=[]), background=True)
    assert (reading.job, reading.work, reading.complete) == (PENDING, (), False)
    assert reading.response_id == "resp_1"


@pytest.mark.parametrize(
    "asked, told",
    [({"background": True}, {"background": True}), ({}, {"background": True}), ({"background": True}, {})],
)
def test_a_stream_in_the_background_that_is_cut_is_pending(asked: dict[str, Any], told: dict[str, Any]) -> None:
    reading, _, _ = stream(opened(**told) + item(search()) + delta(), **asked)
    assert (reading.job, reading.work, reading.complete) == (PENDING, (), False)
    to_its_end, _, _ = stream(opened(**told) + delta() + ended(), **asked)
    assert (to_its_end.job, to_its_end.complete) == (None, True)


def test_a_stream_in_the_foreground_that_is_cut_is_not_pending() -> None:
    assert stream(opened(background=False) + delta())[0].job is None
    assert stream(opened(background=True), background=True)[0].job == PENDING
    nothing, _, _ = stream(b"", background=True)
    assert (nothing.job, nothing.response_id, nothing.complete) == (None, None, False)


@pytest.mark.parametrize("name", ["responses.retrieve", "responses.cancel"])
@pytest.mark.parametrize(
    "status, usage, expected, complete",
    [
        ("queued", None, "pending", False),
        ("in_progress", None, "pending", False),
        ("completed", FULL, "done", True),
        ("incomplete", FULL, "done", True),
        ("cancelled", FULL, "done", True),
        ("cancelled", None, "done", False),
        ("failed", FULL, "failed", True),
        ("failed", None, "failed", False),
    ],
)
def test_a_retrieval_tells_of_the_job(name: str, status: str, usage: Any, expected: str, complete: bool) -> None:
    operation, request = stored(name, "GET")
    found = answer(usage, status, background=True, service_tier="flex", output=[search(), message()])
    reading = operation.whole(request, json.dumps(found).encode())
    assert reading.job == Job("resp_1", expected, CREATED_AT)  # type: ignore[arg-type]
    assert reading.complete is complete
    assert (reading.tier, reading.response_model) == ("flex", "served")
    if complete:
        assert only(reading).web_search_requests == 1
        assert only(reading).cache_read_input_tokens == 60


def test_a_retrieved_stream_tells_of_the_job_at_its_end() -> None:
    operation, request = stored("responses.retrieve", "GET", "stream=true&starting_after=7")
    reader = operation.stream_reader(request)
    reader.feed(delta())
    reader.feed(ended(background=True))
    reading = reader.reading()
    assert (reading.job, reading.complete) == (Job("resp_1", "done", CREATED_AT), True)
    cut = operation.stream_reader(request)
    cut.feed(opened(background=True) + delta())
    assert cut.reading().job == PENDING
    late = operation.stream_reader(request)
    late.feed(delta())
    assert late.reading().job is None


@pytest.mark.parametrize(
    "created, expected",
    [
        ("1790000000", CREATED_AT),
        ("1790000000.25", CREATED_AT),
        ("1.79e9", CREATED_AT),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("-5", None),
        ("1e999999", None),
        ("99999999999999", None),
        ('"1790000000"', None),
        ("true", None),
        ("null", None),
    ],
)
def test_when_a_job_was_asked_for(created: str, expected: datetime | None) -> None:
    data = b'{"id":"resp_1","status":"queued","created_at":%b}' % created.encode()
    reading = whole(data, background=True)
    assert reading.job == Job("resp_1", "pending", expected)


@pytest.mark.parametrize(
    "name, method",
    [("responses.delete", "DELETE"), ("responses.input_items", "GET"), ("responses.input_tokens", "POST")],
)
@pytest.mark.parametrize(
    "data, expected",
    [
        (b'{"id":"resp_1","deleted":true,"usage":{"input_tokens":5}}', Reading(complete=True)),
        (b"", Reading(complete=True)),
        (b'{"error":{"code":"no","type":"x"}}', Reading(error_code="no")),
        (b'{"error":"no"}', Reading(error_code="provider_error")),
        (b"[1]", Reading(notes=("body_unexpected",))),
        (b"<html>", Reading(notes=("body_not_json",))),
    ],
)
def test_what_is_free_states_nothing(name: str, method: str, data: bytes, expected: Reading) -> None:
    assert OPERATIONS[name].whole(ask(operation=name, free=True), data) == expected


def test_a_retrieval_of_something_else_is_no_job() -> None:
    for data in (b"{}", b'{"id":"resp_1"}', b'{"id":"resp_1","object":"response.deleted"}'):
        reading = whole(data, RETRIEVE, free=True)
        assert (reading.job, reading.complete) == (None, False)


def test_a_compaction_has_a_usage_of_its_own() -> None:
    operation = OPERATIONS["responses.compact"]
    compacted = {"id": "resp_9", "object": "response.compaction", "created_at": CREATED, "usage": FULL}
    compacted["output"] = [message(), {"id": "cmp_1", "type": "compaction", "encrypted_content": "AAAA"}]
    request = operation.read(body(service_tier="priority", previous_response_id="resp_1"))
    assert (request.operation, request.open_ended, request.background) == ("responses.compact", True, False)
    reading = operation.whole(request, json.dumps(compacted).encode())
    assert reading.work[0].model == "m"
    assert only(reading).cache_creation_input_tokens == 30
    assert (reading.complete, reading.job, reading.tier) == (True, None, "priority")
    served = operation.whole(request, json.dumps({**compacted, "service_tier": "default"}).encode())
    assert served.tier == "default"


# -- hostile replies, and how the bytes arrive

DEEP = b'{"response":' + b"[" * 100_000


@pytest.mark.parametrize(
    "data, note",
    [
        (b"<html>", "body_not_json"),
        (b'{"id":"resp_1","usage":{"input', "body_not_json"),
        (b'{"id":"\xff"}', "body_not_json"),
        (b'{"usage":' + b"[" * 100_000, "body_not_json"),
        (b"[]", "body_unexpected"),
        (b'"text"', "body_unexpected"),
        (b"{}", "usage_absent"),
        (b'{"id":5,"model":[],"status":{},"output":"x","tools":7,"created_at":"y","usage":{}}', "usage_absent"),
        (b'{"output":[1,null,{"type":{}},{"content":[5]},{"content":"x"}],"tool_usage":5}', "usage_absent"),
    ],
)
def test_hostile_replies_never_raise(data: bytes, note: str) -> None:
    for operation in (RESPONSES, RETRIEVE):
        reading = whole(data, operation)
        assert note in reading.notes
        assert (reading.complete, reading.work) == (False, ())


@pytest.mark.parametrize(
    "data",
    [
        b"data: <html>\n\n",
        b'data: {"type":"response.completed","response":null}\n\n',
        b'data: {"type":"response.completed","response":[1]}\n\n',
        b'data: {"type":"response.completed","response":{"usage":7,"output":{},"id":"\xff"}}\n\n',
        b'data: {"type":["response.completed"],"delta":{"a":1},"item":5}\n\n',
        b'data: {"type":"response.output_item.done","item":"x"}\n\n',
        b'data: {"type":"response.output_item.done","item":null}\n\n',
        b"data: " + DEEP + b"\n\n",
        b"data: [1]\n\n",
        b"data:\n\n",
        b"\xff\xfe\n\n",
        b'data: {"type":"response.completed","response":{"usage":{"input_tok',
    ],
)
def test_hostile_events_never_raise(data: bytes) -> None:
    reading, seen, _ = stream(opened() + delta() + data)
    assert seen == opened() + delta() + data
    assert (reading.complete, reading.response_id, reading.generated_bytes) == (False, "resp_1", 2)


def test_items_without_end_are_not_kept() -> None:
    flood = b"".join(item({"type": "file_search_call"}, "done", index) for index in range(10_500))
    reading, _, _ = stream(opened() + flood)
    assert only(reading).file_search_requests == 10_000


WHOLE_STREAM = (
    b": OPENROUTER PROCESSING\n\n"
    + opened()
    + item(search(id="ws_9"), "added")
    + item(search(id="ws_9"))
    + delta("naïve 東京")
    + delta("{}", "function_call_arguments")
    + b'data: {"delta":"\\u00e9","type":"response.output_text.delta"}\nevent: response.output_text.delta\n\n'
    + ended(FULL, output=[search(id="ws_9"), message()], service_tier="default")
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_one_byte_at_a_time(line_end: bytes) -> None:
    data = WHOLE_STREAM.replace(b"\n", line_end)
    expected, seen, is_end = stream(WHOLE_STREAM)
    assert (seen, is_end, expected.complete) == (WHOLE_STREAM, True, True)
    assert expected.generated_bytes == len("naïve 東京{}é".encode())
    assert stream(data, 1) == (expected, data, True)


@given(st.lists(st.integers(1, len(WHOLE_STREAM) - 1), max_size=6))
def test_split_anywhere(cuts: list[int]) -> None:
    reader = RESPONSES.stream_reader(ask())
    places = [0, *sorted(cuts), len(WHOLE_STREAM)]
    seen = b"".join(reader.feed(WHOLE_STREAM[at:to]) for at, to in pairwise(places))
    assert seen + reader.rest() == WHOLE_STREAM
    assert reader.reading() == stream(WHOLE_STREAM)[0]


@given(st.integers(0, len(WHOLE_STREAM)))
def test_cut_anywhere(at: int) -> None:
    reading, seen, is_end = stream(WHOLE_STREAM[:at])
    assert seen == WHOLE_STREAM[:at]
    assert reading.complete is is_end
    assert reading.job is None


@given(st.binary(max_size=200))
def test_any_bytes_are_relayed(data: bytes) -> None:
    reading, seen, _ = stream(data)
    assert seen == data
    assert not reading.complete
    assert not whole(data).complete


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "input_tokens", "output_tokens", "image_gen", "web_search", "num_requests"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
MEMBERS = [
    *("id", "model", "status", "service_tier", "background", "created_at", "error", "output", "tools", "tool_usage"),
    *("usage", "response", "item", "delta", "type", "code", "output_index"),
]


@given(
    st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=8), st.sampled_from(["response.completed", "", "error"])
)
def test_any_json_is_read(found: dict[str, Any], kind: str) -> None:
    for operation in OPERATIONS.values():
        whole(found, operation)
        stream(
            event(kind, response=found) + event(kind, item=found) + event(kind, **{"a": 1}) + delta(), None, operation
        )
        stream(b"data: " + json.dumps(found).encode() + b"\n\n", None, operation)
