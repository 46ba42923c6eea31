"""The console in Chromium: from the bill that went up to one charge's receipt, and everything on the way.

Real parts: a served console and gateway, simulated providers, the official SDK as the caller.
"""

from __future__ import annotations

import csv
import io
import json
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser import NARROW, WIDE, Site, exact_total, needs_chromium, saved, site, total

__all__ = ["site"]
pytestmark = [pytest.mark.slow, needs_chromium]

OCTOBER, SEPTEMBER = "since=2026-10&until=2026-11", "since=2026-09&until=2026-10"
SCREENS = (
    "/",
    f"/?{OCTOBER}",
    f"/explore?by=day,team&{OCTOBER}",
    f"/explore?by=team&compare=previous&{OCTOBER}",
    f"/why?{OCTOBER}",
    f"/chargeback?{OCTOBER}",
    f"/top-keys?{OCTOBER}",
    f"/agents?{OCTOBER}",
    f"/owner?id=yara.haddad&{OCTOBER}",
    f"/customers?{OCTOBER}",
    f"/models?{OCTOBER}",
    f"/traces?{OCTOBER}",
    f"/entries?where=team=research&{OCTOBER}",
    f"/coverage?{OCTOBER}",
    f"/unknown?{OCTOBER}",
    "/backfill",
    "/backfill/key?key=sk-old-reporting",
    "/findings",
    "/keys",
    "/keys/issue",
    "/prices?model=claude",
    "/prices/model?model=claude-sonnet-4-5",
    "/prices/archives?old=bundled",
    "/prices/contract",
    "/views",
    "/views/new?page=/explore&q=by%3Dteam",
    "/find?q=research",
    "/help",
    "/sessions",
)


@pytest.fixture(autouse=True)
def nothing_is_complained_about(site: Site) -> Any:
    site.faults.clear()
    yield
    assert site.faults == []


def issued_key(page: Page, **labels: str) -> str:
    """A key out of the form, each label new or chosen."""
    page.goto("/keys/issue")
    for label, name in labels.items():
        if page.locator(f"select[name={label}] option", has_text=re.compile(f"^{re.escape(name)}$")).count():
            page.select_option(f"select[name={label}]", name)
        else:
            pick = page.locator(".pick", has=page.locator(f"select[name={label}]"))
            pick.locator("summary").click()
            pick.locator(f"input[name={label}_new]").fill(name)
    page.click("text=Issue the key")
    return page.input_value("#key")


def shown_within_five_seconds(page: Page, client: openai.OpenAI) -> tuple[int, Decimal] | None:
    """A call whose cost the open page shows without being loaded again: (its input tokens, what it cost)."""
    before = Decimal(total(page))
    answer = client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "Say hello to the ledger."}]
    )
    assert answer.usage is not None
    end = time.monotonic() + 5
    while Decimal(total(page)) == before and time.monotonic() < end:
        page.wait_for_timeout(50)
    more = Decimal(total(page)) - before
    while Decimal(total(page)) == before and time.monotonic() < end + 30:
        page.wait_for_timeout(50)
    return (answer.usage.prompt_tokens, more) if more else None


