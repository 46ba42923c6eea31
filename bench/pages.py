"""Pages: what they cost beside the report they show, over ten million entries; first paint and weight over the demo.

A page is asked in the process that holds the ledger, in turns with the report alone, so that only what the page adds is
told: links, chart, annotations, HTML. First paint is what Chromium says of a console of its own over the demo's history.
`python -m bench.pages` runs it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
from fastapi.testclient import TestClient
from playwright.sync_api import sync_playwright

from bench.reports import build
from costbearer import config as settings
from costbearer import reports
from costbearer.backfill_desk import BackfillDesk
from costbearer.bookkeeper import Progress
from costbearer.console.app import create_app
from costbearer.console.pages.overview import overview_router
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.report_pages import query_of, reports_router
from costbearer.console.pages.screens import SCREENS
from costbearer.demo import history
from costbearer.price_desk import Desk
from costbearer.reports.beside import Beside
from costbearer.stores import secrets
from costbearer.stores.control import Control
from costbearer.stores.directory import Directory
from costbearer.stores.duckdb import Ledger
from costbearer.stores.findings import Findings
from costbearer.stores.views import Views

Rows = list[tuple[str, str]]

ENTRIES, ROUNDS, PORT = 10_000_000, 7, 4392
OCTOBER = "since=2026-10&until=2026-11"
PAGES = (
    f"/explore?by=team,model&{OCTOBER}",
    f"/explore?by=day,team&{OCTOBER}",
    f"/explore?by=customer&{OCTOBER}",
    f"/explore?by=tag:shift&{OCTOBER}",
    f"/top-keys?{OCTOBER}",
    f"/entries?where=agent=ranker&{OCTOBER}",
    f"/why?{OCTOBER}",
)
PAINTED = ("/", f"/?{OCTOBER}", *PAGES, f"/coverage?{OCTOBER}", "/keys/issue", "/findings", "/prices?model=gpt-4.1")


def beside_the_report(entries: int, rounds: int) -> Rows:
    """Milliseconds of a report, and those that its page adds."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        directory = Path(place)
        build(directory, entries, None)
        config = settings.load(None, environ={}, overrides={"data": place})
        with (
            closing(Ledger.open(config.ledger_file, memory_mb=config.integer("ledger.memory_mb"))) as ledger,
            Control.open(config.control_file) as control,
        ):
            directory_ = Directory(control.database)
            parts = Parts(
                config=config,
                control=control,
                open_reader=ledger.reader,
                beside=Beside,
                progress=lambda: Progress(entries=entries),
                directory=directory_,
                backfill=BackfillDesk(
                    directory_, control, ledger, cast(Any, None), closed=lambda: lambda _: False, gateway_url=""
                ),
                prices=Desk(config.prices_dir),
                views=Views(control.database),
                findings=Findings(control.database),
            )
            app = create_app(config, control, pages=[overview_router(parts), reports_router(parts)])
            headers = {"authorization": f"Bearer {secrets.admin_token(config.data)}", "accept": "text/html"}
            with TestClient(app, base_url="http://127.0.0.1:4001", headers=headers) as client:
                found = [(address, *_turns(client, parts, address, rounds)) for address in PAGES]
                overview = [_timed(lambda: client.get(f"/?{OCTOBER}")) for _ in range(rounds)]
    rows = [
        (
            f"page {address.partition('?')[0]} ({address.partition('?')[2].partition('&')[0]}): report, page adds",
            f"{report:.0f} ms, {more:.0f} ms",
        )
        for address, report, more in found
    ]
    rows.append(("page Overview, all of its reports", f"{statistics.median(overview):.0f} ms"))
    return [(f"{name}, {entries:,} entries", said) for name, said in rows]


def _turns(client: TestClient, parts: Parts, address: str, rounds: int) -> tuple[float, float]:
    path, _, text = address.partition("?")
    pairs = [(pair[0], pair[2]) for pair in (part.partition("=") for part in text.split("&"))]

    def report() -> None:
        query = query_of(parts, SCREENS[path], pairs)
        with parts.open_reader() as reader:
            reports.answer(query, reader, parts.beside())

    def page() -> None:
        answer = client.get(address)
        assert answer.status_code == 200, answer.text

    report()
    page()
    alone, shown = [], []
    for _ in range(rounds):
        alone.append(_timed(report))
        shown.append(_timed(page))
    return statistics.median(alone), statistics.median(shown) - statistics.median(alone)


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


@contextmanager
def demo_console() -> Iterator[str]:
    """The token of a console over the demo's history."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        data = Path(place) / "data"
        history.write(settings.load(None, environ={}, overrides={"data": str(data)}))
        command = [sys.executable, "-m", "costbearer", "console", "--data", str(data), "--console-port", str(PORT)]
        server = subprocess.Popen(command, cwd=place)
        try:
            for _ in range(300):
                try:
                    if httpx2.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                        break
                except httpx2.HTTPError:
                    pass
                time.sleep(0.1)
            yield (data / "admin-token").read_text().strip()
        finally:
            server.terminate()
            server.wait()


def painted(rounds: int) -> Rows:
    """First contentful paint and transferred bytes of pages over the demo's history."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    paint = "performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)"
    weight = "performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)"
    loaded = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    first: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    heavy = 0
    with demo_console() as token, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(rounds):
            page = browser.new_context(
                viewport={"width": 1280, "height": 860}, base_url=f"http://127.0.0.1:{PORT}"
            ).new_page()
            page.goto("/sign-in")
            page.fill("input[name=token]", token)
            page.click("main button")
            for address in PAINTED:
                page.goto(address, wait_until="load")
                page.wait_for_timeout(100)
                first.setdefault(address, []).extend(page.evaluate(paint)[:1])
                whole.setdefault(address, []).append(page.evaluate(loaded))
                heavy = max(heavy, page.evaluate(weight))
            page.context.close()
        browser.close()
    medians = {address: statistics.median(times) for address, times in first.items()}
    slowest = max(medians, key=lambda address: medians[address])
    complete = {address: statistics.median(times) for address, times in whole.items()}
    latest = max(complete, key=lambda address: complete[address])
    return [
        (
            f"first paint in Chromium, {len(medians)} pages over the demo",
            f"median {statistics.median(medians.values()):.0f} ms, slowest {medians[slowest]:.0f} ms ({slowest.partition('?')[0]})",
        ),
        (
            "whole page there, the same",
            f"median {statistics.median(complete.values()):.0f} ms, slowest {complete[latest]:.0f} ms ({latest.partition('?')[0]})",
        ),
        ("heaviest page, transferred, with script and styles uncached", f"{heavy / 1000:.0f} kB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--paint-only", action="store_true", help="leave the ten million entries out")
    given = parser.parse_args()
    rows = painted(given.rounds)
    rows += [] if given.paint_only else beside_the_report(given.entries, given.rounds)
    for name, said in rows:
        print(f"| {name} | {said} |")


if __name__ == "__main__":
    main()
