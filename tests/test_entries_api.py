from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from costbearer import money
from costbearer.console.api_entries import entries_router
from costbearer.console.security import error_document
from costbearer.errors import CostbearerError, QueryInvalid
from costbearer.ledger import Claim, Entry, Field
from costbearer.reports.entries import LIMIT_MAX, Cursor, EntriesQuery
from costbearer.stores.duckdb import Ledger
from costbearer.stores.rows import Posted
from costbearer.usage import Usage
from tests.factories import BORN, make_entry, make_unknown

JOURNAL, OTHER = "20261122T193000-1a2b3c4d", "20261122T193001-00000000"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FIELDS = [
    "entry_id",
    "journal",
    "sequence",
    "kind",
    "refers_to",
    "request_id",
    "call_id",
    "parent_id",
    "trace_id",
    "session_id",
    "attempt",
    "reason",
    "started_at",
    "ended_at",
    "first_byte_ms",
    "duration_ms",
    "key_id",
    "owner",
    "team",
    "agent",
    "workload",
    "key_team",
    "feature",
    "workflow",
    "customer",
    "user",
    "env",
    "project",
    "cost_center",
    "attribution",
    "tags",
    "provider",
    "provider_request_id",
    "provider_response_id",
    "cache_hit",
    "request_model",
    "response_model",
    "operation",
    "tier",
    "region",
    "stream",
    "status",
    "http_status",
    "usage",
    "charges",
    "cost_usd",
    "list_cost_usd",
    "effective_cost_usd",
    "provider_cost_usd",
    "computed_cost_usd",
    "basis",
    "bound_usd",
    "reason_unknown",
]
"""INTERFACE.md, "An entry"."""

SAME_MOMENT = BORN + timedelta(seconds=5)
ENTRIES: list[Entry] = [
    make_entry(
        JOURNAL,
        1,
        user="u-1",
        customer="acme",
        tags={"shift": "late", "zone": "eu"},
        attribution={"team": Field("search", "verified", "key", (Claim("ads", "header:baggage"),))},
        usage=Usage(input_tokens=10, output_tokens=0),
    ),
    make_unknown(JOURNAL, 3, feature=None),
    *(make_entry(journal, number, started_at=SAME_MOMENT) for journal in (OTHER, JOURNAL) for number in (7, 5)),
    *(make_entry(JOURNAL, number, started_at=BORN + timedelta(days=1, seconds=number)) for number in range(9, 20)),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, CostbearerError)
        return JSONResponse(error_document(error), status_code=error.http_status)

    ledger = Ledger.open(Path(tmp_path_factory.mktemp("entries")) / "ledger.duckdb", readers=1)
    ledger.post([Posted(entry.sequence, entry) for entry in ENTRIES], [])
    app = FastAPI()
    app.include_router(entries_router(ledger.reader, lambda: NOW))
    app.add_exception_handler(CostbearerError, told)
    with TestClient(app) as client:
        yield client
    ledger.close()


def get(client: TestClient, *pairs: tuple[str, str]) -> dict[str, Any]:
    answer = client.get("/api/v1/entries", params=list(pairs))
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def expected_order() -> list[str]:
    return [
        entry.entry_id for entry in sorted(ENTRIES, key=lambda each: (each.started_at, each.journal, each.sequence))
    ]


def test_an_entry_has_the_fields_of_the_interface(client: TestClient) -> None:
    entry, unknown, *_ = get(client)["entries"]
    assert set(FIELDS) <= set(entry)
    source = ENTRIES[0]
    assert entry["entry_id"] == source.entry_id == f"{JOURNAL}.1"
    assert (entry["user"], entry["customer"], entry["tags"]) == ("u-1", "acme", {"shift": "late", "zone": "eu"})
    assert entry["attribution"]["team"] == {
        "value": "search",
        "provenance": "verified",
        "source": "key",
        "conflict": [{"value": "ads", "source": "header:baggage"}],
    }
    assert entry["usage"] == {"input_tokens": 10, "output_tokens": 0}, "absent counts are absent, a stated 0 is there"
    assert entry["started_at"] == "2026-11-22T19:30:00.001000Z"
    assert entry["cost_usd"] == money.text(source.cost_usd or money.ZERO) == "0.000004000000"
    assert entry["charges"] == [
        {
            "meter": "input",
            "quantity": 10,
            "unit_price_usd": "0.000000400000",
            "list_cost_usd": "0.000004000000",
            "cost_usd": "0.000004000000",
            "model": "gpt-4.1-mini",
            "card": source.charges[0].card,
        }
    ]
    assert (unknown["cost_usd"], unknown["bound_usd"], unknown["basis"]) == (None, "0.050000000000", "unknown")
    assert (unknown["usage"], unknown["charges"], unknown["reason_unknown"]) == ({}, [], "writer_died")


