from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from costbearer.bookkeeper import LATE_S, Bookkeeper
from costbearer.errors import JournalFailed, StoreFailed
from costbearer.frames import Outcome, encode
from costbearer.journal import Intent, JournalWriter, segment_file, segments
from costbearer.journal_files import all_segments
from costbearer.ledger import Entry
from costbearer.rounds import Rounds
from costbearer.stores import reading
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import Totals, totals_of
from tests.books import Books, assert_equal, cost, outcomes
from tests.factories import BORN, make_entry, make_intent, record


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


@contextmanager
def journal(books: Books, *, segment_bytes: int = 64 * 1024 * 1024) -> Iterator[JournalWriter]:
    writer = JournalWriter.open(books.journal_dir, segment_bytes=segment_bytes)
    try:
        yield writer
    finally:
        writer.close()


def rotated(writer: JournalWriter, calls: int) -> list[Entry]:
    """Some calls, then the next segment."""
    entries = [record(writer) for _ in range(calls)]
    writer.rotate_if_due()
    return entries


def append_raw(directory: Path, number: int, *frames: tuple[int, Intent | Outcome]) -> None:
    buffer, data = bytearray(), b""
    for sequence, frame in frames:
        encode(frame, sequence, buffer)
        data += bytes(buffer)
    with segment_file(directory, number).open("ab") as stream:
        stream.write(data)


def test_every_outcome_is_posted_once(books: Books) -> None:
    bookkeeper = books.open()
    with journal(books) as one, journal(books) as other:
        entries = [record(writer) for writer in (one, other, one, one)]
        under_way = one.append(Intent(make_intent(one.id, one.next_sequence)))
        assert bookkeeper.catch_up() == 4
        assert bookkeeper.catch_up() == 0
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        entries.append(record(other))
        last = make_entry(one.id, under_way)
        one.append(Outcome(last))
        assert bookkeeper.catch_up() == 2
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        with bookkeeper.ledger.reader() as reader:
            assert reader.grouped(())[0]["cost_usd"] == cost([*entries, last])
        assert bookkeeper.damage == () and bookkeeper.notices == []


def test_nothing_is_posted_of_nothing(books: Books) -> None:
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 0
    assert bookkeeper.complete_to is not None
    assert bookkeeper.ledger.positions() == {}


def test_what_died_in_its_birth_takes_no_space(books: Books) -> None:
    unborn = books.journal_dir / ".new-20261122T193000-00000000"
    unborn.mkdir()
    os.utime(unborn, (0, 0))
    assert books.open().catch_up() == 0
    assert not unborn.exists()


def test_a_journal_is_read_on_after_opening_again(books: Books) -> None:
    with journal(books) as writer:
        record(writer)
        books.open().catch_up()
        books.close()
        record(writer)
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 1
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        assert bookkeeper.notices == [] and books.set_aside() == []


