"""Virtual keys: the format, what is kept of one, and the ring that authenticates from memory."""

from __future__ import annotations

import random
import re
import string
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import CallRefused, KeyExpired, KeyInvalid, KeyMissing, KeyRevoked
from costbearer.keys import (
    ALPHABET,
    SCANNER_PATTERN,
    DatedLabels,
    KeyRecord,
    KeyRing,
    Secret,
    digest,
    new_id,
    new_key,
    parse_key,
    reference,
    stamp,
    view,
)
from costbearer.labels import Labels

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PEPPERS = {1: b"1" * 32, 2: b"2" * 32}
LABELS = Labels("ada", "search", "ranker", "rerank")


def below(seed: int = 1) -> random.Random:
    return random.Random(seed)


KEY = new_key(below().randrange)
OTHER = new_key(below(2).randrange)


def record(**changes: Any) -> KeyRecord:
    made = KeyRecord(
        key_id="key_000000000001",
        labels=LABELS,
        history=(DatedLabels(NOW - DAY, LABELS),),
        created_at=NOW - DAY,
        expires_at=NOW + 89 * DAY,
        secrets=(Secret(KEY.lookup_id, digest(PEPPERS[1], KEY.text), 1, NOW - DAY),),
    )
    return msgspec.structs.replace(made, **changes)


def ring(*records: KeyRecord) -> KeyRing:
    return KeyRing(records or (record(),), PEPPERS, NOW)


# -- format


def test_a_key_has_the_published_form() -> None:
    assert re.fullmatch(r"cbk_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}", KEY.text)
    assert len(KEY.text) == 53
    assert re.search(SCANNER_PATTERN, f'api_key="{KEY.text}",')
    assert not re.search(SCANNER_PATTERN, KEY.text + "A")


def test_the_checksum_is_crc32_of_everything_before_it() -> None:
    value = 0
    for character in KEY.text[-6:]:
        value = value * 62 + ALPHABET.index(character)
    assert value == zlib.crc32(KEY.text[:-6].encode())


@given(st.integers(0, 2**32))
def test_every_new_key_parses_to_itself(seed: int) -> None:
    key = new_key(below(seed).randrange)
    assert parse_key(key.text) == key


def test_the_whole_range_of_chance_fits() -> None:
    lowest, highest = new_key(lambda count: 0), new_key(lambda count: count - 1)
    assert lowest.lookup_id == "0" * 12
    assert highest.lookup_id == "z" * 12
    assert parse_key(lowest.text) == lowest
    assert parse_key(highest.text) == highest
    assert re.fullmatch(r"key_[0-9A-Za-z]{12}", new_id(below().randrange))


@pytest.mark.parametrize("place", range(53))
def test_any_changed_character_is_refused_without_a_look_up(place: int) -> None:
    for replacement in string.ascii_letters + string.digits + "_-. \u00e9":
        if replacement != KEY.text[place]:
            with pytest.raises(KeyInvalid):
                parse_key(KEY.text[:place] + replacement + KEY.text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "cbk_000000000000",
        KEY.text[:-1],
        KEY.text + "0",
        f" {KEY.text}",
        f"{KEY.text}\n",
        KEY.text.upper(),
        KEY.text.replace("cbk_", "sk-"),
        "sk-proj-not-a-real-provider-key-000000000000000000000",
        "٠" * 53,
        "\x00" * 53,
        "' OR 1=1 --",
        "a" * 1_000_000,
    ],
)
def test_a_text_of_another_form_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(KeyInvalid) as caught:
        parse_key(text)
    assert text not in caught.value.message
    assert len(caught.value.message) < 300


def test_swapped_neighbours_are_noticed() -> None:
    for place in range(4, 52):
        left, right = KEY.text[place], KEY.text[place + 1]
        if left != right:
            with pytest.raises(KeyInvalid):
                parse_key(KEY.text[:place] + right + left + KEY.text[place + 2 :])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key_000000000001", "key_000000000001"),
        (" key_000000000001\n", "key_000000000001"),
        (KEY.text, f"cbk_{KEY.lookup_id}"),
        (f"cbk_{KEY.lookup_id}", f"cbk_{KEY.lookup_id}"),
        (f"cbk_{KEY.lookup_id}_...", f"cbk_{KEY.lookup_id}"),
        ("key_0000000000012", None),
        ("key_", None),
        ("../keys", None),
        ("", None),
    ],
)
def test_of_a_pasted_key_only_what_is_not_secret_is_used(text: str, shown: str | None) -> None:
    assert reference(text) == shown


