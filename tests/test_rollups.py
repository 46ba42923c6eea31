"""The hourly sums: equal to the entries whatever is posted, put together, and mended where they do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec
import pytest

from costbearer.stores import rollups
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted
from tests import randomledger
from tests.books import Books


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.duckdb", readers=1)
    yield opened
    opened.close()


def wrong(ledger: Ledger) -> tuple[int, int]:
    with ledger.reader() as reader:
        return reader.rollups_difference()


def size(ledger: Ledger) -> int:
    with ledger.reader() as reader:
        return int(reader.sql("SELECT count(*) AS n FROM rollups").to_pylist()[0]["n"])


def test_they_equal_the_entries_after_every_posting_and_are_put_together(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [entry for seed in (1, 1, 1) for entry in randomledger.ledger(seed, 40)]
    entries = [msgspec.structs.replace(entry, sequence=number) for number, entry in enumerate(drawn, 1)]
    batches = [entries[at : at + 10] for at in range(0, len(entries), 10)]
    for batch in batches:
        ledger.post([Posted(entry.sequence, entry) for entry in batch], [])
        assert wrong(ledger)[0] == 0
    apart = size(ledger)
    monkeypatch.setattr(rollups, "COMPACT_ROWS", 1)
    ledger.post([Posted(9999, msgspec.structs.replace(entries[0], sequence=9999))], [])
    assert size(ledger) < apart
    assert wrong(ledger)[0] == 0


@pytest.mark.parametrize(
    "statement", ["DELETE FROM rollups", "UPDATE rollups SET calls = calls + 1", "DELETE FROM charge_rollups"]
)
def test_what_does_not_hold_at_a_glance_is_made_anew_at_the_next_start(tmp_path: Path, statement: str) -> None:
    books = Books(tmp_path)
    books.open().record(randomledger.ledger(2, 30))
    books.close()
    with duckdb.connect(str(books.file)) as connection:
        connection.execute(statement)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    assert any("hourly sums" in notice for notice in bookkeeper.notices)
    assert wrong(bookkeeper.ledger)[0] == 0
    assert not books.set_aside(), "the entries were right"
    books.close()


def test_sums_in_a_wrong_row_are_found(ledger: Ledger) -> None:
    ledger.post([Posted(number, entry) for number, entry in enumerate(randomledger.ledger(3, 30), 1)], [])
    ledger._ready().execute("UPDATE rollups SET team = 'elsewhere' WHERE rowid = 0")
    found, groups = wrong(ledger)
    assert found == 1
    assert groups > 20


def test_a_rebuild_from_sealed_files_makes_the_same(tmp_path: Path) -> None:
    books = Books(tmp_path)
    books.open().record(randomledger.ledger(4, 60))
    books.close()
    books.file.unlink()
    bookkeeper = books.open()
    assert bookkeeper.catch_up() > 60
    assert wrong(bookkeeper.ledger)[0] == 0
    books.close()
