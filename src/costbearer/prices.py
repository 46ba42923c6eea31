"""Dated rate cards: what one model's work costs, at one provider, in one context, on one day.

`PriceBook.at` answers from a price archive. What the archive does not state is `Unrated` with a reason: a context that
matches nothing is never silently standard, an unknown model is never guessed, and a missing price is never 0.
"""

from __future__ import annotations

import hashlib
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from costbearer import money
from costbearer.errors import StoreFailed
from costbearer.price_archive import FORMAT, Archive, Model, NameIndex, Row, matcher
from costbearer.usage import METER

MODEL_NAME_CHARS_MAX = 256
"""No provider names a model longer; a longer name is not matched at all, so that a caller cannot make matching slow."""

CACHE_ENTRIES_MAX = 4096
"""Names and cards kept; the oldest goes first. Names come from callers, so the cache must have an end."""


class Unrated(msgspec.Struct, frozen=True):
    """Why there is no price. `reason` is a machine code, `detail` says what was asked for.

    Reasons: `provider_unpriced`, `model_unpriced`, `tier_unpriced` (the context matches no price), `tier_committed`
    (a capacity commitment: its price stands in a contract, not in a price list).
    """

    reason: str
    detail: str = ""


class Context(msgspec.Struct, frozen=True, gc=False):
    """How a call was served, in the provider's own words; None where it did not say."""

    tier: str | None = None
    speed: str | None = None
    geo: str | None = None


class Price(msgspec.Struct, frozen=True, gc=False):
    """USD per token or per request, with 12 places.

    A step's price holds for the whole request once its input is larger than the threshold.
    """

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

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
        return _dearest(price for unit, price in self._token_prices() if not _is_output(unit))

    @cached_property
    def dearest_output(self) -> Price:
        """The most an output token can cost, whatever it is: text, reasoning, audio, image."""
        return _dearest(price for unit, price in self._token_prices() if _is_output(unit))

    def _token_prices(self) -> Iterator[tuple[str, Price]]:
        for unit, price in (*self.prices.items(), *self.unmetered.items()):
            if METER[unit].unit == "token" if unit in METER else unit.endswith("_tokens"):
                yield unit, price


_OUTPUT = frozenset({"output", "reasoning_output", "audio_output"})


def _is_output(unit: str) -> bool:
    return unit in _OUTPUT if unit in METER else unit.startswith("output_")


def _dearest(prices: Iterable[Price]) -> Price:
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


_ORDINARY = frozenset({"", "default", "standard", "auto"})
_TIERS: dict[str, dict[str, str]] = {
    # A request for `fast` comes back as `priority` and costs the same: openai SDK, ChatCompletion.service_tier.
    "openai": {"fast": "priority"},
    "azure": {"fast": "priority"},
    # The request's way to say "never priority": anthropic SDK, MessageCreateParams.service_tier.
    "anthropic": {"standard_only": ""},
    # usageMetadata.trafficType of Vertex AI, beside the Gemini API's serviceTier: google-genai SDK, TrafficType.
    "google": {
        "on_demand": "",
        "on_demand_priority": "priority",
        "on_demand_flex": "flex",
        "on_demand_offpeak": "offpeak",
    },
}
_GEOS: dict[str, dict[str, str]] = {
    # usage.inference_geo: inference wherever there is room, or a model that has no such setting.
    "anthropic": {"global": "", "not_available": ""},
}
_COMMITTED: dict[str, frozenset[str]] = {
    "anthropic": frozenset({"priority"}),
    "google": frozenset({"provisioned_throughput"}),
}


def canonical(provider: str, context: Context) -> dict[str, str] | Unrated:
    """What is special about a context, in the archive's words: `{}` for standard, else such as `{"tier": "batch"}`.

    None, `default`, `standard` and `auto` say nothing special; case does not matter; a word that no table knows stays
    what it is and then matches no price.
    """
    tier = _word(context.tier, _TIERS.get(provider))
    if tier in _COMMITTED.get(provider, ()):
        return Unrated("tier_committed", tier)
    special = {"tier": tier, "speed": _word(context.speed, None), "geo": _word(context.geo, _GEOS.get(provider))}
    return {name: value for name, value in special.items() if value}


def _word(stated: str | None, names: Mapping[str, str] | None) -> str:
    value = (stated or "").lower()[:MODEL_NAME_CHARS_MAX]
    return "" if value in _ORDINARY else (names or {}).get(value, value)


