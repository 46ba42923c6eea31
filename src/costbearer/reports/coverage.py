"""`report coverage`: how much of requests and dollars has each field, who vouches for it, and what is nobody's.

*Unattributed* is what has no owner or no team. *FinOps-ready* is a call with owner, team, model and a known cost.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from costbearer import money
from costbearer.ledger import CONFLICT, LABELS, PROVENANCE_FIELDS
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import NONE, bucket
from costbearer.reports.facts import facts
from costbearer.reports.periods import Period
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.spend import why_empty
from costbearer.reports.table import Cell, Column, Kind, Part, Source, Table, shown_cell
from costbearer.reports.table import calls as calls_of

FORM = Form(
    "coverage",
    "How much of requests and dollars has each field and who vouches for it; what is nobody's, and who causes it.",
    takes=("where", "since", "until", "compare", "tz", "limit"),
    by="",
    compare="previous",
)
LIMIT_SHARE = Decimal("0.02")
"""Unattributed spend above this share is a defect: the line of the weekly part."""
LIMIT_NAME = "2 %"
BEARERS = ("owner", "team")
PROVENANCES: Mapping[str, str] = {"v": "verified", "a": "asserted", "i": "inferred", "d": "delegated"}
_CALLER = ("key", "provider", "key_team", "agent", "workload")
_ITEM_DIGITS = 8


class _Sums(NamedTuple):
    """Of some calls: requests, calls, those whose cost is known, and that cost."""

    requests: int = 0
    calls: int = 0
    known: int = 0
    usd: Decimal = money.ZERO

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.requests + other.requests,
            self.calls + other.calls,
            self.known + other.known,
            money.total((self.usd, other.usd)),
        )


_NOTHING = _Sums()


class Covered(NamedTuple):
    """How the calls of one period are covered: sums by spelled provenance, and whether the model is known."""

    groups: Mapping[tuple[str, bool], _Sums]
    source: Source | None = None

    @property
    def total(self) -> _Sums:
        return _added(self.groups.values())

    def having(self, field: str, letter: str | None = None) -> _Sums:
        """The calls that have the field, from whoever or from one kind of voucher."""
        place = PROVENANCE_FIELDS.index(field)
        return _added(
            sums
            for (spelled, _), sums in self.groups.items()
            if (spelled[place] != "-" if letter is None else spelled[place] == letter)
        )

    @property
    def unattributed(self) -> _Sums:
        return _added(sums for (spelled, _), sums in self.groups.items() if not _borne(spelled))

    @property
    def ready_calls(self) -> int:
        return sum(sums.known for (spelled, model), sums in self.groups.items() if model and _borne(spelled))


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per field, and parts by week and by who causes what is missing."""
    periods = {"now": query.period} | ({"before": query.compare} if query.compare else {})
    now, before = (covered(reader, query, periods.get(name)) for name in ("now", "before"))
    rows = [_row(field, now, before) for field in PROVENANCE_FIELDS]
    lost, whole = now.unattributed, now.total
    ready = _ratio(now.ready_calls, whole.calls)
    totals: dict[str, Any] = {
        "total_usd": whole.usd,
        "requests": whole.requests,
        "calls": whole.calls,
        "unknown_calls": whole.calls - whole.known,
        "unknown_bound_usd": _bound(reader, query),
        "unattributed_usd": lost.usd,
        "unattributed_share": money.share(lost.usd, whole.usd),
        "finops_ready_share": ready,
    }
    if query.compare:
        totals |= {
            "previous_usd": before.total.usd,
            "previous_unattributed_usd": before.unattributed.usd,
            "previous_unattributed_share": money.share(before.unattributed.usd, before.total.usd),
        }
    callers, items = _callers(reader, query)
    return Table(
        title="Coverage",
        query=query,
        columns=_columns(compared=query.compare is not None),
        rows=tuple(row if query.compare else row[:-1] for row in rows) if whole.calls or whole.usd else (),
        totals=totals,
        complete_to=beside.complete_to,
        empty=None if whole.calls or whole.usd else why_empty(reader, query),
        notes=tuple(_notes(totals)),
        source=now.source,
        parts=(_weeks(reader, query), callers, _conflicts(reader, query), items),
        form=FORM,
    )


