"""The file of the ledger: what makes a new one, what a sound one has, and how one that is damaged is put away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb

from costbearer.errors import DataDirectoryBusy, StoreFailed
from costbearer.stores import links, rollups
from costbearer.stores.ledger_reader import POSITIONS, alias
from costbearer.stores.ledger_schema import CHARGES, ENTRIES, FINGERPRINT

TABLES = (
    ("entries", ENTRIES),
    ("charges", CHARGES),
    ("positions", POSITIONS),
    (links.TABLE, links.COLUMNS),
    *((rollup.name, rollup.columns) for rollup in rollups.ROLLUPS),
)
_FINGERPRINT = f"{FINGERPRINT}.4"
"""The number behind the point is the version of `positions`, `links`, `rollups` and `meta`."""

_PASSING = (
    "No space left",
    "Disk quota exceeded",
    "Read-only file system",
    "Permission denied",
    "Too many open files",
    "Cannot allocate memory",
)
"""What the system says where it is not the file that is wrong."""


class Damaged(Exception):
    """The file opens but is not a ledger of this schema."""


def files_of(file: Path) -> list[Path]:
    """The file and what the engine keeps beside it (`.wal` and its relatives)."""
    beside = sorted(file.parent.glob(file.name + ".wal*"))
    return [path for path in (file, *beside) if path.exists()]


def put_away(file: Path) -> Path:
    """Rename all of it to `NAME.damaged-TIME`; gives the path it has now."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    away = file.with_name(f"{file.name}.damaged-{stamp}")
    number = 1
    while list(away.parent.glob(away.name + "*")):
        number += 1
        away = file.with_name(f"{file.name}.damaged-{stamp}-{number}")
    for path in files_of(file):
        path.rename(away.with_name(away.name + path.name.removeprefix(file.name)))
    return away


def remove(file: Path) -> None:
    """Remove all of it."""
    for path in files_of(file):
        path.unlink()


def create(connection: duckdb.DuckDBPyConnection) -> None:
    for name, columns in TABLES:
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'{alias(c.name)} {c.engine}' for c in columns)})")
    connection.execute("CREATE TABLE meta (name VARCHAR, value VARCHAR)")
    connection.execute("INSERT INTO meta VALUES ('fingerprint', ?)", [_FINGERPRINT])
    # Replaying DDL from the log is where DuckDB fails most often; after this the log holds only rows.
    connection.execute("CHECKPOINT")


def check_schema(connection: duckdb.DuckDBPyConnection) -> None:
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "meta" not in tables:
        raise Damaged("it holds no ledger")
    found = connection.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchall()
    # First: another version may have had other tables.
    if found != [(_FINGERPRINT,)]:
        raise Damaged("it was written with another schema")
    if not {name for name, _ in TABLES} <= tables:
        raise Damaged("it holds no ledger")


def refuse_unless_damaged(file: Path, error: Exception) -> None:
    """Raise where the file is not to blame: what is not damaged must never be set aside."""
    text = str(error)
    if "Could not set lock" in text or "configuration has been locked" in text or "different configuration" in text:
        raise DataDirectoryBusy(f"{file} is in use; stop the server, or go through its API") from error
    if isinstance(error, (duckdb.OutOfMemoryException, duckdb.InvalidInputException, duckdb.InterruptException)) or any(
        passing in text for passing in _PASSING
    ):
        raise StoreFailed(f"{file} cannot be used now: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return str(error).strip().split("\n", 1)[0][:200]
