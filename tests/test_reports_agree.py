"""One number everywhere: every report, on every surface, over random ledgers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from costbearer import money, reports
from costbearer.cli import root
from costbearer.console.api_reports import report_router
from costbearer.contract import Prices
from costbearer.errors import QueryInvalid
from costbearer.figures import Figure
from costbearer.ledger import Entry
from costbearer.prices import PriceBook
from costbearer.reports.beside import Beside
from costbearer.reports.query import Reader
from costbearer.reports.table import AMOUNTS, Column, Part, Table
from costbearer.stores import archive
from tests import randomledger
from tests.books import Books
from tests.ledgers import ledger_of, reader_of

NOW = datetime(2026, 10, 20, 7, 30, tzinfo=UTC)
PERIOD = [("since", "2026-09-10T06:15:00Z"), ("until", "2026-10-15T03:20:00Z")]
ALL = [("since", "2026-09-01"), ("until", "2026-11-01")]
PRICES = Prices(PriceBook.loads(archive.bundled()), None)
FIGURES = {"orders": [Figure(date(2026, 9, 12), Decimal("12.5"), "search"), Figure(date(2026, 9, 13), Decimal(4), "")]}
BESIDE = Beside(prices=lambda: PRICES, figures=FIGURES.get, figure_names=lambda: tuple(FIGURES))

QUESTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("spend", [("by", "team,day"), ("compare", "previous"), ("limit", "7")]),
    ("spend", [("by", "customer,tag:shift"), ("tz", "Asia/Kolkata"), ("sort", "name")]),
    ("spend", [("by", "hour"), ("tz", "America/New_York"), ("where", "kind=usage")]),
    ("top-keys", [("limit", "2")]),
    ("chargeback", [("by", "team"), ("tz", "Europe/Berlin")]),
    ("agents", []),
    ("owner", [("id", "search")]),
    ("unit-cost", [("by", "customer"), ("per", "request,session,user,trace,orders")]),
    ("models", [("as", "gpt-4.1-nano"), ("limit", "3")]),
    ("models", [("by", "model"), ("cache_rate", "0.5"), ("at", "list")]),
    ("coverage", [("limit", "3")]),
    ("explain", [("by", "team,agent")]),
    ("explain", [("by", "customer"), ("limit", "2")]),
    ("explain", [("by", "team"), ("per", "day")]),
    ("unknown", []),
    ("entries", [("limit", "5")]),
    ("entries", [("where", "team=support"), ("sort", "name")]),
    ("session", [("id", "session1")]),
    ("trace", [("id", "trace3")]),
]


def ask(reader: Reader, name: str, pairs: Sequence[tuple[str, str]]) -> Table:
    takes = reports.REPORTS[name].form.takes
    period = [pair for pair in PERIOD if pair[0] in takes]
    return reports.answer(reports.question(name, [*period, *pairs], now=NOW), reader, BESIDE)


def dict_of(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def assert_surfaces_agree(table: Table) -> None:
    """JSON, CSV and XLSX hold the table's numbers to the last digit, and JSON all of it."""
    document = json.loads(table.to_json())
    assert reports.read(document) == table
    lines = list(csv.DictReader(io.StringIO(table.to_csv(), newline="")))
    book = openpyxl.load_workbook(io.BytesIO(table.to_xlsx()))
    sheets = [name for name in book.sheetnames if name != "about this file"]
    parts = [Part("", "", table.columns, table.rows), *table.parts]
    assert len(sheets) == len(parts)
    assert len(lines) == len(table.rows)
    for place, column in enumerate(table.columns):
        for row, line, shown in zip(table.rows, lines, document["rows"], strict=True):
            if column.kind in AMOUNTS and row[place] is not None:
                assert money.usd(line[column.name]) == money.usd(shown[column.name]) == row[place]
            elif column.kind == "count" and row[place] is not None:
                assert int(line[column.name]) == shown[column.name] == row[place]
    for name, part in zip(sheets, parts, strict=True):
        head, *body = book[name].iter_rows(values_only=True)
        for number, row in enumerate(part.rows):
            cells = dict(zip(head, body[number], strict=True))
            for column, cell in zip(part.columns, row, strict=True):
                assert_cell(column, cell, cells)


def assert_cell(column: Column, cell: Any, cells: dict[Any, Any]) -> None:
    if isinstance(cell, Decimal):
        assert money.usd(cells[f"{column.name} (exact)"]) == cell
        assert abs(Decimal(repr(float(cells[column.name]))) - cell) <= abs(cell) * Decimal("1e-14")
    elif column.kind == "count" and cell is not None:
        assert int(cells[column.name]) == cell
    elif isinstance(cell, str) and cell:
        assert not str(cells[column.name]).startswith("#")


