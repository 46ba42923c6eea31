"""`costbearer close`: closes a month, so that nothing in it changes any more."""

from __future__ import annotations

import click

from costbearer.cli.client import Remote, open_client, operator, with_config
from costbearer.cli.output import json_option, print_json, say
from costbearer.config import Config
from costbearer.errors import NotFound


@click.command()
@click.argument("month", metavar="YYYY-MM")
@with_config
@json_option
def close(config: Config, month: str, as_json: bool) -> None:
    """Close a month, and all before it, for ever.

    What is learned later of its calls (restated prices, results of batches, shares of fees) is posted in the open
    month, as entries that refer to the old ones.
    """
    with open_client(config) as client:
        if isinstance(client, Remote):
            closed = client.document("POST", "/api/v1/periods", body={"month": month})
        else:
            if not config.data.is_dir():
                raise NotFound(f"there is no data directory {config.data}; name it with --data")
            from costbearer.console.api_periods import document
            from costbearer.stores.control import Control
            from costbearer.stores.periods import Periods

            with Control.open(config.control_file) as control:
                closed = document(Periods(control.database).close(month, operator()))
    if as_json:
        print_json(closed)
    else:
        say(f"{closed['month']} is closed, with all before it.")