def context_text(special: Mapping[str, str]) -> str:
    """A context as a card's id spells it: `standard`, `batch`, `batch+geo=us`, `speed=fast`."""
    return "+".join(value if name == "tier" else f"{name}={value}" for name, value in special.items()) or "standard"


def _context_from(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split("+") if text != "standard"]
    return {name if value else "tier": value or name for name, _, value in parts}


class _Found(msgspec.Struct, frozen=True):
    """What a name means at a provider. Of a borrowed model (another provider's) only the standard price is known."""

    provider: str
    model: Model
    edges: tuple[time, ...]
    borrowed: bool = False
    earlier: Model | None = None
    earlier_until: date | None = None

    def on(self, day: date) -> Model:
        if self.earlier is not None and self.earlier_until is not None and day < self.earlier_until:
            return self.earlier
        return self.model

    def slot(self, clock: time) -> int:
        """Which part of the day it is, as far as prices are concerned."""
        return bisect_right(self.edges, clock) if self.edges else 0


K = TypeVar("K")
V = TypeVar("V")


class _Cache(dict[K, V]):
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
        self._aliases = {(alias.provider, alias.name): alias for alias in archive.aliases}
        self._indexes = {name: NameIndex(model.match for model in models) for name, models in self._models.items()}
        self._makers: dict[str, Callable[[str], bool]] = {
            provider.id: matcher(provider.match) for provider in archive.providers if provider.match is not None
        }
        self._lenders = {name for provider in archive.providers for name in provider.fallback}
        self._found: _Cache[tuple[str, str], _Found | Unrated] = _Cache()
        self._cards: _Cache[tuple[str, str, Context | None, date, int], Card] = _Cache()
        self._ranked: _Cache[str, tuple[str, ...]] = _Cache()

    @classmethod
    def loads(cls, data: bytes) -> PriceBook:
        """Read an archive.

        Raises:
            StoreFailed: the bytes are not an archive of the format this version reads.
        """
        try:
            archive = msgspec.json.decode(data, type=Archive)
            if archive.format != FORMAT:
                raise StoreFailed(f"the price archive has format {archive.format}; this version reads format {FORMAT}")
            return cls(archive, hashlib.sha256(data).hexdigest())
        except (msgspec.DecodeError, KeyError, ValueError, re.error) as error:
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
            card = special if isinstance(special, Unrated) else _resolve(found, special, day, when.time())
            if isinstance(card, Card):
                self._cards.keep(key, card)
        return card

    def dearest(self, provider: str, model: str, when: datetime) -> Card | Unrated:
        """A card that no context of this model is dearer than, price by price: to bound a call not yet served.

        The request does not settle the tier: `auto` is what the provider's project settings say, and they may say
        priority. The card's context is `any`; nothing is ever charged from it.
        """
        found = self._found.get((provider, model)) or self._find(provider, model)
        if isinstance(found, Unrated):
            return found
        if when.tzinfo is not UTC:
            when = _utc(when)
        day = when.date()
        key = (provider, model, None, day, bisect_right(found.edges, when.time()) if found.edges else 0)
        card = self._cards.get(key)
        if card is None:
            clock = when.time()
            variants = () if found.borrowed else found.on(day).variants
            contexts = {context_text(row.when): row.when for row in variants}
            resolved = [_resolve(found, special, day, clock) for special in ({}, *contexts.values())]
            card = _ceiling([each for each in resolved if isinstance(each, Card)])
            self._cards.keep(key, card)
        return card

    def card(self, card_id: str) -> Card | None:
        """The card of that id, if this archive still says exactly the same; else None."""
        path = card_id.rpartition("#")[0]
        provider, _, rest = path.partition("/")
        named, _, day_text = rest.rpartition("/")
        model_id, _, context = named.rpartition("/")
        special = _context_from(context)
        for found in self._by_id(provider, model_id):
            day = _first_day(found.model, special, day_text)
            for clock in found.edges or (time(0),):
                card = _resolve(found, special, day, clock) if day else None
                if isinstance(card, Card) and card.id == card_id:
                    return card
        return None

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
                if isinstance(found, _Found):
                    order.append((self._distance(found, model.lower()), provider))
            ranked = tuple(provider for _, provider in sorted(order))
            if len(model) <= MODEL_NAME_CHARS_MAX:
                self._ranked.keep(model, ranked)
        return ranked

    def _distance(self, found: _Found, name: str) -> int:
        """How far a provider stands from the model's maker."""
        maker = self._makers.get(found.provider)
        if maker is not None and maker(name):
            return 0
        return 3 if found.borrowed else 1 if found.provider in self._lenders else 2

    def _find(self, provider: str, model: str) -> _Found | Unrated:
        found = self._search(provider, model)
        if len(model) <= MODEL_NAME_CHARS_MAX:
            self._found.keep((provider, model), found)
        return found

    def _search(self, provider: str, model: str) -> _Found | Unrated:
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

    def _meaning(self, provider: str, name: str, model: Model) -> _Found:
        alias = self._aliases.get((provider, name))
        return _Found(
            provider,
            model,
            model.edges(),
            borrowed=model.provider != provider,
            earlier=self._ids[provider, alias.model] if alias else None,
            earlier_until=alias.until if alias else None,
        )

    def _by_id(self, provider: str, model_id: str) -> Iterator[_Found]:
        entry = self._providers.get(provider)
        for owner in (provider, *entry.fallback) if entry else ():
            model = self._ids.get((owner, model_id))
            if model is not None:
                yield _Found(provider, model, model.edges(), borrowed=owner != provider)


