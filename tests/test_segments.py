from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.journal import JournalWriter, raw_bytes, segment_file
from costbearer.journal_files import seal_file
from costbearer.ledger import Claim, Entry, Field
from costbearer.stores.ledger_schema import CHARGES_ARROW, ENTRIES_ARROW, SEALED_ARROW
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import (
    TEMPORARY,
    Totals,
    charges_of,
    compressed_file,
    entries_of,
    holds,
    load_parquet,
    parquet_file,
    read_seals,
    totals_of,
)
from costbearer.usage import Usage
from tests.books import Books, assert_equal, outcomes
from tests.factories import make_entry, make_unknown, record

JOURNAL = "20261122T193000-1a2b3c4d"


def test_columns_hold_what_the_entries_hold() -> None:
    entry = make_entry(
        JOURNAL,
        7,
        user="u",
        notes=("retried", "cut"),
        tags={"a": "1", "b": "ü"},
        attribution={"team": Field("search", "verified", "key", (Claim("ads", "header"),))},
        usage=Usage(input_tokens=9, output_tokens=0),
        cache_hit=True,
    )
    table = table_of([Posted(8, entry), Posted(10, make_unknown(JOURNAL, 9))])
    assert table.schema.equals(SEALED_ARROW)
    row, other = table.to_pylist(maps_as_pydicts="strict")
    assert (row["journal"], row["sequence"], row["closed_sequence"]) == (JOURNAL, 7, 8)
    assert (row["user"], row["notes"], row["tags"], row["cache_hit"]) == ("u", ["retried", "cut"], entry.tags, True)
    assert json.loads(row["attribution"])["team"]["conflict"] == [{"value": "ads", "source": "header"}]
    assert (row["input_tokens"], row["output_tokens"], row["web_search_requests"]) == (9, 0, None)
    assert row["cost_usd"] == entry.cost_usd and other["cost_usd"] is None
    assert row["started_at"] == entry.started_at
    assert [charge["cost_usd"] for charge in row["charges"]] == [charge.cost_usd for charge in entry.charges]
    assert other["charges"] == []


def test_charges_are_flattened_under_their_entries() -> None:
    entries = [make_unknown(JOURNAL, 1), make_entry(JOURNAL, 3), make_unknown(JOURNAL, 5), make_entry(JOURNAL, 8)]
    table = table_of([Posted(entry.sequence + 1, entry) for entry in entries])
    charges = charges_of(table)
    assert charges.schema.equals(CHARGES_ARROW)
    assert charges.column("sequence").to_pylist() == [entry.sequence for entry in entries for _ in entry.charges]
    assert charges.column("cost_usd").to_pylist() == [each.cost_usd for entry in entries for each in entry.charges]
    assert entries_of(table).schema.equals(ENTRIES_ARROW)
    assert charges_of(table.slice(2)).column("sequence").to_pylist() == [8] * len(entries[3].charges)


def test_chunks_add_up() -> None:
    parts = [table_of([Posted(number + 1, make_entry(JOURNAL, number))]) for number in (1, 3, 5)]
    whole = pa.concat_tables(parts)
    added = Totals()
    for part in parts:
        added = added.plus(totals_of(part))
    assert totals_of(whole) == added
    assert charges_of(whole).num_rows == added.charges
    assert totals_of(table_of([])) == Totals()


def sealed(books: Books, calls: int = 4, segments: int = 2) -> Path:
    """A journal of so many sealed segments; gives its directory."""
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for number in range(segments):
        for _ in range(calls):
            record(writer)
        if number + 1 < segments:
            writer.rotate_if_due()
    writer.close()
    books.open().catch_up()
    books.close()
    return writer.directory


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


