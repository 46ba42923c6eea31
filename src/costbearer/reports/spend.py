"""`report spend`: calls, tokens and exact cost by any dimensions, with a period to compare with.

The engine only adds; shares and differences are made by `money`. Groups and total come out of one statement, hence of
one state of the ledger, by two different sums, and a report whose rows do not add up to its total is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST
from costbearer.reports.facts import Facts, facts
from costbearer.reports.query import SPEND, Form, Query, Reader
from costbearer.reports.table import Cell, Column, Empty, Source, Table

_ZERO_TYPE = f"decimal({money.DIGITS},{money.PLACES})"
_GROUP, _GROUPS, _TOTAL = 0, 1, 2
_BEFORE = "previous_"


class Figures(NamedTuple):
    """Sums over some entries: signed counts that add, and USD. `unbounded_calls` are unknown without a bound."""

    calls: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unknown_calls: int = 0
    estimated_calls: int = 0
    unbounded_calls: int = 0
    cost_usd: Decimal = money.ZERO
    effective_cost_usd: Decimal = money.ZERO
    estimated_usd: Decimal = money.ZERO
    unknown_bound_usd: Decimal = money.ZERO

    def minus(self, other: Figures) -> Figures:
        made: dict[str, Any] = {}
        mine: Any
        theirs: Any
        for name, mine, theirs in zip(self._fields, self, other, strict=True):
            made[name] = money.minus(mine, theirs) if isinstance(mine, Decimal) else mine - theirs
        return Figures(**made)


NOTHING = Figures()
_COUNTS = tuple(name for name, value in NOTHING._asdict().items() if isinstance(value, int))


class Group(NamedTuple):
    """One row of an answer: its buckets, and what they add up to in the period and in the one compared with."""

    key: tuple[str, ...]
    now: Figures
    before: Figures


class Sums(NamedTuple):
    """The groups of a question, at most as many as it asks for, what lies behind them, and everything together."""

    groups: list[Group]
    rest: Group | None
    rest_count: int
    total: Group
    source: Source


def columns(query: Query) -> tuple[Column, ...]:
    """The columns of this question's answer."""
    now, before = ("calls", "unknown_calls"), ("previous_calls", "previous_unknown_calls")
    compared = (
        Column("previous_calls", "", "count"),
        Column("previous_unknown_calls", "", "count"),
        Column("previous_usd", "previous", "usd", (before,)),
        Column("delta_usd", "change", "delta", (now, before)),
    )
    return (
        *(Column(name, name, "bucket") for name in query.by),
        Column("calls", "calls", "count"),
        Column("requests", "requests", "count"),
        Column("input_tokens", "input\ntokens", "count", (now,)),
        Column("output_tokens", "output\ntokens", "count", (now,)),
        Column("cost_usd", "cost", "usd", (now,)),
        Column("share", "share", "share", (now,)),
        Column("unknown_calls", "unknown\ncalls", "count"),
        Column("effective_cost_usd", "", "usd"),
        *(compared if query.compare else ()),
    )


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """Calls, tokens and exact cost.

    Raises:
        StoreFailed: the groups do not add up to the total; the engine cannot be trusted.
    """
    found = sums(reader, query)
    whole = found.total.now.cost_usd
    rows = [_row(group, whole, query) for group in found.groups]
    rows += [_row(found.rest, whole, query)] if found.rest else []
    return table(
        (reader, query, beside),
        found,
        title=f"Spend by {', '.join(query.by)}",
        columns=columns(query),
        rows=rows,
        form=SPEND,
    )


def table(
    asked: tuple[Reader, Query, Beside],
    found: Sums,
    *,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[Cell, ...]],
    form: Form,
    more: Mapping[str, Any] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> Table:
    """The table of a report whose rows are the groups of `sums`: its totals and `more` of them, why it is empty, what
    lies behind the limit."""
    reader, query, beside = asked
    return Table(
        title=title,
        query=query,
        columns=tuple(columns),
        rows=tuple(rows),
        totals={**totals(found.total, query), **more},
        complete_to=beside.complete_to,
        empty=None if rows else why_empty(reader, query),
        notes=(*rest_note(found), *notes),
        source=found.source,
        form=form,
    )


def sums(reader: Reader, query: Query) -> Sums:
    """The groups in the order that is asked for, and the total that they were proved to add up to.

    Raises:
        StoreFailed: they do not.
    """
    known = facts(reader, query)
    answer = reader.execute(expression(known, query)).to_pylist()
    found: dict[int, list[Group]] = {_GROUP: [], _GROUPS: [], _TOTAL: []}
    count = 0
    for record in answer:
        key = query.buckets(record) if record["part"] == _GROUP else ()
        found[record["part"]].append(Group(key, figures_of(record), figures_of(record, _BEFORE)))
        count = max(count, record["groups"])
    (together,), (total,) = found[_GROUPS], found[_TOTAL]
    _check(together, total, query)
    groups = sorted(found[_GROUP], key=lambda group: _order(group, query))
    rest = None
    if count > len(groups):
        listed = Group((), add(group.now for group in groups), add(group.before for group in groups))
        key = (REST,) * len(query.by)
        rest = Group(key, total.now.minus(listed.now), total.before.minus(listed.before))
    return Sums(groups, rest, count - len(groups), total, known.source)


