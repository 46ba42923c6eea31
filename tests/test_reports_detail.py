"""What each report says beside its sums: forecasts, rolled-up costs, unit costs, coverage, trees and receipts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from costbearer import corrections, money, reports
from costbearer.contract import Prices
from costbearer.errors import NotFound
from costbearer.figures import Figure
from costbearer.ledger import Charge, Claim, Entry, Field
from costbearer.prices import Context, PriceBook, Unrated
from costbearer.reports.beside import Beside, Sealed
from costbearer.reports.coverage import digest
from costbearer.reports.forecast import forecast
from costbearer.reports.table import Part, Table
from costbearer.stores import archive
from costbearer.usage import Usage, Work
from tests.factories import make_entry, make_unknown
from tests.ledgers import reader_of

JOURNAL = "20261001T000000-1a2b3c4d"
NOW = datetime(2026, 11, 10, tzinfo=UTC)
OCTOBER = [("since", "2026-10"), ("until", "2026-11")]
START = datetime(2026, 10, 3, 9, tzinfo=UTC)
ONE = money.usd("1")


def flat(number: int, usd: str = "1", **shape: Any) -> Entry:
    """A call that costs so much, in a lump."""
    cost = money.usd(usd)
    at = shape.pop("started_at", START + timedelta(minutes=number))
    amounts = {"cost_usd": cost, "list_cost_usd": cost, "effective_cost_usd": cost, "computed_cost_usd": cost}
    lump = (Charge("provider_difference", 1, cost, cost, cost, "gpt-4.1-mini", "provider"),) if cost else ()
    return make_entry(JOURNAL, number, started_at=at, charges=lump, **amounts, **shape)


def ask(entries: list[Entry], name: str, *pairs: tuple[str, str], beside: Beside = Beside()) -> Table:  # noqa: B008
    with reader_of(entries) as reader:
        return reports.answer(reports.question(name, pairs, now=NOW), reader, beside)


def cells(table: Table | Part, row: int = 0) -> dict[str, Any]:
    return dict(zip((column.name for column in table.columns), table.rows[row], strict=True))


def part(table: Table, name: str) -> Part:
    (found,) = (each for each in table.parts if each.name == name)
    return found


# -- top keys


def test_how_few_keys_are_half_and_most() -> None:
    entries = [
        flat(1, "50", key_id="k1"),
        flat(2, "31", key_id="k2"),
        flat(3, "10", key_id="k3"),
        flat(4, "9", key_id="k4"),
    ]
    table = ask(entries, "top-keys", *OCTOBER)
    assert [row[1] for row in table.rows] == ["k1", "k2", "k3", "k4"]
    assert [cells(table, place)["cumulative_share"] for place in range(4)] == [0.5, 0.81, 0.91, 1.0]
    assert table.notes[0] == "1 key is half, 2 are 80 %, 4 are 95 %, of 4 keys."


def test_a_relabelled_key_is_one_row_with_each_of_its_labels() -> None:
    entries = [flat(1, "5", key_id="k", team="old"), flat(2, "9", key_id="k", team="new"), flat(3, "1", key_id=None)]
    table = ask(entries, "top-keys", *OCTOBER)
    first = cells(table)
    assert (first["key"], first["team"]) == ("k", "new, old")
    assert "Calls without a key are one row, (none)." in table.notes


# -- forecast


def daily(first: date, days: int, of: Any) -> dict[date, Decimal]:
    return {first + timedelta(days=place): money.usd(of(first + timedelta(days=place))) for place in range(days)}


def test_a_steady_month_is_foreseen_exactly() -> None:
    costs = daily(date(2026, 6, 1), 142, lambda day: "10")
    found = forecast(costs, today=date(2026, 10, 20), passed=Decimal("0.5"))
    assert found.usd == money.usd(20 * 10 + 5 + 11 * 10) - money.usd("5") + money.usd("5")
    assert (found.low_usd, found.high_usd) == (found.usd, found.usd)


def test_weekends_are_foreseen_as_weekends() -> None:
    costs = daily(date(2026, 6, 1), 141, lambda day: "10" if day.weekday() < 5 else "2")
    found = forecast(costs, today=date(2026, 10, 19), passed=Decimal(1))
    rest = sum(10 if date(2026, 10, day).weekday() < 5 else 2 for day in range(20, 32))
    known = sum(10 if date(2026, 10, day).weekday() < 5 else 2 for day in range(1, 20))
    assert found.usd == known + rest


def test_the_band_is_how_far_it_was_off_before_and_none_where_there_is_no_past() -> None:
    costs = daily(date(2026, 6, 1), 140, lambda day: "30" if day >= date(2026, 8, 16) and day.month == 8 else "10")
    found = forecast(costs, today=date(2026, 10, 16), passed=Decimal(0))
    assert found.high_usd is not None and found.high_usd > found.usd
    assert (
        forecast(daily(date(2026, 10, 5), 9, lambda day: "1"), today=date(2026, 10, 14), passed=Decimal(0)).low_usd
        is None
    )


def test_chargeback_foresees_only_a_month_that_is_not_over() -> None:
    entries = [flat(number, started_at=START + timedelta(days=number)) for number in range(1, 20)]
    running = ask(entries, "chargeback", ("since", "2026-10"), ("until", "2026-10-20"))
    assert {"forecast_usd", "forecast_low_usd"} <= {column.name for column in running.columns}
    assert (
        money.total(cells(running, place)["forecast_usd"] for place in range(len(running.rows)))
        == running.totals["forecast_usd"]
    )
    over = ask(entries, "chargeback", *OCTOBER)
    assert "forecast_usd" not in {column.name for column in over.columns}
    assert cells(over)["growth"] is None


# -- agents


def test_an_agent_rolls_up_what_its_runs_set_going() -> None:
    entries = [
        flat(1, "1", team="t", agent="boss", trace_id="a"),
        flat(2, "10", team="t", agent="hand", trace_id="a"),
        flat(3, "100", team="t", agent="hand", trace_id="b"),
        flat(4, "1000", team="t", agent="boss", trace_id="b"),
        flat(5, "5", team="t", agent="boss", trace_id=None),
    ]
    table = ask(entries, "agents", *OCTOBER)
    found = {row[1]: cells(table, place) for place, row in enumerate(table.rows)}
    assert (found["boss"]["cost_usd"], found["boss"]["rolled_up_usd"], found["boss"]["runs"]) == (1006, 16, 1)
    assert (found["hand"]["cost_usd"], found["hand"]["rolled_up_usd"], found["hand"]["runs"]) == (110, 1100, 1)
    assert (found["boss"]["usd_per_run"], found["hand"]["usd_per_run"]) == (11, 1100)
    assert table.totals["rolled_up_usd"] == table.totals["total_usd"] == 1116
    assert table.totals["runs"] == 2


def test_an_agent_without_a_name_can_begin_a_run() -> None:
    entries = [
        flat(1, "1", kind="import", team=None, agent=None, trace_id="a"),
        flat(2, "2", team="t", agent="hand", trace_id="a"),
    ]
    table = ask(entries, "agents", *OCTOBER)
    rolled = {row[1]: cells(table, place)["rolled_up_usd"] for place, row in enumerate(table.rows)}
    assert rolled == {"(none)": 3, "hand": 0}


# -- unit cost


def test_a_gap_in_a_figure_is_a_gap_and_never_zero() -> None:
    lines = [
        Figure(date(2026, 10, 3), Decimal("4"), "acme"),
        Figure(date(2026, 10, 4), Decimal("4"), "acme"),
        Figure(date(2026, 9, 30), Decimal("999"), "acme"),
        Figure(date(2026, 10, 4), Decimal("2"), ""),
        Figure(date(2026, 10, 4), Decimal("0"), "globex"),
    ]
    entries = [
        flat(1, "16", customer="acme", session_id="s1"),
        flat(2, "4", customer="globex", session_id="s1"),
        flat(3, "1", customer=None, session_id="s2"),
    ]
    beside = Beside(figures={"orders": lines}.get, figure_names=lambda: ("orders",))
    table = ask(entries, "unit-cost", ("per", "orders,session"), *OCTOBER, beside=beside)
    found = {row[0]: cells(table, place) for place, row in enumerate(table.rows)}
    assert (found["acme"]["orders"], found["acme"]["usd_per_orders"]) == ("8", money.usd("2"))
    assert (found["globex"]["orders"], found["globex"]["usd_per_orders"]) == ("0", None)
    assert (found["(none)"]["orders"], found["(none)"]["usd_per_orders"]) == (None, None)
    assert table.totals["usd_per_orders"] == money.usd("2.1")
    assert (table.totals["sessions"], table.totals["usd_per_session"]) == (2, money.usd("10.5"))


# -- models


PRICES = Prices(PriceBook.loads(archive.bundled()), None)


def test_the_same_usage_on_another_model_is_rated_call_by_call() -> None:
    usage = Usage(input_tokens=1000, output_tokens=100, cache_read_input_tokens=400)
    entries = [
        make_entry(JOURNAL, 1, started_at=START, usage=usage),
        make_entry(JOURNAL, 2, started_at=START, usage=Usage(input_tokens=10)),
        make_unknown(JOURNAL, 3, started_at=START),
    ]
    beside = Beside(prices=lambda: PRICES)
    table = ask(entries, "models", ("by", "model"), ("as", "gpt-4.1-nano"), *OCTOBER, beside=beside)
    # $0.10 in, $0.025 from cache, $0.40 out per million, by hand.
    expected = money.usd("0.00006") + money.usd("0.00001") + money.usd("0.00004") + money.usd("0.000001")
    assert table.totals["as_usd"] == expected
    assert table.totals["as_delta_usd"] == expected - money.total(entry.cost_usd for entry in entries if entry.cost_usd)
    none = ask(entries, "models", ("by", "model"), ("cache_rate", "0"), *OCTOBER, beside=beside)
    fresh = money.usd("0.0004") + money.usd("0.00016") + money.usd("0.000004")
    assert none.totals["as_usd"] == fresh


def test_the_work_of_several_models_is_priced_part_by_part() -> None:
    """A call that two models worked on, at list prices: each part at its own model's, as it was rated."""
    parts = (
        Work(model="gpt-4.1-mini", usage=Usage(input_tokens=1000, output_tokens=10)),
        Work(model="gpt-4.1", usage=Usage(input_tokens=500, output_tokens=20)),
    )
    entry = flat(1, "5", usage=Usage(input_tokens=1500, output_tokens=30), work=parts)
    asked = [("by", "model"), ("at", "list"), *OCTOBER]
    table = ask([entry], "models", *asked, beside=Beside(prices=lambda: PRICES))
    # $0.40 and $1.60, $2 and $8 per million, by hand.
    by_hand = money.usd("0.0004") + money.usd("0.000016") + money.usd("0.001") + money.usd("0.00016")
    assert table.totals["as_usd"] == by_hand


