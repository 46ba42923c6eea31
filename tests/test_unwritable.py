"""Servers on a data directory that cannot be written: each says so in one line and ends."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from costbearer.cli import root


@pytest.mark.parametrize("command", ["serve", "console"])
@pytest.mark.parametrize("there", [True, False])
def test_a_server_on_a_read_only_file_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, there: bool
) -> None:
    for name in ("COSTBEARER_CONFIG", "COSTBEARER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    data = tmp_path / "data"
    if there:
        data.mkdir()
    opened, made = os.open, Path.mkdir

    def refuse(path: Any) -> None:
        if str(path).startswith(str(data)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open_(path: Any, *given: Any, **named: Any) -> int:
        refuse(path)
        return opened(path, *given, **named)

    def mkdir(path: Path, *given: Any, **named: Any) -> None:
        if not path.is_dir():
            refuse(path)
        made(path, *given, **named)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = CliRunner().invoke(root, [command, "--data", str(data), "--console-port", port])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert str(data) in line and line.endswith("Read-only file system [store_failed]")