def test_a_seal_says_what_its_segment_holds(books: Books) -> None:
    directory = sealed(books)
    seals, flaws = read_seals(directory)
    assert flaws == []
    (first, first_digest), (second, _) = seals
    assert (first.journal, first.segment, second.segment) == (directory.name, 1, 2)
    assert (first.first_sequence, first.last_sequence, first.frames, first.entries) == (1, 9, 9, 4)
    assert (second.first_sequence, second.last_sequence) == (10, 18)
    assert first.previous_seal_sha256 is None
    assert (
        second.previous_seal_sha256 == first_digest == hashlib.sha256(seal_file(directory, 1).read_bytes()).hexdigest()
    )
    (posted,) = outcomes(books.journal_dir).values()
    assert first.totals == totals_of(table_of(posted[:4]))
    assert json.loads(seal_file(directory, 1).read_bytes())["cost_usd"] == money.text(first.totals.cost_usd)
    raw = raw_bytes(directory, 1)
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (first.raw_bytes, first.raw_sha256)
    assert holds(directory, first) and not segment_file(directory, 1).exists()
    rows = load_parquet(directory, first)
    assert rows is not None and rows.equals(table_of(posted[:4]))
    assert list(directory.glob("*" + TEMPORARY)) == []


def opened(books: Books) -> Bookkeeper:
    bookkeeper = books.open()
    bookkeeper.catch_up()
    return bookkeeper