def expression(known: Facts, query: Query) -> Any:
    """The whole question as one Ibis expression: the groups, what they add up to, and, on its own, the total.

    Columns: `part`, `by_0`, `by_1`, ..., the fields of `Figures`, those of the period compared with after `previous_`,
    and `groups`, how many groups there are.
    """
    import ibis

    table = known.table
    keys = query.keys(table)
    measured = _measured(known, table, query)
    groups = table.group_by(**keys).aggregate(**measured)
    names = list(measured)
    listed = groups.order_by(_ranked(groups, keys, query)).limit(query.limit)
    together = groups.aggregate(**{name: groups[name].sum() for name in names}, groups=groups.count())
    total = table.aggregate(**measured)
    nothing = {name: ibis.null(key.type()) for name, key in keys.items()}
    order = ["part", *keys, *names, "groups"]
    parts = [
        listed.mutate(part=ibis.literal(_GROUP, "int8"), groups=ibis.literal(0, "int64")),
        together.mutate(part=ibis.literal(_GROUPS, "int8"), **nothing),
        total.mutate(part=ibis.literal(_TOTAL, "int8"), groups=ibis.literal(0, "int64"), **nothing),
    ]
    return ibis.union(*(part.select(*order) for part in parts))


def add(parts: Iterable[Figures]) -> Figures:
    """Exact sums, figure by figure."""
    found = list(parts)
    made: dict[str, Any] = {}
    for name, nothing in NOTHING._asdict().items():
        values = [getattr(part, name) for part in found]
        made[name] = money.total(values) if isinstance(nothing, Decimal) else sum(values)
    return Figures(**made)


def rest_note(found: Sums) -> tuple[str, ...]:
    """What is said where not every group has a row."""
    if found.rest is None:
        return ()
    return (f"{found.rest_count:,} groups behind the first {len(found.groups):,} are one row, {REST}; see --limit.",)


def totals(total: Group, query: Query) -> dict[str, int | Decimal | None]:
    """The totals that every report of spend states."""
    now, before = total.now, total.before
    named: dict[str, int | Decimal | None] = {"total_usd": now.cost_usd, "effective_cost_usd": now.effective_cost_usd}
    named |= {name: getattr(now, name) for name in _COUNTS if name != "unbounded_calls"}
    named["unknown_bound_usd"] = None if now.unbounded_calls else now.unknown_bound_usd
    named["estimated_usd"] = now.estimated_usd
    if query.compare:
        named |= {"previous_calls": before.calls, "previous_unknown_calls": before.unknown_calls}
        named |= {"previous_usd": before.cost_usd, "delta_usd": money.minus(now.cost_usd, before.cost_usd)}
    return named


def why_empty(reader: Reader, query: Query) -> Empty:
    """Why no row answers the question."""
    entries = reader.entries
    if not reader.execute(entries.select("sequence").limit(1)).num_rows:
        return "no_entries"
    unfiltered = replace(query, where=(), compare=None)
    in_period = entries.filter(unfiltered.within(entries, query.period)).select("sequence").limit(1)
    return "none_match" if reader.execute(in_period).num_rows else "none_in_period"


def _measured(known: Facts, table: Any, query: Query) -> dict[str, Any]:
    if query.compare is None:
        return known.sums(table, Figures._fields)
    now = known.sums(table, Figures._fields, query.period)
    return now | known.sums(table, Figures._fields, query.compare, _BEFORE)


def _ranked(groups: Any, keys: Mapping[str, Any], query: Query) -> list[Any]:
    """By cost or by the size of the change, largest first; then by name, so that equal rows keep their place."""
    import ibis

    zero = ibis.literal(money.ZERO, _ZERO_TYPE)
    names = [groups[name] for name in keys]
    if query.sort == "name":
        return names
    size = groups["cost_usd"].fill_null(zero)
    if query.sort == "delta":
        size = (size - groups[_BEFORE + "cost_usd"].fill_null(zero)).abs()
    return [ibis.desc(size), *names]


def figures_of(record: Mapping[str, Any], prefix: str = "") -> Figures:
    """The sum of no value is NULL, which adds nothing."""
    named = {name: record.get(prefix + name) for name in Figures._fields}
    return Figures(**{name: value for name, value in named.items() if value is not None})


def _check(together: Group, total: Group, query: Query) -> None:
    """Sums are the bill: the groups add up to the total, in every figure, to the last digit."""
    for added, whole in ((together.now, total.now), (together.before, total.before)):
        if added != whole:
            raise StoreFailed(
                f"the report by {', '.join(query.by)} does not add up: its rows cost {money.text(added.cost_usd)} USD "
                f"for {added.calls} calls, the total is {money.text(whole.cost_usd)} USD for {whole.calls}; "
                "run `costbearer doctor`"
            )


def _row(group: Group, whole: Decimal, query: Query) -> tuple[Cell, ...]:
    now, before = group.now, group.before
    figures: tuple[Cell, ...] = (now.calls, now.requests, now.input_tokens, now.output_tokens, now.cost_usd)
    row = (*group.key, *figures, money.share(now.cost_usd, whole), now.unknown_calls, now.effective_cost_usd)
    if not query.compare:
        return row
    return (*row, before.calls, before.unknown_calls, before.cost_usd, money.minus(now.cost_usd, before.cost_usd))


def _order(group: Group, query: Query) -> tuple[Any, ...]:
    if query.sort == "name":
        return group.key
    size = group.now.cost_usd
    if query.sort == "delta":
        size = money.minus(size, group.before.cost_usd).copy_abs()
    return (size.copy_negate(), group.key)
