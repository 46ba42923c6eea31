"""`costbearer export`: what the ledger holds, for other programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from costbearer.cli.client import Local, Remote, open_client, with_config
from costbearer.cli.output import say
from costbearer.config import Config
from costbearer.errors import InputInvalid

Pairs = list[tuple[str, str]]
PAGE = 1000


@click.group()
def export() -> None:
    """What the ledger holds, for other programs."""


@export.command()
@click.option("--period", help="A month (2026-11); else --since and --until.")
@click.option("--since", help="Begin of the period, as in reports.  [default: the first entry]")
@click.option("--until", help="End of the period, excluded.  [default: the last entry]")
@click.option("--where", multiple=True, metavar="DIM=VALUE", help="Only entries with this value.")
@click.option("--format", "form", type=click.Choice(["jsonl"]), default="jsonl", show_default=True, help="The form.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: stdout]")
@with_config
def entries(config: Config, period: str | None, output: Path | None, form: str, **given: Any) -> None:
    """Every entry as the API shows it, oldest first, one JSON object per line; `costbearer audit` reads it."""
    del form
    pairs: Pairs = []
    for text in given["where"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--where {text}: it is DIM=VALUE", click.get_current_context())
        pairs.append((name, value))
    since, until = _month(period) if period else (given["since"], given["until"])
    pairs += [(name, text) for name, text in (("since", since), ("until", until)) if text]
    count = 0
    with open_client(config) as client, _target(output) as write:
        for document in _pages(config, client, pairs):
            write(document)
            count += 1
    if output is not None:
        say(f"{count:,} entries are in {output}.")


def _month(period: str) -> tuple[str, str]:
    try:
        first = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        context = click.get_current_context()
        raise click.UsageError(f"--period {period}: it is a month such as 2026-11", context) from None
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return f"{first:%Y-%m-%d}", f"{following:%Y-%m-%d}"


class _target:  # noqa: N801  used like a function
    """Where lines go: a file that is whole or not there, or stdout."""

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._part = None if output is None else output.with_name(f"{output.name}.part")

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        import msgspec

        try:
            self._handle = sys.stdout.buffer if self._part is None else _fresh(self._part)
        except OSError as error:
            raise InputInvalid(f"{self._output}: cannot be written: {error.strerror}") from None
        encode, handle = msgspec.json.Encoder().encode, self._handle

        def write(document: dict[str, Any]) -> None:
            handle.write(encode(document) + b"\n")

        return write

    def __exit__(self, kind: object, *_: object) -> None:
        if self._part is None or self._output is None:
            self._handle.flush()
            return
        self._handle.close()
        if kind is None:
            self._part.replace(self._output)
        else:
            self._part.unlink(missing_ok=True)


def _fresh(part: Path) -> BinaryIO:
    """A new file, whatever was left there: never one that somebody else has made, nor where a link of theirs leads."""
    part.unlink(missing_ok=True)
    return part.open("xb")


def _pages(config: Config, client: Local | Remote, pairs: Pairs) -> Iterator[dict[str, Any]]:
    if isinstance(client, Remote):
        cursor: str | None = ""
        while cursor is not None:
            params = [*pairs, ("limit", str(PAGE)), *([("cursor", cursor)] if cursor else [])]
            answer: Any = client.document("GET", "/api/v1/entries", params=params)
            yield from answer["entries"]
            cursor = answer["next_cursor"]
        return
    from costbearer.app import books
    from costbearer.reports.entries import EntriesQuery, page

    now = datetime.now(UTC)
    with books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        with ledger.reader() as reader:
            cursor = ""
            while cursor is not None:
                params = [*pairs, ("limit", str(PAGE)), *([("cursor", cursor)] if cursor else [])]
                documents, cursor = page(reader, EntriesQuery.parse(params, now=now))
                yield from documents
