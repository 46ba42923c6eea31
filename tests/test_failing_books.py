"""What the bookkeeper makes of a disk or an engine that fails in one place, or for a moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from costbearer.bookkeeper import Bookkeeper
from costbearer.errors import JournalFailed, StoreFailed
from costbearer.journal import JournalWriter
from costbearer.stores import duckdb as store
from costbearer.stores import reading
from tests.books import Books, assert_equal, outcomes
from tests.factories import record


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def failing(patch: pytest.MonkeyPatch, bad: Path, number: int) -> None:
    """Let everything that opens a file fail at this one."""

    def wrapped(real: Any) -> Any:
        def opened(file: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(file, int) and Path(file) == bad:
                raise OSError(number, os.strerror(number), str(file))
            return real(file, *arguments, **options)

        return opened

    patch.setattr(Path, "open", wrapped(Path.open))
    patch.setattr(Path, "read_bytes", wrapped(Path.read_bytes))
    patch.setattr(os, "open", wrapped(os.open))


def entries_of(bookkeeper: Bookkeeper) -> dict[str, int]:
    return {name: totals.entries for name, totals in bookkeeper.ledger.totals_by_journal().items()}


@pytest.mark.parametrize("dead", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_file_that_cannot_be_read_stops_its_own_journal_only(
    books: Books, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    bad, good = JournalWriter.open(books.journal_dir), JournalWriter.open(books.journal_dir)
    record(bad)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    record(bad)
    if dead:
        bad.close()
    with monkeypatch.context() as patch:
        failing(patch, bad.directory / "00000001.cbj", errno.EIO)
        for count in (1, 2):
            record(good)
            assert bookkeeper.catch_up() == 1
            assert entries_of(bookkeeper) == {bad.id: 1, good.id: count}
        assert bookkeeper.progress().held == (bad.id,)
        assert [(flaw.journal, flaw.kind) for flaw in bookkeeper.damage] == [(bad.id, "held")]
        assert any("Input/output error" in notice and bad.id in notice for notice in bookkeeper.notices)
        books.close()

        bookkeeper = books.open()
        record(good)
        assert bookkeeper.catch_up() == 1 and books.set_aside() == []
        assert entries_of(bookkeeper) == {bad.id: 1, good.id: 3}
        assert bookkeeper.rebuild() == 3, "what cannot be read is missing in a new ledger, and said to be held"
        assert bookkeeper.progress().held == (bad.id,)
        books.close()
    before = len(books.set_aside())
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 2 and len(books.set_aside()) == before
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert bookkeeper.progress().held == ()
    for writer in (good, *(() if dead else (bad,))):
        writer.close()


def test_a_full_disk_is_the_fault_of_no_journal(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for _ in range(4):
        record(writer)
    writer.rotate_if_due()
    bookkeeper = books.open()
    with monkeypatch.context() as patch:
        patch.setattr(reading, "write_seal", full)
        with pytest.raises(JournalFailed, match="No space left"):
            bookkeeper.catch_up()
    assert bookkeeper.catch_up() == 0
    assert bookkeeper.progress().held == () and bookkeeper.progress().unsealed_segments == 1
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    writer.close()


class Failing:
    """A connection whose statements fail where they hold a text."""

    def __init__(self, real: Any, text: str, error: duckdb.Error) -> None:
        self._real, self._text, self._error = real, text, error

    def execute(self, statement: str, *arguments: Any) -> Any:
        if self._text in statement:
            raise self._error
        return self._real.execute(statement, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    "error",
    [
        duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB"),
        duckdb.IOException("IO Error: Could not write file: No space left on device"),
        duckdb.InterruptException("INTERRUPT Error: Interrupted!"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failure_of_the_moment_sets_no_ledger_aside(
    books: Books, monkeypatch: pytest.MonkeyPatch, error: duckdb.Error
) -> None:
    writer = JournalWriter.open(books.journal_dir)
    record(writer)
    books.open().catch_up()
    books.close()
    bookkeeper = books.open()
    real = bookkeeper.ledger._ready
    with monkeypatch.context() as patch:
        patch.setattr(bookkeeper.ledger, "_ready", lambda: Failing(real(), "bit_xor", error))
        with pytest.raises(StoreFailed):
            bookkeeper.catch_up()
    record(writer)
    assert bookkeeper.catch_up() == 1
    (notice,) = bookkeeper.notices
    assert books.set_aside() == [] and "cannot be used now" in notice
    writer.close()


def test_a_ledger_that_cannot_be_begun_leaves_nothing_behind(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter.open(books.journal_dir)
    record(writer)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    with monkeypatch.context() as patch:

        def full(connection: duckdb.DuckDBPyConnection) -> None:
            connection.execute("CREATE TABLE meta (name VARCHAR)")
            raise duckdb.IOException("IO Error: Could not write file: No space left on device")

        patch.setattr(store, "create", full)
        with pytest.raises(StoreFailed, match="No space left"):
            bookkeeper.rebuild("it is damaged")
        for _ in range(4):
            record(writer)
            with pytest.raises(StoreFailed, match="No space left"):
                bookkeeper.catch_up()
    files = books.set_aside()
    assert {file.name.removesuffix(".wal") for file in files} == {files[0].name}, "the one that was damaged"
    told = bookkeeper.notices
    assert ["it is damaged" in notice for notice in told].count(True) == 1, "each is said once"
    assert ["No space left" in notice for notice in told] == ["it is damaged" not in notice for notice in told]
    assert bookkeeper.catch_up() == 5 and bookkeeper.notices == told
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert books.set_aside() == files
    writer.close()
