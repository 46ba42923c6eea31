"""`report spend`: calls, tokens and exact cost by any dimensions, with a period to compare with.

The engine only adds; shares and differences are made by `money`. Groups and total come out of one statement, hence of
one state of the ledger, by two different sums, and a report whose rows do not add up to its total is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import CostbearerError, RemoteFailed, StoreFailed
from costbearer.reports.query import Reader, SpendQuery, bucket, dimension, parse_instant, spell_start
from costbearer.reports.table import Cell, Column, Empty, Table, amounts_of

_COUNTS = ("calls", "requests", "input_tokens", "output_tokens", "unknown_calls", "estimated_calls")
_CURRENT, _PREVIOUS = 0, 1


class Figures(NamedTuple):
    """Sums over some entries: signed counts that add, and USD. `unbounded` counts unknown costs without a bound."""

    calls: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unknown_calls: int = 0
    estimated_calls: int = 0
    cost_usd: Decimal = money.ZERO
    estimated_usd: Decimal = money.ZERO
    unknown_bound_usd: Decimal = money.ZERO
    unbounded: int = 0


_NOTHING = Figures()


def columns(query: SpendQuery) -> tuple[Column, ...]:
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
        *(compared if query.compare else ()),
    )


def spend(reader: Reader, query: SpendQuery, *, complete_to: datetime | None = None) -> Table:
    """Answer the question from the ledger.

    Raises:
        StoreFailed: the groups do not add up to the total; the engine cannot be trusted.
    """
    groups, totals = _collect(reader.execute(expression(reader.entries, query)).to_pylist(), query)
    for period, found in groups.items():
        _check(found, totals[period], query)
    current, previous = groups[_CURRENT], groups.get(_PREVIOUS, {})
    whole = totals[_CURRENT].cost_usd
    rows = [
        _row(key, current.get(key, _NOTHING), previous.get(key, _NOTHING) if query.compare else None, whole)
        for key in current.keys() | previous.keys()
    ]
    rows.sort(key=lambda row: _order(row, query))
    return Table(
        title=f"Spend by {', '.join(query.by)}",
        query=query,
        columns=columns(query),
        rows=tuple(rows),
        totals=_totals(totals, query),
        complete_to=complete_to,
        empty=None if rows else _why_empty(reader, query),
    )


def read(document: Mapping[str, Any]) -> Table:
    """The table of a JSON document, as another process answered it.

    Raises:
        RemoteFailed: the document is not a spend report.
    """
    try:
        parameters = [("by", ",".join(document["by"])), ("sort", document["sort"])]
        parameters += [("since", document["since"]), ("until", document["until"])]
        parameters += [("where", f"{name}={value}") for name, values in document["where"].items() for value in values]
        compare = document["compare"]
        parameters += [("compare", f"{compare['since']}..{compare['until']}")] if compare else []
        now = datetime.fromisoformat(document["until"])
        query = SpendQuery.parse(parameters, now=now)
        names = ["total_usd", *_COUNTS, "unknown_bound_usd", "estimated_usd"]
        names += ["previous_calls", "previous_unknown_calls", "previous_usd", "delta_usd"] if query.compare else []
        return Table(
            title=f"Spend by {', '.join(query.by)}",
            query=query,
            columns=columns(query),
            rows=amounts_of(document, columns(query)),
            totals={name: _total(name, document[name]) for name in names},
            complete_to=parse_instant(document["complete_to"], now) if document["complete_to"] else None,
            empty=document["empty"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, CostbearerError):
        raise RemoteFailed("the server's answer is not a spend report; is it another version?") from None


def expression(entries: Any, query: SpendQuery) -> Any:
    """The whole question as one Ibis expression: for each period its groups and, on their own, its totals.

    Columns: `period` (0 asked, 1 compared with), `is_total`, `by_0`, `by_1`, ... and the fields of `Figures`.
    """
    import ibis

    periods = {_CURRENT: query.period} | ({_PREVIOUS: query.compare} if query.compare else {})
    parts = []
    for number, period in periods.items():
        asked = entries.filter(query.within(entries, period))
        keys = {f"by_{position}": dimension(name).column(asked) for position, name in enumerate(query.by)}
        groups = asked.group_by(**keys).aggregate(**_sums(asked))
        total = asked.aggregate(**_sums(asked)).mutate(**{name: ibis.null(key.type()) for name, key in keys.items()})
        order = ["period", "is_total", *keys, *Figures._fields]
        for part, is_total in ((groups, False), (total, True)):
            marked = part.mutate(period=ibis.literal(number, "int8"), is_total=ibis.literal(is_total))
            parts.append(marked.select(*order))
    return ibis.union(*parts)


def _sums(entries: Any) -> dict[str, Any]:
    """Signed counts: a reversal of an unknown call takes it off `unknown_calls` again."""
    unknown = entries["cost_usd"].isnull()
    estimated = entries["basis"] == "estimated"
    return {
        "calls": entries["calls"].sum(),
        "requests": entries["requests"].sum(),
        "input_tokens": entries["input_tokens"].sum(),
        "output_tokens": entries["output_tokens"].sum(),
        "unknown_calls": entries["calls"].sum(where=unknown),
        "estimated_calls": entries["calls"].sum(where=estimated),
        "cost_usd": entries["cost_usd"].sum(),
        "estimated_usd": entries["cost_usd"].sum(where=estimated),
        "unknown_bound_usd": entries["bound_usd"].sum(where=unknown),
        "unbounded": entries["calls"].sum(where=unknown & entries["bound_usd"].isnull()),
    }


Key = tuple[str, ...]
Groups = dict[int, dict[Key, Figures]]


def _collect(answer: list[dict[str, Any]], query: SpendQuery) -> tuple[Groups, dict[int, Figures]]:
    """Groups and total of each period, the buckets spelled out. The sum of no value is NULL, which adds nothing."""
    units = [dimension(name).unit for name in query.by]
    groups: Groups = {number: {} for number in ((_CURRENT, _PREVIOUS) if query.compare else (_CURRENT,))}
    totals: dict[int, Figures] = {}
    for record in answer:
        figures = Figures(**{name: record[name] for name in Figures._fields if record[name] is not None})
        if record["is_total"]:
            totals[record["period"]] = figures
            continue
        values = [record[f"by_{position}"] for position in range(len(units))]
        key = tuple(
            spell_start(unit, value) if unit else bucket(value) for unit, value in zip(units, values, strict=True)
        )
        groups[record["period"]][key] = figures
    return groups, totals


def _check(groups: Mapping[Key, Figures], total: Figures, query: SpendQuery) -> None:
    """Sums are the bill: the groups add up to the total, in every figure, to the last digit."""
    added = _add(groups.values())
    if added != total:
        raise StoreFailed(
            f"the report by {', '.join(query.by)} does not add up: its rows cost {money.text(added.cost_usd)} USD "
            f"for {added.calls} calls, the total is {money.text(total.cost_usd)} USD for {total.calls}; "
            "run `costbearer doctor`"
        )


def _add(parts: Collection[Figures]) -> Figures:
    sums: dict[str, Any] = {}
    for name, nothing in zip(Figures._fields, _NOTHING, strict=True):
        values = [getattr(part, name) for part in parts]
        sums[name] = money.total(values) if isinstance(nothing, Decimal) else sum(values)
    return Figures(**sums)


def _row(key: Key, now: Figures, before: Figures | None, whole: Decimal) -> tuple[Cell, ...]:
    figures: tuple[Cell, ...] = (now.calls, now.requests, now.input_tokens, now.output_tokens, now.cost_usd)
    row = (*key, *figures, money.share(now.cost_usd, whole), now.unknown_calls)
    if before is None:
        return row
    return (*row, before.calls, before.unknown_calls, before.cost_usd, money.minus(now.cost_usd, before.cost_usd))


def _order(row: tuple[Cell, ...], query: SpendQuery) -> tuple[Any, ...]:
    """By cost or by the size of the change, largest first; then by name, so that equal rows keep their place."""
    key = row[: len(query.by)]
    if query.sort == "name":
        return key
    cells: dict[str, Any] = dict(zip((column.name for column in columns(query)), row, strict=True))
    size: Decimal = cells["cost_usd"] if query.sort == "cost" else cells["delta_usd"].copy_abs()
    return (size.copy_negate(), key)


def _totals(totals: Mapping[int, Figures], query: SpendQuery) -> dict[str, int | Decimal | None]:
    now = totals[_CURRENT]
    named: dict[str, int | Decimal | None] = {"total_usd": now.cost_usd}
    named |= {name: getattr(now, name) for name in _COUNTS}
    named["unknown_bound_usd"] = None if now.unbounded else now.unknown_bound_usd
    named["estimated_usd"] = now.estimated_usd
    if query.compare:
        before = totals[_PREVIOUS]
        named |= {"previous_calls": before.calls, "previous_unknown_calls": before.unknown_calls}
        named |= {"previous_usd": before.cost_usd, "delta_usd": money.minus(now.cost_usd, before.cost_usd)}
    return named


def _total(name: str, value: Any) -> int | Decimal | None:
    if name.endswith("_usd") and value is not None:
        return money.usd(value)
    count: int | None = value
    return count


def _why_empty(reader: Reader, query: SpendQuery) -> Empty:
    entries = reader.entries
    if not reader.execute(entries.select("sequence").limit(1)).num_rows:
        return "no_entries"
    unfiltered = replace(query, where=(), compare=None)
    in_period = entries.filter(unfiltered.within(entries, query.period)).select("sequence").limit(1)
    return "none_match" if reader.execute(in_period).num_rows else "none_in_period"
