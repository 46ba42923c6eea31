"""Hourly sums of the entries and of their charges, kept by whoever posts them: what most reports are added up from.

A row stands for the entries of one hour (UTC, by the start of the call) that are alike in everything in `KEYS`, and
holds sums that add. Each posting appends the sums of what it posted; rows that are alike are put together from time to
time. So a table may hold several rows for one group, and whatever reads it adds.

They are a projection of the entries as the entries are one of the journal: `DIFFERENCE` compares, `again` makes them
anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from costbearer import money
from costbearer.ledger import CONFLICT, PROVENANCE_FIELDS
from costbearer.stores.ledger_schema import MONEY, Column

_TEXT, _COUNT = pa.string(), pa.int64()
_ENGINE_MONEY = f"DECIMAL({money.DIGITS},{money.PLACES})"
_ENGINE_COUNT = "HUGEINT"
"""Holds whatever counts within their limits add up to, of as many calls as there can be."""

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
_SUMS: Mapping[str, str] = {
    "entries": "count(*)",
    **{name: f"sum({name})" for name in _COUNTS},
    "timed_calls": "count(duration_ms)",
    "charged_calls": "sum(calls) FILTER (cost_usd <> 0 OR (cost_usd = 0 AND status = 'ok' AND NOT cache_hit))",
    "unknown_calls": "sum(calls) FILTER (cost_usd IS NULL)",
    "unbounded_calls": "sum(calls) FILTER (cost_usd IS NULL AND bound_usd IS NULL)",
    **{name: f"sum({name})" for name in _USD},
    "unknown_bound_usd": "sum(bound_usd) FILTER (cost_usd IS NULL)",
}
_CHARGE_SUMS: Mapping[str, str] = {
    "quantity": "sum(charge.quantity)",
    "cost_usd": "sum(charge.cost_usd)",
    "list_cost_usd": "sum(charge.list_cost_usd)",
}
_CHARGE_KEYS: Mapping[str, str] = {"charge_model": "charge.model", "meter": "charge.meter"}
"""Measure, and key, -> how it is made of entries or charges. A sum of nothing is 0 here: what is not known is counted
apart."""

COMPACT_ROWS = 50_000
"""So many rows are appended before rows that are alike are put together."""


class Rollup(NamedTuple):
    """One table of sums: its keys and sums, each with the expression that makes it."""

    name: str
    keys: Mapping[str, str]
    sums: Mapping[str, str]

    @property
    def columns(self) -> tuple[Column, ...]:
        """`started_at` is the begin of the hour, `provenance` spells that of `PROVENANCE_FIELDS`."""
        return (
            Column("started_at", pa.timestamp("us", tz="UTC"), "TIMESTAMPTZ"),
            *(Column(name, _TEXT, "VARCHAR") for name in self.keys),
            *(
                Column(name, MONEY, _ENGINE_MONEY) if name.endswith("_usd") else Column(name, _COUNT, _ENGINE_COUNT)
                for name in self.sums
            ),
        )

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(column.name, column.arrow) for column in self.columns])

    def made(self, source: str) -> str:
        """The statement that makes the rows of a source."""
        keys = ", ".join(f'{how} AS "{name}"' for name, how in self.keys.items())
        return f"SELECT date_trunc('hour', started_at) AS started_at, {keys}, {self._summed(self.sums)} {source}"

    def merged(self, condition: str = "") -> str:
        """The statement that puts the rows of the table that are alike together."""
        keys = ", ".join(f'"{name}"' for name in self.keys)
        sums = self._summed({name: f"sum({name})" for name in self.sums})
        return f"SELECT started_at, {keys}, {sums} FROM {self.name} {condition} GROUP BY ALL"  # noqa: S608

    def _summed(self, how: Mapping[str, str]) -> str:
        types = {column.name: column.engine for column in self.columns}
        return ", ".join(f"CAST(coalesce({made}, 0) AS {types[name]}) AS {name}" for name, made in how.items())


_PATHS = ", ".join(f"'$.{name}.provenance'" for name in PROVENANCE_FIELDS)
_SPELLED = " || ".join(
    f"""CASE WHEN nullif("{name}", '') IS NULL THEN '-' ELSE coalesce(left(said[{place}], 1), 'a') END"""
    for place, name in enumerate(PROVENANCE_FIELDS, 1)
)
_SPELLED += f" || CASE WHEN contains(attribution, '{CONFLICT}') THEN '!' ELSE '-' END"
_OWN = {name: f'"{name}"' for name in KEYS}

CALLS = Rollup("rollups", {**_OWN, "provenance": _SPELLED}, _SUMS)
CHARGES = Rollup("charge_rollups", {**_OWN, **_CHARGE_KEYS}, _CHARGE_SUMS)
ROLLUPS = (CALLS, CHARGES)


def _entries_of(source: str) -> str:
    return (
        f"FROM (SELECT *, json_extract_string(attribution, [{_PATHS}]) AS said FROM {source}) "  # noqa: S608
        "GROUP BY ALL"
    )


def _charges_of(source: str) -> str:
    """Charges as sealed files and incoming rows hold them: a list beside each entry."""
    return f"FROM (SELECT *, unnest(charges) AS charge FROM {source}) GROUP BY ALL"  # noqa: S608


_JOINED = (
    'FROM (SELECT e.*, {"model": c.model, "meter": c.meter, "quantity": c.quantity, "cost_usd": c.cost_usd, '
    '"list_cost_usd": c.list_cost_usd} AS charge FROM charges c JOIN entries e USING (journal, sequence)) GROUP BY ALL'
)
"""Charges as the ledger holds them: a table beside the entries."""


def _difference(rollup: Rollup, source: str) -> str:
    some = " OR ".join(f"{name} <> 0" for name in rollup.sums)
    return f"""
        WITH kept AS (SELECT * FROM ({rollup.merged()}) WHERE {some}),
             made AS (SELECT * FROM ({rollup.made(source)}) WHERE {some})
        SELECT (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM made)) AS unmade,
               (SELECT count(*) FROM (SELECT * FROM made EXCEPT SELECT * FROM kept)) AS unkept,
               (SELECT count(*) FROM kept) AS groups
    """  # noqa: S608


DIFFERENCES = (_difference(CALLS, _entries_of("entries")), _difference(CHARGES, _JOINED))
"""The statements that compare every group: rows that only one side has (two counts), and how many groups there are."""

_GLANCE = f"""
SELECT (SELECT (count(*), coalesce(sum(cost_usd), 0), coalesce(sum(calls), 0)) FROM entries)
     = (SELECT (coalesce(sum(entries), 0), coalesce(sum(cost_usd), 0), coalesce(sum(calls), 0)) FROM {CALLS.name})
   AND (SELECT (coalesce(sum(quantity), 0), coalesce(sum(cost_usd), 0)) FROM charges)
     = (SELECT (coalesce(sum(quantity), 0), coalesce(sum(cost_usd), 0)) FROM {CHARGES.name})
