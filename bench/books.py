"""The bookkeeper: entries posted per second while reports run, and the ledger rebuilt from sealed segments."""

from __future__ import annotations

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


def measure(quick: bool) -> list[tuple[str, str]]:
    count = 20_000 if quick else ENTRIES
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name:
        root = Path(name)
        journal = JournalWriter.open(root / "journal", segment_bytes=8 * 1024 * 1024)
        for _ in range(count):
            entry = make_entry(journal.id, journal.next_sequence)
            journal.append(Intent(entry=entry))
            journal.append(Outcome(entry=entry))
            journal.rotate_if_due()
        journal.close()
        with closing(Ledger.open(root / "ledger.duckdb")) as ledger:
            bookkeeper = Bookkeeper(root / "journal", ledger)
            stop, asked = threading.Event(), [0]

            def report() -> None:
                while not stop.is_set():
                    with ledger.reader() as reader:
                        query = question("spend", [("by", "team,model")], now=datetime.now(UTC))
                        answer(query, reader)
                    asked[0] += 1

            reporting = threading.Thread(target=report)
            began = time.perf_counter()
            reporting.start()
            posted = 0
            while posted < count:
                posted += bookkeeper.catch_up()
            posting_s = time.perf_counter() - began
            stop.set()
            reporting.join()
            bookkeeper.catch_up()
            began = time.perf_counter()
            again = bookkeeper.rebuild()
            rebuild_s = time.perf_counter() - began
            assert again == count
    return [
        (
            f"bookkeeper: entries/s posted and sealed while {asked[0]} reports ran ({count:,} entries)",
            f"{count / posting_s:,.0f}",
        ),
        (f"rebuild from seals: entries/s ({count:,} entries)", f"{count / rebuild_s:,.0f}"),
    ]
