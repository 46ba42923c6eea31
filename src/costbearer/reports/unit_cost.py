"""`report unit-cost`: the cost to serve each customer, and of one request, session, user or unit of business.

A business figure is imported (`costbearer figures import`) as lines of date, amount and label; the label is the bucket
of the one dimension that is grouped by. Where there is no figure there is a gap, never a cost of zero or of everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import QueryInvalid, StoreFailed
from costbearer.figures import Figure
from costbearer.ledger import HASHED
from costbearer.reports import spend
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST, bucket
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

FORM = Form(
    "unit-cost",
    "Cost to serve: each customer's cost, and of one request, session, user or business unit.",
    takes=("by", "per", "where", "since", "until", "sort", "tz", "limit"),
    by="customer",
    per="request,session,user",
)
COUNTED: Mapping[str, str | None] = {"request": None, "session": "session_id", "trace": "trace_id", "user": "user"}
"""Units that the ledger counts itself: requests add up, the others are distinct values of a column."""


class _Unit(NamedTuple):
    """How many there are of a unit: by bucket, and of all together."""

    name: str
    amounts: Mapping[tuple[str, ...], Decimal | int]
    total: Decimal | int | None


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per customer, with how many units there were and the cost of one.

    Raises:
        QueryInvalid: a figure is unknown, or cannot be joined.
        StoreFailed: the groups do not add up to the total.
    """
    names = (query.option("per") or "").split(",")
    found = spend.sums(reader, query)
    lines = _led_on(reader, query, _figures(query, names, beside))
    units = [
        _of_figure(name, lines[name], query) if name in lines else _counted(reader, query, name, found)
        for name in names
    ]
    groups = [*found.groups, *([found.rest] if found.rest else [])]
    whole = found.total.now.cost_usd
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        cells: list[Cell] = []
        for unit in units:
            amount = unit.amounts.get(group.key)
            cells += [_shown(amount), _each(group.now.cost_usd, amount)]
        now = group.now
        rows.append((*group.key, now.calls, now.cost_usd, money.share(now.cost_usd, whole), now.unknown_calls, *cells))
    known = ("calls", "unknown_calls")
    columns = (
        *(Column(name, name, "bucket") for name in query.by),
        Column("calls", "calls", "count"),
        Column("cost_usd", "cost", "usd", (known,)),
        Column("share", "share", "share", (known,)),
        Column("unknown_calls", "unknown\ncalls", "count"),
        *(
            column
            for unit in units
            for column in (
                Column(_plural(unit.name), _plural(unit.name), "count" if unit.name in COUNTED else "text"),
                Column(f"usd_per_{unit.name}", f"per {unit.name}", "unit"),
            )
        ),
    )
    more: dict[str, Any] = {}
    for unit in units:
        if unit.name in COUNTED:
            more[_plural(unit.name)] = unit.total
        more[f"usd_per_{unit.name}"] = _each(whole, unit.total)
    return spend.table(
        (reader, query, beside),
        found,
        title=f"Cost to serve by {', '.join(query.by)}",
        columns=columns,
        rows=rows,
        more=more,
        notes=_notes(units, query),
        form=FORM,
    )


def _each(cost: Decimal, amount: Decimal | int | None) -> Decimal | None:
    return money.per(cost, amount) if amount else None


def _shown(amount: Decimal | int | None) -> Cell:
    return money.plain(amount) if isinstance(amount, Decimal) else amount


def _plural(name: str) -> str:
    return name + "s" if name in COUNTED else name


def _figures(query: Query, names: Sequence[str], beside: Beside) -> dict[str, Sequence[Figure]]:
    """The lines of the business figures among the units."""
    found: dict[str, Sequence[Figure]] = {}
    for name in names:
        if name in COUNTED:
            continue
        lines = beside.figures(name)
        if lines is None:
            known = ", ".join((*COUNTED, *beside.figure_names()))
            raise QueryInvalid({"per": f"there is no business figure {name!r}; known are {known}"})
        if len(query.by) != 1:
            raise QueryInvalid({"per": f"{name} is joined on one dimension; --by names {len(query.by)}"})
        if name in query.by:
            raise QueryInvalid({"per": f"{name} is what the rows are grouped by; a figure needs another name"})
        found[name] = lines
    return found


def _led_on(reader: Reader, query: Query, figures: Mapping[str, Sequence[Figure]]) -> Mapping[str, Sequence[Figure]]:
    """Lines labelled with a tenant's or user's hash, under the newest one, as the rows have it."""
    if not figures or query.by[0] not in HASHED:
        return figures
    newest = reader.newest(query.by[0], {line.label for lines in figures.values() for line in lines if line.label})
    return {
        name: [line._replace(label=newest.get(line.label, line.label)) for line in lines]
        for name, lines in figures.items()
    }


def _of_figure(name: str, lines: Sequence[Figure], query: Query) -> _Unit:
    """What lies in the period. Lines without a label count in the total alone, unless the rows are filtered."""
    amounts: dict[tuple[str, ...], Decimal] = defaultdict(Decimal)
    wanted = dict(query.where).get(query.by[0])
    total: Decimal = Decimal(0)
    for line in lines:
        begins = query.zone.moment(datetime.combine(line.day, time()))
        if not query.period.since <= begins < query.period.until:
            continue
        label = bucket(line.label or None) if line.label else ""
        if wanted is not None and label not in wanted:
            continue
        if label:
            amounts[(label,)] += line.amount
        total += line.amount
    return _Unit(name, amounts, total)


def _counted(reader: Reader, query: Query, name: str, found: spend.Sums) -> _Unit:
    column = COUNTED[name]
    if column is None:
        groups = [*found.groups, *([found.rest] if found.rest else [])]
        return _Unit(name, {group.key: group.now.requests for group in groups}, found.total.now.requests)
    entries = reader.entries
    calls = entries.filter([*query.within(entries, query.period), entries["calls"] > 0])
    values = calls[column].nullif("")
    grouped = calls.group_by(**query.keys(calls)).aggregate(count=values.nunique())
    amounts = {query.buckets(row): int(row["count"]) for row in reader.execute(grouped).to_pylist()}
    (total,) = reader.execute(calls.aggregate(count=values.nunique())).to_pylist()
    if any(count < 0 for count in amounts.values()):
        raise StoreFailed("a count of distinct values is negative")
    # What lies behind the limit is many groups with values in common: their number is not the sum, and not asked for.
    return _Unit(name, {key: count for key, count in amounts.items() if key != (REST,)}, int(total["count"]))


def _notes(units: Sequence[_Unit], query: Query) -> list[str]:
    gaps = [unit.name for unit in units if unit.name not in COUNTED and not unit.amounts]
    notes = [f"No line of {name} has a label that is a value of {query.by[0]}." for name in gaps]
    if any(COUNTED.get(unit.name) for unit in units):
        notes.append("Totals of sessions, traces and users are distinct ones: one that several rows share counts once.")
    return notes
