from __future__ import annotations

import gzip
import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from costbearer.errors import Conflict, NotFound, PricesInvalid, QueryInvalid
from costbearer.price_desk import (
    ARCHIVE_BYTES_MAX,
    Desk,
    checked,
    difference,
    is_archive,
    moment,
    packed,
    price_rows,
    unpacked,
)
from costbearer.stores import archive
from costbearer.stores.control import Actor

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BUNDLED = hashlib.sha256(archive.bundled()).hexdigest()
CONTRACT = b"""\
[[terms]]
provider = "anthropic"
model = "claude-opus-4-6"
discount = "10"

[[terms]]
provider = "acme"
model = "secret-*"
prices_per_million = { input = "2" }

[[commitments]]
name = "east"
provider = "azure"
fee = "2"
every = "hour"
"""


def by(who: str) -> Actor:
    return Actor(who, "test", "test")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "prices", now=lambda: NOW)


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(archive.bundled())
    change(document)
    return json.dumps(document).encode()


def model_of(document: dict[str, Any], provider: str, model: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each for each in document["models"] if (each["provider"], each["id"]) == (provider, model)
    )
    return found


# ---- looking -------------------------------------------------------------------------------------------------------


def test_the_standard_prices_of_models_like_a_pattern(desk: Desk) -> None:
    found = desk.listed(provider="anthropic", model="claude-opus-4-6*")
    assert (found["archive"], found["contract"], found["revision"]) == (BUNDLED, None, 0)
    assert (found["at"], found["newer_bundled"]) == ("2026-11-22T12:00:00+00:00", False)
    (row,) = found["prices"]
    assert (row["provider"], row["model"], row["context"]) == ("anthropic", "claude-opus-4-6", "standard")
    prices = {price["meter"]: price for price in row["prices"]}
    assert prices["input"] == {
        "meter": "input",
        "unit": "token",
        "price_usd": "0.000005000000",
        "steps": [],
        "contract_usd": None,
        "contract_steps_usd": [],
    }
    assert len(desk.listed()["prices"]) > 2300
    assert desk.listed(model="no such *")["prices"] == []


def test_the_prices_of_another_day(desk: Desk) -> None:
    (row,) = desk.listed(provider="anthropic", model="claude-opus-4-6", at=datetime(2026, 3, 1, tzinfo=UTC))["prices"]
    (price,) = [price for price in row["prices"] if price["meter"] == "input"]
    assert price["steps"] == [{"above_input_tokens": 200000, "price_usd": "0.000010000000"}]
    assert list(price_rows({"prices": [price]})) == [
        {
            "meter": "input",
            "unit": "token",
            "above_input_tokens": None,
            "price_usd": "0.000005000000",
            "contract_usd": None,
        },
        {
            "meter": "input",
            "unit": "token",
            "above_input_tokens": 200000,
            "price_usd": "0.000010000000",
            "contract_usd": None,
        },
    ]


def test_an_unknown_provider_is_said(desk: Desk) -> None:
    with pytest.raises(NotFound, match=r"no provider 'nobody'; known are .*anthropic"):
        desk.listed(provider="nobody")


def test_everything_about_one_model(desk: Desk) -> None:
    desk.take_contract(CONTRACT, by=by("ada"))
    found = desk.shown("claude-opus-4-6")
    assert (found["provider"], found["model"], found["asked"]) == ("anthropic", "claude-opus-4-6", "claude-opus-4-6")
    assert "aws" in found["also_at"]
    assert [card["context"] for card in found["cards"]] == ["standard", "batch", "geo=us", "batch+geo=us"]
    input_ = next(price for price in found["cards"][0]["prices"] if price["meter"] == "input")
    assert (input_["price_usd"], input_["contract_usd"]) == ("0.000005000000", "0.000004500000")
    spans = [(card["valid_from"], card["valid_until"]) for card in found["history"] if card["context"] == "standard"]
    assert spans == [(None, "2026-03-13"), ("2026-03-13", None)]
    assert all(card["source"] for card in found["history"])
    assert desk.shown("claude-opus-4-6", provider="google")["cards"][0]["card"].startswith("google/claude-opus-4-6/")


