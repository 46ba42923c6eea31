from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import money
from costbearer.corrections import REVERSED, net, restated, settled
from costbearer.errors import Conflict
from costbearer.ledger import AWAITING_RESULT, Charge, Entry, Kind, Settlement, faults
from costbearer.usage import COUNTS, Usage, leaves
from tests.factories import BORN, make_entry, make_unknown

JOURNAL = "20261122T193000-1a2b3c4d"
LATER = BORN + timedelta(days=40)
BUCKETS = ("owner", "team", "response_model", "request_model", "tier", "status", "basis", "reason_unknown", "call_id")

prices = st.integers(0, 10**9).map(lambda units: Decimal(units).scaleb(-12))
usages = st.builds(
    Usage,
    input_tokens=st.none() | st.integers(0, 10**6),
    output_tokens=st.none() | st.integers(0, 10**6),
    web_search_requests=st.none() | st.integers(0, 5),
)


@st.composite
def ratings(draw: st.DrawFn) -> dict[str, Any]:
    """What a rating says: known with charges that add up, or unknown with a reason and perhaps a bound."""
    usage = draw(usages)
    answered: dict[str, Any] = {
        "usage": usage,
        "response_model": draw(st.sampled_from(("gpt-a", "gpt-b", None))),
        "tier": draw(st.sampled_from(("default", "flex"))),
        "status": draw(st.sampled_from(("ok", "error"))),
    }
    if draw(st.booleans()):
        return answered | {
            "basis": "unknown",
            "reason_unknown": draw(st.sampled_from(("price_unknown", AWAITING_RESULT))),
            "bound_usd": draw(st.none() | prices),
            **dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd")),
            "charges": (),
        }
    return answered | known_at(usage, draw(prices), draw(st.sampled_from(("card-1", "card-2"))))


def known_at(usage: Usage, price: Decimal, card: str) -> dict[str, Any]:
    charges = tuple(
        Charge(
            meter=meter,
            quantity=quantity,
            unit_price_usd=price,
            list_cost_usd=money.times(quantity, price),
            cost_usd=money.times(quantity, price),
            model="gpt-a",
            card=card,
        )
        for meter, quantity in leaves(usage).items()
    )
    cost = money.total(charge.cost_usd for charge in charges)
    return {
        "basis": "metered",
        "reason_unknown": None,
        "charges": charges,
        **dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd"), cost),
    }


def rated(rating: dict[str, Any], sequence: int = 2) -> Entry:
    return msgspec.structs.replace(make_entry(JOURNAL, sequence), **rating)


def recorded(entries: Iterable[Entry], first: int = 1) -> list[Entry]:
    """With an identity each, as the books' own journal gives them one."""
    own = "20261122T200000-0000aaaa"
    return [
        msgspec.structs.replace(entry, journal=own, sequence=first + number) for number, entry in enumerate(entries)
    ]


def sums(entries: Iterable[Entry]) -> dict[str, Any]:
    """What a report adds up."""
    entries = list(entries)
    unknown = [entry for entry in entries if entry.cost_usd is None]
    found: dict[str, Any] = {
        "calls": sum(entry.calls for entry in entries),
        "requests": sum(entry.requests for entry in entries),
        "unknown_calls": sum(entry.calls for entry in unknown),
        "unbounded": sum(entry.calls for entry in unknown if entry.bound_usd is None),
        "bound_usd": money.total(entry.bound_usd for entry in unknown if entry.bound_usd is not None),
    }
    for name in COUNTS:
        found[name] = sum(getattr(entry.usage, name) or 0 for entry in entries)
    for name in ("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd", "provider_cost_usd"):
        amounts = [getattr(entry, name) for entry in entries]
        found[name] = money.total(amount for amount in amounts if amount is not None)
    quantities: dict[tuple[str, str, str, Decimal], int] = {}
    for entry in entries:
        for charge in entry.charges:
            line = (charge.meter, charge.model, charge.card, charge.unit_price_usd)
            quantities[line] = quantities.get(line, 0) + charge.quantity
    found["charges"] = {line: quantity for line, quantity in quantities.items() if quantity}
    return found


NOTHING = sums(())


def by_bucket(entries: Iterable[Entry], name: str) -> dict[Any, dict[str, Any]]:
    entries = list(entries)
    found = {
        value: sums(e for e in entries if getattr(e, name) == value) for value in {getattr(e, name) for e in entries}
    }
    return {value: part for value, part in found.items() if part != NOTHING}


@given(st.lists(ratings(), min_size=2, max_size=5), st.sampled_from(("correction", "restatement")))
@settings(max_examples=60, deadline=None)
def test_an_entry_and_its_corrections_add_up_to_the_right_entry(stages: list[dict[str, Any]], kind: Kind) -> None:
    """Over any number of corrections, each of what the ones before made of the entry, in every bucket."""
    posted = [rated(stages[0])]
    for stage in stages[1:]:
        old = net(posted)
        right = msgspec.structs.replace(old, **stage)
        made = recorded(restated(old, right, at=LATER, kind=kind), first=len(posted))
        assert [fault for entry in made for fault in faults(entry)] == []
        posted += made
        fresh = rated(stage)
        assert sums(posted) == sums([fresh])
        for name in BUCKETS:
            assert by_bucket(posted, name) == by_bucket([fresh], name), name


