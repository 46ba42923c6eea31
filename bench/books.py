"""The bookkeeper: entries posted per second while reports run, and the ledger rebuilt from sealed segments."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from costbearer.bookkeeper import Bookkeeper
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.reports import answer, question
from costbearer.stores.duckdb import Ledger
from tests.factories import make_entry

ENTRIES = 200_000
REBUILDS = 5
PAUSE_BETWEEN_REPORTS_S = 0.2


def measure(quick: bool) -> list[tuple[str, str]]:
    count = 20_000 if quick else ENTRIES
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        root = Path(name)
        _write(root / "journal", 1_000)
        with closing(Ledger.open(root / "ledger.duckdb")) as ledger:
            bookkeeper = Bookkeeper(root / "journal", ledger)
            bookkeeper.catch_up()
            _write(root / "journal", count)
            posting_s, reports = _posting(bookkeeper, ledger, count)
            bookkeeper.catch_up()
            took: list[float] = []
            for _ in range(REBUILDS):
                began = time.perf_counter()
                again = bookkeeper.rebuild()
                took.append(time.perf_counter() - began)
                assert again == count + 1_000
    return [
        (
            f"bookkeeper: entries/s posted and sealed while {reports} reports ran ({count:,} entries)",
            f"{count / posting_s:,.0f}",
        ),
        (
            f"rebuild from seals: entries/s ({count + 1_000:,} entries)",
            f"{(count + 1_000) / statistics.median(took):,.0f} (of {REBUILDS}: "
            f"{(count + 1_000) / max(took):,.0f} to {(count + 1_000) / min(took):,.0f})",
        ),
    ]


def _write(journals: Path, count: int) -> None:
    """A journal of that many calls, as a writer that has ended leaves it."""
    journal = JournalWriter.open(journals)
    for _ in range(count):
        entry = make_entry(journal.id, journal.next_sequence)
        journal.append(Intent(entry=entry))
        journal.append(Outcome(entry=entry))
        journal.rotate_if_due()
    journal.close()


def _posting(bookkeeper: Bookkeeper, ledger: Ledger, count: int) -> tuple[float, int]:
    """Seconds to post so many entries, and how many reports were answered meanwhile."""
    stop, asked = threading.Event(), [0]

    def report() -> None:
        while not stop.wait(PAUSE_BETWEEN_REPORTS_S):
            with ledger.reader() as reader:
                answer(question("spend", [("by", "team,model")], now=datetime.now(UTC)), reader)
            asked[0] += 1

    reporting = threading.Thread(target=report)
    reporting.start()
    began = time.perf_counter()
    posted = 0
    while posted < count:
        posted += bookkeeper.catch_up()
    elapsed_s = time.perf_counter() - began
    stop.set()
    reporting.join()
    return elapsed_s, asked[0]
