"""Why the bill changed: exact, nothing left over, and a single cause gets nearly all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import factorial, prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import money, reports
from costbearer.errors import AmountInvalid
from costbearer.ledger import Charge, Entry
from costbearer.reports.causes import CAUSES, Amount, Counts, State, caused, caused_per_day
from costbearer.reports.shapley import FACTORS_MAX, contributions
from costbearer.reports.table import Table
from costbearer.usage import Usage, leaves
from tests import randomledger
from tests.factories import UNIT_PRICES, make_entry, make_unknown
from tests.ledgers import reader_of

JOURNAL = "20260901T000000-1a2b3c4d"
NOW = datetime(2026, 11, 20, tzinfo=UTC)
BEFORE, AFTER = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)


# -- the Shapley value


def by_orders(factors: Sequence[tuple[int, int]]) -> list[Decimal]:
    """By its definition: the mean over all orders of the change when a factor moves."""
    sums = [0] * len(factors)
    orders = list(itertools.permutations(range(len(factors))))
    for order in orders:
        values = [old for old, _ in factors]
        for place in order:
            before = prod(values)
            values[place] = factors[place][1]
            sums[place] += prod(values) - before
    return [money.ratio(total, len(orders)) for total in sums]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 20), st.integers(-9, 20)), min_size=1, max_size=6))
def test_the_shapley_value_is_the_mean_over_all_orders(factors: list[tuple[int, int]]) -> None:
    found = contributions([(Decimal(old), Decimal(new)) for old, new in factors])
    for mine, theirs in zip(found, by_orders(factors), strict=True):
        assert abs(mine - theirs) < Decimal("1e-80")


def by_subsets(factors: Sequence[tuple[int, int]]) -> list[Decimal]:
    """The same by subsets of those that have moved already, for more factors than there is time to order."""
    found = []
    others = len(factors) - 1
    for place, (old, new) in enumerate(factors):
        rest = [pair for other, pair in enumerate(factors) if other != place]
        total = Decimal(0)
        for choice in itertools.product((0, 1), repeat=others):
            weight = factorial(sum(choice)) * factorial(others - sum(choice))
            total += weight * prod(pair[moved] for pair, moved in zip(rest, choice, strict=True))
        found.append(money.ratio((new - old) * total, factorial(others + 1)))
    return found


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 20), st.integers(-9, 20)), min_size=9, max_size=FACTORS_MAX))
def test_it_is_exact_for_as_many_factors_as_a_cost_has(factors: list[tuple[int, int]]) -> None:
    found = contributions([(Decimal(old), Decimal(new)) for old, new in factors])
    for mine, theirs in zip(found, by_subsets(factors), strict=True):
        assert abs(mine - theirs) < Decimal("1e-80")


@given(st.lists(st.decimals(-1000, 1000, places=20), max_size=8))
def test_parts_are_settled_to_the_last_digit(parts: list[Decimal]) -> None:
    amount = money.usd(sum(parts, Decimal(0)))
    exact = [*parts, amount - sum(parts, Decimal(0))]
    found = money.settled(amount, exact)
    assert money.total(found) == amount
    assert all(abs(mine - theirs) <= money.QUANTUM for mine, theirs in zip(found, exact, strict=True))


def test_parts_of_something_else_are_refused() -> None:
    with pytest.raises(AmountInvalid):
        money.settled(money.usd("1"), [Decimal("0.5"), Decimal("0.4")])


# -- whole ledgers


def explained(entries: Sequence[Entry], *pairs: tuple[str, str]) -> Table:
    asked = [("since", "2026-10-01"), ("until", "2026-11-01"), *pairs]
    with reader_of(entries) as reader:
        return reports.answer(reports.question("explain", asked, now=NOW), reader)


def amounts(table: Table) -> dict[str, Decimal]:
    found = {}
    for row in table.rows:
        assert isinstance(row[3], Decimal)
        found[str(row[0])] = row[3]
    return found


@pytest.mark.parametrize("seed", range(100, 108))
def test_causes_add_up_to_the_change_in_any_ledger(seed: int) -> None:
    entries = randomledger.ledger(seed, 80)
    for by in ("team,agent,workload", "customer", "model", "day"):
        table = explained(entries, ("by", by))
        assert money.total(amounts(table).values()) == table.totals["delta_usd"]
        (movers,) = table.parts
        names = [column.name for column in movers.columns]
        for row in movers.rows:
            cells = dict(zip(names, row, strict=True))
            parts = [cells[f"{name}_usd"] for name in CAUSES if f"{name}_usd" in cells]
            assert money.total(part for part in parts if isinstance(part, Decimal)) == cells["delta_usd"]
        changes = [row[names.index("delta_usd")] for row in movers.rows]
        assert money.total(each for each in changes if isinstance(each, Decimal)) == table.totals["delta_usd"]


COUNTS = st.integers(-3, 40)
STATES = st.dictionaries(
    st.tuples(st.sampled_from(["first", "retry"]), st.sampled_from(["a", "b"]), st.sampled_from(["", "batch"])),
    st.tuples(
        st.builds(Counts, COUNTS, COUNTS, COUNTS),
        st.dictionaries(
            st.tuples(st.just("a"), st.sampled_from(["input", "cache_read_input", "output", "web_search"])),
            st.builds(
                Amount,
                st.integers(-50, 900),
                st.integers(-(10**9), 10**12).map(lambda n: money.usd(Decimal(n).scaleb(-12))),
            ),
            max_size=4,
        ),
    ),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(STATES, STATES)
def test_nothing_is_left_over_whatever_the_sums_are(before: Any, after: Any) -> None:
    states = []
    for days, drawn in ((30, before), (31, after)):
        state = State(Decimal(days))
        for branch, (counts, own) in drawn.items():
            state.take(branch, counts)
            for leaf, amount in own.items():
                state.charge(branch, leaf, amount)
        states.append(state)
    found = caused(*states)
    assert money.total(found.values()) == money.minus(states[1].cost, states[0].cost)
    assert set(found) <= set(CAUSES)
    daily = caused_per_day(*states)
    change = states[1].cost / 31 - states[0].cost / 30
    assert abs(sum(daily.values(), Decimal(0)) - change) <= Decimal("1e-12")
    assert "days" not in daily


# -- one planted cause


Change = Callable[[dict[str, Any], int], list[dict[str, Any]]]


def month(start: datetime, days: int, first: int, change: Change | None = None, *, alike: bool = False) -> list[Entry]:
    """As many calls every day, each day's alike; `change` may make something else of each. `alike`: all days too."""
    made: list[Entry] = []
    number = first
    for day in range(days):
        kind = 3 if alike else day
        for place in range(12):
            plain = {
                "team": "search",
                "agent": f"agent{place % 3}",
                "workload": "work",
                "tier": "default",
                "reason": None,
                "requests": 1,
                "model": "gpt-4.1-mini",
                "status": "ok",
                "factor": 1,
                # Calls differ from day to day and not from place to place: what is planted meets all kinds alike.
                "usage": Usage(
                    input_tokens=1000 + 10 * (kind % 7),
                    output_tokens=100 + kind % 5,
                    cache_read_input_tokens=100 * (kind % 4),
                ),
            }
            for values in change(plain, place) if change else [plain]:
                number += 1
                made.append(_entry(number, start + timedelta(days=day, hours=place), values))
    return made


