"""The simulated providers on the wire: HTTP/1.1 connections that deliver replies, with the pauses and cuts ordered.

A call is closed in the books before the last bytes that its caller will ever get are written.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from typing import cast

import httptools

from costbearer.simulator.api import Api, Call, Request

BODY_BYTES_MAX = 64 * 1024 * 1024
FLUSH_TIMEOUT_S = 5.0
"""How long a cut waits for what was sent before it to reach the peer's kernel."""
FLUSH_POLL_S = 0.001
READ_LIMIT_REQUESTS = 64
"""Pipelined requests that wait on one connection before it is no longer read."""

_LINGER_NONE = struct.pack("ii", 1, 0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection. Requests on it are answered one after the other."""

    def __init__(self, api: Api, connections: set[Connection]) -> None:
        self._api = api
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request, bool, bool]] = deque()
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._stopping = False
        self._start_request()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without being of that class.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # our own failure, not the client's
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(_BAD_REQUEST)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connections.discard(self)
        self._waiting.clear()
        if self._call is not None:
            self._call.close("cut_by_fault" if self._stopping else "cut_by_client")
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    async def stop(self) -> None:
        """Break the connection off; a call on it is cut by the provider, not by its client."""
        self._stopping = True
        self._transport.abort()
        if self._task is not None:
            await asyncio.wait((self._task,))

    # -- httptools' callbacks ------------------------------------------------------------------------------------

    def _start_request(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0

    def on_message_begin(self) -> None:
        self._start_request()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # A header sent twice keeps both values, so that neither escapes what the books say was seen.
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > BODY_BYTES_MAX:
            self._transport.write(_TOO_LARGE)
            self._transport.close()
            self._body.clear()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._transport.is_closing():
            return
        parser = self._parser
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(parser.get_method().decode("latin-1"), self._target.decode("latin-1"), self._headers, body)
        modern = parser.get_http_version() != "1.0"
        self._waiting.append((request, modern, not (modern and parser.should_keep_alive())))
        if len(self._waiting) > READ_LIMIT_REQUESTS and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._call is None:
            self._next()

    # -- delivery ------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Answer what waits until something takes time."""
        while self._waiting and not self._transport.is_closing():
            request, chunked, close = self._waiting.popleft()
            call = self._api.begin(request)
            self._call = call
            if not call.orders.instant:
                self._task = self._loop.create_task(self._deliver(call, chunked=chunked, close=close))
                return
            self._deliver_now(call, chunked=chunked, close=close)
        self._call = None
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _deliver_now(self, call: Call, *, chunked: bool, close: bool) -> None:
        plan = call.plan
        out = [call.head(chunked=chunked, close=close)]
        framed = chunked and plan.stream
        for data, tokens in plan.pieces:
            call.generated += tokens
            call.bytes_sent += len(data)
            out.append(b"%x\r\n%b\r\n" % (len(data), data) if framed else data)
        if framed:
            out.append(_LAST_CHUNK)
        call.close(call.ending)
        self._transport.write(b"".join(out))
        if close:
            self._transport.close()

    async def _deliver(self, call: Call, *, chunked: bool, close: bool) -> None:
        plan, orders = call.plan, call.orders
        if orders.first_byte_ms:
            await asyncio.sleep(orders.first_byte_ms / 1000)
        cut = orders.cut
        if cut is not None and cut[1] < 0:
            call.close("cut_by_fault")
            await self._cut(cut[0])
            return
        await self._send(call.head(chunked=chunked, close=close), orders.chunk_bytes)
        framed = chunked and plan.stream
        last = len(plan.pieces) - 1
        for index, (data, tokens) in enumerate(plan.pieces):
            if index and orders.delay_ms:
                await asyncio.sleep(orders.delay_ms / 1000)
            call.generated += tokens
            if cut is not None:
                room = cut[1] - call.bytes_sent
                if room < len(data) or (plan.stream and room == len(data)):
                    call.bytes_sent += room
                    call.close("cut_by_fault")
                    await self._send(
                        _frame(data[:room], orders.chunk_bytes) if framed else data[:room], orders.chunk_bytes
                    )
                    await self._cut(cut[0])
                    return
            call.bytes_sent += len(data)
            out = _frame(data, orders.chunk_bytes) if framed else data
            if index == last:
                call.close(call.ending)
                out += _LAST_CHUNK if framed else b""
            await self._send(out, orders.chunk_bytes)
        self._task = None
        if close:
            self._transport.close()
        else:
            self._next()

    async def _send(self, data: bytes, step: int | None) -> None:
        if step is None:
            self._transport.write(data)
            await self._drained()
            return
        for start in range(0, len(data), step):
            self._transport.write(data[start : start + step])
            # Every part in a turn of the loop of its own, so that the peer is likely to read it alone.
            await asyncio.sleep(0)
            await self._drained()

    async def _drained(self) -> None:
        if self._writable is not None:
            await self._writable

    async def _cut(self, kind: str) -> None:
        if kind == "stall":
            await self._loop.create_future()
        elif kind == "reset":
            sock = self._transport.get_extra_info("socket")
            await self._flushed(sock.fileno())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self._transport.abort()
        else:
            self._transport.close()

    async def _flushed(self, descriptor: int) -> None:
        """A reset throws away what the kernel has not delivered; wait until the peer's kernel has it all."""
        deadline = self._loop.time() + FLUSH_TIMEOUT_S
        while self._loop.time() < deadline:
            if not self._transport.get_write_buffer_size():
                (unsent,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))
                if not unsent:
                    return
            await asyncio.sleep(FLUSH_POLL_S)


def _frame(data: bytes, step: int | None) -> bytes:
    """HTTP chunks of at most `step` bytes; no bytes make no chunk, for an empty one would end the body."""
    size = step or len(data) or 1
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
