"""`report chargeback`: what each bearer is charged, against the period before, and what its month will cost.

By team unless asked otherwise; by workload, environment, project or cost center just as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from costbearer import money
from costbearer.reports import spend
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST
from costbearer.reports.facts import facts
from costbearer.reports.forecast import MONTHS, WEEKS, Forecast, forecast
from costbearer.reports.periods import FIRST, Period, month_of, months_later
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

FORM = Form(
    "chargeback",
    "What each team (or workload, project, cost center...) bears, how it changed, and what its month will cost.",
    compare="previous",
)
_DAY = timedelta(days=1)

Key = tuple[str, ...]


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per bearer. A forecast is made where the period is a month that is not over.

    Raises:
        StoreFailed: the groups do not add up to the total.
    """
    found = spend.sums(reader, query)
    expected = _forecasts(reader, query, found) if _foreseeable(query) else None
    whole = found.total.now.cost_usd
    groups = [*found.groups, *([found.rest] if found.rest else [])]
    rows = [_row(group, whole, expected.get(group.key) if expected is not None else None) for group in groups]
    now, before = ("calls", "unknown_calls"), ("previous_calls", "previous_unknown_calls")
    columns = [
        *(Column(name, name, "bucket") for name in query.by),
        Column("calls", "calls", "count"),
        Column("requests", "", "count"),
        Column("cost_usd", "cost", "usd", (now,)),
        Column("share", "share", "share", (now,)),
        Column("unknown_calls", "unknown\ncalls", "count"),
        Column("effective_cost_usd", "", "usd"),
        Column("previous_calls", "", "count"),
        Column("previous_unknown_calls", "", "count"),
        Column("previous_usd", "previous", "usd", (before,)),
        Column("delta_usd", "change", "delta", (now, before)),
        Column("growth", "growth", "change"),
    ]
    more: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if expected is not None:
        columns += [
            Column("forecast_usd", "forecast", "unit"),
            Column("forecast_low_usd", "from", "unit"),
            Column("forecast_high_usd", "to", "unit"),
        ]
        total = expected[()]
        more = {
            "forecast_usd": money.total(_usd(row[-3]) for row in rows),
            "forecast_low_usd": total.low_usd,
            "forecast_high_usd": total.high_usd,
        }
        notes = (
            f"Forecast to the end of the month: the rest at the mean of the same weekdays of the last {WEEKS} weeks; "
            f"from and to are how far that was off in the last {MONTHS} months. The total's band is its own, no sum.",
        )
    else:
        rows = [row[:-3] for row in rows]
    return spend.table(
        (reader, query, beside),
        found,
        title=f"Chargeback by {', '.join(query.by)}",
        columns=columns,
        rows=rows,
        more=more,
        notes=notes,
        form=FORM,
    )


def growth(now: Decimal, before: Decimal) -> float | None:
    """The change as a ratio of what was before; None where that was nothing."""
    return money.share(money.minus(now, before), before)


def _row(group: spend.Group, whole: Decimal, expected: Forecast | None) -> tuple[Cell, ...]:
    now, before = group.now, group.before
    return (
        *group.key,
        now.calls,
        now.requests,
        now.cost_usd,
        money.share(now.cost_usd, whole),
        now.unknown_calls,
        now.effective_cost_usd,
        before.calls,
        before.unknown_calls,
        before.cost_usd,
        money.minus(now.cost_usd, before.cost_usd),
        growth(now.cost_usd, before.cost_usd),
        expected.usd if expected else None,
        expected.low_usd if expected else None,
        expected.high_usd if expected else None,
    )


def _usd(cell: Cell) -> Decimal:
    return cell if isinstance(cell, Decimal) else money.ZERO


def _foreseeable(query: Query) -> bool:
    """The period is a calendar month from its first moment that is not over."""
    month = month_of(query.period.since, query.zone)
    return month.since == query.period.since < query.period.until < month.until


def _forecasts(reader: Reader, query: Query, found: spend.Sums) -> Mapping[Key, Forecast]:
    """By bearer, and under the empty key for all together."""
    zone, until = query.zone, query.period.until
    wall = zone.wall(until)
    today = wall.date()
    first = zone.wall(query.period.since).replace(tzinfo=None)
    begin = months_later(first, -MONTHS) - _DAY * 7 * WEEKS
    since = max(zone.moment(begin), FIRST)
    asked = replace(query, by=(*query.by, "day"), period=Period(since, until), compare=None)
    known = facts(reader, asked)
    table = known.table
    daily = table.group_by(**asked.keys(table)).aggregate(**known.sums(table, ["cost_usd"]))
    costs: dict[Key, dict[date, Decimal]] = defaultdict(dict)
    whole: dict[date, Decimal] = defaultdict(lambda: money.ZERO)
    listed = {group.key for group in found.groups}
    for row in reader.execute(daily).to_pylist():
        *key, day = asked.buckets(row)
        bearer = tuple(key) if tuple(key) in listed else (REST,) * len(query.by)
        when, cost = date.fromisoformat(day), row["cost_usd"] or money.ZERO
        costs[bearer][when] = money.total((costs[bearer].get(when, money.ZERO), cost))
        whole[when] = money.total((whole[when], cost))
    passed = _passed(wall, query)
    made = {key: forecast(daily, today=today, passed=passed) for key, daily in costs.items()}
    return made | {(): forecast(whole, today=today, passed=passed)}


def _passed(wall: datetime, query: Query) -> Decimal:
    """How much of the day at whose moment the period ends is over, 0 to 1."""
    zone = query.zone
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    begin, end = zone.moment(midnight), zone.moment(midnight + _DAY)
    unit = timedelta(microseconds=1)
    return money.ratio((query.period.until - begin) // unit, (end - begin) // unit)
