"""What a caller may order from inside a prompt: `[[sim:KEY=VALUE KEY=VALUE ...]]`, so that no SDK has to be changed.

Several such marks in one request are read in order and the last value of a key holds. Defaults for all requests are set
with `POST /sim/faults`. An order that cannot be read is refused with status 400 and never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MARK = re.compile(rb'\[\[sim:([^\]\\"]*)\]\]')
COUNTED_MARKS_MAX = 100_000
"""Marks for which failures are counted (`times`); beyond it the counts start anew."""

_COUNT_MAX = 10_000_000
_MS_MAX = 3_600_000

Positive = Annotated[int, Meta(ge=1, le=_COUNT_MAX)]
Natural = Annotated[int, Meta(ge=0, le=_COUNT_MAX)]
Offset = Annotated[int, Meta(ge=-1)]
Milliseconds = Annotated[float, Meta(ge=0, le=_MS_MAX)]


class Orders(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one call shall go. Every field is a key of the mark; the defaults are a provider on a good day."""

    mark: str = ""
    """An id that is written into the books."""
    output: Positive | None = None
    """Output tokens per choice, reasoning included; `max_tokens` still holds."""
    chunks: Positive | None = None
    """Streams: pieces of content per choice."""
    delay_ms: Milliseconds = 0
    """Streams: pause before every piece but the first."""
    first_byte_ms: Milliseconds = 0
    """Pause before the head of the reply."""
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    """Refuse with this status."""
    times: Positive | None = None
    """Refuse only the first so many requests of this mark."""
    retry_after: str | None = None
    """The `retry-after` header of a refusal."""
    reset_after: Offset | None = None
    """Reset the connection after so many bytes of the body; -1: before the head."""
    close_after: Offset | None = None
    """Close the connection after so many bytes of the body; -1: before the head."""
    stall_after: Offset | None = None
    """Send nothing more after so many bytes of the body, and keep the connection; -1: not even the head."""
    error_event: Natural | None = None
    """Streams: after so many events, an error event and the end."""
    no_usage: bool = False
    """The reply states no usage."""
    usage_twice: bool = False
    """The reply states its usage twice."""
    html: bool = False
    """Status 200 with an HTML page."""
    truncated_json: bool = False
    """The JSON ends in the middle, the HTTP message does not."""
    garbage: bool = False
    """The body is noise."""
    chunk_bytes: Positive | None = None
    """Send so many bytes at a time."""
    cached: Natural | None = None
    """Input tokens read from the cache."""
    tool: Natural = 0
    """Call a tool of the request so many times (unless the request brings a tool's result)."""
    iterations: Literal["compaction", "advisor", "fallback"] | None = None
    """Anthropic: a reply of several samplings, told in `usage.iterations`."""
    web_search: Annotated[int, Meta(ge=0, le=50)] | None = None
    """Anthropic and Responses: searches of the web search tool."""
    file_search: Annotated[int, Meta(ge=0, le=50)] = 0
    """Responses: calls of the file search tool."""
    code_interpreter: Annotated[int, Meta(ge=0, le=50)] = 0
    """Responses: calls of the code interpreter, in two containers at most."""
    images: Annotated[int, Meta(ge=0, le=50)] = 0
    """Responses: images of the image generation tool."""
    no_tool_usage: bool = False
    """Responses: what the tools used is not stated."""
    polls: Natural = 0
    """Responses in the background: how often a retrieval finds them under way."""
    fails: bool = False
    """Responses: the response ends as failed, after all its work."""
    tier: str | None = None
    """The tier the call is served and billed at, whatever was asked; one without a price in the table costs double."""
    cost_header: bool = False
    """Whole replies: state the cost in the header `x-sim-cost-usd`."""
    body_cost: bool = False
    """State the cost in `usage.cost`, as OpenRouter does."""
    cost: Decimal | None = None
    """Bill this amount in US dollars, whatever the tokens."""

    def __post_init__(self) -> None:
        if self.cost is not None and not (self.cost.is_finite() and self.cost >= 0):
            raise ValueError("cost must be an amount of US dollars")

    @property
    def cut(self) -> tuple[str, int] | None:
        """The first of reset, close and stall, and after how many bytes of the body."""
        cuts = [
            (at, kind)
            for kind, at in (("reset", self.reset_after), ("close", self.close_after), ("stall", self.stall_after))
            if at is not None
        ]
        if not cuts:
            return None
        at, kind = min(cuts)
        return kind, at

    @property
    def faults(self) -> str | None:
        """The faults in this order, as in the mark, for the books."""
        if self is PLAIN:
            return None
        values = [(name, getattr(self, name)) for name in _FAULTS]
        return " ".join(f"{name}={value}" for name, value in values if value is not None and value is not False) or None

    @property
    def instant(self) -> bool:
        """Nothing asks for time or for a cut."""
        timed = self.first_byte_ms or self.delay_ms or self.chunk_bytes
        return not timed and self.reset_after is self.close_after is self.stall_after is None

    @property
    def damage(self) -> str | None:
        """The name of the order that spoils the answer's content, if one does."""
        if self.html:
            return "html"
        if self.truncated_json:
            return "truncated_json"
        if self.garbage:
            return "garbage"
        return None


_FAULTS = (
    "status",
    "reset_after",
    "close_after",
    "stall_after",
    "error_event",
    "no_usage",
    "usage_twice",
    "html",
    "truncated_json",
    "garbage",
)
PLAIN = Orders()


def orders(body: bytes, defaults: Mapping[str, Any]) -> Orders:
    """The orders in a request's body, over the defaults.

    Raises:
        msgspec.ValidationError: an unknown key, or a value that the key cannot have.
    """
    if b"[[sim:" not in body:
        return msgspec.convert(defaults, Orders, strict=False) if defaults else PLAIN
    wanted = dict(defaults)
    for text in MARK.findall(body):
        for word in text.decode("utf-8", "replace").split():
            key, _, value = word.partition("=")
            wanted[key] = value
    return msgspec.convert(wanted, Orders, strict=False)


def without_marks(data: bytes) -> bytes:
    """The text a model would read."""
    return MARK.sub(b"", data) if b"[[sim:" in data else data


class Failures:
    """How often each mark has been refused, for `times`."""

    def __init__(self) -> None:
        self._refused: dict[str, int] = {}

    def refuses(self, wanted: Orders) -> bool:
        """Whether this request is one of those to refuse; counts it if it is."""
        if wanted.status is None:
            return False
        if wanted.times is None:
            return True
        done = self._refused.get(wanted.mark, 0)
        if done >= wanted.times:
            return False
        if len(self._refused) >= COUNTED_MARKS_MAX:
            self._refused.clear()
        self._refused[wanted.mark] = done + 1
        return True

    def forget(self) -> None:
        """Start counting anew."""
        self._refused.clear()