def test_what_is_read_is_synced_before_it_is_posted(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_sync, real_post = os.fdatasync, Ledger.post_table

    def sync(fd: int) -> None:
        order.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        real_sync(fd)

    def post(ledger: Ledger, *arguments: Any) -> None:
        order.append("post")
        real_post(ledger, *arguments)

    with journal(books) as writer:
        record(writer)
        bookkeeper = books.open()
        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(Ledger, "post_table", post)
        bookkeeper.catch_up()
    assert order == ["sync 00000001.cbj", "post"]


def test_what_cannot_be_synced_is_never_posted(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with journal(books) as writer:
        record(writer)
        bookkeeper = books.open()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(JournalFailed, match="fdatasync"):
                bookkeeper.catch_up()
        # The kernel says yes to the second fdatasync without having written anything.
        assert bookkeeper.catch_up() == 0
        assert bookkeeper.ledger.totals_by_journal() == {}
        assert bookkeeper.complete_to is None
        assert bookkeeper.progress().held == (writer.id,)
        assert any("not posted any further" in notice for notice in bookkeeper.notices)


def test_complete_to_is_when_the_pass_began(books: Books) -> None:
    now = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
    ledger = Ledger.open(books.file, readers=1)
    bookkeeper = Bookkeeper(books.journal_dir, ledger, clock=lambda: now)
    assert bookkeeper.complete_to is None
    with journal(books) as writer:
        writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        bookkeeper.catch_up()
    assert bookkeeper.complete_to == now
    progress = bookkeeper.progress()
    assert (progress.open_calls, progress.journals, progress.unsealed_segments) == (1, 1, 1)
    assert progress.oldest_open == make_intent("x", 2).started_at
    ledger.close()


def test_progress_does_not_wait_for_a_pass(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    bookkeeper = books.open()
    seen: list[int] = []
    real = Ledger.post_table

    def post(ledger: Ledger, *arguments: Any) -> None:
        thread = threading.Thread(target=lambda: seen.append(bookkeeper.progress().entries))
        thread.start()
        thread.join(10)
        real(ledger, *arguments)

    monkeypatch.setattr(Ledger, "post_table", post)
    with journal(books) as writer:
        record(writer)
        bookkeeper.catch_up()
        assert (seen, bookkeeper.progress().entries) == ([0], 1)


def test_a_dead_writers_calls_become_unknown_with_their_bound(books: Books) -> None:
    writer = JournalWriter.open(books.journal_dir)
    done = record(writer)
    intent = make_intent(writer.id, writer.next_sequence)
    writer.append(Intent(intent))
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 1
    writer.close()
    assert bookkeeper.catch_up() == 1
    (posted,) = outcomes(books.journal_dir).values()
    assert [each.entry.call_id for each in posted] == [done.call_id, intent.call_id]
    unknown = posted[1].entry
    assert (unknown.basis, unknown.cost_usd, unknown.reason_unknown) == ("unknown", None, "writer_died")
    assert unknown.bound_usd == intent.bound_usd
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert any("1 calls under way are unknown" in notice for notice in bookkeeper.notices)


def test_segments_are_sealed_in_order_when_their_calls_are_closed(books: Books) -> None:
    bookkeeper = books.open()
    with journal(books, segment_bytes=4096) as writer:
        first = writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        rotated(writer, 3)
        rotated(writer, 3)
        bookkeeper.catch_up()
        assert segments(writer.directory) == [1, 2, 3], "the call of segment 1 is open"
        writer.append(Outcome(make_entry(writer.id, first)))
        bookkeeper.catch_up()
        assert segments(writer.directory) == [3]
        assert all_segments(writer.directory) == [1, 2, 3]
        books.close()
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 0
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    bookkeeper.catch_up()
    assert segments(writer.directory) == []
    assert bookkeeper.damage == () and bookkeeper.notices == []
    assert bookkeeper.rebuild() == 7
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))


def test_small_batches_post_the_same(books: Books) -> None:
    with journal(books, segment_bytes=4096) as one, journal(books, segment_bytes=4096) as other:
        for writer in (one, other, one):
            rotated(writer, 4)
        bookkeeper = books.open(batch_entries=1)
        assert bookkeeper.catch_up() == 12
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))


# -- a ledger that is not what the journal says


def flip(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x40
    file.write_bytes(data)


def cut(file: Path, place: float) -> None:
    file.write_bytes(file.read_bytes()[: int(place * file.stat().st_size)])


def zero(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    at = int(place * len(data))
    data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    file.write_bytes(data)


def zero_all(file: Path, place: float) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def delete(file: Path, place: float) -> None:
    file.unlink()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Posted]]]:
    """A data directory as a killed bookkeeper leaves it: a checkpointed file and a log with several commits."""
    books = Books(tmp_path_factory.mktemp("crashed") / "live")
    with journal(books, segment_bytes=16 * 1024) as writer:
        for _ in range(3):
            rotated(writer, 10)
        books.open().catch_up()
        books.close()
        bookkeeper = books.open()
        for _ in range(6):
            rotated(writer, 10)
            bookkeeper.catch_up()
    copy = books.journal_dir.parent.parent / "copy"
    shutil.copytree(books.journal_dir.parent, copy)
    assert (copy / "ledger.duckdb.wal").stat().st_size > 1000
    books.close()
    return copy, outcomes(copy / "journal")


