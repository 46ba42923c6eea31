"""`costbearer figures`: business figures to divide costs by."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from costbearer import figures as business
from costbearer.cli.client import Local, Remote, operator, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.errors import InputInvalid, NotFound


@click.group()
def figures() -> None:
    """Business figures: how much of something there was on a day, to divide costs by."""


@figures.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="What it counts: orders, tickets, documents.")
@with_client
@json_option
def import_(client: Local | Remote, file: Path, name: str, as_json: bool) -> None:
    """Keep the lines of a CSV file with the columns date, amount and label.

    The label is a value of what a report groups by, such as a customer. A line for a day and label that is there takes
    its place. Importing the same file again changes nothing.
    """
    business.checked_name(name)
    try:
        lines = business.read(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if isinstance(client, Local):
        changed = client.directory(create=True).keep_figure(name, lines, operator())
    else:
        changed = 0
        for start in range(0, len(lines), business.ROWS_MAX):
            body = {"lines": business.document(name, lines[start : start + business.ROWS_MAX])["lines"]}
            path = f"/api/v1/figures/{quote(name, safe='')}"
            changed += int(str(client.document("POST", path, body=body)["changed"]))
    if as_json:
        print_json({"figure": name, "lines": len(lines), "changed": changed})
    else:
        say(f"{name}: {len(lines):,} lines, {changed:,} of them new or changed.")


@figures.command()
@click.argument("name", required=False)
@with_client
@json_option
@csv_option
def show(client: Local | Remote, name: str | None, as_json: bool, as_csv: bool) -> None:
    """The figures there are, or the lines of one."""
    one_of(as_json, as_csv)
    document = _document(client, name)
    rows = document["figures"] if name is None else document["lines"]
    columns = ("name", "lines") if name is None else ("date", "amount", "label")
    if as_json:
        print_json(document)
    elif as_csv:
        print_csv(columns, [[row[column] for column in columns] for row in rows])
    elif rows:
        print_table([column.upper() for column in columns], [[str(row[each]) for each in columns] for row in rows])
    else:
        say("No figures yet. Import one: costbearer figures import FILE --name orders")


def _document(client: Local | Remote, name: str | None) -> dict[str, Any]:
    if isinstance(client, Remote):
        return client.document("GET", "/api/v1/figures" + (f"/{quote(name, safe='')}" if name else ""))
    directory = client.directory()
    if name is None:
        return {"figures": [{"name": each, "lines": count} for each, count in directory.figure_names().items()]}
    lines = directory.figure(name)
    if lines is None:
        raise NotFound(f"there is no business figure {name[:60]!r}")
    return business.document(name, lines)
