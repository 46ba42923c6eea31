"""Files of results: sums by model and step of price, lines however they arrive, never a part taken for the whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import Job, Reading
from costbearer.dialects.batch_results import (
    LINE_BYTES_MAX,
    ODD_STEPS,
    STEP_TOKENS,
    Results,
    ResultsReader,
    Sums,
    moment,
    read_lines,
)
from costbearer.stores import archive
from costbearer.usage import MODELS_MAX, WORK_MAX, Usage, Work, combined

JOB = Job("batch_1", "done")


def work(tokens: int, model: str = "m", largest: int | None = 0) -> Work:
    return Work(model=model, usage=Usage(input_tokens=tokens), largest_input_tokens=tokens if largest == 0 else largest)


def read_line(line: bytes) -> Reading:
    """`{"tokens": N}`, with a geo or a model if it has one; `{"bad": true}` is incomplete; anything else is no line."""
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError("not a line")
    if said.get("bad"):
        return Reading(notes=("usage_absent",))
    used = (work(said["tokens"], said.get("model", "m")),) if "tokens" in said else ()
    return Reading(work=used, complete=True, geo=said.get("geo"))


def line(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def test_small_requests_of_a_model_are_one_sum() -> None:
    sums = Sums()
    for part in (work(10), work(20, "other"), work(31_000), work(5, largest=None)):
        sums.add(part)
    expected = (work(31_010, largest=31_000), work(20, "other"), work(5, largest=None))
    assert sums.work() == expected


def steps_of_the_archive() -> set[int]:
    """Every size of input at which a price of the archive changes."""
    found: set[int] = set()
    for model in json.loads(archive.bundled())["models"]:
        for row in (*model["prices"], *model.get("variants", ())):
            found |= {step[0] for price in row["prices"].values() if isinstance(price, list) for step in price[1:]}
    return found


def test_requests_on_two_sides_of_a_price_step_are_never_summed() -> None:
    steps = steps_of_the_archive()
    assert {200_000, 272_000} <= steps
    for step in steps:
        sums = Sums()
        sums.add(work(step))
        sums.add(work(step + 1))
        assert len(sums.work()) == 2, step
        assert step % STEP_TOKENS == 0 or step in ODD_STEPS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 600_000) | st.none(), min_size=1, max_size=20))
def test_sums_add_up_and_stay_below_their_step(sizes: list[int | None]) -> None:
    sums = Sums()
    parts = [work(size or 7, largest=size) for size in sizes]
    for part in parts:
        sums.add(part)
    assert combined(part.usage for part in sums.work()) == combined(part.usage for part in parts)
    assert {part.largest_input_tokens for part in sums.work()} <= set(sizes)


@pytest.mark.parametrize(
    "lines, tokens, complete, notes",
    [
        ([line(tokens=3), line(failed=1), b"\n", line(tokens=4)], 7, True, ()),
        ([line(tokens=3), line(bad=True)], 3, False, ("usage_absent", "line_incomplete")),
        ([line(tokens=3), b"{", line(tokens=4)], 7, False, ("line_malformed",)),
        ([line(tokens=3), b'{"tokens'], 3, False, ("line_malformed",)),
        ([line(tokens=3, geo="us"), line(failed=1), line(tokens=4, geo="us")], 7, True, ()),
        ([line(tokens=3, geo="us"), line(tokens=4)], 7, False, ("geo_mixed",)),
        ([line(failed=1)], None, True, ()),
    ],
)
def test_lines(lines: list[bytes], tokens: int | None, complete: bool, notes: tuple[str, ...]) -> None:
    reading = read_lines(lines, read_line, JOB)
    assert [part.usage.input_tokens for part in reading.work] == ([] if tokens is None else [tokens])
    assert (reading.complete, reading.notes, reading.tier) == (complete, notes, "batch")
    assert reading.job == (JOB if complete else None)


@pytest.mark.parametrize("lines", [[], [b"\n"], [b"id,name\n", line(tokens=3)], [b"\x89PNG\r\n", b"{}\n"]])
def test_files_that_hold_no_results(lines: list[bytes]) -> None:
    assert read_lines(lines, read_line, JOB) == Reading(complete=True)


MODELS = [line(tokens=1, model=f"m{number}") for number in range(MODELS_MAX)]
SIZES = [line(tokens=STEP_TOKENS * (50 + number)) for number in range(WORK_MAX)]


@pytest.mark.parametrize("lines, more", [(MODELS, line(tokens=1, model="x")), (SIZES, line(tokens=7))])
def test_a_file_of_too_many_models_or_sizes_is_not_taken_for_whole(lines: list[bytes], more: bytes) -> None:
    whole = read_lines([*lines, lines[0]], read_line, JOB)
    assert (whole.job, whole.notes, len(whole.work)) == (JOB, (), len(lines))
    reading = read_lines([*lines, more, b"never read"], read_line, JOB)
    assert (reading.job, reading.complete, reading.notes) == (None, False, ("work_too_varied",))
    assert len(reading.work) == len(lines)


FILE = line(tokens=3, text="é" * 30) + line(tokens=40_000) + b"\n" + line(failed=1) + line(tokens=4).rstrip()


def passed(chunks: list[bytes], length: int | None) -> Reading:
    reader = ResultsReader(Results(read_line), JOB, {} if length is None else {"content-length": str(length)})
    assert b"".join(reader.feed(chunk) for chunk in chunks) + reader.rest() == b"".join(chunks)
    return reader.reading()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(FILE)), max_size=8))
def test_how_a_file_arrives_does_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(FILE)]
    chunks = [FILE[start:end] for start, end in pairwise(edges)]
    assert passed(chunks, len(FILE)) == passed([FILE], len(FILE)) == read_lines(FILE.split(b"\n"), read_line, JOB)


def test_a_file_byte_by_byte_and_cut_anywhere() -> None:
    for end in range(len(FILE)):
        reading = passed([FILE[at : at + 1] for at in range(end)], len(FILE))
        assert (reading.job, reading.complete) == (None, not reading.work), end


@pytest.mark.parametrize("length", [None, len(FILE) - 1, 0])
def test_without_its_length_a_file_is_never_taken_for_whole(length: int | None) -> None:
    reading = passed([FILE], length)
    assert (reading.job, reading.complete) == (None, False)
    assert "file_cut" in reading.notes


def test_a_line_too_long_to_be_read() -> None:
    long = line(tokens=5, text="x" * (LINE_BYTES_MAX + 2_000_000))
    whole = line(tokens=3) + long + line(tokens=4)
    chunks = [whole[at : at + 1_000_000] for at in range(0, len(whole), 1_000_000)]
    reading = passed(chunks, len(whole))
    assert (reading.complete, reading.job, reading.notes) == (False, None, ("line_too_long",))
    assert reading.work[0].usage == Usage(input_tokens=7)
    assert passed([long[:9_000_000], long[9_000_000:]], len(long)) == Reading(complete=True)


@pytest.mark.parametrize(
    "stated, expected",
    [
        (1_763_000_000, datetime(2025, 11, 13, 2, 13, 20, tzinfo=UTC)),
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22T10:00:00.250000+02:00", datetime(2026, 11, 22, 8, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-22T10:00:00", None),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        (10**15, None),
        (0, None),
        (True, None),
        (1.5, None),
        (None, None),
    ],
)
def test_moments(stated: Any, expected: datetime | None) -> None:
    assert moment(stated) == expected
