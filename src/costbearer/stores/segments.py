"""Sealed segments: what a segment posts, as Arrow and Parquet, and the seal that says what it holds.

A segment of the journal is sealed when every intent in it and before it is closed. Then three files stand for it: the
entries that were closed in it (`N.parquet`, from which a ledger is rebuilt quickly), its raw frames (`N.cbj.zst`, the
record itself) and `N.seal.json`, which holds counts, sums and the hashes of both and of the seal before it. Each is
written under another name, synced and renamed; the raw segment goes only after all three were read back.

The books' own segments (`own_journal`) have no frames: there the Parquet file is the record itself.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.journal import segment_file
from costbearer.journal_files import seal_file, sync_directory
from costbearer.ledger import Entry
from costbearer.stores.ledger_schema import CHARGES_ARROW, ENTRIES, FINGERPRINT, SEALED_ARROW
from costbearer.usage import COUNTS

_UNIQUE = {"request_id", "call_id", "parent_id", "trace_id", "provider_request_id", "provider_response_id", "refers_to"}
_REPEATED = [
    *(column.name for column in ENTRIES if column.arrow == pa.string() and column.name not in _UNIQUE),
    *("tags.key_value.key", "tags.key_value.value", "notes.list.element"),
    *(f"charges.list.element.{name}" for name in ("meter", "model", "card", "unit_price_usd")),
]
"""Parquet columns that are worth a dictionary: 43 bytes an entry with these, 51 with one for every column."""
_WIDE = pa.decimal256(2 * money.DIGITS, money.PLACES)
_SUMMED = ["closed_sequence", "cost_usd"]
ROW_GROUP_ENTRIES = 122_880
"""Of a Parquet file: as many as the engine puts into one of its own."""

_ADDABLE = {
    "work",
    *COUNTS,
    *(field.name for field in msgspec.structs.fields(Entry) if field.default is None),
}
"""Columns that are NULL where an entry does not state them: a file from before they were added is read with NULLs."""

TEMPORARY = ".tmp"
"""Suffix of a file that is being written; one that is found at a start was left by a death and means nothing."""


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

    `schema` is the fingerprint of the ledger's columns with which the Parquet file was written. `raw_bytes` is 0 for a
    segment of the books' own journal, which has no frames.

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
    schema: str = ""
    open: dict[int, datetime] = {}
    lost: tuple[tuple[int, int], ...] = ()
    found: tuple[int, ...] = ()
    damage: tuple[Flaw, ...] = ()

    @property
    def totals(self) -> Totals:
        return Totals(
            entries=self.entries,
            unknown=self.unknown,
            cost_usd=money.usd_sum(self.cost_usd),
            charges=self.charges,
            charges_usd=money.usd_sum(self.charges_usd),
            closed_sequence=self.last_closed_sequence,
        )


def entries_of(table: pa.Table) -> pa.Table:
    """The `entries` table's part of sealed rows."""
    return table.drop_columns(["charges"])


def charges_of(table: pa.Table) -> pa.Table:
    """The `charges` table's part of sealed rows: one row per charge, under its entry's journal and sequence."""
    lists = table.column("charges").combine_chunks()
    parents = pc.list_parent_indices(lists)
    owner = [table.column(name).combine_chunks().take(parents) for name in ("journal", "sequence")]
    return pa.table([*owner, *lists.flatten().flatten()], schema=CHARGES_ARROW)


def totals_of(table: pa.Table) -> Totals:
    """Count and sums of sealed rows, exact whatever they hold."""
    costs, charges = table.column("cost_usd"), table.column("charges").combine_chunks().flatten().field("cost_usd")
    return Totals(
        entries=table.num_rows,
        unknown=costs.null_count,
        cost_usd=_exact_sum(costs),
        charges=len(charges),
        charges_usd=_exact_sum(charges),
        closed_sequence=pc.max(table.column("closed_sequence")).as_py() or 0,
    )


def _exact_sum(amounts: Any) -> Decimal:
    """Arrow adds integers of 128 bits and wraps in silence; where these could, it adds ones of 256."""
    ends = pc.min_max(amounts).as_py()
    largest = max((end.copy_abs() for end in ends.values() if end is not None), default=money.ZERO)
    if not money.adds_up(largest, len(amounts)):
        amounts = amounts.cast(_WIDE)
    return pc.sum(amounts).as_py() or money.ZERO


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
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=_REPEATED,
        row_group_size=ROW_GROUP_ENTRIES,
        write_statistics=False,
    )
    data = sink.getvalue().to_pybytes()
    file = parquet_file(directory, number)
    write_durably(file, data)
    back = file.read_bytes()
    # The bytes are compared whole; that they can be read as Parquet is tried on the columns that are summed.
    again = pq.read_table(pa.BufferReader(back), columns=_SUMMED, use_threads=False)
    if back != data or not again.equals(table.select(_SUMMED)):
        raise StoreFailed(f"{file.name} of journal {directory.name} does not read back as it was written")
    return hashlib.sha256(data).hexdigest()


