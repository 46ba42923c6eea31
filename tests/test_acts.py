"""Every administrative act, through every door, leaves exactly its rows in the audit log; without them it is not done.

The acts are held against the route tables and the tree of commands: a route or command that may change something and
has no act here fails the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
import pytest
from click.testing import CliRunner
from httpx2 import Response

from costbearer import app
from costbearer.cli import root
from costbearer.config import Config, load
from costbearer.console.pages.labels_of import NEW
from costbearer.keys import SCANNER_PATTERN
from costbearer.price_desk import packed
from costbearer.stores import archive
from costbearer.stores.control import Control
from tests.pages import Reader, admin_token, console, form_token, settings
from tests.test_backfill import ANA, imported
from tests.test_route_access import CONSOLE

LABELS = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
CONTRACT = b'[[terms]]\nprovider = "openai"\ndiscount = "10"\n'
VIEW = '[[views]]\nname = "{name}"\npage = "/explore"\n'
LINE = {
    "request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "k", "spend": 0.0, "total_tokens": 120,
    "prompt_tokens": 100, "completion_tokens": 20, "startTime": "2026-09-01T00:00:00Z",
    "endTime": "2026-09-01T00:00:01Z", "model": "gpt-4.1", "custom_llm_provider": "openai", "metadata": {},
}  # fmt: skip
LOG = json.dumps(LINE).encode()
PERIOD = "since=2026-09-20&until=2026-09-21"


class Console:
    """A console with somebody signed in, and what is found out on the way."""

    def __init__(self, reader: Reader, config: Config) -> None:
        self.reader, self.config, self.known = reader, config, dict[str, Any]()
        self.token = admin_token(config)
        reader.sign_in(self.token)
        self.form = form_token(reader.page("/help").text)

    def api(self, method: str, path: str, body: object = None, *, content: bytes | None = None) -> Response:
        headers = {"authorization": f"Bearer {self.token}"}
        more: dict[str, Any] = {"content": content} if content is not None else {"json": body}
        return self.reader.request(method, path, headers=headers, **(more if method != "DELETE" else {}))

    def submit(self, path: str, **fields: str) -> Response:
        return self.reader.submit(path, fields, token=self.form)


class Act(NamedTuple):
    """One request. `rows` are the actions it leaves in the log, in order; none where it only looks."""

    route: str
    send: Callable[[Console], Response]
    rows: tuple[str, ...] = ()
    learn: str = ""


def _key(console: Console) -> str:
    found: str = console.known["key"]["key_id"]
    return found


def _post(path: str, body: object = None, *rows: str, of: str = "", learn: str = "", method: str = "POST") -> Act:
    address = path.partition("?")[0]
    return Act(
        f"{method} {of or address}",
        lambda console: console.api(method, path.format(**_names(console)), body),
        rows,
        learn,
    )


def _form(path: str, *rows: str, of: str = "", fields: Callable[[Console], dict[str, str]] | None = None) -> Act:
    return Act(
        f"POST {of or path}",
        lambda console: console.submit(path.format(**_names(console)), **(fields(console) if fields else {})),
        rows,
    )


def _names(console: Console) -> dict[str, Any]:
    return {
        "key": console.known.get("key", {}).get("key_id"),
        "finding": console.known.get("finding"),
        "audit": console.known.get("audit"),
        "number": console.known.get("note", {}).get("number"),
    }


CHOSEN = {"owner": "Grace", "team": "ads", "agent": "bidder", "workload": "bid"}


def _new() -> dict[str, str]:
    return {f"{name}{NEW}": text for name, text in CHOSEN.items()}


def _version(console: Console) -> str:
    """What the page of the key says it was made from."""
    with Control.open(console.config.control_file, read_only=True) as control:
        return str(len(control.audit_rows(_key(console))))


def _audited(console: Console) -> Response:
    answer = console.submit("/findings/audit", text=LOG.decode())
    assert answer.status_code == 303, answer.text
    console.known["audit"] = answer.headers["location"].rpartition("/")[2]
    end = time.monotonic() + 30
    while console.reader.get(f"/findings/audit/{console.known['audit']}.json").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    return answer


def _kept(console: Console) -> Response:
    answer = console.api("POST", "/api/v1/audits?name=log.jsonl&keep=true", content=LOG)
    found = console.api("GET", "/api/v1/findings").json()["findings"]
    console.known["finding"] = found[0]["finding_id"] if found else None
    return answer


def _changed(console: Console) -> Response:
    own = f"/api/v1/findings/{console.known['finding']}"
    version = console.api("GET", own).json()["version"]
    return console.api("POST", own, {"version": version, "comment": "seen"})


def _entry(number: int) -> dict[str, Any]:
    made = imported()[0]
    return dict(msgspec.to_builtins(msgspec.structs.replace(made, call_id=f"imp_new_{number}", sequence=900 + number)))


ACTS: tuple[Act, ...] = (
    _post("/api/v1/keys", LABELS, "key.issue", learn="key"),
    _post("/api/v1/peppers", {}, "pepper.rotate"),
    _post("/api/v1/peppers/1/retire", {"anyway": True}, "pepper.retire", of="/api/v1/peppers/{version}/retire"),
    _post("/api/v1/hash-keys", {}, "hash_key.rotate"),
    _post("/api/v1/hash-keys/1/retire", {"anyway": True}, "hash_key.retire", of="/api/v1/hash-keys/{version}/retire"),
    _post("/api/v1/keys/{key}/rotate", {"overlap": "1h"}, "key.rotate", of="/api/v1/keys/{key_id}/rotate"),
    _post("/api/v1/keys/{key}/relabel", {"team": "maps"}, "key.relabel", of="/api/v1/keys/{key_id}/relabel"),
    _post("/api/v1/figures/orders", {"lines": [{"date": "2026-09-01", "amount": "3"}]}, "figures.import",
          of="/api/v1/figures/{name}"),
    _post("/api/v1/ownership", {"rows": [{"kind": "key", "value": "k1", "owner": "ana"}]}, "ownership.import"),
    _post("/api/v1/imports", {"entries": [_entry(1)]}, "entries.import"),
    _post("/api/v1/prices/update", {"check": True}),
    _post("/api/v1/prices/update", {"content": packed(archive.bundled().replace(b'"as_of":"2026', b'"as_of":"2027'))},
          "prices.update"),
    _post("/api/v1/prices/contract", {"content": packed(CONTRACT)}, "prices.contract", method="PUT"),
    _post("/api/v1/prices/contract/terms", {"provider": "anthropic", "discount": "5"}, "prices.term"),
    _post("/api/v1/backfill/labels", {"key": "sk-half", **ANA}),
    _post("/api/v1/backfill/labels", {"key": "sk-half", **ANA, "apply": True}, "ownership.import"),
    _post("/api/v1/backfill/rotations",
          {"keys": [{"key": "sk-tail-1", **ANA}, {"key": "sk-tail-2", **ANA}], "expires": "30d"},
          "key.issue", "keys.replace", "key.issue", "keys.replace"),
    _post(f"/api/v1/restatements?{PERIOD}"),
    _post(f"/api/v1/restatements?{PERIOD}&apply=true", None, "restatement.post"),
    _post(f"/api/v1/amortisations?{PERIOD}"),
    _post(f"/api/v1/amortisations?{PERIOD}&apply=true", None, "amortisation.post"),
    _post("/api/v1/views", {"name": "v1", "page": "/explore"}, "view.save"),
    _post("/api/v1/views/apply", {"content": VIEW.format(name="v2"), "check": True}),
    _post("/api/v1/views/apply", {"content": VIEW.format(name="v2"), "remove": True}, "view.save", "view.remove"),
    _post("/api/v1/views/v2", None, "view.remove", of="/api/v1/views/{name}", method="DELETE"),
    _post("/api/v1/annotations", {"day": "2026-09-02", "text": "moved"}, "annotation.add", learn="note"),
    _post("/api/v1/annotations/{number}", None, "annotation.remove", of="/api/v1/annotations/{number}",
          method="DELETE"),
    Act("POST /api/v1/audits", _kept, ("findings.keep",)),
    Act("POST /api/v1/findings/{finding_id}", _changed, ("finding.change",)),
    _post("/api/v1/periods", {"month": "2026-01"}, "period.close"),
    _form("/keys/issue", "key.issue", fields=lambda _: _new() | {"once": "1"}),
    _form("/keys/{key}/rotate", "key.rotate", of="/keys/{key_id}/rotate",
          fields=lambda console: {"version": _version(console), "overlap": "0", "once": "2"}),
    _form("/keys/{key}/relabel", "key.relabel", of="/keys/{key_id}/relabel",
          fields=lambda console: {"version": _version(console), "team": "ads"}),
    _form("/keys/{key}/revoke", "key.revoke", of="/keys/{key_id}/revoke",
          fields=lambda console: {"version": _version(console), "sure": "yes"}),
    _form("/backfill/label", "ownership.import", fields=lambda _: {"key": "sk-dear", "apply": "yes", **CHOSEN}),
    _form("/backfill/rotate", "key.issue", "keys.replace",
          fields=lambda _: {"key": "sk-tail-3", "expires": "30d", **CHOSEN}),
    _post("/api/v1/keys", LABELS, "key.issue", learn="key"),
    _post("/api/v1/keys/{key}/revoke", {}, "key.revoke", of="/api/v1/keys/{key_id}/revoke"),
    Act("POST /findings/audit", _audited),
    _form("/findings/audit/{audit}/keep", "findings.keep", of="/findings/audit/{audit_id}/keep",
          fields=lambda _: {"log": "other.jsonl"}),
    _form("/findings/{finding}", "finding.change", of="/findings/{finding_id}",
          fields=lambda console: {
              "version": str(console.api("GET", f"/api/v1/findings/{console.known['finding']}").json()["version"]),
              "status": "in_progress", "owner": "", "comment": "mine"}),
    _form("/prices/contract", "prices.term", fields=lambda console: {
        "provider": "gemini", "discount": "3",
        "head": str(console.api("GET", "/api/v1/prices/archives").json()["held"][0]["revision"])}),
    _form("/views", "view.save", fields=lambda _: {"name": "v3", "page": "/explore", "version": "0"}),
    _form("/views/apply", "view.save", fields=lambda _: {"content": VIEW.format(name="v4"), "apply": "yes"}),
    _form("/views/remove", "view.remove", fields=lambda _: {"name": "v3"}),
    _form("/annotations", "annotation.add", fields=lambda _: {"day": "2026-09-03", "text": "again"}),
    _form("/annotations/remove", "annotation.remove", fields=lambda _: {"number": "2"}),
    Act("POST /sign-in", lambda console: console.reader.sign_in(console.token), ("session.begin",)),
    _form("/sign-out", "session.end"),
    Act("POST /sign-in", lambda console: console.reader.sign_in(console.token), ("session.begin",)),
    _form("/sign-out-everywhere", "session.end_all"),
)  # fmt: skip
"""In this order: some need what came before them."""
SLOW = ("restatements", "amortisations", "backfill/label", "audit", "findings")
"""What asks the ledger or runs an audit takes a second; `make soak` does that too."""
QUICK = tuple(act for act in ACTS if not any(word in act.route for word in SLOW))


def state(config: Config) -> str:
    """Everything that acts change, but for the log of them: the control store, the prices, the books."""
    connection = sqlite3.connect(config.control_file)
    lines = [line for line in connection.iterdump() if '"audit_log"' not in line and "sqlite_sequence" not in line]
    connection.close()
    current = config.prices_dir / "current.json"
    lines.append(current.read_text() if current.exists() else "")
    books = sorted(config.journal_dir.rglob("*.parquet"))
    lines += [str(path) for path in books]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def log_of(config: Config) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(config.control_file)
    rows = connection.execute("SELECT action, who, source, request_id, before, after FROM audit_log ORDER BY number")
    found = rows.fetchall()
    connection.close()
    return found


@contextlib.contextmanager
def full_log(config: Config) -> Iterator[None]:
    """The log takes no row."""
    connection = sqlite3.connect(config.control_file, isolation_level=None)
    connection.execute("CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'it is full'); END")
    try:
        yield
    finally:
        connection.execute("DROP TRIGGER full")
        connection.close()


def test_every_route_that_may_change_something_has_an_act() -> None:
    """`test_route_access` holds the same table against the application's routes."""
    assert {act.route for act in ACTS} == {
        route for kind in CONSOLE.values() for route in kind if not route.startswith("GET ")
    }


