"""`costbearer keys`, `config` and `version` by transcript: what goes to stdout, what to stderr, and the exit code.

Ids, keys and times differ in every run; `spoken` puts names in their place before a transcript is compared.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result

from costbearer import app as wiring
from costbearer.cli import COMMANDS, client, root
from costbearer.config import load
from costbearer.console.app import create_app
from costbearer.keys import parse_key
from costbearer.stores import secrets
from costbearer.stores.control import Control

LABELS = ("--owner", "ada", "--team", "search", "--agent", "ranker", "--workload", "rerank")

ISSUED = """\
Key KEY_ID is issued for owner ada, team search, agent ranker, workload rerank.
It expires on TIME, in 90 days. It is shown only now; a keyed hash of it is kept.

KEY

Put it where the provider's own key was:

  export COSTBEARER_KEY=...   # the key above

  # Python, OpenAI SDK
  client = OpenAI(base_url="http://127.0.0.1:4000/v1", api_key=os.environ["COSTBEARER_KEY"])

  # Python, Anthropic SDK
  client = Anthropic(base_url="http://127.0.0.1:4000", api_key=os.environ["COSTBEARER_KEY"])

  # curl
  curl http://127.0.0.1:4000/v1/chat/completions -H "Authorization: Bearer $COSTBEARER_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}'
"""


def spoken(text: str) -> str:
    text = re.sub(r"cbk_\w{12}_\w{36}", "KEY", text)
    text = re.sub(r"cbk_\w{12}", "cbk_LOOKUP", text)
    text = re.sub(r"key_\w{12}", "KEY_ID", text)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME", text)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in a directory of their own, with no setting from outside."""
    for name in [name for name in os.environ if name.startswith("COSTBEARER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "costbearer-data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, list(arguments))


def issue(*more: str) -> dict[str, Any]:
    result = run("keys", "issue", *LABELS, "--json", *more)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


# -- keys


def test_issue_shows_the_key_once_and_says_when_it_ends() -> None:
    result = run("keys", "issue", *LABELS)
    assert result.exit_code == 0
    assert spoken(result.output) == ISSUED
    assert spoken(result.stdout) == "KEY\n"
    assert "cbk_" not in result.stderr
    parse_key(result.stdout.strip())


def test_issue_as_json_is_one_document_and_still_says_when_it_ends() -> None:
    result = run("keys", "issue", *LABELS, "--expires", "never", "--require", "feature, customer", "--json")
    document = json.loads(result.stdout)
    assert document["require"] == ["feature", "customer"]
    assert document["expires_at"] is None
    assert result.stderr == "It never expires. It is shown only now; a keyed hash of it is kept.\n"


def test_a_key_that_ends_within_a_day_is_not_said_to_live_for_days() -> None:
    assert "It expires on TIME. It is shown" in spoken(run("keys", "issue", *LABELS, "--expires", "2h").stderr)


def test_every_missing_and_faulty_field_is_named_in_one_line() -> None:
    result = run("keys", "issue", "--owner", "n/a", "--team", "  ", "--expires", "soon")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "costbearer: owner: 'n/a' is a placeholder, not a name; team: blank; agent: missing; workload: missing; "
        "expires: 'soon' is not a time such as 90d, 2026-12-31, 2026-12-31T18:00:00Z or 'never' [field_missing]\n"
    )


def test_a_mistyped_directory_is_said_and_not_made(tmp_path: Path) -> None:
    for arguments in (["list"], ["show", "key_zzzzzzzzzzzz"], ["revoke", "key_zzzzzzzzzzzz"]):
        result = run("keys", *arguments, "--data", "typo")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            f"costbearer: there are no keys in {tmp_path / 'typo'}; name the data directory with --data, "
            "or begin with `costbearer keys issue` or `costbearer serve` [not_found]\n"
        )
    assert not (tmp_path / "typo").exists()


def test_an_empty_list_says_how_to_begin(data: Path) -> None:
    Control.open(data / "control.sqlite").close()
    result = run("keys", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "No keys yet. Issue one: costbearer keys issue --owner O --team T --agent A --workload W\n"
    )
    assert json.loads(run("keys", "list", "--json").stdout) == {"keys": []}


