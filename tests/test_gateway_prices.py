"""What has no price is served and unknown, or refused where the key says so; new prices hold without a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from costbearer.config import Config
from costbearer.contract import Contract, Prices
from costbearer.errors import StoreFailed
from costbearer.forms import draft
from costbearer.gateway import worker as worker_module
from costbearer.simulator import RunningSimulator, running_simulator
from tests.harness import ACTOR, BOOK, LABELS, gateway, make_config, run

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello to all of you"}], "max_tokens": 20}
TERMS = b"""
[[terms]]
provider = "nobody"
model = "*"
since = 2020-01-01
prices_per_million = { input = "2", output = "4" }
"""


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    """The provider is one of which the archive knows no price."""
    made = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    unpriced = dataclasses.replace(made.providers["openai"], price_provider="nobody")
    return dataclasses.replace(made, providers={"openai": unpriced})


def test_a_call_without_a_price_is_served_and_its_cost_unknown(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(CHAT)
            (entry,) = running.entries()
            assert wire.status == 200
            assert "x-costbearer-cost-usd" not in wire.headers
            assert (entry.basis, entry.cost_usd, entry.reason_unknown) == ("unknown", None, "provider_unpriced")
            assert (entry.usage.input_tokens or 0) > 0, "what was used is kept, so that a price can be put on it later"

    run(body)


def test_a_key_that_requires_a_price_is_refused_before_anything_is_sent(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            fields = {**LABELS, "require": ["price"]}
            key = running.control.issue(draft(fields, datetime.now(UTC), 90), ACTOR).text
            wire = await running.ask(CHAT, key=key)
            assert (wire.status, wire.error_code) == (400, "price_unknown")
            assert "costbearer prices" in wire.json["error"]["message"]
            assert running.entries() == []

    run(body)


def test_a_contract_gives_the_price_that_the_archive_lacks(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            key = running.control.issue(draft({**LABELS, "require": ["price"]}, datetime.now(UTC), 90), ACTOR).text
            running.worker._load_prices = lambda: Prices(BOOK, Contract.loads(TERMS))
            running.worker._price_revision = lambda: 1
            await running.worker._refresh_prices()
            wire = await running.ask(CHAT, key=key)
            (entry,) = running.entries()
            (line,) = simulator.books()
            used = line.usage or {}
            expected = Decimal(2 * used["prompt_tokens"] + 4 * used["completion_tokens"]) / 1_000_000
            assert (entry.basis, entry.cost_usd, entry.list_cost_usd) == ("metered", expected, expected)
            assert Decimal(wire.headers["x-costbearer-cost-usd"]) == expected
            assert entry.bound_usd is not None
            assert entry.bound_usd >= expected

    run(body)


@pytest.mark.parametrize("failure", [StoreFailed("damaged"), OSError(24, "Too many open files"), MemoryError()])
@pytest.mark.parametrize("step", ["_load_prices", "_price_revision"])
def test_prices_that_cannot_be_read_leave_the_old_ones_and_are_tried_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception, step: str
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            worker, tried = running.worker, 0

            def broken() -> Prices:
                nonlocal tried
                tried += 1
                raise failure

            before = worker.prices
            with monkeypatch.context() as passing:
                passing.setattr(worker, "_price_revision", lambda: 2)
                passing.setattr(worker, step, broken)
                async with asyncio.timeout(5):
                    while tried < 3:
                        await asyncio.sleep(0.005)
                assert worker.prices is before
                assert (await running.ask(json.dumps(CHAT).encode())).status == 200
                assert caplog.text.count("the prices cannot be read") == 1
            # It has passed: the prices are taken without another change, and keys are still watched.
            worker._price_revision = lambda: 2
            keys = worker.keyring
            running.control.issue(draft(LABELS, datetime.now(UTC), 90), ACTOR)
            async with asyncio.timeout(5):
                while worker.prices is before or worker.keyring is keys:
                    await asyncio.sleep(0.005)

    with monkeypatch.context() as often:
        often.setattr(worker_module, "REVISION_INTERVAL_S", 0.01)
        often.setattr(worker_module, "PRICES_RETRY_S", 0.01)
        run(body)


def test_prices_that_cannot_be_read_are_not_read_all_the_time(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            tried = 0

            def broken() -> Prices:
                nonlocal tried
                tried += 1
                raise StoreFailed("damaged")

            running.worker._load_prices = broken
            running.worker._price_revision = lambda: 2
            for _ in range(20):
                await running.worker._refresh_prices()
            assert tried == 1

    run(body)