def test_costs_per_call_and_per_successful_call() -> None:
    entries = [
        flat(1, "3", status="ok"),
        flat(2, "0", status="error", http_status=500),
        flat(3, "3", status="ok", reason="retry", requests=0),
        flat(4, "0", status="ok", duration_ms=None, ended_at=None),
    ]
    found = cells(ask(entries, "models", ("by", "model"), *OCTOBER))
    assert (found["usd_per_call"], found["usd_per_ok_call"]) == (money.usd("1.5"), money.usd("2"))
    assert (found["error_rate"], found["retry_rate"], found["mean_duration_ms"]) == (0.25, 0.25, 250)


# -- coverage


def test_coverage_says_who_vouches_and_what_is_nobodys() -> None:
    own = {"team": Field("t", "verified", "key"), "feature": Field('a"}{"conflict":[{', "asserted", "body")}
    entries = [
        flat(1, "90", team="t", owner="o", feature="f", attribution=own),
        flat(2, "6", team=None, owner=None, kind="import", key_id="sk-old", attribution={}, agent=None),
        flat(3, "4", team="t", owner="o", attribution={"team": Field("t", "inferred", "ownership")}),
    ]
    table = ask(entries, "coverage", *OCTOBER)
    team = {row[0]: cells(table, place) for place, row in enumerate(table.rows)}["team"]
    assert (team["verified_usd"], team["inferred_usd"], team["missing_usd"]) == (90, 4, 6)
    assert (team["requests_share"], team["cost_share"]) == (2 / 3, 0.94)
    assert table.totals["unattributed_usd"] == 6
    assert table.totals["finops_ready_share"] == 2 / 3
    assert any("over the 2 % that can be carried" in note for note in table.notes)
    assert cells(part(table, "callers"))["key"] == "sk-old"
    assert not part(table, "conflicts").rows, "a value that looks like evidence is none"
    week = cells(part(table, "weeks"))
    assert (week["unattributed_usd"], week["over"]) == (6, "yes")