def test_list_is_a_table_json_or_csv() -> None:
    first = issue("--name", "night run", "--env", "test", "--require", "feature,customer")
    second = issue("--expires", "never")
    run("keys", "revoke", second["key_id"])
    table = run("keys", "list").stdout
    assert spoken(table) == (
        "KEY ID            NAME       OWNER  TEAM    AGENT   WORKLOAD  STATUS   EXPIRES\n"
        "KEY_ID  night run  ada    search  ranker  rerank    active   TIME\n"
        "KEY_ID  -          ada    search  ranker  rerank    revoked  never\n"
    )
    listed = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert [key["key_id"] for key in listed] == [first["key_id"], second["key_id"]]
    rows = list(csv.DictReader(io.StringIO(run("keys", "list", "--csv").stdout)))
    assert rows[0]["require"] == "feature,customer"
    assert rows[0]["env"] == "test"
    assert rows[1]["expires_at"] == ""
    assert run("keys", "list", "--status", "active").stdout.count("\n") == 2
    assert run("keys", "list", "--team", "ads").stderr == "No key is like that.\n"


def test_two_forms_at_once_are_refused() -> None:
    result = run("keys", "list", "--json", "--csv")
    assert result.exit_code == 2
    assert result.stderr == (
        "costbearer: --json and --csv are two forms of one thing; choose one; "
        "see `costbearer keys list --help` [usage]\n"
    )


def test_show_tells_everything_but_the_secret() -> None:
    key = issue("--name", "night run")
    run("keys", "rotate", key["key_id"])
    run("keys", "relabel", key["key_id"], "--team", "ads", "--from", "2999-01-01")
    shown = run("keys", "show", key["key_id"])
    assert spoken(shown.stdout) == (
        "key                        KEY_ID\n"
        "name                       night run\n"
        "owner                      ada\n"
        "team                       search\n"
        "agent                      ranker\n"
        "workload                   rerank\n"
        "status                     active\n"
        "issued                     TIME\n"
        "expires                    TIME\n"
        "from TIME  owner ada, team search, agent ranker, workload rerank\n"
        "from TIME  owner ada, team ads, agent ranker, workload rerank\n"
        "secret                     cbk_LOOKUP_... until TIME\n"
        "secret                     cbk_LOOKUP_... in use\n"
    )
    for found in (key["key"], key["key"][:16], key["secrets"][0]["begins_with"]):
        assert json.loads(run("keys", "show", found, "--json").stdout)["key_id"] == key["key_id"]


def test_rotate_shows_the_new_secret_and_when_the_old_one_ends() -> None:
    key = issue()
    result = run("keys", "rotate", key["key_id"], "--overlap", "1h")
    assert spoken(result.output) == (
        "Key KEY_ID of owner ada, team search, agent ranker, workload rerank has a new secret. "
        "The old secret ends on TIME.\n"
        "It expires on TIME, in 90 days. It is shown only now; a keyed hash of it is kept.\n"
        "\n"
        "KEY\n"
    )
    assert spoken(result.stdout) == "KEY\n"
    again = run("keys", "rotate", key["key_id"])
    assert (again.exit_code, spoken(again.stderr)) == (
        2,
        "costbearer: key KEY_ID has two secrets until TIME from an earlier rotation; wait for that, or rotate with an "
        "overlap of 0, which ends both now [conflict]\n",
    )


def test_revoke_says_so_and_saying_it_twice_is_harmless() -> None:
    key = issue()["key_id"]
    line = "Key KEY_ID of owner ada, team search, agent ranker, workload rerank is revoked since TIME.\n"
    for _ in range(2):
        result = run("keys", "revoke", key)
        assert (result.exit_code, spoken(result.stdout), result.stderr) == (0, line, "")


def test_relabel_from_now_or_later_but_never_from_before() -> None:
    key = issue()["key_id"]
    result = run("keys", "relabel", key, "--team", "ads", "--agent", "bidder")
    assert spoken(result.stdout) == (
        "Key KEY_ID from TIME: owner ada, team search, agent ranker, workload rerank\n"
        "Key KEY_ID from TIME: owner ada, team ads, agent bidder, workload rerank\n"
    )
    past = run("keys", "relabel", key, "--team", "maps", "--from", "2020-01-01")
    assert (past.exit_code, past.stderr) == (
        2,
        "costbearer: from: 2020-01-01 00:00 UTC has passed, and posted entries do not change; "
        "leave it out to relabel from now on, or name a later time [field_missing]\n",
    )
    assert run("keys", "relabel", key).exit_code == 2


def test_an_unknown_key_is_one_line() -> None:
    issue()
    result = run("keys", "show", "key_zzzzzzzzzzzz")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "costbearer: no key key_zzzzzzzzzzzz here; `costbearer keys list` shows those there are [not_found]\n"
    )


