"""What is inside what: for every API what is read of a reply, split and charged.

Streams are fed whole, byte by byte and cut in two anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from costbearer import money
from costbearer.dialects import eventstream
from costbearer.dialects.base import Place, Reading
from costbearer.dialects.registry import all_dialects
from costbearer.prices import Context, PriceBook
from costbearer.rating import rate
from costbearer.stores import archive
from costbearer.usage import METER, Usage, leaves
from tests.containment import ROWS, Row, body

DIALECTS = all_dialects()
BOOK = PriceBook.loads(archive.bundled())
WHEN = datetime(2026, 11, 22, tzinfo=UTC)
MILLION = Decimal(10) ** 6


def read(row: Row, *cuts: int) -> Reading:
    dialect, _, name = row.operation.partition("/")
    operation = DIALECTS[dialect].operations[name]
    sent = {"model": row.model, "stream": row.stream, "max_tokens": 9, "messages": [], "input": "x", "contents": []}
    if name.startswith("invoke"):
        sent["anthropic_version"] = "bedrock-2023-05-31"
    asked = operation.read(body(**sent), Place("POST", params={"model": row.model, "name": row.model}))
    headers = {"content-type": "text/event-stream" if "bedrock" not in dialect else eventstream.CONTENT_TYPE}
    if not row.stream:
        return operation.whole(asked, row.reply)
    reader = operation.stream_reader(asked, headers)
    places = [0, *cuts, len(row.reply)]
    for begin, end in pairwise(places):
        reader.feed(row.reply[begin:end])
    return reader.reading()


def summed(reading: Reading, asked: str) -> dict[str | None, Usage]:
    """By model everything that was read, added up; the model that was asked under None."""
    counts: dict[str | None, dict[str, int]] = {}
    for part in reading.work:
        of = counts.setdefault(None if part.model == asked else part.model, {})
        for name in Usage.__struct_fields__:
            if (value := getattr(part.usage, name)) is not None:
                of[name] = of.get(name, 0) + value
    return {model: Usage(**of) for model, of in counts.items()}


def named(rows: Iterable[Row]) -> Any:
    return [pytest.param(row, id=row.name) for row in rows]


@pytest.mark.parametrize("row", named(ROWS))
def test_what_is_read(row: Row) -> None:
    reading = read(row)
    assert reading.complete, reading.notes
    assert summed(reading, row.model) == row.used
    stated = None if row.stated_cost is None else money.usd(row.stated_cost)
    assert reading.provider_cost_usd == stated


@pytest.mark.parametrize("row", named(ROWS))
def test_every_token_is_in_one_leaf(row: Row) -> None:
    for part in read(row).work:
        quantities = leaves(part.usage)
        assert all(quantity > 0 for quantity in quantities.values())
        for side, total in (("input", part.usage.input_tokens), ("output", part.usage.output_tokens)):
            inside = sum(quantity for meter, quantity in quantities.items() if METER[meter].side == side)
            assert inside == (total or 0)


@pytest.mark.parametrize("row", named(row for row in ROWS if row.cost is not None))
def test_what_it_costs(row: Row) -> None:
    reading = read(row)
    context = Context(reading.tier, reading.speed, reading.geo, reading.variant)
    rating = rate(row.seller, reading.work, context, WHEN, BOOK)
    assert rating.reason is None
    assert rating.cost_usd == Decimal(row.cost or "") / MILLION
    assert money.total(charge.cost_usd for charge in rating.charges) == rating.cost_usd
    assert all(charge.cost_usd >= 0 for charge in rating.charges)


@pytest.mark.parametrize("row", named(row for row in ROWS if row.stream))
def test_how_a_stream_arrives_does_not_matter(row: Row) -> None:
    whole = read(row)
    assert read(row, *range(1, len(row.reply))) == whole, "byte by byte"
    for place in range(1, len(row.reply)):
        assert read(row, place) == whole, place


@pytest.mark.parametrize("row", named(row for row in ROWS if row.stream))
def test_a_stream_without_its_end_is_never_complete_and_free(row: Row) -> None:
    for place in range(0, len(row.reply), 7):
        dialect, _, name = row.operation.partition("/")
        operation = DIALECTS[dialect].operations[name]
        asked = operation.read(
            body(model=row.model, stream=True, max_tokens=9, messages=[], input="x", contents=[]),
            Place("POST", params={"model": row.model, "name": row.model}),
        )
        reader = operation.stream_reader(asked, {"content-type": "text/event-stream"})
        reader.feed(row.reply[:place])
        reading = reader.reading()
        assert not reading.complete or reading.work
