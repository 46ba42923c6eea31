from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from costbearer.errors import JournalFailed
from costbearer.frames import Damage, Frame, FrameAt, Intent, Opening, Outcome, encode
from costbearer.journal import JournalWriter
from costbearer.journal_files import acquire, all_segments, live, raw_bytes, seal_file, segment_file, segments
from costbearer.ledger import Entry, faults
from costbearer.recovery import clear_unborn, read_segment, take_over, verify
from tests.factories import make_entry, make_intent

LATER = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def died(root: Path, *, closed: int = 3, left_open: int = 2, segment_bytes: int = 8 * 1024 * 1024) -> Path:
    """The journal of a writer that died: `closed` whole calls and `left_open` calls whose intent only is there."""
    writer = JournalWriter.open(root, segment_bytes=segment_bytes)
    running = [writer.append(Intent(make_intent(writer.id, writer.next_sequence))) for _ in range(left_open)]
    for _ in range(closed):
        sequence = writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
        writer.append(Outcome(make_entry(writer.id, sequence)))
        writer.rotate_if_due()
    assert writer.open_intents == len(running)
    writer.sync()
    writer._disown()
    return writer.directory


def seal(directory: Path, number: int) -> None:
    raw = raw_bytes(directory, number)
    with pa.output_stream(str(segment_file(directory, number)) + ".zst", compression="zstd") as stream:
        stream.write(raw)
    seal_file(directory, number).write_text("{}")
    segment_file(directory, number).unlink()


def whole(directory: Path) -> list[FrameAt]:
    return [item for _, item in verify(directory) if isinstance(item, FrameAt)]


def damage(directory: Path) -> list[tuple[int, str]]:
    return [(number, item.kind) for number, item in verify(directory) if isinstance(item, Damage)]


def outcomes(directory: Path) -> dict[int, list[Entry]]:
    """Intent's sequence -> the entries of its outcomes."""
    found: dict[int, list[Entry]] = {}
    for item in whole(directory):
        if isinstance(item.frame, Intent):
            found.setdefault(item.sequence, [])
        elif isinstance(item.frame, Outcome):
            found.setdefault(item.frame.entry.sequence, []).append(item.frame.entry)
    return found


