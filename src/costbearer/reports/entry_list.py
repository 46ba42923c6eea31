"""`report entries`: the entries behind a number, dearest first; each leads to its receipt.

What lies behind the limit is one row, so that the rows add up to the total of the same question asked of `spend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costbearer import money
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST, dimension, spelled
from costbearer.reports.facts import facts
from costbearer.reports.periods import instant
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.spend import NOTHING, Figures, Group, figures_of, totals, why_empty
from costbearer.reports.table import Cell, Column, Table

FORM = Form(
    "entries",
    "The ledger's entries behind a number, the dearest first (a cost that is not known counts as its bound there); "
    "--sort name: in the order of time.",
    takes=("where", "since", "until", "sort", "tz", "limit"),
    by="",
)
LABELS = ("team", "agent", "workload", "key", "model")
COLUMNS = (
    Column("entry_id", "entry", "bucket"),
    Column("started_at", "started", "text"),
    *(Column(name, name, "bucket") for name in LABELS),
    Column("kind", "kind", "text"),
    Column("status", "status", "text"),
    Column("reason", "why", "text"),
    Column("calls", "", "count"),
    Column("input_tokens", "input\ntokens", "count"),
    Column("output_tokens", "output\ntokens", "count"),
    Column("cost_usd", "cost", "usd"),
    Column("basis", "basis", "text"),
    Column("unknown_calls", "", "count"),
    Column("bound_usd", "at most", "part"),
)


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """The entries and their total.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    known = facts(reader, query)
    (sums,) = reader.execute(known.table.aggregate(known.sums(known.table, Figures._fields))).to_pylist()
    total = figures_of(sums)
    listed = [_row(row, query) for row in reader.execute(_asked(reader.entries, query)).to_pylist()]
    rows, names = listed[: query.limit], [column.name for column in COLUMNS]
    notes: tuple[str, ...] = ()
    if len(listed) > query.limit:
        rows.append(_behind(rows, names, total))
        notes = (f"Entries behind the first {query.limit:,} are one row, {REST}; see --limit.",)
    return Table(
        title="Entries",
        query=query,
        columns=COLUMNS,
        rows=tuple(rows),
        totals=totals(Group((), total, NOTHING), query),
        complete_to=beside.complete_to,
        empty=None if rows else why_empty(reader, query),
        notes=notes,
        source="entries",
        form=FORM,
    )


def _asked(entries: Any, query: Query) -> Any:
    """One entry more than is asked for tells whether there are more."""
    import ibis

    chosen = entries.filter(query.within(entries, query.period))
    chosen = chosen.mutate(**{f"by_{name}": dimension(name).column(chosen) for name in LABELS})
    zero = ibis.literal(money.ZERO, chosen["cost_usd"].type())
    size = chosen["cost_usd"].coalesce(chosen["bound_usd"].cast(chosen["cost_usd"].type()), zero)
    places = ["started_at", "journal", "sequence"]
    chosen = chosen.order_by(places if query.sort == "name" else [ibis.desc(size), *places])
    wanted = ("journal", "sequence", "started_at", "kind", "status", "reason", "calls", "basis", "bound_usd")
    counts = ("input_tokens", "output_tokens", "cost_usd")
    return chosen.select(*wanted, *counts, *(f"by_{name}" for name in LABELS)).limit(query.limit + 1)


def _row(row: Mapping[str, Any], query: Query) -> tuple[Cell, ...]:
    unknown = row["cost_usd"] is None
    return (
        f"{row['journal']}.{row['sequence']}",
        instant(row["started_at"]),
        *(spelled(name, row[f"by_{name}"], query.zone) for name in LABELS),
        row["kind"],
        row["status"],
        row["reason"],
        row["calls"],
        row["input_tokens"],
        row["output_tokens"],
        row["cost_usd"],
        row["basis"],
        row["calls"] if unknown else 0,
        row["bound_usd"] if unknown else None,
    )


def _behind(rows: list[tuple[Cell, ...]], names: list[str], total: Figures) -> tuple[Cell, ...]:
    """All other entries as one row: the total less what is listed."""

    def listed(name: str) -> list[Any]:
        place = names.index(name)
        return [row[place] for row in rows if row[place] is not None]

    made: dict[str, Cell] = dict.fromkeys(names)
    made |= dict.fromkeys(("entry_id", *LABELS), REST)
    for name in ("calls", "input_tokens", "output_tokens", "unknown_calls"):
        made[name] = getattr(total, name) - sum(listed(name))
    made["cost_usd"] = money.minus(total.cost_usd, money.total(listed("cost_usd")))
    return tuple(made[name] for name in names)