def covered(reader: Reader, query: Query, period: Period | None) -> Covered:
    """How the calls of a period that meet the query's filters are covered."""
    if period is None:
        return Covered({})
    asked = replace(query, period=period, compare=None)
    known = facts(reader, asked, by=("model",), extra=("provenance",))
    table = known.table
    grouped = table.group_by(
        provenance=table["provenance"], model=asked.keys(table, ["model"])["by_0"].notnull().ifelse(1, 0)
    )
    grouped = grouped.aggregate(**known.sums(table, ("requests", "calls", "unknown_calls", "cost_usd")))
    rows = reader.execute(grouped).to_pylist()
    return Covered({(row["provenance"], bool(row["model"])): _sums_of(row) for row in rows}, known.source)


def _bound(reader: Reader, query: Query) -> Decimal | None:
    """The most that the calls of unknown cost can cost; None where one of them has no bound."""
    known = facts(reader, replace(query, compare=None), by=())
    sums = known.sums(known.table, ("unbounded_calls", "unknown_bound_usd"))
    (row,) = reader.execute(known.table.aggregate(**sums)).to_pylist()
    return None if row["unbounded_calls"] else row["unknown_bound_usd"] or money.ZERO


def _sums_of(row: Mapping[str, Any]) -> _Sums:
    calls = row["calls"] or 0
    return _Sums(row["requests"] or 0, calls, calls - (row["unknown_calls"] or 0), row["cost_usd"] or money.ZERO)


def _added(parts: Iterable[_Sums]) -> _Sums:
    found = _NOTHING
    for part in parts:
        found = found.plus(part)
    return found


def _borne(spelled: str) -> bool:
    return all(spelled[PROVENANCE_FIELDS.index(field)] != "-" for field in BEARERS)


def _ratio(part: int, whole: int) -> float | None:
    return money.share(Decimal(part), Decimal(whole))


def _columns(*, compared: bool) -> tuple[Column, ...]:
    change = (Column("share_change", "change", "change"),) if compared else ()
    return (
        Column("field", "field", "bucket"),
        Column("requests", "requests", "count"),
        Column("requests_share", "of\nrequests", "share"),
        Column("cost_usd", "cost", "usd"),
        Column("cost_share", "of\ncost", "share"),
        Column("missing_usd", "missing", "usd"),
        *(Column(f"{name}_usd", name, "usd") for name in PROVENANCES.values()),
        *change,
    )


def _row(field: str, now: Covered, before: Covered) -> tuple[Cell, ...]:
    whole, having = now.total, now.having(field)
    share = money.share(having.usd, whole.usd)
    old = money.share(before.having(field).usd, before.total.usd)
    return (
        field.removesuffix("_id"),
        having.requests,
        _ratio(having.requests, whole.requests),
        having.usd,
        share,
        money.minus(whole.usd, having.usd),
        *(now.having(field, letter).usd for letter in PROVENANCES),
        None if share is None or old is None else share - old,
    )


def _weeks(reader: Reader, query: Query) -> Part:
    """Cost and what of it is nobody's, week by week."""
    asked = replace(query, by=("week",), compare=None)
    known = facts(reader, asked, extra=("provenance",))
    table = known.table
    grouped = table.group_by(**asked.keys(table), provenance=table["provenance"])
    grouped = grouped.aggregate(**known.sums(table, ("cost_usd",)))
    weeks: dict[str, list[Decimal]] = defaultdict(lambda: [money.ZERO, money.ZERO])
    for row in reader.execute(grouped).to_pylist():
        week, cost = weeks[asked.buckets(row)[0]], row["cost_usd"] or money.ZERO
        week[0] = money.total((week[0], cost))
        week[1] = week[1] if _borne(row["provenance"]) else money.total((week[1], cost))
    rows = tuple(
        (
            week,
            cost,
            lost,
            money.share(lost, cost),
            "" if lost <= money.scaled(cost, LIMIT_SHARE) else "yes",
        )
        for week, (cost, lost) in sorted(weeks.items())
    )
    columns = (
        Column("week", "week", "bucket"),
        Column("cost_usd", "cost", "usd"),
        Column("unattributed_usd", "unattributed", "usd"),
        Column("unattributed_share", "share", "share"),
        Column("over", f"over {LIMIT_NAME}", "text"),
    )
    totals = {
        "cost_usd": money.total(cost for cost, _ in weeks.values()),
        "unattributed_usd": money.total(lost for _, lost in weeks.values()),
    }
    return Part("weeks", "Unattributed per week", columns, rows, totals)


