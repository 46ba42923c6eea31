"""Everything a caller can get wrong: each has its own clear error in its dialect, and none opens a call."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from costbearer.config import Config
from costbearer.forms import draft, rotation
from costbearer.gateway import pipeline
from costbearer.gateway.http1 import HEAD_BYTES_MAX, HEADERS_MAX
from costbearer.simulator import RunningSimulator, running_simulator
from tests.harness import ACTOR, LABELS, FakeWire, gateway, head_of, make_config, run

CHAT = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hello there, how are you today?"}],
    "max_tokens": 20,
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


HEADER_CASES: dict[str, tuple[Callable[[str], list[tuple[str, str]]], int, str]] = {
    "no key": (lambda key: [], 401, "key_missing"),
    "not bearer": (lambda key: [("authorization", f"Basic {key}")], 401, "key_missing"),
    "empty bearer": (lambda key: [("authorization", "Bearer ")], 401, "key_missing"),
    "absurdly long": (lambda key: bearer("cbk_" + "x" * 500), 401, "key_missing"),
    "another kind of key": (lambda key: bearer("sk-not-a-virtual-key-0000000000"), 401, "key_invalid"),
    "wrong checksum": (lambda key: bearer(key[:-1] + ("0" if key[-1] != "0" else "1")), 401, "key_invalid"),
    "two kinds of credential": (lambda key: [*bearer(key), ("x-api-key", key)], 400, "header_invalid"),
    "two of one kind": (lambda key: [*bearer(key), *bearer(key)], 400, "header_invalid"),
    "two hosts": (lambda key: [*bearer(key), ("host", "other")], 400, "header_invalid"),
    "two traceparents": (lambda key: [*bearer(key), ("traceparent", "a"), ("traceparent", "b")], 400, "header_invalid"),
    "too many headers": (
        lambda key: [*bearer(key), *((f"x-{n}", "v") for n in range(HEADERS_MAX))],
        431,
        "headers_too_large",
    ),
    "too large headers": (lambda key: [*bearer(key), ("x-big", "v" * HEAD_BYTES_MAX)], 431, "headers_too_large"),
    "malformed tag header": (lambda key: [*bearer(key), ("x-costbearer-tags", "no colon")], 400, "tag_malformed"),
}


@pytest.mark.parametrize("name", HEADER_CASES)
def test_headers(name: str, config: Config) -> None:
    make, status, code = HEADER_CASES[name]

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(CHAT, headers=make(running.key))
            assert (wire.status, wire.error_code) == (status, code)
            assert running.key not in wire.body.decode()
            assert wire.headers["x-costbearer-request-id"].startswith("req_")
            assert running.frames() == []

    run(body)


BODY_CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body_invalid"),
    "not JSON": (b"model=gpt-4o-mini", "body_invalid"),
    "cut off": (json.dumps(CHAT).encode()[:-5], "body_invalid"),
    "a list": (b"[1, 2]", "body_invalid"),
    "a text": (b'"hello"', "body_invalid"),
    "not UTF-8": (b'{"model": "\xff\xfe", "messages": []}', "body_invalid"),
    "no model": (json.dumps({"messages": []}).encode(), "body_invalid"),
    "model is a number": (json.dumps({**CHAT, "model": 4}).encode(), "body_invalid"),
    "model is null": (json.dumps({**CHAT, "model": None}).encode(), "body_invalid"),
    "stream is a text": (json.dumps({**CHAT, "stream": "yes"}).encode(), "body_invalid"),
    "tags are no list": (json.dumps({**CHAT, "metadata": {"tags": "feature:x"}}).encode(), "body_invalid"),
    "tags of numbers": (json.dumps({**CHAT, "metadata": {"tags": [1]}}).encode(), "body_invalid"),
    "tag without a colon": (json.dumps({**CHAT, "metadata": {"tags": ["plain"]}}).encode(), "tag_malformed"),
    "two models": (b'{"model": "gpt-4o-mini", "model": "gpt-5", "messages": []}', "body_invalid"),
    "nesting bomb": (b'{"model": "gpt-4o-mini", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body_invalid"),
    "hostile model": (json.dumps({**CHAT, "model": "x" * 10_000}).encode(), "body_invalid"),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("name", BODY_CASES)
def test_bodies(name: str, path: str, config: Config) -> None:
    data, code = BODY_CASES[name]

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(data, path)
            assert wire.error_code == code
            assert wire.status == (404 if code == "model_unknown" else 400)
            assert len(wire.json["error"]["message"]) < 400
            assert running.frames() == []

    run(body)


def test_a_compressed_body_is_refused(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            data = gzip.compress(json.dumps(CHAT).encode())
            for name, value in (("content-encoding", "gzip"), ("transfer-encoding", "gzip, chunked")):
                wire = await running.ask(data, headers=[*bearer(running.key), (name, value)])
                assert (wire.status, wire.error_code) == (400, "body_invalid")
                assert "compressed" in wire.json["error"]["message"]

    run(body)


def test_a_wrong_content_type_is_refused(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = FakeWire(b"a=b")
            headers = [("host", "h"), ("content-type", "application/x-www-form-urlencoded"), *bearer(running.key)]
            await pipeline.serve(running.worker, head_of("POST", "/v1/chat/completions", headers), wire)
            assert (wire.status, wire.error_code) == (400, "body_invalid")

    run(body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/fine_tuning/jobs"),
        ("DELETE", "/v1/chat/completions"),
        ("POST", "/v1/../v1/chat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/"),
    ],
)
def test_what_is_not_metered_is_not_passed_through(method: str, path: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(CHAT, path, method=method)
            assert (wire.status, wire.error_code) == (404, "endpoint_not_metered")

    run(body)


def test_expired_and_revoked_keys(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            past = datetime.now(UTC) - timedelta(days=100)
            issued = running.control.issue(draft(LABELS, past, 90), ACTOR)
            running.worker.keyring = running.control.load_keyring()
            wire = await running.ask(CHAT, key=issued.text)
            assert (wire.status, wire.error_code) == (401, "key_expired")

            running.control.revoke(running.control.get(running.key[:16]).key_id, ACTOR)
            running.worker.keyring = running.control.load_keyring()
            wire = await running.ask(CHAT)
            assert (wire.status, wire.error_code) == (401, "key_revoked")
            assert running.frames() == []

    run(body)


def test_a_revoked_key_stops_within_a_second(config: Config) -> None:
    import asyncio

    async def body() -> None:
        async with gateway(config) as running:
            assert (await running.ask(CHAT)).status == 200
            running.control.revoke(running.control.get(running.key[:16]).key_id, ACTOR)
            await asyncio.sleep(0.9)
            assert (await running.ask(CHAT)).error_code == "key_revoked"

    run(body)


def test_both_secrets_of_a_rotated_key_belong_to_one_key(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            key_id = running.control.get(running.key[:16]).key_id
            rotated = running.control.rotate(key_id, rotation({"overlap": "1h"}, datetime.now(UTC)), ACTOR)
            running.worker.keyring = running.control.load_keyring()
            assert (await running.ask(CHAT)).status == 200
            assert (await running.ask(CHAT, key=rotated.text)).status == 200
            assert {entry.key_id for entry in running.entries()} == {key_id}

    run(body)


def test_a_gateway_that_drains_refuses_and_says_so(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.worker.drain(0)
            wire = await running.ask(CHAT)
            assert (wire.status, wire.error_code) == (503, "shutting_down")
            assert wire.headers["retry-after"] == "1"
            ready = await running.ask(b"", "/readyz", method="GET")
            assert (ready.status, ready.json["accepting"]) == (503, False)
            alive = await running.ask(b"", "/healthz", method="GET")
            assert alive.status == 200

    run(body)


def test_required_fields_are_asked_for(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            issued = running.control.issue(draft({**LABELS, "require": ["feature"]}, datetime.now(UTC), 90), ACTOR)
            running.worker.keyring = running.control.load_keyring()
            wire = await running.ask(CHAT, key=issued.text)
            assert (wire.status, wire.error_code) == (400, "field_missing")
            wire = await running.ask({**CHAT, "metadata": {"tags": ["feature:x"]}}, key=issued.text)
            assert wire.status == 200

    run(body)


def test_a_journal_that_cannot_be_written_refuses_the_call(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from costbearer.errors import JournalFailed

    async def body() -> None:
        async with gateway(config) as running:

            def refuse(_: object) -> int:
                raise JournalFailed("no space")

            monkeypatch.setattr(running.worker.journal, "append", refuse)
            wire = await running.ask(CHAT)
            assert (wire.status, wire.error_code) == (503, "not_recording")
            monkeypatch.undo()

    run(body)


def test_anthropic_errors_have_their_shape(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(b"{", "/v1/messages", headers=[("x-api-key", running.key)])
            assert wire.json["type"] == "error"
            assert wire.json["error"]["type"] == "invalid_request_error"
            assert wire.json["error"]["code"] == "body_invalid"

    run(body)


def test_models_are_listed_in_both_shapes(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            listed = await running.ask(b"", "/v1/models", method="GET")
            assert "gpt-4o-mini" in {model["id"] for model in listed.json["data"]}
            headers = [("x-api-key", running.key), ("anthropic-version", "2023-06-01")]
            other = await running.ask(b"", "/v1/models", method="GET", headers=headers)
            assert any(model["id"].startswith("claude-sonnet") for model in other.json["data"])
            nobody = await running.ask(b"", "/v1/models", method="GET", headers=[])
            assert nobody.error_code == "key_missing"

    run(body)


def test_a_key_works_the_moment_it_is_issued(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            issued = running.control.issue(draft(LABELS | {"agent": "newcomer"}, datetime.now(UTC), 90), ACTOR)
            assert (await running.ask(CHAT, key=issued.text)).status == 200

    run(body)