@pytest.mark.parametrize("acts", [QUICK, pytest.param(ACTS, marks=pytest.mark.soak)], ids=["quick", "all"])
def test_every_act_of_the_console_leaves_its_rows_or_is_not_done(tmp_path: Path, acts: tuple[Act, ...]) -> None:
    config = settings(tmp_path)
    with console(config, imported()) as reader:
        signed_in = Console(reader, config)
        for act in acts:
            if act.route in {"POST /sign-in"}:
                reader.cookies.clear()
            before, rows = state(config), len(log_of(config))
            with full_log(config):
                answer = act.send(signed_in)
            assert (answer.status_code >= 500) == bool(act.rows), (act.route, answer.status_code, answer.text)
            assert (state(config), len(log_of(config))) == (before, rows), f"{act.route} was done without its row"
            if not act.rows:
                continue
            answer = act.send(signed_in)
            assert answer.status_code < 400, (act.route, answer.status_code, answer.text[-3000:])
            assert tuple(row[0] for row in log_of(config)[rows:]) == act.rows, act.route
            assert all(all(row[1:4]) for row in log_of(config)[rows:]), "who, from where, in which request"
            if act.learn:
                signed_in.known[act.learn] = answer.json()
            if act.route == "POST /sign-in":
                signed_in.form = form_token(reader.page("/help").text)
        told = json.dumps(log_of(config))
    assert not re.search(SCANNER_PATTERN, told)
    assert signed_in.token not in told and signed_in.form not in told
    print(f"{len(acts)} acts of the console: each has its rows, none is done without, 0 secrets in them")


