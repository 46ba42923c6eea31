from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.console.api_doctor import report_totals
from costbearer.corrections import restated
from costbearer.doctor import Finding, examine
from costbearer.errors import DataDirectoryBusy, JournalFailed, StoreFailed
from costbearer.journal import JournalWriter, journals
from costbearer.journal_files import acquire, seal_file
from costbearer.ledger import Entry
from costbearer.reports import answer, question
from costbearer.stores import own_journal
from costbearer.stores.duckdb import Ledger
from costbearer.stores.own_journal import OwnJournal, is_own
from costbearer.stores.rows import Posted, entries_from, table_of
from costbearer.stores.segments import load_parquet, parquet_file, read_seals, totals_of
from tests.books import Books, assert_equal, cost, outcomes
from tests.factories import make_entry, make_unknown, record

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def imported(count: int, first: int = 1) -> list[Entry]:
    return [make_entry("elsewhere", first + number, kind="import") for number in range(count)]


def own_directory(books: Books) -> Path:
    (directory,) = (path for path in journals(books.journal_dir) if is_own(path))
    return directory


def expected_in(books: Books, entries: list[Entry]) -> dict[str, list[Posted]]:
    """All that should be in the ledger: the calls, and these entries under the identities the own journal gives."""
    found = outcomes(books.journal_dir)
    name = own_directory(books).name
    found[name] = [
        Posted(number, msgspec.structs.replace(entry, journal=name, sequence=number))
        for number, entry in enumerate(entries, start=1)
    ]
    return found


def checked(bookkeeper: Bookkeeper) -> list[Finding]:
    return [finding for finding in examine(bookkeeper, report_totals=report_totals) if not finding.ok]


def test_what_is_recorded_is_posted_and_survives_everything(books: Books) -> None:
    bookkeeper = books.open()
    writer = JournalWriter.open(books.journal_dir)
    record(writer)
    bookkeeper.catch_up()
    entries = imported(5)
    assert bookkeeper.record(entries[:2]) == 2
    assert bookkeeper.record(table_of(Posted(0, entry) for entry in entries[2:])) == 3
    assert bookkeeper.record([]) == 0
    expected = expected_in(books, entries)
    assert_equal(bookkeeper.ledger, expected)
    assert bookkeeper.progress().entries == 6
    assert checked(bookkeeper) == []
    books.close()
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 0
    assert_equal(bookkeeper.ledger, expected)
    assert bookkeeper.rebuild() == 6
    assert_equal(bookkeeper.ledger, expected)
    assert bookkeeper.damage == ()
    writer.close()


def test_one_journal_is_continued_over_restarts_with_one_chain(books: Books) -> None:
    for number in range(3):
        books.open().record(imported(2, first=10 * number + 1))
        books.close()
    directory = own_directory(books)
    seals, flaws = read_seals(directory)
    assert flaws == []
    assert [(seal.segment, seal.first_sequence, seal.last_sequence) for seal, _ in seals] == [
        (1, 1, 2),
        (2, 3, 4),
        (3, 5, 6),
    ]
    assert [seal.previous_seal_sha256 for seal, _ in seals] == [None, seals[0][1], seals[1][1]]
    table = load_parquet(directory, seals[2][0])
    assert table is not None
    assert seals[2][0].totals == totals_of(table)
    assert [entry.entry_id for entry in entries_from(table)] == [f"{directory.name}.5", f"{directory.name}.6"]


def test_where_the_chain_is_broken_a_new_journal_begins(books: Books) -> None:
    books.open().record(imported(2))
    books.close()
    first = own_directory(books)
    seal_file(first, 1).write_bytes(b"{")
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert bookkeeper.record(imported(1)) == 1
    own = [path for path in journals(books.journal_dir) if is_own(path)]
    assert len(own) == 2
    assert any("cannot be read" in flaw.detail for flaw in bookkeeper.damage)
    assert seal_file(first, 1).read_bytes() == b"{"


def test_a_journal_that_somebody_else_writes_is_left_alone(books: Books) -> None:
    bookkeeper = books.open()
    bookkeeper.record(imported(1))
    lock = acquire(own_directory(books))
    assert lock is not None
    try:
        with pytest.raises(DataDirectoryBusy):
            bookkeeper.record(imported(1))
    finally:
        os.close(lock)
    assert bookkeeper.record(imported(1)) == 1
    assert bookkeeper.progress().entries == 2


def test_two_writers_of_one_journal_do_not_write_over_each_other(books: Books) -> None:
    one = OwnJournal.open(books.journal_dir, NOW)
    other = OwnJournal.open(books.journal_dir, NOW)
    assert one.directory == other.directory
    table = table_of([Posted(0, imported(1)[0])])
    one.write(table)
    with pytest.raises(JournalFailed, match="somebody else"):
        other.write(table)


class Killed(BaseException):
    """Stands for SIGKILL."""


STEPS = [
    (own_journal, "write_parquet"),
    (own_journal, "check_files"),
    (own_journal, "sync_directory"),
    (own_journal, "write_seal"),
    (Ledger, "post_table"),
    (os, "fsync"),
    (Path, "replace"),
    (Path, "rename"),
]


def killed(at: int) -> Any:
    """A context in which every step that leaves a trace is counted, and the `at`th and all behind it raise."""
    patch = pytest.MonkeyPatch()
    steps = [0]

    def wrapped(real: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] >= at:
                raise Killed
            return real(*arguments, **options)

        return step

    for owner, name in STEPS:
        patch.setattr(owner, name, wrapped(getattr(owner, name)))
    return patch


