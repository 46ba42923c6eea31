"""What the processes of a simulated world were told, and what must therefore be found on the disk and in the ledger.

It is kept beside the product and asks it nothing. A frame whose `append` returned outlives its process, one that a sync
covered outlives a power cut, a row that was posted is never taken back, a batch of the books is whole or absent.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from costbearer.frames import AnyFrame, Damage, FrameAt, Intent, Outcome, read_frames
from costbearer.journal_files import all_segments, journals, raw_bytes
from costbearer.ledger import Entry, faults
from costbearer.recovery import REASON_WRITER_DIED, verify
from costbearer.stores.duckdb import Ledger
from costbearer.stores.own_journal import is_own
from costbearer.stores.rows import Posted
from tests.books import assert_equal

Frames = dict[int, Intent | Outcome]


class _Known:
    """What is known of one journal: frames by sequence."""

    def __init__(self) -> None:
        self.acknowledged: Frames = {}
        self.perhaps: Frames = {}
        """Written when the process died, or not synced when the power went: there, or not."""
        self.durable = 1
        self.torn = False
        """A power cut may have left holes where nothing was durable."""


class Truth:
    """The judge of one world. Its methods raise `AssertionError` where something does not hold."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, _Known] = {}
        self._own: list[Entry] = []
        self._own_perhaps: list[Entry] = []
        self._posted: dict[str, set[int]] = {}

    # -- what processes say

    def born(self, journal: str) -> None:
        """A journal was opened, and is durable."""
        assert journal not in self._known, "two journals of one name"
        self._known[journal] = _Known()

    def tries(self, frame: Intent | Outcome, sequence: int) -> None:
        """A frame is about to be appended."""
        self._known[frame.entry.journal].perhaps[sequence] = frame

    def took(self, journal: str, sequence: int) -> None:
        """`append` gave back this sequence."""
        known = self._known[journal]
        known.acknowledged[sequence] = known.perhaps.pop(sequence)

    def synced(self, journal: str, sequence: int) -> None:
        """The writer says that everything up to here is on the disk."""
        known = self._known[journal]
        known.durable = max(known.durable, sequence)

    def intent(self, journal: str, sequence: int) -> Entry:
        """The entry of an acknowledged intent."""
        return self._known[journal].acknowledged[sequence].entry

    def records(self, entries: list[Entry]) -> None:
        """A batch is about to be recorded in the books' own journal."""
        self._own_perhaps = entries

    def recorded(self, entries: list[Entry]) -> None:
        """`record` came back."""
        self._own, self._own_perhaps = [*self._own, *entries], []

    def power_was_cut(self, lying: set[str]) -> None:
        """What was only written may be gone; what was posted of a disk that lied may be taken back."""
        for name, known in self._known.items():
            gone = {sequence for sequence in known.acknowledged if sequence > known.durable}
            known.torn |= bool(gone) or name in lying
            known.perhaps |= {sequence: known.acknowledged.pop(sequence) for sequence in gone}
        for name in lying:
            self._posted.pop(name, None)

    # -- what is found

    def compare(self, ledger: Ledger, lying: set[str], held: frozenset[str]) -> None:
        """After a pass: the ledger holds what the journals hold, and everything it ever held."""
        expected = {
            directory.name: self._own_posted(ledger, directory) if is_own(directory) else _outcomes(directory)
            for directory in journals(self._root)
        }
        if not held:
            assert_equal(ledger, expected)
        for name, posted in expected.items():
            now = {each.entry.sequence for each in posted}
            if not held:
                lost = self._posted.get(name, set()) - now
                assert not lost, f"rows of journal {name} were taken back: {sorted(lost)[:5]}"
                if name not in lying:
                    self._posted[name] = now

    def _own_posted(self, ledger: Ledger, directory: Path) -> list[Posted]:
        """Every batch that was acknowledged, and the last one that was tried where it is there: whole."""
        totals = ledger.totals_by_journal().get(directory.name)
        held = totals.entries if totals is not None else 0
        if self._own_perhaps and held == len(self._own) + len(self._own_perhaps):
            self._own += self._own_perhaps
        self._own_perhaps = []
        entries = [
            msgspec.structs.replace(entry, journal=directory.name, sequence=number)
            for number, entry in enumerate(self._own, start=1)
        ]
        return [Posted(entry.sequence, entry) for entry in entries]

    def settle(self) -> None:
        """When everybody is dead and was taken over: each journal holds what was acknowledged, and nothing is open."""
        found = {path.name: _frames(path) for path in journals(self._root) if not is_own(path)}
        for name, known in self._known.items():
            assert name in found, f"journal {name} is gone"
            lost = set(range(1, known.durable + 1)) - set(found[name])
            assert not lost, f"frames of {name} that were durable are gone: {sorted(lost)[:5]}"
            _judge(name, known, found[name])
            damage = {item.kind for _, item in verify(self._root / name) if isinstance(item, Damage)}
            assert known.torn or damage <= {"torn_tail"}, f"{name} is damaged: {damage}"

    def told(self) -> str:
        """The end of the story, for its hash."""
        return "\n".join(f"{path.name} {sorted(_frames(path))}" for path in journals(self._root))


def _judge(name: str, known: _Known, frames: dict[int, AnyFrame]) -> None:
    for sequence, frame in known.acknowledged.items():
        assert frames.get(sequence) == frame, f"frame {sequence} of {name} is lost or another one"
    intents = {sequence: frame.entry for sequence, frame in frames.items() if isinstance(frame, Intent)}
    ends: dict[int, Entry] = {}
    for sequence, found in frames.items():
        if not isinstance(found, Intent | Outcome):
            continue
        entry = found.entry
        assert faults(entry) == [], (name, sequence, faults(entry))
        if isinstance(found, Outcome):
            assert entry.sequence not in ends, f"intent {entry.sequence} of {name} has two outcomes"
            ends[entry.sequence] = entry
            assert entry.ended_at is not None and entry.ended_at >= entry.started_at
        if found not in (known.acknowledged.get(sequence), known.perhaps.get(sequence)):
            assert isinstance(found, Outcome) and entry.reason_unknown == REASON_WRITER_DIED, (name, sequence)
            began = intents.get(entry.sequence)
            assert began is None or entry.started_at == began.started_at
    assert set(intents) <= set(ends), f"intents of {name} are open: {sorted(set(intents) - set(ends))[:5]}"
    assert set(ends) <= set(intents) or known.torn, f"outcomes of {name} without an intent"


def _frames(directory: Path) -> dict[int, AnyFrame]:
    """Every whole frame of a journal by its sequence, each of which is there once."""
    items = [
        item
        for number in all_segments(directory)
        for item in read_frames(raw_bytes(directory, number))
        if isinstance(item, FrameAt)
    ]
    frames = {item.sequence: item.frame for item in items}
    assert len(frames) == len(items), f"a frame of {directory.name} is there twice"
    return frames


def _outcomes(directory: Path) -> list[Posted]:
    return [Posted(at, frame.entry) for at, frame in _frames(directory).items() if isinstance(frame, Outcome)]
