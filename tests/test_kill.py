"""kill -9 of any part at any moment: no call is lost or doubled, and what reached its caller is exact.

The judge is the simulated providers' own book, which no kill touches.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer.simulator import Line, RunningSimulator, running_simulator
from tests.system import Ask, Load, Server, alive, kill, running_server

ROUNDS_QUICK = 4
ROUNDS_SOAK = 210
PARTS = ("worker", "gateway", "console", "everything")

OVERHEAD_TOKENS = 1024
"""What a provider's template may add to a request, as documented in usage.py; stated here again on purpose."""
DEAREST = {
    # USD per token at the dearest price that may hold for the model: (input side, output side).
    "gpt-4o-mini": (Decimal("0.00000025"), Decimal("0.000001")),
    "claude-haiku-4-5": (Decimal("0.000002"), Decimal("0.000005")),
}


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    rounds(tmp_path, ROUNDS_QUICK, seed=1)


@pytest.mark.soak
def test_many_kills(tmp_path: Path) -> None:
    rounds(tmp_path, ROUNDS_SOAK, seed=random.SystemRandom().randrange(10**6))


def rounds(directory: Path, count: int, seed: int) -> None:
    """`count` kills under load, each at a random moment, of a random part; then everything is compared."""
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    with running_simulator() as simulator, running_server(directory, simulator) as server:
        keys = [server.issue(), server.issue(agent="triage-bot", team="support")]
        load = Load(server, keys, seed)
        for number in range(count):
            part = PARTS[number % len(PARTS)]
            asyncio.run(_under_load(load, server, part, chance.uniform(0.05, 0.9)))
            killed[part] += 1
        asyncio.run(load.run(0.5))
        await_settled(server, simulator)
        figures = compare(server, simulator, load.asked)
        print(f"\nseed {seed}: {dict(killed)} killed; {figures}")
        doctor = server.run("doctor", "--json")
        assert doctor.returncode == 0, doctor.stdout + doctor.stderr
        assert figures["complete"] > 10 * count, "the load was real"


async def _under_load(load: Load, server: Server, part: str, after_s: float) -> None:
    async def strike() -> None:
        await asyncio.sleep(after_s)
        await asyncio.to_thread(_kill, server, part)

    await asyncio.gather(load.run(after_s + 0.4), strike())
    await asyncio.to_thread(server.await_ready)


def _kill(server: Server, part: str) -> None:
    if part == "everything":
        server.kill_everything()
        server.start()
        return
    roles = server.roles()
    name = {"worker": "workers"}.get(part, part)
    for pid in roles[name][:1]:
        kill(pid)
        end = time.monotonic() + 5
        while alive(pid) and time.monotonic() < end:
            time.sleep(0.01)


def await_settled(server: Server, simulator: RunningSimulator) -> None:
    """Wait until no call is open anywhere and the ledger stands still."""
    end = time.monotonic() + 60
    before = (-1, -1)
    while time.monotonic() < end:
        time.sleep(1.0)
        now = (len(simulator.books().lines), server.api("GET", "/api/v1/reports/spend?by=status&since=7d")["calls"])
        if now == before and now[1] >= now[0]:
            return
        before = now
    raise AssertionError(f"the ledger does not hold every call: {before}\n{server.log()}")


def compare(server: Server, simulator: RunningSimulator, asked: list[Ask]) -> dict[str, Any]:
    entries = server.entries()
    by_mark: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_mark.setdefault(entry["tags"]["mark"], []).append(entry)
    lines: dict[str, list[Line]] = {}
    for line in simulator.books():
        lines.setdefault(line.mark, []).append(line)
    asks = {ask.mark: ask for ask in asked}

    assert len({entry["entry_id"] for entry in entries}) == len(entries), "an entry was posted twice"
    assert len({entry["call_id"] for entry in entries}) == len(entries)
    lost = [mark for mark, seen in lines.items() if len(by_mark.get(mark, [])) < len(seen)]
    assert not lost, f"dispatched, not in the ledger: {lost[:5]}"
    doubled = [mark for mark, posted in by_mark.items() if len(posted) > max(1, len(lines.get(mark, [])))]
    assert not doubled, f"more entries than calls: {doubled[:5]}"

    unknown = 0
    for mark, posted in by_mark.items():
        ask, seen = asks[mark], lines.get(mark, [])
        if ask.complete:
            (entry,), (line,) = posted, seen
            assert entry["basis"] == "metered", (mark, entry["basis"], entry.get("reason_unknown"))
            assert Decimal(entry["cost_usd"]) == line.cost
        for entry in posted:
            if entry["basis"] == "unknown":
                unknown += 1
                _check_bound(entry, ask, seen)
    complete = [ask for ask in asked if ask.complete]
    assert {ask.mark for ask in complete} <= set(by_mark)
    return {"asked": len(asked), "complete": len(complete), "entries": len(entries), "unknown": unknown}


def _check_bound(entry: dict[str, Any], ask: Ask, seen: list[Line]) -> None:
    assert entry.get("cost_usd") is None
    assert entry["reason_unknown"]
    bound = Decimal(entry["bound_usd"])
    per_input, per_output = DEAREST[entry["request_model"]]
    worst = (len(ask.body) + OVERHEAD_TOKENS) * per_input + 80 * per_output
    assert bound <= worst, (bound, worst)
    assert all(bound >= line.cost for line in seen), (bound, [line.cost for line in seen])
