"""From what was learned of a call to its entry: rate, or estimate, or say that it is unknown. Pure.

Every function takes the intent's entry and gives the outcome's. The rules, in the order in which they are tried:

=====================================  ==============  =====================================================
what happened                          basis           cost
=====================================  ==============  =====================================================
no byte was sent                       metered         0
the provider refused (not 2xx)         metered         0: providers do not bill refused requests
somebody in front of it did            unknown         bound of the intent (408, 502, 504 without the provider's id)
a free operation (count_tokens)        metered         0
work that goes on after the reply      unknown         bound of the intent, until a settlement says it
the provider stated the cost           provider_cost   as stated; ours beside it
the provider stated the usage          metered         rated by the card of that day
usage stated, but no card for it       unknown         bound of the intent
a stream that was cut, or no usage     estimated       what was stated, and bytes / `BYTES_PER_TOKEN` for the rest
nothing can be said                    unknown         bound of the intent
the outcome fits into no frame         unknown         bound of the intent
=====================================  ==============  =====================================================
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from costbearer import money
from costbearer.contract import Prices
from costbearer.dialects.base import CallRequest, Reading
from costbearer.ledger import AWAITING_RESULT, Entry, Status
from costbearer.prices import Context
from costbearer.rating import Rating, rate, with_provider_cost
from costbearer.settlements import settlement
from costbearer.usage import Usage, Work, combined, estimated_tokens

UNWRITABLE = "outcome_unwritable"
"""`reason_unknown` of a call whose reply said more than an entry can hold, or something that cannot be written."""


class Ending(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a call ended, as the gateway saw it."""

    status: Status
    ended_at: datetime
    duration_ms: int
    first_byte_ms: int | None = None
    http_status: int | None = None
    error_code: str | None = None
    provider_request_id: str | None = None
    reason: str | None = None


def not_billed(intent: Entry, ending: Ending, *, notes: tuple[str, ...] = ()) -> Entry:
    """The outcome of a call that cost nothing: not sent, refused by the provider, or free by its rules."""
    return _close(
        intent,
        ending,
        cost_usd=money.ZERO,
        list_cost_usd=money.ZERO,
        effective_cost_usd=money.ZERO,
        computed_cost_usd=money.ZERO,
        basis="metered",
        notes=intent.notes + notes,
    )


def unknown(intent: Entry, ending: Ending, reason: str, *, notes: tuple[str, ...] = (), **learned: Any) -> Entry:
    """The outcome of a call whose cost cannot be said; the intent's bound stands."""
    return _close(intent, ending, basis="unknown", reason_unknown=reason, notes=intent.notes + notes, **learned)


def unwritable(intent: Entry, refused: Entry) -> Entry:
    """The outcome in the stead of one that no journal takes: how the call ended, and nothing that its reply said, since
    that is what makes an outcome too large. The intent's bound stands."""
    return msgspec.structs.replace(
        intent,
        status=refused.status,
        ended_at=refused.ended_at,
        duration_ms=refused.duration_ms,
        first_byte_ms=refused.first_byte_ms,
        http_status=refused.http_status,
        basis="unknown",
        reason_unknown=UNWRITABLE,
    )


def stated(intent: Entry, ending: Ending, cost: Decimal, model: str) -> Entry:
    """The outcome of a call of which nothing is known but the cost its provider states."""
    rating = with_provider_cost(Rating((), None), cost, model=model)
    return _close(
        intent,
        ending,
        charges=rating.charges,
        cost_usd=cost,
        list_cost_usd=money.total(charge.list_cost_usd for charge in rating.charges),
        effective_cost_usd=cost,
        provider_cost_usd=cost,
        basis="provider_cost",
        notes=intent.notes,
    )


