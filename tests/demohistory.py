"""The demo's history, written once for all tests of a run that look at it; each gets a copy of its own."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from costbearer import config as settings
from costbearer.demo.history import write


def history_in(data: Path, factory: pytest.TempPathFactory) -> None:
    """Put the history into a data directory that is not there yet."""
    base = factory.getbasetemp()
    # Workers of one run have neighbouring directories; the first of them writes, the others wait for it.
    shared = (base.parent if base.name.startswith("popen-") else base) / "demo-history"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "written").exists():
            shutil.rmtree(shared, ignore_errors=True)
            write(settings.load(None, environ={}, overrides={"data": str(shared / "data")}))
            (shared / "written").touch()
    shutil.copytree(shared / "data", data)
