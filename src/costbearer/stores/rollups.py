"""Hourly sums of the entries, kept by whoever posts them: what most reports are added up from.

A row stands for the entries of one hour (UTC, by the start of the call) that are alike in everything in `KEYS`, and
holds sums that add. Each posting appends the sums of what it posted; rows that are alike are put together from time to
time. So the table may hold several rows for one group, and whatever reads it adds.

They are a projection of the entries as the entries are one of the journal: `difference` compares, `again` makes them
anew.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from costbearer import money
from costbearer.ledger import PROVENANCE_FIELDS
from costbearer.stores.ledger_schema import MONEY, Column

NAME = "rollups"
_TEXT, _COUNT = pa.string(), pa.int64()
_ENGINE_MONEY = f"DECIMAL({money.DIGITS},{money.PLACES})"

KEYS: tuple[str, ...] = (
    *("key_id", "owner", "team", "agent", "workload", "key_team", "project", "cost_center", "env"),
    *("provider", "request_model", "response_model", "route", "operation", "tier", "region"),
    *("status", "basis", "kind", "reason", "reason_unknown", "error_code"),
)
_COUNTS = (
    *("calls", "requests", "input_tokens", "output_tokens", "cache_read_input_tokens"),
    *("cache_creation_input_tokens", "reasoning_output_tokens", "duration_ms"),
)
_USD = ("cost_usd", "list_cost_usd", "effective_cost_usd")
_SUMS: dict[str, str] = {
    "entries": "count(*)",
    **{name: f"sum({name})" for name in _COUNTS},
    "timed_calls": "count(duration_ms)",
    "unknown_calls": "sum(calls) FILTER (cost_usd IS NULL)",
    "unbounded_calls": "sum(calls) FILTER (cost_usd IS NULL AND bound_usd IS NULL)",
    **{name: f"sum({name})" for name in _USD},
    "unknown_bound_usd": "sum(bound_usd) FILTER (cost_usd IS NULL)",
}
"""Measure -> how it is made of entries. A sum of nothing is 0 here: what is not known is counted apart."""

COLUMNS: tuple[Column, ...] = (
    Column("started_at", pa.timestamp("us", tz="UTC"), "TIMESTAMPTZ"),
    *(Column(name, _TEXT, "VARCHAR") for name in (*KEYS, "provenance")),
    *(
        Column(name, MONEY, _ENGINE_MONEY) if name.endswith("_usd") else Column(name, _COUNT, "BIGINT")
        for name in _SUMS
    ),
)
ARROW = pa.schema([(column.name, column.arrow) for column in COLUMNS])
"""`started_at` is the begin of the hour, `provenance` spells that of `PROVENANCE_FIELDS`."""

COMPACT_ROWS = 50_000
"""So many rows are appended before rows that are alike are put together."""

_PATHS = ", ".join(f"'$.{name}.provenance'" for name in PROVENANCE_FIELDS)
_SPELLED = " || ".join(f"coalesce(left(said[{place}], 1), '-')" for place in range(1, len(PROVENANCE_FIELDS) + 1))
_SELECT_KEYS = ", ".join(f'"{name}"' for name in KEYS)
_TYPES = {column.name: column.engine for column in COLUMNS}


def _of_entries(source: str) -> str:
    sums = ", ".join(f"CAST(coalesce({how}, 0) AS {_TYPES[name]}) AS {name}" for name, how in _SUMS.items())
    return (
        f"SELECT date_trunc('hour', started_at) AS hour, {_SELECT_KEYS}, {_SPELLED} AS provenance, {sums} "  # noqa: S608
        f"FROM (SELECT *, json_extract_string(attribution, [{_PATHS}]) AS said FROM {source}) GROUP BY ALL"
    )


def _merged(source: str) -> str:
    sums = ", ".join(f"CAST(sum({name}) AS {_TYPES[name]}) AS {name}" for name in _SUMS)
    return f"SELECT started_at, {_SELECT_KEYS}, provenance, {sums} FROM {source} GROUP BY ALL"  # noqa: S608


_APPEND = f"INSERT INTO {NAME} {_of_entries('{source}')}"
_AGAIN = f"INSERT INTO {NAME} {_of_entries('entries')}"
_TAKE = f"CREATE OR REPLACE TEMP TABLE merging AS {_merged(NAME + ' WHERE started_at IN (SELECT unnest(?))')}"
_NOT_NOTHING = " OR ".join(f"{name} <> 0" for name in _SUMS)
_SIDE = "SELECT * FROM ({}) WHERE " + _NOT_NOTHING  # noqa: S608
_DIFFER = f"""
WITH kept AS ({_SIDE.format(_merged(NAME))}), made AS ({_SIDE.format(_of_entries("entries"))})
SELECT (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM made)) AS unmade,
       (SELECT count(*) FROM (SELECT * FROM made EXCEPT SELECT * FROM kept)) AS unkept,
       (SELECT count(*) FROM kept) AS groups
"""  # noqa: S608
_GLANCE = f"""
SELECT (SELECT (count(*), coalesce(sum(cost_usd), 0), coalesce(sum(calls), 0)) FROM entries)
     = (SELECT (coalesce(sum(entries), 0), coalesce(sum(cost_usd), 0), coalesce(sum(calls), 0)) FROM {NAME})
"""  # noqa: S608


def append(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    """Add the sums of a registered table's entries, in the transaction under way. Gives how many rows that made."""
    (rows,) = connection.execute(_APPEND.replace("{source}", source)).fetchall()
    return int(rows[0])


def compact(connection: duckdb.DuckDBPyConnection, hours: list[Any]) -> None:
    """Put the rows of these hours that are alike together, in the transaction under way."""
    connection.execute(_TAKE, [hours])
    connection.execute(f"DELETE FROM {NAME} WHERE started_at IN (SELECT unnest(?))", [hours])  # noqa: S608
    connection.execute(f"INSERT INTO {NAME} SELECT * FROM merging")  # noqa: S608
    connection.execute("DROP TABLE merging")


def again(connection: duckdb.DuckDBPyConnection) -> None:
    """Make all of them anew from the entries, in the transaction under way."""
    connection.execute(f"DELETE FROM {NAME}")  # noqa: S608
    connection.execute(_AGAIN)


def at_a_glance(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether count, cost and calls are those of the entries; quick, and blind for sums that stand in a wrong row."""
    return bool(connection.execute(_GLANCE).fetchall()[0][0])


DIFFERENCE = _DIFFER
"""The statement that compares every group: rows that only one side has (two counts), and groups that are kept."""