def write_compressed(directory: Path, number: int, raw_sha256: str) -> None:
    """Write `N.cbj.zst` durably beside the raw segment.

    Raises:
        StoreFailed: the raw segment is not the one with this hash.
        OSError: it cannot be read or written.
    """
    raw = segment_file(directory, number).read_bytes()
    if hashlib.sha256(raw).hexdigest() != raw_sha256:
        raise StoreFailed(f"segment {number} of journal {directory.name} has changed since it was read")
    write_durably(compressed_file(directory, number), pa.compress(raw, codec="zstd", asbytes=True))


def check_files(directory: Path, seal: Seal) -> None:
    """That all is there and as it will be sealed: the raw segment (where there is one) and what was made of it.

    Raises:
        StoreFailed: a file is not what the seal says.
        OSError: one cannot be read.
    """
    where = f"segment {seal.segment} of journal {directory.name}"
    raw = segment_file(directory, seal.segment)
    if raw.exists() and _hash(raw) != seal.raw_sha256:
        raise StoreFailed(f"{where} has changed since it was read")
    if not holds(directory, seal):
        raise StoreFailed(f"{where} does not read back as it was sealed")


def write_seal(directory: Path, seal: Seal) -> str:
    """Write the seal of files that were checked and whose names are durable; give the seal's SHA-256.

    Raises:
        OSError: it cannot be written.
    """
    document = msgspec.json.format(msgspec.json.encode(seal), indent=1) + b"\n"
    write_durably(seal_file(directory, seal.segment), document)
    sync_directory(directory)
    return hashlib.sha256(document).hexdigest()


def seal_of(directory: Path, sequence: int) -> tuple[Seal, str] | None:
    """The seal of the segment that holds a frame, and the seal's SHA-256; None where it is not sealed."""
    for seal, digest in read_seals(directory)[0]:
        if seal.first_sequence <= sequence <= seal.last_sequence:
            return seal, digest
    return None


def drop_raw(directory: Path, *numbers: int) -> None:
    """Remove `N.cbj` of sealed segments, durably."""
    for number in numbers:
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
    """Whether the sealed files are there and are what the seal says."""
    try:
        if seal.raw_bytes:
            raw = _decompressed(compressed_file(directory, seal.segment), seal.raw_bytes)
            if hashlib.sha256(raw).hexdigest() != seal.raw_sha256:
                return False
        return _hash(parquet_file(directory, seal.segment)) == seal.parquet_sha256
    except OSError:
        return False


def intact_parquet(directory: Path, seal: Seal) -> bool:
    """Whether the Parquet file is what was sealed and has the columns of today."""
    try:
        return seal.schema == FINGERPRINT and _hash(parquet_file(directory, seal.segment)) == seal.parquet_sha256
    except OSError:
        return False


def load_parquet(directory: Path, seal: Seal) -> pa.Table | None:
    """The rows of a sealed segment; None where the file is missing, damaged or of a schema that cannot be fitted.

    A column that came later than the file, and whose absence is NULL, is NULL in every row of it.
    """
    try:
        data = parquet_file(directory, seal.segment).read_bytes()
        if hashlib.sha256(data).hexdigest() != seal.parquet_sha256:
            return None
        return _fitted(pq.read_table(pa.BufferReader(data), memory_map=False), seal.schema)
    except (OSError, pa.ArrowException):
        return None


def _fitted(table: pa.Table, schema: str) -> pa.Table | None:
    if table.schema.equals(SEALED_ARROW):
        return table
    missing = set(SEALED_ARROW.names) - set(table.column_names)
    if schema == FINGERPRINT or not missing <= _ADDABLE or not set(table.column_names) <= set(SEALED_ARROW.names):
        return None
    columns = [
        pa.nulls(table.num_rows, field.type) if field.name in missing else table.column(field.name)
        for field in SEALED_ARROW
    ]
    types = [column.type for column in columns]
    return pa.table(columns, schema=SEALED_ARROW) if types == SEALED_ARROW.types else None


def _decompressed(file: Path, size: int) -> bytes:
    try:
        with pa.input_stream(str(file), compression="zstd") as stream:
            return bytes(stream.read(size + 1))
    except pa.ArrowException as error:
        raise OSError(f"{file.name} cannot be decompressed") from error


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
