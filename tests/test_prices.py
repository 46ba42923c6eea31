from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import prices
from costbearer.errors import StoreFailed
from costbearer.price_context import MODEL_NAME_CHARS_MAX, canonical, context_from, context_text
from costbearer.prices import Card, Context, Price, PriceBook, Unrated
from costbearer.stores.archive import bundled
from costbearer.usage import METER

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STANDARD = Context()

SMALL: dict[str, Any] = {
    "format": 1,
    "providers": [
        {"id": "maker", "name": "Maker", "api_pattern": "https://maker", "match": {"starts_with": "mk-"}},
        {"id": "reseller", "name": "Reseller", "api_pattern": "https://reseller", "fallback": ["maker"]},
        {"id": "shop", "name": "Shop", "api_pattern": "https://shop"},
    ],
    "aliases": [{"provider": "maker", "name": "mk-1", "model": "mk-0", "until": "2025-03-01", "source": "a page"}],
    "models": [
        {"provider": "maker", "id": "mk-0", "match": {"equals": "mk-0"}, "prices": [{"prices": {"input": "0.000007"}}]},
        {
            "provider": "maker",
            "id": "mk-1",
            "match": {"or": [{"equals": "mk-1"}, {"regex": r"^mk-1-\d{4}-\d{2}-\d{2}$"}]},
            "context_window": 1000,
            "prices": [
                {"prices": {"input": "0.000004", "output": "0.000008", "input_image_tokens": "0.00009"}},
                {
                    "since": "2026-01-10",
                    "prices": {
                        "input": ["0.000002", [100, "0.000003"], [200, "0.000005"]],
                        "output": "0.000006",
                        "web_search": "0.01",
                    },
                },
            ],
            "variants": [
                {"when": {"tier": "batch"}, "since": "2026-06-01", "prices": {"input": "0.000001"}},
                {"when": {"tier": "batch"}, "until": "2025-06-01", "prices": {"input": "0.0000015"}, "source": "rule"},
                {"when": {"tier": "batch", "geo": "us"}, "prices": {"input": "0.0000011", "output": "0.0000066"}},
                {"when": {"search_type": "deep"}, "prices": {"input": "0.5"}},
            ],
        },
        {
            "provider": "maker",
            "id": "mk-night",
            "match": {"equals": "mk-night"},
            "prices": [
                {"prices": {"input": "0.000001"}},
                {"hours": ["00:30:00", "16:30:00"], "prices": {"input": "0.000002"}},
                {"since": "2026-09-05", "prices": {"input": "0.000003"}},
            ],
        },
        {
            "provider": "shop",
            "id": "x/mk-1",
            "match": {"equals": "mk-1"},
            "prices": [{"prices": {"input": "0.000009"}}],
        },
    ],
}


@pytest.fixture(scope="module")
def small() -> PriceBook:
    return PriceBook.loads(json.dumps(SMALL).encode())


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.loads(bundled())


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def card(found: Card | Unrated) -> Card:
    assert isinstance(found, Card), found
    return found


def mtok(found: Card | Unrated, *meters: str) -> list[str]:
    """Base prices per million tokens, as price lists write them."""
    return [f"{(card(found).prices[meter].base * 1_000_000).normalize():f}" for meter in meters]


@pytest.mark.parametrize(
    ("when", "context", "expected"),
    [
        ("2026-01-09T23:59:59.999999", STANDARD, ["4", "8"]),
        ("2026-01-10T00:00:00", STANDARD, ["2", "6"]),
        ("2026-06-01T00:00:00", Context(tier="batch"), ["1", "6"]),
        ("2025-05-31T23:59:59", Context(tier="batch"), ["1.5", "8"]),
        ("2026-06-01T00:00:00", Context(tier="BATCH", geo="us"), ["1.1", "6.6"]),
    ],
)
def test_the_price_in_force_on_the_day(small: PriceBook, when: str, context: Context, expected: list[str]) -> None:
    assert mtok(small.at("maker", "mk-1-2024-10-10", context, at(when)), "input", "output") == expected


def test_a_card_says_when_it_holds_and_where_it_is_from(small: PriceBook) -> None:
    found = card(small.at("maker", "MK-1-2024-10-10", Context(tier="batch"), at("2025-04-01T00:00:00")))
    assert found.id.startswith("maker/mk-1/batch/undated#")
    assert (found.valid_from, found.valid_until) == (None, date(2025, 6, 1))
    assert found.source == "genai-prices, overlay rule"
    assert found.context_window == 1000
    assert found.unmetered == {"input_image_tokens": Price(Decimal("0.00009"))}
    later = card(small.at("maker", "mk-1", STANDARD, NOW))
    assert later.id.startswith("maker/mk-1/standard/2026-01-10#")
    assert (later.valid_from, later.valid_until, later.source) == (date(2026, 1, 10), None, "genai-prices")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(None, "2"), (0, "2"), (100, "2"), (101, "3"), (200, "3"), (201, "5"), (10**9, "5")],
)
def test_a_step_begins_above_its_threshold(small: PriceBook, tokens: int | None, expected: str) -> None:
    price = card(small.at("maker", "mk-1", STANDARD, NOW)).prices["input"]
    assert price.at(tokens) * 1_000_000 == Decimal(expected)