def _entry(number: int, at: datetime, values: dict[str, Any]) -> Entry:
    named = {name: value for name, value in values.items() if name not in {"factor", "usage", "model"}}
    if values.get("basis") == "unknown":
        return make_unknown(JOURNAL, number, started_at=at, response_model=values["model"], **named)
    prices = {name: price * values["factor"] for name, price in UNIT_PRICES.items()}
    charges = tuple(
        Charge(
            meter,
            count,
            prices[meter],
            money.times(count, prices[meter]),
            money.times(count, prices[meter]),
            values["model"],
            "card",
        )
        for meter, count in leaves(values["usage"]).items()
    )
    cost = money.total(charge.cost_usd for charge in charges)
    return make_entry(
        JOURNAL,
        number,
        started_at=at,
        usage=values["usage"],
        charges=charges,
        cost_usd=cost,
        list_cost_usd=cost,
        effective_cost_usd=cost,
        computed_cost_usd=cost,
        response_model=values["model"],
        **named,
    )


def _with(**changes: Any) -> Change:
    return lambda plain, _: [plain | changes]


def _usage(**changes: int) -> Change:
    def change(plain: dict[str, Any], _: int) -> list[dict[str, Any]]:
        usage = plain["usage"]
        named = {name: getattr(usage, name) + more for name, more in changes.items()}
        return [plain | {"usage": type(usage)(**{**_fields(usage), **named})}]

    return change


def _fields(usage: Usage) -> dict[str, int]:
    return {name: value for name in usage.__struct_fields__ if (value := getattr(usage, name)) is not None}


