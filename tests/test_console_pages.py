"""Pages without a browser: signing in, forms that are refused, addresses, files, empty states, views, annotations."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

from costbearer.cli import root
from costbearer.config import Config
from costbearer.console.app import create_app
from costbearer.console.pages.entrance import local
from costbearer.console.pages.screens import NAVIGATION, SCREENS
from costbearer.console.security import COOKIE, FAILURES_MAX
from costbearer.reports import REPORTS
from costbearer.stores import sessions as sessions_store
from costbearer.stores.control import Control
from costbearer.stores.sessions import LIFE, Sessions
from tests import randomledger
from tests.pages import HTML, Reader, admin_token, console, form_token, settings, today

EVER = "since=2026-09&until=2026-11"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path)


@pytest.fixture
def guest(config: Config) -> Iterator[Reader]:
    with console(config, randomledger.ledger(7, 90)) as client:
        yield client


@pytest.fixture
def reader(guest: Reader, config: Config) -> Reader:
    assert guest.sign_in(admin_token(config)).status_code == 303
    return guest


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who only looks: one console for all tests that change nothing."""
    config = settings(tmp_path_factory.mktemp("looking"))
    with console(config, randomledger.ledger(7, 90)) as client:
        client.sign_in(admin_token(config))
        yield client


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Reader]:
    """Signed in to a console whose ledger is empty."""
    config = settings(tmp_path)
    with console(config) as client:
        client.sign_in(admin_token(config))
        yield client


def api(reader: Reader, config: Config, method: str, path: str, **options: Any) -> Any:
    headers = {"authorization": f"Bearer {admin_token(config)}"}
    return reader.request(method, path, headers=headers, **options)


# -- signing in


def test_a_stranger_is_sent_to_sign_in_and_back(guest: Reader, config: Config) -> None:
    asked = guest.get("/explore?by=team&where=team=a%26b", headers=HTML, follow_redirects=False)
    assert asked.status_code == 303
    assert asked.headers["location"] == "/sign-in?next=/explore%3Fby%3Dteam%26where%3Dteam%3Da%2526b"
    form = guest.get(asked.headers["location"], headers=HTML)
    assert 'value="/explore?by=team&amp;where=team=a%26b"' in form.text
    done = guest.sign_in(admin_token(config), next="/explore?by=team&where=team=a%26b")
    assert (done.status_code, done.headers["location"]) == (303, "/explore?by=team&where=team=a%26b")
    assert "<h1>Explore</h1>" in guest.get(done.headers["location"], headers=HTML).text


def test_a_program_without_a_token_is_told_in_json(guest: Reader) -> None:
    for path in ("/", "/explore.csv", "/keys.json", "/api/v1/keys", "/nothing"):
        answer = guest.get(path, follow_redirects=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), path


def test_the_cookie_is_for_this_site_and_no_script(guest: Reader, config: Config) -> None:
    cookie = guest.sign_in(admin_token(config)).headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for word in ("HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={int(LIFE.total_seconds())}"):
        assert word in cookie
    assert "Secure" not in cookie
    fields = {"token": admin_token(config)}
    secure = guest.post(
        "/sign-in",
        data=fields,
        headers={**HTML, "host": "localhost", "origin": "https://localhost"},
        follow_redirects=False,
    )
    assert "Secure" in secure.headers["set-cookie"]


def test_cookies_of_others_on_this_host_hide_nothing(reader: Reader) -> None:
    own = reader.cookies[COOKIE]
    reader.cookies.clear()
    for others in ('prefs={"a":[1,2]}; bad cookie; =x', "a=1", "\xe9=\xe9", "x=" + "y" * 3000):
        header = f"{others}; {COOKIE}={own}".encode("latin-1")
        answer = reader.get("/help", headers=[(b"accept", b"text/html"), (b"cookie", header)], follow_redirects=False)
        assert answer.status_code == 200, others


