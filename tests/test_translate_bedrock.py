"""The neutral form at Bedrock: requests as botocore's service model takes them, answers and streams read."""

from __future__ import annotations

import base64
import json
from functools import cache
from itertools import pairwise
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import eventstream
from costbearer.dialects.base import Reading
from costbearer.dialects.neutral import LOST, Event, Fault
from costbearer.dialects.translate_bedrock import FINISHES, Events, Speech, answer
from costbearer.dialects.translate_openai import ask
from costbearer.dialects.translate_openai_answer import Chunks, completion
from costbearer.errors import BodyInvalid
from tests.chats import PAPER, PIXEL, SCHEMA, chats
from tests.test_translate_openai import assembled

SPEECH = Speech()
CLAUDE = "us.anthropic.claude-sonnet-4-6"
NOVA = "us.amazon.nova-2-lite-v1:0"
HELLO = {"role": "user", "content": "Hello"}
NATIVE_HELLO = {"role": "user", "content": [{"text": "Hello"}]}
BLOBS = {"bytes", "redactedContent"}


@cache
def input_shape() -> Any:
    return botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape


def sent(_model: str = CLAUDE, **members: Any) -> dict[str, Any]:
    request = {"model": "any", "messages": [HELLO], **members}
    outgoing = SPEECH.outgoing(ask(json.dumps(request).encode(), SPEECH.name), _model)
    action = "converse-stream" if members.get("stream") else "converse"
    assert outgoing.path == f"/model/{_model.replace(':', '%3A')}/{action}"
    body: dict[str, Any] = json.loads(outgoing.body)
    return body


def as_parameters(value: Any) -> Any:
    """A body as boto3's caller would give it: binary data as bytes."""
    if isinstance(value, dict):
        return {
            name: base64.b64decode(item, validate=True) if name in BLOBS else as_parameters(item)
            for name, item in value.items()
        }
    return [as_parameters(item) for item in value] if isinstance(value, list) else value


def accepted(body: dict[str, Any]) -> None:
    """The service model takes the body."""
    report = ParamValidator().validate({"modelId": CLAUDE, **as_parameters(body)}, input_shape())
    assert not report.has_errors(), report.generate_report()


@settings(max_examples=60, deadline=None)
@given(chats(), st.sampled_from([CLAUDE, NOVA]))
def test_every_request_is_one_that_the_service_model_takes(request: dict[str, Any], model: str) -> None:
    body = sent(model, **request)
    accepted(body)
    roles = [message["role"] for message in body["messages"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))


def test_the_service_model_refuses_what_it_does_not_know() -> None:
    with pytest.raises(AssertionError, match="Unknown parameter"):
        accepted({"messages": [{"role": "user", "content": [{"texts": "a"}]}]})


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def contents(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
    "cache_control": {"type": "ephemeral", "ttl": "1h"},
}
NATIVE_TOOLS = [
    {"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": SCHEMA}, "strict": True}},
    {"cachePoint": {"type": "default", "ttl": "1h"}},
]
NAMED = {"type": "function", "function": {"name": "f"}}
CALLS = {
    "role": "assistant",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"port":"Kiel"}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
    {"role": "tool", "tool_call_id": "c2", "content": []},
]
FORM = {"type": "json_schema", "json_schema": {"name": "n", "description": "D", "schema": SCHEMA}}

