"""The journal's files: a directory's layout, its lock, one open segment, and the space kept back for outcomes.

A journal is a directory `<root>/<journal id>/` with `lock`, `reserve` and segments `00000001.cbj`, `00000002.cbj`...
A sealed segment N is `N.cbj.zst` (the same bytes, compressed) and `N.seal.json`; then `N.cbj` is gone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from pathlib import Path

JOURNAL_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
"""UTC time of birth and 8 random hex digits, so that ids sort by time."""

NEWBORN = ".new-"
"""Prefix of a directory whose lock is not held yet; renamed when it is, so that nobody takes it for a dead journal."""

LOCK = "lock"
RESERVE = "reserve"
_SEGMENT = re.compile(r"([0-9]{8})\.cbj")
_RAW = re.compile(r"([0-9]{8})\.cbj(?:\.zst)?")
_CUT = re.compile(r"([0-9]{8})(?:\.[0-9]+)?\.cut")

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
HASHED_BYTES = 1024 * 1024
"""Most that is read back at once to be hashed."""


def journals(root: Path) -> list[Path]:
    """The directories of all journals under `root`, oldest first."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if JOURNAL_ID.fullmatch(path.name) and path.is_dir())


def segment_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.cbj"


def fresh_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.new"


def seal_file(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.seal.json"


def segments(directory: Path) -> list[int]:
    """Numbers of the segments that are not sealed, ascending. The last one is the one that is written."""
    found = (_SEGMENT.fullmatch(path.name) for path in directory.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if not seal_file(directory, number).exists()]


def all_segments(directory: Path) -> list[int]:
    """Numbers of all segments, sealed or not, ascending."""
    found = (_RAW.fullmatch(path.name) for path in directory.iterdir())
    return sorted({int(match[1]) for match in found if match})


def cut_files(directory: Path) -> list[tuple[int, Path]]:
    """(segment number, file) of every torn tail that was cut off and kept."""
    found = ((_CUT.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def raw_bytes(directory: Path, number: int) -> bytes:
    """The frames of a segment, sealed or not. Segments are read whole: their size is bounded by a setting.

    They are read and not mapped: a live writer may cut off a write that failed, and touching a mapped page behind the
    new end, or one the disk cannot read, kills the process instead of raising an error.

    Raises:
        OSError: there is no such segment, or it cannot be read or decompressed.
    """
    raw = segment_file(directory, number)
    sealed = raw.with_suffix(".cbj.zst")
    if not seal_file(directory, number).exists() or not sealed.exists():
        try:
            return raw.read_bytes()
        except FileNotFoundError:
            if not sealed.exists():
                raise
    return _decompressed(sealed)


def _decompressed(file: Path) -> bytes:
    import pyarrow as pa  # 30 MB that a gateway worker never needs

    try:
        with pa.input_stream(str(file), compression="zstd") as stream:
            return bytes(stream.read())
    except pa.ArrowException as error:
        raise OSError(errno.EIO, f"{file.name} cannot be decompressed") from error


def sync_directory(directory: Path) -> None:
    """Make the directory's names durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def acquire(directory: Path) -> int | None:
    """Take the journal's lock: the file descriptor that holds it, or None where another holder lives.

    The lock is an flock: it belongs to the open file, not to the process, and ends with the last descriptor of it. The
    descriptor closes on exec; who keeps it must also close it in forked children, or they keep the journal alive.
    """
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def live(directory: Path) -> bool:
    """Whether somebody holds the journal's lock: its writer, or who takes it over. A directory without a lock is dead.

    To look, the lock is shared for an instant; a `take_over` in that instant finds the journal alive and comes again.
    """
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Segment:
    """One segment file open for appending; it holds whole frames only.

    Attributes:
        size: bytes.
        born_size: bytes when it was published, with nothing but its opening in it.
        born: when it was opened, in monotonic seconds.
    """

    def __init__(self, fd: int, number: int, size: int) -> None:
        self.fd = fd
        self.number = number
        self.size = size
        self.born_size = size
        self.born = time.monotonic()
        self._sha256 = hashlib.sha256()
        self._hashed = 0

    @classmethod
    def create(cls, directory: Path, number: int) -> Segment:
        """A new segment, under a name no reader looks for until `publish`."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return cls(os.open(fresh_file(directory, number), flags, 0o600), number, 0)

    def publish(self, directory: Path) -> None:
        """Durable, and then with its real name. That name says that the segment before will not be written again."""
        os.fsync(self.fd)
        self.born_size = self.size
        fresh_file(directory, self.number).rename(segment_file(directory, self.number))
        sync_directory(directory)

    @classmethod
    def reopen(cls, directory: Path, number: int) -> Segment:
        """An existing segment, at its end."""
        fd = os.open(segment_file(directory, number), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        return cls(fd, number, os.fstat(fd).st_size)

    def write(self, frame: bytearray) -> int:
        """Append one frame in one write: 0, or the errno of the failure, and then nothing of the frame is left.

        Raises:
            OSError: part of the frame may be in the file and could not be cut off.
        """
        try:
            written = os.write(self.fd, frame)
        except OSError as error:
            os.ftruncate(self.fd, self.size)
            return error.errno or errno.EIO
        if written != len(frame):
            # A regular file takes less than it is given only where the space ends.
            os.ftruncate(self.fd, self.size)
            return errno.ENOSPC
        self.size += written
        return 0

    def hash(self) -> None:
        """Take what was written since the last time into the segment's hash, read back from the file.

        Another thread may write meanwhile: the bytes before `size` are whole frames and never change again. Done in
        long stretches and beside the writer's thread, it costs the calls nothing.

        Raises:
            OSError: the file cannot be read, or is shorter than what was written.
        """
        size = self.size
        while self._hashed < size:
            part = os.pread(self.fd, min(size - self._hashed, HASHED_BYTES), self._hashed)
            if not part:
                raise OSError(errno.EIO, "what was written is not in the file any more")
            self._sha256.update(part)
            self._hashed += len(part)

    def digest(self) -> str:
        """SHA-256 of the whole segment, as the next one's opening states it.

        Raises:
            OSError: as `hash`.
        """
        self.hash()
        return self._sha256.hexdigest()

    def cut(self, size: int) -> None:
        """Cut the file to `size` bytes, durably."""
        os.ftruncate(self.fd, size)
        os.fsync(self.fd)
        self.size = size

    def close(self) -> None:
        os.close(self.fd)


class Reserve:
    """Disk space allocated in advance and given back in steps, so that outcomes can be written when the disk is full.

    What is given back belongs to the file system: another writer on the same disk may take it first. Small steps keep
    that little.
    """

    def __init__(self, directory: Path) -> None:
        self.fd = os.open(directory / RESERVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.bytes = os.fstat(self.fd).st_size

    def hold(self, wanted: int) -> bool:
        """Have at least `wanted` bytes; False, and what was held before is still held, where the disk has no space."""
        if self.bytes >= wanted:
            return True
        try:
            os.posix_fallocate(self.fd, 0, wanted)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            os.ftruncate(self.fd, self.bytes)  # an allocation that failed halfway keeps what it got
            return False
        self.bytes = wanted
        return True

    def release(self, step: int) -> bool:
        """Give `step` bytes back to the file system; False where nothing is left to give."""
        if not self.bytes:
            return False
        left = max(0, self.bytes - step)
        os.ftruncate(self.fd, left)
        self.bytes = left
        return True

    def close(self) -> None:
        os.close(self.fd)
