"""ClickHouse's engine in this process, with the tables of a ledger: what the reports' expressions must also run on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import clickhouse_connect
import ibis
import pyarrow as pa

from costbearer.reports.query import Reader
from costbearer.stores.ledger_schema import CHARGES, ENTRIES, Column
from costbearer.stores.rollups import ROLLUPS

_TYPES = {
    "VARCHAR": "Nullable(String)",
    "BIGINT": "Nullable(Int64)",
    # What the engine of the ledger adds up in 128 bits; here a test never comes near.
    "HUGEINT": "Nullable(Int64)",
    "TIMESTAMPTZ": "Nullable(DateTime64(6, 'UTC'))",
    "BOOLEAN": "Nullable(Bool)",
    "MAP(VARCHAR, VARCHAR)": "Map(String, String)",
    "VARCHAR[]": "Array(String)",
}


class ClickHouse:
    """A reader on ClickHouse's engine."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.entries, self.charges = backend.table("entries"), backend.table("charges")
        self.rollups, self.charge_rollups = backend.table("rollups"), backend.table("charge_rollups")

    def execute(self, expression: Any, /) -> pa.Table:
        table: pa.Table = self._backend.to_pyarrow(expression)
        return table

    def newest(self, _: str, __: Collection[str], /) -> Mapping[str, str]:
        """Nothing was ever linked here."""
        return {}


@contextmanager
def same_on_clickhouse(reader: Reader) -> Iterator[Reader]:
    """The tables of a reader, copied into an engine of its own that is gone after the block."""
    with TemporaryDirectory() as directory:
        client = clickhouse_connect.get_client(dsn=f"chdb://{Path(directory) / 'ledger'}")
        try:
            tables: list[tuple[str, Sequence[Column], Any]] = [
                ("entries", ENTRIES, reader.entries),
                ("charges", CHARGES, reader.charges),
            ]
            kept = (reader.rollups, reader.charge_rollups)
            tables += [(each.name, each.columns, table) for each, table in zip(ROLLUPS, kept, strict=True)]
            for name, columns, table in tables:
                fields = ", ".join(f"`{column.name}` {_type(column)}" for column in columns)
                client.command(f"CREATE TABLE {name} ({fields}) ENGINE = MergeTree ORDER BY tuple()")
                client.insert_arrow(name, reader.execute(table))
            yield ClickHouse(ibis.clickhouse.from_connection(client))
        finally:
            client.close()


def _type(column: Column) -> str:
    return _TYPES.get(column.engine) or f"Nullable({column.engine.replace('DECIMAL', 'Decimal')})"
