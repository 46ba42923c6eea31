"""Which hashes of a tenant or a user are one: the links that entries state, each led on to the newest hash.

While two hash keys are live an entry holds the hash under the active key and the one under the key before. The ledger
keeps each such pair once, led on to the newest hash there is, so that a group stays one group through any number of
rotations. They are a projection of the entries, whatever the order in which those came: `differences` compares, `again`
makes them anew. Who reads expressions through them is `linked`.

A link leads to a higher version of the key only (hashes begin with it: `h2_`), so no chain ever comes back.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from costbearer.ledger import HASHED
from costbearer.stores.ledger_schema import Column

TABLE = "links"
COLUMNS: tuple[Column, ...] = tuple(Column(name, pa.string(), "VARCHAR") for name in ("field", "before", "now"))
"""`before` is a hash of a field, `now` the newest one of the same value. Each `before` is there once per field."""

_ENTRIES = "entries"


def _version(text: str) -> str:
    return rf"TRY_CAST(regexp_extract({text}, '^h(\d+)_', 1) AS BIGINT)"


def _pairs(source: str) -> str:
    """The links that the rows of a source state; of several that begin alike the one to the highest version."""
    stated = " UNION ALL ".join(
        f"""SELECT DISTINCT '{name}' AS field, {before} AS before, "{name}" AS now FROM {source}
            WHERE {before} IS NOT NULL"""  # noqa: S608
        for name, before in HASHED.items()
    )
    newest = f"arg_max(now, ({_version('now')}, now))"
    upwards = f"{_version('before')} < {_version('now')}"
    return f"SELECT field, before, {newest} AS now FROM ({stated}) WHERE {upwards} GROUP BY field, before"  # noqa: S608


def _unlike(source: str) -> str:
    """Of the links that a source states, those that are not kept, or lead elsewhere. Where all are kept like that they
    are led on to the end."""
    return f"""
        SELECT stated.* FROM ({_pairs(source)}) stated
        LEFT JOIN {TABLE} kept ON kept.field = stated.field AND kept.before = stated.before
        LEFT JOIN {TABLE} further ON further.field = stated.field AND further.before = stated.now
        WHERE kept.now IS DISTINCT FROM coalesce(further.now, stated.now)
    """  # noqa: S608


_UNSTATED = f"SELECT field, before FROM {TABLE} ANTI JOIN ({_pairs(_ENTRIES)}) stated USING (field, before)"  # noqa: S608
DIFFERENCES = f"""
SELECT (SELECT count(*) FROM ({_unlike(_ENTRIES)})) + (SELECT count(*) FROM ({_UNSTATED})) AS wrong,
       (SELECT count(*) FROM {TABLE}) AS links
"""  # noqa: S608
"""How many links are not what the entries state, and how many there are."""
_LED_ON = f"""
UPDATE {TABLE} SET now = further.now FROM {TABLE} further
WHERE {TABLE}.field = further.field AND {TABLE}.now = further.before
"""  # noqa: S608

ANY = f"SELECT count(*) AS links FROM (SELECT 1 FROM {TABLE} LIMIT 1)"  # noqa: S608
"""Whether anything was ever linked; it also fixes the state that is read."""
NEWEST = f"SELECT before, now FROM {TABLE} WHERE field = ? AND before IN (SELECT unnest(?))"  # noqa: S608
"""Of a field and a list of hashes: those that are not the newest, and the newest."""
ALIKE = f"""
WITH asked AS (SELECT field, coalesce(now, before) AS now
               FROM (SELECT ? AS field, unnest(?) AS before) LEFT JOIN {TABLE} USING (field, before))
SELECT now AS hash FROM asked UNION SELECT before FROM {TABLE} SEMI JOIN asked USING (field, now)
"""  # noqa: S608
"""Of a field and a list of hashes: every hash of the same values."""


def unlinked(name: str) -> str:
    """The statement that counts the values of a field whose newest hash is of a version, which is its parameter."""
    live = f"""SELECT DISTINCT '{name}' AS field, "{name}" AS before FROM {_ENTRIES}
               WHERE starts_with("{name}", 'h' || ? || '_')"""  # noqa: S608
    return f"SELECT count(*) AS found FROM ({live}) ANTI JOIN {TABLE} USING (field, before)"  # noqa: S608


def append(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Take the links of incoming rows, which the entries have already, in the transaction under way."""
    if all(table.column(before).null_count == table.num_rows for before in HASHED.values()):
        return
    connection.register("stated_by", table.select([*HASHED, *HASHED.values()]))
    try:
        _take(connection, "stated_by")
        astray = connection.execute(f"SELECT 1 FROM ({_unlike('stated_by')}) LIMIT 1").fetchall()  # noqa: S608
    finally:
        connection.unregister("stated_by")
    if astray:
        # Nobody who hashes states two links that begin alike and end apart; which one holds must not depend on order.
        again(connection)


def again(connection: duckdb.DuckDBPyConnection) -> None:
    """Make all of them anew from the ledger's entries."""
    connection.execute(f"DELETE FROM {TABLE}")  # noqa: S608
    _take(connection, _ENTRIES)


def hold(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether they are what the entries state."""
    return bool(connection.execute(DIFFERENCES).fetchall()[0][0] == 0)


def _take(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    statement = f"INSERT INTO {TABLE} SELECT * FROM ({_pairs(source)}) stated ANTI JOIN {TABLE} USING (field, before)"  # noqa: S608
    (taken,) = connection.execute(statement).fetchall()[0]
    # A link may lead to where another begins, or begin where others lead to: each round halves what is left of a chain.
    while taken:
        (taken,) = connection.execute(_LED_ON).fetchall()[0]
