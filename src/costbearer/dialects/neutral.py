"""The neutral form of a chat: what a caller asks and what a model answers, in no provider's words. Values only.

One dialect translates into it and out of it, each provider's translation likewise; none of them knows another. JSON
that is only handed on (a schema, a tool's arguments) stays text, so that its numbers and the order of its members
survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from costbearer.errors import BodyInvalid

Role: TypeAlias = Literal["user", "assistant"]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Lifetime: TypeAlias = Literal["5m", "1h"]
Finish: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


SOUND_TYPES: Mapping[str, str] = MappingProxyType({"wav": "audio/wav", "mp3": "audio/mp3"})
"""The sounds that can be sent, with their media types."""


class Text(msgspec.Struct, frozen=True, gc=False):
    """Text. `cache` asks the provider to keep the prompt up to here, for that long."""

    text: str
    cache: Lifetime | None = None


class Image(msgspec.Struct, frozen=True, gc=False):
    """A picture: either `data` (base64) with its media type, or the `url` where it lies. `where` names it in errors."""

    where: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    cache: Lifetime | None = None


class Sound(msgspec.Struct, frozen=True, gc=False):
    """A sound as base64; `format` is the end of a file's name (`wav`, `mp3`)."""

    where: str
    format: str
    data: str


class Document(msgspec.Struct, frozen=True, gc=False):
    """A file as base64, with its media type and its name."""

    where: str
    media_type: str
    data: str
    name: str | None = None
    cache: Lifetime | None = None


class Thought(msgspec.Struct, frozen=True, gc=False):
    """Reasoning of the model: text with its maker's signature on it, or sealed, readable by its maker alone.

    `maker` names whose signature it is; nobody else takes it back.
    """

    maker: str | None = None
    text: str = ""
    signature: str | None = None
    sealed: str | None = None


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """A call that the model makes. `arguments` is JSON text, an object; `signature` seals the reasoning behind it."""

    id: str
    name: str
    arguments: msgspec.Raw
    signature: str | None = None


class ToolResult(msgspec.Struct, frozen=True, gc=False):
    """What the tool answered; `name` is the name of the tool that was called."""

    call_id: str
    name: str
    texts: tuple[Text, ...]


Part: TypeAlias = Text | Image | Sound | Document | Thought | ToolCall | ToolResult


class Turn(NamedTuple):
    """All that one side says before the other does: roles alternate."""

    role: Role
    parts: tuple[Part, ...]


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A tool of the caller's. `parameters` is a JSON schema, None for a tool without any."""

    name: str
    description: str | None = None
    parameters: msgspec.Raw | None = None
    strict: bool | None = None
    cache: Lifetime | None = None


class ToolChoice(NamedTuple):
    """Which tool is to be called: `named` means the one of that name."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None


class Format(NamedTuple):
    """The answer is to be JSON: of that schema, or without one any object."""

    schema: msgspec.Raw | None = None
    name: str = "answer"
    description: str | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a caller asks. None is what they left to the provider.

    `limit` counts tokens of the answer with its reasoning. `tier` is in OpenAI's words (auto, default, flex, priority).
    """

    stream: bool
    system: tuple[Text, ...]
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel: bool = True
    format: Format | None = None
    effort: Effort | None = None
    limit: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tier: str | None = None


class Answer(NamedTuple):
    """What a model answered. `native` is the provider's own word for why it ended, `refusal` what it says about it."""

    id: str | None
    model: str | None
    parts: tuple[Part, ...]
    finish: Finish
    native: str | None = None
    refusal: str | None = None


class Fault(NamedTuple):
    """An error of the provider's, in its own words: `kind` is the class of error, `code` the particular one."""

    kind: str
    code: str
    message: str


class Begun(NamedTuple):
    """An answer begins."""

    id: str | None
    model: str | None


class Said(NamedTuple):
    """More text."""

    text: str


class Reasoned(NamedTuple):
    """More reasoning; its whole comes as a `Thought` where it can be given back later."""

    text: str


class CallBegun(NamedTuple):
    """A tool call begins; `call` numbers the calls of the answer from 0. `arguments` are what is known of them yet."""

    call: int
    id: str
    name: str
    arguments: str = ""
    signature: str | None = None


class CallMore(NamedTuple):
    """More of the arguments of that call."""

    call: int
    arguments: str


class Finished(NamedTuple):
    """The answer is complete. More than one may be told; the last holds."""

    finish: Finish
    native: str | None
    refusal: str | None = None


Event: TypeAlias = Begun | Said | Reasoned | Thought | Image | CallBegun | CallMore | Finished | Fault


LOST = Fault("upstream_malformed", "upstream_malformed", "part of the provider's answer could not be read")
"""What a caller is told where an event of a stream cannot be read: an answer with a hole must not look whole."""


def refuse(provider: str, member: str, why: str) -> BodyInvalid:
    """The error for what a provider cannot be asked."""
    return BodyInvalid(f'"{member}" cannot be translated for {provider}: {why}')


def finish(native: object, table: dict[str, Finish], parts: tuple[Part, ...] = ()) -> Finish:
    """Why the answer ended. What the table does not know is an ordinary stop, unless a tool is called."""
    known = table.get(native) if type(native) is str else None
    if known is None or known == "stop":
        return "tool_calls" if any(type(part) is ToolCall for part in parts) else "stop"
    return known


def returned(parts: tuple[Part, ...], maker: str) -> tuple[Part, ...]:
    """The parts without the reasoning that others made, which this maker could only refuse."""
    for part in parts:
        if type(part) is Thought and part.maker is not None and part.maker != maker:
            return tuple(each for each in parts if type(each) is not Thought or each.maker in (None, maker))
    return parts


def described(wanted: Format) -> msgspec.Raw | dict[str, Any]:
    """The schema, with the description of the form in it where the schema has none of its own."""
    assert wanted.schema is not None
    if not wanted.description:
        return wanted.schema
    members = msgspec.json.decode(wanted.schema, type=dict[str, msgspec.Raw])
    own = members.get("description")
    both = wanted.description if own is None else f"{wanted.description}\n\n{msgspec.json.decode(own)}"
    return {**members, "description": both}


def text(value: object) -> str:
    """The value if it is text, else none."""
    return value if type(value) is str else ""


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; anything else is none."""
    return [item for item in value if type(item) is dict] if type(value) is list else []


def member(value: object, name: str) -> dict[str, Any]:
    """An object in an object; anything else is an empty one."""
    inner = value.get(name) if type(value) is dict else None
    return inner if type(inner) is dict else {}
