"""Hostile text in every stored field: every page is crawled, no script runs, no policy is broken, nothing overflows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
import msgspec
import pytest
from playwright.sync_api import Page, sync_playwright

from costbearer.ledger import Field
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.simulator import running_simulator
from tests.browser import CHROMIUM, NARROW, Site, needs_chromium
from tests.factories import make_entry
from tests.hostile import payloads
from tests.system import running_server

pytestmark = [pytest.mark.slow, needs_chromium]

TEXTS = list(payloads())
DAY = datetime(2026, 11, 1, tzinfo=UTC)
FIELDS = (
    *("owner", "team", "agent", "workload", "key_team", "project", "cost_center", "feature", "workflow", "customer"),
    *("tenant", "user", "env", "key_id", "trace_id", "session_id", "request_id", "provider", "request_model"),
    *("response_model", "route", "operation", "tier", "region", "error_code", "provider_request_id"),
)
EVER = "since=2026-10-30&until=2026-11-10"


def test_there_are_enough_of_them() -> None:
    assert len(set(TEXTS)) > 500
    assert max(map(len, TEXTS)) == 10_000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("hostile")
    with running_simulator() as simulator, running_server(directory, simulator, workers=1) as server:
        entries = [entry(number, text) for number, text in enumerate(TEXTS)]
        for start in range(0, len(entries), 200):
            server.api("POST", "/api/v1/imports", json={"entries": entries[start : start + 200]})
        for text in (text for text in TEXTS[:60] if len(text) <= 200 and text.isprintable()):
            headers = {"authorization": f"Bearer {(server.data / 'admin-token').read_text().strip()}"}
            with httpx2.Client(base_url=server.console_url, headers=headers, timeout=30) as client:
                labels = dict.fromkeys(("owner", "team", "agent", "workload", "name", "project"), text[:60])
                client.post("/api/v1/keys", json=labels)
                client.post("/api/v1/annotations", json={"day": "2026-11-02", "text": text, "where": f"team={text}"})
                asked = urlencode({"where": f"team={text}"})
                view = {"name": text[:60], "page": "/explore", "parameters": asked, "description": text}
                client.post("/api/v1/views", json=view)
        for kind, least in (("keys", 20), ("views", 20), ("annotations", 20)):
            kept = server.api("GET", f"/api/v1/{kind}")[kind]
            assert len(kept) >= least, kind
        log = "\n".join(json.dumps(record(number, text)) for number, text in enumerate(TEXTS[:80]))
        found = server.api(
            "POST", "/api/v1/audits", params={"keep": "true", "name": "<img src=x onerror=alert(1)>.jsonl"}, content=log
        )
        assert found["findings"]
        kept = server.api("GET", "/api/v1/findings")["findings"]
        server.api(
            "POST", f"/api/v1/findings/{kept[0]['finding_id']}", json={"version": 1, "comment": "".join(TEXTS[26:40])}
        )
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            try:
                yield Site(server, browser)
            finally:
                browser.close()


def entry(number: int, text: str) -> dict[str, Any]:
    """A call of another gateway, every text of which is hostile."""
    named: dict[str, Any] = dict.fromkeys(FIELDS, text)
    started = DAY + timedelta(minutes=number)
    made = make_entry(
        "20261101T000000-0a0b0c0d",
        number + 1,
        kind="import",
        **named,
        call_id=f"call{number}",
        provider_response_id=f"answer{number}",
        started_at=started,
        ended_at=started + timedelta(seconds=1),
        tags={text: text, "plain": text},
        notes=(text,),
        attribution={"team": Field(text, "inferred", text)},
    )
    document: dict[str, Any] = msgspec.to_builtins(made, str_keys=True)
    return document


def record(number: int, text: str) -> dict[str, Any]:
    """A line of LiteLLM's log."""
    time = (DAY + timedelta(minutes=number)).isoformat()
    return {
        "request_id": f"chatcmpl-{number}", "call_type": "acompletion", "api_key": text, "spend": 0.0,
        "total_tokens": 120, "prompt_tokens": 100, "completion_tokens": 20, "startTime": time, "endTime": time,
        "model": "gpt-4.1" if number % 2 else text, "user": text, "metadata": {"user_api_key_alias": text},
        "team_id": "", "end_user": text, "request_tags": [text], "custom_llm_provider": "openai",
    }  # fmt: skip