FAULTS = [
    *(
        (fault, "ledger.duckdb", place)
        for fault in (flip, zero)
        for place in (0.0, 0.001, 0.02, 0.3, 0.5, 0.7, 0.9, 1.0)
    ),
    *((cut, "ledger.duckdb", place) for place in (0.0, 0.01, 0.5, 0.999)),
    *((fault, "ledger.duckdb.wal", place) for fault in (flip, zero, cut) for place in (0.0, 0.01, 0.2, 0.5, 0.8, 0.99)),
    *((fault, name, 0.0) for fault in (zero_all, delete) for name in ("ledger.duckdb", "ledger.duckdb.wal")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "name", "place"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_damaged_ledger_is_built_again(
    crashed: tuple[Path, dict[str, list[Posted]]],
    tmp_path: Path,
    fault: Callable[[Path, float], None],
    name: str,
    place: float,
) -> None:
    source, expected = crashed
    data = tmp_path / "data"
    shutil.copytree(source, data)
    fault(data / name, place)
    books = Books(data)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert outcomes(books.journal_dir) == expected
    assert len(bookkeeper.notices) <= 1
    assert bool(bookkeeper.notices) == bool(books.set_aside())
    books.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE sequence = 2",
        "DELETE FROM charges WHERE sequence = 2 AND meter = 'output'",
        "INSERT INTO entries SELECT * FROM entries WHERE sequence = 2",
        "UPDATE entries SET cost_usd = cost_usd + 0.000000000001 WHERE sequence = 2",
        "UPDATE entries SET cost_usd = NULL WHERE sequence = 2",
        "UPDATE charges SET cost_usd = 0 WHERE sequence = 2",
        "UPDATE entries SET journal = '20200101T000000-00000000' WHERE sequence = 2",
        "DELETE FROM positions",
        'UPDATE positions SET "offset" = 10000000',
        "UPDATE positions SET segment = 99",
        "UPDATE positions SET entries = entries - 1",
    ],
)
def test_a_ledger_that_differs_is_set_aside_and_built_again(books: Books, statement: str) -> None:
    import duckdb

    with journal(books) as writer:
        for _ in range(5):
            record(writer)
        books.open().catch_up()
        books.close()
        with duckdb.connect(str(books.file)) as connection:
            connection.execute(statement)
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 5
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        (away,) = books.set_aside()
        assert away.name in bookkeeper.notices[0]


def test_a_journal_that_is_gone_is_said(books: Books) -> None:
    with journal(books) as writer:
        record(writer)
        books.open().catch_up()
        books.close()
    shutil.rmtree(writer.directory)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert bookkeeper.ledger.totals_by_journal() == {}
    assert f"journal {writer.id} is gone" in bookkeeper.notices[0]


def test_an_engine_that_broke_is_replaced_in_the_next_pass(books: Books) -> None:
    with journal(books) as writer:
        record(writer)
        bookkeeper = books.open()
        bookkeeper.catch_up()
        bookkeeper.ledger.broken = "a block could not be read"
        record(writer)
        assert bookkeeper.catch_up() == 1
        assert bookkeeper.ledger.broken is None
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        assert books.set_aside() == []


# -- damage in the journal


def test_a_damaged_frame_of_a_living_writer_is_reported_and_the_rest_is_posted(books: Books) -> None:
    with journal(books) as writer:
        first = record(writer)
        lost_at = segment_file(writer.directory, 1).stat().st_size
        record(writer)
        last = record(writer)
        damage_at(segment_file(writer.directory, 1), lost_at + 40)
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 3, "the outcome of the damaged intent repeats it"
        kinds = [flaw.kind for flaw in bookkeeper.damage]
        assert kinds == ["damaged", "gap", "intent_lost"]
        assert "sequence 4 is missing" in bookkeeper.damage[1].detail
        with bookkeeper.ledger.reader() as reader:
            assert reader.grouped(())[0]["cost_usd"] == cost([first, make_entry(writer.id, 4), last])
        assert bookkeeper.catch_up() == 0


