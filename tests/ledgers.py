"""Real ledgers on disk that hold given entries, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from costbearer.ledger import Entry
from costbearer.reports.query import Reader
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted


@contextmanager
def ledger_of(entries: Sequence[Entry]) -> Iterator[Ledger]:
    """An open ledger that holds the entries; gone after the block."""
    with TemporaryDirectory() as directory:
        ledger = Ledger.open(Path(directory) / "ledger.duckdb", readers=1)
        try:
            ledger.post([Posted(entry.sequence, entry) for entry in entries], [])
            yield ledger
        finally:
            ledger.close()


@contextmanager
def reader_of(entries: Sequence[Entry]) -> Iterator[Reader]:
    """A reader of such a ledger."""
    with ledger_of(entries) as ledger, ledger.reader() as reader:
        yield reader
