"""What a journal's frames post: a pure function of the frames, in file order, however they are cut into pieces.

An outcome posts its entry: it repeats the whole of it, so an outcome whose intent is damaged is posted all the same. An
intent alone posts nothing; it is open until its outcome comes, and the one who takes a dead journal over writes that
outcome. The first of two outcomes holds. What is odd is a `Flaw`; nothing is dropped without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from costbearer.frames import Damage, FrameAt, IntentHead, Opening, OutcomeRow
from costbearer.stores.rows import Rows
from costbearer.stores.segments import Flaw

Ranges = tuple[tuple[int, int], ...]


class Projection:
    """One journal's frames as they are read, segment after segment.

    Attributes:
        open: intents that have no outcome yet: sequence -> when the call started.
        lost: sequences of which no frame could be read so far, as ranges.
        next_sequence: the sequence the next frame should have.
        flaws: what was found to be wrong, in the order in which it was found.
        found: sequences out of `lost` whose outcome turned up later.
        frames: frames read.
    """

    def __init__(self, journal: str, *, next_sequence: int = 1, lost: Ranges = (), found: Iterable[int] = ()) -> None:
        self.journal = journal
        self.next_sequence = next_sequence
        self.lost = lost
        self.open: dict[int, datetime] = {}
        self.flaws: list[Flaw] = []
        self.found = set(found)
        self.frames = 0

    def feed(
        self,
        segment: int,
        items: Iterable[FrameAt | Damage],
        rows: Rows,
        *,
        final: bool,
        previous_sha256: str | None = None,
    ) -> int | None:
        """Take what `read_frames` yields (with `frames.rows`) for the next bytes of a segment; entries go to `rows`.

        `final` says that these bytes end the segment for good; otherwise a torn tail is a frame that is being written.
        `previous_sha256` is the hash of the segment before, where it is known.

        Returns:
            The offset behind the last byte that was dealt with; None where there was nothing.
        """
        end: int | None = None
        for item in items:
            if type(item) is FrameAt:
                self.frames += 1
                frame = item.frame
                if item.sequence == self.next_sequence:
                    self.next_sequence += 1
                elif not self._out_of_order(segment, item):
                    end = item.end
                    continue
                if type(frame) is IntentHead:
                    if self._own(segment, item, frame.entry.journal, frame.entry.sequence == item.sequence):
                        self.open[item.sequence] = frame.entry.started_at
                elif type(frame) is OutcomeRow:
                    entry: Any = frame.entry
                    if self._own(segment, item, entry.journal, True) and (
                        self.open.pop(entry.sequence, None) is not None
                        or self._without_intent(segment, item, entry.sequence)
                    ):
                        rows.add(item.sequence, entry)
                else:
                    assert isinstance(frame, Opening)
                    self._opening(segment, item, frame, previous_sha256)
                end = item.end
            else:
                assert isinstance(item, Damage)
                if item.kind == "torn_tail" and not final:
                    break
                self._damage(segment, item)
                end = item.end
        return end

    def skipped(self, segment: int, detail: str) -> None:
        """A whole segment that is missing or cannot be read."""
        self._flaw(segment, 0, 0, "missing", detail)

    def _own(self, segment: int, item: FrameAt, journal: str, in_place: bool) -> bool:
        if journal == self.journal and in_place:
            return True
        self._flaw(
            segment, item.offset, item.end, "foreign", f"frame {item.sequence} belongs to another journal or place"
        )
        return False

    def _out_of_order(self, segment: int, item: FrameAt) -> bool:
        """Whether a frame that is not the next one is still to be read."""
        sequence, expected = item.sequence, self.next_sequence
        if sequence > expected:
            missing = (
                f"sequence {expected} is" if sequence == expected + 1 else f"sequences {expected} to {sequence - 1} are"
            )
            self.lost = (*self.lost, (expected, sequence - 1))
            self.next_sequence = sequence + 1
            self._flaw(segment, item.offset, item.offset, "gap", f"{missing} missing: possibly lost calls")
            return True
        if sequence in self.found or not self._is_lost(sequence):
            self._flaw(segment, item.offset, item.end, "repeat", f"sequence {sequence} is there again and is left out")
            return False
        self._take_from_lost(sequence)
        self._flaw(segment, item.offset, item.end, "late", f"sequence {sequence} comes after {expected - 1}")
        return True

    def _without_intent(self, segment: int, item: FrameAt, sequence: int) -> bool:
        """Whether an outcome without an open intent is to be posted: it is, once, where the intent was lost."""
        if sequence not in self.found and self._is_lost(sequence):
            self.found.add(sequence)
            detail = f"the intent {sequence} cannot be read; its outcome, frame {item.sequence}, is posted"
            self._flaw(segment, item.offset, item.end, "intent_lost", detail)
            return True
        detail = (
            f"frame {item.sequence} is one more outcome of {sequence}, which was closed before; the first one holds"
        )
        self._flaw(segment, item.offset, item.end, "outcome_repeated", detail)
        return False

    def _opening(self, segment: int, item: FrameAt, frame: Opening, previous_sha256: str | None) -> None:
        if frame.journal != self.journal or frame.segment != segment:
            self._flaw(
                segment, item.offset, item.end, "foreign", "the segment's opening names another journal or segment"
            )
        elif previous_sha256 is not None and frame.previous_sha256 not in {None, previous_sha256}:
            self._flaw(segment, item.offset, item.end, "chain", "the segment does not follow the one before it")

    def _damage(self, segment: int, item: Damage) -> None:
        if item.kind == "gap":
            # A repeat within one reading is left out by the reader; gaps and late frames are judged here, over all.
            if item.end > item.offset:
                self.frames += 1
                self._flaw(segment, item.offset, item.end, "repeat", item.detail)
            return
        size = item.end - item.offset
        self._flaw(segment, item.offset, item.end, "damaged", f"{size} bytes are no frame that can be read")

    def _is_lost(self, sequence: int) -> bool:
        return any(first <= sequence <= last for first, last in self.lost)

    def _take_from_lost(self, sequence: int) -> None:
        ranges: list[tuple[int, int]] = []
        for first, last in self.lost:
            parts = [(first, sequence - 1), (sequence + 1, last)] if first <= sequence <= last else [(first, last)]
            ranges += [(low, high) for low, high in parts if low <= high]
        self.lost = tuple(ranges)

    def _flaw(self, segment: int, offset: int, end: int, kind: str, detail: str) -> None:
        self.flaws.append(Flaw(self.journal, segment, offset, end, kind, detail))