def test_a_key_a_call_its_overview_and_its_receipt(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.visit() as page:
        began = time.monotonic()
        key = issued_key(page, owner="yara.haddad", team="research", agent="reader", workload="first-steps")
        assert time.monotonic() - began < 30
        assert key.startswith("cbk_")
        for snippet in ("openai", "anthropic", "gemini", "bedrock", "curl", "environment"):
            assert site.server.gateway_url in page.inner_text(f"#snippet-{snippet}")
        ready = [page.inner_text(f"#snippet-{name}") for name in ("openai", "anthropic")]
        page.goto("/")
        with openai.OpenAI(base_url=f"{site.server.gateway_url}/v1", api_key=key) as client:
            # A machine that is busy gets a second try.
            usage, cost = (
                shown_within_five_seconds(page, client) or shown_within_five_seconds(page, client) or (0, None)
            )
        assert cost is not None
        # Overview -> who -> the entries behind -> the receipt.
        page.click("table#spend >> text=research")
        page.click("table#spend tbody tr:has-text('reader') td:has(data) a")
        page.click("table#entries tbody th a >> nth=0")
        assert page.inner_text("h1").startswith("Receipt of ")
        assert Decimal(total(page)) == cost
        assert f"{usage:,}" in page.inner_text("table#usage")
        for label in ("yara.haddad", "research", "reader", "first-steps"):
            assert label in page.inner_text("table#labels")
        monkeypatch.setenv("COSTBEARER_KEY", key)
        for lines in ready:
            made: dict[str, Any] = {}
            exec(lines, made)
            assert made["answer"].usage.model_dump()
            made["client"].close()
        page.goto("/keys")
        assert re.search(r"first-steps.*active.*in 8\d days.*2026-", page.inner_text("table#keys"), re.S)


def test_periods_are_compared_and_the_csv_has_the_same_total(site: Site) -> None:
    with site.visit() as page:
        page.goto(f"/explore?by=team&{OCTOBER}")
        page.click("summary >> text=Change the question")
        page.fill("input[name=compare]", "previous")
        page.click("text=Ask")
        assert "compare=previous" in page.url
        assert "previous" in page.inner_text("table#spend thead")
        shown = total(page)
        with page.expect_download() as download:
            page.click("a.file >> text=CSV")
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(shown)
        assert download.value.suggested_filename == "explore.csv"


def test_a_log_is_pasted_kept_assigned_and_commented_by_two_people(site: Site, tmp_path: Path) -> None:
    log = (site.server.data / "logs" / "litellm.jsonl").read_text().splitlines()[:200]
    with site.visit("Ada Byron") as ada, site.visit("Grace Hopper") as grace:
        ada.goto("/findings")
        ada.fill("textarea[name=text]", "\n".join(log))
        ada.click("main >> button:text-is('Audit')")
        ada.wait_for_selector("table#found", timeout=30_000)
        assert "zero_cost_with_tokens" in ada.inner_text("table#found")
        assert "200 calls, LiteLLM SpendLogs" in ada.inner_text("main")
        ada.fill("input[name=log]", "pasted by ada")
        ada.click("text=Keep them")
        row = "table#findings tr:has-text('pasted by ada'):has-text('Charged at 0')"
        ada.click(f"{row} >> a")
        grace.goto(ada.url)
        ada.select_option("select[name=owner]", "maria.lopez")
        ada.select_option("select[name=status]", "in_progress")
        ada.fill("textarea[name=comment]", "Streams without usage.\nAsked the platform team.")
        ada.click("text=Save")
        assert "Asked the platform team." in ada.inner_text(".history")
        # Somebody else had the page open: she is told, and what she wrote is still there.
        grace.fill("textarea[name=comment]", "Is this known?")
        grace.click("text=Save")
        told = grace.inner_text(".alert")
        assert "Ada Byron" in told and "not as it was" in told
        assert grace.input_value("textarea[name=comment]") == "Is this known?"
        grace.click("text=Save")
        assert "Is this known?" in grace.inner_text(".history")
        grace.goto("/findings?status=in_progress")
        assert "maria.lopez" in grace.inner_text("table#findings")
        # A binary file, and one that is too large, are told apart from a log.
        for name, content, said in (
            ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "cannot be audited"),
            ("empty.jsonl", b"", "nothing in it"),
            ("huge.jsonl", b"x" * (60 * 1024 * 1024), "larger than"),
        ):
            ada.goto("/findings")
            ada.set_input_files("input[name=file]", saved(tmp_path, name, content))
            ada.click("main >> button:text-is('Audit')")
            ada.wait_for_selector(".alert", timeout=30_000)
            assert said in ada.inner_text(".alert")


STORIES: dict[str, tuple[list[str], str]] = {
    "research got dearer": (
        ["text=2026-09", "table#movers tr:has-text('reader') th a"],
        r"price per unit",
    ),
    "the invoices of 22 September": (
        ["text=2026-09", "#tile-failed", "table#spend tr:has-text('invoice-reader') td:has(data) a"],
        r"invoices.*retry.*cancelled|invoices.*cancelled.*retry",
    ),
    "the old log": (
        ["#tile-findings", "table#findings tr:has-text('litellm.jsonl'):has-text('Charged at 0') a"],
        r"zero_cost_with_tokens.*46 calls",
    ),
    "somebody else's name": (["text=2026-10", "#tile-disputed"], r"key_campaign-writer_prod.*growth.*team.*search"),
    "the cache": (
        ["#tile-findings", "table#findings tr:has-text('litellm.jsonl'):has-text('Cached tokens') a"],
        r"cached_at_full_price.*74 calls",
    ),
    "the live chat": (
        ["text=2026-10", "table#movers tr:has-text('answerer') th a", "p.presets >> a:text-is('customer')"],
        r"umbrella.*new",
    ),
    "search got cheaper": (["text=2026-10", "table#movers tr:has-text('ranker') th a"], r"model mix"),
    "nobody's spend": (["#tile-backfill"], r"sk-old-reporting.*66\.0%.*label"),
}
"""What happened -> clicks from Overview, and what stands there then."""


