"""Entries that correct other entries: differences, and pairs of a reversal and a replacement. Pure.

What holds of them (`ledger` says why): an entry and its corrections add up, in every column that adds and in every
bucket of a report, to what the right entry would have been alone. A correction of something that was corrected before
is made from `net`, which is that right entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from costbearer import money
from costbearer.errors import Conflict
from costbearer.ledger import AMORTISATION, Charge, Entry, Kind, Settlement
from costbearer.usage import COUNTS, Usage

_MONEY = ("cost_usd", "list_cost_usd", "effective_cost_usd", "provider_cost_usd", "computed_cost_usd")
_OWN = ("journal", "sequence", "kind", "refers_to", "notes", "settlement")
"""Fields in which a right entry may differ from the old one without that being a change."""
Closed = Callable[[datetime], bool]
"""Whether the month of a moment is closed."""
REVERSED = "reversed"
"""The note on a reversal."""
REPEATED = "job_repeated"
"""The note on a call that asked for work which another call had asked for and bears, and cost nothing itself."""


def never(_: datetime) -> bool:
    """No month is closed."""
    return False


def restated(old: Entry, new: Entry, *, at: datetime, kind: Kind, closed: bool = False) -> tuple[Entry, ...]:
    """What is to be posted so that `old` counts as `new`: nothing, a difference, or a reversal and a replacement.

    Args:
        old: the entry as it counts now; where it was corrected before, the `net` of it and its corrections.
        new: what the entry should have said, made with `msgspec.structs.replace(old, ...)`; identity, kind and
            reference are not looked at.
        at: when it is posted.
        kind: `correction` or `restatement`.
        closed: whether the month of the old call is closed; then the new entries start `at`.
    """
    if _same(old, new):
        return ()
    started = at if closed else old.started_at
    common = {
        "kind": kind,
        "refers_to": old.entry_id,
        "started_at": started,
        "ended_at": max(at, started),
        # Times were measured once; a second row with them would weigh twice in an average.
        "first_byte_ms": None,
        "duration_ms": None,
        "settlement": None,
    }
    if old.cost_usd is not None and new.cost_usd is not None and _same(_with_money_of(old, new), new):
        return (msgspec.structs.replace(_difference(old, new), **common),)
    ended = new.ended_at if not closed and new.ended_at is not None else max(at, started)
    return (
        msgspec.structs.replace(_negated(old), **common),
        msgspec.structs.replace(new, **(common | {"ended_at": max(ended, started)})),
    )


def settled(old: Entry, settlement: Settlement) -> Entry:
    """What an entry that awaited its result should have said, now that the result is known."""
    return msgspec.structs.replace(
        old,
        status=settlement.status,
        error_code=settlement.error_code,
        response_model=settlement.response_model or old.response_model,
        tier=settlement.tier or old.tier,
        usage=settlement.usage,
        speed=settlement.speed,
        variant=settlement.variant,
        work=settlement.work,
        charges=settlement.charges,
        cost_usd=settlement.cost_usd,
        list_cost_usd=settlement.list_cost_usd,
        effective_cost_usd=settlement.cost_usd,
        provider_cost_usd=settlement.provider_cost_usd,
        computed_cost_usd=settlement.computed_cost_usd,
        basis=settlement.basis,
        reason_unknown=settlement.reason_unknown,
        ended_at=max(settlement.ended_at, old.started_at),
        notes=(*old.notes, *settlement.notes),
    )


def repeated(old: Entry) -> Entry:
    """What an entry that awaited its result should have said, where another call of the same work bears the cost."""
    return msgspec.structs.replace(
        old,
        usage=Usage(),
        work=(),
        charges=(),
        cost_usd=money.ZERO,
        list_cost_usd=money.ZERO,
        effective_cost_usd=money.ZERO,
        provider_cost_usd=None,
        computed_cost_usd=money.ZERO,
        basis="metered",
        reason_unknown=None,
        notes=(*old.notes, REPEATED),
    )


def net(entries: Iterable[Entry]) -> Entry:
    """What an entry and all its corrections, in the order in which they were posted, say together.

    Its identity is the one that the next correction refers to: the last replacement's, or the first entry's.

    Raises:
        Conflict: they are not one entry and its corrections.
    """
    found = list(entries)
    reversed_ids = {entry.refers_to for entry in found if entry.refers_to and entry.calls < 0}
    standing = [entry for entry in found if entry.calls > 0 and entry.entry_id not in reversed_ids]
    if len(standing) != 1:
        raise Conflict(f"{len(standing)} entries stand where one and its corrections were expected")
    whole = standing[0]
    for entry in found:
        if entry.calls == 0 and entry.refers_to == whole.entry_id:
            whole = msgspec.structs.replace(
                whole,
                charges=_merged((*whole.charges, *entry.charges)),
                # A share of a fee says nothing of the call itself.
                notes=whole.notes if entry.kind == AMORTISATION else entry.notes,
                **{name: _sum(getattr(whole, name), getattr(entry, name)) for name in _MONEY},
            )
    return whole


def _same(left: Entry, right: Entry) -> bool:
    aside = {name: getattr(left, name) for name in _OWN}
    return msgspec.structs.replace(right, **aside) == left


def _with_money_of(old: Entry, new: Entry) -> Entry:
    taken = {name: getattr(new, name) for name in (*_MONEY, "bound_usd", "charges")}
    return msgspec.structs.replace(old, **taken)


def _difference(old: Entry, new: Entry) -> Entry:
    back = tuple(_taken_back(charge) for charge in old.charges)
    return msgspec.structs.replace(
        old,
        calls=0,
        requests=0,
        usage=Usage(),
        charges=_merged((*back, *new.charges)),
        bound_usd=None,
        notes=new.notes,
        **{name: _sum(getattr(new, name), _minus(getattr(old, name))) for name in _MONEY},
    )


def _negated(old: Entry) -> Entry:
    counts = {name: getattr(old.usage, name) for name in COUNTS}
    return msgspec.structs.replace(
        old,
        calls=-old.calls,
        requests=-old.requests,
        usage=Usage(**{name: None if count is None else -count for name, count in counts.items()}),
        charges=tuple(_taken_back(charge) for charge in old.charges),
        bound_usd=_minus(old.bound_usd),
        notes=(REVERSED,),
        **{name: _minus(getattr(old, name)) for name in _MONEY},
    )


def _taken_back(charge: Charge) -> Charge:
    return msgspec.structs.replace(
        charge,
        quantity=-charge.quantity,
        list_cost_usd=money.minus(money.ZERO, charge.list_cost_usd),
        cost_usd=money.minus(money.ZERO, charge.cost_usd),
    )


def _merged(charges: Sequence[Charge]) -> tuple[Charge, ...]:
    """One charge per meter, model, unit price and card; what adds up to nothing is left out."""
    lines: dict[tuple[str, str, Decimal, str], Charge] = {}
    for charge in charges:
        key = (charge.meter, charge.model, charge.unit_price_usd, charge.card)
        line = lines.get(key)
        lines[key] = (
            charge
            if line is None
            else msgspec.structs.replace(
                line,
                quantity=line.quantity + charge.quantity,
                list_cost_usd=money.total((line.list_cost_usd, charge.list_cost_usd)),
                cost_usd=money.total((line.cost_usd, charge.cost_usd)),
            )
        )
    return tuple(line for line in lines.values() if line.quantity or line.list_cost_usd or line.cost_usd)


def _sum(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    stated = [amount for amount in (left, right) if amount is not None]
    return money.total(stated) if stated else None


def _minus(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else money.minus(money.ZERO, amount)
