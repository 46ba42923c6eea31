"""`costbearer report`: what was spent, by whom and on what. One command for each report, made from what it takes."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from costbearer import reports
from costbearer.cli.client import Local, Remote, with_client
from costbearer.cli.output import csv_option, json_option, print_json
from costbearer.errors import InputInvalid, RemoteFailed
from costbearer.reports import coverage
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.query import PARAMETERS, Form

if TYPE_CHECKING:
    from costbearer.config import Config
    from costbearer.reports.table import Table

Pairs = list[tuple[str, str]]

_METAVARS = {
    "by": "DIM[,DIM...]",
    "where": "DIM=VALUE",
    "since": "T",
    "until": "T",
    "compare": "previous|T..T",
    "sort": "cost|delta|name",
    "tz": "ZONE",
    "limit": "N",
    "per": "UNIT[,UNIT...]",
    "as": "MODEL",
    "cache_rate": "SHARE",
    "at": "list|contract",
}
_MANY = frozenset({"by", "where"})
FORMS = ("table", "json", "csv", "xlsx", "markdown")
_EPILOG = f"DIM is {', '.join(DIMENSIONS)} or tag:NAME. The missing value is (none)."


@click.group()
def report() -> None:
    """What was spent, by whom and on what."""


def _command(form: Form) -> click.Command:
    """The command of one report: one option for each parameter it takes, with the help text of the API."""

    @with_client
    @json_option
    @csv_option
    @click.option("--format", "shape", type=click.Choice(FORMS), help="The form of the answer.  [default: table]")
    @click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
    def run(client: Local | Remote, as_json: bool, as_csv: bool, **given: Any) -> None:
        shape = _shape(as_json, as_csv, given.pop("shape"), given.pop("digest", None))
        output = given.pop("output")
        if shape == "xlsx" and output is None and sys.stdout.isatty():
            raise click.UsageError("a workbook is no text; name a file with -o", click.get_current_context())
        pairs: Pairs = []
        for name, text in given.items():
            if isinstance(text, tuple):
                pairs += [(name, each) for each in text]
            elif text is not None:
                pairs.append((name, text))
        _show(_ask(client, form.name, pairs), shape, output)

    run.__doc__ = form.tells
    command = click.command(form.name, help=form.tells, epilog=_EPILOG if "where" in form.takes else None)(run)
    named = [name for name in PARAMETERS if name in form.takes]
    if form is coverage.FORM:
        said = "A short message in Markdown: where it stands, what changed, what to do first."
        command.params.append(click.Option(["--digest"], type=click.Choice(["markdown"]), help=said))
    command.params = [*(_option(name, form) for name in named), *command.params]
    return command


def _option(name: str, form: Form) -> click.Parameter:
    if name == form.argument:
        return click.Argument([name], metavar=name.upper())
    meaning = PARAMETERS[name][0].upper() + PARAMETERS[name][1:]
    usual = {"by": form.by, "compare": form.compare, "per": form.per}.get(name)
    return click.Option(
        ["--" + name.replace("_", "-"), name],
        metavar=_METAVARS[name],
        multiple=name in _MANY,
        help=meaning + "." + (f"  [default: {usual}]" if usual else ""),
    )


def _shape(as_json: bool, as_csv: bool, shape: str | None, digest: str | None) -> str:
    said = [name for name, on in (("json", as_json), ("csv", as_csv)) if on]
    said += [name for name in (shape, digest and "digest") if name is not None]
    if len(said) > 1:
        raise click.UsageError(
            "--json, --csv, --format and --digest say the form of one answer; choose one", click.get_current_context()
        )
    return said[0] if said else "table"


def _show(table: Table, shape: str, output: Path | None) -> None:
    if output is not None:
        made = table.to_xlsx() if shape == "xlsx" else _text(table, shape, None).encode()
        try:
            output.write_bytes(made)
        except OSError as error:
            raise InputInvalid(f"{output} cannot be written: {error.strerror}") from None
        click.echo(f"{table.title}: {len(table.rows):,} rows are in {output}.", err=True)
    elif shape == "xlsx":
        sys.stdout.buffer.write(table.to_xlsx())
    elif shape == "json":
        print_json(table.document())
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(_text(table, shape, width), nl=False)


def _text(table: Table, shape: str, width: int | None) -> str:
    if shape == "json":
        return table.to_json() + "\n"
    if shape == "csv":
        return table.to_csv()
    if shape == "digest":
        return coverage.digest(table)
    return table.to_markdown() if shape == "markdown" else table.to_text(width)


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
    from costbearer.app import beside, books, home_zone

    query = reports.question(name, pairs, now=datetime.now(UTC), home=home_zone(config))
    with books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        with beside(config, bookkeeper) as others, ledger.reader() as reader:
            return reports.answer(query, reader, others)


for _report in reports.REPORTS.values():
    report.add_command(_command(_report.form))