def _callers(reader: Reader, query: Query) -> tuple[Part, Part]:
    """Who causes what is nobody's, and the same as a list of work with names that stay."""
    known = facts(reader, query, by=_CALLER, extra=("provenance",))
    table = known.table
    places = [PROVENANCE_FIELDS.index(field) for field in BEARERS]
    missing = table["provenance"].substr(places[0], 1) == "-"
    for place in places[1:]:
        missing |= table["provenance"].substr(place, 1) == "-"
    lost = table.filter(missing)
    sums = known.sums(lost, ("calls", "unknown_calls", "cost_usd"), query.period)
    if query.compare:
        sums |= known.sums(lost, ("calls", "cost_usd"), query.compare, "previous_")
    grouped = lost.group_by(**query.keys(lost, _CALLER)).aggregate(**sums)
    found = []
    for row in reader.execute(grouped).to_pylist():
        key = query.buckets(row, _CALLER)
        cost, before = row["cost_usd"] or money.ZERO, row.get("previous_cost_usd") or money.ZERO
        if row["calls"] or row.get("previous_calls") or cost or before:
            found.append((key, row["calls"] or 0, row["unknown_calls"] or 0, cost, money.minus(cost, before)))
    found.sort(key=lambda each: (each[3].copy_negate(), each[0]))
    listed = found[: query.limit]
    caller = Part(
        "callers",
        "Calls that nobody bears, by caller",
        (
            *(Column(name, name, "bucket") for name in _CALLER),
            Column("calls", "calls", "count"),
            Column("unknown_calls", "", "count"),
            Column("cost_usd", "cost", "usd", (("calls", "unknown_calls"),)),
            Column("delta_usd", "change", "delta"),
        ),
        tuple((*key, calls, unknown, cost, delta) for key, calls, unknown, cost, delta in listed),
        {
            "calls": sum(each[1] for each in found),
            "cost_usd": money.total(each[3] for each in found),
            "delta_usd": money.total(each[4] for each in found),
        },
    )
    items = Part(
        "items",
        "To do, the dearest first",
        (
            Column("item", "item", "bucket"),
            Column("what", "what", "text"),
            Column("cost_usd", "cost", "usd"),
            Column("delta_usd", "change", "delta"),
        ),
        tuple((_item(key), _what(key, calls), cost, delta) for key, calls, _, cost, delta in listed if calls or cost),
    )
    return caller, items


def _conflicts(reader: Reader, query: Query) -> Part:
    """Calls whose caller named somebody else than the key does. The key holds; what was said is evidence."""
    sums: dict[tuple[str, ...], list[Any]] = {}
    for row in _claims(reader, query):
        for field in LABELS:
            if row[field] is not None:
                said = bucket(msgspec.json.decode(f'"{row[field]}"'.encode(), type=str))
                own = sums.setdefault((*(bucket(row[f"own_{name}"]) for name in _OWN), field, said), [0, money.ZERO])
                own[0] += row["calls"] or 0
                own[1] = money.total((own[1], row["cost_usd"] or money.ZERO))
    rows: list[tuple[Cell, ...]] = [(*key, *own) for key, own in sums.items() if any(own)]
    rows.sort(key=lambda row: (-row[-1] if isinstance(row[-1], Decimal) else money.ZERO, str(row)))
    columns = (
        Column("key", "key", "bucket"),
        Column("team", "team", "bucket"),
        Column("agent", "agent", "bucket"),
        Column("field", "field", "text"),
        Column("claimed", "caller said", "text"),
        Column("calls", "calls", "count"),
        Column("cost_usd", "cost", "usd"),
    )
    title = "Callers that named somebody else than their key does"
    return Part("conflicts", title, columns, tuple(rows[: query.limit]))


class Attention(NamedTuple):
    """What of a period's spend is not in order: nobody's, of calls whose caller named something else than was believed,
    charged for calls that failed or were cut short. Amounts are known costs in USD and may overlap."""

    unattributed_usd: Decimal
    disputed_usd: Decimal
    disputed_calls: int
    failed_usd: Decimal