SENT: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("the least", CLAUDE, {}, {"messages": [NATIVE_HELLO], "inferenceConfig": None, "toolConfig": None}),
    (
        "instructions and caches",
        CLAUDE,
        {
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}],
                },
                HELLO,
            ]
        },
        {"system": [{"text": "A"}, {"cachePoint": {"type": "default"}}], "messages": [NATIVE_HELLO]},
    ),
    (
        "pictures",
        CLAUDE,
        {
            "messages": user(
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PIXEL}"}},
                {"type": "image_url", "image_url": {"url": "s3://bucket/a.jpg"}},
            )
        },
        contents(
            {"image": {"format": "jpeg", "source": {"bytes": PIXEL}}},
            {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.jpg"}}}},
        ),
    ),
    (
        "sound and paper",
        NOVA,
        {
            "messages": user(
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {
                    "type": "file",
                    "file": {"file_data": f"data:application/pdf;base64,{PAPER}", "filename": "a_b  (1).pdf"},
                },
                {"type": "file", "file": {"file_data": "data:text/markdown;base64,QWhveQ==", "filename": "é"}},
            )
        },
        contents(
            {"audio": {"format": "wav", "source": {"bytes": "AAAA"}}},
            {"document": {"format": "pdf", "name": "a-b (1)-pdf", "source": {"bytes": PAPER}}},
            {"document": {"format": "md", "name": "-", "source": {"bytes": "QWhveQ=="}}},
        ),
    ),
    (
        "parallel calls and their results",
        CLAUDE,
        {"messages": [HELLO, CALLS, *RESULTS], "tools": [TOOL]},
        {
            "messages": [
                NATIVE_HELLO,
                {
                    "role": "assistant",
                    "content": [
                        {"toolUse": {"toolUseId": "c1", "name": "f", "input": {"port": "Kiel"}}},
                        {"toolUse": {"toolUseId": "c2", "name": "g", "input": {}}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"toolResult": {"toolUseId": "c1", "content": [{"text": "1"}]}},
                        {"toolResult": {"toolUseId": "c2", "content": [{"text": ""}]}},
                    ],
                },
            ],
            "toolConfig": {"tools": NATIVE_TOOLS},
        },
    ),
    (
        "any tool",
        CLAUDE,
        {"tools": [TOOL], "tool_choice": "required"},
        {"toolConfig": {"tools": NATIVE_TOOLS, "toolChoice": {"any": {}}}},
    ),
    (
        "one tool",
        CLAUDE,
        {"tools": [TOOL], "tool_choice": NAMED},
        {"toolConfig": {"tools": NATIVE_TOOLS, "toolChoice": {"tool": {"name": "f"}}}},
    ),
    (
        "a choice",
        CLAUDE,
        {"tools": [TOOL], "tool_choice": "auto"},
        {"toolConfig": {"tools": NATIVE_TOOLS, "toolChoice": {"auto": {}}}},
    ),
    ("no tool", CLAUDE, {"tools": [TOOL], "tool_choice": "none"}, {"toolConfig": None}),
    (
        "a form of answer",
        CLAUDE,
        {"response_format": FORM},
        {
            "outputConfig": {
                "textFormat": {
                    "type": "json_schema",
                    "structure": {"jsonSchema": {"name": "n", "description": "D", "schema": json.dumps(SCHEMA)}},
                }
            }
        },
    ),
    (
        "sampling",
        CLAUDE,
        {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "service_tier": "fast", "stream": True},
        {
            "inferenceConfig": {"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["x"]},
            "serviceTier": {"type": "priority"},
        },
    ),
    (
        "Claude's effort",
        CLAUDE,
        {"reasoning_effort": "high"},
        {
            "additionalModelRequestFields": {
                "thinking": {"type": "adaptive", "display": "summarized"},
                "output_config": {"effort": "high"},
            }
        },
    ),
    (
        "an older Claude's budget",
        "anthropic.claude-3-7-sonnet-20250219-v1:0",
        {"reasoning_effort": "low"},
        {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}}},
    ),
    (
        "Nova's effort",
        NOVA,
        {"reasoning_effort": "medium"},
        {"additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}}},
    ),
    (
        "no effort",
        NOVA,
        {"reasoning_effort": "none"},
        {"additionalModelRequestFields": {"reasoningConfig": {"type": "disabled"}}},
    ),
    (
        "an open model's effort",
        "openai.gpt-oss-120b-1:0",
        {"reasoning_effort": "low"},
        {"additionalModelRequestFields": {"reasoning_effort": "low"}},
    ),
]


@pytest.mark.parametrize(("model", "members", "expected"), [row[1:] for row in SENT], ids=[row[0] for row in SENT])
def test_what_is_sent(model: str, members: dict[str, Any], expected: dict[str, Any]) -> None:
    body = sent(model, **members)
    assert {name: body.get(name) for name in expected} == expected
    accepted(body)


