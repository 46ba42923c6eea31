"""What the simulated providers charge: a small table, written by hand, and the arithmetic of one bill.

It shares no code and no data file with the price archive or the rating rules. Rates are US dollars per million tokens
as of November 2026, checked by eye against the data of genai-prices 0.2.3; the providers' own pages are

* OpenAI, https://platform.openai.com/docs/pricing: standard, priority and flex processing. Models before gpt-5.6 have
  no fee for writing a cache. gpt-5.6 charges 1.25 x input for a cache write, and the whole request at the long-context
  rate when its input is above 272,000 tokens. Web search 10 USD per 1,000.
* Anthropic, https://docs.claude.com/en/docs/about-claude/pricing: cache writes 1.25 x for 5 minutes and 2 x for 1 hour,
  reads 0.1 x, web search 10 USD per 1,000, fast mode of Opus 4.8 2 x, `inference_geo: "us"` 1.1 x from the 4.6 models
  on, and for Sonnet 4.5 the long-context rate above 200,000 input tokens.
* Gemini, https://ai.google.dev/gemini-api/docs/pricing: thoughts cost what output costs, and what Google Search found
  what a prompt costs. 2.5 Pro has a long-context rate above 200,000 tokens of prompt and charges 35 USD per 1,000
  grounded prompts, Gemini 3 charges 14 USD per 1,000 queries.
* Bedrock, https://aws.amazon.com/bedrock/pricing/: a profile of one region group (`us.`) costs 1.1 x what `global.`
  costs for Claude 4.5 and newer. Nova has no fee for writing a cache.

Amounts are exact: the context raises where a digit would be lost. A token's price is the million's with its point
moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow

_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])
_ZERO = Decimal(0)
_UNLISTED_TIER_FACTOR = Decimal(2)


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per million tokens of each kind; a model without a fee for cache writes has its input rate there."""

    input: Decimal
    output: Decimal
    read: Decimal
    write_5m: Decimal
    write_1h: Decimal


