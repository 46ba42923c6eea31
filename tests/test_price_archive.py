from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.price_archive import Archive, Model, NameIndex, Row, faults, matcher
from costbearer.stores.archive import bundled


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


# ---- what makes an archive unfit -----------------------------------------------------------------------------------

SOUND: dict[str, Any] = {
    "format": 2,
    "providers": [{"id": "p", "name": "P", "api_pattern": "x"}],
    "aliases": [],
    "models": [
        {
            "provider": "p",
            "id": "m",
            "match": {"equals": "m"},
            "prices": [
                {"prices": {"input": "0.000002"}},
                {"since": "2026-02-01", "prices": {"input": ["0.000001", [100, "0.0000015"], [200, "0.000003"]]}},
            ],
            "variants": [
                {"when": {"tier": "batch"}, "since": "2026-03-01", "prices": {"input": "0.0000005"}},
                {"when": {"tier": "batch"}, "prices": {"input": "0.0000007"}},
                {"when": {"tier": "flex"}, "until": "2026-03-01", "prices": {"input": "0.0000007"}},
                {"when": {"tier": "flex"}, "since": "2026-03-01", "prices": {"input": "0.0000007"}},
            ],
        }
    ],
}


def broken(change: Callable[[dict[str, Any]], object]) -> list[str]:
    """The faults of the sound archive after a change to it."""
    document = json.loads(json.dumps(SOUND))
    change(document)
    return list(faults(msgspec.json.decode(json.dumps(document).encode(), type=Archive)))


def prices_of(document: dict[str, Any], row: int = 0, kind: str = "prices") -> dict[str, Any]:
    prices: dict[str, Any] = document["models"][0][kind][row]["prices"]
    return prices


def test_a_sound_archive_has_no_faults() -> None:
    assert broken(lambda document: None) == []


@pytest.mark.parametrize(
    "text", ["-0.1", "1e-6", "0.0000000000001", ".5", "1.", "", " 1", "NaN", "Infinity", "1,5", "٣", "0x1", 0.000002]
)
def test_a_price_is_plain_decimal_text_of_at_most_twelve_places(text: object) -> None:
    expected = f"p/m, prices row 2: input: {str(text)!r} is not a decimal number of 0 or more with at most 12 places"
    assert broken(lambda document: prices_of(document, 1).update(input=["0.1", [5, text]])) == [expected]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda document: document["models"][0]["prices"][0].update(since="2026-01-01"),
            "p/m, prices row 1: a gap; the first row must hold without condition",
        ),
        (
            lambda document: document["models"][0].update(prices=[]),
            "p/m, prices row 1: a gap; the first row must hold without condition",
        ),
        (
            lambda document: document["models"][0]["prices"].append(document["models"][0]["prices"][1]),
            "p/m, prices rows 2 and 3 overlap: both begin on 2026-02-01",
        ),
        (
            lambda document: document["models"][0]["prices"].append({"since": "2026-01-01", "prices": {}}),
            "p/m, prices row 3 begins on 2026-01-01, before the row above it",
        ),
        (
            lambda document: document["models"][0]["variants"].append(
                {"when": {"tier": "batch"}, "since": "2026-04-01", "prices": {"input": "1"}}
            ),
            "p/m, variants rows 1 and 5 overlap: both price input",
        ),
        (
            lambda document: document["models"][0]["variants"][2].update(until="2026-03-02"),
            "p/m, variants rows 3 and 4 overlap: both price input",
        ),
        (
            lambda document: document["models"][0]["variants"][3].update(until="2026-03-01"),
            "p/m, variants row 4: it ends on 2026-03-01, not after it begins on 2026-03-01",
        ),
        (
            lambda document: prices_of(document).update(input=["1", [200, "2"], [100, "3"]]),
            "p/m, prices row 1: input: the thresholds [200, 100] do not rise",
        ),
        (
            lambda document: prices_of(document).update(input=["1", ["200", "2"]]),
            "p/m, prices row 1: input: the thresholds ['200'] do not rise",
        ),
        (lambda document: document["models"].append(document["models"][0]), "p/m: there twice"),
        (lambda document: document["providers"].clear(), "p/m: no such provider"),
        (
            lambda document: document["aliases"].append(
                {"provider": "p", "name": "a", "model": "lost", "until": "2026-01-01", "source": "x"}
            ),
            "alias p/a: no model lost",
        ),
        (
            lambda document: document["aliases"].extend(
                [{"provider": "p", "name": "a", "model": "m", "until": "2026-01-01", "source": "x"}] * 2
            ),
            "alias p/a until 2026-01-01: there twice",
        ),
        (
            lambda document: document["providers"][0].update(
                factors=[{"when": {"tier": "x"}, "factor": "-1", "source": "x"}]
            ),
            "p, factor 1: '-1' is not a decimal number of 0 or more with at most 12 places",
        ),
        (
            lambda document: document["providers"][0].update(
                factors=[{"when": {"tier": "x"}, "factor": "1", "source": "x", "over": {"tier": "x"}}]
            ),
            "p, factor 1: a context is a multiple of a part of itself, or of standard",
        ),
    ],
)
def test_each_fault_names_its_row(change: Callable[[dict[str, Any]], object], fault: str) -> None:
    assert broken(change) == [fault]


def test_the_bundled_archive_has_no_faults() -> None:
    assert list(faults(msgspec.json.decode(bundled(), type=Archive))) == []