def test_a_cost_that_was_known_is_corrected_by_one_difference() -> None:
    old = make_entry(JOURNAL, 2)
    new = msgspec.structs.replace(old, **known_at(old.usage, Decimal("0.000002"), "card-2"), bound_usd=old.bound_usd)
    (entry,) = restated(old, new, at=LATER, kind="restatement")
    assert (entry.kind, entry.refers_to, entry.calls, entry.requests) == ("restatement", old.entry_id, 0, 0)
    assert (entry.usage, entry.started_at, entry.ended_at) == (Usage(), old.started_at, LATER)
    assert new.cost_usd is not None and old.cost_usd is not None
    assert entry.cost_usd == entry.computed_cost_usd == money.minus(new.cost_usd, old.cost_usd)
    assert {(charge.meter, charge.card): charge.quantity for charge in entry.charges} == {
        **{(charge.meter, charge.card): -charge.quantity for charge in old.charges},
        **{(charge.meter, charge.card): charge.quantity for charge in new.charges},
    }
    assert (entry.owner, entry.attribution, entry.tags, entry.call_id) == (
        old.owner,
        old.attribution,
        old.tags,
        old.call_id,
    )
    assert (entry.duration_ms, entry.first_byte_ms) == (None, None)


def test_a_line_that_stays_is_not_in_the_difference() -> None:
    old = make_entry(JOURNAL, 2)
    dearer = msgspec.structs.replace(
        old.charges[-1],
        unit_price_usd=money.usd("0.001"),
        cost_usd=money.times(old.charges[-1].quantity, money.usd("0.001")),
    )
    charges = (*old.charges[:-1], dearer)
    cost = money.total(charge.cost_usd for charge in charges)
    new = msgspec.structs.replace(old, charges=charges, cost_usd=cost, computed_cost_usd=cost)
    (entry,) = restated(old, new, at=LATER, kind="restatement")
    assert [charge.quantity for charge in entry.charges] == [-dearer.quantity, dearer.quantity]


def test_a_cost_that_was_unknown_is_corrected_by_a_pair() -> None:
    old = make_unknown(JOURNAL, 2, usage=Usage(input_tokens=5), reason_unknown="price_unknown")
    new = msgspec.structs.replace(old, **known_at(old.usage, Decimal("0.000002"), "card-2"), status="ok")
    back, right = restated(old, new, at=LATER, kind="restatement")
    assert (back.calls, back.requests, back.usage, back.notes) == (-1, -1, Usage(input_tokens=-5), (REVERSED,))
    assert (back.cost_usd, back.basis, back.reason_unknown) == (None, "unknown", "price_unknown")
    assert old.bound_usd is not None and back.bound_usd == -old.bound_usd
    assert (right.calls, right.usage, right.cost_usd, right.status) == (1, old.usage, new.cost_usd, "ok")
    assert back.refers_to == right.refers_to == old.entry_id


def test_nothing_is_posted_where_nothing_changes() -> None:
    old = make_entry(JOURNAL, 2)
    assert restated(old, old, at=LATER, kind="restatement") == ()
    noted = msgspec.structs.replace(old, notes=("looked at again",))
    assert restated(old, noted, at=LATER, kind="restatement") == ()


@pytest.mark.parametrize("known", [True, False])
def test_in_a_closed_month_corrections_start_when_they_are_posted(known: bool) -> None:
    old = make_entry(JOURNAL, 2) if known else make_unknown(JOURNAL, 2)
    new = msgspec.structs.replace(old, **known_at(old.usage, Decimal("0.000002"), "card-2"))
    for entry in restated(old, new, at=LATER, kind="restatement", closed=True):
        assert entry.started_at == entry.ended_at == LATER
        assert faults(entry) == []


def test_other_labels_move_the_whole_call() -> None:
    old = make_entry(JOURNAL, 2, team="search")
    back, right = restated(old, msgspec.structs.replace(old, team="ads"), at=LATER, kind="correction")
    assert (back.team, right.team) == ("search", "ads")
    assert by_bucket([old, back, right], "team") == {"ads": sums([old])}


def test_a_result_makes_the_entry_that_awaited_it_whole() -> None:
    old = make_unknown(JOURNAL, 2, reason_unknown=AWAITING_RESULT, provider_response_id="resp_1")
    known = known_at(Usage(input_tokens=9), Decimal("0.000002"), "card-2")
    del known["effective_cost_usd"]
    ended: datetime = BORN + timedelta(hours=3)
    result = Settlement(
        provider="openai",
        provider_response_id="resp_1",
        status="ok",
        response_model="gpt-a",
        usage=Usage(input_tokens=9),
        ended_at=ended,
        **known,
    )
    right = restated(old, settled(old, result), at=LATER, kind="correction")[1]
    assert (right.cost_usd, right.effective_cost_usd, right.usage) == (result.cost_usd,) * 2 + (result.usage,)
    assert (right.ended_at, right.status, right.response_model, right.request_model) == (
        ended,
        "ok",
        "gpt-a",
        old.request_model,
    )
    assert right.reason_unknown is None and faults(right) == []


def test_what_is_not_one_entry_has_no_net() -> None:
    one, other = make_entry(JOURNAL, 2), make_entry(JOURNAL, 4)
    with pytest.raises(Conflict, match="2 entries stand"):
        net([one, other])
    with pytest.raises(Conflict, match="0 entries stand"):
        net([])
