"""The console's API under `/api/v1/prices`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from costbearer.config import load
from costbearer.console.api_prices import prices_router
from costbearer.console.app import create_app
from costbearer.price_desk import Desk, packed
from costbearer.stores import archive, secrets
from costbearer.stores.control import Control

PRICES = "/api/v1/prices"
BUNDLED = hashlib.sha256(archive.bundled()).hexdigest()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    config = load(overrides={"data": str(tmp_path / "data")}, environ={})
    with Control.open(config.control_file) as control:
        app = create_app(config, control, routers=[prices_router(Desk(config.prices_dir, acts=control.database))])
        headers = {"authorization": f"Bearer {secrets.admin_token(config.data)}"}
        yield TestClient(app, base_url="http://127.0.0.1:4001", headers=headers, raise_server_exceptions=False)


def test_list_and_show(api: TestClient) -> None:
    found = api.get(PRICES, params={"provider": "openai", "model": "gpt-4o", "at": "2026-11-01"}).json()
    assert (found["at"], found["archive"]) == ("2026-11-01T00:00:00+00:00", BUNDLED)
    assert [row["model"] for row in found["prices"]] == ["gpt-4o"]
    shown = api.get(f"{PRICES}/models/gpt-4o", params={"provider": "azure"}).json()
    assert shown["cards"][0]["card"].startswith("azure/gpt-4o/standard/")
    nested = api.get(f"{PRICES}/models/perplexity%2Fsonar", params={"provider": "perplexity"}).json()
    assert nested["model"] == "perplexity/sonar"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "?provider=nobody", None, 404, "not_found"),
        ("GET", "?at=soon", None, 400, "query_invalid"),
        ("GET", "?modell=x", None, 400, "query_invalid"),
        ("GET", "/models/gpt-99", None, 404, "not_found"),
        ("GET", "/archives/abc", None, 404, "not_found"),
        ("GET", "/diff", None, 400, "query_invalid"),
        ("GET", "/diff?old=ffffff", None, 404, "not_found"),
        ("POST", "/update", {"content": 5}, 422, "field_missing"),
        ("POST", "/update", {"check": "yes"}, 422, "field_missing"),
        ("POST", "/update", {"contents": "x"}, 422, "field_missing"),
        ("POST", "/update", {"content": "x"}, 422, "prices_invalid"),
        ("POST", "/update", {"content": packed(b"{}")}, 422, "prices_invalid"),
        ("PUT", "/contract", {}, 422, "field_missing"),
        ("PUT", "/contract", {"content": packed(b"[[terms]]")}, 422, "prices_invalid"),
        ("POST", "/contract/terms", {"provider": "x"}, 422, "prices_invalid"),
    ],
)
def test_refusals(api: TestClient, method: str, path: str, body: Any, status: int, code: str) -> None:
    answer = api.request(method, PRICES + path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert api.get(f"{PRICES}/archives").json()["held"] == []


def test_without_the_token_there_is_nothing(api: TestClient) -> None:
    for method, path in (("GET", ""), ("POST", "/update"), ("PUT", "/contract"), ("POST", "/contract/terms")):
        assert api.request(method, PRICES + path, headers={"authorization": "Bearer wrong"}).status_code == 401


def test_terms_contracts_and_archives_change_what_holds(api: TestClient) -> None:
    made = api.post(f"{PRICES}/contract/terms", json={"provider": "openai", "model": "gpt-4o", "discount": "10"})
    assert (made.status_code, made.json()["terms"][0]["discount"]) == (201, "10")
    (row,) = api.get(PRICES, params={"provider": "openai", "model": "gpt-4o"}).json()["prices"]
    assert {price["meter"]: price["contract_usd"] for price in row["prices"]}["input"] == "0.000002250000"
    assert 'discount = "10"' in api.get(f"{PRICES}/contract").json()["content"]
    assert api.put(f"{PRICES}/contract", json={"content": packed(b"")}).json()["terms"] == []
    newer = archive.bundled().replace(b'"as_of":"2026', b'"as_of":"2027')
    checked = api.post(f"{PRICES}/update", json={"content": packed(newer), "check": True}).json()
    assert (checked["taken"], checked["to"]) == (False, hashlib.sha256(newer).hexdigest())
    assert api.post(f"{PRICES}/update", json={"content": packed(newer)}).json()["taken"]
    assert api.get(f"{PRICES}/archives/current").content == newer
    assert api.get(f"{PRICES}/archives/bundled").headers["content-type"] == "application/json"
    diff = api.get(f"{PRICES}/diff", params={"old": "current", "new": "bundled"}).json()
    assert (diff["findings"], diff["changes"][0]["code"]) == (1, "moved_backwards")
    held = api.get(f"{PRICES}/archives").json()["held"]
    assert [row["revision"] for row in held] == [3, 2, 1]
    assert {row["by"] for row in held} == {"administrator"}


def test_the_description_lists_every_route(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert {path.removeprefix(PRICES) for path in paths if path.startswith(PRICES)} == {
        "",
        "/archives",
        "/archives/{reference}",
        "/diff",
        "/update",
        "/contract",
        "/contract/terms",
        "/models/{model}",
    }
