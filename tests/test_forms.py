"""What is filled in to issue, rotate or relabel a key: every fault at once, defaults, and what times may look like."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import forms
from costbearer.errors import FieldInvalid
from costbearer.labels import Labels

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}


def faults_of(given: dict[str, object]) -> dict[str, str]:
    with pytest.raises(FieldInvalid) as caught:
        forms.draft(given, NOW, 90)
    return caught.value.fields


def test_a_draft_with_nothing_but_labels_lives_ninety_days() -> None:
    made = forms.draft(GOOD, NOW, 90)
    assert made == forms.KeyDraft(labels=Labels("ada", "search", "ranker", "rerank"), expires_at=NOW + 90 * DAY)


def test_a_draft_keeps_everything_it_was_given() -> None:
    made = forms.draft(
        {
            **GOOD,
            "name": " night ",
            "env": "test",
            "project": "p",
            "cost_center": "4711",
            "require": ["feature", "feature"],
        },
        NOW,
        30,
    )
    assert (made.name, made.env, made.project, made.cost_center) == ("night", "test", "p", "4711")
    assert made.require == ("feature",)


def test_every_fault_is_named_at_once() -> None:
    assert faults_of(
        {"owner": "", "team": "tbd", "agent": None, "require": ["price", "colour"], "expires": "soon", "budget": 3}
    ) == {
        "budget": "not a field here; known are owner, team, agent, workload, name, env, project, cost_center, "
        "require, expires",
        "owner": "blank",
        "team": "'tbd' is a placeholder, not a name",
        "agent": "missing",
        "workload": "missing",
        "require": "'colour' cannot be required; what can is project, cost_center, feature, workflow, "
        "customer, tenant, user, session_id, env, price",
        "expires": "'soon' is not a time such as 90d, 2026-12-31, 2026-12-31T18:00:00Z or 'never'",
    }


@pytest.mark.parametrize(
    ("text", "expires_at"),
    [
        ("90d", NOW + 90 * DAY),
        ("12h", NOW + DAY / 2),
        ("2w", NOW + 14 * DAY),
        ("30m", NOW + timedelta(minutes=30)),
        ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC)),
        ("2026-12-31T18:00:00Z", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        ("2026-12-31T18:00:00+02:00", datetime(2026, 12, 31, 16, tzinfo=UTC)),
        ("2026-12-31t18:00z", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        ("never", None),
    ],
)
def test_an_expiry_is_a_length_a_day_a_time_or_never(text: str, expires_at: datetime | None) -> None:
    assert forms.draft({**GOOD, "expires": text}, NOW, 90).expires_at == expires_at


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2026-11-22", "2026-11-22 00:00 UTC is not in the future"),
        ("0", "2026-11-22 12:00 UTC is not in the future"),
        ("0d", "2026-11-22 12:00 UTC is not in the future"),
        ("2026-02-30", "'2026-02-30' is not a time such as"),
        ("2026-12-31T18:00:00", "'2026-12-31T18:00:00' is not a time such as"),
        ("99999d", "is more than ten years away; say 'never' if that is meant"),
        ("999999w", "is more than ten years away"),
        ("2999-01-01", "is more than ten years away"),
        ("9999-12-31T23:59:59-23:59", "is not a time such as"),
        ("-1d", "'-1d' is not a time such as"),
        ("１d", "is not a time such as"),
        ("", "'' is not a time such as"),
        (90, "90 is not a time such as"),
        (True, "True is not a time such as"),
        (["90d"], "['90d'] is not a time such as"),
        ("9" * 1000, "..."),
    ],
)
def test_an_expiry_that_cannot_be_is_said(value: object, words: str) -> None:
    fault = faults_of({**GOOD, "expires": value})["expires"]
    assert words in fault
    assert len(fault) < 200


@pytest.mark.parametrize("value", ["feature", {"feature": 1}, [1], 7])
def test_require_is_a_list_of_names(value: object) -> None:
    assert faults_of({**GOOD, "require": value}) == {"require": "must be a list of field names"}


def test_a_rotation_overlaps_a_day_and_keeps_the_expiry() -> None:
    assert forms.rotation({}, NOW) == forms.Rotation(overlap=DAY, expires_at=msgspec.UNSET)
    assert forms.rotation({"overlap": "0", "expires": "never"}, NOW) == forms.Rotation(overlap=0 * DAY, expires_at=None)
    assert forms.rotation({"overlap": "30d", "expires": "7d"}, NOW) == forms.Rotation(
        overlap=30 * DAY, expires_at=NOW + 7 * DAY
    )


def test_a_faulty_rotation_names_every_field() -> None:
    with pytest.raises(FieldInvalid) as caught:
        forms.rotation({"overlap": "31d", "expires": "yesterday", "owner": "eve"}, NOW)
    assert set(caught.value.fields) == {"overlap", "expires", "owner"}
    with pytest.raises(FieldInvalid, match="'a while' is not a length of time such as 30m, 24h, 7d or 0"):
        forms.rotation({"overlap": "a while"}, NOW)


def test_a_relabelling_names_only_what_changes() -> None:
    assert forms.relabelling({"team": " ads "}, NOW) == forms.Relabelling(changes={"team": "ads"})
    later = forms.relabelling({"team": "ads", "from": "2026-12-01"}, NOW)
    assert later.since == datetime(2026, 12, 1, tzinfo=UTC)


def test_a_relabelling_from_now_is_not_in_the_past() -> None:
    assert forms.relabelling({"team": "ads", "from": "2026-11-22T12:00:00Z"}, NOW).since == NOW


def test_a_faulty_relabelling_names_every_field() -> None:
    with pytest.raises(FieldInvalid) as caught:
        forms.relabelling({"team": "n/a", "agent": " ", "from": "2026-11-22", "env": "prod"}, NOW)
    assert caught.value.fields == {
        "env": "not a field here; known are owner, team, agent, workload, from",
        "team": "'n/a' is a placeholder, not a name",
        "agent": "blank",
        "from": "2026-11-22 00:00 UTC has passed, and posted entries do not change; "
        "leave it out to relabel from now on, or name a later time",
    }
    with pytest.raises(FieldInvalid) as caught:
        forms.relabelling({}, NOW)
    assert caught.value.fields == {"labels": "nothing changes; name at least one of owner, team, agent, workload"}


def test_what_takes_no_fields_says_so() -> None:
    forms.nothing({})
    with pytest.raises(FieldInvalid, match="reason: not a field here"):
        forms.nothing({"reason": "leaked"})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*GOOD, "name", "require", "expires", "overlap", "from"]) | st.text(), anything))
def test_any_json_is_taken_or_refused_by_field(given: dict[str, object]) -> None:
    for check in (
        lambda: forms.draft(given, NOW, 90),
        lambda: forms.rotation(given, NOW),
        lambda: forms.relabelling(given, NOW),
    ):
        try:
            check()
        except FieldInvalid as refused:
            assert refused.fields
