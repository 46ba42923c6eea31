"""`ledger.bounded` for whole tables: rows of old journals whose values are beyond their limits, made postable.

Nearly every table has none, which a glance at each column's extremes tells; a row that has one goes through its entry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from costbearer.ledger import BEYOND_LIMITS, CHARGE_MOST, MOST, bounded
from costbearer.limits import TIME_MAX, TIME_MIN
from costbearer.stores.rows import Posted, entries_from, table_of


class Beyond(NamedTuple):
    """A row that is posted without what is beyond its limits: its place in the table, the frame that closed it, and the
    fields."""

    row: int
    closed_sequence: int
    fields: tuple[str, ...]


def within_limits(table: pa.Table) -> tuple[pa.Table, list[Beyond]]:
    """The rows (`SEALED_ARROW`) as they are posted, in the same order, and which of them hold less than they did."""
    masks = [mask for mask in (_beyond(table, name) for name in (*MOST, *_TIMES, "charges")) if mask is not None]
    # Settlements are few, and each is looked at.
    masks += [pc.is_valid(table.column("settlement"))] if table.column("settlement").null_count < len(table) else []
    if not masks:
        return table, []
    wrong = masks[0]
    for mask in masks[1:]:
        wrong = pc.or_(wrong, mask)
    places = pc.indices_nonzero(wrong)
    suspects = table.take(places)
    made, found = [], []
    closed_by = suspects.column("closed_sequence").to_pylist()
    for row, closed, entry in zip(places.to_pylist(), closed_by, entries_from(suspects), strict=True):
        sound = bounded(entry)
        made.append(Posted(closed, sound))
        if sound is not entry:
            prefix = BEYOND_LIMITS + ":"
            said = tuple(note.removeprefix(prefix) for note in sound.notes[len(entry.notes) :])
            found.append(Beyond(row, closed, said))
    if not found:
        return table, []
    rest = table.filter(pc.invert(wrong))
    # Each row goes back to where it was.
    order = pa.concat_arrays([pc.indices_nonzero(pc.invert(wrong)), places])
    return pa.concat_tables([rest, table_of(made)]).take(pc.sort_indices(order)), found


_TIMES = ("started_at", "ended_at")


def _beyond(table: pa.Table, name: str) -> Any:
    """Which rows are beyond the limits of a column; None where none is."""
    column = table.column(name).combine_chunks()
    if name == "charges":
        return _charges_beyond(column)
    if name in _TIMES:
        return _outside(column, pa.scalar(TIME_MIN, column.type), pa.scalar(TIME_MAX, column.type))
    return _outside(column, pa.scalar(-MOST[name], column.type), pa.scalar(MOST[name], column.type))


def _charges_beyond(lists: Any) -> Any:
    charges = lists.flatten()
    owners = []
    for name, most in CHARGE_MOST.items():
        column = charges.field(name)
        mask = _outside(column, pa.scalar(-most, column.type), pa.scalar(most, column.type))
        if mask is not None:
            owners.append(pc.list_parent_indices(lists).filter(mask))
    if not owners:
        return None
    rows = pa.array(range(len(lists)), type=owners[0].type)
    return pc.is_in(rows, value_set=pa.concat_arrays(owners).unique())


def _outside(column: Any, low: Any, high: Any) -> Any:
    if column.null_count == len(column):
        return None
    ends = pc.min_max(column)
    if not pc.less(ends["min"], low).as_py() and not pc.greater(ends["max"], high).as_py():
        return None
    return pc.fill_null(pc.or_(pc.less(column, low), pc.greater(column, high)), fill_value=False)
