"""Arrow columns of entries: from frames, which is where posting spends most of its time, from values, and back.

All make `SEALED_ARROW`: the columns of the ledger's entries, and under `charges` the list of their charges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from msgspec.structs import asdict, astuple, replace

from costbearer.frames import ChargeRow, EntryRow
from costbearer.ledger import Charge, Entry, Field, Settlement
from costbearer.stores.ledger_schema import CHARGE_COLUMNS, CHARGES_LIST, ENTRIES, MONEY, SEALED_ARROW
from costbearer.usage import COUNTS, Usage, Work

_MADE = ("attribution", "tags", "notes", "settlement", "work")
_NOT_PLAIN = {*_MADE, *COUNTS, "closed_sequence", "charges"}
_PLAIN = tuple(column for column in ENTRIES if column.name in Entry.__struct_fields__ and column.name not in _MADE)
_AT = {name: at for at, name in enumerate(Entry.__struct_fields__)}
_ROW_AT = {name: at for at, name in enumerate(EntryRow.__struct_fields__)}
_CHARGE_AT = {name: at for at, name in enumerate(Charge.__struct_fields__)}
_CHARGE_ROW_AT = {name: at for at, name in enumerate(ChargeRow.__struct_fields__)}
_USAGE_AT = {name: at for at, name in enumerate(Usage.__struct_fields__)}
_json = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Field]).decode
_settlement = msgspec.json.Decoder(Settlement).decode
_works = msgspec.json.Decoder(tuple[Work, ...]).decode
_NO_FIELDS = b"{}"
_TOO_MANY = 2**62
_TOO_MUCH = "9" * 20
_AMOUNTS = {column.name for column in (*ENTRIES, *CHARGE_COLUMNS) if column.arrow == MONEY}


class Posted(NamedTuple):
    """An entry and the sequence of the frame that closed it."""

    closed_sequence: int
    entry: Entry


class Rows:
    """Collects entries as they stand in frames (`frames.rows`) and makes columns of them all at once."""

    def __init__(self) -> None:
        self._closed: list[int] = []
        self._entries: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._closed)

    def add(self, closed_sequence: int, entry: msgspec.Struct) -> None:
        """Take an `EntryRow`."""
        self._closed.append(closed_sequence)
        self._entries.append(astuple(entry))

    def table(self) -> pa.Table:
        """What was collected. What no column can hold comes back as something beyond its limit (`bounds`)."""
        if not self._closed:
            return SEALED_ARROW.empty_table()
        return _read(self._closed, self._entries)


def _read(closed: list[int], entries: list[tuple[Any, ...]]) -> pa.Table:
    """Halved where something does not fit, until what does not is found."""
    try:
        return _columns(closed, entries)
    except (pa.ArrowInvalid, OverflowError):
        if len(entries) == 1:
            return _columns(closed, [_fitting(entries[0])])
        half = len(entries) // 2
        return pa.concat_tables([_read(closed[:half], entries[:half]), _read(closed[half:], entries[half:])])


def _columns(closed: list[int], entries: list[tuple[Any, ...]]) -> pa.Table:
    values = list(zip(*entries, strict=True))
    columns: dict[str, Any] = {name: values[at] for name, at in _ROW_AT.items()}
    columns["attribution"] = _text([bytes(fields) or _NO_FIELDS for fields in columns["attribution"]])
    columns["settlement"] = _text([bytes(settlement) or None for settlement in columns["settlement"]])
    columns["work"] = _text([bytes(work) or None for work in columns["work"]])
    charges = columns.pop("charges")
    lines = list(zip(*map(astuple, chain.from_iterable(charges)), strict=True)) or [()] * len(_CHARGE_ROW_AT)
    parts: dict[str, Any] = {name: lines[at] for name, at in _CHARGE_ROW_AT.items()}
    _read_amounts(columns, parts)
    columns["charges"] = _charges_of(charges, parts)
    return _table(closed, columns)


def _fitting(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of an `EntryRow`, with something beyond every limit in the place of what no column can hold."""
    row: Any = EntryRow(**dict(zip(_ROW_AT, entry, strict=True)))
    usage = replace(row.usage, **{name: _count(value) for name, value in asdict(row.usage).items()})
    charges = tuple(replace(charge, **_fitted(asdict(charge))) for charge in row.charges)
    return astuple(replace(row, **_fitted(asdict(row)), usage=usage, charges=charges))


def _fitted(values: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: _count(value) for name, value in values.items() if isinstance(value, int)}
    return counts | {name: _amount(value) for name, value in values.items() if name in _AMOUNTS}


def _count(value: int | None) -> int | None:
    return value if value is None or abs(value) <= _TOO_MANY else _TOO_MANY


