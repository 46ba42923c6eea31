"""Who may connect: accepts callers' connections for one worker, counts them, and keeps their deadlines.

One look over all connections, four times a second, finds what has not come in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl

from costbearer.gateway.caller_connection import HEAD_TIMEOUT_S, CallerConnection
from costbearer.gateway.http1 import Clock, HeadReader
from costbearer.gateway.incoming import FREE_BYTES
from costbearer.gateway.worker import Worker

EXCESS_ANSWERED = 64
"""Connections of one address beyond its limit that are told so; further ones are closed without a word."""
SWEEP_INTERVAL_S = 0.25
ACCEPT_PAUSE_S = 0.5
"""How long nobody is let in after the system had no descriptor or memory for them."""

log = logging.getLogger("costbearer.gateway")


class Listener:
    """Accepts connections from one listening socket, for one worker.

    Attributes:
        worker: who answers.
        heads: reads heads.
        clock: makes Date headers.
        body_bytes_free: a body that is no larger and comes with its head is taken without asking for room.
        closing: no connection is kept after its request, and none is accepted.
    """

    def __init__(self, worker: Worker, listening: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        config = worker.config
        self.worker = worker
        self.heads = HeadReader()
        self.clock = Clock()
        self.closing = False
        self.body_bytes_free = min(FREE_BYTES, worker.body_bytes_max)
        self.body_timeout_s = config.number("gateway.body_timeout_s")
        self.stall_timeout_s = config.number("gateway.stall_timeout_s")
        self._per_client_max = config.integer("gateway.connections_per_client_max")
        self._connections_max = config.integer("gateway.connections_max")
        self._listening = listening
        self._tls = tls
        self._loop = worker.loop
        self._open: dict[CallerConnection, None] = {}
        self._clients: dict[str, int] = {}
        self._count = 0
        self._shaking: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept, on the running loop."""
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._sweep()

    def stop_accepting(self) -> None:
        """Close the listening socket and every connection that carries no request; refuse those still being sent."""
        if not self.closing:
            self.closing = True
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()
            for connection in list(self._open):
                connection.wind_up()

    async def finish(self, timeout_s: float) -> None:
        """Let replies that are written be taken for so long, then drop whoever is left."""
        end = self._loop.time() + timeout_s
        while self._open and self._loop.time() < end:
            await asyncio.sleep(0.02)
        for connection in list(self._open):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _accept(self) -> None:
        """Let one in. One for each turn of the loop: where workers share a socket, a busy one leaves more to others."""
        try:
            accepted, address = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                log.warning("no connection can be accepted now: %s", error.strerror)
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
            return
        client = str(address[0]) if address else ""
        count = self._clients.get(client, 0)
        if self._count >= self._connections_max or count >= self._per_client_max + EXCESS_ANSWERED:
            accepted.close()
            return
        self._clients[client] = count + 1
        self._count += 1
        accepted.setblocking(False)
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = CallerConnection(self, client, excess=count >= self._per_client_max)
        task = self._loop.create_task(self._connect(connection, accepted))
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    def _accept_again(self) -> None:
        if not self.closing:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _connect(self, connection: CallerConnection, accepted: socket.socket) -> None:
        timeout = HEAD_TIMEOUT_S if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except (OSError, ssl.SSLError, TimeoutError):
            # No handshake, or gone before it: nothing was asked.
            accepted.close()
            self.forget(connection)

    def remember(self, connection: CallerConnection) -> None:
        """It can carry requests from now on."""
        self._open[connection] = None

    def forget(self, connection: CallerConnection) -> None:
        """It is closed."""
        if connection.counted:
            connection.counted = False
            self._open.pop(connection, None)
            self._count -= 1
            left = self._clients[connection.client] - 1
            if left:
                self._clients[connection.client] = left
            else:
                del self._clients[connection.client]

    def _sweep(self) -> None:
        # The next look is certain before anything of this one can fail.
        self._sweeper = self._loop.call_later(SWEEP_INTERVAL_S, self._sweep)
        now = self._loop.time()
        late = [connection for connection in self._open if 0.0 < connection.deadline < now]
        for connection in late:
            connection.expire(now)
