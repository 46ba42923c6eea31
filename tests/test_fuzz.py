"""What reads foreign bytes is fuzzed: every seed and a fixed set of mutations here, led by coverage in `make soak`."""

from __future__ import annotations

import os

import pytest

from fuzz import engine
from fuzz.found import FOUND
from fuzz.mutate import mutations
from fuzz.targets import TARGETS, Target

SECONDS = int(os.environ.get("FUZZ_SECONDS", "3600"))
"""How long `make soak` fuzzes each target."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_and_what_is_near_them_are_read_or_refused(target: Target) -> None:
    seeds = list(target.seeds())
    assert seeds
    for data in seeds[:: max(1, len(seeds) // target.begun)]:
        target.check(data)
    for data in mutations(seeds, target.rounds):
        target.check(data)


def test_what_was_found_is_found_no_more() -> None:
    assert FOUND.keys() <= TARGETS.keys()
    for name, inputs in FOUND.items():
        for data in inputs:
            TARGETS[name].check(data)


@pytest.mark.soak
@pytest.mark.skipif(engine.ABSENT, reason="there is no wheel of atheris for this interpreter or platform")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_by_coverage(name: str) -> None:
    outcome = engine.child(name, SECONDS)
    print(f"\n{name}: {outcome.executions:,} executions in {SECONDS} s")
    assert not outcome.finding, outcome.finding
    assert outcome.executions > 0