def test_a_wrong_token_is_said_counted_and_never_let_in(guest: Reader, config: Config) -> None:
    for _ in range(FAILURES_MAX):
        answer = guest.sign_in("cba_wrong")
        assert answer.status_code == 401 and "that is not the token" in answer.text
        assert "set-cookie" not in answer.headers
    assert guest.sign_in("cba_wrong").status_code == 429
    assert guest.sign_in(admin_token(config)).status_code == 303


@pytest.mark.parametrize(
    "address", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\nb"]
)
def test_nobody_is_led_elsewhere(address: str) -> None:
    assert local(address) == "/"


def test_an_ended_or_made_up_session_is_none(config: Config, reader: Reader) -> None:
    cookie = reader.cookies[COOKIE]
    reader.cookies.clear()
    reader.cookies.set(COOKIE, cookie[:-1] + ("a" if cookie[-1] != "a" else "b"))
    assert reader.get("/", headers=HTML, follow_redirects=False).status_code == 303
    reader.cookies.clear()
    reader.cookies.set(COOKIE, cookie)
    assert reader.page("/help").status_code == 200
    assert reader.submit("/sign-out", {}).status_code == 303
    reader.cookies.set(COOKIE, cookie)
    assert reader.get("/help", headers=HTML, follow_redirects=False).status_code == 303


