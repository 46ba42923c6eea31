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
    REQUEST,
    Usage,
    combined,
    estimated_tokens,
    leaves,
    leaves_by_terms,
)

small = st.integers(0, 10**6)

BESIDE = [meter for meter in METERS if not meter.side and meter.name not in ("web_search", REQUEST)]
"""Meters of counts that stand beside the tokens: each is its own only leaf."""


@st.composite
def sound_usages(draw: st.DrawFn) -> Usage:
    """Inclusive counts built from disjoint quantities, which is the only way they can arise."""
    parts = {meter.name: draw(small) for meter in METERS}
    written = parts["cache_creation_input"] + parts["cache_creation_1h_input"]
    read = parts["cache_read_input"] + parts["cache_read_audio_input"] + parts["cache_read_image_input"]
    audio = parts["audio_input"] + parts["cache_read_audio_input"]
    images = parts["image_input"] + parts["cache_read_image_input"]
    return Usage(
        input_tokens=parts["input"] + parts["cache_read_input"] + written + audio + images + parts["video_input"],
        output_tokens=parts["output"] + parts["reasoning_output"] + parts["audio_output"] + parts["image_output"],
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=parts["cache_creation_1h_input"],
        reasoning_output_tokens=parts["reasoning_output"],
        audio_input_tokens=audio,
        cache_read_audio_input_tokens=parts["cache_read_audio_input"],
        audio_output_tokens=parts["audio_output"],
        web_search_requests=parts["web_search"],
        image_input_tokens=images,
        cache_read_image_input_tokens=parts["cache_read_image_input"],
        video_input_tokens=parts["video_input"],
        image_output_tokens=parts["image_output"],
        **{meter.plus[0]: parts[meter.name] for meter in BESIDE},
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
        (
            Usage(input_tokens=100, image_input_tokens=30, video_input_tokens=20),
            {"input": 50, "image_input": 30, "video_input": 20},
        ),
        (  # cached images are in the images, in the cached tokens and in the input, and counted once
            Usage(
                input_tokens=100,
                cache_read_input_tokens=50,
                image_input_tokens=40,
                cache_read_image_input_tokens=30,
            ),
            {"input": 40, "cache_read_input": 20, "image_input": 10, "cache_read_image_input": 30},
        ),
        (Usage(output_tokens=100, image_output_tokens=90), {"output": 10, "image_output": 90}),
        (Usage(output_tokens=10, citation_tokens=500), {"output": 10, "citation": 500}),
        (Usage(input_characters=4096), {"input_character": 4096}),
        (Usage(input_audio_seconds=7), {"input_audio_second": 7}),
        (Usage(input_pages=3), {"input_page": 3}),
        (Usage(generated_images=2), {"generated_image": 2}),
        (
            Usage(file_search_requests=2, code_interpreter_sessions=1),
            {"file_search": 2, "code_interpreter_session": 1},
        ),
        (Usage(search_units=1), {"search_unit": 1}),
        (
            Usage(input_tokens=10, cache_creation_input_tokens=10, cache_creation_1h_input_tokens=10),
            {"cache_creation_1h_input": 10},
        ),
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
        (Usage(input_tokens=9, image_input_tokens=5, video_input_tokens=5), "input"),
        (
            Usage(input_tokens=9, cache_read_input_tokens=9, image_input_tokens=1, cache_read_image_input_tokens=2),
            "image_input",
        ),
        (Usage(output_tokens=3, reasoning_output_tokens=2, image_output_tokens=2), "output"),
        (Usage(citation_tokens=-1), "citation_tokens"),
        (Usage(generated_images=COUNT_MAX + 1), "generated_images"),
    ],
)
def test_counts_that_contradict_their_containment_are_refused(usage: Usage, subject: str) -> None:
    with pytest.raises(UsageInvalid) as caught:
        leaves(usage)
    assert caught.value.subject == subject
    assert subject in caught.value.message


stated_counts = st.one_of(st.none(), st.integers(-2, 5), st.sampled_from([COUNT_MAX, COUNT_MAX + 1]))
usual_counts = COUNTS[:6]


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
        side: sum(quantities.get(meter.name, 0) for meter in METERS if meter.side == side)
        for side in ("input", "output")
    }
    assert sides == {"input": usage.input_tokens, "output": usage.output_tokens}
    assert quantities.get("web_search", 0) == usage.web_search_requests
    for meter in BESIDE:
        assert quantities.get(meter.name, 0) == getattr(usage, meter.plus[0])


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
        assert bool(meter.falls_to) == bool(meter.rule)
        assert {METER[each].side for each in meter.falls_to} <= {meter.side}
        assert (meter.unit == "token") == bool(meter.side) or meter.name == "citation"


@pytest.mark.parametrize(
    ("meter", "chain"),
    [
        ("image_input", ["input"]),
        ("video_input", ["input"]),
        ("cache_read_image_input", ["cache_read_input", "image_input", "input"]),
        ("cache_read_input", ["input"]),
        ("reasoning_output", ["output"]),
        ("image_output", []),
        ("audio_input", []),
        *((meter.name, []) for meter in BESIDE),
    ],
)
def test_where_a_meter_without_a_price_falls(meter: str, chain: list[str]) -> None:
    assert list(METER[meter].falls_to) == chain


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_estimated_tokens_are_rounded_up(size: int, tokens: int) -> None:
    assert estimated_tokens(size) == tokens
