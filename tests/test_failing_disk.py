"""Disks that fail in the midst: EIO, ENOSPC, EINTR and short writes from the system itself, at chosen calls.

What a failure means stands in `journal.py`. Here it is held to it in real processes, at every call; the same faults are
raised inside Python in `test_journal_faults`.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from costbearer.frames import Intent
from costbearer.gateway.worker import EXIT_NOT_RECORDING
from costbearer.journal import JournalWriter, journals
from costbearer.simulator import RunningSimulator, running_simulator
from tests.books import Books, assert_equal, outcomes
from tests.factories import make_intent, record
from tests.faults import EVERY, Kind, Mode
from tests.forge import Forge, forge
from tests.lives import CALLS
from tests.rawjournal import check_journal, raw_frames

SEED = 20261128
RESTARTED = Kind.WRITE | Kind.SYNC | Kind.TRUNCATE | Kind.ALLOCATE
"""Calls that a signal may interrupt before they did anything."""
ACKNOWLEDGED = ("intent", "outcome", "synced")


@pytest.fixture(name="forge")
def _forge() -> Forge:
    return forge()


class Fault:
    """One way in which calls fail, and what a journal's writer must make of it."""

    def __init__(self, name: str, mode: Mode, code: int, kinds: Kind, judge: Callable[[list[str]], None]) -> None:
        self.name, self.mode, self.code, self.kinds, self.judge = name, mode, code, kinds, judge


def unnoticed(said: list[str]) -> None:
    assert said[-1] == "closed" and not any(line.startswith("refused") for line in said)


def final(said: list[str]) -> None:
    """The first thing that fails is the last thing that is tried on this journal."""
    failed = next((n for n, line in enumerate(said) if line in {"refused for ever", "refused unborn"}), None)
    assert failed is not None
    assert not [line for line in said[failed:] if line.startswith(ACKNOWLEDGED)]


def passing(said: list[str]) -> None:
    """At most one thing is refused, and done when it is tried again."""
    if said != ["refused unborn"]:
        assert said[-1] == "closed" and "refused for ever" not in said
        assert sum(line.startswith("refused") for line in said) <= 1
        assert sum(line.startswith("intent") for line in said) == 8
        assert sum(line.startswith("outcome") for line in said) == 5


def final_or_passing(said: list[str]) -> None:
    """A full disk ends a writer only where it is a sync, a cut or a name that fails of it."""
    (passing if "refused for ever" not in said and "refused unborn" not in said else final)(said)


CHANGING = EVERY & ~Kind.UNLINK
"""A reserve that cannot be removed is left to the take-over; it is no record."""
FAULTS = [
    Fault("EIO", Mode.FAIL, errno.EIO, CHANGING & ~Kind.MAKE, final),
    Fault("EIO of fdatasync", Mode.FAIL, errno.EIO, Kind.DATASYNC, final),
    Fault("ENOSPC", Mode.FAIL, errno.ENOSPC, CHANGING, final_or_passing),
    Fault("EDQUOT of a write", Mode.FAIL, errno.EDQUOT, Kind.WRITE, passing),
    Fault("a short write", Mode.SHORT, 0, Kind.WRITE, passing),
    Fault("EINTR", Mode.FAIL, errno.EINTR, RESTARTED, unnoticed),
]


def attempt(forge: Forge, fault: Fault, nth: int) -> int:
    """One journal's life with one failing call, its recovery and the judgement. Gives how many calls were counted."""
    data = forge.root / "data"
    data.mkdir()
    try:
        forge.faults.arm(fault.mode, nth, code=fault.code, kinds=fault.kinds)
        said, status = forge.lead("stubborn", data)
        counted, hits = forge.faults.count, forge.faults.hits
        forge.faults.off()
        where = f"{fault.name}, call {nth}, seed {SEED}: {said}"
        assert status == 0 and hits == (1 if nth else 0), where
        assert forge.lead("taken_over", data) == (["closed"], 0), where
        try:
            (fault.judge if nth else unnoticed)(said)
            if "refused unborn" not in said:
                check_journal(data, said)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        return counted
    finally:
        forge.faults.off()
        shutil.rmtree(data)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_journal_on_a_failing_disk(forge: Forge, fault: Fault) -> None:
    calls = attempt(forge, fault, 0)
    for nth in sorted(random.Random(f"{SEED} {fault.name}").sample(range(1, calls + 1), 2)):
        attempt(forge, fault, nth)


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_journal_on_a_disk_that_fails_at_every_call(forge: Forge, fault: Fault) -> None:
    calls = attempt(forge, fault, 0)
    for nth in range(1, calls + 1):
        attempt(forge, fault, nth)
    print(f"\n{fault.name} at {calls} of {calls} calls: nothing acknowledged is lost, nothing after it acknowledged")