def test_sessions_end_by_themselves_survive_a_restart_and_are_not_endless(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    times = [now]
    with Control.open(config.control_file) as control:
        sessions = Sessions(control.database, lambda: times[0])
        cookie = sessions.begin("ada", "127.0.0.1", "adm_1")
        again = Sessions(control.database, lambda: times[0])
        found = again.find(cookie)
        assert found is not None and found.who == "ada"
        assert cookie not in config.control_file.read_bytes().decode("latin-1")
        times[0] = now + LIFE
        assert again.find(cookie) is None and again.living() == []
        times[0] = now
        other = again.find(again.begin("grace", "127.0.0.1", "adm_2"))
        assert other is not None and other.form_token != found.form_token
        monkeypatch.setattr(sessions_store, "SESSIONS_MAX", 3)
        for number in range(3):
            times[0] += timedelta(seconds=1)
            again.begin(f"p{number}", "127.0.0.1", "adm_2")
        assert [each.who for each in again.living()] == ["p2", "p1", "p0"]


# -- forms


FORMS = (
    "/keys/issue",
    "/keys/key_000000000000/revoke",
    "/backfill/label",
    "/backfill/rotate",
    "/findings/audit",
    "/prices/contract",
    "/views",
    "/views/remove",
    "/views/apply",
    "/annotations",
    "/annotations/remove",
    "/sign-out",
    "/sign-out-everywhere",
)


def test_every_form_is_listed_here(looking: Reader) -> None:
    """A new form without a row would not be tested below."""
    found = {
        re.sub(r"\{[a-z_]+\}", "*", route.path)
        for included in looking.app.routes  # type: ignore[attr-defined]
        for route in (included.original_router.routes if hasattr(included, "original_router") else ())
        if "POST" in (getattr(route, "methods", None) or ()) and not route.path.startswith("/api/")
    }
    listed = {re.sub(r"key_0+", "*", path) for path in FORMS}
    more = {"/sign-in", "/keys/*/rotate", "/keys/*/relabel", "/findings/audit/*/keep", "/findings/*"}
    assert found == listed | more


def test_a_form_needs_its_token_and_its_origin(reader: Reader, config: Config) -> None:
    before = api(reader, config, "GET", "/api/v1/keys").json()
    for path in FORMS:
        without = reader.post(path, data={"owner": "x"}, headers=HTML)
        assert (without.status_code, "header_invalid" in without.text) == (400, True), path
        other = reader.post(path, data={"owner": "x"}, headers={**HTML, "origin": "http://evil.example"})
        assert other.status_code == 400, path
        for token in ("", "0" * 64, "é"):
            stale = reader.submit(path, {"owner": "x"}, token=token)
            assert stale.status_code == 409 and "load the page again" in stale.text, path
        wrong = reader.post(path, json={"owner": "x"}, headers={**HTML, "origin": "http://127.0.0.1:4001"})
        assert wrong.status_code == 400 and "forms alone" in wrong.text, path
    assert api(reader, config, "GET", "/api/v1/keys").json() == before
    assert reader.page("/help").status_code == 200, "still signed in"


def test_the_api_takes_no_cookie(looking: Reader) -> None:
    assert looking.get("/api/v1/keys").status_code == 401
    assert looking.post("/api/v1/keys", json={}).status_code == 401
    assert looking.get("/metrics").status_code == 401


def test_a_field_that_no_form_has_is_refused(looking: Reader) -> None:
    answer = looking.submit("/views/remove", {"name": "x", "all": "yes"})
    assert answer.status_code == 422 and "not a field of this form" in answer.text


# -- keys


def labels(**changes: str) -> dict[str, str]:
    named = {f"{label}_new": f"{label}-one" for label in ("owner", "team", "agent", "workload")}
    return {**named, "once": "1", **changes}


def shown_key(html: str) -> str:
    found = re.search(r'id="key" readonly value="(cbk_[^"]+)"', html)
    assert found is not None, html[:2000]
    return found[1]


def test_a_key_is_issued_once_shown_once_and_named_wholly(reader: Reader, config: Config) -> None:
    issued = reader.submit("/keys/issue", labels())
    assert issued.status_code == 201
    key = shown_key(issued.text)
    assert issued.headers["cache-control"] == "no-store"
    again = reader.submit("/keys/issue", labels())
    assert again.status_code == 409 and "shown only once" in again.text
    (kept,) = api(reader, config, "GET", "/api/v1/keys").json()["keys"]
    assert (kept["owner"], kept["workload"]) == ("owner-one", "workload-one")
    assert key not in reader.page(f"/keys/{kept['key_id']}").text
    assert "by Ada Byron" in reader.page(f"/keys/{kept['key_id']}").text
    listed = list(csv.DictReader(io.StringIO(reader.get("/keys.csv").text)))
    assert [row["key_id"] for row in listed] == [kept["key_id"]]
    assert reader.get("/keys.json").json()["keys"] == [kept]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"owner_new": ""}, "owner</b> missing"),
        ({"team_new": "n/a"}, "team</b>"),
        ({"team_new": "", "team": "support"}, None),
        ({"team_new": " Support "}, "there is &#39;support&#39; already"),
        ({"team": "support"}, "which?"),
        ({"team_new": "", "team": "nowhere"}, "not in the directory"),
        ({"expires": "yesterday"}, "expires</b>"),
        ({"workload_new": "w" * 500}, "workload</b>"),
    ],
)
def test_the_directory_and_a_new_name_as_an_act(reader: Reader, changes: dict[str, str], said: str | None) -> None:
    answer = reader.submit("/keys/issue", labels(**changes))
    if said is None:
        assert answer.status_code == 201, answer.text
    else:
        assert answer.status_code == 422 and said in answer.text, answer.text
        assert 'value="agent-one"' in answer.text, "what was filled in is still there"


def test_a_key_that_is_pasted_into_the_search_is_not_repeated(reader: Reader) -> None:
    key = shown_key(reader.submit("/keys/issue", labels(once="find")).text)
    found = reader.get("/find", params={"q": f" {key} "}, headers=HTML, follow_redirects=False)
    assert (found.status_code, key[17:] in found.headers["location"]) == (303, False)
    assert key[4:16] in reader.page(found.headers["location"]).text
    unknown = reader.page(f"/find?q=cbk_zzzzzzzzzzzz_{'Z' * 36}")
    assert unknown.status_code == 200 and "Z" * 36 not in unknown.text