def attention(reader: Reader, query: Query) -> Attention:
    """One look at the whole period, for whoever wants to know where to look closer.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    table = facts(reader, query, extra=["provenance", "status", *BEARERS]).table
    told, cost = table["provenance"].endswith("!"), table["cost_usd"]
    nobody = table["owner"].nullif("").isnull() | table["team"].nullif("").isnull()
    (row,) = reader.execute(
        table.aggregate(
            nobody=cost.sum(where=nobody),
            told=cost.sum(where=told),
            calls=table["calls"].sum(where=told),
            failed=cost.sum(where=table["status"].isin(["error", "cancelled"])),
        )
    ).to_pylist()
    zero = money.ZERO
    return Attention(row["nobody"] or zero, row["told"] or zero, row["calls"] or 0, row["failed"] or zero)


_OWN = ("key_id", "team", "agent")
_SAID = (
    '"{field}":\\{{"value":"(?:[^"\\\\]|\\\\.)*","provenance":"[a-z]+","source":"[^"]*",'
    '"conflict":\\[\\{{"value":"((?:[^"\\\\]|\\\\.)*)"'
)
"""How an entry writes what was said of a field beside its value."""


def _claims(reader: Reader, query: Query) -> list[dict[str, Any]]:
    """What was said by which key, label by label, as JSON writes it; only keys with such calls are looked at."""
    known = facts(reader, replace(query, compare=None), by=("key",), extra=("provenance",))
    table = known.table
    disputed = table.filter(table["provenance"].substr(len(PROVENANCE_FIELDS), 1) == "!")
    keys = reader.execute(disputed.select(key=disputed["key_id"]).distinct()).column("key").to_pylist()
    if not keys:
        return []
    entries = reader.entries
    asked = entries.filter(query.within(entries, query.period))
    if None not in keys:
        asked = asked.filter(asked["key_id"].isin(keys))
    asked = asked.filter(asked["attribution"].contains(CONFLICT))
    said = {field: asked["attribution"].re_extract(_SAID.format(field=field), 1).nullif("") for field in LABELS}
    own = {f"own_{name}": asked[name].nullif("") for name in _OWN}
    sums = {"calls": asked["calls"].sum(), "cost_usd": asked["cost_usd"].sum()}
    rows: list[dict[str, Any]] = reader.execute(asked.group_by(**own, **said).aggregate(**sums)).to_pylist()
    return rows


def _item(key: Sequence[str]) -> str:
    """The same name for the same caller, week after week: an entry of a backlog that can be found again."""
    return "COV-" + hashlib.sha256("\0".join(key).encode()).hexdigest()[:_ITEM_DIGITS]


def _what(key: Sequence[str], calls: int) -> str:
    named = dict(zip(_CALLER, key, strict=True))
    said = [f"{name} {value}" for name, value in named.items() if value != NONE and name != "provider"]
    return f"say who bears {', '.join(said) or 'calls without a key'} ({calls_of(calls)} at {named['provider']})"


def _notes(totals: Mapping[str, Any]) -> list[str]:
    lost, share, ready = totals["unattributed_usd"], totals["unattributed_share"], totals["finops_ready_share"]
    lines = [f"Unattributed (no owner or no team): {money.display(lost)}, {shown_cell(share, 'share')} of the cost."]
    if share is not None and share > LIMIT_SHARE:
        lines[0] = lines[0][:-1] + f": over the {LIMIT_NAME} that can be carried."
    lines.append(f"FinOps-ready (owner, team, model and cost known): {shown_cell(ready, 'share')} of the calls.")
    return lines


_COST: tuple[tuple[int, Kind], ...] = ((2, "usd"), (3, "delta"))
"""Places of an item's amounts."""


def digest(table: Table, most: int = 10) -> str:
    """The answer as a short message in Markdown: where it stands, what changed, and what to do first."""
    from costbearer.reports.show_markdown import escaped
    from costbearer.reports.show_text import span

    totals, query = table.totals, table.query
    lines = [f"### Coverage, {escaped(span(query.period.since, query.period.until, query.zone))}", ""]
    lines += [f"- {escaped(note)}" for note in table.notes]
    before = totals.get("previous_unattributed_usd")
    if isinstance(before, Decimal):
        lines.append(f"- Before: {escaped(money.display(before))} unattributed.")
    moved = [row for row in table.rows if isinstance(row[-1], float) and abs(row[-1]) >= 0.001] if query.compare else []
    lines += [f"- {escaped(str(row[0]))}: {escaped(shown_cell(row[-1], 'change'))} of the cost" for row in moved]
    (items,) = (part for part in table.parts if part.name == "items")
    lines += [""] if items.rows else []
    for row in items.rows[:most]:
        cost, delta = (escaped(shown_cell(row[place], kind)) for place, kind in _COST)
        lines.append(f"- [ ] {escaped(str(row[0]))}: {escaped(str(row[1]))}, {cost} ({delta})")
    if len(items.rows) > most:
        lines.append(f"- and {len(items.rows) - most} more: `{table.command}`")
    return "\n".join(lines) + "\n"
