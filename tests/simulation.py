"""A world in which the real journal, take-over and bookkeeper live through what a seed has in store for them.

Time is virtual, chance is drawn from the seed, the disk is `simdisk`'s: one seed is one run, and the same run again.
A world has workers that write calls, and one keeper: with `books` the bookkeeper with its ledger, otherwise somebody
who only takes over the dead (fifty times as fast). Any of them may die at any system call, the disk may fail, the clock
may be set, the power may be cut. What must hold then is judged by `Truth`, which knows what each of them was told.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from costbearer import bookkeeper as bookkeeper_module
from costbearer import journal, journal_files, recovery
from costbearer.bookkeeper import Bookkeeper
from costbearer.errors import CostbearerError, JournalFailed
from costbearer.journal import Intent, JournalWriter, Outcome, journals, take_over
from costbearer.stores import own_journal
from costbearer.stores.duckdb import Ledger
from tests.factories import make_entry, make_intent
from tests.simdisk import Death, Disk
from tests.truth import Truth

BORN = datetime(2026, 10, 31, 22, 0, tzinfo=UTC)
"""Two hours before a month's edge, and after the night in which Europe's clocks were set."""
WORKERS_MAX = 3
ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
STEPS = {
    "calls": 14,
    "sync": 5,
    "rotate": 4,
    "wait": 4,
    "set_clock": 1,
    "keep": 6,
    "record": 2,
    "worker_stops": 1,
    "worker_dies": 2,
    "keeper_dies": 1,
    "power_cut": 1,
}
"""What may happen, and how often beside the rest."""


class Clock:
    """The wall clock, which may be set, and the monotonic one, which may not."""

    def __init__(self) -> None:
        self.wall = BORN
        self.monotonic = 1000.0

    def now(self, zone: tzinfo | None = UTC) -> datetime:
        assert zone is UTC
        return self.wall

    def wait(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.monotonic += seconds


class Inline(Executor):
    """Does at once what threads would do in an order of their own."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)
        return future


class Worker:
    """One life of one worker: its journal, and which calls are under way."""

    def __init__(self, name: str, writer: JournalWriter) -> None:
        self.name = name
        self.writer = writer
        self.under_way: list[int] = []


