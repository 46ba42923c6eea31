"""The messages that nearly every caller sends, and their replies, read in one pass of the decoder.

What is not exactly of these shapes gives None, and `anthropic_messages` reads it member by member, with the tolerance
and the messages that belong to it. So nothing here is a rule of its own: both ways must read the same out of the same
bytes. Members that need a closer look are declared as null, so that any other value is not plain.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from costbearer.dialects import body as bodies
from costbearer.dialects import jsonedit, reply
from costbearer.dialects.anthropic_usage import PlainUsage, read_plain
from costbearer.dialects.base import CallRequest, Reading
from costbearer.dialects.reply import Notes
from costbearer.usage import COUNT_MAX, Work

TOOL_USE_TOKENS_MAX = 1_000
"""Tokens of the system prompt that the API adds where tools or a form of output are asked for. Published are up to 530
(https://docs.anthropic.com/en/docs/tool-use-pricing-and-tokens); the rest is margin for models to come."""

DEFINED_TOOL_TOKENS_MAX = 2_000
"""Tokens of one of Anthropic's own client tools (bash, text editor, computer, memory), whose definition is not in the
request. Published are up to 735 for one tool; the rest is margin."""

DEFINED_TOOLS = re.compile(r"(?:bash|text_editor|computer|memory|browser)_")
CONTAINED_BLOCKS = frozenset(
    {"text", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result", "fallback"}
)
ONE_HOUR = re.compile(rb'"ttl"\s*:\s*"1h"')
SERVER_STEPS = frozenset({"server_tool_use", "mcp_tool_use"})

_OF_THE_SERVER = SERVER_STEPS | {"fallback"}


class _Source(msgspec.Struct, gc=False):
    type: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    content: str | list[_Block] | None = None
    source: _Source | None = None


class _Turn(msgspec.Struct, gc=False):
    content: str | list[_Block] | None = None


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None


class _Asked(msgspec.Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=bodies.MODEL_LENGTH_MAX)]
    messages: list[_Turn] | None = None
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None
    stream: bool | None = None
    metadata: jsonedit.Members | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=COUNT_MAX)] | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    output_config: None = None
    output_format: None = None
    container: None = None
    mcp_servers: None = None
    context_management: None = None
    compaction: None = None
    fallbacks: None = None
    thread: None = None


class _Said(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    content: str | None = None
    input: dict[str, Any] | None = None


class _Message(msgspec.Struct, gc=False):
    usage: PlainUsage
    content: list[_Said]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    error: None = None


COUNT_TOKENS = "count_tokens"
"""Token counting is free: https://docs.anthropic.com/en/docs/build-with-claude/token-counting#pricing-and-rate-limits."""

_asked = jsonedit.decoder(_Asked)
_message = reply.decoder(_Message)


def read(operation: str, body: bytes) -> CallRequest | None:
    """A request whose members are all as they should be, and none there twice."""
    if len(body) > bodies.PLAIN_BYTES_MAX:
        return None
    try:
        if not body.isascii():
            body.decode()
        asked = _asked(body)
        names = jsonedit.named_members(body)
        tags = None if asked.metadata is None else bodies.plain_tags(asked.metadata)
        open_ended = _has_content_elsewhere(asked.system)
        for turn in asked.messages or ():
            open_ended = open_ended or _has_content_elsewhere(turn.content)
    except reply.UNREADABLE:
        return None
    model = asked.model
    if jsonedit.doubtful(names) or not model.isprintable() or model.isspace():
        return None
    overhead = 0
    for tool in asked.tools or ():
        overhead = overhead or TOOL_USE_TOKENS_MAX
        if tool.type is not None and tool.type != "custom":
            if DEFINED_TOOLS.match(tool.type):
                overhead += DEFINED_TOOL_TOKENS_MAX
            else:
                open_ended = True
    return CallRequest(
        operation=operation,
        model=model,
        stream=asked.stream is True,
        body=body,
        tags=tags or (),
        has_tags=tags is not None,
        max_output_tokens=asked.max_tokens,
        open_ended=open_ended,
        tier=bodies.word(asked.service_tier),
        speed=bodies.word(asked.speed),
        geo=bodies.word(asked.inference_geo),
        cache_ttl_1h=b'"ttl"' in body and ONE_HOUR.search(body) is not None,
        overhead_tokens=overhead,
        free=operation == COUNT_TOKENS,
    )


def _has_content_elsewhere(content: str | list[_Block] | None) -> bool:
    if type(content) is list:
        for block in content:
            if block.type == "document":
                if block.source is None or block.source.type != "text":
                    return True
            elif block.type not in CONTAINED_BLOCKS or (
                block.type == "tool_result" and _has_content_elsewhere(block.content)
            ):
                return True
    return False


def whole(request: CallRequest, body: bytes) -> Reading | None:
    """A message of one step that states a sound usage."""
    try:
        if not body.isascii():
            body.decode()
        found = _message(body)
    except reply.UNREADABLE:
        return None
    generated = 0
    for block in found.content:
        if block.type in _OF_THE_SERVER:
            return None
        text = block.text
        if text:
            generated += len(text) if text.isascii() else reply.size(text)
        if block.thinking or block.content or block.input is not None:
            generated += reply.size(block.thinking) + reply.size(block.content)
            generated += 0 if block.input is None else reply.json_size(block.input)
    stated = found.usage
    notes = Notes()
    usage = read_plain(stated, request.cache_ttl_1h, notes)
    if found.stop_reason == "pause_turn" or not usage.input_tokens:
        return None
    model = reply.name(found.model)
    searched = stated.server_tool_use
    looped = searched is not None and (searched.web_search_requests or searched.web_fetch_requests)
    largest = None if looped else usage.input_tokens
    return Reading(
        work=(Work(model=model or request.model, usage=usage, largest_input_tokens=largest),),
        complete=True,
        response_model=model,
        response_id=reply.name(found.id),
        tier=reply.name(stated.service_tier),
        speed=reply.name(stated.speed),
        geo=reply.name(stated.inference_geo),
        generated_bytes=generated,
        notes=notes.codes(),
    )
