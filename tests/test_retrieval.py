"""Asking a provider for stored objects: what is read, how much of it, and how long it may take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from costbearer import retrieval
from costbearer.config import Provider, load
from costbearer.dialects.base import Reading
from costbearer.dialects.registry import all_dialects
from costbearer.retrieval import LOOK_S, RESULTS_S, Nothing, Retrieval


class Seconds:
    """A clock that stands unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Handler = Callable[[httpx2.Request], httpx2.Response]


def provider_of(tmp_path: Path, dialect: str) -> Provider:
    (tmp_path / "key").write_text("sk-x")
    (tmp_path / "c.toml").write_text(
        f'data = "{tmp_path / "data"}"\n[providers.main]\ndialect = "{dialect}"\n'
        f'base_url = "http://main.invalid/v1"\napi_key_file = "{tmp_path / "key"}"\n'
    )
    return load(tmp_path / "c.toml", overrides={}, environ={}).providers["main"]


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def opened(tmp_path: Path, clock: Seconds) -> Callable[..., Retrieval]:
    def opened(answer: Handler | httpx2.Response, dialect: str = "openai") -> Retrieval:
        handler = (lambda _: answer) if isinstance(answer, httpx2.Response) else answer
        client = httpx2.Client(transport=httpx2.MockTransport(handler))
        return Retrieval(provider_of(tmp_path, dialect), all_dialects()[dialect], "sk-x", client, clock=clock)

    return opened


def line(number: int, text: str = "x") -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    body = {"object": "chat.completion", "model": "gpt-4.1-mini", "choices": choices, "usage": usage}
    said = {"custom_id": f"r{number}", "response": {"status_code": 200, "body": body}, "error": None}
    return msgspec.json.encode(said) + b"\n"


def input_tokens(reading: Reading | Nothing) -> int | None:
    assert isinstance(reading, Reading)
    return sum(work.usage.input_tokens or 0 for work in reading.work)


def test_a_file_of_results_is_read_as_it_comes(opened: Callable[..., Retrieval]) -> None:
    count, text = 3000, "x" * 8000

    def lines() -> Iterator[bytes]:
        for number in range(count):
            yield line(number, text)

    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, content=lines())

    told = opened(answer)
    tracemalloc.start()
    try:
        reading = told.results("files.content", "file-1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(reading, Reading) and reading.job is not None
    assert input_tokens(reading) == 5 * count
    assert peak < 2_000_000, "24 MB have passed"
    (request,) = asked
    assert request.url.path == "/v1/files/file-1/content"
    assert (request.headers["authorization"], request.headers["accept-encoding"]) == ("Bearer sk-x", "identity")


def test_a_file_that_breaks_off_is_no_result(opened: Callable[..., Retrieval]) -> None:
    def lines() -> Iterator[bytes]:
        yield line(1)
        raise httpx2.RemoteProtocolError("it broke off")

    told = opened(httpx2.Response(200, content=lines()))
    assert told.results("files.content", "file-1") is Nothing.SILENT
    assert told.over


@pytest.mark.parametrize(
    ("limit", "seconds", "whole"), [(3, 0.0, True), (2, 0.0, False), (3, RESULTS_S, True), (3, RESULTS_S + 1, False)]
)
def test_a_file_has_limits_of_its_own(
    opened: Callable[..., Retrieval],
    clock: Seconds,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    seconds: float,
    whole: bool,
) -> None:
    monkeypatch.setattr(retrieval, "RESULTS_BYTES_MAX", limit * len(line(1)))
    passed: list[int] = []

    def lines() -> Iterator[bytes]:
        for number in range(3):
            clock.now += seconds / 3
            passed.append(number)
            yield line(number)

    told = opened(httpx2.Response(200, content=lines()))
    reading = told.results("files.content", "file-1")
    assert (input_tokens(reading) == 15) if whole else (reading is Nothing.UNREADABLE)
    assert len(passed) == 3
    assert told.over == (seconds > 0), "whoever took so long is asked no more now"


def test_an_object_that_drips_is_left(opened: Callable[..., Retrieval], clock: Seconds) -> None:
    def drops() -> Iterator[bytes]:
        while True:
            clock.now += 1
            yield b" "

    told = opened(httpx2.Response(200, content=drops()))
    assert told.object("responses.retrieve", "resp_1") is Nothing.SILENT
    assert told.over and clock.now <= LOOK_S + 1


def test_an_object_without_end_is_left(opened: Callable[..., Retrieval], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "OBJECT_BYTES_MAX", 1000)

    def blanks() -> Iterator[bytes]:
        while True:
            yield b" " * 100

    told = opened(httpx2.Response(200, content=blanks()))
    assert told.object("responses.retrieve", "resp_1") is Nothing.UNREADABLE
    assert not told.over


def test_the_time_of_a_look_is_one_for_all_questions(opened: Callable[..., Retrieval], clock: Seconds) -> None:
    left: list[float] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        left.append(request.extensions["timeout"]["read"])
        clock.now += LOOK_S / 2
        return httpx2.Response(500)

    told = opened(answer)
    while not told.over:
        assert told.object("responses.retrieve", "resp_1") is Nothing.REFUSED
    assert left == [LOOK_S, LOOK_S / 2]


OPENAI: dict[str, Any] = {"error": {"message": "none", "type": "invalid_request_error", "param": "id", "code": None}}
ANTHROPIC: dict[str, Any] = {"type": "error", "error": {"type": "not_found_error", "message": "none"}}
GEMINI: dict[str, Any] = {"error": {"code": 404, "message": "none", "status": "NOT_FOUND"}}


@pytest.mark.parametrize(
    ("dialect", "name", "status", "body", "told"),
    [
        ("openai", "responses.retrieve", 404, OPENAI, Nothing.GONE),
        ("openai", "responses.retrieve", 410, OPENAI, Nothing.GONE),
        ("openai", "batches.retrieve", 404, OPENAI, Nothing.GONE),
        ("openai", "files.content", 404, OPENAI, Nothing.GONE),
        ("anthropic", "messages.batches.retrieve", 404, ANTHROPIC, Nothing.GONE),
        ("anthropic", "messages.batches.results", 404, ANTHROPIC, Nothing.GONE),
        ("gemini", "interactions.retrieve", 404, GEMINI, Nothing.GONE),
        ("openai", "responses.retrieve", 400, OPENAI, Nothing.REFUSED),
        ("openai", "responses.retrieve", 503, OPENAI, Nothing.REFUSED),
        ("openai", "responses.retrieve", 404, b"<html>no healthy upstream</html>", Nothing.REFUSED),
        ("openai", "responses.retrieve", 404, b"", Nothing.REFUSED),
        ("openai", "responses.retrieve", 404, {"error": "not found"}, Nothing.REFUSED),
        ("openai", "responses.retrieve", 404, {"detail": "Not Found"}, Nothing.REFUSED),
        ("openai", "responses.retrieve", 302, b"", Nothing.REFUSED),
        ("anthropic", "messages.batches.retrieve", 404, b"404 page not found", Nothing.REFUSED),
    ],
)
def test_only_the_provider_itself_says_that_there_is_none(
    opened: Callable[..., Retrieval], dialect: str, name: str, status: int, body: Any, told: Nothing
) -> None:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    kind = "text/html" if isinstance(body, bytes) else "application/json"
    asking = opened(httpx2.Response(status, content=content, headers={"content-type": kind}), dialect)
    said = asking.results(name, "x") if name.endswith(("content", "results")) else asking.object(name, "x")
    assert said is told
