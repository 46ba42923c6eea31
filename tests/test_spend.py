from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import money, reports
from costbearer.errors import RemoteFailed, StoreFailed
from costbearer.ledger import Entry
from costbearer.reports import read
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import DIMENSIONS, NONE, bucket
from costbearer.reports.facts import facts
from costbearer.reports.query import Query, Reader
from costbearer.reports.spend import answer, expression
from costbearer.reports.table import Table
from costbearer.stores.ledger_schema import CHARGES_ARROW, ENTRIES_ARROW
from costbearer.stores.rollups import CALLS, CHARGES
from tests.factories import BORN, make_entry, make_unknown
from tests.ledgers import reader_of

JOURNAL = "20261122T193000-1a2b3c4d"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ALL_NAMES = [*DIMENSIONS, "tag:shift"]


def ask(source: Reader | Sequence[Entry], *pairs: tuple[str, str]) -> Table:
    """The answer of a reader, or of a ledger that holds these entries."""
    if isinstance(source, Sequence):
        with reader_of(source) as reader:
            return ask(reader, *pairs)
    return reports.answer(reports.question("spend", pairs, now=NOW), source)


@pytest.fixture(scope="module")
def sample() -> Iterator[Reader]:
    with reader_of(SAMPLE) as reader:
        yield reader


