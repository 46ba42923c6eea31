"""`costbearer report`: what was spent, by whom and on what."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from costbearer import reports
from costbearer.cli.client import Local, Remote, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_json
from costbearer.errors import RemoteFailed
from costbearer.reports.query import DIMENSIONS, PARAMETERS

if TYPE_CHECKING:
    from costbearer.config import Config
    from costbearer.reports.table import Table

Pairs = list[tuple[str, str]]

_METAVARS = {"by": "DIM[,DIM...]", "where": "DIM=VALUE", "since": "T", "until": "T", "compare": "previous|T..T"}


@click.group()
def report() -> None:
    """What was spent, by whom and on what."""


def _question(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds one option for each parameter a question can have, with the help text of the API."""
    for name in reversed(list(PARAMETERS)):
        function = click.option(
            f"--{name}",
            metavar=_METAVARS.get(name, "cost|delta|name"),
            multiple=name in {"by", "where"},
            help=PARAMETERS[name][0].upper() + PARAMETERS[name][1:] + ".",
        )(function)
    return function


@report.command(epilog=f"DIM is {', '.join(DIMENSIONS)} or tag:NAME. The missing value is (none).")
@with_client
@_question
@json_option
@csv_option
def spend(client: Local | Remote, as_json: bool, as_csv: bool, **given: str | tuple[str, ...] | None) -> None:
    """Calls, tokens and exact cost by any dimensions.

    The period is half open: --since belongs to it, --until does not. Costs that are not known are counted, never taken
    for nothing, and the rows add up to the total to the last digit.
    """
    one_of(as_json, as_csv)
    pairs: Pairs = [("by", ",".join(given["by"] or ()))] if given["by"] else []
    pairs += [("where", text) for text in given["where"] or ()]
    pairs += [(name, text) for name, text in given.items() if isinstance(text, str)]
    _show(_ask(client, "spend", pairs), as_json=as_json, as_csv=as_csv)


@report.command()
@with_client
@click.option("--where", metavar="DIM=VALUE", multiple=True, help="Only calls like this.")
@click.option("--since", metavar="T", help=PARAMETERS["since"][0].upper() + PARAMETERS["since"][1:] + ".")
@click.option("--until", metavar="T", help=PARAMETERS["until"][0].upper() + PARAMETERS["until"][1:] + ".")
@json_option
@csv_option
def unknown(client: Local | Remote, where: tuple[str, ...], as_json: bool, as_csv: bool, **given: str | None) -> None:
    """Calls whose cost is not known: why, how much it can be, and what would make it known."""
    one_of(as_json, as_csv)
    pairs: Pairs = [("where", text) for text in where]
    pairs += [(name, text) for name, text in given.items() if text is not None]
    _show(_ask(client, "unknown", pairs), as_json=as_json, as_csv=as_csv)


def _show(table: Table, *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json(table.document())
    elif as_csv:
        click.echo(table.to_csv(), nl=False)
    else:
        click.echo(table.to_text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None), nl=False)


def _ask(client: Local | Remote, name: str, pairs: Pairs) -> Table:
    """The report of a running server, or of the stores. Both give the same table, whichever it was."""
    if isinstance(client, Local):
        return answer_locally(client.config, name, pairs)
    text = client.text(f"/api/v1/reports/{quote(name, safe='')}", pairs)
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise RemoteFailed(f"{client.url} answered without JSON; is it a Costbearer console?") from None
    return reports.read(document)


def answer_locally(config: Config, name: str, pairs: Pairs) -> Table:
    """The report of a data directory on which no server runs, with everything that its journals hold.

    Raises:
        QueryInvalid: the question cannot be asked.
        NotFound: there is no such directory; making one would answer a mistyped path with "nothing was spent".
        DataDirectoryBusy: another command has the ledger open.
    """
    query = reports.question(name, pairs, now=datetime.now(UTC))
    from costbearer.app import books

    with books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        with ledger.reader() as reader:
            return reports.answer(query, reader, complete_to=bookkeeper.complete_to)
