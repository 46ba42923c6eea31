"""Sealed segments: what a segment posts, as Arrow and Parquet, and the seal that says what it holds.

A segment of the journal is sealed when every intent in it and before it is closed. Then three files stand for it: the
entries that were closed in it (`N.parquet`, from which a ledger is rebuilt quickly), its raw frames (`N.cbj.zst`, the
record itself) and `N.seal.json`, which holds counts, sums and the hashes of both and of the seal before it. Each is
written under another name, synced and renamed; the raw segment goes only after all three were read back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec.structs import astuple

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.journal import segment_file
from costbearer.journal_files import seal_file, sync_directory
from costbearer.ledger import Charge, Entry
from costbearer.stores.ledger_schema import CHARGES, CHARGES_ARROW, ENTRIES, ENTRIES_ARROW
from costbearer.usage import COUNTS, Usage

_CHARGE_COLUMNS = CHARGES[2:]
_CHARGES_TYPE = pa.list_(pa.struct([(column.name, column.arrow) for column in _CHARGE_COLUMNS]))
SEALED_ARROW = ENTRIES_ARROW.append(pa.field("charges", _CHARGES_TYPE))
"""The columns of `N.parquet`: the entries, and under `charges` their charges (journal and sequence are the entry's)."""

_PLAIN = tuple(column for column in ENTRIES if column.name in Entry.__struct_fields__)
_MADE = ("attribution", "tags", "notes")
_AT = {name: at for at, name in enumerate(Entry.__struct_fields__)}
_CHARGE_AT = {name: at for at, name in enumerate(Charge.__struct_fields__)}
_USAGE_AT = {name: at for at, name in enumerate(Usage.__struct_fields__)}
_json = msgspec.json.Encoder().encode

_UNIQUE = {"request_id", "call_id", "parent_id", "trace_id", "provider_request_id", "provider_response_id", "refers_to"}
_REPEATED = [
    *(column.name for column in ENTRIES if column.arrow == pa.string() and column.name not in _UNIQUE),
    *("tags.key_value.key", "tags.key_value.value", "notes.list.element"),
    *(f"charges.list.element.{name}" for name in ("meter", "model", "card", "unit_price_usd")),
]
"""Parquet columns that are worth a dictionary: 43 bytes an entry with these, 51 with one for every column."""
_SUMMED = ["closed_sequence", "cost_usd"]

TEMPORARY = ".tmp"
"""Suffix of a file that is being written; one that is found at a start was left by a death and means nothing."""


class Posted(NamedTuple):
    """An entry and the sequence of the frame that closed it."""

    closed_sequence: int
    entry: Entry


class Totals(msgspec.Struct, frozen=True):
    """What is compared between them. `unknown` counts entries without a cost; `closed_sequence` is the last one."""

    entries: int = 0
    unknown: int = 0
    cost_usd: Decimal = money.ZERO
    charges: int = 0
    charges_usd: Decimal = money.ZERO
    closed_sequence: int = 0

    def plus(self, other: Totals) -> Totals:
        return Totals(
            entries=self.entries + other.entries,
            unknown=self.unknown + other.unknown,
            cost_usd=money.total((self.cost_usd, other.cost_usd)),
            charges=self.charges + other.charges,
            charges_usd=money.total((self.charges_usd, other.charges_usd)),
            closed_sequence=max(self.closed_sequence, other.closed_sequence),
        )

    def __str__(self) -> str:
        return (
            f"{self.entries} entries ({self.unknown} unknown) of {money.text(self.cost_usd)} USD, "
            f"{self.charges} charges of {money.text(self.charges_usd)} USD, last closed by frame {self.closed_sequence}"
        )


class Flaw(msgspec.Struct, frozen=True):
    """Something in a journal that does not hold: where, of which kind, and what it means."""

    journal: str
    segment: int
    offset: int
    end: int
    kind: str
    detail: str


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What `N.seal.json` holds. Sums are exact text in USD.

    The state in which reading goes on behind the segment is here too: `open` intents (sequence -> start of the call;
    every one of them was closed by a later segment before this one was sealed), the sequences `lost` so far, as ranges,
    and those of them whose outcome was `found`.
    """

    journal: str
    segment: int
    first_sequence: int
    last_sequence: int
    frames: int
    entries: int
    unknown: int
    cost_usd: str
    charges: int
    charges_usd: str
    last_closed_sequence: int
    raw_bytes: int
    raw_sha256: str
    parquet_sha256: str
    previous_seal_sha256: str | None
    open: dict[int, datetime] = {}
    lost: tuple[tuple[int, int], ...] = ()
    found: tuple[int, ...] = ()
    damage: tuple[Flaw, ...] = ()

    @property
    def totals(self) -> Totals:
        return Totals(
            entries=self.entries,
            unknown=self.unknown,
            cost_usd=money.usd(self.cost_usd),
            charges=self.charges,
            charges_usd=money.usd(self.charges_usd),
            closed_sequence=self.last_closed_sequence,
        )


class Rows:
    """Collects entries and makes Arrow columns of them at once, which is where posting spends most of its time."""

    def __init__(self) -> None:
        self._closed: list[int] = []
        self._entries: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._closed)

    def add(self, closed_sequence: int, entry: Entry) -> None:
        self._closed.append(closed_sequence)
        self._entries.append(astuple(entry))

    def table(self) -> pa.Table:
        """What was collected, in `SEALED_ARROW`."""
        if not self._closed:
            return SEALED_ARROW.empty_table()
        values = list(zip(*self._entries, strict=True))
        columns = {
            column.name: pa.array(values[_AT[column.name]], type=column.arrow)
            for column in _PLAIN
            if column.name not in _MADE
        }
        counts = list(zip(*map(astuple, values[_AT["usage"]]), strict=True))
        for name in COUNTS:
            columns[name] = pa.array(counts[_USAGE_AT[name]], type=pa.int64())
        columns["closed_sequence"] = pa.array(self._closed, type=pa.int64())
        attribution = [_json(fields) for fields in values[_AT["attribution"]]]
        columns["attribution"] = pa.array(attribution, type=pa.binary()).cast(pa.string())
        tags = [tuple(tags.items()) for tags in values[_AT["tags"]]]
        columns["tags"] = pa.array(tags, type=SEALED_ARROW.field("tags").type)
        columns["notes"] = pa.array(values[_AT["notes"]], type=SEALED_ARROW.field("notes").type)
        columns["charges"] = _charges_array(values[_AT["charges"]])
        return pa.table([columns[name] for name in SEALED_ARROW.names], schema=SEALED_ARROW)


def _charges_array(charges: Sequence[tuple[Charge, ...]]) -> pa.Array:
    flat = list(zip(*map(astuple, chain.from_iterable(charges)), strict=True)) or [()] * len(_CHARGE_AT)
    arrays = [pa.array(flat[_CHARGE_AT[column.name]], type=column.arrow) for column in _CHARGE_COLUMNS]
    structs = pa.StructArray.from_arrays(arrays, fields=list(_CHARGES_TYPE.value_type))
    ends = pa.array([0, *accumulate(map(len, charges))], type=pa.int32())
    return pa.ListArray.from_arrays(ends, structs, type=_CHARGES_TYPE)


def table_of(batch: Sequence[Posted]) -> pa.Table:
    """The rows of some posted entries, in `SEALED_ARROW`."""
    rows = Rows()
    for posted in batch:
        rows.add(posted.closed_sequence, posted.entry)
    return rows.table()


def entries_of(table: pa.Table) -> pa.Table:
    """The `entries` table's part of sealed rows."""
    return table.drop_columns(["charges"])


def charges_of(table: pa.Table) -> pa.Table:
    """The `charges` table's part of sealed rows: one row per charge, under its entry's journal and sequence."""
    lists = table.column("charges").combine_chunks()
    parents = pc.list_parent_indices(lists)
    owner = [table.column(name).take(parents) for name in ("journal", "sequence")]
    return pa.table([*owner, *lists.flatten().flatten()], schema=CHARGES_ARROW)


def totals_of(table: pa.Table) -> Totals:
    """Count and sums of sealed rows. Arrow adds 128-bit integers here: exact."""
    costs, charges = table.column("cost_usd"), table.column("charges").combine_chunks().flatten().field("cost_usd")
    return Totals(
        entries=table.num_rows,
        unknown=costs.null_count,
        cost_usd=pc.sum(costs).as_py() or money.ZERO,
        charges=len(charges),
        charges_usd=pc.sum(charges).as_py() or money.ZERO,
        closed_sequence=pc.max(table.column("closed_sequence")).as_py() or 0,
    )


def parquet_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.parquet"


def compressed_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.cbj.zst"


def write_parquet(directory: Path, number: int, table: pa.Table) -> str:
    """Write `N.parquet` durably, read it back, and give its SHA-256.

    Raises:
        StoreFailed: what was read back is not what was written.
        OSError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=_REPEATED)
    data = sink.getvalue().to_pybytes()
    file = parquet_file(directory, number)
    write_durably(file, data)
    back = file.read_bytes()
    # The bytes are compared whole; that they can be read as Parquet is tried on the columns that are summed.
    again = pq.read_table(pa.BufferReader(back), columns=_SUMMED, use_threads=False)
    if back != data or not again.equals(table.select(_SUMMED)):
        raise StoreFailed(f"{file.name} of journal {directory.name} does not read back as it was written")
    return hashlib.sha256(data).hexdigest()


def write_seal(directory: Path, seal: Seal, raw: bytes) -> str:
    """Compress the raw frames beside a Parquet file that is already there, write the seal, give the seal's SHA-256.

    Raises:
        StoreFailed: what was read back is not what was written.
        OSError: it cannot be written.
    """
    compressed = compressed_file(directory, seal.segment)
    write_durably(compressed, pa.compress(raw, codec="zstd", asbytes=True))
    if (
        _decompressed(compressed, seal.raw_bytes) != raw
        or _hash(parquet_file(directory, seal.segment)) != seal.parquet_sha256
    ):
        raise StoreFailed(f"segment {seal.segment} of journal {directory.name} does not read back as it was sealed")
    sync_directory(directory)
    document = msgspec.json.format(msgspec.json.encode(seal), indent=1) + b"\n"
    write_durably(seal_file(directory, seal.segment), document)
    sync_directory(directory)
    return hashlib.sha256(document).hexdigest()


def drop_raw(directory: Path, number: int) -> None:
    """Remove `N.cbj` of a sealed segment, durably."""
    segment_file(directory, number).unlink(missing_ok=True)
    sync_directory(directory)


def write_durably(file: Path, data: bytes) -> None:
    """Write under another name, sync, rename. The name itself is durable after the directory is synced."""
    temporary = file.with_name(file.name + TEMPORARY)
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_seals(directory: Path) -> tuple[list[tuple[Seal, str]], list[Flaw]]:
    """Every seal of a journal with its SHA-256, in order, and what is wrong with their chain.

    The first seal that cannot be read ends the list: nothing behind it can be trusted to follow.
    """
    seals: list[tuple[Seal, str]] = []
    flaws: list[Flaw] = []
    previous: str | None = None
    for file in sorted(directory.glob("[0-9]*.seal.json")):
        number = int(file.name.split(".", 1)[0])
        try:
            data = file.read_bytes()
            seal = msgspec.json.decode(data, type=Seal)
        except (OSError, msgspec.MsgspecError) as error:
            flaws.append(
                Flaw(directory.name, number, 0, 0, "seal", f"{file.name} cannot be read ({type(error).__name__})")
            )
            previous = None
            continue
        if seal.journal != directory.name or seal.segment != number:
            flaws.append(Flaw(directory.name, number, 0, 0, "seal", f"{file.name} is the seal of another segment"))
            continue
        if seal.previous_seal_sha256 != previous:
            flaws.append(Flaw(directory.name, number, 0, 0, "seal", f"{file.name} does not follow the seal before it"))
        previous = hashlib.sha256(data).hexdigest()
        seals.append((seal, previous))
    return seals, flaws


def holds(directory: Path, seal: Seal) -> bool:
    """Whether both sealed files are there and are what the seal says."""
    try:
        raw = _decompressed(compressed_file(directory, seal.segment), seal.raw_bytes)
        return hashlib.sha256(raw).hexdigest() == seal.raw_sha256 and (
            _hash(parquet_file(directory, seal.segment)) == seal.parquet_sha256
        )
    except OSError:
        return False


def load_parquet(directory: Path, seal: Seal) -> pa.Table | None:
    """The rows of a sealed segment; None where the file is missing, damaged or of another schema."""
    try:
        data = parquet_file(directory, seal.segment).read_bytes()
        if hashlib.sha256(data).hexdigest() != seal.parquet_sha256:
            return None
        table = pq.read_table(pa.BufferReader(data), memory_map=False)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(SEALED_ARROW) else None


def _decompressed(file: Path, size: int) -> bytes:
    try:
        with pa.input_stream(str(file), compression="zstd") as stream:
            return bytes(stream.read(size + 1))
    except pa.ArrowException as error:
        raise OSError(f"{file.name} cannot be decompressed") from error


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
