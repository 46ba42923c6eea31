"""Restatement: the calls of a period rated again with the archive and the contract of today, and what that changes.

Nothing is edited. What a call cost is what its entry and its corrections add up to; where rating it again says
something else, a further correction is posted (`corrections`): the difference where a cost was known, a reversal and a
replacement where it was unknown and now has a price. What a provider itself stated stays as it stated it, and a call
that had a price and now has none keeps it: that is said and left to a person.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import ibis
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer import corrections, money
from costbearer.contract import Contract, Prices
from costbearer.corrections import Closed, never
from costbearer.errors import StoreFailed
from costbearer.ledger import Charge, Entry
from costbearer.prices import PriceBook
from costbearer.rerate import Rerated, rerate
from costbearer.standing import RATED_BY, Books, Ledger, Reader, parts_of, whole
from costbearer.standing import calls as calls_of
from costbearer.usage import COUNTS

UNPRICED = ("provider_unpriced", "model_unpriced", "tier_unpriced", "variant_unpriced", "tier_committed", "unrated")
"""Reasons for an unknown cost that a new price can take away, beside `meter_unpriced:<meter>`."""
ESTIMATED = "estimated_from_bytes"
"""The note of a call whose usage is an estimate; so is then its cost."""
SPAN_CALLS = 500_000
"""Calls that are rated in one go, at most, where an hour has no more: they take 1.3 GB of memory, a million 2.3."""
BATCH = 20_000
"""Entries that are corrected in one go."""


class Period(NamedTuple):
    """`[since, until)`, in UTC."""

    since: datetime
    until: datetime

    def document(self) -> dict[str, str]:
        """The period as JSON."""
        return {"since": self.since.isoformat(), "until": self.until.isoformat()}


class Changed(NamedTuple):
    """What a restatement changes for one model and team: calls by what happens to them, and the cost before and after.

    `before_usd` counts unknown costs as nothing; `priced` says how many they were.
    """

    model: str
    team: str | None
    repriced: int
    priced: int
    before_usd: Decimal
    after_usd: Decimal


class Restatement(NamedTuple):
    """`calls` were looked at. `lost` had a price and now have none, by (model, reason); they are left as they are.

    `still_unknown` were unknown and stay so. `rows` are the calls that change, in the order in which they were
    posted, `lines` what they are charged now, as `rerate.LINES_ARROW`.
    """

    calls: int
    changed: tuple[Changed, ...]
    lost: Mapping[tuple[str, str], int]
    still_unknown: int
    lines: pa.Table
    rows: pa.Table

    @property
    def delta_usd(self) -> Decimal:
        return money.minus(
            money.total(row.after_usd for row in self.changed), money.total(row.before_usd for row in self.changed)
        )


def restatement(
    reader: Reader, book: PriceBook, contract: Contract | None, *, since: datetime, until: datetime
) -> Restatement:
    """Rate the calls that began in `[since, until)` again and say what that changes. Posts nothing.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    pieces: list[_Piece] = []
    calls = 0
    for span in _spans(reader, since, until):
        pieces.append(_restated(reader, book, contract, span, calls))
        calls += pieces[-1].calls
    rows = pa.concat_tables([piece.rows for piece in pieces])
    lost: Counter[tuple[str, str]] = Counter()
    for piece in pieces:
        lost.update(piece.lost)
    return Restatement(
        calls=calls,
        changed=_summed(rows),
        lost=lost,
        still_unknown=sum(piece.still_unknown for piece in pieces),
        lines=pa.concat_tables([piece.lines for piece in pieces]),
        rows=rows.sort_by([("journal", "ascending"), ("sequence", "ascending")]),
    )


