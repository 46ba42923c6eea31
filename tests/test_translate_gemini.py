"""The neutral form at Gemini: requests as the `google-genai` package's types take them, answers and streams read."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import Reading
from costbearer.dialects.neutral import LOST, Event, Fault, Finished
from costbearer.dialects.translate_gemini import FINISHES, UNSIGNED, Events, Speech, answer
from costbearer.dialects.translate_openai import ask
from costbearer.dialects.translate_openai_answer import Chunks, completion
from costbearer.errors import BodyInvalid
from tests.chats import PAPER, PIXEL, SCHEMA, chats
from tests.test_translate_openai import assembled

SPEECH = Speech()
MODEL = "gemini-2.5-flash"
LATER = "gemini-3-flash-preview"
HELLO = {"role": "user", "content": "Hello"}
NATIVE_HELLO = {"role": "user", "parts": [{"text": "Hello"}]}
MEMBERS: dict[str, Any] = {
    "systemInstruction": types.Content,
    "contents": types.Content,
    "tools": types.Tool,
    "toolConfig": types.ToolConfig,
    "generationConfig": types.GenerationConfig,
    "serviceTier": None,
}


def sent(_model: str = MODEL, **members: Any) -> dict[str, Any]:
    request = {"model": "any", "messages": [HELLO], **members}
    outgoing = SPEECH.outgoing(ask(json.dumps(request).encode(), SPEECH.name), _model)
    verb = "streamGenerateContent?alt=sse" if members.get("stream") else "generateContent"
    assert outgoing.path == f"/v1beta/models/{_model}:{verb}"
    body: dict[str, Any] = json.loads(outgoing.body)
    return body


def accepted(body: dict[str, Any]) -> None:
    """The package's types, which know no other members, take each member of the body."""
    for name, value in body.items():
        kind = MEMBERS[name]
        for item in value if isinstance(value, list) else [value]:
            if kind is None:
                types.ServiceTier(item)
            else:
                kind.model_validate_json(json.dumps(item))


@settings(max_examples=60, deadline=None)
@given(chats(), st.sampled_from([MODEL, LATER]))
def test_every_request_is_one_that_the_types_take(request: dict[str, Any], model: str) -> None:
    body = sent(model, **request)
    accepted(body)
    roles = [content["role"] for content in body["contents"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))


def test_the_types_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="extra"):
        accepted({"contents": [{"role": "user", "parts": [{"text": "a", "cache_control": {}}]}]})


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def contents(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def calling(**config: Any) -> dict[str, Any]:
    return {"toolConfig": {"functionCallingConfig": config}}


def config(**members: Any) -> dict[str, Any]:
    return {"generationConfig": members}


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True}}
NAMED = {"type": "function", "function": {"name": "f"}}
CALLS = {
    "role": "assistant",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"port":"Kiel"}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "c1", "content": '{"depth_m": 4.50}'},
    {"role": "tool", "tool_call_id": "c2", "content": "{rough"},
]
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}

