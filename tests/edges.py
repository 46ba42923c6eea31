"""The callers' side of a gateway on a real socket, in this process: a listener, its worker, and bytes to and fro."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from costbearer.gateway.listener import Listener
from costbearer.simulator import RunningSimulator
from tests.harness import Gateway, gateway, make_config

T = TypeVar("T")
CHAT = "/v1/chat/completions"


class Edge:
    """A listener on a loopback port, on a loop in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Gateway, listener: Listener, port: int) -> None:
        self._loop = loop
        self.inner = inner
        self.listener = listener
        self.port = port

    def inside(self, function: Callable[[], T]) -> T:
        """Its result, from the loop's own thread."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def connect(self, *, source: str = "127.0.0.1", receive_bytes: int | None = None) -> socket.socket:
        """A caller's connection. `receive_bytes` bounds what the system keeps for a caller who does not read."""
        made = socket.socket()
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(10)
        made.bind((source, 0))
        made.connect(("127.0.0.1", self.port))
        return made

    def exchange(self, data: bytes) -> bytes:
        """What comes back for these bytes until the gateway closes."""
        with self.connect() as caller:
            caller.sendall(data)
            return read_all(caller)

    def connections(self) -> int:
        """How many connections are counted as open."""
        return self.inside(lambda: self.listener._count)

    def await_connections(self, count: int, within_s: float = 5.0) -> None:
        self.until(lambda: self.listener._count == count, within_s)

    def until(self, holds: Callable[[], bool], within_s: float = 5.0) -> None:
        """Wait until something holds on the loop's thread."""
        end = time.monotonic() + within_s
        while not self.inside(holds):
            assert time.monotonic() < end, "it did not come to be in time"
            time.sleep(0.01)

    def calls(self) -> int:
        """How many calls were opened: intents in the journal."""
        return self.inside(lambda: sum(type(frame).__name__ == "Intent" for frame in self.inner.frames()))

    def request(self, directive: str = "", *, body: bytes | None = None, lines: str = "", **more: Any) -> bytes:
        """A whole chat request with the key, framed by its length unless `lines` frames it."""
        if body is None:
            body = chat(directive, **more)
        framed = lines if "transfer-encoding" in lines else f"content-length: {len(body)}\r\n{lines}"
        return self.head("POST", CHAT, framed) + body

    def head(self, method: str, target: str, lines: str = "", version: str = "HTTP/1.1") -> bytes:
        credential = f"host: gateway\r\nauthorization: Bearer {self.inner.key}\r\n"
        return f"{method} {target} {version}\r\n{credential}{lines}\r\n".encode()


@contextlib.contextmanager
def running_edge(
    directory: Path, simulator: RunningSimulator, *, tls: ssl.SSLContext | None = None, **settings: str | int | float
) -> Iterator[Edge]:
    """A listener that serves until the end of the block. Settings by their name, with a dot after `gateway`."""
    named = {f"gateway.{name}": value for name, value in settings.items()}
    config = make_config(directory, simulator.openai_base_url, simulator.anthropic_base_url, **named)
    started: list[Edge] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with gateway(config) as inner:
            listening = socket.create_server(("127.0.0.1", 0), backlog=512)
            # Accepted sockets inherit it: the system keeps little of a reply, so that what is kept here can be seen.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
            listener = Listener(inner.worker, listening, tls=tls)
            listener.start()
            started.append(Edge(asyncio.get_running_loop(), inner, listener, listening.getsockname()[1]))
            ready.set()
            await over.wait()
            listener.stop_accepting()
            await inner.worker.drain(0.2)
            await listener.finish(0.2)

    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="edge", daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        assert not thread.is_alive()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def chat(directive: str = "", **more: Any) -> bytes:
    """The body of a chat request; `directive` is for the simulator."""
    content = "Tell me about ships." + (f" [[sim:{directive}]]" if directive else "")
    said = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}], "max_tokens": 50, **more}
    return json.dumps(said).encode()


def chunked(body: bytes, step: int = 100) -> bytes:
    """The body in chunks of `step` bytes."""
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def read_all(caller: socket.socket) -> bytes:
    """Everything until the other side closes, or resets."""
    answer = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := caller.recv(65536):
            answer += piece
    return bytes(answer)


def read_reply(caller: socket.socket) -> bytes:
    """One reply that says its length, with its head."""
    answer = bytearray()
    while (end := answer.find(b"\r\n\r\n")) < 0:
        piece = caller.recv(65536)
        assert piece, bytes(answer)
        answer += piece
    length = next(
        int(line[15:]) for line in bytes(answer[:end]).lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    while len(answer) < end + 4 + length:
        piece = caller.recv(65536)
        assert piece, bytes(answer)
        answer += piece
    return bytes(answer)


def statuses(answer: bytes) -> list[int]:
    """The statuses of the replies in these bytes."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
