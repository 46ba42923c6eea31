"""`costbearer doctor`: proves that journal, ledger, reports and metrics agree, or says where they do not."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from costbearer.cli.client import Local, Remote, open_client, with_config
from costbearer.cli.output import json_option, print_json, say
from costbearer.config import Config
from costbearer.errors import Conflict, RemoteFailed

CHECK_FAILED = 1


@click.command()
@click.option("--rebuild", is_flag=True, help="First build the ledger again from the journal; the old file is kept.")
@with_config
@json_option
def doctor(config: Config, rebuild: bool, as_json: bool) -> None:
    """Recompute everything from the journal's raw frames and compare: seals, ledger, reports, metrics.

    Prints one line per check. Exits 1 when a check does not hold.
    """
    with open_client(config) as client:
        found = _remotely(client, rebuild) if isinstance(client, Remote) else _locally(client, rebuild)
    if as_json:
        print_json(found)
    else:
        for finding in found["findings"]:
            click.echo(f"{'ok' if finding['ok'] else 'FAILED':<7}{finding['check']:<9}{finding['detail']}")
    if not found["ok"]:
        raise click.exceptions.Exit(CHECK_FAILED)


def _remotely(client: Remote, rebuild: bool) -> dict[str, Any]:
    if rebuild:
        raise Conflict("a server runs on this data directory; stop it to rebuild the ledger")
    try:
        found: dict[str, Any] = msgspec.json.decode(client.text("/api/v1/doctor"), type=dict)
        return {"ok": bool(found["ok"]), "findings": list(found["findings"])}
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise RemoteFailed(f"{client.url} answered something else; is it a Costbearer console?") from None


def _locally(client: Local, rebuild: bool) -> dict[str, Any]:
    from costbearer.app import books
    from costbearer.console.api_doctor import document, full_examination

    with books(client.config) as (_, bookkeeper, _):
        if rebuild:
            say(f"rebuilt {bookkeeper.rebuild()} entries")
        return document(full_examination(bookkeeper, client.config.prices_dir))
