"""`report owner`: one owner's part, for a talk between two people: what they bear, why it changed, keys and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from costbearer.errors import NotFound
from costbearer.reports import explain, models, spend, unknown
from costbearer.reports.beside import Beside
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Part, Table

FORM = Form(
    "owner",
    "One owner's part: agents and workloads, why they changed, keys, models, and what is not known.",
    takes=("id", "where", "since", "until", "compare", "sort", "tz", "limit"),
    by="team,agent,workload",
    compare="previous",
    argument="id",
)
_KEYS = ("key", "team", "agent", "workload")


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per agent and workload, and parts.

    Raises:
        NotFound: nobody of that name has ever had a call.
        StoreFailed: the ledger contradicts itself.
    """
    owner = query.option("id") or ""
    asked = replace(query, where=(("owner", (owner,)), *(pair for pair in query.where if pair[0] != "owner")))
    main = spend.answer(reader, asked, beside)
    if not main.rows:
        entries = reader.entries
        if not reader.execute(entries.filter(entries["owner"] == owner).select("sequence").limit(1)).num_rows:
            raise NotFound(f"no call of an owner {owner[:60]!r} is in the ledger")
    why = explain.answer(reader, replace(asked, report="explain"), beside)
    keys = spend.answer(reader, replace(asked, by=_KEYS), beside)
    used = models.answer(reader, replace(asked, by=("model",), compare=None, options=()), beside)
    open_ = unknown.answer(reader, replace(asked, by=unknown.BY, compare=None), beside)
    return replace(
        main,
        title=f"Owner {owner}",
        query=query,
        parts=(
            Part("why", "Why it changed", why.columns, why.rows, {"delta_usd": why.totals["delta_usd"]}),
            _part("keys", "Keys", keys),
            _part("models", "Models", used),
            Part("unknown", "Calls of unknown cost", open_.columns, open_.rows, {"calls": open_.totals["calls"]}),
        ),
        form=FORM,
    )


def _part(name: str, title: str, table: Table) -> Part:
    columns, rows = _shown(table.columns, table.rows)
    totals = {each: value for each, value in table.totals.items() if each == "total_usd" or value is not None}
    return Part(name, title, columns, rows, totals)


def _shown(
    columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]]
) -> tuple[tuple[Column, ...], tuple[tuple[Cell, ...], ...]]:
    """Without what people do not see in the text: the whole table is a report of its own."""
    kept = [place for place, column in enumerate(columns) if column.title or column.unknown_of]
    needed = {name for column in columns for pair in column.unknown_of for name in pair}
    kept = sorted({*kept, *(place for place, column in enumerate(columns) if column.name in needed)})
    return tuple(columns[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows)
