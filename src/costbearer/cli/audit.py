"""`costbearer audit`: what a usage log of any gateway or provider is worth."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costbearer.cli.client import with_config
from costbearer.cli.output import json_option, print_json, say
from costbearer.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from costbearer.audit.result import AuditResult
    from costbearer.audit.run import Options
    from costbearer.audit.verdict import Compared
    from costbearer.stores.logfiles import Limits
    from costbearer.stores.logs import Logs

_FILE = click.Path(path_type=Path, dir_okay=False)
CHECK_FAILED = 1
IN_MEMORY_SHARE = 1_500_000
"""Bytes of a log per MB of the engine's memory, beyond which its records are kept on disk: they take about a fifth."""


@click.command(epilog="FILE may be a pattern, a directory, - for standard input, or postgresql://HOST/DB?table=NAME.")
@click.argument("names", metavar="FILE|URL...", nargs=-1, required=True)
@click.option("--format", "wanted", default="auto", metavar="auto|NAME", help="The log's format.  [default: auto]")
@click.option("--map", "map_file", type=_FILE, help="YAML that says which column is which field, for a table.")
@click.option("--ownership", "ownership_file", type=_FILE, help="YAML or CSV: whose a key, identity or project is.")
@click.option(
    "--invoice", "invoice_files", type=_FILE, multiple=True, help="What the provider billed, to compare with."
)
@click.option(
    "--fail-on", "conditions", multiple=True, metavar="WHAT", help="CODE, SEVERITY or unattributed>2%: exit 1."
)
@click.option("--baseline", type=_FILE, help="The JSON of an earlier audit: what is new, gone, worse.")
@click.option("--traces", default=10, show_default=True, type=click.IntRange(1, 1000), help="Traces to look into.")
@click.option("--seed", default=0, show_default=True, help="Which traces are drawn.")
@click.option("--html", "html_file", type=_FILE, help="Write a page that needs nothing else.")
@click.option("--csv", "as_csv", is_flag=True, help="Findings as CSV on stdout.")
@click.option("--markdown", "as_markdown", is_flag=True, help="A short report for a pull request on stdout.")
@click.option("--progress", "told", is_flag=True, hidden=True, help="Lines on stderr for the program that runs this.")
@with_config
@json_option
def audit(config: Config, names: tuple[str, ...], **given: Any) -> None:
    """Read usage logs of any gateway or provider and say what they are worth.

    Who caused the spend, what nobody answers for, what was counted twice or priced wrongly, and whether the log is fit
    for chargeback. Nothing leaves this machine, and no server is needed.
    """
    from costbearer.audit import verdict

    forms = [name for name in ("as_json", "as_csv", "as_markdown") if given[name]]
    if len(forms) > 1:
        raise click.UsageError(
            "--json, --csv and --markdown are forms of one thing; choose one", click.get_current_context()
        )
    conditions = [verdict.condition(text) for text in given["conditions"]]
    result = _audited(config, names, given)
    compared = verdict.compared(result, given["baseline"]) if given["baseline"] is not None else None
    if given["html_file"] is not None:
        from costbearer.audit.show_html import html

        _write(given["html_file"], html(result, compared))
    _print(result, compared, given)
    failed = verdict.failed(result, conditions)
    for line in failed:
        say(f"failed: {line}")
    if failed:
        sys.exit(CHECK_FAILED)


def _audited(config: Config, names: tuple[str, ...], given: dict[str, Any]) -> AuditResult:
    from costbearer.app import load_prices
    from costbearer.audit.run import audit as run

    prices = load_prices(config.prices_dir)
    options = options_of(names, given)._replace(contract=prices.contract)
    with engine(config, names, told=given["told"]) as (logs, progress):
        return run(logs, prices.book, options, progress)


@contextmanager
def engine(config: Config, names: Sequence[str], *, told: bool = False) -> Iterator[tuple[Logs, Callable[[str], None]]]:
    """What reads logs, with the limits that are set, and the bar that tells how far it is; lines for a program where
    one has asked to be told."""
    from costbearer.stores.lognames import bytes_of
    from costbearer.stores.logs import Logs, workplace
    from costbearer.stores.logtables import is_address

    with workplace() as work:
        memory_mb = config.integer("audit.memory_mb")
        large = bytes_of(names) > memory_mb * IN_MEMORY_SHARE
        logs = Logs(work, _limits(config), memory_mb, on_disk=large or any(map(is_address, names)))
        try:
            with _progress(logs, told) as progress:
                yield logs, progress
        finally:
            logs.close()


def _limits(config: Config) -> Limits:
    from costbearer.stores.logfiles import Limits

    return Limits(
        line_bytes=config.integer("audit.line_bytes_max"),
        document_bytes=config.integer("audit.document_bytes_max"),
        expanded_bytes=config.integer("audit.expanded_bytes_max"),
        expansion_ratio=config.integer("audit.expansion_ratio_max"),
    )


def options_of(names: tuple[str, ...], given: dict[str, Any]) -> Options:
    from costbearer.audit import ownership
    from costbearer.audit.mapping import read as read_map
    from costbearer.audit.run import Options
    from costbearer.reconcile import invoices

    return Options(
        names,
        wanted=given["wanted"],
        columns=read_map(given["map_file"]) if given["map_file"] is not None else None,
        ownership=ownership.read(given["ownership_file"]) if given["ownership_file"] is not None else None,
        invoices=tuple(invoices.read(file) for file in given.get("invoice_files", ())),
        traces=given.get("traces", 1),
        seed=given.get("seed", 0),
    )


def _print(result: AuditResult, compared: Compared | None, given: dict[str, Any]) -> None:
    if given["as_json"]:
        from costbearer.audit.verdict import verdict

        word, sentence = verdict(result)
        changes = {"changes": compared.document()} if compared is not None else {}
        print_json(result.document() | {"verdict": word, "verdict_says": sentence} | changes)
    elif given["as_csv"]:
        from costbearer.audit.show_csv import csv

        click.echo(csv(result), nl=False)
    elif given["as_markdown"]:
        from costbearer.audit.show_markdown import markdown

        click.echo(markdown(result, compared), nl=False)
    else:
        from costbearer.audit.show_text import text

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(text(result, compared, width), nl=False)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        from costbearer.errors import InputInvalid

        raise InputInvalid(f"{file}: cannot be written: {error.strerror}") from None


class _progress:  # noqa: N801  used like a function
    """A bar on stderr for what takes longer than a second, on a terminal."""

    AFTER_S = 1.0
    EVERY_S = 0.1

    def __init__(self, logs: Any, told: bool) -> None:
        self._logs = logs
        self._what = ""
        self._lines = told

    def __enter__(self) -> Callable[[str], None]:
        if sys.stderr.isatty() and not self._lines:
            import threading

            self._over = threading.Event()
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()
        return self._told

    def _told(self, what: str) -> None:
        self._what = what
        if self._lines:
            from costbearer.audit.run import PROGRESS

            say(f"{PROGRESS}{what}")

    def _run(self) -> None:
        if self._over.wait(self.AFTER_S):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self._what, total=None)
            while not self._over.wait(self.EVERY_S):
                done = self._logs.progress()
                total = 100 if done > 0 else None
                bar.update(task, description=self._what, completed=max(done, 0), total=total)

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty() and not self._lines:
            self._over.set()
            self._thread.join()