# -- the command line, without a server


class Command(NamedTuple):
    words: tuple[str, ...]
    rows: tuple[str, ...]


LABEL_WORDS = tuple(word for name, text in LABELS.items() for word in (f"--{name}", text))
ANA_WORDS = tuple(word for name, text in ANA.items() for word in (f"--{name}", text))
SPAN = ("--since", "2026-09-20", "--until", "2026-09-21")
COMMANDS: tuple[Command, ...] = (
    Command(("keys", "issue", *LABEL_WORDS), ("key.issue",)),
    Command(("keys", "rotate", "{key}"), ("key.rotate",)),
    Command(("secrets", "rotate"), ("pepper.rotate",)),
    Command(("secrets", "retire", "1", "--anyway"), ("pepper.retire",)),
    Command(("secrets", "rotate", "--hashes"), ("hash_key.rotate",)),
    Command(("secrets", "retire", "1", "--hashes", "--anyway"), ("hash_key.retire",)),
    Command(("keys", "relabel", "{key}", "--team", "ads"), ("key.relabel",)),
    Command(("keys", "revoke", "{key}"), ("key.revoke",)),
    Command(("keys", "backfill", "label", "sk-dear", *ANA_WORDS, "--apply"), ("ownership.import",)),
    Command(
        ("keys", "backfill", "rotate", "--expires", "30d", "--file", "{plan}"),
        ("key.issue", "keys.replace"),
    ),
    Command(("prices", "set", "--provider", "openai", "--discount", "5"), ("prices.term",)),
    Command(("prices", "import", "{contract}"), ("prices.contract",)),
    Command(("prices", "update", "--from", "{archive}"), ("prices.update",)),
    Command(("prices", "amortise", *SPAN, "--apply"), ("amortisation.post",)),
    Command(("restate", *SPAN, "--apply"), ("restatement.post",)),
    Command(("close", "2026-01"), ("period.close",)),
    Command(("import", "{log}"), ("entries.import",)),
    Command(("ownership", "import", "{map}"), ("ownership.import",)),
    Command(("figures", "import", "{figures}", "--name", "orders"), ("figures.import",)),
    Command(("views", "apply", "{views}"), ("view.save",)),
    Command(("views", "remove", "v1"), ("view.remove",)),
    Command(("annotations", "add", "2026-09-02", "moved"), ("annotation.add",)),
    Command(("annotations", "remove", "1"), ("annotation.remove",)),
)
QUICK_COMMANDS = tuple(
    each
    for each in COMMANDS
    if each.words[0] not in {"restate", "import"} and not {"amortise", "label"} & set(each.words)
)
LOOKS = frozenset(
    {
        *("serve", "gateway", "console", "simulate", "demo", "config show", "version", "doctor", "audit"),
        *("keys list", "keys show", "keys backfill plan", "prices list", "prices show", "prices archives"),
        *("prices diff", "ownership show", "figures show", "views list", "views export", "views diff"),
        *("annotations list", "export entries", "secrets list"),
    }
)
"""Commands that change nothing themselves. What a server does is done through its own doors, and a ledger that
`doctor --rebuild` makes anew is what it was."""