# -- authentication


def test_a_living_key_gives_its_record() -> None:
    assert ring().authenticate(KEY.text, NOW) == record()


def test_no_key_is_said_as_such() -> None:
    with pytest.raises(KeyMissing, match="costbearer keys issue"):
        ring().authenticate("", NOW)


def test_an_unknown_key_and_a_wrong_secret_get_the_same_answer() -> None:
    forged = new_key(drawn(int_of(KEY.lookup_id), 5))
    assert forged.lookup_id == KEY.lookup_id
    answers = []
    for text in (OTHER.text, forged.text):
        with pytest.raises(KeyInvalid) as caught:
            ring().authenticate(text, NOW)
        answers.append(caught.value.message)
    assert answers[0] == answers[1]


def int_of(text: str) -> int:
    value = 0
    for character in text:
        value = value * 62 + ALPHABET.index(character)
    return value


def drawn(*numbers: int) -> Callable[[int], int]:
    left = list(numbers)
    return lambda count: left.pop(0)


def test_a_digest_under_another_pepper_does_not_authenticate() -> None:
    other = Secret(KEY.lookup_id, digest(PEPPERS[2], KEY.text), 1, NOW)
    with pytest.raises(KeyInvalid):
        ring(record(secrets=(other,))).authenticate(KEY.text, NOW)


def test_two_pepper_versions_live_side_by_side() -> None:
    newer = Secret(OTHER.lookup_id, digest(PEPPERS[2], OTHER.text), 2, NOW)
    both = ring(record(secrets=(*record().secrets, newer)))
    assert both.authenticate(KEY.text, NOW).key_id == both.authenticate(OTHER.text, NOW).key_id


def test_expiry_is_exact_and_checked_every_time() -> None:
    keys = ring()
    end = NOW + 89 * DAY
    assert keys.authenticate(KEY.text, end - timedelta(microseconds=1)) == record()
    with pytest.raises(KeyExpired, match=r"key_000000000001 of ada expired on 2027-02-19 12:00 UTC.*keys rotate"):
        keys.authenticate(KEY.text, end)


def test_a_key_without_an_end_does_not_expire() -> None:
    lasting = record(expires_at=None)
    assert ring(lasting).authenticate(KEY.text, NOW + 40_000 * DAY) == lasting


def test_a_revoked_key_is_refused_whatever_the_clock_says() -> None:
    keys = ring(record(revoked_at=NOW))
    for now in (NOW - 2 * DAY, NOW, NOW + DAY):
        with pytest.raises(KeyRevoked, match=r"revoked on 2026-11-22 12:00 UTC"):
            keys.authenticate(KEY.text, now)


def test_a_replaced_secret_ends_with_the_overlap_and_the_new_one_lives_on() -> None:
    old = msgspec.structs.replace(record().secrets[0], expires_at=NOW + timedelta(hours=24))
    new = Secret(OTHER.lookup_id, digest(PEPPERS[1], OTHER.text), 1, NOW)
    keys = ring(record(secrets=(old, new)))
    assert keys.authenticate(KEY.text, NOW + timedelta(hours=23)).key_id == record().key_id
    with pytest.raises(KeyExpired, match="replaced by a rotation and ended on 2026-11-23 12:00 UTC"):
        keys.authenticate(KEY.text, NOW + timedelta(hours=24))
    assert keys.authenticate(OTHER.text, NOW + timedelta(hours=24)).key_id == record().key_id


def test_labels_change_on_their_date_without_another_reading_of_the_store() -> None:
    moved = Labels("ada", "ads", "ranker", "rerank")
    keys = ring(record(history=(DatedLabels(NOW - DAY, LABELS), DatedLabels(NOW + DAY, moved))))
    assert keys.authenticate(KEY.text, NOW + DAY - timedelta(microseconds=1)).labels == LABELS
    assert keys.authenticate(KEY.text, NOW + DAY).labels == moved


