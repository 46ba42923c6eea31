"""The sealed segments of one journal: what their seals say, and their rows, as far as either can still be read.

A seal that cannot be believed does not take its segment with it. The Parquet file is believed where its hash still
stands in what is left of the seal; else the raw frames are read; else the file is judged by itself: it must read back
(its pages have checksums), and its rows must be this journal's, follow on the segment before, and be sound or add up to
what is left of the seal. Whatever was read without its seal is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from costbearer.frames import read_frames, rows
from costbearer.journal import raw_bytes
from costbearer.journal_files import seal_file
from costbearer.ledger import BEYOND_LIMITS
from costbearer.stores.bounds import Beyond, within_limits
from costbearer.stores.own_journal import is_own
from costbearer.stores.projection import Projection, Ranges
from costbearer.stores.rows import Rows
from costbearer.stores.segments import (
    Flaw,
    Seal,
    Totals,
    intact_parquet,
    load_parquet,
    parquet_by_itself,
    parquet_named_by,
    remains_of,
    totals_of,
)
from costbearer.stores.soundness import faults_of


class State(NamedTuple):
    """How reading goes on at the start of a segment."""

    next_sequence: int
    open: dict[int, datetime]
    lost: Ranges
    found: tuple[int, ...]

    def projection(self, journal: str) -> Projection:
        projection = Projection(journal, next_sequence=self.next_sequence, lost=self.lost, found=self.found)
        projection.open.update(self.open)
        return projection


class Sealed(NamedTuple):
    """A sealed segment. `seal` is None where it cannot be believed; `totals` are then what can be read."""

    number: int
    seal: Seal | None
    before: State
    totals: Totals


class SealedPart:
    """Every segment up to the last one with a seal that holds; of the books' own journal, with any seal at all.

    Attributes:
        segments: these segments, in order.
        flaws: what was found to be wrong with them so far.
        after: how reading goes on behind the last one.
    """

    def __init__(self, directory: Path, seals: list[tuple[Seal, str]], flaws: Iterable[Flaw]) -> None:
        """`seals` and `flaws` are what `read_seals` gives."""
        self.directory = directory
        self.id = directory.name
        self.segments: list[Sealed] = []
        self.flaws: list[Flaw] = list(flaws)
        self.after = State(1, {}, (), ())
        digests = {seal.segment: digest for seal, digest in seals}
        self._followed = {
            seal.segment - 1 for seal, _ in seals if seal.previous_seal_sha256 == digests.get(seal.segment - 1)
        }
        by_number = {seal.segment: seal for seal, _ in seals}
        for number in range(1, self._last(by_number) + 1):
            seal = by_number.get(number)
            if seal is None:
                self._take_without_seal(number)
                continue
            self.flaws += seal.damage
            self.segments.append(Sealed(number, seal, self.after, seal.totals))
            self.after = State(seal.last_sequence + 1, seal.open, seal.lost, seal.found)

    @property
    def last(self) -> int:
        """The number of the last segment, 0 where there is none."""
        return self.segments[-1].number if self.segments else 0

    def rows(self, sealed: Sealed) -> pa.Table | None:
        """The rows of a segment as they are posted; None where they cannot be read."""
        table = self._rows(sealed)
        if table is None:
            return None
        table, absurd = within_limits(table)
        for row in absurd:
            self._say(beyond_limits(self.id, sealed.number, row))
        return table

    def reckoned(self, sealed: Sealed) -> Totals:
        """What the rows of a segment add up to, whatever its seal says; as sealed where they cannot be read."""
        table = self.rows(sealed)
        found = totals_of(table) if table is not None else sealed.totals
        if found != sealed.totals:
            detail = f"the seal of segment {sealed.number} says {sealed.totals}; its rows are {found}"
            self._say(Flaw(self.id, sealed.number, 0, 0, "seal", detail))
        return found

    def intact(self, pool: Executor) -> list[Seal]:
        """The seals of the first segments, up to the first one whose Parquet file cannot be loaded as it is."""
        seals = [sealed.seal for sealed in self.segments]
        found = []
        for seal, holding in zip(seals, pool.map(self._intact, seals), strict=True):
            if seal is None or not holding:
                break
            found.append(seal)
        return found

    def _intact(self, seal: Seal | None) -> bool:
        if seal is None or not intact_parquet(self.directory, seal):
            return False
        if seal.seal_sha256:
            return True
        # One from before seals had a hash, and entries limits.
        table = load_parquet(self.directory, seal)
        return table is not None and not within_limits(table)[1] and totals_of(table) == seal.totals

    def _last(self, numbers: Iterable[int]) -> int:
        """What a gateway sealed is read again from its frames, where no seal that holds stands behind it; of the books'
        own segments there is nothing else."""
        found = list(numbers)
        if is_own(self.directory):
            found += [int(file.name.split(".", 1)[0]) for file in self.directory.glob("[0-9]*.seal.json")]
        return max(found, default=0)

    def _take_without_seal(self, number: int) -> None:
        bare = Sealed(number, None, self.after, Totals())
        table = self.rows(bare)
        if table is None:
            what = "seal cannot be believed" if seal_file(self.directory, number).exists() else "seal is missing"
            detail = f"segment {number}: its {what}, and no other file of it can be read"
            self._say(Flaw(self.id, number, 0, 0, "missing", detail))
            self.segments.append(bare)
            return
        totals = totals_of(table)
        self.segments.append(bare._replace(totals=totals))
        if is_own(self.directory):
            self.after = self.after._replace(next_sequence=totals.closed_sequence + 1)

    def _rows(self, sealed: Sealed) -> pa.Table | None:
        if sealed.seal is not None:
            table = load_parquet(self.directory, sealed.seal)
        else:
            table = parquet_named_by(self.directory, sealed.number)
            self._say_without_seal(sealed, table, "whose hash stands in it")
        if table is None:
            table = self._from_frames(sealed)
        if table is None and not self._proven(sealed.seal):
            table = self._by_itself(sealed)
            self._say_without_seal(sealed, table, "which holds by itself")
        return table

    def _proven(self, seal: Seal | None) -> bool:
        """Whether the seal is as it was written: then it is the Parquet file that is not."""
        return seal is not None and (seal.seal_sha256 != "" or seal.segment in self._followed)

    def _from_frames(self, sealed: Sealed) -> pa.Table | None:
        try:
            raw = raw_bytes(self.directory, sealed.number)
        except OSError:
            return None
        read = Rows()
        projection = sealed.before.projection(self.id)
        projection.feed(sealed.number, read_frames(raw, decode=rows), read, final=True)
        table = read.table()
        seal = sealed.seal
        if seal is None or hashlib.sha256(raw).hexdigest() == seal.raw_sha256 or totals_of(table) == seal.totals:
            return table
        return None

    def _by_itself(self, sealed: Sealed) -> pa.Table | None:
        table = parquet_by_itself(self.directory, sealed.number)
        if table is None or not table.num_rows:
            return None
        closed: Any = table.column("closed_sequence").combine_chunks()
        first, last = closed[0].as_py(), closed[-1].as_py()
        steps = pc.subtract(closed.slice(1), closed.slice(0, len(closed) - 1))
        if not pc.all(pc.equal(table.column("journal"), self.id)).as_py() or not pc.all(pc.greater(steps, 0)).as_py():
            return None
        if is_own(self.directory) and (first != sealed.before.next_sequence or last - first + 1 != len(closed)):
            return None
        left = sealed.seal if sealed.seal is not None else remains_of(self.directory, sealed.number)
        if left is not None and totals_of(table) == left.totals:
            return table
        return table if sealed.seal is None and not faults_of(table) else None

    def _say_without_seal(self, sealed: Sealed, table: pa.Table | None, why: str) -> None:
        if table is not None:
            said = f"segment {sealed.number} is read without its seal, from its Parquet file, {why}: {totals_of(table)}"
            self._say(Flaw(self.id, sealed.number, 0, 0, "seal", said))

    def _say(self, flaw: Flaw) -> None:
        if flaw not in self.flaws:
            self.flaws.append(flaw)


def beyond_limits(journal: str, segment: int, row: Beyond) -> Flaw:
    """The flaw of an entry that holds more than there can be."""
    detail = f"frame {row.closed_sequence}: {', '.join(row.fields)} beyond every limit; posted without"
    return Flaw(journal, segment, 0, 0, BEYOND_LIMITS, detail)