def test_a_key_that_somebody_else_changed_is_not_changed_over_them(reader: Reader, config: Config) -> None:
    reader.submit("/keys/issue", labels())
    (kept,) = api(reader, config, "GET", "/api/v1/keys").json()["keys"]
    own = f"/keys/{kept['key_id']}"
    stale = re.search(r'name="version" value="(\d+)"', reader.page(own).text)
    assert stale is not None
    relabelled = reader.submit(f"{own}/relabel", {"team_new": "other", "version": stale[1]})
    assert relabelled.status_code == 200 and "other" in relabelled.text
    told = reader.submit(f"{own}/revoke", {"sure": "yes", "version": stale[1]})
    assert told.status_code == 409 and "Ada Byron did key.relabel" in told.text
    fresh = re.search(r'name="version" value="(\d+)"', reader.page(own).text)
    assert fresh is not None
    unsure = reader.submit(f"{own}/revoke", {"version": fresh[1]})
    assert unsure.status_code == 422 and "tick the box" in unsure.text
    rotated = reader.submit(f"{own}/rotate", {"version": fresh[1], "overlap": "24h", "once": "r"})
    assert rotated.status_code == 201 and shown_key(rotated.text)
    assert reader.submit(f"{own}/revoke", {"sure": "yes", "version": str(int(fresh[1]) + 1)}).status_code == 200
    assert api(reader, config, "GET", f"/api/v1/keys/{kept['key_id']}").json()["status"] == "revoked"


# -- reports as pages


def test_every_report_has_a_page_and_every_place_of_the_navigation_is_there(looking: Reader) -> None:
    assert {screen.report for screen in SCREENS.values()} == set(REPORTS)
    for places in NAVIGATION.values():
        for place in places:
            answer = looking.page(place.path)
            assert answer.status_code == 200, (place, answer.text[:500])
            assert re.search(rf'href="{place.path}" aria-current="page"', answer.text), place


@pytest.mark.parametrize("path", [path for path, screen in SCREENS.items() if "id" not in screen.form.takes])
def test_page_and_files_say_one_total(looking: Reader, path: str) -> None:
    page = looking.page(f"{path}?{EVER}")
    assert page.status_code == 200
    document = looking.get(f"{path}.json?{EVER}").json()
    if document.get("total_usd") is not None:
        assert f'id="total" value="{document["total_usd"]}"' in page.text
    for ending, kind in (("csv", "text/csv"), ("xlsx", "spreadsheet"), ("md", "markdown"), ("txt", "text/plain")):
        file = looking.get(f"{path}.{ending}?{EVER}")
        assert file.status_code == 200 and kind in file.headers["content-type"]
        assert file.headers["x-time-zone"] == "UTC"
    links = re.findall(r'class="file" href="([^"]+)"', page.text)
    assert len(links) == 5
    for link in links:
        assert looking.get(link.replace("&amp;", "&")).status_code == 200, link
    assert "Complete to" in page.text and "Time zone UTC" in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/keys",
        "/backfill",
        "/findings",
        "/prices?model=gpt-4o",
        "/prices/model?model=gpt-4o",
        "/prices/archives?old=bundled",
        "/views",
        "/find?q=s",
    ],
)
def test_every_page_that_shows_rows_has_its_twins(looking: Reader, path: str) -> None:
    page = looking.page(path)
    assert page.status_code == 200
    links = [link.replace("&amp;", "&") for link in re.findall(r'class="file" href="([^"]+)"', page.text)]
    assert {link.partition("?")[0].rpartition(".")[2] for link in links} >= {"csv", "json"}
    for link in links:
        file = looking.get(link)
        assert file.status_code == 200, link
        if ".json" in link:
            assert file.json() is not None
        elif ".csv" in link:
            assert len(list(csv.reader(io.StringIO(file.text)))) >= 1


