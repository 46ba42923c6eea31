"""Work that goes on after its call: asked for until it is there, and paid for once, whoever asked first."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.config import Config, load
from costbearer.contract import Prices
from costbearer.dialects.registry import all_dialects
from costbearer.jobs import Poller
from costbearer.ledger import RESULT_GONE
from costbearer.reports import spend
from costbearer.reports.beside import NOTHING
from costbearer.reports.query import Query
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from costbearer.stores.duckdb import Ledger
from tests.harness import BOOK, Gateway, gateway, make_config, run
from tests.proxies import ConnectProxy, listening, papers
from tests.tls import relay_to

RESPONSES = "/v1/responses"
ASKED = {"model": "gpt-5", "input": "Tell me of the sea. [[sim:polls=1 chunks=9]]", "background": True}


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def on(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@contextmanager
def polling(config: Config, clock: Clock) -> Iterator[tuple[Ledger, Bookkeeper, Poller]]:
    ledger = Ledger.open(config.ledger_file)
    try:
        bookkeeper = Bookkeeper(config.journal_dir, ledger)
        yield ledger, bookkeeper, Poller(config, bookkeeper, all_dialects(), lambda: Prices(BOOK), clock=clock)
    finally:
        ledger.close()


def books_total(simulator: RunningSimulator) -> Decimal:
    return money.total(money.usd(line.cost) for line in simulator.books() if line.billed)


def reported(ledger: Ledger) -> dict[str, Any]:
    query = Query.parse([("since", "2000-01-01"), ("until", "2100-01-01")], now=datetime.now(UTC))
    with ledger.reader() as reader:
        document: dict[str, Any] = msgspec.json.decode(spend.answer(reader, query, NOTHING).to_json())
    return document


async def asked(running: Gateway) -> str:
    wire = await running.ask(ASKED, RESPONSES)
    assert wire.status == 200
    (entry,) = running.entries()
    assert (entry.basis, entry.reason_unknown, entry.cost_usd) == ("unknown", "awaiting_result", None)
    return str(wire.json["id"])


def test_a_job_nobody_comes_back_for_is_polled_and_paid_for(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        clock = Clock()
        async with gateway(config) as running:
            await asked(running)
            with polling(config, clock) as (ledger, bookkeeper, poller):
                bookkeeper.catch_up()
                assert reported(ledger)["unknown_calls"] == 1
                assert poller.look() == 0, "it is still under way"
                assert poller.look() == 0, "its time has not come yet"
                clock.on(5)
                assert poller.look() == 1
                clock.on(5)
                assert poller.look() == 0
                found = reported(ledger)
                assert Decimal(found["total_usd"]) == books_total(simulator) > 0
                assert (found["calls"], found["unknown_calls"]) == (1, 0)
                bookkeeper.rebuild()
                assert reported(ledger) == found

    run(body)


def test_a_result_read_by_its_caller_and_polled_is_paid_for_once(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        clock = Clock()
        async with gateway(config) as running:
            job = await asked(running)
            with polling(config, clock) as (ledger, bookkeeper, poller):
                bookkeeper.catch_up()
                for _ in range(3):
                    wire = await running.ask(b"", f"{RESPONSES}/{job}", method="GET")
                    assert wire.status == 200
                bookkeeper.catch_up()
                clock.on(5)
                assert poller.look() == 0
                found = reported(ledger)
                assert Decimal(found["total_usd"]) == books_total(simulator) > 0
                assert (found["calls"], found["unknown_calls"]) == (4, 0)

    run(body)


def test_a_result_that_was_deleted_stays_unknown_and_says_why(config: Config) -> None:
    async def body() -> None:
        clock = Clock()
        async with gateway(config) as running:
            job = await asked(running)
            await running.ask(b"", f"{RESPONSES}/{job}", method="DELETE")
            with polling(config, clock) as (ledger, bookkeeper, poller):
                bookkeeper.catch_up()
                assert poller.look() == 1
                assert bookkeeper.awaiting() == []
                with ledger.reader() as reader:
                    reasons = reader.execute(reader.entries.select("reason_unknown"))["reason_unknown"].to_pylist()
                assert RESULT_GONE in reasons
                assert reported(ledger)["unknown_calls"] == 1

    run(body)


def test_a_provider_that_does_not_answer_is_asked_again_later(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        clock = Clock()
        async with gateway(config) as running:
            await asked(running)
            with polling(config, clock) as (_, bookkeeper, poller):
                bookkeeper.catch_up()
                right = poller._providers
                poller._providers = {"openai": dataclasses.replace(right["openai"], base_url="http://127.0.0.1:9/v1")}
                assert poller.look() == 0
                poller._providers = right
                clock.on(60)
                assert poller.look() == 0
                clock.on(60)
                assert poller.look() == 1

    run(body)


@pytest.mark.parametrize("by", ["http", "https"])
def test_results_are_asked_for_by_the_way_of_the_calls(by: str, tmp_path: Path, simulator: RunningSimulator) -> None:
    own = papers(tmp_path)

    async def body() -> None:
        clock, proxy = Clock(), ConnectProxy()
        relay = await asyncio.start_server(
            relay_to(urlsplit(simulator.origin).port or 0), "127.0.0.1", 0, ssl=own.server(ask_client=True)
        )
        port = relay.sockets[0].getsockname()[1]
        async with relay, listening(proxy, own.server() if by == "https" else None):
            # Only the proxy knows this name, only this authority vouches for it, and it asks who we are.
            config = make_config(tmp_path, f"https://provider.example:{port}/v1", simulator.anthropic_base_url)
            file = tmp_path / "costbearer.toml"
            lines = (
                f'proxy = "{by}://me:secret@127.0.0.1:{proxy.port}"\nca_file = "{own.authority}"\n'
                f'client_certificate = "{own.certificate}"\nclient_key = "{own.key}"\n'
            )
            file.write_text(file.read_text().replace("[providers.openai]\n", f"[providers.openai]\n{lines}"))
            config = load(file, overrides={"data": str(config.data)}, environ={})
            async with gateway(config) as running:
                await asked(running)
                with polling(config, clock) as (_, bookkeeper, poller):
                    bookkeeper.catch_up()
                    assert await asyncio.to_thread(poller.look) == 0
                    clock.on(5)
                    assert await asyncio.to_thread(poller.look) == 1
        assert len(proxy.heads) == 3, "one for the call, and one for each look"
        assert {head.split(b"\r\n")[0] for head in proxy.heads} == {
            f"CONNECT provider.example:{port} HTTP/1.1".encode()
        }
        pair = b"proxy-authorization: basic bwu6c2vjcmv0"  # me:secret
        assert all(pair in head.lower() for head in proxy.heads)
        assert CREDENTIAL.encode() not in b"".join([*proxy.heads, *proxy.received])

    run(body)
