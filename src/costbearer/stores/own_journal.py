"""The books' own journal: what changes the ledger and is no call, in segments that are sealed from the beginning.

A directory among the journals, with an id of the same form, marked by a file `own`; its lock is held while a segment
is written. Segment N is `N.parquet` and `N.seal.json`, of the same format, names and chain of hashes as the sealed
segments of a gateway; there are no frames, so the Parquet file is the record itself. A segment exists when its seal
does: whoever dies before leaves nothing that anybody reads.

One journal is continued over restarts, so that one chain of hashes covers everything that was ever recorded, and a
segment that is taken out of the middle shows. Only where its chain does not hold a new journal begins, and the damaged
one stays as it is.
"""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from costbearer import money
from costbearer.errors import DataDirectoryBusy, JournalFailed, StoreFailed
from costbearer.journal_files import NEWBORN, acquire, journals, seal_file, sync_directory
from costbearer.stores.bounds import within_limits
from costbearer.stores.ledger_schema import FINGERPRINT, SEALED_ARROW
from costbearer.stores.segments import Seal, check_files, read_seals, totals_of, write_parquet, write_seal

MARK = "own"


def is_own(directory: Path) -> bool:
    """Whether a journal is the books' own."""
    return (directory / MARK).exists()


class OwnJournal:
    """The one writer of the books' own journal.

    Attributes:
        directory: where it is; its name is the journal's id.
        segment: the number of the last segment, 0 where there is none.
        next_sequence: the sequence of the next entry.
    """

    def __init__(self, directory: Path, last: tuple[Seal, str] | None) -> None:
        """For `open`, which see."""
        self.directory = directory
        self.id = directory.name
        self.segment = last[0].segment if last is not None else 0
        self.next_sequence = last[0].last_sequence + 1 if last is not None else 1
        self._previous_seal = last[1] if last is not None else None

    @classmethod
    def open(cls, root: Path, now: datetime) -> OwnJournal:
        """Go on with the journal there is, or begin one.

        Raises:
            JournalFailed: the disk failed.
        """
        try:
            for directory in reversed(journals(root)):
                if is_own(directory):
                    seals, flaws = read_seals(directory)
                    if not flaws and [seal.segment for seal, _ in seals] == list(range(1, len(seals) + 1)):
                        return cls(directory, seals[-1] if seals else None)
            return cls(_begun(root, now), None)
        except OSError as error:
            raise JournalFailed(f"the books' own journal cannot be opened: {error.strerror}") from error

    def write(self, table: pa.Table) -> tuple[pa.Table, Seal]:
        """Write rows as the next segment, all of them or nothing; gives them with their identity, and the seal.

        `table` holds the columns of `SEALED_ARROW`; what it says as journal, sequence and closed sequence is replaced.

        Raises:
            DataDirectoryBusy: another process writes this journal.
            JournalFailed: the disk failed. What is there now only opening it again tells.
            StoreFailed: a value is beyond its limit, and nothing is written; or what was written does not read back.
        """
        absurd = within_limits(table)[1]
        if absurd:
            fields = ", ".join(dict.fromkeys(name for row in absurd for name in row.fields))
            raise StoreFailed(
                f"{len(absurd)} of {table.num_rows} entries are not recorded: {fields} beyond every limit"
            )
        try:
            lock = acquire(self.directory)
            if lock is None:
                raise DataDirectoryBusy(f"{self.id}: another process keeps these books; stop it first")
            try:
                if seal_file(self.directory, self.segment + 1).exists():
                    raise JournalFailed(f"the books' own journal {self.id} was written by somebody else meanwhile")
                return self._write(table)
            finally:
                os.close(lock)
        except OSError as error:
            raise JournalFailed(f"the books' own journal {self.id} failed: {error.strerror}") from error

    def _write(self, table: pa.Table) -> tuple[pa.Table, Seal]:
        first, last = self.next_sequence, self.next_sequence + table.num_rows - 1
        sequences = pa.array(range(first, last + 1), type=pa.int64())
        own = {"journal": pa.array([self.id] * table.num_rows), "sequence": sequences, "closed_sequence": sequences}
        columns = [own[name] if name in own else table.column(name) for name in SEALED_ARROW.names]
        rows = pa.table(columns, schema=SEALED_ARROW)
        totals = totals_of(rows)
        number = self.segment + 1
        seal = Seal(
            journal=self.id,
            segment=number,
            first_sequence=first,
            last_sequence=last,
            frames=0,
            entries=totals.entries,
            unknown=totals.unknown,
            cost_usd=money.text(totals.cost_usd),
            charges=totals.charges,
            charges_usd=money.text(totals.charges_usd),
            last_closed_sequence=totals.closed_sequence,
            raw_bytes=0,
            raw_sha256="",
            parquet_sha256=write_parquet(self.directory, number, rows),
            previous_seal_sha256=self._previous_seal,
            schema=FINGERPRINT,
        )
        check_files(self.directory, seal)
        sync_directory(self.directory)
        self._previous_seal = write_seal(self.directory, seal)
        self.segment, self.next_sequence = number, last + 1
        return rows, seal


def _begun(root: Path, now: datetime) -> Path:
    directory = root / f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    newborn = root / (NEWBORN + directory.name)
    newborn.mkdir(mode=0o700, parents=True)
    (newborn / MARK).touch(mode=0o600)
    sync_directory(newborn)
    newborn.rename(directory)
    sync_directory(root)
    return directory
