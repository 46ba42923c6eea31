"""Dated rate cards: what one model's work costs, at one provider, in one context, on one day.

`PriceBook.at` answers from a price archive. What the archive does not state is `Unrated` with a reason: a context that
matches nothing is never silently standard, an unknown model is never guessed, and a missing price is never 0.
"""

from __future__ import annotations

import hashlib
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar

import msgspec

from costbearer.errors import StoreFailed
from costbearer.price_archive import FORMATS, Archive, Factor, Model, NameIndex, Row, matcher
from costbearer.price_context import MODEL_NAME_CHARS_MAX, Context, Unrated, canonical, context_from
from costbearer.price_resolution import ANY_DAY, Found, every_card, first_day, resolve
from costbearer.rate_card import Card, Price, ceiling

__all__ = ["Card", "Context", "Price", "PriceBook", "Unrated"]

CACHE_ENTRIES_MAX = 4096
"""Names and cards kept; the oldest goes first. Names come from callers, so the cache must have an end."""


K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V]):
    """A dict of at most CACHE_ENTRIES_MAX entries; reading it is a plain look-up."""

    def __init__(self) -> None:
        super().__init__()
        self._filling = threading.Lock()

    def keep(self, key: K, value: V) -> None:
        with self._filling:
            if len(self) >= CACHE_ENTRIES_MAX:
                del self[next(iter(self))]
            self[key] = value


