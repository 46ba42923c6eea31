"""The demo, as a newcomer runs it: its total equals the simulated providers' own books, to the last digit."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from costbearer.demo import Comparison, verdict


@pytest.mark.slow
def test_the_demo_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "costbearer", "demo", "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for label in ("search", "support", "growth", "platform", "ranker", "rerank-results"):
        assert label in done.stdout
    exact = re.search(r"metered +(\d+) calls +ledger ([0-9.]+) +books ([0-9.]+) +equal to the last digit", done.stdout)
    assert exact is not None, done.stdout
    assert int(exact[1]) > 25
    assert Decimal(exact[2]) == Decimal(exact[3]) > 0
    assert len(re.findall(r"estimated .* error [+-]", done.stdout)) == 2
    assert "Traceback" not in done.stderr


def test_a_difference_is_said_and_fails() -> None:
    off = Comparison(
        3, Decimal("1.000000000001"), Decimal(1), [("a", "m", Decimal(2), Decimal(4))], ["billed, missing"]
    )
    assert not off.holds
    said = "\n".join(verdict(off))
    assert "NOT EQUAL" in said
    assert "error -50.0%" in said
    assert "billed, missing" in said
    assert Comparison(1, Decimal(1), Decimal(1), [], []).holds