def test_every_link_of_a_page_leads_somewhere(looking: Reader) -> None:
    """Two steps from Overview and from each screen: nothing that is offered is refused."""
    seen: set[str] = set()
    waiting = [f"/?{EVER}", *(f"{path}?{EVER}" for path, screen in SCREENS.items() if "id" not in screen.form.takes)]
    for depth in range(2):
        found: list[str] = []
        for address in waiting:
            answer = looking.page(address)
            assert answer.status_code == 200, (address, answer.text[:1500])
            found += [link.replace("&amp;", "&") for link in re.findall(r'href="(/[^"]*)"', answer.text)]
        fresh = [link for link in dict.fromkeys(found) if link not in seen and not link.startswith("/static/")]
        seen |= set(fresh)
        # The second step looks at a part of what there is: the same kinds of links stand on every page.
        waiting = fresh[depth :: max(1, len(fresh) // 40)]
    assert len(seen) > 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/explore?bogus=1", "unknown parameter"),
        ("/explore?by=colour", "colour"),
        ("/explore?since=yesterdayish", "since"),
        ("/why?sort=cost", "is not a parameter of this report"),
        ("/?limit=3", "not a parameter here"),
        ("/keys?colour=red", "not a parameter here"),
        ("/keys?status=lost", "is one of active"),
        ("/keys/issue?key=1", "not a field"),
        ("/findings?status=lost", "is one of open"),
        ("/prices?colour=red", "not a parameter here"),
        ("/go?page=/explore&colour=red", "not a field of the form"),
        ("/go?page=//evil.example", "page"),
        ("/trace", "is missing"),
    ],
)
def test_an_address_that_cannot_be_is_a_400_that_says_why(looking: Reader, path: str, said: str) -> None:
    answer = looking.page(path)
    assert answer.status_code == 400 and said in answer.text, answer.text[:1500]
    assert "<!doctype html>" in answer.text


@pytest.mark.parametrize(
    "path", ["/receipt?id=none.1", "/trace?id=none", "/keys/key_none", "/view/none", "/findings/x"]
)
def test_what_is_not_there_is_a_404_page(looking: Reader, path: str) -> None:
    answer = looking.page(path)
    assert answer.status_code == 404 and "not_found" in answer.text


def test_a_form_becomes_an_address(looking: Reader) -> None:
    fields = [
        ("page", "/explore"),
        ("by", "team"),
        ("by", ""),
        ("by", "model"),
        ("dim", "agent"),
        ("value", " a=b "),
        ("since", ""),
    ]
    answer = looking.get("/go?" + urlencode(fields), headers=HTML, follow_redirects=False)
    assert answer.headers["location"] == "/explore?by=team,model&where=agent=a=b"


def test_empty_states_tell_apart_why(looking: Reader, nobody: Reader) -> None:
    assert "No calls are recorded yet." in nobody.page("/explore").text
    assert "No calls are recorded yet." in nobody.page("/").text
    assert "No calls in this period." in looking.page("/explore?since=2020-01&until=2020-02").text
    assert "matches the filter" in looking.page(f"/explore?where=team=nobody-there&{EVER}").text
    assert "Every call of this period has a cost." in looking.page("/unknown?where=status=ok&" + EVER).text
    assert "No keys yet." in nobody.page("/keys").text
    assert "No findings are kept." in nobody.page("/findings").text


def test_unknown_is_never_shown_as_nothing(tmp_path: Path) -> None:
    from tests.factories import make_unknown

    config = settings(tmp_path)
    entries = [make_unknown(randomledger.JOURNAL, number, kind="import", team="lost") for number in (1, 2)]
    with console(config, entries) as reader:
        reader.sign_in(admin_token(config))
        row = re.search(r"<tr>(?:(?!</tr>).)*>lost<.*?</tr>", reader.page("/explore?since=2020-01").text, re.S)
        assert row is not None and "unknown" in row[0] and "$0.00" not in row[0]