def test_an_item_of_the_digest_keeps_its_name() -> None:
    nobody: dict[str, Any] = {
        "team": None,
        "owner": None,
        "kind": "import",
        "key_id": "sk-old",
        "attribution": {},
        "key_team": None,
    }
    shape = nobody | {"agent": None, "workload": None}
    before = cells(part(ask([flat(1, "6", **shape)], "coverage", *OCTOBER), "items"))
    table = ask([flat(1, "6", **shape), flat(2, "9", **shape)], "coverage", *OCTOBER)
    after = cells(part(table, "items"))
    assert before["item"] == after["item"]
    assert before["item"].startswith("COV-")
    text = digest(table)
    assert f"- [ ] {after['item']}" in text and text.startswith("### Coverage")
    assert len(text.splitlines()) < 20


def test_a_claim_that_was_not_believed_is_shown_with_its_dollars() -> None:
    said = {"team": Field("growth", "verified", "key", (Claim('se"arch', "body"),))}
    table = ask([flat(1, "2", team="growth", attribution=said), flat(2, "1", team="growth")], "coverage", *OCTOBER)
    found = cells(part(table, "conflicts"))
    assert (found["team"], found["field"], found["claimed"], found["cost_usd"]) == ("growth", "team", 'se"arch', 2)


# -- trees and receipts