@pytest.mark.parametrize(
    ("provider", "model", "context", "when", "unrated"),
    [
        ("nobody", "mk-1", STANDARD, NOW, Unrated("provider_unpriced", "nobody")),
        ("maker", "mk-2", STANDARD, NOW, Unrated("model_unpriced", "mk-2")),
        ("maker", "", STANDARD, NOW, Unrated("model_unpriced", "")),
        ("maker", "mk-1", Context(tier="flex"), NOW, Unrated("tier_unpriced", "flex")),
        ("maker", "mk-1", Context(tier="batch"), at("2025-12-01"), Unrated("tier_unpriced", "batch")),
        ("maker", "mk-1", Context(geo="us"), NOW, Unrated("tier_unpriced", "geo=us")),
        ("maker", "mk-1", Context(speed="fast"), NOW, Unrated("tier_unpriced", "speed=fast")),
        ("maker", "mk-1", Context("batch", "fast", "us"), NOW, Unrated("tier_unpriced", "batch+speed=fast+geo=us")),
        ("reseller", "mk-1", Context(tier="batch"), NOW, Unrated("tier_unpriced", "batch")),
    ],
)
def test_what_is_not_stated_is_unrated_and_never_standard(
    small: PriceBook, provider: str, model: str, context: Context, when: datetime, unrated: Unrated
) -> None:
    for _ in range(2):
        assert small.at(provider, model, context, when) == unrated


def test_an_endless_name_is_unknown_and_not_remembered(small: PriceBook) -> None:
    found = small.at("maker", "mk-1" + "-" * 10_000, STANDARD, NOW)
    assert isinstance(found, Unrated)
    assert found.reason == "model_unpriced"
    assert len(found.detail) <= MODEL_NAME_CHARS_MAX
    assert small.providers_of("m" * 10_000) == ()


def test_a_name_that_meant_another_model_until_a_day(small: PriceBook) -> None:
    assert mtok(small.at("maker", "mk-1", STANDARD, at("2025-02-28T23:59:59")), "input") == ["7"]
    assert mtok(small.at("maker", "mk-1", STANDARD, at("2025-03-01T00:00:00")), "input") == ["4"]
    assert mtok(small.at("maker", "mk-1-2024-10-10", STANDARD, at("2025-02-28T00:00:00")), "input") == ["4"]


@pytest.mark.parametrize(
    ("when", "price", "hours"),
    [
        ("2026-03-01T00:29:59", "1", "16:30-00:30"),
        ("2026-03-01T00:30:00", "2", "00:30-16:30"),
        ("2026-03-01T16:29:59", "2", "00:30-16:30"),
        ("2026-03-01T16:30:00", "1", "16:30-00:30"),
        ("2026-09-05T01:00:00", "3", "00:30-16:30"),
    ],
)
def test_prices_by_time_of_day(small: PriceBook, when: str, price: str, hours: str) -> None:
    found = small.at("maker", "mk-night", STANDARD, at(when))
    assert (mtok(found, "input"), card(found).hours) == ([price], hours)


