"""The journal where the system fails: full disks, failing calls, signals, and death at every point."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from costbearer import journal
from costbearer.errors import JournalFailed
from costbearer.frames import AnyFrame, Damage, FrameAt, Intent, Outcome
from costbearer.journal import JournalWriter
from costbearer.journal_files import journals, segment_file, segments
from costbearer.recovery import take_over, verify
from tests.factories import make_entry, make_intent


def begin(writer: JournalWriter) -> int:
    return writer.append(Intent(make_intent(writer.id, writer.next_sequence)))


def end(writer: JournalWriter, sequence: int) -> int:
    return writer.append(Outcome(make_entry(writer.id, sequence)))


def contents(directory: Path) -> tuple[dict[int, AnyFrame], list[str]]:
    """(frames by sequence, kinds of damage) of a journal."""
    items = [item for _, item in verify(directory)]
    frames = {item.sequence: item.frame for item in items if isinstance(item, FrameAt)}
    assert len(frames) == sum(isinstance(item, FrameAt) for item in items)
    return frames, [item.kind for item in items if isinstance(item, Damage)]


def assert_closed(directory: Path) -> None:
    """Every intent has exactly one outcome."""
    frames = contents(directory)[0].values()
    intents = [frame.entry.sequence for frame in frames if isinstance(frame, Intent)]
    outcomes = [frame.entry.sequence for frame in frames if isinstance(frame, Outcome)]
    assert sorted(outcomes) == intents


# A full disk


class SmallDisk:
    """os.write, os.ftruncate and os.posix_fallocate of a disk with `free` bytes: what does not fit is written short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 2**40
        self.write, self.truncate, self.allocate = os.write, os.ftruncate, os.posix_fallocate
        monkeypatch.setattr(os, "write", self._write)
        monkeypatch.setattr(os, "ftruncate", self._truncate)
        monkeypatch.setattr(os, "posix_fallocate", self._allocate)

    def _write(self, fd: int, data: bytearray) -> int:
        if not self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.write(fd, bytes(data[: self.free]))
        self.free -= written
        return written

    def _truncate(self, fd: int, size: int) -> None:
        self.free += max(0, os.fstat(fd).st_size - size)
        self.truncate(fd, size)

    def _allocate(self, fd: int, offset: int, size: int) -> None:
        more = size - os.fstat(fd).st_size
        if more > self.free:
            self.allocate(fd, offset, size - more + self.free)
            self.free = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.allocate(fd, offset, size)
        self.free -= more


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    return SmallDisk(monkeypatch)


@pytest.mark.parametrize("free", [0, 1, 19, 20, 21, 400])
def test_a_full_disk_refuses_an_intent_and_the_writer_goes_on(tmp_path: Path, disk: SmallDisk, free: int) -> None:
    writer = JournalWriter.open(tmp_path)
    first = begin(writer)
    size = segment_file(writer.directory, 1).stat().st_size
    disk.free = free
    for _ in range(3):
        with pytest.raises(JournalFailed, match="No space left"):
            begin(writer)
        assert segment_file(writer.directory, 1).stat().st_size == size
        assert disk.free == free
    assert not writer.failed
    disk.free = 2**40
    assert begin(writer) == first + 1
    writer.close()
    frames, damage = contents(writer.directory)
    assert sorted(frames) == [1, 2, 3]
    assert not damage