def harmless(page: Page, site: Site, where: str) -> None:
    """Nothing of a text became markup, and nothing ran."""
    made = page.evaluate(
        "[window.pwned, document.title, document.querySelectorAll('main :is(script, iframe, svg, math, style, base,"
        " meta, video, object, embed, template)').length, document.querySelectorAll('main img').length,"
        " document.documentElement.scrollWidth <= window.innerWidth]"
    )
    assert made[0] is None and made[1] != "pwned", where
    assert made[2:] == [0, 0, True], (where, made)
    assert site.faults == [], (where, site.faults)


def addresses(site: Site) -> list[str]:
    """Every page with every kind of stored text on it."""
    found = [f"/explore?by={name}&limit={1000 if name == 'team' else 80}&{EVER}" for name in DIMENSIONS]
    found += [f"/explore?by=tag:plain&limit=80&{EVER}", f"/explore?by=day,team&limit=200&{EVER}"]
    found += [f"/why?by=team,agent&{EVER}&compare=2026-10-01..2026-10-11", f"/?{EVER}", f"/agents?{EVER}"]
    found += [f"/{name}?{EVER}" for name in ("chargeback", "top-keys", "customers", "models", "coverage", "unknown")]
    found += [f"/entries?limit=600&{EVER}", "/keys", "/keys/issue", "/views", "/backfill", "/findings", "/prices"]
    for text in (*TEXTS[4:26:3], *TEXTS[26:400:60]):
        if len(text) < 1000:
            found.append("/entries?" + urlencode({"where": f"team={text}"}) + f"&{EVER}")
    found += ["/find?" + urlencode({"q": text}) for text in TEXTS[26:30]]
    named = ("/owner", "/trace", "/session", "/request")
    found += [f"{path}?" + urlencode({"id": text}) + f"&{EVER}" for path in named[:1] for text in TEXTS[:2]]
    found += [f"{path}?" + urlencode({"id": text}) for path in named[1:] for text in TEXTS[26:29]]
    entries = site.server.entries()
    found += [f"/receipt?id={each['entry_id']}" for each in (*entries[4:26:2], *entries[30::200])]
    found += [f"/keys/{key['key_id']}" for key in site.server.api("GET", "/api/v1/keys")["keys"][:3]]
    kept = site.server.api("GET", "/api/v1/findings")["findings"]
    found += [f"/findings/{each['finding_id']}" for each in kept]
    found += [f"/explore?{quote(text)}={quote(text)}" for text in TEXTS[26:30]]
    found += ["/keys?" + urlencode({"owner": text}) for text in TEXTS[26:27]]
    found += [f"/{quote(text)}" for text in TEXTS[26:29]]
    return found


def test_no_text_is_more_than_a_text(hostile: Site) -> None:
    """On a telephone, where whatever does not fit is seen too."""
    with hostile.visit(viewport=NARROW) as page:
        asked = addresses(hostile)
        assert len(asked) > 100
        for address in asked:
            answer = page.goto(address)
            assert answer is not None and answer.status in {200, 400, 404}, (address[:200], answer and answer.status)
            harmless(page, hostile, address[:200])


def test_a_file_of_another_site_can_do_nothing(hostile: Site, tmp_path: Path) -> None:
    """A form, a script and a frame on another origin, while somebody is signed in."""
    page_of_theirs = tmp_path / "theirs.html"
    before = hostile.server.api("GET", "/api/v1/keys")
    with hostile.visit() as page:
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain"):
            page_of_theirs.write_text(
                f"<form id=f method=post enctype='{kind}' action='{hostile.url}/keys/issue'>"
                "<input name=owner_new value=mallory><input name=team_new value=red><input name=agent_new value=a1>"
                "<input name=workload_new value=w1><input name=once value=1></form>"
                f"<iframe src='{hostile.url}/'></iframe>"
            )
            page.goto(page_of_theirs.as_uri())
            with page.expect_response(f"{hostile.url}/keys/issue") as answered:
                page.evaluate("document.getElementById('f').submit()")
            assert answered.value.status in {303, 400, 401}
            page.wait_for_url(f"{hostile.url}/**")
    # Chromium says on its console that the frame was refused, which is what is wanted.
    assert any("frame" in fault.lower() for fault in hostile.faults)
    hostile.faults.clear()
    assert hostile.server.api("GET", "/api/v1/keys") == before
