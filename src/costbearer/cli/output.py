"""How data leaves a command: one JSON document, CSV, or a table for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


def json_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(function)


def csv_option(function: Callable[P, R]) -> Callable[P, R]:
    """Adds `--csv`."""
    return click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout.")(function)


def one_of(as_json: bool, as_csv: bool) -> None:
    """Raises a usage error where both forms are asked for."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms of one thing; choose one", click.get_current_context())


def say(text: str = "") -> None:
    """Talk, on stderr."""
    click.echo(text, err=True)


def print_json(document: object) -> None:
    """One document, for programs and for reading."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A header and rows with LF line ends; None is an empty cell. No text is a formula to a spreadsheet."""
    from costbearer.reports.formulas import harmless_cell
    from costbearer.reports.table import csv_quoted

    lines = [",".join(csv_quoted(harmless_cell(cell)) for cell in row) for row in (columns, *rows)]
    click.echo("".join(line + "\n" for line in lines), nl=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, as wide as their text: nothing is cut off, whether a person reads it or `grep`."""
    from rich.cells import cell_len

    widths = [max(cell_len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
    for row in (columns, *rows):
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(padded).rstrip())