def test_a_full_disk_takes_the_outcomes_of_running_calls(tmp_path: Path, disk: SmallDisk) -> None:
    writer = JournalWriter.open(tmp_path)
    running = [begin(writer) for _ in range(1500)]
    promised = writer._reserve.bytes
    assert promised >= len(running) * journal.OUTCOME_BYTES
    disk.free = 100
    for sequence in running:
        end(writer, sequence)
    assert writer.open_intents == 0
    assert writer._reserve.bytes >= promised - len(running) * journal.OUTCOME_BYTES
    with pytest.raises(JournalFailed):
        # No more than the last step that was given back can hold.
        running.extend(begin(writer) for _ in range(journal.RELEASE_BYTES // 500))
    assert not writer.failed
    writer.sync()
    for sequence in running[1500:]:
        end(writer, sequence)
    disk.free = 2**40
    end(writer, begin(writer))
    assert os.fstat(writer._reserve.fd).st_size == writer._reserve.bytes
    writer.close()
    frames, damage = contents(writer.directory)
    assert sorted(frames) == list(range(1, 2 * len(running) + 4))
    assert not damage


def test_new_calls_do_not_eat_what_is_kept_back(tmp_path: Path, disk: SmallDisk) -> None:
    """Where space came back, but not enough for the reserve, an intent is refused although it would fit."""
    writer = JournalWriter.open(tmp_path)
    running = begin(writer)
    disk.free = 0
    end(writer, running)
    assert writer._reserve.bytes == journal.RESERVE_BYTES - journal.RELEASE_BYTES
    disk.free = journal.RELEASE_BYTES - 5000
    with pytest.raises(JournalFailed, match="keep back"):
        begin(writer)
    assert disk.free == journal.RELEASE_BYTES - 5000
    disk.free = journal.RELEASE_BYTES + 5000
    begin(writer)
    writer.close()


def test_a_refused_reserve_is_not_asked_for_at_every_call(tmp_path: Path, disk: SmallDisk) -> None:
    writer = JournalWriter.open(tmp_path)
    writer._retry_reserve = 2.0**60
    writer._reserve.release(journal.RELEASE_BYTES)
    with pytest.raises(JournalFailed, match="keep back"):
        begin(writer)
    writer._retry_reserve = 0.0
    begin(writer)
    writer.close()


def test_outcomes_beyond_the_reserve_are_refused_until_there_is_space(tmp_path: Path, disk: SmallDisk) -> None:
    writer = JournalWriter.open(tmp_path)
    running = [begin(writer) for _ in range(6)]
    large = "x" * 900_000
    disk.free = 0
    refused = 0
    for sequence in running:
        try:
            writer.append(Outcome(make_entry(writer.id, sequence, notes=(large,))))
        except JournalFailed:
            refused += 1
    assert refused == 2
    assert writer.open_intents == 2
    assert not writer.failed
    disk.free = 2**40
    for sequence in running[-2:]:
        end(writer, sequence)
    writer.close()
    assert contents(writer.directory)[1] == []
    assert_closed(writer.directory)


def test_no_space_for_the_next_segment(tmp_path: Path, disk: SmallDisk) -> None:
    writer = JournalWriter.open(tmp_path, segment_bytes=1)
    sequence = begin(writer)
    disk.free = 10
    writer.rotate_if_due()
    assert not writer.failed
    end(writer, sequence)
    disk.free = 2**40
    writer.rotate_if_due()
    begin(writer)
    assert writer._segment.number == 2
    writer.close()
    assert contents(writer.directory)[1] == []


@pytest.mark.parametrize("free", [0, 100, 5000])
def test_no_journal_is_opened_on_a_full_disk(tmp_path: Path, disk: SmallDisk, free: int) -> None:
    disk.free = free
    with pytest.raises(JournalFailed, match="No space left"):
        JournalWriter.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes root; the same is tested with a simulated disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk(small_tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.0)
    root = small_tmpfs / "journal"
    writer = JournalWriter.open(root)
    running = [begin(writer) for _ in range(200)]
    filler = (small_tmpfs / "filler").open("wb", buffering=0)
    with contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    acknowledged = writer.next_sequence
    refusals = 0
    for _ in range(20):  # what is left of the last page takes a frame or two
        try:
            running.append(begin(writer))
        except JournalFailed:
            refusals += 1
    assert refusals >= 15
    assert not writer.failed
    with pytest.raises(JournalFailed):
        JournalWriter.open(root)
    for sequence in running:
        end(writer, sequence)
    assert writer.next_sequence > acknowledged + 199
    writer.sync()
    filler.close()
    (small_tmpfs / "filler").unlink()
    begin(writer)
    writer.close()
    frames, damage = contents(writer.directory)
    assert sorted(frames) == list(range(1, writer.next_sequence))
    assert not damage
    assert journals(root) == [writer.directory]
    assert sorted(root.iterdir()) == [writer.directory]


# Other failures of a write, and signals


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADF, errno.EFBIG])
def test_any_other_write_error_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    writer = JournalWriter.open(tmp_path)
    sequence = begin(writer)
    real, calls = os.write, list[int]()

    def half_then_error(fd: int, data: bytearray) -> int:
        calls.append(fd)
        real(fd, bytes(data[: len(data) // 2]))
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_error)
        with pytest.raises(JournalFailed, match="a write failed"):
            begin(writer)
    for act in (lambda: begin(writer), lambda: end(writer, sequence), writer.sync):
        with pytest.raises(JournalFailed, match="not written any more"):
            act()
    assert writer.failed
    assert len(calls) == 1
    writer.close()
    frames, damage = contents(writer.directory)
    assert sorted(frames) == [1, sequence]
    assert not damage


def test_half_a_frame_that_cannot_be_cut_off_is_never_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter.open(tmp_path)
    sequence = begin(writer)
    real = os.write

    def broken(fd: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:30])))
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(JournalFailed, match="could not be cut off"):
            end(writer, sequence)
    with pytest.raises(JournalFailed):
        end(writer, sequence)
    writer.close()
    assert contents(writer.directory)[1] == ["torn_tail"]
    done = take_over(writer.directory)
    assert done is not None
    assert (done.closed, done.cut_bytes) == ((sequence,), 30)


