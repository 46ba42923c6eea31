from __future__ import annotations

from datetime import UTC
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.frames import FrameAt, Intent, Outcome, OutcomeRow, encode, heads, read_frames, rows
from costbearer.ledger import Claim, Entry, Field, Settlement
from costbearer.stores.bounds import within_limits
from costbearer.stores.ledger_schema import SEALED_ARROW
from costbearer.stores.rows import Posted, Rows, entries_from, table_of
from costbearer.usage import Usage
from tests.factories import BORN, charges_for, make_entry, make_intent, make_unknown

JOURNAL = "20261122T193000-1a2b3c4d"

text = st.text(max_size=12)
amounts = st.none() | st.decimals(-(10**9), 10**9, places=12, allow_nan=False)
times = st.datetimes(timezones=st.just(UTC))
usages = st.builds(Usage, input_tokens=st.none() | st.integers(0, 10**9), output_tokens=st.none() | st.integers(0, 9))
fields = st.builds(
    Field, text, st.just("asserted"), text, st.lists(st.builds(Claim, text, text), max_size=2).map(tuple)
)
settlements = st.builds(
    Settlement, provider=text, provider_response_id=text, status=st.just("ok"), cost_usd=amounts, ended_at=times
)
entries = st.builds(
    Entry,
    journal=st.just(JOURNAL),
    sequence=st.integers(1, 2**62),
    request_id=text,
    call_id=text,
    started_at=times,
    ended_at=st.none() | times,
    owner=st.none() | text,
    attribution=st.dictionaries(text, fields, max_size=2),
    tags=st.dictionaries(text, text, max_size=3),
    provider=text,
    stream=st.booleans(),
    usage=usages,
    charges=usages.map(charges_for),
    cost_usd=amounts,
    bound_usd=amounts,
    notes=st.lists(text, max_size=2).map(tuple),
    settlement=st.none() | settlements,
)


def framed(batch: list[Entry]) -> bytes:
    buffer, data = bytearray(), bytearray()
    for number, entry in enumerate(batch, start=1):
        encode(Outcome(entry), number, buffer)
        data += buffer
    return bytes(data)


@given(st.lists(entries, max_size=5))
@settings(max_examples=60, deadline=None)
def test_columns_made_of_frames_are_those_made_of_entries(batch: list[Entry]) -> None:
    collected = Rows()
    for item in read_frames(framed(batch), decode=rows):
        assert isinstance(item, FrameAt) and isinstance(item.frame, OutcomeRow)
        collected.add(item.sequence, item.frame.entry)
    expected = table_of(Posted(number, entry) for number, entry in enumerate(batch, start=1))
    assert collected.table().equals(expected)
    assert len(collected) == len(batch)
    assert entries_from(expected) == batch


def test_of_heads_only_the_call_is_read() -> None:
    buffer = bytearray()
    for frame in (Intent(make_intent(JOURNAL, 4)), Outcome(make_entry(JOURNAL, 4))):
        encode(frame, 4, buffer)
        (item,) = read_frames(bytes(buffer), decode=heads)
        assert isinstance(item, FrameAt)
        assert msgspec.to_builtins(item.frame) == {
            "type": "intent" if isinstance(frame, Intent) else "outcome",
            "entry": {"journal": JOURNAL, "sequence": 4, "started_at": "2026-11-22T19:30:00.004000Z"},
        }


@pytest.mark.parametrize("amount", ["0.0000000000001", "12 dollars", "NaN"])
def test_an_amount_that_would_lose_a_digit_is_beyond_every_limit(amount: str) -> None:
    buffer = bytearray()
    encode(Outcome(make_unknown(JOURNAL, 2)), 3, buffer)
    (item,) = read_frames(bytes(buffer), decode=rows)
    assert isinstance(item, FrameAt) and isinstance(item.frame, OutcomeRow)
    collected = Rows()
    for closed, bound in ((1, "0.5"), (2, "0.25"), (3, amount)):
        collected.add(closed, msgspec.structs.replace(item.frame.entry, bound_usd=bound))
    table, (beyond,) = within_limits(collected.table())
    assert table.column("bound_usd").to_pylist() == [Decimal("0.5"), Decimal("0.25"), None]
    assert (beyond.closed_sequence, beyond.fields) == (3, ("bound_usd",))


def test_no_rows_have_the_same_columns() -> None:
    assert Rows().table().schema.equals(SEALED_ARROW) and table_of([]).num_rows == 0
    assert make_entry(JOURNAL, 2).started_at > BORN
