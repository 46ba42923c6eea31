"""Reading the ledger: Ibis tables for the reports, and the few statements that bookkeeper and doctor compare with.

SQL never comes from outside: what is put into a statement here is a name out of the schema.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import duckdb
import ibis
import msgspec
import pyarrow as pa
from ibis.backends.duckdb.converter import DuckDBPyArrowData
from ibis.expr import operations

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.stores import links, rollups
from costbearer.stores.ledger_schema import CHARGES_ARROW, ENTRIES, ENTRIES_ARROW, MONEY, Column
from costbearer.stores.linked import followed
from costbearer.stores.segments import Totals
from costbearer.usage import COUNTS

_TEXT, _COUNT = pa.string(), pa.int64()
POSITIONS: tuple[Column, ...] = (
    Column("journal", _TEXT, "VARCHAR"),
    *(Column(name, _COUNT, "BIGINT") for name in ("segment", "offset", "closed_sequence", "entries")),
    Column("cost_usd", MONEY, f"DECIMAL({money.DIGITS},{money.PLACES})"),
)

Guard = Callable[[str], AbstractContextManager[None]]


STATEMENTS_MAX = 500


class Statements:
    """The SQL of expressions that were asked before. To make SQL of one takes longer than most answers, and pages ask
    the same again. Two expressions that are alike are one, whoever built them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[Any, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, backend: Any, expression: Any) -> str | None:
        """The SQL; None where the expression brings tables of its own, which the engine must be given first."""
        node = expression.op()
        with self._lock:
            if (known := self._known.get(node)) is not None:
                self._known.move_to_end(node)
                return known
        if node.find(operations.InMemoryTable):
            return None
        made = str(backend.compile(expression))
        with self._lock:
            self._known[node] = made
            while len(self._known) > STATEMENTS_MAX:
                self._known.popitem(last=False)
        return made


class Position(msgspec.Struct, frozen=True):
    """How far a journal is posted: all before byte `offset` of `segment`; `entries` and `cost_usd` are sums so far."""

    journal: str
    segment: int
    offset: int
    closed_sequence: int
    entries: int
    cost_usd: Decimal


class Reader:
    """One state of the ledger, unchanged while it is held. Its four tables are Ibis tables.

    Not to be shared between threads.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, backend: Any, guarded: Guard, statements: Statements) -> None:
        """`guarded` turns the engine's errors, named after what was done, into `StoreFailed`."""
        self._guarded = guarded
        self._cursor = cursor
        self._backend = backend
        self._statements = statements
        self._linked = False
        self.entries = _ENTRIES_TABLE
        self.charges = _CHARGES_TABLE
        self.rollups = _ROLLUPS[rollups.CALLS.name]
        self.charge_rollups = _ROLLUPS[rollups.CHARGES.name]

    def execute(self, expression: Any, /) -> pa.Table:
        """The rows of an Ibis expression. Tenants and users are shown under their newest hash, and found by any of
        theirs (`linked`).

        Raises:
            StoreFailed: the engine failed, or the file is damaged; the bookkeeper will rebuild it.
        """
        return self.as_recorded(followed(expression, self.entries, self._alike) if self._linked else expression)

    def as_recorded(self, expression: Any, /) -> pa.Table:
        """The same with tenants and users as the journal has them; what becomes entries again is read with this."""
        with self._guarded("a query"):
            if (statement := self._statements.of(self._backend, expression)) is None:
                return self._backend.to_pyarrow(expression)
            table = self._cursor.sql(statement).to_arrow_table()
            return expression.__pyarrow_result__(table, data_mapper=DuckDBPyArrowData)

    def newest(self, field: str, hashes: Collection[str]) -> dict[str, str]:
        """Of hashes of tenants or users, those that are not the newest of their value, and which is."""
        if not self._linked:
            return {}
        rows = self.sql(links.NEWEST, [field, list(hashes)]).to_pylist()
        return {row["before"]: row["now"] for row in rows}

    def _alike(self, field: str, hashes: Collection[str]) -> set[str]:
        return {row["hash"] for row in self.sql(links.ALIKE, [field, list(hashes)]).to_pylist()} | {*hashes}

    def unlinked(self, field: str, version: int) -> int:
        """How many tenants or users are known under this version of the hash key only."""
        (row,) = self.sql(links.unlinked(field), [str(version)]).to_pylist()
        return int(row["found"])

    def links_difference(self) -> tuple[int, int]:
        """Links between hashes that are not what the entries state, and how many there are."""
        (row,) = self.sql(links.DIFFERENCES).to_pylist()
        return row["wrong"], row["links"]

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The rows of a statement that is written in this package, values apart."""
        with self._guarded("a query"):
            return self._cursor.sql(statement, params=list(parameters)).to_arrow_table()

    def begin(self) -> None:
        """Fix the state that is read. That is done by the first statement, not by BEGIN."""
        with self._guarded("a query"):
            self._cursor.execute("BEGIN TRANSACTION READ ONLY")
            self._linked = self._cursor.execute(links.ANY).fetchall() != [(0,)]

    def end(self) -> None:
        with self._guarded("the end of a query"):
            self._cursor.execute("ROLLBACK")

    def close(self) -> None:
        self._cursor.close()

    def positions(self) -> dict[str, Position]:
        """How far each journal is posted."""
        rows = self.sql("SELECT * FROM positions").to_pylist()
        return {row["journal"]: Position(**row) for row in rows}

    def totals_by_journal(self) -> dict[str, Totals]:
        """What the rows themselves add up to, per journal."""
        return totals_of_rows(self.sql(TOTALS).to_pylist())

    def rollups_difference(self) -> tuple[int, int]:
        """Groups of the hourly sums that are not what the entries add up to, and how many groups there are."""
        rows = [row for statement in rollups.DIFFERENCES for row in self.sql(statement).to_pylist()]
        return sum(max(row["unmade"], row["unkept"]) for row in rows), sum(row["groups"] for row in rows)

    def grouped(self, by: Sequence[str]) -> list[dict[str, Any]]:
        """Exact sums of the entries by some columns (`model` and `day` are made), one row per group.

        `cost_usd` of the known ones, `bound_usd` of the unknown ones, `entries`, `calls`, `requests`, `unknown_calls`,
        and every count of the usage.
        """
        names = [_GROUPS.get(name) or quoted(name) for name in by]
        keys = "".join(f"{expression} AS {alias(name)}, " for expression, name in zip(names, by, strict=True))
        group = f" GROUP BY {', '.join(names)}" if names else ""
        found: list[dict[str, Any]] = self.sql(f"SELECT {keys}{_SUMS} FROM entries{group}").to_pylist()  # noqa: S608
        return found

    def rows(self, journal: str, first: int, last: int) -> tuple[pa.Table, pa.Table]:
        """The entries of a journal that were closed by frames `first` to `last`, in that order, and their charges."""
        span = [journal, first, last]
        return self.sql(_ROWS, span), self.sql(_CHARGES_OF_ROWS, span)


# Made from the schema: asking the engine for it uses a call of DuckDB that this release deprecates.
_ENTRIES_TABLE: Any = ibis.table(ibis.Schema.from_pyarrow(ENTRIES_ARROW), name="entries")
_ROLLUPS: Mapping[str, Any] = {
    rollup.name: ibis.table(ibis.Schema.from_pyarrow(rollup.arrow), name=rollup.name) for rollup in rollups.ROLLUPS
}
_CHARGES_TABLE: Any = ibis.table(ibis.Schema.from_pyarrow(CHARGES_ARROW), name="charges")

TOTALS = """
SELECT journal, entries, unknown, cost_usd, coalesce(charges, 0) AS charges,
       coalesce(charges_usd, 0) AS charges_usd, closed_sequence
