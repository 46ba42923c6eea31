"""Single entries, oldest first, page by page: what `GET /api/v1/entries` and the export answer.

A page begins behind the last entry of the page before it, by start of the call and then by the entry's identity, which
never changes; entries that are posted between two pages are seen if they lie behind.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from costbearer import money
from costbearer.errors import QueryInvalid
from costbearer.ledger import HASHED
from costbearer.reports.dimensions import dimension
from costbearer.reports.periods import instant
from costbearer.reports.query import Query, Reader
from costbearer.usage import COUNTS

LIMIT = 100
LIMIT_MAX = 1000
"""Entries on a page: by default, and at most."""

_CHARGE_FIELDS = ("meter", "quantity", "unit_price_usd", "list_cost_usd", "cost_usd", "model", "card")
_APART = {"attribution", "tags", "notes", "settlement", "work", *COUNTS, *HASHED.values()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVER = (_EPOCH, datetime(2199, 12, 31, tzinfo=UTC))


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a page: start of the call in microseconds since 1970, journal, sequence."""

    started_us: int
    journal: str
    sequence: int

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Raises `QueryInvalid` where the text is not one that `text` gave."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            cursor = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=cls)
            _EPOCH + timedelta(microseconds=cursor.started_us)
        except (ValueError, binascii.Error, msgspec.MsgspecError, OverflowError, RecursionError):
            raise QueryInvalid({"cursor": "is not a next_cursor of an earlier answer"}) from None
        return cursor


class EntriesQuery(msgspec.Struct, frozen=True):
    """One page's question."""

    filter: Query
    limit: int = LIMIT
    after: Cursor | None = None

    @classmethod
    def parse(cls, parameters: Iterable[tuple[str, str]], *, now: datetime) -> EntriesQuery:
        """Read (name, text) pairs: `since`, `until`, `limit`, `cursor`, and any dimension by its name.

        A dimension may be given several times: any of its values. Without `since` and `until` everything is asked for.

        Raises:
            QueryInvalid: names every parameter that is unknown or cannot be used.
        """
        faults: dict[str, str] = {}
        single: dict[str, str] = {}
        pairs: list[tuple[str, str]] = [("by", "day")]
        for name, text in parameters:
            if name in {"since", "until", "limit", "cursor"}:
                if name in single:
                    faults[name] = "given more than once"
                single[name] = text
                continue
            fault = _filter_fault(name, text, now)
            if fault:
                faults[name[:60]] = fault
            pairs.append(("where", f"{name}={text}"))
        limit = _limit(single.get("limit", str(LIMIT)), faults)
        after = None
        try:
            after = Cursor.read(single["cursor"]) if single.get("cursor") else None
        except QueryInvalid as error:
            faults |= error.fields
        since, until = single.get("since") or instant(_EVER[0]), single.get("until") or instant(_EVER[1])
        try:
            query = Query.parse([*([] if faults else pairs), ("since", since), ("until", until)], now=now)
        except QueryInvalid as error:
            raise QueryInvalid({**error.fields, **faults}) from None
        if faults:
            raise QueryInvalid(faults)
        return cls(query, limit, after)


def page(reader: Reader, query: EntriesQuery) -> tuple[list[dict[str, Any]], str | None]:
    """The entries of one page as JSON documents, and the cursor of the next page; None behind the last one.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    entries, wanted = reader.entries, query.filter.followed(reader)
    asked = entries.filter(wanted.within(entries, wanted.period))
    if query.after is not None:
        asked = asked.filter(_behind(asked, query.after))
    asked = asked.order_by(["started_at", "journal", "sequence"]).limit(query.limit + 1)
    rows = reader.execute(asked).to_pylist(maps_as_pydicts="strict")
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    charges = _charges(reader, rows)
    documents = [document(row, charges.get((row["journal"], row["sequence"]), [])) for row in rows]
    return documents, _cursor(rows[-1]).text() if more else None


def document(row: Mapping[str, Any], charges: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An entry as INTERFACE describes it: money as text with 12 places, times in RFC 3339, absent counts left out."""
    made: dict[str, Any] = {"entry_id": f"{row['journal']}.{row['sequence']}"}
    made |= {name: _plain(value) for name, value in row.items() if name not in _APART}
    fields = msgspec.json.decode(row["attribution"])
    made["attribution"] = {name: {**field, "conflict": field.get("conflict", [])} for name, field in fields.items()}
    made["tags"] = row["tags"] or {}
    made["notes"] = row["notes"] or []
    made |= {name: row[name] for name in HASHED.values() if row[name] is not None}
    if row["work"] is not None:
        made["work"] = msgspec.json.decode(row["work"])
    made["usage"] = {name: row[name] for name in COUNTS if row[name] is not None}
    made["charges"] = [{name: _plain(charge[name]) for name in _CHARGE_FIELDS} for charge in charges]
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return money.text(value)
    return instant(value) if isinstance(value, datetime) else value


def _behind(entries: Any, after: Cursor) -> Any:
    import ibis

    started = ibis.literal(_EPOCH + timedelta(microseconds=after.started_us), type=entries["started_at"].type())
    same_start, same_journal = entries["started_at"] == started, entries["journal"] == after.journal
    later = (entries["started_at"] > started) | (same_start & (entries["journal"] > after.journal))
    return later | (same_start & same_journal & (entries["sequence"] > after.sequence))


def _cursor(row: Mapping[str, Any]) -> Cursor:
    started: timedelta = row["started_at"] - _EPOCH
    return Cursor(started // timedelta(microseconds=1), row["journal"], row["sequence"])


def _charges(reader: Reader, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    sequences: dict[str, list[int]] = {}
    for row in rows:
        sequences.setdefault(row["journal"], []).append(row["sequence"])
    for journal, wanted in sequences.items():
        charges = reader.charges
        own = charges.filter((charges["journal"] == journal) & charges["sequence"].isin(wanted))
        for charge in reader.execute(own.order_by(["sequence", "model", "card", "meter"])).to_pylist():
            found.setdefault((journal, charge["sequence"]), []).append(charge)
    return found


def _filter_fault(name: str, text: str, now: datetime) -> str:
    try:
        dimension(name)
    except KeyError as error:
        return str(error.args[0])
    try:
        Query.parse([("where", f"{name}={text}")], now=now)
    except QueryInvalid as error:
        return "; ".join(error.fields.values())
    return ""


def _limit(text: str, faults: dict[str, str]) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= LIMIT_MAX:
        return int(text)
    faults["limit"] = f"is a whole number from 1 to {LIMIT_MAX}"
    return LIMIT