def test_a_page_of_very_many_groups_stays_a_page(tmp_path: Path) -> None:
    from tests.factories import make_entry

    config = settings(tmp_path)
    entries = [
        make_entry(
            randomledger.JOURNAL,
            number,
            kind="import",
            feature=f"f{number}",
            call_id=f"c{number}",
            request_id=f"r{number}",
        )
        for number in range(1, 6001)
    ]
    with console(config, entries) as reader:
        reader.sign_in(admin_token(config))
        few = reader.page("/explore?by=feature&since=2020-01")
        assert few.text.count("<tr>") < 110 and "(the rest)" in few.text
        many = reader.page("/explore?by=feature&since=2020-01&limit=100000")
        assert "5,500 more rows are in the files" in many.text
        rows = list(csv.DictReader(io.StringIO(reader.get("/explore.csv?by=feature&since=2020-01&limit=100000").text)))
        total = re.search(r'id="total" value="([^"]+)"', many.text)
        assert total is not None and sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(total[1])


def test_what_is_said_of_a_chart_is_so_in_any_order_and_behind_a_limit(looking: Reader) -> None:
    rows = list(csv.DictReader(io.StringIO(looking.get(f"/explore.csv?by=team&{EVER}").text)))
    most = max(rows, key=lambda row: Decimal(row["cost_usd"]))["team"]
    for order in ("cost", "name"):
        caption = re.search(
            r"<figcaption>(.*?)</figcaption>", looking.page(f"/explore?by=team&sort={order}&{EVER}").text
        )
        assert caption is not None
        assert ("Nobody" if most == "(none)" else most.replace("'", "&#39;")) in caption[1], caption[1]
    whole = looking.page(f"/explore?by=day,agent&{EVER}").text
    assert "not drawn" not in whole and "(the rest)" not in whole
    cut = looking.page(f"/explore?by=day,agent&limit=20&{EVER}").text
    assert "behind the limit is not drawn" in cut


def test_one_overview_asks_about_one_period(looking: Reader) -> None:
    tables = looking.get("/overview.json").json()["tables"]
    assert len({table["until"] for table in tables.values()}) == 1


def test_live_is_quiet_where_nothing_happened(looking: Reader) -> None:
    address = re.search(r'data-hx-get="(/live[^"]+)"', looking.page("/").text)
    assert address is not None
    assert looking.get(address[1].replace("&amp;", "&")).status_code == 204
    assert 'id="total"' in looking.page("/live?seen=0").text
    assert "data-hx-get" not in looking.page(f"/?{EVER}").text
    assert "data-hx-get" not in looking.page("/?live=off").text


# -- static files and headers


def test_pages_let_no_script_in(looking: Reader) -> None:
    for path in ("/", "/sign-in", "/keys/issue", "/nothing-here"):
        answer = looking.page(path)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=|\sstyle=|javascript:", answer.text)


def test_files_are_kept_for_ever_under_addresses_that_change(looking: Reader, guest: Reader) -> None:
    links = re.findall(r'(?:src|href|data-charts)="(/static/[^"]+)"', looking.page("/help").text)
    assert {link.rpartition(".")[2] for link in links} == {"css", "js", "svg"}
    for link in links:
        plain = guest.get(link, headers={"accept-encoding": "identity"})
        zipped = guest.get(link, headers={"accept-encoding": "gzip"})
        assert plain.status_code == 200 and "immutable" in plain.headers["cache-control"]
        assert plain.content == zipped.content
        assert zipped.headers["content-encoding"] == "gzip"
        assert re.search(r"\.[0-9a-f]{10}\.|-\d+\.\d+\.\d+\.min\.", link), link
    assert guest.get("/static/../app.py").status_code in {401, 404}


# -- findings


