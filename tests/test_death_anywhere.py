"""Death at every system call that changes a file: what was acknowledged is there, once, whatever was cut off.

The dead are real processes, and the judge is what they had said through a pipe before: nothing that the product wrote
is asked what should be there. What a power cut takes beyond that is tried in `test_simulation`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from costbearer.frames import Intent
from costbearer.journal import JournalWriter, journals
from costbearer.journal_files import segments
from costbearer.recovery import REASON_WRITER_DIED
from costbearer.stores.own_journal import is_own
from costbearer.stores.rows import Posted
from tests.books import Books, assert_equal, outcomes
from tests.factories import make_intent, record
from tests.faults import EVERY, EXIT_KILLED, Kind, Mode
from tests.forge import Forge, forge
from tests.lives import BATCHES, own_batches
from tests.rawjournal import HEADER, check_journal

SEED = 20261128
MODES = (Mode.DIE_BEFORE, Mode.DIE_HALF, Mode.DIE_AFTER)


@pytest.fixture(name="forge")
def _forge() -> Forge:
    return forge()


Check = Callable[[Path, list[str]], None]


class Deaths:
    """One life that is led again and again, each time ended at another call, recovered and checked."""

    def __init__(self, forge: Forge, life: str, recovery: str, source: Path | None, check: Check) -> None:
        """`source` is the data directory with which each life begins."""
        self._forge, self._life, self._recovery, self._source, self._check = forge, life, recovery, source, check

    def at_every_call(self) -> None:
        """In every way before, in and after every call, until a life is not ended any more."""
        tried = 0
        for mode in MODES:
            kinds = Kind.WRITE if mode is Mode.DIE_HALF else EVERY
            calls = self._attempt(mode, kinds, 0)
            nth = 0
            # The number of calls is not the same each time where threads share the work: none may be left untried.
            while nth < calls or self._attempt(mode, kinds, nth + 1):
                nth += 1
                if nth <= calls:
                    self._attempt(mode, kinds, nth)
            print(f"{self._life}: {mode.name} at {nth} of {nth} calls of {kinds!r} recovered")
            tried += nth
        print(f"{self._life}: {tried} of {tried} points recovered")

    def at_some_calls(self, count: int, *, of: int) -> None:
        """At so many of the first calls, drawn with a fixed seed, the last of them among these."""
        chance = random.Random(f"{SEED} {self._life}")
        for nth in [*sorted(chance.sample(range(1, of), count - 1)), of]:
            assert self._attempt(chance.choice(MODES), EVERY, nth), f"{self._life} has fewer calls than {of}"

    def _attempt(self, mode: Mode, kinds: Kind, nth: int) -> int:
        """One life, its recovery and the judgement. Gives how many calls there were, 0 where none was its end."""
        data = self._forge.root / "data"
        if self._source is None:
            data.mkdir()
        else:
            shutil.copytree(self._source, data)
        faults = self._forge.faults
        try:
            faults.arm(mode, nth, kinds=kinds)
            said, status = self._forge.lead(self._life, data)
            counted, hits = faults.count, faults.hits
            faults.off()
            where = f"{self._life}, {mode.name}, call {nth} of {kinds!r}, seed {SEED}: {said}"
            assert status == (EXIT_KILLED if hits else 0), where
            again, status = self._forge.lead(self._recovery, data)
            assert (again, status) == (["closed"], 0), f"{where}: {again}"
            try:
                self._check(data, said)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            return counted if hits or not nth else 0
        finally:
            faults.off()
            shutil.rmtree(data)


# -- a worker's journal


def test_a_journals_life_may_end_at_any_call(forge: Forge) -> None:
    Deaths(forge, "journal", "taken_over", None, check_journal).at_some_calls(12, of=40)


@pytest.mark.soak
def test_a_journals_life_may_end_at_every_call(forge: Forge) -> None:
    Deaths(forge, "journal", "taken_over", None, check_journal).at_every_call()


# -- the books


@pytest.fixture(scope="module")
def inherited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Posted]]]:
    """Two dead journals, one with a call under way and a torn tail; and what the ledger must hold of them."""
    data = tmp_path_factory.mktemp("inherited")
    expected: dict[str, list[Posted]] = {}
    for torn in (False, True):
        writer = JournalWriter.open(data / "journal", segment_bytes=3000)
        posted = expected.setdefault(writer.id, [])
        for _ in range(5):
            entry = record(writer)
            posted.append(Posted(writer.next_sequence - 1, entry))
            writer.rotate_if_due()
        if torn:
            writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        writer.close()
        if torn:
            with (writer.directory / f"{segments(writer.directory)[-1]:08d}.cbj").open("ab") as stream:
                stream.write(b"CBJ1" + bytes(20))
    books = Books(data)
    books.open()
    books.close()
    return data, expected


def check_books(expected: dict[str, list[Posted]]) -> Check:
    def check(data: Path, said: list[str]) -> None:
        books = Books(data)
        ledger = books.open().ledger
        try:
            assert_equal(ledger, {name: [*posted, *_died(data, name, posted)] for name, posted in expected.items()})
            assert books.set_aside() == [] or "posted 11" in said, "a ledger was set aside that was sound"
        finally:
            books.close()
        for name in expected:
            assert segments(data / "journal" / name) == [], "everything is sealed"

    return check


def _died(data: Path, name: str, posted: list[Posted]) -> list[Posted]:
    """The call under way, as it must have been closed: when that was, only the frame itself can tell."""
    more = [each for each in outcomes(data / "journal")[name] if each not in posted]
    for each in more:
        intent = make_intent(name, each.entry.sequence)
        ended = {"status": "unknown", "reason_unknown": REASON_WRITER_DIED, "ended_at": each.entry.ended_at}
        assert each.entry == msgspec.structs.replace(intent, **ended)
    assert len(more) <= 1
    return more


def test_take_over_sealing_and_posting_may_end_at_any_call(
    forge: Forge, inherited: tuple[Path, dict[str, list[Posted]]]
) -> None:
    Deaths(forge, "books", "recovered", inherited[0], check_books(inherited[1])).at_some_calls(2, of=180)


@pytest.mark.soak
def test_take_over_sealing_and_posting_may_end_at_every_call(
    forge: Forge, inherited: tuple[Path, dict[str, list[Posted]]]
) -> None:
    Deaths(forge, "books", "recovered", inherited[0], check_books(inherited[1])).at_every_call()


# -- the books' own journal


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with an empty ledger, whose file is made once and not for each life."""
    data = tmp_path_factory.mktemp("begun")
    books = Books(data)
    books.open().catch_up()
    books.close()
    return data


