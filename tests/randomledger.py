"""Random ledgers with everything that may stand in one: corrections, closed months, delegations, unknowns, imports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from costbearer import corrections, money
from costbearer.ledger import Entry, Field
from costbearer.usage import Usage
from tests.factories import charges_for, make_entry, make_unknown

JOURNAL = "20260901T000000-1a2b3c4d"
SINCE, UNTIL = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
NAMES = ("search", "support", "=cmd()", "(none)", "a,b", None, "")


def ledger(seed: int, calls: int = 60) -> list[Entry]:
    """So many calls of two months, and whatever was posted of them later."""
    chance = random.Random(seed)
    made: list[Entry] = []
    while len(made) < calls:
        entry = _call(chance, len(made) + 1)
        made.append(entry)
        if chance.random() < 0.15:
            made += _corrected(chance, entry, len(made) + 1)
    return made


def total(entries: Sequence[Entry]) -> Decimal:
    """The ledger's total: the sum of every known cost."""
    return money.total(entry.cost_usd for entry in entries if entry.cost_usd is not None)


def _call(chance: random.Random, number: int) -> Entry:
    labels = {name: chance.choice(NAMES) for name in ("owner", "team", "agent", "workload", "customer", "feature")}
    kind = "import" if chance.random() < 0.3 else "usage"
    if kind == "usage":
        labels |= {name: labels[name] or "x" for name in ("owner", "team", "agent", "workload")}
    started = SINCE + timedelta(seconds=chance.randrange(int((UNTIL - SINCE).total_seconds())))
    fields = {
        name: Field(value, chance.choice(("verified", "asserted", "inferred", "delegated")), "key")
        for name, value in labels.items()
        if value and chance.random() < 0.8
    }
    shape: dict[str, Any] = {
        **labels,
        "kind": kind,
        "key_team": chance.choice(("search", labels["team"])),
        "started_at": started,
        "attribution": fields,
        "trace_id": chance.choice((None, f"trace{chance.randrange(12)}")),
        "session_id": chance.choice((None, f"session{chance.randrange(5)}")),
        "user": chance.choice((None, f"user{chance.randrange(5)}")),
        "request_id": f"req{number}",
        "call_id": f"call{number}",
        "reason": chance.choice((None, None, "retry", "fallback")),
        "status": chance.choice(("ok", "ok", "ok", "error", "cancelled")),
        "tags": chance.choice(({}, {"shift": "1"}, {"shift": "=2"})),
    }
    shape["requests"] = 0 if shape["reason"] else 1
    if chance.random() < 0.12:
        bound = chance.choice((None, money.usd("0.05")))
        return make_unknown(JOURNAL, number, **shape | {"status": "unknown", "bound_usd": bound})
    usage = Usage(
        input_tokens=chance.randrange(1, 5000),
        output_tokens=chance.randrange(0, 900),
        cache_read_input_tokens=0,
        reasoning_output_tokens=0,
    )
    usage = msgspec.structs.replace(
        usage,
        cache_read_input_tokens=chance.randrange(0, (usage.input_tokens or 0) + 1),
        reasoning_output_tokens=chance.randrange(0, (usage.output_tokens or 0) + 1),
    )
    model = chance.choice(("gpt-4.1-mini", "gpt-4.1"))
    return make_entry(JOURNAL, number, usage=usage, response_model=model, **shape)


def _corrected(chance: random.Random, old: Entry, number: int) -> list[Entry]:
    """A difference, a new label, or a cost that became known; now and then of a month that is closed."""
    usage = Usage(input_tokens=chance.randrange(1, 500), output_tokens=chance.randrange(1, 90))
    charges = charges_for(usage)
    cost = money.total(charge.cost_usd for charge in charges)
    if old.cost_usd is not None and chance.random() < 0.5:
        extra = tuple(
            msgspec.structs.replace(
                charge,
                unit_price_usd=charge.unit_price_usd * 2,
                cost_usd=charge.cost_usd * 2,
                list_cost_usd=charge.list_cost_usd * 2,
            )
            for charge in old.charges
        )
        twice = money.total(charge.cost_usd for charge in extra)
        new = msgspec.structs.replace(
            old, charges=extra, cost_usd=twice, list_cost_usd=twice, computed_cost_usd=twice, effective_cost_usd=twice
        )
    else:
        new = msgspec.structs.replace(
            old,
            team=chance.choice(("moved", "search")),
            usage=usage,
            charges=charges,
            cost_usd=cost,
            list_cost_usd=cost,
            effective_cost_usd=cost,
            computed_cost_usd=cost,
            basis="metered",
            status="ok",
            reason_unknown=None,
        )
    at = max(
        old.started_at, min(old.started_at + timedelta(days=chance.randrange(1, 20)), UNTIL - timedelta(seconds=1))
    )
    made = corrections.restated(old, new, at=at, kind="correction", closed=chance.random() < 0.4)
    return [
        msgspec.structs.replace(entry, journal=JOURNAL, sequence=number + place) for place, entry in enumerate(made)
    ]
