"""`report agents`: what each agent costs itself and with all that it sets going, per run, and how it grows.

A run is a trace. What an agent *rolls up* is the cost of all calls of the runs that it began (whose first call was its
own) and of its calls outside any trace: own and rolled-up costs both add up to the total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.reports import spend
from costbearer.reports.beside import Beside
from costbearer.reports.chargeback import growth
from costbearer.reports.query import LIMIT_MAX, Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

FORM = Form(
    "agents",
    "What each agent costs itself and with all that its runs set going, per run, and how it grows.",
    takes=("by", "where", "since", "until", "compare", "sort", "tz", "limit"),
    by="team,agent",
    compare="previous",
)
_RANKS = 1000
"""Places for the order of calls that began in one microsecond."""

Key = tuple[str, ...]


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per agent.

    Raises:
        StoreFailed: own or rolled-up costs do not add up to the total.
    """
    found = spend.sums(reader, query)
    rolled = _rolled_up(reader, query)
    whole = found.total.now.cost_usd
    if money.total(cost for _, cost, _ in rolled.values()) != whole:
        raise StoreFailed("rolled-up costs do not add up to the total; run `costbearer doctor`")
    groups = [*found.groups, *([found.rest] if found.rest else [])]
    listed = {group.key for group in found.groups}
    behind = [value for key, value in rolled.items() if key not in listed]
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        now, before = group.now, group.before
        runs, cost, traced = rolled.get(group.key, (0, money.ZERO, money.ZERO))
        if group is found.rest:
            runs = sum(each[0] for each in behind)
            cost, traced = money.total(each[1] for each in behind), money.total(each[2] for each in behind)
        rows.append(
            (
                *group.key,
                now.calls,
                now.requests,
                runs,
                now.cost_usd,
                cost,
                money.per(traced, runs),
                money.share(now.cost_usd, whole),
                now.unknown_calls,
                before.cost_usd,
                money.minus(now.cost_usd, before.cost_usd),
                growth(now.cost_usd, before.cost_usd),
            )
        )
    known = ("calls", "unknown_calls")
    columns = (
        *(Column(name, name, "bucket") for name in query.by),
        Column("calls", "calls", "count"),
        Column("requests", "", "count"),
        Column("runs", "runs", "count"),
        Column("cost_usd", "own cost", "usd", (known,)),
        Column("rolled_up_usd", "rolled up", "usd"),
        Column("usd_per_run", "per run", "unit"),
        Column("share", "share", "share", (known,)),
        Column("unknown_calls", "unknown\ncalls", "count"),
        Column("previous_usd", "previous", "usd"),
        Column("delta_usd", "change", "delta"),
        Column("growth", "growth", "change"),
    )
    runs = sum(each[0] for each in rolled.values())
    traced = money.total(each[2] for each in rolled.values())
    return spend.table(
        (reader, query, beside),
        found,
        title=f"Agents by {', '.join(query.by)}",
        columns=columns,
        rows=rows,
        more={"runs": runs, "rolled_up_usd": whole, "usd_per_run": money.per(traced, runs)},
        notes=("Rolled up: all calls of the runs (traces) that an agent began, and its own outside runs.",),
        form=FORM,
    )


def _rolled_up(reader: Reader, query: Query) -> Mapping[Key, tuple[int, Any, Any]]:
    """By agent: runs it began, what it rolls up, and what of that lies in runs."""
    asked = replace(query, compare=None, limit=LIMIT_MAX)
    entries = reader.entries
    calls = entries.filter(asked.within(entries, asked.period))
    trace = calls["trace_id"].nullif("")
    # An engine's argmin passes over what is missing; an empty text, which no column has, stands for it.
    keys = {name: key.fill_null("") if key.type().is_string() else key for name, key in asked.keys(calls).items()}
    rank = calls["started_at"].epoch_seconds().cast("int64")
    micro = calls["started_at"].microsecond().cast("int64")
    order = (rank * 1_000_000 + micro) * _RANKS + calls["sequence"] % _RANKS
    marked = calls.mutate(trace=trace, order=order, **keys)
    inside, outside = marked.filter(marked["trace"].notnull()), marked.filter(marked["trace"].isnull())
    parts = inside.group_by(["trace", *keys]).aggregate(cost_usd=inside["cost_usd"].sum(), first=inside["order"].min())
    runs = parts.group_by("trace").aggregate(
        **{name: parts[name].argmin(parts["first"]) for name in keys}, cost_usd=parts["cost_usd"].sum()
    )
    begun = runs.group_by(list(keys)).aggregate(runs=runs.count(), cost_usd=runs["cost_usd"].sum())
    alone = outside.group_by(list(keys)).aggregate(cost_usd=outside["cost_usd"].sum())
    found: dict[Key, tuple[int, Any, Any]] = {}
    for row in _rows(reader, begun):
        cost = row["cost_usd"] or money.ZERO
        found[asked.buckets(row)] = (row["runs"], cost, cost)
    for row in _rows(reader, alone):
        key = asked.buckets(row)
        runs_, cost, traced = found.get(key, (0, money.ZERO, money.ZERO))
        found[key] = (runs_, money.total((cost, row["cost_usd"] or money.ZERO)), traced)
    return found


def _rows(reader: Reader, expression: Any) -> list[dict[str, Any]]:
    rows = reader.execute(expression).to_pylist()
    return [{name: None if value == "" else value for name, value in row.items()} for row in rows]
