"""The console's API: its guard, the shape of its errors, and every route of `/api/v1/keys`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.types import Receive, Scope, Send

from costbearer.config import Config, load
from costbearer.console.app import create_app
from costbearer.console.security import (
    ADDRESSES_MAX,
    BODY_BYTES_MAX,
    FAILURES_MAX,
    FAILURES_WINDOW_S,
    Door,
    FailureLimit,
    Guard,
)
from costbearer.errors import KeyRevoked
from costbearer.keys import parse_key
from costbearer.stores import secrets
from costbearer.stores.control import Control

GOOD = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
HOME = "http://127.0.0.1:4001"
KEYS = "/api/v1/keys"


def settings(tmp_path: Path, **overrides: str | int) -> Config:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(overrides={"data": str(tmp_path / "data"), **named}, environ={})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path)


@pytest.fixture
def control(config: Config) -> Iterator[Control]:
    with Control.open(config.control_file) as store:
        yield store


def client_of(
    config: Config, control: Control, *, token: str | None = None, home: str = HOME, **parts: Any
) -> TestClient:
    app = create_app(config, control, **parts)
    given = secrets.admin_token(config.data) if token is None else token
    headers = {"authorization": f"Bearer {given}"} if given else {}
    return TestClient(app, base_url=home, headers=headers, raise_server_exceptions=False)


@pytest.fixture
def api(config: Config, control: Control) -> TestClient:
    return client_of(config, control)


def issue(api: TestClient, **changes: object) -> dict[str, Any]:
    answer = api.post(KEYS, json={**GOOD, **changes})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def code_of(answer: Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


# -- keys


def test_a_key_is_issued_and_shown_once(api: TestClient, control: Control) -> None:
    answer = api.post(KEYS, json={**GOOD, "name": "night run", "expires": "30d", "require": ["feature"]})
    assert answer.status_code == 201
    document = answer.json()
    assert list(document)[:2] == ["key_id", "key"]
    assert {name: document[name] for name in GOOD} == GOOD
    assert (document["name"], document["require"], document["status"]) == ("night run", ["feature"], "active")
    assert document["gateway_url"] == "http://127.0.0.1:4000"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", document["expires_at"])
    assert parse_key(document["key"]).lookup_id in document["secrets"][0]["begins_with"]
    assert answer.headers["cache-control"] == "no-store"


def test_after_that_neither_key_nor_digest_is_shown_anywhere(api: TestClient, control: Control) -> None:
    document = issue(api)
    digest = control.get(document["key_id"]).secrets[0].digest
    path = f"{KEYS}/{document['key_id']}"
    answers = [
        api.get(KEYS),
        api.get(path),
        api.post(f"{path}/relabel", json={"team": "ads"}),
        api.post(f"{path}/revoke"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert document["key"][17:] not in answer.text
        assert digest.hex() not in answer.text
        assert '"key":' not in answer.text
        assert "digest" not in answer.text


def test_every_faulty_field_is_named_at_once(api: TestClient, control: Control) -> None:
    answer = api.post(KEYS, json={"owner": "", "team": "n/a", "agent": 7, "expires": "soon", "admin": True})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "field_missing"
    assert set(error["fields"]) == {"owner", "team", "agent", "workload", "expires", "admin"}
    assert error["fields"]["workload"] == "missing"
    assert control.page() == ([], None)


@pytest.mark.parametrize("label", list(GOOD))
@pytest.mark.parametrize(
    "value", [None, "", "  ", "\u200b", "n/a", "unknown", "-", "(none)", "test", 3, [], {}, "a" * 129]
)
def test_no_key_without_four_labels(api: TestClient, label: str, value: object) -> None:
    answer = api.post(KEYS, json={**GOOD, label: value})
    assert answer.status_code == 422
    assert list(answer.json()["error"]["fields"]) == [label]


def test_keys_are_listed_filtered_and_paged(api: TestClient) -> None:
    ids = [issue(api, agent=f"agent-{number}")["key_id"] for number in range(3)]
    api.post(f"{KEYS}/{ids[1]}/revoke")
    first = api.get(KEYS, params={"limit": 2}).json()
    assert [key["key_id"] for key in first["keys"]] == ids[:2]
    second = api.get(KEYS, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [key["key_id"] for key in second["keys"]] == ids[2:]
    assert second["next_cursor"] is None
    found = api.get(KEYS, params={"status": "active", "team": "search", "agent": "agent-2"}).json()["keys"]
    assert [key["key_id"] for key in found] == ids[2:]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"status": "living"}, "status"),
        ({"teem": "search"}, "teem"),
        ({"owner": "ada", "feature": "x"}, "feature"),
    ],
)
def test_a_parameter_that_is_wrong_or_unknown_is_named(api: TestClient, params: dict[str, str], named: str) -> None:
    answer = api.get(KEYS, params=params)
    assert answer.status_code in {400, 422}
    assert list(answer.json()["error"]["fields"]) == [named]


def test_a_rotation_shows_the_new_secret_and_when_the_old_one_ends(api: TestClient, control: Control) -> None:
    document = issue(api)
    answer = api.post(f"{KEYS}/{document['key_id']}/rotate", json={"overlap": "1h"})
    assert answer.status_code == 200
    rotated = answer.json()
    assert rotated["key_id"] == document["key_id"]
    assert rotated["key"] != document["key"]
    assert rotated["expires_at"] == document["expires_at"]
    assert [secret["expires_at"] for secret in rotated["secrets"]] == [rotated["previous_until"], None]
    again = api.post(f"{KEYS}/{document['key_id']}/rotate", json={})
    assert (again.status_code, code_of(again)) == (409, "conflict")


def test_a_revocation_holds_in_the_ring(api: TestClient, control: Control) -> None:
    document = issue(api)
    answer = api.post(f"{KEYS}/{document['key_id']}/revoke", json={})
    assert answer.json()["status"] == "revoked"
    assert api.post(f"{KEYS}/{document['key_id']}/revoke").json() == answer.json()
    record = control.get(document["key_id"])
    assert record.revoked_at is not None
    with pytest.raises(KeyRevoked):
        control.load_keyring().authenticate(document["key"], record.revoked_at)


def test_a_relabelling_is_dated_and_never_in_the_past(api: TestClient) -> None:
    key = issue(api)["key_id"]
    answer = api.post(f"{KEYS}/{key}/relabel", json={"team": "ads", "from": "2999-01-01"})
    assert answer.status_code == 200
    assert answer.json()["team"] == "search"
    assert [dated["team"] for dated in answer.json()["labels"]] == ["search", "ads"]
    refused = api.post(f"{KEYS}/{key}/relabel", json={"team": "maps", "from": "2020-01-01"})
    assert refused.status_code == 422
    assert list(refused.json()["error"]["fields"]) == ["from"]


def test_an_unknown_key_is_404_on_every_route(api: TestClient) -> None:
    for method, path in (("GET", ""), ("POST", "/rotate"), ("POST", "/revoke")):
        answer = api.request(method, f"{KEYS}/key_zzzzzzzzzzzz{path}")
        assert (answer.status_code, code_of(answer)) == (404, "not_found")
    assert api.post(f"{KEYS}/key_zzzzzzzzzzzz/relabel", json={"team": "ads"}).status_code == 404


def test_the_audit_log_says_who_from_where_and_in_which_request(api: TestClient, control: Control) -> None:
    answer = api.post(KEYS, json=GOOD)
    (row,) = control.audit_rows()
    assert (row.actor.who, row.actor.source) == ("administrator", "testclient")
    assert row.actor.request_id == answer.headers["x-costbearer-request-id"]


# -- bodies


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "body_invalid"),
        (b'{"owner": "\xff"}', "application/json", 400, "body_invalid"),
        (b"[]", "application/json", 400, "body_invalid"),
        (b'"text"', "application/json", 400, "body_invalid"),
        (b"owner=ada", "application/x-www-form-urlencoded", 400, "body_invalid"),
        (b'{"owner": "ada"}', "text/plain", 400, "body_invalid"),
        (b'{"owner": "ada"}', "", 400, "body_invalid"),
        (b"", "", 422, "field_missing"),
        (b"[" * 100_000, "application/json", 400, "body_invalid"),
        (b" " * (BODY_BYTES_MAX + 1), "application/json", 413, "body_too_large"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused(
    api: TestClient, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = api.post(KEYS, content=body, headers={"content-type": kind})
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(api: TestClient) -> None:
    answer = api.post(KEYS, content=iter([b" " * 65536] * 20), headers={"content-type": "application/json"})
    assert (answer.status_code, code_of(answer)) == (413, "body_too_large")


# -- the guard


def routes_of(api: TestClient) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, object]] = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.mark.parametrize("token", ["", "wrong", "cba_" + "x" * 43])
def test_every_route_needs_the_token_unless_it_is_listed(config: Config, control: Control, token: str) -> None:
    stranger = client_of(config, control, token=token)
    checked = 0
    for method, path in [
        *routes_of(stranger),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/api/v1/nothing"),
        ("PUT", KEYS),
    ]:
        if path in {"/healthz", "/readyz"}:
            continue
        answer = stranger.request(method, path.replace("{key_id}", "key_000000000001"))
        assert (answer.status_code, code_of(answer)) == (401, "unauthorized"), (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        checked += 1
    assert checked >= 10
    assert control.audit_rows() == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_what_is_public_answers_without_a_token_and_only_to_reading(
    config: Config, control: Control, path: str
) -> None:
    stranger = client_of(config, control, token="")
    assert stranger.get(path).status_code == 200
    assert stranger.post(path).status_code == 401


@pytest.mark.parametrize(
    "path", ["//healthz/../api/v1/keys", "/healthz/", "/healthz%2f..%2fapi/v1/keys", "/HEALTHZ", "/healthz;x"]
)
def test_a_path_that_only_resembles_a_public_one_is_not_public(config: Config, control: Control, path: str) -> None:
    assert client_of(config, control, token="").get(path).status_code == 401


@pytest.mark.parametrize("scheme", ["", "Basic ", "bearer", "Token "])
def test_the_token_counts_only_as_a_bearer_token(config: Config, control: Control, scheme: str) -> None:
    stranger = client_of(config, control, token="")
    token = secrets.admin_token(config.data)
    assert stranger.get(KEYS, headers={"authorization": f"{scheme}{token}"}).status_code == 401
    assert stranger.get(KEYS, headers={"authorization": f"bearer {token}"}).status_code == 200


def test_a_virtual_key_is_no_administrators_token(api: TestClient, config: Config, control: Control) -> None:
    assert client_of(config, control, token=issue(api)["key"]).get(KEYS).status_code == 401


def test_too_many_wrong_tokens_from_one_address_are_answered_429(config: Config, control: Control) -> None:
    stranger = client_of(config, control, token="wrong")
    assert [stranger.get(KEYS).status_code for _ in range(FAILURES_MAX)] == [401] * FAILURES_MAX
    answer = stranger.get(KEYS)
    assert (answer.status_code, code_of(answer)) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= FAILURES_WINDOW_S + 1
    token = secrets.admin_token(config.data)
    right = stranger.get(KEYS, headers={"authorization": f"Bearer {token}"})
    assert right.status_code == 200, "nobody on the same address can lock the administrator out"
    assert stranger.get("/healthz").status_code == 200


def test_failures_are_forgotten_after_the_window_and_other_addresses_are_not_touched() -> None:
    now = 1000.0
    limit = FailureLimit(lambda: now)
    for _ in range(FAILURES_MAX):
        assert limit.wait_s("10.0.0.1") == 0
        limit.failed("10.0.0.1")
    assert limit.wait_s("10.0.0.1") == FAILURES_WINDOW_S
    assert limit.wait_s("10.0.0.2") == 0
    now += FAILURES_WINDOW_S
    assert limit.wait_s("10.0.0.1") == 0
    limit.failed("10.0.0.1")
    assert limit.wait_s("10.0.0.1") == 0


def test_the_memory_of_failures_is_bounded() -> None:
    limit = FailureLimit(lambda: 1.0)
    for number in range(ADDRESSES_MAX + 500):
        limit.failed(f"address {number}")
    assert len(limit._counts) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:4001", True),
        ("127.0.0.1", True),
        ("127.8.8.8:9", True),
        ("localhost:4001", True),
        ("LOCALHOST", True),
        ("[::1]:4001", True),
        ("costs.example.org", True),
        ("costs.example.org:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.7:4001", False),
        ("", False),
        ("localhost/admin?x=", False),
        ("user@localhost", False),
        ("localhost:port", False),
        ("localhost:99999", False),
        ("[::1", False),
    ],
)
def test_only_hosts_that_are_ours_are_answered(tmp_path: Path, control: Control, host: str, known: bool) -> None:
    config = settings(tmp_path, console__hosts="costs.example.org, other.example.org")
    api = client_of(config, control)
    answer = api.get("/healthz", headers={"host": host})
    assert answer.status_code == (200 if known else 400)
    if not known:
        assert code_of(answer) == "header_invalid"


def test_where_every_address_is_listened_on_a_literal_address_will_do_but_a_name_will_not(
    tmp_path: Path, control: Control
) -> None:
    api = client_of(settings(tmp_path, console__host="0.0.0.0"), control)
    assert api.get("/healthz", headers={"host": "192.0.2.7:4001"}).status_code == 200
    assert api.get("/healthz", headers={"host": "rebound.example"}).status_code == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [(HOME, 200), ("http://evil.example", 400), ("null", 400), ("http://127.0.0.1:9999", 400)],
)
def test_pages_of_other_sites_are_refused(api: TestClient, origin: str, status: int) -> None:
    assert api.get(KEYS, headers={"origin": origin}).status_code == status


@pytest.mark.parametrize("name", ["host", "authorization", "origin"])
def test_a_header_that_is_sent_twice_is_refused(api: TestClient, config: Config, name: str) -> None:
    values = {"host": "127.0.0.1:4001", "authorization": f"Bearer {secrets.admin_token(config.data)}", "origin": HOME}
    answer = api.get(KEYS, headers=[*values.items(), (name, values[name])])
    assert (answer.status_code, code_of(answer)) == (400, "header_invalid")
    assert f"{name} was sent 2 times" in answer.text


@pytest.mark.parametrize("path", ["/healthz", KEYS, "/nothing"])
def test_every_answer_carries_the_security_headers(api: TestClient, path: str) -> None:
    headers = api.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-costbearer-request-id"].startswith("adm_")
    assert api.get(path).headers["x-costbearer-request-id"] != headers["x-costbearer-request-id"]


def test_websockets_are_refused(config: Config, control: Control) -> None:
    sent = []

    async def run() -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            raise AssertionError("reached")

        async def receive() -> dict[str, Any]:
            raise AssertionError("read")

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await Guard(inner, door=Door("t"))({"type": "websocket", "headers": []}, receive, send)

    import asyncio

    asyncio.run(run())
    assert sent == ["websocket.close"]


# -- the application


def test_other_parts_bring_routers_that_are_guarded_like_ours(config: Config, control: Control) -> None:
    more = APIRouter()

    @more.get("/metrics")
    def metrics() -> dict[str, int]:
        return {"calls": 1}

    @more.get("/api/v1/entries", openapi_extra={"parameters": []})
    def entries() -> dict[str, int]:
        return {"entries": 0}

    guarded = client_of(config, control, token="", routers=[more])
    assert guarded.get("/metrics").status_code == 401
    opened = client_of(config, control, token="", routers=[more], public=["/metrics"])
    assert opened.get("/metrics").json() == {"calls": 1}
    inside = client_of(config, control, routers=[more])
    assert inside.get("/metrics", params={"x": "1"}).status_code == 400
    assert inside.get("/api/v1/entries", params={"any": "1"}).status_code == 200


def test_an_unexpected_failure_shows_no_more_than_where_to_look(
    config: Config, control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    broken = APIRouter()

    @broken.get("/api/v1/broken")
    def fail() -> None:
        raise RuntimeError("the inner words")

    answer = client_of(config, control, routers=[broken]).get("/api/v1/broken")
    assert (answer.status_code, code_of(answer)) == (500, "internal")
    assert "inner" not in answer.text
    assert "Traceback" not in answer.text
    assert re.search(r"adm_[0-9a-f]{16}", answer.text)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", f"{KEYS}/", 404, "not_found"),
        ("DELETE", f"{KEYS}/key_000000000001", 405, "method_not_allowed"),
        ("TRACE", KEYS, 405, "method_not_allowed"),
    ],
)
def test_what_the_framework_refuses_has_the_same_shape(
    api: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_ready_names_what_does_not_hold(config: Config, control: Control) -> None:
    api = client_of(config, control, token="", ready=lambda: {"bookkeeper": False, "ledger": True})
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "checks": {"control": True, "bookkeeper": False, "ledger": True}}
    assert api.get("/healthz").json() == {"status": "ok"}


def test_not_ready_when_the_control_store_is_gone(config: Config, control: Control) -> None:
    api = client_of(config, control, token="")
    assert api.get("/readyz").json() == {"ready": True, "checks": {"control": True}}
    control.close()
    config.control_file.unlink()
    assert api.get("/readyz").status_code == 503


def test_the_description_names_every_route_and_asks_for_the_token(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    assert ("POST", KEYS) in routes_of(api)
    issue_route = document["paths"][KEYS]["post"]
    assert issue_route["security"] == [{"HTTPBearer": []}]
    body = issue_route["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["owner", "team", "agent", "workload"]
    assert "Idempotency-Key" in str(issue_route["parameters"])
