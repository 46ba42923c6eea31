"""Every route and every state of a credential: who is let in where.

The cells are made from the route tables themselves. A route of the console that has no row here fails the test, and so
does a dialect of the gateway; a new row says on purpose who may reach it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.types import ASGIApp, Message, Scope

from costbearer.config import Config
from costbearer.console.pages.screens import SCREENS
from costbearer.console.pages.shell import public
from costbearer.console.security import COOKIE
from costbearer.forms import draft, rotation
from costbearer.gateway.endpoints import HEALTH_PATHS, TABLE, Endpoint
from costbearer.keys import new_key, parse_key
from costbearer.simulator import RunningSimulator, running_simulator
from costbearer.stores.control import Control
from tests.harness import ACTOR, LABELS, Gateway, gateway, make_config, run
from tests.pages import HOME, Reader, admin_token, console, form_token, settings
from tests.test_key_timing import forged

Headers = list[tuple[str, str]]
HOST = HOME.removeprefix("http://")


# -- the gateway


ERROR_CODE_AT: Mapping[str, re.Pattern[str]] = {
    dialect: re.compile(pattern)
    for dialect, pattern in {
        "openai": r'"error":\{.*"code":"(\w+)"',
        "azure": r'"error":\{.*"code":"(\w+)"',
        "anthropic": r'"error":\{.*?"code":"(\w+)"',
        "gemini": r'"reason":"(\w+)"',
        "bedrock": r'^\{"message":.*"code":"(\w+)"',
        "cohere": r'^\{"id":.*"code":"(\w+)"',
    }.items()
}
"""Where each dialect's own errors hold our machine code."""

LET_IN = "let in"
"""Whatever the answer is then, it is about the call and not about who makes it."""

REFUSED_STATUS = {"key_missing": 401, "key_invalid": 401, "key_expired": 401, "key_revoked": 401, "header_invalid": 400}

GATEWAY: Mapping[str, str] = {
    "none": "key_missing",
    "empty": "key_missing",
    "of another scheme": "key_missing",
    "in the query": "key_missing",
    "in a cookie": "key_missing",
    "in the body": "key_missing",
    "absurdly long": "key_missing",
    "the administrator's token": "key_invalid",
    "a provider's own key": "key_invalid",
    "malformed": "key_invalid",
    "wrong checksum": "key_invalid",
    "unknown id": "key_invalid",
    "wrong secret": "key_invalid",
    "expired": "key_expired",
    "revoked": "key_revoked",
    "rotated, old secret after the overlap": "key_expired",
    "rotated, old secret within the overlap": LET_IN,
    "rotated, new secret": LET_IN,
    "valid": LET_IN,
    "valid as x-api-key": LET_IN,
    "valid as x-goog-api-key": LET_IN,
    "valid as api-key": LET_IN,
    "two of one kind": "header_invalid",
    "two of different kinds": "header_invalid",
    "valid, and another's beside it": "header_invalid",
    "valid, and an empty one beside it": "header_invalid",
}
"""What every metered path answers to a credential in this state."""


class Sent(NamedTuple):
    headers: Headers
    query: str = ""
    body: bytes = b"{}"


