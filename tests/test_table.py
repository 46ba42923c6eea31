from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from costbearer import money
from costbearer.reports.query import Query
from costbearer.reports.spend import columns
from costbearer.reports.table import Cell, Empty, Table, visible

NOW = datetime(2026, 11, 22, 19, 34, 12, tzinfo=UTC)


def table_of(
    rows: Sequence[tuple[Cell, ...]],
    *pairs: tuple[str, str],
    totals: dict[str, int | Decimal | None] | None = None,
    complete_to: datetime | None = NOW,
    empty: Empty | None = None,
) -> Table:
    """A table of rows as a report would make it, with its total counted from them."""
    query = Query.parse(pairs, now=NOW)
    named = columns(query)
    counted: dict[str, int | Decimal | None] = {
        "unknown_bound_usd": money.ZERO,
        "estimated_calls": 0,
        "estimated_usd": money.ZERO,
    }
    for position, column in enumerate(named):
        cells: list[Any] = [row[position] for row in rows]
        if column.kind == "count":
            counted[column.name] = sum(cells)
        elif column.kind in {"usd", "delta"}:
            counted["total_usd" if column.name == "cost_usd" else column.name] = money.total(cells)
    return Table(
        "Spend by " + ", ".join(query.by), query, named, tuple(rows), {**counted, **(totals or {})}, complete_to, empty
    )


def row(key: str, cost: str, share: float | None = 0.5, *, calls: int = 2, unknown: int = 0) -> tuple[Cell, ...]:
    return (key, calls, calls, 1234 * calls, 56 * calls, money.usd_sum(cost), share, unknown, money.usd_sum(cost))


PLAIN = table_of(
    [row("search", "1234.5", 0.9999), row("support", "0.0002368", 0.0001), row("(none)", "0", 0.0, calls=1)],
    ("by", "team"),
    totals={"unknown_calls": 0},
)

GOLDEN_PLAIN = """\
Spend by team
period    2026-11-01T00:00:00Z to 2026-11-22T19:34:12Z, the end excluded

                           input  output                      unknown
team     calls  requests  tokens  tokens        cost   share    calls
---------------------------------------------------------------------
search       2         2   2,468     112   $1,234.50  100.0%        0
support      2         2   2,468     112  $0.0002368   <0.1%        0
(none)       1         1   1,234      56       $0.00    0.0%        0
---------------------------------------------------------------------
total        5         5   6,170     280   $1,234.50  100.0%        0

complete to 2026-11-22T19:34:12Z
reproduce: costbearer report spend --by team --since 2026-11-01T00:00:00Z --until 2026-11-22T19:34:12Z
"""


def test_the_text_of_a_plain_report() -> None:
    assert PLAIN.to_text(80) == GOLDEN_PLAIN


GOLDEN_COMPARED = """\
Spend by team
period    2026-11-08T00:00:00Z to 2026-11-15T00:00:00Z, the end excluded
compared  2026-11-01T00:00:00Z to 2026-11-08T00:00:00Z, the end excluded
where     env = prod or (none)
where     agent = writer

                           input  output                   unknown
team     calls  requests  tokens  tokens     cost   share    calls  previous     change
---------------------------------------------------------------------------------------
search       2         2   1,000     200    $3.00  100.0%        0     $1.00     +$2.00
support      1         1       -       -  unknown       -        1     $2.00    unknown
older        1         1      10       2    $0.50   10.0%        0   unknown    unknown
gone         0         0       0       0    $0.00    0.0%        0  $0.00125  -$0.00125
---------------------------------------------------------------------------------------
total        4         4   1,010     202    $3.50  100.0%        1     $3.00  +$0.49875

1 call whose cost is not known, at most $0.05, not in the total.
3 calls of the period compared with whose cost is not known.
1 call whose cost is estimated, $0.50 of the total.

complete to 2026-11-22T19:34:12Z
reproduce: costbearer report spend --by team --where env=prod --where 'env=(none)' --where agent=writer \
--since 2026-11-08T00:00:00Z --until 2026-11-15T00:00:00Z \
--compare 2026-11-01T00:00:00Z..2026-11-08T00:00:00Z --sort delta
"""