def test_data_and_config_name_another_directory(tmp_path: Path, data: Path) -> None:
    (tmp_path / "other.toml").write_text('data = "elsewhere"\n[keys]\nexpire_days = 7\n')
    result = run("keys", "issue", *LABELS, "--config", "other.toml")
    assert "in 7 days" in result.stderr
    assert (tmp_path / "elsewhere" / "control.sqlite").exists()
    run("keys", "issue", *LABELS, "--data", "third")
    assert (tmp_path / "third" / "control.sqlite").exists()
    assert not data.exists()


# -- faults, help, start


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope"], "costbearer: No such command 'nope'; see `costbearer --help` [usage]\n"),
        (["keys", "show"], "costbearer: Missing argument 'ID'; see `costbearer keys show --help` [usage]\n"),
        (
            ["keys", "list", "--status", "gone"],
            "costbearer: Invalid value for '--status': 'gone' is not one of 'active', 'expired', 'revoked'; "
            "see `costbearer keys list --help` [usage]\n",
        ),
        (["keys", "list", "--config", "none.toml"], "costbearer: none.toml: no such file [config_invalid]\n"),
    ],
)
def test_bad_usage_is_one_line_and_two(arguments: list[str], line: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", line)


@pytest.mark.parametrize("arguments", [[], ["keys"], ["config"]])
def test_a_command_alone_shows_its_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: costbearer")


def test_help_lists_every_command_and_each_has_help_of_its_own() -> None:
    listed = run("--help")
    assert listed.exit_code == 0
    for name, place in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(place.summary[:30])}", listed.stdout, re.MULTILINE)
        result = run(name, "--help")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"Usage: costbearer {name}")


def test_listing_the_commands_and_the_version_import_nothing_heavy() -> None:
    heavy = ("sqlalchemy", "alembic", "fastapi", "duckdb", "ibis", "pyarrow", "httpx2", "rich", "uvicorn")
    script = (
        "import sys\nfrom costbearer.cli import root\n"
        "for arguments in (['--help'], ['version'], ['keys', '--help']):\n"
        "    try:\n        root.main(arguments)\n    except SystemExit as left:\n        assert not left.code\n"
        f"print('LOADED', sorted(set({heavy!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_version() -> None:
    assert run("version").stdout == "costbearer 0.1.0\n"
    assert json.loads(run("version", "--json").stdout)["version"] == "0.1.0"


def test_config_show_says_where_each_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "costbearer.toml").write_text(
        '[gateway]\nport = 4100\n[providers.openai]\ndialect = "openai"\nbase_url = "https://api.example.com/v1"\n'
        'api_key_env = "FAKE_KEY"\n[[routes]]\nmodel = "gpt-*"\nupstreams = ["openai"]\n'
    )
    monkeypatch.setenv("FAKE_KEY", "sk-fake-for-tests")
    monkeypatch.setenv("COSTBEARER_CONSOLE_PORT", "4200")
    lines = [re.split(r" {2,}", line) for line in run("config", "show", "--data", "d").stdout.splitlines()]
    rows = {line[0]: line[1:3] for line in lines if len(line) > 2}
    assert rows["gateway.port"] == ["4100", "costbearer.toml"]
    assert rows["console.port"] == ["4200", "environment COSTBEARER_CONSOLE_PORT"]
    assert rows["data"] == [str(tmp_path / "d"), "command line"]
    assert rows["keys.expire_days"] == ["90", "default"]
    assert rows["openai"] == ["openai", "https://api.example.com/v1"]
    document = json.loads(run("config", "show", "--json").stdout)
    assert document["routes"] == [{"model": "gpt-*", "upstreams": ["openai"]}]
    assert [row["name"] for row in csv.DictReader(io.StringIO(run("config", "show", "--csv").stdout))] == [
        row["name"] for row in document["settings"]
    ]
    for form in ((), ("--json",), ("--csv",)):
        assert "sk-fake-for-tests" not in run("config", "show", *form).output


# -- through a server