def assert_adds_up(table: Table) -> None:
    """The rows add up to the totals that are sums, in the table and in each of its parts."""
    for part in (Part("", "", table.columns, table.rows, table.totals), *table.parts):
        for place, column in enumerate(part.columns):
            name = "total_usd" if column.name == "cost_usd" and "total_usd" in part.totals else column.name
            if column.kind in {"usd", "delta", "moved"} and name in part.totals and table.query.report not in NO_SUMS:
                added = money.total(cell for row in part.rows if isinstance(cell := row[place], Decimal))
                assert added == part.totals[name], (table.query.report, part.name, column.name)


NO_SUMS = {"coverage", "session", "trace", "request"}
"""Their rows overlap: a call has many fields, and a node holds what is below it."""


@pytest.mark.parametrize("seed", range(4))
def test_every_report_says_one_number_on_every_surface(seed: int) -> None:
    entries = randomledger.ledger(seed)
    with reader_of(entries) as reader:
        for name, pairs in QUESTIONS:
            if name in {"session", "trace", "owner"} and not _is_there(entries, name, pairs[0][1]):
                continue
            table = ask(reader, name, pairs)
            assert_surfaces_agree(table)
            assert_adds_up(table)


def _is_there(entries: Sequence[Entry], name: str, wanted: str) -> bool:
    field = {"owner": "owner"}.get(name, f"{name}_id")
    return any(getattr(entry, field) == wanted and entry.calls > 0 for entry in entries)


@pytest.mark.parametrize("seed", range(4, 10))
def test_every_reports_total_is_the_ledgers(seed: int) -> None:
    entries = randomledger.ledger(seed, 40)
    expected = randomledger.total(entries)
    with reader_of(entries) as reader:
        for name in (
            "spend",
            "top-keys",
            "chargeback",
            "agents",
            "unit-cost",
            "models",
            "coverage",
            "explain",
            "entries",
        ):
            pairs = ALL if name != "explain" else [*ALL, ("compare", "2026-07-01..2026-09-01")]
            table = reports.answer(reports.question(name, pairs, now=NOW), reader, BESIDE)
            assert table.totals["total_usd"] == expected, name
            assert_adds_up(table)


@pytest.mark.parametrize("seed", [20, 21])
def test_the_rollups_and_the_entries_answer_alike(seed: int) -> None:
    entries = randomledger.ledger(seed, 120)

    class Unrolled:
        """The same reader without the hourly sums."""

        def __init__(self, reader: Reader) -> None:
            self.entries, self.charges = reader.entries, reader.charges
            self.rollups = self.charge_rollups = None
            self.execute, self.newest = reader.execute, reader.newest

    with reader_of(entries) as reader:
        for name, pairs in QUESTIONS:
            if name in {"session", "trace", "owner"}:
                continue
            rolled, plain = ask(reader, name, pairs), ask(Unrolled(reader), name, pairs)
            assert plain.source == "entries"
            assert (rolled.rows, rolled.totals, rolled.parts) == (plain.rows, plain.totals, plain.parts), (name, pairs)


def test_hours_that_are_whole_come_from_the_rollups_and_the_edges_from_entries() -> None:
    with reader_of(randomledger.ledger(30)) as reader:
        sources = {
            name: reports.answer(
                reports.question("spend", [("by", by), ("since", since), ("until", until), ("tz", zone)], now=NOW),
                reader,
            ).source
            for name, by, since, until, zone in (
                ("whole", "team,day", "2026-09-01", "2026-10-01", "UTC"),
                ("edges", "team", "2026-09-01T00:30:00Z", "2026-10-01", "UTC"),
                ("half an hour off", "day", "2026-09-01", "2026-10-01", "Asia/Kolkata"),
                ("a tag", "tag:shift", "2026-09-01", "2026-10-01", "UTC"),
                ("within an hour", "team", "2026-09-01T00:10:00Z", "2026-09-01T00:20:00Z", "UTC"),
            )
        }
    assert sources == {
        "whole": "rollups",
        "edges": "rollups and entries",
        "half an hour off": "entries",
        "a tag": "entries",
        "within an hour": "entries",
    }


