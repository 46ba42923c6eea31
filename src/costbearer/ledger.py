"""What is posted: the entry of one call, its charges, and what must hold of them.

An entry is a plain value. The worker makes it twice: as the *intent*, written before the call is sent, which says what
would be true if nothing more were ever learned (basis `unknown`, with a bound); and as the *outcome*, which repeats
the whole entry with what was learned. Whatever the ledger shows is the outcome, or, where a writer died, the intent.

An entry is never changed. What is learned later is posted as further entries that refer to it (`corrections` makes
them), in columns that add, so that sums over the old entry and them are what a right entry would have given at once:

- A *difference*, where a cost was known and only money changes: one entry with calls 0, requests 0 and no counts. Its
  charges take the old quantities back at their old unit prices and put the new ones in at theirs.
- A *reversal* and a *replacement*, where anything else changes, as where a cost was unknown. The reversal is the old
  entry with every column that adds negated, its counts and its bound too (an unknown cost stays NULL); all else is the
  old entry's, so that it nets to nothing in every bucket of every report. The replacement is the right entry, whole.

Both carry the old entry's ids and labels and start when its call did, so that reports show them where it happened; in a
month that is closed they start when they are posted. From then on corrections refer to the replacement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

from costbearer import money
from costbearer.limits import (
    AMOUNT_USD_MAX,
    CALLS_MAX,
    COUNT_MAX,
    MILLISECONDS_MAX,
    QUANTITY_MAX,
    TIME_MAX,
    TIME_MIN,
)
from costbearer.usage import COUNTS, Usage, Work

Kind = Literal["usage", "import", "correction", "restatement", "true_up", "amortisation"]
Status = Literal["ok", "error", "cancelled", "unknown"]
Basis = Literal["provider_cost", "metered", "estimated", "unknown"]
Provenance = Literal["verified", "asserted", "inferred", "delegated"]

LABELS: tuple[str, ...] = ("owner", "team", "agent", "workload")
"""The four labels no key exists without."""

HASHED: Mapping[str, str] = {"tenant": "tenant_before", "user": "user_before"}
"""Fields whose values name a person or a customer's customer, so that only a keyed hash of them is kept, and where the
entry has the hash under the key before."""

DESCRIPTIONS: tuple[str, ...] = (
    "project",
    "cost_center",
    "feature",
    "workflow",
    "customer",
    "tenant",
    "user",
    "session_id",
    "env",
)
"""Fields a caller may assert beside the key's labels; each is a column of its own."""

PROVENANCE_FIELDS: tuple[str, ...] = (*LABELS, *DESCRIPTIONS, "trace_id")
"""The fields of which it can be said who vouches for them. Where that is spelled as text, it has one character for
each, in this order: v(erified), a(sserted), i(nferred), d(elegated), or `-` for a field nobody stated; and behind them
`!` where somebody said otherwise of one of them, else `-`. What has a value and no attribution, as a trace, was
asserted."""

CONFLICT = '"conflict":[{'
"""What stands in an entry's attribution, as JSON without blanks, where somebody said otherwise. No value can look like
it: a quote inside one has a backslash before it."""

AWAITING_RESULT = "awaiting_result"
"""`reason_unknown` of a call whose result comes later (a background response, a batch job): `Settlement` closes it."""

RESULT_GONE = "result_gone"
"""`reason_unknown` of a call whose result the provider has deleted, as it said again and again."""

PROVIDER_DIFFERENCE = "provider_difference"
"""The meter of the charge that makes computed charges add up to the cost the provider itself stated."""


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Something said about a field that was not believed: kept as evidence, changing nothing."""

    value: str
    source: str


class Field(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One attributed field: its value, who vouches for it, where it was read, and who said otherwise."""

    value: str
    provenance: Provenance
    source: str
    conflict: tuple[Claim, ...] = ()


