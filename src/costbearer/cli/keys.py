"""`costbearer keys`: issue, list, show, rotate, revoke and relabel virtual keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import click

from costbearer.cli.backfill import backfill
from costbearer.cli.client import Client, Document, with_client
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.keys import spoken
from costbearer.labels import REQUIRE_PRICE
from costbearer.ledger import LABELS

_COLUMNS = ("key_id", "name", *LABELS, "status", "expires")
_CSV_COLUMNS = (
    *("key_id", "name", *LABELS, "env", "project", "cost_center", "require"),
    *("status", "created_at", "expires_at", "revoked_at"),
)

_SNIPPETS = """\
Put it where the provider's own key was:

  export COSTBEARER_KEY=...   # the key above

  # Python, OpenAI SDK
  client = OpenAI(base_url="{url}/v1", api_key=os.environ["COSTBEARER_KEY"])

  # Python, Anthropic SDK
  client = Anthropic(base_url="{url}", api_key=os.environ["COSTBEARER_KEY"])

  # curl
  curl {url}/v1/chat/completions -H "Authorization: Bearer $COSTBEARER_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "gpt-4.1-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""

_EXPIRES_HELP = "Its life: 90d, 12w, 2026-12-31, a time with offset, or never."


@click.group()
def keys() -> None:
    """Issue, list, show, rotate, revoke and relabel virtual keys."""


