"""Sample values that tests of several parts share: sound entries with exact charges, and nothing random."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from costbearer import money
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.ledger import Charge, Entry, Field
from costbearer.usage import Usage, leaves

BORN = datetime(2026, 11, 22, 19, 30, tzinfo=UTC)
"""When the sample journals begin; entry number n starts n milliseconds later unless it is overridden."""

CARD = "sample/gpt-4.1-mini@2026-01-01#0000"
UNIT_PRICES = {
    "input": money.usd("0.0000004"),
    "cache_read_input": money.usd("0.0000001"),
    "cache_creation_input": money.usd("0.0000005"),
    "output": money.usd("0.0000016"),
    "reasoning_output": money.usd("0.0000016"),
}
"""US dollars per token, of the sample card."""


def charges_for(usage: Usage, *, model: str = "gpt-4.1-mini", card: str = CARD) -> tuple[Charge, ...]:
    """The charges of a usage at `UNIT_PRICES`, exact."""
    return tuple(
        Charge(
            meter=meter,
            quantity=quantity,
            unit_price_usd=UNIT_PRICES[meter],
            list_cost_usd=money.times(quantity, UNIT_PRICES[meter]),
            cost_usd=money.times(quantity, UNIT_PRICES[meter]),
            model=model,
            card=card,
        )
        for meter, quantity in leaves(usage).items()
    )


def make_intent(journal: str, sequence: int, **overrides: Any) -> Entry:
    """The entry as it is written before a call is sent: unknown, with a bound and without an end."""
    number = sequence
    values: dict[str, Any] = {
        "journal": journal,
        "sequence": sequence,
        "request_id": f"req-{journal[-4:]}-{number}",
        "call_id": f"call-{journal[-4:]}-{number}",
        "trace_id": f"{number:032x}",
        "started_at": BORN + timedelta(milliseconds=number),
        "key_id": f"key{number % 5}",
        "owner": f"owner{number % 3}@example.com",
        "team": ("payments", "search", "support")[number % 3],
        "agent": ("triage", "writer")[number % 2],
        "workload": ("batch", "interactive")[number % 2],
        "key_team": ("payments", "search", "support")[number % 3],
        "feature": ("summarizer", None)[number % 2],
        "attribution": {
            "team": Field(("payments", "search", "support")[number % 3], "verified", "key"),
            "feature": Field("summarizer", "asserted", "header:x-costbearer-tags"),
        },
        "tags": {"region": "eu", "shift": str(number % 4)},
        "route": "gpt-*",
        "provider": "openai",
        "request_model": "gpt-4.1-mini",
        "basis": "unknown",
        "bound_usd": money.usd("0.05"),
        "reason_unknown": "in_flight",
    }
    values.update(overrides)
    return Entry(**values)


def make_entry(journal: str, sequence: int, **overrides: Any) -> Entry:
    """The entry of a call that ended well: metered, its charges exact and adding up to its cost.

    `usage=` gives other counts (charges and cost follow them unless they are overridden too).
    """
    number = sequence
    usage: Usage = overrides.get("usage") or Usage(
        input_tokens=100 + number % 977,
        output_tokens=20 + number % 83,
        cache_read_input_tokens=number % 50,
        reasoning_output_tokens=number % 7,
    )
    model = overrides.get("response_model", "gpt-4.1-mini")
    charges = charges_for(usage, model=model)
    cost = money.total(charge.cost_usd for charge in charges)
    started = overrides.get("started_at", BORN + timedelta(milliseconds=number))
    values: dict[str, Any] = {
        "started_at": started,
        "ended_at": started + timedelta(milliseconds=250),
        "first_byte_ms": 80,
        "duration_ms": 250,
        "provider_request_id": f"up-{number}",
        "provider_response_id": f"chatcmpl-{number}",
        "response_model": model,
        "tier": "default",
        "status": "ok",
        "http_status": 200,
        "usage": usage,
        "charges": charges,
        "cost_usd": cost,
        "list_cost_usd": cost,
        "effective_cost_usd": cost,
        "computed_cost_usd": cost,
        "basis": "metered",
        "bound_usd": money.usd("0.05"),
        "reason_unknown": None,
    }
    values.update(overrides)
    return make_intent(journal, sequence, **values)


def make_unknown(journal: str, sequence: int, **overrides: Any) -> Entry:
    """The entry of a call whose cost is not known: NULL with a reason and a bound."""
    started = overrides.get("started_at", BORN + timedelta(milliseconds=sequence))
    values: dict[str, Any] = {
        "ended_at": started + timedelta(seconds=1),
        "status": "unknown",
        "reason_unknown": "writer_died",
    }
    values.update(overrides)
    return make_intent(journal, sequence, **values)


def record(writer: JournalWriter, entry: Entry | None = None, **overrides: Any) -> Entry:
    """Write one call into a journal, intent and outcome, and give back the entry that its outcome holds."""
    sequence = writer.append(Intent(make_intent(writer.id, writer.next_sequence)))
    outcome = entry or make_entry(writer.id, sequence, **overrides)
    writer.append(Outcome(outcome))
    return outcome
