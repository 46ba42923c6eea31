"""Making a connection to a provider: its name resolved anew, its addresses raced, a proxy's tunnel, and TLS in it.

Nothing here sends a byte of a request: whatever fails, the provider has seen no call. Through a proxy every provider
is reached by CONNECT, those without TLS too. Asked to forward a request instead, a proxy may send it twice, and its own
502 could not be told from the provider's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections import deque
from typing import Any, cast
from urllib.parse import urlsplit

from costbearer.gateway.lookup import Address, Lookup
from costbearer.outbound import PORTS, Proxy, Way, authority

NEXT_ADDRESS_S = 0.25
"""How long an address may keep silent before the next is tried beside it (RFC 8305, section 8)."""
TUNNEL_HEAD_BYTES_MAX = 16 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n")


class TunnelFailed(OSError):
    """The proxy was reached and opened no tunnel. The message names it without its credentials."""


class Dialler:
    """Makes the connections to one provider. `route` says where they lead, for people."""

    def __init__(self, base_url: str, way: Way, loop: asyncio.AbstractEventLoop) -> None:
        parts = urlsplit(base_url)
        self.host = parts.hostname or ""
        self.port = parts.port or PORTS[parts.scheme]
        self.route = authority(self.host, self.port) + (f" by proxy {way.proxy.url}" if way.proxy is not None else "")
        self._loop = loop
        self._proxy = way.proxy
        first = (self.host, self.port) if way.proxy is None else (way.proxy.host, way.proxy.port)
        self._lookup = Lookup(*first, loop)
        self._tls = way.tls() if parts.scheme == "https" else None
        self._proxy_tls = way.proxy_tls() if way.proxy is not None and way.proxy.scheme == "https" else None

    async def dial(self, protocol: asyncio.Protocol) -> None:
        """Connect, and give the connection to `protocol`. Whoever waits bounds the time.

        Raises:
            TunnelFailed: by the proxy's word, or for want of one.
            OSError, ssl.SSLError, ValueError: unreachable, refused, not to be trusted, or no name at all.
        """
        if self._proxy is None:
            await self._begin(protocol, await self._reach(), self._tls, self.host)
            return
        proxy = self._proxy
        tunnel = Tunnel(self._loop, proxy)
        await self._begin(tunnel, await self._reach(), self._proxy_tls, proxy.host)
        try:
            await tunnel.open(self.host, self.port)
            await self._pass_on(tunnel.transport, protocol)
        except BaseException:
            tunnel.transport.abort()
            raise

    async def _reach(self) -> socket.socket:
        addresses = await self._lookup.addresses()
        try:
            return await reach(self._loop, addresses)
        except BaseException:
            # Refused, or silent until whoever waits gave up: perhaps the name has other addresses by now.
            self._lookup.forget()
            raise

    async def _begin(
        self, protocol: asyncio.Protocol, reached: socket.socket, tls: ssl.SSLContext | None, name: str
    ) -> None:
        await self._loop.create_connection(
            lambda: protocol, sock=reached, ssl=tls, server_hostname=name if tls is not None else None
        )

    async def _pass_on(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """An open tunnel becomes the provider's connection."""
        if self._tls is None:
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            transport.resume_reading()
            return
        # The server speaks second in TLS, and the tunnel would not have opened with bytes left over: none can be lost.
        secured = await self._loop.start_tls(transport, protocol, self._tls, server_hostname=self.host)
        if secured is None:
            raise ConnectionResetError("closed while TLS began")
        protocol.connection_made(secured)


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel and reads its answer: one head, and not a byte more."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Proxy) -> None:
        self._proxy = proxy
        self._answer: asyncio.Future[None] = loop.create_future()
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def open(self, host: str, port: int) -> None:
        """Raises:
        TunnelFailed: refused, cut, or no answer to CONNECT.
        """
        target = authority(host, port)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > TUNNEL_HEAD_BYTES_MAX:
                self._end("answers with too much")
            return
        status = _STATUS.match(self._received)
        if status is None:
            self._end("answers with something that is no HTTP")
        elif not status[1].startswith(b"2"):
            self._end(f"refuses the tunnel with status {status[1].decode()}")
        elif end + 4 != len(self._received):
            self._end("speaks before it is spoken to")
        else:
            self.transport.pause_reading()
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  as asyncio calls it
        self._end("closes the connection instead of an answer")

    def _end(self, fault: str | None) -> None:
        if self._answer.done():
            return
        if fault is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(TunnelFailed(f"proxy {self._proxy.url} {fault}"))
            # Nobody may be waiting any more.
            self._answer.exception()


async def reach(loop: asyncio.AbstractEventLoop, found: list[Address]) -> socket.socket:
    """A connected socket to the first address that answers; a silent one holds up the others only briefly.

    Raises:
        OSError: none of them could be reached; the last one's own error.
    """
    addresses = deque(_alternating(found))
    running: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("no address")
    try:
        while addresses or running:
            if addresses:
                family, kind, proto, _, address = addresses.popleft()
                running.add(loop.create_task(_connected(loop, family, kind, proto, address)))
            done, running = await asyncio.wait(
                running, timeout=NEXT_ADDRESS_S if addresses else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner: socket.socket | None = None
            for task in done:
                error = task.exception()
                if error is not None:
                    failure = error
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
            if winner is not None:
                return winner
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    raise failure


async def _connected(
    loop: asyncio.AbstractEventLoop, family: int, kind: int, proto: int, address: tuple[Any, ...]
) -> socket.socket:
    made = socket.socket(family, kind, proto)
    try:
        made.setblocking(False)
        with contextlib.suppress(OSError):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


def _alternating(found: list[Address]) -> list[Address]:
    """The resolver's order, with the two families taking turns: a broken IPv6 costs one attempt and not all of them."""
    first = [row for row in found if row[0] == found[0][0]]
    second = [row for row in found if row[0] != found[0][0]]
    turns = [row for pair in zip(first, second, strict=False) for row in pair]
    shorter = min(len(first), len(second))
    return [*turns, *first[shorter:], *second[shorter:]]