def test_the_verified_labels_go_into_the_metadata() -> None:
    request = ask(json.dumps({"model": "m", "messages": [HELLO]}).encode(), SPEECH.name)
    body = json.loads(SPEECH.outgoing(request, CLAUDE, {"team": "search", "owner": "ada!"}).body)
    assert body["requestMetadata"] == {"team": "search", "owner": "ada_"}
    accepted(body)


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("seed", CLAUDE, {"seed": 1}),
    ("frequency_penalty", CLAUDE, {"frequency_penalty": 1}),
    ("presence_penalty", CLAUDE, {"presence_penalty": 1}),
    ("temperature", CLAUDE, {"temperature": 1.1}),
    ("parallel_tool_calls", CLAUDE, {"tools": [TOOL], "parallel_tool_calls": False}),
    ("tool_choice", CLAUDE, {"messages": [HELLO, CALLS, *RESULTS], "tools": [TOOL], "tool_choice": "none"}),
    ("service_tier", CLAUDE, {"service_tier": "scale"}),
    ("response_format", CLAUDE, {"response_format": {"type": "json_object"}}),
    ("reasoning_effort", "meta.llama4-maverick-17b-instruct-v1:0", {"reasoning_effort": "high"}),
    ("reasoning_effort", NOVA, {"reasoning_effort": "max"}),
    ("image_url.url", CLAUDE, {"messages": user({"type": "image_url", "image_url": {"url": "https://a/b.png"}})}),
    (
        "image_url.url",
        CLAUDE,
        {"messages": user({"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AA"}})},
    ),
    ("file.file_data", CLAUDE, {"messages": user({"type": "file", "file": {"file_data": "data:video/mp4;base64,AA"}})}),
]


