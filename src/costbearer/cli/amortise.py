"""`costbearer prices amortise`: spreads the fees of commitments over the calls that used them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from costbearer.cli.client import Local, Remote, open_client, operator, with_config
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.config import Config


@click.command()
@click.option("--since", required=True, help="First day: 2026-11-01, 2026-11, 7d ago.")
@click.option("--until", help="End of the period, excluded; only days that are over count.  [default: now]")
@click.option("--apply", "apply_it", is_flag=True, help="Post what is missing. Without it that is only shown.")
@with_config
@json_option
@csv_option
def amortise(config: Config, since: str, until: str | None, apply_it: bool, as_json: bool, as_csv: bool) -> None:
    """Spread the fees of capacity that is paid by time over the calls that used it.

    Day by day (UTC) each commitment's fee goes into the effective cost of the calls that ran on it, by their tokens;
    what nobody used is kept apart. A running console does this by itself for days that are over.
    """
    one_of(as_json, as_csv)
    with open_client(config) as client:
        if isinstance(client, Remote):
            params = [("since", since), ("apply", str(apply_it).lower()), *([("until", until)] if until else [])]
            found: dict[str, Any] = client.document("POST", "/api/v1/amortisations", params=params)
        else:
            found = _locally(client, since, until, apply_it)
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(COLUMNS, _rows(found))
    else:
        _show(found)


COLUMNS = ("commitment", "team", "model", "calls", "tokens", "effective_cost_usd")
NOBODY = "(nobody)"
"""Stands where a team would for what nobody used."""


def _rows(found: dict[str, Any]) -> list[list[object]]:
    """Who bore how much of each commitment, and what nobody did: they add up to its fee."""
    rows: list[list[object]] = []
    for of in found["commitments"]:
        name = of["commitment"]
        rows += [[name, *(row[column] for column in COLUMNS[1:])] for row in of["rows"]]
        rows.append([name, NOBODY, None, 0, 0, of["unused_usd"]])
    return rows


def _show(found: dict[str, Any]) -> None:
    days, missing, applied = found["days"], found["missing"], found["applied"]
    say(f"{days} whole {'day' if days == 1 else 'days'} from {found['since']} to {found['until']}.")
    if not found["commitments"]:
        say("No commitment holds in them: `costbearer prices import FILE` takes a contract with [[commitments]].")
        return
    shown = [["(none)" if cell is None else str(cell) for cell in row] for row in _rows(found)]
    print_table(["COMMITMENT", "TEAM", "MODEL", "CALLS", "TOKENS", "EFFECTIVE $"], shown)
    for of in found["commitments"]:
        say(f"{of['commitment']} costs $ {of['fee_usd']} in them, of which $ {of['unused_usd']} nobody used.")
    if applied is not None:
        say("1 entry is posted." if applied == 1 else f"{applied} entries are posted.")
    elif missing:
        say(f"{'1 entry is' if missing == 1 else f'{missing} entries are'} missing. Nothing is posted without --apply.")
    else:
        say("Nothing is missing.")


def _locally(client: Local, since: str, until: str | None, apply_it: bool) -> dict[str, Any]:
    from costbearer.amortise import amortise as spread
    from costbearer.app import books, load_prices
    from costbearer.console.api_restatements import period
    from costbearer.stores.acts import before_posting

    with books(client.config) as (ledger, bookkeeper, closed):
        bookkeeper.catch_up()
        span, contract = period(since, until), load_prices(client.config.prices_dir).contract
        now = datetime.now(UTC)
        if apply_it:
            before_posting(client.acts(), operator(), "amortisation.post", span.document())
        return spread(ledger, bookkeeper, contract, **span._asdict(), now=now, apply=apply_it, closed=closed)
