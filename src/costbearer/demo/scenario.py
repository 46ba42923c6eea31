"""The demo from start to end: the stage, the acts, the report, the comparison."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from costbearer import config as settings
from costbearer import reports
from costbearer.demo import history
from costbearer.demo.acts import ACTS, perform
from costbearer.demo.auditing import audited
from costbearer.demo.comparison import await_posted, verdict
from costbearer.demo.stage import stage

HISTORY = {"by": "team", "since": "2026-10", "until": "2026-11", "compare": "previous"}
"""The last month of the history against the one before."""


def run(*, once: bool, say: Callable[[str], None], show: Callable[[str], None]) -> int:
    """Play it. `once`: stop after the report. `say` talks, `show` prints what was asked for.

    Gives back the exit code: 0 where the ledger equals the books.
    """
    # Its servers are in sessions of their own: who ends it by a signal must not leave them running.
    signal.signal(signal.SIGTERM, _interrupted)
    directory = Path(tempfile.mkdtemp(prefix="costbearer-demo-"))
    try:
        say("writing 92 days of history: six teams, 25 agents, 40 keys ...")
        history.write(settings.load(None, overrides={"data": str(directory / "data")}))
        say("starting simulated providers, gateway and console ...")
        with stage(directory, {act.agent: act.labels for act in ACTS}) as running:
            say(f"gateway {running.gateway_url}, console {running.console_url}")
            say(f"sending SDK traffic of {len(ACTS)} agents ...")
            made, left_out = perform(running)
            outcome = await_posted(running, left_out)
            say(f"{made} requests made\n")
            show(reports.read(running.api("GET", "/api/v1/reports/spend", params=HISTORY)).to_text(None))
            for by in ("team,agent,workload", "provider,model"):
                document = running.api("GET", "/api/v1/reports/spend", params={"by": by, "since": "1d"})
                show(reports.read(document).to_text(None))
            for line in verdict(outcome):
                show(line)
            say("\nand an audit of what it exports:\n")
            for line in audited(running, directory / "entries.jsonl"):
                show(line)
            if not once:
                say(f"\nOpen     {running.console_url}")
                say(f"token    {running.token}")
                say(f"gateway  {running.gateway_url}")
                say("Three months stand behind it: choose 2026-10 on Overview (see docs/tutorial.md).")
                say("Ctrl-C stops everything and removes the demo's data.")
                with contextlib.suppress(KeyboardInterrupt):
                    running.server.wait()
            return 0 if outcome.holds else 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
