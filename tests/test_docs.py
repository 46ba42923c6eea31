"""The documents say what is so: tables are current, commands run, paths that are named exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from costbearer.cli import COMMANDS, root

TOP = Path(__file__).parent.parent
DOCS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").glob("*.md"))]


def test_the_settings_page_is_made_from_the_table() -> None:
    done = subprocess.run([sys.executable, "tools/build_docs.py", "--check"], cwd=TOP, check=False)
    assert done.returncode == 0, "run `make docs`"


def shell_lines(text: str) -> list[str]:
    """Every command line of the shell blocks, comments and here-documents taken off."""
    lines: list[str] = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        plain = re.sub(r"cat > .*?<<'(\w+)'\n.*?\n\1\n", "", block, flags=re.S)
        lines += [line.split("#")[0].strip() for line in plain.splitlines() if line.split("#")[0].strip()]
    return lines


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_exists(path: Path) -> None:
    """A `make` target is in the Makefile; a `costbearer` command parses with its options."""
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.M))
    for line in shell_lines(path.read_text(encoding="utf-8")):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "costbearer":
            _parses(words[1:], line)
        else:
            assert words[0] in {"export", "pip"}, f"{path.name}: nothing runs {line!r}"


def _parses(words: list[str], line: str) -> None:
    import click

    command: click.Command = root
    context = click.Context(root)
    # A group that does something by itself may stand alone.
    while isinstance(command, click.Group) and (words or not command.invoke_without_command):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:src|tests|docs|bench|tools)/[\w/.-]+\.(?:py|md|toml|json))`", text):
        assert (TOP / name).exists(), name


def test_commands_in_the_table_can_be_loaded() -> None:
    import click

    context = click.Context(root)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        assert command.help, name


def test_the_project_speaks_of_itself_alone() -> None:
    """No machine paths, no registry hosts in what is written by hand (the lock file names where packages come from)."""
    listed = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout: nothing lists the project's own files")
    for name in listed:
        if name in {"uv.lock", "tests/test_docs.py"} or name.endswith(("prices.json", ".png")):
            continue
        text = (TOP / name).read_text(encoding="utf-8")
        assert "/work/" not in text, name
        assert not re.search(r"https?://[\w.]*(pypi|pythonhosted|npmjs)\.\w+", text), name
        assert not re.search(r"sk-(?:proj|ant)-[A-Za-z0-9]{20,}", text), name


def test_what_was_tried_names_tests_that_are_there() -> None:
    """Commands of the reliability page name files, and words that choose a test in them; planted bugs are those there
    are, each with a test that exists."""
    from tools.planted import BUGS

    text = (TOP / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
    commands = re.findall(r"`[^`\n]*?(tests/test_\w+\.py)(?: -k (\"[^\"]+\"|\w+))?[^`\n]*`", text)
    assert len(commands) > 30
    for file, words in commands:
        source = (TOP / file).read_text(encoding="utf-8")
        for word in words.strip('"').split():
            assert word in {"and", "or"} or word in source, f"{file} -k {words}: nothing there is called {word}"
    planted = re.findall(r"^\| ([^|]+) \| `(test_\w+\.py)::(\w+)` \|$", text, re.M)
    assert {name for name, _, _ in planted} == {bug.name for bug in BUGS}
    for name, file, test in planted:
        assert f"def {test}(" in (TOP / "tests" / file).read_text(encoding="utf-8"), f"{name}: {file} has no {test}"