def rows_by_key(table: Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    names = [column.name for column in table.columns]
    width = len(table.query.by)
    return {row[:width]: dict(zip(names, row, strict=True)) for row in table.rows}


# --- the answer computed again, entry by entry, by other means

PLAIN = {
    **{name: name for name in DIMENSIONS},
    "key": "key_id",
    "session": "session_id",
    "trace": "trace_id",
    "request": "request_id",
}


def value_in(entry: Entry, name: str) -> str:
    if name == "model":
        return bucket(entry.response_model or entry.request_model or None)
    if name == "tag:shift":
        return bucket(entry.tags.get("shift") or None)
    if name in {"day", "month"}:
        return entry.started_at.isoformat()[: 10 if name == "day" else 7]
    if name == "hour":
        return entry.started_at.isoformat()[:13] + ":00:00Z"
    if name == "week":
        return entry.started_at.strftime("%G-W%V")
    return bucket(getattr(entry, PLAIN[name]) or None)


def by_hand(entries: Sequence[Entry], by: Sequence[str]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[tuple(value_in(entry, name) for name in by)].append(entry)
    return {key: figures(found) for key, found in groups.items()}


def figures(entries: Sequence[Entry]) -> tuple[Any, ...]:
    return (
        sum(entry.calls for entry in entries),
        sum(entry.requests for entry in entries),
        sum(entry.usage.input_tokens or 0 for entry in entries),
        sum(entry.usage.output_tokens or 0 for entry in entries),
        money.total(entry.cost_usd for entry in entries if entry.cost_usd is not None),
        sum(entry.calls for entry in entries if entry.cost_usd is None),
    )


NAMES = ("calls", "requests", "input_tokens", "output_tokens", "cost_usd", "unknown_calls")


def answered(table: Table) -> dict[tuple[str, ...], tuple[Any, ...]]:
    return {key: tuple(row[name] for name in NAMES) for key, row in rows_by_key(table).items()}


# --- entries

AMOUNTS = st.integers(-(10**22), 10**24).map(lambda units: Decimal(units).scaleb(-12)) | st.integers(0, 10**9).map(
    lambda units: Decimal(units).scaleb(-12)
)
WORDS = st.sampled_from(
    ["search", "Search", "pay ments", "(none)", "\\(none)", "it's", '"; --', "ü", "x\x00y", "", None]
)


@st.composite
def entry_lists(draw: st.DrawFn) -> list[Entry]:
    entries = []
    for number in range(1, draw(st.integers(1, 25)) + 1):
        described: dict[str, Any] = {
            name: draw(WORDS) for name in ("feature", "customer", "user", "env", "route", "tier", "session_id")
        }
        described["response_model"] = draw(WORDS)
        shift = draw(WORDS)
        described["tags"] = {} if shift is None else {"shift": shift}
        described["started_at"] = BORN + timedelta(microseconds=draw(st.integers(-40 * 86400 * 10**6, 86400 * 10**6)))
        if draw(st.integers(0, 4)) == 0:
            bound = draw(st.none() | AMOUNTS.map(money.usd))
            entries.append(make_unknown(JOURNAL, number, bound_usd=bound, **described))
        else:
            cost = money.usd(draw(AMOUNTS))
            sign = draw(st.sampled_from([1, 1, 1, -1]))
            basis = draw(st.sampled_from(["metered", "estimated"]))
            entries.append(
                make_entry(JOURNAL, number, cost_usd=cost, calls=sign, requests=sign, basis=basis, **described)
            )
    return entries


BY = st.lists(st.sampled_from(ALL_NAMES), min_size=1, max_size=4, unique=True)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(entry_lists(), BY)
def test_every_row_is_the_exact_sum_and_rows_add_up_to_the_total(entries: list[Entry], by: list[str]) -> None:
    table = ask(entries, ("by", ",".join(by)), ("since", "2026-01-01"))
    assert answered(table) == by_hand(entries, by)
    totals = figures(entries)
    assert tuple(table.totals["total_usd" if name == "cost_usd" else name] for name in NAMES) == totals
    assert money.total(row["cost_usd"] for row in rows_by_key(table).values()) == totals[4]
    estimated = [entry for entry in entries if entry.basis == "estimated"]
    assert table.totals["estimated_calls"] == sum(entry.calls for entry in estimated)
    assert table.totals["estimated_usd"] == money.total(
        entry.cost_usd for entry in estimated if entry.cost_usd is not None
    )


SAMPLE = [
    *(make_entry(JOURNAL, number) for number in range(1, 40)),
    *(make_unknown(JOURNAL, number) for number in range(40, 44)),
    make_entry(JOURNAL, 44, team=None, owner=None, feature="(none)", response_model=None, tags={}),
    make_entry(JOURNAL, 45, cost_usd=money.usd("-0.000000000001"), calls=-1, requests=-1),
    make_entry(JOURNAL, 46, cost_usd=money.usd("123456789012.123456789012"), basis="estimated", requests=0),
]


def assert_adds_up(reader: Reader, by: Sequence[str]) -> None:
    table = ask(reader, ("by", ",".join(by)))
    assert answered(table) == by_hand(SAMPLE, by), by
    assert money.total(row["cost_usd"] for row in rows_by_key(table).values()) == figures(SAMPLE)[4], by


@pytest.mark.slow
@pytest.mark.parametrize("position", range(len(ALL_NAMES)))
def test_every_dimension_alone_and_with_the_next_adds_up_to_the_total(sample: Reader, position: int) -> None:
    name, following = ALL_NAMES[position], ALL_NAMES[(position + 1) % len(ALL_NAMES)]
    assert_adds_up(sample, [name])
    assert_adds_up(sample, [name, following])


@pytest.mark.soak
def test_all_pairs_of_dimensions_add_up_to_the_total(sample: Reader) -> None:
    for by in combinations(ALL_NAMES, 2):
        assert_adds_up(sample, by)


def test_a_float_could_not_hold_this_sum() -> None:
    costs = ["123456789012.123456789012", "0.000000000001", "0.000000000001"]
    entries = [make_entry(JOURNAL, number, cost_usd=money.usd(cost)) for number, cost in enumerate(costs, 1)]
    table = ask(entries, ("by", "provider"))
    assert table.document()["total_usd"] == "123456789012.123456789014"
    assert table.document()["rows"][0]["cost_usd"] == "123456789012.123456789014"


class Spoilt:
    """A reader whose engine counts a call too many into the groups, and that counts what it is asked."""

    def __init__(self, reader: Reader, *, lossy: bool) -> None:
        self.reader, self.lossy, self.asked = reader, lossy, 0
        self.entries, self.charges = reader.entries, reader.charges
        self.rollups, self.charge_rollups = reader.rollups, reader.charge_rollups

    def newest(self, field: str, hashes: Collection[str], /) -> Mapping[str, str]:
        return {}

    def execute(self, expression: Any, /) -> pa.Table:
        self.asked += 1
        answer = self.reader.execute(expression)
        first_group = answer["part"].to_pylist().index(1)
        if not self.lossy:
            return answer
        spoilt = pa.array(
            [value + 1 if row == first_group else value for row, value in enumerate(answer["calls"].to_pylist())]
        )
        return answer.set_column(answer.schema.get_field_index("calls"), "calls", spoilt)


def test_a_report_that_does_not_add_up_is_refused(sample: Reader) -> None:
    with pytest.raises(StoreFailed, match=r"does not add up: its rows cost .* run `costbearer doctor`"):
        ask(Spoilt(sample, lossy=True), ("by", "team"))


def test_one_statement_reads_one_state_of_the_ledger(sample: Reader) -> None:
    counting = Spoilt(sample, lossy=False)
    assert ask(counting, ("compare", "previous")) == ask(sample, ("compare", "previous"))
    assert counting.asked == 1


# --- missing values


def test_missing_and_empty_are_one_bucket_and_the_literal_text_is_another() -> None:
    values = ["(none)", None, "", "\\(none)", "search"]
    entries = [make_entry(JOURNAL, number, feature=value) for number, value in enumerate(values, 1)]
    with reader_of(entries) as reader:
        table = ask(reader, ("by", "feature"))
        alone = {key: ask(reader, ("by", "feature"), ("where", f"feature={key[0]}")) for key in rows_by_key(table)}
    assert {key[0]: row["calls"] for key, row in rows_by_key(table).items()} == {
        "(none)": 2,
        "\\(none)": 1,
        "\\\\(none)": 1,
        "search": 1,
    }
    for key, row in rows_by_key(table).items():
        assert answered(alone[key]) == {key: tuple(row[name] for name in NAMES)}


def test_the_model_is_the_one_that_answered_or_the_one_asked_for() -> None:
    entries = [
        make_entry(JOURNAL, 1, request_model="asked", response_model="answered"),
        make_entry(JOURNAL, 2, request_model="asked", response_model=None),
        make_entry(JOURNAL, 3, request_model=None, response_model=None),
    ]
    table = ask(entries, ("by", "model"), ("sort", "name"))
    assert [row[0] for row in table.rows] == ["(none)", "answered", "asked"]


# --- filters


def test_values_of_one_dimension_are_alternatives_and_dimensions_must_all_hold(sample: Reader) -> None:
    def chosen(*where: str) -> int:
        return int(ask(sample, *(("where", text) for text in where)).totals["calls"] or 0)

    def expected(test: Callable[[Entry], bool]) -> int:
        return sum(entry.calls for entry in SAMPLE if test(entry))

    assert chosen("team=search") == expected(lambda entry: entry.team == "search")
    assert chosen("team=search", "team=support") == expected(lambda entry: entry.team in {"search", "support"})
    assert chosen("team=search", "agent=writer") == expected(
        lambda entry: entry.team == "search" and entry.agent == "writer"
    )
    assert chosen("team=(none)") == expected(lambda entry: entry.team is None) == 1
    assert chosen("team=(none)", "team=search") == expected(lambda entry: entry.team in {None, "search"})
    assert chosen("tag:shift=2", "tag:shift=(none)") == expected(lambda entry: entry.tags.get("shift") in {"2", None})
    assert chosen("status=unknown") == 4


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        ("month=2026-11", 2),
        ("week=2026-W47", 2),
        ("day=2026-11-22", 1),
        ("hour=2026-11-22T23:00:00Z", 1),
        ("hour=2026-11-23T00:00:00Z", 0),
    ],
)
def test_a_bucket_of_time_as_a_filter(where: str, calls: int) -> None:
    moments = [
        datetime(2026, 10, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 11, 21, tzinfo=UTC),
        datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    entries = [make_entry(JOURNAL, number, started_at=moment) for number, moment in enumerate(moments, 1)]
    assert ask(entries, ("where", where), ("since", "2026-01-01")).totals["calls"] == calls


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=5, unique=True
    ),
    st.sampled_from(["feature", "route", "model", "key", "tag:shift"]),
)
def test_any_text_is_a_value_and_never_sql(values: list[str], name: str) -> None:
    column = {"model": "response_model", "key": "key_id"}.get(name, name)
    entries = [
        make_entry(JOURNAL, number, **({"tags": {"shift": value}} if name.startswith("tag:") else {column: value}))
        for number, value in enumerate(values, 1)
    ]
    with reader_of(entries) as reader:
        table = ask(reader, ("by", name), ("where", f"{name}={bucket(values[0])}"))
        assert {key: row["calls"] for key, row in rows_by_key(table).items()} == {(bucket(values[0]),): 1}
        assert ask(reader, ("by", name)).totals["calls"] == len(values)


