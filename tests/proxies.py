"""A proxy that opens tunnels, and providers with and without TLS that remember who asked them what."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import trustme

ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER


class Papers(NamedTuple):
    """What an authority issued for 127.0.0.1, and the authority itself."""

    authority: Path
    certificate: Path
    key: Path

    def server(self, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context


def papers(directory: Path, name: str = "ca") -> Papers:
    made = trustme.CA()
    issued = made.issue_cert("127.0.0.1", "localhost", "provider.example")
    found = Papers(*(directory / f"{name}-{part}.pem" for part in ("authority", "certificate", "key")))
    for pem, file in zip((made.cert_pem, issued.cert_chain_pems[0], issued.private_key_pem), found, strict=True):
        pem.write_to_path(str(file))
    return found


class Listener:
    """Counts connections and keeps what they sent."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.received: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self.talk(reader, writer)
        writer.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Origin(Listener):
    """A provider: one answer to every request."""

    def __init__(self, reply: bytes = REPLY, delay_s: float = 0) -> None:
        super().__init__()
        self._reply = reply
        self._delay_s = delay_s

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            self.received.append(head + body)
            await asyncio.sleep(self._delay_s)
            writer.write(self._reply)
            await writer.drain()


class ConnectProxy(Listener):
    """Opens tunnels to loopback, whatever the name; or gives the one `answer` and, if so said, closes."""

    def __init__(self, answer: bytes | None = None, *, close: bool = True) -> None:
        super().__init__()
        self._answer = answer
        self._close = close
        self.heads: list[bytes] = []
        self.ended = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self._answer is not None:
            writer.write(self._answer)
            await writer.drain()
            if not self._close:
                self.received.append(await reader.read(65536))
            return
        port = int(head.split(b" ")[1].rsplit(b":", 1)[1])
        inner_reader, inner = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        try:
            await asyncio.gather(self._pump(reader, inner, keep=True), self._pump(inner_reader, writer))
        finally:
            inner.transport.abort()
            self.ended.set()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, keep: bool = False) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if keep:
                    self.received.append(data)
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


@contextlib.asynccontextmanager
async def listening(listener: Listener, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=tls)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        for writer in listener.writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)