def test_an_outcome_that_cannot_be_read_leaves_its_call_unknown(books: Books) -> None:
    with journal(books) as writer:
        intent = make_intent(writer.id, writer.next_sequence)
        writer.append(Intent(intent))
        lost_at = segment_file(writer.directory, 1).stat().st_size
        writer.append(Outcome(make_entry(writer.id, intent.sequence)))
        last = record(writer)
        damage_at(segment_file(writer.directory, 1), lost_at + 40)
        bookkeeper = books.open()
        assert bookkeeper.catch_up() == 1
    assert bookkeeper.catch_up() == 1
    with bookkeeper.ledger.reader() as reader:
        (sums,) = reader.grouped(())
    assert (sums["cost_usd"], sums["unknown_calls"], sums["bound_usd"]) == (cost([last]), 1, intent.bound_usd)
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert {flaw.kind for flaw in bookkeeper.damage} == {"damaged", "gap"}
    books.close()
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert {flaw.kind for flaw in bookkeeper.damage} == {"damaged", "gap"}, "its seal remembers it"


def test_the_first_of_two_outcomes_holds(books: Books) -> None:
    with journal(books) as writer:
        entry = record(writer)
    other = make_entry(writer.id, entry.sequence, provider="another")
    append_raw(writer.directory, 1, (writer.next_sequence, Outcome(other)))
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 1
    assert_equal(bookkeeper.ledger, {writer.id: [Posted(entry.sequence + 1, entry)]})
    (flaw,) = bookkeeper.damage
    assert flaw.kind == "outcome_repeated"
    assert bookkeeper.rebuild() == 1


def test_frames_that_are_there_again_are_left_out(books: Books) -> None:
    with journal(books) as writer:
        entry = record(writer)
    raw = segment_file(writer.directory, 1)
    raw.write_bytes(raw.read_bytes() * 2)
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 1
    assert_equal(bookkeeper.ledger, {writer.id: [Posted(entry.sequence + 1, entry)]})
    assert {flaw.kind for flaw in bookkeeper.damage} == {"repeat"}


def test_frames_of_another_journal_are_not_posted(books: Books) -> None:
    with journal(books) as writer:
        entry = record(writer)
        stranger = make_entry("20200101T000000-00000000", entry.sequence)
    append_raw(writer.directory, 1, (writer.next_sequence, Outcome(stranger)))
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 1
    assert [flaw.kind for flaw in bookkeeper.damage] == ["foreign"]


def test_a_segment_that_is_missing_is_reported(books: Books) -> None:
    with journal(books, segment_bytes=4096) as writer:
        first = rotated(writer, 3)
        rotated(writer, 3)
        last = rotated(writer, 3)
    segment_file(writer.directory, 2).unlink()
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 6
    assert {flaw.kind for flaw in bookkeeper.damage} >= {"missing", "gap"}
    with bookkeeper.ledger.reader() as reader:
        assert reader.grouped(())[0]["cost_usd"] == cost([*first, *last])
    books.close()
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 0
    assert "missing" in {flaw.kind for flaw in bookkeeper.damage}


def test_a_call_whose_outcome_rots_after_its_intent_was_sealed_is_unknown(books: Books) -> None:
    with journal(books, segment_bytes=4096) as writer:
        intent = make_intent(writer.id, writer.next_sequence)
        writer.append(Intent(intent))
        before = rotated(writer, 3)
        lost_at = segment_file(writer.directory, 2).stat().st_size
        writer.append(Outcome(make_entry(writer.id, intent.sequence)))
        after = record(writer)
        bookkeeper = books.open()
        bookkeeper.catch_up()
        assert segments(writer.directory) == [2], "the intent is sealed, its outcome is not"
        books.close()
        damage_at(segment_file(writer.directory, 2), lost_at + 40)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    with bookkeeper.ledger.reader() as reader:
        (sums,) = reader.grouped(())
    assert (sums["cost_usd"], sums["unknown_calls"], sums["bound_usd"]) == (cost([*before, after]), 1, intent.bound_usd)
    assert {flaw.kind for flaw in bookkeeper.damage} == {"damaged", "gap", "outcome_lost"}
    held = bookkeeper.ledger.totals_by_journal()
    assert bookkeeper.rebuild() == 5
    assert bookkeeper.ledger.totals_by_journal() == held