FROM (SELECT journal, count(*) AS entries, count(*) FILTER (cost_usd IS NULL) AS unknown,
             coalesce(sum(cost_usd), 0) AS cost_usd, max(closed_sequence) AS closed_sequence
      FROM entries GROUP BY journal)
FULL JOIN (SELECT journal, count(*) AS charges, sum(cost_usd) AS charges_usd FROM charges GROUP BY journal)
USING (journal)
"""

_SUMS = ", ".join(
    (
        "coalesce(sum(cost_usd), 0) AS cost_usd",
        "count(*) AS entries",
        "CAST(sum(calls) AS BIGINT) AS calls",
        "CAST(sum(requests) AS BIGINT) AS requests",
        "CAST(coalesce(sum(calls) FILTER (cost_usd IS NULL), 0) AS BIGINT) AS unknown_calls",
        "coalesce(sum(bound_usd) FILTER (cost_usd IS NULL), 0) AS bound_usd",
        *(f"CAST(coalesce(sum({name}), 0) AS BIGINT) AS {name}" for name in COUNTS),
    )
)
_CLOSED_IN = "journal = ? AND closed_sequence BETWEEN ? AND ?"
_ROWS = f"SELECT * FROM entries WHERE {_CLOSED_IN} ORDER BY closed_sequence"  # noqa: S608
_CHARGES_OF_ROWS = f"""
SELECT charges.* FROM charges
SEMI JOIN (SELECT journal, sequence FROM entries WHERE {_CLOSED_IN}) USING (journal, sequence)
"""  # noqa: S608
_GROUPS: Mapping[str, str] = {
    "model": "coalesce(response_model, request_model)",
    "day": "strftime(started_at, '%Y-%m-%d')",
}
_NAMES = frozenset(column.name for column in (*ENTRIES, *POSITIONS))


def quoted(name: str) -> str:
    """A column's name for a statement. Raises `StoreFailed` where there is no such column."""
    if name not in _NAMES:
        raise StoreFailed(f"the ledger has no column {name!r}")
    return f'"{name}"'


def alias(name: str) -> str:
    """A name that this package chose, for a statement."""
    return f'"{name}"'


def totals_of_rows(rows: list[dict[str, Any]]) -> dict[str, Totals]:
    """The rows of `TOTALS` by journal."""
    found = {}
    for row in rows:
        journal = row.pop("journal")
        # A sum of nothing is NULL, and so is a count on the side of the join that has no rows.
        found[journal] = Totals(**{name: value for name, value in row.items() if value is not None})
    return found
