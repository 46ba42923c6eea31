"""DuckDB shut in: no file, address or extension can be reached from a statement, and no statement can change that.

An engine that is not shut in reads any file of its host for whoever gets a word into a query.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from costbearer.errors import StoreFailed

HELD: Mapping[str, str] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}
"""What must be so afterwards, by name; the lock is the last."""


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Shut the engine of this connection in, for all of its connections and for ever, and see that it is.

    Raises:
        StoreFailed: a setting does not hold: this version of the engine has another meaning for it.
    """
    for name, value in HELD.items():
        connection.execute(f"SET {name} = {value}")
    rows = connection.execute("SELECT name, value FROM duckdb_settings()").fetchall()
    found = {name: value for name, value in rows if name in HELD}
    if found != HELD:
        wrong = ", ".join(name for name in HELD if found.get(name) != HELD[name])
        raise StoreFailed(f"the engine could not be shut in ({wrong}); this version of DuckDB is not fit for use here")
