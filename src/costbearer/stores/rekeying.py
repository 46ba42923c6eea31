"""Keys that were used, digested anew: what workers hand to the console, which alone writes the control store.

Only a worker sees a key's text, and only while it is used; only the console may change the control store, and it never
sees one. So a worker that has checked a key under an old pepper keeps the key's digest under the active one in memory,
once per key, and writes what it keeps into a file of mode 0600, from where the console takes it. A line that is lost is
written again when the key is used after the worker has read the keys anew.

No worker ever waits for the console: one that finds the file in use comes again. The console has the file only for as
long as it moves the lines aside, into a file of its own, where they stay until the control store has them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from costbearer.errors import StoreFailed

FILE = "rekeyed.jsonl"
ASIDE = "rekeyed.taken.jsonl"

WAITING_MAX = 10_000
"""Digests that a worker keeps until it can write them, about 200 bytes each. One more is left out: its key is told of
again."""

_log = logging.getLogger("costbearer.control")


class Rekeyed(msgspec.Struct, frozen=True):
    """A secret by its lookup id, the version of the pepper, and the digest under it in hex."""

    lookup_id: str
    pepper: int
    digest: str


class Spool:
    """The files of one data directory. Several processes may add and take at once.

    In a worker `add` and `hand_over` belong to one thread.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self._aside = directory / ASIDE
        self._waiting: dict[str, bytes] = {}
        self._failing = False

    def add(self, lookup_id: str, pepper: int, digest: bytes) -> None:
        """Keep a digest for the next `hand_over`. Touches no file: this is called while a caller waits."""
        if lookup_id in self._waiting or len(self._waiting) < WAITING_MAX:
            self._waiting[lookup_id] = msgspec.json.encode(Rekeyed(lookup_id, pepper, digest.hex())) + b"\n"

    def hand_over(self) -> None:
        """Write what is kept, unless somebody has the file now. What cannot be written is said in the log and tried the
        next time; no call is refused for it."""
        if not self._waiting:
            return
        try:
            with _opened(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB) as descriptor:
                _append(descriptor, b"".join(self._waiting.values()))
        except BlockingIOError:
            return
        except OSError as error:
            if not self._failing:
                _log.warning("%s cannot be written, keys keep their old digests: %s", self._file, error.strerror)
            self._failing = True
            return
        self._failing = False
        self._waiting.clear()

    @contextlib.contextmanager
    def taken(self) -> Iterator[list[Rekeyed]]:
        """What was handed over. It is gone at the end; where that is left by an exception, or this process dies, it is
        there the next time.

        One takes at a time, and whoever else wants to waits for it.

        Raises:
            StoreFailed: a file cannot be read or written.
        """
        if not self._file.exists() and not self._aside.exists():
            yield []
            return
        with contextlib.ExitStack() as held:
            try:
                aside = held.enter_context(_opened(self._aside, fcntl.LOCK_EX))
                self._move_to(aside)
                found = _read(self._aside.read_bytes())
            except OSError as error:
                raise StoreFailed(f"{self._file} cannot be taken over now: {error.strerror}") from None
            yield found
            os.ftruncate(aside, 0)

    def _move_to(self, aside: int) -> None:
        """Copy the lines, then cut them off: a death in between leaves them twice, and a key moves once all the same.

        Where a worker has the file, its lines are left for the next time.
        """
        try:
            with _opened(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB) as descriptor:
                if lines := self._file.read_bytes():
                    # An earlier copy may have been cut off within a line; that must not take the first of these along.
                    _append(aside, b"\n" + lines)
                    os.ftruncate(descriptor, 0)
        except BlockingIOError:
            return


@contextlib.contextmanager
def _opened(file: Path, lock: int) -> Iterator[int]:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, lock)
        yield descriptor
    finally:
        os.close(descriptor)


def _append(descriptor: int, data: bytes) -> None:
    """All of it or nothing: what a full disk takes of it is cut off again."""
    size = os.fstat(descriptor).st_size
    if os.write(descriptor, data) != len(data):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(data: bytes) -> list[Rekeyed]:
    """The lines that are whole; the rest of one that a crash cut off says nothing."""
    found = []
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(line, type=Rekeyed))
    return found