def credentials(running: Gateway, token: str) -> dict[str, Sent]:
    """One request for each state; makes the keys it needs."""
    control, now = running.control, datetime.now(UTC)
    chance = random.Random(1)

    def issue(agent: str, when: datetime = now) -> tuple[str, str]:
        issued = control.issue(draft({**LABELS, "agent": agent}, when, 90), ACTOR)
        return issued.record.key_id, issued.text

    def bearer(text: str) -> Sent:
        return Sent([("authorization", f"Bearer {text}")])

    key = running.key
    _, expired = issue("expired", now - timedelta(days=100))
    revoked_id, revoked = issue("revoked")
    control.revoke(revoked_id, ACTOR)
    within_id, within = issue("within")
    new = control.rotate(within_id, rotation({"overlap": "1h"}, now), ACTOR).text
    after_id, after = issue("after")
    control.rotate(after_id, rotation({"overlap": "0"}, now), ACTOR)
    _, other = issue("other")
    running.worker.keyring = control.load_keyring()
    return {
        "none": Sent([]),
        "empty": bearer(""),
        "of another scheme": Sent([("authorization", f"Basic {key}")]),
        "in the query": Sent([], f"?key={key}&api-key={key}"),
        "in a cookie": Sent([("cookie", f"{COOKIE}={key}; key={key}")]),
        "in the body": Sent([], body=f'{{"key": "{key}"}}'.encode()),
        "absurdly long": bearer(key + "x" * 500),
        "the administrator's token": bearer(token),
        "a provider's own key": bearer("sk-somebody-elses-provider-key"),
        "malformed": bearer(key[:-1]),
        "wrong checksum": bearer(key[:-1] + ("0" if key[-1] != "0" else "1")),
        "unknown id": bearer(new_key(chance.randrange).text),
        "wrong secret": bearer(forged(parse_key(key), chance)),
        "expired": bearer(expired),
        "revoked": bearer(revoked),
        "rotated, old secret after the overlap": bearer(after),
        "rotated, old secret within the overlap": bearer(within),
        "rotated, new secret": bearer(new),
        "valid": bearer(key),
        **{f"valid as {name}": Sent([(name, key)]) for name in ("x-api-key", "x-goog-api-key", "api-key")},
        "two of one kind": Sent([*bearer(key).headers, *bearer(key).headers]),
        "two of different kinds": Sent([*bearer(key).headers, ("x-api-key", key)]),
        "valid, and another's beside it": Sent([*bearer(key).headers, ("x-goog-api-key", other)]),
        "valid, and an empty one beside it": Sent([*bearer(key).headers, ("api-key", "")]),
    }


def address(row: Endpoint) -> str:
    return re.sub(r"\{(\w+)\*?\}", r"some-\1", row.template)


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


def test_every_metered_path_and_every_state_of_a_key(tmp_path: Path, simulator: RunningSimulator) -> None:
    assert {row.dialect for row in TABLE} == set(ERROR_CODE_AT), "a dialect without a row"
    config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    cells = 0

    async def body() -> None:
        nonlocal cells
        async with gateway(config) as running:
            sent = credentials(running, "cba_" + "x" * 43)
            assert set(sent) == set(GATEWAY)
            for row, (state, expected) in itertools.product(TABLE, GATEWAY.items()):
                headers, query, data = sent[state]
                before = len(running.worker.live)
                wire = await running.ask(data, address(row) + query, method=row.method, headers=headers)
                found = ERROR_CODE_AT[row.dialect].search(wire.body.decode())
                code = found[1] if found else None
                where = (row.method, row.template, state, wire.status, wire.body[:200])
                if expected == LET_IN:
                    assert wire.status not in {401, 403} and code not in REFUSED_STATUS, where
                else:
                    assert (wire.status, code) == (REFUSED_STATUS[expected], expected), where
                    assert len(running.worker.live) == before, where
                    assert running.key not in wire.body.decode(), where
                cells += 1
            for path in HEALTH_PATHS:
                for state in GATEWAY:
                    wire = await running.ask(b"", path, method="GET", headers=sent[state].headers)
                    # A head with two of one header is read by nobody.
                    if state == "two of one kind":
                        assert (wire.status, wire.error_code) == (400, "header_invalid")
                        continue
                    assert wire.status == 200, (path, state)
                    assert not set(wire.json) - {"ok", "alive", "recording", "keys", "accepting"}, (
                        "no word about anybody"
                    )
                    cells += 1

    run(body)
    print(f"gateway: {len(TABLE) + len(HEALTH_PATHS)} routes x {len(GATEWAY)} states = {cells} cells, 0 wrong")


# -- the console


REPORT_FILES = ("", ".csv", ".json", ".xlsx", ".md", ".txt")

