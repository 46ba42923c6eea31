"""`costbearer secrets`: what keys are kept under and what hashes tenants and users: a new one, the end of the old."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from costbearer.cli.client import Local, Remote, operator, with_client
from costbearer.cli.output import json_option, print_json, print_table, say

PATH = "/api/v1/peppers"
HASH_KEYS = "/api/v1/hash-keys"

hashes_option = click.option("--hashes", is_flag=True, help="The key that hashes tenants and users instead.")


@click.group()
def secrets() -> None:
    """The secrets that keys are kept under and that tenants and users are hashed with."""


@secrets.command("list")
@with_client
@json_option
def list_secrets(client: Local | Remote, as_json: bool) -> None:
    """Every version, and what was not used or seen since it was replaced: keys end with it, groups lose their link."""
    if isinstance(client, Local):
        with _hash_keys(client) as hash_keys:
            found = {
                "peppers": [_document(each) for each in _peppers(client).all()],
                "hash_keys": [_hash_document(each) for each in hash_keys.all()],
            }
    else:
        found = {**client.document("GET", PATH), **client.document("GET", HASH_KEYS)}
    if as_json:
        print_json(found)
        return
    rows = [[str(each["version"]), _state(each), str(len(each["waiting"]))] for each in found["peppers"]]
    print_table(["VERSION", "STATE", "KEYS THAT WAIT"], rows)
    for each in found["peppers"]:
        for key in each["waiting"] if each["retired_at"] is None else ():
            click.echo(f"{key} was not used since version {each['version']} was replaced")
    click.echo()
    hashed = [
        [str(each["version"]), _state(each), *(str(each["waiting"][name]) for name in ("tenants", "users"))]
        for each in found["hash_keys"]
    ]
    print_table(["HASHES", "STATE", "TENANTS THAT WAIT", "USERS THAT WAIT"], hashed)


@secrets.command()
@with_client
@hashes_option
@json_option
def rotate(client: Local | Remote, hashes: bool, as_json: bool) -> None:
    """Make another version. No key stops: each moves to it when it is used next. Of --hashes, calls state the old hash
    beside the new one from then on, so that every tenant and user that is seen stays one group."""
    if isinstance(client, Remote):
        found = client.document("POST", HASH_KEYS if hashes else PATH, body={})
    elif hashes:
        with _hash_keys(client) as hash_keys:
            found = _hash_document(hash_keys.rotate(operator()))
    else:
        found = _document(_peppers(client).rotate(operator()))
    if as_json:
        print_json(found)
        return
    if hashes:
        say(f"Version {found['version']} is active. Calls state both hashes; reports show the new one. Who is not seen")
        say("before the old one is retired cannot be linked: `costbearer secrets list` says how many that would be.")
    else:
        say(f"Version {found['version']} is active. Keys move to it as they are used; `costbearer secrets list` says")
        say("which have not. Retire the old one when none waits.")
    say("Keep a backup of keyring.json beside that of control.sqlite.")


@secrets.command()
@with_client
@click.argument("version", type=int)
@click.option("--anyway", is_flag=True, help="Also where keys or groups wait: keys are refused, groups split.")
@hashes_option
@json_option
def retire(client: Local | Remote, version: int, anyway: bool, hashes: bool, as_json: bool) -> None:
    """End an old version. Keys that were not used since it was replaced are refused from then on. Of --hashes, tenants
    and users that were not seen since keep their old hash, and what they spend later is another group."""
    if isinstance(client, Remote):
        path = HASH_KEYS if hashes else PATH
        found = client.document("POST", f"{path}/{version}/retire", body={"anyway": anyway})
    elif hashes:
        with _hash_keys(client) as hash_keys:
            found = _hash_document(hash_keys.retire(version, operator(), anyway=anyway))
    else:
        found = _document(_peppers(client).retire(version, operator(), anyway=anyway))
    if as_json:
        print_json(found)
        return
    if hashes:
        waiting = found["waiting"]
        say(f"Version {version} is retired. Nothing is linked to its hashes any more: {waiting['tenants']} tenants and")
        say(f"{waiting['users']} users were not seen since it was replaced and keep the old hash.")
    else:
        say(f"Version {version} is retired. {len(found['waiting'])} keys end with it.")


def _peppers(client: Local) -> Any:
    """The peppers, with what workers handed in taken over."""
    from costbearer.stores.peppers import Peppers
    from costbearer.stores.rekeying import Spool

    found = Peppers(client.control.database)
    found.move(Spool(client.config.data))
    return found


@contextlib.contextmanager
def _hash_keys(client: Local) -> Iterator[Any]:
    """The hash keys, beside the ledger that says who waits."""
    from costbearer.app import books, waiting_in
    from costbearer.stores.hash_keys import HashKeys

    database = client.control.database
    with books(client.config) as (ledger, bookkeeper, _):
        yield HashKeys(database, waiting_in(ledger, bookkeeper))


def _document(pepper: Any) -> dict[str, Any]:
    from costbearer.console.api_peppers import document

    return document(pepper)


def _hash_document(hash_key: Any) -> dict[str, Any]:
    from costbearer.console.api_hash_keys import document

    return document(hash_key)


def _state(each: dict[str, Any]) -> str:
    if each["retired_at"] is not None:
        return f"retired {each['retired_at'][:10]}"
    return "active" if each["active"] else "old"