SENT: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("the least", MODEL, {}, {"contents": [NATIVE_HELLO], "generationConfig": None, "tools": None}),
    (
        "instructions",
        MODEL,
        {"messages": [{"role": "developer", "content": "A"}, HELLO, {"role": "system", "content": "B"}]},
        {"systemInstruction": {"parts": [{"text": "A"}, {"text": "B"}]}, "contents": [NATIVE_HELLO]},
    ),
    (
        "a picture inside",
        MODEL,
        {"messages": user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}})},
        contents({"inlineData": {"mimeType": "image/png", "data": PIXEL}}),
    ),
    (
        "a picture elsewhere",
        MODEL,
        {"messages": user({"type": "image_url", "image_url": {"url": "https://example.com/a.JPG?x=1"}})},
        contents({"fileData": {"fileUri": "https://example.com/a.JPG?x=1", "mimeType": "image/jpeg"}}),
    ),
    (
        "a picture of unknown kind",
        MODEL,
        {"messages": user({"type": "image_url", "image_url": {"url": "https://example.com/a"}})},
        contents({"fileData": {"fileUri": "https://example.com/a"}}),
    ),
    (
        "sound and paper",
        MODEL,
        {
            "messages": user(
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PAPER}"}},
                {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            )
        },
        contents(
            {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}},
            {"inlineData": {"mimeType": "application/pdf", "data": PAPER}},
            {"text": "x"},
        ),
    ),
    (
        "parallel calls and their results",
        MODEL,
        {"messages": [HELLO, CALLS, *RESULTS], "tools": [TOOL]},
        {
            "contents": [
                NATIVE_HELLO,
                {
                    "role": "model",
                    "parts": [
                        {"functionCall": {"id": "c1", "name": "f", "args": {"port": "Kiel"}}},
                        {"functionCall": {"id": "c2", "name": "g", "args": {}}},
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {"functionResponse": {"id": "c1", "name": "f", "response": {"depth_m": 4.5}}},
                        {"functionResponse": {"id": "c2", "name": "g", "response": {"output": "{rough"}}},
                    ],
                },
            ],
            "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": SCHEMA}]}],
            "toolConfig": None,
        },
    ),
    ("any tool", MODEL, {"tools": [TOOL], "tool_choice": "required"}, calling(mode="ANY")),
    ("no tool", MODEL, {"tools": [TOOL], "tool_choice": "none"}, calling(mode="NONE")),
    ("one tool", MODEL, {"tools": [TOOL], "tool_choice": NAMED}, calling(mode="ANY", allowedFunctionNames=["f"])),
    ("a strict tool", MODEL, {"tools": [STRICT]}, calling(mode="VALIDATED")),
    ("a strict tool that must be called", MODEL, {"tools": [STRICT], "tool_choice": "required"}, calling(mode="ANY")),
    (
        "a form of answer",
        MODEL,
        {"response_format": FORM},
        config(responseMimeType="application/json", responseJsonSchema=SCHEMA),
    ),
    ("any object", MODEL, {"response_format": {"type": "json_object"}}, config(responseMimeType="application/json")),
    (
        "sampling",
        MODEL,
        {
            "max_tokens": 9,
            "temperature": 1.5,
            "top_p": 0.9,
            "seed": 3,
            "stop": "x",
            "frequency_penalty": 0.5,
            "presence_penalty": 0,
        },
        config(maxOutputTokens=9, temperature=1.5, topP=0.9, seed=3, stopSequences=["x"], frequencyPenalty=0.5),
    ),
    ("no thinking", MODEL, {"reasoning_effort": "none"}, config(thinkingConfig={"thinkingBudget": 0})),
    (
        "a budget",
        MODEL,
        {"reasoning_effort": "medium"},
        config(thinkingConfig={"thinkingBudget": 8192, "includeThoughts": True}),
    ),
    (
        "a level",
        LATER,
        {"reasoning_effort": "minimal"},
        config(thinkingConfig={"thinkingLevel": "MINIMAL", "includeThoughts": True}),
    ),
    (
        "a level of the newest",
        "gemini-flash-latest",
        {"reasoning_effort": "high"},
        config(thinkingConfig={"thinkingLevel": "HIGH", "includeThoughts": True}),
    ),
    ("a tier", MODEL, {"service_tier": "flex", "stream": True}, {"serviceTier": "flex"}),
    ("no tier", MODEL, {"service_tier": "auto"}, {"serviceTier": None}),
]


@pytest.mark.parametrize(("model", "members", "expected"), [row[1:] for row in SENT], ids=[row[0] for row in SENT])
def test_what_is_sent(model: str, members: dict[str, Any], expected: dict[str, Any]) -> None:
    body = sent(model, **members)
    assert {name: body.get(name) for name in expected} == expected
    accepted(body)


def test_later_models_get_a_signature_for_calls_whose_own_is_lost() -> None:
    """Of calls made together only the first has one."""
    first, second = sent(LATER, messages=[HELLO, CALLS, *RESULTS])["contents"][1]["parts"]
    assert first["thoughtSignature"] == UNSIGNED
    assert "thoughtSignature" not in second


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("parallel_tool_calls", MODEL, {"tools": [TOOL], "parallel_tool_calls": False}),
    ("service_tier", MODEL, {"service_tier": "scale"}),
    ("reasoning_effort", MODEL, {"reasoning_effort": "xhigh"}),
    ("reasoning_effort", LATER, {"reasoning_effort": "none"}),
    ("reasoning_effort", LATER, {"reasoning_effort": "max"}),
    ("image_url.url", MODEL, {"messages": user({"type": "image_url", "image_url": {"url": "s3://bucket/a.png"}})}),
]