def check_own(data: Path, said: list[str]) -> None:
    """Every batch that was acknowledged is there, at most one more, and each whole."""
    acknowledged = sum(line.startswith("recorded") for line in said)
    recorded = [entry for batch in own_batches() for entry in batch]
    books = Books(data)
    ledger = books.open().ledger
    try:
        names = [path.name for path in journals(data / "journal") if is_own(path)]
        count = sum(totals.entries for totals in ledger.totals_by_journal().values())
        assert count in {sum(BATCHES[:acknowledged]), sum(BATCHES[: acknowledged + 1])}
        if count:
            (name,) = names
            entries = [msgspec.structs.replace(entry, journal=name, sequence=n) for n, entry in enumerate(recorded, 1)]
            assert_equal(ledger, {name: [Posted(entry.sequence, entry) for entry in entries[:count]]})
        assert books.set_aside() == []
    finally:
        books.close()


def test_recording_in_the_books_own_journal_may_end_at_any_call(forge: Forge, begun: Path) -> None:
    Deaths(forge, "own", "recovered", begun, check_own).at_some_calls(2, of=60)


@pytest.mark.soak
def test_recording_in_the_books_own_journal_may_end_at_every_call(forge: Forge, begun: Path) -> None:
    Deaths(forge, "own", "recovered", begun, check_own).at_every_call()


def test_the_judge_sees_a_lost_and_a_doubled_frame(tmp_path: Path) -> None:
    """The oracle bites: it is the product's own files that are changed here."""
    writer = JournalWriter.open(tmp_path / "journal")
    said = []
    for _ in range(2):
        record(writer)
        said += [f"intent {writer.id} {writer.next_sequence - 2}", f"outcome {writer.id} {writer.next_sequence - 2}"]
    check_journal(tmp_path, said)
    file = writer.directory / "00000001.cbj"
    whole = file.read_bytes()
    last = whole.rindex(b"CBJ1")
    for damaged in (whole[:last], whole + whole[last:], whole[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(AssertionError):
            check_journal(tmp_path, said)
    writer.close()


def test_half_a_write_is_what_the_shim_leaves(forge: Forge) -> None:
    """The faults bite: the frame that was cut in the middle is on the disk, half."""
    data = forge.root / "half"
    data.mkdir()
    try:
        forge.faults.arm(Mode.DIE_HALF, 2, kinds=Kind.WRITE)
        said, status = forge.lead("journal", data)
        assert (said, status) == ([], EXIT_KILLED)
        (directory,) = journals(data / "journal")
        raw = (directory / "00000001.cbj").read_bytes()
        _, length, _, _ = HEADER.unpack_from(raw)
        torn = raw[HEADER.size + length :]
        assert torn[:4] == b"CBJ1" and 0 < len(torn) < HEADER.size + HEADER.unpack_from(torn)[1]
    finally:
        forge.faults.off()
        shutil.rmtree(data)
