"""What a dialect is: how a call reads, what is sent on, and what a reply says was used.

A dialect never touches a socket, a clock or a file. It is given bytes and answers with values; the gateway does the
rest.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

import msgspec

from costbearer.errors import CallRefused
from costbearer.usage import Work


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's request as far as the gateway needs to understand it; `body` is exactly what the caller sent.

    `tags` is the raw `metadata.tags` list, unvalidated (attribution validates it). `max_output_tokens` is per choice
    and None where the caller set no limit. `open_ended` says that the body refers to content it does not contain (a
    URL, a file id, a stored conversation, a server-side tool) or contains content whose bytes do not bound its tokens
    (images, documents), so that its bytes do not bound its input tokens. `overhead_tokens` is the most that the
    provider adds by rules of its own for what the body asks (a system prompt for tools). `tier`, `speed` and `geo` are
    what the caller asked for, of which the worst price of the call is computed. `has_stream_options` says that the body
    has a member `stream_options`, so that asking for usage means to edit it.
    """

    operation: str
    model: str
    stream: bool
    body: bytes
    tags: tuple[str, ...] = ()
    has_tags: bool = False
    wants_usage: bool = True
    has_stream_options: bool = False
    max_output_tokens: int | None = None
    choices: int = 1
    open_ended: bool = False
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    cache_ttl_1h: bool = False
    overhead_tokens: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply said. `work` is empty where it stated no usage.

    `complete` is False where the usage may still have grown or cannot be relied on. `generated_bytes` counts the UTF-8
    bytes of generated text seen (content, refusals, reasoning, tool names and arguments), from which an estimate is
    made when a stream is cut off. `notes` are machine codes for what was odd.
    """

    work: tuple[Work, ...] = ()
    complete: bool = False
    response_model: str | None = None
    response_id: str | None = None
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    provider_cost_usd: Decimal | None = None
    generated_bytes: int = 0
    error_code: str | None = None
    notes: tuple[str, ...] = ()


class ReplyReader(Protocol):
    """Reads one reply as it passes. `feed` gives back what the caller shall see of the bytes it was given.

    `ended` turns True once the reply's own end marker has passed (`[DONE]`, `message_stop`). Bytes are kept back until
    an event is whole; `rest` gives what is left at the end of the body. After a broken connection that is part of an
    event, which a caller must not get before an `error_event`. `reading` ends the reply: nothing is fed after it.
    """

    ended: bool

    def feed(self, chunk: bytes) -> bytes: ...

    def rest(self) -> bytes: ...

    def reading(self) -> Reading: ...


class Dialect(Protocol):
    """One wire format. All header names are lower case."""

    name: str
    operations: dict[str, str]
    """Operation -> path below the provider's base URL."""
    forwarded_headers: frozenset[str]
    """Caller's headers that are sent on to the provider; all others are dropped."""
    relayed_headers: frozenset[str]
    """Provider's headers that are given back to the caller; all others are dropped."""

    def read(self, operation: str, body: bytes) -> CallRequest:
        """Understand a request. Raises `BodyInvalid` naming the fault."""
        ...

    def outgoing(self, request: CallRequest, model: str) -> bytes:
        """The body for the provider: tags off, usage asked for, model renamed; else the caller's bytes."""
        ...

    def credential_headers(self, credential: str) -> tuple[tuple[str, str], ...]:
        """The headers that authenticate at the provider."""
        ...

    def provider_request_id(self, headers: dict[str, str]) -> str | None:
        """The provider's own id of the call, from its reply headers."""
        ...

    def stream_reader(self, request: CallRequest) -> ReplyReader:
        """A reader for one streamed reply to this request."""
        ...

    def whole(self, request: CallRequest, body: bytes) -> Reading:
        """Read a reply that came whole. Never raises: what is not as expected is an incomplete reading with a note."""
        ...

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """The JSON body of an error, in the shape this dialect's SDKs read, with our machine code in its code field."""
        ...

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        """The same, as an event inside a stream that has begun."""
        ...
