"""Journal, take-over and books in a simulated world: thousands of lives with deaths, failing disks, power cuts, clocks.

A seed that fails is printed with all that happened before; put it into `FAILED_ONCE`, where it stays.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation import simulate

STEPS = 40
JOURNALS_QUICK, BOOKS_QUICK = 50, 1
JOURNALS_SOAK, BOOKS_SOAK = 4000, 100

FAILED_ONCE = [(17, False), (142, False)]
"""(seed, with books): in these the simulated disk itself was wrong. It had forgotten that a directory was removed, and
that a file had become shorter than what was once durable of it."""


def lives(directory: Path, seeds: range, *, books: bool) -> str:
    """Run these seeds; gives what they were, for publishing."""
    began, hours, happened = time.monotonic(), 0.0, Counter[str]()
    for seed in seeds:
        place = directory / f"{seed}"
        place.mkdir()
        _, passed, world = simulate(place, seed, steps=STEPS, books=books)
        hours += passed
        happened.update(_kinds(world.happened))
    took = time.monotonic() - began
    what = "journals and books" if books else "journals"
    faults = f"{happened['died']} deaths, {happened['failed']} failing calls, {happened['power_cut']} power cuts"
    return (
        f"{what}: seeds {seeds.start} to {seeds.stop - 1}, {STEPS} steps each, {hours:.0f} simulated hours in "
        f"{took:.0f} s; {faults}; 0 seeds failed"
    )


def _kinds(happened: list[str]) -> list[str]:
    kinds = ["power_cut" for step in happened if step == "power_cut" or step.endswith("power cut")]
    kinds += ["died" for step in happened if ": dead" in step or step in {"worker_dies", "keeper_dies"}]
    kinds += ["failed" for step in happened if "(error" in step or "(short" in step]
    return kinds


def test_journals_live_through_everything(tmp_path: Path) -> None:
    lives(tmp_path, range(1000, 1000 + JOURNALS_QUICK), books=False)


def test_books_live_through_everything(tmp_path: Path) -> None:
    lives(tmp_path, range(1000, 1000 + BOOKS_QUICK), books=True)


@pytest.mark.parametrize(("seed", "books"), FAILED_ONCE)
def test_what_failed_once_holds(tmp_path: Path, seed: int, books: bool) -> None:
    simulate(tmp_path, seed, steps=STEPS, books=books)


@pytest.mark.soak
@pytest.mark.parametrize("books", [False, True], ids=["journals", "books"])
def test_thousands_of_lives(tmp_path: Path, books: bool) -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    count = BOOKS_SOAK if books else JOURNALS_SOAK
    print(lives(tmp_path, range(first, first + count), books=books))


def test_one_seed_is_one_run(tmp_path: Path) -> None:
    the_same_again(tmp_path, books=False)


@pytest.mark.soak
def test_one_seed_is_one_run_with_books(tmp_path: Path) -> None:
    the_same_again(tmp_path, books=True)


def the_same_again(directory: Path, *, books: bool) -> None:
    """The same seed is the same story to the last byte that was written, and another seed is another one."""
    hashes = []
    for number, seed in enumerate((7, 7, 8)):
        place = directory / str(number)
        place.mkdir()
        hashes.append(simulate(place, seed, steps=STEPS, books=books)[0])
    assert hashes[0] == hashes[1] != hashes[2]
