"""Work that goes on after its call: asked for until it is there, and paid for once, whoever asked first."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import pytest

from costbearer import money
from costbearer.bookkeeper import Bookkeeper
from costbearer.config import Config, load
from costbearer.contract import Prices
from costbearer.dialects.registry import all_dialects
from costbearer.jobs import GONE_AFTER_S, UNREADABLE_WAIT_S, Poller
from costbearer.journal import JournalWriter, journals
from costbearer.ledger import RESULT_GONE
from costbearer.reports import spend
from costbearer.reports.beside import NOTHING
from costbearer.reports.query import Query
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from costbearer.stores.duckdb import Ledger
from costbearer.stores.own_journal import is_own
from tests.books import Books
from tests.factories import make_unknown, record
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
                assert poller.look() == 0, "told once it is not believed"
                clock.on(GONE_AFTER_S - 1)
                assert poller.look() == 0
                clock.on(601)
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


# -- against a provider that says what the test wants


class Told:
    """Providers in this process: what they answer, by the end of the path, and who was asked for what."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path.rpartition("/v1/")[2] or request.url.path)
        answer = self.answers.get(request.url.path.rpartition("/")[2], 500)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx2.Response(answer)
        status, body = answer
        return httpx2.Response(status, content=body if isinstance(body, bytes) else msgspec.json.encode(body))


Answer = Exception | int | tuple[int, Any]
OWN_404: Answer = (404, {"error": {"message": "No such response", "type": "invalid_request_error", "code": None}})


def response(name: str, status: str = "completed") -> Answer:
    usage = {"input_tokens": 1_000_000, "output_tokens": 1000, "total_tokens": 1_001_000}
    shape = {"object": "response", "created_at": 1763000000, "model": "gpt-4.1-mini", "output": [], "background": True}
    return 200, {"id": name, "status": status, "usage": usage if status == "completed" else None, **shape}


