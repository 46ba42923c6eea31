"""Checks of what was charged: rated again by the archive of the day, and compared."""

from __future__ import annotations

from typing import Any

import ibis

from costbearer import money
from costbearer.audit import mispricing
from costbearer.audit.evidence import MONEY, Evidence
from costbearer.audit.finding import Check
from costbearer.audit.naming import NO_MODEL, UNKNOWN_MODEL

_NOT_PRICES = ("usage_missing", "time_missing", NO_MODEL, UNKNOWN_MODEL)


def _mispriced(code: str) -> Any:
    def find(evidence: Evidence) -> Any:
        rows = evidence.mispriced.filter(evidence.mispriced.code == code)
        return rows.select("row", subject=ibis.coalesce(rows.model, "(none)").concat(": ", rows.says), usd=rows.usd)

    return find


def _unknown_price(evidence: Evidence) -> Any:
    calls = evidence.calls
    known = calls.reason.isnull() | calls.reason.isin(_NOT_PRICES) | calls.reason.startswith("usage_invalid")
    found = calls.filter(~known & calls.tokens & calls.provider_cost_usd.isnull())
    name = ibis.coalesce(found.price_provider, found.provider, "?").concat("/", ibis.coalesce(found.model, "?"))
    return found.select("row", subject=name.concat(": ", found.reason), usd=found.spend_usd)


def _alias(evidence: Evidence) -> Any:
    """Names that are no model; and names of one's own that meant different models in the course of the log."""
    calls = evidence.calls
    nameless = calls.filter((calls.reason == UNKNOWN_MODEL) & calls.tokens)
    nameless = nameless.select(
        "row",
        subject=ibis.coalesce(nameless.response_model, nameless.request_model, "(none)").concat(
            ": not a billable model"
        ),
        usd=nameless.spend_usd,
    )
    differ = calls.filter(
        calls.request_model.notnull() & calls.response_model.notnull() & (calls.request_model != calls.response_model)
    )
    meant = differ.group_by("request_model").aggregate(least=differ.model.min(), most=differ.model.max())
    drifted = meant.filter(meant.least != meant.most)
    known = _known_names(evidence, drifted)
    drifted = drifted.filter(~drifted.request_model.isin(known)) if known else drifted
    met = differ.join(drifted, "request_model")
    drifted = met.select(
        "row",
        subject=met.request_model.concat(": means ", met.least, " and ", met.most),
        usd=met.spend_usd,
    )
    return nameless.union(drifted)


def _known_names(evidence: Evidence, names: Any) -> list[str]:
    """Those that a provider itself gives its models; which model they mean, the archive says by date."""
    values = [row["request_model"] for row in evidence.execute(names.select("request_model").distinct())]
    return [value for value in values if evidence.book.providers_of(value)]


def _discarded(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter(
        calls.provider_cost_usd.notnull()
        & calls.stated_usd.notnull()
        & ((calls.stated_usd - calls.provider_cost_usd).abs() > calls.tolerated)
    )
    usd = (found.stated_usd - found.provider_cost_usd).cast(MONEY)
    return found.select("row", subject=ibis.coalesce(found.provider, "(none)"), usd=usd)


def _currencies(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter(~calls.dollars & calls.cost_usd.notnull())
    return found.select("row", subject=found.currency, usd=ibis.coalesce(found.expected_usd, ibis.null(MONEY)))


_ZERO = money.ZERO
_ARCHIVE = "`costbearer prices show MODEL` shows what held when."

CHECKS: tuple[Check, ...] = (
    Check(
        mispricing.CACHED_FULL,
        "high",
        "certain",
        "difference",
        "Cached tokens at the full price",
        "Input that was read from a cache is charged like fresh input; providers charge a tenth to a half of it.",
        "Take cached tokens out of the input before it is priced, and give them their own price.",
        _mispriced(mispricing.CACHED_FULL),
    ),
    Check(
        mispricing.COUNTED_TWICE,
        "high",
        "certain",
        "difference",
        "Cached tokens counted twice",
        "They are charged as cached, and once more as part of the input that contains them (or is taken to).",
        "Know for each provider whether its input contains what was cached: OpenAI's does, Anthropic's does not.",
        _mispriced(mispricing.COUNTED_TWICE),
    ),
    Check(
        mispricing.LIFETIME,
        "high",
        "certain",
        "difference",
        "Cache writes at the price of another lifetime",
        "Writing for an hour costs twice the input, for five minutes a quarter more.",
        "Price `ephemeral_1h_input_tokens` and `ephemeral_5m_input_tokens` apart.",
        _mispriced(mispricing.LIFETIME),
    ),
    Check(
        mispricing.BATCH,
        "high",
        "certain",
        "difference",
        "Batch work at another price, or other work at the batch price",
        "Batch work costs half at most providers.",
        "Price on the tier that served the call.",
        _mispriced(mispricing.BATCH),
    ),
    Check(
        mispricing.TIER,
        "high",
        "certain",
        "difference",
        "The price of another service tier",
        "Flex costs half, priority about twice. What counts is the tier in the answer, not the one asked for.",
        "Price on the service tier of the answer.",
        _mispriced(mispricing.TIER),
    ),
    Check(
        mispricing.MISMATCH,
        "high",
        "likely",
        "difference",
        "The cost is not price times tokens",
        "Rated with the prices of its day the call costs something else: a stale price, a discount that the archive "
        "does not know, or another mistake, which is named where it is known.",
        f"Compare the price used with the archive. {_ARCHIVE}",
        _mispriced(mispricing.MISMATCH),
    ),
    Check(
        "provider_cost_discarded",
        "high",
        "certain",
        "difference",
        "The provider's own cost was thrown away",
        "The provider stated what it charges, and the log has another cost.",
        "Take the provider's cost where it states one, and keep the computed one beside it.",
        _discarded,
    ),
    Check(
        "model_alias",
        "medium",
        "likely",
        "spend",
        "Not a billable model",
        "A name of one's own, a family's name, or one that means different models over time, cannot be priced or "
        "compared with an invoice; it may also be newer than the price archive.",
        "Log the model that the provider's answer names.",
        _alias,
    ),
    Check(
        "unknown_price",
        "medium",
        "certain",
        "spend",
        "No price is known",
        "The archive has no price for this model as it was served, so the stated cost cannot be checked.",
        "Set the contract's price (`costbearer prices set`), or update the archive.",
        _unknown_price,
    ),
    Check(
        "currency_mixed",
        "medium",
        "certain",
        "spend",
        "Costs in another currency than dollars",
        "They are not added up with dollars: what the tokens cost by the archive stands in their place.",
        "Export costs in US dollars, or in one currency.",
        _currencies,
    ),
)