class World:
    """One seed, from the first call to the last recovery."""

    def __init__(self, directory: Path, seed: int, patch: pytest.MonkeyPatch, *, books: bool) -> None:
        self.root = directory / "data" / "journal"
        self.root.mkdir(parents=True)
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.disk = Disk(self.root, patch)
        self.truth = Truth(self.root)
        self.happened: list[str] = []
        self._books = books
        self._file = directory / "data" / "ledger.duckdb"
        self._workers: list[Worker] = []
        self._born = 0
        self._recorded = 0
        self._ledger: Ledger | None = None
        self._keeper: Bookkeeper | None = None
        self._patch(patch)

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        for module in (journal, recovery):
            patch.setattr(module, "datetime", self.clock)
        for module in (journal, journal_files):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.clock.monotonic))
        for module in (journal, own_journal):
            drawn = SimpleNamespace(token_hex=lambda count: f"{self.chance.getrandbits(8 * count):0{2 * count}x}")
            patch.setattr(module, "secrets", drawn)
        patch.setattr(journal, "RESERVE_BYTES", 64 * 1024)
        patch.setattr(journal, "RELEASE_BYTES", 8 * 1024)
        patch.setattr(bookkeeper_module, "ThreadPoolExecutor", Inline)
        for name in ("post_table", "mark", "set_aside", "load"):
            patch.setattr(Ledger, name, self._stepping(getattr(Ledger, name), name))

    def _stepping(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A ledger whose transactions are steps at which a process may die."""

        def call(*arguments: Any, **named: Any) -> Any:
            leave = self.disk.step(name)
            given = real(*arguments, **named)
            leave()
            return given

        return call

    def run(self, steps: int) -> None:
        """Live, then let everything end and be recovered, and judge."""
        for _ in range(steps):
            (name,) = self.chance.choices(list(STEPS), list(STEPS.values()))
            self.happened.append(name)
            with self._in_danger(name):
                getattr(self, f"_{name}")()
        for worker in list(self._workers):
            self._bury(worker)
        self._keeper_dies()
        for _ in range(2):
            self._keep()
        self.truth.settle()
        self.disk.trace.update(self.truth.told().encode())
        self._end_keeper()

    def abandon(self) -> None:
        """It failed: give the ledger's file back, whatever state it is in."""
        self.disk.dead = False
        self.disk.disarm()
        with contextlib.suppress(Exception):
            self._end_keeper()

    # -- dangers

    @contextlib.contextmanager
    def _in_danger(self, step: str) -> Iterator[None]:
        """With a chance, one of the system calls of this step fails, or is the last one of its process."""
        if self.chance.random() < 0.35:
            how = self.chance.choice(("before", "half", "after", "error", "error", "short"))
            nth = self.chance.randint(1, 40 if step == "keep" and self._books else 12)
            self.disk.arm(how, nth, self.chance.choice(ERRORS) if how == "error" else 0)
            self.happened[-1] += f" ({how} {nth})"
        try:
            yield
        except Death:
            self.happened[-1] += ": dead"
            dead = self.disk.owner
            self._crash_keeper() if dead == "keeper" else self.disk.bury(dead)
            self._workers = [worker for worker in self._workers if worker.name != dead]
            if self.chance.random() < 0.3:
                self.happened[-1] += " of a power cut"
                self._power_cut()
        finally:
            self.disk.disarm()

    def _bury(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self.disk.bury(worker.name)

    # -- workers

    def _worker(self) -> Worker | None:
        """One of those that live, or a new one; None where the disk does not let it live."""
        if not self._workers or (len(self._workers) < WORKERS_MAX and self.chance.random() < 0.15):
            self._born += 1
            self.disk.owner = f"worker {self._born}"
            size = self.chance.choice((2000, 6000, 40_000))
            try:
                writer = JournalWriter.open(self.root, segment_bytes=size, segment_s=600)
            except JournalFailed:
                self.disk.bury(self.disk.owner)
                return None
            self._workers.append(Worker(self.disk.owner, writer))
            self.truth.born(writer.id)
        worker = self.chance.choice(self._workers)
        self.disk.owner = worker.name
        return worker

    @contextlib.contextmanager
    def _working(self) -> Iterator[Worker | None]:
        """A worker at work. One whose journal failed exits, as the gateway's do."""
        worker = self._worker()
        try:
            with contextlib.suppress(JournalFailed):
                yield worker
        finally:
            if worker is not None and not self.disk.dead:
                self.truth.synced(worker.writer.id, worker.writer.synced_sequence)
                if worker.writer.failed:
                    self._bury(worker)

    def _calls(self) -> None:
        with self._working() as worker:
            for _ in range(self.chance.randint(1, 8) if worker is not None else 0):
                assert worker is not None
                self._call(worker)
                self.clock.wait(self.chance.random() * 3)

    def _call(self, worker: Worker) -> None:
        writer = worker.writer
        if worker.under_way and self.chance.random() < 0.5:
            at = self.chance.randrange(len(worker.under_way))
            sequence = worker.under_way[at]
            begun = self.truth.intent(writer.id, sequence)
            ended = max(self.clock.now(), begun.started_at)
            entry = make_entry(writer.id, sequence, started_at=begun.started_at, ended_at=ended)
            self.truth.tries(Outcome(entry), writer.next_sequence)
            self.truth.took(writer.id, writer.append(Outcome(entry)))
            del worker.under_way[at]
        else:
            entry = make_intent(writer.id, writer.next_sequence, started_at=self.clock.now())
            self.truth.tries(Intent(entry), writer.next_sequence)
            self.truth.took(writer.id, writer.append(Intent(entry)))
            worker.under_way.append(entry.sequence)

    def _sync(self) -> None:
        with self._working() as worker:
            if worker is not None:
                worker.writer.sync()

    def _rotate(self) -> None:
        with self._working() as worker:
            if worker is not None:
                worker.writer.rotate_if_due()

    def _worker_stops(self) -> None:
        with self._working() as worker:
            if worker is not None:
                worker.writer.close()

    def _worker_dies(self) -> None:
        if self._workers:
            self._bury(self.chance.choice(self._workers))

    # -- time

    def _wait(self) -> None:
        self.clock.wait(self.chance.choice((0.5, 30, 900, 7200)))

    def _set_clock(self) -> None:
        self.clock.wall += timedelta(seconds=self.chance.choice((-3600, 3600, -86_400, -2, 2)))

    # -- the keeper

    def _keep(self) -> None:
        """A pass; one that fails is made again later, as `Bookkeeper.run` does."""
        self.disk.owner = "keeper"
        if not self._books:
            for directory in journals(self.root):
                with contextlib.suppress(JournalFailed):
                    take_over(directory, now=self.clock.now())
            return
        with contextlib.suppress(CostbearerError):
            self._kept().catch_up()
            self._compare()

    def _kept(self) -> Bookkeeper:
        if self._keeper is None:
            self._ledger = Ledger.open(self._file, readers=1)
            batch = self.chance.choice((1, 5, 1000))
            self._keeper = Bookkeeper(self.root, self._ledger, clock=self.clock.now, batch_entries=batch)
        return self._keeper

    def _compare(self) -> None:
        """After a pass that did not fail."""
        assert self._ledger is not None and self._keeper is not None
        self.truth.compare(self._ledger, self._lying(), frozenset(self._keeper.progress().held))

    def _record(self) -> None:
        if not self._books:
            return
        self.disk.owner = "keeper"
        with contextlib.suppress(CostbearerError):
            keeper = self._kept()
            keeper.catch_up()
            count = self.chance.randint(1, 3)
            entries = [make_entry("elsewhere", self._recorded + n, kind="import") for n in range(1, count + 1)]
            self._recorded += count
            self.truth.records(entries)
            keeper.record(entries)
            self.truth.recorded(entries)

    def _keeper_dies(self) -> None:
        self._crash_keeper()

    def _crash_keeper(self) -> None:
        """Its ledger is left as it is, not as closing it would leave it."""
        if self._ledger is not None:
            left = self._file.parent / "left"
            left.mkdir()
            for file in _all_of_ledger(self._file):
                shutil.copy2(file, left)
            self.disk.dead = False
            self._end_keeper()
            for file in _all_of_ledger(self._file):
                file.unlink()
            for file in left.iterdir():
                shutil.move(file, self._file.parent)
            left.rmdir()
        self.disk.bury("keeper")

    def _end_keeper(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = self._keeper = None

    # -- everything

    def _power_cut(self) -> None:
        for worker in list(self._workers):
            self._bury(worker)
        self._crash_keeper()
        lying = self._lying()
        self.disk.cut_power(self.chance)
        self.truth.power_was_cut(lying)

    def _lying(self) -> set[str]:
        """The journals of which the disk has dropped something that it still shows."""
        return {path.parent.name for path in self.root.glob("*/*") if path.stat().st_ino in self.disk.lying}


def _all_of_ledger(file: Path) -> Sequence[Path]:
    return [path for path in file.parent.glob(f"{file.name}*") if path.is_file()]


def simulate(directory: Path, seed: int, *, steps: int, books: bool) -> tuple[str, float, World]:
    """Run one seed. Gives the hash of everything that happened, the hours that passed in its world, and the world.

    Raises:
        AssertionError: something that must hold does not.
    """
    with pytest.MonkeyPatch.context() as patch:
        world = World(directory, seed, patch, books=books)
        began = world.clock.monotonic
        try:
            world.run(steps)
        except Exception as error:
            world.abandon()
            raise AssertionError(f"seed {seed}, books={books}: {error!r}, after {world.happened}") from error
    return world.disk.trace.hexdigest(), (world.clock.monotonic - began) / 3600, world
