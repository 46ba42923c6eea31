"""The kept results of the benchmarks: one group measured again touches no other."""

from __future__ import annotations

from bench.run import RESULTS, groups, merged

ORDER = ["one", "two", "three"]


def test_a_group_is_replaced_in_its_place_and_the_others_stay() -> None:
    kept = ""
    for name in ("three", "one", "gone"):
        kept = merged(kept, name, f"| {name} | 1 |\n", ORDER)
    again = merged(kept, "two", "| two | 2 |\n", ORDER)
    assert [line for line in again.splitlines() if line.startswith("## ")] == [
        "## one",
        "## two",
        "## three",
        "## gone",
    ]
    assert merged(again, "two", "| two | 2 |\n", ORDER) == again
    replaced = merged(again, "one", "| one | 9 |\n", ORDER)
    assert replaced == again.replace("| one | 1 |", "| one | 9 |")


def test_the_kept_results_are_those_of_known_groups() -> None:
    kept = [line.removeprefix("## ") for line in RESULTS.read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert kept == [name for name in groups() if name in kept]
    assert {"one-worker", "stages", "reports"} <= set(kept)
