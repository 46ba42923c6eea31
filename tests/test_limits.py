"""What is beyond its limit: taken nowhere, and where it stands in a journal already, in nobody's way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.console.api_doctor import report_totals
from costbearer.corrections import never
from costbearer.dialects import openai_usage
from costbearer.dialects.reply import Notes
from costbearer.doctor import examine
from costbearer.errors import StoreFailed
from costbearer.imports import post
from costbearer.journal import JournalWriter, journals
from costbearer.ledger import BEYOND_LIMITS, Charge, Entry, Settlement, bounded, faults
from costbearer.limits import TIME_MIN
from costbearer.stores.bounds import within_limits
from costbearer.stores.logsql import MACROS
from costbearer.stores.registered import registered
from costbearer.stores.rows import Posted, entries_from, table_of
from costbearer.stores.segments import totals_of
from costbearer.usage import Usage
from tests.books import Books, cost
from tests.factories import BORN, make_entry, make_unknown, record

JOURNAL = "20261122T193000-1a2b3c4d"
ABSURD = Decimal(6 * 10**25)
STATED = Charge("provider_difference", 1, ABSURD, ABSURD, ABSURD, "own-model", "provider")
COSTLY: dict[str, Any] = {
    "charges": (STATED,),
    **dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "provider_cost_usd"), ABSURD),
    "computed_cost_usd": None,
    "basis": "provider_cost",
}
"""What an entry was before there were limits, where its provider stated such a cost."""


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def unknown(bookkeeper: Bookkeeper) -> list[dict[str, Any]]:
    with bookkeeper.ledger.reader() as reader:
        rows = reader.sql("SELECT * FROM entries ORDER BY closed_sequence").to_pylist(maps_as_pydicts="strict")
    return [row for row in rows if row["reason_unknown"] == BEYOND_LIMITS]


def test_absurd_costs_in_a_journal_are_unknown_and_stop_nobody(books: Books) -> None:
    bookkeeper = books.open()
    writer = JournalWriter.open(books.journal_dir, segment_bytes=4096)
    sound = [record(writer)]
    for _ in range(3):
        record(writer, **COSTLY)
    writer.rotate_if_due()
    sound.append(record(writer))
    assert bookkeeper.catch_up() == 5
    for row in unknown(bookkeeper):
        assert (row["cost_usd"], row["basis"], row["calls"], row["team"]) == (None, "unknown", 1, row["key_team"])
        assert row["bound_usd"] == money.usd("0.05") and "beyond_limits:cost_usd" in row["notes"]
    assert len(unknown(bookkeeper)) == 3
    assert [flaw.kind for flaw in bookkeeper.damage] == [BEYOND_LIMITS] * 3
    writer.close()
    books.close()

    bookkeeper = books.open()
    assert bookkeeper.catch_up() == 0 and books.set_aside() == []
    assert bookkeeper.rebuild() == 5
    with bookkeeper.ledger.reader() as reader:
        assert reader.grouped(())[0]["cost_usd"] == cost(sound)
    found = {finding.check for finding in examine(bookkeeper, report_totals=report_totals) if not finding.ok}
    assert found == {"journal"}, "everything agrees, and what was left out is said"


@pytest.mark.parametrize(
    "values",
    [
        {"cost_usd": Decimal(10) ** 40, "computed_cost_usd": Decimal("1e-13")},
        {"duration_ms": 2**63, "charges": (msgspec.structs.replace(STATED, quantity=2**63),)},
        {"usage": Usage(input_tokens=2**63), "charges": ()},
    ],
)
def test_what_no_column_holds_is_posted_without(books: Books, values: dict[str, Any]) -> None:
    bookkeeper = books.open()
    writer = JournalWriter.open(books.journal_dir)
    sound = record(writer)
    absurd = msgspec.structs.replace(make_entry(writer.id, writer.next_sequence), **values)
    record(writer, entry=absurd)
    assert bookkeeper.catch_up() == 2
    (row,) = unknown(bookkeeper)
    assert (row["sequence"], row["cost_usd"]) == (absurd.sequence, None)
    with bookkeeper.ledger.reader() as reader:
        assert reader.grouped(())[0]["cost_usd"] == sound.cost_usd
    writer.close()


@pytest.mark.parametrize(
    "changes",
    [
        COSTLY,
        {"calls": 2**62},
        {"requests": 2**62},
        {"duration_ms": 2**62},
        {"first_byte_ms": 2**63 - 1},
        {"usage": Usage(input_tokens=10**13)},
        {"started_at": datetime(2026, 11, 1)},  # noqa: DTZ001
        {"started_at": BORN.replace(year=1), "ended_at": None},
        {"bound_usd": Decimal("1e12") + money.QUANTUM},
        {"cost_usd": Decimal("0.0000000000001")},
    ],
    ids=str,
)
def test_no_door_takes_an_absurd_entry(books: Books, changes: dict[str, Any]) -> None:
    absurd = msgspec.structs.replace(make_entry("x", 1, kind="import", call_id="absurd"), **changes)
    bookkeeper = books.open()
    bookkeeper.catch_up()
    done = post(bookkeeper.ledger, bookkeeper, [absurd, make_entry("x", 2, kind="import", call_id="sound")], never)
    assert (done.posted, done.refused) == (1, 1)
    sound = bounded(absurd)
    assert faults(sound) == [] and sound.call_id == "absurd"
    assert abs(sound.calls) == abs(sound.requests) == 1
    assert bounded(sound) is sound


def test_a_table_is_bounded_as_its_entries_are() -> None:
    result = Settlement(provider="openai", provider_response_id="r", status="ok", ended_at=BORN, cost_usd=ABSURD)
    entries = [
        make_entry(JOURNAL, 2),
        make_entry(JOURNAL, 4, **COSTLY),
        make_unknown(JOURNAL, 6, settlement=result),
        make_unknown(JOURNAL, 8, settlement=msgspec.structs.replace(result, cost_usd=None)),
        make_entry(JOURNAL, 10, calls=2**62, started_at=BORN.replace(year=1999), ended_at=None),
    ]
    table, beyond = within_limits(table_of(Posted(entry.sequence, entry) for entry in entries))
    assert entries_from(table) == [bounded(entry) for entry in entries]
    assert [(row.row, row.closed_sequence) for row in beyond] == [(1, 4), (2, 6), (4, 10)]
    assert beyond[2].fields == ("calls", "started_at")
    last = entries_from(table)[4]
    assert (last.calls, last.started_at, last.cost_usd) == (1, TIME_MIN, None)
    settlement = entries_from(table)[2].settlement
    assert settlement is not None and (settlement.cost_usd, settlement.reason_unknown) == (None, BEYOND_LIMITS)
    again, none = within_limits(table)
    assert again is table or again.equals(table)
    assert none == []


def test_the_books_own_journal_holds_nothing_absurd(books: Books) -> None:
    bookkeeper = books.open()
    with pytest.raises(StoreFailed, match="calls beyond"):
        bookkeeper.record([make_entry("x", 1, kind="import"), make_entry("x", 2, kind="import", calls=2**62)])
    assert [file for own in journals(books.journal_dir) for file in own.glob("*.parquet")] == []
    assert bookkeeper.record([make_entry("x", 1, kind="import")]) == 1


def test_sums_of_more_than_an_integer_of_128_bits_do_not_wrap() -> None:
    entries = [make_entry(JOURNAL, number, **COSTLY) for number in (2, 4, 6)]
    totals = totals_of(table_of(Posted(entry.sequence, entry) for entry in entries))
    assert totals.cost_usd == totals.charges_usd == 3 * ABSURD


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"cost": Decimal("6e25")}, None),
        ({"cost_in_usd_ticks": 10**22}, Decimal("1e12")),
        ({"cost_in_usd_ticks": 10**22 + 1}, None),
        ({"cost": 10**12, "is_byok": True, "cost_details": {"upstream_inference_cost": 10**12}}, None),
    ],
    ids=str,
)
def test_an_absurd_cost_of_a_provider_is_none(usage: dict[str, Any], expected: Decimal | None) -> None:
    notes = Notes()
    assert openai_usage.read_cost(usage, notes) == expected
    assert ("cost_unreadable" in notes.codes()) == (expected is None)


def test_an_absurd_cost_of_a_log_is_none() -> None:
    with duckdb.connect() as engine:
        for macro in MACROS:
            engine.execute(f"CREATE MACRO {macro}")
        said = ["60000000000000000000000000", "6e25", "-1000000000000.000000000001", "999999999999.9", "0.5"]
        found = engine.execute("SELECT as_usd(x) FROM (SELECT unnest(?) AS x)", [said]).fetchall()
    assert [row[0] for row in found] == [None, None, None, Decimal("999999999999.9"), Decimal("0.5")]


def test_the_error_under_way_is_the_one_that_is_said() -> None:
    with duckdb.connect() as engine:
        engine.execute("BEGIN TRANSACTION")
        with (
            pytest.raises(duckdb.ConversionException, match="out of range"),
            registered(engine, "incoming", pa.table({"a": [2**40]})),
        ):
            engine.execute("SELECT CAST(a AS INTEGER) FROM incoming").fetchall()
        engine.execute("ROLLBACK")
        with registered(engine, "incoming", pa.table({"a": [7]})):
            assert engine.execute("SELECT a FROM incoming").fetchall() == [(7,)]
        with pytest.raises(duckdb.CatalogException):
            engine.execute("SELECT a FROM incoming")


def test_sound_entries_stay_as_they_are() -> None:
    entry: Entry = make_entry(JOURNAL, 2, **dict.fromkeys(("first_byte_ms", "duration_ms"), 10**10), calls=10**9)
    assert list(faults(entry)) == [] and bounded(entry) is entry