@pytest.mark.parametrize(("named", "model", "members"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_what_cannot_be_asked_is_refused_by_name(named: str, model: str, members: dict[str, Any]) -> None:
    with pytest.raises(BodyInvalid) as refused:
        sent(model, **members)
    assert named in refused.value.message
    assert "Bedrock" in refused.value.message


# -- answers

THINKS = {"reasoningContent": {"reasoningText": {"text": "Kiel or Lübeck?", "signature": "c2ln"}}}
SEALED = {"reasoningContent": {"redactedContent": "c2VhbGVk"}}
SAYS = {"text": "Let me look. ⚓"}
USES = {"toolUse": {"toolUseId": "tooluse_1", "name": "f", "input": {"port": "Kiel"}}}
USES_TOO = {"toolUse": {"toolUseId": "tooluse_2", "name": "g", "input": {}}}
CONTENT: list[dict[str, Any]] = [THINKS, SEALED, SAYS, USES, USES_TOO]


def reply(content: list[dict[str, Any]], reason: str = "end_turn") -> bytes:
    return json.dumps({"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason}).encode()


def as_openai(body: bytes) -> dict[str, Any]:
    found = answer(body)
    assert not isinstance(found, Fault)
    made = json.loads(completion(found, Reading(), answer_id="x", model="x", created=1))
    choice: dict[str, Any] = made["choices"][0]
    return choice


def test_an_answer_given_back_is_what_the_model_said() -> None:
    """Through OpenAI's shape and back: the blocks, their order and the signatures are the same."""
    choice = as_openai(reply(CONTENT, "tool_use"))
    results = [{"role": "tool", "tool_call_id": f"tooluse_{n}", "content": "ok"} for n in (1, 2)]
    body = sent(messages=[HELLO, choice["message"], *results], tools=[TOOL])
    assert body["messages"][1] == {"role": "assistant", "content": CONTENT}
    accepted(body)


@pytest.mark.parametrize(("native", "expected"), [*FINISHES.items(), ("malformed_tool_use", "stop")])
def test_finish_reasons(native: str, expected: str) -> None:
    choice = as_openai(reply([SAYS], native))
    assert (choice["finish_reason"], choice["native_finish_reason"]) == (expected, native)


def test_cited_text_and_pictures() -> None:
    cited = {"citationsContent": {"content": [{"text": "As "}, {"text": "told."}], "citations": []}}
    shown = {"image": {"format": "png", "source": {"bytes": PIXEL}}}
    message = as_openai(reply([cited, shown]))["message"]
    assert message["content"] == "As told."
    assert message["images"][0]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"


ERRORS = [
    (429, {"message": "Slow down"}, Fault("ThrottlingException", "ThrottlingException", "Slow down")),
    (400, {"Message": "Bad"}, Fault("ValidationException", "ValidationException", "Bad")),
    (400, {"__type": "com.amazon#Odd", "message": "x"}, Fault("Odd", "Odd", "x")),
    (418, {}, Fault("provider_error", "provider_error", "")),
]


@pytest.mark.parametrize(("status", "body", "expected"), ERRORS)
def test_errors_keep_their_own_words(status: int, body: dict[str, Any], expected: Fault) -> None:
    assert SPEECH.fault(status, json.dumps(body).encode()) == expected


# -- streams


def frame(kind: str, **body: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return eventstream.encode(headers, json.dumps({"p": "abc", **body}).encode())


def block(index: int, start: dict[str, Any] | None, *deltas: dict[str, Any]) -> bytes:
    begun = b"" if start is None else frame("contentBlockStart", contentBlockIndex=index, start=start)
    told = b"".join(frame("contentBlockDelta", contentBlockIndex=index, delta=delta) for delta in deltas)
    return begun + told + frame("contentBlockStop", contentBlockIndex=index)


def thinks(**delta: str) -> dict[str, Any]:
    return {"reasoningContent": delta}


STREAM = b"".join(
    (
        frame("messageStart", role="assistant"),
        block(0, None, thinks(text="Kiel or "), thinks(text="Lübeck?"), thinks(signature="c2ln")),
        block(1, None, thinks(redactedContent="c2VhbGVk")),
        block(2, None, {"text": "Let me "}, {"text": "look. ⚓"}),
        block(
            3,
            {"toolUse": {"toolUseId": "tooluse_1", "name": "f"}},
            {"toolUse": {"input": '{"port": '}},
            {"toolUse": {"input": '"Kiel"}'}},
        ),
        block(4, {"toolUse": {"toolUseId": "tooluse_2", "name": "g"}}),
        frame("messageStop", stopReason="tool_use"),
        frame("metadata", usage={"inputTokens": 5, "outputTokens": 7, "totalTokens": 12}),
    )
)


def told(*pieces: bytes) -> list[Event]:
    events = Events()
    return [event for piece in pieces for event in events.feed(piece)] + events.rest()


def test_a_stream_makes_the_same_message_as_the_whole() -> None:
    made = Chunks(answer_id="x", model="x", created=1, wants_usage=False)
    text = b"".join(made.of(event) for event in told(STREAM)) + made.end(Reading())
    chunks = [json.loads(line[6:]) for line in text.split(b"\n\n")[:-2]]
    assert assembled(chunks) == as_openai(reply(CONTENT, "tool_use"))["message"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_in_pieces_tells_the_same(size: int) -> None:
    assert told(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == told(STREAM)


def test_an_exception_in_a_stream() -> None:
    headers = {":message-type": "exception", ":exception-type": "throttlingException"}
    found = told(eventstream.encode(headers, b'{"message":"Slow down"}'))
    assert found == [Fault("throttlingException", "throttlingException", "Slow down")]


def test_an_error_that_only_its_headers_describe() -> None:
    headers = {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "Sorry"}
    assert told(eventstream.encode(headers, b"")) == [Fault("InternalFailure", "InternalFailure", "Sorry")]


DAMAGED = [STREAM[:-1], STREAM[:20] + b"!" + STREAM[21:], frame("contentBlockDelta")[:-5] + b"}{!!!"]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_what_cannot_be_read_is_an_error_and_not_a_hole(damaged: bytes) -> None:
    assert LOST in told(damaged)


@pytest.mark.parametrize("payload", [b"[]", b"{", b'"\xff"'])
def test_a_payload_that_is_no_object_is_an_error(payload: bytes) -> None:
    assert told(eventstream.encode({":event-type": "contentBlockDelta"}, payload)) == [LOST]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_never_raise(noise: bytes) -> None:
    told(noise, eventstream.encode({":event-type": "contentBlockDelta"}, noise))
