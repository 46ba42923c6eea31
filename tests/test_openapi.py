"""Every operation of the console's API, whatever it is sent: no failure of ours, and nothing that is not described."""

from __future__ import annotations

import base64
import copy
import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec
import pytest
from httpx2 import Response

from costbearer.config import Config
from costbearer.console.app import PUBLIC_PATHS
from tests import randomledger
from tests.factories import make_entry
from tests.hostile import SINGLE
from tests.pages import Reader, admin_token, console, settings
from tests.test_bombs import JSON, TOML

PACKED = base64.b64encode(
    gzip.compress(b'[[terms]]\nprovider="openai"\nmodel="x"\nsince=2026-01-01\ndiscount="1"')
).decode()
LABELS = {"owner": "ana", "team": "search", "agent": "bot", "workload": "chat"}
ENTRY = msgspec.to_builtins(make_entry("20261101T000000-0a0b0c0d", 1, kind="import", call_id="c1"), str_keys=True)
BODIES: dict[str, Any] = {
    "POST /api/v1/keys": {**LABELS, "name": "n", "env": "prod", "require": ["feature"], "expires": "90d"},
    "POST /api/v1/keys/{key_id}/rotate": {"overlap": "1h", "expires": "30d"},
    "POST /api/v1/keys/{key_id}/relabel": {"team": "red", "from": "2099-01-01"},
    "POST /api/v1/imports": {"entries": [ENTRY]},
    "POST /api/v1/prices/update": {"check": True},
    "PUT /api/v1/prices/contract": {"content": PACKED},
    "POST /api/v1/prices/contract/terms": {
        "provider": "openai", "model": "gpt-9*", "since": "2026-01-01", "until": "2027-01-01", "discount": "5",
        "tier": "batch", "geo": "eu", "prices": {"input": "0.1"},
    },
    "POST /api/v1/periods": {"month": "2020-01"},
    "POST /api/v1/figures/{name}": {"lines": [{"date": "2026-11-01", "amount": "3.5", "label": "x"}]},
    "POST /api/v1/ownership": {"rows": [{"kind": "key", "value": "sk-1", "owner": "ana", "from": "2026-01-01"}]},
    "POST /api/v1/backfill/labels": {"key": "sk-1", **LABELS, "apply": False, "from": "2026-01-01"},
    "POST /api/v1/backfill/rotations": {"keys": [{"key": "sk-1", **LABELS}], "expires": "30d"},
    "POST /api/v1/findings/{finding_id}": {"version": 1, "status": "open", "owner": "ana", "comment": "x"},
    "POST /api/v1/views": {"name": "v", "page": "/explore", "parameters": "by=team", "description": "", "version": 0},
    "POST /api/v1/views/apply": {"content": '[[views]]\nname="v"\npage="/explore"\n', "check": True, "remove": False},
    "POST /api/v1/annotations": {"day": "2026-11-02", "text": "x", "where": "team=search"},
}  # fmt: skip
"""A sound body of each operation that takes one, from which others are made."""

TEXTS = (
    *(
        "",
        "team",
        "search",
        "team=search",
        "2026-11-01",
        "9999-12-31",
        "0001-01-01",
        "2026-02-30",
        "7d",
        "1e999",
        "-1",
        "0",
    ),
    *(
        "1000000",
        "true",
        "null",
        "previous",
        "json",
        "csv",
        "xlsx",
        "text",
        "markdown",
        "list",
        "key_AAAAAAAAAAAA",
        "999",
    ),
    *("%", "../../etc/passwd", "..%2f..%2f", "C:\\x", "\x7f", "\u2028", "9" * 400, "a" * 3000, "' OR 1=1 --", '"); --'),
    *("Europe/Berlin", "tag:x", "tag:" + "y" * 200, "2026-10-01..2026-11-01", "..", "2026-11", "gpt-4.1-mini", "b64="),
    "eyJ" + "W" * 9000,
    *SINGLE[:24],
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        1.5,
        -0.0,
        1e308,
        "",
        "x",
        [],
        {},
        [[]],
        [None],
        {"": ""},
    ),
    *([{}], {"a": {"b": [1]}}, "\ud800", "2026-01-01", "never", list(range(50)), "\x00", {"__proto__": 1}),
    *TEXTS[-24:],
)
SLOW = {"GET /api/v1/doctor": 1, "POST /api/v1/audits": 0}
"""Operations of which few are asked: they read everything, or start a process."""


