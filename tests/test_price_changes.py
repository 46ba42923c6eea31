from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
import pytest

from costbearer.price_archive import Archive
from costbearer.price_changes import Change, compare
from costbearer.stores.archive import bundled

TODAY = date(2026, 11, 22)
OLD: dict[str, Any] = {
    "format": 2,
    "sources": {"genai-prices": "0.2.3", "overlay": "data/overlay.toml"},
    "as_of": "2026-11-01",
    "providers": [{"id": "p", "name": "P", "api_pattern": "x"}, {"id": "q", "name": "Q", "api_pattern": "x"}],
    "aliases": [],
    "models": [
        {
            "provider": "p",
            "id": "m",
            "match": {"or": [{"equals": "m"}, {"equals": "m-latest"}]},
            "prices": [
                {"prices": {"input": "0.000002", "output": "0.000004"}},
                {"since": "2026-02-01", "prices": {"input": ["0.000001", [100, "0.000003"]], "output": "0.000004"}},
            ],
            "variants": [{"when": {"tier": "batch"}, "since": "2026-03-01", "prices": {"input": "0.0000005"}}],
        },
        {"provider": "p", "id": "n", "match": {"equals": "n"}, "prices": [{"prices": {"input": "0.1"}}]},
        {"provider": "q", "id": "o", "match": {"equals": "o"}, "prices": [{"prices": {"input": "0.1"}}]},
    ],
}


def archive(document: dict[str, Any]) -> Archive:
    return msgspec.json.decode(json.dumps(document).encode(), type=Archive)


def changed(change: Callable[[dict[str, Any]], object]) -> list[Change]:
    document = json.loads(json.dumps(OLD))
    change(document)
    return compare(archive(OLD), archive(document), TODAY)


def test_nothing_changed() -> None:
    assert compare(archive(OLD), archive(OLD), TODAY) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (  # the first price there ever was
            lambda new: new["models"][0]["prices"][0]["prices"].update(input="0.000003"),
            Change("past_price_changed", "p", "m", "standard", None, "input=0.000002", "input=0.000003"),
        ),
        (  # from a day in the past on
            lambda new: new["models"][0]["prices"][1]["prices"].update(input="0.000001"),
            Change(
                "past_price_changed",
                "p",
                "m",
                "standard",
                date(2026, 2, 1),
                "input=0.000001,0.000003>100",
                "input=0.000001",
            ),
        ),
        (
            lambda new: new["models"][0]["prices"][1]["prices"].pop("output"),
            Change("past_price_changed", "p", "m", "standard", date(2026, 2, 1), "output=0.000004", None),
        ),
        (  # the day on which it changed is another one
            lambda new: new["models"][0]["prices"][1].update(since="2026-02-15"),
            Change(
                "past_price_changed",
                "p",
                "m",
                "standard",
                date(2026, 2, 1),
                "input=0.000001,0.000003>100",
                "input=0.000002",
            ),
        ),
        (
            lambda new: new["models"][0].pop("variants"),
            Change("past_price_changed", "p", "m", "batch", date(2026, 3, 1), "input=0.0000005", None),
        ),
        (lambda new: new["models"].pop(1), Change("model_vanished", "p", "n")),
        (
            lambda new: new.update(as_of="2026-10-31"),
            Change("moved_backwards", "", day=date(2026, 10, 31), old="2026-11-01", new="2026-10-31"),
        ),
        (
            lambda new: new["sources"].update({"genai-prices": "0.2.2"}),
            Change("moved_backwards", "", "genai-prices", old="0.2.3", new="0.2.2"),
        ),
        (
            lambda new: (
                new["models"][0].update(match={"equals": "m"}),
                new["models"][1].update(match={"or": [{"equals": "n"}, {"equals": "m-latest"}]}),
            ),
            Change("name_moved", "p", "m-latest", old="m", new="n"),
        ),
    ],
)
def test_findings(change: Callable[[dict[str, Any]], object], expected: Change) -> None:
    assert changed(change) == [expected]
    assert expected.is_finding


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda new: new["models"][0]["prices"].append({"since": "2026-12-01", "prices": {"input": "0.9"}}),
            Change(
                "price_changed",
                "p",
                "m",
                "standard",
                date(2026, 12, 1),
                "input=0.000001,0.000003>100 output=0.000004",
                "input=0.9",
            ),
        ),
        (  # a price where there was none contradicts nothing
            lambda new: new["models"][1]["prices"][0]["prices"].update(output="0.2"),
            Change("price_changed", "p", "n", "standard", None, None, "output=0.2"),
        ),
        (
            lambda new: new["models"][1].update(variants=[{"when": {"tier": "flex"}, "prices": {"input": "0.05"}}]),
            Change("price_changed", "p", "n", "flex", None, None, "input=0.05"),
        ),
        (
            lambda new: new["models"].append(
                {"provider": "q", "id": "z", "match": {"equals": "z"}, "prices": [{"prices": {}}]}
            ),
            Change("model_added", "q", "z"),
        ),
        (
            lambda new: new["providers"].append({"id": "r", "name": "R", "api_pattern": "x"}),
            Change("provider_added", "r"),
        ),
    ],
)
def test_news(change: Callable[[dict[str, Any]], object], expected: Change) -> None:
    assert changed(change) == [expected]
    assert not expected.is_finding


