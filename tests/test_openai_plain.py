"""What is read in one pass is what is read member by member."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import body as bodies
from costbearer.dialects import openai_plain
from costbearer.dialects.base import CallRequest, Reading
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.errors import BodyInvalid

REQUEST: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "text", "text": "é"}]}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 5,
    "max_completion_tokens": 7,
    "n": 2,
    "service_tier": "flex",
    "metadata": {"tags": ["feature:search", "customer:acme"]},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "models": None,
}
USAGE: dict[str, Any] = {
    "prompt_tokens": 12,
    "completion_tokens": 4,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
    "prompt_cache_hit_tokens": 3,
    "server_tool_use_details": {"web_search_requests": 1},
    "cost": None,
}
MESSAGE: dict[str, Any] = {
    "content": "Grüße",
    "refusal": None,
    "reasoning": "hm",
    "reasoning_content": "hm",
    "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}, {"custom": {"name": "c", "input": "é"}}],
    "audio": None,
}
REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": USAGE,
    "service_tier": "default",
    "error": None,
}

odd = st.sampled_from(
    [None, True, False, 0, -1, 1, 129, 10**13, 1.0, "", " ", "é", "\x7f", "z" * 300]
) | st.sampled_from(
    [[], {}, [1], ["a"], {"type": "x"}, [{"type": "image"}], [{"type": "text"}], {"tags": ["a"], "k": "v"}]
)


def read(body: bytes, *, plainly: bool) -> CallRequest | str:
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(openai_plain, "read", lambda *_: None)
        try:
            return OpenAIChat().read(body)
        except BodyInvalid as refused:
            return refused.message


def outgoing(request: CallRequest, model: str, *, plainly: bool) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(bodies, "outgoing", lambda *_: None)
        return OpenAIChat().outgoing(request, model).body


def whole(body: bytes, *, plainly: bool) -> Reading:
    request = CallRequest(operation="chat", model="asked", stream=False, body=b"")
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(openai_plain, "whole", lambda *_: None)
        return OpenAIChat().whole(request, body)


def test_the_usual_call_is_plain() -> None:
    body = json.dumps(REQUEST).encode()
    asked = openai_plain.read("chat", body)
    assert asked is not None and asked == read(body, plainly=False)
    assert asked.tags == ("feature:search", "customer:acme") and asked.max_output_tokens == 7
    reply = json.dumps(REPLY).encode()
    answered = openai_plain.whole(asked, reply)
    assert answered is not None and answered == whole(reply, plainly=False)
    assert answered.generated_bytes == len("Grüße".encode()) + len("hm") + len("f{}") + len("cé".encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","temperature":1,"temperature":2}',
        b'{"model":"m","temperature":1,"t\\u0065mperature":2}',
        b'{"model":"m","metadata":{"tags":["a"],"tags":["b"]}}',
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}',
        b'{"model":"m","user":"\xff"}',
        b'{"model":"m","tools":[{"type":7}]}',
        b'{"model":"m","messages":[{"audio":{"id":"a"}}]}',
        b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model":"m","user":"' + b"x" * bodies.PLAIN_BYTES_MAX + b'"}',
    ],
)
def test_what_needs_a_closer_look_is_not_plain(body: bytes) -> None:
    assert openai_plain.read("chat", body) is None


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(REQUEST)), odd, max_size=2), st.sets(st.sampled_from(sorted(REQUEST))))
def test_requests_read_the_same_both_ways(changed: dict[str, Any], gone: set[str]) -> None:
    content = {name: value for name, value in (REQUEST | changed).items() if name in changed or name not in gone}
    body = json.dumps(content, ensure_ascii=len(gone) % 2 == 0).encode()
    asked = read(body, plainly=True)
    assert asked == read(body, plainly=False)
    if isinstance(asked, CallRequest):
        for model in (asked.model, "other"):
            assert outgoing(asked, model, plainly=True) == outgoing(asked, model, plainly=False)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(REPLY)), odd, max_size=1),
    st.dictionaries(st.sampled_from(sorted(USAGE)), odd | st.integers(0, 20), max_size=2),
    st.dictionaries(st.sampled_from(sorted(MESSAGE)), odd, max_size=1),
)
def test_replies_read_the_same_both_ways(reply: dict[str, Any], usage: dict[str, Any], message: dict[str, Any]) -> None:
    choices = [{"index": 0, "message": MESSAGE | message, "finish_reason": "stop"}]
    body = json.dumps({**REPLY, "choices": choices, "usage": USAGE | usage, **reply}).encode()
    assert whole(body, plainly=True) == whole(body, plainly=False)


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"model":"m","metadata":{"tags":["a]","b"]}}', b'{"model":"m"}'),
        (b'{ "metadata" : { "tags" : [ ] } , "model":"m" }', b'{"model":"m" }'),
        (b'{"model":"m" , "metadata":{"tags":[],"k":"v"} }', b'{"model":"m" , "metadata":{"k":"v"} }'),
        (b'{"model":"m","metadata":{"k":"v" , "tags":["a"]}}', b'{"model":"m","metadata":{"k":"v"}}'),
        (b'{"model":"m","metadata":{"tags":["\\""]}}', b'{"model":"m"}'),
        (b'{"model":"m","m\\u0065tadata":{"tags":[]},"user":"metadata"}', b'{"model":"m","user":"metadata"}'),
        (
            b'{"x":{"metadata":{"tags":[]}},"model":"m","metadata":{"tags":[]}}',
            b'{"x":{"metadata":{"tags":[]}},"model":"m"}',
        ),
    ],
)
def test_tags_come_off_and_nothing_else_does(body: bytes, expected: bytes) -> None:
    asked = OpenAIChat().read(body)
    assert outgoing(asked, "m", plainly=True) == expected
    assert outgoing(asked, "m", plainly=False) == expected
