"""Whose fault an error of the disk is: one journal's, which is then held alone, or everybody's."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

import pyarrow as pa

from costbearer.stores.reading import JournalReading

_OF_NO_FILE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR),
    errno.ENOENT,
}
"""Errors that are the whole disk's, the process's or a moment's: the next pass tries again. What is gone shows then."""


class JournalUnreadable(Exception):
    """The disk fails at the files of one journal."""

    def __init__(self, journal: str, reason: str) -> None:
        super().__init__(reason)
        self.journal = journal
        self.reason = reason


@contextmanager
def disk_of(journal: str) -> Iterator[None]:
    """What the disk fails at inside is a file of this journal, and the fault of no other.

    Raises:
        JournalUnreadable: it failed.
        OSError: it failed for a reason that is no file's.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _OF_NO_FILE:
            raise
        reason = f"journal {journal} cannot be read or sealed: {error.strerror or error}"
        raise JournalUnreadable(journal, reason) from error


def moves_of(reading: JournalReading, pool: Executor) -> Iterator[pa.Table]:
    """`JournalReading.moves`, with its errors as in `disk_of`."""
    moves = reading.moves(pool)
    while True:
        with disk_of(reading.id):
            table = next(moves, None)
        if table is None:
            return
        yield table
