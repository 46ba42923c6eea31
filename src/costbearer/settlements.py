"""From the result of stored work to the settlement of the entry that awaits it: rate, or say why it is unknown. Pure.

A background response or a batch is asked for in one call and answered in another: whoever reads the result, a caller's
own retrieval through the gateway or the console's poller, makes the same settlement of it, and the bookkeeper applies
the first.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from msgspec.structs import replace

from costbearer import money
from costbearer.contract import Contract
from costbearer.dialects.base import Reading
from costbearer.ledger import Settlement
from costbearer.prices import Context, PriceBook
from costbearer.rating import Rating, rate, with_provider_cost
from costbearer.usage import Usage, combined


def settlement(
    reading: Reading,
    *,
    provider: str,
    price_provider: str,
    book: PriceBook,
    contract: Contract | None = None,
    at: datetime,
) -> Settlement | None:
    """What a reply says of a job's cost; None where it speaks of no job, or of one that is not at its end.

    A job is rated at the prices of the moment in which it was asked for, as its provider states that moment, else `at`,
    which is also when it counts as ended. One whose complete reading states no work did none that is billed.
    """
    job = reading.job
    if job is None or job.state == "pending":
        return None
    failed = job.state == "failed"
    learned = Settlement(
        provider=provider,
        provider_response_id=job.id,
        status="error" if failed else "ok",
        error_code=reading.error_code,
        response_model=reading.response_model,
        tier=reading.tier,
        ended_at=at,
        notes=reading.notes,
        speed=reading.speed,
        variant=reading.variant,
        # Whatever one model did in many requests had no one size of input.
        work=reading.work,
    )
    if not reading.work and reading.complete:
        return _known(learned, Usage(), Rating((), money.ZERO), None, money.ZERO)
    usage = combined(part.usage for part in reading.work)
    if not reading.complete or not reading.work:
        return _unknown(learned, usage, "usage_absent")
    context = Context(reading.tier, reading.speed, reading.geo, reading.variant)
    rating = rate(price_provider, reading.work, context, job.created_at or at, book, contract)
    said, computed = reading.provider_cost_usd, rating.cost_usd
    if said is not None:
        rating = with_provider_cost(rating, said, model=reading.response_model or "")
    elif computed is None:
        return _unknown(learned, usage, rating.reason or "unrated")
    return _known(learned, usage, rating, said, computed)


def _known(
    learned: Settlement, usage: Usage, rating: Rating, said: Decimal | None, computed: Decimal | None
) -> Settlement:
    return replace(
        learned,
        usage=usage,
        charges=rating.charges,
        cost_usd=rating.cost_usd,
        list_cost_usd=money.total([charge.list_cost_usd for charge in rating.charges]),
        provider_cost_usd=said,
        computed_cost_usd=computed,
        basis="metered" if said is None else "provider_cost",
    )


def _unknown(learned: Settlement, usage: Usage, reason: str) -> Settlement:
    return replace(learned, usage=usage, basis="unknown", reason_unknown=reason)