def _amount(text: str | None) -> str | None:
    try:
        if text is not None:
            pa.scalar(text).cast(MONEY)
        return text
    except pa.ArrowInvalid:
        return _TOO_MUCH


def table_of(batch: Iterable[Posted]) -> pa.Table:
    """The columns of some entries."""
    closed: list[int] = []
    entries: list[tuple[Any, ...]] = []
    for posted in batch:
        closed.append(posted.closed_sequence)
        entries.append(astuple(posted.entry))
    if not closed:
        return SEALED_ARROW.empty_table()
    values = list(zip(*entries, strict=True))
    columns: dict[str, Any] = {name: values[at] for name, at in _AT.items()}
    columns["attribution"] = _text([_json(fields) for fields in columns["attribution"]])
    settlements = columns["settlement"]
    columns["settlement"] = _text([None if settlement is None else _json(settlement) for settlement in settlements])
    columns["work"] = _text([_json(work) if work else None for work in columns["work"]])
    charges = columns["charges"]
    lines = list(zip(*map(astuple, chain.from_iterable(charges)), strict=True)) or [()] * len(_CHARGE_AT)
    columns["charges"] = _charges_of(charges, {name: lines[at] for name, at in _CHARGE_AT.items()})
    return _table(closed, columns)


def entries_from(table: pa.Table) -> list[Entry]:
    """The entries of some rows: the reverse of `table_of`."""
    return [entry_from(row, row.pop("charges")) for row in table.to_pylist(maps_as_pydicts="strict")]


def entry_from(row: dict[str, Any], charges: Iterable[Mapping[str, Any]]) -> Entry:
    """The entry of one row of the ledger, by column name, and its charges."""
    values = {name: value for name, value in row.items() if name not in _NOT_PLAIN}
    settlement = row["settlement"]
    return Entry(
        **values,
        attribution=_fields(row["attribution"]),
        tags=row["tags"],
        notes=tuple(row["notes"]),
        settlement=None if settlement is None else _settlement(settlement),
        work=() if row["work"] is None else _works(row["work"]),
        usage=Usage(**{name: row[name] for name in COUNTS}),
        charges=tuple(Charge(**{column.name: charge[column.name] for column in CHARGE_COLUMNS}) for charge in charges),
    )


def _table(closed: list[int], columns: dict[str, Any]) -> pa.Table:
    """`columns` by field name, each as values or as an array."""
    for column in _PLAIN:
        columns[column.name] = _array(columns[column.name], column.arrow)
    counts = list(zip(*map(astuple, columns["usage"]), strict=True))
    for name in COUNTS:
        columns[name] = pa.array(counts[_USAGE_AT[name]], type=pa.int64())
    columns["closed_sequence"] = pa.array(closed, type=pa.int64())
    columns["tags"] = _map(columns["tags"])
    columns["notes"] = pa.array(columns["notes"], type=SEALED_ARROW.field("notes").type)
    return pa.table([columns[name] for name in SEALED_ARROW.names], schema=SEALED_ARROW)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, type=kind)


def _read_amounts(*columns: dict[str, Any]) -> None:
    """Make arrays of all columns of amounts, whose values are text: exactly, or not at all.

    It is one step for all: at each of them this thread lets go of the interpreter and may wait long to get it back.
    """
    places = [(each, name) for each in columns for name in each if name in _AMOUNTS]
    texts = pa.array(chain.from_iterable(each[name] for each, name in places), type=pa.string())
    amounts, start = texts.cast(MONEY), 0
    for each, name in places:
        size = len(each[name])
        each[name] = amounts.slice(start, size)
        start += size


def _text(values: Sequence[bytes | None]) -> pa.Array:
    return pa.array(values, type=pa.string())


def _map(tags: Sequence[Mapping[str, str]]) -> pa.Array:
    pairs = list(chain.from_iterable(each.items() for each in tags))
    keys, values = zip(*pairs, strict=True) if pairs else ((), ())
    kind = SEALED_ARROW.field("tags").type
    arrays = pa.array(keys, type=kind.key_type), pa.array(values, type=kind.item_type)
    return pa.MapArray.from_arrays(_offsets(tags), *arrays, type=kind)


def _charges_of(charges: Sequence[Sequence[msgspec.Struct]], columns: Mapping[str, Any]) -> pa.Array:
    """The lists of charges; `columns` holds the fields of all of them, one after the other."""
    arrays = [_array(columns[column.name], column.arrow) for column in CHARGE_COLUMNS]
    structs = pa.StructArray.from_arrays(arrays, fields=list(CHARGES_LIST.value_type))
    return pa.ListArray.from_arrays(_offsets(charges), structs, type=CHARGES_LIST)


def _offsets(lists: Sequence[Any]) -> pa.Array:
    return pa.array([0, *accumulate(map(len, lists))], type=pa.int32())