def read(
    intent: Entry,
    ending: Ending,
    reading: Reading,
    request: CallRequest,
    prices: Prices,
    *,
    price_provider: str,
    header_cost: Decimal | None = None,
) -> Entry:
    """The outcome of a call with a reply of status 2xx, whole or cut."""
    if reading.error_code is not None and ending.error_code is None:
        ending = msgspec.structs.replace(ending, status="error", error_code=reading.error_code)
    if request.free:
        return _free(intent, ending, reading, prices, price_provider)
    if reading.job is not None and reading.job.state == "pending":
        return unknown(
            intent,
            ending,
            AWAITING_RESULT,
            notes=reading.notes,
            provider_response_id=reading.job.id,
            response_model=reading.response_model,
            tier=reading.tier or intent.tier,
            region=reading.geo or intent.region,
        )

    said = header_cost if header_cost is not None else reading.provider_cost_usd
    work, basis, notes = reading.work, "metered", reading.notes
    if not reading.complete:
        if said is None and not _readable(reading):
            reason = "reply_unreadable" if "body_not_json" in reading.notes else "usage_absent"
            return _unpriced(intent, ending, reading, reason, notes, intent.usage)
        work, basis, notes = _estimate(reading, request), "estimated", (*notes, "estimated_from_bytes")

    usage = _usage(work)
    context = Context(reading.tier, reading.speed, reading.geo, reading.variant)
    rating = rate(price_provider, work, context, intent.started_at, prices.book, prices.contract)
    computed = rating.cost_usd
    if said is not None:
        rating, basis = with_provider_cost(rating, said, model=reading.response_model or request.model), "provider_cost"
    elif computed is None:
        return _unpriced(intent, ending, reading, rating.reason or "unrated", notes, usage, work)
    # In one step and with every name written out: this is the entry of every call that went well.
    return msgspec.structs.replace(
        intent,
        status=ending.status,
        ended_at=ending.ended_at,
        duration_ms=ending.duration_ms,
        first_byte_ms=ending.first_byte_ms,
        http_status=ending.http_status,
        error_code=ending.error_code,
        provider_request_id=ending.provider_request_id or reading.response_id,
        provider_response_id=reading.response_id,
        response_model=reading.response_model,
        tier=reading.tier or intent.tier,
        region=reading.geo or intent.region,
        usage=usage,
        work=_kept(work, usage, reading.response_model or intent.request_model),
        speed=reading.speed,
        variant=reading.variant,
        charges=rating.charges,
        cost_usd=rating.cost_usd,
        # Without a contract every charge is at its public price.
        list_cost_usd=rating.cost_usd if prices.contract is None else _listed(rating),
        effective_cost_usd=rating.cost_usd,
        computed_cost_usd=computed,
        provider_cost_usd=said,
        basis=basis,
        reason_unknown=None,
        notes=intent.notes + notes,
    )


def _listed(rating: Rating) -> Decimal:
    return money.total([charge.list_cost_usd for charge in rating.charges])


def _free(intent: Entry, ending: Ending, reading: Reading, prices: Prices, price_provider: str) -> Entry:
    """The outcome of a free request. What its reply says was used was used by the work it speaks of, not by the request
    itself: it counts there, and where that work awaits its result, this is it."""
    entry = not_billed(intent, ending, notes=reading.notes)
    result = settlement(
        reading,
        provider=intent.provider,
        price_provider=price_provider,
        book=prices.book,
        contract=prices.contract,
        at=ending.ended_at,
    )
    return msgspec.structs.replace(
        entry,
        response_model=reading.response_model,
        provider_response_id=reading.response_id,
        settlement=result,
    )


def _usage(work: tuple[Work, ...]) -> Usage:
    """What all models of the call used together."""
    return work[0].usage if len(work) == 1 else combined(part.usage for part in work)


def _readable(reading: Reading) -> bool:
    """Was anything seen from which an estimate can be made?"""
    return bool(reading.generated_bytes or reading.work or reading.response_id)


def _estimate(reading: Reading, request: CallRequest) -> tuple[Work, ...]:
    """What was stated, and for what was not: bytes of the request and of the generated text over the documented ratio.

    A stated output count of a cut reply is a count so far: the larger of it and the estimate holds.
    """
    model = reading.response_model or request.model
    output = estimated_tokens(reading.generated_bytes)
    if not reading.work:
        return (Work(model=model, usage=Usage(input_tokens=estimated_tokens(len(request.body)), output_tokens=output)),)
    first, *others = reading.work
    counts = first.usage
    if counts.input_tokens is None and counts.output_tokens is None:
        # Seconds, characters or images: what was asked for is known, and tokens are not what it is billed by.
        return reading.work
    if counts.input_tokens is None:
        counts = msgspec.structs.replace(counts, input_tokens=estimated_tokens(len(request.body)))
    counts = msgspec.structs.replace(counts, output_tokens=max(output, counts.output_tokens or 0))
    return (msgspec.structs.replace(first, usage=counts), *others)


def _kept(work: tuple[Work, ...], usage: Usage, model: str | None) -> tuple[Work, ...]:
    """What an entry must keep of the work beside its counts and models: nothing, where one model did all of it."""
    first = work[0]
    if len(work) == 1 and first.largest_input_tokens == usage.input_tokens and first.model == model:
        return ()
    return work


def _unpriced(
    intent: Entry,
    ending: Ending,
    reading: Reading,
    reason: str,
    notes: tuple[str, ...],
    usage: Usage,
    work: tuple[Work, ...] = (),
) -> Entry:
    """The outcome of a reply whose cost cannot be said, with all that the reply did say."""
    return unknown(
        intent,
        ending,
        reason,
        notes=notes,
        usage=usage,
        work=_kept(work, usage, reading.response_model or intent.request_model) if work else (),
        speed=reading.speed,
        variant=reading.variant,
        response_model=reading.response_model,
        provider_response_id=reading.response_id,
        tier=reading.tier or intent.tier,
        region=reading.geo or intent.region,
    )


def _close(intent: Entry, ending: Ending, **learned: Any) -> Entry:
    return msgspec.structs.replace(
        intent,
        status=ending.status,
        ended_at=ending.ended_at,
        duration_ms=ending.duration_ms,
        first_byte_ms=ending.first_byte_ms,
        http_status=ending.http_status,
        error_code=ending.error_code,
        provider_request_id=ending.provider_request_id,
        **{"reason_unknown": None, **learned},
    )
