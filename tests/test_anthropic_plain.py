"""What is read in one pass is what is read member by member."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import anthropic_plain
from costbearer.dialects import body as bodies
from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.base import CallRequest, Reading
from costbearer.errors import BodyInvalid

REQUEST: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "é"}]}]},
        {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]},
    ],
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "stream": True,
    "max_tokens": 5,
    "service_tier": "auto",
    "speed": "fast",
    "inference_geo": "us",
    "metadata": {"user_id": "u", "tags": ["feature:search", "customer:acme"]},
    "tools": [{"name": "f"}, {"type": "bash_20250124", "name": "bash"}],
    "container": None,
    "output_config": None,
}
USAGE: dict[str, Any] = {
    "input_tokens": 12,
    "output_tokens": 4,
    "cache_creation_input_tokens": 6,
    "cache_read_input_tokens": 2,
    "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 4},
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
    "output_tokens_details": {"thinking_tokens": 1},
    "service_tier": "standard",
    "iterations": None,
}
BLOCK: dict[str, Any] = {"type": "tool_use", "text": "Grüße", "thinking": "hm", "input": {"a": 1.5, "b": ["é"]}}
REPLY: dict[str, Any] = {
    "id": "msg_1",
    "model": "claude-sonnet-4-5-20250929",
    "content": [BLOCK],
    "stop_reason": "end_turn",
    "usage": USAGE,
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
            patch.setattr(anthropic_plain, "read", lambda *_: None)
        try:
            return AnthropicMessages().read(body)
        except BodyInvalid as refused:
            return refused.message


def outgoing(request: CallRequest, model: str, *, plainly: bool) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(bodies, "outgoing", lambda *_: None)
        return AnthropicMessages().outgoing(request, model).body


def whole(body: bytes, *, plainly: bool) -> Reading:
    request = CallRequest(operation="chat", model="asked", stream=False, body=b"")
    with pytest.MonkeyPatch.context() as patch:
        if not plainly:
            patch.setattr(anthropic_plain, "whole", lambda *_: None)
        return AnthropicMessages().whole(request, body)


def test_the_usual_call_is_plain() -> None:
    body = json.dumps(REQUEST).encode()
    asked = anthropic_plain.read("chat", body)
    assert asked is not None and asked == read(body, plainly=False)
    assert asked.tags == ("feature:search", "customer:acme") and asked.overhead_tokens == 3_000
    reply = json.dumps(REPLY).encode()
    answered = anthropic_plain.whole(asked, reply)
    assert answered is not None and answered == whole(reply, plainly=False)
    assert answered.generated_bytes == len("Grüße".encode()) + len("hm") + len('{"a":"1.5","b":["é"]}'.encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","temperature":1,"temperature":2}',
        b'{"model":"m","temperature":1,"t\\u0065mperature":2}',
        b'{"model":"m","metadata":{"tags":["a"],"tags":["b"]}}',
        b'{"model":"m","output_config":{"effort":"low"}}',
        b'{"model":"m","user":"\xff"}',
        b'{"model":"m","tools":[{"type":7}]}',
        b'{"model":"m","messages":[{"content":[{"type":"document","source":7}]}]}',
        b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model":"m","user":"' + b"x" * bodies.PLAIN_BYTES_MAX + b'"}',
    ],
)
def test_what_needs_a_closer_look_is_not_plain(body: bytes) -> None:
    assert anthropic_plain.read("chat", body) is None


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
    st.dictionaries(st.sampled_from(sorted(REPLY)), odd | st.just("pause_turn"), max_size=1),
    st.dictionaries(st.sampled_from(sorted(USAGE)), odd | st.integers(0, 20), max_size=2),
    st.dictionaries(st.sampled_from(sorted(BLOCK)), odd | st.sampled_from(["server_tool_use", "fallback"]), max_size=1),
)
def test_replies_read_the_same_both_ways(reply: dict[str, Any], usage: dict[str, Any], block: dict[str, Any]) -> None:
    body = json.dumps({**REPLY, "content": [BLOCK | block], "usage": USAGE | usage, **reply}).encode()
    assert whole(body, plainly=True) == whole(body, plainly=False)
