"""What lies in a data directory is nobody else's, also where the directory itself was made for everybody."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from costbearer import app, supervisor
from costbearer.cli import root
from costbearer.config import Config, load
from costbearer.journal import Intent, JournalWriter, Outcome
from tests.factories import make_entry, make_intent


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """A data directory that everybody may enter, in the hands of a process with the usual umask."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    before = os.umask(0o022)
    yield load(None, overrides={"data": str(data)}, environ={})
    os.umask(before)


def readable_by_others(directory: Path) -> list[str]:
    """Files by their names; those below a directory that others may not enter are out of their reach."""
    found = []
    for path in sorted(directory.iterdir()):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            found += readable_by_others(path) if path.is_dir() else [path.name]
    return found


def test_a_ledger_and_all_beside_it_are_private(config: Config) -> None:
    app.prepare(config)
    writer = JournalWriter.open(config.journal_dir)
    writer.append(Outcome(make_entry(writer.id, writer.append(Intent(make_intent(writer.id, writer.next_sequence))))))
    writer.close()
    with app.books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        assert readable_by_others(config.data) == []
        assert ledger.file.exists()
    assert readable_by_others(config.data) == []
    with (config.data / "export.csv").open("w"):
        assert readable_by_others(config.data) == ["export.csv"], (
            "what commands write elsewhere is as the user wants it"
        )


def test_a_ledger_that_was_made_for_everybody_is_so_no_more(config: Config) -> None:
    for name in ("ledger.duckdb", "ledger.duckdb.wal", "ledger.duckdb.damaged-20261128T000000"):
        (config.data / name).touch(0o644)
    app.prepare(config)
    assert readable_by_others(config.data) == []


@pytest.mark.parametrize("command", ["serve", "console", "gateway"])
def test_servers_and_their_children_make_private_files(
    config: Config, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen: list[int] = []

    def look(*_: object, **__: object) -> int:
        seen.append(os.umask(0o022))
        os.umask(seen[0])
        return 0

    monkeypatch.setattr(supervisor, "serve", look)
    monkeypatch.setattr(app, "run_gateway", look)
    monkeypatch.setattr("costbearer.console_process.run_console", look)
    done = CliRunner().invoke(root, [command, "--data", str(config.data)])
    assert (done.exit_code, seen) == (0, [0o077])