def test_the_text_of_a_comparison_tells_unknown_from_nothing() -> None:
    table = table_of(
        [
            (
                "search",
                2,
                2,
                1000,
                200,
                money.usd_sum("3"),
                1.0,
                0,
                money.usd_sum("3"),
                1,
                0,
                money.usd_sum("1"),
                money.usd_sum("2"),
            ),
            ("support", 1, 1, 0, 0, money.ZERO, 0.0, 1, money.ZERO, 1, 0, money.usd_sum("2"), money.usd_sum("-2")),
            (
                "older",
                1,
                1,
                10,
                2,
                money.usd_sum("0.5"),
                0.1,
                0,
                money.usd_sum("0.5"),
                3,
                3,
                money.ZERO,
                money.usd_sum("0.5"),
            ),
            (
                "gone",
                0,
                0,
                0,
                0,
                money.ZERO,
                0.0,
                0,
                money.ZERO,
                1,
                0,
                money.usd_sum("0.00125"),
                money.usd_sum("-0.00125"),
            ),
        ],
        *[("by", "team"), ("where", "env=prod"), ("where", "env=(none)"), ("where", "agent=writer")],
        *[("since", "2026-11-08"), ("until", "2026-11-15"), ("compare", "previous"), ("sort", "delta")],
        totals={
            "unknown_bound_usd": money.usd_sum("0.05"),
            "estimated_calls": 1,
            "estimated_usd": money.usd_sum("0.5"),
        },
    )
    assert table.to_text() == GOLDEN_COMPARED


def test_the_text_says_what_is_missing_from_the_total() -> None:
    table = table_of([row("search", "1", unknown=1)], totals={"unknown_bound_usd": money.usd_sum("0.0412")})
    assert "\n1 call whose cost is not known, at most $0.0412, not in the total.\n" in table.to_text()
    unbounded = table_of([row("search", "1", calls=2000, unknown=1500)], totals={"unknown_bound_usd": None})
    assert "\n1,500 calls whose cost is not known, without a bound, not in the total.\n" in unbounded.to_text()
    assert "not known" not in PLAIN.to_text()


def test_a_bucket_of_unknown_cost_is_never_shown_as_nothing() -> None:
    table = table_of([row("search", "0", 0.0, calls=3, unknown=3)], totals={"unknown_bound_usd": money.usd_sum("0.15")})
    text = table.to_text()
    assert re.search(r"^search +3 +3 +3,702 +168 +unknown +- +3$", text, re.MULTILINE)
    assert re.search(r"^total +3 +3 +3,702 +168 +unknown +- +3$", text, re.MULTILINE)
    assert "$0.00" not in text


@pytest.mark.parametrize(
    ("empty", "says"),
    [
        ("no_entries", "No calls are recorded yet."),
        ("none_in_period", "No calls in this period; there are some outside it."),
        ("none_match", "No call in this period matches the filter"),
    ],
)
def test_nothing_to_show_says_why(empty: Empty, says: str) -> None:
    text = table_of([], ("where", "team=x"), empty=empty).to_text()
    assert f"\n\n{says}" in text
    assert "reproduce: costbearer report spend --by team --where team=x" in text
    assert "$" not in text


def test_a_table_without_a_stamp_claims_no_completeness() -> None:
    assert "complete to" not in table_of([row("a", "1")], complete_to=None).to_text()
    assert table_of([row("a", "1")], complete_to=None).document()["complete_to"] is None


# --- widths

