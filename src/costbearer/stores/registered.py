"""An Arrow table under a name in the engine, for as long as statements ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import duckdb


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, table: Any) -> Iterator[None]:
    """The table (or a reader of batches) is there inside the block.

    An error inside is the one that is raised: a transaction that it aborted refuses to let the name go, too.
    """
    connection.register(name, table)
    try:
        yield
    except BaseException:
        with suppress(duckdb.Error):
            connection.unregister(name)
        raise
    connection.unregister(name)
