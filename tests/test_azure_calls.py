"""Azure through the gateway: deployments whose names hide their model, by their own callers and by OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from costbearer import money
from costbearer.config import Config, load
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from tests.harness import gateway, run

DATED = "?api-version=2024-10-21"
OLD = "?api-version=2024-02-01"
CHAT = "/openai/deployments/support-chat/chat/completions"
THOUGHT = "/openai/deployments/deep-thought/chat/completions"
V1 = "/openai/v1/chat/completions"
OPENAI = "/v1/chat/completions"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator(keep_bodies=True) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    (tmp_path / "provider-key").write_text(CREDENTIAL)
    file = tmp_path / "costbearer.toml"
    file.write_text(
        f"""
[providers.azure]
base_url = "{simulator.origin}"
api_key_file = "{tmp_path / "provider-key"}"
[[routes]]
model = "*"
upstreams = ["azure"]
"""
    )
    return load(file, overrides={"data": str(tmp_path / "data")}, environ={})


def ask_for(directive: str = "", *, stream: bool = False, **more: Any) -> dict[str, Any]:
    content = "Tell me about the sea and the ships on it." + (f" [[sim:{directive}]]" if directive else "")
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 400, "stream": stream, **more}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (CHAT + DATED, {}),
        (CHAT + DATED, {"model": "support-chat"}),
        (THOUGHT + DATED, {}),
        (V1, {"model": "support-chat"}),
        (OPENAI, {"model": "deep-thought"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("directive", ["", "cached=1", "chunk_bytes=7"])
def test_a_call_costs_what_azure_billed(
    path: str, named: dict[str, str], stream: bool, directive: str, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(directive, stream=stream, **named), path)
            assert wire.status == 200, wire.body
            (entry,) = running.entries()
            (line,) = simulator.books()
            assert (entry.basis, entry.cost_usd) == ("metered", line.cost)
            assert entry.request_model in {"support-chat", "deep-thought"}
            assert entry.response_model == line.model
            assert entry.provider_request_id == line.request_id
            assert entry.notes == ("region:eastus2",)

    run(body)


def test_a_caller_who_did_not_ask_sees_no_usage_chunk_but_the_filters(
    config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(stream=True), CHAT + DATED)
            assert wire.body.count(b'"prompt_filter_results"') == 1
            assert wire.body.endswith(b"data: [DONE]\n\n")
            assert b'"usage":{' not in wire.body
            assert b'"stream_options":{"include_usage":true}' in (simulator.books().lines[0].body or "").encode()

    run(body)


def test_an_old_api_version_is_not_asked_for_usage(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(stream=True), CHAT + OLD)
            assert wire.status == 200
            assert "stream_options" not in (simulator.books().lines[0].body or "")
            (entry,) = running.entries()
            assert entry.basis == "estimated"
            assert entry.cost_usd is not None and entry.cost_usd > 0

    run(body)


@pytest.mark.parametrize("stream", [False, True])
def test_what_spills_over_is_noted(stream: bool, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(ask_for(stream=stream), CHAT.replace("support", "reserved") + DATED)
            (entry,) = running.entries()
            assert entry.notes == ("region:eastus2", "deployment:support-chat", "spilled_over")
            assert entry.cost_usd == simulator.books().total()

    run(body)


def test_nothing_of_ours_reaches_azure(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            headers = [("api-key", running.key), ("x-costbearer-tags", "feature:search"), ("baggage", "feature=x")]
            tagged = ask_for(metadata={"tags": ["customer:acme"]})
            await running.ask(tagged, CHAT + DATED, headers=headers)
            (line,) = simulator.books()
            assert (line.saw, line.status) == ((), 200)
            (entry,) = running.entries()
            assert (entry.attribution["feature"].value, entry.attribution["customer"].value) == ("search", "acme")

    run(body)


@pytest.mark.parametrize("status", [404, 429, 500])
def test_refusals_are_relayed_and_cost_nothing(status: int, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(f"status={status}"), CHAT + DATED)
            assert wire.status == status
            assert {entry.cost_usd for entry in running.entries()} == {money.ZERO}

    run(body)


def test_refusals_of_ours_have_the_shape_of_openais(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            assert (await running.ask(b"{", CHAT + DATED)).error_code == "body_invalid"
            assert (await running.ask(b"{}", "/openai/deployments/x/audio/speech")).error_code == "endpoint_not_metered"
            assert running.frames() == []

    run(body)
