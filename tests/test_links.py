"""Links between hashes are a projection of the journals: rebuilt with the ledger, absent where the record is older."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from costbearer.bookkeeper import Bookkeeper
from costbearer.doctor import examine
from costbearer.journal import JournalWriter, journals
from costbearer.journal_files import seal_file
from costbearer.ledger import Entry
from costbearer.reports import answer, question
from costbearer.reports.table import Table
from costbearer.stores.ledger_schema import CHARGES, ENTRIES
from costbearer.stores.segments import parquet_file, read_seals
from tests.books import Books, cost, outcomes
from tests.factories import BORN, make_entry, record

LATER = ("tenant_before", "user_before")
OLD = hashlib.sha256(repr((tuple(each for each in ENTRIES if each.name not in LATER), CHARGES)).encode()).hexdigest()[
    :16
]
"""The fingerprint of the columns before hash keys could be rotated."""
STATES: tuple[dict[str, Any], ...] = (
    {"tenant": "h1_acme", "user": "h1_jane"},
    {"tenant": "h2_acme", "user": "h2_jane", "tenant_before": "h1_acme", "user_before": "h1_jane"},
    {"tenant": "h2_acme", "user": "h2_jane"},
    {"tenant": "h3_acme", "user": "h3_jane", "tenant_before": "h2_acme", "user_before": "h2_jane"},
    {"tenant": "h3_acme", "user": "h3_jane"},
)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


def wrote(books: Books, *states: dict[str, Any], calls: int = 3) -> list[Entry]:
    """A journal of an ended worker: so many calls of each state, each state in a segment of its own."""
    writer, made = JournalWriter.open(books.journal_dir, segment_bytes=4096), []
    for state in states:
        made += [record(writer, **state) for _ in range(calls)]
        writer.rotate_if_due()
    writer.close()
    return made


def asked(bookkeeper: Bookkeeper, *pairs: tuple[str, str]) -> Table:
    period = [("since", f"{BORN:%Y-%m-01}"), ("until", f"{BORN.year + 1}-01-01")]
    with bookkeeper.ledger.reader() as reader:
        return answer(question("spend", [*period, *pairs], now=BORN), reader)


def rows_of(bookkeeper: Bookkeeper) -> pa.Table:
    with bookkeeper.ledger.reader() as reader:
        return reader.execute(reader.entries.order_by(["journal", "sequence"]))


def links_of(bookkeeper: Bookkeeper) -> list[tuple[str, str, str]]:
    with bookkeeper.ledger.reader() as reader:
        rows = reader.sql("SELECT field, before, now FROM links ORDER BY ALL").to_pylist()
    return [(row["field"], row["before"], row["now"]) for row in rows]


def test_a_rebuilt_ledger_has_the_same_links_and_reports(books: Books) -> None:
    """From sealed segments, from frames where a sealed file is gone, and from the books' own journal."""
    entries = wrote(books, *STATES)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    # What the books write themselves is linked too; a rotation that only an import saw.
    imported = make_entry("", 0, kind="import", tenant="h4_acme", tenant_before="h3_acme")
    bookkeeper.record([imported])
    questions = ([("by", "tenant")], [("by", "user")], [("by", "team"), ("where", "tenant=h1_acme")])
    kept, tables = links_of(bookkeeper), [asked(bookkeeper, *pairs).rows for pairs in questions]
    assert {now for field, _, now in kept if field == "tenant"} == {"h4_acme"} and len(kept) == 5
    assert [row[0] for row in tables[0]] == ["h4_acme"]
    total = cost([*entries, imported])
    assert [asked(bookkeeper, *pairs).totals["total_usd"] for pairs in questions] == [total] * 3
    (directory,) = (each for each in journals(books.journal_dir) if outcomes(books.journal_dir)[each.name])
    for gone in (None, parquet_file(directory, 2)):
        if gone is not None:
            gone.unlink()
        assert bookkeeper.rebuild() == len(entries) + 1
        assert links_of(bookkeeper) == kept
        assert [asked(bookkeeper, *pairs).rows for pairs in questions] == tables
    assert not [notice for notice in bookkeeper.notices if "did not hold" in notice], "they are made, not mended"
    books.close()


