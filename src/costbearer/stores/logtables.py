"""Usage logs where they are: tables of a PostgreSQL database, read by ADBC, column by column."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from costbearer.errors import InputInvalid
from costbearer.stores.logfiles import LogFile
from costbearer.stores.logs import Logs

SCHEMES = ("postgresql", "postgres")
TABLES = ("LiteLLM_SpendLogs", "logs")
"""What is looked for where the address names no table: LiteLLM's spend log, Bifrost's."""
HEAD_ROWS = 50


def is_address(name: str) -> bool:
    """Whether a name is the address of a database."""
    return name.split("://", 1)[0] in SCHEMES and "://" in name


def table_of(address: str, logs: Logs) -> LogFile:
    """A table of a database, in the engine: `postgresql://user@host/database?table=LiteLLM_SpendLogs`.

    Raises:
        InputInvalid: it cannot be reached, or has no such table.
    """
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    wanted = query.pop("table", [None])[0]
    uri = urlunsplit(
        parts._replace(query="&".join(f"{key}={value}" for key, values in query.items() for value in values))
    )
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    try:
        import adbc_driver_postgresql.dbapi as postgresql
    except ImportError:
        raise InputInvalid(f"{shown}: reading PostgreSQL needs `pip install costbearer[postgresql]`") from None
    try:
        with postgresql.connect(uri) as connection, connection.cursor() as cursor:
            table = _found(cursor, wanted, shown)
            cursor.execute("SELECT * FROM " + ".".join('"' + part.replace('"', '""') + '"' for part in table))
            place, head = logs.stream("table_" + re.sub(r"\W", "_", table[-1]), cursor.fetch_record_batch(), HEAD_ROWS)
    except postgresql.Error as error:
        raise InputInvalid(f"{shown}: {_one_line(error)}") from None
    return LogFile(f"{shown}#{table[-1]}", place, "table", head)


def _found(cursor: Any, wanted: str | None, shown: str) -> tuple[str, str]:
    cursor.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
    )
    tables = [(schema, name) for schema, name in cursor.fetchall()]
    for name in (wanted,) if wanted else TABLES:
        for schema, each in tables:
            if name in {each, f"{schema}.{each}"}:
                return schema, each
    names = ", ".join(f"{schema}.{name}" for schema, name in tables[:20]) or "none"
    raise InputInvalid(f"{shown}: no table {wanted or ' or '.join(TABLES)}; add ?table=NAME; it has {names}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