def test_an_audit_over_the_api_and_two_people_at_one_finding(reader: Reader, config: Config) -> None:
    line = {
        "request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "k", "spend": 0.0, "total_tokens": 120,
        "prompt_tokens": 100, "completion_tokens": 20, "startTime": f"{today()}T00:00:00Z",
        "endTime": f"{today()}T00:00:01Z", "model": "gpt-4.1", "custom_llm_provider": "openai", "metadata": {},
    }  # fmt: skip
    log = json.dumps(line).encode()
    asked = {"name": "gateway.jsonl", "keep": "true"}
    found = api(reader, config, "POST", "/api/v1/audits", params=asked, content=log).json()
    assert "zero_cost_with_tokens" in [each["code"] for each in found["findings"]]
    assert found["verdict"] in {"broken", "unfit", "leaking", "fit", "unknown"}
    kept = api(reader, config, "GET", "/api/v1/findings").json()["findings"]
    (one,) = [each for each in kept if each["code"] == "zero_cost_with_tokens"]
    own = f"/api/v1/findings/{one['finding_id']}"
    change = {"version": one["version"], "status": "fixed", "comment": "usage is asked for now"}
    assert api(reader, config, "POST", own, json=change).json()["status"] == "fixed"
    late = api(reader, config, "POST", own, json=change)
    assert late.status_code == 409 and "administrator commented" in late.json()["error"]["message"]
    for wrong in (
        {},
        {"version": "1"},
        {"version": 2, "status": "lost"},
        {"version": 2, "colour": "red"},
        {"version": 2},
    ):
        assert api(reader, config, "POST", own, json=wrong).status_code == 422, wrong
    # Seen again, it opens again.
    api(reader, config, "POST", "/api/v1/audits", params=asked, content=log)
    again = api(reader, config, "GET", own).json()
    assert again["status"] == "open"
    assert [each["what"] for each in again["history"]] == ["seen", "status", "comment", "status", "seen"]
    for content, said in ((b"", "nothing in it"), (b"\x00\x01\x02 no log", "")):
        refused = api(reader, config, "POST", "/api/v1/audits", content=content)
        assert refused.status_code == 422 and said in refused.text
    large = api(reader, config, "POST", "/api/v1/audits", content=b"x" * (50 * 1024 * 1024 + 1))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    assert api(reader, config, "POST", "/api/v1/audits?format=nothing", content=log).status_code == 422


def test_a_huge_paste_is_refused_with_words(looking: Reader) -> None:
    answer = looking.submit("/findings/audit", {"text": "x" * (59 * 1024 * 1024)})
    assert answer.status_code == 413 and "body_too_large" in answer.text


# -- views and annotations


def test_views_are_saved_shared_compared_and_refused(reader: Reader, config: Config, tmp_path: Path) -> None:
    fields = {"name": "Search", "page": "/explore", "parameters": "by=agent&where=team%3Dsearch", "version": "0"}
    assert reader.submit("/views", {**fields, "description": "d"}).status_code == 303
    assert "/explore?by=agent&amp;where=team%3Dsearch" in reader.page("/views").text
    follow = reader.get("/view/Search", headers=HTML, follow_redirects=False)
    assert follow.headers["location"] == "/explore?by=agent&where=team%3Dsearch"
    told = reader.submit("/views", fields)
    assert told.status_code == 409 and "not as it was" in told.text and "Ada Byron" in told.text
    for wrong in ({"parameters": "by=colour"}, {"page": "/nowhere"}, {"name": ""}, {"parameters": "bogus=1"}):
        assert reader.submit("/views", {**fields, "name": "New", **wrong}).status_code == 422, wrong
    file = tmp_path / "views.toml"
    file.write_text(reader.get("/views.toml").text)
    assert 'where = "team=search"' in file.read_text()
    changed = file.read_text().replace("agent", "model") + '\n[[views]]\nname = "All"\npage = "/"\n'
    preview = reader.submit("/views/apply", {"content": changed})
    assert preview.status_code == 200 and "changed" in preview.text and "new" in preview.text
    assert len(api(reader, config, "GET", "/api/v1/views").json()["views"]) == 1
    assert reader.submit("/views/apply", {"content": changed, "apply": "yes"}).status_code == 303
    assert [view["name"] for view in api(reader, config, "GET", "/api/v1/views").json()["views"]] == ["All", "Search"]
    for broken in ("[[views]", "x = 1", '[[views]]\nname = "A"\npage = "/explore"\n[views.ask]\nby = 3\n'):
        assert reader.submit("/views/apply", {"content": broken}).status_code == 422, broken
    assert reader.submit("/views/remove", {"name": "All"}).status_code == 303
    assert api(reader, config, "DELETE", "/api/v1/views/All").status_code == 404