class Life:
    """Jobs that are awaited at providers of these dialects, and the poller."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch, **dialects: str) -> None:
        self.told, self.clock, self.books = Told(), Clock(), Books(data / "data")
        self.bookkeeper = self.books.open()
        self.writer = JournalWriter.open(self.books.journal_dir)
        (data / "key").write_text("sk-x")
        lines = [f'data = "{data / "data"}"']
        for name, dialect in dialects.items():
            lines += [f"[providers.{name}]", f'dialect = "{dialect}"', f'api_key_file = "{data / "key"}"']
            lines += [f'base_url = "http://{name}.invalid/v1"']
        (data / "c.toml").write_text("\n".join(lines))
        config = load(data / "c.toml", overrides={}, environ={})
        self.poller = Poller(config, self.bookkeeper, all_dialects(), lambda: Prices(BOOK), clock=self.clock)
        client = httpx2.Client(transport=httpx2.MockTransport(self.told))
        monkeypatch.setattr("costbearer.jobs.client_of", lambda _: contextlib.nullcontext(client))

    def ask(self, provider: str, *names: str, operation: str = "responses") -> None:
        for name in names:
            waiting = {"provider": provider, "operation": operation, "provider_response_id": name, "status": "ok"}
            made = make_unknown(self.writer.id, self.writer.next_sequence, reason_unknown="awaiting_result", **waiting)
            record(self.writer, made)
        self.bookkeeper.catch_up()

    def look(self, after_s: float = 0.0) -> int:
        self.clock.on(after_s)
        return self.poller.look()

    def waiting(self) -> list[str | None]:
        return [entry.provider_response_id for entry in self.bookkeeper.awaiting()]


@pytest.fixture
def openai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    life = Life(tmp_path, monkeypatch, openai="openai", second="openai", renamed="anthropic")
    yield life
    life.writer.close()
    life.books.close()


@pytest.mark.parametrize(
    "refusal", [(404, b"<html>no healthy upstream</html>"), (410, {"error": "gone"}), OWN_404, 403]
)
def test_one_refusal_ends_nothing(openai: Life, refusal: Answer) -> None:
    openai.ask("openai", "resp_1")
    openai.told.answers["resp_1"] = refusal
    assert openai.look() == 0
    openai.told.answers["resp_1"] = response("resp_1")
    assert openai.look(GONE_AFTER_S + 1) == 1
    assert money.usd("0.4") < reported_cost(openai) < money.usd("0.41")


def reported_cost(life: Life) -> Decimal:
    return money.total(totals.cost_usd for totals in life.bookkeeper.ledger.totals_by_journal().values())


def test_gone_is_believed_of_the_provider_alone_and_only_when_it_lasts(openai: Life) -> None:
    openai.ask("openai", "resp_1", "resp_2")
    openai.told.answers = {"resp_1": (404, b"<html>"), "resp_2": OWN_404}
    for _ in range(8):
        assert openai.look(GONE_AFTER_S / 10) == 0
    openai.told.answers["resp_2"] = response("resp_2", "in_progress")
    openai.look(700)
    openai.told.answers["resp_2"] = OWN_404
    for _ in range(8):
        assert openai.look(GONE_AFTER_S / 10) == 0, "it was there meanwhile"
    assert openai.look(GONE_AFTER_S) == 1
    assert openai.waiting() == ["resp_1"]


def test_what_cannot_be_asked_for_any_more_is_said_once_and_stops_nothing(
    openai: Life, caplog: pytest.LogCaptureFixture
) -> None:
    openai.ask("renamed", "resp_1")
    openai.ask("forgotten", "resp_2")
    openai.ask("openai", "resp_3")
    openai.told.answers["resp_3"] = response("resp_3")
    assert openai.look() == 1
    openai.look(10)
    assert openai.waiting() == ["resp_1", "resp_2"]
    assert caplog.text.count("provider renamed are not asked for") == 1 and "speaks anthropic" in caplog.text
    assert caplog.text.count("provider forgotten are not asked for") == 1


def test_a_silent_provider_is_asked_once_a_look_and_delays_nobody(openai: Life) -> None:
    openai.ask("openai", "resp_1", "resp_2", "resp_3")
    openai.ask("second", "resp_4", "resp_5")
    quiet = httpx2.ReadTimeout("no answer")
    openai.told.answers = {f"resp_{number}": quiet for number in range(1, 4)}
    openai.told.answers |= {name: response(name) for name in ("resp_4", "resp_5")}
    assert openai.look() == 2
    assert openai.told.asked == [f"responses/resp_{number}" for number in (1, 4, 5)]
    (own,) = [directory for directory in journals(openai.books.journal_dir) if is_own(directory)]
    assert len(list(own.glob("*.parquet"))) == 1, "what one look found is one record"
    assert openai.look(1) == 0
    openai.told.answers |= {name: response(name) for name in ("resp_1", "resp_3")}
    assert openai.look(1) == 2, "who was not asked for comes first"
    assert openai.told.asked[3:] == [f"responses/resp_{number}" for number in (2, 3, 1)]


def batch(name: str) -> Answer:
    done = {"object": "batch", "endpoint": "/v1/chat/completions", "status": "completed", "output_file_id": "content"}
    counts = {"total": 2, "completed": 2, "failed": 0}
    return 200, {"id": name, "created_at": 1763000000, "request_counts": counts, **done}


def line(number: int) -> bytes:
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    body = {"id": f"c{number}", "object": "chat.completion", "model": "gpt-4.1-mini", "choices": [], "usage": usage}
    said = {"custom_id": f"r{number}", "response": {"status_code": 200, "body": body}, "error": None}
    return msgspec.json.encode(said) + b"\n"


@pytest.mark.parametrize("wrong", [b"<html>try again</html>", b"", b'{"error":{"message":"x","type":"server_error"}}'])
def test_what_is_no_file_of_results_is_no_result(openai: Life, wrong: bytes) -> None:
    openai.ask("openai", "batch_1", operation="batches.create")
    openai.told.answers = {"batch_1": batch("batch_1"), "content": (200, wrong)}
    assert openai.look() == 0
    assert openai.look(700) == 0
    openai.told.answers["content"] = (200, line(1) + line(2))
    assert openai.look(700) == 0, "nor is it fetched again for some time"
    assert openai.look(UNREADABLE_WAIT_S) == 1
    assert reported_cost(openai) > 0 and openai.waiting() == []
