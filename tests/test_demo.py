"""The demo, as a newcomer runs it: agent by agent, the ledger equals the simulated providers' own books."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from costbearer.demo import acts as playing
from costbearer.demo.acts import ACTS
from costbearer.demo.comparison import compare, verdict
from costbearer.simulator import Line


@pytest.mark.slow
def test_the_demo_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "costbearer", "demo", "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for act in ACTS:
        assert re.search(rf"^{act.team} +{act.agent} +{act.workload} ", done.stdout, re.M), act
        row = re.search(
            rf"^  {re.escape(act.title)} +(\d+) +([0-9.]+) +([0-9.]+)  equal to the last digit$", done.stdout, re.M
        )
        assert row is not None, (act.title, done.stdout)
        assert int(row[1]) > 0
        assert Decimal(row[2]) == Decimal(row[3]) > 0
    for package in ("openai", "anthropic", "google.genai", "boto3"):
        assert any(act.package == package for act in ACTS)
    assert re.search(r"^  together +\d\d ", done.stdout, re.M)
    assert len(re.findall(r"estimated .* error [+-]", done.stdout)) == 2
    assert "left out" not in done.stdout
    assert "Traceback" not in done.stderr


def line(request_id: str, cost: str, **more: Any) -> Line:
    told: dict[str, Any] = {
        "seq": 1,
        "at": datetime.now(UTC),
        "provider": "openai",
        "operation": "chat.completions",
        "request_id": request_id,
        "response_id": None,
        "request_model": "m",
        "model": "m",
        "mark": "",
        "stream": False,
        "status": 200,
        "usage": {},
        "cost_usd": cost,
        "billed": True,
        "outcome": "complete",
        "generated_tokens": 1,
        "bytes_sent": 1,
        "fault": None,
        "saw": (),
        "body_sha256": "",
    }
    return Line(**told | more)


def entry(request_id: str | None, cost: str | None, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "entry_id": f"j.{request_id}",
        "provider_request_id": request_id,
        "cost_usd": cost,
        "agent": "ranker",
        "basis": "metered" if cost else "unknown",
        "request_model": "m",
        "reason_unknown": None if cost else "awaiting_result",
        "tags": {},
        "calls": 1,
        "refers_to": None,
    }
    return told | more


def test_what_is_equal_holds() -> None:
    settled = [
        entry("b", "2", entry_id="books.2"),
        entry("b", None, calls=-1, refers_to="j.b", entry_id="books.1"),
        entry("b", None),
    ]
    outcome = compare([entry("a", "1.5"), *settled], [line("a", "1.5"), line("b", "2")], {})
    assert outcome.holds
    assert (outcome.total.calls, outcome.total.ledger) == (2, Decimal("3.5"))


def test_replies_without_an_id_are_joined_by_their_mark() -> None:
    assert compare([entry(None, "1", tags={"mark": "x"})], [line("a", "1", mark="x")], {}).holds


@pytest.mark.parametrize(
    ("entries", "lines", "said"),
    [
        ([entry("a", "1.000000000001")], [line("a", "1")], "NOT EQUAL"),
        ([], [line("a", "1")], "billed, not in the ledger: a"),
        ([entry("b", "1")], [], "in the ledger, not billed: j.b"),
        ([entry(None, "1")], [], "in the ledger, not billed: j.None"),
        ([entry("a", None)], [line("a", "1")], "of unknown cost in the ledger: a (awaiting_result)"),
    ],
)
def test_a_difference_is_said_and_fails(entries: list[dict[str, Any]], lines: list[Line], said: str) -> None:
    outcome = compare(entries, lines, {})
    assert not outcome.holds
    assert said in "\n".join(verdict(outcome))


def test_an_estimate_stands_apart_with_its_error() -> None:
    outcome = compare([entry("a", "2", basis="estimated")], [line("a", "4")], {})
    assert outcome.holds
    assert outcome.total.calls == 0
    assert "error -50.0%" in "\n".join(verdict(outcome))


def test_a_missing_package_leaves_its_acts_out_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "_installed", lambda package: package not in {"boto3", "google.genai"})
    monkeypatch.setattr(playing, "ACTS", tuple(act._replace(play=lambda _, __: 3) for act in ACTS))

    keys = {act.agent: "cbk_fake" for act in ACTS}
    stage: Any = SimpleNamespace(https_url=None, keys=keys)
    made, left_out = playing.perform(stage)
    assert set(left_out) == {"scout", "planner", "claims-reader"}
    assert made == 3 * (len(ACTS) - 3)
    said = "\n".join(verdict(compare([], [], left_out)))
    assert "left out   boto3, Bedrock: the package boto3 is not installed" in said
    monkeypatch.setattr(playing, "_installed", lambda _: True)
    assert set(playing.perform(stage)[1]) == {"claims-reader"}, "without a certificate there is no HTTPS"


def test_packages_are_looked_for_without_importing_them() -> None:
    assert playing._installed("openai")
    assert not playing._installed("no_such_package")
    assert not playing._installed("no_such_package.below")
