"""`report top-keys`: the keys by what they cost, how much the first of them make up, and how few are half."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from costbearer import money
from costbearer.ledger import LABELS
from costbearer.reports import spend
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import NONE, REST
from costbearer.reports.query import LIMIT_MAX, Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

FORM = Form(
    "top-keys",
    "The keys by what they cost, with their labels, cumulative share, and how few are half of it.",
    takes=("where", "since", "until", "tz", "limit"),
    by=",".join(("key", *LABELS)),
)
MARKS: tuple[tuple[Decimal, str], ...] = ((Decimal("0.5"), "half"), (Decimal("0.8"), "80 %"), (Decimal("0.95"), "95 %"))
"""Shares for which it is said how many keys make them up."""

COLUMNS = (
    Column("rank", "rank", "count"),
    Column("key", "key", "bucket"),
    *(Column(name, name, "bucket") for name in LABELS),
    Column("calls", "calls", "count"),
    Column("requests", "", "count"),
    Column("cost_usd", "cost", "usd", (("calls", "unknown_calls"),)),
    Column("share", "share", "share"),
    Column("cumulative_share", "cumulative", "share"),
    Column("unknown_calls", "unknown\ncalls", "count"),
)


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per key. A key that was relabelled shows each of its labels, the dearest first.

    Raises:
        StoreFailed: the groups do not add up to the total.
    """
    found = spend.sums(reader, replace(query, limit=LIMIT_MAX))
    keys: dict[str, list[spend.Group]] = {}
    for group in [*found.groups, *([found.rest] if found.rest else [])]:
        keys.setdefault(group.key[0], []).append(group)
    merged = [(key, _labels(groups), spend.add(group.now for group in groups)) for key, groups in keys.items()]
    merged.sort(key=lambda each: (each[0] == REST, each[2].cost_usd.copy_negate(), each[0]))
    whole = found.total.now.cost_usd
    rows: list[tuple[Cell, ...]] = []
    running = money.ZERO
    for rank, (key, labels, now) in enumerate(_cut(merged, query.limit), 1):
        running = money.total((running, now.cost_usd))
        shares = (money.share(now.cost_usd, whole), money.share(running, whole))
        rows.append((rank, key, *labels, now.calls, now.requests, now.cost_usd, *shares, now.unknown_calls))
    return Table(
        title="Top keys",
        query=query,
        columns=COLUMNS,
        rows=tuple(rows),
        totals=spend.totals(found.total, query),
        complete_to=beside.complete_to,
        empty=None if rows else spend.why_empty(reader, query),
        notes=tuple(_concentration([now.cost_usd for _, _, now in merged], whole, NONE in keys)),
        source=found.source,
        form=FORM,
    )


Merged = tuple[str, tuple[str, ...], spend.Figures]


def _labels(groups: Sequence[spend.Group]) -> tuple[str, ...]:
    """The four labels; where a key has had several, all of them, the dearest first."""
    ordered = sorted(groups, key=lambda group: (group.now.cost_usd.copy_negate(), group.key))
    return tuple(", ".join(dict.fromkeys(group.key[place] for group in ordered)) for place in range(1, len(LABELS) + 1))


def _cut(merged: Sequence[Merged], limit: int) -> Iterable[Merged]:
    """At most as many keys as were asked for, and what lies behind them as one."""
    if len(merged) <= limit:
        return merged
    rest = spend.add(now for _, _, now in merged[limit:])
    return [*merged[:limit], (REST, (REST,) * len(LABELS), rest)]


def _concentration(costs: Sequence[Decimal], whole: Decimal, without: bool) -> list[str]:
    """`4 keys are half of the cost, 10 are 80 %, of 40 keys.`"""
    if whole <= 0 or not costs:
        return []
    said = []
    running, count = money.ZERO, 0
    marks = list(MARKS)
    for cost in sorted(costs, reverse=True):
        running, count = money.total((running, cost)), count + 1
        while marks and running >= money.scaled(whole, marks[0][0]):
            said.append((count, marks.pop(0)[1]))
    first = ", ".join(f"{count} {_are(count, place)} {name}" for place, (count, name) in enumerate(said))
    lines = [f"{first}, of {len(costs):,} key{'' if len(costs) == 1 else 's'}."] if said else []
    return [*lines, *(["Calls without a key are one row, (none)."] if without else [])]


def _are(count: int, place: int) -> str:
    if place:
        return "is" if count == 1 else "are"
    return "key is" if count == 1 else "keys are"
