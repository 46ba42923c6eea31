"""The process that forks lives (`tests.lives`), with faults between them and the system."""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.faults import Faults


class Forge:
    """Leads lives in directories below `root`, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        self.faults = Faults(directory, self.root)
        self._log = (directory / "stderr").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lives"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env=self.faults.environment(),
            cwd=Path(__file__).parent.parent,
        )

    def lead(self, life: str, data: Path) -> tuple[list[str], int]:
        """What a life said, and how it ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{life} {data}\n")
        said: list[str] = []
        for line in self._process.stdout:
            said.append(line.strip())
            if said[-1].startswith("ended "):
                return said[:-1], int(said.pop().split()[1])
        raise AssertionError(f"the process that forks lives is gone: {said}")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(30) == 0
        self._log.close()


@cache
def forge() -> Forge:
    """The one of this process of tests: it takes seconds to begin, and no life leaves anything to the next one."""
    directory = tempfile.TemporaryDirectory(prefix="forge-")
    begun = Forge(Path(directory.name))
    atexit.register(directory.cleanup)
    atexit.register(begun.close)
    return begun
