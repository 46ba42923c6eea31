from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from costbearer import money, reports
from costbearer.console.api_reports import MEDIA, report_router
from costbearer.console.security import error_document
from costbearer.errors import CostbearerError
from costbearer.reports.beside import Beside
from costbearer.reports.query import PARAMETERS
from costbearer.stores.duckdb import Ledger
from tests.factories import make_entry, make_unknown
from tests.ledgers import ledger_of

JOURNAL = "20261122T193000-1a2b3c4d"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
COMPLETE_TO = datetime(2026, 11, 30, 11, 59, 59, 5, tzinfo=UTC)
ENTRIES = [
    *(make_entry(JOURNAL, number) for number in range(1, 20)),
    make_unknown(JOURNAL, 20),
    make_entry(JOURNAL, 21, feature="=1+1"),
    make_entry(JOURNAL, 22, started_at=datetime(2026, 10, 3, tzinfo=UTC)),
]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with ledger_of(ENTRIES) as ledger:
        yield ledger


@pytest.fixture
def client(ledger: Ledger) -> Iterator[TestClient]:
    """The router alone, with the error shape of the console; the console's own guard is tested with the console."""

    def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, CostbearerError)
        return JSONResponse(error_document(error), status_code=error.http_status)

    app = FastAPI()
    app.include_router(report_router(ledger.reader, lambda: Beside(complete_to=COMPLETE_TO), lambda: NOW))
    app.add_exception_handler(CostbearerError, told)
    with TestClient(app) as client:
        yield client


def test_a_report_is_the_table_of_the_ledger(client: TestClient, ledger: Ledger) -> None:
    pairs = [("by", "team,agent"), ("where", "team=search"), ("where", "team=support"), ("compare", "previous")]
    answer = client.get("/api/v1/reports/spend", params=urlencode(pairs))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    with ledger.reader() as reader:
        expected = reports.answer(reports.question("spend", pairs, now=NOW), reader, Beside(complete_to=COMPLETE_TO))
    assert answer.text == expected.to_json()
    assert answer.json()["complete_to"] == "2026-11-30T11:59:59.000005Z"
    assert reports.read(answer.json()) == expected


def test_without_parameters_it_is_the_month_so_far_by_team(client: TestClient) -> None:
    document = client.get("/api/v1/reports/spend").json()
    assert (document["by"], document["since"], document["until"]) == (
        ["team"],
        "2026-11-01T00:00:00Z",
        "2026-11-30T12:00:00Z",
    )
    costs = [entry.cost_usd for entry in ENTRIES[:-1] if entry.cost_usd is not None]
    assert document["total_usd"] == money.text(money.total(costs))
    assert (document["calls"], document["unknown_calls"]) == (21, 1)


def test_csv_has_the_rows_of_the_json(client: TestClient) -> None:
    answer = client.get("/api/v1/reports/spend", params={"by": "feature", "format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    rows = client.get("/api/v1/reports/spend", params={"by": "feature", "format": "json"}).json()["rows"]
    assert [line["cost_usd"] for line in lines] == [row["cost_usd"] for row in rows]
    assert {line["feature"] for line in lines} == {"summarizer", "(none)", "'=1+1"}
    assert {row["feature"] for row in rows} == {"summarizer", "(none)", "=1+1"}


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("team=search", "team", "unknown parameter; known are by, where, since, until, compare, sort"),
        ("page=2", "page", "also format"),
        ("by=colour", "by", "'colour' is not a dimension; known are owner, team"),
        ("where=colour%3Dred", "where", "'colour' is not a dimension"),
        ("where=team", "where", "is not DIM=VALUE"),
        ("since=yesterday", "since", "is not a time"),
        ("since=2026-11-01T00:00:00+01:00", "since", "is not a time"),
        ("sort=size", "sort", "is not one of"),
        ("format=xml", "format", "is one of json, csv"),
        ("format=json&format=csv", "format", "given once"),
        ("until=2026-11-02&until=2026-11-03", "until", "more than once"),
    ],
)
def test_a_question_that_cannot_be_asked_is_400_and_names_why(
    client: TestClient, query: str, field: str, says: str
) -> None:
    answer = client.get(f"/api/v1/reports/spend?{query}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "query_invalid"
    assert list(error["fields"]) == [field]
    assert says in error["fields"][field]


def test_an_unknown_report_is_404_and_names_the_known_ones(client: TestClient) -> None:
    answer = client.get("/api/v1/reports/spending")
    assert answer.status_code == 404
    message = f"there is no report 'spending'; known are {', '.join(reports.REPORTS)}"
    assert answer.json()["error"] == {"code": "not_found", "message": message}


def test_a_bad_question_takes_no_reader(client: TestClient, ledger: Ledger) -> None:
    with ledger.reader():  # the only one there is
        assert client.get("/api/v1/reports/spend?by=colour").status_code == 400


def test_openapi_describes_every_parameter(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/api/v1/reports/{name}"]["get"]
    described = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert set(described) == {"name", "format", *PARAMETERS}
    assert described["where"]["description"] == PARAMETERS["where"]
    assert set(operation["responses"]["200"]["content"]) == {media.partition(";")[0] for media in MEDIA.values()}
