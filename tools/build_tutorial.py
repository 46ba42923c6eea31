"""Writes the answers into docs/tutorial.md: runs every command in it on the demo's history and puts in what it prints.

`python tools/build_tutorial.py` rewrites the file; a test compares.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from costbearer import config as settings
from costbearer.cli import root
from costbearer.demo.history import write

FILE = Path(__file__).parent.parent / "docs" / "tutorial.md"
_BLOCK = re.compile(r"```console\n(.*?)```", re.S)
_HEAD = re.compile(r" \| head -(\d+)$")
_STAMP = re.compile(r"(complete to )\S+Z")
_JOURNAL = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
"""What differs from run to run: when the books are complete, and the name of their journal."""


def main() -> None:
    with tempfile.TemporaryDirectory() as place, history(Path(place)):
        FILE.write_text(answered(FILE.read_text(encoding="utf-8")), encoding="utf-8")


@contextlib.contextmanager
def history(place: Path) -> Iterator[None]:
    """The demo's history below a directory, which the commands find as the tutorial says; written where it is not."""
    data = place / "history"
    if not data.exists():
        write(settings.load(None, environ={}, overrides={"data": str(data)}))
    before = Path.cwd()
    os.chdir(place)
    os.environ["COSTBEARER_DATA"] = "./history"
    try:
        yield
    finally:
        os.chdir(before)
        del os.environ["COSTBEARER_DATA"]


def answered(text: str) -> str:
    """The text with the answer behind every command, in the order in which they stand there."""

    def block(match: re.Match[str]) -> str:
        commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{answer(line[2:])}" for line in commands) + "```"

    return _BLOCK.sub(block, text)


def answer(command: str) -> str:
    """What a command prints on stdout, without what differs from run to run."""
    head = _HEAD.search(command)
    words = shlex.split(_HEAD.sub("", command))
    assert words[0] == "costbearer", command
    result = CliRunner().invoke(root, words[1:])
    if result.exit_code:
        raise SystemExit(f"{command}: {result.stderr or result.output}")
    lines = _JOURNAL.sub("JOURNAL", _STAMP.sub(r"\1...", result.stdout)).splitlines()
    return "".join(f"{line}\n" for line in (lines[: int(head[1])] if head else lines))


if __name__ == "__main__":
    main()
    sys.exit()
