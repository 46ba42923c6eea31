"""Keys that were used, digested anew: what workers hand to the console, which alone writes the control store.

Only a worker sees a key's text, and only while it is used; only the console may change the control store, and it never
sees one. So a worker that has checked a key under an old pepper writes the key's digest under the active one into a
file of mode 0600, once per key, and the console takes it from there. A line that is lost is written again when the key
is used after the worker has read the keys anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

FILE = "rekeyed.jsonl"

_log = logging.getLogger("costbearer.control")


class Rekeyed(msgspec.Struct, frozen=True):
    """A secret by its lookup id, the version of the pepper, and the digest under it in hex."""

    lookup_id: str
    pepper: int
    digest: str


class Spool:
    """The file of one data directory. Several processes may add to it and one take from it at once."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE

    def add(self, lookup_id: str, pepper: int, digest: bytes) -> None:
        """Hand over a digest. It is not worth refusing a call for: what cannot be written is said in the log."""
        line = msgspec.json.encode(Rekeyed(lookup_id, pepper, digest.hex())) + b"\n"
        try:
            with self._opened() as descriptor:
                os.write(descriptor, line)
        except OSError as error:
            _log.warning("%s cannot be written, the key keeps its old digest: %s", self._file, error.strerror)

    @contextlib.contextmanager
    def taken(self) -> Iterator[list[Rekeyed]]:
        """What was handed over; it is gone at the end, unless that is left by an exception."""
        if not self._file.exists():
            yield []
            return
        with self._opened() as descriptor:
            yield _read(self._file.read_bytes())
            os.ftruncate(descriptor, 0)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _read(data: bytes) -> list[Rekeyed]:
    """The lines that are whole; the rest of one that a crash cut off says nothing."""
    found = []
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(line, type=Rekeyed))
    return found
