"""The report that the README shows is what the command really says of such a log."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from costbearer.audit.show_text import text
from tests.auditing import audited
from tests.usagelogs import WRITERS, Call, clean

README = Path(__file__).parent.parent / "README.md"


def example() -> list[Call]:
    """A log in which a key has no owner, cached tokens are charged in full, and one answer stands twice."""
    calls = clean(400, seed=11)
    for place, call in enumerate(calls):
        if call.status == "ok" and call.cached and call.model == "gpt-4o":
            calls[place] = replace(call, wrong_usd=call.at(cached=0))
        if place % 23 == 4:
            calls[place] = replace(calls[place], team=None, owner=None, trace=f"alone-{place}")
    again = next(call for call in calls if call.cost_usd > Decimal("0.03") and call.wrong_usd is None)
    return [*calls, replace(again, number=9_999_999, response=again.response_id, request="again")]


def log(directory: Path) -> Path:
    """The example, written."""
    file = directory / "usage.jsonl"
    file.write_text(WRITERS["litellm"](example()).replace("key-None", "key-legacy"), encoding="utf-8")
    return file


def test_the_report_of_the_readme_is_real(tmp_path: Path) -> None:
    shown = re.search(r"```text\n(\d.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert shown is not None
    assert shown[1].rstrip() == text(audited(log(tmp_path))).rstrip()
