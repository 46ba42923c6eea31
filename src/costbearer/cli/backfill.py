"""`costbearer keys backfill`: spend that came before the gateway, until nothing is nobody's."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from costbearer import money
from costbearer.cli.client import Remote, open_client, operator, with_config
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.config import Config
from costbearer.errors import InputInvalid
from costbearer.ledger import LABELS
from costbearer.reports.formulas import as_written, harmless
from costbearer.reports.table import csv_quoted, shown_cell, visible

_PATH = "/api/v1/backfill"
_CSV = (
    "rank",
    "key",
    "provider",
    "calls",
    "cost_usd",
    "share",
    "cumulative_share",
    "first",
    "last",
    "do",
    "replaced_by",
)
_PLAN = ("key", *LABELS)


@click.group(invoke_without_command=True)
@with_config
@json_option
@csv_option
@click.pass_context
def backfill(context: click.Context, config: Config, as_json: bool, as_csv: bool) -> None:
    """Spend that nobody wholly bears, by key, the dearest first, and what to do about each.

    Calls that other gateways' logs brought into the ledger are labelled where they are dear, and their keys replaced by
    virtual keys where they are many.
    """
    if context.invoked_subcommand is not None:
        return
    one_of(as_json, as_csv)
    with _desk(config) as desk:
        document = desk.listed()
    if as_json:
        print_json(document)
    elif as_csv:
        print_csv(_CSV, [[row[name] for name in _CSV] for row in document["rows"]])
    else:
        _show(document)


@backfill.command()
@click.argument("key", required=False)
@click.option("--owner", help="Who answers for it.")
@click.option("--team", help="The team that bears it.")
@click.option("--agent", help="The agent.")
@click.option("--workload", help="The workload.")
@click.option("--from", "since", metavar="DATE", help="Only calls from this day on.  [default: all]")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), help="CSV with key, owner, team, agent, workload."
)
@click.option("--apply", is_flag=True, help="Post it; without this it is only shown.")
@with_config
@json_option
def label(config: Config, key: str | None, file: Path | None, as_json: bool, **given: Any) -> None:
    """Say who bears the past of a key: a dated row of the ownership map, and its calls posted again under the labels.

    Only labels that a call lacks are given. Closed months do not change: what concerns them is posted in the open one.
    """
    context = click.get_current_context()
    if (key is None) == (file is None):
        raise click.UsageError("name one KEY, or a --file of them", context)
    labels = {name: given[name] for name in LABELS if given[name] is not None}
    rows = _plan(file) if file is not None else [{"key": key, **labels}]
    extra = {"apply": given["apply"]} | ({"from": given["since"]} if given["since"] else {})
    with _desk(config) as desk:
        documents = [desk.label({**row, **extra}) for row in rows]
    if as_json:
        print_json({"keys": documents})
        return
    for document in documents:
        _say_labelled(document)


@backfill.command()
@click.option("--expires", required=True, metavar="DATE|30d", help="From when the old keys must not be used.")
@click.option(
    "--file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV with key, owner, team, agent, workload.",
)
@with_config
@json_option
@csv_option
def rotate(config: Config, expires: str, file: Path, as_json: bool, as_csv: bool) -> None:
    """Issue a virtual key in the place of each key of a file, and show them, this once, by owner.

    The old keys are another gateway's: take them away there by the date. Use after it is shown in the list.
    """
    one_of(as_json, as_csv)
    with _desk(config) as desk:
        document = desk.rotate({"keys": _plan(file), "expires": expires})
    rows = sorted(document["keys"], key=lambda row: (row["owner"], row["old_key"]))
    columns = ("owner", "team", "agent", "workload", "old_key", "key_id", "key")
    if as_json:
        print_json(document)
    elif as_csv:
        print_csv(columns, [[row[name] for name in columns] for row in rows])
    else:
        say(f"{len(rows):,} keys are issued; the old ones must be gone by {document['expires_at']}.")
        say("The new keys are shown this once. Give each owner their rows:")
        print_table([name.upper() for name in columns], [[visible(str(row[name])) for name in columns] for row in rows])


@backfill.command()
@click.option("--do", "what", type=click.Choice(["label", "rotate"]), required=True, help="Which keys.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: stdout]")
@with_config
def plan(config: Config, what: str, output: Path | None) -> None:
    """The keys to label, or to rotate, as a CSV file to be filled in: key, owner, team, agent, workload."""
    with _desk(config) as desk:
        rows = [row for row in desk.listed()["rows"] if row["do"] == what]
    lines = [list(_PLAN)]
    for row in rows:
        seen = row["seen"]
        known = {name: seen[name] for name in ("agent", "workload") if " different" not in seen.get(name, " different")}
        lines.append([row["key"] or "", *(known.get(name, "") for name in LABELS)])
    text = "".join(",".join(csv_quoted(harmless(cell)) for cell in line) + "\n" for line in lines)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        say(f"{len(rows):,} keys are in {output}.")


class _Remote:
    """The desk of a running server."""

    def __init__(self, client: Remote) -> None:
        self._client = client

    def listed(self) -> dict[str, Any]:
        return self._client.document("GET", _PATH)

    def label(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._client.document("POST", f"{_PATH}/labels", body=fields)

    def rotate(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._client.document("POST", f"{_PATH}/rotations", body=fields)


class _Local:
    """The desk on the stores of a data directory."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = self._desk.listed()
        return found

    def label(self, fields: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._desk.label(fields, operator())
        return found

    def rotate(self, fields: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._desk.rotate(fields, operator())
        return found


@contextmanager
def _desk(config: Config) -> Iterator[_Local | _Remote]:
    with open_client(config) as client:
        if isinstance(client, Remote):
            yield _Remote(client)
            return
        from costbearer.app import backfill_desk, books, prepare

        if config.data.is_dir():
            prepare(config)
        with books(config) as (ledger, bookkeeper, closed):
            bookkeeper.catch_up()
            with backfill_desk(config, ledger, bookkeeper, closed) as desk:
                yield _Local(desk)


def _plan(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _planned(csv.DictReader(io.StringIO(text)), file)
    except csv.Error as error:
        raise InputInvalid(f"{file}: not CSV: {error}") from None


def _planned(rows: csv.DictReader[str], file: Path) -> list[dict[str, str]]:
    if list(rows.fieldnames or ()) != list(_PLAN):
        raise InputInvalid(f"{file}: its first line must be {','.join(_PLAN)}")
    found = []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise InputInvalid(f"{file}, row {number}: it must have {len(_PLAN)} cells")
        found.append({name: as_written(cell) for name, cell in row.items()})
    if not found:
        raise InputInvalid(f"{file}: it has no rows")
    return found


def _show(document: dict[str, Any]) -> None:
    rows = document["rows"]
    lost, share = money.usd_sum(document["unattributed_usd"]), document["unattributed_share"]
    if not rows:
        say("Nothing is nobody's: every call in the ledger has its four labels.")
        return
    heads = ("RANK", "KEY", "PROVIDER", "CALLS", "COST", "SHARE", "CUMULATIVE", "LAST", "SEEN", "TO DO")
    shown = [
        [
            str(row["rank"]),
            visible(row["key"] or "(none)"),
            visible(row["provider"]),
            f"{row['calls']:,}",
            money.display(money.usd_sum(row["cost_usd"])),
            shown_cell(row["share"], "share"),
            shown_cell(row["cumulative_share"], "share"),
            row["last"][:10],
            visible(", ".join(f"{name} {value}" for name, value in row["seen"].items())) or "-",
            row["do"] + (f" (now {row['replaced_by']})" if row["replaced_by"] else ""),
        ]
        for row in rows
    ]
    print_table(heads, shown)
    click.echo()
    click.echo(
        f"{money.display(lost)} of {money.display(money.usd_sum(document['total_usd']))} is nobody's, or not wholly "
        f"somebody's: {shown_cell(share, 'share')}, on {document['keys']:,} keys."
    )


def _say_labelled(document: dict[str, Any]) -> None:
    bearer = ", ".join(f"{name} {document[name]}" for name in LABELS)
    cost: Decimal = money.usd_sum(document["cost_usd"])
    done = document["applied"]
    verb = "moves" if done is None else "moved"
    click.echo(
        f"{visible(document['key'])}: {document['calls']:,} calls, {money.display(cost)}, {verb} to {visible(bearer)}."
    )
    for month in document["months"]:
        where = ", closed: posted in the open month" if month["closed"] else ""
        click.echo(
            f"  {month['month']}  {month['calls']:,} calls, {money.display(money.usd_sum(month['cost_usd']))}{where}"
        )
    if done is None:
        say("Nothing is posted; do so with --apply.")
    else:
        say(f"{done:,} entries are posted.")
