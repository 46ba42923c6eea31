"""`costbearer config show` and `costbearer version`."""

from __future__ import annotations

import platform

import click

from costbearer import __version__
from costbearer.cli.client import with_config
from costbearer.cli.output import csv_option, json_option, one_of, print_csv, print_json, print_table, say
from costbearer.config import SETTINGS, Config


@click.group()
def config() -> None:
    """Show every setting and where its value came from."""


@config.command()
@with_config
@json_option
@csv_option
def show(config: Config, as_json: bool, as_csv: bool) -> None:
    """Every setting with its value and where that came from: default, the file, the environment or the command line.

    Credentials are never shown.
    """
    one_of(as_json, as_csv)
    rows = [
        (
            row.name,
            str(config.data) if row.name == "data" else config.values[row.name],
            config.origin[row.name],
            row.meaning,
        )
        for row in SETTINGS
    ]
    columns = ("name", "value", "origin", "meaning")
    if as_json:
        print_json(
            {
                "settings": [dict(zip(columns, row, strict=True)) for row in rows],
                "providers": [
                    {
                        "name": provider.name,
                        "dialect": provider.dialect,
                        "base_url": provider.base_url,
                        "price_provider": provider.price_provider,
                        "cost_header": provider.cost_header,
                    }
                    for provider in config.providers.values()
                ],
                "routes": [{"model": route.model, "upstreams": list(route.upstreams)} for route in config.routes],
            }
        )
        return
    if as_csv:
        print_csv(columns, rows)
        return
    print_table([column.upper() for column in columns], [[str(cell) for cell in row] for row in rows])
    click.echo()
    if config.providers:
        listed = [[item.name, item.dialect, item.base_url, item.price_provider] for item in config.providers.values()]
        print_table(["PROVIDER", "DIALECT", "BASE URL", "PRICES OF"], listed)
    else:
        say("No providers: add a [providers.NAME] table to costbearer.toml.")
    if config.routes:
        click.echo()
        print_table(["ROUTE", "UPSTREAMS"], [[route.model, ", ".join(route.upstreams)] for route in config.routes])


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the version."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        click.echo(f"costbearer {__version__}")
