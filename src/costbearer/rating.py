"""What a call costs: usage times the rate card of each model that worked on it, exact, or a reason why it is unknown.

All or nothing: where one part of a call has no price the whole call has none, because a sum with a hole in it looks
like a cost and is not one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from costbearer import money
from costbearer.errors import UsageInvalid
from costbearer.ledger import PROVIDER_DIFFERENCE, Charge
from costbearer.prices import Context, PriceBook, Unrated
from costbearer.rate_card import UNSETTLED_REQUEST, Card, Price, dearest_of, priced_as
from costbearer.usage import COUNT_MAX, OVERHEAD_TOKENS_PER_REQUEST, REQUEST, Usage, Work, leaves

if TYPE_CHECKING:
    from costbearer.contract import Contract

PROVIDER_CARD = "provider"
"""The card of a charge that rests on the provider's own word and not on a rate card."""

_NOTHING = Usage()


class Rating(msgspec.Struct, frozen=True, gc=False):
    """The charges of a call and their sum; or no charges, no sum, and the reason as a machine code.

    Reasons: those of `prices.Unrated`, `meter_unpriced:<meter>`, `usage_invalid:<meter or count>`, `usage_missing`.
    `notes` say for every unrated part what it was.
    """

    charges: tuple[Charge, ...]
    cost_usd: Decimal | None
    reason: str | None = None
    notes: tuple[str, ...] = ()


def rate(
    provider: str,
    work: Sequence[Work],
    context: Context,
    when: datetime,
    book: PriceBook,
    contract: Contract | None = None,
) -> Rating:
    """Rate everything the models did in a call that began at `when`.

    Long-context prices follow each part's `largest_input_tokens`. A quantity whose meter the card does not price is
    charged as the meter it falls to (`usage.METERS` says which and why), merged into that meter's line. A fee per
    request is charged once, to the first part whose card has one.

    With a contract a charge's cost is at the contracted price and its list cost at the public one. What only the
    contract prices, a model as a whole or one of its meters, has the contracted cost as list cost too: nobody has
    stated a public price.
    """
    charges: list[Charge] = []
    faults: list[tuple[str, str]] = []
    for part in work:
        card = book.at(provider, part.model, context, when)
        if isinstance(card, Unrated):
            own = contract.card(provider, part.model, context, when) if contract is not None else None
            if own is None:
                faults.append((card.reason, card.detail))
                continue
            card = own
        contracted = contract.at(card, when) if contract is not None else None
        try:
            fault = _charge(part, card, contracted, charges)
        except UsageInvalid as invalid:
            faults.append((f"usage_invalid:{invalid.subject}", f"{part.model}: {invalid.message}"))
            continue
        if fault is not None:
            faults.append((fault, part.model))
    if faults:
        notes = tuple(dict.fromkeys(f"{reason}: {detail}" if detail else reason for reason, detail in faults))
        return Rating((), None, faults[0][0], notes)
    if not work:
        return Rating((), None, "usage_missing")
    return Rating(tuple(charges), money.total([charge.cost_usd for charge in charges]))


def _charge(part: Work, card: Card, contracted: Mapping[str, Price] | None, charges: list[Charge]) -> str | None:
    """Append one charge per meter that is actually priced; gives the reason where something is not."""
    if part.usage == _NOTHING:
        return "usage_missing"
    lines = leaves(part.usage)
    prices = card.prices
    known = prices if contracted is None else {**prices, **contracted}
    for meter in lines:
        if meter not in known:
            lines = _merged(lines, card.falls if contracted is None else _falls(lines, known))
            break
    if REQUEST in known:
        if not any(charge.meter == REQUEST for charge in charges):
            lines[REQUEST] = 1
    elif UNSETTLED_REQUEST in card.unmetered:
        return f"meter_unpriced:{REQUEST}"
    largest, model, name = part.largest_input_tokens, part.model, card.id
    for meter, quantity in lines.items():
        price = known.get(meter)
        if price is None:
            return f"meter_unpriced:{meter}"
        unit_price = price.at(largest) if price.steps else price.base
        cost = listed = money.times(quantity, unit_price)
        if contracted is not None and meter in contracted:
            public = prices.get(meter) or public_price(meter, prices)
            listed = cost if public is None else money.times(quantity, public.at(largest))
        charges.append(Charge(meter, quantity, unit_price, listed, cost, model, name))
    return None


def _merged(quantities: Mapping[str, int], falls: Mapping[str, str]) -> dict[str, int]:
    """The quantities by the meter whose price holds for them; those without a price keep their own."""
    lines: dict[str, int] = {}
    for meter, quantity in quantities.items():
        priced = falls.get(meter, meter)
        lines[priced] = lines.get(priced, 0) + quantity
    return lines


