"""Chat requests in OpenAI's dialect, drawn by Hypothesis: what the translations must be able to carry."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture of one pixel, as base64."""
PAPER = "JVBERi0xLjQKJSVFT0YK"
"""The least of a PDF, as base64."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"port": {"type": "string"}, "depth_m": {"type": "number"}},
    "required": ["port"],
    "additionalProperties": False,
}

NAMES = st.sampled_from(["find_ship", "tide-table", "berth_2"])
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
ARGUMENTS = st.dictionaries(st.sampled_from(["port", "depth_m"]), st.one_of(st.integers(-9, 9), TEXTS), max_size=2)

_TEXT_PARTS = st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
_IMAGES = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PIXEL}", "detail": "low"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PAPER}", "filename": "Log (2).pdf"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,QWhveQ=="}},
    ]
)
_USER = st.builds(
    lambda content: {"role": "user", "content": content},
    st.one_of(TEXTS, st.lists(st.one_of(_TEXT_PARTS, _IMAGES), min_size=1, max_size=3)),
)
_SYSTEM = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "developer"]),
    st.one_of(TEXTS, st.lists(_TEXT_PARTS, min_size=1, max_size=2)),
)
_SAYS = st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS)


@st.composite
def _called(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A message with one or more calls, and the message of each one's result."""
    calls = []
    for _ in range(draw(st.integers(1, 3))):
        function = {"name": draw(NAMES), "arguments": json.dumps(draw(ARGUMENTS))}
        calls.append({"id": f"call_{draw(st.integers(0, 10**9))}", "type": "function", "function": function})
    content = draw(st.one_of(st.none(), TEXTS))
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": draw(st.one_of(TEXTS, st.just('{"depth_m": 4.5}')))}
        for call in calls
    ]
    return [{"role": "assistant", "content": content, "tool_calls": calls}, *results]


_TOOL: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda name, more: {"type": "function", "function": {"name": name, **more}},
    NAMES,
    st.sampled_from(
        [
            {},
            {"parameters": SCHEMA},
            {"parameters": SCHEMA, "description": "Finds it."},
            {"parameters": SCHEMA, "strict": True},
        ]
    ),
)
_FORMAT = {"type": "json_schema", "json_schema": {"name": "found", "strict": True, "schema": SCHEMA}}

OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(2_000, 9_000),
        "max_completion_tokens": st.integers(2_000, 9_000),
        "temperature": st.sampled_from([0, 0.3, 1]),
        "top_p": st.sampled_from([0.1, 1]),
        "stop": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
        "response_format": st.sampled_from([{"type": "text"}, _FORMAT]),
        "reasoning_effort": st.sampled_from(["minimal", "low", "medium", "high"]),
        "service_tier": st.sampled_from(["auto", "default"]),
        "stream": st.booleans(),
        "user": TEXTS,
        "n": st.just(1),
        "store": st.just(False),
        "metadata": st.just({"tags": ["feature:search"], "build": "7"}),
    },
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A request that every provider can be asked."""
    turns = st.one_of(_USER.map(lambda turn: [turn]), _SAYS.map(lambda turn: [turn]), _called())
    messages = [
        *draw(st.lists(_SYSTEM, max_size=2)),
        draw(_USER),
        *(message for turn in draw(st.lists(turns, max_size=3)) for message in turn),
    ]
    request: dict[str, Any] = {"model": "any", "messages": messages, **draw(OPTIONS)}
    tools: list[dict[str, Any]] = draw(st.lists(_TOOL, max_size=3, unique_by=lambda tool: tool["function"]["name"]))
    if tools:
        request["tools"] = tools
        first = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [first]}}
        choice = draw(st.sampled_from([None, "auto", "required", first, allowed]))
        if choice is not None:
            request["tool_choice"] = choice
    return request