def test_a_model_that_only_the_contract_knows(desk: Desk) -> None:
    desk.take_contract(CONTRACT, by=by("ada"))
    found = desk.shown("secret-1")
    assert (found["provider"], found["history"], len(found["cards"])) == ("acme", [], 1)
    with pytest.raises(NotFound, match=r"^no price for model 'secret-1' at openai$"):
        desk.shown("secret-1", provider="openai")


def test_a_model_that_nobody_knows_or_somebody_else(desk: Desk) -> None:
    with pytest.raises(NotFound, match=r"^no price for model 'gpt-99'$"):
        desk.shown("gpt-99")
    with pytest.raises(NotFound, match=r"^no price for model 'gpt-4o' at anthropic; known to openai, "):
        desk.shown("gpt-4o", provider="anthropic")


# ---- changing ------------------------------------------------------------------------------------------------------


def test_a_contract_is_taken_and_what_held_before_is_kept(desk: Desk) -> None:
    taken = desk.take_contract(CONTRACT, by=by("ada"))
    assert [row["model"] for row in taken["terms"]] == ["claude-opus-4-6", "secret-*"]
    assert taken["commitments"][0]["fee_usd"] == "2.000000000000"
    assert desk.contract()["content"] == CONTRACT.decode()
    desk.take_contract(b"", by=by("bob"))
    state = desk.archives()
    assert [(row["revision"], row["by"]) for row in state["held"]] == [(2, "bob"), (1, "ada")]
    assert len(state["contracts"]) == 2
    assert desk.contract()["terms"] == []


def test_a_faulty_contract_changes_nothing(desk: Desk) -> None:
    with pytest.raises(PricesInvalid, match=r"^line 3: discount"):
        desk.take_contract(b'[[terms]]\nprovider = "x"\ndiscount = "-1"\n', by=by("ada"))
    assert desk.archives()["held"] == []


def test_one_term_begins_today_and_ends_the_open_one(desk: Desk) -> None:
    first = desk.set_term({"provider": "openai", "since": "2026-01-01", "discount": "5"}, by=by("ada"))
    assert first["terms"][0]["since"] == "2026-01-01"
    second = desk.set_term({"provider": "openai", "discount": "7.5"}, by=by("ada"))
    assert [(row["since"], row["until"], row["discount"]) for row in second["terms"]] == [
        ("2026-01-01", "2026-11-22", "5"),
        ("2026-11-22", None, "7.5"),
    ]
    with pytest.raises(PricesInvalid, match="overlaps"):
        desk.set_term({"provider": "openai", "discount": "9"}, by=by("ada"))
    with pytest.raises(PricesInvalid, match=r"^modle: not known here"):
        desk.set_term({"provider": "openai", "modle": "x", "discount": "9"}, by=by("ada"))
    assert len(desk.archives()["held"]) == 2


def test_an_archive_is_taken_with_its_findings(desk: Desk) -> None:
    data = edited(lambda new: model_of(new, "openai", "o1-pro")["prices"][0]["prices"].update(input="0.00016"))
    looked = desk.update(data, by=by("ada"), check=True)
    assert (looked["taken"], looked["findings"], looked["unchanged"]) == (False, 1, False)
    assert looked["changes"] == [
        {
            "code": "past_price_changed",
            "finding": True,
            "provider": "openai",
            "model": "o1-pro",
            "context": "standard",
            "day": None,
            "old": "input=0.00015",
            "new": "input=0.00016",
        }
    ]
    assert desk.archives()["held"] == []
    taken = desk.update(data, by=by("ada"))
    assert (taken["taken"], taken["from"], taken["to"]) == (True, BUNDLED, hashlib.sha256(data).hexdigest())
    assert desk.listed(provider="openai", model="gpt-4o")["newer_bundled"] is True
    assert desk.find("current") == data
    back = desk.update(None, by=by("bob"))
    assert (back["to"], back["findings"]) == (BUNDLED, 1)
    assert len(desk.archives()["archives"]) == 2