def leaves(command: click.Command, name: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from leaves(found, f"{name} {word}".strip())
    else:
        yield name


def test_every_command_acts_or_looks() -> None:
    names = sorted(leaves(root), key=len, reverse=True)
    acting = {next(name for name in names if " ".join(each.words).startswith(name)) for each in COMMANDS}
    reports = {name for name in leaves(root) if name.startswith("report ")}
    assert set(leaves(root)) == acting | LOOKS | reports
    assert not acting & LOOKS


def files(directory: Path) -> dict[str, str]:
    made = {
        "contract": ("contract.toml", CONTRACT),
        "archive": ("archive.json", archive.bundled().replace(b'"as_of":"2026', b'"as_of":"2027')),
        "log": ("usage.jsonl", LOG),
        "map": ("map.csv", b"key,owner,team\nk1,ana,search\n"),
        "figures": ("figures.csv", b"date,amount\n2026-09-01,3\n"),
        "views": ("views.toml", VIEW.format(name="v1").encode()),
        "plan": ("plan.csv", b"key,owner,team,agent,workload\nsk-tail-1,ana,search,reports,nightly\n"),
    }
    for name, data in made.values():
        (directory / name).write_bytes(data)
    return {name: str(directory / file) for name, (file, _) in made.items()}


@pytest.mark.parametrize(
    "commands", [QUICK_COMMANDS, pytest.param(COMMANDS, marks=pytest.mark.soak)], ids=["quick", "all"]
)
def test_every_act_of_the_command_line_leaves_its_rows_or_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: tuple[Command, ...]
) -> None:
    for name in ("COSTBEARER_URL", "COSTBEARER_TOKEN", "COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    config = load(overrides={"data": str(tmp_path / "data")}, environ={})
    app.prepare(config)
    with app.books(config) as (_, bookkeeper, _closed):
        bookkeeper.record(imported())
    known = files(tmp_path)

    def run(command: Command) -> Any:
        words = [word.format(**known) for word in command.words]
        return CliRunner().invoke(root, [*words, "--data", str(config.data)])

    for command in commands:
        before, rows = state(config), len(log_of(config))
        with full_log(config):
            refused = run(command)
        assert refused.exit_code == 2, (command.words, refused.output)
        assert (state(config), len(log_of(config))) == (before, rows), f"{command.words} was done without its row"
        done = run(command)
        assert done.exit_code == 0, (command.words, done.output)
        assert tuple(row[0] for row in log_of(config)[rows:]) == command.rows, command.words
        if command.words[:2] == ("keys", "issue"):
            connection = sqlite3.connect(config.control_file)
            known["key"] = connection.execute("SELECT key_id FROM keys").fetchone()[0]
            connection.close()
    print(f"{len(commands)} acts of the command line: each has its rows, none is done without")
