"""The Responses API as the OpenAI SDK uses it, through the gateway to the simulator, whose books are the truth."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from costbearer import money
from costbearer.config import Config
from costbearer.dialects.base import Place
from costbearer.gateway import pipeline
from costbearer.ledger import AWAITING_RESULT
from costbearer.settlements import settlement
from costbearer.simulator import Line, RunningSimulator, running_simulator
from costbearer.usage import Usage
from tests.harness import BOOK, FakeWire, Gateway, gateway, head_of, make_config, run

LONG = "A ledger that cannot be recomputed is an opinion; one that can is a proof. " * 120
WEATHER: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION: dict[str, Any] = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator(keep_bodies=True) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


class Bridge(httpx2.AsyncBaseTransport):
    """The SDK's HTTP client, with the gateway's pipeline in the place of a network."""

    def __init__(self, running: Gateway) -> None:
        self._running = running

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        head = head_of(request.method, request.url.raw_path.decode(), headers)
        wire = FakeWire(body)
        await pipeline.serve(self._running.worker, head, wire)
        assert wire.status is not None
        return httpx2.Response(wire.status, headers=wire.headers, content=wire.body)


@contextlib.asynccontextmanager
async def sdk(config: Config) -> AsyncIterator[tuple[openai.AsyncOpenAI, Gateway]]:
    async with gateway(config) as running:
        http = httpx2.AsyncClient(transport=Bridge(running))
        async with openai.AsyncOpenAI(
            base_url="http://gateway/v1", api_key=running.key, max_retries=0, http_client=http
        ) as client:
            yield client, running


def billed(simulator: RunningSimulator) -> list[Line]:
    return [line for line in simulator.books() if line.billed]


def books_total(simulator: RunningSimulator) -> Decimal:
    return money.total(money.usd(line.cost) for line in billed(simulator))


def asking(text: str = "Tell me of the sea.", directive: str = "", model: str = "gpt-5", **more: Any) -> dict[str, Any]:
    return {"model": model, "input": text + (f" [[sim:{directive}]]" if directive else ""), **more}


async def answered(client: openai.AsyncOpenAI, *, stream: bool, **asked: Any) -> Any:
    """The response object, from a whole reply or from the last event of a stream."""
    if not stream:
        return await client.responses.create(**asked)
    last = None
    async for event in await client.responses.create(**asked, stream=True):
        last = event
    assert last is not None
    return last.response


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked, status",
    [
        (asking(), "completed"),
        (asking(model="gpt-4o-mini"), "completed"),
        (asking(model="gpt-5.6-sol", directive="output=37"), "completed"),
        (asking(directive="cached=3"), "completed"),
        (asking(directive="chunk_bytes=7"), "completed"),
        (asking(directive="usage_twice=1"), "completed"),
        (asking(directive="fails=1"), "failed"),
        (asking(max_output_tokens=20), "incomplete"),
        (asking(service_tier="flex"), "completed"),
        (asking(service_tier="fast"), "completed"),
        (asking(service_tier="priority", directive="tier=default"), "completed"),
        (asking(tools=[FUNCTION], tool_choice="required", directive="tool=2"), "completed"),
        (asking(tools=[{"type": "web_search"}], directive="web_search=3"), "completed"),
        (asking(tools=[{"type": "web_search"}], directive="web_search=3 no_tool_usage=1"), "completed"),
        (asking(tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}], directive="file_search=2"), "completed"),
        (asking(tools=[{"type": "image_generation"}], directive="images=2"), "completed"),
        (asking(instructions="Be brief.", store=False), "completed"),
    ],
)
def test_a_response_costs_what_the_provider_billed(
    asked: dict[str, Any], status: str, stream: bool, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            response = await answered(client, stream=stream, **asked)
            assert response.status == status
            (entry,) = running.entries()
            (line,) = billed(simulator)
            assert entry.basis == "metered"
            assert entry.cost_usd == money.usd(line.cost)
            assert (entry.operation, entry.stream, entry.tier) == ("responses", stream, response.service_tier)
            assert entry.error_code == ("server_error" if status == "failed" else None)
            assert entry.response_model == line.model
            assert entry.provider_response_id == line.response_id == response.id
            assert entry.provider_request_id == line.request_id
            drawn = response.tool_usage.image_gen.input_tokens if response.tool_usage else 0
            assert entry.usage.input_tokens == response.usage.input_tokens + drawn
            assert entry.usage.reasoning_output_tokens == response.usage.output_tokens_details.reasoning_tokens

    run(body)


@pytest.mark.parametrize("stream", [False, True])
def test_caches_and_conversations(stream: bool, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            first = await answered(client, stream=stream, **asking(LONG, model="gpt-5.6-sol"))
            assert first.usage.input_tokens_details.cache_write_tokens > 1024
            then = asking("Go on.", model="gpt-5.6-sol", previous_response_id=first.id)
            second = await answered(client, stream=stream, **then)
            assert second.usage.input_tokens_details.cached_tokens > 1024
            entries = running.entries()
            assert [entry.basis for entry in entries] == ["metered", "metered"]
            assert running.total() == books_total(simulator)
            assert entries[1].usage.cache_read_input_tokens == second.usage.input_tokens_details.cached_tokens
            assert entries[1].bound_usd is not None
            assert entries[1].cost_usd is not None and entries[1].bound_usd >= entries[1].cost_usd

    run(body)


def test_nothing_of_ours_reaches_the_provider(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            metadata: Any = {"tags": ["feature:search"], "kept": "yes"}
            baggage = {"baggage": "customer_id=acme", "x-costbearer-tags": "env:test"}
            await client.responses.create(**asking(metadata=metadata), extra_headers=baggage)
            (entry,) = running.entries()
            (line,) = simulator.books()
            assert (entry.feature, line.saw) == ("search", ())
            assert line.body is not None
            assert json.loads(line.body)["metadata"] == {"kept": "yes"}

    run(body)


@pytest.mark.parametrize("asked_for", ["retrieve", "stream", "input_items", "delete", "input_tokens"])
def test_what_is_free_is_an_entry_of_no_cost(asked_for: str, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            response = await client.responses.create(**asking())
            if asked_for == "retrieve":
                found = await client.responses.retrieve(response.id, include=["message.output_text.logprobs"])
                assert found.output_text == response.output_text
            elif asked_for == "stream":
                events = [
                    event async for event in await client.responses.retrieve(response.id, stream=True, starting_after=4)
                ]
                assert events[0].sequence_number == 5
                assert events[-1].type == "response.completed"
            elif asked_for == "input_items":
                page = await client.responses.input_items.list(response.id, limit=5)
                assert [item.type for item in page.data] == ["message"]
            elif asked_for == "delete":
                await client.responses.delete(response.id)
            else:
                counted = await client.responses.input_tokens.count(model="gpt-5", input="Tell me of the sea.")
                assert counted.input_tokens > 0
            paid, free = running.entries()
            assert paid.cost_usd == books_total(simulator) > 0
            assert (free.cost_usd, free.basis, free.status) == (money.ZERO, "metered", "ok")
            assert free.operation == f"responses.{'retrieve' if asked_for == 'stream' else asked_for}"

    run(body)


def test_a_compaction_is_paid_for(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            compacted = await client.responses.compact(model="gpt-5", input=LONG)
            assert compacted.object == "response.compaction"
            (entry,) = running.entries()
            assert (entry.operation, entry.basis) == ("responses.compact", "metered")
            assert entry.cost_usd == books_total(simulator) > 0
            assert entry.usage.input_tokens == compacted.usage.input_tokens

    run(body)


def settled_cost(running: Gateway, response: Any) -> Decimal | None:
    """What the job's result makes of the entry that awaits it, as the operations read it from the same reply."""
    entry = running.entries()[0]
    assert (entry.basis, entry.cost_usd, entry.reason_unknown) == ("unknown", None, AWAITING_RESULT)
    operation = running.worker.dialects["openai"].operations["responses.retrieve"]
    request = operation.read(b"", Place("GET", params={"id": response.id}))
    reading = operation.whole(request, response.model_dump_json().encode())
    found = settlement(reading, provider="openai", price_provider="openai", book=BOOK, at=entry.started_at)
    assert found is not None
    assert found.provider_response_id == entry.provider_response_id
    return found.cost_usd


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_in_the_background_is_paid_for_once(
    stream: bool, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            asked = asking(directive="polls=1 chunks=9", background=True)
            response = await client.responses.create(**asked)
            assert (response.status, response.usage) == ("queued", None)
            assert (await client.responses.retrieve(response.id)).status == "in_progress"
            if stream:
                events = [event async for event in await client.responses.retrieve(response.id, stream=True)]
                assert events[-1].type == "response.completed"
            done = await client.responses.retrieve(response.id)
            assert done.status == "completed"
            assert settled_cost(running, done) == books_total(simulator)
            later = running.entries()[1:]
            assert [entry.cost_usd for entry in later] == [money.ZERO] * (3 if stream else 2)
            assert {entry.usage for entry in later} == {Usage()}, "tokens count where they are paid for"

    run(body)


def test_a_stream_in_the_background_that_is_cut_is_not_estimated(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            asked = asking(directive="chunks=9", background=True, stream=True)
            wire = await running.ask(
                {**asked, "input": asked["input"].replace("chunks", "close_after=900 chunks")}, "/v1/responses"
            )
            assert b"response.completed" not in wire.body
            (entry,) = running.entries()
            assert (entry.basis, entry.cost_usd, entry.reason_unknown) == ("unknown", None, AWAITING_RESULT)
            assert entry.provider_response_id == billed(simulator)[0].response_id

    run(body)


def test_a_stream_in_the_foreground_that_is_cut_is_estimated(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(asking(directive="chunks=20 close_after=3000", stream=True), "/v1/responses")
            (entry,) = running.entries()
            assert (entry.basis, entry.status) == ("estimated", "error")
            assert entry.cost_usd is not None and entry.cost_usd > 0

    run(body)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_provider_is_the_callers(stream: bool, config: Config) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            with pytest.raises(openai.BadRequestError, match="Previous response"):
                await client.responses.create(**asking(previous_response_id="resp_none"), stream=stream)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve("resp_none")
            assert [entry.cost_usd for entry in running.entries()] == [money.ZERO, money.ZERO]

    run(body)


def test_the_outcome_is_written_before_the_last_event_leaves(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            seen: list[int] = []
            data = json.dumps(asking(stream=True)).encode()
            wire = FakeWire(data)
            wire.on_send = lambda piece: seen.append(len(running.frames())) if b"response.completed" in piece else None
            await running.ask(data, "/v1/responses", wire=wire)
            assert seen == [2], "intent and outcome stand when the end leaves"

    run(body)
