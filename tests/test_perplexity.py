"""The size of the search context, on which Perplexity's fee per request depends."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from costbearer.prices import Context, PriceBook
from costbearer.rating import rate
from costbearer.stores import archive
from tests.test_openai_chat import DIALECT, DONE, STOP, ask, counted, read, said, stream, usage_chunk


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({"search_context_size": "high"}, "high"),
        ({"search_context_size": "low", "search_type": "pro"}, "pro/low"),
        ({"search_context_size": "low", "search_type": "fast"}, "low"),
        ({"search_context_size": "low", "search_type": "auto"}, "auto/low"),
        ({"search_type": "pro"}, None),
        ({"search_context_size": None}, None),
        ({"search_context_size": 7}, None),
        ({}, None),
        (None, None),
        ("high", None),
    ],
)
def test_the_size_of_a_search_that_is_asked_for(options: Any, variant: str | None) -> None:
    assert read(web_search_options=options).variant == variant


@pytest.mark.parametrize(
    ("asked", "stated", "variant"),
    [
        (None, "medium", "medium"),
        ("high", "low", "low"),
        ("pro/high", "low", "pro/low"),
        ("high", None, "high"),
        (None, None, None),
    ],
)
def test_the_size_that_was_searched_is_the_one_stated(
    asked: str | None, stated: str | None, variant: str | None
) -> None:
    usage = counted() | ({} if stated is None else {"search_context_size": stated})
    body = {"id": "c", "model": "sonar", "choices": [{"message": {"content": "Hi"}}], "usage": usage}
    assert DIALECT.whole(ask(variant=asked), json.dumps(body).encode()).variant == variant
    told, _, _ = stream(said() + STOP + usage_chunk(search_context_size=stated) + DONE, variant=asked)
    assert told.variant == variant


def test_a_search_costs_its_fee_and_without_its_size_the_cost_is_unknown() -> None:
    book = PriceBook.loads(archive.bundled())
    when = datetime(2026, 11, 22, tzinfo=UTC)

    def cost(**more: Any) -> Decimal | None:
        body = {"id": "c", "model": "sonar", "choices": [{"message": {"content": "Hi"}}], "usage": counted() | more}
        reading = DIALECT.whole(ask(model="sonar"), json.dumps(body).encode())
        return rate("perplexity", reading.work, Context(variant=reading.variant), when, book).cost_usd

    tokens = Decimal("0.000001") * 14
    assert [cost(search_context_size=size) for size in ("low", "medium", "high")] == [
        Decimal("0.005") + tokens,
        Decimal("0.008") + tokens,
        Decimal("0.012") + tokens,
    ]
    assert cost() is None
