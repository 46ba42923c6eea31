"""Names that a spreadsheet would run: no cell of any export is live, and the exact text is in JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import openpyxl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from costbearer import app
from costbearer.cli import root
from costbearer.cli.output import print_csv
from costbearer.config import load
from costbearer.ledger import Entry
from costbearer.reports import REPORTS, answer, question
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.formulas import as_written, harmless, harmless_cell
from costbearer.reports.query import BY_MAX
from costbearer.stores.duckdb import Ledger
from tests.factories import make_entry
from tests.ledgers import ledger_of
from tests.pages import Reader, admin_token, console, settings

STARTS = ("=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "\u00a0=", "\ufeff=", "＝", "＋", "－", "＠", "﹦", "'=")
BREAKS = ("", ";", "x;", 'x";', "x\t", "x\n", "x\r\n", '"', "x|", "x, ")
LIVE = "cmd|' /C calc'!A0"
TEXTS = tuple(f"{opening}{start}{LIVE}" for opening in BREAKS for start in STARTS)
"""Every way to begin a formula, behind every mark at which some spreadsheet begins a cell."""

FIELDS = (
    *("owner", "team", "agent", "workload", "key_team", "project", "cost_center", "feature", "workflow", "customer"),
    *("tenant", "user", "env", "key_id", "trace_id", "session_id", "request_id", "request_model", "response_model"),
    *("route", "region", "error_code"),
)
NOW = datetime(2026, 12, 11, tzinfo=UTC)
EVER = "since=2026-10-30&until=2026-12-10"
PRINTED = tuple(text for text in TEXTS if text.isprintable() and text == text.strip())
"""Those that a label can be."""


def live(cell: str) -> bool:
    """What spreadsheets do: pass over what is not seen, and run what begins like this."""
    text = cell.lstrip("\ufeff\u200b\u00a0 \t\r\n")
    return text[:1] in set("=+-@＝＋－＠﹦﹢﹣﹫") and not _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def dead(text: str) -> int:
    """The cells of a file as readers of each separator see them, none of them live; gives how many there are."""
    count = 0
    for delimiter in ",;\t|":
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            count += len(row)
            assert not [cell for cell in row if live(cell)], (delimiter, [cell for cell in row if live(cell)])
    return count


def test_a_text_is_made_harmless_and_read_back() -> None:
    for text in TEXTS:
        _made_harmless(text)


def _made_harmless(text: str) -> None:
    assert not any(
        live(cell) for row in csv.reader(io.StringIO(harmless(text), newline=""), delimiter=";") for cell in row
    )
    assert as_written(harmless(text)) == text


@given(st.text(st.sampled_from("=-'\t\n\r;, \"|a＝\ufeff1") | st.characters(codec="utf-8"), max_size=12))
def test_whatever_is_written_is_read_back(text: str) -> None:
    made = harmless(text)
    assert as_written(made) == text
    assert not live(made)
    assert made.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    "text", ["-1.5", "+0", "-0.000000000001", "1E-12", "team", "a-b", "x=y", "me@example.com", "(none)"]
)
def test_numbers_and_plain_names_stay_as_they_are(text: str) -> None:
    assert harmless_cell(text) == text
    assert harmless_cell(None) == ""


def entries() -> list[Entry]:
    """A call for each text, which stands in every one of its fields."""
    made = []
    for number, text in enumerate(TEXTS, 1):
        named: dict[str, Any] = dict.fromkeys(FIELDS, text)
        named |= {"tags": {"plain": text}, "notes": (text,), "call_id": f"c{number}"}
        made.append(make_entry("20261101T000000-0a0b0c0d", number, **named))
    return made


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with ledger_of(entries()) as ledger:
        yield ledger


NAMES = [name for name in DIMENSIONS if name not in {"hour", "day", "week", "month"}]
TOGETHER = [f"spend?by={','.join(NAMES[at : at + BY_MAX])}" for at in range(0, len(NAMES), BY_MAX)]
REPORTS_OF_ALL = ["explain?by=team,agent&compare=2026-10-01..2026-10-30"]
REPORTS_OF_ALL += [f"{name}?" for name, each in REPORTS.items() if "id" not in each.form.takes and name != "explain"]


@pytest.mark.parametrize("asked", [TOGETHER[0], "chargeback?", "entries?"])
def test_no_cell_of_a_report_is_live(ledger: Ledger, asked: str) -> None:
    assert checked(ledger, asked) > 0


@pytest.mark.soak
def test_no_cell_of_any_grouping_is_live(ledger: Ledger) -> None:
    cells = sum(checked(ledger, asked) for asked in (*TOGETHER, *REPORTS_OF_ALL))
    for one, other in itertools.product(NAMES, ("tag:plain", "team")):
        cells += checked(ledger, f"spend?by={one if one == other else f'{one},{other}'}")
    print(f"\n0 of {cells:,} cells are live: {len(TEXTS)} texts in {len(FIELDS) + 2} fields")


def checked(ledger: Ledger, asked: str) -> int:
    """The cells of one answer as CSV and XLSX, none of them live."""
    name, _, pairs = f"{asked}&{EVER}".partition("?")
    pairs += "&limit=1000" if "limit" in REPORTS[name].form.takes else ""
    with ledger.reader() as reader:
        table = answer(question(name, parse_qsl(pairs), now=NOW), reader, Beside())
    count = dead(table.to_csv())
    book = openpyxl.load_workbook(io.BytesIO(table.to_xlsx()))
    cells = [cell for sheet in book.worksheets for row in sheet.iter_rows() for cell in row]
    assert not [cell for cell in cells if cell.data_type == "f" or cell.hyperlink]
    assert all(isinstance(cell.value, str) for cell in cells if cell.data_type == "s")
    rows = json.loads(table.to_json())["rows"]
    shown = {value for row in rows for value in row.values() if isinstance(value, str)}
    assert not asked.startswith("spend") or set(TEXTS) <= shown, "JSON has not the exact text"
    return count + len(cells)


def test_no_cell_that_a_command_prints_is_live(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(["name", "usd", "calls"], [[text, "-1.50", 3] for text in TEXTS])
    printed = capsys.readouterr().out
    assert dead(printed) > len(TEXTS)
    assert printed.count(",-1.50,3\n") == len(TEXTS), "a number was taken for a formula"


def test_nothing_else_writes_csv() -> None:
    """`reports.table` and `cli.output` do, through `formulas`; `csv.writer` knows nothing of spreadsheets."""
    root = Path(harmless.__code__.co_filename).parent.parent
    for path in root.rglob("*.py"):
        if "simulator" not in path.parts and "demo" not in path.parts:
            found = re.search(r"csv\.(writer|DictWriter)", path.read_text(encoding="utf-8"))
            assert found is None, path


@pytest.mark.soak
def test_no_cell_of_a_list_is_live(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with console(config, entries()) as client:
        client.headers["authorization"] = f"Bearer {admin_token(config)}"
        for text in PRINTED[:20]:
            labels = dict.fromkeys(("owner", "team", "agent", "workload", "name", "project"), text)
            client.post("/api/v1/keys", json=labels)
            client.post("/api/v1/views", json={"name": text, "page": "/explore", "parameters": "", "description": text})
        _lists(client)


def _lists(client: Reader) -> None:
    assert len(client.get("/api/v1/keys").json()["keys"]) > 10
    assert len(client.get("/api/v1/views").json()["views"]) > 10
    for path in ("/keys.csv", "/views.csv", "/backfill.csv", "/findings.csv", "/prices.csv", "/find.csv?q=cmd"):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text[:200])
        assert answer.headers["content-type"].startswith("text/csv"), path
        assert dead(answer.text) > 4, path


@pytest.mark.soak
def test_no_cell_of_a_list_on_the_command_line_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    config = load(overrides={"data": str(tmp_path / "data")}, environ={})
    app.prepare(config)
    odd = [text for text in TEXTS if text.isprintable()]
    nobody: dict[str, Any] = {"kind": "import", "owner": None, "team": None, "agent": None, "workload": None}
    with app.books(config) as (_, bookkeeper, _):
        entries = [make_entry("j", n, **nobody, key_id=text, call_id=f"imp_{n}") for n, text in enumerate(odd, 1)]
        bookkeeper.record(entries)

    def run(*words: str) -> str:
        done = CliRunner().invoke(root, [*words, "--data", str(config.data)])
        assert done.exit_code == 0, done.output
        return done.stdout

    issued = PRINTED[0]
    run("keys", "issue", *(f"--{name}={issued}" for name in ("owner", "team", "agent", "workload", "name")))
    views = tmp_path / "views.toml"
    views.write_text(f'[[views]]\nname = "{issued}"\npage = "/explore"\ndescription = "{issued}"\n')
    run("views", "apply", str(views))
    for words in (
        ("keys", "list"),
        ("views", "list"),
        ("keys", "backfill"),
        ("config", "show"),
        ("prices", "archives"),
    ):
        assert dead(run(*words, "--csv")) > 5, words
    assert json.loads(run("keys", "list", "--json"))["keys"][0]["owner"] == issued
    plan = tmp_path / "plan.csv"
    run("keys", "backfill", "plan", "--do", "label", "-o", str(plan))
    dead(plan.read_text())
    head, *rows = csv.reader(io.StringIO(plan.read_text()))
    assert len(rows) > 5
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [head, *([key, "ana", "search", "bot", "chat"] for key, *_ in rows[:3])]
    )
    plan.write_text(text.getvalue())
    done = json.loads(run("keys", "backfill", "label", "--file", str(plan), "--json"))
    assert [row["calls"] for row in done["keys"]] == [1, 1, 1], "a key that was made harmless is not found again"
