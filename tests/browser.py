"""Chromium in front of a real console: the demo's history, a gateway, simulated providers, and somebody signed in."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from costbearer.simulator import running_simulator
from tests.demohistory import history_in
from tests.system import Server, running_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("COSTBEARER_BROWSER") == "required"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}

needs_chromium = pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="there is no chromium on this machine")
"""`.ci/run` installs Chromium and asks for it, so that none is skipped there."""


@dataclass
class Site:
    """A running console with what it shows, and the browser to look at it."""

    server: Server
    browser: Browser
    faults: list[str] = field(default_factory=list)
    """Everything that a browser complained about: scripts that failed, policies that were broken, dialogs."""

    @property
    def url(self) -> str:
        return self.server.console_url

    @property
    def token(self) -> str:
        return (self.server.data / "admin-token").read_text().strip()

    @contextlib.contextmanager
    def visit(self, who: str = "Grace Hopper", **options: Any) -> Iterator[Page]:
        """A page of somebody who is signed in; whatever it complains about is kept in `faults`."""
        context = self.browser.new_context(**{"viewport": WIDE, "base_url": self.url, **options})
        try:
            self.watch(context)
            page = context.new_page()
            page.set_default_timeout(15_000)
            page.goto("/sign-in")
            page.fill("input[name=token]", self.token)
            page.fill("input[name=who]", who)
            page.click("main button")
            page.wait_for_url("**/")
            yield page
        finally:
            context.close()

    def watch(self, context: BrowserContext) -> None:
        """Keep what goes wrong on any page of a context."""

        def said(message: ConsoleMessage) -> None:
            # A refused form is an answer like another; Chromium calls every status from 400 on an error.
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
                self.faults.append(f"{message.type}: {message.text[:300]}")

        context.on("console", said)
        context.on("weberror", lambda error: self.faults.append(f"script: {str(error.error)[:300]}"))

        def asked(dialog: Any) -> None:
            self.faults.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        context.on("dialog", asked)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert CHROMIUM is not None, "COSTBEARER_BROWSER is required, and there is no chromium"
    directory = tmp_path_factory.mktemp("site")
    history_in(directory / "data", tmp_path_factory)
    with (
        running_simulator() as simulator,
        running_server(directory, simulator, workers=1) as server,
        sync_playwright() as playwright,
    ):
        # As root, as in most containers, Chromium has no sandbox of its own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Site(server, browser)
        finally:
            browser.close()


def total(page: Page) -> str:
    """The exact total that a page shows."""
    value = page.locator("#total").first.get_attribute("value")
    assert value is not None
    return value


def exact_total(html: str) -> str:
    """The same out of the page's text."""
    found = re.search(r'id="total" value="([^"]+)"', html)
    assert found is not None
    return found[1]


def saved(directory: Path, name: str, content: bytes) -> Path:
    """A file to be dropped on a page."""
    file = directory / name
    file.write_bytes(content)
    return file
