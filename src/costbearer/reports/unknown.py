"""The calls whose cost is not known: why, how much it can be, and what would make it known. A worklist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from costbearer import money
from costbearer.errors import CostbearerError, QueryInvalid, RemoteFailed
from costbearer.reports.query import Reader, SpendQuery, bucket, dimension, parse_instant
from costbearer.reports.table import Cell, Column, Empty, Table, amounts_of

NAME = "unknown"
BY = ("reason_unknown", "provider", "model", "tier")
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


def question(parameters: list[tuple[str, str]], *, now: datetime) -> SpendQuery:
    """What is asked: a period and filters, as of any report.

    Raises:
        QueryInvalid: names every parameter that is unknown or cannot be used.
    """
    fixed = {name: "is not a parameter of this report" for name, _ in parameters if name in {"by", "compare", "sort"}}
    if fixed:
        raise QueryInvalid(fixed)
    return replace(SpendQuery.parse([("by", ",".join(BY)), *parameters], now=now), report=NAME)


def unknown(reader: Reader, query: SpendQuery, *, complete_to: datetime | None = None) -> Table:
    """Answer from the ledger. A call that was corrected meanwhile is in it no more.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    entries = reader.entries
    asked = entries.filter([*query.within(entries, query.period), entries["cost_usd"].isnull()])
    keys = {f"by_{place}": dimension(name).column(asked) for place, name in enumerate(BY)}
    groups = asked.group_by(**keys).aggregate(
        calls=asked["calls"].sum(),
        bound_usd=asked["bound_usd"].sum(),
        unbounded_calls=asked["calls"].sum(where=asked["bound_usd"].isnull()),
    )
    rows: list[tuple[Cell, ...]] = []
    for found in reader.execute(groups).to_pylist():
        if found["calls"]:
            key = [bucket(found[f"by_{place}"]) for place in range(len(BY))]
            bound = found["bound_usd"] or money.ZERO
            rows.append((*key, found["calls"], bound, found["unbounded_calls"] or 0, remedy(*key[:3])))
    rows.sort(key=_order)
    empty: Empty | None = None
    if not rows:
        empty = "none_unknown" if _any(reader, query) else "no_entries"
    return Table(
        title="Calls of unknown cost",
        query=query,
        columns=COLUMNS,
        rows=tuple(rows),
        totals=_totals(rows),
        complete_to=complete_to,
        empty=empty,
    )


def read(document: Mapping[str, Any]) -> Table:
    """The table of a JSON document, as another process answered it.

    Raises:
        RemoteFailed: the document is not this report.
    """
    try:
        parameters = [("since", document["since"]), ("until", document["until"])]
        parameters += [("where", f"{name}={value}") for name, values in document["where"].items() for value in values]
        now = datetime.fromisoformat(document["until"])
        rows = amounts_of(document, COLUMNS)
        return Table(
            title="Calls of unknown cost",
            query=question(parameters, now=now),
            columns=COLUMNS,
            rows=rows,
            totals=_totals(list(rows)),
            complete_to=parse_instant(document["complete_to"], now) if document["complete_to"] else None,
            empty=document["empty"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, CostbearerError):
        raise RemoteFailed("the server's answer is not the report of unknown costs; is it another version?") from None


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
        "estimated_calls": 0,
        "estimated_usd": money.ZERO,
    }


def _any(reader: Reader, query: SpendQuery) -> bool:
    entries = reader.entries
    return bool(
        reader.execute(entries.filter(query.within(entries, query.period)).select("sequence").limit(1)).num_rows
    )
