from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from costbearer import journal, journal_files
from costbearer.errors import ConfigInvalid, JournalFailed
from costbearer.journal import (
    JOURNAL_ID,
    FrameAt,
    GroupCommit,
    Intent,
    JournalWriter,
    Opening,
    Outcome,
    journals,
    live,
    raw_bytes,
    read_frames,
    segments,
    take_over,
    verify,
)
from tests.factories import make_entry, make_intent


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    opened = JournalWriter.open(tmp_path / "journal")
    yield opened
    opened.close()


def begin(writer: JournalWriter) -> int:
    return writer.append(Intent(make_intent(writer.id, writer.next_sequence)))


def end(writer: JournalWriter, sequence: int) -> int:
    return writer.append(Outcome(make_entry(writer.id, sequence)))


def frames(directory: Path) -> list[FrameAt]:
    """All frames of a journal in which nothing is damaged."""
    items = [item for _, item in verify(directory)]
    assert all(isinstance(item, FrameAt) for item in items), items
    return [item for item in items if isinstance(item, FrameAt)]


def test_a_journal_is_born(tmp_path: Path) -> None:
    root = tmp_path / "data" / "journal"
    writer = JournalWriter.open(root, writer="gateway-1")
    assert JOURNAL_ID.fullmatch(writer.id)
    assert journals(root) == [writer.directory] == [root / writer.id]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, writer.directory)] == [0o700, 0o700]
    assert {path.name for path in writer.directory.iterdir()} == {"lock", "reserve", "00000001.cbj"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in writer.directory.iterdir()} == {0o600}
    assert (writer.directory / "reserve").stat().st_blocks * 512 >= journal.RESERVE_BYTES
    (first,) = frames(writer.directory)
    opening = first.frame
    assert isinstance(opening, Opening)
    assert (opening.journal, opening.segment, opening.writer) == (writer.id, 1, "gateway-1")
    assert opening.previous_sha256 is None
    assert opening.opened_at.utcoffset() is not None
    assert (first.sequence, writer.next_sequence, writer.unsynced) == (1, 2, False)
    writer.close()


def test_frames_are_written_as_they_are(writer: JournalWriter) -> None:
    sequence = begin(writer)
    assert (sequence, writer.open_intents, writer.next_sequence, writer.unsynced) == (2, 1, 3, True)
    assert end(writer, sequence) == 3
    assert writer.open_intents == 0
    found = frames(writer.directory)
    assert [item.sequence for item in found] == [1, 2, 3]
    assert found[1].frame == Intent(make_intent(writer.id, 2))
    assert found[2].frame == Outcome(make_entry(writer.id, 2))


