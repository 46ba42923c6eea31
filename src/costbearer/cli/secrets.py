"""`costbearer secrets`: the secret that keys are kept under, another one beside it, and the end of the old one."""

from __future__ import annotations

from typing import Any

import click

from costbearer.cli.client import Local, Remote, operator, with_client
from costbearer.cli.output import json_option, print_json, print_table, say

PATH = "/api/v1/peppers"


@click.group()
def secrets() -> None:
    """The secret that keys are kept under: another one, and the end of the old one."""


@secrets.command("list")
@with_client
@json_option
def list_secrets(client: Local | Remote, as_json: bool) -> None:
    """Every version, and the keys that were not used since it was replaced: they end with it."""
    if isinstance(client, Local):
        found = {"peppers": [_document(each) for each in _peppers(client).all()]}
    else:
        found = client.document("GET", PATH)
    if as_json:
        print_json(found)
        return
    rows = [[str(each["version"]), _state(each), str(len(each["waiting"]))] for each in found["peppers"]]
    print_table(["VERSION", "STATE", "KEYS THAT WAIT"], rows)
    for each in found["peppers"]:
        for key in each["waiting"] if each["retired_at"] is None else ():
            click.echo(f"{key} was not used since version {each['version']} was replaced")


@secrets.command()
@with_client
@json_option
def rotate(client: Local | Remote, as_json: bool) -> None:
    """Make another version. No key stops: each moves to it when it is used next, on whichever worker."""
    if isinstance(client, Local):
        found = _document(_peppers(client).rotate(operator()))
    else:
        found = client.document("POST", PATH, body={})
    if as_json:
        print_json(found)
        return
    say(f"Version {found['version']} is active. Keys move to it as they are used; `costbearer secrets list` says which")
    say("have not. Retire the old one when none waits. Keep a backup of keyring.json beside that of control.sqlite.")


@secrets.command()
@with_client
@click.argument("version", type=int)
@click.option("--anyway", is_flag=True, help="Also where keys wait; they are refused from then on, for ever.")
@json_option
def retire(client: Local | Remote, version: int, anyway: bool, as_json: bool) -> None:
    """End an old version. Keys that were not used since it was replaced are refused from then on."""
    if isinstance(client, Local):
        found = _document(_peppers(client).retire(version, operator(), anyway=anyway))
    else:
        found = client.document("POST", f"{PATH}/{version}/retire", body={"anyway": anyway})
    if as_json:
        print_json(found)
        return
    say(f"Version {version} is retired. {len(found['waiting'])} keys end with it.")


def _peppers(client: Local) -> Any:
    """The peppers, with what workers handed in taken over."""
    from costbearer.stores.peppers import Peppers
    from costbearer.stores.rekeying import Spool

    found = Peppers(client.control.database)
    found.move(Spool(client.config.data))
    return found


def _document(pepper: Any) -> dict[str, Any]:
    from costbearer.console.api_peppers import document

    return document(pepper)


def _state(each: dict[str, Any]) -> str:
    if each["retired_at"] is not None:
        return f"retired {each['retired_at'][:10]}"
    return "active" if each["active"] else "old"