HOSTILE = [
    "'; DROP TABLE entries; --",
    "' OR '1'='1",
    "\\' OR 1=1 --",
    '"',
    "'||(SELECT 1)||'",
    "%",
    "$1",
    "{0}",
    "\x00",
    "*/",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_tag_name_or_value_is_only_a_text(text: str) -> None:
    entries = [make_entry(JOURNAL, 1, tags={text: text}), make_entry(JOURNAL, 2, tags={"x": "y"})]
    with reader_of(entries) as reader:
        assert set(rows_by_key(ask(reader, ("by", f"tag:{text}")))) == {(text,), (NONE,)}
        assert ask(reader, ("where", f"feature={text}")).rows == ()
        assert ask(reader, ("by", "team")).totals["calls"] == 2


# --- periods


def test_the_period_is_half_open_to_the_microsecond() -> None:
    since, until = (
        datetime(2026, 11, 2, 3, 4, 5, 678901, tzinfo=UTC),
        datetime(2026, 11, 3, 4, 5, 59, 999999, tzinfo=UTC),
    )
    tick = timedelta(microseconds=1)
    moments = {"before": since - tick, "first": since, "last": until - tick, "after": until}
    entries = [
        make_entry(JOURNAL, number, feature=name, started_at=moment)
        for number, (name, moment) in enumerate(moments.items(), 1)
    ]
    table = ask(
        entries,
        ("by", "feature"),
        ("since", since.isoformat()),
        ("until", until.isoformat()),
        ("sort", "name"),
    )
    assert [row[0] for row in table.rows] == ["first", "last"]


def test_a_day_is_a_day_of_utc_whatever_the_machine_says() -> None:
    table = ask(
        [make_entry(JOURNAL, 1, started_at=datetime(2026, 11, 22, 0, 30, tzinfo=UTC))], ("by", "day,week,month,hour")
    )
    assert table.rows[0][:4] == ("2026-11-22", "2026-W47", "2026-11", "2026-11-22T00:00:00Z")


OCTOBER = datetime(2026, 10, 10, tzinfo=UTC)
CHANGE = [
    make_entry(JOURNAL, 1, feature="grew", cost_usd=money.usd("3"), started_at=BORN),
    make_entry(JOURNAL, 2, feature="grew", cost_usd=money.usd("1"), started_at=OCTOBER),
    make_entry(JOURNAL, 3, feature="gone", cost_usd=money.usd("5"), started_at=OCTOBER),
    make_entry(JOURNAL, 4, feature="new", cost_usd=money.usd("2"), started_at=BORN),
    make_entry(JOURNAL, 5, feature="older", cost_usd=money.usd("9"), started_at=datetime(2026, 9, 30, tzinfo=UTC)),
    make_unknown(JOURNAL, 6, feature="gone", started_at=OCTOBER),
]


def test_a_comparison_has_the_rows_of_both_periods_and_the_exact_change() -> None:
    period = [("since", "2026-11-01"), ("until", "2026-12-01")]
    table = ask(CHANGE, ("by", "feature"), *period, ("compare", "previous"), ("sort", "delta"))
    shown = [
        (row["feature"], row["cost_usd"], row["previous_usd"], row["delta_usd"]) for row in table.document()["rows"]
    ]
    zero, one, two, three, five = (money.text(money.usd(number)) for number in (0, 1, 2, 3, 5))
    assert shown == [("gone", zero, five, "-" + five), ("grew", three, one, two), ("new", two, zero, two)]
    document = table.document()
    assert (document["total_usd"], document["previous_usd"], document["delta_usd"]) == (
        money.text(money.usd(5)),
        money.text(money.usd(6)),
        "-" + one,
    )
    assert document["previous_unknown_calls"] == 1
    assert document["compare"] == {"since": "2026-10-01T00:00:00Z", "until": "2026-11-01T00:00:00Z"}
    assert document["rows"][0]["calls"] == 0
    assert document["rows"][0]["share"] == 0.0


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(entry_lists(), BY)
def test_changes_add_up_to_the_change(entries: list[Entry], by: list[str]) -> None:
    table = ask(entries, ("by", ",".join(by)), ("since", "2026-11-10"), ("compare", "2026-10..2026-11-10"))
    rows = rows_by_key(table).values()
    assert money.total(row["delta_usd"] for row in rows) == table.totals["delta_usd"]
    assert money.total(row["previous_usd"] for row in rows) == table.totals["previous_usd"]
    assert money.minus(table.totals["total_usd"], table.totals["previous_usd"]) == table.totals["delta_usd"]  # type: ignore[arg-type]


# --- order


def test_rows_are_sorted_by_cost_then_name_whatever_the_order_of_posting() -> None:
    costs = {"b": "1", "a": "1", "d": "1.000000000001", "c": "-2", "e": "0"}
    entries = [
        make_entry(JOURNAL, number, feature=name, cost_usd=money.usd(cost))
        for number, (name, cost) in enumerate(costs.items(), 1)
    ]
    for posted in (entries, entries[::-1]):
        table = ask(posted, ("by", "feature"))
        assert [row[0] for row in table.rows] == ["d", "a", "b", "e", "c"]


def test_amounts_that_no_float_tells_apart_are_sorted_exactly() -> None:
    costs = ["123456789012.123456789012", "123456789012.123456789013"]
    entries = [
        make_entry(JOURNAL, number, feature=f"f{number}", cost_usd=money.usd(cost)) for number, cost in enumerate(costs)
    ]
    assert [row[0] for row in ask(entries, ("by", "feature")).rows] == ["f1", "f0"]


# --- unknown cost, and nothing at all


@pytest.mark.parametrize(
    ("bounds", "total"),
    [(["0.05", "0.07"], Decimal("0.12")), (["0.05", None], None), ([], Decimal(0))],
)
def test_the_bound_of_the_unknown_holds_for_all_of_it_or_is_not_stated(
    bounds: list[str | None], total: Decimal | None
) -> None:
    entries = [make_entry(JOURNAL, 1)]
    entries += [
        make_unknown(JOURNAL, number, bound_usd=None if bound is None else money.usd(bound))
        for number, bound in enumerate(bounds, 2)
    ]
    table = ask(entries)
    assert table.totals["unknown_calls"] == len(bounds)
    assert table.totals["unknown_bound_usd"] == total


def test_a_reversal_takes_an_unknown_call_off_again() -> None:
    entries = [make_unknown(JOURNAL, 1), make_unknown(JOURNAL, 2, calls=-1, requests=-1, bound_usd=money.usd("-0.05"))]
    table = ask(entries)
    assert (table.totals["unknown_calls"], table.totals["unknown_bound_usd"]) == (0, 0)


@pytest.mark.parametrize(
    ("entries", "pairs", "why"),
    [
        ([], [], "no_entries"),
        ([], [("where", "team=x")], "no_entries"),
        (SAMPLE, [("until", "2026-11-02")], "none_in_period"),
        (SAMPLE, [("where", "team=x"), ("until", "2026-11-02")], "none_in_period"),
        (SAMPLE, [("where", "team=x")], "none_match"),
        (SAMPLE, [], None),
    ],
)
def test_why_there_are_no_rows(entries: list[Entry], pairs: list[tuple[str, str]], why: str | None) -> None:
    table = ask(entries, *pairs)
    assert table.empty == why
    assert bool(table.rows) == (why is None)
    if why:
        assert table.document()["total_usd"] == "0.000000000000"
        assert table.document()["calls"] == 0


# --- the machine form


def test_the_row_shape_that_scripts_rely_on() -> None:
    cost = money.usd("0.0002368")
    entries = [make_entry(JOURNAL, 1, cost_usd=cost), make_entry(JOURNAL, 4, cost_usd=cost, agent="writer")]
    document = ask(entries, ("by", "team,agent"), ("sort", "name")).document()
    assert document["rows"][0] == {
        "team": "search",
        "agent": "writer",
        "calls": 2,
        "requests": 2,
        "input_tokens": 205,
        "output_tokens": 45,
        "cost_usd": "0.000473600000",
        "effective_cost_usd": money.text(money.total(each.effective_cost_usd or money.ZERO for each in entries)),
        "share": 1.0,
        "unknown_calls": 0,
    }
    assert document["since"] == "2026-11-01T00:00:00Z"
    assert document["until"] == "2026-11-30T12:00:00Z"
    assert (document["by"], document["total_usd"]) == (["team", "agent"], "0.000473600000")
    assert (document["calls"], document["unknown_calls"]) == (2, 0)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(entry_lists(), BY, st.booleans())
def test_the_json_document_is_read_back_without_loss(entries: list[Entry], by: list[str], compared: bool) -> None:
    pairs = [("by", ",".join(by)), ("since", "2026-11-10"), ("where", "kind=usage"), ("where", "kind=(none)")]
    query = Query.parse([*pairs, *([("compare", "previous")] if compared else [])], now=NOW)
    with reader_of(entries) as reader:
        table = answer(reader, query, Beside(complete_to=NOW))
    assert read(msgspec.json.decode(table.to_json())) == table


@pytest.mark.parametrize(
    "change", [{"rows": None}, {"rows": [{}]}, {"by": ["colour"]}, {"total_usd": "x"}, {"where": 1}]
)
def test_an_answer_that_is_not_a_spend_report_is_refused(change: dict[str, Any]) -> None:
    document = ask(SAMPLE).document()
    assert read(document).rows
    with pytest.raises(RemoteFailed, match="is not a report"):
        read({**document, **change})


# --- the engine only adds

ADDING = (
    ops.Sum,
    ops.IsNull,
    ops.NotNull,
    ops.Field,
    ops.IfElse,
    ops.Coalesce,
    ops.Subtract,
    ops.Abs,
    ops.Literal,
    ops.SortKey,
    ops.Equals,
    ops.NotEquals,
)
"""All that a report may let the engine do to money: everything else rounds on one engine or overflows on another."""


def misuses(asked: Any) -> Iterator[str]:
    """Nodes of an expression that treat a decimal as anything but something to add."""
    for node in asked.op().find(ops.Value):
        touched = [argument for argument in node.args if isinstance(argument, ops.Value)]
        if any(isinstance(value.dtype, dt.Decimal) for value in touched) and not isinstance(node, ADDING):
            yield f"{type(node).__name__} on a decimal"
        if isinstance(node.dtype, dt.Floating):
            yield f"{type(node).__name__} makes a float"


class Tables:
    """A reader of nothing, for looking at expressions."""

    entries = ibis.table(ibis.Schema.from_pyarrow(ENTRIES_ARROW), name="entries")
    charges = ibis.table(ibis.Schema.from_pyarrow(CHARGES_ARROW), name="charges")
    rollups = ibis.table(ibis.Schema.from_pyarrow(CALLS.arrow), name=CALLS.name)
    charge_rollups = ibis.table(ibis.Schema.from_pyarrow(CHARGES.arrow), name=CHARGES.name)

    def execute(self, expression: Any, /) -> pa.Table:
        raise AssertionError("nothing is run")

    def newest(self, field: str, hashes: Collection[str], /) -> Mapping[str, str]:
        return {}


QUESTIONS = [
    [("by", name), *filters, *compared]
    for name in ALL_NAMES
    for filters in ([], [("where", "team=search"), ("where", "tag:shift=(none)"), ("where", "day=2026-11-22")])
    for compared in ([], [("compare", "previous"), ("sort", "delta")])
]


def test_no_report_divides_rounds_or_leaves_exact_decimals() -> None:
    for pairs in QUESTIONS:
        query = Query.parse(pairs, now=NOW)
        asked = expression(facts(Tables(), query), query)
        assert list(misuses(asked)) == [], pairs
        assert asked.schema()["cost_usd"] == dt.Decimal(38, 12)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cost: cost.mean(),
        lambda cost: cost.sum() / 2,
        lambda cost: cost.sum().round(2),
        lambda cost: cost.cast("float64").sum(),
        lambda cost: cost.sum().cast("decimal(18, 4)"),
        lambda cost: cost.sum() * 2,
        lambda cost: cost.median(),
        lambda cost: cost.std(),
        lambda cost: cost.sum() // 1,
        lambda cost: (cost * 0.5).sum(),
    ],
)
def test_the_rule_would_see_a_misuse(spoil: Callable[[Any], Any]) -> None:
    assert list(misuses(Tables.entries.aggregate(spoilt=spoil(Tables.entries["cost_usd"]))))
