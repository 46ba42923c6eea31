from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from costbearer.cli import root
from costbearer.console.api_reports import report_router
from costbearer.console.security import error_document
from costbearer.errors import CostbearerError
from costbearer.journal import Intent, JournalWriter, Outcome
from costbearer.reports.beside import Beside
from tests.factories import make_entry, make_intent, make_unknown
from tests.ledgers import ledger_of

PERIOD = ("--since", "2026-11-01", "--until", "2026-12-01")


def write_journal(root_dir: Path) -> None:
    """Seven calls as a dead gateway left them: six ended, one of them without a known cost, and one was under way."""
    writer = JournalWriter.open(root_dir)
    for number in range(7):
        sequence = writer.next_sequence
        writer.append(Intent(make_intent(writer.id, sequence, feature="=cmd" if number == 3 else "chat")))
        if number < 6:
            make = make_unknown if number == 5 else make_entry
            writer.append(Outcome(make(writer.id, sequence, feature="=cmd" if number == 3 else "chat")))
    writer.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    write_journal(data / "journal")
    return data


def run(*words: str, data: Path | None = None) -> Result:
    placed = ["--data", str(data)] if data is not None else []
    return CliRunner().invoke(root, ["report", "spend", *words, *placed])


GOLDEN = """\
Spend by team, feature
period    2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z, the end excluded

                                     input  output                      unknown
team      feature  calls  requests  tokens  tokens        cost   share    calls
-------------------------------------------------------------------------------
search    chat         2         2     214      54  $0.0001678   40.8%        0
support   =cmd         1         1     108      28  $0.0000856   20.8%        0
payments  chat         2         2     106      26  $0.0000822   20.0%        1
support   chat         2         2     102      22  $0.0000754   18.3%        1
-------------------------------------------------------------------------------
total                  7         7     530     130   $0.000411  100.0%        2

2 calls whose cost is not known, at most $0.10, not in the total.

complete to ...
reproduce: costbearer report spend --by team,feature --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z
"""


def test_the_transcript_of_a_report_without_a_server(data: Path) -> None:
    result = run("--by", "team,feature", *PERIOD, data=data)
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.sub(r"(?m)^complete to \S+Z$", "complete to ...", result.stdout) == GOLDEN


def test_calls_that_died_with_their_gateway_are_in_it_as_unknown(data: Path) -> None:
    document = json.loads(run("--by", "reason_unknown", "--json", *PERIOD, data=data).stdout)
    assert (document["calls"], document["unknown_calls"], document["unknown_bound_usd"]) == (7, 2, "0.100000000000")


def test_a_second_report_says_the_same(data: Path) -> None:
    first, second = (json.loads(run("--json", *PERIOD, data=data).stdout) for _ in range(2))
    assert first["rows"] == second["rows"]
    assert first["calls"] == 7


def test_json_csv_and_text_say_the_same(data: Path) -> None:
    words = ("--by", "feature", *PERIOD)
    document = json.loads(run(*words, "--json", data=data).stdout)
    lines = list(csv.DictReader(io.StringIO(run(*words, "--csv", data=data).stdout, newline="")))
    assert [line["cost_usd"] for line in lines] == [row["cost_usd"] for row in document["rows"]]
    assert {line["feature"] for line in lines} == {"chat", "'=cmd"}
    assert {row["feature"] for row in document["rows"]} == {"chat", "=cmd"}
    text = run(*words, data=data).stdout
    for row in document["rows"]:
        assert "$" + row["cost_usd"].rstrip("0") in text


def test_filters_repeat_and_the_command_it_prints_asks_the_same(data: Path) -> None:
    result = run("--where", "team=search", "--where", "team=support", "--by", "team,key", "--json", *PERIOD, data=data)
    document = json.loads(result.stdout)
    assert document["where"] == {"team": ["search", "support"]}
    assert {row["team"] for row in document["rows"]} == {"search", "support"}
    again = CliRunner().invoke(root, [*document["command"].split()[1:], "--json", "--data", str(data)])
    assert json.loads(again.stdout)["rows"] == document["rows"]