class PriceBook:
    """An archive, ready to be asked. Safe to share between threads."""

    def __init__(self, archive: Archive, sha256: str) -> None:
        self.hash = sha256
        """SHA-256 of the archive's bytes, in hex."""
        self._providers = {provider.id: provider for provider in archive.providers}
        self._models: dict[str, list[Model]] = {name: [] for name in self._providers}
        for model in archive.models:
            self._models[model.provider].append(model)
        self._ids = {(model.provider, model.id): model for model in archive.models}
        self._aliases: dict[tuple[str, str], list[tuple[date, Model]]] = {}
        for alias in sorted(archive.aliases, key=lambda alias: alias.until):
            meant = self._ids[alias.provider, alias.model]
            self._aliases.setdefault((alias.provider, alias.name), []).append((alias.until, meant))
        self._indexes = {name: NameIndex(model.match for model in models) for name, models in self._models.items()}
        self._makers: dict[str, Callable[[str], bool]] = {
            provider.id: matcher(provider.match) for provider in archive.providers if provider.match is not None
        }
        self._lenders = {name for provider in archive.providers for name in provider.fallback}
        self._found: Cache[tuple[str, str], Found | Unrated] = Cache()
        self._cards: Cache[tuple[str, str, Context, date, int], Card] = Cache()
        self._dearest: Cache[tuple[str, str, date], Card] = Cache()
        self._ranked: Cache[str, tuple[str, ...]] = Cache()

    @classmethod
    def loads(cls, data: bytes) -> PriceBook:
        """Read an archive.

        Raises:
            StoreFailed: the bytes are not an archive of the format this version reads.
        """
        try:
            archive = msgspec.json.decode(data, type=Archive)
            if archive.format not in FORMATS:
                known = " and ".join(map(str, sorted(FORMATS)))
                raise StoreFailed(f"the price archive has format {archive.format}; this version reads formats {known}")
            return cls(archive, hashlib.sha256(data).hexdigest())
        except (msgspec.DecodeError, KeyError, ValueError, RecursionError, re.error) as error:
            raise StoreFailed(f"the price archive cannot be read: {error}") from None

    def at(self, provider: str, model: str, context: Context, when: datetime) -> Card | Unrated:
        """The card for a call that began at `when` (with its zone), or why there is none."""
        found = self._found.get((provider, model)) or self._find(provider, model)
        if isinstance(found, Unrated):
            return found
        if when.tzinfo is not UTC:
            when = _utc(when)
        day = when.date()
        key = (provider, model, context, day, bisect_right(found.edges, when.time()) if found.edges else 0)
        card: Card | Unrated | None = self._cards.get(key)
        if card is None:
            special = canonical(provider, context)
            card = special if isinstance(special, Unrated) else resolve(found, special, day, when.time())
            if isinstance(card, Card):
                self._cards.keep(key, card)
        return card

    def dearest(self, provider: str, model: str, when: datetime) -> Card | Unrated:
        """A card that no context of this model is dearer than, price by price: to bound a call not yet served.

        The request does not settle the tier: `auto` is what the provider's project settings say, and they may say
        priority. The card's context is `any`, and it holds all day; nothing is ever charged from it.
        """
        if when.tzinfo is not UTC:
            when = _utc(when)
        key = (provider, model, when.date())
        card = self._dearest.get(key)
        if card is not None:
            return card
        found = self._found.get((provider, model)) or self._find(provider, model)
        if isinstance(found, Unrated):
            return found
        card = ceiling([each for _, each in every_card(found, when.date())])
        self._dearest.keep(key, card)
        return card

    def card(self, card_id: str) -> Card | None:
        """The card of that id, if this archive still says exactly the same; else None."""
        path = card_id.rpartition("#")[0]
        provider, _, rest = path.partition("/")
        named, _, day_text = rest.rpartition("/")
        model_id, _, context = named.rpartition("/")
        special = context_from(context)
        for found in self._by_id(provider, model_id):
            day = first_day(found, special, day_text)
            for clock in found.clocks():
                card = resolve(found, special, day, clock) if day else None
                if isinstance(card, Card) and card.id == card_id:
                    return card
        return None

    def standard(self, provider: str, model_id: str, when: datetime) -> Card:
        """The standard card of a model a provider itself lists, by its id.

        Raises:
            KeyError: it lists no such model.
        """
        when = _utc(when)
        found = self._as_found(provider, self._ids[provider, model_id])
        card = resolve(found, {}, when.date(), when.time())
        assert isinstance(card, Card), "a model has standard prices on every day"
        return card

    def every(self, provider: str, model: str, when: datetime) -> list[Card] | Unrated:
        """The cards of every context there is a price for at a moment, the standard one first."""
        found = self._found.get((provider, model)) or self._find(provider, model)
        if isinstance(found, Unrated):
            return found
        when = _utc(when)
        parts = len(found.clocks())
        # Before the first edge of the day it is still the part that began at the last.
        part = found.slot(when.time()) % parts
        cards = [card for clock, card in every_card(found, when.date()) if found.slot(clock) % parts == part]
        return list({card.id: card for card in cards}.values())

    def past(self, provider: str, model: str) -> list[Card] | Unrated:
        """The cards a name has ever had and is known to get, context by context in the order of their days."""
        found = self._found.get((provider, model)) or self._find(provider, model)
        if isinstance(found, Unrated):
            return found
        days = {until for until, _ in found.earlier}
        for meant in (found.model, *(model for _, model in found.earlier)):
            spans: list[Row | Factor] = [*meant.prices, *meant.variants, *(factor for factor, _ in found.factors)]
            days |= {day for span in spans for day in (span.since, span.until) if day is not None}
        first = min(days, default=ANY_DAY) - timedelta(days=1)
        cards = {card.id: card for day in (first, *sorted(days)) for _, card in every_card(found, day)}
        order = list(dict.fromkeys(card.context for card in cards.values()))
        return sorted(cards.values(), key=lambda card: order.index(card.context))

    def edges(self, provider: str, model: str) -> tuple[time, ...]:
        """The times of day (UTC) at which a price of this model may change; none for nearly every model."""
        found = self._found.get((provider, model)) or self._find(provider, model)
        return () if isinstance(found, Unrated) else found.edges

    def models(self, provider: str) -> list[str]:
        """The ids of the models a provider itself lists, sorted; empty for an unknown provider."""
        return [model.id for model in self._models.get(provider, ())]

    def providers(self) -> list[str]:
        """The ids of all providers, sorted."""
        return sorted(self._providers)

    def providers_of(self, model: str) -> tuple[str, ...]:
        """The providers that know a model, best first: its maker, those that list it, those that borrow its price."""
        ranked = self._ranked.get(model)
        if ranked is None:
            order = []
            for provider in self._providers:
                found = self._search(provider, model)
                if isinstance(found, Found):
                    order.append((self._distance(found, model.lower()), provider))
            ranked = tuple(provider for _, provider in sorted(order))
            if len(model) <= MODEL_NAME_CHARS_MAX:
                self._ranked.keep(model, ranked)
        return ranked

    def _distance(self, found: Found, name: str) -> int:
        """How far a provider stands from the model's maker."""
        maker = self._makers.get(found.provider)
        if maker is not None and maker(name):
            return 0
        return 3 if found.borrowed else 1 if found.provider in self._lenders else 2

    def _find(self, provider: str, model: str) -> Found | Unrated:
        found = self._search(provider, model)
        if len(model) <= MODEL_NAME_CHARS_MAX:
            self._found.keep((provider, model), found)
        return found

    def _search(self, provider: str, model: str) -> Found | Unrated:
        """What the name means: as it is written, else with its compact date (`-20251211`) spelt out."""
        entry = self._providers.get(provider)
        if entry is None:
            return Unrated("provider_unpriced", provider[:MODEL_NAME_CHARS_MAX])
        name = model.lower()
        spellings = (
            dict.fromkeys((name, _COMPACT_DATE.sub(r"\1-\2-\3", name))) if len(name) <= MODEL_NAME_CHARS_MAX else ()
        )
        for spelling in spellings:
            for owner in (provider, *entry.fallback):
                position = self._indexes[owner].find(spelling)
                if position is not None:
                    return self._meaning(provider, name, self._models[owner][position])
        return Unrated("model_unpriced", model[:MODEL_NAME_CHARS_MAX])

    def _meaning(self, provider: str, name: str, model: Model) -> Found:
        return self._as_found(provider, model, tuple(self._aliases.get((provider, name), ())))

    def _as_found(self, provider: str, model: Model, earlier: tuple[tuple[date, Model], ...] = ()) -> Found:
        entry = self._providers[provider]
        edges = {edge for meant in (model, *(model for _, model in earlier)) for edge in meant.edges()}
        return Found(
            provider,
            model,
            tuple(sorted(edges)),
            borrowed=model.provider != provider,
            earlier=earlier,
            factors=tuple((factor, matcher(factor.match or _ANY_NAME)) for factor in entry.factors),
        )

    def _by_id(self, provider: str, model_id: str) -> Iterator[Found]:
        entry = self._providers.get(provider)
        for owner in (provider, *entry.fallback) if entry else ():
            model = self._ids.get((owner, model_id))
            if model is not None:
                yield self._as_found(provider, model)


_ANY_NAME = {"contains": ""}
_COMPACT_DATE = re.compile(r"(?<=-)(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=[-:]|$)")


def _utc(when: datetime) -> datetime:
    assert when.tzinfo is not None, "a time without a zone names no instant"
    return when.astimezone(UTC)
