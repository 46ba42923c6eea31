"""The control store's SQLite file: connections, transactions, migrations and the revision that workers watch."""

from __future__ import annotations

import fcntl
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from costbearer.errors import StoreFailed
from costbearer.stores.control_schema import VERSION

BUSY_TIMEOUT_MS = 5000
"""Longest wait for another process's transaction; they last milliseconds."""

INTEGER_MAX = 2**63 - 1
"""The largest whole number of a column. A number beyond it is in no row, and the driver fails of it."""

Revision = tuple[int, int]
"""Differs from an earlier one when something may have changed; nothing else can be read from it."""

_log = logging.getLogger("costbearer.control")


class Database:
    """One open file, of the version this package works with. Its transactions may be used from several threads."""

    def __init__(self, file: Path, *, read_only: bool) -> None:
        self.file = file
        self._read_only = read_only
        self._engine = _engine(file, read_only=read_only)
        self._watch: sqlite3.Connection | None = None
        self._inode = 0
        self._joined: ContextVar[Connection | None] = ContextVar("joined", default=None)

    @classmethod
    def prepare(cls, file: Path) -> None:
        """Make or migrate the file. One at a time: the caller holds the lock for it.

        Raises:
            StoreFailed: it cannot be made.
        """
        database = cls(file, read_only=False)
        try:
            stored = database.version()
            if stored == VERSION:
                return
            # Alembic takes 0.2 s to import, so it is left out where there is nothing to do.
            from costbearer.stores import migrations

            if stored is None or stored in migrations.versions():
                _make_wal(file)
                with database.writing() as connection:
                    migrations.upgrade(connection, VERSION)
        finally:
            database.close()

    @classmethod
    def open(cls, file: Path, *, read_only: bool) -> Self:
        """Open a prepared file; warns in the log where this SQLite's WAL mode has a known fault.

        Raises:
            StoreFailed: there is none, it cannot be read, or it is of another version.
        """
        database = cls(file, read_only=read_only)
        try:
            database.check()
        except StoreFailed:
            database.close()
            raise
        if (warning := sqlite_warning(sqlite3.sqlite_version_info)) is not None:
            _log.warning(warning)
        return database

    def check(self) -> None:
        """Raises `StoreFailed` unless the file is there, can be read now and is of this package's version."""
        if not self.file.exists():
            raise StoreFailed(f"{self.file} is not there yet; the console or any `costbearer keys` command makes it")
        stored = self.version()
        if stored != VERSION:
            raise StoreFailed(
                f"{self.file} is of version {stored or 'unknown'}, this Costbearer works with {VERSION}; "
                "use the Costbearer that wrote it, or a newer one"
            )

    def close(self) -> None:
        self._engine.dispose()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def revision(self) -> Revision:
        """Changes with every commit of any other connection, in this process or another. For one watcher.

        A file put in the place of this one (a restored backup) is noticed by its inode and opened anew.

        Raises:
            StoreFailed: the file cannot be read now.
        """
        try:
            inode = self.file.stat().st_ino
            if self._watch is None or inode != self._inode:
                if self._watch is not None:
                    self._watch.close()
                    self._engine.dispose()
                self._watch = _connect(self.file, read_only=True)
                self._inode = inode
            return inode, int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except (OSError, sqlite3.Error) as error:
            raise StoreFailed(f"{self.file} cannot be read: {_reason(error)}") from None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the file and changes nothing.

        Raises:
            StoreFailed: the file cannot be read.
        """
        try:
            joined = self._joined.get()
            if joined is not None:
                yield joined
                return
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreFailed(f"{self.file} cannot be read: {_reason(error)}") from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is alone in writing; it commits at the end and leaves nothing if it does not get there.

        Within `joined` it is a part of that transaction: one that fails leaves nothing of itself, and the rest stands.

        Raises:
            StoreFailed: opened for reading only, or the database refuses the change.
        """
        if self._read_only:
            raise StoreFailed(f"{self.file} was opened for reading only")
        try:
            joined = self._joined.get()
            if joined is not None:
                with joined.begin_nested():
                    yield joined
                return
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise StoreFailed(f"{self.file} did not take the change: {_reason(error)}") from None

    @contextmanager
    def joined(self, connection: Connection) -> Iterator[None]:
        """Whatever this task, or a thread it waits for, reads and writes meanwhile belongs to this transaction."""
        token = self._joined.set(connection)
        try:
            yield
        finally:
            self._joined.reset(token)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Several changes that are made all or none.

        Raises:
            StoreFailed: as `writing`.
        """
        with self.writing() as connection, self.joined(connection):
            yield

    def version(self) -> str | None:
        """The last migration that ran here; None for a file that is new."""
        if not self.file.exists():
            return None
        with self.reading() as connection:
            if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first() is None:
                return None
            row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
            return None if row is None else str(row[0])


def sqlite_warning(version: tuple[int, ...]) -> str | None:
    """A warning where this SQLite has the WAL-reset race (3.7.0 to 3.51.2; fixed in 3.51.3, 3.50.7 and 3.44.6).

    The race needs a checkpoint and a commit of two connections at the same moment. Source: sqlite.org/wal.html.
    """
    if version >= (3, 51, 3) or version < (3, 7, 0):
        return None
    if (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0):
        return None
    return (
        f"SQLite {'.'.join(map(str, version))} can damage a WAL file when two connections write and checkpoint "
        "at the same moment (fixed in 3.51.3, 3.50.7, 3.44.6); let only the console change keys, and keep backups"
    )


def _engine(file: Path, *, read_only: bool) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: _connect(file, read_only=read_only),
        poolclass=QueuePool,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE: a writer waits for its turn at BEGIN, not in the middle, where SQLite cannot let it wait.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _connect(file: Path, *, read_only: bool) -> sqlite3.Connection:
    # mode=rw makes no file by accident; query_only rather than mode=ro, because WAL readers share the index file.
    address = f"file:{quote(str(file))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Holds the lock file; a second process waits."""
    try:
        handle = file.open("a")
    except OSError as error:
        raise StoreFailed(f"{file} cannot be made: {error.strerror}") from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)


def _make_wal(file: Path) -> None:
    try:
        file.touch(mode=0o600)
        setup = _connect(file, read_only=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreFailed(f"{file} cannot be made: {_reason(error)}") from None
    try:
        setup.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        raise StoreFailed(f"{file} cannot be made: {_reason(error)}") from None
    finally:
        setup.close()
