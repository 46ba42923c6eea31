"""The command line. Commands live in modules of their own that are imported only when they run.

Data goes to stdout, talk to stderr. Every fault a person can meet is one line, ``costbearer: what, where [code]``, and
exit code 2; exit code 1 is kept for checks that did not hold.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import click

from costbearer.errors import CostbearerError

PROGRAM = "costbearer"
BAD_USAGE = 2
INTERRUPTED = 130


class Place(NamedTuple):
    """Where a command is and what it is for; the help is here so that listing the commands imports none of them."""

    module: str
    name: str
    summary: str


COMMANDS: dict[str, Place] = {
    "serve": Place("costbearer.cli.server", "serve", "Run gateway and console, and keep them running."),
    "gateway": Place("costbearer.cli.server", "gateway", "Run the gateway alone."),
    "console": Place("costbearer.cli.server", "console", "Run ledger, bookkeeper, API and pages alone."),
    "keys": Place("costbearer.cli.keys", "keys", "Issue, list, show, rotate, revoke and relabel virtual keys."),
    "secrets": Place("costbearer.cli.secrets", "secrets", "Change the secret that keys are kept under."),
    "prices": Place("costbearer.cli.prices", "prices", "List, show, compare and change prices."),
    "restate": Place("costbearer.cli.restate", "restate", "Rate past calls again with the prices of today."),
    "close": Place("costbearer.cli.close", "close", "Close a month: nothing in it changes any more."),
    "report": Place("costbearer.cli.report", "report", "Report what was spent, by whom and on what."),
    "audit": Place("costbearer.cli.audit", "audit", "Say what a usage log of any gateway or provider is worth."),
    "import": Place("costbearer.cli.imports", "import_", "Bring usage out of other gateways' logs into the ledger."),
    "ownership": Place("costbearer.cli.ownership", "ownership", "Say who answers for what other gateways' logs name."),
    "figures": Place("costbearer.cli.figures", "figures", "Business figures to divide costs by."),
    "views": Place("costbearer.cli.views", "views", "Saved views of the console, as files with a diff."),
    "annotations": Place("costbearer.cli.views", "annotated_days", "What happened on a day, for the console's charts."),
    "export": Place("costbearer.cli.export", "export", "Hand the ledger's entries to other programs."),
    "doctor": Place("costbearer.cli.doctor", "doctor", "Prove that journal, ledger, report and metrics agree."),
    "simulate": Place("costbearer.cli.server", "simulate", "Run simulated providers on loopback."),
    "demo": Place("costbearer.cli.server", "demo", "See the whole way through on this machine."),
    "config": Place("costbearer.cli.settings", "config", "Show every setting and where its value came from."),
    "version": Place("costbearer.cli.settings", "version", "Show the version."),
}


class CommandLine(click.Group):
    """The group of all commands, each found in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command = getattr(importlib.import_module(place.module), place.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit. The only place where an error becomes a line on stderr and an exit code."""
        # A short command has no log; without a handler Python would print the library's warnings into its talk.
        logging.getLogger(PROGRAM).addHandler(logging.NullHandler())
        assert standalone_mode, "this group always exits"
        try:
            code = super().main(args, prog_name or PROGRAM, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = BAD_USAGE
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx is not None else PROGRAM
            _complain(f"{error.format_message().rstrip('.')}; see `{command} --help`", "usage")
            code = BAD_USAGE
        except click.ClickException as error:
            _complain(error.format_message(), "usage")
            code = BAD_USAGE
        except CostbearerError as error:
            _complain(error.message, error.code)
            code = BAD_USAGE
        except click.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: str) -> None:
    """One line; what does not print is written out, for a message may hold a name out of somebody's file."""
    from costbearer.reports.table import visible

    click.echo(f"{PROGRAM}: {visible(' '.join(message.split()))} [{code}]", err=True)


root = CommandLine(
    PROGRAM,
    help="Ties every dollar of LLM API spend to its owner, team, agent and workload, and proves the sum is the bill.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> NoReturn:
    """The console script."""
    root.main()
