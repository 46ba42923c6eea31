"""One journal as the bookkeeper reads it: what is sealed, what is read on from there, and what is due to be sealed.

The directory is the only state. Whoever opens it again after a death at any point goes on with the same rows: seals say
how reading goes on behind them, and everything behind the last seal is read again from the frames.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer import money
from costbearer.errors import JournalFailed, StoreFailed
from costbearer.frames import FrameAt, Intent, OutcomeHead, heads, read_frames, rows
from costbearer.journal import all_segments, raw_bytes, segment_file
from costbearer.journal_files import cut_files, seal_file, sync_directory
from costbearer.ledger import BEYOND_LIMITS, Entry
from costbearer.stores.bounds import Beyond, within_limits
from costbearer.stores.ledger_schema import FINGERPRINT, SEALED_ARROW
from costbearer.stores.own_journal import is_own
from costbearer.stores.projection import Projection, Ranges
from costbearer.stores.rows import Posted, Rows, table_of
from costbearer.stores.segments import (
    TEMPORARY,
    Flaw,
    Seal,
    Totals,
    check_files,
    drop_raw,
    holds,
    intact_parquet,
    load_parquet,
    read_seals,
    totals_of,
    write_compressed,
    write_parquet,
    write_seal,
)

REASON_OUTCOME_UNREADABLE = "outcome_unreadable"
"""The call ended, and the frame that said how cannot be read any more."""

PREPARED_MAX = 4
"""Segments whose sealed files are being written while reading goes on; each is held in memory until they are."""


class Place(NamedTuple):
    """A place between two frames: everything before byte `offset` of `segment`. Ordered as the frames are."""

    segment: int
    offset: int


class _State(NamedTuple):
    """How reading goes on at the start of a segment."""

    next_sequence: int
    open: dict[int, datetime]
    lost: Ranges
    found: tuple[int, ...]

    def projection(self, journal: str) -> Projection:
        projection = Projection(journal, next_sequence=self.next_sequence, lost=self.lost, found=self.found)
        projection.open.update(self.open)
        return projection


class _Part(NamedTuple):
    """A segment that was read to its end and is not sealed.

    `parquet_sha256` is there when both its files are written, which happens while reading goes on.
    """

    number: int
    first_sequence: int
    frames: int
    totals: Totals
    raw_bytes: int
    raw_sha256: str
    parquet_sha256: Future[str]
    after: _State
    flaws: tuple[Flaw, ...]


class _Sealed(NamedTuple):
    """A sealed segment. `seal` is None where it cannot be read though later ones can: the raw frames give its rows."""

    number: int
    seal: Seal | None
    before: _State
    totals: Totals


class JournalReading:
    """Reads one journal in order. `open` it; `replay` what is known to be posted; then take `moves` and `seal_due`.

    Attributes:
        place: everything before it was given out.
        totals: of all that was given out.
        own: it is the books' own; it is never taken over, because its segments are sealed from the beginning.
        dead: nobody writes it any more and it was taken over: what is there is all there will be.
        unreadable: sealed segments of which neither the Parquet file nor the raw frames can be read.
    """

    def __init__(self, directory: Path) -> None:
        """For `open`, which see."""
        self.directory = directory
        self.id = directory.name
        self.place = Place(1, 0)
        self.totals = Totals()
        self.dead = False
        self.own = is_own(directory)
        self.unreadable: set[int] = set()
        self._sealed: list[_Sealed] = []
        self._flaws: list[Flaw] = []
        self._parts: deque[_Part] = deque()
        self._numbers: list[int] = []
        self._touched: set[int] = set()
        self._previous_seal: str | None = None
        self._previous_raw: str | None = None
        self._projection = Projection(self.id)
        self._begin(1, _State(1, {}, (), ()))

    @classmethod
    def open(cls, directory: Path) -> JournalReading:
        """Find out what is sealed; finish a sealing that was interrupted.

        Raises:
            OSError: the directory cannot be read or changed.
        """
        reading = cls(directory)
        for leftover in directory.glob("*" + TEMPORARY):
            leftover.unlink()
        seals, flaws = read_seals(directory)
        seals = [(seal, digest) for seal, digest in seals if _finished(directory, seal, last=seal is seals[-1][0])]
        reading._flaws += flaws
        reading._take_seals(seals)
        return reading

    @property
    def flaws(self) -> list[Flaw]:
        """Everything that was found to be wrong with this journal."""
        return [
            *self._flaws,
            *(flaw for part in self._parts for flaw in part.flaws),
            *self._projection.flaws[self._flaws_before :],
        ]

    @property
    def open_intents(self) -> dict[int, datetime]:
        """Calls that are under way: sequence -> start."""
        return self._projection.open

    @property
    def unsealed(self) -> int:
        """How many segments are not sealed."""
        return sum(1 for number in self._numbers if number >= self._first_unsealed)

    @property
    def done(self) -> bool:
        """Whether nothing will ever come of it any more."""
        return self.dead and not self._parts and self.place.segment > max(self._numbers, default=0)

    def look(self) -> None:
        """Find out which segments there are. What is written later belongs to the next look."""
        numbers = [number for number in self._numbers if number >= self._first_unsealed]
        if not numbers or numbers[0] != self._first_unsealed or self.dead:
            numbers = [number for number in all_segments(self.directory) if number >= self._first_unsealed]
            self._numbers = numbers
            return
        # A directory of many sealed segments is long to list, and a writer only ever makes the next number.
        while segment_file(self.directory, numbers[-1] + 1).exists():
            numbers.append(numbers[-1] + 1)
        self._numbers = numbers

    def replay(self, place: Place, pool: Executor, without: frozenset[int] = frozenset()) -> Totals:
        """Go to where a ledger says it is, without giving anything out, and say what was posted up to there.

        `pool` writes the files with which segments that were read to their end will be sealed; so in `moves`. What was
        given to it must be done before the journal is opened again.

        `without` are sealed segments that could not be read when the ledger was built; those that still cannot be count
        as nothing.

        Raises:
            StoreFailed: the journal does not reach that far.
        """
        self.look()
        for sealed in self._sealed:
            if sealed.number < place.segment:
                gone = sealed.number in without and self._part_of(sealed, 0, after=True).num_rows == 0
                self._pass_by(sealed, Totals() if gone else sealed.totals)
            elif sealed.number == place.segment and place.offset:
                table = self._part_of(sealed, place.offset, after=False)
                self._pass_by(sealed, totals_of(table))
                self.place = place
        while self.place < place and place.segment >= self._first_unsealed:
            before = self.place
            self._advance(place, pool)
            if self.place == before:
                break
        if self.place != place:
            raise StoreFailed(f"journal {self.id} ends at {self.place.segment}.{self.place.offset}")
        return self.totals

    def intact(self, pool: Executor) -> list[Seal]:
        """The seals of the first segments, up to the first one whose Parquet file is not as sealed, or of old."""
        seals = [sealed.seal for sealed in self._sealed]
        found = []
        for seal, holding in zip(seals, pool.map(self._intact, seals), strict=True):
            if seal is None or not holding:
                break
            found.append(seal)
        return found

    def _intact(self, seal: Seal | None) -> bool:
        return seal is not None and intact_parquet(self.directory, seal)

    def moves(self, pool: Executor) -> Iterator[pa.Table]:
        """The rows from `place` on, piece by piece, up to the end as `look` found it; `place` and `totals` move along.

        Raises:
            OSError: a segment cannot be read.
            StoreFailed: a Parquet file does not read back.
        """
        for sealed in self._sealed:
            if sealed.number < self.place.segment:
                continue
            table = self._part_of(sealed, self.place.offset if sealed.number == self.place.segment else 0, after=True)
            self._pass_by(sealed, totals_of(table))
            yield table
        self._sealed.clear()
        while True:
            before = self.place
            table = self._advance(None, pool)
            if table is not None and table.num_rows:
                yield table
            if self.place == before:
                return

    def recorded(self, seal: Seal) -> None:
        """Of the books' own journal: its writer has added this segment, and it is posted."""
        self.totals = self.totals.plus(seal.totals)
        self._begin(seal.segment + 1, _State(seal.last_sequence + 1, {}, (), ()))
        self.place = self._at

    def sync(self) -> None:
        """Make what was read durable (`fdatasync`), so that no ledger knows what the journal could still lose.

        Raises:
            JournalFailed: the system could not; what was read must not be posted, now or later.
        """
        for number in sorted(self._touched):
            try:
                fd = os.open(segment_file(self.directory, number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # only its compressed form is left, which was synced before the raw one went
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise JournalFailed(
                    f"journal {self.id}: fdatasync of segment {number} failed: {error.strerror}"
                ) from error
            finally:
                os.close(fd)
        self._touched.clear()

    def seal_due(self, pool: Executor) -> int:
        """Seal every segment that is due, in order; call it only when all that was given out is posted. Gives how many.

        Raises:
            OSError: a file cannot be written; it is tried again after the journal is opened again.
            StoreFailed: a segment is not what was read before.
        """
        first_open = min(self._projection.open, default=self._projection.next_sequence)
        due = [part for part in self._parts if first_open >= part.after.next_sequence]
        if not due:
            return 0
        seals = [self._seal_of(part) for part in due]
        for _ in pool.map(check_files, [self.directory] * len(seals), seals):
            pass
        sync_directory(self.directory)
        for part, seal in zip(due, seals, strict=True):
            chained = msgspec.structs.replace(seal, previous_seal_sha256=self._previous_seal)
            self._previous_seal = write_seal(self.directory, chained)
            self._parts.popleft()
            self._flaws += part.flaws
            self._first_unsealed = part.number + 1
        drop_raw(self.directory, *(part.number for part in due))
        return len(due)

    def _seal_of(self, part: _Part) -> Seal:
        """Its seal, apart from the chain."""
        return Seal(
            journal=self.id,
            segment=part.number,
            first_sequence=part.first_sequence,
            last_sequence=part.after.next_sequence - 1,
            frames=part.frames,
            entries=part.totals.entries,
            unknown=part.totals.unknown,
            cost_usd=money.text(part.totals.cost_usd),
            charges=part.totals.charges,
            charges_usd=money.text(part.totals.charges_usd),
            last_closed_sequence=part.totals.closed_sequence,
            raw_bytes=part.raw_bytes,
            raw_sha256=part.raw_sha256,
            parquet_sha256=part.parquet_sha256.result(),
            previous_seal_sha256=None,
            schema=FINGERPRINT,
            open=part.after.open,
            lost=part.after.lost,
            found=part.after.found,
            damage=part.flaws,
        )

    def _take_seals(self, seals: list[tuple[Seal, str]]) -> None:
        """The sealed segments up to the last seal that can be read, those between without one included."""
        by_number = {seal.segment: seal for seal, _ in seals}
        last = max(by_number, default=0)
        for number in all_segments(self.directory):
            if number > last and seal_file(self.directory, number).exists():
                # Nothing readable stands behind it: it is read again and sealed anew; what it was is kept as evidence.
                file = seal_file(self.directory, number)
                file.rename(file.with_name(file.name + ".damaged"))
        state = _State(1, {}, (), ())
        for number in range(1, last + 1):
            seal = by_number.get(number)
            before = state
            if seal is not None:
                self._flaws += seal.damage
                state = _State(seal.last_sequence + 1, seal.open, seal.lost, seal.found)
                self._sealed.append(_Sealed(number, seal, before, seal.totals))
                continue
            bare = _Sealed(number, None, before, Totals())
            table = self._rows(bare)
            self._sealed.append(bare._replace(totals=totals_of(table) if table is not None else Totals()))
            if table is None:
                self._flaws.append(Flaw(self.id, number, 0, 0, "missing", f"segment {number} and its seal are missing"))
        self._previous_seal = seals[-1][1] if seals else None
        self._previous_raw = seals[-1][0].raw_sha256 if seals else None
        self._begin(last + 1, state)

    def _begin(self, number: int, state: _State) -> None:
        """Start the tail: everything behind the last seal."""
        self._first_unsealed = number
        self._projection = state.projection(self.id)
        self._next_segment(number)

    def _next_segment(self, number: int) -> None:
        self._at = Place(number, 0)
        self._sha = hashlib.sha256()
        self._tables: list[pa.Table] = []
        self._segment_totals = Totals()
        self._frames_before = self._projection.frames
        self._flaws_before = len(self._projection.flaws)
        self._first_sequence = self._projection.next_sequence

    def _pass_by(self, sealed: _Sealed, totals: Totals) -> None:
        self.totals = self.totals.plus(totals)
        self.place = Place(sealed.number + 1, 0)

    def _advance(self, limit: Place | None, pool: Executor) -> pa.Table | None:
        """Read the tail on to the end of its segment, or to `limit`: its rows, which are in `totals` then.

        None where there was nothing to read.
        """
        number, offset = self._at
        if number not in self._numbers:
            later = [other for other in self._numbers if other > number]
            if later:
                for missing in range(number, later[0]):
                    self._projection.skipped(missing, f"segment {missing} is missing")
                self._flaws += self._projection.flaws[self._flaws_before :]
                self._next_segment(later[0])
                self.place = self._at
            return None
        last = number == self._numbers[-1]
        # What was posted beyond the last segment was posted when the journal was dead, which is found out again later.
        ended = self.dead or (limit is not None and limit.segment > number)
        final = ended or not last
        data = self._bytes_from(number, offset)
        if limit is not None and number == limit.segment and offset + len(data) >= limit.offset:
            data, final = data[: limit.offset - offset], False
        read = Rows()
        items = read_frames(data, 0, None, base=offset, decode=rows)
        end = self._projection.feed(number, items, read, final=final, previous_sha256=self._previous_raw)
        if end is not None:
            self._sha.update(memoryview(data)[: end - offset])
            self._at = Place(number, end)
            self._touched.add(number)
        table, absurd = within_limits(read.table())
        self._projection.flaws += [_absurd(self.id, number, each) for each in absurd]
        if ended and last and self._projection.open:
            table = pa.concat_tables([table, table_of(self._close_unreadable())])
        if table.num_rows:
            self._tables.append(table)
            totals = totals_of(table)
            self._segment_totals = self._segment_totals.plus(totals)
            self.totals = self.totals.plus(totals)
        if final:
            self._complete(number, pool)
        self.place = self._at
        return table

    def _bytes_from(self, number: int, offset: int) -> bytes:
        try:
            with segment_file(self.directory, number).open("rb") as stream:
                stream.seek(offset)
                return stream.read()
        except FileNotFoundError:
            return raw_bytes(self.directory, number)[offset:]

    def _complete(self, number: int, pool: Executor) -> None:
        """The segment was read to its end: have its files written, keep what its seal will say."""
        table = pa.concat_tables(self._tables) if self._tables else SEALED_ARROW.empty_table()
        projection = self._projection
        cuts = [
            Flaw(
                self.id, number, 0, file.stat().st_size, "torn_tail", f"cut off at a take-over and kept in {file.name}"
            )
            for cut, file in cut_files(self.directory)
            if cut == number
        ]
        self._previous_raw = self._sha.hexdigest()
        if len(self._parts) >= PREPARED_MAX:
            self._parts[-PREPARED_MAX].parquet_sha256.result()
        part = _Part(
            number=number,
            first_sequence=self._first_sequence,
            frames=projection.frames - self._frames_before,
            totals=self._segment_totals,
            raw_bytes=self._at.offset,
            raw_sha256=self._previous_raw,
            parquet_sha256=pool.submit(_prepare, self.directory, number, table, self._previous_raw),
            after=_State(
                projection.next_sequence, dict(projection.open), projection.lost, tuple(sorted(projection.found))
            ),
            flaws=(*projection.flaws[self._flaws_before :], *cuts),
        )
        self._parts.append(part)
        self._next_segment(number + 1)

    def _close_unreadable(self) -> list[Posted]:
        """A dead journal was read to its end, and the taker-over saw no open intents: those that are open all the same
        lie in sealed segments and lost their outcome to damage later on. They are posted as unknown.
        """
        found = []
        for sequence in sorted(self._projection.open):
            entry = self._intent(sequence)
            detail = f"no outcome of the intent {sequence} can be read; it is posted as unknown"
            self._projection.flaws.append(
                Flaw(self.id, self._at.segment, self._at.offset, self._at.offset, "outcome_lost", detail)
            )
            if entry is not None:
                unknown = msgspec.structs.replace(entry, status="unknown", reason_unknown=REASON_OUTCOME_UNREADABLE)
                found.append(Posted(sequence, unknown))
        self._projection.open.clear()
        return found

    def _intent(self, sequence: int) -> Entry | None:
        for number in all_segments(self.directory):
            for item in read_frames(raw_bytes(self.directory, number)):
                if isinstance(item, FrameAt) and item.sequence == sequence and isinstance(item.frame, Intent):
                    return item.frame.entry
        return None

    def _rows(self, sealed: _Sealed) -> pa.Table | None:
        table = load_parquet(self.directory, sealed.seal) if sealed.seal is not None else None
        if table is not None:
            return self._postable(sealed.number, table)
        try:
            raw = raw_bytes(self.directory, sealed.number)
        except OSError:
            return None
        read = Rows()
        projection = sealed.before.projection(self.id)
        projection.feed(sealed.number, read_frames(raw, decode=rows), read, final=True)
        table = read.table()
        if sealed.seal is not None and totals_of(table) != sealed.seal.totals:
            return None
        return self._postable(sealed.number, table)

    def _postable(self, number: int, table: pa.Table) -> pa.Table:
        """Rows that were sealed before there were limits, within them."""
        table, absurd = within_limits(table)
        flaws = [_absurd(self.id, number, row) for row in absurd]
        self._flaws += [flaw for flaw in flaws if flaw not in self._flaws]
        return table

    def _part_of(self, sealed: _Sealed, offset: int, *, after: bool) -> pa.Table:
        """The rows that were closed before, or from, byte `offset` of a sealed segment on."""
        table = self._rows(sealed)
        if table is None:
            if sealed.number not in self.unreadable:
                self.unreadable.add(sealed.number)
                detail = f"sealed segment {sealed.number} cannot be read: {sealed.totals} are missing"
                self._flaws.append(Flaw(self.id, sealed.number, 0, 0, "unreadable", detail))
            return SEALED_ARROW.empty_table()
        if not offset:
            return table if after else table.slice(0, 0)
        closed = [
            item.sequence
            for item in read_frames(raw_bytes(self.directory, sealed.number), decode=heads)
            if isinstance(item, FrameAt) and isinstance(item.frame, OutcomeHead) and item.end <= offset
        ]
        posted = pc.is_in(table.column("closed_sequence"), value_set=pa.array(closed, type=pa.int64()))
        return table.filter(pc.invert(posted) if after else posted)


def _absurd(journal: str, segment: int, row: Beyond) -> Flaw:
    detail = f"frame {row.closed_sequence}: {', '.join(row.fields)} beyond every limit; posted without, cost unknown"
    return Flaw(journal, segment, 0, 0, BEYOND_LIMITS, detail)


def _prepare(directory: Path, number: int, table: pa.Table, raw_sha256: str) -> str:
    """Write both files with which a segment is sealed; gives the SHA-256 of the Parquet file."""
    if segment_file(directory, number).exists():
        write_compressed(directory, number, raw_sha256)
    return write_parquet(directory, number, table)


def _finished(directory: Path, seal: Seal, *, last: bool) -> bool:
    """Whether a seal stands. Where the raw segment is still there, the sealing was interrupted at its very end."""
    raw = segment_file(directory, seal.segment)
    if not raw.exists():
        return True
    if holds(directory, seal):
        drop_raw(directory, seal.segment)
        return True
    if last and hashlib.sha256(raw.read_bytes()).hexdigest() == seal.raw_sha256:
        seal_file(directory, seal.segment).unlink()
        return False
    return True