def test_a_trace_is_a_tree_with_the_cost_of_every_node() -> None:
    usage = Usage(input_tokens=1000, output_tokens=10, cache_read_input_tokens=500)
    entries = [
        make_entry(JOURNAL, 1, started_at=START, usage=usage, trace_id="t", request_id="r1", call_id="c1"),
        flat(2, "2", trace_id="t", request_id="r2", call_id="c2", parent_id="c1", status="error"),
        flat(3, "3", trace_id="t", request_id="r2", call_id="c3", reason="retry", attempt=2, requests=0),
        make_unknown(JOURNAL, 4, started_at=START + timedelta(hours=1), trace_id="t", request_id="r3", call_id="c4"),
        flat(5, "9", trace_id="other"),
    ]
    table = ask(entries, "trace", ("id", "t"))
    assert [(row[0], str(row[1]).strip()) for row in table.rows] == [
        (0, "call chat"),
        (0, "request r2"),
        (1, "call chat"),
        (1, "call chat, attempt 2"),
        (0, "call chat"),
    ]
    first = entries[0].cost_usd
    assert first is not None
    assert table.totals["total_usd"] == money.total((first, money.usd("5")))
    assert (table.totals["retry_usd"], table.totals["not_ok_usd"], table.totals["unknown_calls"]) == (3, 2, 1)
    # 500 cached tokens at a quarter of the price of input.
    assert table.totals["cache_saved_usd"] == money.usd("0.00015")
    assert "unknown" in table.to_text()


def test_a_tree_that_is_cut_keeps_its_dollars() -> None:
    entries = [flat(number, "1", request_id=f"r{number}", trace_id="t") for number in range(1, 8)]
    table = ask(entries, "trace", ("id", "t"), ("limit", "3"))
    assert len(table.rows) == 4
    assert money.total(cells(table, place)["own_usd"] for place in range(4)) == table.totals["total_usd"] == 7
    assert cells(table, 3)["node"] == "(the rest)"


