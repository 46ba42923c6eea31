"""The provider's side of a call: a pool of kept connections on httptools and the event loop's own TLS.

One `Pool` serves one provider. A connection carries one request at a time, HTTP/1.1, no pipelining and no redirects:
where a request goes is decided by configuration alone. What can go wrong is told apart by one question that money
depends on: may the provider have seen the request? `ConnectFailed` says that no byte was sent; `ReplyBroken` that some
may have been.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools

from costbearer.gateway.dial import Dialler, TunnelFailed
from costbearer.outbound import PORTS, Way

REPLY_HEADER_BYTES_MAX = 64 * 1024
REPLY_HEADERS_MAX = 200
HEADER_NAMES_KNOWN_MAX = 256
"""How many header names of one provider are remembered, as it writes them."""
BUFFER_BYTES_MAX = 256 * 1024
"""Reading from the provider pauses while the caller has this much still to take."""
SWEEP_INTERVAL_S = 0.25
"""How often deadlines are looked at: a timeout is kept to within this, without a timer per call."""

AGE_JITTER = 0.1
"""Connections that were made together are not all renewed together: each lives up to this share shorter."""
SAID_INTERVAL_S = 10.0
"""Why no connection can be made is logged once in this time: a provider that is down fails every call."""

log = logging.getLogger("costbearer.upstream")

BrokenKind = Literal["reset", "cut_off", "first_byte_timeout", "idle_timeout", "protocol", "too_large"]


class ConnectFailed(Exception):
    """No connection could be made: no byte of the request was sent."""


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
        self._broken: BrokenKind | None = None
        self._until_close = False
        self._keep_alive = False
        self._hurried: float | None = None
        self._retired = False
        self.closed = False
        self.busy = False
        self.retires_at = loop.time() + limits.age_s * (1 - AGE_JITTER * random.random())  # noqa: S311  no secret
        self.deadline = 0.0
        self.deadline_kind: BrokenKind = "first_byte_timeout"
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = False
        self.complete = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

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
        if not self.complete:
            self._expect_more(len(data))
        self._wake()

    def _expect_more(self, size: int) -> None:
        """The reply is not whole yet, and the last part of it had that many bytes."""
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
        if self.busy and not self.complete:
            if self.has_head and self._until_close and exc is None:
                self.complete = True
            elif self._broken is None:
                self._broken = "reset" if exc is not None else "cut_off"
        self._wake()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.complete:
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
        if self.has_head:
            self.complete = True
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
            if self._broken is not None:
                raise ReplyBroken(self._broken)
            await self._news()

    async def chunk(self) -> bytes | None:
        """The next bytes of the body as they came, or None at its end.

        Raises:
            ReplyBroken: the body ended or stalled before it was whole; what came before was given out.
        """
        while not self._pieces:
            if self.complete:
                return None
            if self._broken is not None:
                raise ReplyBroken(self._broken)
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
        return self.complete and not self._pieces

    def arrived(self) -> bytes | None:
        """The whole body where it is there already and in one piece, as short answers are; None where it is not."""
        return self._pieces.popleft() if self.complete and len(self._pieces) == 1 else None

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
        self.busy = self.has_head = self.complete = self._keep_alive = False
        self._hurried = None
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
            self._transport.abort()

    def hurry(self, seconds: float) -> None:
        """The end of the reply has been seen; give its connection only so long to say so too."""
        if self._hurried is None:
            self._hurried = self._loop.time() + seconds
            self.deadline = min(self.deadline, self._hurried)

    def expire(self, now: float) -> None:
        """Give up if the deadline has passed. While a reply waits for its caller, the delay is not the provider's."""
        if self.busy and not self.complete and not self._paused and now > self.deadline:
            self._break(self.deadline_kind)

    def _break(self, kind: BrokenKind) -> None:
        if self._broken is None:
            self._broken = kind
        self.abort()
        self._wake()

    def _news(self) -> asyncio.Future[None]:
        """Done when something has happened to the reply."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Pool:
    """The connections to one provider. `base_url` may have a path, which heads every request's path."""

    def __init__(self, base_url: str, limits: Limits, loop: asyncio.AbstractEventLoop, way: Way | None = None) -> None:
        """Without a `way`, there is no proxy and the system's authorities are trusted.

        Raises:
            ConfigInvalid: a file of the way cannot be used.
        """
        parts = urlsplit(base_url)
        self._dialler = Dialler(base_url, way or Way(), loop)
        host, port = self._dialler.host, self._dialler.port
        shown = f"[{host}]" if ":" in host else host
        self.host_header = shown if port == PORTS[parts.scheme] else f"{shown}:{port}"
        self.path = parts.path.rstrip("/")
        self._limits = limits
        self._loop = loop
        self._names = HeaderNames()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._said_at = -SAID_INTERVAL_S

    def take(self) -> Connection | None:
        """An idle connection, the most recently used first; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            self._forget(connection)
        return None

    async def acquire(self) -> Connection:
        """An idle connection, the most recently used first, or a new one; where there may be no more, the next free.

        Raises:
            ConnectFailed: refused, unreachable, TLS failed, or none was free in time.
        """
        if (kept := self.take()) is not None:
            return kept
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        if len(self._all) + self._connecting >= self._limits.connections_max:
            handed = await self._turn()
            if handed is not None:
                return handed
        else:
            self._connecting += 1
        try:
            connection = await self._connect()
        finally:
            self._connecting -= 1
        self._all.add(connection)
        return connection

    async def _connect(self) -> Connection:
        connection = Connection(self._loop, self._limits, self._names)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await self._dialler.dial(connection)
        except (OSError, TimeoutError, ssl.SSLError, UnicodeError) as error:
            self._wake_next()
            reason = f"{self._dialler.route}: {_said(error)}"
            self._say(reason)
            raise ConnectFailed(reason) from error
        except BaseException:
            self._wake_next()
            raise
        return connection

    def _say(self, reason: str) -> None:
        """Callers learn that there was no connection; why is for whoever runs the gateway."""
        now = self._loop.time()
        if now - self._said_at >= SAID_INTERVAL_S:
            self._said_at = now
            log.warning("no connection to %s", reason)

    async def _turn(self) -> Connection | None:
        """Wait for a connection that is given back, or for the right to make one (None; it counts as connecting)."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if turn.done() and not turn.cancelled():
                # It was this caller's turn in the very moment in which they gave up.
                self._pass_turn(turn.result())
            if isinstance(error, TimeoutError):
                raise ConnectFailed("no connection was free in time") from None
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back: kept, or handed on, if its reply was read to the end; dropped otherwise."""
        if (connection.busy and not connection.renew()) or (self._waiting and not connection.usable()):
            connection.abort()
            self._forget(connection)
            return
        connection.idle_since = self._loop.time()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self._idle.append(connection)

    def _pass_turn(self, connection: Connection | None) -> None:
        if connection is not None:
            self.release(connection)
        else:
            self._connecting -= 1
            self._wake_next()

    def close(self) -> None:
        """Drop every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self._all):
            connection.abort()
            self._forget(connection)
        self._idle.clear()

    def _forget(self, connection: Connection) -> None:
        if connection in self._all:
            self._all.discard(connection)
            self._wake_next()

    def _wake_next(self) -> None:
        """There is room for one more connection: the next who waits may make it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._connecting += 1
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._all):
            connection.expire(now)
            if now > connection.retires_at:
                connection.retire()
        oldest = now - self._limits.keep_alive_s
        kept: list[Connection] = []
        for connection in self._idle:
            if connection.closed or connection.idle_since < oldest or now > connection.retires_at:
                connection.abort()
                self._forget(connection)
            else:
                kept.append(connection)
        self._idle = kept
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)


def _said(error: Exception) -> str:
    if isinstance(error, TunnelFailed):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    return "not in time" if isinstance(error, TimeoutError) else type(error).__name__