def test_charges_add_up_to_the_cost(client: TestClient) -> None:
    for entry in get(client)["entries"]:
        if entry["cost_usd"] is not None:
            parts = (money.usd(charge["cost_usd"]) for charge in entry["charges"])
            assert money.text(money.total(parts)) == entry["cost_usd"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 14, 15, 100])
def test_pages_hold_every_entry_once_oldest_first(client: TestClient, limit: int) -> None:
    seen: list[str] = []
    cursor = None
    for _ in range(len(ENTRIES) + 1):
        page = get(client, ("limit", str(limit)), *([("cursor", cursor)] if cursor else []))
        assert len(page["entries"]) <= limit
        seen += [entry["entry_id"] for entry in page["entries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == expected_order()


@pytest.mark.parametrize(
    ("pairs", "keep"),
    [
        ([("team", "search")], lambda entry: entry.team == "search"),
        ([("team", "search"), ("team", "support")], lambda entry: entry.team in {"search", "support"}),
        ([("team", "search"), ("agent", "writer")], lambda entry: (entry.team, entry.agent) == ("search", "writer")),
        ([("feature", "(none)")], lambda entry: entry.feature is None),
        ([("tag:shift", "late")], lambda entry: entry.tags["shift"] == "late"),
        ([("basis", "unknown")], lambda entry: entry.basis == "unknown"),
        ([("day", "2026-11-23")], lambda entry: f"{entry.started_at:%d}" == "23"),
        ([("since", "2026-11-23")], lambda entry: entry.started_at >= datetime(2026, 11, 23, tzinfo=UTC)),
        ([("until", "2026-11-23")], lambda entry: entry.started_at < datetime(2026, 11, 23, tzinfo=UTC)),
        (
            [("since", "2026-11-22T19:30:05Z"), ("until", "2026-11-22T19:30:05.000001Z")],
            lambda entry: entry.started_at == SAME_MOMENT,
        ),
        ([("since", "2026-11-22T19:30:05.000001Z"), ("until", "2026-11-23")], lambda entry: False),
        ([("team", "x' OR 1=1 --")], lambda entry: False),
    ],
)
def test_filters(client: TestClient, pairs: list[tuple[str, str]], keep: Any) -> None:
    kept = {entry.entry_id for entry in ENTRIES if keep(entry)}
    assert [entry["entry_id"] for entry in get(client, *pairs)["entries"]] == [
        name for name in expected_order() if name in kept
    ]


@pytest.mark.parametrize(
    ("pairs", "fields"),
    [
        ([("tema", "search")], {"tema"}),
        ([("tag:team", "search")], {"tag:team"}),
        ([("limit", "0")], {"limit"}),
        ([("limit", str(LIMIT_MAX + 1))], {"limit"}),
        ([("limit", "ten")], {"limit"}),
        ([("limit", "1"), ("limit", "2")], {"limit"}),
        ([("cursor", "nonsense!")], {"cursor"}),
        ([("cursor", "WzEsMl0")], {"cursor"}),
        ([("cursor", "ü")], {"cursor"}),
        ([("since", "yesterday")], {"since"}),
        ([("since", "2026-11-23"), ("until", "2026-11-22")], {"since"}),
        ([("day", "soon")], {"day"}),
        ([("tema", "x"), ("limit", "x"), ("since", "x")], {"tema", "limit", "since"}),
    ],
)
def test_faulty_parameters_are_named_all_at_once(
    client: TestClient, pairs: list[tuple[str, str]], fields: set[str]
) -> None:
    answer = client.get("/api/v1/entries", params=tuple(pairs))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "query_invalid" and set(error["fields"]) == fields


@pytest.mark.parametrize("started_us", [0, 1, -5, 2**53, 10**15])
def test_a_cursor_reads_back(started_us: int) -> None:
    cursor = Cursor(started_us, JOURNAL, 17)
    assert Cursor.read(cursor.text()) == cursor
    assert cursor.text().isascii() and "=" not in cursor.text()


@pytest.mark.parametrize("moment", [10**18, -(10**18)])
def test_a_cursor_outside_of_time_is_refused(moment: int) -> None:
    with pytest.raises(QueryInvalid):
        Cursor.read(Cursor(moment, JOURNAL, 1).text())


def test_parameters_are_described(client: TestClient) -> None:
    described = json.dumps(client.get("/openapi.json").json()["paths"]["/api/v1/entries"]["get"]["parameters"])
    for name in ("since", "until", "limit", "cursor", "team", "tag:NAME"):
        assert f'"{name}"' in described
    assert EntriesQuery.parse([], now=NOW).limit == 100