class Server:
    """A console on a free port, as `costbearer console` runs it: the lock held, its address written."""

    def __init__(self, data: Path) -> None:
        self.config = load(overrides={"data": str(data)}, environ={})
        self.control = Control.open(self.config.control_file)
        self._lock = os.open(data / client.SERVER_LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._file = data / client.SERVER_FILE
        self._file.write_text(json.dumps({"pid": os.getpid(), "console_url": self.url}))
        settings = uvicorn.Config(create_app(self.config, self.control), log_config=None, lifespan="off")
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._file.unlink()
        os.close(self._lock)
        self.control.close()


@pytest.fixture
def server(data: Path) -> Iterator[Server]:
    data.mkdir()
    running = Server(data)
    yield running
    running.stop()


def test_the_server_says_where_it_is_by_the_names_that_commands_look_for() -> None:
    assert (client.SERVER_LOCK, client.SERVER_FILE) == (wiring.SERVER_LOCK, wiring.SERVER_FILE)


def test_with_a_server_running_every_command_goes_through_it_and_reads_the_same(server: Server) -> None:
    assert spoken(run("keys", "issue", *LABELS).output) == ISSUED
    key = issue("--name", "night run")["key_id"]
    assert "new secret" in run("keys", "rotate", key, "--overlap", "1h").stderr
    assert "team ads" in run("keys", "relabel", key, "--team", "ads", "--from", "2999-01-01").stdout
    assert "night run" in run("keys", "list", "--status", "active").stdout
    assert "until TIME" in spoken(run("keys", "show", key).stdout)
    assert "is revoked" in run("keys", "revoke", key).stdout
    past = run("keys", "rotate", key)
    assert (past.exit_code, spoken(past.stderr)) == (
        2,
        "costbearer: key KEY_ID was revoked on TIME; issue another in its place [conflict]\n",
    )
    actors = {(row.actor.who, row.actor.source) for row in server.control.audit_rows()}
    assert actors == {("administrator", "127.0.0.1")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["issue", "--owner", "n/a", "--expires", "soon"],
        ["show", "key_zzzzzzzzzzzz"],
        ["show", "no id at all"],
        ["rotate", "key_zzzzzzzzzzzz", "--overlap", "long"],
        ["relabel", "key_zzzzzzzzzzzz"],
    ],
)
def test_a_refusal_reads_the_same_with_and_without_a_server(data: Path, arguments: list[str]) -> None:
    Control.open(data / "control.sqlite").close()
    alone = run("keys", *arguments)
    running = Server(data)
    try:
        through = run("keys", *arguments)
    finally:
        running.stop()
    assert (through.exit_code, through.stdout, through.stderr) == (2, "", alone.stderr)
    assert alone.exit_code == 2


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_named_server_is_used_from_any_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_made(tmp_path / "laptop"))
    monkeypatch.setenv("COSTBEARER_URL", server.url + "/")
    without = run("keys", "list")
    assert (without.exit_code, without.stderr) == (
        2,
        "costbearer: COSTBEARER_URL is set without COSTBEARER_TOKEN, the administrator's token of that server "
        "[config_invalid]\n",
    )
    monkeypatch.setenv("COSTBEARER_TOKEN", secrets.admin_token(server.config.data))
    issue()
    assert server.control.load_keyring().keys == 1
    assert list((tmp_path / "laptop").iterdir()) == []
    monkeypatch.setenv("COSTBEARER_TOKEN", "wrong")
    refused = run("keys", "list")
    assert refused.exit_code == 2
    assert refused.stderr.endswith("[unauthorized]\n")


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("COSTBEARER_URL", url)
    monkeypatch.setenv("COSTBEARER_TOKEN", "t")
    result = run("keys", "list")
    assert (result.exit_code, result.stderr) == (
        2,
        f"costbearer: {url} cannot be reached; is the server running? [remote_failed]\n",
    )


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"HTTP/1.1 502 Bad\r\n\r\n", b"", b"x"]
)
def test_a_server_that_is_something_else_is_one_line(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("COSTBEARER_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("COSTBEARER_TOKEN", "t")

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        result = run("keys", "list")
        thread.join()
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("[remote_failed]\n")


def test_a_server_that_does_not_say_where_it_is_is_waited_for_and_then_named(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "START_WAIT_S", 0.2)
    lock = os.open(_made(data) / client.SERVER_LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        result = run("keys", "list")
        assert time.monotonic() - began >= 0.2
    finally:
        os.close(lock)
    assert (result.exit_code, result.stderr.split("[")[-1]) == (2, "data_directory_busy]\n")


def test_what_a_killed_server_left_behind_does_not_stop_a_command(data: Path) -> None:
    Control.open(data / "control.sqlite").close()
    (data / client.SERVER_LOCK).touch()
    (data / client.SERVER_FILE).write_text('{"pid": 1, "console_url": "http://127.0.0.1:1"}')
    assert run("keys", "list").exit_code == 0
