"""The ownership map: what it resolves, from when, and how a faulty one is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from costbearer.audit import ownership
from costbearer.errors import InputInvalid
from tests.auditing import audited, by_code
from tests.usagelogs import BEGIN, WRITERS, Call, clean


def nobodys(tmp_path: Path, calls: list[Call] | None = None) -> Path:
    file = tmp_path / "log.jsonl"
    lost = [replace(call, team=None, owner=None) for call in calls or clean(40)]
    file.write_text(WRITERS["litellm"](lost).replace("key-None", "key-shared").replace("hash-of-None", "hash-1"))
    return file


def mapped(text: str, tmp_path: Path, name: str = "map.yaml") -> ownership.Ownership:
    file = tmp_path / name
    file.write_text(text)
    return ownership.read(file)


def test_a_key_is_resolved_and_marked_inferred(tmp_path: Path) -> None:
    file = nobodys(tmp_path)
    assert by_code(audited(file))["missing_owner"]
    result = audited(file, ownership=mapped("- {key: key-shared, team: search, owner: ana}", tmp_path))
    assert result.findings == ()
    assert dict(result.attributed)["inferred"] == result.cost_usd > 0
    assert dict(result.groups["owner"][0].names) == {"owner": "ana", "team": "search"}
    assert dict(result.groups["owner"][0].provenance) == {"inferred": result.cost_usd}
    assert result.metrics.requests_missing_team_pct == 0


def test_a_key_changes_hands_on_a_date(tmp_path: Path) -> None:
    days = [replace(call, started_at=BEGIN + timedelta(days=number)) for number, call in enumerate(clean(10)[:10])]
    text = """
    ownership:
      - {key: key-shared, team: search}
      - {key: key-shared, team: support, from: 2026-10-10}
    """
    groups = audited(nobodys(tmp_path, days), ownership=mapped(text, tmp_path)).groups["team"]
    found = {str(dict(group.names)["team"]): group.calls for group in groups}
    assert found == {"search": 5, "support": len(days) - 5}


def test_what_the_log_says_stays(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(WRITERS["litellm"](clean(10)))
    result = audited(file, ownership=mapped("- {key: 'key-*', team: nobody-else}", tmp_path))
    assert dict(result.attributed)["verified"] == result.cost_usd


def test_an_exact_name_goes_before_a_pattern_and_a_key_before_a_user(tmp_path: Path) -> None:
    text = "key,user,team\nkey-*,,wide\nkey-shared,,exact\n,*,by-user\n"
    result = audited(nobodys(tmp_path), ownership=mapped(text, tmp_path, "map.csv"))
    assert dict(result.groups["team"][0].names) == {"team": "exact"}


def test_the_caller_is_believed_less_than_the_map(tmp_path: Path) -> None:
    calls = [replace(call, tags=(("owner_team", "claimed"),)) for call in clean(10)]
    file = nobodys(tmp_path, calls)
    assert dict(audited(file).attributed)["asserted"] > Decimal(0)
    result = audited(file, ownership=mapped("- {key: key-shared, team: search}", tmp_path))
    assert dict(result.attributed)["asserted"] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "list of rows"),
        ("[]", "no rows"),
        ("- {key: a}", "neither owner nor team"),
        ("- {team: search}", "exactly one of"),
        ("- {key: a, user: b, team: search}", "exactly one of"),
        ("- {key: a, team: n/a}", "placeholder"),
        ("- {key: a, team: search, color: red}", "color"),
        ("- {key: a, team: search, from: someday}", "not a date"),
        ("- [key]", "list of rows"),
        ("{", "not YAML"),
    ],
)
def test_a_faulty_map_is_refused_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=says) as refused:
        mapped(text, tmp_path)
    assert "map.yaml" in refused.value.message


def test_placeholders_bear_nothing(tmp_path: Path) -> None:
    calls = [replace(call, team="n/a", owner="Default ") for call in clean(10)]
    file = tmp_path / "log.jsonl"
    file.write_text(WRITERS["litellm"](calls))
    result = audited(file)
    assert result.metrics.unattributed_spend_pct == 100
    assert by_code(result)["missing_owner"].records == len(calls)
