"""Message Batches as the Anthropic SDK uses them, through the gateway to the simulator, whose books are the truth."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from costbearer import money
from costbearer.config import Config
from costbearer.dialects.anthropic_batches import read_batch, read_results
from costbearer.settlements import settlement
from costbearer.simulator import RunningSimulator, running_simulator
from tests.harness import BOOK, Gateway, gateway, make_config, run
from tests.test_openai_responses_sdk import Bridge


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


@contextlib.asynccontextmanager
async def sdk(config: Config) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, Gateway]]:
    async with gateway(config) as running:
        http = httpx2.AsyncClient(transport=Bridge(running))
        async with anthropic.AsyncAnthropic(
            base_url="http://gateway", api_key=running.key, max_retries=0, http_client=http
        ) as client:
            yield client, running


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 60,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


CACHED = {"type": "text", "text": "A ledger is a proof. " * 400, "cache_control": {"type": "ephemeral", "ttl": "1h"}}


@pytest.mark.parametrize(
    "params",
    [
        [asking("One."), asking("Two. [[sim:polls=2]]"), asking("Bad.", max_tokens=0)],
        [asking("One.", system=[CACHED]), asking("Two.", system=[CACHED])],
        [asking("Bad.", max_tokens=0)],
    ],
    ids=["polled", "cached", "nothing"],
)
def test_a_batch_costs_what_its_messages_cost(
    params: list[dict[str, Any]], config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            requests: Any = [{"custom_id": f"c{number}", "params": each} for number, each in enumerate(params)]
            made = await client.messages.batches.create(requests=requests)
            while (found := await client.messages.batches.retrieve(made.id)).processing_status != "ended":
                assert found.results_url is None
            reading = read_batch(found.to_json().encode())
            assert reading.job is not None
            # The SDK follows the URL it is given: that it comes out at the gateway is what keeps the key here.
            lines = [each async for each in await client.messages.batches.results(made.id)]
            assert [each.custom_id for each in lines] == [request["custom_id"] for request in requests]
            if reading.job.state == "pending":
                assert reading.job.result_id == made.id
                done = reading.job._replace(state="done")
                reading = read_results((each.to_json(indent=None).encode() for each in lines), done)
            at = running.entries()[-1].started_at
            settled = settlement(reading, provider="anthropic", price_provider="anthropic", book=BOOK, at=at)
            assert settled is not None
            billed = money.total(money.usd(line.cost) for line in simulator.books() if line.billed)
            assert (settled.cost_usd, settled.basis, settled.tier) == (billed, "metered", "batch")
            assert (billed > 0) is (len(params) > 1)
            assert {line.saw for line in simulator.books()} == {()}

    run(body)
