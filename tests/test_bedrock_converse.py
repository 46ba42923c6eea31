"""Converse and ConverseStream: requests understood and labelled, replies read, however their bytes arrive."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from costbearer.dialects.base import CallRequest, Place, Reading
from costbearer.dialects.bedrock_converse import METADATA_PAIRS_MAX, Converse, CountTokens
from costbearer.dialects.eventstream import encode
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, Work

MODEL = "us.anthropic.claude-opus-4-8-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODEL}"
LABELS = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "re rank"}
USAGE = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 30, "cacheReadInputTokens": 20}
READ = Usage(input_tokens=27, output_tokens=3, cache_read_input_tokens=20)
SAID = {"messages": [{"role": "user", "content": [{"text": "Hello"}]}]}


def understood(body: dict[str, Any], model: str = MODEL, *, stream: bool = False) -> CallRequest:
    return Converse(stream=stream).read(json.dumps(body).encode(), Place(params={"model": model}))


def event(kind: str, payload: dict[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, msgspec.json.encode(payload))


STREAM = [
    event("messageStart", {"role": "assistant", "p": "abc"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hé"}, "p": "ab"}),
    event("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "find"}}}),
    event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"a":1}'}}}),
    event("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"reasoningContent": {"text": "hmm"}}}),
    event("contentBlockStop", {"contentBlockIndex": 1}),
    event("messageStop", {"stopReason": "tool_use"}),
    event("metadata", {"usage": USAGE, "metrics": {"latencyMs": 3}, "serviceTier": {"type": "flex"}}),
]
GENERATED = len("Hé".encode()) + len("find") + len('{"a":1}') + len("hmm")


def read(frames: list[bytes], *, step: int = 0, model: str = MODEL) -> Reading:
    data = b"".join(frames)
    reader = Converse(stream=True).stream_reader(understood(SAID, model, stream=True))
    size = step or len(data)
    seen = b"".join(reader.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert seen + reader.rest() == data
    return reader.reading()


def whole(body: dict[str, Any] | bytes, model: str = MODEL, **more: Any) -> Reading:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Converse().whole(understood({**SAID, **more}, model), data)


@pytest.mark.parametrize(
    ("more", "learned"),
    [
        ({}, {}),
        ({"inferenceConfig": {"maxTokens": 50}}, {"max_output_tokens": 50}),
        ({"serviceTier": {"type": "flex"}}, {"tier": "flex"}),
        ({"performanceConfig": {"latency": "optimized"}}, {"speed": "optimized"}),
        ({"system": [{"text": "x"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]}, {"cache_ttl_1h": True}),
        ({"toolConfig": {"tools": [{"toolSpec": {"name": "a"}}]}}, {"overhead_tokens": 1000}),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "s"}}]}}, {"overhead_tokens": 1000, "open_ended": True}),
        ({"promptVariables": {"a": {"text": "x"}}}, {"open_ended": True}),
        ({"additionalModelRequestFields": {"thinking": {"type": "enabled"}, "top_k": 3}}, {}),
        ({"additionalModelRequestFields": {"tools": []}}, {"open_ended": True}),
        ({"requestMetadata": {"feature": "search"}}, {"tags": ("feature:search",), "has_tags": True}),
        ({"requestMetadata": {"not a tag": "x", "empty": "", "ok": "y"}}, {"tags": ("ok:y",), "has_tags": True}),
        ({"requestMetadata": None}, {"has_tags": True}),
        ({"requestMetadata": {}}, {"has_tags": True}),
    ],
)
def test_requests(more: dict[str, Any], learned: dict[str, Any]) -> None:
    body = json.dumps(SAID | more).encode()
    place = Place(params={"model": MODEL})
    expected = CallRequest(operation="chat", model=MODEL, stream=False, body=body, place=place, **learned)
    assert Converse().read(body, place) == expected


@pytest.mark.parametrize(
    ("block", "open_ended"),
    [
        ({"text": "x"}, False),
        ({"toolUse": {"toolUseId": "t", "name": "n", "input": {}}}, False),
        ({"toolResult": {"toolUseId": "t", "content": [{"text": "x"}, {"json": {"a": 1}}]}}, False),
        ({"toolResult": {"toolUseId": "t", "content": [{"image": {}}]}}, True),
        ({"toolResult": {"toolUseId": "t"}}, False),
        ({"reasoningContent": {"reasoningText": {"text": "x"}}}, False),
        ({"cachePoint": {"type": "default"}}, False),
        ({"guardContent": {"text": {"text": "x"}}}, False),
        ({"guardContent": {"image": {}}}, True),
        ({"image": {"format": "png", "source": {"bytes": "eA=="}}}, True),
        ({"document": {"format": "pdf", "source": {"s3Location": {"uri": "s3://b/k"}}}}, True),
        ({"video": {}}, True),
        ({"somethingNew": {}}, True),
    ],
)
@pytest.mark.parametrize("place", ["messages", "system"])
def test_whether_the_bytes_bound_the_tokens(block: dict[str, Any], open_ended: bool, place: str) -> None:
    body: dict[str, Any] = {"system": [block]} if place == "system" else {"messages": [{"content": [block]}]}
    assert understood(body).open_ended is open_ended


def test_a_stored_prompt_has_text_that_is_in_no_request() -> None:
    assert understood({}, "arn:aws:bedrock:us-east-1:1:prompt/P1:2").open_ended


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages": [',
        b'{"a":1,"a":2}',
        b"\xff",
        b'{"inferenceConfig": 3}',
        b'{"inferenceConfig": {"maxTokens": "many"}}',
        b'{"requestMetadata": {"a": 1}}',
        b'{"requestMetadata": "x"}',
        b'{"additionalModelRequestFields": []}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        Converse().read(body, Place(params={"model": MODEL}))


@pytest.mark.parametrize(
    ("model_id", "wanted", "path"),
    [
        (MODEL, MODEL, "/model/us.anthropic.claude-opus-4-8-v1%3A0/converse-stream"),
        (
            ARN,
            MODEL,
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2F"
            "us.anthropic.claude-opus-4-8-v1%3A0/converse-stream",
        ),
        (ARN, "amazon.nova-lite-v1:0", "/model/amazon.nova-lite-v1%3A0/converse-stream"),
    ],
)
def test_the_model_that_is_asked(model_id: str, wanted: str, path: str) -> None:
    request = understood(SAID, model_id, stream=True)
    assert request.model == MODEL
    outgoing = Converse(stream=True).outgoing(request, wanted)
    assert outgoing.path == path
    assert outgoing.body is request.body, "nothing must change, so nothing does"


def test_labels_go_into_the_request_metadata() -> None:
    body = b'{ "messages" : [] , "n": 1.50 }'
    request = Converse().read(body, Place(params={"model": MODEL}))
    sent = Converse().outgoing(request, MODEL, LABELS).body
    assert json.loads(sent)["requestMetadata"] == LABELS
    assert sent.endswith(b' "messages" : [] , "n": 1.50 }')


@pytest.mark.parametrize("own", [None, {}, {"team": "pretended", "x": "1"}, {f"k{n}": "v" for n in range(20)}])
def test_labels_come_before_the_callers_own_pairs(own: dict[str, str] | None) -> None:
    request = understood({**SAID, "requestMetadata": own})
    sent = json.loads(Converse().outgoing(request, MODEL, LABELS).body)["requestMetadata"]
    assert sent | LABELS == sent
    assert len(sent) <= METADATA_PAIRS_MAX
    kept = [name for name in own or {} if name not in LABELS][: METADATA_PAIRS_MAX - len(LABELS)]
    assert list(sent)[len(LABELS) :] == kept


def test_labels_fit_what_aws_takes() -> None:
    request = understood(SAID)
    sent = Converse().outgoing(request, MODEL, {"owner": "Zoë & Co (x)\n", "team": "t" * 400}).body
    assert json.loads(sent)["requestMetadata"] == {"owner": "Zo_ _ Co _x_\n", "team": "t" * 256}


def test_a_whole_reply() -> None:
    content = [{"text": "Hé"}, {"toolUse": {"name": "find", "input": {"a": 1}}}]
    content.append({"reasoningContent": {"reasoningText": {"text": "hmm"}}})
    body = {
        "output": {"message": {"content": content}},
        "usage": USAGE,
        "serviceTier": {"type": "priority"},
        "performanceConfig": {"latency": "optimized"},
    }
    assert whole(body) == Reading(
        work=(Work(model=MODEL, usage=READ, largest_input_tokens=27),),
        complete=True,
        tier="priority",
        speed="optimized",
        generated_bytes=GENERATED,
    )


def test_bought_capacity_is_told_by_the_id() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:provisioned-model/a1"
    assert whole({"output": {}, "usage": USAGE, "serviceTier": {"type": "default"}}, arn).tier == "provisioned"
    assert understood(SAID, arn).tier == "provisioned"


def test_a_prompt_router_says_whom_it_asked() -> None:
    router = "arn:aws:bedrock:us-east-1:1:default-prompt-router/anthropic.claude:1"
    asked = "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-pro-v1:0"
    reading = whole({"output": {}, "usage": USAGE, "trace": {"promptRouter": {"invokedModelId": asked}}}, router)
    assert reading.work[0].model == reading.response_model == "us.amazon.nova-pro-v1:0"
    assert whole({"output": {}, "usage": USAGE}, router).work[0].model == router


@pytest.mark.parametrize(
    ("body", "notes"),
    [
        (b"<html>", ("body_not_json",)),
        (b"[1]", ("body_unexpected", "usage_absent")),
        (b'{"output": {"message"', ("body_not_json",)),
        (b'{"output": {}}', ("usage_absent",)),
        (b'{"output": {}, "usage": 7}', ("usage_malformed",)),
        (b'{"output": {}, "usage": {"inputTokens": 1e400, "outputTokens": 2}}', ("usage_malformed", "usage_partial")),
        (b'{"output": [], "trace": [], "serviceTier": 3, "performanceConfig": "x"}', ("usage_absent",)),
        (b'{"a":' * 20_000, ("body_not_json",)),
        (b"\xff\xfe", ("body_not_json",)),
    ],
)
def test_replies_that_say_nothing(body: bytes, notes: tuple[str, ...]) -> None:
    reading = whole(body)
    assert not reading.complete
    assert reading.notes == notes


def test_an_error_body_with_success() -> None:
    request = understood(SAID)
    reading = Converse().whole(request, b'{"message":"x"}', {"x-amzn-errortype": "ThrottlingException:http://x"})
    assert (reading.error_code, reading.complete) == ("ThrottlingException", False)


def test_a_stream_however_it_arrives() -> None:
    expected = Reading(
        work=(Work(model=MODEL, usage=READ, largest_input_tokens=27),),
        complete=True,
        tier="flex",
        generated_bytes=GENERATED,
    )
    for step in (0, *range(1, 120, 7)):
        assert read(STREAM, step=step) == expected


def test_a_stream_cut_at_any_byte_is_never_complete() -> None:
    data = b"".join(STREAM)
    ends = {sum(map(len, STREAM[:number])) for number in range(len(STREAM) + 1)}
    for cut in range(len(data)):
        reader = Converse(stream=True).stream_reader(understood(SAID))
        assert reader.feed(data[:cut]) + reader.rest() == data[:cut]
        reading = reader.reading()
        assert not reading.complete and not reader.ended
        assert ("cut_mid_event" in reading.notes) is (cut not in ends)


def test_it_ends_with_its_metadata() -> None:
    reader = Converse(stream=True).stream_reader(understood(SAID))
    for frame in STREAM:
        assert not reader.ended
        reader.feed(frame)
    assert reader.ended


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({":message-type": "exception", ":exception-type": "throttlingException"}, "throttlingException"),
        ({":message-type": "error", ":error-code": "500", ":error-message": "x"}, "500"),
        ({":message-type": "exception"}, "provider_error"),
    ],
)
def test_an_exception_inside_the_stream(headers: dict[str, str], code: str) -> None:
    reading = read([*STREAM[:2], encode(headers, b'{"message":"Too many"}')])
    assert (reading.error_code, reading.complete) == (code, False)
    assert reading.notes == ("error_in_stream", "usage_absent")
    assert reading.generated_bytes == 3


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (event("contentBlockDelta", {"delta": 3}), None),
        (event("somethingNew", {"a": 1}), None),
        (encode({":event-type": "contentBlockDelta", ":message-type": "event"}, b"{"), "event_malformed"),
        (encode({":event-type": "contentBlockDelta", ":message-type": "event"}, b"[]"), "event_malformed"),
        (encode({":event-type": "contentBlockDelta", ":message-type": "event"}, b"[" * 99_999), "event_malformed"),
        (STREAM[1][:-1] + b"!", "frame_damaged"),
        (STREAM[-1], "usage_repeated"),
    ],
)
def test_odd_frames_are_passed_on(frame: bytes, note: str | None) -> None:
    reading = read([*STREAM[:2], frame, *STREAM[2:]])
    assert reading.notes == (() if note is None else (note,))
    assert reading.complete


def test_what_aws_says_of_our_credential_is_not_shown() -> None:
    request = understood(SAID)
    secret = b'{"message":"User: arn:aws:sts::123456789012:assumed-role/gateway is not authorized"}'
    assert b"arn:aws" not in Converse().shown(request, 403, secret)
    assert Converse().shown(request, 400, secret) is secret
    assert b"arn:aws" not in CountTokens().shown(request, 403, secret)


def test_counting_tokens_is_free() -> None:
    operation = CountTokens()
    request = operation.read(b'{"input":{}}', Place(params={"model": ARN}))
    assert (request.free, request.operation, request.model) == (True, "count_tokens", MODEL)
    assert operation.outgoing(request, MODEL, LABELS).body is request.body
    assert operation.outgoing(request, MODEL).path.endswith(f"{MODEL.replace(':', '%3A')}/count-tokens")
    assert operation.whole(request, b'{"inputTokens": 12}') == Reading(complete=True)
    assert operation.whole(request, b"{}").error_code == "provider_error"
    assert operation.whole(request, b"[]").notes == ("body_unexpected",)
    assert operation.whole(request, b"{").notes == ("body_not_json",)
    with pytest.raises(BodyInvalid):
        operation.read(b"", Place(params={"model": MODEL}))