_COMPACT_DATE = re.compile(r"(?<=-)(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=[-:]|$)")
_UNDATED = "undated"
_ANY_DAY = date(2020, 1, 1)


def _utc(when: datetime) -> datetime:
    assert when.tzinfo is not None, "a time without a zone names no instant"
    return when.astimezone(UTC)


def _first_day(model: Model, special: Mapping[str, str], text: str) -> date | None:
    """The day a card's id begins at; for an undated card a day before anything changes."""
    if text == _UNDATED:
        return min(model.boundaries(special), default=_ANY_DAY) - timedelta(days=1)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _resolve(found: _Found, special: Mapping[str, str], day: date, clock: time) -> Card | Unrated:
    """The card of one moment. A context's prices lie over the standard ones, which hold for what it does not name."""
    model = found.on(day)
    rows: list[Row] = []
    if special:
        rows = [] if found.borrowed else model.special(special, day, clock)
        if not rows:
            return Unrated("tier_unpriced", context_text(special))
    rows.append(model.standard(day, clock))
    stated: dict[str, str | list[Any]] = {}
    for row in reversed(rows):
        stated.update(row.prices)
    prices = {unit: _price(stated[unit]) for unit in sorted(stated)}
    boundaries = model.boundaries(special)
    sources = dict.fromkeys(f"overlay {row.source}" if row.source else "genai-prices" for row in reversed(rows))
    return _card(
        provider=found.provider,
        model=model.id,
        context=context_text(special),
        valid_from=max((each for each in boundaries if each <= day), default=None),
        valid_until=min((each for each in boundaries if each > day), default=None),
        hours=_hours(found, clock),
        prices={unit: price for unit, price in prices.items() if unit in METER},
        unmetered={unit: price for unit, price in prices.items() if unit not in METER},
        source=", ".join(sources),
        context_window=model.context_window,
    )


def _hours(found: _Found, clock: time) -> str | None:
    """The part of the day that `clock` lies in, as `16:30-00:30`."""
    if not found.edges:
        return None
    end = found.slot(clock) % len(found.edges)
    return f"{found.edges[end - 1]:%H:%M}-{found.edges[end]:%H:%M}"


def _price(stated: str | list[Any]) -> Price:
    if isinstance(stated, str):
        return Price(money.usd(stated))
    base, *steps = stated
    return Price(money.usd(base), tuple((threshold, money.usd(price)) for threshold, price in steps))


def _card(**content: Any) -> Card:
    """The card with the id that follows from its content."""
    card = Card(id="", **content)
    said = msgspec.to_builtins(card, builtin_types=(Decimal,))
    text = msgspec.json.encode(_plain(said), order="deterministic")
    day = card.valid_from.isoformat() if card.valid_from else _UNDATED
    digest = hashlib.sha256(text).hexdigest()[:12]
    return msgspec.structs.replace(card, id=f"{card.provider}/{card.model}/{card.context}/{day}#{digest}")


def _plain(value: Any) -> Any:
    """The value with each amount as text of 12 places, however it was written: what a card's hash is taken over."""
    if isinstance(value, Decimal):
        return money.text(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _ceiling(cards: Sequence[Card]) -> Card:
    """Price by price the dearest of these cards (at least one) at every size of input."""
    first = cards[0]
    return _card(
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
