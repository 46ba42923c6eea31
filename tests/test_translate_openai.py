"""OpenAI requests into the neutral form, and neutral answers into OpenAI's, as the types of the `openai` package."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from costbearer.dialects import translate_openai_shapes as shapes
from costbearer.dialects.base import Reading
from costbearer.dialects.neutral import (
    Answer,
    Begun,
    CallBegun,
    CallMore,
    Document,
    Event,
    Fault,
    Finished,
    Format,
    Image,
    Part,
    Reasoned,
    Said,
    Sound,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from costbearer.dialects.translate_openai import ask
from costbearer.dialects.translate_openai_answer import DONE, Chunks, completion, error, usage
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, Work
from tests.chats import PAPER, PIXEL, chats

HELLO = {"role": "user", "content": "Hello"}


def asked(**members: Any) -> Any:
    return ask(json.dumps({"model": "m", "messages": [HELLO], **members}).encode(), "Nobody")


def plain(value: Any) -> Any:
    """A value with its JSON text decoded, because pieces of text compare by identity."""
    return msgspec.json.decode(msgspec.json.encode(value))


MESSAGES: list[tuple[str, list[dict[str, Any]], list[Text], list[Turn]]] = [
    ("one", [HELLO], [], [Turn("user", (Text("Hello"),))]),
    (
        "instructions go first wherever they stand",
        [{"role": "system", "content": "A"}, HELLO, {"role": "developer", "content": [{"type": "text", "text": "B"}]}],
        [Text("A"), Text("B")],
        [Turn("user", (Text("Hello"),))],
    ),
    (
        "messages of one side are one turn",
        [HELLO, HELLO, {"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}, HELLO],
        [],
        [
            Turn("user", (Text("Hello"), Text("Hello"))),
            Turn("assistant", (Text("x"), Text("y"))),
            Turn("user", (Text("Hello"),)),
        ],
    ),
    (
        "content",
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {
                        "type": "file",
                        "file": {"file_data": f"data:application/pdf;base64,{PAPER}", "filename": "a.pdf"},
                        "cache_control": {"type": "ephemeral"},
                    },
                ],
            }
        ],
        [],
        [
            Turn(
                "user",
                (
                    Text("a", "1h"),
                    Image("messages[0].content[1].image_url.url", media_type="image/png", data=PIXEL),
                    Image("messages[0].content[2].image_url.url", url="https://example.com/a.png"),
                    Sound("messages[0].content[3].input_audio.format", "wav", "AAAA"),
                    Document("messages[0].content[4].file", "application/pdf", PAPER, "a.pdf", "5m"),
                ),
            )
        ],
    ),
    (
        "calls and their results",
        [
            HELLO,
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.50}'}},
                    {
                        "id": "2",
                        "type": "function",
                        "function": {"name": "g", "arguments": ""},
                        "extra_content": {"google": {"thought_signature": "c2ln"}},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "one", "name": "f"},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "two"}]},
            HELLO,
        ],
        [],
        [
            Turn("user", (Text("Hello"),)),
            Turn(
                "assistant",
                (
                    ToolCall("1", "f", msgspec.Raw(b'{"a": 1.50}')),
                    ToolCall("2", "g", msgspec.Raw(b"{}"), "c2ln"),
                ),
            ),
            Turn("user", (ToolResult("1", "f", (Text("one"),)), ToolResult("2", "g", (Text("two"),)), Text("Hello"))),
        ],
    ),
    (
        "what a model said before, reasoning first",
        [
            HELLO,
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "no"}],
                "reasoning_content": "unsigned",
                "reasoning_details": [
                    {"type": "reasoning.text", "text": "t", "signature": "s", "format": "f", "index": 0},
                    {"type": "reasoning.encrypted", "data": "d"},
                    {"type": "reasoning.text", "text": "unsigned"},
                ],
            },
        ],
        [],
        [
            Turn("user", (Text("Hello"),)),
            Turn("assistant", (Thought("f", "t", "s"), Thought(sealed="d"), Text("x"), Text("no"))),
        ],
    ),
    ("nothing said", [HELLO, {"role": "assistant", "content": ""}], [], [Turn("user", (Text("Hello"),))]),
]


@pytest.mark.parametrize(
    ("messages", "system", "turns"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES]
)
def test_messages(messages: list[dict[str, Any]], system: list[Text], turns: list[Turn]) -> None:
    found = asked(messages=messages)
    assert plain(found.system) == plain(system)
    assert plain(found.turns) == plain(turns)


F = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"},
}
G = {"type": "function", "function": {"name": "g"}, "cache_control": {"type": "ephemeral"}}
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"stream": False, "limit": None, "parallel": True, "format": None, "effort": None, "stop": (), "tools": ()}),
    ({"max_tokens": 5}, {"limit": 5}),
    ({"max_tokens": 5, "max_completion_tokens": 7}, {"limit": 7}),
    ({"temperature": 2, "top_p": 0.5, "seed": -3}, {"temperature": 2.0, "top_p": 0.5, "seed": -3}),
    ({"frequency_penalty": 0, "presence_penalty": 0.5}, {"frequency_penalty": None, "presence_penalty": 0.5}),
    ({"stop": "x"}, {"stop": ("x",)}),
    ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
    ({"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}, {"stream": True}),
    ({"parallel_tool_calls": False}, {"parallel": False}),
    ({"reasoning_effort": "xhigh", "service_tier": "flex"}, {"effort": "xhigh", "tier": "flex"}),
    ({"response_format": {"type": "text"}}, {"format": None}),
    ({"response_format": {"type": "json_object"}}, {"format": Format()}),
    ({"tools": [F], "tool_choice": "required"}, {"tool_choice": ToolChoice("required")}),
    (
        {"tools": [F], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": ToolChoice("named", "f")},
    ),
    ({"tool_choice": "auto"}, {"tool_choice": None}),
    ({"tools": [], "tool_choice": "none"}, {"tool_choice": None, "tools": ()}),
]


@pytest.mark.parametrize(("members", "expected"), SETTINGS, ids=[str(row[0]) for row in SETTINGS])
def test_settings(members: dict[str, Any], expected: dict[str, Any]) -> None:
    found = asked(**members)
    assert {name: getattr(found, name) for name in expected} == expected


def test_tools_and_a_choice_of_some_of_them() -> None:
    assert plain(asked(tools=[F, G]).tools) == plain(
        (Tool("f", "d", msgspec.Raw(b'{"type":"object"}'), True), Tool("g", cache="5m"))
    )
    only = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]},
    }
    found = asked(tools=[F, G], tool_choice=only)
    assert [tool.name for tool in found.tools] == ["g"]
    assert found.tool_choice == ToolChoice("required")


def test_a_schema_keeps_every_byte() -> None:
    schema = b'{ "b":1.0, "a":12345678901234567890 }'
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"a"}],'
        b'"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":' + schema + b"}}}"
    )
    wanted = ask(body, "Nobody").format
    assert wanted is not None
    assert wanted.schema is not None
    assert bytes(wanted.schema) == schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"logit_bias": {"50256": -100}}, '"logit_bias"'),
    ({"logprobs": True}, '"logprobs"'),
    ({"top_logprobs": 3}, '"top_logprobs"'),
    ({"n": 2}, '"n"'),
    ({"modalities": ["text", "audio"]}, '"modalities"'),
    ({"audio": {"voice": "alloy", "format": "wav"}}, '"audio"'),
    ({"web_search_options": {}}, '"web_search_options"'),
    ({"store": True}, '"store"'),
    ({"verbosity": "low"}, '"verbosity"'),
    ({"moderation": {"model": "omni-moderation-latest"}}, '"moderation"'),
    ({"functions": [{"name": "f"}]}, '"functions"'),
    ({"function_call": "auto"}, '"function_call"'),
    ({"thinking": {"type": "enabled"}}, '"thinking"'),
    ({"top_k": 5}, '"top_k"'),
    ({"temperature": 3}, '"temperature"'),
    ({"temperature": "hot"}, '"temperature"'),
    ({"max_tokens": 0}, '"max_tokens"'),
    ({"reasoning_effort": "huge"}, '"reasoning_effort"'),
    ({"stream_options": {"include_costs": True}}, '"stream_options.include_costs"'),
    ({"messages": []}, '"messages"'),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, '"messages[0].role"'),
    ({"messages": [{**HELLO, "name": "ada"}]}, '"messages[0].name"'),
    ({"messages": [HELLO, {"role": "assistant", "audio": {"id": "a"}}]}, '"messages[1].audio"'),
    (
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}]},
        '"messages[0].content[0].type"',
    ),
    (
        {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://a"}}]}]},
        "messages[0].content[0]",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
            ]
        },
        "image_url.url",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}]}
            ]
        },
        "image_url.url",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, "file.file_id"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": "a"}}]}]}, "file.file_data"),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "aiff"}}]}
            ]
        },
        "input_audio.format",
    ),
    ({"messages": [HELLO, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, '"messages[1].tool_call_id"'),
    (
        {
            "messages": [
                HELLO,
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}]},
            ]
        },
        '"messages[1].tool_calls[0].function.arguments"',
    ),
    (
        {"messages": [HELLO, {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}]},
        "messages[1].tool_calls[0]",
    ),
    ({"tools": [{"type": "web_search"}]}, '"tools[0].type"'),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, '"tools[0].type"'),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, '"tools[0].function.parameters"'),
    ({"tool_choice": "required"}, '"tool_choice"'),
    (
        {"tools": [F], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [G]}}},
        "allowed_tools",
    ),
    ({"response_format": {"type": "grammar"}}, '"response_format.type"'),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        '"response_format.json_schema.schema"',
    ),
]


@pytest.mark.parametrize(("members", "named"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_cannot_be_translated_is_refused_by_name(members: dict[str, Any], named: str) -> None:
    with pytest.raises(BodyInvalid) as refused:
        asked(**members)
    assert named in refused.value.message
    assert "Nobody" in refused.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"\xff"}', b"[" * 100_000])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        ask(body, "Nobody")


def test_every_member_is_either_translated_or_in_a_table() -> None:
    """A member nobody reads would be dropped without a word."""
    translated = {
        "model", "messages", "stream", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "top_p",
        "frequency_penalty", "presence_penalty", "seed", "stop", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "reasoning_effort", "service_tier",
    }  # fmt: skip
    declared = set(shapes.Request.__struct_fields__)
    assert declared == translated | shapes.IGNORED.keys() | shapes.ONLY.keys()
    assert not translated & (shapes.IGNORED.keys() | shapes.ONLY.keys())


@pytest.mark.parametrize("name", shapes.IGNORED)
def test_what_is_ignored_changes_nothing(name: str) -> None:
    assert plain(asked(**{name: "whatever"})) == plain(asked())
    assert plain(asked(**{name: {"a": [1]}})) == plain(asked())


@pytest.mark.parametrize("name", shapes.ONLY)
def test_values_that_ask_for_nothing_are_taken(name: str) -> None:
    for harmless in (None, *shapes.ONLY[name][0]):
        assert plain(asked(**{name: harmless})) == plain(asked())


@settings(max_examples=60, deadline=None)
@given(chats())
def test_turns_alternate(request: dict[str, Any]) -> None:
    turns = ask(json.dumps(request).encode(), "Nobody").turns
    assert all(one.role != other.role and one.parts for one, other in pairwise(turns))


# -- answers

WORK = (
    Work(
        model="m", usage=Usage(input_tokens=30, output_tokens=9, cache_read_input_tokens=20, reasoning_output_tokens=4)
    ),
)
READING = Reading(work=WORK, complete=True, tier="standard")
PARTS: tuple[Part, ...] = (
    Thought("made-up-v1", "hm ", "sig"),
    Thought("made-up-v1", sealed="c2VhbGVk"),
    Text("Ahoy "),
    Text("there"),
    Image("", media_type="image/png", data=PIXEL),
    ToolCall("1", "f", msgspec.Raw(b'{"a":1}'), "c2ln"),
    ToolCall("2", "g", msgspec.Raw(b"{}")),
)
ANSWER = Answer("id_1", "m-2026", PARTS, "tool_calls", "tool_use")
EVENTS: tuple[Event, ...] = (
    Begun("id_1", "m-2026"),
    Reasoned("h"),
    Reasoned("m "),
    Thought("made-up-v1", "hm ", "sig"),
    Thought("made-up-v1", sealed="c2VhbGVk"),
    Said("Ahoy "),
    Said("there"),
    Image("", media_type="image/png", data=PIXEL),
    CallBegun(0, "1", "f", signature="c2ln"),
    CallMore(0, '{"a"'),
    CallMore(0, ":1}"),
    CallBegun(1, "2", "g", "{}"),
    Finished("tool_calls", "tool_use"),
)


def whole(answer: Answer = ANSWER, reading: Reading = READING) -> dict[str, Any]:
    data = completion(answer, reading, answer_id="made", model="asked", created=7)
    ChatCompletion.model_validate_json(data, strict=True)
    found: dict[str, Any] = json.loads(data)
    return found


def test_a_whole_answer() -> None:
    found = whole()
    assert (found["id"], found["model"]) == ("id_1", "m-2026")
    assert (found["created"], found["object"], found["service_tier"]) == (7, "chat.completion", "default")
    (choice,) = found["choices"]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("tool_calls", "tool_use")
    message = choice["message"]
    assert message["content"] == "Ahoy there"
    assert message["reasoning_content"] == "hm "
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "hm ", "signature": "sig", "format": "made-up-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "c2VhbGVk", "format": "made-up-v1", "index": 1},
    ]
    assert message["tool_calls"] == [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "f", "arguments": '{"a":1}'},
            "extra_content": {"google": {"thought_signature": "c2ln"}},
        },
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert message["images"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]


def test_an_answer_without_an_id_a_model_or_text() -> None:
    found = whole(Answer(None, None, (), "content_filter", "refusal", "I may not."), Reading())
    assert (found["id"], found["model"], found["usage"]) == ("made", "asked", None)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "I may not."}
    assert "service_tier" not in found


def chunks_of(
    events: tuple[Event, ...], *, wants_usage: bool = False, reading: Reading = READING
) -> list[dict[str, Any]]:
    made = Chunks(answer_id="made", model="asked", created=7, wants_usage=wants_usage)
    text = b"".join(made.of(event) for event in events) + made.end(reading)
    assert text.endswith(DONE)
    found = [json.loads(line.removeprefix(b"data: ")) for line in text.removesuffix(DONE).split(b"\n\n") if line]
    for chunk in found:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    return found


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a caller puts together from the deltas of its chunks."""
    message: dict[str, Any] = {"role": None, "content": None, "refusal": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    calls = message.setdefault("tool_calls", {})
                    for call in value:
                        known = calls.setdefault(call.pop("index"), {"function": {"arguments": ""}})
                        function = call.pop("function")
                        known["function"]["arguments"] += function.pop("arguments")
                        known["function"] |= function
                        known |= call
                elif type(value) is str:
                    message[name] = (message.get(name) or "") + value
                else:
                    message.setdefault(name, []).extend(value)
    if "tool_calls" in message:
        message["tool_calls"] = list(message["tool_calls"].values())
    return message


def test_chunks_make_the_same_message_as_the_whole() -> None:
    assert assembled(chunks_of(EVENTS)) == whole()["choices"][0]["message"]


def test_the_order_of_chunks() -> None:
    first, *_, last = chunks_of(EVENTS)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["choices"][0]["delta"] == {}
    assert all("usage" not in chunk for chunk in chunks_of(EVENTS))


def test_usage_comes_last_and_only_where_it_was_asked_for() -> None:
    *others, last = chunks_of(EVENTS, wants_usage=True)
    assert [chunk["usage"] for chunk in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"] == whole()["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }  # fmt: skip


def test_usage_of_several_models_is_one() -> None:
    two = Reading(work=(*WORK, Work(model="o", usage=Usage(input_tokens=3, output_tokens=1))))
    found = usage(two)
    assert found is not None
    assert (found["prompt_tokens"], found["completion_tokens"]) == (33, 10)


def test_usage_nobody_stated_is_not_invented() -> None:
    (only,) = chunks_of((Finished("stop", "end_turn"),), wants_usage=True, reading=Reading())[1:]
    assert only["usage"] is None


def test_an_answer_that_never_finished_has_no_end() -> None:
    made = Chunks(answer_id="made", model="asked", created=7, wants_usage=True)
    made.of(Begun(None, None))
    made.of(Said("x"))
    assert made.end(READING) == b""


def test_nothing_follows_an_error() -> None:
    made = Chunks(answer_id="made", model="asked", created=7, wants_usage=False)
    text = made.of(Fault("overloaded_error", "overloaded_error", "Overloaded"))
    assert json.loads(text.removeprefix(b"data: ")) == json.loads(
        error(Fault("overloaded_error", "overloaded_error", "Overloaded"))
    )
    assert made.of(Said("x")) + made.of(Finished("stop", None)) + made.end(READING) == b""


def test_a_second_beginning_is_not_told() -> None:
    found = chunks_of((Begun("a", "m"), Begun("b", "n"), Said("x"), Finished("stop", None)))
    assert [chunk["id"] for chunk in found] == ["a"] * 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=6))
def test_texts_survive(texts: list[str]) -> None:
    found = chunks_of((Begun("a", "m"), *map(Said, texts), Finished("stop", None)))
    assert assembled(found)["content"] == "".join(texts)