class Operation(NamedTuple):
    """One row of the description."""

    method: str
    path: str
    parameters: tuple[tuple[str, str], ...]
    responses: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


class Told(NamedTuple):
    client: Reader
    token: str
    operations: list[Operation]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    config: Config = settings(tmp_path_factory.mktemp("openapi"))
    with console(config, randomledger.ledger(7, 60)) as client:
        document = client.get("/openapi.json").json()
        assert document["components"]["schemas"]["Error"]
        operations = [
            Operation(
                method.upper(),
                path,
                tuple((each["name"], each["in"]) for each in operation.get("parameters", [])),
                operation["responses"],
            )
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        yield Told(client, admin_token(config), operations)


def changed(draw: random.Random, body: Any) -> Any:
    """The body with one to three of its values replaced, taken away, or put in."""
    made = copy.deepcopy(body)
    for _ in range(draw.randint(1, 3)):
        place: Any = made
        while isinstance(place, dict | list) and place and draw.random() < 0.7:
            key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            if not isinstance(place[key], dict | list) or draw.random() < 0.4:
                if draw.random() < 0.2:
                    del place[key]
                else:
                    place[key] = copy.deepcopy(draw.choice(ODD))
                break
            place = place[key]
        else:
            if isinstance(place, dict):
                place[draw.choice(("x", "", "apply", "version", "__class__"))] = copy.deepcopy(draw.choice(ODD))
            elif isinstance(place, list):
                place.append(copy.deepcopy(draw.choice(ODD)))
    return made if draw.random() < 0.9 else draw.choice(ODD)


def sent(told: Told, operation: Operation, draw: random.Random, *, token: str | None) -> Response:
    """One request to the operation, near what it takes."""
    path = operation.path
    query: list[tuple[str, str]] = []
    headers: dict[str, str] = {} if token is None else {"authorization": f"Bearer {token}"}
    for name, where in operation.parameters:
        text = draw.choice(TEXTS)
        if where == "path":
            path = path.replace("{" + name + "}", quote(text or "x", safe=""))
        elif where == "query" and draw.random() < 2.5 / len(operation.parameters):
            query.append((name.replace("NAME", draw.choice(TEXTS)), text))
        elif where == "header" and draw.random() < 0.5:
            headers[name] = quote(text)
    if draw.random() < 0.1:
        query.append((draw.choice(TEXTS), draw.choice(TEXTS)))
    content: bytes | None = None
    if operation.name in BODIES:
        body = changed(draw, BODIES[operation.name]) if draw.random() < 0.85 else BODIES[operation.name]
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        if draw.random() < 0.05:
            content = draw.choice(list(JSON.values()))
        headers["content-type"] = "application/json" if draw.random() < 0.95 else "text/plain"
    elif draw.random() < 0.1:
        content, headers["content-type"] = b"{}", "application/json"
    return told.client.request(operation.method, path, params=urlencode(query), headers=headers, content=content)


def sound(operation: Operation, answer: Response) -> int:
    """What was answered is what is described. Gives the status."""
    status = answer.status_code
    assert status < 500 or (operation.path == "/readyz" and status == 503), (operation.name, answer.text[:300])
    described = operation.responses.get(str(status)) or operation.responses.get(f"{status // 100}XX")
    assert described is not None, (operation.name, status, answer.text[:300])
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert not described.get("content") or kind in described["content"], (operation.name, status, kind)
    if 400 <= status < 500:
        (error,) = answer.json().values()
        assert {"code", "message"} <= error.keys() <= {"code", "message", "fields"}
        assert all(
            isinstance(text, str) for text in (error["code"], error["message"], *error.get("fields", {}).values())
        )
        assert "Traceback" not in error["message"]
    return status


def test_whatever_is_sent_is_answered_as_it_is_described(told: Told) -> None:
    statuses = every(told, times=1)
    assert len(told.operations) > 40
    assert {200, 400, 401, 422} <= statuses.keys()


@pytest.mark.soak
def test_much_more_of_it(told: Told) -> None:
    statuses = every(told, times=60)
    total = sum(statuses.values())
    print(f"\n{total:,} requests to {len(told.operations)} operations, 0 of 5xx, 0 not as described: {dict(statuses)}")


def every(told: Told, *, times: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for number, operation in itertools.product(range(times), told.operations):
        draw = random.Random(f"{operation.name} {number}")
        if number < SLOW.get(operation.name, times):
            statuses[sound(operation, sent(told, operation, draw, token=told.token))] += 1
        if number % 4 == 0:
            stranger = draw.choice((None, "wrong", "' OR '1'='1", "x" * 5000))
            status = sound(operation, sent(told, operation, draw, token=stranger))
            assert operation.path in PUBLIC_PATHS or status in {401, 413, 429}, (operation.name, status)
            statuses[status] += 1
    return statuses


def test_every_body_that_is_taken_is_here(told: Told) -> None:
    """An operation that is added gets a sound body here, or takes none."""
    assert {each.name for each in told.operations} >= BODIES.keys()
    without = {
        each.name for each in told.operations if each.method in {"POST", "PUT", "PATCH"} and each.name not in BODIES
    }
    assert without == {
        "POST /api/v1/keys/{key_id}/revoke",
        "POST /api/v1/amortisations",
        "POST /api/v1/restatements",
        "POST /api/v1/audits",
        "POST /api/v1/peppers",
        "POST /api/v1/peppers/{version}/retire",
        "POST /api/v1/hash-keys",
        "POST /api/v1/hash-keys/{version}/retire",
    }
    for name, body in BODIES.items():
        method, _, path = name.partition(" ")
        # What these three are about is not here: a contract's file, spend of a key that nobody bears.
        if "{" not in path and "contract" not in path and "backfill" not in path:
            headers = {"authorization": f"Bearer {told.token}"}
            assert told.client.request(method, path, json=body, headers=headers).status_code < 300, name


def test_an_audit_of_anything_is_answered_as_it_is_described(told: Told) -> None:
    (operation,) = (each for each in told.operations if each.name == "POST /api/v1/audits")
    headers = {"authorization": f"Bearer {told.token}"}
    for query in ("format=excel", "name=" + "x" * 300, "keep=perhaps", "other=1"):
        assert sound(operation, told.client.post(f"/api/v1/audits?{query}", headers=headers, content=b"{}")) >= 400
    assert sound(operation, told.client.post("/api/v1/audits", headers=headers, content=b"")) == 422


def test_no_body_is_a_bomb(told: Told) -> None:
    headers = {"authorization": f"Bearer {told.token}", "content-type": "application/json"}
    for path in ("/api/v1/keys", "/api/v1/imports", "/api/v1/views/apply"):
        for data in JSON.values():
            refused(told, path, headers, data)
    for content in (TOML["nested"], TOML["key"], TOML["digits"][:500_000]):
        body = json.dumps({"content": content.decode(), "check": True}).encode()
        assert refused(told, "/api/v1/views/apply", headers, body) == 422
    packed = {**headers, "content-encoding": "gzip"}
    assert refused(told, "/api/v1/keys", packed, gzip.compress(b" " * 20_000_000)) == 400
    assert refused(told, "/api/v1/keys", headers, b" " * (1024 * 1024 + 1)) == 413
    assert told.client.get("/api/v1/keys", headers=headers).status_code == 200, "it goes on"


def refused(told: Told, path: str, headers: dict[str, str], data: bytes) -> int:
    answer = told.client.post(path, headers=headers, content=data)
    assert 400 <= answer.status_code < 500, (path, answer.status_code, data[:60])
    assert answer.json()["error"]["code"], path
    return int(answer.status_code)