def _spans(reader: Reader, since: datetime, until: datetime) -> list[Period]:
    """The period in pieces of whole hours, each with at most `SPAN_CALLS` where an hour has no more."""
    entries = reader.entries
    began = entries.filter((entries.calls > 0) & (entries.started_at >= since) & (entries.started_at < until))
    # Replacements of calls of closed months are few, and counted where they were posted.
    hours = began.group_by(hour=(began.started_at.epoch_seconds() // 3600).cast("int64"))
    spans: list[Period] = []
    start, held = since, 0
    for row in reader.execute(hours.aggregate(calls=began.count()).order_by("hour")).to_pylist():
        if held and held + row["calls"] > SPAN_CALLS:
            cut = datetime.fromtimestamp(row["hour"] * 3600, UTC)
            spans.append(Period(start, cut))
            start, held = cut, 0
        held += row["calls"]
    return [*spans, Period(start, until)]


class _Piece(NamedTuple):
    """Of a `Restatement` what one span adds to it."""

    calls: int
    lost: Mapping[tuple[str, str], int]
    still_unknown: int
    lines: pa.Table
    rows: pa.Table


def _restated(reader: Reader, book: PriceBook, contract: Contract | None, span: Period, first: int) -> _Piece:
    """Rate the calls of a span again; they are numbered from `first` on."""
    calls = reader.execute(_standing(reader, span))
    rated = rerate(parts_of(calls, first), book, contract)
    rows = _compared(calls, rated)
    changed = rows.filter(pc.field("changes"))
    lost = rows.filter(pc.field("lost")).group_by(["model", "reason"]).aggregate([([], "count_all")]).to_pylist()
    still = pc.sum(pc.and_(pc.is_null(rows["before"]), pc.is_null(rows["after"]))).as_py() or 0
    return _Piece(
        calls=len(calls),
        lost={(row["model"], row["reason"]): row["count_all"] for row in lost},
        still_unknown=still,
        lines=rated.lines.filter(pc.is_in(rated.lines["row"], value_set=changed["row"])),
        rows=changed,
    )


def _standing(reader: Reader, span: Period) -> Any:
    """The calls that can be rated, as they count now: those that were reversed left out, differences added.

    A known cost can be rated again where it was made of charges. Only of what cost nothing they must be looked for.
    """
    entries = reader.entries
    differences = entries.filter((entries.calls == 0) & entries.refers_to.notnull())
    differences = differences.group_by("refers_to").aggregate(more=differences.cost_usd.sum())
    standing = calls_of(entries, span.since, span.until)
    standing = standing.filter(standing.basis != "provider_cost")
    reason = standing.reason_unknown
    unpriced = standing.cost_usd.isnull() & (reason.isin(UNPRICED) | reason.startswith("meter_unpriced:"))
    free = standing.filter(standing.cost_usd == 0).semi_join(reader.charges, ["journal", "sequence"])
    both = standing.filter((standing.cost_usd != 0) | unpriced).union(free)
    met = both.left_join(differences, both.entry_id == differences.refers_to)
    names = ["entry_id", "journal", "sequence", "team", *RATED_BY, *COUNTS]
    cost = both.cost_usd + ibis.coalesce(differences.more, 0).cast(both.cost_usd.type())
    return met.select(*(both[name] for name in names), before=cost.cast(both.cost_usd.type()))


def _compared(calls: pa.Table, rated: Rerated) -> pa.Table:
    """Cost before and after, in the order of the calls."""
    after = rated.calls.sort_by("row")
    if len(after) != len(calls):
        raise StoreFailed(f"{len(calls)} calls were to be rated again and {len(after)} were")
    before, new = calls["before"], after["cost_usd"].cast(calls["before"].type)
    differs = pc.fill_null(pc.not_equal(before, new), fill_value=False)
    found = pc.and_(pc.is_null(before), pc.is_valid(new))
    columns = {
        "row": after["row"],
        "entry_id": calls["entry_id"],
        "journal": calls["journal"],
        "sequence": calls["sequence"],
        "called_at": calls["called_at"],
        "team": calls["team"],
        "model": pc.coalesce(calls["response_model"], calls["request_model"]),
        "before": before,
        "after": new,
        "reason": after["reason"],
        "changes": pc.or_(differs, found),
        "lost": pc.and_(pc.is_valid(before), pc.is_null(new)),
    }
    return pa.table(columns)


def _summed(changed: pa.Table) -> tuple[Changed, ...]:
    sums = (
        changed.append_column("priced", pc.is_null(changed["before"]).cast(pa.int64()))
        .group_by(["model", "team"])
        .aggregate([([], "count_all"), ("priced", "sum"), ("before", "sum"), ("after", "sum")])
    )
    rows = [
        Changed(
            model=row["model"],
            team=row["team"],
            repriced=row["count_all"] - row["priced_sum"],
            priced=row["priced_sum"],
            before_usd=row["before_sum"] or money.ZERO,
            after_usd=row["after_sum"],
        )
        for row in sums.to_pylist()
    ]
    rows.sort(key=lambda row: (-abs(money.minus(row.after_usd, row.before_usd)), row.model, row.team or ""))
    return tuple(rows)


def corrected(
    found: Restatement, whole: Mapping[str, Sequence[Entry]], *, at: datetime, closed: Closed = never
) -> Iterator[Entry]:
    """The entries to post for some of the calls that change.

    Args:
        found: what `restatement` found.
        whole: of each of these calls its standing entry and the corrections of it, by the standing entry's id.
        at: when they are posted.
        closed: whether the month of a moment is closed.
    """
    known = found.rows.select(["entry_id", "row", "called_at"]).to_pylist()
    rows = {row["entry_id"]: row["row"] for row in known}
    called = {row["entry_id"]: row["called_at"] for row in known}
    wanted = pa.array([rows[entry_id] for entry_id in whole], pa.int64())
    charges: dict[int, list[Charge]] = {}
    for line in found.lines.filter(pc.is_in(found.lines["row"], value_set=wanted)).to_pylist():
        named = {name: line[name] for name in Charge.__struct_fields__}
        charges.setdefault(line["row"], []).append(Charge(**named))
    for entry_id, entries in whole.items():
        old = corrections.net(entries)
        new = _rated(old, charges.get(rows[entry_id], []))
        yield from corrections.restated(old, new, at=at, kind="restatement", closed=closed(called[entry_id]))


def _rated(old: Entry, charges: Sequence[Charge]) -> Entry:
    cost = money.total(charge.cost_usd for charge in charges)
    return msgspec.structs.replace(
        old,
        charges=tuple(charges),
        cost_usd=cost,
        list_cost_usd=money.total(charge.list_cost_usd for charge in charges),
        # What was amortised into it stays: a share of a fee does not follow from prices.
        effective_cost_usd=money.total((cost, money.minus(old.effective_cost_usd, old.cost_usd)))
        if old.effective_cost_usd is not None and old.cost_usd is not None
        else cost,
        computed_cost_usd=cost,
        basis="estimated" if ESTIMATED in old.notes else "metered",
        reason_unknown=None,
    )


def standing_entries(reader: Reader, found: Restatement, start: int) -> dict[str, list[Entry]]:
    """Of up to `BATCH` of the calls that change, from the `start`th on: the standing entry and its differences.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    return whole(reader, found.rows.slice(start, BATCH))


def document(found: Restatement, *, since: datetime, until: datetime, applied: int | None) -> dict[str, Any]:
    """What a restatement says, as the API and `costbearer restate --json` give it. `applied` counts entries posted."""
    rows = [
        {
            "model": row.model,
            "team": row.team,
            "repriced": row.repriced,
            "priced": row.priced,
            "before_usd": money.text(row.before_usd),
            "after_usd": money.text(row.after_usd),
            "delta_usd": money.text(money.minus(row.after_usd, row.before_usd)),
        }
        for row in found.changed
    ]
    lost = [{"model": model, "reason": reason, "calls": calls} for (model, reason), calls in sorted(found.lost.items())]
    return {
        "since": since.isoformat().replace("+00:00", "Z"),
        "until": until.isoformat().replace("+00:00", "Z"),
        "calls": found.calls,
        "changes": len(found.rows),
        "rows": rows,
        "delta_usd": money.text(found.delta_usd),
        "lost": lost,
        "still_unknown": found.still_unknown,
        "applied": applied,
    }


def restate(
    ledger: Ledger, bookkeeper: Books, prices: Prices, period: Period, *, apply: bool, closed: Closed = never
) -> dict[str, Any]:
    """The restatement of a period as `document`; with `apply` its corrections are posted.

    They are posted in batches, each whole or not at all: what is cut off in between is found again the next time, and
    what was posted is not found again. What concerns a closed month, as `closed` says, is posted in the open one.

    Raises:
        PostingBusy: somebody else posts for too long.
        StoreFailed, JournalFailed: the ledger cannot be read, or the corrections not be posted.
    """
    with bookkeeper.posting() if apply else contextlib.nullcontext(), ledger.reader() as reader:
        found = restatement(reader, prices.book, prices.contract, since=period.since, until=period.until)
        posted = 0 if apply else None
        for start in range(0, len(found.rows) if apply else 0, BATCH):
            whole = standing_entries(reader, found, start)
            posted = (posted or 0) + bookkeeper.record(corrected(found, whole, at=datetime.now(UTC), closed=closed))
    return document(found, since=period.since, until=period.until, applied=posted)