def _labels(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the four labels as options. None is required here: the rules name all that are missing at once."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for label in reversed(LABELS):
            function = click.option(f"--{label}", metavar=label[0].upper(), help=f"{what} {label}.")(function)
        return function

    return add


keys.add_command(backfill)


@keys.command()
@with_client
@_labels("The")
@click.option("--name", help="What people call it.")
@click.option("--expires", help=f"{_EXPIRES_HELP}  [default: 90d, or keys.expire_days]")
@click.option("--require", metavar="A,B", help="Fields every call must state, such as feature,customer.")
@click.option("--require-price", is_flag=True, help="Refuse calls whose price is not known.")
@click.option("--env", help="Environment.")
@click.option("--project", help="Project.")
@click.option("--cost-center", help="Cost center.")
@json_option
def issue(client: Client, require: str | None, require_price: bool, as_json: bool, **given: str | None) -> None:
    """Issue a key and show it, this once. The key alone goes to stdout, the rest to stderr."""
    fields: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    required = [*(_listed(require) if require is not None else []), *([REQUIRE_PRICE] if require_price else [])]
    if required or require is not None:
        fields["require"] = required
    issued = client.issue_key(fields)
    if as_json:
        print_json(issued)
        say(f"{_expiry(issued)} {_ONCE}")
        return
    say(f"Key {issued['key_id']} is issued for {_bearer(issued)}.")
    say(f"{_expiry(issued)} {_ONCE}")
    say()
    click.echo(issued["key"])
    say()
    say(_SNIPPETS.format(url=issued["gateway_url"]))


@keys.command("list")
@with_client
@_labels("Only keys of this")
@click.option("--status", type=click.Choice(["active", "expired", "revoked"]), help="Only keys in this state.")
@json_option
@csv_option
def list_keys(client: Client, as_json: bool, as_csv: bool, **given: str | None) -> None:
    """List keys, the oldest first."""
    one_of(as_json, as_csv)
    found = client.list_keys({name: value for name, value in given.items() if value is not None})
    if as_json:
        print_json({"keys": found})
    elif as_csv:
        print_csv(_CSV_COLUMNS, [[_cell(key, column) for column in _CSV_COLUMNS] for key in found])
    elif found:
        headings = [column.replace("_", " ").upper() for column in _COLUMNS]
        print_table(headings, [[_shown(key, column) for column in _COLUMNS] for key in found])
    elif any(given.values()):
        say("No key is like that.")
    else:
        say("No keys yet. Issue one: costbearer keys issue --owner O --team T --agent A --workload W")


@keys.command()
@with_client
@click.argument("key", metavar="ID")
@json_option
def show(client: Client, key: str, as_json: bool) -> None:
    """Show one key, by its id or by what it begins with (cbk_ and 12 characters): whose key was found somewhere?"""
    found = client.show_key(key)
    if as_json:
        print_json(found)
        return
    lines = [
        ("key", found["key_id"]),
        *((name, found[name]) for name in ("name", *LABELS, "env", "project", "cost_center") if found[name]),
        ("requires", ", ".join(found["require"])),
        ("status", found["status"]),
        ("issued", _time(found["created_at"])),
        ("expires", _time(found["expires_at"])),
        ("revoked", _time(found["revoked_at"]) if found["revoked_at"] else ""),
        *(
            (f"from {_time(dated['from'])}", f"{_bearer(dated)}")
            for dated in (found["labels"] if len(found["labels"]) > 1 else [])
        ),
        *(
            ("secret", f"{secret['begins_with']}... {_secret_end(secret)}")
            for secret in (found["secrets"] if found["status"] == "active" else [])
        ),
    ]
    kept = [(name.replace("_", " "), value) for name, value in lines if value]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        click.echo(f"{name:<{width}}  {value}")


@keys.command()
@with_client
@click.argument("key", metavar="ID")
@click.option(
    "--overlap", metavar="TIME", help="How long the old secret still works: 30m, 24h, 7d, or 0.  [default: 24h]"
)
@click.option("--expires", help=f"{_EXPIRES_HELP}  [default: as before]")
@json_option
def rotate(client: Client, key: str, as_json: bool, **given: str | None) -> None:
    """Give a key a new secret and show it, this once. The old one works on for the overlap; both are the same key."""
    issued = client.rotate_key(key, {name: value for name, value in given.items() if value is not None})
    old = f"The old secret ends on {_time(issued['previous_until'])}."
    if as_json:
        print_json(issued)
        say(f"{old} {_expiry(issued)} {_ONCE}")
        return
    say(f"Key {issued['key_id']} of {_bearer(issued)} has a new secret. {old}")
    say(f"{_expiry(issued)} {_ONCE}")
    say()
    click.echo(issued["key"])


@keys.command()
@with_client
@click.argument("key", metavar="ID")
@json_option
def revoke(client: Client, key: str, as_json: bool) -> None:
    """End a key for good. It stops within a second on every worker; revoking it again changes nothing."""
    revoked = client.revoke_key(key)
    if as_json:
        print_json(revoked)
        return
    click.echo(f"Key {revoked['key_id']} of {_bearer(revoked)} is revoked since {_time(revoked['revoked_at'])}.")


@keys.command()
@with_client
@click.argument("key", metavar="ID")
@_labels("The new")
@click.option("--from", "from_", metavar="DATE", help="A later date or time from which they hold.  [default: now]")
@json_option
def relabel(client: Client, key: str, from_: str | None, as_json: bool, **given: str | None) -> None:
    """Change labels from now or a later time on. Calls posted before keep the labels they were posted under."""
    fields = {name: value for name, value in {**given, "from": from_}.items() if value is not None}
    changed = client.relabel_key(key, fields)
    if as_json:
        print_json(changed)
        return
    for dated in changed["labels"][-2:]:
        click.echo(f"Key {changed['key_id']} from {_time(dated['from'])}: {_bearer(dated)}")


_ONCE = "It is shown only now; a keyed hash of it is kept."


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _bearer(labels: Document) -> str:
    return ", ".join(f"{name} {labels[name]}" for name in LABELS)


def _expiry(issued: Document) -> str:
    """Said aloud, because a key that ends by surprise is an outage."""
    if issued["expires_at"] is None:
        return "It never expires."
    newest = max(datetime.fromisoformat(secret["created_at"]) for secret in issued["secrets"])
    left = datetime.fromisoformat(issued["expires_at"]) - newest
    days = round(left / timedelta(days=1))
    return f"It expires on {_time(issued['expires_at'])}" + (f", in {days} days." if days > 1 else ".")


def _secret_end(secret: Document) -> str:
    return f"until {_time(secret['expires_at'])}" if secret["expires_at"] else "in use"


def _time(text: str | None) -> str:
    return "never" if text is None else spoken(datetime.fromisoformat(text))


def _shown(key: Document, column: str) -> str:
    if column == "expires":
        return _time(key["expires_at"])
    value = key[column]
    return "-" if value is None else str(value)


def _cell(key: Document, column: str) -> object:
    value = key[column]
    return ",".join(value) if isinstance(value, list) else value
