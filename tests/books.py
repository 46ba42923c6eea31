"""A journal directory with a bookkeeper on it, and the truth that tests compare the ledger with."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from costbearer import money
from costbearer.bookkeeper import BATCH_ENTRIES, Bookkeeper
from costbearer.frames import FrameAt
from costbearer.journal import Outcome, journals, read_frames
from costbearer.journal_files import all_segments, raw_bytes
from costbearer.ledger import Entry
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.segments import totals_of


class Books:
    """The data directory; `open` and `close` as a process would start and stop."""

    def __init__(self, data: Path) -> None:
        self.journal_dir = data / "journal"
        self.file = data / "ledger.duckdb"
        self.journal_dir.mkdir(parents=True, exist_ok=True)
        self._ledger: Ledger | None = None

    def open(self, *, batch_entries: int = BATCH_ENTRIES) -> Bookkeeper:
        self._ledger = Ledger.open(self.file, readers=1)
        return Bookkeeper(self.journal_dir, self._ledger, batch_entries=batch_entries)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def set_aside(self) -> list[Path]:
        return sorted(self.file.parent.glob("ledger.duckdb.damaged-*Z*"))


def outcomes(journal_dir: Path) -> dict[str, list[Posted]]:
    """Every outcome that can be read in the raw frames, by journal: what should be posted where nothing is damaged."""
    found: dict[str, list[Posted]] = {}
    for directory in journals(journal_dir):
        found[directory.name] = [
            Posted(item.sequence, item.frame.entry)
            for number in all_segments(directory)
            for item in read_frames(raw_bytes(directory, number))
            if isinstance(item, FrameAt) and isinstance(item.frame, Outcome)
        ]
    return found


def assert_equal(ledger: Ledger, expected: dict[str, list[Posted]]) -> None:
    """The ledger holds exactly these entries with exactly these charges, in every column."""
    totals = {journal: totals_of(table_of(batch)) for journal, batch in expected.items() if batch}
    assert ledger.totals_by_journal() == totals
    with ledger.reader() as reader:
        for journal, batch in expected.items():
            rows, charges = reader.rows(journal, 0, 2**62)
            table = table_of(sorted(batch, key=lambda posted: posted.closed_sequence))
            assert rows.equals(table.drop_columns(["charges"])), journal
            held = sorted(
                (row["sequence"], row["meter"], row["quantity"], row["cost_usd"], row["card"])
                for row in charges.to_pylist()
            )
            assert held == sorted(
                (each.entry.sequence, charge.meter, charge.quantity, charge.cost_usd, charge.card)
                for each in batch
                for charge in each.entry.charges
            )


def cost(entries: Iterable[Entry]) -> Decimal:
    """The exact sum of the known costs."""
    return money.total(entry.cost_usd for entry in entries if entry.cost_usd is not None)