def damage_at(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        old = stream.read(1)
        stream.seek(place)
        stream.write(bytes([old[0] ^ 0xFF]))


# -- killed between any two steps


class Killed(BaseException):
    """Stands for SIGKILL at a chosen step."""


class Killer:
    """Counts the steps of a pass that leave a trace outside, and raises before the chosen one and all behind it."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    @contextmanager
    def armed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (
                (os, "fsync"),
                (os, "fdatasync"),
                (Path, "replace"),
                (Path, "rename"),
                (Path, "unlink"),
                (Ledger, "post_table"),
                (Ledger, "mark"),
                (Ledger, "set_aside"),
                (reading, "write_parquet"),
                (reading, "write_compressed"),
                (reading, "write_seal"),
                (reading, "drop_raw"),
            ):
                patch.setattr(owner, name, self._wrapped(getattr(owner, name)))
            yield

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.steps += 1
            if self.steps >= self.at:
                raise Killed
            return real(*arguments, **options)

        return step


def scenario(books: Books) -> dict[str, list[Posted]]:
    """Two journals, sealed and unsealed segments, one dead with an open call; gives what is to be posted in the end."""
    with journal(books, segment_bytes=4096) as dead, journal(books, segment_bytes=4096) as writer:
        opened = dead.append(Intent(make_intent(dead.id, dead.next_sequence)))
        for each in (dead, writer, dead, writer):
            rotated(each, 3)
        dead.append(Outcome(make_entry(dead.id, opened)))
        dead.append(Intent(make_intent(dead.id, dead.next_sequence)))
        record(writer)
    return outcomes(books.journal_dir)


@pytest.mark.slow
def test_killed_at_every_eighth_step(tmp_path: Path) -> None:
    killed_at_steps(tmp_path, 8)


@pytest.mark.soak
def test_killed_at_every_step(tmp_path: Path) -> None:
    killed_at_steps(tmp_path, 1)


def killed_at_steps(tmp_path: Path, stride: int) -> None:
    """Before the step that is; what is left by a death after a step is what a death before the next one leaves."""
    source = Books(tmp_path / "source")
    calls = sum(map(len, scenario(source).values())) + 1
    # An empty ledger: to make one is no step of a pass, and need not be done again for each of them.
    source.open()
    source.close()
    at, killed = 1 - stride, True
    while killed:
        at += stride
        data = tmp_path / "data"
        shutil.copytree(source.journal_dir.parent, data)
        books = Books(data)
        killed = kill(books, at)
        bookkeeper = books.open()
        bookkeeper.catch_up()
        expected = outcomes(books.journal_dir)
        assert sum(map(len, expected.values())) == calls
        assert_equal(bookkeeper.ledger, expected)
        assert all(segments(path) == [] for path in books.journal_dir.iterdir())
        assert bookkeeper.damage == () and bookkeeper.ledger.notices == []
        if at % 5 == 0:
            assert bookkeeper.rebuild() == calls
            assert_equal(bookkeeper.ledger, expected)
        books.close()
        shutil.rmtree(data)
    assert at > 20, "the scenario has that many steps"


def kill(books: Books, at: int) -> bool:
    """One pass that dies at a step; False where it has fewer steps."""
    bookkeeper = books.open(batch_entries=5)
    with Killer(at).armed():
        try:
            bookkeeper.catch_up()
        except Killed:
            return True
        finally:
            books.close()
    return False


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(6, 48))])
def test_any_interleaving_posts_exactly_what_the_journals_hold(tmp_path: Path, seed: int) -> None:
    """Several writers, passes of any batch size, kills, deaths of writers, new bookkeepers, rebuilds, lost ledgers."""
    chance = random.Random(seed)
    books = Books(tmp_path)
    bookkeeper = books.open()
    writers: list[tuple[JournalWriter, list[int]]] = []

    def write() -> None:
        if not writers or (len(writers) < 4 and chance.random() < 0.1):
            size = chance.choice((4096, 12_000, 10**6))
            writers.append((JournalWriter.open(books.journal_dir, segment_bytes=size), []))
        writer, under_way = chance.choice(writers)
        for _ in range(chance.randint(1, 8)):
            if under_way and chance.random() < 0.5:
                writer.append(Outcome(make_entry(writer.id, under_way.pop(chance.randrange(len(under_way))))))
            else:
                under_way.append(writer.append(Intent(make_intent(writer.id, writer.next_sequence))))
            writer.rotate_if_due()

    def die() -> None:
        if writers:
            writers.pop(chance.randrange(len(writers)))[0].close()

    def renew(damage: Callable[[], None] = lambda: None) -> None:
        nonlocal bookkeeper
        books.close()
        damage()
        bookkeeper = books.open(batch_entries=chance.choice((1, 3, 10, 10**6)))

    def crash() -> None:
        books.close()
        kill(books, chance.randint(1, 12))
        renew()

    def lose() -> None:
        def unlink() -> None:
            for path in books.file.parent.glob("ledger.duckdb*"):
                path.unlink()

        renew(unlink)

    steps: list[Callable[[], object]] = [write] * 6 + [lambda: bookkeeper.catch_up()] * 4
    steps += [die, renew, crash, crash, lose, lambda: bookkeeper.rebuild()]
    for _ in range(40):
        chance.choice(steps)()
    bookkeeper.catch_up()
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    while writers:
        die()
    bookkeeper.catch_up()
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    progress = bookkeeper.progress()
    assert (progress.open_calls, progress.unsealed_segments, progress.damage) == (0, 0, 0)
    assert progress.entries == sum(map(len, outcomes(books.journal_dir).values()))
    books.close()


CHILDREN = """
import os, sys
from pathlib import Path
from costbearer.bookkeeper import Bookkeeper
from costbearer.rounds import Rounds
from costbearer.stores.duckdb import Ledger

data = Path(sys.argv[1])
for _ in sys.stdin:
    child = os.fork()
    if not child:
        bookkeeper = Bookkeeper(data / "journal", Ledger.open(data / "ledger.duckdb", readers=1))
        print(os.getpid(), flush=True)
        Rounds().keep("bookkeeper", 0.0, bookkeeper.catch_up, at_once=True)
    os.waitpid(child, 0)
"""
"""Starts a bookkeeper for each line it reads, when the one before has ended, and says its process id. It has imported
everything by then and done nothing else, so that a round does not wait for what takes longer than the round."""


def killed_rounds(books: Books, rounds: int) -> None:
    """Real processes and real SIGKILLs at random moments, while two journals are written and rotated."""
    chance = random.Random(rounds)
    with journal(books, segment_bytes=200_000) as one, journal(books, segment_bytes=200_000) as other:
        command = [sys.executable, "-c", CHILDREN, str(books.file.parent)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as children:
            assert children.stdin is not None and children.stdout is not None
            for _ in range(rounds):
                children.stdin.write(b"\n")
                child = int(children.stdout.readline())
                end = time.monotonic() + chance.uniform(0.0, 0.3)
                while time.monotonic() < end:
                    for writer in (one, other):
                        rotated(writer, 5)
                    time.sleep(0.002)
                os.kill(child, signal.SIGKILL)
            children.stdin.close()
            assert children.wait(30) == 0
        bookkeeper = books.open()
        bookkeeper.catch_up()
        assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
        assert bookkeeper.damage == ()
    bookkeeper.catch_up()
    assert bookkeeper.progress().unsealed_segments == 0
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert bookkeeper.rebuild() == sum(map(len, outcomes(books.journal_dir).values()))
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))


@pytest.mark.slow
def test_a_bookkeeper_that_is_killed_loses_and_doubles_nothing(books: Books) -> None:
    killed_rounds(books, 10)


@pytest.mark.soak
def test_a_bookkeeper_that_is_killed_a_hundred_times(books: Books) -> None:
    killed_rounds(books, 100)


# -- at work


@pytest.mark.parametrize(
    "trouble",
    [StoreFailed("the disk is full"), pa.ArrowMemoryError("malloc failed"), OSError(errno.EMFILE, "too many")],
)
def test_a_pass_that_fails_is_made_again(
    books: Books, monkeypatch: pytest.MonkeyPatch, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("costbearer.rounds.BACK_OFF_S", 0.01)
    failures = iter([trouble])
    real = Ledger.post_table
    seen: list[bool] = []
    rounds = Rounds()

    def post(ledger: Ledger, *arguments: Any) -> None:
        error = next(failures, None)
        if error is not None:
            raise error
        seen.extend((bookkeeper.current, rounds.sound()["bookkeeper"]))
        real(ledger, *arguments)

    monkeypatch.setattr(Ledger, "post_table", post)
    with journal(books) as writer:
        entry = record(writer)
        bookkeeper = books.open()
        rounds.start("bookkeeper", 0.01, bookkeeper.catch_up, at_once=True)
        end = time.monotonic() + 20
        while not bookkeeper.current and time.monotonic() < end:
            time.sleep(0.01)
        assert rounds.sound() == {"bookkeeper": True}
        rounds.stop.set()
        rounds.join("bookkeeper")
    assert rounds.sound() == {"bookkeeper": False}, "nobody posts any more"
    assert seen[:2] == [False, False], "not ready before it went well again"
    assert bookkeeper.ledger.totals_by_journal()[writer.id].cost_usd == entry.cost_usd
    assert ("the disk is full" in bookkeeper.notices) == isinstance(trouble, StoreFailed)
    assert str(trouble) in caplog.text
    assert bookkeeper.failure is None


def test_a_ledger_that_is_left_behind_is_not_current(books: Books) -> None:
    now = [BORN]
    books.open()
    assert books._ledger is not None
    bookkeeper = Bookkeeper(books.journal_dir, books._ledger, clock=lambda: now[0])
    assert not bookkeeper.current, "nothing is posted yet"
    bookkeeper.catch_up()
    for seconds, current in ((LATE_S, True), (LATE_S + 1, False), (-60, True)):
        now[0] = BORN + timedelta(seconds=seconds)
        assert bookkeeper.current is current
    now[0] = BORN + timedelta(seconds=LATE_S + 1)
    bookkeeper.catch_up()
    assert bookkeeper.current


def test_readers_wait_for_the_end_of_a_rebuild(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = Ledger.post_table

    def post(ledger: Ledger, *arguments: Any) -> None:
        real(ledger, *arguments)
        try:
            with ledger.reader():
                seen.append("a half-built ledger was shown")
        except StoreFailed as error:
            seen.append(error.message)

    monkeypatch.setattr(Ledger, "post_table", post)
    with journal(books) as writer:
        record(writer)
        bookkeeper = books.open()
        bookkeeper.catch_up()
        bookkeeper.rebuild()
        with bookkeeper.ledger.reader() as reader:
            assert reader.grouped(())[0]["entries"] == 1
    assert len(seen) == 2 and all("being rebuilt" in text for text in seen)


def test_totals_of_nothing() -> None:
    assert totals_of(table_of([])) == Totals()


def test_where_sealed_files_cannot_be_loaded_they_are_posted_row_by_row(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal(books, segment_bytes=4096) as writer:
        for _ in range(3):
            rotated(writer, 3)
    bookkeeper = books.open()
    bookkeeper.catch_up()

    def fail(*arguments: Any) -> None:
        raise StoreFailed("no more threads")

    monkeypatch.setattr(Ledger, "load", fail)
    assert bookkeeper.rebuild() == 9
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert any("no more threads" in notice for notice in bookkeeper.notices)