@pytest.mark.parametrize("again", [False, True], ids=["first segment", "second segment"])
def test_killed_at_any_step_a_segment_is_whole_or_absent(tmp_path: Path, again: bool) -> None:
    source = Books(tmp_path / "source")
    before = imported(2) if again else []
    source.open().record(before)
    source.close()
    fresh = imported(3, first=50)
    at, dead, seen = 0, True, set()
    while dead:
        at += 1
        data = tmp_path / "data"
        shutil.copytree(source.journal_dir.parent, data)
        books = Books(data)
        bookkeeper = books.open()
        bookkeeper.catch_up()
        patch = killed(at)
        try:
            bookkeeper.record(fresh)
            dead = False
        except Killed:
            pass
        finally:
            patch.undo()
            books.close()
        bookkeeper = books.open()
        bookkeeper.catch_up()
        entries = bookkeeper.progress().entries
        assert entries in {len(before), len(before) + 3}
        seen.add(entries)
        if entries:
            assert_equal(bookkeeper.ledger, expected_in(books, [*before, *(fresh if entries > len(before) else ())]))
        if entries == len(before):
            assert bookkeeper.record(fresh) == 3
            assert_equal(bookkeeper.ledger, expected_in(books, [*before, *fresh]))
        assert bookkeeper.damage == () and bookkeeper.notices == []
        books.close()
        shutil.rmtree(data)
    assert at > 8 and seen == {len(before), len(before) + 3}


def test_what_is_recorded_and_could_not_be_posted_is_posted_by_the_next_pass(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    bookkeeper = books.open()
    bookkeeper.catch_up()

    def fail(*arguments: Any) -> None:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post_table", fail)
        with pytest.raises(StoreFailed):
            bookkeeper.record(imported(2))
    assert bookkeeper.failure == "the disk is full"
    assert bookkeeper.catch_up() == 2
    assert_equal(bookkeeper.ledger, expected_in(books, imported(2)))


# -- the doctor


def corrected(books: Books) -> Bookkeeper:
    """A known and an unknown call, both restated."""
    bookkeeper = books.open()
    writer = JournalWriter.open(books.journal_dir)
    known = record(writer)
    unknown = record(writer, make_unknown(writer.id, writer.next_sequence))
    writer.close()
    bookkeeper.catch_up()
    right = make_entry("x", 9)
    rating = {
        name: getattr(right, name)
        for name in ("charges", "usage", "cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd")
    }
    for old in (known, unknown):
        new = msgspec.structs.replace(old, basis="metered", reason_unknown=None, **rating)
        bookkeeper.record(restated(old, new, at=NOW, kind="restatement"))
    return bookkeeper


def test_corrections_show_in_the_report_as_if_they_had_always_been_so(books: Books) -> None:
    bookkeeper = corrected(books)
    fresh = make_entry("x", 9)
    assert fresh.cost_usd is not None
    asked = [("by", "day"), ("since", "2026-11-22"), ("until", "2026-11-23")]
    with bookkeeper.ledger.reader() as reader:
        table = answer(question("spend", asked, now=NOW), reader)
    assert table.totals["total_usd"] == money.total((fresh.cost_usd, fresh.cost_usd))
    assert (table.totals["calls"], table.totals["requests"], table.totals["unknown_calls"]) == (2, 2, 0)
    assert table.totals["input_tokens"] == 2 * (fresh.usage.input_tokens or 0)
    assert table.totals["unknown_bound_usd"] == 0
    assert checked(bookkeeper) == []


@pytest.mark.parametrize(
    ("statement", "failed"),
    [
        ("UPDATE entries SET team = 'c' WHERE calls < 0", {"rows", "ledger", "roll-ups"}),
        ("UPDATE charges SET quantity = quantity + 1 WHERE quantity < 0", {"rows"}),
        ("UPDATE entries SET refers_to = NULL WHERE refers_to IS NOT NULL", {"rows"}),
    ],
)
def test_corrections_that_differ_in_the_ledger_are_found(books: Books, statement: str, failed: set[str]) -> None:
    import duckdb

    corrected(books)
    books.close()
    with duckdb.connect(str(books.file)) as connection:
        connection.execute(statement)
    assert {finding.check for finding in checked(books.open())} == failed


def test_a_segment_that_was_changed_is_found(books: Books) -> None:
    bookkeeper = corrected(books)
    file = parquet_file(own_directory(books), 1)
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    assert {finding.check for finding in checked(bookkeeper)} >= {"journal", "seals"}


def test_corrections_that_contradict_themselves_are_found(books: Books) -> None:
    bookkeeper = books.open()
    sound = make_entry("x", 2, kind="correction", refers_to="a.1")
    bookkeeper.record([msgspec.structs.replace(sound, refers_to=None), msgspec.structs.replace(sound, charges=())])
    (failed,) = checked(bookkeeper)
    assert failed.check == "entries"
    assert "refers to no entry" in failed.detail and "do not add up" in failed.detail


def test_a_million_rows_are_one_segment(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small: several row groups of the file, several steps of the doctor."""
    monkeypatch.setattr("costbearer.stores.segments.ROW_GROUP_ENTRIES", 500)
    monkeypatch.setattr("costbearer.doctor.ROWS_AT_ONCE", 700)
    bookkeeper = books.open()
    entries = imported(2000)
    assert bookkeeper.record(table_of(Posted(0, entry) for entry in entries)) == 2000
    assert [seal.entries for seal, _ in read_seals(own_directory(books))[0]] == [2000]
    assert checked(bookkeeper) == []
    assert bookkeeper.rebuild() == 2000
    with bookkeeper.ledger.reader() as reader:
        assert reader.grouped(())[0]["cost_usd"] == cost(entries)