def _falls(meters: Iterable[str], known: Mapping[str, Price]) -> dict[str, str]:
    return {meter: priced_as(meter, known) or meter for meter in meters}


def public_price(meter: str, prices: Mapping[str, Price]) -> Price | None:
    """The public price of a meter, its own or that of the meter it falls to."""
    priced = priced_as(meter, prices)
    return None if priced is None else prices[priced]


def with_provider_cost(rating: Rating, stated: Decimal, model: str = "") -> Rating:
    """The rating made to add up to the cost the provider itself stated, which wins.

    The difference is one more charge, none where there is no difference; where nothing could be computed that charge
    carries the whole cost. Its list cost is the same amount: nobody has stated another public price. `model` is the
    model it is booked under where there is no other charge to take it from.

    Raises:
        AmountInvalid: the stated cost is not an amount of money.
    """
    cost = money.usd(stated)
    difference = money.minus(cost, rating.cost_usd or money.ZERO)
    charges = rating.charges
    if difference or rating.cost_usd is None:
        booked = charges[0].model if charges else model
        charges = (
            *charges,
            Charge(PROVIDER_DIFFERENCE, 1, difference, difference, difference, booked, PROVIDER_CARD),
        )
    return Rating(charges, cost, None, rating.notes)


def bound(
    card: Card,
    *,
    input_tokens_max: int,
    output_tokens_max: int,
    choices: int = 1,
    quantities_max: Mapping[str, int] | None = None,
) -> Decimal | None:
    """The most a call can cost on this card: every token at the dearest price it could have, and its request's fee.

    Every input token costs the dearest of the input-side prices (input, cache writes, audio, image...) at the dearest
    step that so much input can reach; every output token of every choice likewise. `quantities_max` gives the most of
    other meters, by meter. None where the card prices something that is no token (characters, seconds, pages, images,
    search units, citations), every call of such a model uses it, and its most is not given. Fees of tools (searches,
    sessions) are in it only where they are given: how many there will be is not known beforehand. `PriceBook.dearest`
    gives the card for a call whose tier only the reply will tell. A bound that is no amount there can be is none.
    """
    given = quantities_max or {}
    # Usage with a larger count is refused as damage, so that a caller's absurd limit need not make an absurd bound.
    input_tokens = min(input_tokens_max, COUNT_MAX)
    output_tokens = min(output_tokens_max * choices, COUNT_MAX)
    flat = card.flat_bound
    if flat is not None and not given:
        # Most cards are flat: what follows says the same of them, at four times the price.
        per_input, per_output, fee = flat
        return _said((money.times(input_tokens, per_input), money.times(output_tokens, per_output), fee))
    if any(meter not in given for meter in card.sized):
        return None
    others = (
        money.times(min(quantity, COUNT_MAX), dearest_of([card.prices[meter]]).at(input_tokens_max))
        for meter, quantity in given.items()
        if meter in card.prices
    )
    return _said(
        (
            money.times(input_tokens, card.dearest_input.at(input_tokens_max)),
            money.times(output_tokens, card.dearest_output.at(input_tokens_max)),
            card.request_fee.at(input_tokens_max),
            *others,
        )
    )


def _said(parts: Iterable[Decimal]) -> Decimal | None:
    most = money.total(parts)
    return most if money.within(most) else None


def worst_input_tokens(
    body_bytes: int, open_ended: bool, context_window: int | None, *, steps_max: int | None = 1
) -> int | None:
    """The most input tokens a request can be billed for; None where nothing bounds them.

    A token stands for at least one byte of text, so the body's bytes bound its tokens, plus what the provider's
    template adds. A body that is `open_ended` (it refers to content it does not hold, or holds images, audio or
    documents, whose tokens do not follow from their bytes) is bounded by the context window only. `steps_max` is the
    number of sampling steps the provider may run in one call: each reads the whole context again, so server-side tools
    multiply the window; None where the number has no limit.
    """
    if steps_max is None:
        return None
    if open_ended or steps_max > 1:
        return context_window * steps_max if context_window is not None else None
    tokens = body_bytes + OVERHEAD_TOKENS_PER_REQUEST
    return tokens if context_window is None else min(tokens, context_window)


def worst_output_tokens(max_output_tokens: int | None, context_window: int | None) -> int | None:
    """The most output tokens of one choice: the caller's limit, else the context window; None where nothing is one."""
    return context_window if max_output_tokens is None else max_output_tokens
