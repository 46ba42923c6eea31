"""A whole call in one process: the worker, the caller's connection and the provider's are the gateway's own, only the
sockets are not there. So it costs what the gateway itself costs, without the system's share.

`perf` counts its instructions, which other processes on the machine do not change.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench.machines import ANSWER, REQUEST, configured
from costbearer import app
from costbearer.gateway.caller_connection import CallerConnection
from costbearer.gateway.listener import Listener
from costbearer.gateway.server import GC_THRESHOLD
from costbearer.gateway.worker import Worker

CALLS = 10_000
WARM_UP = 500
REPLY_BODY = json.dumps(ANSWER).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\nserver: nginx\r\ndate: Fri, 27 Nov 2026 12:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: keep-alive\r\n\r\n%b" % (len(REPLY_BODY), REPLY_BODY)
)


def request_head(key: str, length: int) -> bytes:
    """The head that wrk sends, without the blank line that ends it."""
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:4000\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {length}"
    ).encode()


class _Transport(asyncio.Transport):
    """Hands what is written to somebody."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        super().__init__()
        self._written = written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written(bytes(data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


async def _dial(loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
    """A connection to a provider that answers at once, in the loop's next turn."""

    def answer(_: bytes) -> None:
        loop.call_soon(protocol.data_received, REPLY)

    protocol.connection_made(_Transport(answer))


class InProcess:
    """A worker and one caller's connection to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, worker: Worker, listener: Listener, key: str) -> None:
        self.loop = loop
        self.worker = worker
        self.key = key
        body = json.dumps(REQUEST).encode()
        self.request = request_head(key, len(body)) + b"\r\n\r\n" + body
        self._answered: asyncio.Future[bytes] = loop.create_future()
        self._caller = CallerConnection(listener, "127.0.0.1", excess=False)
        self._caller.connection_made(_Transport(lambda data: self._answered.set_result(data)))

    async def _calls(self, count: int) -> None:
        reply = b""
        for _ in range(count):
            self._answered = self.loop.create_future()
            self._caller.data_received(self.request)
            reply = await self._answered
        assert reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(REPLY_BODY), reply[:300]

    def call(self, count: int) -> float:
        """CPU seconds of so many calls, one after another."""
        began = time.process_time()
        self.loop.run_until_complete(self._calls(count))
        return time.process_time() - began


@contextmanager
def in_process() -> Iterator[InProcess]:
    """Everything a worker has, on a temporary data directory, warmed up."""
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name, socket.socket() as unused:
        config, key = configured(Path(name), 9, 10, 11, workers=1, settings="")
        app.prepare(config)
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        worker = app.make_worker(config, loop)
        for pool in worker.pools.values():
            pool._dialler.dial = functools.partial(_dial, loop)  # type: ignore[method-assign]
        running = InProcess(loop, worker, Listener(worker, unused), key)
        loop.run_until_complete(_begin(worker))
        usual = gc.get_threshold()
        try:
            running.call(WARM_UP)
            # As `gateway/server.py` does once a worker has begun.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)
            yield running
        finally:
            gc.set_threshold(*usual)
            gc.unfreeze()
            loop.run_until_complete(worker.close())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()


async def _begin(worker: Worker) -> None:
    worker.start()


def instructions_per_call(calls: int) -> float | None:
    """Instructions of a whole call outside the kernel; None where they cannot be counted."""
    perf = shutil.which("perf")
    if perf is None:
        return None
    counts: list[float] = []
    # The difference of two runs leaves out what starting costs.
    for count in (calls, 3 * calls):
        command = [perf, "stat", "-x", ",", "-e", "instructions:u", sys.executable, "-m", "bench.inprocess"]
        done = subprocess.run([*command, "--calls", str(count)], capture_output=True, text=True, check=False)
        found = [line.split(",")[0] for line in done.stderr.splitlines() if "instructions" in line]
        if done.returncode or not found or not found[0].isdecimal():
            return None
        counts.append(float(found[0]))
    return (counts[1] - counts[0]) / (2 * calls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    calls = parser.parse_args().calls
    with in_process() as running:
        print(f"CPU of a whole call without the system: {running.call(calls) / calls * 1e6:.1f} µs")


if __name__ == "__main__":
    main()
