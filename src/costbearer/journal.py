"""The journal: the append-only record everything else derives from.

A worker opens a journal of its own for one life (`JournalWriter.open`), writes an `Intent` before a call is sent and an
`Outcome` when it has ended, each frame in one `write`, and shares `fdatasync` between frames (`GroupCommit`). Whoever
dies leaves its journal behind with the lock free; the bookkeeper cuts the torn tail and closes what is open
(`take_over`). `read_frames` and `verify` read; they report what is damaged and never stop at it.

What a failure means: a full disk refuses the frame, and the writer goes on when there is space again. Any other failed
write, and every failed fsync, ends this writer for ever: the kernel drops what it could not write and a second fsync
would lie. The process must stop admitting, exit and start a new life with a new journal.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from costbearer import __version__
from costbearer.errors import ConfigInvalid, JournalFailed, JournalFull
from costbearer.frames import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Damage,
    DamageKind,
    Frame,
    FrameAt,
    Intent,
    Opening,
    Outcome,
    encode,
    read_frames,
)
from costbearer.journal_files import (
    JOURNAL_ID,
    NEWBORN,
    NO_SPACE,
    RESERVE,
    Reserve,
    Segment,
    acquire,
    all_segments,
    journals,
    live,
    raw_bytes,
    seal_file,
    segment_file,
    segments,
    sync_directory,
)
from costbearer.recovery import JournalTakeover, read_segment, take_over, verify

__all__ = [
    "HEADER_BYTES",
    "JOURNAL_ID",
    "PAYLOAD_BYTES_MAX",
    "Damage",
    "DamageKind",
    "Frame",
    "FrameAt",
    "GroupCommit",
    "Intent",
    "JournalTakeover",
    "JournalWriter",
    "Opening",
    "Outcome",
    "all_segments",
    "journals",
    "live",
    "raw_bytes",
    "read_frames",
    "read_segment",
    "seal_file",
    "segment_file",
    "segments",
    "take_over",
    "verify",
]

SEGMENT_BYTES = 8 * 1024 * 1024
SEGMENT_BYTES_MAX = 256 * 1024 * 1024
"""A segment is read whole, so this bounds a reader's memory."""
SEGMENT_S = 300.0
SYNC_INTERVAL_MS = 50

RESERVE_BYTES = 4 * 1024 * 1024
"""Least space kept back for outcomes, and the step in which it grows."""
OUTCOME_BYTES = 4096
"""Space kept back for each running call: three to four times a typical outcome."""
RELEASE_BYTES = 64 * 1024
"""Step in which the reserve is given back: little for another writer on the same disk to take."""
RETRY_S = 1.0
"""How often a full disk is asked again for a reserve or a new segment."""


