"""The report of unknown costs: a worklist that shrinks as prices come, the same over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from costbearer import money, reports
from costbearer.errors import QueryInvalid, RemoteFailed
from costbearer.ledger import Entry
from tests.factories import make_entry, make_unknown
from tests.ledgers import reader_of

JOURNAL = "20261122T193000-aaaaaaaa"
EVER = [("since", "2000-01-01"), ("until", "2100-01-01")]


def asked(entries: list[Entry], *more: tuple[str, str]) -> Any:
    query = reports.question("unknown", [*EVER, *more], now=datetime.now(UTC))
    with reader_of(entries) as reader:
        return reports.answer(query, reader)


def unpriced(number: int, reason: str, **overrides: Any) -> Entry:
    return make_unknown(JOURNAL, number, reason_unknown=reason, status="ok", **overrides)


def test_what_is_unknown_is_listed_with_its_bound_and_its_remedy() -> None:
    table = asked(
        [
            make_entry(JOURNAL, 1),
            unpriced(2, "model_unpriced", request_model="new-model"),
            unpriced(3, "model_unpriced", request_model="new-model"),
            unpriced(4, "writer_died", bound_usd=None),
            unpriced(5, "meter_unpriced:audio_output", bound_usd=money.usd("7")),
        ]
    )
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [(row["reason_unknown"], row["calls"], row["bound_usd"], row["unbounded_calls"]) for row in rows] == [
        ("meter_unpriced:audio_output", 1, Decimal(7), 0),
        ("model_unpriced", 2, Decimal("0.1"), 0),
        ("writer_died", 1, Decimal(0), 1),
    ]
    assert "prices set --provider openai --model new-model" in rows[1]["remedy"]
    assert "invoice" in rows[2]["remedy"]
    assert (table.totals["calls"], table.totals["bound_usd"]) == (4, Decimal("7.1"))
    text = table.to_text()
    assert "4 calls whose cost is not known, without a bound" in text
    assert "reproduce: costbearer report unknown --since 2000-01-01T00:00:00Z" in text


def test_what_was_corrected_is_listed_no_more() -> None:
    first = unpriced(1, "model_unpriced")
    back = msgspec.structs.replace(
        first,
        sequence=2,
        kind="restatement",
        refers_to=first.entry_id,
        calls=-1,
        requests=-1,
        bound_usd=money.usd("-0.05"),
    )
    table = asked([first, back])
    assert (table.rows, table.empty) == ((), "none_unknown")
    assert "Every call of this period has a cost." in table.to_text()
    assert asked([]).empty == "no_entries"


def test_it_reads_back_from_json_as_it_was() -> None:
    table = asked([unpriced(1, "tier_unpriced"), unpriced(2, "awaiting_result")], ("where", "provider=openai"))
    again = reports.read(msgspec.json.decode(table.to_json()))
    assert again.to_json() == table.to_json()
    assert again.to_csv() == table.to_csv()
    with pytest.raises(RemoteFailed):
        reports.read({"report": "unknown"})


def test_what_it_does_not_take_is_named() -> None:
    with pytest.raises(QueryInvalid) as caught:
        reports.question("unknown", [("by", "team"), ("sort", "cost")], now=datetime.now(UTC))
    assert set(caught.value.fields) == {"by", "sort"}
