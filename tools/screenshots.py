"""Takes the pictures under docs/screenshots: every screen of the console over the demo's history, light, dark, narrow.

`python -m tools.screenshots [DIR]` needs Chromium; look at what it made before it is committed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from bench.pages import PORT, demo_console

PLACE = Path(__file__).parent.parent / "docs" / "screenshots"
OCTOBER = "since=2026-10&until=2026-11"
SCREENS = {
    "overview": f"/?{OCTOBER}",
    "explore": f"/explore?by=day,team&{OCTOBER}",
    "why": f"/why?by=agent&where=team=search&{OCTOBER}",
    "chargeback": f"/chargeback?{OCTOBER}",
    "top-keys": f"/top-keys?{OCTOBER}",
    "agents": f"/agents?{OCTOBER}",
    "owner": f"/owner?id=yara.haddad&{OCTOBER}",
    "customers": f"/customers?where=workload=live-chat&per=request,tickets&{OCTOBER}",
    "models": f"/models?where=team=search&{OCTOBER}",
    "traces": f"/traces?where=team=research&{OCTOBER}",
    "trace": "trace",
    "entries": f"/entries?where=agent=writer&{OCTOBER}",
    "receipt": "receipt",
    "coverage": f"/coverage?{OCTOBER}",
    "unknown": f"/unknown?{OCTOBER}",
    "backfill": "/backfill",
    "backfill-key": "/backfill/key?key=sk-old-reporting",
    "findings": "/findings",
    "finding": "finding",
    "issue": "/keys/issue",
    "issued": "issued",
    "keys": "/keys",
    "prices": "/prices?model=claude-sonnet",
    "price": "/prices/model?model=claude-sonnet-4-5",
    "contract": "/prices/contract",
    "views": "/views",
    "find": "/find?q=research",
    "help": "/help",
}
"""Name -> address, or the way there for what has another id every time."""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE
    place.mkdir(parents=True, exist_ok=True)
    with demo_console() as token, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for look in LOOKS:
            take(browser, look, token, place)
        browser.close()


def take(browser: Browser, look: str, token: str, place: Path) -> None:
    context = browser.new_context(base_url=f"http://127.0.0.1:{PORT}", **LOOKS[look])
    page = context.new_page()
    page.goto("/sign-in")
    page.screenshot(path=place / f"sign-in-{look}.png")
    page.fill("input[name=token]", token)
    page.fill("input[name=who]", "Grace Hopper")
    page.click("main button")
    for name, address in SCREENS.items():
        go(page, address)
        if page.locator(".chart").count():
            page.wait_for_selector(".chart[data-drawn=yes] canvas")
            page.wait_for_timeout(200)
        page.screenshot(path=place / f"{name}-{look}.png")
    context.close()


def go(page: Page, address: str) -> None:
    """To an address, or by clicks to what has no address that is known before."""
    if address.startswith("/"):
        page.goto(address)
    elif address == "trace":
        page.goto(f"/traces?where=team=research&{OCTOBER}")
        page.click("table#spend tbody th a >> nth=0")
    elif address == "receipt":
        page.goto(f"/entries?where=agent=writer&{OCTOBER}")
        page.click("table#entries tbody tr:not(:has(td.unknown)) th a >> nth=0")
    elif address == "finding":
        page.goto("/findings")
        page.click("table#findings a >> nth=0")
    else:
        page.goto("/keys/issue")
        for label in ("owner", "team", "agent", "workload"):
            page.select_option(f"select[name={label}]", index=3)
        page.click("text=Issue the key")
        # No picture shows a key that ever worked.
        page.evaluate("document.getElementById('key').value = 'cbk_EXAMPLE_this_is_not_a_key'")
    page.wait_for_load_state("load")


if __name__ == "__main__":
    main()
