"""A proxy that does nothing: HTTP parsed on both sides by httptools, on uvloop, and the bytes passed on.

No keys, no journal, no prices, no deadlines: what it costs is the least that a proxy in this interpreter costs on this
machine. `python -m bench.bare --port P --upstream Q`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import cast

import httptools
import uvloop

_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: "


class Upstream(asyncio.Protocol):
    """One kept connection to what answers."""

    def __init__(self, idle: list[Upstream]) -> None:
        self._idle = idle
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self.caller: Caller | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        if self.caller is not None:
            self.caller.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        caller, self.caller = self.caller, None
        body = b"".join(self._body)
        self._body.clear()
        self._idle.append(self)
        if caller is not None:
            caller.answer(self._parser.get_status_code(), body)


class Caller(asyncio.Protocol):
    """One caller's connection, one request at a time."""

    def __init__(self, idle: list[Upstream], upstream: int, loop: asyncio.AbstractEventLoop) -> None:
        self._idle = idle
        self._upstream = upstream
        self._loop = loop
        self._body: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.closed:
                self._pass_on(upstream, body)
                return
        self._task = self._loop.create_task(self._connect(body))

    async def _connect(self, body: bytes) -> None:
        _, upstream = await self._loop.create_connection(lambda: Upstream(self._idle), "127.0.0.1", self._upstream)
        self._pass_on(upstream, body)

    def _pass_on(self, upstream: Upstream, body: bytes) -> None:
        upstream.caller = self
        upstream.transport.write(_HEAD + b"%d\r\n\r\n%b" % (len(body), body))

    def answer(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)


async def _serve(port: int, upstream: int) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    idle: list[Upstream] = []
    server = await loop.create_server(lambda: Caller(idle, upstream, loop), "127.0.0.1", port, backlog=4096)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.upstream))


if __name__ == "__main__":
    main()
