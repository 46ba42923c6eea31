"""Callers who hold things open or send without measure, against a real gateway; and what honest callers notice of it.

In `make test` a few of each, and only what happens to whom; in `make soak` many, with latencies, memory and recovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import statuses
from tests.gateways import GatewayProcess, running_gateway

pytestmark = pytest.mark.slow
BODY_TIMEOUT_S = STALL_TIMEOUT_S = 1.0
HEAD_TIMEOUT_S = 15.0
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 10)]


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@dataclass
class Attack:
    """Connections from several addresses, each of them doing one thing until the block ends."""

    gateway: GatewayProcess
    connections: int
    answers: list[int] = field(default_factory=list)
    """The statuses that the gateway answered with."""
    dropped: int = 0
    """Connections that the gateway closed or reset."""
    opened: int = 0

    async def slow_heads(self, number: int) -> None:
        """A byte of a header now and then."""
        await self._trickle(number, b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: ")

    async def slow_bodies(self, number: int) -> None:
        """A byte of a body now and then, with a valid key."""
        await self._trickle(number, self.gateway.head("content-length: 100000\r\n") + b"{")

    async def _trickle(self, number: int, begin: bytes) -> None:
        reader, writer = await self._open(number)
        writer.write(begin)
        answer = asyncio.ensure_future(reader.read(-1))
        try:
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait([answer], timeout=0.5)
            self._note(await answer)
        finally:
            answer.cancel()
            writer.transport.abort()

    async def slow_readers(self, number: int) -> None:
        """A long stream is asked for, and not read."""
        _, writer = await self._open(number, receive_bytes=4096)
        try:
            order = "output=60000 chunks=600 delay_ms=2"
            writer.write(self.gateway.request(order, stream=True, max_tokens=60000))
            transport = writer.transport
            assert isinstance(transport, asyncio.ReadTransport)
            transport.pause_reading()
            await asyncio.sleep(STALL_TIMEOUT_S * 4)
            self.dropped += 1
        finally:
            writer.transport.abort()

    async def header_bombs(self, number: int) -> None:
        """Heads of more than may be, as fast as they go out."""
        reader, writer = await self._open(number)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"y" * 60_000)
            self._note(await reader.read(-1))
        finally:
            writer.transport.abort()

    async def idle(self, number: int) -> None:
        """A connection, and nothing on it."""
        reader, writer = await self._open(number)
        try:
            self._note(await reader.read(-1))
        finally:
            writer.transport.abort()

    async def _open(
        self, number: int, *, receive_bytes: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = socket.socket()
        made.setblocking(False)
        if receive_bytes is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.bind((ADDRESSES[number % len(ADDRESSES)], 0))
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.gateway.port))
            streams = await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise
        self.opened += 1
        return streams

    def _note(self, answer: bytes) -> None:
        self.answers += statuses(answer)
        self.dropped += 1

    @contextlib.asynccontextmanager
    async def under_way(self, kind: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Each connection that ends is followed by another, until the block does."""

        async def again(number: int) -> None:
            while True:
                with contextlib.suppress(OSError):
                    await kind(number)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(again(number)) for number in range(self.connections)]
        try:
            await asyncio.sleep(0.2)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def honest(gateway: GatewayProcess, seconds: float, *, callers: int = 4) -> list[float]:
    """Seconds that each call of honest callers took; all of them are answered."""
    end, taken = time.monotonic() + seconds, []

    async def one() -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await gateway.ask(gateway.request("output=5", "connection: close\r\n"))
            assert statuses(answer) == [200], answer
            taken.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(one() for _ in range(callers)))
    return taken


def p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]


def memory_mb(pid: int) -> float:
    """What the process holds in memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().split("\n") if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


KINDS: dict[str, set[int]] = {
    "slow_heads": set(),
    "slow_bodies": {400},
    "slow_readers": set(),
    "header_bombs": {431},
    "idle": set(),
}
"""What each kind is answered with within two seconds."""


def test_honest_callers_are_served_whatever_others_do(tmp_path: Path, simulator: RunningSimulator) -> None:
    async def tried(gateway: GatewayProcess) -> None:
        for kind, answered in KINDS.items():
            attack = Attack(gateway, 10)
            async with attack.under_way(getattr(attack, kind)):
                assert len(await honest(gateway, 1.6 if answered == {400} else 0.4, callers=2)) > 5
            assert set(attack.answers) == answered, kind
            assert attack.opened >= 10

    with running_gateway(
        tmp_path, simulator, workers=1, body_timeout_s=BODY_TIMEOUT_S, stall_timeout_s=STALL_TIMEOUT_S
    ) as gateway:
        asyncio.run(tried(gateway))
        # Those who did not read were given up, and their calls were recorded as what they are.
        assert gateway.terminate() < 3
        assert {entry.status for entry in gateway.entries()} == {"ok", "cancelled"}


@pytest.mark.soak
def test_what_honest_callers_notice(tmp_path: Path, simulator: RunningSimulator) -> None:
    sizes = {"slow_heads": 1000, "slow_bodies": 400, "slow_readers": 100, "header_bombs": 50, "idle": 2000}
    seconds = {"slow_heads": HEAD_TIMEOUT_S + 3, "idle": HEAD_TIMEOUT_S + 3}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def measured(gateway: GatewayProcess) -> None:
        (worker,) = gateway.workers()
        await honest(gateway, 2)
        calm = p99(await honest(gateway, 8))
        before = memory_mb(worker)
        print(f"\nwithout attack: p99 {calm * 1000:.0f} ms, {before:.0f} MB")
        for kind, connections in sizes.items():
            attack = Attack(gateway, connections)
            async with attack.under_way(getattr(attack, kind)):
                taken = await honest(gateway, seconds.get(kind, 8))
                held = memory_mb(worker)
            over = time.monotonic()
            while max(await honest(gateway, 0.2)) > 2 * calm and time.monotonic() < over + 20:
                pass
            recovery = time.monotonic() - over
            told = {status: len(list(same)) for status, same in itertools.groupby(sorted(attack.answers))}
            print(
                f"{kind}: {connections} at once, {attack.opened} opened, {attack.dropped} ended by it "
                f"({told}); {len(taken)} honest calls, p99 {p99(taken) * 1000:.0f} ms "
                f"= {p99(taken) / calm:.1f} of calm; +{held - before:.0f} MB; "
                f"calm after {recovery:.1f} s"
            )
            assert len(taken) > 50

    try:
        with running_gateway(
            tmp_path, simulator, workers=1, body_timeout_s=BODY_TIMEOUT_S, stall_timeout_s=STALL_TIMEOUT_S
        ) as gateway:
            asyncio.run(measured(gateway))
            assert gateway.terminate() < 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
