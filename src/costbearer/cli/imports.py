"""`costbearer import`: usage out of other gateways' logs into the ledger, once however often it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costbearer.cli.audit import engine, options_of
from costbearer.cli.client import Local, Remote, open_client, operator, with_config
from costbearer.cli.output import json_option, print_json, say
from costbearer.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from costbearer.imports import Imported
    from costbearer.ledger import Entry

_FILE = click.Path(path_type=Path, dir_okay=False)
REMOTE_BATCH = 300
"""Entries in one request: the console takes a body of 1 MiB."""


@click.command(name="import")
@click.argument("names", metavar="FILE|URL...", nargs=-1, required=True)
@click.option("--format", "wanted", default="auto", metavar="auto|NAME", help="The log's format.  [default: auto]")
@click.option("--map", "map_file", type=_FILE, help="YAML that says which column is which field, for a table.")
@click.option(
    "--ownership",
    "ownership_file",
    type=_FILE,
    help="YAML or CSV: whose a key, identity or project is.  [default: the map kept by `costbearer ownership`]",
)
@with_config
@json_option
def import_(config: Config, names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Bring usage out of other gateways' logs into the ledger, so that reports reach back before the gateway.

    Every call is rated by the archive of its day; what a provider stated itself wins. Importing again adds nothing, and
    what the gateway recorded itself is left out. Tenants and users are hashed.
    """
    from costbearer.app import load_prices, prepare
    from costbearer.audit.intake import taken
    from costbearer.audit.run import facts

    options = options_of(names, given)
    with open_client(config) as client, engine(config, names) as (logs, progress):
        if isinstance(client, Local):
            prepare(config)
        prices = load_prices(config.prices_dir)
        options = options._replace(contract=prices.contract, ownership=options.ownership or _kept(config, client))
        intake = taken(logs, options.names, wanted=options.wanted, columns=options.columns, progress=progress)
        evidence = facts(logs, prices.book, options, intake, progress)
        untimed = evidence.execute(
            evidence.calls.aggregate(n=evidence.calls.started_at.isnull().sum(), all=evidence.calls.count())
        )[0]
        progress("posting")
        found = _posted(config, client, evidence, intake)
    document = {"records": untimed["all"], **found.document(), "without_time": int(untimed["n"] or 0)}
    if as_json:
        print_json(document)
        return
    click.echo(f"{found.posted:,} of {untimed['all']:,} calls are posted.")
    for count, why in (
        (found.known, "are in the ledger already"),
        (found.closed, "lie in closed months, which do not change"),
        (document["without_time"], "have no time that can be read"),
        (found.refused, "contradict themselves; `costbearer audit` says how"),
        (intake.unread_count, "lines could not be read; `costbearer audit` shows them"),
    ):
        if count:
            say(f"{count:,} {why}.")


def _kept(config: Config, client: Local | Remote) -> Any:
    """The ownership map that the control store keeps; None where it has no row."""
    from costbearer import owners
    from costbearer.audit.ownership import of_rows

    if isinstance(client, Remote):
        rows = owners.rows([dict(row) for row in client.document("GET", "/api/v1/ownership")["rows"]])
    else:
        rows = client.directory().owners() if config.control_file.exists() else []
    return of_rows(rows) if rows else None


def _posted(config: Config, client: Local | Remote, evidence: Any, intake: Any) -> Imported:
    from costbearer.app import books, hashers
    from costbearer.imports import Imported, batches, post
    from costbearer.stores import secrets
    from costbearer.stores.acts import before_posting

    made = batches(evidence, intake, hashers(secrets.keyring(config.data)))
    total = Imported()
    if isinstance(client, Remote):
        for piece in _pieces(made):
            total = total.plus(_sent(client, piece))
        return total
    with books(config) as (ledger, bookkeeper, closed):
        bookkeeper.catch_up()
        for batch in made:
            before_posting(client.acts(), operator(), "entries.import", {"entries": len(batch)})
            total = total.plus(post(ledger, bookkeeper, batch, closed))
    return total


def _pieces(batches: Iterator[list[Entry]]) -> Iterator[list[Entry]]:
    for batch in batches:
        for at in range(0, len(batch), REMOTE_BATCH):
            yield batch[at : at + REMOTE_BATCH]


def _sent(client: Remote, piece: list[Entry]) -> Imported:
    import msgspec

    from costbearer.imports import Imported

    body = {"entries": msgspec.to_builtins(piece)}
    answer = client.document("POST", "/api/v1/imports", body=body)
    return Imported(**{name: int(str(answer[name])) for name in Imported._fields})