def test_days_and_hours_are_utc_whatever_the_zone_of_the_clock(small: PriceBook) -> None:
    tokyo = timezone(timedelta(hours=9))
    same = datetime(2026, 1, 10, 8, 59, tzinfo=tokyo)
    assert mtok(small.at("maker", "mk-1", STANDARD, same), "input") == ["4"]
    assert mtok(small.at("maker", "mk-1", STANDARD, same + timedelta(minutes=1)), "input") == ["2"]
    assert mtok(small.at("maker", "mk-night", STANDARD, datetime(2026, 3, 1, 9, 31, tzinfo=tokyo)), "input") == ["2"]
    with pytest.raises(AssertionError, match="zone"):
        small.at("maker", "mk-1", STANDARD, datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_compact_date_is_spelt_out_only_where_the_name_is_unknown(small: PriceBook) -> None:
    assert card(small.at("maker", "mk-1-20251211", STANDARD, NOW)).model == "mk-1"
    assert small.at("maker", "mk-1-20251311", STANDARD, NOW) == Unrated("model_unpriced", "mk-1-20251311")


def test_a_borrowed_price_is_the_maker_s_under_the_reseller_s_name(small: PriceBook) -> None:
    found = card(small.at("reseller", "mk-1", STANDARD, NOW))
    assert found.id.startswith("reseller/mk-1/standard/2026-01-10#")
    assert found.prices == card(small.at("maker", "mk-1", STANDARD, NOW)).prices


def test_providers_of_a_model_maker_first_borrower_last(small: PriceBook, book: PriceBook) -> None:
    assert small.providers_of("mk-1") == ("maker", "shop", "reseller")
    assert small.providers_of("nothing") == ()
    assert book.providers_of("gpt-4o")[0] == "openai"
    assert book.providers_of("gpt-4.1-mini-2025-04-14")[0] == "openai"
    assert book.providers_of("claude-sonnet-4-5-20250929")[0] == "anthropic"
    assert book.providers_of("gemini-2.5-flash")[0] == "google"
    assert book.providers_of("text-embedding-3-small")[0] == "openai"
    assert book.providers_of("gpt-5.6-sol")[0] == "openai"
    assert book.providers_of("claude-opus-5-5")[0] == "anthropic"


def test_models_and_providers_are_listed_in_order(small: PriceBook) -> None:
    assert small.providers() == ["maker", "reseller", "shop"]
    assert small.models("maker") == ["mk-0", "mk-1", "mk-night"]
    assert small.models("reseller") == small.models("nobody") == []


def test_the_dearest_card_is_above_every_context(small: PriceBook) -> None:
    found = card(small.dearest("maker", "mk-1", NOW))
    assert found.context == "any"
    assert found.prices["input"] == Price(Decimal("0.5"), ((100, Decimal("0.5")), (200, Decimal("0.5"))))
    assert mtok(found, "output") == ["6.6"]
    assert mtok(small.dearest("reseller", "mk-1", NOW), "input", "output") == ["2", "6"]
    assert small.dearest("maker", "mk-2", NOW) == Unrated("model_unpriced", "mk-2")


@pytest.mark.parametrize(
    "card_id",
    ["", "#", "maker", "maker/mk-1/standard/undated", "maker/mk-1/standard/2026-99-01#1", "no/mk-1/standard/undated#1"],
)
def test_a_card_that_is_not_there(small: PriceBook, card_id: str) -> None:
    assert small.card(card_id) is None


def test_equal_content_has_an_equal_id_in_another_archive_and_other_content_has_not(small: PriceBook) -> None:
    changed = json.loads(json.dumps(SMALL))
    changed["providers"].append({"id": "new", "name": "New", "api_pattern": "x"})
    changed["models"][1]["prices"][0]["prices"]["output"] = "0.0000080"
    same = PriceBook.loads(json.dumps(changed).encode())
    early = at("2025-12-01T00:00:00")
    original = card(small.at("maker", "mk-1", STANDARD, early))
    assert same.hash != small.hash
    assert card(same.at("maker", "mk-1", STANDARD, early)) == original
    changed["models"][1]["prices"][0]["prices"]["output"] = "0.000008000001"
    other = PriceBook.loads(json.dumps(changed).encode())
    assert card(other.at("maker", "mk-1", STANDARD, early)).id != original.id
    assert other.card(original.id) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        json.dumps(SMALL | {"format": 3}).encode(),
        json.dumps(
            SMALL | {"models": [{"provider": "lost", "id": "a", "match": {"equals": "a"}, "prices": []}]}
        ).encode(),
        json.dumps(
            SMALL | {"models": [{"provider": "shop", "id": "a", "match": {"regex": "("}, "prices": []}]}
        ).encode(),
        json.dumps(
            SMALL | {"models": [{"provider": "shop", "id": "a", "match": {"glob": "*"}, "prices": []}]}
        ).encode(),
    ],
)
def test_bytes_that_are_no_archive(data: bytes) -> None:
    with pytest.raises(StoreFailed):
        PriceBook.loads(data)


def test_the_caches_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "CACHE_ENTRIES_MAX", 8)
    fresh = PriceBook.loads(json.dumps(SMALL).encode())
    for day in range(40):
        assert isinstance(fresh.at("maker", f"mk-{day}", STANDARD, NOW), Card) == (day < 2)
        fresh.at("maker", "mk-1", STANDARD, NOW - timedelta(days=day))
        fresh.providers_of(f"mk-{day}")
        fresh.dearest("maker", "mk-1", NOW - timedelta(days=day))
    assert {len(cache) for cache in (fresh._found, fresh._cards, fresh._ranked, fresh._dearest)} == {8}