def _storm(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    cut = plain | {"status": "cancelled", "usage": Usage(input_tokens=plain["usage"].input_tokens, output_tokens=0)}
    again = plain | {"reason": "retry", "requests": 0}
    return [cut, cut | {"reason": "retry", "requests": 0}, again] if place % 2 else [plain]


def _failing(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    return [plain | {"status": "error", "usage": Usage()}] if place % 3 == 0 else [plain]


def _twice(plain: dict[str, Any], _: int) -> list[dict[str, Any]]:
    return [plain, plain]


def _unknown(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    return [plain | {"basis": "unknown", "status": "unknown"}] if place % 4 == 0 else [plain]


def _newcomer(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    return [plain, plain | {"agent": "newcomer"}] if place % 5 == 0 else [plain]


def _leaver(plain: dict[str, Any], _: int) -> list[dict[str, Any]]:
    return [] if plain["agent"] == "agent1" else [plain]


def _other_model(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    return [plain | {"model": "gpt-4.1", "factor": 5}] if place % 2 else [plain]


def _batch(plain: dict[str, Any], place: int) -> list[dict[str, Any]]:
    return [plain | {"tier": "batch", "factor": Decimal("0.5")}] if place % 2 else [plain]


@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("volume", _twice),
        ("retries", _storm),
        ("retries", _failing),
        ("unknown", _unknown),
        ("model_mix", _other_model),
        ("tier", _batch),
        ("prompt", _usage(input_tokens=4000, cache_read_input_tokens=0)),
        ("answer", _usage(output_tokens=400)),
        ("cache", _usage(cache_read_input_tokens=500)),
        ("price", _with(factor=Decimal("1.25"))),
        ("new", _newcomer),
        ("gone", _leaver),
    ],
)
def test_a_single_cause_gets_at_least_99_percent_of_the_change(cause: str, change: Change) -> None:
    """Both months have as many days in the comparison; what is planted is the only thing that changed."""
    entries = [*month(BEFORE, 30, 0), *month(AFTER, 30, 100_000, change)]
    asked = [("since", "2026-10-01"), ("until", "2026-10-31"), ("compare", "2026-09-01..2026-10-01")]
    with reader_of(entries) as reader:
        table = reports.answer(reports.question("explain", asked, now=NOW), reader)
    found, whole = amounts(table), table.totals["delta_usd"]
    assert isinstance(whole, Decimal) and whole
    if cause == "prompt":
        # Input that grows while what is cached stays is also a lower share from the cache: both are said.
        assert found["prompt"] + found["cache"] == whole and abs(found["prompt"]) > abs(found["cache"])
    else:
        assert abs(found[cause] - whole) <= abs(whole) * Decimal("0.01"), found


def test_a_prompt_that_grows_with_its_cache_is_the_prompt() -> None:
    def longer(plain: dict[str, Any], _: int) -> list[dict[str, Any]]:
        usage = plain["usage"]
        return [
            plain
            | {
                "usage": Usage(
                    **{name: value * (3 if "input" in name else 1) for name, value in _fields(usage).items()}
                )
            }
        ]

    found = explained(
        [*month(BEFORE, 30, 0, alike=True), *month(AFTER, 30, 100_000, longer, alike=True)],
        ("compare", "2026-09-01..2026-10-02"),
    )
    parts = amounts(found)
    assert set(parts) <= {"prompt", "days", "volume"}
    assert parts["prompt"] > 0


def test_a_longer_month_with_the_same_days_is_only_longer() -> None:
    table = explained([*month(BEFORE, 30, 0, alike=True), *month(AFTER, 31, 100_000, alike=True)])
    assert set(amounts(table)) == {"days"}
    assert "Per day:" in table.to_text() and "over 30 and 31 days" in table.to_text()


def test_a_correction_of_another_period_is_an_adjustment() -> None:
    entries = [*month(BEFORE, 30, 0, alike=True), *month(AFTER, 31, 100_000, alike=True)]
    old = entries[0]
    (line,) = old.charges[:1]
    extra = Charge(line.meter, 0, money.ZERO, money.ZERO, money.ZERO, line.model, line.card)
    more = money.usd("0.25")
    lump = Charge("provider_difference", 1, more, more, more, line.model, "provider")
    correction = make_entry(
        JOURNAL,
        999_999,
        kind="correction",
        refers_to=old.entry_id,
        calls=0,
        requests=0,
        usage=Usage(),
        started_at=AFTER + timedelta(days=3),
        team="search",
        agent="agent0",
        workload="work",
        charges=(extra, lump),
        cost_usd=more,
        list_cost_usd=more,
        effective_cost_usd=more,
        computed_cost_usd=more,
        response_model=line.model,
        tier="priority",
    )
    found = amounts(explained([*entries, correction]))
    assert found["adjustments"] == more
    assert set(found) == {"days", "adjustments"}


def test_more_rows_than_can_be_explained_one_by_one_are_one_row() -> None:
    table = explained(
        [*month(BEFORE, 30, 0, alike=True), *month(AFTER, 31, 100_000, alike=True)], ("by", "agent"), ("limit", "1")
    )
    (movers,) = table.parts
    assert [row[0] for row in movers.rows][-1] == "(the rest)"
    assert money.total(amounts(table).values()) == table.totals["delta_usd"]
