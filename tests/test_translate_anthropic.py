"""The neutral form at Anthropic: requests as the `anthropic` package's types take them, answers and streams read."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from anthropic.types import Message
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import claude
from costbearer.dialects.base import NOTHING, Reading
from costbearer.dialects.neutral import LOST, Event, Fault, Finished, Said
from costbearer.dialects.translate_anthropic import FINISHES, Events, Speech, answer
from costbearer.dialects.translate_openai import ask
from costbearer.dialects.translate_openai_answer import Chunks, completion
from costbearer.errors import BodyInvalid
from tests.chats import PAPER, PIXEL, SCHEMA, chats
from tests.test_translate_openai import assembled
from tests.typed import misfit

SPEECH = Speech()
MODEL = "claude-sonnet-4-6"
HELLO = {"role": "user", "content": "Hello"}
NOT_IN_THE_TYPES = {"temperature", "top_p"}
"""Members that the API takes of older models, which the newest types leave out."""


def sent(_model: str = MODEL, **members: Any) -> dict[str, Any]:
    request = {"model": "any", "messages": [HELLO], **members}
    outgoing = SPEECH.outgoing(ask(json.dumps(request).encode(), SPEECH.name), _model)
    assert outgoing.path == "/v1/messages"
    assert outgoing.headers == (("anthropic-version", "2023-06-01"),)
    body: dict[str, Any] = json.loads(outgoing.body)
    return body


def accepted(body: dict[str, Any]) -> None:
    """The package's types take the body and know every member of it."""
    known = {name: value for name, value in body.items() if name not in NOT_IN_THE_TYPES}
    kind = MessageCreateParamsStreaming if known.get("stream") else MessageCreateParamsNonStreaming
    assert misfit(known, kind) is None


@settings(max_examples=60, deadline=None)
@given(chats(), st.sampled_from([MODEL, "claude-opus-4-5", "claude-haiku-4-5"]))
def test_every_request_is_one_that_the_types_take(request: dict[str, Any], model: str) -> None:
    body = sent(model, **request)
    accepted(body)
    roles = [message["role"] for message in body["messages"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))


DATA = {"type": "base64", "media_type": "image/png", "data": PIXEL}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}
NATIVE_TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}
CALLS = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"port":"Kiel"}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
    {"role": "tool", "tool_call_id": "c2", "content": "2"},
]

