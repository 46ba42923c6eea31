"""The calls of a ledger as they count now: without what was taken back, and each with the time at which it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import ibis
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer.ledger import CORRECTING, Entry
from costbearer.rerate import PARTS_ARROW
from costbearer.stores.rows import entry_from
from costbearer.usage import COUNTS, Work

RATED_BY = (
    *("provider", "price_provider", "request_model", "response_model", "tier", "speed", "region", "variant"),
    *("called_at", "work"),
)
"""What a price depends on, beside the counts."""
_works = msgspec.json.Decoder(tuple[Work, ...]).decode


class Reader(Protocol):
    """One state of the ledger."""

    @property
    def entries(self) -> Any: ...

    @property
    def charges(self) -> Any: ...

    def execute(self, expression: Any, /) -> pa.Table: ...

    def as_recorded(self, expression: Any, /) -> pa.Table:
        """As `execute`, with tenants and users under the hashes that the journal has."""


class Ledger(Protocol):
    """What is there."""

    def reader(self) -> AbstractContextManager[Reader]: ...


class Books(Protocol):
    """What posts, and the block in which nobody else does (`Bookkeeper.posting`)."""

    def posting(self) -> AbstractContextManager[None]: ...

    def record(self, entries: Iterable[Entry], /) -> int: ...


def calls(entries: Any, since: Any, until: Any) -> Any:
    """The entries that stand for a call made in `[since, until)`, with `entry_id`, and `called_at`, which is when.

    A replacement that was posted for a closed month starts when it was posted; its call was made when the entry that it
    replaces in the end says.
    """
    reversed_ones = entries.filter(entries.calls < 0).select(entry_id="refers_to").distinct()
    counted = entries.filter(entries.calls > 0)
    first = counted.filter(counted.kind.notin(sorted(CORRECTING)))
    later = counted.filter(counted.kind.isin(sorted(CORRECTING)))
    made = (
        first.semi_join(later, "call_id").group_by("call_id").aggregate(called_at=lambda table: table.started_at.min())
    )
    later = later.join(made, "call_id")
    later = later.filter((later.called_at >= since) & (later.called_at < until))
    first = first.filter((first.started_at >= since) & (first.started_at < until))
    names = [*entries.columns, "called_at"]
    first = first.mutate(called_at=first.started_at).select(*names)
    # An engine may take a column of a join for one that can be missing, though this join is none that could make it so.
    both = first.union(later.select(*names).cast(first.schema()))
    return both.mutate(entry_id=both.journal + "." + both.sequence.cast("string")).anti_join(reversed_ones, "entry_id")


def taken_back_twice(reader: Reader) -> list[str]:
    """Ids of entries that more than one reversal takes back, of which each call can have one.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    reversals = reader.entries.filter((reader.entries.calls < 0) & reader.entries.refers_to.notnull())
    found = reversals.group_by("refers_to").aggregate(times=reversals.count())
    return [
        str(row) for row in reader.execute(found.filter(found.times > 1).order_by("refers_to"))["refers_to"].to_pylist()
    ]


def whole(reader: Reader, rows: pa.Table) -> dict[str, list[Entry]]:
    """Of some calls, given as `journal`, `sequence` and `entry_id`: the entry that stands and its differences.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    wanted = ibis.memtable(rows.select(["journal", "sequence", "entry_id"]))
    entries = reader.entries
    own = entries.semi_join(wanted, ["journal", "sequence"])
    later = entries.filter(entries.calls == 0).semi_join(wanted, [entries.refers_to == wanted.entry_id])
    both = own.union(later).order_by(["started_at", "journal", "sequence"])
    charges: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for charge in reader.execute(reader.charges.semi_join(both, ["journal", "sequence"])).to_pylist():
        charges.setdefault((charge["journal"], charge["sequence"]), []).append(charge)
    found: dict[str, list[Entry]] = {entry_id: [] for entry_id in rows["entry_id"].to_pylist()}
    for row in reader.as_recorded(both).to_pylist(maps_as_pydicts="strict"):
        entry = entry_from(row, charges.get((row["journal"], row["sequence"]), []))
        found[entry.entry_id if entry.entry_id in found else entry.refers_to or ""].append(entry)
    return found


def parts_of(calls: pa.Table, first: int) -> pa.Table:
    """What is rated of calls, given by `RATED_BY` and `COUNTS`.

    Of each call one part, or those that its entry keeps as they do not follow from its counts. The calls are numbered
    from `first` on.
    """
    rows = pa.array(range(first, first + len(calls)), pa.int64())
    model = pc.coalesce(calls["response_model"], calls["request_model"])
    columns = {
        "row": rows,
        "part": pa.array([0] * len(calls), pa.int64()),
        "provider": pc.coalesce(calls["price_provider"], calls["provider"]),
        "model": model,
        "tier": calls["tier"],
        "speed": calls["speed"],
        "geo": calls["region"],
        "variant": calls["variant"],
        "at": calls["called_at"],
        "step": calls["input_tokens"],
        **{name: calls[name] for name in COUNTS},
    }
    simple = pa.table(columns).cast(PARTS_ARROW)
    apart = pc.is_valid(calls["work"])
    if not pc.any(apart).as_py():
        return simple
    several = _apart(simple.filter(apart), [_works(text) for text in calls["work"].filter(apart).to_pylist()])
    return pa.concat_tables([simple.filter(pc.invert(apart)), several])


def _apart(simple: pa.Table, works: Sequence[Sequence[Work]]) -> pa.Table:
    """A row per part: what is said of the call, and in the place of its counts those of the part."""
    parents = [number for number, parts in enumerate(works) for _ in parts]
    parts = [(number, part) for several in works for number, part in enumerate(several)]
    columns = dict(zip(simple.column_names, simple.take(pa.array(parents, pa.int64())).columns, strict=True)) | {
        "part": [number for number, _ in parts],
        "model": [part.model for _, part in parts],
        "step": [part.largest_input_tokens for _, part in parts],
        **{name: [getattr(part.usage, name) for _, part in parts] for name in COUNTS},
    }
    return pa.table([columns[name] for name in PARTS_ARROW.names], schema=PARTS_ARROW)
