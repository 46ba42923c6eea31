"""The provider's side of many streams: each chunk says when it was sent. `python -m bench.stream_sender --help`.

Every stream has a place in a wheel of milliseconds, so that the chunks are spread evenly over time as those of many
callers are. The bytes are made beforehand; only the time is written into each. It ends by itself after `--life` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import signal
import time
from collections import deque
from typing import Any, cast

import uvloop

CHUNKS_PER_S = 40
SLOTS = 1000 // CHUNKS_PER_S
"""Milliseconds between two chunks of one stream."""
CONTENT = b'"content":"'
DIGITS = 19
"""Of a time in nanoseconds, of the clock that all processes of a machine share."""
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BASE = {
    "id": "chatcmpl-stream",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "service_tier": "default",
    "usage": None,
}


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(_BASE | fields, separators=(",", ":")).encode() + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _ending(chunks: int) -> bytes:
    """How a stream ends: why, its usage, and the end marker."""
    usage = {"prompt_tokens": 20, "completion_tokens": chunks, "total_tokens": 20 + chunks}
    last = _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    return _framed(last) + _framed(_event(choices=[], usage=usage)) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Wheel:
    """The streams under way, by the millisecond of their period in which they send."""

    def __init__(self, chunks: int, hold_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.chunks = chunks
        self.hold_s = hold_s
        self.ending = _ending(chunks)
        text = _event(choices=[{"index": 0, "delta": {"content": "0" * DIGITS}, "finish_reason": None}])
        self.before, _, self.after = _framed(text).partition(b"0" * DIGITS)
        self._slots: deque[set[Stream]] = deque(set() for _ in range(SLOTS))
        self._next = 0

    def add(self, stream: Stream) -> set[Stream]:
        """Give a stream its place, each the one after the last one's."""
        self._next = (self._next + 1) % SLOTS
        slot = self._slots[self._next]
        slot.add(stream)
        return slot

    async def turn(self) -> None:
        """One place each millisecond. Whoever is late goes on without a pause until they are not."""
        due = self.loop.time()
        while True:
            for stream in list(self._slots[0]):
                stream.send()
            self._slots.rotate(-1)
            self._next = (self._next - 1) % SLOTS
            due += 0.001
            await asyncio.sleep(max(0.0, due - self.loop.time()))


class Stream(asyncio.Protocol):
    """One connection: a request comes, a stream goes, and then perhaps the next."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._unread = b""
        self._slot: set[Stream] | None = None
        self._left = 0
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, blank, body = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if blank and length is not None and len(body) >= int(length[1]):
            self._unread = b""
            self._left = self._wheel.chunks
            self._transport.write(_HEAD)
            self._slot = self._wheel.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._leave()
        if self._closing is not None:
            self._closing.cancel()

    def send(self) -> None:
        """The next chunk."""
        wheel = self._wheel
        self._transport.write(b"%b%019d%b" % (wheel.before, time.monotonic_ns(), wheel.after))
        self._left -= 1
        if not self._left:
            self._leave()
            self._closing = wheel.loop.call_later(wheel.hold_s, self._transport.write, wheel.ending)

    def _leave(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None


async def _serve(port: int, chunks: int, hold_s: float, life_s: float) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.call_later(life_s, ended.set)
    wheel = Wheel(chunks, hold_s, loop)
    server = await loop.create_server(lambda: Stream(wheel), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    turning = loop.create_task(wheel.turn())
    await ended.wait()
    turning.cancel()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, required=True, help="of one stream")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds of silence before a stream ends")
    parser.add_argument("--life", type=float, required=True, help="seconds until this process ends by itself")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(given.port, given.chunks, given.hold, given.life))


if __name__ == "__main__":
    main()
