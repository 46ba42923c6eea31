"""`costbearer prices` by transcript, on the stores themselves and through a running server."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result

from costbearer.cli import client, root
from costbearer.config import load
from costbearer.console.api_prices import prices_router
from costbearer.console.app import create_app
from costbearer.price_desk import Desk
from costbearer.stores import archive
from costbearer.stores.control import Control

BUNDLED = hashlib.sha256(archive.bundled()).hexdigest()
NEWER = archive.bundled().replace(b'"as_of":"2026', b'"as_of":"2027')
CHANGED = NEWER.replace(b'"input":"0.00015"', b'"input":"0.00016"', 1)


def spoken(text: str) -> str:
    text = re.sub(r"#[0-9a-f]{12}", "#CARD", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "HASH", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME", text)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("COSTBEARER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "costbearer-data"
    made.mkdir()
    return made


@pytest.fixture
def running(data: Path) -> Iterator[None]:
    """A console on a free port, as `costbearer console` runs it: the lock held, its address written."""
    config = load(overrides={"data": str(data)}, environ={})
    with Control.open(config.control_file) as control, (data / client.SERVER_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener = socket.create_server(("127.0.0.1", 0))
        app = create_app(config, control, routers=[prices_router(Desk(config.prices_dir, acts=control.database))])
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (data / client.SERVER_FILE).write_text(json.dumps({"console_url": url}))
        yield
        server.should_exit = True
        thread.join()
        (data / client.SERVER_FILE).unlink()


@pytest.fixture(params=["alone", "through a server"])
def either(request: pytest.FixtureRequest) -> None:
    """Both ways must read the same."""
    if request.param != "alone":
        request.getfixturevalue("running")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["prices", *arguments])


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("either")
def test_list() -> None:
    result = done("list", "--provider", "openai", "--model", "o1*", "--at", "2026-11-22")
    assert result.stdout == (
        "PROVIDER  MODEL       INPUT    CACHE READ INPUT  CACHE CREATION INPUT  OUTPUT   SINCE\n"
        "openai    o1          $15.00   $7.50             -                     $60.00   -\n"
        "openai    o1-mini     $1.10    $0.55             -                     $4.40    -\n"
        "openai    o1-preview  $15.00   $7.50             -                     $60.00   -\n"
        "openai    o1-pro      $150.00  -                 -                     $600.00  -\n"
    )
    assert result.stderr == ""
    document = json.loads(done("list", "--model", "o1-pro", "--provider", "openai", "--json").stdout)
    assert (document["archive"], len(document["prices"])) == (BUNDLED, 1)
    rows = list(csv.DictReader(io.StringIO(done("list", "--model", "o1-pro", "--csv", "--provider", "openai").stdout)))
    assert [(row["meter"], row["price_usd"], row["contract_usd"]) for row in rows] == [
        ("input", "0.000150000000", ""),
        ("output", "0.000600000000", ""),
    ]
    assert done("list", "--model", "no such").stderr == "No model is like that.\n"


@pytest.mark.usefixtures("either")
def test_show() -> None:
    done("set", "--provider", "perplexity", "--model", "sonar", "--since", "2026-01-01", "--discount", "10")
    result = done("show", "sonar", "--at", "2026-11-22")
    assert spoken(result.stdout) == (
        "perplexity/sonar at TIME, archive HASH\n"
        "\n"
        "standard, from the first day\n"
        "  genai-prices; card perplexity/sonar/standard/undated#CARD\n"
        "  input                    $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  output                   $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  requests                 $0.012 each, not metered\n"
        "\n"
        "variant=low, from the first day\n"
        "  genai-prices, overlay perplexity-sonar-request; card perplexity/sonar/variant=low/undated#CARD\n"
        "  input                    $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  output                   $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  request                  $0.005 per request  contract $0.0045 per request\n"
        "\n"
        "variant=medium, from the first day\n"
        "  genai-prices, overlay perplexity-sonar-request; card perplexity/sonar/variant=medium/undated#CARD\n"
        "  input                    $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  output                   $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  request                  $0.008 per request  contract $0.0072 per request\n"
        "\n"
        "variant=high, from the first day\n"
        "  genai-prices, overlay perplexity-sonar-request; card perplexity/sonar/variant=high/undated#CARD\n"
        "  input                    $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  output                   $1.00 per million tokens  contract $0.90 per million tokens\n"
        "  request                  $0.012 per request  contract $0.0108 per request\n"
        "\n"
        "history\n"
        "CONTEXT         DAYS                PRICES (USD per unit)                         HASH\n"
        "standard        from the first day  input=0.000001 output=0.000001                HASH\n"
        "variant=low     from the first day  input=0.000001 output=0.000001 request=0.005  HASH\n"
        "variant=medium  from the first day  input=0.000001 output=0.000001 request=0.008  HASH\n"
        "variant=high    from the first day  input=0.000001 output=0.000001 request=0.012  HASH\n"
    )
    document = json.loads(done("show", "sonar", "--json").stdout)
    assert len(document["cards"]) == len(document["history"]) == 4
    rows = list(csv.DictReader(io.StringIO(done("show", "sonar", "--csv").stdout)))
    assert [row["context"] for row in rows if row["meter"] == "request"] == [
        "variant=low",
        "variant=medium",
        "variant=high",
    ]


@pytest.mark.usefixtures("either")
def test_steps_hours_and_other_sellers_are_shown() -> None:
    shown = done("show", "claude-sonnet-4-5").stdout
    assert "also at google, azure" in shown
    assert (
        "  input                    $3.00 per million tokens, $6.00 per million tokens above 200,000 input tokens\n"
        in (shown)
    )
    night = done("show", "deepseek-chat", "--provider", "deepseek", "--at", "2025-03-01T20:00Z").stdout
    assert ", 16:30-00:30 UTC\n" in night


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gpt-99"], "no price for model 'gpt-99' [not_found]"),
        (
            ["list", "--at", "soon"],
            "at: 'soon' is not a day such as 2026-12-31, or a time with its offset [query_invalid]",
        ),
        (["set", "--provider", "x", "--discount", "-1"], "discount: -1 is negative [prices_invalid]"),
        (["set", "--provider", "x", "--price", "input"], None),
        (["import", "none.toml"], "none.toml cannot be read: No such file or directory [not_found]"),
        (["import", "bad.toml"], "line 2: provider: text of 1 to 256 characters [prices_invalid]"),
        (["update", "--from", "bad.json"], None),
        (["diff", "abcdef012345"], "no archive begins with abcdef012345 [not_found]"),
        (["list", "--json", "--csv"], None),
    ],
)
def test_refusals_are_one_line(arguments: list[str], message: str | None) -> None:
    Path("bad.toml").write_text("[[terms]]\nprovider = ' '\ndiscount = '5'\n")
    Path("bad.json").write_text('{"format": 9}')
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("costbearer: ")
    if message is not None:
        assert result.stderr == f"costbearer: {message}\n"


@pytest.mark.usefixtures("either")
def test_set_says_what_holds() -> None:
    first = done("set", "--provider", "openai", "--model", "gpt-5*", "--since", "2026-01-01", "--discount", "12.5")
    assert spoken(first.output) == "openai/gpt-5*: 12.5 % off, from 2026-01-01\nContract HASH holds.\n"
    more = ("--since", "2026-06-01", "--until", "2027-01-01", "--tier", "batch")
    prices = ("--per-million", "input=2.10", "--per-million", "output=8.4", "--price", "web_search=0.008")
    second = json.loads(done("set", "--provider", "acme", *more, *prices, "--json").stdout)
    assert second["terms"][1] == {
        "provider": "acme",
        "model": "*",
        "tier": "batch",
        "geo": None,
        "since": "2026-06-01",
        "until": "2027-01-01",
        "discount": None,
        "prices": {"web_search": "0.008000000000", "input": "0.000002100000", "output": "0.000008400000"},
    }


@pytest.mark.usefixtures("either")
def test_import_takes_a_contract() -> None:
    Path("agreed.csv").write_text(
        "provider,model,discount,name,fee,every,since\nopenai,,7,,,,\nazure,gpt-4.1,,east,730.5,month,2026-01-01\n"
    )
    assert spoken(done("import", "agreed.csv").output) == (
        "openai/*: 7 % off, from the first day\n"
        "east (azure/gpt-4.1): $730.50 per month, from 2026-01-01\n"
        "Contract HASH holds.\n"
    )
    assert spoken(done("archives").stdout).splitlines()[1].split("  ")[0] == "1"
    rows = list(csv.DictReader(io.StringIO(done("archives", "--csv").stdout)))
    assert [(row["revision"], row["archive"]) for row in rows] == [("1", BUNDLED)]
    assert json.loads(done("archives", "--json").stdout)["bundled"] == BUNDLED


@pytest.mark.usefixtures("either")
def test_an_archive_is_taken_and_what_changed_is_said() -> None:
    Path("changed.json").write_bytes(CHANGED)
    looked = run("update", "--from", "changed.json", "--check")
    assert (looked.exit_code, spoken(looked.stderr)) == (1, "HASH to HASH: 1 changes, 1 to look at\n")
    assert looked.stdout == (
        "CODE                PROVIDER  MODEL   CONTEXT   DAY  OLD            NEW\n"
        "past_price_changed  openai    o1-pro  standard  -    input=0.00015  input=0.00016\n"
    )
    taken = done("import", "changed.json")
    assert (taken.stdout, spoken(taken.stderr)) == (
        looked.stdout,
        "HASH to HASH: 1 changes, 1 to look at, taken\n",
    )
    assert "Another archive came with this version; take it with `costbearer prices update`.\n" in (
        done("show", "o1-pro").stderr
    )
    back = done("diff", "current", "bundled", "--csv")
    assert [row["code"] for row in csv.DictReader(io.StringIO(back.stdout))] == [
        "moved_backwards",
        "past_price_changed",
    ]
    assert json.loads(done("diff", "changed.json", "current", "--json").stdout)["changes"] == []
    again: dict[str, Any] = json.loads(done("update", "--json").stdout)
    assert (again["to"], again["taken"], again["findings"]) == (BUNDLED, True, 2)
    assert done("update", "--check").exit_code == 0


def test_nothing_is_made_for_a_mistyped_directory(tmp_path: Path) -> None:
    Path("c.toml").write_text("")
    for arguments in (["set", "--provider", "x", "--discount", "1"], ["import", "c.toml"], ["update"]):
        result = run(*arguments, "--data", "typo")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"costbearer: there is no data directory {tmp_path / 'typo'};")
    assert run("list", "--model", "o1", "--data", "typo").exit_code == 0  # prices can be looked up without one
    assert not (tmp_path / "typo").exists()