def test_by_may_be_one_list_or_several_options(data: Path) -> None:
    one = json.loads(run("--by", "team,agent", "--json", *PERIOD, data=data).stdout)
    several = json.loads(run("--by", "team", "--by", "agent", "--json", *PERIOD, data=data).stdout)
    assert one["rows"] == several["rows"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--by", "colour"), "by: 'colour' is not a dimension; known are owner, team"),
        (("--where", "team"), "where: 'team' is not DIM=VALUE"),
        (("--since", "soon"), "since: 'soon' is not a time"),
        (("--compare", "never"), "compare: 'never' is neither previous nor a period"),
        (("--sort", "delta"), "sort: delta needs a comparison"),
        (("--json", "--csv"), "choose one"),
        (("--colour", "red"), "No such option"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(data: Path, words: tuple[str, ...], says: str) -> None:
    result = run(*words, data=data)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (data / "ledger.duckdb").exists()


def test_a_mistyped_directory_is_not_answered_with_nothing_spent(data: Path) -> None:
    result = run(data=data.parent / "typo")
    assert result.exit_code == 2
    assert "there is no data directory" in result.stderr
    assert not (data.parent / "typo").exists()


def test_an_empty_ledger_says_so(tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(data=tmp_path / "empty")
    assert result.exit_code == 0
    assert "No calls are recorded yet." in result.stdout
    assert "No call in this period matches the filter" in run("--where", "team=x", *PERIOD, data=data).stdout


@pytest.mark.parametrize("words", [["--help"], ["report", "--help"], ["report", "spend", "--help"]])
def test_help_imports_no_engine(words: list[str]) -> None:
    program = f"""
import sys
from costbearer.cli import root
try:
    root.main({words!r})
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"ibis", "duckdb", "pyarrow", "fastapi", "sqlalchemy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: costbearer" in done.stdout


# --- with a server running


@pytest.fixture
def server(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """The report's routes on a real socket, with a ledger of three calls that the data directory does not have."""

    def told(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, CostbearerError)
        return JSONResponse(error_document(error), status_code=error.http_status)

    entries = [make_entry("20261122T193000-1a2b3c4d", number, team="remote") for number in range(1, 4)]
    with ledger_of(entries) as ledger:
        app = FastAPI()
        app.include_router(report_router(ledger.reader, Beside))
        app.add_exception_handler(CostbearerError, told)
        running = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            while not running.started:
                assert thread.is_alive()
                time.sleep(0.01)
            port = running.servers[0].sockets[0].getsockname()[1]
            monkeypatch.setenv("COSTBEARER_URL", f"http://127.0.0.1:{port}")
            monkeypatch.setenv("COSTBEARER_TOKEN", "not-a-real-token")
            yield app
        finally:
            running.should_exit = True
            thread.join()


def test_with_a_server_named_its_answer_is_shown_in_every_form(server: FastAPI) -> None:
    text = run("--by", "team", *PERIOD)
    assert (text.exit_code, text.stderr) == (0, "")
    assert re.search(r"^remote +3 +3 ", text.stdout, re.MULTILINE)
    document = json.loads(run("--by", "team", "--json", *PERIOD).stdout)
    assert [row["team"] for row in document["rows"]] == ["remote"]
    (line,) = csv.DictReader(io.StringIO(run("--by", "team", "--csv", *PERIOD).stdout, newline=""))
    assert (line["team"], line["cost_usd"]) == ("remote", document["total_usd"])


def test_a_servers_refusal_reads_as_a_local_one(server: FastAPI, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = run("--by", "colour")
    monkeypatch.delenv("COSTBEARER_URL")
    local = run("--by", "colour", data=data)
    assert (remote.exit_code, remote.stderr) == (2, local.stderr)
    assert local.exit_code == 2


@pytest.mark.parametrize("body", ["<html>", "[]", '{"rows": []}'])
def test_an_answer_of_something_else_is_refused(server: FastAPI, body: str) -> None:
    server.router.routes.clear()
    server.get("/api/v1/reports/spend")(lambda: Response(body, media_type="application/json"))
    result = run()
    assert result.exit_code == 2
    assert "[remote_failed]" in result.stderr
