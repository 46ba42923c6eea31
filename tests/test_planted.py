"""Planted bugs are caught: all of them by `make soak`; here, that each can still be planted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.planted import BUGS, TOP, Bug, caught_by, plant


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug: Bug, tmp_path: Path) -> None:
    """What a bug replaces stands in the code exactly once, and the tests that should see it exist."""
    copied = tmp_path / bug.file
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(TOP / "src" / "costbearer" / bug.file, copied)
    before = copied.read_text(encoding="utf-8")
    plant(bug, tmp_path)
    assert copied.read_text(encoding="utf-8") != before
    compile(copied.read_text(encoding="utf-8"), bug.file, "exec")
    assert all((TOP / "tests" / test).exists() for test in bug.tests)


@pytest.mark.soak
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    test = caught_by(bug)
    assert test is not None, f"nothing failed although {bug.name}"
    print(f"{bug.name}: caught by {test}")
