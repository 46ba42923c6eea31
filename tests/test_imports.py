"""Foreign usage in the ledger: once however often it is imported; rated, labelled, hashed; never in a closed month."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from costbearer.attribution import Hashers
from costbearer.audit import ownership
from costbearer.bookkeeper import Bookkeeper
from costbearer.corrections import never
from costbearer.imports import Imported, batches, post
from costbearer.ledger import Entry, Settlement, faults
from costbearer.reports import answer, question, spend
from costbearer.reports.beside import NOTHING
from costbearer.reports.query import Query
from costbearer.stores.duckdb import Ledger
from costbearer.usage import Usage
from tests.auditing import evidence
from tests.factories import make_entry, make_unknown
from tests.usagelogs import WRITERS, Call, clean

NOW = datetime(2026, 10, 3, tzinfo=UTC)
CALLS = clean(60)
COST = sum((call.cost_usd for call in CALLS if call.status == "ok"), Decimal(0))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.duckdb", readers=1)
    yield opened
    opened.close()


@pytest.fixture
def books(tmp_path: Path, ledger: Ledger) -> Bookkeeper:
    (tmp_path / "journal").mkdir()
    keeper = Bookkeeper(tmp_path / "journal", ledger)
    keeper.catch_up()
    return keeper


def hashed(field: str, value: str) -> str:
    return f"h1_{field}-{len(value)}"


def made(file: Path, **options: Any) -> list[Entry]:
    with evidence(file, **options) as (known, intake):
        return [entry for batch in batches(known, intake, Hashers(hashed)) for entry in batch]


def written(calls: list[Call], tmp_path: Path, name: str = "litellm") -> Path:
    file = tmp_path / f"{name}.log"
    file.write_text(WRITERS[name](calls))
    return file


def total(ledger: Ledger) -> tuple[int, Decimal]:
    with ledger.reader() as reader:
        row = reader.execute(
            reader.entries.aggregate(n=reader.entries["calls"].sum(), usd=reader.entries.cost_usd.sum())
        )
        values = row.to_pylist()[0]
    return int(values["n"] or 0), values["usd"]


def test_every_entry_is_sound_and_costs_what_the_provider_bills(tmp_path: Path) -> None:
    for name in WRITERS:
        entries = made(written(CALLS, tmp_path, name))
        assert len(entries) == len(CALLS)
        assert [fault for entry in entries for fault in faults(entry)] == []
        assert sum((entry.cost_usd or Decimal(0) for entry in entries), Decimal(0)) == COST, name
        assert {entry.kind for entry in entries} == {"import"}


def test_importing_again_adds_nothing(tmp_path: Path, ledger: Ledger, books: Bookkeeper) -> None:
    first = made(written(CALLS, tmp_path))
    assert post(ledger, books, first, never) == Imported(posted=len(CALLS))
    assert total(ledger) == (len(CALLS), COST)
    # The same log again, out of another file, in another order, with more in it.
    more = [*reversed(CALLS), *(replace(call, number=call.number + 900_000) for call in clean(5, seed=3))]
    again = post(ledger, books, made(written(more, tmp_path)), never)
    assert again == Imported(posted=len(more) - len(CALLS), known=len(CALLS))
    assert post(ledger, books, made(written(more, tmp_path)), never) == Imported(known=len(more))
    books.rebuild()
    assert total(ledger)[0] == len(more)


def test_one_answer_that_is_logged_twice_is_imported_once(tmp_path: Path, ledger: Ledger, books: Bookkeeper) -> None:
    twice = replace(CALLS[0], number=77_000, response=CALLS[0].response_id)
    assert post(ledger, books, made(written([CALLS[0], twice], tmp_path)), never) == Imported(posted=1, known=1)


ODD: dict[str, dict[str, Any]] = {
    "no zone": {"started_at": datetime(2026, 10, 3)},  # noqa: DTZ001  that is what is odd
    "year 1": {"started_at": datetime(1, 1, 1, tzinfo=UTC)},
    "13 places": {"list_cost_usd": Decimal("0.0000000000001")},
    "no number": {"bound_usd": Decimal("NaN")},
    "too long": {"duration_ms": 2**63},
    "negative": {"usage": Usage(input_tokens=-5), "charges": (), "basis": "unknown", "reason_unknown": "x"},
    "a difference": {"calls": 0, "requests": 0, "refers_to": "another.1"},
    "a settlement": {
        "settlement": Settlement(
            provider="openai", provider_response_id="r", status="ok", ended_at=NOW, reason_unknown="usage_missing"
        )
    },
    "no attempt": {"attempt": 0},
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_call_that_was_made_is_refused_alone(ledger: Ledger, books: Bookkeeper, name: str) -> None:
    fine, odd = (make_entry("x", number, kind="import", call_id=f"imp_{number}") for number in (1, 2))
    if name == "negative":
        odd = make_unknown("x", 2, kind="import", call_id="imp_2")
    batch = [fine, msgspec.structs.replace(odd, **ODD[name])]
    assert post(ledger, books, batch, never) == Imported(posted=1, refused=1)
    assert total(ledger)[0] == 1


def numbered(tmp_path: Path, team: str, day: int) -> Path:
    """A table that somebody made at home, its rows numbered from 1."""
    lines = [f"{row},2026-10-{day:02}T10:00:{row:02}Z,gpt-4o,{1000 + row},100,{team}" for row in range(1, 6)]
    file = tmp_path / f"{team}.csv"
    file.write_text("\n".join(["id,timestamp,model,prompt_tokens,completion_tokens,team", *lines]) + "\n")
    return file


def test_rows_of_two_tables_with_the_same_numbers_are_different_calls(
    tmp_path: Path, ledger: Ledger, books: Bookkeeper
) -> None:
    for team, day in (("search", 3), ("support", 4)):
        entries = made(numbered(tmp_path, team, day))
        assert post(ledger, books, entries, never) == Imported(posted=5), team
        assert post(ledger, books, entries, never) == Imported(known=5), team
    assert total(ledger)[0] == 10


def test_what_the_gateway_recorded_is_left_out(tmp_path: Path, ledger: Ledger, books: Bookkeeper) -> None:
    own = make_entry("", 0, provider_response_id=CALLS[0].response_id)
    books.record([own])
    assert post(ledger, books, made(written(CALLS[:3], tmp_path)), never) == Imported(posted=2, known=1)


def test_a_closed_month_does_not_change(tmp_path: Path, ledger: Ledger, books: Bookkeeper) -> None:
    entries = made(written(CALLS[:4], tmp_path))
    assert post(ledger, books, entries, lambda moment: moment.month == 10) == Imported(closed=4)
    assert total(ledger)[0] == 0


def test_labels_say_how_they_are_known(tmp_path: Path) -> None:
    (entry,) = made(written(CALLS[:1], tmp_path, "litellm"))
    assert (entry.team, entry.attribution["team"].provenance) == (CALLS[0].team, "verified")
    (entry,) = made(written(CALLS[:1], tmp_path, "langfuse"))
    assert (entry.team, entry.attribution["team"].provenance) == (CALLS[0].team, "asserted")
    nobody = replace(CALLS[0], team=None, owner=None)
    file = tmp_path / "map.csv"
    file.write_text("key,team,owner,workload\nkey-None,platform,dora,chat\n")
    (entry,) = made(written([nobody], tmp_path, "litellm"), ownership=ownership.read(file))
    assert (entry.team, entry.owner, entry.workload) == ("platform", "dora", "chat")
    assert entry.attribution["team"].provenance == "inferred"
    (entry,) = made(written([nobody], tmp_path, "litellm"))
    assert entry.team is None
    assert entry.attribution == {}


def test_tenants_are_hashed_and_tags_kept(tmp_path: Path) -> None:
    (entry,) = made(written([replace(CALLS[0], tenant="acme")], tmp_path))
    assert entry.tenant == "h1_tenant-4"
    assert entry.tags == {"workflow_id": "rerank", "feature": "answers"}
    assert "acme" not in str(entry)


def test_a_tenant_of_imports_is_one_group_whichever_keys_were_live(
    tmp_path: Path, ledger: Ledger, books: Bookkeeper
) -> None:
    """One call imported before a rotation, one while two keys are live, one afterwards."""

    def newer(field: str, value: str) -> str:
        return "h2" + hashed(field, value)[2:]

    log = written([replace(each, tenant="acme") for each in CALLS[:3]], tmp_path)
    with evidence(log) as (known, intake):
        for place, hashers in enumerate((Hashers(hashed), Hashers(newer, hashed), Hashers(newer))):
            (batch,) = batches(known, intake, hashers)
            assert batch[place].tenant_before == ("h1_tenant-4" if place == 1 else None)
            assert post(ledger, books, batch[place : place + 1], never).posted == 1
    period, whole = [("since", "2020-01"), ("until", "2030-01")], total(ledger)[1]
    with ledger.reader() as reader:
        for more in ((), (("where", "tenant=h1_tenant-4"),), (("where", "tenant=h2_tenant-4"),)):
            table = answer(question("spend", [("by", "tenant"), *more, *period], now=datetime.now(UTC)), reader)
            assert [row[:2] for row in table.rows] == [("h2_tenant-4", 3)]
            assert table.totals["total_usd"] == whole


def test_what_a_cost_rests_on(tmp_path: Path) -> None:
    wrong = replace(CALLS[0], wrong_usd=Decimal("9.99"))
    (entry,) = made(written([wrong], tmp_path))
    assert (entry.basis, entry.cost_usd) == ("metered", CALLS[0].cost_usd)
    assert entry.notes == ("log_cost:9.990000000000",)
    row = json.loads(WRITERS["litellm"]([CALLS[0]]))
    file = tmp_path / "one.log"
    file.write_text(json.dumps(row | {"model": "our-own", "model_group": "our-own"}))
    (entry,) = made(file)
    assert (entry.basis, entry.notes) == ("estimated", ("cost_from_log",))
    assert entry.cost_usd == CALLS[0].cost_usd
    file.write_text(json.dumps(row | {"model": "our-own", "model_group": "our-own", "spend": None}))
    (entry,) = made(file)
    assert (entry.basis, entry.cost_usd, entry.reason_unknown) == ("unknown", None, "model_unpriced")
    usage = json.loads(row["metadata"])
    usage["usage_object"]["cost"] = 0.0042
    file.write_text(json.dumps(row | {"metadata": json.dumps(usage)}))
    (entry,) = made(file)
    assert (entry.basis, entry.cost_usd) == ("provider_cost", Decimal("0.0042"))
    assert faults(entry) == []


def test_reports_reach_back_before_the_gateway(tmp_path: Path, ledger: Ledger, books: Bookkeeper) -> None:
    post(ledger, books, made(written(CALLS, tmp_path)), never)
    query = Query.parse([("by", "team"), ("since", "2026-10")], now=datetime(2026, 11, 1, tzinfo=UTC))
    with ledger.reader() as reader:
        table = spend.answer(reader, query, NOTHING)
    rows = {str(row[0]): row for row in table.rows}
    assert set(rows) == {"search", "support", "billing"}
    assert table.totals["total_usd"] == COST