@pytest.mark.parametrize("story", STORIES)
def test_each_story_is_found_from_overview_in_three_clicks(site: Site, story: str) -> None:
    clicks, found = STORIES[story]
    assert len(clicks) <= 3
    with site.visit() as page:
        for click in clicks:
            page.locator(f"main >> {click}").first.click()
            page.wait_for_load_state("load")
        text = page.inner_text("main")
        assert re.search(found, text, re.S), text[:3000]


def test_every_number_leads_to_a_receipt_whose_lines_are_the_cost(site: Site) -> None:
    """From a team's total down to one charge, each step by a click, each with the number that was clicked."""
    with site.visit() as page:
        page.goto(f"/?{OCTOBER}")
        number = page.locator("table#spend tr:has-text('payments') td:has(data) a").first
        clicked = number.locator("data").get_attribute("value")
        number.click()
        assert total(page) == clicked
        entry = page.locator("table#entries tbody tr:not(:has(td.unknown)) >> nth=3")
        cost = entry.locator("td:has(data) data").first.get_attribute("value")
        entry.locator("th a").click()
        assert total(page) == cost
        lines = page.locator("table#receipt tbody td:nth-child(5) data")
        parts = [Decimal(lines.nth(place).get_attribute("value") or "") for place in range(lines.count())]
        assert parts and sum(parts) == Decimal(cost or "")
        assert "that is the cost" in page.inner_text("main")


def test_every_screen_is_accessible_light_and_narrow(site: Site) -> None:
    """axe finds nothing in light and dark, a telephone scrolls nothing sideways, no page is heavy."""
    weight = "performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)"
    found: list[str] = []
    with site.visit(reduced_motion="reduce") as page:
        for place, address in enumerate(SCREENS):
            answer = page.goto(address, wait_until="load")
            if answer is None or answer.status != 200:
                found.append(f"{address}: {answer and answer.status}")
            if (heavy := page.evaluate(weight)) >= 600_000:
                found.append(f"{address}: {heavy} bytes")
            if page.locator(".chart").count():
                page.wait_for_selector(".chart[data-drawn=yes] canvas")
            if place % 3 == 0:
                page.emulate_media(color_scheme="dark")
            for violation in Axe().run(page).response["violations"]:
                targets = [node["html"][:160] for node in violation["nodes"][:2]]
                found.append(f"{address}: {violation['id']} ({violation['impact']}): {targets}")
            page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > NARROW["width"]:
                found.append(f"{address}: {wide} pixels on a telephone")
            page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})
    assert found == []


def test_the_navigation_folds_on_a_telephone(site: Site) -> None:
    with site.visit(viewport=NARROW) as page:
        page.goto("/")
        assert not page.locator("nav.side a >> nth=0").is_visible()
        page.click("nav.side summary")
        page.click("nav.side >> text=Explore")
        assert page.inner_text("h1") == "Explore"


def test_a_bar_opens_what_it_shows(site: Site) -> None:
    with site.visit() as page:
        page.goto(f"/explore?by=team&{OCTOBER}")
        page.wait_for_selector(".chart[data-drawn=yes]")
        box = page.locator(".chart canvas").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + 140, box["y"] + 24)
        page.wait_for_url("**/entries?**")
        assert "team=research" in page.url


def test_the_keyboard_is_enough(site: Site) -> None:
    with site.visit() as page:
        page.goto(f"/?{OCTOBER}")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("g")
        page.keyboard.press("e")
        page.wait_for_url("**/explore")
        page.keyboard.press("/")
        page.keyboard.type("campaign-writer")
        page.keyboard.press("Enter")
        page.wait_for_url("**/find?**")
        page.focus("main table a")
        page.keyboard.press("Enter")
        page.wait_for_url("**/explore?**")
        page.keyboard.press("?")
        page.wait_for_url("**/help")


def test_dark_light_and_paper(site: Site, tmp_path: Path) -> None:
    with site.visit(color_scheme="light") as page:
        page.goto(f"/why?{OCTOBER}")
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.click(".theme-toggle")
        dark = page.evaluate(ground)
        assert light != dark
        page.reload()
        assert page.evaluate(ground) == dark
        page.emulate_media(media="print")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert not page.locator("nav.side").is_visible()
        document = page.pdf(path=tmp_path / "why.pdf")
        assert document.startswith(b"%PDF") and len(document) > 20_000