def spoil(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("fault", [spoil, Path.unlink], ids=["flipped", "deleted"])
def test_a_lost_parquet_file_is_made_up_for_by_the_raw_frames(books: Books, fault: Callable[[Path], None]) -> None:
    directory = sealed(books)
    fault(parquet_file(directory, 1))
    seal = read_seals(directory)[0][0][0]
    assert not holds(directory, seal) and load_parquet(directory, seal) is None
    bookkeeper = opened(books)
    assert bookkeeper.rebuild() == 8
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    books.close()


@pytest.mark.parametrize("fault", [spoil, Path.unlink], ids=["flipped", "deleted"])
def test_lost_raw_frames_are_made_up_for_by_the_parquet_file(books: Books, fault: Callable[[Path], None]) -> None:
    directory = sealed(books)
    expected = outcomes(books.journal_dir)
    fault(compressed_file(directory, 1))
    bookkeeper = opened(books)
    assert bookkeeper.rebuild() == 8
    assert_equal(bookkeeper.ledger, expected)
    books.close()


def test_a_segment_of_which_nothing_is_left_is_said_and_the_rest_is_there(books: Books) -> None:
    directory = sealed(books, segments=3)
    (posted,) = outcomes(books.journal_dir).values()
    kept = compressed_file(directory, 2).read_bytes()
    for file in (parquet_file(directory, 2), compressed_file(directory, 2)):
        file.write_bytes(b"rotten")
    bookkeeper = opened(books)
    assert bookkeeper.rebuild() == 8
    assert_equal(bookkeeper.ledger, {directory.name: [*posted[:4], *posted[8:]]})
    assert any("segment 2 cannot be read" in notice for notice in bookkeeper.notices)
    assert [flaw.kind for flaw in bookkeeper.damage] == ["unreadable"]
    books.close()
    before = len(books.set_aside())

    bookkeeper = opened(books)
    assert len(books.set_aside()) == before, "what is known to be lost is no reason to build it again"
    assert [flaw.kind for flaw in bookkeeper.damage] == ["unreadable"]
    books.close()

    compressed_file(directory, 2).write_bytes(kept)
    bookkeeper = opened(books)
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert bookkeeper.damage == ()
    books.close()


def test_the_last_seal_that_cannot_be_read_is_made_again(books: Books) -> None:
    directory = sealed(books)
    before = seal_file(directory, 2).read_bytes()
    seal_file(directory, 2).write_bytes(b"{")
    bookkeeper = opened(books)
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert seal_file(directory, 2).read_bytes() == before
    assert (directory / "00000002.seal.json.damaged").read_bytes() == b"{"
    assert [flaw.kind for flaw in bookkeeper.damage] == ["seal"]
    books.close()


def test_a_seal_in_the_middle_that_cannot_be_read_is_reported(books: Books) -> None:
    directory = sealed(books, segments=3)
    seal_file(directory, 2).write_bytes(b"{}")
    bookkeeper = opened(books)
    assert books.set_aside() == []
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert {flaw.kind for flaw in bookkeeper.damage} == {"seal"}
    assert bookkeeper.rebuild() == 12
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    books.close()


def test_a_seal_that_was_changed_breaks_the_chain(books: Books) -> None:
    directory = sealed(books)
    document = json.loads(seal_file(directory, 1).read_bytes())
    document["cost_usd"] = "0.000000000001"
    seal_file(directory, 1).write_text(json.dumps(document))
    seals, flaws = read_seals(directory)
    assert [seal.segment for seal, _ in seals] == [2]
    assert [flaw.kind for flaw in flaws] == ["seal"] and "has changed" in flaws[0].detail
    del document["seal_sha256"]
    seal_file(directory, 1).write_text(json.dumps(document))
    _, flaws = read_seals(directory)
    assert [flaw.kind for flaw in flaws] == ["seal"] and "does not follow" in flaws[0].detail


def put_raw_back(directory: Path) -> None:
    segment_file(directory, 2).write_bytes(raw_bytes(directory, 2))


def only_parquet(directory: Path) -> None:
    put_raw_back(directory)
    seal_file(directory, 2).unlink()
    compressed_file(directory, 2).unlink()


def no_seal(directory: Path) -> None:
    put_raw_back(directory)
    seal_file(directory, 2).unlink()


def broken_parquet(directory: Path) -> None:
    put_raw_back(directory)
    spoil(parquet_file(directory, 2))


def broken_frames(directory: Path) -> None:
    put_raw_back(directory)
    spoil(compressed_file(directory, 2))


def leftovers(directory: Path) -> None:
    put_raw_back(directory)
    for file in (parquet_file(directory, 2), compressed_file(directory, 2), seal_file(directory, 2)):
        file.rename(file.with_name(file.name + TEMPORARY))


@pytest.mark.parametrize("state", [put_raw_back, only_parquet, no_seal, broken_parquet, broken_frames, leftovers])
def test_an_interrupted_sealing_is_finished(books: Books, state: Callable[[Path], None]) -> None:
    directory = sealed(books)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    state(directory)
    bookkeeper = opened(books)
    assert bookkeeper.damage == () and books.set_aside() == []
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before, (
        "sealing is a function of the frames"
    )
    books.close()


def test_an_older_ledger_is_posted_on_from_the_middle_of_a_sealed_segment(books: Books) -> None:
    """What DuckDB leaves where it drops its last commits in silence: an earlier state, sound in itself."""
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    for _ in range(3):
        record(writer)
    books.open().catch_up()
    books.close()
    older = books.file.read_bytes()
    for _ in range(3):
        record(writer)
    writer.rotate_if_due()
    writer.close()
    opened(books)
    books.close()
    books.file.write_bytes(older)
    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 3
    assert books.set_aside() == [] and bookkeeper.notices == []
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    books.close()


def test_a_parquet_file_of_another_schema_is_not_used(books: Books) -> None:
    directory = sealed(books)
    seal = read_seals(directory)[0][0][0]
    table = load_parquet(directory, seal)
    assert table is not None
    other = table.drop_columns(["region"])
    pq.write_table(other, parquet_file(directory, 1))
    changed = Path(parquet_file(directory, 1)).read_bytes()
    document = json.loads(seal_file(directory, 1).read_bytes()) | {
        "parquet_sha256": hashlib.sha256(changed).hexdigest(),
        "seal_sha256": "",
    }
    seal_file(directory, 1).write_text(json.dumps(document))
    assert load_parquet(directory, read_seals(directory)[0][0][0]) is None
    bookkeeper = opened(books)
    assert bookkeeper.rebuild() == 8
    assert_equal(bookkeeper.ledger, outcomes(books.journal_dir))
    books.close()


def test_entries_survive_arrow_and_parquet(tmp_path: Path) -> None:
    entries: list[Entry] = [make_entry(JOURNAL, number) for number in range(1, 50)]
    table = table_of([Posted(entry.sequence + 1, entry) for entry in entries])
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    back = pq.read_table(tmp_path / "a.parquet")
    assert back.schema.equals(SEALED_ARROW) and back.equals(table)
