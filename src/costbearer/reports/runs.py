"""`report request`, `trace` and `session`: every call of one of them in its place, with what it cost.

A session joins traces, a trace requests, a request its attempts. An agent run is a trace. A call stands below the call
that it names as its parent, where that is in the tree too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import NotFound
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST
from costbearer.reports.periods import instant
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

_TAKES = ("id", "tz", "limit")
SESSION = Form(
    "session",
    "Every call of a session: its traces, requests and attempts, with the cost of each.",
    takes=_TAKES,
    by="",
    argument="id",
    ever=True,
)
TRACE = Form(
    "trace",
    "Every call of a trace, an agent's run: the tree with the cost of each call, retry and fallback.",
    takes=_TAKES,
    by="",
    argument="id",
    ever=True,
)
REQUEST = Form(
    "request", "Every attempt of a request, with the cost of each.", takes=_TAKES, by="", argument="id", ever=True
)
LEVELS: Mapping[str, tuple[str, ...]] = {
    "session": ("session_id", "trace_id", "request_id"),
    "trace": ("trace_id", "request_id"),
    "request": ("request_id",),
}
"""What each report is about, and what joins its calls below that."""
ENTRIES_MAX = 100_000
"""More entries are not made into a tree."""

_SUMMED = ("input_tokens", "output_tokens", "cache_read_input_tokens")
_FRESH = "input"


class _Call(NamedTuple):
    """One call: what the entry that stands for it says, with its corrections added to it."""

    row: Mapping[str, Any]
    cost: Decimal | None
    bound: Decimal | None
    counts: Mapping[str, int | None]
    saved: Decimal | None
    corrected: bool


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """The tree, one row per node.

    Raises:
        NotFound: the ledger has no call of that id.
    """
    levels = LEVELS[query.report]
    name = query.option("id") or ""
    entries = reader.entries
    found = entries.filter([entries[levels[0]] == name, *query.within(entries, query.period)])
    found = found.order_by(["started_at", "journal", "sequence"]).limit(ENTRIES_MAX)
    rows = reader.execute(found).to_pylist(maps_as_pydicts="lossy")
    if not rows:
        raise NotFound(f"no call of the {query.report} {name[:80]!r} is in the ledger")
    calls = _calls(rows, _saved(reader, rows, beside))
    lines = [_line(depth, label, inner, place, query) for depth, label, inner, place in _tree(calls, levels[1:], 0)]
    shown = lines[: query.limit]
    if len(lines) > len(shown):
        shown.append(_behind(lines[query.limit :]))
    return Table(
        title=f"{query.report.capitalize()} {name}",
        query=query,
        columns=_COLUMNS,
        rows=tuple(shown),
        totals=_totals(calls),
        complete_to=beside.complete_to,
        notes=tuple(_notes(calls, len(rows))),
        source="entries",
        form=FORMS[query.report],
    )


FORMS: Mapping[str, Form] = {form.name: form for form in (SESSION, TRACE, REQUEST)}

_COLUMNS = (
    Column("depth", "", "count"),
    Column("node", "call", "text"),
    Column("calls", "", "count"),
    Column("started_at", "started", "text"),
    Column("agent", "agent", "text"),
    Column("model", "model", "text"),
    Column("reason", "why", "text"),
    Column("status", "status", "text"),
    Column("duration_ms", "time", "ms"),
    Column("input_tokens", "input", "count"),
    Column("output_tokens", "output", "count"),
    Column("own_usd", "cost", "part"),
    Column("with_below_usd", "with all below", "usd"),
    Column("cache_saved_usd", "saved by\ncache", "unit"),
    Column("entry_id", "entry, see `report receipt`", "text"),
)


def _calls(rows: Sequence[Mapping[str, Any]], saved: Mapping[str, Decimal | None]) -> list[_Call]:
    """A value per call: entries and their corrections added up; one that was wholly taken back is left out."""
    grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["call_id"]].append(row)
    found = []
    for name, own in grouped.items():
        reversed_ones = {row["refers_to"] for row in own if row["calls"] < 0}
        standing = [row for row in own if row["calls"] > 0 and _entry_id(row) not in reversed_ones]
        if not standing:
            continue
        known = [row["cost_usd"] for row in own if row["cost_usd"] is not None]
        last = standing[-1]
        found.append(
            _Call(
                row=last,
                cost=None if last["cost_usd"] is None else money.total(known),
                bound=last["bound_usd"],
                counts={each: _sum(row[each] for row in own) for each in _SUMMED},
                saved=saved.get(name),
                corrected=len(own) > 1,
            )
        )
    return sorted(found, key=lambda call: (call.row["started_at"], call.row["journal"], call.row["sequence"]))


def _entry_id(row: Mapping[str, Any]) -> str:
    return f"{row['journal']}.{row['sequence']}"


def _sum(values: Iterator[int | None]) -> int | None:
    stated = [value for value in values if value is not None]
    return sum(stated) if stated else None


def _saved(reader: Reader, rows: Sequence[Mapping[str, Any]], beside: Beside) -> dict[str, Decimal | None]:
    """By call: what its cached input would have cost more as plain input, less what writing to the cache cost more.

    None where the price of plain input is not known.
    """
    call_of = {(row["journal"], row["sequence"]): row["call_id"] for row in rows}
    charges = reader.charges
    lines: list[Mapping[str, Any]] = []
    by_journal: dict[str, list[int]] = defaultdict(list)
    for journal, sequence in call_of:
        by_journal[journal].append(sequence)
    for journal, sequences in by_journal.items():
        own = charges.filter([charges["journal"] == journal, charges["sequence"].isin(sequences)])
        lines += reader.execute(own).to_pylist()
    fresh = {
        (line["journal"], line["sequence"], line["card"]): line["unit_price_usd"]
        for line in lines
        if line["meter"] == _FRESH
    }
    found: dict[str, Decimal | None] = {}
    for line in lines:
        if not line["meter"].startswith("cache_"):
            continue
        call = call_of[line["journal"], line["sequence"]]
        plain = fresh.get((line["journal"], line["sequence"], line["card"]))
        if plain is None:
            card = beside.card(line["card"])
            price = card.prices.get(_FRESH) if card is not None else None
            plain = price.base if price is not None and not price.steps else None
        before = found.get(call, money.ZERO)
        if plain is None or before is None:
            found[call] = None
        else:
            found[call] = money.total((before, money.minus(money.times(line["quantity"], plain), line["cost_usd"])))
    return found


Node = tuple[int, str, Sequence[_Call], _Call | None]


def _tree(calls: Sequence[_Call], levels: Sequence[str], depth: int) -> Iterator[Node]:
    """Depth, label, the calls in it, and the call itself where the node is one."""
    if not levels:
        yield from _nested(calls, depth)
        return
    groups: dict[str, list[_Call]] = defaultdict(list)
    for call in calls:
        groups[call.row[levels[0]] or ""].append(call)
    kind = levels[0].removesuffix("_id")
    for name, own in groups.items():
        if levels[1:] == () and len(own) == 1:
            # A request of one call is that call.
            yield from _nested(own, depth)
        else:
            yield depth, f"{kind} {name or 'without an id'}", own, None
            yield from _tree(own, levels[1:], depth + 1)


def _nested(calls: Sequence[_Call], depth: int) -> Iterator[Node]:
    """Calls below the calls that they name as parents."""
    names = {call.row["call_id"] for call in calls}
    below: dict[str | None, list[_Call]] = defaultdict(list)
    for call in calls:
        parent = call.row["parent_id"]
        below[parent if parent in names and parent != call.row["call_id"] else None].append(call)
    seen: set[str] = set()

    def walk(parent: str | None, at: int) -> Iterator[Node]:
        for call in below.get(parent, ()):
            name = call.row["call_id"]
            if name not in seen:
                seen.add(name)
                inner = list(walk(name, at + 1))
                yield at, _label(call), [call, *(each for *_, each in inner if each is not None)], call
                yield from inner

    yield from walk(None, depth)
    # A ring of parents hangs from nothing; its calls are shown all the same.
    for call in calls:
        if call.row["call_id"] not in seen:
            yield depth, _label(call), [call], call


def _label(call: _Call) -> str:
    attempt = call.row["attempt"]
    return f"call {call.row['operation']}" + (f", attempt {attempt}" if attempt != 1 else "")


def _line(depth: int, label: str, inner: Sequence[_Call], call: _Call | None, query: Query) -> tuple[Cell, ...]:
    whole = _known(inner)
    saved = [each.saved for each in inner if each.saved is not None]
    row = call.row if call is not None else {}
    started = inner[0].row["started_at"]
    shown = instant(started) if query.zone.name == "UTC" else query.zone.wall(started).isoformat()
    return (
        depth,
        "  " * depth + label,
        1 if call is not None else 0,
        shown,
        row.get("agent"),
        (row.get("response_model") or row.get("request_model")) if row else None,
        row.get("reason"),
        row.get("status"),
        row.get("duration_ms"),
        call.counts["input_tokens"] if call is not None else _sum(iter(each.counts["input_tokens"] for each in inner)),
        call.counts["output_tokens"]
        if call is not None
        else _sum(iter(each.counts["output_tokens"] for each in inner)),
        call.cost if call is not None else None,
        whole,
        money.total(saved) if saved else None,
        _entry_id(row) if row else None,
    )


def _known(calls: Sequence[_Call]) -> Decimal | None:
    """What the calls cost together as far as that is known; None where of none it is."""
    known = [call.cost for call in calls if call.cost is not None]
    return money.total(known) if known or not calls else None


def _behind(lines: Sequence[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    """What lies behind the limit, as one row."""
    place = {column.name: at for at, column in enumerate(_COLUMNS)}
    own = money.total(cell for line in lines if isinstance(cell := line[place["own_usd"]], Decimal))
    calls = sum(int(line[place["calls"]] or 0) for line in lines)
    shown: dict[str, Cell] = {"depth": 0, "node": REST, "calls": calls, "own_usd": own}
    return tuple(shown.get(column.name) for column in _COLUMNS)


def _totals(calls: Sequence[_Call]) -> dict[str, int | float | Decimal | None]:
    unknown = [call for call in calls if call.cost is None]
    bounds = [call.bound for call in unknown if call.bound is not None]
    saved = [call.saved for call in calls if call.saved is not None]
    of = {name: [call for call in calls if call.row["reason"] == name] for name in ("retry", "fallback")}
    failed = [call for call in calls if call.row["status"] != "ok"]
    whole = _known(calls) or money.ZERO
    return {
        "total_usd": whole,
        "own_usd": whole,
        "calls": len(calls),
        "unknown_calls": len(unknown),
        "unknown_bound_usd": money.total(bounds) if len(bounds) == len(unknown) else None,
        "input_tokens": _sum(iter(call.counts["input_tokens"] for call in calls)),
        "output_tokens": _sum(iter(call.counts["output_tokens"] for call in calls)),
        "retry_usd": _known(of["retry"]) or money.ZERO,
        "fallback_usd": _known(of["fallback"]) or money.ZERO,
        "not_ok_usd": _known(failed) or money.ZERO,
        "cache_saved_usd": money.total(saved) if saved else None,
    }


def _notes(calls: Sequence[_Call], entries: int) -> list[str]:
    totals = _totals(calls)
    said = [("Retries", "retry_usd"), ("fallbacks", "fallback_usd"), ("calls that did not end well", "not_ok_usd")]
    amounts = [f"{name} {money.display(amount)}" for name, key in said if isinstance(amount := totals[key], Decimal)]
    notes = [", ".join(amounts) + "."]
    saved = totals["cache_saved_usd"]
    if isinstance(saved, Decimal):
        notes.append(
            f"The cache saved {money.display(saved)}: cached input at its price instead of that of plain input."
        )
    corrected = sum(call.corrected for call in calls)
    if corrected:
        notes.append(f"{corrected} of the calls were corrected; what counts now is shown.")
    if entries == ENTRIES_MAX:
        notes.append(f"Only the first {ENTRIES_MAX:,} entries are shown.")
    return notes
