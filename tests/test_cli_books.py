"""`costbearer restate` and `costbearer prices amortise` by transcript, on the stores and through a running console."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from click.testing import CliRunner, Result

from costbearer import app, console_process, money
from costbearer.cli import client, root
from costbearer.config import Config, load
from costbearer.journal import JournalWriter
from costbearer.stores import archive
from costbearer.usage import Usage
from tests.factories import make_entry, make_unknown, record

TERMS = """
[[terms]]
provider = "nobody"
model = "own-model"
since = 2020-01-01
prices_per_million = { input = "2", output = "5" }

[[commitments]]
name = "ptu-east"
provider = "azure"
model = "gpt-4.1*"
fee = "24"
every = "hour"
since = 2020-01-01
"""
DAY = (datetime.now(UTC) - timedelta(days=2)).replace(hour=9, minute=0, second=0, microsecond=0)
FREE = dict.fromkeys(("cost_usd", "list_cost_usd", "effective_cost_usd", "computed_cost_usd"), money.ZERO)
SINCE, UNTIL = f"{DAY:%Y-%m-%d}", f"{DAY + timedelta(days=1):%Y-%m-%d}"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two calls that are unknown until the contract prices them, one on capacity that is paid by the hour."""
    for name in [name for name in os.environ if name.startswith("COSTBEARER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = load(overrides={"data": str(tmp_path / "costbearer-data")}, environ={})
    app.prepare(made)
    writer = JournalWriter.open(made.journal_dir)
    at: dict[str, Any] = {"started_at": DAY, "ended_at": DAY}
    for _ in range(2):
        told = {"provider": "nobody", "response_model": "own-model", "reason_unknown": "provider_unpriced"}
        used = Usage(input_tokens=1000, output_tokens=200)
        record(
            writer, make_unknown(writer.id, writer.next_sequence, **told, **at, team="search", usage=used, status="ok")
        )
    capacity: dict[str, Any] = {
        "provider": "azure",
        "request_model": "prod",
        "response_model": "gpt-4.1",
        "tier": "provisioned",
        "charges": (),
        "team": "support",
        "usage": Usage(input_tokens=60, output_tokens=40),
    }
    record(writer, make_entry(writer.id, writer.next_sequence, **capacity, **at, **FREE))
    writer.close()
    return made


def take_contract() -> None:
    Path("contract.toml").write_text(TERMS)
    done = run("prices", "import", "contract.toml")
    assert done.exit_code == 0, done.stderr


@contextlib.contextmanager
def console(config: Config) -> Iterator[None]:
    """A whole console on a free port, as `costbearer console` runs it: the lock held, its address written."""
    with (config.data / client.SERVER_LOCK).open("w") as lock, console_process.console_parts(config) as application:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (config.data / client.SERVER_FILE).write_text(json.dumps({"console_url": url}))
        try:
            end = time.monotonic() + 20
            while httpx2.get(f"{url}/readyz").status_code != 200:
                assert time.monotonic() < end
                time.sleep(0.05)
            yield
        finally:
            server.should_exit = True
            thread.join()
            listener.close()
            (config.data / client.SERVER_FILE).unlink()


@pytest.fixture(params=["alone", "through a console"])
def either(request: pytest.FixtureRequest, config: Config) -> Iterator[None]:
    """Both ways must read the same."""
    take_contract()
    if request.param == "alone":
        yield
        return
    with console(config):
        yield


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, list(arguments))


def spoken(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)


@pytest.mark.usefixtures("either")
def test_a_restatement_is_shown_then_posted_and_then_there_is_nothing_left() -> None:
    shown = run("restate", "--since", SINCE)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == (
        "MODEL      TEAM    REPRICED  NOW PRICED  BEFORE $        AFTER $         CHANGE $\n"
        "own-model  search  0         2           0.000000000000  0.006000000000  0.006000000000\n"
    )
    assert spoken(shown.stderr) == (
        "2 calls from TIME to TIME were rated again.\n"
        "2 calls would change, by $ 0.006000000000 in all. Nothing is posted without --apply.\n"
    )
    done = run("restate", "--since", SINCE, "--apply")
    assert done.stderr.endswith("4 entries are posted for 2 calls, $ 0.006000000000 in all.\n")
    again = json.loads(run("restate", "--since", SINCE, "--apply", "--json").stdout)
    assert (again["changes"], again["applied"], again["delta_usd"]) == (0, 0, "0.000000000000")
    assert run("restate", "--since", SINCE).stderr.endswith("Nothing changes.\n")
    report = json.loads(run("report", "spend", "--by", "team", "--since", SINCE, "--json").stdout)
    assert (report["total_usd"], report["unknown_calls"], report["calls"]) == ("0.006000000000", 0, 3)


def test_a_restatement_without_a_price_says_what_stays_unknown() -> None:
    shown = run("restate", "--since", SINCE)
    assert "2 calls have no price still: `costbearer report unknown` says why.\nNothing changes.\n" in shown.stderr


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("command", [("restate",), ("prices", "amortise")])
def test_what_is_no_period_is_refused(command: tuple[str, ...]) -> None:
    done = run(*command, "--since", "soon")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("costbearer: since: ")
    assert done.stderr.endswith("[query_invalid]\n")
    backwards = run(*command, "--since", "2026-11-02", "--until", "2026-11-01")
    assert backwards.exit_code == 2
    assert run(*command).stderr.endswith(f"see `costbearer {' '.join(command)} --help` [usage]\n")


@pytest.mark.parametrize(
    "command", [("restate", "--since", SINCE), ("prices", "amortise", "--since", SINCE), ("close", "2026-10")]
)
def test_without_data_there_is_nothing_to_do(command: tuple[str, ...]) -> None:
    done = run(*command, "--data", "elsewhere")
    assert done.exit_code == 2
    assert re.fullmatch(
        r"costbearer: there is no data directory \S+/elsewhere; name it with --data.* \[not_found\]\n", done.stderr
    )


@pytest.mark.usefixtures("either")
def test_a_fee_is_spread_once() -> None:
    shown = run("prices", "amortise", "--since", SINCE, "--until", UNTIL)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout == (
        "COMMITMENT  TEAM      MODEL    CALLS  TOKENS  EFFECTIVE $\n"
        "ptu-east    support   gpt-4.1  1      100     576.000000000000\n"
        "ptu-east    (nobody)  (none)   0      0       0.000000000000\n"
    )
    assert spoken(shown.stderr) == (
        "1 whole day from TIME to TIME.\n"
        "ptu-east costs $ 576.000000000000 in them, of which $ 0.000000000000 nobody used.\n"
        "1 entry is missing. Nothing is posted without --apply.\n"
    )
    assert run("prices", "amortise", "--since", SINCE, "--until", UNTIL, "--apply").stderr.endswith(
        "1 entry is posted.\n"
    )
    again = run("prices", "amortise", "--since", SINCE, "--until", UNTIL)
    assert again.stderr.endswith("Nothing is missing.\n")
    rows = list(
        csv.DictReader(io.StringIO(run("prices", "amortise", "--since", SINCE, "--until", UNTIL, "--csv").stdout))
    )
    assert [row["effective_cost_usd"] for row in rows] == ["576.000000000000", "0.000000000000"]
    document = json.loads(run("prices", "amortise", "--since", SINCE, "--until", UNTIL, "--json").stdout)
    assert (document["days"], document["missing"], document["applied"]) == (1, 0, None)
    assert run("prices", "amortise", "--since", SINCE, "--json", "--csv").exit_code == 2


def test_without_a_commitment_that_is_said() -> None:
    done = run("prices", "amortise", "--since", SINCE, "--until", UNTIL)
    assert done.exit_code == 0
    assert "No commitment holds in them" in done.stderr


@pytest.mark.usefixtures("either")
def test_a_month_is_closed_once_and_for_ever() -> None:
    done = run("close", "2026-10")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "2026-10 is closed, with all before it.\n")
    again = run("close", "2026-10")
    assert (again.exit_code, again.stderr) == (
        2,
        "costbearer: 2026-10 is closed; the last closed month is 2026-10 [conflict]\n",
    )
    early = run("close", "2099-01")
    assert early.exit_code == 2
    assert "month: 2099-01 is not over yet (in UTC)" in early.stderr
    assert run("close", "october").stderr.startswith("costbearer: month: must be a month such as 2026-10")


def test_the_books_stay_sound(config: Config) -> None:
    take_contract()
    assert archive.current(config.prices_dir).contract
    assert run("restate", "--since", SINCE, "--apply").exit_code == 0
    assert run("prices", "amortise", "--since", SINCE, "--until", UNTIL, "--apply").exit_code == 0
    examined = run("doctor")
    assert examined.exit_code == 0, examined.output
