"""The ledger in DuckDB: a projection of the journal that can be thrown away and is never trusted unchecked.

DuckDB has dropped committed rows without an error and refuses to open after some torn writes; so there are no keys or
indexes (replaying them from a damaged log is where it fails most), every posting is one transaction together with the
positions in the journals it came from, and a file that cannot be opened is set aside and begun anew. The engine can
open no file, load no extension and change no setting once the ledger is open.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc

from costbearer.errors import DataDirectoryBusy, StoreFailed
from costbearer.ledger import Entry
from costbearer.stores import links, rollups
from costbearer.stores.ledger_reader import (
    POSITIONS,
    TOTALS,
    Position,
    Reader,
    Statements,
    alias,
    quoted,
    totals_of_rows,
)
from costbearer.stores.ledger_schema import CHARGE_COLUMNS, CHARGES, ENTRIES, FINGERPRINT
from costbearer.stores.lockdown import lock
from costbearer.stores.registered import registered
from costbearer.stores.rows import Posted, entry_from, table_of
from costbearer.stores.segments import Totals, charges_of, entries_of

__all__ = ["Ledger", "Position", "Reader"]

READERS = 4
READER_WAIT_S = 30.0
MEMORY_MB = 384
"""What the engine may take; the process around it takes about 250 MB more."""
STORAGE_VERSION: Final = "v1.5.0"
"""Pinned: the default writes a format that older releases cannot read, and there would be no way back."""
CHECKPOINT_THRESHOLD = "128MB"
"""Eight times the default: checkpoints at 16 MB took more than half of the time of posting (measured: 39 against 20
microseconds an entry in batches of 3,000)."""

_TABLES = (
    ("entries", ENTRIES),
    ("charges", CHARGES),
    ("positions", POSITIONS),
    (links.TABLE, links.COLUMNS),
    *((rollup.name, rollup.columns) for rollup in rollups.ROLLUPS),
)
_FINGERPRINT = f"{FINGERPRINT}.4"
"""The number behind the point is the version of `positions`, `links`, `rollups` and `meta`."""

_SETTINGS: Mapping[str, Any] = {
    "storage_compatibility_version": STORAGE_VERSION,
    "checkpoint_threshold": CHECKPOINT_THRESHOLD,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    # Rows of different calls have no order; two threads may then write two row groups at once (rebuild: twice as fast).
    "preserve_insertion_order": False,
}
_NO_PROGRESS_BAR = "SET enable_progress_bar = false"
"""It draws on stdout, also where that is no terminal. A setting of each connection."""
_BROKEN = (duckdb.FatalException, duckdb.IOException, duckdb.InternalException, duckdb.SerializationException)
"""Errors that say that the file or the instance is broken; any other is the fault of a query or of the moment."""


class Ledger:
    """The one writer of the ledger and its readers. A process has at most one per file.

    Attributes:
        file: the DuckDB file.
        notices: what a person should know: files that were set aside, and why.
        broken: why the engine cannot be used any more; `reopen` starts another one.
    """

    def __init__(self, file: Path, readers: int, memory_mb: int) -> None:
        """For `open`, which see."""
        self.file = file
        self.notices: list[str] = []
        self.broken: str | None = None
        self._count = readers
        self._statements = Statements()
        self._settings = {
            **_SETTINGS,
            "memory_limit": f"{memory_mb}MiB",
            # What does not fit goes there; it is emptied when the file is opened, and never read again.
            "temp_directory": str(file.with_name(f"{file.name}.tmp")),
        }
        self._made = 0
        self._held: str | None = None
        self._writing = threading.RLock()
        self._pool: queue.LifoQueue[Reader] = queue.LifoQueue()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._positions: dict[str, Position] = {}
        self._appended = 0
        self._hours: set[datetime] = set()

    @classmethod
    def open(cls, file: Path, *, readers: int = READERS, memory_mb: int = MEMORY_MB) -> Ledger:
        """Open the ledger, or begin an empty one. A file that is damaged or has another schema is set aside first.

        Raises:
            DataDirectoryBusy: another process, or this one, has it open.
            StoreFailed: it cannot be opened for a reason that is not damage (permissions, space, memory).
        """
        ledger = cls(file, readers, memory_mb)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ledger._start()
        return ledger

    def close(self) -> None:
        """Write what is in memory to the file and let go of it. Readers that are still out fail."""
        with self._writing:
            self._stop(write=True)

    @contextmanager
    def reader(self, *, held: bool = True) -> Iterator[Reader]:
        """A reader for the duration of the block; all its queries see the same state, whatever is posted meanwhile.

        `held=False` reads even while the ledger is being rebuilt and incomplete.

        Raises:
            StoreFailed: the ledger is being rebuilt or is broken, or all readers are taken for `READER_WAIT_S`.
        """
        if held and self._held is not None:
            raise StoreFailed(self._held)
        pool = self._pool
        try:
            reader = pool.get(timeout=READER_WAIT_S)
        except queue.Empty:
            raise StoreFailed("all readers of the ledger are busy; try again") from None
        try:
            reader.begin()
            try:
                yield reader
            finally:
                reader.end()
        finally:
            pool.put(reader)

    def positions(self) -> dict[str, Position]:
        """How far each journal is posted, as last committed."""
        return dict(self._positions)

    def post(self, batch: Sequence[Posted], positions: Sequence[Position]) -> None:
        """`post_table` of some entries."""
        self.post_table(table_of(batch), positions)

    def post_table(self, table: pa.Table, positions: Sequence[Position]) -> None:
        """Post rows (`SEALED_ARROW`) and move the positions, in one transaction: all of it or nothing.

        Raises:
            StoreFailed: a position does not move forward, a row was posted before, or the engine failed.
        """
        with self._writing, self.guarded("posting"):
            connection = self._ready()
            known = self._positions
            for position in positions:
                old = known.get(position.journal)
                if old is not None and (position.segment, position.offset) <= (old.segment, old.offset):
                    raise StoreFailed(
                        f"journal {position.journal}: posting does not move forward from {old.segment}.{old.offset}"
                    )
            connection.execute("BEGIN TRANSACTION")
            try:
                self._refuse_doubles(connection, table)
                if table.num_rows:
                    _insert(connection, "entries", entries_of(table))
                    _insert(connection, "charges", charges_of(table))
                    self._roll_up(connection, table)
                    links.append(connection, table)
                self._move(connection, positions)
                self._compact(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            self._positions = known | {position.journal: position for position in positions}

    def load(self, files: Sequence[Path], positions: Sequence[Position]) -> None:
        """Load sealed Parquet files (`SEALED_ARROW`) into an empty ledger, and say that these positions are posted.

        The engine reads the files itself, which takes a third of the time of `post_table`; for that it is started once
        more with access to files, before readers are made. It is not one transaction: who dies here leaves rows without
        positions, which the next opening finds.

        Raises:
            StoreFailed: the ledger is not empty, the engine failed, or what it holds now is not what the positions say.
        """
        with self._writing, self.guarded("loading"):
            if self._positions:
                raise StoreFailed("sealed files are loaded into an empty ledger only")
            self._stop(write=False)
            try:
                self._start([str(file) for file in files])
            except StoreFailed:
                self._stop(write=False)
                raise
            totals = self.totals_by_journal()
            for position in positions:
                held = totals.pop(position.journal, Totals())
                said = position.entries, position.cost_usd, position.closed_sequence
                if (held.entries, held.cost_usd, held.closed_sequence) != said:
                    raise StoreFailed(f"journal {position.journal}: its sealed files were loaded as {held}")
            if totals:
                raise StoreFailed(f"sealed files hold rows of other journals: {', '.join(sorted(totals))}")
            connection = self._ready()
            connection.execute("BEGIN TRANSACTION")
            try:
                self._move(connection, positions)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            self._positions = {position.journal: position for position in positions}

    def totals_by_journal(self) -> dict[str, Totals]:
        """What the rows themselves add up to, per journal."""
        with self._writing, self.guarded("a query"):
            return totals_of_rows(self._ready().sql(TOTALS).to_arrow_table().to_pylist())

    def entries(self, identities: Sequence[tuple[str, int]]) -> list[Entry]:
        """The entries of these (journal, sequence), each with its charges, in this order; none is missing.

        Raises:
            StoreFailed: one is not there, or the engine failed.
        """
        wanted = pa.table(
            [pa.array(column) for column in zip(*identities, strict=True)] or [[], []], names=["journal", "sequence"]
        )
        with self._writing, self.guarded("a query"):
            connection = self._ready()
            with registered(connection, "wanted", wanted):
                rows, charges = (
                    connection.sql(f"SELECT t.* FROM {name} t SEMI JOIN wanted USING (journal, sequence)")  # noqa: S608
                    .to_arrow_table()
                    .to_pylist(maps_as_pydicts="strict")
                    for name in ("entries", "charges")
                )
        lines: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for charge in charges:
            lines.setdefault((charge["journal"], charge["sequence"]), []).append(charge)
        found = {(row["journal"], row["sequence"]): row for row in rows}
        try:
            return [entry_from(found[identity], lines.get(identity, ())) for identity in identities]
        except KeyError as missing:
            raise StoreFailed(f"the ledger has no entry {missing.args[0]}") from None

    def mend_projections(self) -> bool:
        """Make hourly sums and links anew where they are not the entries' at a glance. Whether that was needed."""
        with self._writing, self.guarded("rolling up"):
            connection = self._ready()
            if rollups.at_a_glance(connection) and links.hold(connection):
                return False
            connection.execute("BEGIN TRANSACTION")
            try:
                rollups.again(connection)
                links.again(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            return True

    def _roll_up(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        with registered(connection, "incoming", table):
            self._appended += rollups.append(connection, "incoming")
        self._hours.update(pc.unique(pc.floor_temporal(table.column("started_at"), unit="hour")).to_pylist())

    def _compact(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self._appended >= rollups.COMPACT_ROWS:
            rollups.compact(connection, sorted(self._hours))
            # A rollback makes this untrue, and costs nothing but rows that are alike.
            self._appended, self._hours = 0, set()

    def asked(self, statement: str, parameters: list[Any]) -> pa.Table:
        """What a query gives, of the state as the writer sees it.

        Raises:
            StoreFailed: the engine failed.
        """
        with self._writing, self.guarded("a query"):
            return self._ready().sql(statement, params=parameters).to_arrow_table()

    def marks(self) -> set[str]:
        """Remarks that were kept with `mark`."""
        with self._writing, self.guarded("a query"):
            rows = self._ready().execute("SELECT value FROM meta WHERE name = 'mark'").fetchall()
            return {value for (value,) in rows}

    def mark(self, text: str) -> None:
        """Keep a remark about this file; it is gone when the ledger is rebuilt."""
        with self._writing, self.guarded("posting"):
            self._ready().execute("INSERT INTO meta VALUES ('mark', ?)", [text])

    def scan(self) -> None:
        """Read every block of both tables, so that the engine checks every checksum.

        Raises:
            StoreFailed: a block is damaged.
        """
        with self._writing, self.guarded("reading every block"):
            for table in (*(name for name, _ in _TABLES), "meta"):
                self._ready().execute(f"SELECT bit_xor(hash(t)) FROM {table} t").fetchall()  # noqa: S608

    def hold_readers(self, reason: str) -> None:
        """Refuse new readers, with this reason, until `admit_readers`: what they would see is incomplete."""
        self._held = reason

    def admit_readers(self) -> None:
        self._held = None

    def reopen(self) -> None:
        """Another engine on the same file, after `broken`."""
        with self._writing:
            self._stop(write=False)
            self._start()

    def set_aside(self, reason: str) -> Path:
        """Put the file away as `NAME.damaged-TIME` and begin an empty ledger. Gives the path it has now."""
        with self._writing:
            self._stop(write=False)
            away = self._put_away(reason)
            self._start()
            return away

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn the engine's errors into `StoreFailed`, and remember those that mean that it is broken."""
        try:
            yield
        except duckdb.Error as error:
            if isinstance(error, _BROKEN):
                self.broken = f"{what} failed ({type(error).__name__})"
            raise StoreFailed(f"the ledger failed at {what}: {_first_line(error)}") from error

    def _ready(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise StoreFailed("the ledger is closed")
        return self._connection

    def _start(self, files: Sequence[str] = ()) -> None:
        stale = [path for path in self._files() if path != self.file] if not self.file.exists() else []
        if stale:
            self._put_away("its main file is missing")
        try:
            self._connect(files)
        except (_Damaged, duckdb.Error) as error:
            self._stop(write=False)
            _refuse_unless_damaged(self.file, error)
            self._put_away(str(error) if isinstance(error, _Damaged) else _first_line(error))
            try:
                self._connect()
            except duckdb.Error as again:
                self._stop(write=False)
                raise StoreFailed(f"{self.file} cannot be made: {_first_line(again)}") from again
        self.broken = None

    def _connect(self, files: Sequence[str] = ()) -> None:
        new = not self.file.exists()
        connection = self._connection = duckdb.connect(str(self.file), config=dict(self._settings))
        if new:
            _create(connection)
        else:
            _check_schema(connection)
        connection.execute("SET TimeZone = 'UTC'")
        if files:
            _load_files(connection, files)
        self._positions = {
            row["journal"]: Position(**row)
            for row in connection.sql("SELECT * FROM positions").to_arrow_table().to_pylist()
        }
        # Ibis sets options on the connection it is given, so its backends are made before the settings are locked.
        pool: queue.LifoQueue[Reader] = queue.LifoQueue()
        for _ in range(self._count):
            cursor = connection.cursor()
            cursor.execute(_NO_PROGRESS_BAR)
            pool.put(Reader(cursor, ibis.duckdb.from_connection(cursor), self.guarded, self._statements))
        connection.execute(_NO_PROGRESS_BAR)
        # A file that is set aside need not be written first; `close` writes.
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        lock(connection)
        self._pool, self._made = pool, self._count

    def _stop(self, *, write: bool) -> None:
        """Take the readers in and close; where `write`, bring what is in the log into the file first.

        A reader that does not come back in time is closed under its user.
        """
        if self._connection is None:
            return
        pool, self._pool = self._pool, queue.LifoQueue()
        made, self._made = self._made, 0
        for _ in range(made):
            try:
                reader = pool.get(timeout=READER_WAIT_S)
            except queue.Empty:
                break
            reader.close()
        connection, self._connection = self._connection, None
        try:
            if write:
                connection.execute("CHECKPOINT")
            connection.close()
        except duckdb.Error as error:
            self.notices.append(f"{self.file.name} did not close: {_first_line(error)}")

    def _files(self) -> list[Path]:
        """The file and what the engine keeps beside it (`.wal` and its relatives)."""
        beside = sorted(self.file.parent.glob(self.file.name + ".wal*"))
        return [path for path in (self.file, *beside) if path.exists()]

    def _put_away(self, reason: str) -> Path:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        away = self.file.with_name(f"{self.file.name}.damaged-{stamp}")
        number = 1
        while list(away.parent.glob(away.name + "*")):
            number += 1
            away = self.file.with_name(f"{self.file.name}.damaged-{stamp}-{number}")
        for path in self._files():
            path.rename(away.with_name(away.name + path.name.removeprefix(self.file.name)))
        self._positions = {}
        self.notices.append(f"the ledger was set aside as {away.name}: {reason}; it is rebuilt from the journal")
        return away

    def _refuse_doubles(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        """Rows closed by frames up to the last posted one may be posted before: a late frame is not, a repeat is."""
        closed = table.select(["journal", "closed_sequence"])
        per_journal = closed.group_by("journal").aggregate(
            [("closed_sequence", "count"), ("closed_sequence", "count_distinct"), ("closed_sequence", "min")]
        )
        for row in per_journal.to_pylist():
            journal, known = row["journal"], self._positions.get(row["journal"])
            twice = row["closed_sequence_count"] != row["closed_sequence_count_distinct"]
            if known is not None and row["closed_sequence_min"] <= known.closed_sequence:
                own = closed.filter(pc.equal(closed.column("journal"), journal)).column("closed_sequence").to_pylist()
                statement = "SELECT count(*) FROM entries WHERE journal = ? AND list_contains(?, closed_sequence)"
                found = connection.execute(statement, [journal, own]).fetchall()
                twice = twice or found[0][0] > 0
            if twice:
                raise StoreFailed(f"journal {journal}: an entry is to be posted twice")

    def _move(self, connection: duckdb.DuckDBPyConnection, positions: Sequence[Position]) -> None:
        for position in positions:
            values = [position.segment, position.offset, position.closed_sequence, position.entries, position.cost_usd]
            if position.journal in self._positions:
                sets = ", ".join(f"{quoted(column.name)} = ?" for column in POSITIONS[1:])
                statement = f"UPDATE positions SET {sets} WHERE journal = ?"  # noqa: S608
                connection.execute(statement, [*values, position.journal])
            else:
                connection.execute("INSERT INTO positions VALUES (?, ?, ?, ?, ?, ?)", [position.journal, *values])


class _Damaged(Exception):
    """The file opens but is not a ledger of this schema."""


def _load_files(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Both tables at once, each on a connection of its own: neither keeps two processors busy alone."""
    names = ", ".join(quoted(column.name) for column in ENTRIES)
    charge = ", ".join(f"charge.{alias(column.name)}" for column in CHARGE_COLUMNS)
    statements = (
        f"INSERT INTO entries SELECT {names} FROM read_parquet(?)",  # noqa: S608
        f"INSERT INTO charges SELECT journal, sequence, {charge} "  # noqa: S608
        "FROM (SELECT journal, sequence, unnest(charges) AS charge FROM read_parquet(?))",
    )
    with ThreadPoolExecutor(len(statements), "ledger-loading") as pool:
        cursors = [connection.cursor() for _ in statements]
        for cursor in cursors:
            cursor.execute(_NO_PROGRESS_BAR)
        started = [
            pool.submit(cursor.execute, statement, [list(files)])
            for cursor, statement in zip(cursors, statements, strict=True)
        ]
        try:
            for future in started:
                future.result()
        except duckdb.Error as error:
            raise StoreFailed(f"sealed files cannot be loaded: {_first_line(error)}") from error
        finally:
            for cursor in cursors:
                cursor.close()
    rollups.again(connection, files)
    links.again(connection)


def _insert(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    with registered(connection, "incoming", table):
        connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")  # noqa: S608


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.Error:
        # The engine has ended the transaction itself; whether it is broken was decided by the error under way.
        return


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    for name, columns in _TABLES:
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'{alias(c.name)} {c.engine}' for c in columns)})")
    connection.execute("CREATE TABLE meta (name VARCHAR, value VARCHAR)")
    connection.execute("INSERT INTO meta VALUES ('fingerprint', ?)", [_FINGERPRINT])
    # Replaying DDL from the log is where DuckDB fails most often; after this the log holds only rows.
    connection.execute("CHECKPOINT")


def _check_schema(connection: duckdb.DuckDBPyConnection) -> None:
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "meta" not in tables:
        raise _Damaged("it holds no ledger")
    found = connection.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchall()
    # First: another version may have had other tables.
    if found != [(_FINGERPRINT,)]:
        raise _Damaged("it was written with another schema")
    if not {name for name, _ in _TABLES} <= tables:
        raise _Damaged("it holds no ledger")


def _refuse_unless_damaged(file: Path, error: Exception) -> None:
    """Raise where the file is not to blame: what is not damaged must never be set aside."""
    text = str(error)
    if "Could not set lock" in text or "configuration has been locked" in text or "different configuration" in text:
        raise DataDirectoryBusy(f"{file} is in use; stop the server, or go through its API") from error
    if (
        isinstance(error, (duckdb.OutOfMemoryException, duckdb.InvalidInputException))
        or "No space left" in text
        or "Permission denied" in text
    ):
        raise StoreFailed(f"{file} cannot be opened: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
