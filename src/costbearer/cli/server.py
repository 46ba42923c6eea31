"""Commands that run servers: serve, gateway, console, simulate, demo."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from costbearer import config as settings
from costbearer.cli.output import say
from costbearer.config import Config

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _serving(function: Callable[[Config, list[str], int | None], int]) -> Callable[..., None]:
    """The options that every serving command takes, and the settings they make."""

    @click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings file (costbearer.toml).")
    @click.option("--data", type=click.Path(path_type=Path), help="Data directory.")
    @click.option("--gateway-port", type=int, help="Port of the gateway (4000).")
    @click.option("--console-port", type=int, help="Port of the console (4001).")
    @click.option("--workers", type=int, help="Worker processes of the gateway (2).")
    @click.option("--parent", type=int, hidden=True)
    @click.pass_context
    def run(context: click.Context, /, config_file: Path | None, parent: int | None, **given: Any) -> None:
        names = {
            "data": "data",
            "gateway_port": "gateway.port",
            "console_port": "console.port",
            "workers": "gateway.workers",
        }
        overrides = {names[key]: value for key, value in given.items() if value is not None}
        overrides = {name: str(value) if name == "data" else value for name, value in overrides.items()}
        from costbearer.app import private_files

        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
        config = settings.load(config_file, overrides=overrides)
        arguments = [] if config_file is None else ["--config", str(config_file)]
        for key, value in given.items():
            if value is not None:
                arguments += [f"--{key.replace('_', '-')}", str(value)]
        with private_files():
            code = function(config, arguments, parent)
        context.exit(code)

    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    return run


@click.command()
@_serving
def serve(config: Config, arguments: list[str], parent: int | None) -> int:
    """Run gateway and console, and keep them running."""
    from costbearer import supervisor

    assert parent is None
    return supervisor.serve(config, arguments, say)


@click.command()
@_serving
def gateway(config: Config, arguments: list[str], parent: int | None) -> int:  # noqa: ARG001
    """Run the gateway alone."""
    from costbearer import app

    raise SystemExit(app.run_gateway(config, parent=parent))
    return 0


@click.command()
@_serving
def console(config: Config, arguments: list[str], parent: int | None) -> int:  # noqa: ARG001
    """Run ledger, bookkeeper, API and pages alone."""
    from costbearer import console_process

    console_process.run_console(config, parent=parent)
    return 0


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=4100, show_default=True, help="Port to listen on; 0 takes any.")
@click.option("--books", type=click.Path(path_type=Path), help="File the simulated providers keep their books in.")
@click.option("--seed", default=0, show_default=True, help="Changes everything that is drawn.")
def simulate(host: str, port: int, books: Path | None, seed: int) -> None:
    """Run simulated providers of every dialect on loopback."""
    from costbearer import simulator

    def announce(running: simulator.Simulator) -> None:
        say(f"OpenAI base URL {running.openai_base_url}, base URL of the others {running.origin}")
        say(f"provider key    {simulator.CREDENTIAL}")

    simulator.run(host, port, books, seed=seed, ready=announce)


@click.command()
@click.option("--once", is_flag=True, help="Stop after the report.")
@click.option("--history", type=click.Path(path_type=Path, file_okay=False), help="Only write its 92 days into DIR.")
@click.pass_context
def demo(context: click.Context, once: bool, history: Path | None) -> None:
    """The whole way through on this machine, with simulated providers and real SDKs, on top of 92 days of history.

    With --history only the history is made, in a data directory of its own, for looking at it with every command:
    docs/tutorial.md asks eight questions about it.
    """
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    if history is not None:
        from costbearer.demo.history import write

        posted = write(settings.load(None, overrides={"data": str(history)}), say)
        say(f"{posted:,} calls of 92 days are in {history}; look at them with --data {history}")
        return
    from costbearer import demo as scenario

    context.exit(scenario.run(once=once, say=say, show=click.echo))
