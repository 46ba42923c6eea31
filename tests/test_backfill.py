"""Spend that came before: found, labelled, replaced, until nothing is nobody's; by command and by API alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from costbearer import app, console_process, money, reports
from costbearer.cli import root
from costbearer.config import Config, load
from costbearer.ledger import LABELS, Entry
from costbearer.stores import secrets
from costbearer.stores.control import Control
from costbearer.stores.directory import Directory
from tests.factories import make_entry

START = datetime(2026, 9, 20, tzinfo=UTC)
ANA = {"owner": "ana", "team": "search", "agent": "reports", "workload": "nightly"}
NOBODY: dict[str, Any] = {**dict.fromkeys(LABELS), "kind": "import", "attribution": {}, "key_team": None}


def imported() -> list[Entry]:
    """Two dear keys, the one partly labelled, and five that hardly cost anything."""
    found = []
    for number in range(1, 41):
        at = START + timedelta(days=number // 2)
        key = "sk-dear" if number <= 25 else "sk-half" if number <= 35 else f"sk-tail-{number - 35}"
        said = {"team": "search"} if key == "sk-half" else {}
        usage_shape = {} if number <= 35 else {"usage": type(make_entry("j", 1).usage)(input_tokens=1, output_tokens=0)}
        found.append(
            make_entry(
                "j",
                number,
                **NOBODY | said | {"key_id": key, "call_id": f"imp_{number}", "started_at": at, **usage_shape},
            )
        )
    return found


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    config = load(overrides={"data": str(tmp_path / "data")}, environ={})
    app.prepare(config)
    with app.books(config) as (_, bookkeeper, _):
        bookkeeper.record(imported())
    return config


def run(config: Config, *words: str) -> Result:
    result = CliRunner().invoke(root, [*words, "--data", str(config.data)])
    assert "Traceback" not in result.output
    return result


def listed(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(config, "keys", "backfill", "--json").stdout)
    return found


def words_of(labels: dict[str, str]) -> list[str]:
    return [word for name, value in labels.items() for word in (f"--{name}", value)]


def total_by(config: Config, by: str) -> dict[str, str]:
    result = run(config, "report", "spend", "--by", by, "--since", "2026-09", "--until", "2026-12", "--json")
    return {row[by]: row["cost_usd"] for row in json.loads(result.stdout)["rows"]}


def test_keys_are_ranked_by_dollars_with_what_to_do(config: Config) -> None:
    document = listed(config)
    assert [row["key"] for row in document["rows"]][:2] == ["sk-dear", "sk-half"]
    assert [row["do"] for row in document["rows"]] == ["label", "label", *["rotate"] * 5]
    assert document["unattributed_usd"] == document["total_usd"]
    assert document["rows"][-1]["cumulative_share"] == 1.0
    text = run(config, "keys", "backfill").stdout
    assert "sk-dear" in text and "on 7 keys" in text
    lines = run(config, "keys", "backfill", "--csv").stdout.splitlines()
    assert len(lines) == 8 and lines[0].startswith("rank,key,")


def test_labelling_is_shown_before_it_is_posted_and_moves_every_dollar(config: Config) -> None:
    before = total_by(config, "owner")
    command = ["keys", "backfill", "label", "sk-dear", *words_of(ANA)]
    shown = run(config, *command)
    assert shown.exit_code == 0 and "Nothing is posted" in shown.stderr
    assert total_by(config, "owner") == before
    done = json.loads(run(config, *command, "--apply", "--json").stdout)["keys"][0]
    assert (done["calls"], done["applied"]) == (25, 50)
    after = total_by(config, "owner")
    assert after["ana"] == done["cost_usd"]
    assert money.total(map(money.usd, after.values())) == money.total(map(money.usd, before.values()))
    assert "sk-dear" not in [row["key"] for row in listed(config)["rows"]]
    again = run(config, *command, "--apply")
    assert again.exit_code == 2 and "no call of key 'sk-dear' lacks a label" in again.stderr
    assert json.loads(run(config, "doctor", "--json").stdout)["findings"][-3]["ok"]


def test_labels_are_inferred_and_what_the_log_said_stays(config: Config) -> None:
    labels = ANA | {"team": "another"}
    assert run(config, "keys", "backfill", "label", "sk-half", *words_of(labels), "--apply").exit_code == 0
    assert "another" not in total_by(config, "team"), "the log itself said search"
    with app.books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        with ledger.reader() as reader:
            asked = [("where", "owner=ana"), ("since", "2026-09"), ("until", "2026-12")]
            table = reports.answer(reports.question("coverage", asked, now=START), reader)
    rows = {row[0]: dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows}
    assert rows["owner"]["inferred_usd"] == table.totals["total_usd"]
    row = json.loads(run(config, "ownership", "show", "--json").stdout)["rows"][-1]
    assert (row["kind"], row["value"], row["team"], row["from"]) == ("key", "sk-half", "another", None)


def test_only_from_a_day_on(config: Config) -> None:
    day = "2026-09-25"
    done = run(config, "keys", "backfill", "label", "sk-dear", *words_of(ANA), "--from", day, "--apply", "--json")
    moved = json.loads(done.stdout)["keys"][0]
    assert 0 < moved["calls"] < 25
    left = next(row for row in listed(config)["rows"] if row["key"] == "sk-dear")
    assert left["calls"] == 25 - moved["calls"] and left["last"] < day


def test_what_concerns_a_closed_month_is_posted_in_the_open_one(config: Config) -> None:
    september = run(
        config, "report", "spend", "--by", "owner", "--since", "2026-09", "--until", "2026-10", "--json"
    ).stdout
    assert run(config, "close", "2026-09").exit_code == 0
    shown = run(config, "keys", "backfill", "label", "sk-dear", *words_of(ANA), "--apply")
    assert "closed: posted in the open month" in shown.stdout
    again = run(config, "report", "spend", "--by", "owner", "--since", "2026-09", "--until", "2026-10", "--json").stdout
    assert json.loads(again)["rows"] == json.loads(september)["rows"]


def test_the_tail_is_replaced_by_keys_with_four_labels_shown_once(config: Config, tmp_path: Path) -> None:
    plan = tmp_path / "plan.csv"
    assert run(config, "keys", "backfill", "plan", "--do", "rotate", "-o", str(plan)).exit_code == 0
    head, *rows = plan.read_text().splitlines()
    assert head == "key,owner,team,agent,workload" and len(rows) == 5
    faulty = run(config, "keys", "backfill", "rotate", "--file", str(plan), "--expires", "30d")
    assert faulty.exit_code == 2 and "row 1: owner" in faulty.stderr
    filled = [f"{row.split(',')[0]},{'bob' if place else 'amy'},ads,bot,nightly" for place, row in enumerate(rows)]
    plan.write_text("\n".join([head, *filled]) + "\n")
    done = json.loads(
        run(config, "keys", "backfill", "rotate", "--file", str(plan), "--expires", "30d", "--json").stdout
    )
    assert len({row["key"] for row in done["keys"]}) == 5
    assert all(row["key"].startswith("cbk_") and row["team"] == "ads" for row in done["keys"])
    held = json.loads(run(config, "keys", "list", "--json").stdout)["keys"]
    assert {key["key_id"] for key in held} == {row["key_id"] for row in done["keys"]}
    states = {row["key"]: row["do"] for row in listed(config)["rows"]}
    assert states["sk-tail-1"] == "waits for its last day"
    again = run(config, "keys", "backfill", "rotate", "--file", str(plan), "--expires", "30d")
    assert again.exit_code == 2 and "replaced before" in again.stderr
    assert len(json.loads(run(config, "keys", "list", "--json").stdout)["keys"]) == 5, "nothing was issued"


def test_use_after_the_last_day_is_shown(config: Config) -> None:
    from costbearer.backfill import Replaced, Unborne, document

    seen = Unborne("k", "openai", 1, money.usd("1"), 0, START, START, {})
    late = Replaced("key_x", START - timedelta(days=1))
    (row,) = document([seen], money.usd("1"), lambda _: late, START)["rows"]
    assert row["do"] == "used after its last day"
    (row,) = document([seen], money.usd("1"), lambda _: Replaced("key_x", START + timedelta(1)), START + timedelta(2))[
        "rows"
    ]
    assert row["do"] == "label its past"


def test_everything_labelled_is_nothing_left(config: Config, tmp_path: Path) -> None:
    rows = listed(config)["rows"]
    plan = tmp_path / "all.csv"
    lines = [",".join([row["key"], *ANA.values()]) for row in rows]
    plan.write_text("\n".join(["key,owner,team,agent,workload", *lines]) + "\n")
    assert run(config, "keys", "backfill", "label", "--file", str(plan), "--apply").exit_code == 0
    assert listed(config) == {
        "total_usd": listed(config)["total_usd"],
        "unattributed_usd": "0.000000000000",
        "unattributed_share": 0.0,
        "keys": 0,
        "rows": [],
    }
    assert "Nothing is nobody's" in run(config, "keys", "backfill").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keys", "backfill", "label"], "name one KEY"),
        (["keys", "backfill", "label", "sk-dear", "--owner", "n/a"], "owner"),
        (["keys", "backfill", "label", "sk-dear", *words_of(ANA), "--from", "tomorrow"], "from: must be a day"),
        (["keys", "backfill", "label", "sk-none", *words_of(ANA)], "lacks a label"),
        (["keys", "backfill", "rotate", "--file", "nowhere.csv", "--expires", "30d"], "cannot be read"),
        (["figures", "import", "nowhere.csv", "--name", "orders"], "cannot be read"),
        (["figures", "import", "nowhere.csv", "--name", "session"], "cannot name a business figure"),
        (["figures", "show", "oranges"], "there is no business figure"),
        (["ownership", "import", "nowhere.yaml"], "cannot be read"),
    ],
)
def test_bad_input_is_said_in_one_line(config: Config, words: list[str], said: str) -> None:
    result = run(config, *words)
    assert result.exit_code == 2
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1


# -- business figures


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("day,amount\n2026-10-01,1\n", "first line must be"),
        ("date,amount\n2026-13-01,1\n", "row 1: date"),
        ("date,amount\n2026-10-01,-1\n", "row 1: amount"),
        ("date,amount\n2026-10-01,1e5\n", "row 1: amount"),
        ("date,amount\n2026-10-01,nan\n", "row 1: amount"),
        ("date,amount,label\n2026-10-01,1,a\n2026-10-01,2,a\n", "row 2: there is a line"),
        ("date,amount\n2026-10-01,1,2\n", "row 1: it has more cells"),
        ("date,amount,label\n2026-10-01,1," + "x" * 2000 + "\n", "row 1: label"),
    ],
)
def test_a_figure_that_cannot_be_used_names_its_row(config: Config, tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "figure.csv"
    file.write_text(text)
    result = run(config, "figures", "import", str(file), "--name", "orders")
    assert result.exit_code == 2 and fault in result.stderr


def test_importing_a_figure_again_changes_nothing_and_a_new_line_takes_the_old_ones_place(
    config: Config, tmp_path: Path
) -> None:
    file = tmp_path / "figure.csv"
    file.write_text("date,amount,label\n2026-10-01,4,acme\n2026-10-02,6.50,\n")
    command = ["figures", "import", str(file), "--name", "orders", "--json"]
    assert [json.loads(run(config, *command).stdout)["changed"] for _ in range(2)] == [2, 0]
    file.write_text("date,amount,label\n2026-10-01,5,acme\n")
    assert json.loads(run(config, *command).stdout)["changed"] == 1
    shown = json.loads(run(config, "figures", "show", "orders", "--json").stdout)
    assert [(line["date"], line["amount"], line["label"]) for line in shown["lines"]] == [
        ("2026-10-01", "5", "acme"),
        ("2026-10-02", "6.50", ""),
    ]


# -- over HTTP


@pytest.fixture
def client(config: Config) -> Iterator[TestClient]:
    with console_process.console_parts(config) as application:
        token = secrets.admin_token(config.data)
        headers = {"authorization": f"Bearer {token}"}
        with TestClient(application, base_url="http://127.0.0.1:4001", headers=headers) as client:
            yield client


def test_the_api_does_what_the_commands_do(client: TestClient, config: Config) -> None:
    rows = client.get("/api/v1/backfill").json()["rows"]
    assert len(rows) == 7
    shown = client.post("/api/v1/backfill/labels", json={"key": "sk-dear", **ANA})
    assert (shown.status_code, shown.json()["applied"]) == (200, None)
    done = client.post("/api/v1/backfill/labels", json={"key": "sk-dear", **ANA, "apply": True}).json()
    assert done["applied"] == 50
    made = client.post(
        "/api/v1/backfill/rotations", json={"keys": [{"key": "sk-tail-1", **ANA}], "expires": "2027-12-01"}
    )
    assert made.status_code == 201 and made.json()["keys"][0]["owner"] == "ana"
    assert (
        client.post(
            "/api/v1/backfill/rotations", json={"keys": [{"key": "sk-tail-1", **ANA}], "expires": "1d"}
        ).status_code
        == 409
    )
    wrong = client.post(
        "/api/v1/backfill/rotations", json={"keys": [{"key": "a"}, {"key": "b", **ANA, "x": 1}], "expires": "never"}
    )
    assert wrong.status_code == 422
    assert {"expires", "keys, row 1", "keys, row 2"} <= set(wrong.json()["error"]["fields"])
    assert (
        client.post("/api/v1/backfill/labels", json={"key": "sk-half", "owner": "-", "apply": "yes"}).status_code == 422
    )
    lines = [{"date": "2026-10-01", "amount": "3", "label": "acme"}]
    assert client.post("/api/v1/figures/orders", json={"lines": lines}).json()["changed"] == 1
    assert client.get("/api/v1/figures/orders").json()["lines"] == lines
    assert client.get("/api/v1/figures/oranges").status_code == 404
    assert client.post("/api/v1/figures/orders", json={"lines": [{"date": "x"}]}).status_code == 422
    row = {"kind": "identity", "value": "ci-*", "team": "platform", "from": "2026-10-01"}
    assert client.post("/api/v1/ownership", json={"rows": [row]}).json() == {"rows": 1, "added": 1}
    assert client.post("/api/v1/ownership", json={"rows": [row]}).json() == {"rows": 1, "added": 0}
    bad = client.post("/api/v1/ownership", json={"rows": [{"kind": "colour", "value": "", "team": "-"}]})
    assert bad.status_code == 422 and "rows, row 1" in bad.json()["error"]["fields"]
    text = client.get("/metrics").text
    assert 'costbearer_field_cost_usd{field="owner",provenance="inferred"}' in text
    assert "costbearer_unattributed_cost_usd" in text
    with Control.open(config.control_file) as control:
        assert [row.value for row in Directory(control.database).owners()] == ["sk-dear", "ci-*"]


def test_the_map_that_is_kept_matches_what_an_audit_matches() -> None:
    from costbearer import owners
    from costbearer.audit import ownership

    assert set(owners.KINDS) == set(ownership.KINDS)


def test_an_import_uses_the_map_that_is_kept(config: Config, tmp_path: Path) -> None:
    from tests.usagelogs import WRITERS, clean

    file = tmp_path / "log.jsonl"
    calls = [type(call)(**{**call.__dict__, "team": None, "owner": None}) for call in clean(20)]
    file.write_text(WRITERS["litellm"](calls))
    keys = {json.loads(line)["api_key"] for line in file.read_text().splitlines()}
    rows = tmp_path / "map.csv"
    rows.write_text("key,owner,team\n" + "".join(f"{key},zoe,mapped\n" for key in keys))
    assert run(config, "ownership", "import", str(rows)).exit_code == 0
    assert run(config, "import", str(file)).exit_code == 0
    result = run(config, "report", "spend", "--by", "owner,team", "--since", "2026-01", "--json")
    assert ("zoe", "mapped") in {(row["owner"], row["team"]) for row in json.loads(result.stdout)["rows"]}
