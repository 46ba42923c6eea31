"""What was negotiated: prices and discounts that differ from the price list, and capacity that is paid by time.

`Contract.loads` reads a file of dated rows (`contract_rows`); `rating.rate` asks it for the contracted prices beside
the public ones, and `effective_cost` spreads the fee of capacity over the calls that used it. Pure: no I/O here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from costbearer import money
from costbearer.contract_rows import WHOLE, Commitment, Period, Term, matches, read, written
from costbearer.errors import AmountInvalid
from costbearer.price_context import MODEL_NAME_CHARS_MAX, Context, context_from, context_text, words_of
from costbearer.prices import Cache, PriceBook
from costbearer.rate_card import UNDATED, Card, Price, dearest_of, make_card


class Spread(msgspec.Struct, frozen=True):
    """A fee and where it went: `shares_usd` in the order of the calls, and what nobody used. They add up to the fee."""

    fee_usd: Decimal
    shares_usd: tuple[Decimal, ...]
    unused_usd: Decimal


def effective_cost(commitment: Commitment, start: datetime, period: Period, tokens: Sequence[int]) -> Spread:
    """The fee of one hour, day or month, spread over the calls that ran on the capacity by their share of the tokens.

    `tokens` are each call's tokens; its effective cost is its own cost plus its share. Without any use the whole fee is
    unused.

    Raises:
        AmountInvalid: a number of tokens is negative.
    """
    fee = commitment.fee_of(start, period)
    if min(tokens, default=0) < 0:
        raise AmountInvalid("a call cannot have used a negative number of tokens")
    if not any(tokens):
        return Spread(fee, (money.ZERO,) * len(tokens), fee)
    return Spread(fee, tuple(money.allocate(fee, tokens)), money.ZERO)


class Contract:
    """The terms and commitments of one file, ready to be asked. Safe to share between threads."""

    def __init__(self, terms: Sequence[Term], commitments: Sequence[Commitment], sha256: str) -> None:
        self.terms = tuple(terms)
        self.commitments = tuple(commitments)
        self.hash = sha256
        """SHA-256 of the file's bytes, in hex."""
        self._by_rank = sorted(terms, key=lambda term: term.rank, reverse=True)
        self._prices: Cache[tuple[str, date], dict[str, Price]] = Cache()

    @classmethod
    def loads(cls, data: bytes) -> Contract:
        """Read a file, TOML or CSV.

        Raises:
            PricesInvalid: it cannot be read, or a row of it contradicts itself or another; the message names the line.
        """
        terms, commitments = read(data)
        return cls(terms, commitments, hashlib.sha256(data).hexdigest())

    def dumps(self) -> bytes:
        """The same as TOML, which `loads` reads back to the same rows."""
        return written(self.terms, self.commitments)

    def with_term(self, term: Term) -> Contract:
        """The contract with one more term. One of the same scope that has no end, and began before, ends with it.

        Raises:
            PricesInvalid: it does not fit the other rows.
        """
        closed = [
            msgspec.structs.replace(each, until=term.since) if each.scope == term.scope and _open(each, term) else each
            for each in self.terms
        ]
        return Contract.loads(written([*closed, term], self.commitments))

    def term_for(self, card: Card, when: datetime) -> Term | None:
        """The term that holds for a card's model and context at `when`."""
        return self._term(card.provider, card.model, context_from(card.context), when.astimezone(UTC).date())

    def at(self, card: Card, when: datetime) -> Mapping[str, Price] | None:
        """The contracted prices by meter of a call on this card at `when`; None where the contract says nothing of it.

        A discounted unit price is rounded half-even to 12 places once; a negotiated price has no steps. Meters that are
        not in it cost what the card says.
        """
        key = (card.id, when.date() if when.tzinfo is UTC else when.astimezone(UTC).date())
        prices = self._prices.get(key)
        if prices is None:
            prices = self._prices_at(card, key[1])
            self._prices.keep(key, prices)
        return prices or None

    def ever(self, card: Card) -> Iterator[tuple[str, Decimal]]:
        """Every (meter, unit price) that any of its terms ever made of this card."""
        for term in self.terms:
            first = term.since or (term.until - timedelta(days=1) if term.until else _ANY_DAY)
            yield from ((meter, at) for meter, price in self._prices_at(card, first).items() for at in price.every())

    def card(self, provider: str, model: str, context: Context, when: datetime) -> Card | None:
        """A card for what no price list knows, made of the contract's own prices; None where it has none either."""
        if len(model) > MODEL_NAME_CHARS_MAX:
            return None
        special = words_of(provider, context)
        special.pop("variant", None)
        term = self._term(provider, model.lower(), special, when.astimezone(UTC).date())
        if term is None or not term.prices:
            return None
        return make_card(
            provider=provider,
            model=model.lower(),
            context=context_text(special),
            valid_from=term.since,
            valid_until=term.until,
            hours=None,
            prices={meter: Price(price) for meter, price in sorted(term.prices.items())},
            unmetered={},
            source="contract",
            context_window=None,
        )

    def find_card(self, card_id: str) -> Card | None:
        """The card of that id, if it is one that `card` made; None if not."""
        path = card_id.rpartition("#")[0]
        provider, _, rest = path.partition("/")
        named, _, day = rest.rpartition("/")
        model, _, context = named.rpartition("/")
        special = context_from(context)
        stated = Context(special.get("tier"), special.get("speed"), special.get("geo"))
        for term in self.terms:
            # An undated term has no first day; the day before its last, or any, will do.
            first = term.since or (term.until - timedelta(days=1) if term.until else _ANY_DAY)
            if term.provider == provider and day in (first.isoformat(), UNDATED):
                card = self.card(provider, model, stated, datetime.combine(first, time(0), UTC))
                if card is not None and card.id == card_id:
                    return card
        return None

    def ceiling(self, card: Card, when: datetime) -> Card:
        """The card, with every price that some term for its model raises above it: to take a bound from."""
        day = when.astimezone(UTC).date()
        raised = dict(card.prices)
        for term in self.terms:
            if term.provider == card.provider and term.holds(day) and matches(term.model, card.model):
                for meter, price in term.prices.items():
                    raised[meter] = dearest_of([Price(price), *([raised[meter]] if meter in raised else [])])
        return card if raised == card.prices else msgspec.structs.replace(card, prices=raised)

    def sellers(self, model: str) -> tuple[str, ...]:
        """The providers at which it has prices of its own for a model."""
        return tuple(dict.fromkeys(term.provider for term in self.terms if term.prices and matches(term.model, model)))

    def commitment_for(self, provider: str, model: str, deployment: str | None, when: datetime) -> Commitment | None:
        """The commitment a call ran on, the first of those that cover it."""
        day = when.astimezone(UTC).date()
        return next((each for each in self.commitments if each.covers(provider, model, deployment, day)), None)

    def _term(self, provider: str, model: str, special: Mapping[str, str], day: date) -> Term | None:
        return next((term for term in self._by_rank if term.covers(provider, model, special, day)), None)

    def _prices_at(self, card: Card, day: date) -> dict[str, Price]:
        term = self._term(card.provider, card.model, context_from(card.context), day)
        if term is None:
            return {}
        if term.discount is None:
            return {meter: Price(price) for meter, price in term.prices.items()}
        keeps = money.minus(WHOLE, term.discount).scaleb(-2)
        return {
            meter: Price(
                money.scaled(price.base, keeps),
                tuple((threshold, money.scaled(stepped, keeps)) for threshold, stepped in price.steps),
            )
            for meter, price in card.prices.items()
        }


_ANY_DAY = date(2020, 1, 1)


class Prices(NamedTuple):
    """What calls are rated with: the price archive, and what was negotiated."""

    book: PriceBook
    contract: Contract | None = None


def _open(term: Term, later: Term) -> bool:
    return term.until is None and later.since is not None and (term.since is None or term.since < later.since)
