"""What a dialect is: how a call reads, what is sent on, and what a reply says was used.

A `Dialect` is one provider family's API: its credentials, its headers, its errors. Its `Operation`s are the things that
can be asked of it, each with a wire format of its own. None of them touches a socket, a clock or a file: they are given
bytes and answer with values; the gateway does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import msgspec

from costbearer.errors import CallRefused
from costbearer.usage import Work

NOTHING: Mapping[str, str] = MappingProxyType({})
NO_QUANTITIES: Mapping[str, int] = MappingProxyType({})
JSON = "application/json"
EVENT_STREAM = "text/event-stream"


class Place(NamedTuple):
    """Where in the API a request was sent. `params` are the variable parts of its path, unescaped; `query` is raw."""

    method: str = "POST"
    path: str = ""
    query: str = ""
    params: Mapping[str, str] = NOTHING
    content_type: str = JSON


NOWHERE = Place()


class CallRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A caller's request as far as the gateway needs to understand it; `body` is exactly what the caller sent.

    `model` is empty for requests about stored objects (files, batches, responses). `tags` is the raw `metadata.tags`
    list, unvalidated (attribution validates it). `max_output_tokens` is per choice and None where the caller set no
    limit. `open_ended` says that the body refers to content it does not contain (a URL, a file id, a stored
    conversation, a server-side tool) or contains content whose bytes do not bound its tokens (images, documents), so
    that its bytes do not bound its input tokens. `overhead_tokens` is the most that the provider adds by rules of its
    own for what the body asks (a system prompt for tools). `tier`, `speed`, `geo` and `variant` are what the caller
    asked for, of which the worst price of the call is computed. `has_stream_options` says that the body has a member
    `stream_options`, so that asking for usage means to edit it. `free` requests cost nothing by the provider's rules,
    whatever they are answered. `quantities_max` bounds, by meter, what is priced and is no token, where the request
    says it (characters to be spoken, images to be made). `background` says that the work may go on after the reply.
    """

    operation: str
    model: str
    stream: bool
    body: bytes
    place: Place = NOWHERE
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
    variant: str | None = None
    cache_ttl_1h: bool = False
    overhead_tokens: int = 0
    free: bool = False
    background: bool = False
    quantities_max: Mapping[str, int] = NO_QUANTITIES


class Outgoing(NamedTuple):
    """What is sent to the provider. `path` goes below the base URL, escaped, with its query; `headers` are those that
    belong to this request alone. `overhead_tokens` is the most that this provider adds for what is asked of it, beside
    what the caller's own dialect knows of."""

    path: str
    body: bytes
    method: str = "POST"
    content_type: str | None = JSON
    headers: tuple[tuple[str, str], ...] = ()
    overhead_tokens: int = 0


class Job(NamedTuple):
    """Work that a provider does after its reply, or did before it: a background response, a batch.

    `created_at` is when it was asked for, by the provider's clock; its prices are those of that moment. `result_id`
    names the stored object (the output file of a batch) that says what it used, where this reply does not: a reply with
    that object has a job of that id.
    """

    id: str
    state: Literal["pending", "done", "failed"]
    created_at: datetime | None = None
    result_id: str | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply said. `work` is empty where it stated no usage.

    `complete` is False where the usage may still have grown or cannot be relied on. `generated_bytes` counts the UTF-8
    bytes of generated text seen (content, refusals, reasoning, tool names and arguments), from which an estimate is
    made when a stream is cut off. `job` is the stored work the reply speaks of: what `work` says was then used by it.
    `notes` are machine codes for what was odd.
    """

    work: tuple[Work, ...] = ()
    complete: bool = False
    response_model: str | None = None
    response_id: str | None = None
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    variant: str | None = None
    provider_cost_usd: Decimal | None = None
    generated_bytes: int = 0
    error_code: str | None = None
    job: Job | None = None
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


class Operation(Protocol):
    """One thing that can be asked of a provider, in one wire format. All header names are lower case.

    An operation may stand between two dialects: it reads the caller's format, and its outgoing request and the replies
    it reads are the provider's.
    """

    streams: Mapping[str, str]
    """Content types (without parameters) of the provider's replies that are streams, with what the caller's copy is."""

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid` naming the fault."""
        ...

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request for the provider: tags off, usage asked for, model renamed; else the caller's bytes.

        `labels` are the verified labels of the call, for providers that keep labels in logs and bills of their own.

        Raises:
            BodyInvalid: the request holds something that this provider cannot be asked; it names what.
        """
        ...

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        """A reader for one streamed reply to this request."""
        ...

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole. Never raises: what is not as expected is an incomplete reading with a note."""
        ...

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """What the caller shall see of a whole reply of any status: the provider's bytes, or their translation.
        Never raises."""
        ...


class Signing(NamedTuple):
    """A request as it is signed. `url` is whole; `at` is in UTC."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: datetime


class Dialect(Protocol):
    """One provider family's API. All header names are lower case."""

    name: str
    operations: Mapping[str, Operation]
    forwarded_headers: frozenset[str]
    """Caller's headers that are sent on to the provider; all others are dropped."""
    relayed_headers: frozenset[str]
    """Provider's headers that are given back to the caller; all others are dropped."""

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        """The headers that authenticate at the provider; `signing` is given where `signs`."""
        ...

    signs: bool
    """Does the credential depend on the request?"""

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        """The provider's own id of the call, from its reply headers."""
        ...

    def charged_refusal(self, status: int, body: bytes) -> str | None:
        """Why a reply that is no success may be charged all the same, as a machine code; None where it is not."""
        ...

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """The JSON body of an error, in the shape this dialect's SDKs read, with our machine code in its code field."""
        ...

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        """The same, as an event inside a stream that has begun."""
        ...


class Family:
    """What holds of most dialects: one credential for every request, and refusals that are not billed."""

    signs = False

    def charged_refusal(self, status: int, body: bytes) -> str | None:
        """None: no reply but a success is billed."""
        return None


class Plain:
    """What most operations share: server-sent events as they are, and replies as they came."""

    streams: Mapping[str, str] = MappingProxyType({EVENT_STREAM: EVENT_STREAM})

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The provider's bytes."""
        return body
