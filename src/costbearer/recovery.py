"""Reading journals back: their frames, what is damaged, and bringing a dead one to its end."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from costbearer.errors import JournalFailed
from costbearer.frames import (
    HEADER_BYTES,
    Damage,
    FrameAt,
    Intent,
    IntentHead,
    Opening,
    Outcome,
    OutcomeHead,
    encode,
    heads,
    read_frames,
)
from costbearer.journal_files import (
    NEWBORN,
    RESERVE,
    Segment,
    acquire,
    all_segments,
    cut_files,
    live,
    raw_bytes,
    segment_file,
    segments,
    sync_directory,
)

REASON_WRITER_DIED = "writer_died"
BIRTH_S = 600.0
"""A birth takes milliseconds; a directory that is still unborn after this long was left by a death."""


def read_segment(file: Path, offset: int = 0, expect: int | None = None) -> Iterator[FrameAt | Damage]:
    """What `read_frames` yields for a raw segment file, reading only from byte `offset` (a frame's start) on.

    A torn tail of the last segment of a live journal is a frame that is being written: look again later.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read()
    return read_frames(data, 0, expect, base=offset)


def verify(directory: Path) -> Iterator[tuple[int, FrameAt | Damage]]:
    """Everything in a journal, sealed or not, as (segment, frame or damage), one segment in memory at a time.

    Besides what `read_frames` reports: segments that are missing, cannot be read, name another journal or do not hold
    the hash of the one before them (`chain`), and torn tails that were cut off at a take-over. Nothing is changed.
    What no later byte bears witness to, whole frames gone from the very end, only a seal or the ledger can show.
    """
    previous: _Previous | None = _Previous(None)
    before, expect = 0, 1
    numbers = all_segments(directory)
    for number in numbers:
        if number != before + 1:
            yield number, Damage(0, 0, "chain", f"segments {before + 1} to {number - 1} are missing")
            previous = None
        before = number
        try:
            raw = raw_bytes(directory, number)
        except OSError as error:
            yield number, Damage(0, 0, "damaged", f"the segment cannot be read: {error.strerror}")
            previous, expect = None, 0
            continue
        for item in read_frames(raw, 0, expect or None):
            if isinstance(item, FrameAt):
                expect = max(expect, item.sequence + 1)
                fault = _chain_fault(item, directory.name, number, previous) if item.offset == 0 else ""
                if fault:
                    yield number, Damage(0, item.end, "chain", fault)
                yield number, item
            else:
                expect = max(expect, (item.sequence or 0) + 1)
                # A segment was synced before its successor was made: nothing in it can be a write that was cut off.
                inner = item.kind == "torn_tail" and number != numbers[-1]
                yield number, msgspec.structs.replace(item, kind="damaged") if inner else item
        previous = _Previous(hashlib.sha256(raw).hexdigest())
    for number, file in cut_files(directory):
        size = file.stat().st_size
        detail = f"{size} bytes were cut off at a take-over and are kept in {file.name}"
        yield number, Damage(0, size, "torn_tail", detail)


class _Previous(msgspec.Struct, frozen=True):
    """What is known of the segment before: its hash, or that there is none (`sha256` None)."""

    sha256: str | None


def _chain_fault(first: FrameAt, journal: str, number: int, previous: _Previous | None) -> str:
    """What is wrong with a segment's first frame; `previous` None where the segment before could not be read."""
    opening = first.frame
    if not isinstance(opening, Opening):
        return "the segment does not begin with its opening"
    if (opening.journal, opening.segment) != (journal, number):
        return f"the segment is segment {opening.segment} of journal {opening.journal}"
    if previous is not None and opening.previous_sha256 != previous.sha256:
        return "the segment before it is not the one it was written after"
    return ""


class JournalTakeover(msgspec.Struct, frozen=True):
    """What was done to a dead journal.

    `closed` holds the sequences of the intents that got their outcome now; `cut_bytes` is the size of the torn tail;
    `damage` is (segment, damage) for all that was found in unsealed segments before anything was mended.
    """

    journal: str
    closed: tuple[int, ...] = ()
    cut_bytes: int = 0
    damage: tuple[tuple[int, Damage], ...] = ()


def take_over(directory: Path, *, now: datetime | None = None) -> JournalTakeover | None:
    """Bring a dead journal to its end, so that its last frame is whole and every intent has an outcome.

    The torn tail goes to `N.cut`; each open intent gets the outcome `unknown`, reason `writer_died`, ended at `now`,
    with its bound. It may be killed anywhere and run again: what is left to do is read from the journal alone.

    Returns:
        None where the journal is alive: its lock is held.

    Raises:
        JournalFailed: the journal cannot be read or written (also: no space). To be tried again.
    """
    lock = None
    try:
        lock = acquire(directory)
        if lock is None:
            return None
        # First of all: a full disk must leave room for the outcomes.
        for leftover in (directory / RESERVE, *directory.glob("*.new")):
            leftover.unlink(missing_ok=True)
        survey = _Survey(directory)
        found = survey.damage
        cut_bytes = 0
        while survey.torn_from is not None:
            cut_bytes += _cut(directory, survey.last, survey.torn_from)
            survey = _Survey(directory)
        if survey.open:
            _close_open(directory, survey, now or datetime.now(UTC))
        sync_directory(directory)
    except OSError as error:
        raise JournalFailed(f"journal {directory.name} cannot be taken over: {error.strerror}") from error
    finally:
        if lock is not None:
            os.close(lock)
    return JournalTakeover(directory.name, tuple(survey.open), cut_bytes, tuple(found))


def clear_unborn(root: Path) -> int:
    """Remove what is left of journals whose writer died in their birth: nothing was ever written into them, and each
    holds the space of a reserve. One that is born in this moment is young or locked. Returns how many there were.

    Raises:
        OSError: `root` cannot be read.
    """
    removed = 0
    for directory in root.glob(f"{NEWBORN}*"):
        try:
            old = time.time() - directory.stat().st_mtime > BIRTH_S
        except FileNotFoundError:
            continue  # it was born meanwhile
        if old and not live(directory):
            shutil.rmtree(directory, ignore_errors=True)
            removed += 1
    return removed


class _Survey:
    """What the unsealed segments hold: the open intents by sequence, the damage, and how the last segment ends.

    Of frames only which call they are about is read, the entry of an intent once it is known to have stayed open.
    `torn_from` is the byte from which the last segment is torn; 0 also where it has no byte at all. Sealed segments are
    not read: every intent in them is closed, or they would not be sealed.
    """

    def __init__(self, directory: Path) -> None:
        self.open: dict[int, Intent] = {}
        self.damage: list[tuple[int, Damage]] = []
        self.last = 0
        self.last_sequence = 0
        self.torn_from: int | None = None
        self._closed_before_read: set[int] = set()
        for number in segments(directory):
            raw = raw_bytes(directory, number)
            self.last, self.torn_from = number, None if raw else 0
            found: dict[int, FrameAt] = {}
            for item in read_frames(raw, 0, self.last_sequence + 1 if self.last_sequence else None, decode=heads):
                self.last_sequence = max(self.last_sequence, item.sequence or 0)
                if isinstance(item, FrameAt):
                    self._take(item, found)
                else:
                    self.damage.append((number, item))
                    self.torn_from = item.offset if item.kind == "torn_tail" else None
            for item in found.values():
                self._read_intent(number, raw[item.offset : item.end])

    def _take(self, item: FrameAt, found: dict[int, FrameAt]) -> None:
        frame = item.frame
        if isinstance(frame, OutcomeHead):
            sequence = frame.entry.sequence
            if self.open.pop(sequence, None) is None and found.pop(sequence, None) is None:
                self._closed_before_read.add(sequence)
        elif isinstance(frame, IntentHead) and item.sequence not in self._closed_before_read:
            found[item.sequence] = item

    def _read_intent(self, number: int, data: bytes) -> None:
        for item in read_frames(data):
            if isinstance(item, Damage):
                self.damage.append((number, item))
            elif isinstance(item.frame, Intent):
                self.open[item.sequence] = item.frame


def _cut(directory: Path, number: int, start: int) -> int:
    """Cut the torn tail, which is kept beside the segment; a segment without a whole frame goes. Returns bytes cut."""
    file = segment_file(directory, number)
    tail = file.read_bytes()[start:]
    if tail:
        _keep(directory, number, tail)
    if start:
        segment = Segment.reopen(directory, number)
        try:
            segment.cut(start)
        finally:
            segment.close()
    else:
        file.unlink()
        sync_directory(directory)
    return len(tail)


def _keep(directory: Path, number: int, tail: bytes) -> None:
    """Write the tail to `N.cut`, or `N.2.cut`, ... where an earlier cut of the same segment holds other bytes."""
    count = 1
    while True:
        file = directory / (f"{number:08d}.cut" if count == 1 else f"{number:08d}.{count}.cut")
        if not file.exists():
            break
        if file.read_bytes() == tail:
            return
        count += 1
    fresh = file.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(tail)
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(file)
    sync_directory(directory)


def _close_open(directory: Path, survey: _Survey, now: datetime) -> None:
    buffer = bytearray(HEADER_BYTES)
    sequence = survey.last_sequence
    segment = Segment.reopen(directory, survey.last)
    try:
        for intent in survey.open.values():
            sequence += 1
            entry = msgspec.structs.replace(
                intent.entry,
                status="unknown",
                basis="unknown",
                ended_at=max(now, intent.entry.started_at),  # the dead writer's clock may have been ahead
                reason_unknown=REASON_WRITER_DIED,
            )
            encode(Outcome(entry), sequence, buffer)
            problem = segment.write(buffer)
            if problem:
                raise OSError(problem, os.strerror(problem))
        os.fsync(segment.fd)
    finally:
        segment.close()
