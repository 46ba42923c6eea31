"""`costbearer ownership`: the dated map of who answers for what other gateways' logs name."""

from __future__ import annotations

from pathlib import Path

import click

from costbearer.cli.client import Local, Remote, operator, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.ledger import LABELS
from costbearer.owners import document

_COLUMNS = ("kind", "value", "from", *LABELS)


@click.group()
def ownership() -> None:
    """The dated map of who answers for what other gateways' logs name."""


@ownership.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_client
@json_option
def import_(client: Local | Remote, file: Path, as_json: bool) -> None:
    """Add the rows of a map (YAML or CSV, as `costbearer audit --ownership` takes it).

    Rows are dated and never change; of rows for the same thing and time the last one holds. Imports use the map from
    then on; what was imported before is labelled with `costbearer keys backfill label`.
    """
    from costbearer.audit.ownership import read, rows_of

    rows = rows_of(read(file))
    if isinstance(client, Local):
        added = client.directory(create=True).add_owners(rows, operator())
    else:
        body = {"rows": [document(row) for row in rows]}
        added = int(str(client.document("POST", "/api/v1/ownership", body=body)["added"]))
    if as_json:
        print_json({"rows": len(rows), "added": added})
    else:
        say(f"{len(rows):,} rows, {added:,} of them new.")


@ownership.command()
@with_client
@json_option
@csv_option
def show(client: Local | Remote, as_json: bool, as_csv: bool) -> None:
    """Every row, the oldest first."""
    one_of(as_json, as_csv)
    if isinstance(client, Remote):
        rows = client.document("GET", "/api/v1/ownership")["rows"]
    else:
        rows = [document(row) for row in client.directory().owners()]
    assert isinstance(rows, list)
    if as_json:
        print_json({"rows": rows})
    elif as_csv:
        print_csv(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])
    elif rows:
        heads = [column.upper() for column in _COLUMNS]
        print_table(heads, [[str(row[column] or "-") for column in _COLUMNS] for row in rows])
    else:
        say("No rows yet. Import some: costbearer ownership import FILE")
