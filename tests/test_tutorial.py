"""The tutorial: every command in it is run on the demo's history, and prints what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.demohistory import history_in
from tools.build_tutorial import FILE, answered, history

STORIES = {
    "Why did research get dearer": r"price per unit .* 9[5-9]\.\d%",
    "What happened to the invoices": r"retries, fallbacks, failures: .* 3\.\d\d calls per request",
    "Does the old gateway's log tell": r"zero_cost_with_tokens[^\n]*\n[^\n]*: 46 calls",
    "Does anybody spend in another": r"key_campaign-writer_prod +growth +campaign-writer +team +search",
    "Was the cache paid for": r"cache 0 .*\+\$8\.\d\d",
    "Why did the live chat grow": r"umbrella +\$0\.00 +\$1\d\.\d\d .* new",
    "Search became so much cheaper": r"ranker .* model mix",
    "Who is behind the spend": r"1 +sk-old-reporting .* label",
}
"""A section's title -> what its answer must say, whatever else stands in the file."""


@pytest.mark.slow
def test_every_answer_in_the_tutorial_is_what_the_command_prints(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = FILE.read_text(encoding="utf-8")
    history_in(tmp_path / "history", tmp_path_factory)
    with history(tmp_path):
        again = answered(text)
    assert again == text, "run tools/build_tutorial.py"


@pytest.mark.parametrize("title", STORIES)
def test_each_story_is_answered(title: str) -> None:
    sections = FILE.read_text(encoding="utf-8").split("\n## ")
    (section,) = [each for each in sections if title in each.splitlines()[0]]
    assert re.search(STORIES[title], section, re.S), section
    assert 1 <= section.count("\n$ costbearer") <= 5


def test_what_is_said_between_the_answers_is_in_them() -> None:
    """The figures of the prose, each with the answer it comes from."""
    text = FILE.read_text(encoding="utf-8")
    for said, answer_ in (
        ("46 streams stand in it at $0.00", "Charged at 0 although tokens were used: 46 calls."),
        ("74 calls paid the full one", "Cached tokens at the full price: 74 calls."),
        ("$1.32 too much. What", "$1.32 too much  cached_at_full_price"),
        ("three calls per request instead of one", "0.993 calls per request -> 3.00 calls per request"),
        ("A discount of 20 %", "contract $2.40 per million tokens"),
    ):
        assert said in text and answer_ in text, said
