"""InvokeModel and its stream: the formats of all makers under AWS's meter."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from costbearer.dialects.base import CallRequest, Place, Reading
from costbearer.dialects.bedrock_invoke import Invoke
from costbearer.dialects.eventstream import encode
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage

MODEL = "global.anthropic.claude-opus-4-8-v1:0"
LABELS = {"owner": "zoë", "team": "search", "agent": "ranker", "workload": "rerank"}
CLAUDE = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 90, "messages": [{"role": "user", "content": "Hi"}]}
METRICS = "amazon-bedrock-invocationMetrics"
COUNTED = {"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "7"}


def understood(body: dict[str, Any], model: str = MODEL, *, stream: bool = False) -> CallRequest:
    return Invoke(stream=stream).read(json.dumps(body).encode(), Place(params={"model": model}))


def whole(body: Any, headers: dict[str, str] | None = None, *, model: str = MODEL) -> Reading:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Invoke().whole(understood(CLAUDE, model), data, headers or {})


def chunk(inner: Any) -> bytes:
    data = inner if isinstance(inner, bytes) else json.dumps(inner).encode()
    payload = json.dumps({"bytes": base64.b64encode(data).decode(), "p": "abcdefghij"}).encode()
    return encode({":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}, payload)


def streamed(inner: list[Any], *, step: int = 0, model: str = MODEL, headers: dict[str, str] | None = None) -> Reading:
    data = b"".join(item if isinstance(item, bytes) else chunk(item) for item in inner)
    reader = Invoke(stream=True).stream_reader(understood(CLAUDE, model, stream=True), headers or {})
    size = step or len(data)
    seen = b"".join(reader.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert seen + reader.rest() == data
    return reader.reading()


@pytest.mark.parametrize(
    ("body", "learned"),
    [
        (CLAUDE, {"max_output_tokens": 90}),
        ({**CLAUDE, "tools": [{"name": "a", "input_schema": {}}]}, {"max_output_tokens": 90, "overhead_tokens": 1000}),
        (
            {**CLAUDE, "messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            {"max_output_tokens": 90, "open_ended": True},
        ),
        ({**CLAUDE, "system": [{"cache_control": {"ttl": "1h"}}]}, {"cache_ttl_1h": True, "open_ended": True}),
        ({**CLAUDE, "metadata": {"tags": ["a:b"]}}, {"tags": ("a:b",), "has_tags": True}),
        ({"prompt": "x", "max_gen_len": 5}, {"max_output_tokens": 5}),
        ({"prompt": "x", "max_tokens": 6}, {"max_output_tokens": 6}),
        ({"message": "x", "maxTokens": 6, "max_tokens": 8}, {"max_output_tokens": 8}),
        ({"message": "x", "num_generations": 3}, {"choices": 3}),
        ({"inputText": "x", "textGenerationConfig": {"maxTokenCount": 7}}, {"max_output_tokens": 7}),
        ({"messages": [], "inferenceConfig": {"max_new_tokens": 8}}, {"max_output_tokens": 8}),
        ({"messages": [{"content": [{"image": {}}]}]}, {"open_ended": True}),
        ({"taskType": "TEXT_IMAGE"}, {"open_ended": True}),
        ({"messages": [], "metadata": {"tags": ["a:b"]}}, {"tags": ("a:b",), "has_tags": True}),
    ],
)
def test_requests(body: dict[str, Any], learned: dict[str, Any]) -> None:
    request = understood(body)
    assert {name: getattr(request, name) for name in learned} == learned
    assert (request.operation, request.model, request.stream, request.tier) == ("chat", MODEL, False, None)
    assert request.body == json.dumps(body).encode()
    assert request.place.params == {"model": MODEL}


@pytest.mark.parametrize("model", ["amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"])
def test_embeddings_are_an_operation_of_their_own(model: str) -> None:
    assert understood({"inputText": "x"}, model).operation == "embeddings"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"max_tokens":"x"}', b'{"metadata":{"tags":3}}']
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        Invoke().read(body, Place(params={"model": MODEL}))


def test_labels_go_by_a_header_and_tags_go_off() -> None:
    request = understood({**CLAUDE, "metadata": {"tags": ["a:b"], "user_id": "u"}})
    outgoing = Invoke().outgoing(request, MODEL, LABELS)
    assert json.loads(outgoing.body) == {**CLAUDE, "metadata": {"user_id": "u"}}
    ((name, value),) = outgoing.headers
    assert name == "x-amzn-bedrock-request-metadata"
    assert json.loads(value) == {**LABELS, "owner": "zo_"}
    assert value.isascii()
    assert outgoing.path == f"/model/{MODEL.replace(':', '%3A')}/invoke"


def test_where_nothing_must_change_nothing_does() -> None:
    request = understood(CLAUDE, stream=True)
    outgoing = Invoke(stream=True).outgoing(request, MODEL)
    assert outgoing.body is request.body
    assert outgoing.headers == ()
    assert outgoing.path.endswith("/invoke-with-response-stream")


MESSAGE = {
    "type": "message",
    "id": "msg_bdrk_1",
    "model": "claude-opus-4-8",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 12,
        "output_tokens": 7,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "service_tier": "standard",
        "inference_geo": "not_available",
    },
}
OF_MESSAGE = Usage(
    input_tokens=142,
    output_tokens=7,
    cache_read_input_tokens=100,
    cache_creation_input_tokens=30,
    cache_creation_1h_input_tokens=20,
)
PLAIN = Usage(input_tokens=12, output_tokens=7)
WHOLE: list[tuple[str, Any, dict[str, str], Usage, tuple[str, ...]]] = [
    ("claude", MESSAGE, COUNTED, OF_MESSAGE, ()),
    ("claude without a meter", MESSAGE, {}, OF_MESSAGE, ()),
    (
        "claude whose meter differs",
        MESSAGE,
        {**COUNTED, "x-amzn-bedrock-output-token-count": "9"},
        msgspec.structs.replace(OF_MESSAGE, output_tokens=9),
        ("output_tokens_differ:7",),
    ),
    ("claude 2", {"completion": "Hello", "stop_reason": "stop_sequence"}, COUNTED, PLAIN, ()),
    ("titan", {"inputTextTokenCount": 12, "results": [{"tokenCount": 7, "outputText": "Hello"}]}, {}, PLAIN, ()),
    ("llama", {"generation": "Hello", "prompt_token_count": 12, "generation_token_count": 7}, {}, PLAIN, ()),
    ("mistral", {"outputs": [{"text": "Hello", "stop_reason": "stop"}]}, COUNTED, PLAIN, ()),
    ("cohere", {"text": "Hello", "generation_id": "g"}, COUNTED, PLAIN, ()),
    (
        "cohere, billed",
        {"text": "Hello", "meta": {"billed_units": {"input_tokens": 12, "output_tokens": 7}}},
        {},
        PLAIN,
        (),
    ),
    (
        "nova",
        {
            "output": {"message": {"content": [{"text": "Hello"}]}},
            "usage": {"inputTokens": 12, "outputTokens": 7, "totalTokens": 19},
        },
        COUNTED,
        PLAIN,
        (),
    ),
    (
        "openai",
        {
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hello"}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
        },
        COUNTED,
        PLAIN,
        (),
    ),
]


@pytest.mark.parametrize(
    ("body", "headers", "usage", "notes"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE]
)
def test_whole_bodies(body: Any, headers: dict[str, str], usage: Usage, notes: tuple[str, ...]) -> None:
    reading = whole(body, headers)
    (work,) = reading.work
    assert work.usage == usage
    assert (work.model, work.largest_input_tokens) == (MODEL, usage.input_tokens)
    assert (reading.complete, reading.notes, reading.geo) == (True, notes, None)
    assert reading.generated_bytes == 5


def test_the_meter_tells_tier_and_latency() -> None:
    headers = {
        **COUNTED,
        "x-amzn-bedrock-service-tier": "flex",
        "x-amzn-bedrock-performanceconfig-latency": "optimized",
    }
    reading = whole({"text": "x"}, headers)
    assert (reading.tier, reading.speed) == ("flex", "optimized")
    arn = "arn:aws:bedrock:us-east-1:1:provisioned-model/a1"
    assert whole({"text": "x"}, headers, model=arn).tier == "provisioned"


@pytest.mark.parametrize(
    ("body", "headers", "usage"),
    [
        ({"embedding": [0.5], "inputTextTokenCount": 9}, {}, Usage(input_tokens=9)),
        ({"embeddings": [[0.5]]}, {"x-amzn-bedrock-input-token-count": "9"}, Usage(input_tokens=9)),
    ],
)
def test_embeddings_have_no_output(body: Any, headers: dict[str, str], usage: Usage) -> None:
    reading = whole(body, headers, model="amazon.titan-embed-text-v2:0")
    assert (reading.work[0].usage, reading.complete) == (usage, True)


def test_images_and_search_units_are_counted() -> None:
    assert whole({"images": ["eA==", "eA=="]}).work[0].usage == Usage(generated_images=2)
    rerank = whole({"results": [{"index": 0}], "meta": {"billed_units": {"search_units": 1}}})
    assert (rerank.work[0].usage, rerank.complete) == (Usage(search_units=1), True)


def test_the_steps_of_several_models_are_not_the_meters_to_settle() -> None:
    steps = [
        {"type": "message", "input_tokens": 5, "output_tokens": 2},
        {"type": "advisor_message", "input_tokens": 9, "output_tokens": 4, "model": "claude-other"},
    ]
    usage = {"input_tokens": 5, "output_tokens": 2, "iterations": steps}
    reading = whole({**MESSAGE, "usage": usage}, {**COUNTED, "x-amzn-bedrock-output-token-count": "2"})
    assert [(part.model, part.usage.output_tokens) for part in reading.work] == [(MODEL, 2), ("claude-other", 4)]
    assert "output_tokens_differ:2" in reading.notes


def test_a_loop_of_server_tools_has_no_largest_step() -> None:
    usage = {"input_tokens": 400_000, "output_tokens": 7, "server_tool_use": {"web_search_requests": 3}}
    reading = whole({**MESSAGE, "usage": usage}, {**COUNTED, "x-amzn-bedrock-input-token-count": "400000"})
    (work,) = reading.work
    assert (work.largest_input_tokens, work.usage.web_search_requests) == (None, 3)


@pytest.mark.parametrize(
    ("body", "notes"),
    [
        (b"<html>", ("body_not_json", "usage_absent")),
        (b"[]", ("body_unexpected", "usage_absent")),
        (b"{}", ("usage_absent",)),
        (b'{"type":"message","usage":7}', ("usage_malformed", "usage_absent")),
        (b'{"usage":{"inputTokens":-1,"outputTokens":1e9}}', ("usage_malformed", "usage_partial", "usage_absent")),
        (b'{"results":7,"outputs":[3],"meta":[],"images":"x","output":3,"contentBlockDelta":1}', ("usage_absent",)),
        (b'{"a":' * 20_000, ("body_not_json", "usage_absent")),
        (b"\xff", ("body_not_json", "usage_absent")),
        (b'{"inputTextTokenCount":0,"results":[{"tokenCount":4}]}', ()),
    ],
)
def test_replies_that_say_too_little(body: bytes, notes: tuple[str, ...]) -> None:
    reading = whole(body)
    assert not reading.complete
    assert reading.notes == notes


def test_the_meter_is_enough_where_the_body_cannot_be_read() -> None:
    reading = whole(b"[[0.5]]", COUNTED)
    assert (reading.work[0].usage, reading.complete, reading.notes) == (PLAIN, True, ("body_unexpected",))


def test_a_meter_without_input_is_not_relied_on() -> None:
    reading = whole({"text": "x"}, {**COUNTED, "x-amzn-bedrock-input-token-count": "0"})
    assert (reading.complete, reading.work[0].usage.input_tokens) == (False, None)
    assert reading.notes == ("input_zero",)


METER = {METRICS: {"inputTokenCount": 12, "outputTokenCount": 7, "invocationLatency": 5, "firstByteLatency": 2}}
CLAUDE_EVENTS = [
    {
        "type": "message_start",
        "message": {"id": "msg_bdrk_1", "model": "claude-opus-4-8", "usage": {"input_tokens": 12, "output_tokens": 1}},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "He"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop", **METER},
]
STREAMS: dict[str, list[Any]] = {
    "claude": CLAUDE_EVENTS,
    "titan": [
        {"outputText": "He", "index": 0, "totalOutputTextTokenCount": None, "inputTextTokenCount": 12},
        {"outputText": "llo", "index": 0.0, "totalOutputTextTokenCount": 7.0, "inputTextTokenCount": None, **METER},
    ],
    "llama": [
        {"generation": "He", "prompt_token_count": 12, "generation_token_count": 1},
        {"generation": "llo", "prompt_token_count": None, "generation_token_count": 7, **METER},
    ],
    "mistral": [{"outputs": [{"text": "He"}]}, {"outputs": [{"text": "llo", "stop_reason": "stop"}], **METER}],
    "cohere": [{"text": "He", "is_finished": False}, {"text": "llo", "is_finished": True, **METER}],
    "nova": [
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"delta": {"text": "He"}}},
        {"contentBlockDelta": {"delta": {"text": "llo"}}},
        {"metadata": {"usage": {"inputTokens": 12, "outputTokens": 7}}, **METER},
    ],
    "openai": [
        {"choices": [{"index": 0, "delta": {"content": "He"}}]},
        {"choices": [{"index": 0, "delta": {"content": "llo"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}, **METER},
    ],
}


@pytest.mark.parametrize("maker", STREAMS)
@pytest.mark.parametrize("step", [0, 1, 29])
def test_streams_however_they_arrive(maker: str, step: int) -> None:
    reading = streamed(STREAMS[maker], step=step)
    (work,) = reading.work
    assert (work.model, work.usage) == (MODEL, PLAIN)
    assert (reading.complete, reading.notes, reading.generated_bytes) == (True, (), 5)


@pytest.mark.parametrize("maker", STREAMS)
def test_the_event_with_the_meter_ends_it(maker: str) -> None:
    reader = Invoke(stream=True).stream_reader(understood(CLAUDE, stream=True))
    for event in STREAMS[maker]:
        assert not reader.ended
        reader.feed(chunk(event))
    assert reader.ended


@pytest.mark.parametrize("maker", STREAMS)
def test_streams_cut_between_any_frames(maker: str) -> None:
    for number in range(1, len(STREAMS[maker])):
        reading = streamed(STREAMS[maker][:number])
        # Claude's totals are final before the meter comes; all other counts are counts so far.
        assert reading.complete is (maker == "claude" and number == 6)


def test_meter_and_message_delta_differ() -> None:
    last = {"type": "message_stop", METRICS: {"inputTokenCount": 12, "outputTokenCount": 4}}
    reading = streamed([*CLAUDE_EVENTS[:-1], last])
    assert reading.work[0].usage == Usage(input_tokens=12, output_tokens=4)
    assert reading.notes == ("output_tokens_differ:7",)
    assert reading.complete


def test_the_meter_counts_what_a_stream_cached() -> None:
    last = {
        "type": "message_stop",
        METRICS: {**METER[METRICS], "cacheReadInputTokenCount": 90, "cacheWriteInputTokenCount": 5},
    }
    usage = streamed([*CLAUDE_EVENTS[:-1], last]).work[0].usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (107, 90, 5)


def test_a_text_that_names_the_meter_is_no_meter() -> None:
    said = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": json.dumps(METER)}}
    reading = streamed([*CLAUDE_EVENTS[:4], said, *CLAUDE_EVENTS[4:]])
    assert reading.work[0].usage == PLAIN
    reader = Invoke(stream=True).stream_reader(understood(CLAUDE, stream=True))
    reader.feed(chunk(CLAUDE_EVENTS[0]) + chunk(said))
    assert not reader.ended


def test_an_exception_inside_the_stream() -> None:
    headers = {":message-type": "exception", ":exception-type": "modelStreamErrorException"}
    reading = streamed([*CLAUDE_EVENTS[:3], encode(headers, b'{"message":"x"}')])
    assert (reading.error_code, reading.complete) == ("modelStreamErrorException", False)
    assert "error_in_stream" in reading.notes
    assert reading.generated_bytes == 2


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (encode({":message-type": "event", ":event-type": "chunk"}, b"{"), "event_malformed"),
        (encode({":message-type": "event", ":event-type": "chunk"}, b'{"bytes":"!!"}'), "event_malformed"),
        (encode({":message-type": "event", ":event-type": "chunk"}, b'{"p":"abc"}'), "event_malformed"),
        (chunk(b"\xff"), "event_malformed"),
        (chunk(b"[]"), "event_malformed"),
        (chunk({"type": "content_block_delta", METRICS: 7}), "usage_malformed"),
    ],
)
def test_odd_frames_are_passed_on(frame: bytes, note: str) -> None:
    reading = streamed([*CLAUDE_EVENTS[:3], frame, *CLAUDE_EVENTS[3:]])
    assert reading.notes == (note,)
    assert reading.work[0].usage == PLAIN


def test_what_aws_says_of_our_credential_is_not_shown() -> None:
    secret = b'{"message":"User: arn:aws:sts::123456789012:assumed-role/gateway is not authorized"}'
    assert b"arn:aws" not in Invoke().shown(understood(CLAUDE), 403, secret)
    assert Invoke().shown(understood(CLAUDE), 429, secret) is secret