def appended(file: Path, data: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(data)


def test_open_intents_are_closed_with_their_bound(tmp_path: Path) -> None:
    directory = died(tmp_path)
    before = whole(directory)
    done = take_over(directory, now=LATER)
    assert done is not None
    assert (done.journal, done.closed, done.cut_bytes, done.damage) == (directory.name, (2, 3), 0, ())
    after = whole(directory)
    assert after[: len(before)] == before
    assert [item.sequence for item in after] == list(range(1, len(before) + 3))
    intents = {item.sequence: item.frame for item in before}
    for item in after[len(before) :]:
        assert isinstance(item.frame, Outcome)
        entry = item.frame.entry
        intent = intents[entry.sequence]
        assert isinstance(intent, Intent)
        assert entry == msgspec.structs.replace(intent.entry, ended_at=LATER, reason_unknown="writer_died")
        assert (entry.status, entry.basis, entry.cost_usd) == ("unknown", "unknown", None)
        assert entry.bound_usd is not None
        assert faults(entry) == []
    assert not live(directory)
    assert not (directory / "reserve").exists()


def test_what_died_in_its_birth_is_removed_and_what_is_being_born_is_not(tmp_path: Path) -> None:
    for name in ("dead", "young", "locked"):
        (tmp_path / f".new-{name}").mkdir()
        (tmp_path / f".new-{name}" / "reserve").write_bytes(bytes(4096))
    lock = acquire(tmp_path / ".new-locked")
    assert lock is not None
    for name in ("dead", "locked"):
        os.utime(tmp_path / f".new-{name}", (0, 0))
    directory = died(tmp_path)
    assert clear_unborn(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new-locked", ".new-young", directory.name]
    os.close(lock)
    assert clear_unborn(tmp_path) == 1
    assert clear_unborn(tmp_path / "nowhere") == 0


def test_an_entry_never_ends_before_it_began(tmp_path: Path) -> None:
    directory = died(tmp_path)
    take_over(directory, now=datetime(2020, 1, 1, tzinfo=UTC))
    for (entry,) in outcomes(directory).values():
        assert entry.ended_at is not None
        assert entry.ended_at >= entry.started_at


def test_taking_over_again_changes_nothing(tmp_path: Path) -> None:
    directory = died(tmp_path)
    appended(segment_file(directory, 1), b"CBJ1 torn")
    take_over(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    again = take_over(directory)
    assert again is not None
    assert (again.closed, again.cut_bytes) == ((), 0)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_torn_tail_is_cut_and_kept(tmp_path: Path) -> None:
    directory = died(tmp_path)
    file = segment_file(directory, 1)
    tail = file.read_bytes()[-400:-1] + bytes(512)
    appended(file, tail)
    found = whole(directory)
    done = take_over(directory)
    assert done is not None
    assert done.cut_bytes == len(tail)
    assert [(number, item.kind) for number, item in done.damage] == [(1, "torn_tail")]
    cut = directory / "00000001.cut"
    assert cut.read_bytes() == tail
    assert stat.S_IMODE(cut.stat().st_mode) == 0o600
    assert whole(directory)[: len(found)] == found
    assert damage(directory) == [(1, "torn_tail")]


def test_a_second_cut_of_a_segment_keeps_the_first(tmp_path: Path) -> None:
    directory = died(tmp_path)
    for tail in (b"first", b"second", b"first"):
        appended(segment_file(directory, 1), tail)
        take_over(directory)
    assert (directory / "00000001.cut").read_bytes() == b"first"
    assert (directory / "00000001.2.cut").read_bytes() == b"second"
    assert damage(directory) == [(1, "torn_tail")] * 2


@pytest.mark.parametrize("content", [b"", bytes(4096), b"garbage"])
def test_a_last_segment_without_a_frame_goes(tmp_path: Path, content: bytes) -> None:
    directory = died(tmp_path)
    before = outcomes(directory)
    segment_file(directory, 2).write_bytes(content)
    done = take_over(directory)
    assert done is not None
    assert done.cut_bytes == len(content)
    assert segments(directory) == [1]
    assert (directory / "00000002.cut").exists() == bool(content)
    assert {sequence: len(ends) for sequence, ends in outcomes(directory).items()} == dict.fromkeys(before, 1)


def test_a_journal_with_nothing_in_it(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=0, left_open=0)
    segment_file(directory, 1).write_bytes(b"")
    done = take_over(directory)
    assert done is not None
    assert segments(directory) == []
    assert list(verify(directory)) == []
    assert take_over(directory) is not None


def test_damage_in_the_middle_is_left_and_what_it_hid_is_closed_once(tmp_path: Path) -> None:
    """Intent 3 and the outcome of intent 4 are damaged: 2 and 4 are open, 3 is not known of."""
    directory = died(tmp_path, closed=2)
    file = segment_file(directory, 1)
    data = bytearray(file.read_bytes())
    by_sequence = {item.sequence: item for item in whole(directory)}
    for sequence in (3, 5):
        data[by_sequence[sequence].offset + 40] ^= 0x10
    file.write_bytes(data)
    done = take_over(directory)
    assert done is not None
    assert done.closed == (2, 4)
    assert file.read_bytes()[: len(data)] == data
    assert damage(directory) == [(1, "damaged"), (1, "damaged")]
    assert {sequence: len(ends) for sequence, ends in outcomes(directory).items()} == {2: 1, 4: 1, 6: 1}


def test_frames_of_an_earlier_segment_copied_into_a_later_one_open_nothing(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=4, left_open=0, segment_bytes=1)
    first = segment_file(directory, 1).read_bytes()
    intent = whole(directory)[1]
    assert isinstance(intent.frame, Intent)
    appended(segment_file(directory, segments(directory)[-1]), first[intent.offset : intent.end])
    done = take_over(directory)
    assert done is not None
    assert done.closed == ()
    assert {len(ends) for ends in outcomes(directory).values()} == {1}


def test_an_outcome_that_comes_before_its_intent_still_closes_it(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=1, left_open=0)
    file = segment_file(directory, 1)
    data = file.read_bytes()
    opening, intent, outcome = (data[item.offset : item.end] for item in whole(directory))
    file.write_bytes(opening + outcome + intent)
    done = take_over(directory)
    assert done is not None
    assert done.closed == ()


def test_outcomes_come_after_the_highest_sequence(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=0, left_open=2)
    file = segment_file(directory, 1)
    data = file.read_bytes()
    opening, first, second = (data[item.offset : item.end] for item in whole(directory))
    file.write_bytes(opening + second + first)
    take_over(directory)
    assert [item.sequence for item in whole(directory)] == [1, 3, 2, 4, 5]
    assert {sequence: len(ends) for sequence, ends in outcomes(directory).items()} == {2: 1, 3: 1}


def test_what_was_mended_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is cut or written is synced after its last change, the directory after the last new name."""
    directory = died(tmp_path)
    appended(segment_file(directory, 1), b"torn")
    calls: list[tuple[str, str]] = []
    for name in ("write", "ftruncate", "fsync"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name), calls))
    take_over(directory)
    dirty: set[str] = set()
    for name, file in calls:
        if name == "fsync":
            dirty.discard(file)
        else:
            dirty.add(file)
    assert not dirty
    assert {file for name, file in calls if name == "write"} == {"00000001.new", "00000001.cbj"}
    assert calls[-1] == ("fsync", directory.name)


def noted(name: str, real: Callable[..., Any], calls: list[tuple[str, str]]) -> Callable[..., Any]:
    def call(fd: int, *arguments: Any) -> Any:
        calls.append((name, Path(f"/proc/self/fd/{fd}").readlink().name))
        return real(fd, *arguments)

    return call


def test_a_frame_nobody_can_decode_is_not_written_over(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=0, left_open=1)
    buffer = bytearray()
    encode(Later(), 3, buffer)  # type: ignore[arg-type]
    appended(segment_file(directory, 1), bytes(buffer))
    take_over(directory)
    assert bytes(buffer) in segment_file(directory, 1).read_bytes()
    assert damage(directory) == [(1, "damaged")]
    assert [item.sequence for item in whole(directory)] == [1, 2, 4]
    again = take_over(directory)
    assert again is not None
    assert again.closed == ()


class Later(msgspec.Struct, tag="later", frozen=True):
    """A frame of a version to come."""


def test_sealed_segments_are_not_written(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=6, left_open=0, segment_bytes=1)
    numbers = segments(directory)
    for number in numbers[:3]:
        seal(directory, number)
    assert segments(directory) == numbers[3:]
    assert all_segments(directory) == numbers
    before = [item.frame for item in whole(directory)]
    assert take_over(directory) is not None
    assert [item.frame for item in whole(directory)] == before
    assert damage(directory) == []
    for number in numbers[3:]:
        seal(directory, number)
    assert take_over(directory) is not None
    assert [item.frame for item in whole(directory)] == before


def test_open_intents_behind_sealed_segments_are_closed(tmp_path: Path) -> None:
    directory = died(tmp_path, closed=4, left_open=0, segment_bytes=1)
    last = segments(directory)[-1]
    for number in segments(directory)[:-1]:
        seal(directory, number)
    sequence = whole(directory)[-1].sequence + 1
    buffer = bytearray()
    encode(Intent(make_intent(directory.name, sequence)), sequence, buffer)
    appended(segment_file(directory, last), bytes(buffer))
    done = take_over(directory)
    assert done is not None
    assert done.closed == (sequence,)
    assert damage(directory) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalFailed, match="cannot be taken over"):
        take_over(tmp_path / "gone")


def test_tailing_reads_only_what_is_new(tmp_path: Path) -> None:
    directory = died(tmp_path)
    file = segment_file(directory, 1)
    frames = whole(directory)
    for index, item in enumerate(frames):
        assert list(read_segment(file, item.offset, item.sequence)) == frames[index:]
    appended(file, b"CBJ1")
    (torn,) = read_segment(file, frames[-1].end, frames[-1].sequence + 1)
    assert isinstance(torn, Damage)
    assert (torn.offset, torn.end, torn.kind) == (frames[-1].end, frames[-1].end + 4, "torn_tail")


# What verify reports


@pytest.fixture
def chained(tmp_path: Path) -> Path:
    directory = died(tmp_path, closed=5, left_open=0, segment_bytes=1)
    take_over(directory)
    seal(directory, 1)
    seal(directory, 2)
    assert damage(directory) == []
    assert all_segments(directory) == [1, 2, 3, 4, 5, 6]
    return directory


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_any_change_breaks_the_chain(chained: Path, number: int) -> None:
    """Also one that leaves every frame whole: an amount written anew, with a CRC that fits."""
    raw = raw_bytes(chained, number)
    frame, sequence = next(
        (item.frame, item.sequence)
        for of, item in verify(chained)
        if of == number and isinstance(item, FrameAt) and isinstance(item.frame, Outcome)
    )
    old, new = bytearray(), bytearray()
    encode(frame, sequence, old)
    encode(cheaper(frame), sequence, new)
    assert old != new
    changed = raw.replace(old, new)
    assert changed != raw
    restore(chained, number, changed)
    assert damage(chained) == [(number + 1, "chain")]


def cheaper(frame: Frame) -> Frame:
    assert isinstance(frame, Outcome)
    return Outcome(msgspec.structs.replace(frame.entry, owner="mallory"))


def restore(directory: Path, number: int, raw: bytes) -> None:
    sealed = seal_file(directory, number).exists()
    segment_file(directory, number).write_bytes(raw)
    if sealed:
        seal_file(directory, number).unlink()
        seal(directory, number)


def test_a_missing_segment_is_reported(chained: Path) -> None:
    segment_file(chained, 4).unlink()
    assert damage(chained) == [(5, "chain"), (5, "gap")]
    segment_file(chained, 3).unlink()
    (report, _) = (item for _, item in verify(chained) if isinstance(item, Damage))
    assert report.detail == "segments 3 to 4 are missing"


def test_the_first_segment_missing_is_reported(chained: Path) -> None:
    (chained / "00000001.cbj.zst").unlink()
    assert damage(chained) == [(2, "chain"), (2, "gap")]


def test_segments_of_other_journals_or_places_are_reported(chained: Path, tmp_path: Path) -> None:
    other = died(tmp_path / "other", closed=5, left_open=0, segment_bytes=1)
    own = segment_file(chained, 4).read_bytes()
    segment_file(chained, 4).write_bytes(segment_file(other, 4).read_bytes())
    assert damage(chained) == [(4, "chain"), (5, "chain")]
    segment_file(chained, 4).write_bytes(own)
    opening, rest = next(read_segment(segment_file(chained, 4))), own
    segment_file(chained, 4).write_bytes(rest[opening.end :])
    assert damage(chained) == [(4, "gap"), (4, "chain"), (5, "chain")]


def test_a_torn_inner_segment_is_damage(chained: Path) -> None:
    file = segment_file(chained, 4)
    file.write_bytes(file.read_bytes()[:-5])
    assert damage(chained) == [(4, "damaged"), (5, "gap"), (5, "chain")]


@pytest.mark.parametrize("content", [b"", b"not zstd", None])
def test_a_sealed_segment_that_cannot_be_read_is_reported_and_passed(chained: Path, content: bytes | None) -> None:
    file = chained / "00000002.cbj.zst"
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    found = damage(chained)
    assert found
    assert {number for number, _ in found} <= {2, 3}
    sequences = [item.sequence for item in whole(chained)]
    assert sequences == [1, 2, 3, *range(7, 17)]


def test_both_forms_of_a_segment_are_there_while_it_is_sealed(chained: Path) -> None:
    raw = raw_bytes(chained, 3)
    seal(chained, 3)
    segment_file(chained, 3).write_bytes(raw)
    assert damage(chained) == []
    assert segments(chained) == [4, 5, 6]
    seal_file(chained, 3).unlink()
    (chained / "00000003.cbj.zst").write_bytes(b"half a file")
    assert damage(chained) == []
    assert segments(chained) == [3, 4, 5, 6]


def test_the_hash_in_the_opening_is_of_the_file(chained: Path) -> None:
    for number in (2, 4, 6):
        first = next(item for of, item in verify(chained) if of == number and isinstance(item, FrameAt))
        assert isinstance(first.frame, Opening)
        assert first.frame.previous_sha256 == hashlib.sha256(raw_bytes(chained, number - 1)).hexdigest()