class Charge(msgspec.Struct, frozen=True, gc=False):
    """One priced quantity. `cost_usd` = quantity x unit price, exact; `card` names the rate card it came from.

    What a correction takes back has a negative quantity at the unit price it was charged at.

    `list_cost_usd` is the public price; `cost_usd` what is expected to be billed (the contract's price where there is
    one). `model` is the model that did this part of the work, which need not be the one that was asked for.
    """

    meter: str
    quantity: int
    unit_price_usd: Decimal
    list_cost_usd: Decimal
    cost_usd: Decimal
    model: str
    card: str


class Settlement(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """The result of an earlier call that was closed as `awaiting_result`, found by provider and response id.

    It comes with the entry of the call that read it, or from a poller. It is applied once, however often it is read.
    The fields mean what they mean in `Entry`; `ended_at` is when the provider finished the job.
    """

    provider: str
    provider_response_id: str
    status: Status
    error_code: str | None = None
    response_model: str | None = None
    tier: str | None = None
    usage: Usage = Usage()
    charges: tuple[Charge, ...] = ()
    cost_usd: Decimal | None = None
    list_cost_usd: Decimal | None = None
    provider_cost_usd: Decimal | None = None
    computed_cost_usd: Decimal | None = None
    basis: Basis = "unknown"
    reason_unknown: str | None = None
    ended_at: datetime
    notes: tuple[str, ...] = ()
    speed: str | None = None
    variant: str | None = None
    work: tuple[Work, ...] = ()


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One call, posted once. Its identity is (journal, sequence of its intent), for ever.

    `calls` and `requests` are signed columns that add: a request counts at its first attempt, a reversal counts -1.
    `price_provider`, `speed` and `variant` are what else the price depended on, stated where they are not the
    provider's own name and the ordinary ones; `work` keeps what each model did where that does not follow from the
    usage and the models: with them a call can be rated again. Money is None where it is not known, with
    `reason_unknown` as a machine code and `bound_usd` as the most it can be. `tenant_before` and `user_before` are the
    hashes of the same tenant and user under the key before the active one, stated while both are live: a link.
    """

    journal: str
    sequence: int
    kind: Kind = "usage"
    refers_to: str | None = None
    request_id: str
    call_id: str
    parent_id: str | None = None
    trace_id: str | None = None
    session_id: str | None = None
    attempt: int = 1
    reason: str | None = None
    calls: int = 1
    requests: int = 1
    started_at: datetime
    ended_at: datetime | None = None
    first_byte_ms: int | None = None
    duration_ms: int | None = None

    key_id: str | None = None
    owner: str | None = None
    team: str | None = None
    agent: str | None = None
    workload: str | None = None
    key_team: str | None = None
    project: str | None = None
    cost_center: str | None = None
    feature: str | None = None
    workflow: str | None = None
    customer: str | None = None
    tenant: str | None = None
    user: str | None = None
    env: str | None = None
    attribution: dict[str, Field] = {}
    tags: dict[str, str] = {}

    route: str | None = None
    provider: str
    provider_request_id: str | None = None
    provider_response_id: str | None = None
    cache_hit: bool = False
    request_model: str | None = None
    response_model: str | None = None
    operation: str = "chat"
    tier: str | None = None
    region: str | None = None
    stream: bool = False
    status: Status = "unknown"
    http_status: int | None = None
    error_code: str | None = None

    usage: Usage = Usage()
    charges: tuple[Charge, ...] = ()
    cost_usd: Decimal | None = None
    list_cost_usd: Decimal | None = None
    effective_cost_usd: Decimal | None = None
    provider_cost_usd: Decimal | None = None
    computed_cost_usd: Decimal | None = None
    basis: Basis = "unknown"
    bound_usd: Decimal | None = None
    reason_unknown: str | None = None
    notes: tuple[str, ...] = ()
    settlement: Settlement | None = None
    price_provider: str | None = None
    speed: str | None = None
    variant: str | None = None
    work: tuple[Work, ...] = ()
    tenant_before: str | None = None
    user_before: str | None = None

    @property
    def entry_id(self) -> str:
        return f"{self.journal}.{self.sequence}"


AMOUNTS: tuple[str, ...] = (
    "cost_usd",
    "list_cost_usd",
    "effective_cost_usd",
    "provider_cost_usd",
    "computed_cost_usd",
    "bound_usd",
)
"""The fields of an entry that are money."""

MOST: Mapping[str, int] = {
    **dict.fromkeys(AMOUNTS, AMOUNT_USD_MAX),
    **dict.fromkeys(("calls", "requests", "attempt"), CALLS_MAX),
    **dict.fromkeys(("first_byte_ms", "duration_ms"), MILLISECONDS_MAX),
    **dict.fromkeys(COUNTS, COUNT_MAX),
}
"""Field of an entry, or of its usage, -> the most it may be, up and down."""

CHARGE_MOST: Mapping[str, int] = {
    "quantity": QUANTITY_MAX,
    **dict.fromkeys(("unit_price_usd", "list_cost_usd", "cost_usd"), AMOUNT_USD_MAX),
}

BEYOND_LIMITS = "beyond_limits"
"""`reason_unknown` of an entry that stood in a journal with a value beyond its limit, and was posted without it."""

_BESIDE = ("bound_usd", "first_byte_ms", "duration_ms")
"""Fields on which no cost rests."""

CORRECTING: frozenset[Kind] = frozenset({"correction", "restatement"})
"""Kinds of entries that change what another one says."""

AMORTISATION: Kind = "amortisation"
"""The kind of entries that bring a part of a commitment's fee into the effective cost of a call, or of nobody."""

_NO_USAGE = Usage()
_COUNTS = frozenset(COUNTS)
_ABSURD = dict.fromkeys(
    ("started_at", "ended_at"), f"is no moment with a time zone between {TIME_MIN:%Y} and {TIME_MAX:%Y}"
)


def faults(entry: Entry) -> list[str]:
    """What does not hold of an entry, in words; an empty list for a sound one.

    Checked where entries are made (the worker's tests), where they are imported, and by `costbearer doctor`.
    """
    found: list[str] = []
    if entry.kind == "usage":
        found += [f"{label} is missing" for label in LABELS if not getattr(entry, label)]
    if entry.kind in CORRECTING:
        if not entry.refers_to:
            found.append(f"a {entry.kind} refers to no entry")
        if not entry.calls and (entry.usage != _NO_USAGE or entry.cost_usd is None):
            found.append("a difference carries counts, or no cost")
    elif entry.kind == AMORTISATION:
        if entry.calls or entry.requests or entry.usage != _NO_USAGE or entry.cost_usd != money.ZERO:
            found.append("an amortisation carries calls, counts or a cost")
    elif entry.calls < 0 or entry.requests < 0:
        found.append(f"an entry of kind {entry.kind} takes calls back")
    absurd = list(beyond(entry))
    found += [f"{name} {_ABSURD.get(name, 'is beyond its limit')}" for name in absurd]
    found += [
        f"{before} links to no {name}"
        for name, before in HASHED.items()
        if getattr(entry, before) is not None and not getattr(entry, name)
    ]
    # Amounts that are absurd, or times without a zone, cannot be compared.
    if not absurd:
        found += _money_faults(entry)
        if entry.ended_at is not None and entry.ended_at < entry.started_at:
            found.append("ended before it started")
    if entry.settlement is not None and not absurd:
        found += [f"its settlement: {fault}" for fault in _money_faults(entry.settlement)]
        if entry.settlement.reason_unknown == AWAITING_RESULT:
            found.append("its settlement: it awaits a result itself")
    return found


def _money_faults(entry: Entry | Settlement) -> list[str]:
    found: list[str] = []
    if entry.basis == "unknown":
        if entry.cost_usd is not None:
            found.append("an unknown cost carries an amount")
        if not entry.reason_unknown:
            found.append("an unknown cost states no reason")
    else:
        if entry.cost_usd is None:
            found.append(f"basis {entry.basis} without a cost")
        elif money.total(charge.cost_usd for charge in entry.charges) != entry.cost_usd:
            found.append("the charges do not add up to the cost")
        if entry.reason_unknown:
            found.append("a known cost states a reason for being unknown")
    if entry.basis == "provider_cost" and entry.cost_usd != entry.provider_cost_usd:
        found.append("the cost is not the one the provider stated")
    if entry.basis == "metered" and entry.cost_usd != entry.computed_cost_usd:
        found.append("the cost is not the one computed from the usage")
    found += [
        f"{charge.meter}: cost is not quantity x unit price"
        for charge in entry.charges
        if money.times(charge.quantity, charge.unit_price_usd) != charge.cost_usd
    ]
    return found


def beyond(entry: Entry | Settlement) -> Iterator[str]:
    """The fields that are beyond their limits: `duration_ms`, `charges`, `settlement`."""
    usage = entry.usage
    for name, most in MOST.items():
        value = getattr(usage, name) if name in _COUNTS else getattr(entry, name, None)
        if value is not None and _is_beyond(value, most):
            yield name
    for charge in entry.charges:
        if any(_is_beyond(getattr(charge, name), most) for name, most in CHARGE_MOST.items()):
            yield "charges"
            break
    for name in ("started_at", "ended_at"):
        moment = getattr(entry, name, None)
        if moment is not None and not _is_timely(moment):
            yield name
    settlement = getattr(entry, "settlement", None)
    if settlement is not None and next(beyond(settlement), None) is not None:
        yield "settlement"


def bounded(entry: Entry) -> Entry:
    """The entry as it is posted: what is beyond its limits is not known.

    The call itself counts, with its labels, as one. Where what its cost rests on is absurd, no amount of it is
    believed: its cost is unknown with `BEYOND_LIMITS` as the reason. A note names each field. A sound entry is given
    back as it is.
    """
    absurd = list(beyond(entry))
    if not absurd:
        return entry
    settlement = entry.settlement
    if settlement is not None and "settlement" in absurd:
        settlement = msgspec.structs.replace(settlement, **_without(settlement, list(beyond(settlement))))
    changes: dict[str, Any] = {name: None for name in absurd if name in _BESIDE}
    if any(name not in _BESIDE and name != "settlement" for name in absurd):
        changes |= _without(entry, absurd) | {"effective_cost_usd": None, "started_at": _timely(entry.started_at)}
        changes |= {name: _one(getattr(entry, name)) for name in ("calls", "requests", "attempt") if name in absurd}
    notes = (*entry.notes, *(f"{BEYOND_LIMITS}:{name}" for name in absurd))
    return msgspec.structs.replace(entry, **changes, settlement=settlement, notes=notes)


def _without(entry: Entry | Settlement, absurd: list[str]) -> dict[str, Any]:
    """The fields that entries and settlements share, without anything that rests on an absurd one."""
    ended = entry.ended_at
    if ended is not None:
        ended = max(_timely(ended), _timely(getattr(entry, "started_at", TIME_MIN)))
    return {
        "usage": msgspec.structs.replace(entry.usage, **{name: None for name in absurd if name in _COUNTS}),
        "work": (),
        "charges": (),
        **dict.fromkeys(("cost_usd", "list_cost_usd", "provider_cost_usd", "computed_cost_usd")),
        "basis": "unknown",
        "reason_unknown": BEYOND_LIMITS,
        "ended_at": ended,
    }


def _one(value: int) -> int:
    return 1 if value > 0 else -1


def _is_beyond(value: int | Decimal, most: int) -> bool:
    if isinstance(value, int):
        return not -most <= value <= most
    places = value.as_tuple().exponent
    return not isinstance(places, int) or places < -money.PLACES or value.copy_abs() > most


def _is_timely(moment: datetime) -> bool:
    return moment.tzinfo is not None and TIME_MIN <= moment <= TIME_MAX


def _timely(moment: datetime) -> datetime:
    """The moment, brought into the time there can be; one without a zone is UTC."""
    return min(max(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC), TIME_MIN), TIME_MAX)