def test_what_counts_of_a_call_does_not_depend_on_the_names_of_journals() -> None:
    old = make_unknown("20261101T000000-bbbbbbbb", 1, started_at=START, request_id="r", call_id="c")
    new = flat(1, "3", request_id="r", call_id="c", started_at=START, kind="correction")
    pair = corrections.restated(old, new, at=NOW, kind="correction")
    later = [
        msgspec.structs.replace(each, journal="20200101T000000-aaaaaaaa", sequence=place)
        for place, each in enumerate(pair, 1)
    ]
    table = ask([old, *later], "request", ("id", "r"))
    assert (table.totals["total_usd"], table.totals["unknown_calls"], len(table.rows)) == (3, 0, 1)
    assert ask([old, *later], "receipt", ("id", "c")).title == "Receipt of 20200101T000000-aaaaaaaa.2"


def test_calls_below_calls_and_a_ring_of_parents() -> None:
    entries = [
        flat(1, "1", request_id="r", call_id="a", parent_id=None),
        flat(2, "2", request_id="r", call_id="b", parent_id="a"),
        flat(3, "4", request_id="r", call_id="c", parent_id="b"),
        flat(4, "8", request_id="r", call_id="x", parent_id="y"),
        flat(5, "16", request_id="r", call_id="y", parent_id="x"),
    ]
    table = ask(entries, "request", ("id", "r"))
    found = {str(row[-1]).rpartition(".")[2]: cells(table, place) for place, row in enumerate(table.rows)}
    assert [found[number]["depth"] for number in "12345"] == [0, 1, 2, 0, 0]
    assert (found["1"]["with_below_usd"], found["2"]["with_below_usd"]) == (7, 6)
    assert table.totals["total_usd"] == 31


def test_a_receipt_leads_to_the_ground() -> None:
    card = PRICES.book.at("openai", "gpt-4.1-mini", Context(), START)
    assert not isinstance(card, Unrated)
    name = card.id
    entry = make_entry(JOURNAL, 7, started_at=START, call_id="c7")
    charges = tuple(msgspec.structs.replace(charge, card=name) for charge in entry.charges)
    entry = msgspec.structs.replace(entry, charges=charges)
    new = msgspec.structs.replace(entry, team="other")
    later = [
        msgspec.structs.replace(each, journal=JOURNAL, sequence=8 + place)
        for place, each in enumerate(corrections.restated(entry, new, at=NOW, kind="correction"))
    ]
    beside = Beside(card=PRICES.book.card, seal=lambda journal, sequence: Sealed(3, "5ea1", "f11e"))
    table = ask([entry, *later], "receipt", ("id", entry.entry_id), beside=beside)
    assert table.totals["total_usd"] == entry.cost_usd
    for place in range(len(table.rows)):
        shown = cells(table, place)
        assert shown["arithmetic"].endswith(f"= {money.text(shown['cost_usd'])}")
    assert cells(part(table, "cards"))["price_source"] == "genai-prices"
    assert {row[0]: row[1] for row in part(table, "proof").rows}["seal (SHA-256)"] == "5ea1"
    assert len(part(table, "others").rows) == 2
    assert any("that is the cost" in note for note in table.notes)
    standing = ask([entry, *later], "receipt", ("id", "c7"), beside=beside)
    assert standing.title == f"Receipt of {JOURNAL}.9", "of a call the entry that counts now"


@pytest.mark.parametrize(
    ("name", "id_"),
    [("trace", "x"), ("session", "x"), ("request", "x"), ("receipt", "j.1"), ("receipt", "x"), ("owner", "x")],
)
def test_what_is_not_there_is_said(name: str, id_: str) -> None:
    with pytest.raises(NotFound, match="in the ledger"):
        ask([flat(1)], name, ("id", id_))


def test_an_owners_part_has_why_keys_and_models() -> None:
    entries = [
        flat(1, "1", owner="ana", key_id="k1"),
        flat(2, "5", owner="bob"),
        make_unknown(JOURNAL, 3, started_at=START, owner="ana"),
    ]
    table = ask(entries, "owner", ("id", "ana"), *OCTOBER)
    assert table.totals["total_usd"] == 1
    assert {each.name for each in table.parts} == {"why", "keys", "models", "unknown"}
    assert len(part(table, "unknown").rows) == 1
    assert "bob" not in table.to_text()
