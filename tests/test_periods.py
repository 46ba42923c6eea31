"""Closed months: nothing in them changes, and what is learned of their calls later stands in the open month, once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer import money
from costbearer.amortise import amortise
from costbearer.bookkeeper import Bookkeeper
from costbearer.contract import Contract, Prices
from costbearer.corrections import never
from costbearer.errors import Conflict, FieldInvalid
from costbearer.journal import JournalWriter
from costbearer.ledger import AWAITING_RESULT, Settlement
from costbearer.prices import PriceBook
from costbearer.restate import Period, restate
from costbearer.stores import archive
from costbearer.stores.control import Actor, Control
from costbearer.stores.duckdb import Ledger
from costbearer.stores.periods import Periods
from costbearer.usage import Usage
from tests.factories import make_entry, make_unknown, record

ACTOR = Actor("ada", "test", "r1")
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CALLED = datetime(2026, 10, 30, 9, tzinfo=UTC)
EVER = Period(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
BOOK = PriceBook.loads(archive.bundled())
USED = Usage(input_tokens=1_000_000, output_tokens=0)
AT: dict[str, Any] = {"started_at": CALLED, "ended_at": CALLED}
UNKNOWN: dict[str, Any] = {
    "provider": "nobody",
    "response_model": "own-model",
    "reason_unknown": "provider_unpriced",
    "usage": USED,
    "status": "ok",
    **AT,
}


def prices(october: str, november: str = "9") -> Prices:
    """A model that costs so much per million tokens in October, and another amount from November on."""
    rows = (("2020-01-01", "2026-11-01", october), ("2026-11-01", "2100-01-01", november))
    terms = (
        f'[[terms]]\nprovider = "nobody"\nmodel = "own-model"\nsince = {since}\nuntil = {until}\n'
        f'prices_per_million = {{ input = "{price}", output = "1" }}\n'
        for since, until, price in rows
    )
    return Prices(BOOK, Contract.loads("".join(terms).encode()))


@pytest.fixture
def periods(tmp_path: Path) -> Iterator[Periods]:
    with Control.open(tmp_path / "control" / "control.sqlite") as control:
        yield Periods(control.database, lambda: NOW)


@contextmanager
def books(directory: Path, closed: Callable[[datetime], bool]) -> Iterator[tuple[JournalWriter, Ledger, Bookkeeper]]:
    writer = JournalWriter.open(directory / "journal")
    ledger = Ledger.open(directory / "ledger.duckdb")
    try:
        yield writer, ledger, Bookkeeper(directory / "journal", ledger, closed=closed)
    finally:
        ledger.close()
        writer.close()


def by_month(ledger: Ledger, column: str = "cost_usd") -> dict[str, Decimal]:
    with ledger.reader() as reader:
        rows = reader.execute(reader.entries.select("started_at", column)).to_pylist()
    found: dict[str, Decimal] = {}
    for row in rows:
        month = f"{row['started_at'].astimezone(UTC):%Y-%m}"
        found[month] = money.total((found.get(month, money.ZERO), row[column] or money.ZERO))
    return found


THIS = f"{datetime.now(UTC):%Y-%m}"


def october_is_closed(when: datetime) -> bool:
    return when < datetime(2026, 11, 1, tzinfo=UTC)


# -- the store


def test_a_month_is_closed_with_all_before_it(periods: Periods) -> None:
    assert not periods.is_closed(CALLED)
    assert periods.close("2026-09", ACTOR).closed_at == NOW
    assert not periods.is_closed(CALLED)
    periods.close("2026-10", ACTOR)
    assert [each.month for each in periods.closed()] == ["2026-09", "2026-10"]
    closed = periods.as_of_now()
    assert closed(datetime(2026, 10, 31, 23, 59, 59, 999999, tzinfo=UTC))
    assert not closed(datetime(2026, 11, 1, tzinfo=UTC))
    assert closed(datetime(2025, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("month", ["2026-13", "2026-1", "october", "", "2026-10-01", "2026-11", "2027-01", "1999-01"])
def test_what_is_no_month_that_is_over_is_refused(periods: Periods, month: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        periods.close(month, ACTOR)
    assert set(refused.value.fields) == {"month"}


@pytest.mark.parametrize("month", ["2026-09", "2026-10"])
def test_a_closed_month_stays_closed(periods: Periods, month: str) -> None:
    periods.close("2026-10", ACTOR)
    with pytest.raises(Conflict, match="the last closed month is 2026-10"):
        periods.close(month, ACTOR)


def test_the_database_itself_keeps_it_closed_and_who_did_it(tmp_path: Path) -> None:
    file = tmp_path / "control" / "control.sqlite"
    with Control.open(file) as control:
        Periods(control.database, lambda: NOW).close("2026-10", ACTOR)
        (row,) = control.audit_rows()
        assert (row.action, row.actor, row.after) == ("period.close", ACTOR, {"month": "2026-10"})
    connection = sqlite3.connect(file)
    for statement in ("DELETE FROM periods", "UPDATE periods SET month = '2026-09'"):
        with pytest.raises(sqlite3.IntegrityError, match="stays closed"):
            connection.execute(statement)
    connection.rollback()
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO periods VALUES ('soon', 'now')")
    connection.close()


# -- what is learned later


@pytest.mark.parametrize("closed", [never, october_is_closed])
def test_a_restatement_of_a_closed_month_is_posted_in_the_open_one(
    tmp_path: Path, closed: Callable[[datetime], bool]
) -> None:
    with books(tmp_path, closed) as (writer, ledger, bookkeeper):
        record(writer, make_unknown(writer.id, writer.next_sequence, **UNKNOWN))
        bookkeeper.catch_up()
        month = "2026-10" if closed is never else THIS
        other = {} if closed is never else {"2026-10": money.ZERO}
        # Unknown until now; then two prices, each rated at the time of the call and not at that of the posting.
        for october in ("2", "3", "1.5"):
            restate(ledger, bookkeeper, prices(october), EVER, apply=True, closed=closed)
            assert by_month(ledger) == {**other, month: Decimal(october)}
            again = restate(ledger, bookkeeper, prices(october), EVER, apply=True, closed=closed)
            assert (again["calls"], again["changes"]) == (1, 0)
        bookkeeper.rebuild()
        assert by_month(ledger) == {**other, month: Decimal("1.5")}
        october_only = Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
        assert restate(ledger, bookkeeper, prices("4"), october_only, apply=False, closed=closed)["changes"] == 1
        later = Period(datetime(2026, 11, 1, tzinfo=UTC), EVER.until)
        assert restate(ledger, bookkeeper, prices("4"), later, apply=False, closed=closed)["calls"] == 0


@pytest.mark.parametrize("closed", [never, october_is_closed])
def test_a_result_that_comes_after_the_close_is_posted_in_the_open_month(
    tmp_path: Path, closed: Callable[[datetime], bool]
) -> None:
    with books(tmp_path, closed) as (writer, ledger, bookkeeper):
        waiting = {"provider_response_id": "batch_1", "reason_unknown": AWAITING_RESULT, "status": "ok"}
        record(writer, make_unknown(writer.id, writer.next_sequence, **waiting, **AT))
        bookkeeper.catch_up()
        rated = make_entry("x", 1)
        told = {name: getattr(rated, name) for name in ("usage", "charges", "cost_usd", "list_cost_usd")}
        result = Settlement(
            provider="openai",
            provider_response_id="batch_1",
            status="ok",
            computed_cost_usd=rated.cost_usd,
            basis="metered",
            ended_at=CALLED + timedelta(hours=3),
            **told,
        )
        assert bookkeeper.settle([result])
        assert not bookkeeper.settle([result])
        expected = {"2026-10": rated.cost_usd} if closed is never else {"2026-10": money.ZERO, THIS: rated.cost_usd}
        assert by_month(ledger) == expected


@pytest.mark.parametrize("closed", [never, october_is_closed])
def test_fees_of_a_closed_month_are_posted_in_the_open_one_and_once(
    tmp_path: Path, closed: Callable[[datetime], bool]
) -> None:
    contract = Contract.loads(
        b'[[commitments]]\nname = "ptu"\nprovider = "azure"\nfee = "1"\nevery = "hour"\n'
        b'[[commitments]]\nname = "idle"\nprovider = "google"\nfee = "2"\nevery = "hour"\n'
    )
    free = dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd"), money.ZERO)
    told = {"provider": "azure", "tier": "provisioned", "charges": (), "usage": USED}
    day = CALLED.replace(hour=0)
    with books(tmp_path, closed) as (writer, ledger, bookkeeper):
        record(writer, make_entry(writer.id, writer.next_sequence, **told, **free, **AT))
        bookkeeper.catch_up()

        def spread() -> dict[str, Any]:
            span = {"since": day, "until": day + timedelta(days=1), "now": NOW}
            return amortise(ledger, bookkeeper, contract, **span, apply=True, closed=closed)

        assert spread()["applied"] == 2
        expected = {"2026-10": Decimal(72)} if closed is never else {"2026-10": money.ZERO, "2026-11": Decimal(72)}
        assert by_month(ledger, "effective_cost_usd") == expected
        assert (spread()["missing"], spread()["applied"]) == (0, 0)
        assert by_month(ledger, "effective_cost_usd") == expected
