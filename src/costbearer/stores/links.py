"""Which hashes of a tenant or a user are one: links that entries state, and the entries as seen through them.

While two hash keys are live an entry holds the hash under the active key and the one under the key before. The ledger
keeps each such pair once, led on to the newest hash there is; a view of the entries then shows every tenant and user
under its newest hash, so that a group stays one group through any number of rotations. Where nothing was ever linked
the views are not used and cost nothing, and where an expression reads neither column neither is looked up.

A link leads to a higher version of the key only (hashes begin with it: `h2_`), so no chain ever comes back.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import duckdb
import ibis
import pyarrow as pa
from ibis.expr import operations

from costbearer.ledger import HASHED
from costbearer.stores.ledger_schema import ENTRIES_ARROW, Column

TABLE = "links"
COLUMNS: tuple[Column, ...] = tuple(Column(name, pa.string(), "VARCHAR") for name in ("field", "before", "now"))
"""`before` is a hash of a field, `now` the newest one of the same value. Each `before` is there once per field."""

_ENTRIES = "entries"
_SHAPES = [fields for size in range(1, len(HASHED) + 1) for fields in itertools.combinations(sorted(HASHED), size)]
_VIEWS = {frozenset(fields): f"{_ENTRIES}_by_newest_{'_and_'.join(fields)}" for fields in _SHAPES}
"""Columns that a view leads on to their newest hash -> its name. All have the columns of the entries."""


def _view(fields: Collection[str]) -> str:
    shown = ", ".join(f'coalesce(by_{name}.now, e."{name}") AS "{name}"' for name in sorted(fields))
    joins = " ".join(
        f"""LEFT JOIN (SELECT before, now FROM {TABLE} WHERE field = '{name}') by_{name}
            ON by_{name}.before = e."{name}\""""  # noqa: S608
        for name in sorted(fields)
    )
    return f"CREATE VIEW {_VIEWS[frozenset(fields)]} AS SELECT e.* REPLACE ({shown}) FROM {_ENTRIES} e {joins}"  # noqa: S608


VIEWS: tuple[str, ...] = tuple(_view(fields) for fields in _VIEWS)
"""The statements that make the views."""


def _pairs(source: str) -> str:
    """The links that the rows of a source state; of several that begin alike the one to the highest version."""
    stated = " UNION ALL ".join(
        f"""SELECT '{name}' AS field, {before} AS before, "{name}" AS now FROM {source}
            WHERE {before} IS NOT NULL AND {_version(before)} < {_version(f'"{name}"')}"""  # noqa: S608
        for name, before in HASHED.items()
    )
    newest = f"arg_max(now, ({_version('now')}, now))"
    return f"SELECT field, before, {newest} AS now FROM ({stated}) GROUP BY field, before"  # noqa: S608


def _version(text: str) -> str:
    return rf"TRY_CAST(regexp_extract({text}, '^h(\d+)_', 1) AS BIGINT)"


_LED_ON = f"""
UPDATE {TABLE} SET now = further.now FROM {TABLE} further
WHERE {TABLE}.field = further.field AND {TABLE}.now = further.before
"""  # noqa: S608
_MISSING = f"""
SELECT count(*) FROM ({_pairs(_ENTRIES)}) stated ANTI JOIN {TABLE} USING (field, before)
"""  # noqa: S608
_LIVE = "SELECT count(DISTINCT \"{name}\") FROM {view} WHERE starts_with(\"{name}\", 'h' || ? || '_')"


