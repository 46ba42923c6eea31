"""The calls whose cost is not known: why, how much it can be, and what would make it known. A worklist."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from costbearer import money
from costbearer.reports.beside import Beside
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.spend import why_empty
from costbearer.reports.table import Cell, Column, Empty, Table

BY = ("reason_unknown", "provider", "model", "tier")
FORM = Form(
    "unknown",
    "Calls whose cost is not known: why, how much it can be, and what would make it known.",
    takes=("where", "since", "until", "tz"),
    by=",".join(BY),
)
COLUMNS = (
    Column("reason_unknown", "reason", "bucket"),
    *(Column(name, name, "bucket") for name in BY[1:]),
    Column("calls", "calls", "count"),
    Column("bound_usd", "at most", "usd"),
    Column("unbounded_calls", "without\na bound", "count"),
    Column("remedy", "what makes it known", "bucket"),
)

_SET = "`costbearer prices set --provider {provider} --model {model}`, then `costbearer restate`"
REMEDIES: Mapping[str, str] = {
    "provider_unpriced": _SET + "; or name its prices with price_provider in the configuration",
    "model_unpriced": "`costbearer prices update`, or " + _SET,
    "tier_unpriced": _SET,
    "variant_unpriced": _SET,
    "tier_committed": _SET,
    "meter_unpriced": _SET + ", with a price for the meter",
    "awaiting_result": "nothing to do: the result is asked for until it is there",
    "in_flight": "nothing to do: the call is under way",
}
"""By reason, or by what stands before its colon."""
OTHERWISE = "the provider's invoice: nothing else tells what it billed"


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """Answer from the ledger. A call that was corrected meanwhile is in it no more.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    entries = reader.entries
    asked = entries.filter([*query.within(entries, query.period), entries["cost_usd"].isnull()])
    groups = asked.group_by(**query.keys(asked)).aggregate(
        calls=asked["calls"].sum(),
        bound_usd=asked["bound_usd"].sum(),
        unbounded_calls=asked["calls"].sum(where=asked["bound_usd"].isnull()),
    )
    rows: list[tuple[Cell, ...]] = []
    for found in reader.execute(groups).to_pylist():
        if found["calls"]:
            key = query.buckets(found)
            bound = found["bound_usd"] or money.ZERO
            rows.append((*key, found["calls"], bound, found["unbounded_calls"] or 0, remedy(*key[:3])))
    rows.sort(key=_order)
    empty: Empty | None = None
    if not rows:
        empty = "none_unknown" if _any(reader, query) else why_empty(reader, query)
    return Table(
        title="Calls of unknown cost",
        query=query,
        columns=COLUMNS,
        rows=tuple(rows),
        totals=_totals(rows),
        complete_to=beside.complete_to,
        empty=empty,
        source="entries",
        form=FORM,
    )


def remedy(reason: str, provider: str, model: str) -> str:
    """What would make the cost of such a call known."""
    text = REMEDIES.get(reason, REMEDIES.get(reason.partition(":")[0], OTHERWISE))
    return text.format(provider=provider, model=model)


def _order(row: tuple[Cell, ...]) -> tuple[Any, ...]:
    place = len(BY)
    calls, bound = row[place], row[place + 1]
    assert isinstance(bound, Decimal)
    assert isinstance(calls, int)
    return (bound.copy_negate(), -calls, row[:place])


def _totals(rows: list[tuple[Cell, ...]]) -> dict[str, int | Decimal | None]:
    place = len(BY)
    sums = {name: sum(int(row[at] or 0) for row in rows) for name, at in (("calls", place), ("unbounded", place + 2))}
    bound = money.total(cell for row in rows if isinstance(cell := row[place + 1], Decimal))
    return {
        "calls": sums["calls"],
        "bound_usd": bound,
        "unbounded_calls": sums["unbounded"],
        "total_usd": None,
        "unknown_calls": sums["calls"],
        "unknown_bound_usd": None if sums["unbounded"] else bound,
    }


def _any(reader: Reader, query: Query) -> bool:
    entries = reader.entries
    return bool(
        reader.execute(entries.filter(query.within(entries, query.period)).select("sequence").limit(1)).num_rows
    )
