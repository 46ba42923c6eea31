"""Which upstream is asked after which, how long is waited in between, and what the caller and the books are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from costbearer import money
from costbearer.config import Config, load
from costbearer.errors import JournalFailed
from costbearer.forms import draft
from costbearer.frames import Outcome
from costbearer.ledger import Entry
from tests.harness import ACTOR, LABELS, gateway, now, run
from tests.test_gateway_wire import Provider, Script, always, asked, config_for, provider, reply

NOBODY = "http://127.0.0.1:9/v1"
LIMITED = b'{"error":{"message":"rate limit","type":"requests","code":"rate_limit_exceeded"}}'


def limited(retry_after: str = "0") -> bytes:
    return reply(429, LIMITED, f"retry-after: {retry_after}", "x-request-id: req_1")


def route(*upstreams: str) -> str:
    listed = ", ".join(f'"{upstream}"' for upstream in upstreams)
    return f'[[routes]]\nmodel = "gpt-4o-mini"\nupstreams = [{listed}]\n'


def two(directory: Path, first: str, second: str, **settings: Any) -> Config:
    """A route over two providers of OpenAI's dialect."""
    (directory / "key").write_text("sk-x")
    file = directory / "two.toml"
    file.write_text(
        "".join(
            f'[providers.{name}]\ndialect = "openai"\nbase_url = "{url}"\napi_key_file = "{directory / "key"}"\n'
            for name, url in (("one", first), ("two", second))
        )
        + route("one/gpt-4o-mini", "two/gpt-4o-mini")
    )
    return load(file, overrides={"data": str(directory / "data"), **settings}, environ={})


def told(entry: Entry) -> tuple[str | None, int, str | None, int]:
    return entry.provider, entry.attempt, entry.reason, entry.requests


def test_a_fallback_that_cannot_be_asked_hides_no_answer(tmp_path: Path) -> None:
    routes = route("openai/gpt-4o-mini", "anthropic/claude-sonnet-4-6")

    async def body() -> None:
        async with (
            provider(always(limited())) as made,
            gateway(config_for(tmp_path, made.url, routes=routes)) as running,
        ):
            wire = await running.ask(asked(n=2))
            assert (wire.status, wire.body, wire.headers["retry-after"]) == (429, LIMITED, "0")
            assert len(made.requests) == 2

    run(body)


def test_a_fallback_without_a_price_hides_no_answer(tmp_path: Path) -> None:
    routes = route("openai/gpt-4o-mini", "openai/gpt-nobody-priced")

    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 0}
        async with (
            provider(always(limited())) as made,
            gateway(config_for(tmp_path, made.url, routes=routes, **settings)) as running,
        ):
            strict = running.control.issue(draft({**LABELS, "require": ["price"]}, now(), 90), ACTOR).text
            wire = await running.ask(asked(), key=strict)
            assert (wire.status, wire.body) == (429, LIMITED)
            assert [told(entry) for entry in running.entries()] == [("openai", 1, None, 1)]

    run(body)


def test_a_fallback_that_cannot_be_reached_hides_no_answer(tmp_path: Path) -> None:
    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 0}
        async with (
            provider(always(limited("30"))) as made,
            gateway(two(tmp_path, made.url, NOBODY, **settings)) as running,
        ):
            wire = await running.ask(asked())
            assert (wire.status, wire.headers["retry-after"]) == (429, "30")
            assert [told(entry) for entry in running.entries()] == [("one", 1, None, 1), ("two", 2, "fallback", 0)]

    run(body)


def test_who_could_be_asked_and_was_not_reached_is_the_failure(tmp_path: Path) -> None:
    routes = route("anthropic/claude-sonnet-4-6", "openai/gpt-4o-mini")

    async def body() -> None:
        async with gateway(config_for(tmp_path, NOBODY, routes=routes)) as running:
            wire = await running.ask(asked(n=2))
            assert (wire.status, wire.error_code) == (502, "upstream_failed")

    run(body)