CONSOLE: Mapping[str, frozenset[str]] = {
    "public": frozenset({"GET /healthz", "GET /readyz", "GET /openapi.json", "GET /static/{name:path}"}),
    "entrance": frozenset({"GET /sign-in", "POST /sign-in"}),
    "api": frozenset(
        {
            *("POST /api/v1/keys", "GET /api/v1/keys", "GET /api/v1/keys/{key_id}"),
            *(f"POST /api/v1/keys/{{key_id}}/{act}" for act in ("rotate", "revoke", "relabel")),
            *("GET /api/v1/peppers", "POST /api/v1/peppers", "POST /api/v1/peppers/{version}/retire"),
            *("GET /api/v1/hash-keys", "POST /api/v1/hash-keys", "POST /api/v1/hash-keys/{version}/retire"),
            *("GET /api/v1/reports", "GET /api/v1/reports/{name}", "GET /api/v1/entries", "POST /api/v1/imports"),
            *("GET /metrics", "GET /api/v1/doctor"),
            *("GET /api/v1/prices", "GET /api/v1/prices/archives", "GET /api/v1/prices/archives/{reference}"),
            *("GET /api/v1/prices/diff", "POST /api/v1/prices/update", "GET /api/v1/prices/contract"),
            *("PUT /api/v1/prices/contract", "POST /api/v1/prices/contract/terms"),
            *("GET /api/v1/prices/models/{model:path}", "GET /api/v1/periods", "POST /api/v1/periods"),
            *("GET /api/v1/figures", "GET /api/v1/figures/{name}", "POST /api/v1/figures/{name}"),
            *("GET /api/v1/ownership", "POST /api/v1/ownership", "GET /api/v1/backfill"),
            *("POST /api/v1/backfill/labels", "POST /api/v1/backfill/rotations"),
            *("POST /api/v1/amortisations", "POST /api/v1/restatements", "POST /api/v1/audits"),
            *("GET /api/v1/findings", "GET /api/v1/findings/{finding_id}", "POST /api/v1/findings/{finding_id}"),
            *("GET /api/v1/views", "GET /api/v1/views.toml", "POST /api/v1/views", "POST /api/v1/views/apply"),
            *("DELETE /api/v1/views/{name}", "GET /api/v1/annotations", "POST /api/v1/annotations"),
            "DELETE /api/v1/annotations/{number}",
        }
    ),
    "page": frozenset(
        {
            *("GET /", "GET /live", "GET /sessions", "GET /go", "GET /help"),
            *(f"GET {path}{ending}" for path in ("/overview", *SCREENS) for ending in REPORT_FILES),
            *(
                f"GET {path}{ending}"
                for path in ("/keys", "/backfill", "/findings")
                for ending in ("", ".csv", ".json")
            ),
            *("GET /keys/issue", "GET /keys/{key_id}", "GET /backfill/key", "GET /findings/{finding_id}"),
            *(f"GET /findings/audit/{{audit_id}}{ending}" for ending in ("", ".json", ".html")),
            *("GET /prices", "GET /prices.csv", "GET /prices.json", "GET /prices/contract"),
            *(f"GET /prices/{name}{ending}" for name in ("model", "archives") for ending in ("", ".csv", ".json")),
            *(f"GET /views{ending}" for ending in ("", ".toml", ".json", ".csv")),
            *("GET /views/new", "GET /views/edit", "GET /view/{name}"),
            *("GET /find", "GET /find.json", "GET /find.csv"),
        }
    )
    - {"GET /overview"},
    "form": frozenset(
        {
            *("POST /sign-out", "POST /sign-out-everywhere", "POST /keys/issue"),
            *(f"POST /keys/{{key_id}}/{act}" for act in ("rotate", "revoke", "relabel")),
            *("POST /backfill/label", "POST /backfill/rotate", "POST /findings/audit", "POST /findings/{finding_id}"),
            *("POST /findings/audit/{audit_id}/keep", "POST /prices/contract", "POST /views", "POST /views/remove"),
            *("POST /views/apply", "POST /annotations", "POST /annotations/remove"),
        }
    ),
}
"""Every route there is, by who may reach it."""

