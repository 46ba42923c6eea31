"""The provider's side of a call: one connection to it, on httptools and the event loop's own TLS.

A connection carries one request at a time, HTTP/1.1, no pipelining and no redirects: where a request goes is decided by
configuration alone. What can go wrong is told apart by one question that money depends on: may the provider have seen
the request? `ConnectFailed` says that no byte was sent; `ReplyBroken` that some may have been.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import deque
from typing import Literal, cast

import httptools

REPLY_HEADER_BYTES_MAX = 64 * 1024
REPLY_HEADERS_MAX = 200
HEADER_NAMES_KNOWN_MAX = 256
"""How many header names of one provider are remembered, as it writes them."""
BUFFER_BYTES_MAX = 256 * 1024
"""Reading from the provider pauses while the caller has this much still to take."""
KEEP_ALIVE_MARGIN_S = 1.0
"""So long before the time that a provider states a connection is given up: what is sent while the provider closes is
lost, and whether it was seen nobody knows."""
AGE_JITTER = 0.1
"""Connections that were made together are not all renewed together: each lives up to this share shorter."""

_TIMEOUT = re.compile(r"(?:^|[,\s])timeout=([0-9]{1,9})(?![0-9])", re.IGNORECASE)

BrokenKind = Literal["reset", "cut_off", "first_byte_timeout", "idle_timeout", "protocol", "too_large"]
End = Literal["whole"] | BrokenKind
"""How a reply ended. It does so once: what happens to its connection afterwards says nothing about it."""


class ConnectFailed(Exception):
    """No connection could be made: no byte of the request was sent."""


class PoolFull(ConnectFailed):
    """As many connections as may be are in use, and none became free in time: the limit is ours."""


class ReplyBroken(Exception):
    """The request may have been seen, and its reply did not come whole. `kind` says how it ended."""

    def __init__(self, kind: BrokenKind) -> None:
        super().__init__(kind)
        self.kind: BrokenKind = kind


class Limits:
    """Times in seconds and counts that hold for one pool."""

    __slots__ = (
        "age_s",
        "connect_s",
        "connections_max",
        "first_byte_s",
        "idle_s",
        "keep_alive_s",
        "reply_bytes_max",
    )

    def __init__(
        self,
        *,
        connect_s: float,
        first_byte_s: float,
        idle_s: float,
        keep_alive_s: float,
        connections_max: int,
        reply_bytes_max: int,
        age_s: float = 300.0,
    ) -> None:
        self.age_s = age_s
        self.connect_s = connect_s
        self.first_byte_s = first_byte_s
        self.idle_s = idle_s
        self.keep_alive_s = keep_alive_s
        self.connections_max = connections_max
        self.reply_bytes_max = reply_bytes_max


class HeaderNames(dict[bytes, str]):
    """Header names as they are written, and as they are looked up: a provider writes the same few in every reply."""

    def __missing__(self, written: bytes) -> str:
        name = written.decode("latin-1").lower()
        if len(self) < HEADER_NAMES_KNOWN_MAX:
            self[written] = name
        return name


class Connection(asyncio.Protocol):
    """One connection and the reply that is being read from it."""

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, names: HeaderNames) -> None:
        self._loop = loop
        self._limits = limits
        self._names = names
        self._waiter: asyncio.Future[None] | None = None
        self._written: dict[bytes, bytes] = {}
        self._pieces: deque[bytes] = deque()
        # The parser calls these two once for every header and piece, so they are built-in methods.
        self.on_header = self._written.__setitem__
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._paused = False
        self._end: End | None = None
        self._until_close = False
        self._keep_alive = False
        self._kept_s = limits.keep_alive_s
        self._kept_as = ""
        self._hurried: float | None = None
        self._retired = False
        self.closed = False
        self.busy = False
        self.retires_at = loop.time() + limits.age_s * (1 - AGE_JITTER * random.random())  # noqa: S311  no secret
        self.deadline = 0.0
        self.deadline_kind: BrokenKind = "first_byte_timeout"
        self.idle_until = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.idle_until = self._loop.time() + self._kept_s

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            # Bytes nobody asked for: whatever they are, this connection's framing can no longer be trusted.
            self._break("protocol")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("protocol")
            return
        if self._end is None:
            self._expect_more(len(data))
        self._wake()

    def _expect_more(self, size: int) -> None:
        """The reply is not whole yet, and the last part of it had that many bytes."""
        if self.has_head:
            # An interim answer (1xx) is no reply: the provider still has its time to the first byte of one.
            self.deadline = self._loop.time() + self._limits.idle_s if self._hurried is None else self._hurried
            self.deadline_kind = "idle_timeout"
        self._received += size
        if len(self._written) > REPLY_HEADERS_MAX or (not self.has_head and self._received > REPLY_HEADER_BYTES_MAX):
            self._break("protocol")
        elif self._received > BUFFER_BYTES_MAX and self._pieces and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._end is None:
            if exc is not None:
                self._end = "reset"
            else:
                self._end = "whole" if self.has_head and self._until_close else "cut_off"
        self._wake()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._end is not None:
            raise httptools.HttpParserError("a second reply to one request")
        self._written.clear()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        if len(self._written) > REPLY_HEADERS_MAX:
            raise httptools.HttpParserError("too many headers")
        names = self._names
        headers = self.headers = {names[name]: value.decode("latin-1") for name, value in self._written.items()}
        self.status = status
        self.has_head = True
        self._until_close = "content-length" not in headers and not (
            headers.get("transfer-encoding", "").lower().endswith("chunked")
        )

    def on_message_complete(self) -> None:
        if self.has_head and self._end is None:
            self._end = "whole"
            # The parser knows this only here; afterwards it speaks of the next message.
            self._keep_alive = not self._until_close and not self._retired and self._parser.should_keep_alive()

    # -- one request and its reply

    def send(self, head: bytes, body: bytes) -> None:
        """Write one request. After this the provider may have seen it.

        Raises:
            ConnectFailed: the connection is closing; nothing was written.
        """
        if self._transport.is_closing():
            raise ConnectFailed("closing")
        self.busy = True
        self.deadline = self._loop.time() + self._limits.first_byte_s
        self.deadline_kind = "first_byte_timeout"
        if len(body) < 16384:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def head(self) -> None:
        """Wait until status and headers are there.

        Raises:
            ReplyBroken: the connection ended or stalled before that.
        """
        while not self.has_head:
            end = self._end
            if end is not None:
                assert end != "whole", "no reply is whole without its head"
                raise ReplyBroken(end)
            await self._news()

    async def chunk(self) -> bytes | None:
        """The next bytes of the body as they came, or None at its end.

        Raises:
            ReplyBroken: the body ended or stalled before it was whole; what came before was given out.
        """
        while not self._pieces:
            end = self._end
            if end == "whole":
                return None
            if end is not None:
                raise ReplyBroken(end)
            await self._news()
        if len(self._pieces) == 1:
            data = self._pieces.popleft()
        else:
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._received = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def at_end(self) -> bool:
        """Is the body whole and given out?"""
        return self._end == "whole" and not self._pieces

    def arrived(self) -> bytes | None:
        """The whole body where it is there already and in one piece, as short answers are; None where it is not."""
        return self._pieces.popleft() if self._end == "whole" and len(self._pieces) == 1 else None

    async def whole(self) -> bytes:
        """The whole body of a reply that is not a stream.

        Raises:
            ReplyBroken: cut off, stalled, or larger than `gateway.reply_bytes_max`.
        """
        if (body := self.arrived()) is not None:
            return body
        parts: list[bytes] = []
        size = 0
        while (piece := await self.chunk()) is not None:
            parts.append(piece)
            size += len(piece)
            if size > self._limits.reply_bytes_max:
                self.abort()
                raise ReplyBroken("too_large")
        return b"".join(parts)

    def usable(self) -> bool:
        """Can a request be written to it?"""
        return not self.closed and not self._transport.is_closing()

    def renew(self) -> bool:
        """Make ready for the next request; False where none may follow the reply that was read."""
        if self.closed or self._pieces or not self._keep_alive:
            return False
        stated = self.headers.get("keep-alive")
        if stated is not None and stated != self._kept_as:
            self._kept_as = stated
            self._kept_s = min(self._limits.keep_alive_s, _kept_s(stated))
        if self._kept_s <= 0:
            return False
        self.idle_until = self._loop.time() + self._kept_s
        self.busy = self.has_head = self._keep_alive = False
        self._end = self._hurried = None
        self._received = 0
        return True

    def retire(self) -> None:
        """No request follows the one that is being answered."""
        self._retired = True
        self._keep_alive = False

    def abort(self) -> None:
        """Drop the connection at once, so that the provider stops generating (closing would drain it first)."""
        if not self.closed:
            self.closed = True
            if self._end is None:
                # Cut by us: that the transport then closes in good order makes no reply whole.
                self._end = "cut_off"
            self._transport.abort()

    def hurry(self, seconds: float) -> None:
        """The end of the reply has been seen; give its connection only so long to say so too."""
        if self._hurried is None:
            self._hurried = self._loop.time() + seconds
            self.deadline = min(self.deadline, self._hurried)

    def expire(self, now: float) -> None:
        """Give up if the deadline has passed. While a reply waits for its caller, the delay is not the provider's."""
        if self.busy and self._end is None and not self._paused and now > self.deadline:
            self._break(self.deadline_kind)

    def _break(self, kind: BrokenKind) -> None:
        if self._end is None:
            self._end = kind
        self.abort()
        self._wake()

    def _news(self) -> asyncio.Future[None]:
        """Done when something has happened to the reply."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _kept_s(stated: str) -> float:
    """How long a connection may be idle by its provider's `Keep-Alive` header; without end where it does not say."""
    found = _TIMEOUT.search(stated)
    return math.inf if found is None else int(found[1]) - KEEP_ALIVE_MARGIN_S
