"""The dialect `openai`: requests, the bytes that are sent on, and every way in which providers state usage."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.base import CallRequest, Dialect, Operation, Reading
from costbearer.dialects.openai import OpenAI
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.usage import Usage, leaves

FAMILY: Dialect = OpenAI()
DIALECT: Operation = OpenAIChat()
HELLO = {"role": "user", "content": "hello"}


def ask(**changes: Any) -> CallRequest:
    """A request that was read; `wants_usage` is what its caller asked for."""
    fields: dict[str, Any] = {"operation": "chat", "model": "asked", "stream": True, "body": b"{}"}
    return CallRequest(**fields | changes)


def read(**members: Any) -> CallRequest:
    return DIALECT.read(json.dumps({"model": "m", "messages": [HELLO], **members}).encode())


def event(**members: Any) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "served"}
    return b"data: " + json.dumps(base | members).encode() + b"\n\n"


def said(text: str = "Hi", finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}
    return event(choices=[choice])


def counted(prompt: int = 10, completion: int = 4, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def usage_chunk(**members: Any) -> bytes:
    return event(choices=[], usage=counted(**members))


DONE = b"data: [DONE]\n\n"
STOP = said("", "stop")


def stream(body: bytes, size: int | None = None, **request: Any) -> tuple[Reading, bytes, bool]:
    """(what was read, what the caller saw, did the end marker pass?) of a stream in pieces of this size."""
    reader = DIALECT.stream_reader(ask(**request))
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step)) + reader.rest()
    return reader.reading(), seen, reader.ended


def whole(usage: Any, **members: Any) -> Reading:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "model": "served", "choices": [choice], "usage": usage, **members}
    return DIALECT.whole(ask(stream=False), json.dumps(body).encode())


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


# -- requests


def test_a_plain_request() -> None:
    request = read()
    assert request == ask(model="m", stream=False, body=request.body)
    assert DIALECT.outgoing(request, "m").body is request.body


@pytest.mark.parametrize(
    "members, expected",
    [
        ({"max_tokens": 7}, {"max_output_tokens": 7}),
        ({"max_completion_tokens": 9}, {"max_output_tokens": 9}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_output_tokens": 9}),
        ({"max_tokens": None, "n": None, "stream": None, "metadata": None, "stream_options": None}, {}),
        ({"n": 3}, {"choices": 3}),
        ({"service_tier": "flex"}, {"tier": "flex"}),
        ({"service_tier": 5}, {"tier": None}),
        ({"service_tier": "x" * 65}, {"tier": None}),
        ({"stream": True}, {"stream": True, "wants_usage": False}),
        ({"stream": True, "stream_options": {}}, {"wants_usage": False, "has_stream_options": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"wants_usage": False}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"wants_usage": True}),
        ({"metadata": {"a": "b"}}, {"tags": (), "has_tags": False}),
        ({"metadata": {"tags": []}}, {"tags": (), "has_tags": True}),
        ({"metadata": {"tags": ["a:b", " ☃"]}}, {"tags": ("a:b", " ☃"), "has_tags": True}),
    ],
)
def test_what_is_read_of_a_request(members: dict[str, Any], expected: dict[str, Any]) -> None:
    request = read(**members)
    assert {name: getattr(request, name) for name in expected} == expected


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, False),
        (message({"type": "text", "text": '"type":"image_url"'}), False),
        (message({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://a"}}), True),
        (message({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}), True),
        (message({"type": "input_audio"}), True),
        (message({"type": "file", "file": {"file_id": "f"}}), True),
        (message({"type": ["text"]}), True),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, False),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, True),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, True),
        ({"messages": "hello"}, True),
        ({"messages": None}, False),
        ({"tools": [{"type": "function"}, {"type": "custom"}]}, False),
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": {"type": "function"}}, True),
        ({"web_search_options": {}}, True),
        ({"web_search_options": None}, False),
        ({"search_parameters": {"mode": "auto"}}, True),
        ({"plugins": [{"id": "web"}]}, True),
    ],
)
def test_input_that_the_bytes_do_not_bound(members: dict[str, Any], expected: bool) -> None:
    assert read(**members).open_ended is expected


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"{", "cut off"),
        (b"[]", "must be a JSON object"),
        (b"{}", 'no "model"'),
        (b'{"model":null}', 'no "model"'),
        (b'{"model":5}', '"model" must be a string, not a number'),
        (b'{"model":""}', '"model" is blank'),
        (b'{"model":"  "}', '"model" is blank'),
        (b'{"model":"\\ud800"}', "half of a surrogate pair"),
        (b'{"model":"a\\u0000"}', "printable"),
        (b'{"model":"' + b"m" * 257 + b'"}', "at most 256"),
        (b'{"model":"m","stream":"true"}', '"stream" must be true or false, not a string'),
        (b'{"model":"m","stream":1}', '"stream" must be true or false, not a number'),
        (b'{"model":"m","max_tokens":"9"}', '"max_tokens" must be a whole number, not a string'),
        (b'{"model":"m","max_tokens":1.5}', '"max_tokens" must be a whole number, not a number'),
        (b'{"model":"m","max_tokens":true}', '"max_tokens" must be a whole number, not true'),
        (b'{"model":"m","max_tokens":-1}', '"max_tokens" must lie between'),
        (b'{"model":"m","max_tokens":' + b"9" * 30 + b"}", '"max_tokens" must lie between'),
        (b'{"model":"m","max_tokens":' + b"9" * 9000 + b"}", '"max_tokens" must be a whole number'),
        (b'{"model":"m","max_completion_tokens":[]}', '"max_completion_tokens" must be a whole number, not an array'),
        (b'{"model":"m","n":0}', '"n" must lie between 1 and 128'),
        (b'{"model":"m","n":129}', '"n" must lie between 1 and 128'),
        (b'{"model":"m","metadata":[]}', '"metadata" must be an object, not an array'),
        (b'{"model":"m","metadata":"x"}', '"metadata" must be an object, not a string'),
        (b'{"model":"m","metadata":{"tags":"a:b"}}', '"metadata.tags" must be a list of strings'),
        (b'{"model":"m","metadata":{"tags":null}}', '"metadata.tags" must be a list of strings'),
        (b'{"model":"m","metadata":{"tags":["a",1]}}', "an array with something else in it"),
        (b'{"model":"m","metadata":{"tags":["\\ud800"]}}', "half of a surrogate pair"),
        (b'{"model":"m","metadata":{"tags":[],"tags":[]}}', "\"metadata\" has the member 'tags' twice"),
        (b'{"model":"m","stream_options":true}', '"stream_options" must be an object, not true'),
        (b'{"model":"m","stream_options":{"include_usage":1}}', '"stream_options.include_usage" must be true or false'),
        (b'{"model":"m","model":"n"}', "'model' twice"),
        (b'{"model":"m","stream":true,"str\\u0065am":false}', "'stream' twice"),
        (b'{"model":"m","temperature":NaN}', "NaN"),
        (b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    ],
)
def test_faulty_requests(body: bytes, words: str) -> None:
    with pytest.raises(errors.BodyInvalid) as caught:
        DIALECT.read(body)
    assert words in caught.value.message
    assert len(caught.value.message) < 300


@given(st.binary(max_size=80) | st.text(alphabet='{}[]":,\\u0169model\nstrea', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        request = DIALECT.read(body)
    except errors.BodyInvalid:
        return
    assert request.model


# -- what is sent on


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"model":"m","metadata":{"tags":["a:b"]}}', b'{"model":"m"}'),
        (b'{"metadata":{"tags":["a:b"]},"model":"m"}', b'{"model":"m"}'),
        (b'{ "metadata": {"tags" : ["a:b"], "x": "y" }, "model":"m"}', b'{ "metadata": {"x": "y" }, "model":"m"}'),
        (b'{"metadata":{"x":1.50,"tags":[]},"model":"m"}', b'{"metadata":{"x":1.50},"model":"m"}'),
        (b'{"model":"m","metadata":{}}', b'{"model":"m","metadata":{}}'),
        (b'{"model":"m","stream":true}', b'{"stream_options":{"include_usage":true},"model":"m","stream":true}'),
        (
            b' \n{\n "model":"m","stream":true}',
            b' \n{"stream_options":{"include_usage":true},\n "model":"m","stream":true}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options":null}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options":{ }}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true }}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options":{"include_obfuscation":false}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options":{"include_usage": false, "x": 1}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage": true, "x": 1}}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
            b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (b'{"model":"m","stream":false,"stream_options":{}}', b'{"model":"m","stream":false,"stream_options":{}}'),
        (
            b'{"stream":true,"metadata":{"tags":[]},"model":"m"}',
            b'{"stream_options":{"include_usage":true},"stream":true,"model":"m"}',
        ),
    ],
)
def test_outgoing_changes_what_it_must_and_no_other_byte(body: bytes, expected: bytes) -> None:
    request = DIALECT.read(body)
    sent = DIALECT.outgoing(request, "m").body
    assert sent == expected
    if expected == body:
        assert sent is request.body


def test_a_model_is_renamed_in_place() -> None:
    body = b'{"messages":[{"content":"\\"model\\":\\"m\\"","model":"m"}], "model" : "m","tools":[{"model":"m"}]}'
    request = DIALECT.read(body)
    assert DIALECT.outgoing(request, 'o"3').body == body.replace(b'"model" : "m"', b'"model" : "o\\"3"')


def test_all_changes_at_once() -> None:
    body = b'{"stream":true,"stream_options":{},"model":"m","metadata":{"tags":[],"k":"v"}}'
    sent = DIALECT.outgoing(DIALECT.read(body), "n").body
    assert sent == b'{"stream":true,"stream_options":{"include_usage":true},"model":"n","metadata":{"k":"v"}}'


# -- whole replies

IN_DETAIL: dict[str, Any] = {
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1, "rejected_prediction_tokens": 1},
}


@pytest.mark.parametrize(
    "usage, expected, notes",
    [
        (counted(), Usage(input_tokens=10, output_tokens=4), ()),
        (
            counted(**IN_DETAIL),
            Usage(
                input_tokens=10,
                output_tokens=4,
                cache_read_input_tokens=3,
                cache_creation_input_tokens=2,
                audio_input_tokens=1,
                reasoning_output_tokens=2,
                audio_output_tokens=1,
            ),
            (),
        ),
        (
            counted(prompt_tokens_details=None, completion_tokens_details={"reasoning_tokens": None}),
            Usage(input_tokens=10, output_tokens=4),
            (),
        ),
        # DeepSeek: the alias repeats the details, or stands alone; it is never added.
        (
            counted(prompt_cache_hit_tokens=6, prompt_cache_miss_tokens=4, prompt_tokens_details={"cached_tokens": 6}),
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=6),
            (),
        ),
        (
            counted(prompt_cache_hit_tokens=6, prompt_cache_miss_tokens=4),
            Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=6),
            (),
        ),
        # Moonshot.
        (counted(cached_tokens=5), Usage(input_tokens=10, output_tokens=4, cache_read_input_tokens=5), ()),
        # xAI: reasoning outside completion_tokens, told by the total.
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "total_tokens": 241,
                "completion_tokens_details": {"reasoning_tokens": 228},
            },
            Usage(input_tokens=12, output_tokens=229, reasoning_output_tokens=228),
            ("reasoning_outside_output",),
        ),
        # Gemini's compatible endpoint: hidden thinking.
        (
            {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 129},
            Usage(input_tokens=9, output_tokens=120),
            ("output_from_total",),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 20,
                "total_tokens": 129,
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
            Usage(input_tokens=9, output_tokens=120, reasoning_output_tokens=0),
            ("output_from_total",),
        ),
        ({"prompt_tokens": 9, "total_tokens": 29}, Usage(input_tokens=9, output_tokens=20), ("output_from_total",)),
        # A total that neither rule explains is kept as evidence and changes nothing.
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 20,
                "total_tokens": 40,
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(input_tokens=9, output_tokens=20, reasoning_output_tokens=5),
            ("total_mismatch",),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 25},
            Usage(input_tokens=9, output_tokens=20),
            ("total_mismatch",),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 5},
            Usage(input_tokens=9, output_tokens=20),
            ("total_mismatch",),
        ),
        (
            counted(server_tool_use_details={"web_search_requests": 2}),
            Usage(input_tokens=10, output_tokens=4, web_search_requests=2),
            (),
        ),
    ],
)
def test_usage_of_every_provider(usage: dict[str, Any], expected: Usage, notes: tuple[str, ...]) -> None:
    reading = whole(usage)
    assert only(reading) == expected
    assert reading.notes == notes
    assert reading.complete
    assert (reading.work[0].model, reading.work[0].largest_input_tokens) == ("served", expected.input_tokens)


def test_parts_larger_than_their_whole_are_kept_and_refused_when_split() -> None:
    reading = whole(counted(prompt_tokens_details={"cached_tokens": 11}))
    assert only(reading).cache_read_input_tokens == 11
    with pytest.raises(errors.UsageInvalid):
        leaves(only(reading))


@pytest.mark.parametrize(
    "usage, expected, notes",
    [
        (None, None, ("usage_absent",)),
        ({}, None, ("usage_absent",)),
        ([], None, ("usage_malformed", "usage_absent")),
        ("10", None, ("usage_malformed", "usage_absent")),
        ({"prompt_tokens": 7.0, "completion_tokens": 4}, Usage(output_tokens=4), ("usage_malformed", "usage_partial")),
        ({"prompt_tokens": "7", "completion_tokens": 4}, Usage(output_tokens=4), ("usage_malformed", "usage_partial")),
        ({"prompt_tokens": True, "completion_tokens": 4}, Usage(output_tokens=4), ("usage_malformed", "usage_partial")),
        ({"prompt_tokens": -7, "completion_tokens": 4}, Usage(output_tokens=4), ("usage_malformed", "usage_partial")),
        (
            {"prompt_tokens": 10**13, "completion_tokens": 4},
            Usage(output_tokens=4),
            ("usage_malformed", "usage_partial"),
        ),
        ({"prompt_tokens": 7}, Usage(input_tokens=7), ("usage_partial",)),
        (counted(prompt=0), Usage(output_tokens=4), ("input_zero",)),
        (counted(prompt=0, completion=0), Usage(output_tokens=0), ("input_zero",)),
        (counted(prompt_tokens_details=[3]), Usage(input_tokens=10, output_tokens=4), ("usage_malformed",)),
        (
            counted(prompt_tokens_details={"cached_tokens": 1.0}),
            Usage(input_tokens=10, output_tokens=4),
            ("usage_malformed",),
        ),
    ],
)
def test_usage_that_cannot_be_relied_on(usage: Any, expected: Usage | None, notes: tuple[str, ...]) -> None:
    reading = whole(usage)
    assert [work.usage for work in reading.work] == ([] if expected is None else [expected])
    assert reading.notes == notes
    assert not reading.complete


@pytest.mark.parametrize(
    "stated, expected, notes",
    [
        ("{}", None, ()),
        ('{"cost":0.0133176}', "0.0133176", ()),
        ('{"cost":9.78e-05}', "0.0000978", ()),
        ('{"cost":0.1800000000000000200001}', "0.18", ()),
        ('{"cost":3}', "3", ()),
        ('{"cost":0}', "0", ()),
        ('{"cost":0.5,"is_byok":false,"cost_details":{"upstream_inference_cost":0.5}}', "0.5", ()),
        ('{"cost":0,"is_byok":true,"cost_details":{"upstream_inference_cost":0.0003253}}', "0.0003253", ("byok",)),
        ('{"cost":0.01,"is_byok":true,"cost_details":{"upstream_inference_cost":0.2}}', "0.21", ("byok",)),
        ('{"cost":0.01,"is_byok":true}', None, ("byok", "cost_unreadable")),
        (
            '{"cost":0.01,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}',
            None,
            ("byok", "cost_unreadable"),
        ),
        ('{"cost":{"input_tokens_cost":0.1,"total_cost":0.25}}', "0.25", ()),
        ('{"cost":{"input_tokens_cost":0.1}}', None, ()),
        ('{"cost_in_usd_ticks":1641500}', "0.00016415", ()),
        ('{"cost_in_usd_ticks":0}', "0", ()),
        ('{"cost_in_usd_ticks":1.5}', None, ("cost_unreadable",)),
        ('{"cost_in_usd_ticks":-1}', None, ("cost_unreadable",)),
        ('{"cost_in_usd_ticks":1' + "0" * 40 + "}", None, ("cost_unreadable",)),
        ('{"cost":"0.01"}', None, ("cost_unreadable",)),
        ('{"cost":-0.01}', None, ("cost_unreadable",)),
        ('{"cost":true}', None, ("cost_unreadable",)),
        ('{"cost":1e99}', None, ("cost_unreadable",)),
        ('{"cost":1e-999999999999999999999}', None, ("cost_unreadable",)),
    ],
)
def test_the_cost_a_provider_states(stated: str, expected: str | None, notes: tuple[str, ...]) -> None:
    usage = json.dumps(counted())[:-1] + "," + stated[1:] if stated != "{}" else json.dumps(counted())
    body = '{"choices":[],"model":"served","usage":' + usage + "}"
    reading = DIALECT.whole(ask(stream=False), body.encode())
    assert reading.provider_cost_usd == (None if expected is None else Decimal(expected))
    assert reading.notes == notes
    assert reading.complete


@pytest.mark.parametrize(
    "body, notes",
    [
        (b"", ("body_not_json",)),
        (b"<html><h1>502 Bad Gateway</h1></html>", ("body_not_json",)),
        (b'{"id":"x","usage":{"prompt_tokens":1', ("body_not_json",)),
        (b'{"usage":' + b"[" * 100_000, ("body_not_json",)),
        (b"\xff\xfe", ("body_not_json",)),
        (b'{"usage":{"prompt_tokens":NaN}}', ("body_not_json",)),
        (b"[]", ("body_unexpected", "usage_absent")),
        (b'"usage"', ("body_unexpected", "usage_absent")),
        (b'{"usage":{"prompt_tokens":1' + b"0" * 9000 + b"}}", ("body_unexpected", "usage_absent")),
        (b"{}", ("usage_absent",)),
        (b'{"choices":5,"usage":null}', ("usage_absent",)),
    ],
)
def test_replies_that_are_no_completion(body: bytes, notes: tuple[str, ...]) -> None:
    reading = DIALECT.whole(ask(stream=False), body)
    assert (reading.notes, reading.complete, reading.work) == (notes, False, ())


def test_who_answered_and_how() -> None:
    reading = whole(counted(), service_tier="priority")
    assert (reading.response_id, reading.response_model, reading.tier) == ("chatcmpl-1", "served", "priority")
    assert whole(counted(), model=None).work[0].model == "asked"
    assert whole(counted(), id=7, service_tier={}, model="x" * 300).response_id is None


@pytest.mark.parametrize(
    "error, code",
    [
        ({"message": "m", "type": "requests", "code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"message": "m", "type": "server_error", "code": None}, "server_error"),
        ({"message": "m", "code": 502}, "502"),
        ({"code": "no spaces allowed"}, "provider_error"),
        ({"code": True, "type": "x" * 65}, "provider_error"),
        ("it broke", "provider_error"),
        (None, None),
        ({}, None),
    ],
)
def test_errors_are_known_by_their_code(error: Any, code: str | None) -> None:
    assert DIALECT.whole(ask(stream=False), json.dumps({"error": error}).encode()).error_code == code
    reading, seen, _ = stream(event(error=error))
    assert (reading.error_code, seen) == (code, event(error=error))
    assert ("error_in_stream" in reading.notes) is (code is not None)


# -- streams


def test_an_ordinary_stream_whose_caller_asked_for_usage() -> None:
    body = said("Hé") + STOP + usage_chunk() + DONE
    reading, seen, ended = stream(body)
    assert seen == body
    assert ended
    assert only(reading) == Usage(input_tokens=10, output_tokens=4)
    assert (reading.complete, reading.generated_bytes, reading.notes) == (True, 3, ())


def test_the_usage_chunk_is_kept_from_a_caller_who_did_not_ask() -> None:
    null = event(choices=[{"index": 0, "delta": {"content": "x"}}], usage=None)
    reading, seen, ended = stream(said() + null + STOP + usage_chunk() + DONE, wants_usage=False)
    assert seen == said() + null + STOP + DONE
    assert (ended, reading.complete, only(reading).output_tokens) == (True, True, 4)


def test_chunks_without_choices_that_are_not_the_usage_chunk_are_relayed() -> None:
    filters = event(model="", choices=[], prompt_filter_results=[{"prompt_index": 0}])
    with_null = event(model="", choices=[], usage=None)
    body = filters + with_null + said() + STOP + usage_chunk() + DONE
    reading, seen, _ = stream(body, wants_usage=False)
    assert seen == filters + with_null + said() + STOP + DONE
    assert reading.response_model == "served"


def test_a_usage_beside_choices_is_relayed() -> None:
    last = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=counted())
    reading, seen, _ = stream(said() + last + DONE, wants_usage=False)
    assert seen == said() + last + DONE
    assert reading.complete


GROQ = {"id": "req", "usage": counted()}
FINISHED = {"index": 0, "delta": {}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    "body, complete, output, notes",
    [
        # Twice the same, twice different: the last one counts once.
        (said() + STOP + usage_chunk() + usage_chunk() + DONE, True, 4, ("usage_repeated",)),
        (said() + STOP + usage_chunk() + usage_chunk(completion=9) + DONE, True, 9, ("usage_repeated",)),
        # Perplexity: so far, in every chunk.
        (
            event(choices=[{"delta": {"content": "a"}}], usage=counted(completion=1))
            + event(choices=[{"delta": {"content": "b"}, "finish_reason": "stop"}], usage=counted(completion=2)),
            True,
            2,
            (),
        ),
        (event(choices=[{"delta": {"content": "a"}}], usage=counted(completion=1)), False, 1, ()),
        # A usage so far, and then the end without another one: it is not known that nothing came after.
        (event(choices=[{"delta": {"content": "a"}}], usage=counted(completion=1)) + STOP, False, 1, ()),
        (event(choices=[{"delta": {"content": "a"}}], usage=counted(completion=1)) + STOP + DONE, True, 1, ()),
        # Groq: beside the usage, or alone.
        (said() + event(choices=[FINISHED], usage=counted(), x_groq=GROQ) + DONE, True, 4, ()),
        (said() + event(choices=[FINISHED], x_groq=GROQ) + DONE, True, 4, ()),
        (said() + event(choices=[FINISHED], x_groq=GROQ) + usage_chunk(completion=5) + DONE, True, 5, ()),
        # Moonshot: in the choice.
        (said() + event(choices=[FINISHED | {"usage": counted()}]) + DONE, True, 4, ()),
        # Cut after the usage chunk, before the end marker.
        (said() + STOP + usage_chunk(), True, 4, ()),
        # The usage chunk without its closing line ends.
        (said() + STOP + usage_chunk()[:-2], True, 4, ()),
        (said() + STOP + usage_chunk()[:-3], False, None, ("cut_mid_event", "usage_absent")),
        (said() + STOP + DONE, False, None, ("usage_absent",)),
        (said(), False, None, ("usage_absent",)),
        (b"", False, None, ("usage_absent",)),
        (said() + b"data: {broken\n\n" + STOP + usage_chunk() + DONE, True, 4, ("event_malformed",)),
        (said() + event(choices=[], usage="none") + DONE, False, None, ("usage_malformed", "usage_absent")),
        (said() + STOP + usage_chunk() + event(usage=[1]) + DONE, False, 4, ("usage_malformed",)),
        (b"<html>bad gateway</html>\n\n", False, None, ("usage_absent",)),
    ],
)
def test_where_streams_state_their_usage(
    body: bytes, complete: bool, output: int | None, notes: tuple[str, ...]
) -> None:
    reading, seen, ended = stream(body)
    assert seen == body
    assert ended is body.endswith(DONE)
    assert (reading.complete, reading.notes) == (complete, notes)
    assert [work.usage.output_tokens for work in reading.work] == ([] if output is None else [output])


def test_several_choices_are_finished_when_all_of_them_are() -> None:
    def finish(index: int) -> bytes:
        return event(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}], usage=counted())

    assert stream(finish(0), choices=2)[0].complete is False
    assert stream(finish(0) + finish(0), choices=2)[0].complete is False
    assert stream(finish(0) + finish(1), choices=2)[0].complete is True


def test_the_tier_that_served_is_the_last_one_stated() -> None:
    body = event(choices=[], service_tier="auto") + event(choices=[], service_tier="flex") + event(service_tier=None)
    assert stream(body)[0].tier == "flex"


@pytest.mark.parametrize(
    "delta, size",
    [
        ({"content": "abc"}, 3),
        ({"content": "añ🎈"}, 7),
        ({"content": "", "refusal": "no"}, 2),
        ({"role": "assistant", "content": None}, 0),
        ({"reasoning_content": "hmm"}, 3),
        ({"reasoning": "hmm", "reasoning_details": [{"text": "hmm"}]}, 3),
        ({"reasoning": "hmm", "reasoning_content": "hmm"}, 3),
        ({"tool_calls": [{"index": 0, "id": "call", "function": {"name": "f", "arguments": '{"a"'}}]}, 5),
        ({"tool_calls": [{"index": 0, "custom": {"name": "f", "input": "xyz"}}, None, {"function": "?"}]}, 4),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3),
        ({"content": [{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": [{"text": "cde"}]}, 5]}, 5),
        ({"content": [{"type": "thinking", "thinking": "cde"}]}, 3),
        ({"audio": {"transcript": "ab", "data": "AAAA"}}, 2),
        ({"content": 5, "refusal": {}, "tool_calls": {}, "function_call": "x", "audio": []}, 0),
    ],
)
def test_generated_bytes(delta: dict[str, Any], size: int) -> None:
    assert stream(event(choices=[{"index": 0, "delta": delta}]))[0].generated_bytes == size
    body = json.dumps({"choices": [{"index": 0, "message": delta}]}).encode()
    assert DIALECT.whole(ask(stream=False), body).generated_bytes == size


def test_legacy_completions_are_read() -> None:
    body = event(choices=[{"text": " fib", "index": 0}], usage=None) + event(choices=[], usage=counted()) + DONE
    reading, _, _ = stream(body)
    assert (reading.generated_bytes, reading.complete) == (4, True)


CRLF = (said("Hé\r\n\n") + b": comment\n\n" + STOP + usage_chunk() + DONE).replace(b"\n", b"\r\n")
ANY_STREAM = {
    "usage": said("Hé ") + said("\n\ndata: [DONE]\n\n", "stop") + usage_chunk(**IN_DETAIL) + DONE,
    "comments": b": OPENROUTER PROCESSING\n\n" * 2 + said() + STOP + usage_chunk() + DONE,
    "crlf": CRLF,
    "repeated": said() + STOP + usage_chunk() + usage_chunk() + DONE,
    "error": said() + event(error={"code": "server_error"}) + DONE,
    "no end": said() + STOP + usage_chunk() + b"data: [DONE]",
}


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("body", ANY_STREAM.values(), ids=ANY_STREAM)
def test_cuts_between_chunks_change_nothing(body: bytes, wants_usage: bool) -> None:
    at_once = stream(body, wants_usage=wants_usage)
    assert stream(body, 1, wants_usage=wants_usage) == at_once
    line = b"\r\n" if b"\r\n" in body else b"\n"
    hidden = b"" if wants_usage else usage_chunk().replace(b"\n", line)
    detailed = b"" if wants_usage else usage_chunk(**IN_DETAIL)
    expected = body.replace(detailed, b"") if detailed else body
    assert at_once[1] == (expected.replace(hidden, b"") if hidden else expected)
    for place in range(1, len(body)):
        reader = DIALECT.stream_reader(ask(wants_usage=wants_usage))
        seen = reader.feed(body[:place]) + reader.feed(body[place:])
        reading = reader.reading()
        assert (reading, seen + reader.rest(), reader.ended) == at_once


def test_a_stream_cut_at_any_byte_is_never_complete_without_its_usage() -> None:
    body = said("one") + said("two") + STOP + usage_chunk() + DONE
    needed = len(said("one") + said("two") + STOP + usage_chunk()) - 2
    for place in range(len(body) + 1):
        reading, seen, _ = stream(body[:place])
        assert seen == body[:place]
        assert reading.complete is (place >= needed)
        assert reading.generated_bytes == 3 * (place >= len(said("one")) - 2) + 3 * (place >= len(said("one") * 2) - 2)


def test_whole_events_are_relayed_at_once_and_parts_are_kept_back() -> None:
    reader = DIALECT.stream_reader(ask())
    chunk = said()
    assert reader.feed(chunk) is chunk
    assert reader.feed(said() + b"data: {") == said()
    assert reader.rest() == b"data: {"


MEMBERS = [
    *("choices", "usage", "delta", "message", "content", "finish_reason", "index", "error", "code", "x_groq", "id"),
    *("model", "service_tier", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "cost_details", "is_byok"),
    *("cost_in_usd_ticks", "reasoning_tokens", "tool_calls", "function", "arguments", "audio", "text"),
    *("prompt_tokens_details", "completion_tokens_details"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(json_values, st.booleans())
def test_no_json_raises(value: Any, wants_usage: bool) -> None:
    body = json.dumps(value, allow_nan=False, default=str) if _finite(value) else json.dumps(str(value))
    reading, seen, _ = stream(b"data: " + body.encode() + b"\n\n", wants_usage=wants_usage)
    assert seen in (b"data: " + body.encode() + b"\n\n", b"")
    assert not reading.complete or reading.work
    DIALECT.whole(ask(stream=False), body.encode())


def _finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b"[DONE]", b'{"usage":', b"}"])))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    reader = DIALECT.stream_reader(ask())
    seen = b"".join(reader.feed(chunk) for chunk in chunks)
    reader.reading()
    assert seen + reader.rest() == b"".join(chunks)
    DIALECT.whole(ask(stream=False), b"".join(chunks))


# -- headers and errors


def test_headers() -> None:
    assert FAMILY.credential_headers("sk-fake") == (("authorization", "Bearer sk-fake"),)
    assert FAMILY.provider_request_id({"x-request-id": "req_1"}) == "req_1"
    assert FAMILY.provider_request_id({"apim-request-id": "a"}) == "a"
    assert FAMILY.provider_request_id({}) is None
    for headers in (FAMILY.forwarded_headers, FAMILY.relayed_headers):
        assert all(name == name.lower() for name in headers)
        assert not headers & {"authorization", "cookie", "set-cookie", "baggage", "accept-encoding", "content-length"}
        assert not any(name.startswith("x-costbearer") or "organization" in name for name in headers)


REFUSALS = [
    (errors.KeyMissing("no key"), openai.AuthenticationError, "authentication_error"),
    (errors.BodyInvalid("bad"), openai.BadRequestError, "invalid_request_error"),
    (errors.BodyTooLarge("big"), openai.APIStatusError, "invalid_request_error"),
    (errors.ModelUnknown("who"), openai.NotFoundError, "invalid_request_error"),
    (errors.RateLimited("slow"), openai.RateLimitError, "rate_limit_error"),
    (errors.UpstreamFailed("down"), openai.InternalServerError, "server_error"),
    (errors.NotRecording("full"), openai.InternalServerError, "server_error"),
]


def client(status: int, body: bytes, content_type: str) -> openai.OpenAI:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": content_type}, request=request)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="sk-fake", base_url="http://gateway.invalid/v1", max_retries=0, http_client=http)


@pytest.mark.parametrize("refused, kind, named", REFUSALS)
def test_the_sdk_raises_errors_with_our_code(refused: errors.CallRefused, kind: type[Exception], named: str) -> None:
    body = FAMILY.error_body(refused, "req_1")
    with client(refused.http_status, body, "application/json") as sdk, pytest.raises(kind) as caught:
        sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    error = caught.value
    assert isinstance(error, openai.APIStatusError)
    assert (error.code, error.type, error.param) == (refused.code, named, None)
    assert refused.message in error.message


def test_the_sdk_raises_an_error_inside_a_stream_with_our_code() -> None:
    body = said("one") + FAMILY.error_event(errors.UpstreamTimeout("it stopped"), "req_1")
    with client(200, body, "text/event-stream") as sdk:
        chunks = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        assert next(chunks).choices[0].delta.content == "one"
        with pytest.raises(openai.APIError) as caught:
            next(chunks)
    assert caught.value.code == "upstream_timeout"


def test_the_sdk_reads_a_stream_without_the_usage_chunk() -> None:
    _, seen, _ = stream(said("one") + STOP + usage_chunk() + DONE, wants_usage=False)
    with client(200, seen, "text/event-stream") as sdk:
        chunks = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one"
