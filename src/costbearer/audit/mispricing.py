"""Why a stated cost is wrong: the price it was made with, found by making the same mistake again.

For every call whose cost is not what the archive says, costs are worked out that known mistakes give. The first that is
the stated one, to the last digit that the log states, explains it; what none explains stays a plain mismatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import ibis
import pyarrow as pa

from costbearer import money
from costbearer.audit.evidence import MONEY, Evidence
from costbearer.prices import Unrated
from costbearer.rerate import Named, amount, costs, leaf
from costbearer.usage import COUNTS, METER

CACHED_FULL, COUNTED_TWICE = "cached_at_full_price", "cache_counted_twice"
LIFETIME, BATCH, TIER, MISMATCH = "cache_write_ttl_mispriced", "batch_mispriced", "tier_mispriced", "price_mismatch"
_TIERS = ("batch", "flex", "priority")
_STANDARD = ("default", "standard", "auto")
_SERVED = ("tier", "speed", "geo", "variant")
_NAMES = ("provider", "request_model", "response_model")
PAST_CARDS_MAX = 8
"""So many earlier and later prices of a model are tried."""


class Mistake(NamedTuple):
    """A cost that a known mistake gives, of a table with counts and prices."""

    code: str
    says: str
    usd: Any


def explained(evidence: Evidence) -> Any:
    """`row`, `code`, `says`, `usd` (stated less right) and `model` of every call with a wrong cost."""
    calls = evidence.calls
    wrong = calls.filter(calls.wrong & (calls.stated_usd != 0) & calls.tokens & ~calls.cache_hit & ~calls.retrieved)
    prices = evidence.rates.prices
    met = wrong.join(prices, [wrong.use == prices.use, wrong.above == prices.above])
    tried = list(_mistakes(met, evidence))
    near = [((met.stated_usd - each.usd).abs() <= met.tolerated, each) for each in tried]
    text = ibis.null("string")
    first = met.select(
        *(wrong[name] for name in wrong.columns),
        code=ibis.cases(*((test, each.code) for test, each in near), else_=text) if near else text,
        says=ibis.cases(*((test, each.says) for test, each in near), else_=text) if near else text,
    )
    first = evidence.logs.keep("wrong", first)
    unexplained = first.filter(first.code.isnull())
    other = _otherwise_served(evidence, unexplained)
    base = first if other is None else first.left_join(other, first.row == other.other_row)
    code = first.code if other is None else ibis.coalesce(first.code, base.other_code)
    says = first.says if other is None else ibis.coalesce(first.says, base.other_says)
    result = base.select(
        first.row,
        first.file,
        code=ibis.coalesce(code, MISMATCH),
        says=ibis.coalesce(says, "no known mistake gives this cost"),
        usd=(first.stated_usd - first.expected_usd).cast(MONEY),
        model=ibis.coalesce(first.model, first.response_model),
    )
    return evidence.logs.keep("mispriced", result)


def _mistakes(met: Any, evidence: Evidence) -> Iterator[Mistake]:
    """What is usually done wrong with the counts."""
    have = {meter.name for meter in evidence.rates.meters}
    right = met.computed_usd

    def quantity(meter: str) -> Any:
        return leaf(met, METER[meter], evidence.counted)

    def price(meter: str) -> Any:
        return ibis.coalesce(met[f"price_{meter}"], ibis.literal(money.ZERO, "decimal(22, 12)"))

    def moved(*changes: tuple[str, str]) -> Any:
        """The right cost with one meter's quantity charged as another."""
        usd = right
        for meter, as_ in changes:
            usd = usd + amount(quantity(meter), price(as_)) - amount(quantity(meter), price(meter))
        return usd.cast(MONEY)

    def added(*extra: tuple[str, str]) -> Any:
        usd = right
        for meter, at in extra:
            usd = usd + amount(quantity(meter), price(at))
        return usd.cast(MONEY)

    read, written, hour = "cache_read_input", "cache_creation_input", "cache_creation_1h_input"
    if read in have:
        yield Mistake(CACHED_FULL, "cached input at the price of fresh input", moved((read, "input")))
        both = [(meter, "input") for meter in (read, written, hour) if meter in have]
        yield Mistake(CACHED_FULL, "all cached input at the price of fresh input", moved(*both))
        yield Mistake(COUNTED_TWICE, "cached input counted as cached and as fresh", added((read, "input")))
        yield Mistake(COUNTED_TWICE, "cached and written input counted again as fresh", added(*both))
        yield Mistake(COUNTED_TWICE, "cached input charged twice", added((read, read)))
        yield Mistake(MISMATCH, "cached input left out", _less(right, quantity(read), price(read)))
    if written in have:
        yield Mistake(MISMATCH, "cache writes at the price of input", moved((written, "input")))
    if hour in have:
        yield Mistake(LIFETIME, "cache writes of one hour at the price of five minutes", moved((hour, written)))
    if hour in have and written in have:
        yield Mistake(LIFETIME, "cache writes of five minutes at the price of one hour", moved((written, hour)))
    if "reasoning_output" in have:
        twice = added(("reasoning_output", "reasoning_output"))
        left_out = _less(right, quantity("reasoning_output"), price("reasoning_output"))
        yield Mistake(MISMATCH, "reasoning counted twice", twice)
        yield Mistake(MISMATCH, "reasoning left out", left_out)
    if "output" in have:
        yield Mistake(MISMATCH, "output left out", _less(right, quantity("output"), price("output")))
    if "web_search" in have:
        yield Mistake(MISMATCH, "web searches left out", _less(right, quantity("web_search"), price("web_search")))


