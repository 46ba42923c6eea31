"""Rating many calls in the engine gives what rating them one by one gives: charges, costs and reasons, to the digit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from costbearer.contract import Contract
from costbearer.prices import Context, PriceBook
from costbearer.rating import Rating, rate
from costbearer.rerate import PARTS_ARROW, Named, costs, rerate
from costbearer.stores import archive
from costbearer.stores.logs import Logs, workplace
from costbearer.usage import COUNTS, Usage, Work

BOOK = PriceBook.loads(archive.bundled())
MODELS = (
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-5.6-sol"),
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-audio-preview"),
    ("anthropic", "claude-opus-4-8"),
    ("anthropic", "claude-sonnet-4-5"),
    ("deepseek", "deepseek-chat"),
    ("google", "gemini-2.5-pro"),
    ("perplexity", "sonar"),
    ("perplexity", "sonar-pro"),
    ("openai", "no-such-model"),
    ("nobody", "gpt-4o-mini"),
)
CONTRACT = b"""
[[terms]]
provider = "openai"
model = "gpt-4o*"
since = 2025-03-01
discount = "12.5"

[[terms]]
provider = "nobody"
model = "gpt-4o-mini"
since = 2025-01-01
prices_per_million = { input = "1", output = "3" }
"""


class Call(NamedTuple):
    provider: str
    context: Context
    at: datetime
    work: tuple[Work, ...]


def usage(chance: random.Random) -> Usage:
    given, made = chance.choice((0, 900, 150_000, 300_000, 10**12)), chance.choice((0, 40, 3000))
    counts = {"input_tokens": given, "output_tokens": made}
    if chance.random() < 0.5:
        counts["cache_read_input_tokens"] = chance.choice((0, given // 2, given))
    if chance.random() < 0.3:
        counts["reasoning_output_tokens"] = made // 3
    for name in COUNTS[3:]:
        if chance.random() < 0.02:
            counts[name] = chance.choice((0, 1, 7, 500, -1, 10**12 + 1))
    if chance.random() < 0.03:
        counts = {}
    return Usage(**counts)


def call(chance: random.Random) -> Call:
    provider, model = chance.choice(MODELS)
    context = Context(
        tier=chance.choice((None, None, None, None, "default", "batch", "flex", "smoke")),
        speed=chance.choice((None, None, None, None, "fast")),
        geo=chance.choice((None, None, None, None, "us")),
        variant=chance.choice((None, None, "low", "high")) if provider == "perplexity" else None,
    )
    siblings = [name for maker, name in MODELS if maker == provider]
    work = []
    for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
        used = usage(chance)
        step = chance.choice((used.input_tokens, None))
        work.append(Work(model=chance.choice((model, model, *siblings)), usage=used, largest_input_tokens=step))
    return Call(
        provider, context, datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=chance.randrange(24 * 60)), tuple(work)
    )


def parts(calls: Sequence[Call]) -> pa.Table:
    rows = [
        {
            "row": row,
            "part": part,
            "provider": made.provider,
            "model": work.model,
            "tier": made.context.tier,
            "speed": made.context.speed,
            "geo": made.context.geo,
            "variant": made.context.variant,
            "at": made.at,
            "step": work.largest_input_tokens,
            **{name: getattr(work.usage, name) for name in COUNTS},
        }
        for row, made in enumerate(calls)
        for part, work in enumerate(made.work)
    ]
    return pa.Table.from_pylist(rows, schema=PARTS_ARROW)


def in_engine(calls: Sequence[Call], contract: Contract | None) -> list[tuple[Any, ...]]:
    done = rerate(parts(calls), BOOK, contract)
    lines: dict[int, list[tuple[Any, ...]]] = {row: [] for row in range(len(calls))}
    for line in done.lines.to_pylist():
        names = ("meter", "quantity", "unit_price_usd", "list_cost_usd", "cost_usd", "model", "card")
        lines[line["row"]].append(tuple(line[name] for name in names))
    return [(row["cost_usd"], row["list_cost_usd"], row["reason"], lines[row["row"]]) for row in done.calls.to_pylist()]


def one_by_one(calls: Sequence[Call], contract: Contract | None) -> list[tuple[Any, ...]]:
    return [_shown(rate(made.provider, made.work, made.context, made.at, BOOK, contract)) for made in calls]


def _shown(rating: Rating) -> tuple[Any, ...]:
    lines = [
        (line.meter, line.quantity, line.unit_price_usd, line.list_cost_usd, line.cost_usd, line.model, line.card)
        for line in rating.charges
    ]
    listed = None if rating.cost_usd is None else sum((line.list_cost_usd for line in rating.charges), Decimal(0))
    return rating.cost_usd, listed, rating.reason, lines


@pytest.mark.parametrize(("seed", "contracted"), [(1, False), (2, True), (3, True)])
def test_the_engine_rates_as_rating_does(seed: int, contracted: bool) -> None:
    chance = random.Random(seed)
    calls = [call(chance) for _ in range(1500)]
    contract = Contract.loads(CONTRACT) if contracted else None
    expected = one_by_one(calls, contract)
    assert in_engine(calls, contract) == expected
    rated = [cost for cost, *_ in expected if cost is not None]
    assert 100 < len(rated) < len(calls) - 100, "the sample must hold both calls with a price and calls without"


@pytest.mark.parametrize("seed", [4, 5])
def test_costs_alone_are_what_rating_says(seed: int) -> None:
    """The auditor's way, without charges: the same cost or the same reason, record by record."""
    chance = random.Random(seed)
    calls = [made._replace(work=made.work[:1]) for made in (call(chance) for _ in range(1500))]
    table = parts(calls)
    named = table.append_column("request_model", table["model"]).append_column("response_model", table["model"])
    naive = named.set_column(
        named.schema.get_field_index("at"),
        "at",
        named["at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us")),
    )
    with workplace() as work:
        logs = Logs(work)
        rates = costs(
            logs, logs.given("parts", naive), BOOK, lambda provider, _, model: Named(provider or "", model or "")
        )
        rows = {row["row"]: row for row in logs.execute(rates.rows).to_pylist()}
        logs.close()
    expected = one_by_one(calls, None)
    assert [(rows[row]["computed_usd"], rows[row]["reason"]) for row in range(len(calls))] == [
        (cost, reason) for cost, _, reason, _ in expected
    ]


def test_money_is_exact_at_the_largest_count() -> None:
    work = (Work(model="gpt-4o-mini", usage=Usage(input_tokens=10**12, output_tokens=10**12 - 1)),)
    calls = [Call("openai", Context(), datetime(2026, 1, 1, tzinfo=UTC), work)]
    assert in_engine(calls, None) == one_by_one(calls, None)
    assert in_engine(calls, None)[0][0] > 0
