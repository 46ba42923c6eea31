"""`report receipt`: one charge traced to its ground: usage, card, arithmetic, who said each label, journal and seal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from costbearer import money
from costbearer.errors import NotFound
from costbearer.reports.beside import Beside
from costbearer.reports.entries import document
from costbearer.reports.periods import instant
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Part, Table
from costbearer.usage import COUNTS

FORM = Form(
    "receipt",
    "One charge: usage, price card with date and source, the arithmetic line by line, who said each label, journal "
    "position and seal.",
    takes=("id", "tz"),
    by="",
    argument="id",
    ever=True,
)

_PAIR = (Column("name", "what", "bucket"), Column("value", "value", "text"))
_CALL = (
    *("entry_id", "kind", "refers_to", "request_id", "call_id", "parent_id", "trace_id", "session_id", "attempt"),
    *("reason", "started_at", "ended_at", "duration_ms", "key_id", "route", "provider", "provider_request_id"),
    *("provider_response_id", "cache_hit", "request_model", "response_model", "operation", "tier", "region", "stream"),
    *("status", "http_status", "error_code", "calls", "requests"),
)
_MONEY = (
    *("basis", "cost_usd", "list_cost_usd", "effective_cost_usd", "provider_cost_usd", "computed_cost_usd"),
    *("bound_usd", "reason_unknown"),
)


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """A row per line of the charge, and parts for all that it rests on.

    Raises:
        NotFound: there is no entry or call of that id.
    """
    row = _entry(reader, query.option("id") or "")
    journal, sequence = row["journal"], row["sequence"]
    charges = reader.charges
    lines = reader.execute(
        charges.filter([charges["journal"] == journal, charges["sequence"] == sequence]).order_by(
            ["model", "meter", "card"]
        )
    ).to_pylist()
    made = document(row, lines)
    related = _related(reader, row)
    rows = tuple(_line(line) for line in lines)
    cost = row["cost_usd"]
    unknown = cost is None
    return Table(
        title=f"Receipt of {made['entry_id']}",
        query=query,
        columns=(
            Column("meter", "meter", "bucket"),
            Column("model", "model", "text"),
            Column("quantity", "quantity", "count"),
            Column("unit_price_usd", "unit price", "price"),
            Column("cost_usd", "cost", "usd"),
            Column("list_cost_usd", "list", "usd"),
            Column("card", "", "text"),
            Column("arithmetic", "", "text"),
        ),
        rows=rows,
        totals={
            "total_usd": cost,
            "list_cost_usd": money.total(line["list_cost_usd"] for line in lines),
            "unknown_calls": max(row["calls"], 0) if unknown else 0,
            "unknown_bound_usd": row["bound_usd"],
        },
        complete_to=beside.complete_to,
        notes=tuple(_notes(row, lines, related)),
        source="entries",
        parts=(
            Part("call", "The call", _PAIR, _pairs(made, _CALL)),
            Part("basis", "What the cost rests on", _PAIR, _pairs(made, _MONEY)),
            _usage(row),
            _cards(lines, beside),
            _labels(row),
            _others(related),
            Part("proof", "Where it stands", _PAIR, tuple(_proof(row, beside))),
        ),
        form=FORM,
    )


def _entry(reader: Reader, name: str) -> Mapping[str, Any]:
    """The entry of that id; of a call, the one that counts now."""
    entries = reader.entries
    journal, dot, sequence = name.rpartition(".")
    by_call = not (dot and sequence.isascii() and sequence.isdigit() and len(sequence) < 19)
    if not by_call:
        found = entries.filter([entries["journal"] == journal, entries["sequence"] == int(sequence)])
    else:
        found = entries.filter(entries["call_id"] == name)
    rows: list[Mapping[str, Any]] = reader.execute(found).to_pylist(maps_as_pydicts="lossy")
    if by_call:
        taken_back = {row["refers_to"] for row in rows if row["calls"] < 0}
        rows = [row for row in rows if row["calls"] > 0 and f"{row['journal']}.{row['sequence']}" not in taken_back]
    if not rows:
        raise NotFound(f"there is no entry and no call {name[:80]!r} in the ledger")
    return rows[0]


def _related(reader: Reader, row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The other entries of the same call, in the order in which they were posted."""
    entries = reader.entries
    same = entries.filter(entries["call_id"] == row["call_id"])
    rows = reader.execute(same.order_by(["ended_at", "journal", "sequence"])).to_pylist(maps_as_pydicts="lossy")
    own = (row["journal"], row["sequence"])
    return [each for each in rows if (each["journal"], each["sequence"]) != own]