def test_reading_needs_no_script(site: Site) -> None:
    with site.visit(java_script_enabled=False) as page:
        page.goto(f"/?{OCTOBER}")
        assert Decimal(total(page)) > 300
        assert page.locator(".chart").first.is_hidden()
        assert "the dearest of 31" in page.inner_text("figcaption")
        page.click("table#movers tr:has-text('ranker') th a")
        assert "model mix" in page.inner_text("table#explain")
        page.click("summary >> text=Change the question")
        page.select_option("select[name=dim]", "model")
        page.fill("input[name=value]", "gpt-4.1-mini")
        page.click("text=Ask")
        assert "where=model%3Dgpt-4.1-mini" in page.url or "where=model=gpt-4.1-mini" in page.url


def test_the_same_total_on_page_csv_json_api_and_command(site: Site) -> None:
    import httpx2

    reports = {
        "/explore": ("spend", "by=team,model"),
        "/why": ("explain", "by=team"),
        "/chargeback": ("chargeback", ""),
        "/top-keys": ("top-keys", ""),
        "/agents": ("agents", "by=team,agent,workload"),
        "/owner": ("owner", "id=yara.haddad"),
        "/customers": ("unit-cost", "where=workload%3Dlive-chat"),
        "/models": ("models", ""),
        "/coverage": ("coverage", ""),
        "/entries": ("entries", "where=agent%3Dranker&limit=7"),
        "/traces": ("spend", "by=trace&limit=5"),
        "/unknown": ("unknown", ""),
    }
    headers = {"authorization": f"Bearer {site.token}"}
    with httpx2.Client(base_url=site.url, headers=headers, timeout=60) as client:

        def got(path: str) -> Any:
            answer = client.get(path, headers={"accept": "text/html"})
            assert answer.status_code == 200, (path, answer.text[:500])
            return answer

        for path, (report, asked) in reports.items():
            query = f"{asked}&{SEPTEMBER}" if asked else SEPTEMBER
            document = json.loads(got(f"{path}.json?{query}").text)
            api = json.loads(got(f"/api/v1/reports/{report}?{query}").text)
            words = [part.split("=", 1) for part in query.replace("%3D", "=").split("&")]
            options = [word for name, text in words if name != "id" for word in (f"--{name}", text)]
            said = site.server.run(
                "report", report, *[text for name, text in words if name == "id"], *options, "--json"
            )
            command = json.loads(said.stdout)
            name = "total_usd" if report != "unknown" else "bound_usd"
            if name not in document:
                name = "unknown_bound_usd"
            assert document[name] == api[name] == command[name], path
            rows = list(csv.DictReader(io.StringIO(got(f"{path}.csv?{query}").text)))
            if report == "explain":
                assert sum(Decimal(row["delta_usd"]) for row in rows) == Decimal(document["delta_usd"])
            elif report == "unknown":
                assert sum(Decimal(row["bound_usd"]) for row in rows) == Decimal(document[name])
            elif report != "coverage":
                assert sum(Decimal(row["cost_usd"] or 0) for row in rows) == Decimal(document[name]), path
            if report != "unknown":
                assert exact_total(got(f"{path}?{query}").text) == document[name], path
        overview = json.loads(got(f"/overview.json?{SEPTEMBER}").text)
        assert exact_total(got(f"/?{SEPTEMBER}").text) == overview["total_usd"]
        assert overview["total_usd"] == json.loads(got(f"/explore.json?{SEPTEMBER}").text)["total_usd"]
        backfill = json.loads(got("/backfill.json").text)
        assert exact_total(got("/backfill").text) == backfill["unattributed_usd"]
        rows = list(csv.DictReader(io.StringIO(got("/backfill.csv").text)))
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(backfill["unattributed_usd"])


def test_signing_out_everywhere(site: Site) -> None:
    with site.visit() as one, site.visit() as other:
        one.goto("/sessions")
        one.click("text=Sign everybody out")
        expect(one.locator("h1")).to_have_text("Sign in")
        other.goto(f"/why?{OCTOBER}")
        assert other.inner_text("h1") == "Sign in"
        other.fill("input[name=token]", site.token)
        other.click("main button")
        # Back to where it was asked.
        assert other.inner_text("h1") == "Why"