def test_a_newer_version_or_day_is_no_finding() -> None:
    assert changed(lambda new: new.update(as_of="2026-11-02", sources={"genai-prices": "0.10.0"})) == []


def test_a_provider_that_vanished_takes_its_models_along() -> None:
    def drop(new: dict[str, Any]) -> None:
        new["providers"].pop()
        new["models"].pop()

    assert changed(drop) == [Change("provider_vanished", "q"), Change("model_vanished", "q", "o")]


def test_a_name_that_moved_with_a_dated_row_is_no_finding() -> None:
    def moved(new: dict[str, Any]) -> None:
        new["models"][0]["match"] = {"equals": "m"}
        new["models"][1]["match"] = {"or": [{"equals": "n"}, {"equals": "m-latest"}]}
        new["aliases"].append(
            {"provider": "p", "name": "m-latest", "model": "m", "until": "2026-11-20", "source": "a page"}
        )

    assert changed(moved) == []


def test_findings_come_first() -> None:
    def both(new: dict[str, Any]) -> None:
        new["models"][0]["prices"].append({"since": "2026-12-01", "prices": {"input": "0.9"}})
        new["models"][1]["prices"][0]["prices"]["input"] = "0.2"

    assert [change.code for change in changed(both)] == ["past_price_changed", "price_changed"]


def test_a_price_that_changes_by_the_hour_is_compared_at_every_hour() -> None:
    hours = {"hours": ["08:00:00", "20:00:00"], "prices": {"input": "0.2"}}
    assert changed(lambda new: new["models"][1]["prices"].append(hours)) == [
        Change("past_price_changed", "p", "n", "standard", None, "input=0.1", "input=0.2")
    ]


def test_an_archive_of_the_first_format_is_compared_as_it_would_be_written_now() -> None:
    """Units that have a meter now, and contexts that are variants now, are the same prices."""
    document = json.loads(json.dumps(OLD))
    document["format"] = 1
    document["models"][1]["prices"][0]["prices"] = {"input_image_tokens": "0.1", "requests": "0.2", "audio_hours": "3"}
    document["models"][1]["variants"] = [{"when": {"search_type": "fast"}, "prices": {"input": "0.3"}}]
    now = json.loads(json.dumps(OLD))
    now["models"][1]["prices"][0]["prices"] = {"image_input": "0.1", "request": "0.2"}
    now["models"][1]["variants"] = [{"when": {"variant": "search_type=fast"}, "prices": {"input": "0.3"}}]
    assert compare(archive(document), archive(now), TODAY) == []


def test_the_bundled_archive_equals_itself() -> None:
    whole = msgspec.json.decode(bundled(), type=Archive)
    assert compare(whole, whole, TODAY) == []
    assert whole.as_of is not None
    assert set(whole.sources) == {"genai-prices", "overlay"}