def test_command_and_api_give_the_same_documents(tmp_path: Path) -> None:
    """The command on the stores, the API on the same ledger."""
    books = Books(tmp_path)
    entries = randomledger.ledger(40)
    bookkeeper = books.open()
    bookkeeper.record(entries)
    app = FastAPI()
    app.include_router(report_router(bookkeeper.ledger.reader, lambda: BESIDE, lambda: NOW))
    asked = [(name, pairs) for name, pairs in QUESTIONS if name in {"spend", "agents", "explain", "coverage"}]
    with TestClient(app) as client:
        answers = []
        for name, pairs in asked:
            params = [*(pair for pair in PERIOD if pair[0] in reports.REPORTS[name].form.takes), *pairs]
            answers.append(client.get(f"/api/v1/reports/{name}", params=dict_of(params)).json())
    books.close()
    for (name, pairs), answer in zip(asked, answers, strict=True):
        words = [word for key, value in (*PERIOD, *pairs) for word in (f"--{key}", value)]
        result = CliRunner().invoke(root, ["report", name, *words, "--json", "--data", str(tmp_path)])
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        for key in ("rows", "parts", "command", "source", "notes", *document["totals"]):
            assert document[key] == answer[key], (name, key)


# -- bad input


@pytest.mark.parametrize("name", list(reports.REPORTS))
def test_an_unknown_parameter_or_dimension_is_refused_by_every_report(name: str) -> None:
    form = reports.REPORTS[name].form
    pairs = [("colour", "blue"), *([("by", "colour")] if "by" in form.takes else [])]
    pairs += [("where", "colour=blue")] if "where" in form.takes else []
    pairs += [("tz", "Mars/Olympus")] if "tz" in form.takes else []
    pairs += [("limit", "0")] if "limit" in form.takes else []
    with pytest.raises(QueryInvalid) as caught:
        reports.question(name, pairs, now=NOW)
    assert set(caught.value.fields) >= {pair[0] for pair in pairs}
    assert ", ".join(form.takes) in caught.value.fields["colour"]


@pytest.mark.parametrize(
    ("name", "pairs", "fault"),
    [
        ("unit-cost", [("per", "oranges")], "per"),
        ("unit-cost", [("per", "orders"), ("by", "team,agent")], "per"),
        ("unit-cost", [("per", "request,request")], "per"),
        ("models", [("as", "no-such-model-anywhere")], "as"),
        ("models", [("as", "openai/no-such-model-anywhere")], "as"),
        ("models", [("cache_rate", "1.5")], "cache_rate"),
        ("models", [("cache_rate", "nan")], "cache_rate"),
        ("models", [("at", "wholesale")], "at"),
        ("trace", [], "id"),
        ("trace", [("id", " ")], "id"),
        ("explain", [("compare", "2026-01-01")], "compare"),
        ("explain", [("since", "1970-01-01"), ("until", "1980-01-01")], "compare"),
    ],
)
def test_a_bad_option_is_named(name: str, pairs: list[tuple[str, str]], fault: str) -> None:
    with reader_of(randomledger.ledger(1, 5)) as reader, pytest.raises(QueryInvalid) as caught:
        reports.answer(reports.question(name, pairs, now=NOW), reader, BESIDE)
    assert fault in caught.value.fields


@pytest.mark.parametrize(
    "hostile", ["=HYPERLINK(1)", "<script>alert(1)</script>", "a|b`c`", "\u202egnp.exe", "x" * 10_000]
)
def test_hostile_names_are_harmless_in_every_export(hostile: str) -> None:
    entries = randomledger.ledger(2, 6)
    entries = [type(entry)(**{**_fields(entry), "team": hostile, "agent": hostile}) for entry in entries]
    with reader_of(entries) as reader:
        table = ask(reader, "spend", [("by", "team,agent")])
        assert_surfaces_agree(table)
        markdown, text = table.to_markdown(), table.to_text(80)
    assert "<script>" not in markdown and "\u202e" not in markdown + text
    assert "\n=HYPERLINK" not in table.to_csv()
    book = openpyxl.load_workbook(io.BytesIO(table.to_xlsx()))
    assert all(cell.data_type != "f" for sheet in book for row in sheet.iter_rows() for cell in row)
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def _fields(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


@pytest.mark.slow
def test_a_hundred_thousand_groups_are_limited_and_the_rest_is_a_row() -> None:
    entries = _many(100_000)
    with ledger_of(entries) as ledger, ledger.reader() as reader:
        table = reports.answer(reports.question("spend", [("by", "feature"), *ALL], now=NOW), reader)
    assert len(table.rows) == 1001
    assert table.rows[-1][0] == "(the rest)"
    assert table.totals["total_usd"] == money.times(100_000, money.usd("0.01"))
    assert_adds_up(table)
    assert "99,000 groups behind the first 1,000 are one row" in table.to_text()


def _many(count: int) -> list[Entry]:
    (one,) = [entry for entry in randomledger.ledger(3, 30) if entry.cost_usd is not None and entry.calls == 1][:1]
    cost = money.usd("0.01")
    shape = _fields(one) | {"cost_usd": cost, "charges": (), "calls": 1, "basis": "metered", "kind": "usage"}
    return [Entry(**shape | {"sequence": number, "feature": f"f{number:06d}"}) for number in range(1, count + 1)]
