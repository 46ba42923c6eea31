"""`costbearer audit`, `import` and `export` as a person or a pipeline uses them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result

from costbearer import app as wiring
from costbearer.backfill_desk import BackfillDesk
from costbearer.bookkeeper import Bookkeeper
from costbearer.cli import client, root
from costbearer.config import load
from costbearer.console.api_directory import directory_router
from costbearer.console.api_entries import entries_router
from costbearer.console.api_imports import imports_router
from costbearer.console.app import create_app
from costbearer.corrections import never
from costbearer.imports import post
from costbearer.stores.control import Control
from costbearer.stores.directory import Directory
from costbearer.stores.duckdb import Ledger
from tests.usagelogs import WRITERS, Call, clean

HOSTILE = '=HYPERLINK("http://x","y")<script>alert(1)</script>|`x`\x1b[31m'


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("COSTBEARER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(root, list(words), prog_name="costbearer")


def log(calls: list[Call] | None = None, name: str = "usage.jsonl", writer: str = "litellm") -> str:
    Path(name).write_text(WRITERS[writer](clean(60) if calls is None else calls), encoding="utf-8")
    return name


def faulty() -> list[Call]:
    calls = clean(60)
    calls[3] = replace(calls[3], wrong_usd=Decimal(0))
    calls[5] = replace(calls[5], team=None, owner=None, trace="alone")
    return calls


def test_the_report_says_the_verdict_first_and_the_dearest_finding_next() -> None:
    done = run("audit", log(faulty()))
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{len(faulty())} calls in 1 file (LiteLLM SpendLogs), 2026-10-05"
    assert lines[2] in {"FIT FOR CHARGEBACK", "LEAKING", "NOT FIT FOR CHARGEBACK", "CHARGEBACK WOULD BE BROKEN"}
    text = done.stdout
    assert text.index("FINDINGS (2)") < text.index("zero_cost_with_tokens") < text.index("WHO BEARS IT")
    assert "too little" in text
    assert "usage.jsonl:4" in text
    assert "fix: " in text
    assert max(map(len, lines)) <= 100
    assert done.stderr == ""


def test_a_clean_log_is_said_to_be_clean() -> None:
    done = run("audit", log())
    assert "FIT FOR CHARGEBACK" in done.stdout
    assert "FINDINGS\n  None." in done.stdout
    # The log says nothing of attempts, and there is a retry.
    assert re.search(r"TRACES: [67] of 7 questions answered, ready", done.stdout)


def test_the_json_document_has_the_shape_that_stays() -> None:
    document = json.loads(run("audit", log(faulty()), "--json").stdout)
    names = "format records since until cost_usd metrics findings by_owner by_model questions ready"
    assert set(names.split()) <= document.keys()
    assert set(document["metrics"]) == {
        "requests_missing_team_pct", "requests_missing_session_pct", "unattributed_spend_pct", "finops_ready_pct",
        "reconciliation_gap_pct",
    }  # fmt: skip
    finding = document["findings"][0]
    assert {"code", "severity", "records", "cost_usd", "sample", "why", "fix"} <= finding.keys()
    assert finding["sample"][0].keys() == {"file", "line", "id"}
    assert re.fullmatch(r"\d+\.\d{12}", document["cost_usd"])
    assert document["since"].endswith("Z")
    assert [each["n"] for each in document["questions"]] == list(range(1, 8))
    assert sum(Decimal(row["cost_usd"]) for row in document["by_owner"]) == Decimal(document["cost_usd"])
    assert sum(Decimal(row["cost_usd"]) for row in document["by_model"]) == Decimal(document["cost_usd"])


def test_many_groups_still_add_up() -> None:
    calls = [replace(call, owner=f"owner-{number}") for number, call in enumerate(clean(120))]
    document = json.loads(run("audit", log(calls), "--json").stdout)
    assert len(document["by_owner"]) == 51
    assert document["by_owner"][-1]["owner"] == f"({len(calls) - 50} more)"
    assert sum(Decimal(row["cost_usd"]) for row in document["by_owner"]) == Decimal(document["cost_usd"])
    assert sum(row["calls"] for row in document["by_owner"]) == len(calls)


def test_findings_as_a_backlog_that_no_spreadsheet_runs() -> None:
    calls = [replace(call, tags=(("team", HOSTILE),), team="=1+1") for call in clean(10)]
    done = run("audit", log(calls), "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["code"] for row in rows} >= {"tag_owner_conflict"}
    for row in rows:
        assert all(value[:1] not in {"=", "+", "-", "@"} for value in row.values()), row
        assert row["id"].startswith(row["code"])


def test_hostile_names_are_only_names_on_every_surface() -> None:
    calls = [replace(call, tags=(("team", HOSTILE),), owner=HOSTILE) for call in clean(10)]
    log(calls)
    text = run("audit", "usage.jsonl", "--html", "audit.html").stdout
    assert "\x1b" not in text
    page = Path("audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert 'http-equiv="Content-Security-Policy"' in page
    assert not re.search(r"(src|href)=", page), "it needs nothing from anywhere"
    table = run("audit", "usage.jsonl", "--markdown").stdout
    assert "<script>" not in table
    assert "\x1b" not in table


def test_a_short_report_for_a_pull_request() -> None:
    done = run("audit", log(faulty()), "--markdown")
    assert done.stdout.startswith("### LLM cost audit: ")
    assert "| `zero_cost_with_tokens`" in done.stdout
    assert len(done.stdout.splitlines()) < 25


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("zero_cost_with_tokens", 1),
        ("duplicate_request", 0),
        ("high", 1),
        ("unattributed>0.01%", 1),
        ("unattributed>99%", 0),
        ("not_ready>0.5", 1),
        ("gap>1%", 0),
    ],
)
def test_a_gate_for_pipelines(condition: str, code: int) -> None:
    done = run("audit", log(faulty()), "--fail-on", condition, "--json")
    assert done.exit_code == code
    assert json.loads(done.stdout)
    assert ("failed: " in done.stderr) == bool(code)


@pytest.mark.parametrize("condition", ["nonsense", "unattributed>x", "color>2%", ""])
def test_a_gate_that_is_none_is_refused(condition: str) -> None:
    done = run("audit", log(), "--fail-on", condition)
    assert done.exit_code == 2
    assert "--fail-on" in done.stderr
    assert "[input_invalid]" in done.stderr


def test_what_changed_since_the_last_audit() -> None:
    Path("before.json").write_text(run("audit", log(faulty()), "--json").stdout)
    calls = clean(60)
    calls[3] = replace(calls[3], wrong_usd=Decimal(0))
    calls[9] = replace(calls[9], wrong_usd=Decimal(0), model=calls[3].model, cached=0, written=0)
    calls[20] = replace(calls[20], tenant="bo@example.com")
    done = run("audit", log(calls), "--baseline", "before.json", "--json")
    changes = json.loads(done.stdout)["changes"]
    assert [each["id"] for each in changes["new"]] == ["pii_in_metadata:tenant"]
    assert [each["id"] for each in changes["gone"]] == ["missing_owner:key-None"]
    (worse,) = changes["worse"]
    assert worse["id"].startswith("zero_cost_with_tokens:")
    assert (worse["before_records"], worse["after_records"]) == (1, 2)
    text = run("audit", "usage.jsonl", "--baseline", "before.json").stdout
    assert "SINCE before.json" in text
    assert "new: 1" in text
    done = run("audit", "usage.jsonl", "--baseline", "usage.jsonl")
    assert (done.exit_code, "not the result of an audit" in done.stderr) == (2, True)


def test_one_line_for_what_goes_wrong() -> None:
    for words, says in (
        (["audit", "nothing.jsonl"], "no such file"),
        (["audit", log(), "--ownership", "usage.jsonl"], "usage.jsonl"),
        (["audit", log(), "--invoice", "usage.jsonl"], "usage.jsonl"),
        (["audit", log(), "--map", "usage.jsonl"], "usage.jsonl"),
        (["audit", log(), "--format", "excel"], "there is no format"),
        (["audit", log(), "--json", "--csv"], "choose one"),
        (["audit", log(), "--html", "/no/such/place.html"], "cannot be written"),
        (["audit"], "Missing argument"),
    ):
        done = run(*words)
        assert done.exit_code == 2, words
        assert says in done.stderr, (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


def test_import_and_export_without_a_server() -> None:
    calls = clean(60)
    first = json.loads(run("import", log(calls), "--json").stdout)
    assert first == {"records": len(calls), "posted": len(calls), "known": 0, "closed": 0, "refused": 0,
                     "without_time": 0}  # fmt: skip
    again = run("import", log(calls))
    assert again.stdout == f"0 of {len(calls)} calls are posted.\n"
    assert "in the ledger already" in again.stderr
    report = json.loads(run("report", "spend", "--by", "team", "--since", "2026-10", "--json").stdout)
    assert {row["team"] for row in report["rows"]} == {"search", "support", "billing"}
    cost = sum((call.cost_usd for call in calls if call.status == "ok"), Decimal(0))
    assert Decimal(report["total_usd"]) == cost
    done = run("export", "entries", "--period", "2026-10", "-o", "entries.jsonl")
    assert done.exit_code == 0, done.stderr
    audited = json.loads(run("audit", "entries.jsonl", "--json").stdout)
    assert audited["format"] == "costbearer"
    assert audited["cost_usd"] == audited["computed_usd"]
    assert Decimal(audited["cost_usd"]) == cost
    assert run("doctor").exit_code == 0
    assert json.loads(run("export", "entries", "--where", "team=search").stdout.splitlines()[0])["team"] == "search"
    assert run("export", "entries", "--period", "autumn").exit_code == 2


def _desk(directory: Directory, control: Control, ledger: Ledger, bookkeeper: Bookkeeper) -> BackfillDesk:
    return BackfillDesk(directory, control, ledger, bookkeeper, closed=lambda: never, gateway_url="http://127.0.0.1")


@pytest.fixture
def running(data: Path) -> Iterator[None]:
    """A console that takes imports, as `costbearer console` runs it."""
    config = load(overrides={"data": str(data / "costbearer-data")}, environ={})
    wiring.prepare(config)
    with (
        Control.open(config.control_file) as control,
        (config.data / client.SERVER_LOCK).open("w") as lock,
        wiring.books(config) as (ledger, bookkeeper, closed),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener = socket.create_server(("127.0.0.1", 0))
        bookkeeper.catch_up()
        routers = [
            imports_router(lambda batch, _: post(ledger, bookkeeper, batch, closed).document()),
            entries_router(ledger.reader),
            directory_router(directory := Directory(control.database), _desk(directory, control, ledger, bookkeeper)),
        ]
        server = uvicorn.Server(
            uvicorn.Config(create_app(config, control, routers=routers), log_config=None, lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        port = listener.getsockname()[1]
        (config.data / client.SERVER_FILE).write_text(json.dumps({"console_url": f"http://127.0.0.1:{port}"}))
        yield
        server.should_exit = True
        thread.join()
        listener.close()


def test_import_and_export_through_a_server(running: None) -> None:
    calls = clean(700)
    first = json.loads(run("import", log(calls), "--json").stdout)
    assert (first["posted"], first["known"]) == (len(calls), 0)
    assert json.loads(run("import", log(calls), "--json").stdout)["known"] == len(calls)
    done = run("export", "entries", "-o", "entries.jsonl")
    assert done.stderr == f"{len(calls):,} entries are in entries.jsonl.\n"
    audited = json.loads(run("audit", "entries.jsonl", "--json").stdout)
    assert (audited["records"], audited["cost_usd"]) == (len(calls), audited["computed_usd"])


def test_a_server_takes_imports_and_nothing_else(running: None, data: Path) -> None:
    config = load(overrides={"data": str(data / "costbearer-data")}, environ={})
    entry = {"journal": "", "sequence": 0, "request_id": "r", "call_id": "c", "started_at": "2026-10-05T08:00:00Z",
             "provider": "openai"}  # fmt: skip
    with client.open_client(config) as remote:
        assert isinstance(remote, client.Remote)
        for body, says in (
            ({"entries": [entry | {"kind": "usage"}]}, "only imports"),
            ({"entries": "no"}, "list"),
            ({"entries": [{"kind": "import"}]}, "entries"),
            ({"entries": [entry | {"kind": "import"}] * 1001}, "1000"),
        ):
            with pytest.raises(Exception, match=says):
                remote.document("POST", "/api/v1/imports", body=body)
        answer = remote.document("POST", "/api/v1/imports", body={"entries": [entry | {"kind": "import"}]})
        assert answer["refused"] == 1, "an unknown cost without a reason is not sound"
