from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import UsageInvalid
from costbearer.usage import (
    COUNT_MAX,
    COUNTS,
    METER,
    METERS,
    Usage,
    combined,
    estimated_tokens,
    leaves,
    leaves_by_terms,
)

small = st.integers(0, 10**6)


@st.composite
def sound_usages(draw: st.DrawFn) -> Usage:
    """Inclusive counts built from disjoint quantities, which is the only way they can arise."""
    parts = {meter.name: draw(small) for meter in METERS}
    written = parts["cache_creation_input"] + parts["cache_creation_1h_input"]
    read = parts["cache_read_input"] + parts["cache_read_audio_input"]
    audio = parts["audio_input"] + parts["cache_read_audio_input"]
    return Usage(
        input_tokens=parts["input"] + parts["cache_read_input"] + written + audio,
        output_tokens=parts["output"] + parts["reasoning_output"] + parts["audio_output"],
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=parts["cache_creation_1h_input"],
        reasoning_output_tokens=parts["reasoning_output"],
        audio_input_tokens=audio,
        cache_read_audio_input_tokens=parts["cache_read_audio_input"],
        audio_output_tokens=parts["audio_output"],
        web_search_requests=parts["web_search"],
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(), {}),
        (Usage(input_tokens=0, output_tokens=0), {}),
        (Usage(input_tokens=10, output_tokens=4), {"input": 10, "output": 4}),
        (Usage(input_tokens=10, cache_read_input_tokens=10), {"cache_read_input": 10}),
        (
            Usage(input_tokens=1532, cache_creation_input_tokens=418, cache_read_input_tokens=1111, output_tokens=33),
            {"input": 3, "cache_read_input": 1111, "cache_creation_input": 418, "output": 33},
        ),
        (
            Usage(input_tokens=100, cache_creation_input_tokens=60, cache_creation_1h_input_tokens=50),
            {"input": 40, "cache_creation_input": 10, "cache_creation_1h_input": 50},
        ),
        (
            Usage(
                input_tokens=100, cache_read_input_tokens=30, audio_input_tokens=50, cache_read_audio_input_tokens=20
            ),
            {"input": 40, "cache_read_input": 10, "audio_input": 30, "cache_read_audio_input": 20},
        ),
        (
            Usage(output_tokens=100, reasoning_output_tokens=64, audio_output_tokens=6),
            {"output": 30, "reasoning_output": 64, "audio_output": 6},
        ),
        (Usage(web_search_requests=3), {"web_search": 3}),
    ],
)
def test_leaves_by_table(usage: Usage, expected: dict[str, int]) -> None:
    assert leaves(usage) == expected


@pytest.mark.parametrize(
    ("usage", "subject"),
    [
        (Usage(input_tokens=-1), "input_tokens"),
        (Usage(input_tokens=COUNT_MAX + 1), "input_tokens"),
        (Usage(input_tokens=5, cache_read_input_tokens=6), "input"),
        (Usage(cache_read_input_tokens=6), "input"),
        (Usage(input_tokens=9, cache_read_input_tokens=5, cache_creation_input_tokens=5), "input"),
        (
            Usage(input_tokens=9, cache_creation_input_tokens=3, cache_creation_1h_input_tokens=4),
            "cache_creation_input",
        ),
        (Usage(output_tokens=3, reasoning_output_tokens=4), "output"),
        (Usage(output_tokens=3, reasoning_output_tokens=-4), "reasoning_output_tokens"),
        (
            Usage(input_tokens=9, cache_read_input_tokens=1, audio_input_tokens=3, cache_read_audio_input_tokens=2),
            "cache_read_input",
        ),
    ],
)
def test_counts_that_contradict_their_containment_are_refused(usage: Usage, subject: str) -> None:
    with pytest.raises(UsageInvalid) as caught:
        leaves(usage)
    assert caught.value.subject == subject
    assert subject in caught.value.message


stated_counts = st.one_of(st.none(), st.integers(-2, 5), st.sampled_from([COUNT_MAX, COUNT_MAX + 1]))
usual_counts = ("input_tokens", "output_tokens", "cache_read_input_tokens", "reasoning_output_tokens")


@given(
    st.one_of(
        st.fixed_dictionaries({}, optional=dict.fromkeys(usual_counts, stated_counts)),
        st.fixed_dictionaries({}, optional=dict.fromkeys(COUNTS, stated_counts)),
    )
)
def test_the_usual_counts_are_split_as_the_table_of_meters_says(counts: dict[str, int | None]) -> None:
    def answer(split: Callable[[Usage], dict[str, int]]) -> list[tuple[str, int]] | tuple[str, str]:
        try:
            return list(split(Usage(**counts)).items())  # in the table's order: charges are listed in it
        except UsageInvalid as invalid:
            return invalid.subject, invalid.message

    assert answer(leaves) == answer(leaves_by_terms)


@given(sound_usages())
def test_leaves_are_disjoint_and_complete(usage: Usage) -> None:
    quantities = leaves(usage)
    assert all(quantity > 0 for quantity in quantities.values())
    sides = {
        side: sum(quantities.get(name, 0) for name in METER if name.endswith(side)) for side in ("input", "output")
    }
    assert sides == {"input": usage.input_tokens, "output": usage.output_tokens}
    assert quantities.get("web_search", 0) == usage.web_search_requests


@given(sound_usages(), sound_usages())
def test_leaves_of_a_sum_are_the_sum_of_leaves(one: Usage, other: Usage) -> None:
    both = leaves(combined([one, other]))
    assert both == {
        name: quantity for name in METER if (quantity := leaves(one).get(name, 0) + leaves(other).get(name, 0))
    }


def test_combined_keeps_what_nobody_stated_absent() -> None:
    usage = combined([Usage(input_tokens=1), Usage(input_tokens=2, output_tokens=0), Usage()])
    assert usage == Usage(input_tokens=3, output_tokens=0)
    assert usage.cache_read_input_tokens is None
    assert combined([]) == Usage()


def test_every_meter_is_made_of_known_counts_and_falls_to_a_known_meter() -> None:
    assert {name for meter in METERS for name in (*meter.plus, *meter.minus)} == set(COUNTS)
    for meter in METERS:
        assert meter.falls_to is None or (meter.falls_to in METER and meter.rule)


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_estimated_tokens_are_rounded_up(size: int, tokens: int) -> None:
    assert estimated_tokens(size) == tokens