IN, NO, DOOR, HEADER, STALE = "in", "401", "sent to sign in", "header_invalid", "stale form"
STATES: Mapping[str, dict[str, str]] = {
    #                                        public        entrance         api        page         form
    "none": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "empty bearer": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "wrong token": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "virtual key": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "token of another scheme": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "token as x-api-key": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "token in the query": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "token as the cookie": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "token": {"public": IN, "entrance": IN, "api": IN, "page": IN, "form": IN},
    "token, a key as x-api-key beside it": {"public": IN, "entrance": IN, "api": IN, "page": IN, "form": IN},
    "wrong token, the right one as x-api-key": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "two tokens": {"public": IN, "entrance": IN, "api": HEADER, "page": HEADER, "form": HEADER},
    "session": {"public": IN, "entrance": IN, "api": NO, "page": IN, "form": IN},
    "session, wrong token beside it": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "session after sign-out": {"public": IN, "entrance": IN, "api": NO, "page": DOOR, "form": DOOR},
    "session, form without its token": {"public": IN, "entrance": IN, "api": NO, "page": IN, "form": STALE},
    "session, form of another session": {"public": IN, "entrance": IN, "api": NO, "page": IN, "form": STALE},
    "session, no origin": {"public": IN, "entrance": IN, "api": NO, "page": IN, "form": HEADER},
    "session, origin of another site": dict.fromkeys(CONSOLE, HEADER),
    "session, origin null": dict.fromkeys(CONSOLE, HEADER),
    "token, origin of another site": dict.fromkeys(CONSOLE, HEADER),
    "token, host of another site": dict.fromkeys(CONSOLE, HEADER),
}
"""What each class of route answers in each state."""


def routes(application: Any) -> Iterator[str]:
    """`METHOD /path` of everything the application routes."""
    for route in application.routes:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router)
        else:
            yield from (f"{method} {route.path}" for method in route.methods - {"HEAD"})


class Answer(NamedTuple):
    status: int
    location: str
    text: str