def test_taking_the_same_again_is_no_change(desk: Desk) -> None:
    assert desk.update(None, by=by("ada"))["unchanged"]
    assert len(desk.archives()["held"]) == 1  # from now on it holds because it was said
    assert desk.update(None, by=by("ada"))["changes"] == []
    assert len(desk.archives()["held"]) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "the price archive cannot be read"),
        (b"nonsense", "the price archive cannot be read"),
        (
            edited(lambda new: model_of(new, "openai", "o1-pro")["prices"][0]["prices"].update(input="-1")),
            "^openai/o1-pro, prices row 1: input: '-1' is not a decimal number",
        ),
        (
            edited(lambda new: [each["prices"][0]["prices"].update(input="x") for each in new["models"][:9]]),
            "; and 4 more$",
        ),
    ],
)
def test_a_faulty_archive_is_refused_whole(desk: Desk, data: bytes, message: str) -> None:
    with pytest.raises(PricesInvalid, match=message):
        desk.update(data, by=by("ada"))
    assert desk.archives()["held"] == []


def test_a_change_from_an_old_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, now=lambda: NOW)
    desk.take_contract(b"", by=by("ada"))
    stale = archive.current(tmp_path)
    desk.take_contract(CONTRACT, by=by("bob"))
    monkeypatch.setattr(archive, "current", lambda _: stale)
    with pytest.raises(Conflict):
        desk.take_contract(b"# late", by=by("eve"))


# ---- archives by name ----------------------------------------------------------------------------------------------


def test_an_archive_by_hash_day_and_word(desk: Desk) -> None:
    assert desk.find("bundled") == desk.find("current") == desk.find(BUNDLED[:6]) == archive.bundled()
    newer = edited(lambda new: new.update(as_of="2026-12-01"))
    desk.update(newer, by=by("ada"))
    today = datetime.now(UTC).date()
    assert desk.find(today.isoformat()) == newer
    assert desk.difference(BUNDLED[:8], "current")["changes"] == []
    backwards = desk.difference("current", "bundled")
    assert [change["code"] for change in backwards["changes"]] == ["moved_backwards"]
    for wrong in ("abc", "2026-01-01", "f" * 64, "../current", str(today - timedelta(days=1))):
        with pytest.raises(NotFound):
            desk.find(wrong)


# ---- small things --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC)),
        ("2026-12-31T01:00:00+02:00", datetime(2026, 12, 30, 23, tzinfo=UTC)),
        ("2026-12-31T01:00:00Z", datetime(2026, 12, 31, 1, tzinfo=UTC)),
    ],
)
def test_moments(text: str, expected: datetime) -> None:
    assert moment(text) == expected


@pytest.mark.parametrize("text", ["", "now", "2026-12-31T01:00:00", "2026-13-01", "12/31/2026"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(QueryInvalid, match=r"^at: "):
        moment(text)


def test_a_file_travels_packed() -> None:
    assert unpacked(packed(archive.bundled())) == archive.bundled()
    assert len(packed(archive.bundled())) < 200_000
    for wrong in ("", "%%", b64encode(b"plain").decode(), packed(b"x")[:-8]):
        with pytest.raises(PricesInvalid, match="not gzip in base64"):
            unpacked(wrong)


def test_a_packed_file_that_grows_without_end_is_refused() -> None:
    bomb = b64encode(gzip.compress(bytes(ARCHIVE_BYTES_MAX + 1))).decode()
    assert len(bomb) < 100_000
    with pytest.raises(PricesInvalid, match="more than"):
        unpacked(bomb)


def test_files_are_told_apart_by_how_they_begin() -> None:
    assert is_archive(archive.bundled())
    assert is_archive(b"\n {")
    assert not is_archive(CONTRACT)
    assert not is_archive(b"")


def test_the_bundled_archive_may_be_taken() -> None:
    assert checked(archive.bundled()).format == 2
    assert difference(archive.bundled(), archive.bundled(), NOW.date())["changes"] == []
