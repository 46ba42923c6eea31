"""The callers' side of many streams: opens them, measures the gaps between chunks. `python -m bench.stream_receiver -h`.

Raw sockets and epoll, because a client that costs more than the gateway would measure itself. It says on its output, a
JSON object a line, when all streams run (`begin`), and what it measured from then on (`end`); then it closes them all.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import time
from collections.abc import Iterator

from bench.stream_sender import CONTENT, DIGITS

OPENED_PER_S = 400
SETTLE_S = 1.0
OPEN_TIMEOUT_S = 60.0
_TIMED = len(CONTENT) + DIGITS


class Stream:
    """One stream. `sent` and `received` are the times of its last chunk, in ns; 0 before the first."""

    __slots__ = ("received", "sent", "socket", "tail")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.tail = b""
        self.sent = 0
        self.received = 0

    def times(self, data: bytes) -> Iterator[int]:
        """When the chunks that end in these bytes were sent."""
        text = self.tail + data
        at = 0
        while (found := text.find(CONTENT, at)) >= 0 and len(text) >= found + _TIMED:
            at = found + _TIMED
            yield int(text[found + len(CONTENT) : at])
        self.tail = text[max(at, len(text) - _TIMED + 1) :]


class Receiver:
    """All streams, and what is known of their chunks while `measuring`."""

    def __init__(self, port: int, key: str, sources: int) -> None:
        body = json.dumps(
            {
                "model": "gpt-4o-mini",
                "stream": True,
                "max_tokens": 4096,
                "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "Go on."}],
            }
        )
        self._asked = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._port = port
        self._sources = sources
        self._epoll = select.epoll()
        self._streams: dict[int, Stream] = {}
        self.measuring = False
        self.begun = 0
        """Streams whose first chunk is there."""
        self.ended = 0
        self.gaps_sent: list[int] = []
        self.gaps_received: list[int] = []
        self.delays: list[int] = []

    def open(self, count: int) -> None:
        """Open so many, evenly in time, and wait until each has its first chunk.

        Raises:
            RuntimeError: not all have one in time, or one was answered with something else.
        """
        began = time.monotonic()
        for number in range(count):
            connected = socket.socket()
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.bind((f"127.0.0.{2 + number % self._sources}", 0))
            connected.connect(("127.0.0.1", self._port))
            connected.sendall(self._asked)
            connected.setblocking(False)
            self._streams[connected.fileno()] = Stream(connected)
            self._epoll.register(connected, select.EPOLLIN)
            self.receive_until(began + number / OPENED_PER_S)
        end = time.monotonic() + OPEN_TIMEOUT_S
        while self.begun < count:
            if self.ended or time.monotonic() > end:
                raise RuntimeError(f"{self.begun} of {count} streams began, {self.ended} ended")
            self.receive_until(time.monotonic() + 0.05)

    def receive_until(self, end: float) -> None:
        """Take what comes, at least once, until then."""
        while True:
            left = end - time.monotonic()
            for descriptor, _ in self._epoll.poll(max(left, 0.0), 256):
                self._receive(self._streams[descriptor])
            if left <= 0:
                return

    def _receive(self, stream: Stream) -> None:
        try:
            data = stream.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data or (not stream.sent and not stream.tail and not data.startswith(b"HTTP/1.1 200 ")):
            self.ended += 1
            self._epoll.unregister(stream.socket)
            return
        now = time.monotonic_ns()
        for sent in stream.times(data):
            if not stream.sent:
                self.begun += 1
            elif self.measuring:
                self.gaps_sent.append(sent - stream.sent)
                self.gaps_received.append(now - stream.received)
                self.delays.append(now - sent)
            stream.sent, stream.received = sent, now

    def close(self) -> None:
        for stream in self._streams.values():
            stream.socket.close()
        self._epoll.close()


def quantile_ms(values: list[int], share: float) -> float:
    """Of values in ns, which are sorted; 0 where there are none."""
    return values[min(int(share * len(values)), len(values) - 1)] / 1e6 if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="how long is measured")
    parser.add_argument("--sources", type=int, default=1, help="addresses they come from, 127.0.0.2 and on")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    receiver = Receiver(given.port, given.key, given.sources)
    receiver.open(given.streams)
    receiver.receive_until(time.monotonic() + SETTLE_S)
    print(json.dumps({"begin": receiver.begun}), flush=True)
    receiver.measuring = True
    began = time.monotonic()
    receiver.receive_until(began + given.seconds)
    took = time.monotonic() - began
    receiver.measuring = False
    said: dict[str, float] = {"seconds": took, "chunks": len(receiver.delays), "ended": receiver.ended}
    print(json.dumps({"end": receiver.begun}), flush=True)
    for name in ("gaps_sent", "gaps_received", "delays"):
        values = sorted(getattr(receiver, name))
        said |= {f"{name}_p50_ms": quantile_ms(values, 0.5), f"{name}_p99_ms": quantile_ms(values, 0.99)}
    receiver.close()
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
