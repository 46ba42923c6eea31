"""The connections to one provider: kept, handed on, and made within a limit.

Every connection has a place, of which there are `upstream.connections_max`. A place not given back is lost until
the worker ends, so each is in one state only: idle, on its way (it is being made or handed over), or with a call.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from urllib.parse import urlsplit

from costbearer.gateway.dial import Dialler, TunnelFailed
from costbearer.gateway.upstream import ConnectFailed, Connection, HeaderNames, Limits, PoolFull
from costbearer.outbound import PORTS, Way

SWEEP_INTERVAL_S = 0.25
"""How often deadlines are looked at: a timeout is kept to within this, without a timer per call."""
SAID_INTERVAL_S = 10.0
"""Why no connection can be had is logged once in this time: a provider that is down fails every call."""

log = logging.getLogger("costbearer.upstream")


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
        """Those that are idle or with a call."""
        self._coming = 0
        """Places of connections that are being made, or are handed over in this moment."""
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._said_at = -SAID_INTERVAL_S
        self._closed = False

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
            PoolFull: there may be no more, and none was free in time.
            ConnectFailed: refused, unreachable, or TLS failed.
        """
        if (kept := self.take()) is not None:
            return kept
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        handed: Connection | None = None
        if len(self._all) + self._coming >= self._limits.connections_max:
            handed = await self._turn()
        else:
            self._coming += 1
        try:
            # One that closed while it was handed over left its place to this caller.
            connection = handed if handed is not None and handed.usable() else await self._connect()
        finally:
            self._coming -= 1
        self._all.add(connection)
        return connection

    async def _connect(self) -> Connection:
        connection = Connection(self._loop, self._limits, self._names)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                await self._dialler.dial(connection)
            if self._closed or not connection.usable():
                connection.abort()
                raise ConnectionResetError("closed as soon as it was made")
        except (OSError, TimeoutError, ssl.SSLError, ValueError) as error:
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
        """Wait for a connection that is given back, or for the right to make one (None). Its place counts as coming."""
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
                limits = self._limits
                full = f"all {limits.connections_max} (upstream.connections_max) in use for {limits.connect_s:g} s"
                self._say(f"{self._dialler.route}: {full}")
                raise PoolFull(full) from None
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back: kept, or handed on, if its reply was read to the end; dropped otherwise."""
        fit = connection.renew() if connection.busy else connection.usable()
        if not fit or (self._waiting and not connection.usable()):
            connection.abort()
            self._forget(connection)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._all.discard(connection)
                self._coming += 1
                turn.set_result(connection)
                return
        self._idle.append(connection)

    def _pass_turn(self, connection: Connection | None) -> None:
        self._coming -= 1
        if connection is not None:
            self._all.add(connection)
            self.release(connection)
        else:
            self._wake_next()

    def close(self) -> None:
        """Drop every connection, those that are still being made as soon as they are."""
        self._closed = True
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
                self._coming += 1
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._all):
            connection.expire(now)
            if now > connection.retires_at:
                connection.retire()
            if connection.closed and not connection.busy:
                self._forget(connection)
        kept: list[Connection] = []
        for connection in self._idle:
            if connection.closed or now > connection.idle_until or now > connection.retires_at:
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