class Asker:
    """The application without a client or a server around it, seen from another address in every request: wrong tokens
    are counted by address."""

    def __init__(self, application: ASGIApp) -> None:
        self._application, self._number = application, 0

    async def ask(self, method: str, path: str, query: str, headers: Headers, body: bytes) -> Answer:
        self._number += 1
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": (f"10.0.{self._number // 250}.{self._number % 250}", 1),
            "server": ("127.0.0.1", 4001),
        }
        await self._application(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode("utf-8", "replace")
        return Answer(sent[0]["status"], found.get("location", ""), text)


class State(NamedTuple):
    """How a request in a state is made; `None` leaves a header out."""

    tokens: tuple[str, ...] = ()
    cookie: str | None = None
    form: str | None = None
    origin: str | None = HOME
    more: Mapping[str, str] = {}
    query: str = ""


def states(config: Config, reader: Reader, key: str) -> dict[str, State]:
    token = admin_token(config)

    def signed_in() -> tuple[str, str]:
        reader.cookies.clear()
        assert reader.sign_in(token).status_code == 303
        cookie, form = reader.cookies[COOKIE], form_token(reader.page("/help").text)
        reader.cookies.clear()
        return cookie, form

    ended, ended_form = signed_in()
    reader.cookies.set(COOKIE, ended)
    reader.submit("/sign-out", {}, token=ended_form)
    own, form = signed_in()
    _, others_form = signed_in()
    right, wrong = f"Bearer {token}", "Bearer cba_" + "x" * 43
    live = State(cookie=own, form=form)
    return {
        "none": State(),
        "empty bearer": State(("Bearer ",)),
        "wrong token": State((wrong,)),
        "virtual key": State((f"Bearer {key}",)),
        "token of another scheme": State((f"Basic {token}",)),
        "token as x-api-key": State(more={"x-api-key": token, "x-goog-api-key": token, "api-key": token}),
        "token in the query": State(query=f"token={token}&access_token={token}"),
        "token as the cookie": State(cookie=token),
        "token": State((right,)),
        "token, a key as x-api-key beside it": State((right,), more={"x-api-key": key}),
        "wrong token, the right one as x-api-key": State((wrong,), more={"x-api-key": token}),
        "two tokens": State((right, right)),
        "session": live,
        "session, wrong token beside it": live._replace(tokens=(wrong,)),
        "session after sign-out": State(cookie=ended, form=ended_form),
        "session, form without its token": live._replace(form=None),
        "session, form of another session": live._replace(form=others_form),
        "session, no origin": live._replace(origin=None),
        "session, origin of another site": live._replace(origin="http://evil.example"),
        "session, origin null": live._replace(origin="null"),
        "token, origin of another site": State((right,), origin="http://127.0.0.1:4000"),
        "token, host of another site": State((right,), more={"host": "evil.example"}),
    }


STATIC = next(path for path in sorted(public()) if path.startswith("/static/"))


async def outcome(asker: Asker, route: str, kind: str, state: State) -> str:
    """What became of a request that does nothing where it is let in: it has a field or parameter that is not known."""
    method, _, template = route.partition(" ")
    path = STATIC if template.startswith("/static/") else re.sub(r"\{(\w+)(:path)?\}", "some", template)
    query = "&".join(part for part in (state.query, "nonsense=1" if kind != "form" else "") if part)
    headers = [("accept", "text/html"), *({"host": HOST} | dict(state.more)).items()]
    headers += [("authorization", token) for token in state.tokens]
    headers += [("origin", state.origin)] if state.origin is not None else []
    headers += [("cookie", f"{COOKIE}={state.cookie}")] if state.cookie is not None else []
    body = b""
    if kind == "form":
        body = b"nonsense=1" + (f"&form_token={state.form}".encode() if state.form is not None else b"")
        headers.append(("content-type", "application/x-www-form-urlencoded"))
    answer = await asker.ask(method, path, query, headers, body)
    assert answer.status < 500, (route, state, answer)
    if answer.status == 401:
        return NO
    if answer.status == 303 and answer.location.startswith("/sign-in"):
        return DOOR
    if answer.status == 400 and "header_invalid" in answer.text:
        return HEADER
    if answer.status == 409 and "load the page again" in answer.text:
        return STALE
    return IN


FILES = re.compile(r"\.(csv|json|xlsx|md|txt)$")
FEW = frozenset({"none", "wrong token", "session", "session after sign-out", "session, origin of another site"})
"""What the files of a page, a hundred routes, are tried with each time; `make soak` tries them with everything."""


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["quick", "all"])
def test_every_route_of_the_console_and_every_state_of_a_credential(tmp_path: Path, whole: bool) -> None:
    config = settings(tmp_path)
    with console(config) as reader, Control.open(config.control_file) as control:
        assert set(routes(reader.app)) == frozenset().union(*CONSOLE.values()), "a route without a row"
        key = control.issue(draft(LABELS, datetime.now(UTC), 90), ACTOR).text
        sent = states(config, reader, key)
        assert set(sent) == set(STATES)
        acts, asker = len(control.audit_rows()), Asker(reader.app)
        cells = [
            (kind, route, state)
            for kind, listed in CONSOLE.items()
            for route, state in itertools.product(sorted(listed), STATES)
            if whole or state in FEW or kind != "page" or not FILES.search(route)
        ]

        async def all_cells() -> list[tuple[str, str, str]]:
            return [
                (route, state, found)
                for kind, route, state in cells
                if (found := await outcome(asker, route, kind, sent[state])) != STATES[state][kind]
            ]

        assert asyncio.run(all_cells()) == []
        assert len(control.audit_rows()) == acts, "nothing was done by any of them"
    print(f"console: {sum(map(len, CONSOLE.values()))} routes, {len(STATES)} states: {len(cells)} cells, 0 wrong")