"""  # noqa: S608


def append(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    """Add the sums of a registered table (`SEALED_ARROW`), in the transaction under way. Gives the rows that made."""
    rows = 0
    for rollup, made in ((CALLS, _entries_of(source)), (CHARGES, _charges_of(source))):
        rows += _inserted(connection, rollup, made)
    return rows


def compact(connection: duckdb.DuckDBPyConnection, hours: Sequence[Any]) -> None:
    """Put the rows of these hours that are alike together, in the transaction under way."""
    condition = "WHERE started_at IN (SELECT unnest(?))"
    for rollup in ROLLUPS:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE merging AS {rollup.merged(condition)}", [hours])
        connection.execute(f"DELETE FROM {rollup.name} {condition}", [hours])  # noqa: S608
        connection.execute(f"INSERT INTO {rollup.name} SELECT * FROM merging")  # noqa: S608
        connection.execute("DROP TABLE merging")


def again(connection: duckdb.DuckDBPyConnection, files: Sequence[str] = ()) -> None:
    """Make all of them anew from the ledger, in the transaction under way; or, into empty ones, from sealed files."""
    for rollup, source in ((CALLS, _entries_of("entries")), (CHARGES, _JOINED)):
        connection.execute(f"DELETE FROM {rollup.name}")  # noqa: S608
        if files and rollup is CHARGES:
            _inserted(connection, rollup, _charges_of("read_parquet(?)"), [list(files)])
        else:
            _inserted(connection, rollup, source)


def at_a_glance(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the sums over everything are those of the ledger; quick, and blind for what stands in a wrong row."""
    return bool(connection.execute(_GLANCE).fetchall()[0][0])


def _inserted(
    connection: duckdb.DuckDBPyConnection, rollup: Rollup, source: str, parameters: Sequence[Any] = ()
) -> int:
    statement = f"INSERT INTO {rollup.name} {rollup.made(source)}"
    (rows,) = connection.execute(statement, list(parameters)).fetchall()
    return int(rows[0])
