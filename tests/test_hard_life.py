"""A running server and what a machine does to it: stopped processes, a clock that is set, a failing disk, a full one, a
second start beside it.

The judge is the simulated providers' own book, as in `test_kill`. `make test` leads one server through everything in
short; `make soak` takes each part at length.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from costbearer.gateway.worker import EXIT_NOT_RECORDING
from costbearer.simulator import RunningSimulator, running_simulator
from tests.faults import Faults, Kind, Mode
from tests.system import Ask, Load, Server, alive, free_port, kill
from tests.test_kill import compare

SMALL, ROOMY = "12m", "400m"
"""Sizes of the data's disk: one that a filler fills at once, and one that no load here fills."""


class Hard:
    """One server on a small disk of its own, under faults, with a load that remembers what it was told."""

    def __init__(self, server: Server, simulator: RunningSimulator, faults: Faults, *, small: bool) -> None:
        self.server = server
        self.simulator = simulator
        self.faults = faults
        self.small = small
        self.load = Load(server, [server.issue(), server.issue(agent="triage-bot", team="support")], seed=3)
        self.load.concurrency = 2

    def under_load(self, seconds: float, act: Callable[[], object] = lambda: None, after_s: float = 0.0) -> None:
        """Load for so long, and in it, after a while, something happens; then everybody is ready again."""

        async def both() -> None:
            async def acting() -> None:
                await asyncio.sleep(after_s)
                await asyncio.to_thread(act)

            await asyncio.gather(self.load.run(seconds), acting())

        asyncio.run(both())

    def settle(self) -> dict[str, Any]:
        """Wait until the ledger stands still and holds every call, and compare it with the providers' book."""
        self.server.await_ready()
        end, before = time.monotonic() + 60, -1
        while time.monotonic() < end:
            time.sleep(0.7)
            progress = self.server.entries()
            lines = len(self.simulator.books().lines)
            if len(progress) == before >= lines and all(entry["reason_unknown"] != "in_flight" for entry in progress):
                return compare(self.server, self.simulator, self.load.asked)
            before = len(progress)
        raise AssertionError(f"the ledger does not hold every call: {before} entries\n{self.server.log()}")

    def worker(self) -> int:
        (pid,) = self.server.roles()["workers"]
        return pid


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[bool]:
    """A small disk at `place`; where that takes a right that is not there, a directory, and False."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def hard(directory: Path, size: str = ROOMY) -> Iterator[Hard]:
    """Everything started; ended at the end, whatever happened, and every stopped process let go on."""
    with running_simulator() as simulator, mounted(directory / "data", size) as small:
        faults = Faults(directory, directory / "data")
        server = Server(directory, simulator, workers=1, environment=faults.environment())
        server.start()
        try:
            yield Hard(server, simulator, faults, small=small)
        finally:
            faults.off()
            if server.process is not None and server.process.poll() is None:
                for pids in server.roles().values():
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)
                server.stop()


# -- stopped for a while


def stopped(hard: Hard, role: str, seconds: float) -> None:
    """SIGSTOP and, some time later, SIGCONT, under load."""
    (pid,) = hard.server.roles()[role]

    def act() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    hard.under_load(seconds + 0.6, act, after_s=0.3)
    assert hard.server.roles()[role] == [pid], "it was not taken for dead"


# -- the clock is set


def clock_set(hard: Hard, jumps: list[float]) -> None:
    """Each jump comes in the midst of a load; every call began, by the clock as it then was, when it was asked."""
    wrong = 0.0
    windows: dict[str, list[tuple[datetime, datetime]]] = {}
    for jump in jumps:
        known = len(hard.load.asked)
        began, edge = datetime.now(UTC), list[datetime]()

        def act(to: float = jump, at: list[datetime] = edge) -> None:
            at.append(datetime.now(UTC))
            hard.faults.clock(to)
            at.append(datetime.now(UTC))

        hard.under_load(0.7, act, after_s=0.4)
        ended = datetime.now(UTC)
        before, after = timedelta(seconds=wrong), timedelta(seconds=jump)
        for ask in hard.load.asked[known:]:
            windows[ask.mark] = [(began + before, edge[1] + before), (edge[0] + after, ended + after)]
        wrong = jump
    hard.faults.clock(0.0)
    hard.settle()
    slack = timedelta(milliseconds=5)
    seen = 0
    for entry in hard.server.entries():
        within = windows.get(entry["tags"]["mark"])
        if within is None:
            continue
        seen += 1
        started, ended = (datetime.fromisoformat(entry[name]) for name in ("started_at", "ended_at"))
        assert any(first - slack <= started <= last + slack for first, last in within), (entry, within)
        assert ended >= started and entry["duration_ms"] >= 0, entry
        assert entry["first_byte_ms"] is None or 0 <= entry["first_byte_ms"] <= entry["duration_ms"], entry
    assert seen > 5 * len(jumps), "the load was real"


def month_edge() -> float:
    """What the clock must be wrong by so that the next month begins in half a second."""
    now = datetime.now(UTC)
    return before((now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def before(moment: datetime) -> float:
    """What the clock must be wrong by so that this moment comes in half a second."""
    return (moment - datetime.now(UTC)).total_seconds() - 0.5


# -- the disk fails


def failed_sync(hard: Hard) -> None:
    """The worker's next fdatasync fails: it stops at once, another one takes its place, nothing is lost."""
    pid = hard.worker()

    def act() -> None:
        hard.faults.arm(Mode.FAIL, 1, code=errno.EIO, kinds=Kind.SYNC, where=".cbj", pid=pid, lasting=True)

    hard.under_load(1.0, act, after_s=0.3)
    end = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < end, hard.server.log()
        time.sleep(0.02)
    assert hard.faults.hits == 1, "a sync that failed was tried again"
    assert hard.faults.ended == EXIT_NOT_RECORDING
    hard.faults.off()
    hard.server.await_ready()
    assert hard.worker() != pid
    assert "the journal failed, this worker stops: fdatasync failed" in hard.server.log()


