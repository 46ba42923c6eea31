"""What reads foreign usage logs: files told apart and unpacked, their formats recognised, their records taken."""

from __future__ import annotations

import atexit
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from costbearer.audit.intake import taken
from costbearer.errors import FieldInvalid, InputInvalid
from costbearer.logformats.registry import recognised
from costbearer.reconcile import invoices
from costbearer.stores.logfiles import Limits, Unread, line_of, opened
from costbearer.stores.logs import RECORDS, Logs
from tests.auditing import engine

LIMITS = Limits(line_bytes=4096, document_bytes=64 * 1024, expanded_bytes=1024 * 1024, expansion_ratio=50)
"""Small, so that they are met."""


def files(data: bytes) -> None:
    """A file of any kind: told apart, unpacked within the limits, recognised, its lines numbered; or refused."""
    with tempfile.TemporaryDirectory(prefix="costbearer-fuzz-") as directory:
        work = Path(directory)
        (work / "log").mkdir()
        file = work / "log" / "given"
        file.write_bytes(data)
        unread: list[Unread] = []
        try:
            found = opened(str(file), work / "log", LIMITS, unread.append)
        except InputInvalid:
            return
        assert file.read_bytes() == data, "the file that was given is not as it was"
        assert sum(each.stat().st_size for each in (work / "log").iterdir()) < 4 * LIMITS.expanded_bytes
        if found is None:
            assert unread, "a file is left out in silence"
            return
        for match in recognised(found.head):
            line = line_of(found, match.steps, 0)
            assert line is None or line >= 1
        recognised(found.head, columns={"response_model": "model"})


def bills(data: bytes) -> None:
    """An invoice of any kind: read exactly, or refused."""
    with tempfile.TemporaryDirectory(prefix="costbearer-fuzz-") as directory:
        file = Path(directory) / "bill.csv"
        file.write_bytes(data)
        try:
            bill = invoices.read(file)
        except (InputInvalid, FieldInvalid):
            return
        assert bill.amount_usd.is_finite()


@cache
def _engine() -> Logs:
    """One engine for all inputs: to start one takes longer than to read a file."""
    stack = ExitStack()
    atexit.register(stack.close)
    logs = stack.enter_context(engine(LIMITS))
    # The engine is shut in when all is read; here it reads for ever.
    logs.complete = lambda: None  # type: ignore[method-assign]
    return logs


def records(data: bytes) -> None:
    """A log through the engine: its records are in the table, what is none is counted, nothing else was touched."""
    logs = _engine()
    # As new: rows are numbered from 0 again.
    logs._run(f"CREATE OR REPLACE TABLE {RECORDS} AS SELECT * FROM {RECORDS} WHERE false")
    logs._count = 0
    file = logs.work / "given"
    file.write_bytes(data)
    try:
        intake = taken(logs, [str(file)])
    except InputInvalid as refused:
        assert "Traceback" not in refused.message
        return
    finally:
        for left in logs.work.iterdir():
            if left.is_file():
                left.unlink()
    assert all(source.first <= source.until for source in intake.sources)
    assert intake.unread_count >= len(intake.unread)
    ((below,),) = logs._run(f"SELECT count(*) FROM {RECORDS} WHERE input_tokens < -9e18")
    assert below == 0
