"""The billing rules of Gemini's usage objects, a row for each trap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects.gemini_usage import (
    Grounding,
    inclusive,
    read_content_usage,
    read_interaction_usage,
    read_tier,
    tier_word,
)
from costbearer.dialects.reply import Notes
from costbearer.errors import UsageInvalid
from costbearer.usage import Usage, leaves


def details(**by_modality: int) -> list[dict[str, Any]]:
    return [{"modality": name, "tokenCount": count} for name, count in by_modality.items()]


def read(usage: dict[str, Any]) -> tuple[Usage, bool, tuple[str, ...]]:
    notes = Notes()
    stated, all_counts = read_content_usage(usage, notes)
    counts, usable = inclusive(stated, notes)
    return counts, all_counts and usable, notes.codes()


PLAIN = {"promptTokenCount": 40, "candidatesTokenCount": 7, "totalTokenCount": 47}

CASES: dict[str, tuple[dict[str, Any], Usage]] = {
    "plain": (PLAIN, Usage(input_tokens=40, output_tokens=7)),
    "thoughts are outside the candidates": (
        {"promptTokenCount": 9, "candidatesTokenCount": 23, "thoughtsTokenCount": 302, "totalTokenCount": 334},
        Usage(input_tokens=9, output_tokens=325, reasoning_output_tokens=302),
    ),
    "what tools brought is outside the prompt": (
        {
            "promptTokenCount": 30,
            "toolUsePromptTokenCount": 4600,
            "candidatesTokenCount": 20,
            "totalTokenCount": 4650,
            "toolUsePromptTokensDetails": details(TEXT=4600),
        },
        Usage(input_tokens=4630, output_tokens=20),
    ),
    "the cached part is inside the prompt": (
        {"promptTokenCount": 5000, "cachedContentTokenCount": 4096, "candidatesTokenCount": 3, "totalTokenCount": 5003},
        Usage(input_tokens=5000, output_tokens=3, cache_read_input_tokens=4096),
    ),
    "details that do not add up leave the rest to text": (
        {**PLAIN, "promptTokensDetails": details(TEXT=10, AUDIO=12)},
        Usage(input_tokens=40, output_tokens=7, audio_input_tokens=12),
    ),
    "each modality has its count": (
        {
            "promptTokenCount": 1000,
            "promptTokensDetails": details(TEXT=100, IMAGE=258, VIDEO=500, AUDIO=92, DOCUMENT=50),
            "cachedContentTokenCount": 400,
            "cacheTokensDetails": details(TEXT=20, IMAGE=100, VIDEO=240, AUDIO=40),
            "candidatesTokenCount": 1300,
            "candidatesTokensDetails": details(IMAGE=1290, AUDIO=5),
            "totalTokenCount": 2300,
        },
        Usage(
            input_tokens=1000,
            output_tokens=1300,
            cache_read_input_tokens=400,
            image_input_tokens=258,
            cache_read_image_input_tokens=100,
            video_input_tokens=260,
            audio_input_tokens=92,
            cache_read_audio_input_tokens=40,
            image_output_tokens=1290,
            audio_output_tokens=5,
        ),
    ),
    "tools may bring images": (
        {
            **PLAIN,
            "toolUsePromptTokenCount": 258,
            "totalTokenCount": 305,
            "promptTokensDetails": details(IMAGE=5),
            "toolUsePromptTokensDetails": details(IMAGE=258),
        },
        Usage(input_tokens=298, output_tokens=7, image_input_tokens=263),
    ),
    "modalities as numbers": (
        {
            **PLAIN,
            "promptTokensDetails": [
                {"modality": 1, "tokenCount": 8},
                {"modality": 2, "tokenCount": 9},
                {"modality": 4, "tokenCount": 10},
                {"modality": 5, "tokenCount": 11},
            ],
        },
        Usage(input_tokens=40, output_tokens=7, image_input_tokens=9, audio_input_tokens=10),
    ),
    "a modality's zero is left out": (
        {**PLAIN, "promptTokensDetails": [{"modality": "AUDIO"}, {"modality": "TEXT", "tokenCount": 40}]},
        Usage(input_tokens=40, output_tokens=7),
    ),
    "a blocked prompt has no candidates and is billed": (
        {"promptTokenCount": 12, "totalTokenCount": 12},
        Usage(input_tokens=12, output_tokens=0),
    ),
    "no candidates and no total": ({"promptTokenCount": 12}, Usage(input_tokens=12)),
    "the names of live sessions": (
        {
            "promptTokenCount": 5,
            "responseTokenCount": 60,
            "responseTokensDetails": details(AUDIO=50),
            "totalTokenCount": 65,
        },
        Usage(input_tokens=5, output_tokens=60, audio_output_tokens=50),
    ),
    "the name in embeddings": (
        {"promptTokenCount": 300, "promptTokenDetails": details(IMAGE=258)},
        Usage(input_tokens=300, image_input_tokens=258),
    ),
}


@pytest.mark.parametrize(("usage", "expected"), CASES.values(), ids=CASES)
def test_what_is_stated_is_read_and_adds_up(usage: dict[str, Any], expected: Usage) -> None:
    counts, sound, notes = read(usage)
    assert counts == expected
    assert sound
    assert notes == ()
    parts = leaves(counts)
    assert sum(parts.values()) == (expected.input_tokens or 0) + (expected.output_tokens or 0)


@pytest.mark.parametrize(
    ("usage", "note"),
    [
        ({}, "usage_partial"),
        ({"candidatesTokenCount": 5}, "usage_partial"),
        ({"promptTokenCount": 0, "candidatesTokenCount": 5, "totalTokenCount": 5}, "input_zero"),
        ({**PLAIN, "promptTokenCount": "40"}, "usage_malformed"),
        ({**PLAIN, "promptTokenCount": -1}, "usage_malformed"),
        ({**PLAIN, "promptTokenCount": True}, "usage_malformed"),
        ({**PLAIN, "candidatesTokenCount": 10**40}, "usage_malformed"),
        ({**PLAIN, "promptTokensDetails": {"TEXT": 40}}, "usage_malformed"),
        ({**PLAIN, "promptTokensDetails": [40]}, "usage_malformed"),
        ({**PLAIN, "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": "4"}]}, "usage_malformed"),
    ],
)
def test_what_is_no_count_cannot_be_relied_on(usage: dict[str, Any], note: str) -> None:
    _, sound, notes = read(usage)
    assert not sound
    assert note in notes


@pytest.mark.parametrize("modality", ["SMELL", 17, True, ["TEXT"], {"a": 1}])
def test_a_modality_nobody_knows_is_text_and_noted(modality: object) -> None:
    counts, sound, notes = read({**PLAIN, "promptTokensDetails": [{"modality": modality, "tokenCount": 30}]})
    assert counts == Usage(input_tokens=40, output_tokens=7)
    assert sound
    assert notes == ("modality_unknown",)


def test_a_total_that_differs_is_noted_and_changes_nothing() -> None:
    counts, sound, notes = read({**PLAIN, "totalTokenCount": 60})
    assert counts == Usage(input_tokens=40, output_tokens=7)
    assert sound
    assert notes == ("total_mismatch",)


def test_parts_that_exceed_their_whole_are_refused_where_they_are_priced() -> None:
    counts, _, _ = read({**PLAIN, "promptTokensDetails": details(AUDIO=41)})
    with pytest.raises(UsageInvalid):
        leaves(counts)


def test_a_cached_part_whose_modality_is_not_stated_is_noted() -> None:
    _, sound, notes = read({**PLAIN, "cachedContentTokenCount": 5, "promptTokensDetails": details(AUDIO=9)})
    assert sound
    assert notes == ("cache_modality_assumed",)


def test_an_interaction_states_the_same_in_other_names() -> None:
    notes = Notes()
    usage = {
        "total_input_tokens": 22,
        "input_tokens_by_modality": [{"modality": "text", "tokens": 12}, {"modality": "audio", "tokens": 10}],
        "total_cached_tokens": 8,
        "cached_tokens_by_modality": [{"modality": "audio", "tokens": 8}],
        "total_tool_use_tokens": 129,
        "total_output_tokens": 973,
        "output_tokens_by_modality": [{"modality": "image", "tokens": 900}],
        "total_thought_tokens": 249,
        "total_tokens": 1373,
    }
    stated, sound = read_interaction_usage(usage, notes)
    counts, usable = inclusive(stated, notes)
    assert sound
    assert usable
    assert notes.codes() == ()
    assert counts == Usage(
        input_tokens=151,
        output_tokens=1222,
        cache_read_input_tokens=8,
        reasoning_output_tokens=249,
        audio_input_tokens=10,
        cache_read_audio_input_tokens=8,
        image_output_tokens=900,
    )


@pytest.mark.parametrize(
    ("model", "billed"),
    [
        ("gemini-2.5-flash", 1),
        ("gemini-2.0-flash", 1),
        ("gemini-1.5-pro-002", 1),
        ("gemini-3-flash-preview", 2),
        ("gemini-3.8-flash", 2),
        ("gemini-10-pro", 2),
        ("gemini-pro-latest", 2),
        ("deep-research", 2),
    ],
)
def test_searches_are_billed_by_prompt_before_gemini_3_and_by_query_since(model: str, billed: int) -> None:
    grounding = Grounding()
    assert grounding.requests(model) is None
    grounding.add(["harbour dues", "", "  ", "tide table", "harbour dues", None, 7])
    grounding.add(["tide table"])
    grounding.add("not a list")
    assert grounding.requests(model) == billed


def test_a_stated_number_of_searches_wins() -> None:
    grounding = Grounding()
    grounding.add(["one"])
    grounding.state(3)
    assert grounding.requests("gemini-3.8-flash") == 3


@pytest.mark.parametrize(
    ("usage", "headers", "tier"),
    [
        ({}, {}, None),
        ({"serviceTier": "flex"}, {}, "flex"),
        ({"serviceTier": "SERVICE_TIER_PRIORITY"}, {}, "priority"),
        ({"serviceTier": "SERVICE_TIER_UNSPECIFIED"}, {}, None),
        ({"trafficType": "ON_DEMAND_FLEX"}, {}, "ON_DEMAND_FLEX"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, {}, "PROVISIONED_THROUGHPUT"),
        ({"trafficType": "TRAFFIC_TYPE_UNSPECIFIED"}, {}, None),
        ({"trafficType": 0}, {}, None),
        ({"trafficType": 1}, {}, "ON_DEMAND"),
        ({"trafficType": 2}, {}, "PROVISIONED_THROUGHPUT"),
        ({"trafficType": 9}, {}, "TRAFFIC_TYPE_9"),
        ({"trafficType": ["ON_DEMAND"]}, {}, None),
        ({}, {"x-gemini-service-tier": "standard"}, "standard"),
        ({"serviceTier": "priority"}, {"x-gemini-service-tier": "standard"}, "priority"),
    ],
)
def test_the_tier_that_served(usage: dict[str, Any], headers: dict[str, str], tier: str | None) -> None:
    assert read_tier(usage, headers) == tier


def test_a_tier_has_two_spellings() -> None:
    assert [tier_word(word) for word in ("flex", "SERVICE_TIER_FLEX", "unspecified", None, 3)] == [
        "flex",
        "flex",
        None,
        None,
        None,
    ]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["modality", "tokenCount"]), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*PLAIN, "promptTokensDetails", "cacheTokensDetails", "toolUsePromptTokenCount", "x"]), anything
    )
)
def test_nothing_a_provider_states_raises(usage: dict[str, Any]) -> None:
    counts, sound, _ = read(usage)
    assert not sound or counts.input_tokens
    assert read_tier(usage, {}) is None


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_conservation(prompt: int, tools: int, candidates: int, thoughts: int) -> None:
    usage = {
        "promptTokenCount": prompt,
        "toolUsePromptTokenCount": tools,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + tools + candidates + thoughts,
        "promptTokensDetails": details(TEXT=prompt // 3, AUDIO=prompt // 4, VIDEO=prompt // 5),
        "cachedContentTokenCount": prompt // 2,
        "cacheTokensDetails": details(AUDIO=prompt // 8, VIDEO=prompt // 10),
    }
    counts, sound, notes = read(usage)
    assert sound
    assert notes == ()
    assert sum(leaves(counts).values()) == usage["totalTokenCount"]
