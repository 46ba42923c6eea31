"""Restatement: what rating again changes, that it adds up, that it is found once, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.contract import Contract, Prices
from costbearer.journal import JournalWriter
from costbearer.ledger import Entry
from costbearer.prices import Context, PriceBook
from costbearer.rating import rate
from costbearer.reports import spend
from costbearer.reports.beside import NOTHING
from costbearer.reports.query import Query
from costbearer.restate import Period, restate
from costbearer.stores import archive
from costbearer.stores.duckdb import Ledger
from costbearer.usage import Usage, Work
from tests.factories import BORN, make_entry, make_unknown, record

BOOK = PriceBook.loads(archive.bundled())
EVER = Period(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
USED = Usage(input_tokens=1000, output_tokens=200, cache_read_input_tokens=400, reasoning_output_tokens=50)
TERMS = """
[[terms]]
provider = "nobody"
model = "own-model"
since = 2020-01-01
prices_per_million = {{ input = "{}", output = "5" }}
"""


def rated(sequence: int, model: str = "gpt-4.1-mini", usage: Usage = USED, **overrides: Any) -> dict[str, Any]:
    """What an entry says that is rated as the archive says."""
    work = (
        Work(
            model="gpt-4.1-mini" if model == "own-model" else model,
            usage=usage,
            largest_input_tokens=usage.input_tokens,
        ),
    )
    rating = rate("openai", work, Context(), BORN, BOOK)
    cost = rating.cost_usd
    return {
        "response_model": model,
        "usage": usage,
        "charges": rating.charges,
        "cost_usd": cost,
        "list_cost_usd": cost,
        "effective_cost_usd": cost,
        "computed_cost_usd": cost,
        **overrides,
    }


@contextmanager
def books(tmp_path: Path) -> Iterator[tuple[JournalWriter, Ledger, Bookkeeper]]:
    writer = JournalWriter.open(tmp_path / "journal")
    ledger = Ledger.open(tmp_path / "ledger.duckdb")
    try:
        yield writer, ledger, Bookkeeper(tmp_path / "journal", ledger)
    finally:
        ledger.close()
        writer.close()


def totals(ledger: Ledger) -> tuple[Decimal, int, int, int, int]:
    query = Query.parse([("by", "model"), ("since", "2000-01-01"), ("until", "2100-01-01")], now=datetime.now(UTC))
    with ledger.reader() as reader:
        document = msgspec.json.decode(spend.answer(reader, query, NOTHING).to_json())
    rows = document["rows"]
    return (
        Decimal(document["total_usd"]),
        document["calls"],
        document["unknown_calls"],
        sum(row["input_tokens"] for row in rows),
        sum(row["requests"] for row in rows),
    )


def prices(rate_per_million: str = "2") -> Prices:
    return Prices(BOOK, Contract.loads(TERMS.format(rate_per_million).encode()))


def put(writer: JournalWriter, made: Any, **overrides: Any) -> Entry:
    return record(writer, made(writer.id, writer.next_sequence, **overrides))


def test_what_was_rated_right_stays(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        for number in range(20):
            put(writer, make_entry, **rated(number))
        bookkeeper.catch_up()
        before = totals(ledger)
        found = restate(ledger, bookkeeper, Prices(BOOK), EVER, apply=True)
        assert (found["calls"], found["changes"], found["applied"], found["delta_usd"]) == (20, 0, 0, "0.000000000000")
        assert totals(ledger) == before


def test_an_unknown_call_gets_its_price_once_it_has_one(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        put(writer, make_entry, **rated(0))
        unknown = {"provider": "nobody", "response_model": "own-model", "reason_unknown": "provider_unpriced"}
        put(writer, make_unknown, **unknown, usage=USED, status="ok")
        put(writer, make_unknown, reason_unknown="writer_died")
        bookkeeper.catch_up()
        total, calls, unknown_calls, tokens, requests = totals(ledger)
        shown = restate(ledger, bookkeeper, Prices(BOOK), EVER, apply=False)
        assert (shown["changes"], shown["still_unknown"]) == (0, 1)
        found = restate(ledger, bookkeeper, prices(), EVER, apply=True)
        cost = Decimal(1000 * 2 + 200 * 5) / 10**6
        assert (found["rows"][0]["priced"], Decimal(found["delta_usd"]), found["applied"]) == (1, cost, 2)
        assert totals(ledger) == (total + cost, calls, unknown_calls - 1, tokens, requests)
        again = restate(ledger, bookkeeper, prices(), EVER, apply=True)
        assert (again["changes"], again["applied"]) == (0, 0)


def test_a_price_that_changes_twice_adds_up_to_the_last(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        unknown = {"provider": "nobody", "response_model": "own-model", "reason_unknown": "provider_unpriced"}
        for _ in range(3):
            put(writer, make_unknown, **unknown, usage=USED, status="ok")
        bookkeeper.catch_up()
        for rate_per_million in ("2", "3.5", "1"):
            restate(ledger, bookkeeper, prices(rate_per_million), EVER, apply=True)
            cost = 3 * (Decimal(rate_per_million) * 1000 + 200 * 5) / 10**6
            assert totals(ledger)[:3] == (cost, 3, 0)
        bookkeeper.rebuild()
        assert totals(ledger)[0] == 3 * Decimal(2000) / 10**6


def test_what_the_provider_stated_and_what_lost_its_price_stay(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        wrong = rated(0, provider_cost_usd=money.usd("0.5"), basis="provider_cost")
        charge = msgspec.structs.replace(
            wrong["charges"][0],
            meter="provider_difference",
            quantity=1,
            unit_price_usd=money.usd("0.5"),
            list_cost_usd=money.usd("0.5"),
            cost_usd=money.usd("0.5"),
        )
        put(writer, make_entry, **{**wrong, "charges": (charge,), "cost_usd": money.usd("0.5")})
        put(writer, make_entry, **rated(1, provider="nobody"))
        bookkeeper.catch_up()
        before = totals(ledger)
        found = restate(ledger, bookkeeper, Prices(BOOK), EVER, apply=True)
        assert (found["calls"], found["changes"]) == (1, 0)
        assert found["lost"] == [{"model": "gpt-4.1-mini", "reason": "provider_unpriced", "calls": 1}]
        assert totals(ledger) == before


def test_a_share_of_a_fee_stays_where_it_is(tmp_path: Path) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        old = rated(0, provider="nobody", model="own-model")
        put(writer, make_entry, **old | {"effective_cost_usd": money.total((old["cost_usd"], money.usd("7")))})
        bookkeeper.catch_up()
        restate(ledger, bookkeeper, prices(), EVER, apply=True)
        with ledger.reader() as reader:
            rows = reader.execute(reader.entries.select("cost_usd", "effective_cost_usd")).to_pylist()
        cost = Decimal(1000 * 2 + 200 * 5) / 10**6
        assert money.total(row["cost_usd"] for row in rows) == cost
        assert money.total(row["effective_cost_usd"] for row in rows) == cost + 7


def test_what_cost_nothing_is_rated_again_where_it_was_charged(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd"), money.ZERO
    )
    right = rated(0)
    given_away = [
        msgspec.structs.replace(charge, unit_price_usd=money.ZERO, list_cost_usd=money.ZERO, cost_usd=money.ZERO)
        for charge in right["charges"]
    ]
    with books(tmp_path) as (writer, ledger, bookkeeper):
        put(writer, make_entry, **rated(0, charges=tuple(given_away), **nothing))
        put(writer, make_entry, **rated(1, usage=Usage(), operation="responses.retrieve", charges=(), **nothing))
        bookkeeper.catch_up()
        found = restate(ledger, bookkeeper, Prices(BOOK), EVER, apply=True)
        assert (found["calls"], found["changes"], Decimal(found["delta_usd"])) == (1, 1, right["cost_usd"])
        assert totals(ledger)[:3] == (right["cost_usd"], 2, 0)


def test_a_call_of_several_models_is_rated_part_by_part(tmp_path: Path) -> None:
    parts = (
        Work(model="gpt-4.1-mini", usage=Usage(input_tokens=100, output_tokens=10), largest_input_tokens=100),
        Work(model="gpt-4.1", usage=Usage(input_tokens=50, output_tokens=5), largest_input_tokens=None),
    )
    rating = rate("openai", parts, Context(), BORN, BOOK)
    with books(tmp_path) as (writer, ledger, bookkeeper):
        put(
            writer,
            make_unknown,
            response_model="gpt-4.1-mini",
            reason_unknown="model_unpriced",
            usage=Usage(input_tokens=150, output_tokens=15),
            work=parts,
            status="ok",
        )
        bookkeeper.catch_up()
        found = restate(ledger, bookkeeper, Prices(BOOK), EVER, apply=True)
        assert Decimal(found["delta_usd"]) == rating.cost_usd
        with ledger.reader() as reader:
            charges = reader.execute(reader.charges).to_pylist()
        assert {(charge["model"], charge["meter"]) for charge in charges} == {
            (charge.model, charge.meter) for charge in rating.charges
        }


def test_a_period_that_is_looked_at_in_pieces_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistaken: dict[str, Any] = {"charges": make_entry("x", 3, usage=USED).charges[:1]}
    cost = money.total(charge.cost_usd for charge in mistaken["charges"])
    mistaken |= {"cost_usd": cost, "effective_cost_usd": cost, "computed_cost_usd": cost}
    unknown = {"provider": "nobody", "response_model": "own-model", "reason_unknown": "provider_unpriced"}
    with books(tmp_path) as (writer, ledger, bookkeeper):
        for number in range(12):
            at = {"started_at": BORN + timedelta(minutes=50 * (number * 7 % 12))}
            put(writer, make_entry, **(rated(number) | (mistaken if number % 3 else {}) | at))
            put(writer, make_unknown, **unknown, **at, usage=USED, status="ok")
            put(writer, make_entry, **rated(number), **{**at, "provider": "nobody"})
        bookkeeper.catch_up()
        whole = restate(ledger, bookkeeper, prices(), EVER, apply=False)
        assert (whole["calls"], whole["changes"], len(whole["lost"])) == (36, 20, 1)
        monkeypatch.setattr("costbearer.restate.SPAN_CALLS", 13)
        assert restate(ledger, bookkeeper, prices(), EVER, apply=False) == whole
        before = totals(ledger)
        done = restate(ledger, bookkeeper, prices(), EVER, apply=True)
        assert done | {"applied": None} == whole and done["applied"] == 8 + 2 * 12
        assert totals(ledger)[0] == before[0] + Decimal(whole["delta_usd"])
        again = restate(ledger, bookkeeper, prices(), EVER, apply=False)
        assert (again["calls"], again["changes"]) == (36, 0)


@pytest.mark.parametrize("days", [0, 1])
def test_only_the_period_is_looked_at(tmp_path: Path, days: int) -> None:
    with books(tmp_path) as (writer, ledger, bookkeeper):
        put(writer, make_entry, **rated(0))
        bookkeeper.catch_up()
        period = Period(BORN - timedelta(days=1), BORN + timedelta(days=days))
        assert restate(ledger, bookkeeper, Prices(BOOK), period, apply=False)["calls"] == days