def test_of_labels_with_the_same_date_the_later_ones_hold() -> None:
    first, second = Labels("ada", "ads", "r", "w"), Labels("ada", "maps", "r", "w")
    dated = record(history=(DatedLabels(NOW - DAY, LABELS), DatedLabels(NOW, first), DatedLabels(NOW, second)))
    assert dated.labels_at(NOW) == second
    assert dated.labels_at(NOW - timedelta(seconds=1)) == LABELS
    assert dated.labels_at(NOW - 9 * DAY) == LABELS


@given(st.text(max_size=80))
def test_whatever_is_sent_is_refused_by_name_and_never_repeated(text: str) -> None:
    messages = []
    for sent in (text, text and f"another {text}"):
        with pytest.raises(CallRefused) as caught:
            ring().authenticate(sent, NOW)
        messages.append(caught.value.message)
    assert messages[0] == messages[1], "what is said of a text does not depend on it"


@pytest.mark.parametrize("rest", ["", "_", "_\ud800", "_" + "\u00e9" * 36, KEY.text[16:-1], KEY.text[16:] + "\udc80"])
def test_a_known_lookup_id_alone_opens_nothing(rest: str) -> None:
    with pytest.raises(KeyInvalid, match="not a Costbearer key"):
        ring().authenticate(KEY.text[:16] + rest, NOW)


def test_the_first_date_that_comes_is_the_one_that_counts() -> None:
    """A revoked key, a key's end, a secret's end and a change of labels meet in one bound; none may hide another."""
    moved = Labels("ada", "ads", "ranker", "rerank")
    history = (DatedLabels(NOW - DAY, LABELS), DatedLabels(NOW + DAY, moved))
    ending = msgspec.structs.replace(record().secrets[0], expires_at=NOW + 2 * DAY)
    keys = ring(record(history=history, secrets=(ending,), expires_at=NOW + 3 * DAY))
    assert keys.authenticate(KEY.text, NOW).labels == LABELS
    assert keys.authenticate(KEY.text, NOW + DAY).labels == moved
    with pytest.raises(KeyExpired, match="replaced by a rotation"):
        keys.authenticate(KEY.text, NOW + 2 * DAY)
    with pytest.raises(KeyExpired, match="of ada expired"):
        keys.authenticate(KEY.text, NOW + 3 * DAY)
    with pytest.raises(KeyRevoked):
        ring(record(history=history, revoked_at=NOW + DAY)).authenticate(KEY.text, NOW)


# -- what may be seen


def test_nothing_that_shows_a_key_shows_its_secret_or_digest() -> None:
    secret = KEY.text[17:]
    held = record()
    for shown in (repr(KEY), repr(held), str(view(held, NOW)), repr(ring()), repr(held.secrets)):
        assert secret not in shown
        assert repr(held.secrets[0].digest) not in shown
        assert held.secrets[0].digest.hex() not in shown


def test_the_view_names_state_labels_and_living_secrets() -> None:
    ended = msgspec.structs.replace(record().secrets[0], expires_at=NOW)
    living = Secret(OTHER.lookup_id, digest(PEPPERS[1], OTHER.text), 1, NOW)
    shown = view(record(secrets=(ended, living), name="night run", require=("feature",)), NOW)
    assert shown["status"] == "active"
    assert shown["name"] == "night run"
    assert shown["require"] == ["feature"]
    assert [shown[label] for label in ("owner", "team", "agent", "workload")] == ["ada", "search", "ranker", "rerank"]
    assert shown["secrets"] == [
        {"begins_with": f"cbk_{OTHER.lookup_id}_", "created_at": "2026-11-22T12:00:00Z", "expires_at": None}
    ]


@pytest.mark.parametrize(
    ("changes", "when", "status"),
    [
        ({}, NOW, "active"),
        ({}, NOW + 89 * DAY, "expired"),
        ({"expires_at": None}, NOW + 9000 * DAY, "active"),
        ({"revoked_at": NOW}, NOW + 900 * DAY, "revoked"),
    ],
)
def test_status(changes: dict[str, Any], when: datetime, status: str) -> None:
    assert record(**changes).status(when) == status


def test_times_are_rfc_3339_in_utc() -> None:
    assert stamp(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)) == "2026-01-02T03:04:05.000006Z"
    assert stamp(None) is None