def test_each_frame_is_one_write(writer: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = os.write, list[int]()

    def counting(fd: int, data: bytearray) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", counting)
    end(writer, begin(writer))
    assert sizes == [item.end - item.offset for item in frames(writer.directory)[1:]]


def test_sync_makes_everything_before_it_durable(writer: JournalWriter) -> None:
    sequence = begin(writer)
    assert writer.synced_sequence < sequence
    writer.sync()
    assert (writer.synced_sequence, writer.unsynced) == (sequence, False)


def test_a_frame_out_of_turn_is_refused_and_the_writer_goes_on(writer: JournalWriter) -> None:
    sequence = begin(writer)
    wrong: list[Intent | Outcome] = [
        Intent(make_intent(writer.id, writer.next_sequence + 1)),
        Intent(make_intent("20261122T193000-00000000", writer.next_sequence)),
        Outcome(make_entry(writer.id, sequence + 5)),
        Intent(make_intent(writer.id, writer.next_sequence, notes=("x" * journal.PAYLOAD_BYTES_MAX,))),
    ]
    for frame in wrong:
        with pytest.raises(JournalFailed):
            writer.append(frame)
    end(writer, sequence)
    with pytest.raises(JournalFailed, match="no open intent"):
        end(writer, sequence)
    assert not writer.failed
    assert [item.sequence for item in frames(writer.directory)] == [1, 2, 3]


def test_segments_are_chained(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, segment_bytes=4096)
    running = begin(writer)
    while writer.next_sequence < 40:
        end(writer, begin(writer))
        writer.rotate_if_due()
    end(writer, running)
    numbers = segments(writer.directory)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 3
    previous = None
    for number in numbers:
        raw = raw_bytes(writer.directory, number)
        first = next(read_frames(raw))
        assert isinstance(first, FrameAt)
        assert isinstance(first.frame, Opening)
        assert first.frame.previous_sha256 == previous
        previous = hashlib.sha256(raw).hexdigest()
        assert len(raw) < 4096 + 4096
    assert [item.sequence for item in frames(writer.directory)] == list(range(1, writer.next_sequence))
    writer.close()


def test_the_chain_holds_however_a_segment_was_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one go at the rotation, or in stretches beside the calls, some of them longer than what is read at once."""
    monkeypatch.setattr(journal_files, "HASHED_BYTES", 1000)
    writer = JournalWriter.open(tmp_path, segment_bytes=20_000)
    while writer.next_sequence < 200:
        end(writer, begin(writer))
        if writer.next_sequence % 7 == 0:
            writer.sync()
        writer.rotate_if_due()
    writer.close()
    assert len(segments(writer.directory)) > 3
    assert [item.sequence for item in frames(writer.directory)] == list(range(1, writer.next_sequence))


@pytest.mark.parametrize("act", ["sync", "rotate_if_due"])
def test_a_segment_that_lost_what_was_written_is_never_chained(tmp_path: Path, act: str) -> None:
    writer = JournalWriter.open(tmp_path, segment_bytes=1)
    begin(writer)
    os.truncate(writer.directory / "00000001.cbj", 40)
    with pytest.raises(JournalFailed):
        getattr(writer, act)()
    assert writer.failed
    assert segments(writer.directory) == [1]
    writer.close()


def test_an_old_segment_is_closed_unless_nothing_is_in_it(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, segment_s=0.0)
    writer.rotate_if_due()
    assert segments(writer.directory) == [1]
    begin(writer)
    writer.rotate_if_due()
    writer.rotate_if_due()
    assert segments(writer.directory) == [1, 2]
    writer.close()


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"journal\.sync"):
        JournalWriter.open(tmp_path, sync="never")
    with pytest.raises(ConfigInvalid, match="segment_bytes"):
        JournalWriter.open(tmp_path, segment_bytes=2**40)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file")
    with pytest.raises(JournalFailed, match="no journal can be opened"):
        JournalWriter.open(tmp_path / "journal")


def test_close_lets_go_and_is_final(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    begin(writer)
    assert live(writer.directory)
    writer.close()
    writer.close()
    assert not live(writer.directory)
    assert not writer.unsynced
    assert {path.name for path in writer.directory.iterdir()} == {"lock", "00000001.cbj"}
    for act in (lambda: begin(writer), writer.sync):
        with pytest.raises(JournalFailed, match="closed"):
            act()
    writer.rotate_if_due()


def test_close_lets_go_although_somebody_else_has_the_descriptor(tmp_path: Path) -> None:
    """A child that was forked around Python's hooks shares the open file that carries the lock."""
    writer = JournalWriter.open(tmp_path)
    shared = os.dup(writer._lock)
    writer.close()
    assert not live(writer.directory)
    os.close(shared)


def test_an_interrupted_write_ends_the_writer(writer: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def interrupted(fd: int, data: bytearray) -> int:
        real(fd, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            begin(writer)
    with pytest.raises(JournalFailed, match="interrupted"):
        begin(writer)
    assert writer.failed


# Two writers, and who is alive


def test_only_the_living_are_live(tmp_path: Path) -> None:
    assert not live(tmp_path)
    first, second = JournalWriter.open(tmp_path), JournalWriter.open(tmp_path)
    assert first.id != second.id
    assert live(first.directory)
    assert take_over(first.directory) is None
    first.close()
    assert not live(first.directory)
    assert live(second.directory)
    second.close()


def test_looking_does_not_take_the_lock(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.close()
    assert [live(writer.directory) for _ in range(3)] == [False] * 3
    assert take_over(writer.directory) is not None


ORPHAN = """
import sys, time
from pathlib import Path
from costbearer.journal import Intent, JournalWriter
from tests.factories import make_intent
writer = JournalWriter.open(Path(sys.argv[1]))
writer.append(Intent(make_intent(writer.id, 2)))
print(writer.id, flush=True)
sys.stdin.read()
"""

FORKING = """
import os, subprocess, sys
from pathlib import Path
from costbearer.errors import JournalFailed
from costbearer.journal import Intent, JournalWriter
from tests.factories import make_intent
writer = JournalWriter.open(Path(sys.argv[1]))
read, write = os.pipe()
child = os.fork()
if not child:
    try:
        writer.append(Intent(make_intent(writer.id, 2)))
    except JournalFailed as error:
        os.write(write, str(error).encode())
    os.close(write)
    sys.stdin.read()
    os._exit(0)
os.close(write)
refusal = os.read(read, 4096).decode()
sleeper = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
writer.append(Intent(make_intent(writer.id, 2)))
print(writer.id, child, sleeper.pid, refusal, sep="|", flush=True)
os.kill(os.getpid(), 9)
"""


def started(script: str, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(root)]
    top = Path(__file__).parent.parent
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=top)


def test_a_writer_in_another_process_is_left_alone_until_it_dies(tmp_path: Path) -> None:
    with started(ORPHAN, tmp_path) as orphan:
        assert orphan.stdout is not None
        directory = tmp_path / orphan.stdout.readline().strip()
        own = JournalWriter.open(tmp_path)
        assert own.directory != directory
        assert live(directory)
        assert take_over(directory) is None
        orphan.kill()
        orphan.wait()
        assert not live(directory)
        done = take_over(directory)
        assert done is not None
        assert done.closed == (2,)
        own.close()


def test_children_do_not_keep_a_dead_writers_lock(tmp_path: Path) -> None:
    """A forked child and a program it started with inherited descriptors both outlive the writer; its lock does not."""
    with started(FORKING, tmp_path) as parent:
        assert parent.stdout is not None
        journal_id, child, sleeper, refusal = parent.stdout.readline().strip().split("|")
        parent.wait()
        assert "belongs to the process" in refusal
        for pid in (child, sleeper):
            assert Path("/proc", pid).exists()
        assert not live(tmp_path / journal_id)
        done = take_over(tmp_path / journal_id)
        assert done is not None
        assert done.closed == (2,)


# Group commit


class Slow:
    """os.fdatasync that waits until it is let through, and notes when it began and which frames it may count on."""

    def __init__(self, writer: JournalWriter) -> None:
        self.writer = writer
        self.began: list[tuple[float, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: OSError | None = None

    def __call__(self, fd: int) -> None:
        self.began.append((time.monotonic(), self.writer.next_sequence - 1))
        assert self.gate.wait(10)
        if self.error:
            raise self.error


@pytest.fixture
def slow(writer: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> Slow:
    patched = Slow(writer)
    monkeypatch.setattr(os, "fdatasync", patched)
    return patched


@contextlib.asynccontextmanager
async def committing(writer: JournalWriter) -> AsyncIterator[GroupCommit]:
    """Group commit that runs and must not fail."""
    failures: list[bool] = []
    commit = GroupCommit(writer, lambda: failures.append(True))
    commit.start()
    yield commit
    await commit.stop()
    assert not failures
    assert not writer.unsynced


async def until(condition: object, *, seconds: float = 5.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)


def test_frames_share_an_fdatasync_within_the_interval(writer: JournalWriter, slow: Slow) -> None:
    written: list[float] = []

    async def run() -> None:
        async with committing(writer):
            for _ in range(100):
                begin(writer)
                written.append(time.monotonic())
                await asyncio.sleep(0.002)

    asyncio.run(run())
    assert 3 <= len(slow.began) <= 25
    for index, at in enumerate(written):
        covering = next(began for began, last in slow.began if last >= index + 2)
        # The promise is 50 ms; the rest is a busy machine's share.
        assert covering - at < 0.05 + 0.1


def test_nothing_is_synced_without_need(writer: JournalWriter, slow: Slow) -> None:
    async def run() -> None:
        async with committing(writer):
            await asyncio.sleep(0.15)

    asyncio.run(run())
    assert slow.began == []


def test_wait_needs_an_fdatasync_that_began_after_the_write(writer: JournalWriter, slow: Slow) -> None:
    writer.always = True

    async def run() -> None:
        async with committing(writer) as commit:
            slow.gate.clear()
            first = begin(writer)
            one = asyncio.create_task(commit.wait(first))
            await until(lambda: slow.began)
            second = begin(writer)
            two = asyncio.create_task(commit.wait(second))
            slow.gate.set()
            await one
            slow.gate.clear()
            await until(lambda: len(slow.began) == 2)
            assert not two.done()
            slow.gate.set()
            await two
            assert [last for _, last in slow.began] == [first, second]
            await commit.wait(first)

    asyncio.run(run())


def test_always_does_not_wait_for_the_interval(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, sync="always", sync_interval_ms=60_000)

    async def run() -> None:
        async with committing(writer) as commit:
            for _ in range(5):
                await asyncio.wait_for(commit.wait(begin(writer)), 5)

    asyncio.run(run())
    assert writer.synced_sequence == 6
    writer.close()


def test_an_fdatasync_error_is_final(writer: JournalWriter, slow: Slow) -> None:
    slow.error = OSError(errno.EIO, "Input/output error")
    failures: list[float] = []

    async def run() -> None:
        commit = GroupCommit(writer, lambda: failures.append(time.monotonic()))
        commit.start()
        outcomes = await asyncio.gather(*[commit.wait(begin(writer)) for _ in range(3)], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [JournalFailed] * 3
        with pytest.raises(JournalFailed):
            await commit.wait(2)
        slow.error = None
        await asyncio.sleep(0.12)
        await commit.stop()

    asyncio.run(run())
    assert len(failures) == 1
    assert len(slow.began) == 1, "an fdatasync was tried again"
    assert writer.failed
    assert writer.synced_sequence < 2
    for act in (lambda: begin(writer), writer.sync):
        with pytest.raises(JournalFailed, match="fdatasync failed"):
            act()


def test_a_failed_append_is_noticed(writer: JournalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[bool] = []

    def broken(fd: int, data: bytearray) -> int:
        raise OSError(errno.EIO, "Input/output error")

    async def run() -> None:
        commit = GroupCommit(writer, lambda: failures.append(True))
        commit.start()
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", broken)
            with pytest.raises(JournalFailed):
                begin(writer)
        await until(lambda: failures)
        await commit.stop()

    asyncio.run(run())
    assert failures == [True]


def test_a_cancelled_waiter_hurts_nobody(writer: JournalWriter, slow: Slow) -> None:
    async def run() -> None:
        async with committing(writer) as commit:
            slow.gate.clear()
            first = asyncio.create_task(commit.wait(begin(writer)))
            second = asyncio.create_task(commit.wait(begin(writer)))
            await until(lambda: slow.began)
            first.cancel()
            await asyncio.sleep(0)
            slow.gate.set()
            await second
            assert first.cancelled()

    asyncio.run(run())


def test_without_group_commit_nobody_waits_for_ever(writer: JournalWriter) -> None:
    async def run() -> None:
        commit = GroupCommit(writer, lambda: None)
        with pytest.raises(JournalFailed):
            await commit.wait(begin(writer))
        commit.start()
        await commit.stop()
        await commit.wait(2)
        with pytest.raises(JournalFailed):
            await commit.wait(begin(writer))

    asyncio.run(run())


def test_group_commit_rotates(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, sync_interval_ms=5, segment_bytes=4096)

    async def run() -> None:
        async with committing(writer):
            for _ in range(20):
                end(writer, begin(writer))
                await asyncio.sleep(0.002)
            await until(lambda: len(segments(writer.directory)) > 1)

    asyncio.run(run())
    assert [item.sequence for item in frames(writer.directory)] == list(range(1, writer.next_sequence))
    writer.close()