# -- the disk is full


def ask(hard: Hard, mark: str) -> tuple[int, str]:
    """Status and error code of one call, which the load remembers as one of its own."""
    path = "/v1/chat/completions"
    body = {
        "model": "gpt-4o-mini",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": f"[[sim:mark={mark} output=5]]"}],
        "metadata": {"tags": [f"mark:{mark}"]},
    }
    one = Ask(mark, json.dumps(body).encode(), path)
    hard.load.asked.append(one)
    key = {"authorization": f"Bearer {hard.load.keys[0]}", "content-type": "application/json"}
    answer = httpx2.post(hard.server.gateway_url + path, content=one.body, headers=key, timeout=20, verify=False)
    one.status = answer.status_code
    one.complete = answer.status_code == 200
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def full_disk(hard: Hard, seconds: float) -> float:
    """Fill it under load, stay so for a while, make room. Gives the seconds from then to the first call served."""
    filler = hard.server.data / "filler"

    def fill() -> None:
        end = time.monotonic() + seconds
        with filler.open("ab", buffering=0) as stream:
            while time.monotonic() < end:
                # What others give back is taken as well: the disk stays full.
                with contextlib.suppress(OSError):
                    while stream.write(bytes(4096)):
                        pass
                time.sleep(0.01)

    lines = len(hard.simulator.books().lines)
    hard.under_load(seconds + 0.5, fill, after_s=0.3)
    assert len(hard.simulator.books().lines) > lines, "the load was real"
    before = len(hard.simulator.books().lines)
    assert ask(hard, f"refused-{before}") == (503, "not_recording")
    assert len(hard.simulator.books().lines) == before, "a refused call is not sent"
    pid = hard.worker()
    filler.unlink()
    began, number = time.monotonic(), 0
    while ask(hard, f"full-{before}-{number}")[0] != 200:
        number += 1
        assert time.monotonic() - began < 30, hard.server.log()
        time.sleep(0.02)
    took = time.monotonic() - began
    assert hard.worker() == pid, "it recovered by itself, in the same life"
    return took


