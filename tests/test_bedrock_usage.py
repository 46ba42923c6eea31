"""Bedrock's usage: what contains what, which of two statements holds, and that nothing odd becomes a count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects.bedrock_usage import (
    NO_METER,
    Meter,
    count,
    meter_of_headers,
    meter_of_metrics,
    metered,
    read_converse,
)
from costbearer.dialects.reply import Notes, Number
from costbearer.usage import Usage, leaves

BASE = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}
CACHED = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 145}


@pytest.mark.parametrize(
    ("stated", "ttl_1h", "usage", "notes"),
    [
        (BASE, False, Usage(input_tokens=10, output_tokens=5), ()),
        # The caches are outside of inputTokens, and their second names are the same tokens.
        (
            {
                **CACHED,
                "cacheReadInputTokens": 100,
                "cacheReadInputTokenCount": 100,
                "cacheWriteInputTokens": 30,
                "cacheWriteInputTokenCount": 30,
            },
            False,
            Usage(input_tokens=140, output_tokens=5, cache_read_input_tokens=100, cache_creation_input_tokens=30),
            ("cache_ttl_assumed",),
        ),
        (
            {**BASE, "totalTokens": 115, "cacheReadInputTokenCount": 100},
            False,
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            (),
        ),
        (
            {**BASE, "totalTokens": 115, "cacheReadInputTokens": 100, "cacheReadInputTokenCount": 90},
            False,
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            ("cache_alias_mismatch",),
        ),
        # Writes by their time to live; what no split accounts for lives as long as the request asked.
        (
            {
                **BASE,
                "totalTokens": 45,
                "cacheWriteInputTokens": 30,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
            },
            False,
            Usage(
                input_tokens=40,
                output_tokens=5,
                cache_creation_input_tokens=30,
                cache_creation_1h_input_tokens=20,
            ),
            (),
        ),
        (
            {**BASE, "totalTokens": 45, "cacheWriteInputTokens": 30},
            True,
            Usage(
                input_tokens=40,
                output_tokens=5,
                cache_creation_input_tokens=30,
                cache_creation_1h_input_tokens=30,
            ),
            ("cache_ttl_assumed",),
        ),
        (
            {
                **BASE,
                "totalTokens": 45,
                "cacheWriteInputTokens": 30,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 12}],
            },
            False,
            Usage(
                input_tokens=40,
                output_tokens=5,
                cache_creation_input_tokens=30,
                cache_creation_1h_input_tokens=12,
            ),
            ("cache_ttl_assumed",),
        ),
        (
            {
                **BASE,
                "totalTokens": 45,
                "cacheWriteInputTokens": 30,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 99}],
            },
            False,
            Usage(
                input_tokens=40,
                output_tokens=5,
                cache_creation_input_tokens=30,
                cache_creation_1h_input_tokens=30,
            ),
            ("cache_split_mismatch",),
        ),
        (
            {**BASE, "cacheWriteInputTokens": 0, "cacheDetails": [{"ttl": "1d", "inputTokens": 3}, "x"]},
            False,
            Usage(input_tokens=10, output_tokens=5, cache_creation_input_tokens=0, cache_creation_1h_input_tokens=0),
            ("cache_split_unreadable",),
        ),
        ({**BASE, "serverToolUsage": {}}, False, Usage(input_tokens=10, output_tokens=5), ()),
        (
            {**BASE, "serverToolUsage": {"webSearchRequests": 3}},
            False,
            Usage(input_tokens=10, output_tokens=5, web_search_requests=3),
            (),
        ),
        (
            {**BASE, "serverToolUsage": {"somethingNew": 3}},
            False,
            Usage(input_tokens=10, output_tokens=5),
            ("server_tool_usage",),
        ),
        ({**BASE, "totalTokens": 99}, False, Usage(input_tokens=10, output_tokens=5), ("total_mismatch",)),
    ],
)
def test_converse(stated: dict[str, Any], ttl_1h: bool, usage: Usage, notes: tuple[str, ...]) -> None:
    noted = Notes()
    assert read_converse(stated, ttl_1h=ttl_1h, notes=noted) == (usage, True)
    assert noted.codes() == notes
    leaves(usage)


@pytest.mark.parametrize(
    ("stated", "note"),
    [
        ({"inputTokens": 10}, "usage_partial"),
        ({"outputTokens": 5}, "usage_partial"),
        ({"inputTokens": 0, "outputTokens": 5}, "input_zero"),
        ({"inputTokens": -1, "outputTokens": 5}, "usage_malformed"),
        ({"inputTokens": "10", "outputTokens": 5}, "usage_malformed"),
        ({"inputTokens": True, "outputTokens": 5}, "usage_malformed"),
        ({**BASE, "cacheReadInputTokens": 10**15}, "usage_malformed"),
    ],
)
def test_what_cannot_be_relied_on(stated: dict[str, Any], note: str) -> None:
    notes = Notes()
    _, sound = read_converse(stated, ttl_1h=False, notes=notes)
    assert not sound
    assert note in notes.codes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = [
    "inputTokens",
    "outputTokens",
    "totalTokens",
    "cacheReadInputTokens",
    "cacheReadInputTokenCount",
    "cacheWriteInputTokens",
    "cacheDetails",
    "serverToolUsage",
]


@given(
    st.dictionaries(
        st.sampled_from(MEMBERS),
        JSON
        | st.integers(0, 10**6)
        | st.lists(st.dictionaries(st.sampled_from(["ttl", "inputTokens"]), JSON | st.sampled_from(["1h", "5m", 7]))),
    ),
    st.booleans(),
)
def test_no_usage_object_raises_or_has_a_part_larger_than_its_whole(stated: dict[str, Any], ttl_1h: bool) -> None:
    usage, sound = read_converse(stated, ttl_1h=ttl_1h, notes=Notes())
    if sound:
        assert sum(leaves(usage).values()) == (
            (usage.input_tokens or 0) + (usage.output_tokens or 0) + (usage.web_search_requests or 0)
        )


@pytest.mark.parametrize(
    ("headers", "meter", "notes"),
    [
        ({}, NO_METER, ()),
        (
            {
                "x-amzn-bedrock-input-token-count": "14",
                "x-amzn-bedrock-output-token-count": " 10 ",
                "x-amzn-bedrock-cache-read-input-token-count": "3",
                "x-amzn-bedrock-cache-write-input-token-count": "0",
            },
            Meter(14, 10, 3, 0),
            (),
        ),
        ({"x-amzn-bedrock-input-token-count": "1.5"}, NO_METER, ("usage_malformed",)),
        ({"x-amzn-bedrock-input-token-count": "9" * 5000}, NO_METER, ("usage_malformed",)),
        ({"x-amzn-bedrock-output-token-count": "\u0663"}, NO_METER, ("usage_malformed",)),
    ],
)
def test_the_meter_in_headers(headers: dict[str, str], meter: Meter, notes: tuple[str, ...]) -> None:
    noted = Notes()
    assert meter_of_headers(headers, noted) == meter
    assert noted.codes() == notes


@pytest.mark.parametrize(
    ("metrics", "meter", "notes"),
    [
        ({"inputTokenCount": 1, "outputTokenCount": 2, "invocationLatency": 9}, Meter(1, 2), ()),
        (
            {"inputTokenCount": 1, "cacheReadInputTokenCount": 7, "cacheWriteInputTokenCount": 8},
            Meter(1, None, 7, 8),
            (),
        ),
        ({"inputTokenCount": "1", "outputTokenCount": 2}, Meter(None, 2), ("usage_malformed",)),
        ([], NO_METER, ("usage_malformed",)),
    ],
)
def test_the_meter_in_a_stream(metrics: object, meter: Meter, notes: tuple[str, ...]) -> None:
    noted = Notes()
    assert meter_of_metrics(metrics, noted) == meter
    assert noted.codes() == notes


@pytest.mark.parametrize(
    ("meter", "body", "usage", "notes"),
    [
        (Meter(10, 5), None, Usage(input_tokens=10, output_tokens=5), ()),
        (
            Meter(10, 5, 3, 2),
            None,
            Usage(input_tokens=15, output_tokens=5, cache_read_input_tokens=3, cache_creation_input_tokens=2),
            (),
        ),
        (Meter(None, 5), None, Usage(output_tokens=5), ()),
        (Meter(10, 5), Usage(input_tokens=10, output_tokens=5), Usage(input_tokens=10, output_tokens=5), ()),
        # Both differ: the meter holds, the body's counts are kept in the notes.
        (
            Meter(392, 90),
            Usage(input_tokens=400, output_tokens=134, reasoning_output_tokens=100),
            Usage(input_tokens=392, output_tokens=90, reasoning_output_tokens=90),
            ("input_tokens_differ:400", "output_tokens_differ:134"),
        ),
        # The body's caches are outside of the meter's input.
        (
            Meter(10, 5),
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            (),
        ),
        # A meter without cache counts whose input is all of the body's input has them inside.
        (
            Meter(110, 5),
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            Usage(input_tokens=110, output_tokens=5, cache_read_input_tokens=100),
            (),
        ),
        (
            Meter(10, 5, 100, 20),
            Usage(
                input_tokens=130,
                output_tokens=5,
                cache_read_input_tokens=100,
                cache_creation_input_tokens=20,
                cache_creation_1h_input_tokens=20,
                web_search_requests=1,
            ),
            Usage(
                input_tokens=130,
                output_tokens=5,
                cache_read_input_tokens=100,
                cache_creation_input_tokens=20,
                cache_creation_1h_input_tokens=20,
                web_search_requests=1,
            ),
            (),
        ),
        (NO_METER, Usage(input_tokens=10, output_tokens=5), Usage(input_tokens=10, output_tokens=5), ()),
    ],
)
def test_meter_and_body(meter: Meter, body: Usage | None, usage: Usage, notes: tuple[str, ...]) -> None:
    noted = Notes()
    assert metered(meter, body, noted) == usage
    assert noted.codes() == notes
    leaves(usage)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (188, 188),
        (Number("188.0"), 188),
        (Number("188.5"), None),
        (Number("1e3"), None),
        (Number("9" * 5000 + ".0"), None),
        (-1, None),
        (True, None),
        ("7", None),
        (None, None),
        (10**13, None),
    ],
)
def test_counts_of_bodies(value: object, number: int | None) -> None:
    assert count(value) == number
