from __future__ import annotations

import re
from datetime import date, time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.price_archive import Model, NameIndex, Row, matcher


@pytest.mark.parametrize(
    ("clause", "yes", "no"),
    [
        ({"equals": "GPT-5"}, ["gpt-5"], ["gpt-5-mini", "xgpt-5", ""]),
        ({"starts_with": "Claude-3"}, ["claude-3", "claude-3-opus"], ["aws.claude-3"]),
        ({"ends_with": ":free"}, ["x:free", ":free"], ["x:free2"]),
        ({"contains": "Gemini"}, ["gemini", "models/gemini-2"], ["gemin"]),
        ({"regex": r"^o[134]"}, ["o1", "o3-mini"], ["o2", "gpt-o1"]),
        (
            {"or": [{"equals": "a"}, {"and": [{"contains": "b"}, {"contains": "c"}]}]},
            ["a", "bc", "cxb"],
            ["b", "c", "ab"],
        ),
    ],
)
def test_matcher(clause: dict[str, Any], yes: list[str], no: list[str]) -> None:
    matches = matcher(clause)
    assert [name for name in yes if not matches(name)] == []
    assert [name for name in no if matches(name)] == []


@pytest.mark.parametrize(("clause", "error"), [({"glob": "a*"}, ValueError), ({"regex": "("}, re.error)])
def test_matcher_refuses_what_it_does_not_know(clause: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        matcher(clause)


words = st.text("ab", min_size=1, max_size=3)
simple = st.tuples(st.sampled_from(["equals", "starts_with", "ends_with", "contains"]), words).map(
    lambda pair: dict([pair])
)
clauses = st.one_of(
    simple,
    st.lists(simple, min_size=1, max_size=3).map(lambda parts: {"or": parts}),
    st.lists(simple, min_size=1, max_size=2).map(lambda parts: {"and": parts}),
)


@given(st.lists(clauses, max_size=6), st.lists(words, min_size=1, max_size=5))
def test_the_index_finds_the_first_match_as_a_scan_would(rules: list[dict[str, Any]], names: list[str]) -> None:
    index = NameIndex(rules)
    for name in names:
        scan = next((position for position, rule in enumerate(rules) if matcher(rule)(name)), None)
        assert index.find(name) == scan


DAY = date(2026, 6, 1)


@pytest.mark.parametrize(
    ("row", "day", "clock", "active"),
    [
        (Row({}), DAY, time(0), True),
        (Row({}, since=DAY), date(2026, 5, 31), time(23, 59), False),
        (Row({}, since=DAY), DAY, time(0), True),
        (Row({}, until=DAY), date(2026, 5, 31), time(23, 59), True),
        (Row({}, until=DAY), DAY, time(0), False),
        (Row({}, hours=(time(1), time(4))), DAY, time(1), True),
        (Row({}, hours=(time(1), time(4))), DAY, time(4), False),
        (Row({}, hours=(time(16, 30), time(0, 30))), DAY, time(0, 29), True),
        (Row({}, hours=(time(16, 30), time(0, 30))), DAY, time(0, 30), False),
        (Row({}, hours=(time(16, 30), time(0, 30))), DAY, time(16, 30), True),
        (Row({}, hours=(time(1), time(4)), since=DAY), date(2026, 5, 31), time(2), False),
    ],
)
def test_a_row_is_active_on_its_days_in_its_hours(row: Row, day: date, clock: time, active: bool) -> None:
    assert row.active(day, clock) is active


def test_the_last_active_row_is_standard_and_the_first_variant_wins() -> None:
    early, late = Row({"input": "1"}), Row({"input": "2"}, since=DAY)
    newer = Row({"input": "4"}, when={"tier": "batch"}, since=DAY)
    older = Row({"input": "3"}, when={"tier": "batch"})
    model = Model(provider="p", id="m", match={"equals": "m"}, prices=(early, late), variants=(newer, older))
    assert model.standard(date(2026, 5, 31), time(0)) is early
    assert model.standard(DAY, time(0)) is late
    assert model.special({"tier": "batch"}, DAY, time(0)) == [newer, older]
    assert model.special({"tier": "batch"}, date(2026, 5, 31), time(0)) == [older]
    assert model.special({"tier": "batch", "geo": "us"}, DAY, time(0)) == []
    assert model.boundaries({}) == {DAY}
