"""Rate cards: what one model's work costs, at one provider, in one context, from one day to another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Any

import msgspec

from costbearer import money
from costbearer.usage import METER, METERS, REQUEST

UNDATED = "undated"
"""Stands in a card's id for the first day of one that has always held."""


class Price(msgspec.Struct, frozen=True, gc=False):
    """USD per token or per request, with 12 places.

    A step's price holds for the whole request once its input is larger than the threshold.
    """

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def every(self) -> tuple[Decimal, ...]:
        """What it is, whatever the size of the input."""
        return (self.base, *(price for _, price in self.steps))

    def at(self, input_tokens: int | None) -> Decimal:
        """The price for a sampling step with so many input tokens; the base price where its size is not known."""
        if input_tokens is not None:
            for threshold, price in reversed(self.steps):
                if input_tokens > threshold:
                    return price
        return self.base


class Card(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The prices of one model at one provider in one context, for the days `[valid_from, valid_until)`.

    `id` is `provider/model/context/day#hash`, the hash over everything else the card says: a card never changes, and
    equal content has an equal id in every archive. `hours` is the daily UTC window it holds in, at providers that have
    such windows. `prices` is by meter. `unmetered` are prices of things that usage does not count, by their source's
    name: kept, used for bounds, never charged.
    """

    id: str
    provider: str
    model: str
    context: str
    valid_from: date | None
    valid_until: date | None
    hours: str | None
    prices: dict[str, Price]
    unmetered: dict[str, Price]
    source: str
    context_window: int | None

    @cached_property
    def dearest_input(self) -> Price:
        """The most an input token can cost, whatever it is: text, audio, image, a cache write."""
        return dearest_of(price for unit, price in self._units() if _side(unit) == "input")

    @cached_property
    def dearest_output(self) -> Price:
        """The most an output token can cost, whatever it is: text, reasoning, audio, image."""
        return dearest_of(price for unit, price in self._units() if _side(unit) == "output")

    @cached_property
    def falls(self) -> dict[str, str]:
        """The meters without a price here whose usage another meter's price holds for, and which that is."""
        without = (meter for meter in METERS if meter.name not in self.prices)
        found = ((meter.name, priced_as(meter.name, self.prices)) for meter in without)
        return {name: priced for name, priced in found if priced is not None}

    @cached_property
    def request_fee(self) -> Price:
        """The most one request costs beside what it uses; 0 where there is no such fee."""
        return dearest_of(price for unit, price in self._units() if unit in (REQUEST, UNSETTLED_REQUEST))

    @cached_property
    def flat_bound(self) -> tuple[Decimal, Decimal, Decimal] | None:
        """The most an input token, an output token and a request cost, where that depends on neither the input's size
        nor anything that is no token; else None."""
        found = (self.dearest_input, self.dearest_output, self.request_fee)
        if self.sized or any(price.steps for price in found):
            return None
        return found[0].base, found[1].base, found[2].base

    @cached_property
    def sized(self) -> tuple[str, ...]:
        """The meters it prices of what such a model is always asked to work on, other than tokens."""
        return tuple(meter for meter in self.prices if meter in SIZED)

    def _units(self) -> Iterator[tuple[str, Price]]:
        yield from self.prices.items()
        yield from self.unmetered.items()


SIZED = frozenset(meter.name for meter in METERS if not meter.side and not meter.optional) - {REQUEST}
"""Meters of what a model of that kind is asked to work on, other than tokens: characters, seconds, pages, images."""

UNSETTLED_REQUEST = "requests"
"""An archive unit without a meter: the model has a fee per request, and which one it is depends on a variant that the
context does not state. Every call has the fee, so such a call is unrated."""


def priced_as(meter: str, prices: Mapping[str, Price]) -> str | None:
    """The meter whose price holds for this one: itself, or the first it falls to that has one; None where none has."""
    return next((each for each in (meter, *METER[meter].falls_to) if each in prices), None)


def _side(unit: str) -> str:
    """Which total of tokens a unit is part of; empty for what is in neither."""
    if unit in METER:
        return METER[unit].side
    if not unit.endswith("_tokens"):
        return ""
    return "output" if unit.startswith("output_") else "input"


def is_token(unit: str) -> bool:
    """Whether a unit of a card is priced per token."""
    return METER[unit].unit == "token" if unit in METER else unit.endswith("_tokens")


def dearest_of(prices: Iterable[Price]) -> Price:
    """The highest of these prices that a request can reach, as its input grows; 0 where there is none.

    Unlike a price's own steps these never fall: a bound holds for every smaller input too.
    """
    highest = money.ZERO
    steps: dict[int, Decimal] = {}
    for price in prices:
        highest = max(highest, price.base)
        for threshold, stepped in price.steps:
            steps[threshold] = max(stepped, steps.get(threshold, stepped))
    rising: list[tuple[int, Decimal]] = []
    last = highest
    for threshold in sorted(steps):
        last = max(last, steps[threshold])
        rising.append((threshold, last))
    return Price(highest, tuple(rising))


def make_card(**content: Any) -> Card:
    """The card with the id that follows from its content."""
    card = Card(id="", **content)
    said = msgspec.to_builtins(card, builtin_types=(Decimal,))
    text = msgspec.json.encode(_plain(said), order="deterministic")
    day = card.valid_from.isoformat() if card.valid_from else UNDATED
    digest = hashlib.sha256(text).hexdigest()[:12]
    return msgspec.structs.replace(card, id=f"{card.provider}/{card.model}/{card.context}/{day}#{digest}")


def _plain(value: Any) -> Any:
    """The value with each amount as text of 12 places, however it was written: what a card's hash is taken over."""
    if isinstance(value, Decimal):
        return money.text(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def ceiling(cards: Sequence[Card]) -> Card:
    """Price by price the dearest of these cards (at least one) at every size of input."""
    first = cards[0]
    return make_card(
        provider=first.provider,
        model=first.model,
        context="any",
        valid_from=max((card.valid_from for card in cards if card.valid_from), default=None),
        valid_until=min((card.valid_until for card in cards if card.valid_until), default=None),
        hours=first.hours,
        prices=_highest([card.prices for card in cards]),
        unmetered=_highest([card.unmetered for card in cards]),
        source=", ".join(dict.fromkeys(card.source for card in cards)),
        context_window=first.context_window,
    )


def _highest(tables: Sequence[Mapping[str, Price]]) -> dict[str, Price]:
    highest: dict[str, Price] = {}
    for unit in sorted({unit for table in tables for unit in table}):
        prices = [table[unit] for table in tables if unit in table]
        thresholds = sorted({threshold for price in prices for threshold, _ in price.steps})
        steps = tuple((threshold, max(price.at(threshold + 1) for price in prices)) for threshold in thresholds)
        highest[unit] = Price(max(price.base for price in prices), steps)
    return highest