def _line(line: Mapping[str, Any]) -> tuple[Cell, ...]:
    quantity, price, cost = line["quantity"], line["unit_price_usd"], line["cost_usd"]
    arithmetic = f"{quantity} x {money.text(price)} = {money.text(cost)}"
    return line["meter"], line["model"], quantity, price, cost, line["list_cost_usd"], line["card"], arithmetic


def _pairs(made: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[Cell, ...], ...]:
    return tuple((name, _said(made[name])) for name in names if made.get(name) is not None)


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _usage(row: Mapping[str, Any]) -> Part:
    rows = tuple((name, row[name]) for name in COUNTS if row[name] is not None)
    columns = (Column("count", "usage as the provider stated it", "bucket"), Column("quantity", "quantity", "count"))
    return Part("usage", "Usage: input contains cached tokens, output contains reasoning", columns, rows)


def _cards(lines: Sequence[Mapping[str, Any]], beside: Beside) -> Part:
    rows: list[tuple[Cell, ...]] = []
    for name in dict.fromkeys(line["card"] for line in lines):
        card = beside.card(name)
        if card is None:
            rows.append((name, None, None, None, "no kept price archive has this card"))
            continue
        first = card.valid_from.isoformat() if card.valid_from else "always"
        last = card.valid_until.isoformat() if card.valid_until else "open"
        rows.append((name, card.context, first, last, card.source))
    columns = (
        Column("card", "card", "bucket"),
        Column("context", "context", "text"),
        Column("valid_from", "from", "text"),
        Column("valid_until", "until", "text"),
        Column("price_source", "source", "text"),
    )
    return Part("cards", "Price cards", columns, tuple(rows))


def _labels(row: Mapping[str, Any]) -> Part:
    fields = msgspec.json.decode(row["attribution"])
    rows: list[tuple[Cell, ...]] = []
    for name, field in fields.items():
        others = "; ".join(f"{claim['value']} ({claim['source']})" for claim in field.get("conflict", []))
        rows.append((name, field["value"], field["provenance"], field["source"], others or None))
    rows += [(f"tag:{name}", value, "asserted", "tags", None) for name, value in sorted((row["tags"] or {}).items())]
    columns = (
        Column("field", "label", "bucket"),
        Column("value", "value", "text"),
        Column("provenance", "known how", "text"),
        Column("said_by", "said by", "text"),
        Column("conflict", "others said", "text"),
    )
    return Part("labels", "Who bears it, and who said so", columns, tuple(rows))


def _others(related: Sequence[Mapping[str, Any]]) -> Part:
    rows = tuple(
        (f"{row['journal']}.{row['sequence']}", row["kind"], row["refers_to"], row["calls"], row["cost_usd"])
        for row in related
    )
    columns = (
        Column("entry_id", "entry", "bucket"),
        Column("kind", "kind", "text"),
        Column("refers_to", "refers to", "text"),
        Column("calls", "calls", "count"),
        Column("cost_usd", "cost", "usd"),
    )
    return Part("others", "Other entries of this call", columns, rows)


def _proof(row: Mapping[str, Any], beside: Beside) -> Iterator[tuple[Cell, ...]]:
    yield "journal", row["journal"]
    yield "sequence", str(row["sequence"])
    yield "closed by frame", str(row["closed_sequence"])
    sealed = beside.seal(row["journal"], row["closed_sequence"])
    if sealed is None:
        yield "seal", "its segment is not sealed yet"
        return
    yield "segment", str(sealed.segment)
    yield "seal (SHA-256)", sealed.seal_sha256
    yield "file (SHA-256)", sealed.file_sha256


def _notes(
    row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], related: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if row["cost_usd"] is None:
        yield f"The cost is not known: {row['reason_unknown']}."
    else:
        added = money.total(line["cost_usd"] for line in lines)
        same = "that is the cost" if added == row["cost_usd"] else "THAT IS NOT THE COST; run `costbearer doctor`"
        yield f"The lines add up to {money.text(added)} USD: {same}."
    for note in row["notes"] or []:
        yield f"Noted: {note}."
    if related:
        net = [each["cost_usd"] for each in (row, *related) if each["cost_usd"] is not None]
        yield f"With its corrections the call costs {money.display(money.total(net))}."
    yield f"Started {instant(row['started_at'])}."