# -- a gateway's worker


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


def worker(forge: Forge, simulator: RunningSimulator, nth: int) -> int:
    """One worker whose journal's `nth` sync fails with EIO. Gives how many syncs there were."""
    data = forge.root / "data"
    data.mkdir()
    (data / "provider").write_text(simulator.origin)
    before = len(simulator.books().lines)
    try:
        forge.faults.arm(Mode.FAIL, nth, code=errno.EIO, kinds=Kind.SYNC, where=".cbj", lasting=True)
        said, status = forge.lead("worker", data)
        counted, hits = forge.faults.count, forge.faults.hits
        forge.faults.off()
        answered = {line.split()[1] for line in said if line.startswith("answered") and line.endswith("200")}
        if not nth:
            assert (said[-1], status, len(answered)) == ("closed", 0, CALLS), said
            return counted
        assert (status, hits) == (EXIT_NOT_RECORDING, 1), f"sync {nth}: {said}, exit code {status}, {hits} hits"
        root = data / "data"
        assert forge.lead("taken_over", root) == (["closed"], 0)
        ends = {
            frame["entry"]["tags"]["mark"]: frame["entry"]
            for directory in journals(root / "journal")
            for frame in raw_frames(directory)
            if frame["type"] == "outcome"
        }
        for line in simulator.books().lines[before:]:
            assert line.mark in ends, f"sync {nth}: a call of the provider's books is lost"
            if line.mark in answered:
                assert Decimal(ends[line.mark]["cost_usd"]) == line.cost
        assert answered <= set(ends)
        return counted
    finally:
        forge.faults.off()
        shutil.rmtree(data)


@pytest.mark.soak
def test_any_sync_that_fails_ends_the_worker(forge: Forge, simulator: RunningSimulator) -> None:
    syncs = worker(forge, simulator, 0)
    for nth in range(2, syncs - 1):
        worker(forge, simulator, nth)
    print(f"\nEIO at {syncs - 3} of {syncs - 3} syncs of a worker: exit code {EXIT_NOT_RECORDING}, 0 calls lost")


# -- the keeper of the books


def keeper(forge: Forge, code: int, nth: int) -> int:
    """Passes of a keeper of whose system calls, DuckDB's included, one fails. Gives how many there were."""
    data = forge.root / "data"
    writer = JournalWriter.open(data / "journal", segment_bytes=3000)
    try:
        for _ in range(5):
            record(writer)
            writer.rotate_if_due()
        writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        writer.close()
        forge.faults.arm(Mode.FAIL, nth, code=code)
        said, _ = forge.lead("failing_books", data)
        counted = forge.faults.count
        forge.faults.off()
        where = f"{errno.errorcode[code]} at call {nth}: {said}"
        assert forge.lead("recovered", data) == (["closed"], 0), where
        books = Books(data)
        ledger = books.open().ledger
        try:
            expected = outcomes(data / "journal")
            assert len(expected[writer.id]) == 6, where
            assert_equal(ledger, expected)
        finally:
            books.close()
        return counted
    finally:
        forge.faults.off()
        shutil.rmtree(data)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_books_on_a_failing_disk(forge: Forge, code: int) -> None:
    keeper(forge, code, random.Random(f"{SEED} {code}").randrange(1, 100))


@pytest.mark.soak
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_books_on_a_disk_that_fails_at_every_call(forge: Forge, code: int) -> None:
    calls = keeper(forge, code, 0)
    for nth in range(1, calls + 1):
        keeper(forge, code, nth)
    print(f"\n{errno.errorcode[code]} at {calls} of {calls} calls of the books' keeper: 0 rows lost or doubled")