class JournalWriter:
    """One life of one worker's journal.

    `append`, `rotate_if_due` and `close` belong to one thread; `sync` may run in another at the same time.

    The outcomes of running calls are safe from a full disk: `OUTCOME_BYTES` are kept back for every open intent, and an
    intent is refused where that is not possible. The bound: outcomes fit as long as they average at most that size, or
    `RESERVE_BYTES` in all, and nothing else on the disk takes the space in the instant in which it is given back.

    Attributes:
        id: the journal's id, also the name of its directory.
        next_sequence: the sequence the next frame will have; an intent's entry must carry it.
        failed: nothing is written any more; `failure` says why.
        always: whether every call waits for its frames to be durable (`sync="always"`).
    """

    def __init__(self, directory: Path, lock: int, segment: Segment, reserve: Reserve, next_sequence: int) -> None:
        """For `open`, which see."""
        self.id = directory.name
        self.directory = directory
        self.next_sequence = next_sequence
        self.failed = False
        self.failure = ""
        self.always = False
        self.sync_interval_ms = SYNC_INTERVAL_MS
        self._lock = lock
        self._segment = segment
        self._reserve = reserve
        self._segment_bytes = SEGMENT_BYTES
        self._segment_s = SEGMENT_S
        self._writer = ""
        self._open: set[int] = set()
        self._synced = next_sequence - 1
        self._buffer = bytearray(HEADER_BYTES)
        self._closed = False
        self._retry_reserve = 0.0
        self._retry_rotation = 0.0
        # Held where the segment is synced or replaced: its descriptor must not be closed under a running fdatasync.
        self._syncing = threading.Lock()

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        sync: str = "group",
        sync_interval_ms: int = SYNC_INTERVAL_MS,
        segment_bytes: int = SEGMENT_BYTES,
        segment_s: float = SEGMENT_S,
        writer: str = "gateway",
    ) -> JournalWriter:
        """A new life: a new directory under `root` (made where it is missing), its lock held, its first segment open.

        Raises:
            ConfigInvalid: `sync` is unknown, or `segment_bytes` exceeds `SEGMENT_BYTES_MAX`.
            JournalFailed: it cannot be written, or there is no space for the reserve.
        """
        if sync not in {"group", "always"}:
            raise ConfigInvalid(f"journal.sync: {sync!r} is not one of group, always")
        if segment_bytes > SEGMENT_BYTES_MAX:
            raise ConfigInvalid(f"journal.segment_bytes: {segment_bytes} is above {SEGMENT_BYTES_MAX}")
        birth = datetime.now(UTC)
        directory = root / f"{birth:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        newborn = root / (NEWBORN + directory.name)
        descriptors: list[int] = []
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            newborn.mkdir(mode=0o700)
            lock = acquire(newborn)
            assert lock is not None, "nobody else knows a newborn's name"
            descriptors.append(lock)
            reserve = Reserve(newborn)
            descriptors.append(reserve.fd)
            segment = Segment.create(newborn, 1)
            descriptors.append(segment.fd)
            journal = cls(directory, lock, segment, reserve, 2)
            journal._writer = writer
            problem = segment.write(journal._opening(1, 1, None))
            if not problem and not reserve.hold(RESERVE_BYTES):
                problem = errno.ENOSPC
            if problem:
                raise OSError(problem, os.strerror(problem))
            segment.publish(newborn)
            newborn.rename(directory)
            sync_directory(root)
        except OSError as error:
            for fd in descriptors:
                os.close(fd)
            shutil.rmtree(newborn, ignore_errors=True)
            raise JournalFailed(f"no journal can be opened in {root}: {error.strerror}") from error
        journal.always = sync == "always"
        journal.sync_interval_ms = sync_interval_ms
        journal._segment_bytes = segment_bytes
        journal._segment_s = segment_s
        _disown_in_children(journal)
        return journal

    @property
    def open_intents(self) -> int:
        """How many intents have no outcome yet."""
        return len(self._open)

    @property
    def synced_sequence(self) -> int:
        """The last sequence that is known to be on the disk."""
        return self._synced

    @property
    def unsynced(self) -> bool:
        """Whether there are frames that are not known to be on the disk."""
        return self.next_sequence - 1 > self._synced

    def append(self, frame: Intent | Outcome) -> int:
        """Write one frame and return its sequence. It outlives this process at once, a power cut only after `sync`.

        Raises:
            JournalFull: nothing was written, because the disk is full; the frame can be written later.
            JournalFailed: nothing was written. `failed` tells whether this writer is at its end, or only this frame was
                refused, for ever: too large, not encodable, or not in its turn (an intent without the next sequence, an
                outcome without an open intent).
        """
        if self.failed:
            self._refuse()
        sequence = self.next_sequence
        entry = frame.entry
        intended = type(frame) is Intent
        if entry.journal != self.id:
            raise JournalFailed(f"an entry of journal {entry.journal} is not written into {self.id}")
        if intended:
            if entry.sequence != sequence:
                raise JournalFailed(f"an intent with sequence {entry.sequence} is not written as frame {sequence}")
            if (len(self._open) + 1) * OUTCOME_BYTES > self._reserve.bytes or self._reserve.bytes < RESERVE_BYTES:
                self._make_reserve()
        elif entry.sequence not in self._open:
            raise JournalFailed(f"frame {sequence}: there is no open intent {entry.sequence}")
        encode(frame, sequence, self._buffer)
        try:
            problem = self._segment.write(self._buffer)
            if problem:
                self._recover(problem, spare=not intended)
            if intended:
                self._open.add(sequence)
            else:
                self._open.remove(entry.sequence)
            self.next_sequence = sequence + 1
        except OSError as error:
            self._fail("a frame that was not written could not be cut off", error)
        except JournalFailed:
            raise
        except BaseException:
            # Not the system's answer (a signal handler's): what the file holds is unknown, and may have been read.
            self.failed, self.failure = True, "a write was interrupted"
            raise
        return sequence

    def sync(self) -> None:
        """Make every frame that was appended before this call durable (`fdatasync`).

        Raises:
            JournalFailed: the system could not; `failed` is set for ever.
        """
        with self._syncing:
            if self.failed:
                self._refuse()
            written = self.next_sequence - 1
            try:
                os.fdatasync(self._segment.fd)
            except OSError as error:
                self._fail("fdatasync failed", error)
            self._synced = written
            try:
                self._segment.hash()
            except OSError as error:
                self._fail("what was written cannot be read back", error)

    def rotate_if_due(self) -> None:
        """Close a segment that is full or old and open the next one. Without space for it the old one is used on.

        Raises:
            JournalFailed: an fsync failed, or the next segment cannot be made; `failed` is set for ever.
        """
        segment = self._segment
        now = time.monotonic()
        if self.failed or segment.size == segment.born_size or now < self._retry_rotation:
            return
        if segment.size < self._segment_bytes and now - segment.born < self._segment_s:
            return
        with self._syncing:
            try:
                fresh = self._next_segment()
            except OSError as error:
                self._fail("the next segment cannot be opened", error)
            if fresh is None:
                self._retry_rotation = now + RETRY_S
                return
            self._segment = fresh
            self._synced = self.next_sequence
            self.next_sequence += 1
            segment.close()

    def close(self) -> None:
        """Make everything durable and let go of the lock; a writer that failed only lets go. Closing twice is nothing.

        Raises:
            JournalFailed: the last fsync failed.
        """
        with self._syncing:
            if self._closed:
                return
            try:
                if not self.failed:
                    os.fsync(self._segment.fd)
                    self._synced = self.next_sequence - 1
                    (self.directory / RESERVE).unlink(missing_ok=True)
            except OSError as error:
                self._fail("it could not be closed", error)
            finally:
                if not self.failed:
                    self.failed, self.failure = True, "it is closed"
                # Unlocked by word, not only by closing: a child that was forked around the hooks may share the lock.
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        for fd in (self._segment.fd, self._reserve.fd, self._lock):
            os.close(fd)

    def _disown(self) -> None:
        """In a forked child: the journal is the parent's. Close the descriptors, and the parent's lock ends with it."""
        if not self._closed:
            self.failed, self.failure = True, "it belongs to the process this one was forked from"
            self._let_go()

    def _refuse(self) -> NoReturn:
        raise JournalFailed(f"journal {self.id} is not written any more: {self.failure}")

    def _fail(self, what: str, error: OSError) -> NoReturn:
        self.failed, self.failure = True, f"{what}: {error.strerror}"
        raise JournalFailed(f"journal {self.id} failed: {self.failure}") from error

    def _recover(self, problem: int, *, spare: bool) -> None:
        """A write failed and was cut off. Outcomes try again with space from the reserve."""
        while problem in NO_SPACE and spare and self._reserve.release(RELEASE_BYTES):
            problem = self._segment.write(self._buffer)
            if not problem:
                return
        if problem not in NO_SPACE:
            self._fail("a write failed", OSError(problem, os.strerror(problem)))
        raise JournalFull(f"journal {self.id}: {os.strerror(problem)}; the frame was not written")

    def _make_reserve(self) -> None:
        """Before an intent: keep space back for its outcome too, or refuse it."""
        now = time.monotonic()
        wanted = ((len(self._open) + 1) * OUTCOME_BYTES // RESERVE_BYTES + 1) * RESERVE_BYTES
        if now >= self._retry_reserve:
            try:
                if self._reserve.hold(wanted):
                    return
            except OSError as error:
                self._fail("the reserve cannot be made", error)
            self._retry_reserve = now + RETRY_S
        raise JournalFull(f"journal {self.id}: no space left to keep back for the outcome of another call")

    def _opening(self, number: int, sequence: int, previous: str | None) -> bytearray:
        frame = Opening(self.id, number, datetime.now(UTC), self._writer, __version__, previous)
        encode(frame, sequence, self._buffer)
        return self._buffer

    def _next_segment(self) -> Segment | None:
        """The next segment with its opening, durable; None where the disk is full."""
        old = self._segment
        os.fsync(old.fd)
        self._synced = self.next_sequence - 1
        try:
            fresh = Segment.create(self.directory, old.number + 1)
        except OSError as error:
            if error.errno in NO_SPACE:
                return None
            raise
        problem = fresh.write(self._opening(fresh.number, self.next_sequence, old.digest()))
        if problem in NO_SPACE:
            fresh.close()
            return None
        if problem:
            raise OSError(problem, os.strerror(problem))
        fresh.publish(self.directory)
        return fresh


def _disown_in_children(journal: JournalWriter) -> None:
    reference = weakref.ref(journal)

    def disown() -> None:
        inherited = reference()
        if inherited is not None:
            inherited._disown()

    os.register_at_fork(after_in_child=disown)


class GroupCommit:
    """Shares `fdatasync` between frames, off the event loop, and rotates segments in between.

    One fdatasync starts at most the writer's sync interval after a frame was written (or at once when the one under way
    ends, where that takes longer). All methods belong to the event loop's thread.
    """

    PACE = 0.8
    """Part of the interval that is slept; the rest is for late timers and the hand-over to the thread."""

    def __init__(self, writer: JournalWriter, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called once, on the event loop, when the journal has failed: stop admitting, exit."""
        self._writer = writer
        self._on_failure = on_failure
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        # A thread of its own: a slow disk must not wait behind other work, nor other work behind it.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="journal-sync")
        self._task.add_done_callback(self._ended)

    async def wait(self, sequence: int) -> None:
        """Return when an fdatasync that began after the frame was written has succeeded.

        Raises:
            JournalFailed: the journal failed, or group commit is not running.
        """
        if self._writer.synced_sequence >= sequence:
            return
        if self._writer.failed or self._task is None or self._task.done():
            raise JournalFailed(f"frame {sequence} of journal {self._writer.id} is not known to be on the disk")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((sequence, future))
        if self._writer.always:
            self._wake.set()
        await future

    async def stop(self) -> None:
        """Sync what is left and end. The writer stays open. A failure goes to the waiters and `on_failure`, as ever."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._executor.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._writer.sync_interval_ms / 1000 * self.PACE
        while True:
            due = loop.time() + pause
            self._wake.clear()
            last = self._stopping
            if self._writer.unsynced or self._writer.failed:
                await loop.run_in_executor(self._executor, self._writer.sync)
            self._writer.rotate_if_due()
            self._release()
            if last:
                return
            timer = loop.call_at(due, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _release(self) -> None:
        synced = self._writer.synced_sequence
        waiting = self._waiters
        self._waiters = [waiter for waiter in waiting if waiter[0] > synced]
        for sequence, future in waiting:
            if sequence <= synced and not future.done():
                future.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whatever ended the task but `stop` is a failure: frames are no longer made durable."""
        error = None if task.cancelled() else task.exception()
        waiting, self._waiters = self._waiters, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(JournalFailed(f"journal {self._writer.id} ended before the frame was durable"))
        if error is not None or task.cancelled():
            self._on_failure()
