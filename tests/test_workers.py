"""The gateway's processes: workers that die or cannot start, a supervisor that dies, and the end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from costbearer import money
from costbearer.gateway.server import EXIT_NOT_STARTED, KILL_AFTER_DRAIN_S, core_of
from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import read_all, statuses
from tests.gateways import GatewayProcess, running_gateway
from tests.system import alive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


def test_who_waited_for_a_worker_that_was_killed_is_served_by_the_next(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    with running_gateway(tmp_path, simulator, workers=1, pin_workers="true") as gateway:
        (worker,) = gateway.workers()
        (core,) = os.sched_getaffinity(worker)
        os.kill(worker, signal.SIGKILL)
        # Nobody accepts now; the system keeps them.
        callers = [gateway.connect() for _ in range(20)]
        for number, caller in enumerate(callers):
            caller.sendall(gateway.request(f"mark=waited{number}", "connection: close\r\n"))
        for caller in callers:
            with caller:
                assert statuses(read_all(caller)) == [200]
        (successor,) = gateway.workers()
        assert successor != worker
        assert os.sched_getaffinity(successor) == {core}
        assert "ended with code -9; starting another" in gateway.log()
        # With the supervisor dies everything, and the port is free at once.
        assert gateway.process is not None
        gateway.process.kill()
        gateway.process.wait()
        end = time.monotonic() + 5
        while alive(successor):
            assert time.monotonic() < end
            time.sleep(0.01)
        with socket.socket() as free:
            assert free.connect_ex(("127.0.0.1", gateway.port)) == errno.ECONNREFUSED
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", gateway.port))
    assert len(gateway.entries()) == 20


def test_pinned_workers_share_the_cores_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 7})
    assert [core_of(number) for number in range(7)] == [2, 5, 7, 2, 5, 7, 2]


def test_workers_that_cannot_start_end_the_gateway_which_says_why_once(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    gateway = GatewayProcess(tmp_path, simulator, workers=2)
    with contextlib.suppress(FileNotFoundError):
        gateway.config.journal_dir.rmdir()
    gateway.config.journal_dir.write_text("no directory")
    gateway.start()
    assert gateway.process is not None
    try:
        assert gateway.process.wait(20) == EXIT_NOT_STARTED
    finally:
        gateway.stop()
    assert gateway.log().count("no journal can be opened") == 1
    assert "starting another" not in gateway.log()


def test_a_worker_that_cannot_start_again_is_tried_again(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_gateway(tmp_path, simulator, workers=1) as gateway:
        aside = gateway.config.journal_dir.rename(tmp_path / "aside")
        gateway.config.journal_dir.write_text("no directory")
        os.kill(gateway.workers()[0], signal.SIGKILL)
        end = time.monotonic() + 10
        while "no journal can be opened" not in gateway.log():
            assert time.monotonic() < end
            time.sleep(0.05)
        gateway.config.journal_dir.unlink()
        aside.rename(gateway.config.journal_dir)
        gateway.await_ready(10)


class Ended(NamedTuple):
    """How one drain went."""

    whole: int
    seconds: float
    refused: int


async def ending(gateway: GatewayProcess, *, streams: int, others: int, stalled: int, mark: str) -> Ended:
    """SIGTERM while `streams` run and `others` each of stalled bodies, half-sent heads and idle connections are held.

    `stalled` callers have asked for a stream that goes on for a minute, which no drain waits for.
    """
    close = "connection: close\r\n"
    running = [
        asyncio.create_task(
            gateway.ask(gateway.request(f"mark={mark}{number} output=40 chunks=40 delay_ms=30", close, stream=True))
        )
        for number in range(streams)
    ]
    endless = [
        asyncio.create_task(
            gateway.ask(gateway.request(f"mark={mark}x{number} output=50 chunks=50 delay_ms=1200", stream=True))
        )
        for number in range(stalled)
    ]
    held = []
    for _ in range(others):
        for data in (
            gateway.head("content-length: 500\r\n") + b"{",
            b"GET /healthz HTTP/1.1\r\nhos",
            b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(data)
            held.append((reader, writer))
    await asyncio.sleep(0.5)
    seconds = await asyncio.to_thread(gateway.terminate)
    answers = await asyncio.gather(*running)
    await asyncio.gather(*endless)
    refused = 0
    for reader, writer in held:
        with contextlib.suppress(ConnectionError):
            refused += b"shutting_down" in await reader.read(-1)
        writer.transport.abort()
    whole = sum(answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for answer in answers)
    return Ended(whole, seconds, refused)


def compare(gateway: GatewayProcess, simulator: RunningSimulator, mark: str) -> Decimal:
    """What the journal says of the calls whose mark begins so, which is exactly what their provider billed."""
    billed = money.total(money.usd(line.cost) for line in simulator.books() if (line.mark or "").startswith(mark))
    posted = money.total(entry.cost_usd for entry in gateway.entries() if entry.cost_usd is not None)
    assert posted == billed > 0
    return billed


def test_the_end_under_load(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_gateway(tmp_path, simulator, workers=1, drain_timeout_s=5) as gateway:
        ended = asyncio.run(ending(gateway, streams=6, others=3, stalled=0, mark="few"))
    assert (ended.whole, ended.refused) == (6, 3)
    # Streams take 1.2 s; nobody else is waited for.
    assert ended.seconds < 4
    assert len(gateway.entries()) == 6
    compare(gateway, simulator, "few")


@pytest.mark.soak
def test_the_end_under_load_again_and_again(tmp_path: Path, simulator: RunningSimulator) -> None:
    rounds, streams, others, drain_s = 5, 100, 60, 5
    honest, whole, total = [], 0, Decimal(0)
    for number in range(rounds):
        directory = tmp_path / f"honest{number}"
        directory.mkdir()
        with running_gateway(directory, simulator, workers=2, drain_timeout_s=drain_s) as gateway:
            ended = asyncio.run(ending(gateway, streams=streams, others=others, stalled=0, mark=f"h{number}-"))
        assert (ended.whole, ended.refused) == (streams, others)
        whole += ended.whole
        honest.append(ended.seconds)
        assert ended.seconds <= drain_s + 1
        assert len(gateway.entries()) == streams
        total += compare(gateway, simulator, f"h{number}-")
    directory = tmp_path / "endless"
    directory.mkdir()
    with running_gateway(directory, simulator, workers=2, drain_timeout_s=drain_s) as gateway:
        ended = asyncio.run(ending(gateway, streams=streams, others=others, stalled=20, mark="e-"))
    assert ended.whole == streams
    assert ended.seconds <= drain_s + KILL_AFTER_DRAIN_S
    assert len(gateway.entries()) == streams + 20, "those that were ended have an outcome too"
    print(
        f"\ndrain: {whole}/{rounds * streams} streams whole over {rounds} ends, {3 * others} connections held at each, "
        f"ended after {min(honest):.1f} to {max(honest):.1f} s (drain_timeout_s {drain_s}); with 20 endless streams "
        f"{ended.whole}/{streams} whole, ended after {ended.seconds:.1f} s; ${total} billed and recorded"
    )