def test_the_doctor_finds_links_that_the_entries_do_not_state(books: Books) -> None:
    wrote(books, *STATES)
    bookkeeper = books.open()
    sound = {finding.check: finding for finding in examine(bookkeeper)}["roll-ups"]
    assert sound.ok and sound.detail.endswith("4 links between hashes are what they state")
    for spoil in (
        "DELETE FROM links WHERE before = 'h1_acme'",
        "UPDATE links SET now = 'h2_acme' WHERE before = 'h1_acme'",
        "INSERT INTO links VALUES ('tenant', 'h1_other', 'h3_acme')",
    ):
        connection = bookkeeper.ledger._ready()
        kept = connection.execute("SELECT * FROM links ORDER BY ALL").fetchall()
        connection.execute(spoil)
        (wrong,) = (finding for finding in examine(bookkeeper) if not finding.ok)
        assert (wrong.check, wrong.detail) == ("roll-ups", "1 links between hashes are not what the entries state")
        assert bookkeeper.ledger.mend_projections()
        assert connection.execute("SELECT * FROM links ORDER BY ALL").fetchall() == kept
    books.close()


def test_what_was_written_before_keys_rotated_is_read_as_ever(books: Books) -> None:
    """Frames, sealed segments of workers and of the books, and a ledger file, all without the columns of today."""
    entries = wrote(books, STATES[0], STATES[0])
    bookkeeper = books.open()
    bookkeeper.catch_up()
    entries += [make_entry("", 0, kind="import", tenant="h1_acme"), make_entry("", 0, kind="import")]
    bookkeeper.record(entries[-2:])
    before, rows = asked(bookkeeper, ("by", "tenant")), rows_of(bookkeeper)
    books.close()
    as_of_old(books)
    bookkeeper = books.open()
    assert "another schema" in bookkeeper.notices[0] and len(books.set_aside()) == 1
    assert bookkeeper.catch_up() == len(entries)
    assert [finding for finding in examine(bookkeeper) if not finding.ok] == []
    assert rows_of(bookkeeper).equals(rows)
    assert (asked(bookkeeper, ("by", "tenant")).rows, links_of(bookkeeper)) == (before.rows, [])
    # And it is linked from then on.
    entries += wrote(books, STATES[1])
    bookkeeper.catch_up()
    found = asked(bookkeeper, ("by", "tenant"))
    assert [row[:2] for row in found.rows] == [("h2_acme", len(entries) - 1), ("(none)", 1)]
    assert found.totals["total_usd"] == cost(entries)
    books.close()


def as_of_old(books: Books) -> None:
    """Everything as a version wrote it that had no place for a second hash."""
    for directory in journals(books.journal_dir):
        previous = None
        for seal, _ in read_seals(directory)[0]:
            file = parquet_file(directory, seal.segment)
            table = pq.read_table(file)
            pq.write_table(table.drop_columns(list(LATER)), file, compression="zstd")
            changed = msgspec.structs.replace(
                seal,
                schema=OLD,
                parquet_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
                previous_seal_sha256=previous,
                seal_sha256="",
            )
            document = msgspec.json.encode(changed)
            seal_file(directory, seal.segment).write_bytes(document)
            previous = hashlib.sha256(document).hexdigest()
    with duckdb.connect(str(books.file)) as connection:
        for name in LATER:
            connection.execute(f"ALTER TABLE entries DROP COLUMN {name}")
        connection.execute("DROP TABLE links")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'fingerprint'", [f"{OLD}.3"])


def test_the_columns_of_old_are_those_of_the_last_version_without_hash_keys() -> None:
    assert OLD == "0c7c38d951ad2bde"