LONG = "a-team-with-a-name-that-is-much-longer-than-any-column-of-a-terminal-should-be-" * 2


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100, 120, 200, None])
@pytest.mark.parametrize("name", ["search", LONG, "検索チーム" * 20, "e\u0301" * 30])
def test_numbers_are_never_cut_and_names_never_lost(width: int | None, name: str) -> None:
    amount = "12345678901234.567890123456"
    table = table_of([row(name, amount), row("small", "0.000000000001")])
    text = table.to_text(width)
    grid = text.split("\n\n")[1].splitlines()
    for number in (money.display(money.usd_sum(amount)), "$0.000000000001", "2,468", "50.0%"):
        assert re.search(rf"(?<!\S){re.escape(number)}(?!\S)", text), number
    body = grid[3 : grid.index(grid[2], 3)]
    assert "…" not in text
    folded = "".join(line.split("  ")[0] for line in body if not line.startswith(" "))
    assert name.replace("\u0301", "") in folded.replace("\u0301", "")
    if width is not None and width >= 120:
        assert max(cell_len(line) for line in grid) <= width


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "TTY_COMPATIBLE"])
def test_the_environment_changes_nothing(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("1", "", "dumb", "7"):
        monkeypatch.setenv(variable, value)
        assert PLAIN.to_text(80) == GOLDEN_PLAIN


@given(st.text(max_size=40))
def test_a_bucket_cannot_steer_the_terminal(name: str) -> None:
    text = table_of([row(name, "1")], complete_to=None).to_text(80)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert visible(name).isprintable()


def test_markup_and_emoji_codes_are_only_text() -> None:
    text = table_of([row("[red]:smile:[/red]", "1")]).to_text()
    assert "[red]:smile:[/red]" in text


# --- CSV


def test_the_csv_of_a_plain_report() -> None:
    assert PLAIN.to_csv() == (
        "team,calls,requests,input_tokens,output_tokens,cost_usd,share,unknown_calls,effective_cost_usd\n"
        "search,2,2,2468,112,1234.500000000000,0.9999,0,1234.500000000000\n"
        "support,2,2,2468,112,0.000236800000,0.0001,0,0.000236800000\n"
        "(none),1,1,1234,56,0.000000000000,0.0,0,0.000000000000\n"
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_a_spreadsheet_runs_no_bucket_as_a_formula(start: str) -> None:
    name = start + 'HYPERLINK("http://example.invalid")'
    table = table_of([row(name, "-1", -0.5)], ("by", "feature"))
    (_, cells) = csv.reader(io.StringIO(table.to_csv(), newline=""))
    assert cells[0] == "'" + name
    assert (cells[5], cells[6]) == ("-1.000000000000", "-0.5")
    assert json.loads(table.to_json())["rows"][0]["feature"] == name


# --- every surface, the same numbers

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\x85"), min_size=1, max_size=15
)
ROWS = st.lists(
    st.tuples(
        NAMES,
        st.integers(-5, 10**7),
        st.integers(-(10**30), 10**36).map(lambda units: Decimal(units).scaleb(-12)),
        st.none() | st.floats(-2, 2).map(lambda value: value + 0.0),
        st.integers(0, 3),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_json_csv_and_text_show_the_same_numbers(drawn: list[tuple[str, int, Decimal, float | None, int]]) -> None:
    rows: list[tuple[Cell, ...]] = [
        (name, calls, calls, calls, calls, money.usd_sum(cost), share, unknown, money.usd_sum(cost))
        for name, calls, cost, share, unknown in drawn
    ]
    table = table_of(rows)
    document = json.loads(table.to_json())
    head, *lines = csv.reader(io.StringIO(table.to_csv(), newline=""))
    assert len(document["rows"]) == len(lines) == len(rows)
    text = table.to_text()
    for shown, line, source in zip(document["rows"], lines, rows, strict=True):
        assert list(shown) == head
        assert money.usd_sum(shown["cost_usd"]) == money.usd_sum(line[5]) == source[5]
        assert [str(shown[name]) for name in head[1:5]] == line[1:5]
        assert line[6] == ("" if shown["share"] is None else str(shown["share"]))
        nothing_known = source[1] and source[1] == source[7] and not source[5]
        assert (money.display(None) if nothing_known else money.display(money.usd_sum(shown["cost_usd"]))) in text
    assert money.usd_sum(document["total_usd"]) == money.total(money.usd_sum(line[5]) for line in lines)
    assert money.display(money.usd_sum(document["total_usd"])) in text or "unknown" in text