def test_close_does_not_sync_again_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = JournalWriter.open(tmp_path)
    begin(writer)
    synced: list[int] = []

    def broken(fd: int) -> None:
        synced.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        patch.setattr(os, "fsync", broken)
        for _ in range(2):
            with pytest.raises(JournalFailed):
                writer.sync()
        writer.rotate_if_due()
        writer.close()
    assert len(synced) == 1
    assert not journal.live(writer.directory)


def test_signals_do_not_tear_frames(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    hits: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: hits.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while len(hits) < 200:
            end(writer, begin(writer))
            if writer.next_sequence % 64 == 0:
                writer.sync()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.close()
    frames, damage = contents(writer.directory)
    assert sorted(frames) == list(range(1, writer.next_sequence))
    assert not damage


# A fault at the Nth system call, for every N


class Killed(BaseException):
    """The process is dead: this call and every later one."""


class Faults:
    """Counts the system calls that change files, and has the Nth one end as `mode` says."""

    CALLS = ("write", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "posix_fallocate", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mode: str, nth: int) -> None:
        self.mode, self.nth, self.count, self.dead = mode, nth, 0, False
        self._fds: set[int] = set()
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._faulty(name, getattr(os, name)))
        self._open, self._close = os.open, os.close
        monkeypatch.setattr(os, "open", self._opened)
        monkeypatch.setattr(os, "close", self._closed)

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            hit = self.count == self.nth
            if hit and self.mode.startswith("E"):
                code = getattr(errno, self.mode)
                raise OSError(code, os.strerror(code))
            self.dead = hit
            if hit and self.mode == "killed half done" and name == "write":
                real(arguments[0], bytes(arguments[1][: len(arguments[1]) // 2]))
            done = None
            # Nothing here cuts the power, so the disk need not be waited for.
            if (not hit or self.mode == "killed after") and not name.endswith("sync"):
                done = real(*arguments, **named)
            if hit:
                raise Killed
            return done

        return call

    def _opened(self, *arguments: Any, **named: Any) -> int:
        fd = self._open(*arguments, **named)
        self._fds.add(fd)
        return fd

    def _closed(self, fd: int) -> None:
        self._close(fd)
        self._fds.discard(fd)

    def bury(self) -> None:
        """What the system does with a dead process: close its descriptors."""
        for fd in list(self._fds):
            self._closed(fd)


MODES = ("killed before", "killed half done", "killed after", "EIO", "ENOSPC")
NEVER = 10**9


def live_and_die(root: Path, acknowledged: dict[int, AnyFrame]) -> None:
    """A scripted life: four calls in small segments, two of them left open, then the take-over."""
    writer = JournalWriter.open(root, segment_bytes=500)
    for number in range(4):
        sequence = attempted(writer, Intent(make_intent(writer.id, writer.next_sequence)), acknowledged)
        if number % 2:
            attempted(writer, Outcome(make_entry(writer.id, sequence)), acknowledged)
        writer.rotate_if_due()
        writer.sync()
    writer.close()
    take_over(writer.directory)


def attempted(writer: JournalWriter, frame: Intent | Outcome, acknowledged: dict[int, AnyFrame]) -> int:
    """Append; a frame that was only refused is tried once more."""
    try:
        sequence = writer.append(frame)
    except JournalFailed:
        sequence = writer.append(frame)
    acknowledged[sequence] = frame
    return sequence


def one_life(root: Path, mode: str, nth: int) -> int:
    """Run the script with one fault, recover, and check. Returns how many calls could have failed."""
    acknowledged: dict[int, AnyFrame] = {}
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, mode, nth)
        with contextlib.suppress(Killed, JournalFailed):
            live_and_die(root, acknowledged)
        faults.bury()
    for directory in journals(root):
        done = take_over(directory)
        assert done is not None, "the dead still hold the lock"
        frames, damage = contents(directory)
        assert {sequence: frames.get(sequence) for sequence in acknowledged} == acknowledged
        assert set(damage) <= {"torn_tail"}
        assert_closed(directory)
    assert len(journals(root)) == 1 or not acknowledged
    return faults.count


def test_the_script_without_a_fault(tmp_path: Path) -> None:
    calls = one_life(tmp_path, "none", NEVER)
    assert calls > 40
    (directory,) = journals(tmp_path)
    assert len(segments(directory)) == 5
    frames, damage = contents(directory)
    assert not damage
    assert len([frame for frame in frames.values() if isinstance(frame, Outcome)]) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_fault_at_every_call_loses_nothing_acknowledged(tmp_path: Path, mode: str) -> None:
    calls = one_life(tmp_path / "whole", "none", NEVER)
    for nth in range(1, calls + 1):
        one_life(tmp_path / str(nth), mode, nth)
    print(f"{mode}: recovered at {calls} of {calls} system calls")


def dead_with_a_torn_tail(root: Path) -> Path:
    writer = JournalWriter.open(root, segment_bytes=3000)
    for number in range(5):
        sequence = begin(writer)
        if number == 2:
            end(writer, sequence)
        writer.rotate_if_due()
    writer._disown()
    file = segment_file(writer.directory, writer._segment.number)
    file.write_bytes(file.read_bytes()[:-7])
    return writer.directory


@pytest.mark.parametrize("mode", MODES)
def test_a_take_over_may_end_anywhere_and_be_done_again(tmp_path: Path, mode: str) -> None:
    """It fails twice, at every call there is, and is then left alone."""
    nth = 0
    finished = False
    while not finished:
        nth += 1
        directory = dead_with_a_torn_tail(tmp_path / str(nth))
        before = contents(directory)[0]
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch:
                faults = Faults(patch, mode, nth)
                with contextlib.suppress(Killed, JournalFailed):
                    take_over(directory)
                faults.bury()
            finished = faults.count < nth
        assert take_over(directory) is not None
        frames, damage = contents(directory)
        assert {sequence: frames[sequence] for sequence in before} == before
        assert damage == ["torn_tail"] * len(damage)
        assert damage
        assert_closed(directory)
        assert len([frame for frame in frames.values() if isinstance(frame, Outcome)]) == 4
    assert nth > 5


# Killed for real


WRITER = """
import os, sys
from pathlib import Path
from costbearer.journal import Intent, JournalWriter, Outcome
from tests.factories import make_entry, make_intent
writer = JournalWriter.open(Path(sys.argv[1]), segment_bytes=20_000)
while True:
    frame = Intent(make_intent(writer.id, writer.next_sequence))
    for kind in ("intent", "outcome"):
        sequence = writer.append(frame)
        os.write(1, f"{sequence} {frame.entry.sequence}\\n".encode())
        frame = Outcome(make_entry(writer.id, frame.entry.sequence))
    if sequence % 7 == 0:
        writer.sync()
    writer.rotate_if_due()
"""


def killed(root: Path, acknowledgements: int) -> dict[int, int]:
    """Let a writer be acknowledged that often, kill it, and return all it acknowledged: sequence -> its intent's."""
    command = [sys.executable, "-c", WRITER, str(root)]
    top = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=top) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        lines += process.stdout.readlines()
    pairs = (line.split() for line in lines if line.endswith(b"\n"))
    return {int(sequence): int(intent) for sequence, intent in pairs}


def kill_rounds(tmp_path: Path, rounds: int, seed: int) -> None:
    dice = random.Random(seed)
    total = 0
    for number in range(rounds):
        root = tmp_path / str(number)
        acknowledged = killed(root, dice.randrange(1, 300))
        (directory,) = journals(root)
        before = contents(directory)[0]
        done = take_over(directory)
        assert done is not None
        assert len(done.closed) <= 1
        frames, damage = contents(directory)
        assert set(damage) <= {"torn_tail"}
        for sequence, intent in acknowledged.items():
            made = Intent(make_intent(directory.name, intent)) if sequence == intent else None
            assert before[sequence] == (made or Outcome(make_entry(directory.name, intent))), f"seed {seed}"
        assert {sequence: frames[sequence] for sequence in before} == before
        assert_closed(directory)
        total += len(acknowledged)
    print(f"{rounds} kills, {total} acknowledged frames, 0 lost (seed {seed})")


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 20, 20261122)


@pytest.mark.soak
def test_killed_at_random_for_long(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 300, random.SystemRandom().randrange(2**32))