@dataclass(frozen=True, slots=True)
class Card:
    """What one model costs. `rates` is by tier or speed: the usual rates, and those above `long_above` input tokens."""

    model: str
    served_as: str
    provider: str
    rates: Mapping[str, tuple[Rates, Rates]]
    long_above: int | None = None
    us_factor: Decimal | None = None
    web_search_per_1000: Decimal | None = None
    reasons: bool = False
    states_cache_writes: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """One pass of a model over a prompt. The counts are disjoint: no token is in two of them."""

    model: str
    input: int
    output: int
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    kind: str = "message"

    @property
    def prompt(self) -> int:
        """All tokens that went in."""
        return self.input + self.read + self.write_5m + self.write_1h


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call was served: the tier or speed it is charged at, where it ran, its cost where that is fixed."""

    tier: str
    in_us: bool = False
    fixed: Decimal | None = None


def _rates(text: str) -> Rates:
    """`input output cache-read [write-5m write-1h]`."""
    numbers = [Decimal(word) for word in text.split()]
    if len(numbers) == 3:
        numbers += [numbers[0], numbers[0]]
    elif len(numbers) == 4:
        numbers.append(numbers[3])
    return Rates(*numbers)


def _pair(text: str) -> tuple[Rates, Rates]:
    usual, _, long = text.partition("|")
    return _rates(usual), _rates(long or usual)


def _openai(model: str, served_as: str, *, long_above: int | None = None, **tiers: str) -> Card:
    return Card(
        model,
        served_as,
        "openai",
        {tier: _pair(text) for tier, text in tiers.items()},
        long_above=long_above,
        web_search_per_1000=Decimal(10),
        reasons=model.startswith("gpt-5"),
        states_cache_writes=model.startswith("gpt-5.6"),
    )


def _anthropic(model: str, served_as: str, *, long_above: int | None = None, geo: bool = False, **speeds: str) -> Card:
    return Card(
        model,
        served_as,
        "anthropic",
        {speed: _pair(text) for speed, text in speeds.items()},
        long_above=long_above,
        us_factor=Decimal("1.1") if geo else None,
        web_search_per_1000=Decimal(10),
    )


def _google(model: str, rates: str, *, search: str | None = None, long_above: int | None = None) -> Card:
    return Card(
        model,
        model,
        "google",
        {"standard": _pair(rates)},
        long_above=long_above,
        web_search_per_1000=None if search is None else Decimal(search),
        reasons=search is not None,
    )


def _bedrock(model: str, served_as: str, rates: str) -> Card:
    return Card(model, served_as, "bedrock", {"standard": _pair(rates)})


CARDS: tuple[Card, ...] = (
    _openai(
        "gpt-4o-mini",
        "gpt-4o-mini-2024-07-18",
        default="0.15 0.60 0.075",
        priority="0.25 1.00 0.125",
        batch="0.075 0.30 0.075",
    ),
    _openai("openai/gpt-4o-mini", "openai/gpt-4o-mini", default="0.15 0.60 0.075"),
    _openai("gpt-4o", "gpt-4o-2024-08-06", default="2.50 10.00 1.25", priority="4.25 17.00 2.125"),
    _openai("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", default="0.40 1.60 0.10", priority="0.70 2.80 0.175"),
    _openai(
        "gpt-5",
        "gpt-5-2025-08-07",
        default="1.25 10.00 0.125",
        flex="0.625 5.00 0.0625",
        priority="2.50 20.00 0.25",
    ),
    _openai(
        "gpt-5.6-sol",
        "gpt-5.6-sol",
        long_above=272_000,
        default="4 20 0.40 5 | 8 30 0.80 10",
        flex="2 10 0.20 2.50 | 4 15 0.40 5",
        priority="8 40 0.80 10 | 16 60 1.60 20",
    ),
    _anthropic(
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        long_above=200_000,
        standard="3 15 0.30 3.75 6 | 6 22.50 0.60 7.50 12",
    ),
    _anthropic(
        "claude-haiku-4-5", "claude-haiku-4-5-20251001", standard="1 5 0.10 1.25 2", batch="0.50 2.50 0.05 0.625 1"
    ),
    _anthropic("claude-sonnet-4-6", "claude-sonnet-4-6", geo=True, standard="3 15 0.30 3.75 6"),
    _anthropic("claude-opus-4-6", "claude-opus-4-6", geo=True, standard="5 25 0.50 6.25 10"),
    _anthropic(
        "claude-opus-4-8",
        "claude-opus-4-8",
        geo=True,
        standard="5 25 0.50 6.25 10",
        fast="10 50 1.00 12.50 20",
    ),
    _bedrock(
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929-bedrock", "3.3 16.5 0.33 4.125 6.6"
    ),
    _bedrock("global.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5-20251001-bedrock", "1 5 0.1 1.25 2"),
    _bedrock("us.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0", "0.06 0.24 0.015"),
    _google("gemini-3.1-flash-lite", "0.25 1.50 0.025", search="14"),
    _google("gemini-2.5-pro", "1.25 10 0.125 | 2.50 15 0.25", search="35", long_above=200_000),
    _google("gemini-embedding-2", "0.20 0 0.20"),
    _bedrock("amazon.titan-embed-text-v2:0", "amazon.titan-embed-text-v2:0", "0.02 0 0.02"),
)


@dataclass(frozen=True, slots=True)
class PriceList:
    """The cards by every name a request may use: the alias and the dated snapshot."""

    cards: Mapping[str, Card] = field(default_factory=dict)

    @classmethod
    def of(cls, *groups: Iterable[Card]) -> PriceList:
        """A later card replaces an earlier one of the same name."""
        named: dict[str, Card] = {}
        for group in groups:
            for card in group:
                named[card.model] = card
                named[card.served_as] = card
        return cls(named)

    def find(self, model: object, provider: str) -> Card | None:
        """The card of this name if that provider sells it."""
        card = self.cards.get(model) if isinstance(model, str) else None
        return card if card is not None and card.provider == provider else None

    def cost(self, samplings: Iterable[Sampling], terms: Terms, searches: int = 0) -> Decimal:
        """What these samplings cost together, in US dollars, exactly.

        The long-context rate belongs to a sampling, not to the sum of a loop of them. A tier that is not in the table
        costs twice the model's first one: what a provider charges for something new is not what it charged before.
        """
        if terms.fixed is not None:
            return terms.fixed
        total = _ZERO
        first: Card | None = None
        for sampling in samplings:
            card = self.cards[sampling.model]
            first = first or card
            total = _EXACT.add(total, _sampling_cost(card, sampling, terms))
        if searches and first is not None and first.web_search_per_1000 is not None:
            total = _EXACT.add(total, _EXACT.multiply(Decimal(searches), first.web_search_per_1000.scaleb(-3, _EXACT)))
        return total


def _sampling_cost(card: Card, sampling: Sampling, terms: Terms) -> Decimal:
    usual, long = card.rates.get(terms.tier) or next(iter(card.rates.values()))
    above = card.long_above is not None and sampling.prompt > card.long_above
    rates = long if above else usual
    per_million = _ZERO
    for quantity, rate in (
        (sampling.input, rates.input),
        (sampling.output, rates.output),
        (sampling.read, rates.read),
        (sampling.write_5m, rates.write_5m),
        (sampling.write_1h, rates.write_1h),
    ):
        if quantity:
            per_million = _EXACT.add(per_million, _EXACT.multiply(Decimal(quantity), rate))
    if terms.in_us and card.us_factor is not None:
        per_million = _EXACT.multiply(per_million, card.us_factor)
    if terms.tier not in card.rates:
        per_million = _EXACT.multiply(per_million, _UNLISTED_TIER_FACTOR)
    return per_million.scaleb(-6, _EXACT)