SENT: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("the least", {}, {"max_tokens": claude.LIMIT, "messages": [HELLO]}),
    ("a limit", {"max_tokens": 5}, {"max_tokens": 5}),
    (
        "instructions",
        {"messages": [{"role": "system", "content": "A"}, HELLO, {"role": "developer", "content": "B"}]},
        {"system": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}], "messages": [HELLO]},
    ),
    ("one instruction", {"messages": [{"role": "system", "content": "A"}, HELLO]}, {"system": "A"}),
    (
        "pictures",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": DATA},
                        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    ],
                }
            ]
        },
    ),
    (
        "files and caches",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "file",
                            "file": {"file_data": f"data:application/pdf;base64,{PAPER}", "filename": "a.pdf"},
                            "cache_control": {"type": "ephemeral", "ttl": "1h"},
                        },
                        {"type": "file", "file": {"file_data": "data:text/plain;base64,QWhveQ=="}},
                        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": PAPER},
                            "title": "a.pdf",
                            "cache_control": {"type": "ephemeral", "ttl": "1h"},
                        },
                        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Ahoy"}},
                        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
                    ],
                }
            ]
        },
    ),
    (
        "parallel calls and their results in one turn",
        {"messages": [HELLO, CALLS, *RESULTS, HELLO], "tools": [TOOL]},
        {
            "messages": [
                HELLO,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me see."},
                        {"type": "tool_use", "id": "c1", "name": "f", "input": {"port": "Kiel"}},
                        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                        {"type": "tool_result", "tool_use_id": "c2", "content": "2"},
                        {"type": "text", "text": "Hello"},
                    ],
                },
            ],
            "tools": [NATIVE_TOOL],
        },
    ),
    ("any tool", {"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
    ("no tool", {"tools": [TOOL], "tool_choice": "none"}, {"tool_choice": {"type": "none"}}),
    (
        "one tool",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
    ),
    (
        "one call at a time",
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    (
        "a tool without parameters",
        {"tools": [{"type": "function", "function": {"name": "g"}}]},
        {"tools": [{"name": "g", "input_schema": {"type": "object", "properties": {}}}]},
    ),
    (
        "a form of answer",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    (
        "a form of answer with its description",
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA, "description": "D"},
            }
        },
        {"output_config": {"format": {"type": "json_schema", "schema": {**SCHEMA, "description": "D"}}}},
    ),
    (
        "effort",
        {"reasoning_effort": "minimal"},
        {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
    ),
    ("no effort", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    (
        "sampling",
        {"temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "service_tier": "default", "stream": True},
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "stop_sequences": ["a", "b"],
            "service_tier": "standard_only",
            "stream": True,
        },
    ),
]


@pytest.mark.parametrize(("members", "expected"), [row[1:] for row in SENT], ids=[row[0] for row in SENT])
def test_what_is_sent(members: dict[str, Any], expected: dict[str, Any]) -> None:
    body = sent(**members)
    assert {name: body.get(name) for name in expected} == expected
    accepted(body)


THINKING: list[tuple[str, str, int | None, dict[str, Any]]] = [
    ("claude-sonnet-4-5", "low", None, {"type": "enabled", "budget_tokens": 1_024}),
    ("claude-sonnet-4-5-20250929", "medium", None, {"type": "enabled", "budget_tokens": 8_192}),
    ("claude-opus-4-1-20250805", "high", None, {"type": "enabled", "budget_tokens": 24_576}),
    ("claude-sonnet-4-20250514", "high", 2_000, {"type": "enabled", "budget_tokens": 1_999}),
    ("claude-3-7-sonnet-latest", "max", None, {"type": "enabled", "budget_tokens": 63_999}),
    ("claude-opus-4-6", "high", None, {"type": "adaptive", "display": "summarized"}),
    ("claude-opus-5-5", "xhigh", None, {"type": "adaptive", "display": "summarized"}),
    ("claude-fable-5-2", "max", None, {"type": "adaptive", "display": "summarized"}),
]


@pytest.mark.parametrize(("model", "effort", "limit", "thinking"), THINKING)
def test_effort_by_model(model: str, effort: str, limit: int | None, thinking: dict[str, Any]) -> None:
    body = sent(model, reasoning_effort=effort, **({} if limit is None else {"max_tokens": limit}))
    assert body["thinking"] == thinking
    assert body.get("output_config") == ({"effort": effort} if thinking["type"] == "adaptive" else None)
    accepted(body)


LIMITS = [
    ("claude-3-haiku-20240307", 4_096),
    ("claude-3-5-sonnet-20241022", 8_192),
    ("claude-opus-4-20250514", 32_000),
    ("claude-opus-4-1", 32_000),
    ("claude-opus-4-5", 64_000),
    ("claude-sonnet-4-6", 64_000),
    ("claude-next", 64_000),
]


@pytest.mark.parametrize(("model", "limit"), LIMITS)
def test_a_limit_is_always_sent(model: str, limit: int) -> None:
    assert sent(model)["max_tokens"] == limit


def test_models_that_do_not_think_are_not_told_to_stop() -> None:
    assert "thinking" not in sent("claude-3-5-haiku-latest", reasoning_effort="none")


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("seed", {"seed": 1}),
    ("frequency_penalty", {"frequency_penalty": 0.1}),
    ("presence_penalty", {"presence_penalty": -1}),
    ("temperature", {"temperature": 1.5}),
    ("service_tier", {"service_tier": "flex"}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("reasoning_effort", {"reasoning_effort": "high", "model": "claude-3-5-haiku-latest"}),
    ("reasoning_effort", {"reasoning_effort": "high", "model": "claude-sonnet-4-5", "max_tokens": 1_024}),
    ("input_audio", {"messages": user({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})}),
    ("image_url.url", {"messages": user({"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}})}),
    ("image_url.url", {"messages": user({"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}})}),
    ("file.file_data", {"messages": user({"type": "file", "file": {"file_data": "data:text/csv;base64,AAAA"}})}),
    ("file.file_data", {"messages": user({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}})}),
]


@pytest.mark.parametrize(("named", "members"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_asked_is_refused_by_name(named: str, members: dict[str, Any]) -> None:
    with pytest.raises(BodyInvalid) as refused:
        sent(members.get("model", MODEL), **members)
    assert named in refused.value.message
    assert "Anthropic" in refused.value.message


# -- answers

THINKS = {"type": "thinking", "thinking": "Kiel or Lübeck?", "signature": "c2ln"}
SEALED = {"type": "redacted_thinking", "data": "c2VhbGVk"}
SAYS = {"type": "text", "text": "Let me look. ⚓"}
USES = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"port": "Kiel", "depth_m": 4.5}}
USES_TOO = {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}}
CONTENT: list[dict[str, Any]] = [THINKS, SEALED, SAYS, USES, USES_TOO]


def message(content: list[dict[str, Any]], stop_reason: str = "end_turn", **more: Any) -> bytes:
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 7},
        **more,
    }
    Message.model_validate(body)
    return json.dumps(body).encode()


def same_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A message with the arguments of its calls decoded: white space in them is the provider's."""
    for call in message.get("tool_calls", []):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return message


def as_openai(body: bytes) -> dict[str, Any]:
    found = answer(body)
    assert not isinstance(found, Fault)
    made = json.loads(completion(found, Reading(), answer_id="x", model="x", created=1))
    choice: dict[str, Any] = made["choices"][0]
    return choice


def test_an_answer_given_back_is_what_the_model_said() -> None:
    """Through OpenAI's shape and back: the blocks, their order and the signatures are the same."""
    choice = as_openai(message(CONTENT, "tool_use"))
    results = [{"role": "tool", "tool_call_id": f"toolu_{n}", "content": "ok"} for n in (1, 2)]
    body = sent(messages=[HELLO, choice["message"], *results], tools=[TOOL])
    assert body["messages"][1] == {"role": "assistant", "content": CONTENT}


def test_reasoning_of_another_maker_is_not_sent_back() -> None:
    details = [{"type": "reasoning.text", "text": "x", "signature": "y", "format": "google-gemini-v1"}]
    body = sent(messages=[HELLO, {"role": "assistant", "content": "z", "reasoning_details": details}, HELLO])
    assert body["messages"][1] == {"role": "assistant", "content": "z"}


@pytest.mark.parametrize(("native", "expected"), FINISHES.items())
def test_finish_reasons(native: str, expected: str) -> None:
    choice = as_openai(message([SAYS], native))
    assert (choice["finish_reason"], choice["native_finish_reason"]) == (expected, native)


def test_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    choice = as_openai(message([], "refusal", stop_details=details))
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "Not this."}


ERROR = {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down"}, "request_id": "req_1"}


def test_errors_keep_their_own_words() -> None:
    expected = Fault("rate_limit_error", "rate_limit_error", "Slow down")
    assert SPEECH.fault(429, json.dumps(ERROR).encode()) == expected
    assert answer(json.dumps(ERROR).encode()) == expected
    assert SPEECH.fault(500, b"[]").message == ""


# -- streams


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return b"".join(
        (
            event("content_block_start", index=index, content_block=start),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        )
    )


def arguments(text: str) -> dict[str, Any]:
    return {"type": "input_json_delta", "partial_json": text}


STARTED = {
    "id": "msg_1",
    "model": MODEL,
    "role": "assistant",
    "content": [],
    "usage": {"input_tokens": 5, "output_tokens": 1},
}
STREAM = b"".join(
    (
        event("message_start", message=STARTED),
        event("ping"),
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Kiel or "},
            {"type": "thinking_delta", "thinking": "Lübeck?"},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        block(1, SEALED),
        block(
            2,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Let me "},
            {"type": "text_delta", "text": "look. ⚓"},
        ),
        block(
            3,
            {**USES, "input": {}},
            arguments(""),
            arguments('{"port":"Kiel",'),
            arguments('"depth_m":4.5}'),
        ),
        block(4, USES_TOO),
        event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3}),
        event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 7}),
        event("message_stop"),
    )
)


def told(*pieces: bytes) -> list[Event]:
    events = Events()
    return [event for piece in pieces for event in events.feed(piece)] + events.rest()


def test_a_stream_makes_the_same_message_as_the_whole() -> None:
    made = Chunks(answer_id="x", model="x", created=1, wants_usage=False)
    text = b"".join(made.of(event) for event in told(STREAM)) + made.end(Reading())
    chunks = [json.loads(line[6:]) for line in text.split(b"\n\n")[:-2]]
    assert same_calls(assembled(chunks)) == same_calls(as_openai(message(CONTENT, "tool_use"))["message"])
    assert chunks[0]["id"] == "msg_1"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_in_pieces_tells_the_same(size: int) -> None:
    assert told(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == told(STREAM)


def test_an_error_in_a_stream() -> None:
    found = told(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    assert found == [Fault("overloaded_error", "overloaded_error", "Overloaded")]


def test_a_refusal_in_a_stream() -> None:
    delta = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": "No."}}
    assert told(event("message_delta", delta=delta)) == [Finished("content_filter", "refusal", "No.")]


BROKEN = [
    b"data: {\n\n",
    b'data: {"type":"content_block_start","index":0,"content_block":[]}\n\n',
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xff"}}\n\n',
    b"data: " + b"[" * 100_000 + b"\n\n",
]


@pytest.mark.parametrize("damaged", BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_is_an_error_and_not_a_hole(damaged: bytes) -> None:
    assert told(damaged) == [LOST]


ODD = [
    {"type": "content_block_delta", "index": "0", "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_delta", "index": 0, "delta": None},
    {"type": "content_block_stop", "index": []},
    {"type": "message_delta", "delta": 3},
    {"type": 7},
    {},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_events_tell_nothing_and_break_nothing(odd: dict[str, Any]) -> None:
    assert told(f"data: {json.dumps(odd)}\n\n".encode()) == []


def test_text_of_the_wrong_type_is_no_text() -> None:
    delta = {"type": "text_delta", "text": {"a": 1}}
    assert told(event("content_block_delta", index=0, delta=delta)) == [Said("")]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_never_raise(data: bytes) -> None:
    told(b"data: " + data + b"\n\n", data)


def test_labels_are_not_sent() -> None:
    request = ask(json.dumps({"model": "m", "messages": [HELLO]}).encode(), "Anthropic")
    assert SPEECH.outgoing(request, MODEL, {"team": "x"}) == SPEECH.outgoing(request, MODEL, NOTHING)
