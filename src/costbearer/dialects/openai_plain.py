"""The chat calls that nearly every caller makes, read in one pass of the decoder.

What is not exactly of these shapes gives None, and `openai_chat` reads it member by member, with the tolerance and the
messages that belong to it. So nothing here is a rule of its own: both ways must read the same out of the same bytes.
Members that need a closer look are declared as null, so that any other value is not plain.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from costbearer.dialects import body as bodies
from costbearer.dialects import jsonedit, reply
from costbearer.dialects.base import CallRequest, Reading
from costbearer.dialects.openai_usage import PlainUsage, read_plain
from costbearer.dialects.reply import Notes
from costbearer.usage import COUNT_MAX, Work

CHOICES_MAX = 128
"""The most choices (`n`) the API takes, by its specification."""

CONTAINED_PARTS = frozenset({"text", "refusal", "thinking"})
CALLER_TOOLS = frozenset({"function", "custom", None})

_Limit = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class _Part(msgspec.Struct, gc=False):
    type: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    audio: None = None


class _Asked(msgspec.Struct, gc=False):
    model: Annotated[str, Meta(min_length=1, max_length=bodies.MODEL_LENGTH_MAX)]
    messages: list[_Message] | None = None
    tools: list[_Part] | None = None
    stream: bool | None = None
    stream_options: jsonedit.Members | UnsetType | None = UNSET
    metadata: jsonedit.Members | None = None
    max_completion_tokens: _Limit | None = None
    max_tokens: _Limit | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    service_tier: str | None = None
    web_search_options: None = None
    search_parameters: None = None
    plugins: None = None
    data_sources: None = None
    prompt: None = None
    models: None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Custom | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    text: str | None = None
    function_call: None = None
    audio: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Said
    usage: None = None


class _Completion(msgspec.Struct, gc=False):
    usage: PlainUsage
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    error: None = None


_asked = jsonedit.decoder(_Asked)
_completion = reply.decoder(_Completion)
_flag = msgspec.json.Decoder(bool | None).decode


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
        options = asked.stream_options
        has_options = options is not UNSET
        asks = bool(_asks_for_usage(options)) if options else False
    except reply.UNREADABLE:
        return None
    model, limit = asked.model, asked.max_tokens
    if jsonedit.doubtful(names) or not model.isprintable() or model.isspace():
        return None
    if asked.max_completion_tokens is not None and (limit is None or limit < asked.max_completion_tokens):
        limit = asked.max_completion_tokens
    stream = asked.stream is True
    return CallRequest(
        operation=operation,
        model=model,
        stream=stream,
        body=body,
        tags=tags or (),
        has_tags=tags is not None,
        wants_usage=asks or not stream,
        has_stream_options=has_options,
        max_output_tokens=limit,
        choices=asked.n or 1,
        open_ended=_open_ended(asked),
        tier=bodies.word(asked.service_tier),
    )


def _asks_for_usage(options: jsonedit.Members) -> bool | None:
    if jsonedit.doubtful(options):
        raise ValueError("a name comes twice")
    for name, value in options.items():
        if str(name) == "include_usage":
            flag: bool | None = _flag(value)
            return flag
    return None


def _open_ended(asked: _Asked) -> bool:
    for tool in asked.tools or ():
        if tool.type not in CALLER_TOOLS:
            return True
    for message in asked.messages or ():
        content = message.content
        if type(content) is list:
            for part in content:
                if part.type not in CONTAINED_PARTS:
                    return True
    return False


def whole(request: CallRequest, body: bytes) -> Reading | None:
    """A completion that states a sound usage."""
    try:
        if not body.isascii():
            body.decode()
        found = _completion(body)
    except reply.UNREADABLE:
        return None
    notes = Notes()
    usage = read_plain(found.usage, notes)
    generated = 0
    for choice in found.choices:
        said = choice.message
        content = said.content
        if content:
            generated += len(content) if content.isascii() else reply.size(content)
        if said.tool_calls or said.refusal or said.reasoning or said.reasoning_content or said.text:
            generated += _beside_the_content(said)
    model = reply.name(found.model)
    tier = found.service_tier
    return Reading(
        work=(Work(model=model or request.model, usage=usage, largest_input_tokens=usage.input_tokens),),
        complete=True,
        response_model=model,
        response_id=reply.name(found.id),
        tier=None if tier is None else reply.name(tier),
        variant=request.variant,
        generated_bytes=generated,
        notes=notes.codes(),
    )


def _beside_the_content(said: _Said) -> int:
    found = reply.size(said.refusal) + reply.size(said.text) + reply.size(said.reasoning)
    if said.reasoning_content != said.reasoning:
        found += reply.size(said.reasoning_content)
    for call in said.tool_calls or ():
        if call.function is not None:
            found += reply.size(call.function.name) + reply.size(call.function.arguments)
        if call.custom is not None:
            found += reply.size(call.custom.name) + reply.size(call.custom.input)
    return found