@pytest.mark.parametrize(("named", "model", "members"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_what_cannot_be_asked_is_refused_by_name(named: str, model: str, members: dict[str, Any]) -> None:
    with pytest.raises(BodyInvalid) as refused:
        sent(model, **members)
    assert named in refused.value.message
    assert "Gemini" in refused.value.message


# -- answers

THINKS = {"text": "Kiel or Lübeck?", "thought": True}
SAYS = {"text": "Let me look. ⚓"}
USES = {"functionCall": {"id": "a1", "name": "f", "args": {"port": "Kiel"}}, "thoughtSignature": "c2ln"}
USES_TOO = {"functionCall": {"name": "g"}}
SIGNS = {"text": "", "thoughtSignature": "ZW5k"}


def reply(parts: list[dict[str, Any]], reason: Any = "STOP", **more: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": parts}
    candidate = {"content": content, "index": 0, **({} if reason is None else {"finishReason": reason}), **more}
    return {"candidates": [candidate], "modelVersion": MODEL, "responseId": "resp-1", "usageMetadata": {}}


def as_openai(body: dict[str, Any]) -> dict[str, Any]:
    found = answer(json.dumps(body).encode())
    assert not isinstance(found, Fault)
    made = json.loads(completion(found, Reading(), answer_id="x", model="x", created=1))
    assert (made["id"], made["model"]) == ("resp-1", MODEL)
    choice: dict[str, Any] = made["choices"][0]
    return choice


def test_an_answer_given_back_is_what_the_model_said() -> None:
    """Through OpenAI's shape and back: text, calls, their ids and all signatures."""
    choice = as_openai(reply([THINKS, SIGNS, SAYS, USES, USES_TOO]))
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "Kiel or Lübeck?"
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert ids == ["a1", "call_resp-1_1"]
    results = [{"role": "tool", "tool_call_id": each, "content": "ok"} for each in ids]
    back = sent(LATER, messages=[HELLO, choice["message"], *results])["contents"][1]
    made = {"functionCall": {"id": "call_resp-1_1", "name": "g", "args": {}}}
    assert back == {"role": "model", "parts": [SIGNS, SAYS, USES, made]}


def test_reasoning_of_another_maker_is_not_sent_back() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x", "format": "anthropic-claude-v1"}]
    messages = [HELLO, {"role": "assistant", "content": "z", "reasoning_details": details}]
    assert sent(messages=messages)["contents"][1]["parts"] == [{"text": "z"}]


@pytest.mark.parametrize(("native", "expected"), FINISHES.items())
def test_finish_reasons(native: str, expected: str) -> None:
    choice = as_openai(reply([SAYS], native, finishMessage="because"))
    assert (choice["finish_reason"], choice["native_finish_reason"]) == (expected, native)
    assert choice["message"]["refusal"] == ("because" if expected == "content_filter" else None)


@pytest.mark.parametrize(("number", "expected"), [(1, "stop"), (2, "length"), (3, "content_filter"), (99, "stop")])
def test_enumerations_may_be_numbers(number: int, expected: str) -> None:
    assert as_openai(reply([SAYS], number))["finish_reason"] == expected


def test_a_malformed_call_keeps_its_name() -> None:
    choice = as_openai(reply([], "MALFORMED_FUNCTION_CALL"))
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", "MALFORMED_FUNCTION_CALL")


def test_a_blocked_prompt() -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": MODEL, "responseId": "resp-1"}
    choice = as_openai(body)
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": "The prompt was blocked."}


def test_a_picture_in_the_answer() -> None:
    choice = as_openai(reply([{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]))
    assert choice["message"]["images"][0]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"


ERROR = {
    "error": {
        "code": 400,
        "message": "API key not valid.",
        "status": "INVALID_ARGUMENT",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
    }
}


@pytest.mark.parametrize("body", [ERROR, [ERROR]])
def test_errors_keep_their_own_words(body: Any) -> None:
    expected = Fault("INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid.")
    assert SPEECH.fault(400, json.dumps(body).encode()) == expected


def test_errors_without_a_status_have_their_number() -> None:
    assert SPEECH.fault(503, b'{"error":{"code":503}}') == Fault("503", "503", "")


# -- streams


def data(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\r\n\r\n".encode()


STREAM = b"".join(
    (
        data(reply([{"text": "Kiel or ", "thought": True}], None)),
        data(reply([{"text": "Lübeck?", "thought": True}], None)),
        data(reply([SIGNS, {"text": "Let me "}], None)),
        data(reply([{"text": "look. ⚓"}, USES], None)),
        data(reply([USES_TOO])),
    )
)


def told(*pieces: bytes) -> list[Event]:
    events = Events()
    return [event for piece in pieces for event in events.feed(piece)] + events.rest()


def test_a_stream_makes_the_same_message_as_the_whole() -> None:
    made = Chunks(answer_id="x", model="x", created=1, wants_usage=False)
    text = b"".join(made.of(event) for event in told(STREAM)) + made.end(Reading())
    chunks = [json.loads(line[6:]) for line in text.split(b"\n\n")[:-2]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    whole = as_openai(reply([THINKS, SIGNS, SAYS, USES, USES_TOO]))["message"]
    for message in (found := assembled(chunks), whole):
        for call in message["tool_calls"]:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    assert found == whole


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_in_pieces_tells_the_same(size: int) -> None:
    assert told(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == told(STREAM)


def test_a_last_event_without_its_line_end_is_told() -> None:
    assert told(STREAM.rstrip()) == told(STREAM)


def test_an_error_in_a_stream() -> None:
    assert told(data(ERROR)) == [Fault("INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid.")]


def test_a_blocked_prompt_in_a_stream() -> None:
    body = {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "Why."}}
    assert told(data(body))[-1] == Finished("content_filter", "OTHER", "Why.")


@pytest.mark.parametrize("damaged", [b"data: {\n\n", b'data: {"candidates":3}\n\n', b'data: "\xff"\n\n'])
def test_what_cannot_be_read_is_an_error_and_not_a_hole(damaged: bytes) -> None:
    assert told(damaged) == [LOST]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_bytes_never_raise(noise: bytes) -> None:
    told(b"data: " + noise + b"\n\n", noise)