# -- a second start


def second_start(hard: Hard, *command: str) -> None:
    """It is refused with a message that says why."""
    done = hard.server.run(*command)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "data_directory_busy" in done.stderr and str(hard.server.data) in done.stderr, done.stderr


def beside_orphans(hard: Hard) -> None:
    """The supervisor is gone, its children have not noticed yet: nobody can start beside them, on any port."""
    roles = hard.server.roles()
    orphans = [*roles["gateway"], *roles["workers"], *roles["console"]]
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)
    assert hard.server.process is not None
    kill(hard.server.process.pid)
    hard.server.process.wait()
    again = hard.server.run("serve")
    assert again.returncode == 2 and "cannot be used" in again.stderr, again.stderr
    elsewhere = ("--gateway-port", str(free_port()), "--console-port", str(free_port()))
    again = hard.server.run("serve", *elsewhere)
    assert again.returncode == 2 and "data_directory_busy" in again.stderr, again.stderr
    for pid in orphans:
        os.kill(pid, signal.SIGCONT)
    end = time.monotonic() + 20
    while any(alive(pid) for pid in orphans):
        assert time.monotonic() < end, "orphans outlive their supervisor"
        time.sleep(0.05)
    hard.server.start()


def test_a_server_has_a_hard_life(tmp_path: Path) -> None:
    """Everything in short, one after the other, on one server."""
    with hard(tmp_path, SMALL) as life:
        stopped(life, "workers", 0.5)
        stopped(life, "console", 0.5)
        clock_set(life, [-3600.0, month_edge()])
        failed_sync(life)
        if life.small:
            full_disk(life, 0.4)
        life.settle()


@pytest.mark.soak
def test_processes_are_stopped_for_long(tmp_path: Path) -> None:
    with hard(tmp_path) as life:
        for seconds in (1.0, 5.0, 30.0):
            for role in ("workers", "console", "gateway"):
                stopped(life, role, seconds)
        print(f"\nworker, console and gateway stopped for 1, 5 and 30 s: {life.settle()}")


@pytest.mark.soak
def test_the_clock_is_set_again_and_again(tmp_path: Path) -> None:
    edges = [
        datetime(2026, 10, 25, 1, tzinfo=UTC),  # an hour comes twice in Europe
        datetime(2026, 11, 1, 6, tzinfo=UTC),  # and in New York
        datetime(2027, 1, 1, tzinfo=UTC),
    ]
    with hard(tmp_path) as life:
        jumps = [3600.0, -3600.0, 0.0, 86_400.0, -86_400.0, -2.0, 2.0, month_edge(), *map(before, edges)]
        clock_set(life, jumps)
        print(f"\nclock set {len(jumps)} times under load, and back: {life.settle()}; 0 outside the hour they began in")


@pytest.mark.soak
def test_the_disk_fails_and_fills_up_again_and_again(tmp_path: Path) -> None:
    with hard(tmp_path, SMALL) as life:
        for _ in range(5):
            failed_sync(life)
        print(f"\n5 failed syncs: exit code {EXIT_NOT_RECORDING} of each worker, {life.settle()}")
        if not life.small:
            pytest.skip("mounting a tmpfs takes root")
        took = [full_disk(life, 2.0) for _ in range(10)]
        figures = life.settle()
        print(f"a full disk, 10 times: served again after {min(took):.2f} to {max(took):.2f} s, {figures}")


@pytest.mark.soak
def test_a_second_start_is_refused_a_hundred_times(tmp_path: Path) -> None:
    with hard(tmp_path) as life, ThreadPoolExecutor(4) as pool:
        starts = [("serve",), ("console", "--console-port", str(free_port()))] * 50
        list(pool.map(lambda command: second_start(life, *command), starts))
        life.under_load(1.0)
        for _ in range(6):
            beside_orphans(life)
            life.under_load(0.5)
        print(f"\nrefused 100 of 100, and 12 of 12 beside orphans: {life.settle()}")
