"""Spend that came before the gateway: who bears it, until nothing is nobody's.

What other gateways' logs brought into the ledger without all four labels is listed by key, the dearest first. The large
ones are labelled: a dated row of the ownership map, and the re-attribution that follows from it, which is shown before
it is posted. Each call is then taken back under its old labels and posted under the new ones, *inferred* from the map;
what a log itself said stays. The long tail is rotated: each key is replaced by a virtual key with four labels, issued
through the ordinary door, and the old one must be gone by a date; use after it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from costbearer import corrections, money
from costbearer.corrections import Closed
from costbearer.ledger import LABELS, Entry, Field
from costbearer.standing import Books, Ledger, Reader, whole
from costbearer.standing import calls as calls_of

BATCH = 2_000
"""Calls that are re-attributed in one go: all of them or none."""
LARGE_SHARE = Decimal("0.01")
"""A key that is this much of all spend is worth labelling by hand; the others are the tail."""
SOURCE = "ownership"
_SEEN = ("agent", "workload", "project", "workflow", "feature")
_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


class Unborne(NamedTuple):
    """A key whose calls nobody, or nobody wholly, bears. `seen` is what its calls say of themselves."""

    key: str | None
    provider: str
    calls: int
    cost_usd: Decimal
    unknown_calls: int
    first: datetime
    last: datetime
    seen: dict[str, str]


class Month(NamedTuple):
    """Of a re-attribution: the calls of one month, and whether it is closed (they are then posted in the open one)."""

    month: str
    calls: int
    cost_usd: Decimal
    closed: bool


def survey(reader: Reader) -> tuple[list[Unborne], Decimal]:
    """The keys whose calls lack a label, the dearest first, and the spend of the whole ledger."""
    entries = reader.entries
    lacking = entries.filter(_lacking(entries))
    sums = lacking.group_by(**_by(lacking)).aggregate(
        calls=lacking["calls"].sum(),
        cost_usd=lacking["cost_usd"].sum(),
        unknown_calls=lacking["calls"].sum(where=lacking["cost_usd"].isnull()),
    )
    # What was taken back still stands in the ledger; it counts in no sum, and must not in first and last either.
    standing = calls_of(entries, *_EVER)
    standing = standing.filter(_lacking(standing))
    seen = standing.group_by(**_by(standing)).aggregate(
        first=standing["called_at"].min(),
        last=standing["called_at"].max(),
        **{name: standing[name].nullif("").min() for name in _SEEN},
        **{f"{name}_count": standing[name].nullif("").nunique() for name in _SEEN},
    )
    told = {(row["key"], row["provider"]): row for row in reader.execute(seen).to_pylist()}
    found = []
    for row in reader.execute(sums).to_pylist():
        more = told.get((row["key"], row["provider"]))
        if more is not None:
            said = {name: _seen(more[name], more[f"{name}_count"]) for name in _SEEN if more[f"{name}_count"]}
            amounts = (row["calls"], row["cost_usd"] or money.ZERO, row["unknown_calls"] or 0)
            found.append(Unborne(row["key"], row["provider"], *amounts, more["first"], more["last"], said))
    found.sort(key=lambda each: (each.cost_usd.copy_negate(), each.key or "", each.provider))
    (total,) = reader.execute(entries.aggregate(cost_usd=entries["cost_usd"].sum())).to_pylist()
    return found, total["cost_usd"] or money.ZERO


def _by(rows: Any) -> dict[str, Any]:
    return {"key": rows["key_id"].nullif(""), "provider": rows["provider"]}


def _lacking(entries: Any) -> Any:
    condition = entries[LABELS[0]].nullif("").isnull()
    for name in LABELS[1:]:
        condition |= entries[name].nullif("").isnull()
    return condition


def _seen(value: str, count: int) -> str:
    return value if count == 1 else f"{count} different"


def affected(reader: Reader, key: str, since: datetime | None) -> pa.Table:
    """The calls of a key that lack a label, from a moment on, as they count now."""
    entries = reader.entries
    standing = calls_of(entries, since or _EVER[0], _EVER[1])
    standing = standing.filter([standing["key_id"] == key, _lacking(standing)])
    names = ["journal", "sequence", "entry_id", "called_at", "cost_usd"]
    return reader.execute(standing.select(*names).order_by(["called_at", "journal", "sequence"]))


def months(calls: pa.Table, closed: Closed) -> list[Month]:
    """What a re-attribution moves, month by month."""
    found: dict[str, Month] = {}
    for at, cost in zip(calls["called_at"].to_pylist(), calls["cost_usd"].to_pylist(), strict=True):
        name = f"{at:%Y-%m}"
        old = found.get(name) or Month(name, 0, money.ZERO, closed(at))
        found[name] = old._replace(calls=old.calls + 1, cost_usd=money.total((old.cost_usd, cost or money.ZERO)))
    return [found[name] for name in sorted(found)]


def reattribute(
    ledger: Ledger, books: Books, key: str, labels: Mapping[str, str], since: datetime | None, closed: Closed
) -> int:
    """Post the calls of a key again under these labels, where they lack one. Gives how many entries were posted.

    In batches, each whole or not at all: what is cut off in between is found again the next time.

    Raises:
        PostingBusy: somebody else posts for too long.
        StoreFailed, JournalFailed: the ledger cannot be read, or the entries not be posted.
    """
    posted = 0
    with books.posting(), ledger.reader() as reader:
        calls = affected(reader, key, since)
        for start in range(0, len(calls), BATCH):
            piece = calls.slice(start, BATCH)
            posted += books.record(_moved(whole(reader, piece), piece, labels, closed))
    return posted


def _moved(
    entries: Mapping[str, Sequence[Entry]], calls: pa.Table, labels: Mapping[str, str], closed: Closed
) -> Iterator[Entry]:
    now = datetime.now(UTC)
    called = dict(zip(calls["entry_id"].to_pylist(), calls["called_at"].to_pylist(), strict=True))
    for entry_id, own in entries.items():
        old = corrections.net(own)
        new = labelled(old, labels)
        yield from corrections.restated(old, new, at=now, kind="correction", closed=closed(called[entry_id]))


def labelled(entry: Entry, labels: Mapping[str, str]) -> Entry:
    """The entry with the labels that it lacks; those that it has stay."""
    missing = {name: value for name, value in labels.items() if not getattr(entry, name)}
    fields = {name: Field(value, "inferred", SOURCE) for name, value in missing.items()}
    return msgspec.structs.replace(entry, **missing, attribution={**entry.attribution, **fields})


# -- as documents, for API and command line


class Replaced(NamedTuple):
    """What is known of a key beside the ledger: its virtual key and the day by which it must be gone; whether the map
    has a row for it."""

    key_id: str | None = None
    expires_at: datetime | None = None
    labelled: bool = False


def document(
    found: Sequence[Unborne], total: Decimal, known: Callable[[str], Replaced], now: datetime
) -> dict[str, Any]:
    """The list with what is to be done, and how far it has come."""
    lacking = money.total(each.cost_usd for each in found)
    rows = []
    running = money.ZERO
    for rank, each in enumerate(found, 1):
        large = each.cost_usd > 0 and each.cost_usd >= money.scaled(total, LARGE_SHARE)
        running = money.total((running, each.cost_usd))
        state = known(each.key) if each.key is not None else Replaced()
        rows.append(
            {
                "rank": rank,
                "key": each.key,
                "provider": each.provider,
                "calls": each.calls,
                "cost_usd": money.text(each.cost_usd),
                "unknown_calls": each.unknown_calls,
                "share": money.share(each.cost_usd, lacking),
                "cumulative_share": money.share(running, lacking),
                "first": _stamp(each.first),
                "last": _stamp(each.last),
                "seen": each.seen,
                "do": _to_do(each, state, now, large=large),
                "labelled": state.labelled,
                "replaced_by": state.key_id,
                "expires_at": None if state.expires_at is None else _stamp(state.expires_at),
            }
        )
    return {
        "total_usd": money.text(total),
        "unattributed_usd": money.text(lacking),
        "unattributed_share": money.share(lacking, total),
        "keys": len(rows),
        "rows": rows,
    }


def _to_do(each: Unborne, state: Replaced, now: datetime, *, large: bool) -> str:
    if each.key is None:
        return "import again with an ownership map: its calls name no key"
    if state.expires_at is not None:
        if each.last >= state.expires_at:
            return "used after its last day"
        return "label its past" if now >= state.expires_at else "waits for its last day"
    return "label" if large or state.labelled else "rotate"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
