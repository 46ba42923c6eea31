"""Faults between real processes and the system: the Python side of `faults.c`.

A test compiles the C file, starts a process with it preloaded, and says through a shared page which of the calls that
change files shall end otherwise, and what the process's wall clock is wrong by.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

EXIT_KILLED = 99
"""The exit code of a process that was made to die."""


class Mode(IntEnum):
    """How a call that is hit ends."""

    DIE_BEFORE = 1
    DIE_HALF = 2
    DIE_AFTER = 3
    FAIL = 4
    SHORT = 5


class Kind(IntFlag):
    """The calls that change files."""

    WRITE = 1
    FSYNC = 2
    RENAME = 4
    UNLINK = 8
    TRUNCATE = 16
    ALLOCATE = 32
    MAKE = 64
    DATASYNC = 128
    SYNC = FSYNC | DATASYNC


EVERY = Kind(255)
_FIELDS = ("first", "last", "mode", "error", "kinds", "pid", "count", "hits", "clock_ns", "ended")
_WHERE = 8 * len(_FIELDS)


def library(directory: Path) -> Path:
    """The compiled library; made in `directory` where it is not there yet. Skips the test where nothing compiles C."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        needed = "a C compiler (cc or gcc) is needed to make a process fail at chosen system calls"
        if os.environ.get("COSTBEARER_COMPILER") == "required":
            pytest.fail(needed)
        pytest.skip(needed)
    made = directory / f"faults-{os.getpid()}.so"
    if not made.exists():
        source = Path(__file__).with_name("faults.c")
        options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *options, "-o", str(made), str(source), "-ldl"], check=True)
    return made


class Faults:
    """The page that one test shares with the processes it starts; what is below `root` is counted."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.root = root
        self._library = library(directory)
        self._file = directory / f"faults-{root.name}.page"
        self._file.write_bytes(bytes(4096))
        with self._file.open("r+b") as stream:
            self._page = mmap.mmap(stream.fileno(), 4096)
        self._words = memoryview(self._page).cast("q")
        self.off()

    def environment(self) -> dict[str, str]:
        """The environment of a process that shall have these faults, and of all that it starts."""
        more = {"LD_PRELOAD": str(self._library), "FAULTS_PAGE": str(self._file), "FAULTS_ROOT": str(self.root)}
        return os.environ | more

    def arm(
        self,
        mode: Mode,
        nth: int,
        *,
        code: int = 0,
        kinds: Kind = EVERY,
        where: str = "",
        pid: int = 0,
        lasting: bool = False,
    ) -> None:
        """Count from 1 again, and have the `nth` call end as `mode` says; with `lasting` all behind it too. `nth` 0
        only counts. Counted are calls of these kinds, on paths with `where` in them, of all processes or of one."""
        self.off()
        text = where.encode()
        assert len(text) < 64
        self._page[_WHERE : _WHERE + 64] = text.ljust(64, b"\0")
        last = 2**62 if lasting else nth
        said = {"last": last, "mode": mode, "error": code, "kinds": kinds, "pid": pid, "ended": -1}
        for name, value in said.items():
            self._set(name, value)
        self._set("first", nth)

    def off(self) -> None:
        """No call is hit or counted any more."""
        for name in ("first", "kinds", "count", "hits"):
            self._set(name, 0)

    @property
    def count(self) -> int:
        """How many calls were counted since `arm`."""
        return self._words[_FIELDS.index("count")]

    @property
    def hits(self) -> int:
        """How many of them were hit."""
        return self._words[_FIELDS.index("hits")]

    @property
    def ended(self) -> int | None:
        """The code with which the one process that is counted ended itself (`_exit`); None where it has not."""
        code = self._words[_FIELDS.index("ended")]
        return None if code < 0 else code

    def clock(self, seconds: float) -> None:
        """From now on the wall clocks of these processes are wrong by this much."""
        self._set("clock_ns", round(seconds * 10**9))

    def _set(self, name: str, value: int) -> None:
        self._words[_FIELDS.index(name)] = int(value)
