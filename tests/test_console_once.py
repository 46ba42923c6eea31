"""A request with an Idempotency-Key: done once, answered the same ever after, and no key's text kept for it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Request
from fastapi.testclient import TestClient
from httpx2 import Response

from costbearer.config import Config, load
from costbearer.console.app import create_app
from costbearer.console.bodies import json_object
from costbearer.errors import InProgress
from costbearer.stores import secrets
from costbearer.stores.answers import WINDOW, Answer, Answers
from costbearer.stores.control import Control

GOOD = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
KEYS = "/api/v1/keys"
SLOW = "/api/v1/slow"
LARGE = "/api/v1/large"


class Slow:
    """A route that posts: it says when it has begun and waits to be let go on."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.done = threading.Event(), threading.Event(), 0
        self.fails = False

    def router(self) -> APIRouter:
        router = APIRouter()

        @router.post(SLOW)
        def slow() -> dict[str, int]:
            self.begun.set()
            assert self.go_on.wait(20)
            if self.fails:
                raise RuntimeError("a defect")
            self.done += 1
            return {"done": self.done}

        @router.post(LARGE)
        async def large(request: Request) -> dict[str, object]:
            return await json_object(request)

        return router


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; to migrate one takes longer than most tests here."""
    directory = tmp_path_factory.mktemp("empty") / "data"
    Control.open(directory / "control.sqlite").close()
    return directory


@pytest.fixture
def config(tmp_path: Path, empty: Path) -> Config:
    shutil.copytree(empty, tmp_path / "data")
    return load(overrides={"data": str(tmp_path / "data")}, environ={})


@pytest.fixture
def control(config: Config) -> Iterator[Control]:
    with Control.open(config.control_file) as store:
        yield store


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def api(config: Config, control: Control, slow: Slow) -> TestClient:
    app = create_app(config, control, routers=[slow.router()], apart=[SLOW], bodies={LARGE: 10_000_000})
    headers = {"authorization": f"Bearer {secrets.admin_token(config.data)}"}
    return TestClient(app, base_url="http://127.0.0.1:4001", headers=headers, raise_server_exceptions=False)


def send(api: TestClient, path: str, body: object, key: str = "order-1", method: str = "POST") -> Response:
    return api.request(method, path, json=body, headers={"Idempotency-Key": key})


def code_of(answer: Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


def replayed(answer: Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def acts(control: Control) -> list[str]:
    return [row.action for row in control.audit_rows()]


def trigger(config: Config, name: str, when: str) -> None:
    with sqlite3.connect(config.control_file) as connection:
        connection.execute(f"CREATE TRIGGER {name} BEFORE {when} BEGIN SELECT RAISE(ABORT, 'no'); END")
    connection.close()


def drop(config: Config, name: str) -> None:
    with sqlite3.connect(config.control_file) as connection:
        connection.execute(f"DROP TRIGGER {name}")
    connection.close()


def test_a_key_is_issued_once_and_its_text_is_shown_once(api: TestClient, control: Control, config: Config) -> None:
    first, again = send(api, KEYS, GOOD), send(api, KEYS, GOOD)
    issued, repeated = first.json(), again.json()
    text = issued.pop("key")
    assert (first.status_code, again.status_code) == (201, 201)
    assert (replayed(first), replayed(again)) == (False, True)
    assert repeated == issued, "the same but for the key"
    assert acts(control) == ["key.issue"]
    kept = b"".join(path.read_bytes() for path in config.control_file.parent.glob("control.sqlite*"))
    assert issued["key_id"].encode() in kept
    assert text.encode() not in kept and text[17:].encode() not in kept


def test_whatever_is_done_twice_is_done_once(api: TestClient, control: Control) -> None:
    key = send(api, KEYS, GOOD).json()["key_id"]
    for number, (path, body) in enumerate(
        [
            (f"{KEYS}/{key}/rotate", {"overlap": "1h"}),
            (f"{KEYS}/{key}/relabel", {"team": "ads"}),
            (f"{KEYS}/{key}/revoke", {}),
        ]
    ):
        first, again = (send(api, path, body, f"act-{number}") for _ in range(2))
        assert (first.status_code, again.status_code, replayed(again)) == (200, 200, True)
        before = first.json()
        before.pop("key", None)
        assert again.json() == before
    assert acts(control) == ["key.issue", "key.rotate", "key.relabel", "key.revoke"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (f"{KEYS}/key_zzzzzzzzzzzz/revoke", {}, 404, "not_found"),
        (KEYS, {**GOOD, "team": "n/a"}, 422, "field_missing"),
        ("/api/v1/nothing", {}, 404, "not_found"),
    ],
)
def test_a_refusal_is_an_answer_too(
    api: TestClient, control: Control, path: str, body: dict[str, str], status: int, code: str
) -> None:
    first, again = send(api, path, body), send(api, path, body)
    assert (first.status_code, code_of(first)) == (status, code)
    assert (again.status_code, again.json(), replayed(again)) == (status, first.json(), True)
    assert acts(control) == []


def test_what_was_refused_stays_refused_although_it_would_do_now(api: TestClient) -> None:
    key = api.post(KEYS, json=GOOD).json()["key_id"]
    api.post(f"{KEYS}/{key}/rotate", json={})
    path = f"{KEYS}/{key}/rotate"
    assert code_of(send(api, path, {})) == "conflict", "two secrets are alive"
    assert api.post(path, json={"overlap": "0"}).status_code == 200
    assert (code_of(send(api, path, {})), replayed(send(api, path, {}))) == ("conflict", True)


def test_the_same_key_with_another_request_is_refused(api: TestClient, control: Control) -> None:
    key = send(api, KEYS, GOOD).json()["key_id"]
    for method, path, body in (
        ("POST", KEYS, {**GOOD, "team": "ads"}),
        ("POST", f"{KEYS}?x=1", GOOD),
        ("POST", f"{KEYS}/{key}/revoke", GOOD),
        ("PUT", KEYS, GOOD),
    ):
        answer = send(api, path, body, method=method)
        assert (answer.status_code, code_of(answer)) == (409, "idempotency_key_reused"), (method, path)
    assert acts(control) == ["key.issue"]
    assert send(api, KEYS, GOOD).status_code == 201


def test_a_failure_of_ours_is_not_kept_and_leaves_nothing(api: TestClient, control: Control, config: Config) -> None:
    trigger(config, "full", "INSERT ON audit_log")
    assert send(api, KEYS, GOOD).status_code == 500
    drop(config, "full")
    assert api.get(KEYS).json()["keys"] == []
    answer = send(api, KEYS, GOOD)
    assert (answer.status_code, replayed(answer)) == (201, False)
    assert "key" in answer.json()
    assert acts(control) == ["key.issue"]


def test_what_cannot_be_kept_as_answered_does_not_happen(api: TestClient, control: Control, config: Config) -> None:
    trigger(config, "full", "UPDATE ON answered_once")
    answer = send(api, KEYS, GOOD)
    assert answer.status_code == 500 and '"key"' not in answer.text
    assert (api.get(KEYS).json()["keys"], acts(control)) == ([], [])
    drop(config, "full")
    assert send(api, KEYS, GOOD).status_code == 201


def test_of_many_at_once_one_is_done_and_all_are_answered_alike(api: TestClient, control: Control) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(api, KEYS, GOOD), range(12)))
    assert {answer.status_code for answer in answers} == {201}
    assert sum("key" in answer.json() for answer in answers) == 1
    assert len({answer.json()["key_id"] for answer in answers}) == 1
    assert acts(control) == ["key.issue"]


# -- what posts, and so is written down as begun


def test_a_second_request_is_told_that_the_first_is_not_done(api: TestClient, slow: Slow) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, api, SLOW, {})
        assert slow.begun.wait(20)
        second = send(api, SLOW, {})
        assert (second.status_code, code_of(second)) == (409, "idempotency_in_progress")
        issued = api.post(KEYS, json=GOOD)
        assert issued.status_code == 201, "keys can be changed meanwhile"
        slow.go_on.set()
        assert first.result(20).json() == {"done": 1}
    again = send(api, SLOW, {})
    assert (again.json(), replayed(again), slow.done) == ({"done": 1}, True, 1)


def test_posting_that_fails_may_be_tried_again(api: TestClient, slow: Slow) -> None:
    slow.go_on.set()
    slow.fails = True
    assert send(api, SLOW, {}).status_code == 500
    slow.fails = False
    assert (send(api, SLOW, {}).json(), slow.done) == ({"done": 1}, 1)


def test_what_another_life_began_is_begun_again(control: Control) -> None:
    died, alive = Answers(control.database), Answers(control.database)
    assert died.begin("k", "r") is None
    assert alive.begin("k", "r") is None
    with pytest.raises(InProgress):
        alive.begin("k", "r")
    alive.end("k", Answer(200, "{}"))
    assert died.begin("k", "r") == Answer(200, "{}")


# -- the header, the window, the description


def test_an_answer_is_kept_for_its_window(control: Control) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    times = [now]
    answers = Answers(control.database, lambda: times[-1])
    assert answers.begin("k", "r") is None
    answers.end("k", Answer(201, "{}"))
    times.append(now + WINDOW)
    assert answers.begin("k", "r") == Answer(201, "{}")
    times.append(now + WINDOW + timedelta(microseconds=1))
    assert answers.begin("k", "another") is None


def test_after_the_window_a_key_is_still_not_issued_twice(api: TestClient, control: Control, config: Config) -> None:
    key = send(api, KEYS, GOOD).json()["key_id"]
    with sqlite3.connect(config.control_file) as connection:
        connection.execute("DELETE FROM answered_once")
    connection.close()
    answer = send(api, KEYS, GOOD)
    assert (answer.status_code, code_of(answer)) == (409, "conflict")
    assert key in answer.text
    assert acts(control) == ["key.issue"]


@pytest.mark.parametrize("key", ["", "a" * 256, "a\tb", "\u00e9"])
def test_a_header_that_is_none_is_named(api: TestClient, control: Control, key: str) -> None:
    answer = api.post(KEYS, json=GOOD, headers=[("Idempotency-Key", key.encode("latin-1"))])  # type: ignore[arg-type]
    assert (answer.status_code, code_of(answer)) == (422, "field_missing")
    assert "Idempotency-Key" in answer.text
    twice = api.post(KEYS, json=GOOD, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert twice.status_code == 422
    assert acts(control) == []
    assert send(api, KEYS, GOOD, "a" * 255).status_code == 201


def test_nobody_without_the_token_learns_or_begins_anything(api: TestClient, control: Control, config: Config) -> None:
    send(api, KEYS, GOOD)
    stranger = TestClient(api.app, base_url="http://127.0.0.1:4001", raise_server_exceptions=False)
    assert send(stranger, KEYS, GOOD).status_code == 401
    assert send(stranger, KEYS, GOOD, "order-2").status_code == 401
    assert not replayed(send(api, KEYS, GOOD, "order-2"))


def test_a_body_that_is_not_held_takes_no_such_header(api: TestClient) -> None:
    assert code_of(send(api, LARGE, {})) == "body_invalid"
    assert api.post(LARGE, json={"a": 1}).json() == {"a": 1}


def test_reading_takes_no_notice_of_it(api: TestClient) -> None:
    assert not any(replayed(api.get(KEYS, headers={"Idempotency-Key": "x"})) for _ in range(2))


def test_the_description_has_it_wherever_it_is_taken(api: TestClient) -> None:
    paths: dict[str, dict[str, Any]] = api.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            named = [each for each in operation.get("parameters", []) if each["name"] == "Idempotency-Key"]
            taken = method != "get" and path.startswith("/api/")
            assert len(named) == (1 if taken else 0), (method, path)
            assert not taken or "409" in operation["responses"]