@pytest.mark.slow
def test_the_archive_loads_within_its_budget() -> None:
    """300 ms and 60 MB for each worker, measured in a process that has done nothing else."""
    script = """
import time
from costbearer.prices import PriceBook
from costbearer.stores.archive import bundled
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before, began = resident(), time.process_time()
book = PriceBook.loads(bundled())
print(time.process_time() - began, resident() - before)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    seconds, grown = map(float, told.stdout.split())
    assert seconds < 0.3
    assert grown < 60e6


# ---- the words providers use ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "context", "special"),
    [
        ("openai", Context(), {}),
        ("openai", Context(tier="default"), {}),
        ("openai", Context(tier="auto"), {}),
        ("openai", Context(tier="Flex"), {"tier": "flex"}),
        ("openai", Context(tier="fast"), {"tier": "priority"}),
        ("openai", Context(tier="priority"), {"tier": "priority"}),
        ("openai", Context(tier="scale"), {"tier": "scale"}),
        ("openai", Context(tier="ultrafast"), {"tier": "ultrafast"}),
        ("anthropic", Context("standard", "standard", "global"), {}),
        ("anthropic", Context("standard_only", None, "not_available"), {}),
        ("anthropic", Context("batch", "fast", "us"), {"tier": "batch", "speed": "fast", "geo": "us"}),
        ("anthropic", Context(tier="priority"), Unrated("tier_committed", "priority")),
        ("google", Context(tier="ON_DEMAND_FLEX"), {"tier": "flex"}),
        ("google", Context(tier="ON_DEMAND"), {}),
        ("google", Context(tier="PROVISIONED_THROUGHPUT"), {"tier": "provisioned"}),
        ("google", Context(tier="provisioned_throughput", geo="us-central1"), {"tier": "provisioned"}),
        ("aws", Context(tier="reserved", speed="optimized"), {"tier": "provisioned"}),
        ("azure", Context(tier="PTU", geo="datazonestandard"), {"tier": "provisioned"}),
        ("google", Context(geo="global"), {}),
        ("google", Context(geo="us-central1"), {"geo": "regional"}),
        ("google", Context(geo="eu"), {"geo": "regional"}),
        ("azure", Context(geo="GlobalStandard"), {}),
        ("azure", Context(geo="DataZoneStandard"), {"geo": "datazone"}),
        ("openai", Context(variant="1024x1024/HD"), {"variant": "1024x1024/hd"}),
        ("openai", Context(variant=""), {}),
        ("groq", Context(geo="global"), {"geo": "global"}),
    ],
)
def test_contexts_in_the_archive_s_words(provider: str, context: Context, special: dict[str, str] | Unrated) -> None:
    assert canonical(provider, context) == special


def test_a_context_as_an_id_spells_it() -> None:
    assert context_text({}) == "standard"
    assert context_text({"tier": "batch", "speed": "fast", "geo": "us"}) == "batch+speed=fast+geo=us"
    assert context_text({"variant": "1024x1024/hd"}) == "variant=1024x1024:hd"


@pytest.mark.parametrize(
    "special",
    [
        {},
        {"tier": "batch"},
        {"tier": "batch", "speed": "fast", "geo": "us"},
        {"variant": "1024x1024/hd"},
        {"tier": "batch", "variant": "tool=web_search_preview,container=4g"},
    ],
)
def test_a_context_is_read_back_from_its_text(special: dict[str, str]) -> None:
    assert context_from(context_text(special)) == special


# ---- the bundled archive: what FACTS and price lists state -----------------------------------------------------------

ALL = ("input", "output", "cache_read_input", "cache_creation_input", "cache_creation_1h_input")
PRICE_LIST = [
    ("openai", "gpt-4o", STANDARD, "2026-11-22", ["2.5", "10", "1.25"]),
    ("openai", "gpt-4o", STANDARD, "2024-07-01", ["5", "15"]),
    ("openai", "gpt-4o", STANDARD, "2024-10-02", ["2.5", "10"]),
    ("openai", "gpt-4o-2024-08-06", STANDARD, "2024-08-20", ["2.5", "10"]),
    ("openai", "gpt-4o-2024-05-13", STANDARD, "2026-11-22", ["5", "15"]),
    ("openai", "gpt-4o", Context(tier="batch"), "2024-07-01", ["2.5", "7.5"]),
    ("openai", "gpt-4o", Context(tier="batch"), "2026-01-01", ["1.25", "5", "1.25"]),
    ("openai", "gpt-4o", Context(tier="batch"), "2026-10-14", ["1.25", "5", "1.25"]),
    ("openai", "gpt-3.5-turbo-1106", Context(tier="batch"), "2026-11-22", ["1", "2"]),
    ("openai", "gpt-3.5-turbo-1106", Context(tier="batch"), "2026-01-01", ["1", "2"]),
    ("openai", "o3", STANDARD, "2025-06-09", ["10", "40"]),
    ("openai", "o3", STANDARD, "2025-06-10", ["2", "8", "0.5"]),
    ("openai", "o3", Context(tier="flex"), "2025-05-01", ["5", "20"]),
    ("openai", "o3", Context(tier="flex"), "2026-10-12", ["1", "4", "0.25"]),
    ("openai", "gpt-5.6-sol", STANDARD, "2026-08-20", ["5", "30", "0.5", "6.25"]),
    ("openai", "gpt-5.6-sol", STANDARD, "2026-08-21", ["4", "20", "0.4", "5"]),
    ("openai", "gpt-5.6-luna", STANDARD, "2026-07-29", ["1", "6"]),
    ("openai", "gpt-5.6-luna", STANDARD, "2026-07-30", ["0.2", "1.2"]),
    ("openai", "gpt-4.1", Context(tier="priority"), "2026-10-12", ["3.5", "14", "0.875"]),
    ("openai", "gpt-4.1", Context(tier="fast"), "2026-10-12", ["3.5", "14", "0.875"]),
    ("anthropic", "claude-sonnet-4-5-20250929", STANDARD, "2026-11-22", ["3", "15", "0.3", "3.75", "6"]),
    (
        "anthropic",
        "claude-sonnet-4-20250514",
        Context(tier="batch"),
        "2025-09-01",
        ["1.5", "7.5", "0.15", "1.875", "3"],
    ),
    ("anthropic", "claude-3-haiku-20240307", Context(tier="batch"), "2025-01-01", ["0.125", "0.625", "0.015", "0.15"]),
    ("anthropic", "claude-haiku-4-5", Context(tier="batch"), "2026-10-14", ["0.5", "2.5", "0.05", "0.625", "1"]),
    ("anthropic", "claude-opus-4-6", Context(geo="us"), "2026-11-22", ["5.5", "27.5", "0.55", "6.875", "11"]),
    ("anthropic", "claude-opus-4-6", Context(tier="batch", geo="us"), "2026-11-22", ["2.75", "13.75", "0.275"]),
    ("anthropic", "claude-opus-4-8", Context(speed="fast"), "2026-11-22", ["10", "50", "1", "12.5", "20"]),
    ("anthropic", "claude-opus-4-8", Context(speed="fast", geo="us"), "2026-11-22", ["11", "55", "1.1", "13.75", "22"]),
    ("anthropic", "claude-opus-5-5", STANDARD, "2026-11-22", ["4", "20", "0.2", "5", "8"]),
    ("anthropic", "claude-fable-5-1", STANDARD, "2026-11-22", ["10", "50", "0.25", "12.5", "20"]),
    ("deepseek", "deepseek-chat", STANDARD, "2025-03-01T12:00", ["0.27", "1.1", "0.07"]),
    ("deepseek", "deepseek-chat", STANDARD, "2025-03-01T18:00", ["0.135", "0.55", "0.035"]),
    ("azure", "gpt-4o", STANDARD, "2026-11-22", ["2.5", "10", "1.25"]),
    ("azure", "gpt-4o", Context(tier="batch"), "2026-11-22", ["1.25", "5", "0.625"]),
    ("azure", "gpt-4o", Context(geo="DataZoneStandard"), "2026-11-22", ["2.75", "11", "1.375"]),
    ("azure", "o3", Context(geo="datazone"), "2026-11-22", ["2.2", "8.8", "0.55"]),
    ("azure", "gpt-4o", Context(tier="provisioned"), "2026-11-22", ["0", "0", "0"]),
    # Bedrock: the prefix of the inference profile is part of the id, and genai-prices has both prices.
    (
        "aws",
        "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        STANDARD,
        "2026-11-22",
        ["3", "15", "0.3", "3.75", "6"],
    ),
    ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", STANDARD, "2026-11-22", ["3.3", "16.5", "0.33", "4.125"]),
    ("aws", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0", STANDARD, "2026-11-22", ["3.3", "16.5", "0.33", "4.125"]),
    ("aws", "apac.anthropic.claude-haiku-4-5-20251001-v1:0", STANDARD, "2026-11-22", ["1.1", "5.5", "0.11"]),
    ("aws", "us.anthropic.claude-sonnet-4-20250514-v1:0", STANDARD, "2026-11-22", ["3", "15", "0.3"]),
    ("aws", "us.anthropic.claude-haiku-4-5-20251001-v1:0", Context(tier="batch"), "2026-11-22", ["0.55", "2.75"]),
    ("aws", "openai.gpt-oss-20b-1:0", Context(tier="flex"), "2026-11-22", ["0.035", "0.15"]),
    ("aws", "amazon.nova-lite-v1:0", Context(tier="reserved"), "2026-11-22", ["0", "0", "0"]),
    ("google", "gemini-2.5-flash", Context(tier="batch"), "2026-10-13", ["0.15", "1.25"]),
    ("google", "gemini-2.5-flash", Context(tier="batch"), "2026-10-14", ["0.15", "1.25"]),
    ("google", "gemini-2.5-flash", Context(geo="europe-west1"), "2026-11-22", ["0.3", "2.5", "0.03"]),
    ("google", "gemini-3.5-flash", Context(geo="eu"), "2026-06-30", ["1.5", "9", "0.15"]),
    ("google", "gemini-3.5-flash", Context(geo="eu"), "2026-07-01", ["1.65", "9.9", "0.165"]),
    ("google", "gemini-3.5-flash", Context(geo="global"), "2026-07-01", ["1.5", "9", "0.15"]),
    ("google", "claude-sonnet-4-5@20250929", STANDARD, "2026-11-22", ["3", "15", "0.3", "3.75", "6"]),
    ("google", "claude-sonnet-4-5@20250929", Context(geo="us-east5"), "2026-11-22", ["3.3", "16.5", "0.33", "4.125"]),
    ("google", "claude-sonnet-4@20250514", Context(geo="us-east5"), "2026-11-22", ["3", "15", "0.3", "3.75"]),
    ("google", "gemini-2.5-pro", Context(tier="PROVISIONED_THROUGHPUT"), "2026-11-22", ["0", "0", "0"]),
    ("huggingface_together", "Qwen/Qwen3-VL-8B-Instruct", STANDARD, "2026-11-22", ["0.18"]),
]


@pytest.mark.parametrize(("provider", "model", "context", "when", "expected"), PRICE_LIST)
def test_published_prices(
    book: PriceBook, provider: str, model: str, context: Context, when: str, expected: list[str]
) -> None:
    found = book.at(provider, model, context, at(when))
    assert mtok(found, *ALL[: len(expected)]) == expected


@pytest.mark.parametrize(
    ("provider", "model", "context", "when", "reason"),
    [
        ("openai", "gpt-5.6-sol", Context(tier="ultrafast"), "2026-11-22", "tier_unpriced"),
        ("openai", "gpt-5", Context(tier="scale"), "2026-11-22", "tier_unpriced"),
        ("openai", "gpt-5", Context(tier="priority"), "2026-10-11", "tier_unpriced"),
        ("openai", "gpt-4o", Context(tier="flex"), "2026-11-22", "tier_unpriced"),
        ("openai", "o3", Context(tier="flex"), "2025-04-17", "tier_unpriced"),
        ("openai", "gpt-4o-audio-preview", Context(tier="batch"), "2026-11-22", "tier_unpriced"),
        ("azure", "gpt-4o", Context(tier="priority"), "2026-11-22", "tier_unpriced"),
        ("azure", "gpt-4o", Context(geo="regional"), "2026-11-22", "tier_unpriced"),
        ("aws", "anthropic.claude-opus-4-6-v1", Context(tier="flex"), "2026-11-22", "tier_unpriced"),
        ("aws", "amazon.nova-lite-v1:0", Context(tier="priority"), "2026-11-22", "tier_unpriced"),
        ("google", "gemini-3-pro-preview", Context(tier="batch"), "2026-11-22", "tier_unpriced"),
        ("google", "gemini-embedding-2", Context(geo="us-central1"), "2026-11-22", "tier_unpriced"),
        ("groq", "llama-3.1-8b-instant", Context(tier="batch"), "2026-10-01", "tier_unpriced"),
        ("openai", "dall-e-3", Context(variant="512x512/standard"), "2026-11-22", "variant_unpriced"),
        ("openai", "dall-e-3", Context(variant="hd"), "2026-11-22", "variant_unpriced"),
        ("perplexity", "sonar", Context(variant="enormous"), "2026-11-22", "variant_unpriced"),
        ("openai", "gpt-4.1", Context(variant="container=16g"), "2026-05-01", "variant_unpriced"),
        ("anthropic", "claude-opus-5", Context(tier="priority"), "2026-11-22", "tier_committed"),
        ("anthropic", "claude-opus-5", Context(geo="eu"), "2026-11-22", "tier_unpriced"),
        ("anthropic", "claude-opus-4-5", Context(geo="us"), "2026-11-22", "tier_unpriced"),
        ("anthropic", "claude-opus-4-6", Context(speed="fast"), "2026-11-22", "tier_unpriced"),
        ("anthropic", "claude-opus-5", Context(tier="batch", speed="fast"), "2026-11-22", "tier_unpriced"),
        ("anthropic", "claude-2.1", Context(tier="batch"), "2025-01-01", "tier_unpriced"),
        ("openai", "gpt-99", STANDARD, "2026-11-22", "model_unpriced"),
        ("openai", "claude-opus-5", STANDARD, "2026-11-22", "model_unpriced"),
    ],
)
def test_what_no_source_states(
    book: PriceBook, provider: str, model: str, context: Context, when: str, reason: str
) -> None:
    found = book.at(provider, model, context, at(when))
    assert isinstance(found, Unrated)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("provider", "model", "variant", "when", "meter", "price"),
    [
        ("openai", "dall-e-2", "1024x1024", "2024-01-01", "generated_image", "0.02"),
        ("openai", "dall-e-2", "512x512/standard", "2026-11-22", "generated_image", "0.018"),
        ("openai", "dall-e-2", "256x256", "2026-11-22", "generated_image", "0.016"),
        ("openai", "dall-e-3", "1024x1024/standard", "2026-11-22", "generated_image", "0.04"),
        ("openai", "dall-e-3", "1792x1024/HD", "2026-11-22", "generated_image", "0.12"),
        ("azure", "dall-e-3", "1024x1024/hd", "2026-11-22", "generated_image", "0.08"),
        ("perplexity", "sonar", "low", "2026-11-22", "request", "0.005"),
        ("perplexity", "sonar", "medium", "2026-11-22", "request", "0.008"),
        ("perplexity", "sonar", "high", "2026-11-22", "request", "0.012"),
        ("perplexity", "sonar-reasoning-pro", "high", "2026-11-22", "request", "0.014"),
        ("perplexity", "sonar-pro", "pro/low", "2026-11-22", "request", "0.014"),
        ("openai", "gpt-4.1", "tool=web_search_preview", "2026-11-22", "web_search", "0.025"),
        ("openai", "gpt-4.1", None, "2026-11-22", "web_search", "0.01"),
        ("openai", "gpt-5", "tool=web_search_preview", "2026-11-22", "web_search", "0.01"),
        ("openai", "gpt-5", "container=1g", "2025-11-22", "code_interpreter_session", "0.03"),
        ("openai", "gpt-5", "container=64g", "2026-04-01", "code_interpreter_session", "1.92"),
        ("openai", "gpt-4.1", "tool=web_search_preview,container=4g", "2026-04-01", "web_search", "0.025"),
        ("openai", "gpt-4.1", "tool=web_search_preview,container=4g", "2026-04-01", "code_interpreter_session", "0.12"),
        ("openai", "gpt-4.1", None, "2026-11-22", "file_search", "0.0025"),
        ("openai", "whisper-1", None, "2026-11-22", "input_audio_second", "0.0001"),
        ("openai", "gpt-realtime-whisper", None, "2026-11-22", "input_audio_second", "0.000283333333"),
        ("openai", "tts-1-hd", None, "2026-11-22", "input_character", "0.00003"),
        ("mistral", "mistral-ocr-4-1", None, "2026-11-22", "input_page", "0.004"),
        ("cohere", "rerank-english-v3.0", None, "2026-11-22", "search_unit", "0.002"),
        ("openai", "gpt-image-1", None, "2026-11-22", "image_output", "0.00004"),
        ("openai", "gpt-image-1.5", None, "2026-11-22", "image_output", "0.000032"),
        ("perplexity", "sonar-deep-research", "low", "2026-11-22", "citation", "0.000002"),
    ],
)
def test_prices_of_what_is_no_text(
    book: PriceBook, provider: str, model: str, variant: str | None, when: str, meter: str, price: str
) -> None:
    found = card(book.at(provider, model, Context(variant=variant), at(when)))
    assert found.prices[meter].base == Decimal(price)
    assert book.card(found.id) == found


def test_a_variant_lies_over_every_tier_and_is_not_multiplied(book: PriceBook) -> None:
    both = Context(tier="batch", variant="container=4g")
    found = card(book.at("openai", "gpt-4.1", both, at("2026-05-01")))
    assert found.context == "batch+variant=container=4g"
    assert mtok(found, "input", "output") == ["1", "4"]
    assert found.prices["code_interpreter_session"].base == Decimal("0.12")
    assert (found.valid_from, found.valid_until) == (date(2026, 3, 31), date(2026, 6, 2))


def test_a_variant_that_no_price_depends_on_changes_nothing(book: PriceBook) -> None:
    for variant in ("high", "container=4g", "1024x1024/hd,low"):
        assert book.at("anthropic", "claude-opus-5", Context(variant=variant), NOW) == book.at(
            "anthropic", "claude-opus-5", STANDARD, NOW
        )


def test_a_fee_that_depends_on_what_is_not_stated_is_not_charged_but_bounds(book: PriceBook) -> None:
    found = card(book.at("perplexity", "sonar", STANDARD, NOW))
    assert "request" not in found.prices
    assert found.request_fee.base == Decimal("0.012")
    assert found.unmetered == {"requests": Price(Decimal("0.012"))}
    assert card(book.at("perplexity", "sonar", Context(variant="low"), NOW)).unmetered == {}


def test_the_dearest_card_covers_every_factor_and_variant(book: PriceBook) -> None:
    for provider, model in (("azure", "gpt-4o"), ("google", "gemini-3.5-flash"), ("openai", "dall-e-3")):
        most = card(book.dearest(provider, model, NOW)).prices
        cards = book.every(provider, model, NOW)
        assert isinstance(cards, list)
        for each in cards:
            for meter, price in each.prices.items():
                assert most[meter].base >= price.base
    assert mtok(book.dearest("azure", "gpt-4o", NOW), "input") == ["2.75"]


def test_every_card_of_a_name_and_all_it_ever_had(book: PriceBook) -> None:
    now = book.every("openai", "gpt-4o", NOW)
    assert isinstance(now, list)
    assert [each.context for each in now][:2] == ["standard", "priority"]
    assert now[0] == book.at("openai", "gpt-4o", STANDARD, NOW)
    past = book.past("openai", "gpt-4o")
    assert isinstance(past, list)
    assert {each.id for each in now} <= {each.id for each in past}
    standard = [each for each in past if each.context == "standard"]
    assert [mtok(each, "input") for each in standard] == [["5"], ["2.5"]]  # what the alias meant before, and means
    assert book.every("openai", "gpt-99", NOW) == book.past("openai", "gpt-99") == Unrated("model_unpriced", "gpt-99")


def test_every_card_at_a_time_of_day(book: PriceBook) -> None:
    for hour, price in ((12, "0.27"), (18, "0.135"), (0, "0.135")):
        cards = book.every("deepseek", "deepseek-chat", at(f"2025-03-01T{hour:02}:10"))
        assert isinstance(cards, list)
        assert [mtok(each, "input") for each in cards] == [[price]]


def test_an_alias_may_have_meant_several_models() -> None:
    rows = [
        {"provider": "maker", "name": "mk-1", "model": model, "until": until, "source": "a page"}
        for model, until in (("mk-night", "2025-06-01"), ("mk-0", "2025-03-01"))
    ]
    book = PriceBook.loads(json.dumps(SMALL | {"aliases": rows}).encode())
    meant = [
        card(book.at("maker", "mk-1", STANDARD, at(day))).model for day in ("2025-02-28", "2025-03-01", "2025-06-01")
    ]
    assert meant == ["mk-0", "mk-night", "mk-1"]
    past = book.past("maker", "mk-1")
    assert isinstance(past, list)
    models = [each.model for each in past if each.context == "standard"]
    assert list(dict.fromkeys(models)) == ["mk-0", "mk-night", "mk-1"]
    assert models.count("mk-0") == 1  # whatever hours another meaning of the name has


FACTORED: dict[str, Any] = {
    **SMALL,
    "format": 2,
    "providers": [
        *SMALL["providers"][:1],
        {
            **SMALL["providers"][1],
            "factors": [
                {"when": {"geo": "eu"}, "factor": "1.1", "source": "raised", "since": "2026-02-01"},
                {"when": {"tier": "batch"}, "factor": "0.5", "source": "half", "match": {"starts_with": "mk-1"}},
                {"when": {"tier": "batch", "geo": "eu"}, "factor": "1.1", "over": {"tier": "batch"}, "source": "both"},
            ],
        },
        SMALL["providers"][2],
    ],
}


def test_a_factor_reaches_borrowed_prices_their_steps_and_other_factors() -> None:
    book = PriceBook.loads(json.dumps(FACTORED).encode())
    eu = card(book.at("reseller", "mk-1", Context(geo="eu"), NOW))
    steps = ((100, Decimal("0.0000033")), (200, Decimal("0.0000055")))
    assert eu.prices["input"] == Price(Decimal("0.0000022"), steps)
    assert eu.prices["web_search"] == Price(Decimal("0.01"))  # not per token
    assert eu.source == "genai-prices, overlay raised"
    assert eu.valid_from == date(2026, 2, 1)
    assert mtok(book.at("reseller", "mk-1", Context(tier="batch"), NOW), "input", "output") == ["1", "3"]
    both = card(book.at("reseller", "mk-1", Context(tier="batch", geo="eu"), NOW))
    assert mtok(both, "input", "output") == ["1.1", "3.3"]
    assert both.source == "genai-prices, overlay half, overlay both"
    for found in (eu, both):
        assert book.card(found.id) == found
    assert book.at("reseller", "mk-0", Context(tier="batch"), NOW) == Unrated("tier_unpriced", "batch")
    assert book.at("reseller", "mk-1", Context(geo="eu"), at("2026-01-31")) == Unrated("tier_unpriced", "geo=eu")


def test_an_archive_of_the_first_format_gives_the_cards_it_always_gave(small: PriceBook) -> None:
    """Ids are in ledgers; a version that read them otherwise could no longer explain its charges."""
    early = card(small.at("maker", "mk-1", STANDARD, at("2025-12-01")))
    assert early.id == "maker/mk-1/standard/undated#0cf1cd8a3763"
    assert early.unmetered == {"input_image_tokens": Price(Decimal("0.00009"))}


def test_web_search_is_neither_halved_nor_raised(book: PriceBook) -> None:
    for context in (STANDARD, Context(tier="batch"), Context(geo="us"), Context(tier="batch", geo="us")):
        for when in ("2026-05-01", "2026-11-22"):
            assert card(book.at("anthropic", "claude-opus-4-6", context, at(when))).prices[
                "web_search"
            ].base == Decimal("0.01")


def test_long_context_prices_and_their_end(book: PriceBook) -> None:
    sonnet = card(book.at("anthropic", "claude-sonnet-4-5", STANDARD, NOW)).prices
    assert [sonnet[meter].at(200_001) * 1_000_000 for meter in ("input", "output", "cache_read_input")] == [
        6,
        Decimal("22.5"),
        Decimal("0.6"),
    ]
    haiku = card(book.at("anthropic", "claude-haiku-5-5", STANDARD, NOW)).prices["input"]
    assert haiku.at(100_001) == 5 * haiku.at(100_000)
    before = card(book.at("anthropic", "claude-opus-4-6", STANDARD, at("2026-03-12"))).prices["input"]
    assert before.at(200_001) == 2 * before.base
    assert card(book.at("anthropic", "claude-opus-4-6", STANDARD, at("2026-03-13"))).prices["input"].steps == ()


def test_every_model_has_a_sound_card_that_its_id_leads_back_to(book: PriceBook) -> None:
    seen = 0
    for provider in book.providers():
        for model in book._models[provider]:
            name = _name_of(model.match)
            for context in (STANDARD, Context(tier="batch"), Context(speed="fast"), Context(tier="batch", geo="us")):
                found = book.at(provider, name, context, NOW)
                if isinstance(found, Unrated):
                    assert (found.reason, context != STANDARD) == ("tier_unpriced", True)
                    continue
                seen += 1
                assert set(found.prices) <= set(METER)
                assert all(price.base >= 0 for price in found.prices.values())
                assert book.card(found.id) == found
    assert seen > 2300


def _name_of(clause: dict[str, Any]) -> str:
    """Some name that the clause is about; a card may be another model's, where two clauses share a name."""
    ((kind, value),) = clause.items()
    if kind == "or":
        return min((_name_of(each) for each in value), key=lambda name: ("\\" in name, name))
    return "".join(map(_name_of, value)) if kind == "and" else str(value)


@given(st.sampled_from(PRICE_LIST), st.integers(0, 900), st.integers(0, 86_399))
def test_a_card_holds_on_all_its_days(
    book: PriceBook, row: tuple[str, str, Context, str, list[str]], days: int, seconds: int
) -> None:
    provider, model, context, _, _ = row
    when = at("2024-11-01T00:00:00") + timedelta(days=days, seconds=seconds)
    found = book.at(provider, model, context, when)
    if isinstance(found, Card):
        assert found.valid_from is None or found.valid_from <= when.date()
        assert found.valid_until is None or when.date() < found.valid_until
        assert book.card(found.id) == found
        first = when if found.valid_from is None else datetime.combine(found.valid_from, when.timetz())
        assert book.at(provider, model, context, first) == found
        if found.valid_until is not None:
            last = datetime.combine(found.valid_until, when.timetz()) - timedelta(days=1)
            assert book.at(provider, model, context, last) == found
