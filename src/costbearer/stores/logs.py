"""Foreign logs in the engine: files and tables become columns, and records one table that can be asked.

Everything happens in one DuckDB instance of its own, in memory and, beyond the limit, in a directory that goes away
with it. No row passes through Python. A statement holds no name out of a file: values are read by position or by a
path that is written as a text.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.sql.datatypes import DuckDBType

from costbearer.errors import InputInvalid, StoreFailed
from costbearer.logformats.fields import FIELDS, Type
from costbearer.logformats.record import Ask
from costbearer.stores.lockdown import lock
from costbearer.stores.logfiles import Limits, LogFile, expanded_within
from costbearer.stores.logsql import MACROS, SQL_TYPES, extracted, identifier, literal, nested
from costbearer.stores.registered import registered

MEMORY_MB = 1200
"""What the engine holds before it writes to disk; the interpreter and its libraries take about 250 MB beside it."""
RECORDS = "records"


class Sums(NamedTuple):
    """`usd` is without, `net_usd` with the signs of the amounts; `unknown` is how many are NULL."""

    records: int
    usd: Decimal | None
    net_usd: Decimal | None
    unknown: int


class Logs:
    """The engine, and the records it was given. Not to be shared between threads."""

    def __init__(
        self,
        work: Path,
        limits: Limits = Limits(),  # noqa: B008
        memory_mb: int = MEMORY_MB,
        *,
        on_disk: bool = False,
    ) -> None:
        """`on_disk` keeps the records in a file, packed: for logs of which not all would fit into the memory."""
        self.work = work
        self.limits = limits
        self._connection = duckdb.connect(
            str(work / "records.duckdb") if on_disk else ":memory:",
            config={
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": str(work / "spill"),
                "autoload_known_extensions": False,
                "autoinstall_known_extensions": False,
                "allow_community_extensions": False,
            },
        )
        self._run("SET enable_progress_bar = false")
        self._run("SET TimeZone = 'UTC'")
        for macro in MACROS:
            self._run(f"CREATE MACRO {macro}")
        columns = ", ".join(f"{identifier(field.name)} {SQL_TYPES[field.type]}" for field in FIELDS)
        self._run(f"CREATE TABLE {RECORDS} (file INTEGER, line BIGINT, {columns})")
        self._run(f"CREATE VIEW numbered AS SELECT rowid AS row, * FROM {RECORDS}")
        self._count = 0
        self.rejected: list[tuple[int, str]] = []
        """Lines of the last table of text that were no rows of it, and why."""

    @property
    def records(self) -> Any:
        """All records, as `FIELDS`, with `file`, the number their source was given, and `row`, their own."""
        return self._table("numbered")

    def take(
        self, source: LogFile, number: int, asks: Sequence[Ask], steps: Sequence[str], columns: Callable[[Any], Any]
    ) -> tuple[int, int]:
        """Add what a source says. `columns` maps what was asked for, by ask, to the columns of a record.

        Returns:
            The row of the first new record, and the one after the last.

        Raises:
            InputInvalid: the source cannot be read any further.
        """
        with self._understood(source):
            self._view(source, asks, steps)
        raw = self._table("raw")
        given = columns({ask: raw[f"v{place}"] for place, ask in enumerate(asks)})
        nothing = {field.name: ibis.null(raw_type(field.type)) for field in FIELDS}
        selected = raw.select(
            file=ibis.literal(number, "int32"),
            line=raw.line if steps else ibis.null("int64"),
            **{
                name: _value_of(given.get(name, empty)).cast(raw_type(FIELD_TYPES[name]))
                for name, empty in nothing.items()
            },
        )
        first = self._count
        self.rejected = []
        with self._understood(source):
            self._run(f"INSERT INTO {RECORDS} {ibis.to_sql(selected, dialect='duckdb')}")
            self._count = self._scalar(f"SELECT count(*) FROM {RECORDS}")
            if source.kind == "csv":
                self.rejected = self._run("SELECT line, min(error_message) FROM rejected_rows GROUP BY 1 ORDER BY 1")
                self._run("DROP TABLE rejected_rows")
                self._run("DROP TABLE rejected_scans")
        return first, self._count

    def keep(self, name: str, expression: Any) -> Any:
        """Work an expression out once, under a name."""
        self._run(f"CREATE OR REPLACE TABLE {identifier(name)} AS {ibis.to_sql(expression, dialect='duckdb')}")
        return self._table(name)

    def sums(self, name: str) -> Sums:
        """What the amounts in a table's column `usd` come to."""
        sums = "count(*), sum(abs(usd)), sum(usd), count(*) - count(usd)"
        ((records, usd, net, unknown),) = self._run(f"SELECT {sums} FROM {identifier(name)}")
        return Sums(records, usd, net, unknown)

    def view(self, name: str, expression: Any) -> Any:
        """Give an expression a name, under which further ones are built on it: they are then short to compile."""
        self._run(f"CREATE OR REPLACE VIEW {identifier(name)} AS {ibis.to_sql(expression, dialect='duckdb')}")
        return self._table(name)

    def given(self, name: str, table: pa.Table) -> Any:
        """A small table of the caller's, in the engine."""
        with registered(self._connection, "incoming", table):
            self._run(f"CREATE OR REPLACE TABLE {identifier(name)} AS SELECT * FROM incoming")
        return self._table(name)

    def execute(self, expression: Any) -> pa.Table:
        """The rows of an expression."""
        try:
            return self._connection.sql(ibis.to_sql(expression, dialect="duckdb")).to_arrow_table()
        except duckdb.Error as error:
            raise StoreFailed(f"the records cannot be asked: {_short(error)}") from error

    def complete(self) -> None:
        """Say that all is read: from now on the engine reaches no file, and the order in which rows are written means
        nothing, which saves memory."""
        self._run("SET preserve_insertion_order = false")
        lock(self._connection)

    def unreadable(self, sources: Sequence[tuple[int, int]], shown: int) -> tuple[int, list[tuple[int, int | None]]]:
        """How many rows are no records, and the first of them by their place in the file, with their lines, if known.

        `sources` are the number and the first row of each reading of one file: what is a record in any of them is one.
        """
        each = " INTERSECT ".join(
            f"SELECT rowid - {first} AS place, line FROM {RECORDS} WHERE file = {number} AND kind IS NULL"
            for number, first in sources
        )
        count = self._scalar(f"SELECT count(*) FROM ({each})")
        rows = self._run(f"SELECT place, line FROM ({each}) ORDER BY place LIMIT {shown}") if count else []
        return count, [(place, line) for place, line in rows]

    def stream(self, name: str, batches: pa.RecordBatchReader, shown: int) -> tuple[Path, tuple[Any, ...]]:
        """A table from elsewhere, and its first rows."""
        with registered(self._connection, "incoming", batches):
            self._run(f"CREATE OR REPLACE TABLE {identifier(name)} AS SELECT * FROM incoming")
        head = self._connection.sql(f"SELECT * FROM {identifier(name)} LIMIT {shown}").to_arrow_table().to_pylist()
        return Path(name), tuple(head)

    def progress(self) -> float:
        """How much of the running statement is done, 0 to 100; -1 where that is not known. For another thread."""
        return float(self._connection.query_progress())

    def close(self) -> None:
        self._connection.close()

    def _table(self, name: str) -> Any:
        """A table or view of the engine, as expressions name it."""
        described = self._run(f"DESCRIBE {identifier(name)}")
        return ibis.table({column: DuckDBType.from_string(kind) for column, kind, *_ in described}, name=name)

    def _scalar(self, sql: str) -> int:
        ((value,),) = self._run(sql)
        return int(value)

    def _run(self, sql: str) -> list[Any]:
        """A statement to its end: the connection takes no other before."""
        return self._connection.execute(sql).fetchall()

    @contextmanager
    def _understood(self, source: LogFile) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise InputInvalid(f"{source.name}: too large for the engine's memory: {_short(error)}") from None
        except duckdb.Error as error:
            raise InputInvalid(f"{source.name}: cannot be read as {source.kind}: {_short(error)}") from None

    def _view(self, source: LogFile, asks: Sequence[Ask], steps: Sequence[str]) -> None:
        """The view `raw`: what was asked for, as `v0`, `v1` and so on."""
        if steps:
            sql = nested(self._texts(source), asks, steps)
        else:
            tops = list(dict.fromkeys(ask.path[0] for ask in asks))
            cells = self._cells(source, tops)
            sql = extracted(cells, list(enumerate(asks)), tops)
        self._run(f"CREATE OR REPLACE TEMP VIEW raw AS {sql}")

    def _texts(self, source: LogFile) -> str:
        """The JSON texts of a source: one per line, or one."""
        path = literal(str(source.path))
        if source.kind == "document":
            return f"SELECT content AS t, NULL::BIGINT AS line FROM read_text({path})"
        return (
            f"SELECT t, row_number() OVER () AS line FROM read_csv({path}, columns = {{t: 'VARCHAR'}}, "
            "compression = 'none', delim = '\x01', quote = '', escape = '', header = false, auto_detect = false, "
            f"null_padding = true, strict_mode = false, parallel = true, max_line_size = {self.limits.line_bytes * 2})"
        )

    def _cells(self, source: LogFile, tops: Sequence[str]) -> str:
        """The values at the first names of each record, as texts `c0`, `c1` and so on."""
        path = literal(str(source.path))
        if source.kind == "lines":
            columns = ", ".join(f"{literal(top)}: 'VARCHAR'" for top in tops)
            names = ", ".join(f"{identifier(top)} AS c{place}" for place, top in enumerate(tops))
            return (
                f"SELECT {names} FROM read_json({path}, compression = 'none', format = 'newline_delimited', "
                f"records = true, ignore_errors = true, columns = {{{columns}}}, "
                f"maximum_object_size = {self.limits.line_bytes})"
            )
        if source.kind == "document":
            shape = literal(json.dumps(dict.fromkeys(tops, "VARCHAR")))
            names = ", ".join(f"j[{literal(top)}] AS c{place}" for place, top in enumerate(tops))
            return f"SELECT {names} FROM (SELECT TRY(json_transform(t, {shape})) AS j FROM ({self._texts(source)}))"
        if source.kind == "csv":
            table = self._csv(source, path)
        elif source.kind == "parquet":
            table = f"SELECT * FROM read_parquet({path})"
            self._within_limits(source, table, tops)
        else:
            table = f"SELECT * FROM {identifier(source.path.name)}"
        return f"SELECT {self._texts_of(table, tops)} FROM ({table}) AS r"

    def _csv(self, source: LogFile, path: str) -> str:
        """The table as text, column by column."""
        read = (
            f"read_csv({path}, compression = 'none', all_varchar = true, header = true, "
            f"delim = {literal(source.delimiter)}, quote = '\"', escape = '\"', strict_mode = false, "
            "ignore_errors = true, store_rejects = true, rejects_table = 'rejected_rows', "
            f"rejects_scan = 'rejected_scans', rejects_limit = 0, max_line_size = {self.limits.line_bytes})"
        )
        return f"SELECT * FROM {read}"

    def _within_limits(self, source: LogFile, table: str, tops: Sequence[str]) -> None:
        """Refuse a file whose texts are too many times its size: one that stands there once can be in every row, which
        neither its size nor what it says of itself shows. Raises `InputInvalid`."""
        asked = {top.lower() for top in tops}
        described = self._run(f"DESCRIBE {table}")
        sums = [
            f"sum(strlen({identifier(name)}))"
            for name, kind, *_ in described
            if kind in {"VARCHAR", "BLOB"} and name.lower() in asked
        ]
        if sums:
            (sizes,) = self._run(f"SELECT {', '.join(sums)} FROM ({table})")
            expanded_within(int(sum(size or 0 for size in sizes)), source.bytes, source.name, self.limits)

    def _texts_of(self, table: str, tops: Sequence[str]) -> str:
        """The columns of a table that were asked for, whatever their type, as texts; NULL for those it has not."""
        described = self._run(f"DESCRIBE {table}")
        types = {name: kind for name, kind, *_ in described}
        folded = {name.lower(): name for name in reversed(types)}
        cells = []
        for place, top in enumerate(tops):
            name = top if top in types else folded.get(top.lower())
            if name is None:
                cells.append(f"NULL::VARCHAR AS c{place}")
            elif any(mark in types[name] for mark in ("STRUCT", "MAP", "[]")):
                cells.append(f"to_json(r.{identifier(name)})::VARCHAR AS c{place}")
            else:
                cells.append(f"r.{identifier(name)}::VARCHAR AS c{place}")
        return ", ".join(cells)


FIELD_TYPES: Mapping[str, Type] = {field.name: field.type for field in FIELDS}
_IBIS_TYPES: Mapping[Type, str] = {
    "string": "string",
    "int64": "int64",
    "boolean": "boolean",
    "usd": "decimal(38, 12)",
    "time": "timestamp(6)",
}


def _value_of(value: Any) -> Any:
    return ibis.literal(value) if isinstance(value, str | bool | int) else value


def raw_type(kind: Type) -> str:
    """A field's type, as the expressions name it."""
    return _IBIS_TYPES[kind]


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory for what has to be written while logs are read; it is gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="costbearer-audit-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