@pytest.mark.parametrize("stated", ["30", "1.5"])
def test_a_fallback_is_asked_at_once(stated: str, tmp_path: Path) -> None:
    """However long the first provider asks to be left alone: that is nothing to the second."""

    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 1 if stated == "30" else 0}
        async with (
            provider(always(limited(stated))) as first,
            provider(always(reply())) as second,
            gateway(two(tmp_path, first.url, second.url, **settings)) as running,
        ):
            began = time.monotonic()
            wire = await running.ask(asked())
            assert time.monotonic() - began < 1.2
            assert wire.status == 200
            assert (len(first.requests), len(second.requests)) == (1, 1)
            assert running.entries()[0].cost_usd == money.ZERO

    run(body)


def test_a_long_retry_after_of_the_last_goes_to_the_caller(tmp_path: Path) -> None:
    async def body() -> None:
        async with (
            provider(always(limited("30"))) as first,
            provider(always(limited("40"))) as second,
            gateway(two(tmp_path, first.url, second.url)) as running,
        ):
            wire = await running.ask(asked())
            assert (wire.status, wire.headers["retry-after"]) == (429, "40")
            assert (len(first.requests), len(second.requests)) == (1, 1)

    run(body)


def test_a_request_counts_once_whichever_upstream_is_the_first_that_can_be_asked(tmp_path: Path) -> None:
    routes = route("anthropic/claude-sonnet-4-6", "openai/gpt-4o-mini")
    answers: Iterator[bytes] = iter([reply(), limited(), reply()])

    async def script(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(next(answers))
        return True

    async def body() -> None:
        async with provider(script) as made, gateway(config_for(tmp_path, made.url, routes=routes)) as running:
            for _ in range(2):
                assert (await running.ask(asked(n=2))).status == 200
            first, second, again = running.entries()
            assert told(first) == told(second) == ("openai", 1, None, 1)
            assert told(again) == ("openai", 2, "retry", 0)
            assert again.call_id == f"{again.request_id}.2"

    run(body)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_the_body_of_a_refusal_holds_up_no_retry(size: int, tmp_path: Path) -> None:
    answers: Iterator[Script] = iter([])

    async def endless(_: Provider, writer: asyncio.StreamWriter) -> bool:
        head = b"HTTP/1.1 503 X\r\ncontent-type: application/json\r\ncontent-length: 9000000\r\nretry-after: 0\r\n\r\n{"
        writer.write(head + b"x" * size)
        await asyncio.sleep(30)
        return False

    async def script(made: Provider, writer: asyncio.StreamWriter) -> bool:
        return await next(answers)(made, writer)

    async def body() -> None:
        nonlocal answers
        answers = iter([endless, always(reply())])
        async with provider(script) as made, gateway(config_for(tmp_path, made.url)) as running:
            began = time.monotonic()
            assert (await running.ask(asked())).status == 200
            assert time.monotonic() - began < (3 if size == 0 else 0.9)
            assert made.connections == 2
            assert [entry.http_status for entry in running.entries()] == [503, 200]

    run(body)


def test_an_outcome_that_is_refused_leaves_no_call_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 0}
        async with gateway(config_for(tmp_path, NOBODY, **settings)) as running:
            worker = running.worker
            plain = worker.journal.append

            def full(frame: Any) -> int:
                if isinstance(frame, Outcome):
                    raise JournalFailed("no space left")
                return plain(frame)

            monkeypatch.setattr(worker.journal, "append", full)
            assert (await running.ask(asked())).error_code == "not_recording"
            assert not worker.live
            monkeypatch.undo()

    run(body)


def test_a_connection_that_outlives_the_drain_finds_its_call_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with gateway(config_for(tmp_path, NOBODY)) as running:
            pool = running.worker.pools["openai"]
            dialling = asyncio.Event()

            async def dial(_: object) -> None:
                await dialling.wait()
                raise ConnectionRefusedError

            monkeypatch.setattr(pool._dialler, "dial", dial)
            asking = asyncio.create_task(running.ask(asked()))
            await asyncio.sleep(0.05)
            monkeypatch.setattr("costbearer.gateway.worker.STOP_TIMEOUT_S", 0.0)
            await running.worker.drain(0)
            await running.worker.close()
            dialling.set()
            wire = await asking
            assert (wire.status, wire.error_code) == (503, "shutting_down")
            (entry,) = running.entries()
            assert (entry.cost_usd, entry.error_code) == (money.ZERO, "gateway_stopped")

            async def closed_already() -> None:
                pass

            monkeypatch.setattr(running.worker, "close", closed_already)

    run(body)
