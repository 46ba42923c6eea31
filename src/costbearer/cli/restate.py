"""`costbearer restate`: rates the calls of a period again with the prices of today, and posts what that changes."""

from __future__ import annotations

from typing import Any

import click

from costbearer.cli.client import Local, Remote, open_client, operator, with_config
from costbearer.cli.output import json_option, print_json, print_table, say
from costbearer.config import Config


@click.command()
@click.option("--since", required=True, help="Begin of the period: 2026-11-01, 2026-11, RFC 3339, 7d or 24h ago.")
@click.option("--until", help="End of the period, excluded.  [default: now]")
@click.option("--apply", "apply_it", is_flag=True, help="Post the corrections. Without it they are only shown.")
@with_config
@json_option
def restate(config: Config, since: str, until: str | None, apply_it: bool, as_json: bool) -> None:
    """Rate the calls of a period again with the archive and the contract of today.

    Shows per model and team what changes. Costs that a provider stated itself stay. With --apply the differences are
    posted as entries of their own that refer to the old ones; nothing is edited.
    """
    with open_client(config) as client:
        if isinstance(client, Remote):
            params = [("since", since), ("apply", str(apply_it).lower()), *([("until", until)] if until else [])]
            found: dict[str, Any] = client.document("POST", "/api/v1/restatements", params=params)
        else:
            found = _locally(client, since, until, apply_it)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    say(f"{found['calls']} calls from {found['since']} to {found['until']} were rated again.")
    if found["rows"]:
        headings = ["MODEL", "TEAM", "REPRICED", "NOW PRICED", "BEFORE $", "AFTER $", "CHANGE $"]
        names = ("model", "team", "repriced", "priced", "before_usd", "after_usd", "delta_usd")
        print_table(headings, [[_cell(row[name]) for name in names] for row in found["rows"]])
    for lost in found["lost"]:
        say(f"{lost['calls']} calls of {lost['model']} had a price and now have none ({lost['reason']}); they keep it.")
    if found["still_unknown"]:
        say(f"{found['still_unknown']} calls have no price still: `costbearer report unknown` says why.")
    if not found["changes"]:
        say("Nothing changes.")
    elif found["applied"] is None:
        say(
            f"{found['changes']} calls would change, by $ {found['delta_usd']} in all. "
            "Nothing is posted without --apply."
        )
    else:
        say(f"{found['applied']} entries are posted for {found['changes']} calls, $ {found['delta_usd']} in all.")


def _cell(value: object) -> str:
    return "(none)" if value is None else str(value)


def _locally(client: Local, since: str, until: str | None, apply_it: bool) -> dict[str, Any]:
    from costbearer.app import books, load_prices
    from costbearer.console.api_restatements import period
    from costbearer.restate import restate
    from costbearer.stores.acts import before_posting

    with books(client.config) as (ledger, bookkeeper, closed):
        bookkeeper.catch_up()
        prices, span = load_prices(client.config.prices_dir), period(since, until)
        if apply_it:
            before_posting(client.acts(), operator(), "restatement.post", span.document())
        return restate(ledger, bookkeeper, prices, span, apply=apply_it, closed=closed)