def append(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Take the links of incoming rows, in the transaction under way."""
    if all(table.column(before).null_count == table.num_rows for before in HASHED.values()):
        return
    stated = table.select([*HASHED, *HASHED.values()])
    connection.register("stated", stated)
    try:
        _take(connection, "stated")
    finally:
        connection.unregister("stated")


def again(connection: duckdb.DuckDBPyConnection) -> None:
    """Make all of them anew from the ledger's entries."""
    connection.execute(f"DELETE FROM {TABLE}")  # noqa: S608
    _take(connection, _ENTRIES)


def missing(connection: duckdb.DuckDBPyConnection) -> int:
    """How many links the entries state that are not kept."""
    return int(connection.execute(_MISSING).fetchall()[0][0])


def _take(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    statement = f"INSERT INTO {TABLE} SELECT * FROM ({_pairs(source)}) stated ANTI JOIN {TABLE} USING (field, before)"  # noqa: S608
    (taken,) = connection.execute(statement).fetchall()[0]
    # A link may lead to where another begins, or begin where others lead to: each round halves what is left of a chain.
    while taken:
        (taken,) = connection.execute(_LED_ON).fetchall()[0]


NEWEST = f"SELECT before, now FROM {TABLE} WHERE field = ? AND before IN (SELECT unnest(?))"  # noqa: S608
"""Of a field and a list of hashes: those that are not the newest, and the newest."""
ANY = f"SELECT count(*) AS links FROM (SELECT 1 FROM {TABLE} LIMIT 1)"  # noqa: S608
"""Whether anything was ever linked; it also fixes the state that is read."""


def unlinked(name: str) -> str:
    """The statement that counts the values of a field whose newest hash is of a version, which is its parameter."""
    return _LIVE.format(name=name, view=_VIEWS[frozenset({name})])


# -- expressions

_SCHEMA = ibis.Schema.from_pyarrow(ENTRIES_ARROW)
_SHOWN: dict[frozenset[str], Any] = {fields: ibis.table(_SCHEMA, name=name) for fields, name in _VIEWS.items()}


def followed(expression: Any, entries: Any) -> Any:
    """The same expression over the entries as seen through the links, as far as it reads tenants or users."""
    node, recorded = expression.op(), entries.op()
    names = _read_of(node, recorded) & HASHED.keys()
    if not names:
        return expression
    return node.replace({recorded: _SHOWN[frozenset(names)].op()}).to_expr()


def _read_of(node: Any, recorded: Any) -> set[str]:
    """The columns of a table that an expression reads. Of what is not known here, every column counts as read."""
    found: set[str] = set()
    seen: set[tuple[Any, str]] = set()
    left: list[tuple[Any, str]] = list(_columns_of(node))
    while left:
        place = left.pop()
        if place in seen:
            continue
        seen.add(place)
        relation, name = place
        if relation == recorded:
            found.add(name)
        elif isinstance(relation, operations.Project):
            left += [_any_of(relation.parent), *_fields_in([relation.values[name]])]
        elif isinstance(relation, operations.Filter):
            left += [(relation.parent, name), *_fields_in(relation.predicates)]
        elif isinstance(relation, operations.Sort):
            left += [(relation.parent, name), *_fields_in(relation.keys)]
        elif isinstance(relation, operations.Limit | operations.JoinReference):
            left.append((relation.parent, name))
        elif isinstance(relation, operations.Aggregate):
            made = [*relation.groups.values(), *relation.metrics.values()]
            left += [_any_of(relation.parent), *_fields_in(made)]
        elif isinstance(relation, operations.JoinChain):
            met = [predicate for each in relation.rest for predicate in each.predicates]
            left += _fields_in([relation.values[name], *met])
            left += [_any_of(each) for each in (relation.first, *(joined.table for joined in relation.rest))]
        elif isinstance(relation, operations.Union) and not relation.distinct:
            left += [(relation.left, name), (relation.right, name)]
        else:
            for child in _relations_in(relation):
                left += _columns_of(child)
    return found


def _any_of(relation: Any) -> tuple[Any, str]:
    """One column, so that what decides a table's rows is looked at even where nothing of it is shown."""
    return relation, next(iter(relation.schema))


def _columns_of(node: Any) -> Iterable[tuple[Any, str]]:
    if isinstance(node, operations.Relation):
        return [(node, name) for name in node.schema]
    return _fields_in([node])


def _fields_in(values: Iterable[Any]) -> list[tuple[Any, str]]:
    """The columns that values are made of, and every column of the tables that they ask on their own."""
    found: list[tuple[Any, str]] = []
    for value in values:
        left = [value]
        while left:
            node = left.pop()
            if isinstance(node, operations.Field):
                found.append((node.rel, node.name))
            elif isinstance(node, operations.CountStar):
                found.append(_any_of(node.arg))
                left += [each for each in node.__children__ if each is not node.arg]
            elif isinstance(node, operations.Relation):
                found += _columns_of(node)
            else:
                left += node.__children__
    return found


def _relations_in(relation: Any) -> list[Any]:
    return [child for child in relation.__children__ if isinstance(child, operations.Relation)]