def test_views_and_annotations_by_command(tmp_path: Path) -> None:
    data = str(tmp_path / "data")

    def run(*words: str) -> Any:
        return CliRunner().invoke(root, [*words, "--data", data])

    file = tmp_path / "views.toml"
    file.write_text(
        '[[views]]\nname = "Teams"\npage = "/explore"\n[views.ask]\nby = "team"\nwhere = ["team=a", "team=b"]\n'
    )
    assert run("views", "apply", str(file)).exit_code == 0
    assert run("views", "diff", str(file)).exit_code == 0
    assert run("views", "export").stdout == file.read_text()
    file.write_text(file.read_text().replace("Teams", "Groups"))
    differs = run("views", "diff", str(file), "--json")
    assert differs.exit_code == 1
    assert [change["action"] for change in json.loads(differs.stdout)["changes"]] == ["new", "gone"]
    assert run("views", "apply", str(file), "--remove").exit_code == 0
    assert [view["name"] for view in json.loads(run("views", "list", "--json").stdout)["views"]] == ["Groups"]
    assert run("views", "remove", "Groups").exit_code == 0
    assert run("views", "remove", "Groups").exit_code == 2
    made = json.loads(
        run("annotations", "add", "2026-10-05", "umbrella joined", "--where", "customer=umbrella", "--json").stdout
    )
    assert made["where"] == "customer=umbrella"
    assert run("annotations", "add", "2026-13-05", "x").exit_code == 2
    assert run("annotations", "add", "2026-10-05", "x", "--where", "colour=red").exit_code == 2
    assert "umbrella joined" in run("annotations", "list", "--csv").stdout
    assert run("annotations", "remove", str(made["number"])).exit_code == 0
    for gone in (made["number"], 2**70):
        refused = run("annotations", "remove", str(gone))
        assert (refused.exit_code, f"no annotation {gone}" in refused.output) == (2, True)


def test_an_annotation_stands_on_the_days_and_scopes_it_is_about(reader: Reader) -> None:
    note = {"day": "2026-10-05", "text": "a new contract", "dim": "team", "value": "search"}
    assert reader.submit("/annotations", note).status_code == 303
    for path, there in (
        (f"/explore?by=day&{EVER}", True),
        (f"/explore?by=day&where=team=search&{EVER}", True),
        (f"/explore?by=day&where=team=support&{EVER}", False),
        ("/explore?by=day&since=2026-09&until=2026-10", False),
    ):
        assert ("a new contract" in reader.page(path).text) == there, path
    for wrong in ({"day": "tomorrow"}, {"text": ""}, {"dim": "colour", "value": "red"}):
        assert reader.submit("/annotations", {**note, **wrong}).status_code == 422, wrong


def test_a_failure_of_ours_is_a_page_with_its_request(config: Config) -> None:
    from fastapi import APIRouter

    broken = APIRouter()

    @broken.get("/broken")
    def fail() -> None:
        raise ZeroDivisionError

    with Control.open(config.control_file) as control:
        client = Reader(
            create_app(config, control, pages=[broken]), base_url="http://127.0.0.1:4001", raise_server_exceptions=False
        )
        client.sign_in(admin_token(config))
        answer = client.page("/broken")
        assert answer.status_code == 500 and "adm_" in answer.text and "ZeroDivision" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert form_token(answer.text)
