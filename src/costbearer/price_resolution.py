"""From the rows of an archive to the rate card of one moment: what holds in a context, what is a multiple of what holds
in another, and which days it holds on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from costbearer import money
from costbearer.price_archive import Factor, Model, Row
from costbearer.price_context import Unrated, context_text
from costbearer.rate_card import UNDATED, UNSETTLED_REQUEST, Card, Price, is_token, make_card
from costbearer.usage import METER, REQUEST

ANY_DAY = date(2020, 1, 1)
"""A day to look at where no day makes a difference."""


class Found(msgspec.Struct, frozen=True):
    """What a name means at a provider. Of a borrowed model (another provider's) only the standard price is known.

    `earlier` are the models it meant before, each with the day on which that ended, the first day first.
    """

    provider: str
    model: Model
    edges: tuple[time, ...]
    borrowed: bool = False
    earlier: tuple[tuple[date, Model], ...] = ()
    factors: tuple[tuple[Factor, Callable[[str], bool]], ...] = ()

    def on(self, day: date) -> Model:
        for until, model in self.earlier:
            if day < until:
                return model
        return self.model

    def slot(self, clock: time) -> int:
        """Which part of the day it is, as far as prices are concerned."""
        return bisect_right(self.edges, clock) if self.edges else 0

    def clocks(self) -> tuple[time, ...]:
        """A moment in each part of the day."""
        return self.edges or (time(0),)


def first_day(found: Found, special: Mapping[str, str], text: str) -> date | None:
    """The day a card's id begins at; for an undated card a day before anything changes."""
    if text == UNDATED:
        base = {name: value for name, value in special.items() if name != "variant"}
        days = _boundaries(found, found.model, base, special.get("variant", "").split(","))
        return min(days, default=ANY_DAY) - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def every_card(found: Found, day: date) -> Iterator[tuple[time, Card]]:
    """The cards of every context and part of one day, each with the moment it was looked up for."""
    model = found.on(day)
    contexts = {context_text(row.when): row.when for row in model.variants}
    contexts |= {context_text(factor.when): factor.when for factor, _ in found.factors}
    for clock in found.clocks():
        for special in ({}, *contexts.values()):
            card = resolve(found, special, day, clock)
            if isinstance(card, Card):
                yield clock, card


Stated = dict[str, "str | list[Any]"]


def resolve(found: Found, special: Mapping[str, str], day: date, clock: time) -> Card | Unrated:
    """The card of one moment. A context's prices lie over the standard ones, which hold for what it does not name, and
    those of its variant lie over both."""
    model = found.on(day)
    context = {name: value for name, value in special.items() if name != "variant"}
    stated, sources = _stated(found, model, context, day, clock)
    if not sources:
        return Unrated("tier_unpriced", context_text(context))
    words = []
    for word in special.get("variant", "").split(",") if "variant" in special else ():
        rows = model.special({**context, "variant": word}, day, clock) or model.special({"variant": word}, day, clock)
        if not rows and _family(word) in _families(model, day, clock):
            return Unrated("variant_unpriced", word)
        for row in reversed(rows):
            stated.update(row.prices)
            sources.append(_source(row))
        words += [word] if rows else []
    if words:
        context["variant"] = ",".join(words)
    if REQUEST in stated:
        stated.pop(UNSETTLED_REQUEST, None)
    prices = {unit: _price(stated[unit]) for unit in sorted(stated)}
    days = _boundaries(found, model, context, words)
    return make_card(
        provider=found.provider,
        model=model.id,
        context=context_text(context),
        valid_from=max((each for each in days if each <= day), default=None),
        valid_until=min((each for each in days if each > day), default=None),
        hours=_hours(model.edges(), clock),
        prices={unit: price for unit, price in prices.items() if unit in METER},
        unmetered={unit: price for unit, price in prices.items() if unit not in METER},
        source=", ".join(dict.fromkeys(sources)),
        context_window=model.context_window,
    )


def _stated(found: Found, model: Model, context: Mapping[str, str], day: date, clock: time) -> tuple[Stated, list[str]]:
    """The archive's prices in a context without its variant, and their sources; no source where there are none."""
    standard = model.standard(day, clock)
    rows = [standard]
    if context:
        # What is special at the maker need not be at who resells its models.
        special = [] if found.borrowed else model.special(context, day, clock)
        if not special:
            return _multiplied(found, model, context, day, clock)
        rows = [*special, standard]
    stated: Stated = {}
    for row in reversed(rows):
        stated.update(row.prices)
    return stated, [_source(row) for row in reversed(rows)]


def _multiplied(
    found: Found, model: Model, context: Mapping[str, str], day: date, clock: time
) -> tuple[Stated, list[str]]:
    """The prices of a context that are a multiple of another's."""
    for factor, matches in found.factors:
        if factor.when == context and factor.active(day) and matches(model.id.lower()):
            stated, sources = _stated(found, model, factor.over, day, clock)
            if sources:
                by = Decimal(factor.factor)
                raised = {unit: _times(price, by) if is_token(unit) else price for unit, price in stated.items()}
                return raised, [*sources, f"overlay {factor.source}"]
    return {}, []


def _times(price: str | list[Any], factor: Decimal) -> str | list[Any]:
    if isinstance(price, str):
        return money.text(money.scaled(Decimal(price), factor))
    base, *steps = price
    return [_times(base, factor), *([threshold, _times(each, factor)] for threshold, each in steps)]


def _boundaries(found: Found, model: Model, context: Mapping[str, str], words: Sequence[str]) -> set[date]:
    """The days on which the price in this context may change, whatever it is made of."""
    base = {name: value for name, value in context.items() if name != "variant"}
    days = model.boundaries(base)
    for word in words:
        days |= model.boundaries({**base, "variant": word}) | model.boundaries({"variant": word})
    for factor, matches in found.factors:
        if factor.when == base and matches(model.id.lower()):
            days |= {each for each in (factor.since, factor.until) if each is not None}
            days |= _boundaries(found, model, factor.over, ())
    return days


def _family(word: str) -> str:
    """What a word of a variant is about: the part before its `=`; the plain words are one family."""
    name, equals, _ = word.partition("=")
    return name if equals else ""


def _families(model: Model, day: date, clock: time) -> set[str]:
    """What the variants of a model's prices are about on a day."""
    return {_family(row.when["variant"]) for row in model.variants if "variant" in row.when and row.active(day, clock)}


def _source(row: Row) -> str:
    return ", overlay ".join([f"overlay {row.source}" if row.source else "genai-prices", *row.added])


def _hours(edges: Sequence[time], clock: time) -> str | None:
    """The part of the day between these edges that `clock` lies in, as `16:30-00:30`."""
    if not edges:
        return None
    end = bisect_right(edges, clock) % len(edges)
    return f"{edges[end - 1]:%H:%M}-{edges[end]:%H:%M}"


def _price(stated: str | list[Any]) -> Price:
    if isinstance(stated, str):
        return Price(money.usd(stated))
    base, *steps = stated
    return Price(money.usd(base), tuple((threshold, money.usd(price)) for threshold, price in steps))