def _less(right: Any, quantity: Any, price: Any) -> Any:
    return (right - amount(quantity, price)).cast(MONEY)


# -- another tier, another day


def _otherwise_served(evidence: Evidence, calls: Any) -> Any:
    """`other_row`, `other_code` and `other_says` of calls whose cost is right for another tier or another day."""
    tried = list(_alternatives(evidence, calls))
    if not tried:
        return None
    alternatives = evidence.logs.given("alternatives", pa.Table.from_pylist(tried, _ALT))
    met = calls.join(alternatives, calls.use == alternatives.for_use)

    def resolve(provider: str | None, asked: str | None, answered: str | None) -> Named:
        del asked
        return Named(provider or "", answered or "")

    parts = met.select(
        row=met.row * 64 + met.number,
        provider=met.price_provider,
        request_model=met.model,
        response_model=met.model,
        tier=met.as_tier,
        speed=met.speed,
        geo=met.geo,
        variant=met.variant,
        at=ibis.coalesce(met.as_of, met.started_at),
        step=ibis.ifelse(met.summed, ibis.null("int64"), met.input_tokens)
        if "input_tokens" in evidence.counted
        else ibis.null("int64"),
        **{name: met[name] if name in evidence.counted else ibis.null("int64") for name in COUNTS},
        other_row=met.row,
        number=met.number,
        stated_usd=met.stated_usd,
        tolerated=met.tolerated,
        other_code=met.alternative_code,
        other_says=met.alternative_says,
    )
    carry = ("other_row", "number", "stated_usd", "tolerated", "other_code", "other_says")
    rates = costs(
        evidence.logs, parts, evidence.book, resolve, contract=evidence.contract, carry=carry, name="otherwise"
    )
    rated = rates.rows
    near = (rated.stated_usd - rated.computed_usd).abs() <= rated.tolerated
    hits = evidence.logs.keep("hits", rated.filter(near))
    best = hits.group_by("other_row").aggregate(number=hits.number.min())
    met = hits.join(best, [hits.other_row == best.other_row, hits.number == best.number])
    return met.select(hits.other_row, hits.other_code, hits.other_says)


_ALT = pa.schema(
    [
        ("for_use", pa.int64()),
        ("number", pa.int64()),
        ("as_tier", pa.string()),
        ("as_of", pa.timestamp("us")),
        ("alternative_code", pa.string()),
        ("alternative_says", pa.string()),
    ]
)


def _alternatives(evidence: Evidence, calls: Any) -> Iterator[dict[str, Any]]:
    """For every use with unexplained costs the tiers and days that could explain them."""
    uses = evidence.rates.uses
    wanted = calls.group_by("use").aggregate(began=calls.started_at.min())
    met = uses.join(wanted, uses.use == wanted.use)
    for use in evidence.execute(met.select(*(uses[name] for name in uses.columns), wanted.began).order_by("use")):
        if use["unrated"] is not None:
            continue
        number = 0
        tier = (use["tier"] or "").lower()
        special = tier and tier not in _STANDARD
        tiers: list[str | None] = [None] if special else []
        for as_tier in (*tiers, *(each for each in _TIERS if each != tier)):
            code = BATCH if "batch" in {tier, as_tier} else TIER
            says = f"the {as_tier or 'standard'} price for a call of tier {tier or 'standard'}"
            yield _row(use["use"], number, as_tier, None, code, says)
            number += 1
        for day in _other_days(evidence, use):
            says = f"the price of {day:%Y-%m-%d}"
            yield _row(use["use"], number, use["tier"], day, MISMATCH, says)
            number += 1


def _row(use: int, number: int, tier: str | None, day: datetime | None, code: str, says: str) -> dict[str, Any]:
    return {
        "for_use": use,
        "number": number,
        "as_tier": tier,
        "as_of": day,
        "alternative_code": code,
        "alternative_says": says,
    }


def _other_days(evidence: Evidence, use: dict[str, Any]) -> list[datetime]:
    """Days on which the model may have had another price, those near the use first: they are likelier."""
    cards = evidence.book.past(use["price_provider"], use["model"])
    if isinstance(cards, Unrated):
        return []
    days = {card.valid_from for card in cards if card.valid_from is not None}
    days |= {card.valid_from - timedelta(days=1) for card in cards if card.valid_from is not None}
    moments = [datetime.combine(day, datetime.min.time(), UTC).replace(tzinfo=None) for day in sorted(days)]
    return sorted(moments, key=lambda moment: abs(moment - use["began"]))[: 2 * PAST_CARDS_MAX]
