from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from costbearer import money
from costbearer.ledger import PROVIDER_DIFFERENCE, Charge, Entry, Settlement, faults
from costbearer.stores.rows import Posted, entries_from, table_of
from costbearer.stores.soundness import faults_of
from costbearer.usage import Usage
from tests.factories import BORN, make_entry, make_unknown

JOURNAL = "20261122T193000-1a2b3c4d"
SOUND = make_entry(JOURNAL, 2)
ONE = money.usd("0.000000000001")
CHEAP = msgspec.structs.replace(SOUND.charges[0], quantity=1)
STATED = Charge(
    meter=PROVIDER_DIFFERENCE,
    quantity=1,
    unit_price_usd=-ONE,
    list_cost_usd=-ONE,
    cost_usd=-ONE,
    model="gpt-4.1-mini",
    card="provider",
)
ABSURD = Decimal(6 * 10**25)
UNSOUND: dict[str, dict[str, Any]] = {
    "a label is missing": {"team": ""},
    "no charges": {"charges": ()},
    "a charge is missing": {"charges": SOUND.charges[1:]},
    "a cost that is no product": {"charges": (CHEAP,), "cost_usd": CHEAP.cost_usd, "computed_cost_usd": CHEAP.cost_usd},
    "not what was computed": {"computed_cost_usd": money.total((SOUND.cost_usd or ONE, ONE))},
    "computed is unknown": {"computed_cost_usd": None},
    "not what was stated": {"basis": "provider_cost", "provider_cost_usd": ONE},
    "known without a cost": {"cost_usd": None},
    "known with a reason": {"reason_unknown": "late"},
    "unknown with a cost": {"basis": "unknown", "reason_unknown": "late"},
    "unknown without a reason": {"basis": "unknown", "cost_usd": None, "charges": ()},
    "ended before": {"ended_at": BORN - timedelta(days=1)},
    "calls taken back": {"calls": -1},
    "requests taken back": {"requests": -1},
    "a correction of nothing": {"kind": "correction"},
    "an absurd cost": {"charges": SOUND.charges, "cost_usd": ABSURD, "computed_cost_usd": ABSURD},
    "an absurd charge": {"charges": (msgspec.structs.replace(SOUND.charges[0], unit_price_usd=ABSURD),)},
    "absurdly many calls": {"calls": 2**62},
    "absurdly many requests": {"requests": 10**9 + 1},
    "an absurd count": {"usage": Usage(input_tokens=10**12 + 1)},
    "an absurd duration": {"duration_ms": 2**62},
    "an absurd time": {"started_at": BORN.replace(year=9999), "ended_at": None},
    "a difference with counts": {"kind": "restatement", "refers_to": "a.1", "calls": 0},
    "a difference without a cost": {
        "kind": "restatement",
        "refers_to": "a.1",
        "calls": 0,
        "usage": Usage(),
        "charges": (),
        "basis": "unknown",
        "reason_unknown": "late",
        "cost_usd": None,
    },
}


@pytest.mark.parametrize("changes", UNSOUND.values(), ids=UNSOUND.keys())
def test_a_table_is_judged_as_its_entries_are(changes: dict[str, Any]) -> None:
    wrong = msgspec.structs.replace(make_entry(JOURNAL, 4), **changes) if "charges" not in changes else None
    wrong = wrong or msgspec.structs.replace(SOUND, sequence=4, **changes)
    assert faults(wrong)
    found = faults_of(table_of([Posted(2, SOUND), Posted(4, wrong), Posted(6, make_unknown(JOURNAL, 6))]))
    assert {entry_id for entry_id, _ in found} == {wrong.entry_id}


@pytest.mark.parametrize(
    "entry",
    [
        SOUND,
        make_unknown(JOURNAL, 2),
        make_entry(JOURNAL, 2, team=None, kind="import"),
        make_entry(
            JOURNAL,
            2,
            charges=(*SOUND.charges, STATED),
            basis="provider_cost",
            cost_usd=(SOUND.cost_usd or ONE) - ONE,
            provider_cost_usd=(SOUND.cost_usd or ONE) - ONE,
        ),
        make_unknown(JOURNAL, 2, usage=Usage(input_tokens=5), basis="metered", cost_usd=money.ZERO, reason_unknown=None,
                     computed_cost_usd=money.ZERO),
        make_entry(JOURNAL, 2, ended_at=None),
    ],
)  # fmt: skip
def test_sound_rows_have_no_faults(entry: Entry) -> None:
    assert faults(entry) == []
    assert faults_of(table_of([Posted(3, entry)])) == []


def test_charges_that_do_not_cover_the_usage_are_found() -> None:
    entry = msgspec.structs.replace(SOUND, usage=Usage(input_tokens=1))
    assert faults_of(table_of([Posted(3, entry)])) == [(SOUND.entry_id, "the charges do not cover the usage")]


def test_the_largest_amounts_are_judged_exactly() -> None:
    price = Decimal("0.999999999999")
    cost = money.times(10**12, price)
    charge = msgspec.structs.replace(SOUND.charges[0], quantity=10**12, unit_price_usd=price, cost_usd=cost)
    entry = msgspec.structs.replace(
        SOUND, charges=(charge,), cost_usd=cost, computed_cost_usd=cost, usage=Usage(input_tokens=10**12)
    )
    assert faults_of(table_of([Posted(3, entry)])) == []
    short = msgspec.structs.replace(charge, quantity=10**12 - 1)
    assert faults_of(table_of([Posted(3, msgspec.structs.replace(entry, charges=(short,)))])) != []


def test_nothing_is_wrong_with_nothing() -> None:
    assert faults_of(table_of([])) == []


def test_entries_are_read_back_as_they_were() -> None:
    result = Settlement(
        provider="openai", provider_response_id="r", status="ok", ended_at=BORN, reason_unknown="price_unknown"
    )
    entries = [
        SOUND,
        make_unknown(JOURNAL, 4, notes=("cut",), tags={}, attribution={}),
        make_entry(JOURNAL, 6, settlement=result),
    ]
    assert entries_from(table_of(Posted(entry.sequence, entry) for entry in entries)) == entries
