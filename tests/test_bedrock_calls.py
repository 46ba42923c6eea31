"""Bedrock through the gateway: what the simulated AWS billed is what the ledger says, by every action and key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer

from costbearer import money
from costbearer.config import Config, load
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from costbearer.simulator.sigv4 import ACCESS_KEY
from tests.harness import FakeWire, Gateway, gateway, run

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
HAIKU = "global.anthropic.claude-haiku-4-5-20251001-v1:0"
NOVA = "us.amazon.nova-lite-v1:0"
TITAN = "amazon.titan-embed-text-v2:0"
PROFILE = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}"
SCHEMA = {"type": "object", "properties": {"port": {"type": "string"}}}
KEYS = [CREDENTIAL, f"{ACCESS_KEY}:{CREDENTIAL}", f"{ACCESS_KEY}:{CREDENTIAL}:a/session+token=="]


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator(keep_bodies=True) as running:
        yield running


def config_for(directory: Path, simulator: RunningSimulator, credential: str = CREDENTIAL) -> Config:
    (directory / "provider-key").write_text(credential)
    file = directory / "costbearer.toml"
    file.write_text(
        f"""
[providers.aws]
like = "bedrock"
base_url = "{simulator.origin}"
api_key_file = "{directory / "provider-key"}"
"""
    )
    return load(file, overrides={"data": str(directory / "data")}, environ={})


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return config_for(tmp_path, simulator)


def said(directive: str) -> str:
    return "Tell me about the sea and the ships on it." + (f" [[sim:{directive}]]" if directive else "")


def converse(directive: str = "", **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"text": said(directive)}]}],
        "inferenceConfig": {"maxTokens": 200},
        **more,
    }
    if "tool" in directive:
        asked["toolConfig"] = {"tools": [{"toolSpec": {"name": "find_ship", "inputSchema": {"json": SCHEMA}}}]}
    return asked


def invoke(directive: str = "", **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "anthropic_version": "bedrock-2023-05-31",
        "messages": [{"role": "user", "content": said(directive)}],
        "max_tokens": 200,
        **more,
    }
    if "tool" in directive:
        asked["tools"] = [{"name": "find_ship", "input_schema": SCHEMA}]
    return asked


def nova(directive: str = "") -> dict[str, Any]:
    return {"schemaVersion": "messages-v1", **converse(directive)}


ASKED: list[tuple[str, str, Any]] = [
    ("converse", SONNET, converse),
    ("converse", NOVA, converse),
    ("converse", PROFILE, converse),
    ("converse-stream", SONNET, converse),
    ("converse-stream", HAIKU, converse),
    ("invoke", HAIKU, invoke),
    ("invoke", NOVA, nova),
    ("invoke-with-response-stream", SONNET, invoke),
    ("invoke-with-response-stream", NOVA, nova),
]
EVERY = pytest.mark.parametrize(("action", "model", "body"), ASKED, ids=lambda value: getattr(value, "__name__", value))
STREAMS = pytest.mark.parametrize(
    ("action", "model", "body"),
    [asked for asked in ASKED if asked[0].endswith("stream")],
    ids=lambda value: getattr(value, "__name__", value),
)


async def ask(running: Gateway, action: str, model: str, body: dict[str, Any], **options: Any) -> FakeWire:
    return await running.ask(body, f"/model/{model}/{action}", **options)


def events(wire: FakeWire) -> list[dict[str, Any]]:
    buffer = EventStreamBuffer()
    buffer.add_data(wire.body)
    return [event.to_response_dict() for event in buffer]


@EVERY
@pytest.mark.parametrize("directive", ["", "tool=1", "output=37", "cached=1", "chunk_bytes=7", "chunks=1"])
def test_a_call_costs_what_aws_billed(
    action: str, model: str, body: Any, directive: str, config: Config, simulator: RunningSimulator
) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, action, model, body(directive))
            assert wire.status == 200, wire.body
            (entry,) = running.entries()
            (line,) = simulator.books()
            assert (entry.basis, entry.operation, entry.stream) == ("metered", "chat", action.endswith("stream"))
            assert entry.cost_usd == line.cost
            assert entry.request_model == model.rpartition("/")[2]
            assert entry.provider_request_id == line.request_id == wire.headers["x-amzn-requestid"]
            assert entry.bound_usd is not None and entry.bound_usd >= line.cost
            assert not set(entry.notes) - {"cache_ttl_assumed"}

    run(test)


@EVERY
@pytest.mark.parametrize("credential", KEYS, ids=["bearer", "keys", "session"])
def test_requests_are_signed_as_they_are_sent(
    action: str, model: str, body: Any, credential: str, tmp_path: Path, simulator: RunningSimulator
) -> None:
    async def test() -> None:
        async with gateway(config_for(tmp_path, simulator, credential)) as running:
            wire = await ask(running, action, model, body())
            assert wire.status == 200, wire.body

    run(test)


def test_a_wrong_secret_is_refused_and_not_told_to_the_caller(tmp_path: Path, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config_for(tmp_path, simulator, f"{ACCESS_KEY}:another-secret")) as running:
            wire = await ask(running, "converse", SONNET, converse())
            assert wire.status == 403
            assert b"security token" not in wire.body and b"credential" in wire.body
            (entry,) = running.entries()
            assert (entry.status, entry.cost_usd) == ("error", money.ZERO)

    run(test)


@pytest.mark.parametrize("ttl", ["5m", "1h"])
@pytest.mark.parametrize("action", ["converse", "converse-stream", "invoke", "invoke-with-response-stream"])
def test_cache_writes_and_reads(action: str, ttl: str, config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            text = "A long story of a harbour and of its books. " * 300
            for _ in range(2):
                if action.startswith("converse"):
                    point = {"cachePoint": {"type": "default", "ttl": ttl}}
                    asked = converse(system=[{"text": text}, point])
                else:
                    control = {"type": "ephemeral", "ttl": ttl}
                    asked = invoke(system=[{"type": "text", "text": text, "cache_control": control}])
                assert (await ask(running, action, SONNET, asked)).status == 200
            first, second = running.entries()
            assert (first.usage.cache_creation_input_tokens or 0) > 1000
            assert (second.usage.cache_read_input_tokens or 0) > 1000
            hour = first.usage.cache_creation_1h_input_tokens
            assert hour == (first.usage.cache_creation_input_tokens if ttl == "1h" else 0)
            assert [entry.cost_usd for entry in (first, second)] == [line.cost for line in simulator.books()]

    run(test)


def test_thinking_is_billed_as_output(config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            thinking = {"type": "enabled", "budget_tokens": 64}
            extra: dict[str, Any] = {"additionalModelRequestFields": {"thinking": thinking}}
            for action in ("converse", "converse-stream"):
                assert (await ask(running, action, SONNET, converse(**extra))).status == 200
            assert [entry.cost_usd for entry in running.entries()] == [line.cost for line in simulator.books()]

    run(test)


def test_embeddings(config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, "invoke", TITAN, {"inputText": "A ship left the harbour at dawn."})
            assert wire.json["embedding"]
            (entry,) = running.entries()
            (line,) = simulator.books()
            assert (entry.operation, entry.basis, entry.cost_usd) == ("embeddings", "metered", line.cost)
            assert line.cost > 0

    run(test)


def test_counting_tokens_is_free(config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, "count-tokens", SONNET, {"input": {"converse": converse()}})
            assert wire.json["inputTokens"] > 0
            (entry,) = running.entries()
            assert (entry.operation, entry.cost_usd, entry.basis) == ("count_tokens", money.ZERO, "metered")
            (line,) = simulator.books()
            assert not line.billed

    run(test)


def test_the_labels_reach_awss_logs(config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            own = {"feature": "search", "team": "pretended", "ticket no": "A:1"}
            await ask(running, "converse", SONNET, converse(requestMetadata=own))
            sent = json.loads(simulator.books().lines[0].body or "")
            labels = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
            assert sent["requestMetadata"] == {**labels, "feature": "search", "ticket no": "A:1"}
            (entry,) = running.entries()
            assert entry.attribution["feature"].value == "search"
            assert [claim.value for claim in entry.attribution["team"].conflict] == ["pretended"]

    run(test)


def test_nothing_of_ours_reaches_aws(config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            headers = [
                ("authorization", f"Bearer {running.key}"),
                ("x-costbearer-tags", "feature:search"),
                ("baggage", "feature=x"),
                ("x-amzn-bedrock-request-metadata", '{"team":"pretended"}'),
            ]
            await ask(running, "invoke", HAIKU, invoke(metadata={"tags": ["customer:acme"]}), headers=headers)
            await ask(running, "converse", HAIKU, converse(), headers=headers)
            assert [line.saw for line in simulator.books()] == [(), ()]
            assert [line.status for line in simulator.books()] == [200, 200]
            first, _ = running.entries()
            assert (first.attribution["feature"].value, first.attribution["customer"].value) == ("search", "acme")

    run(test)


@STREAMS
def test_the_outcome_is_written_before_the_last_frame_leaves(
    action: str, model: str, body: Any, config: Config
) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            data = json.dumps(body()).encode()
            wire = FakeWire(data)
            seen: list[int] = []
            wire.on_send = lambda piece: seen.append(len(running.frames()))
            await running.ask(data, f"/model/{model}/{action}", wire=wire)
            assert seen[-1] == 2
            assert wire.headers["content-type"] == "application/vnd.amazon.eventstream"

    run(test)


@STREAMS
def test_a_stream_without_usage_is_estimated(action: str, model: str, body: Any, config: Config) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            await ask(running, action, model, body("no_usage=1"))
            (entry,) = running.entries()
            assert entry.basis == "estimated"
            assert entry.cost_usd is not None and entry.cost_usd > 0

    run(test)


@STREAMS
def test_a_usage_told_twice_counts_once(
    action: str, model: str, body: Any, config: Config, simulator: RunningSimulator
) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            await ask(running, action, model, body("usage_twice=1"))
            (entry,) = running.entries()
            assert entry.cost_usd == simulator.books().total()

    run(test)


@STREAMS
def test_an_exception_in_a_stream_is_an_error(action: str, model: str, body: Any, config: Config) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, action, model, body("error_event=4"))
            assert events(wire)[-1]["headers"][":exception-type"] == "internalServerException"
            (entry,) = running.entries()
            assert (entry.status, entry.error_code) == ("error", "internalServerException")
            assert entry.basis == "estimated" and "error_in_stream" in entry.notes

    run(test)


@STREAMS
def test_a_broken_stream_ends_with_our_error_between_frames(action: str, model: str, body: Any, config: Config) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, action, model, body("reset_after=1500"))
            *others, last = events(wire)
            assert all(event["headers"][":message-type"] == "event" for event in others)
            assert last["headers"][":error-code"] == "upstream_failed"
            (entry,) = running.entries()
            assert entry.status == "error" and entry.basis == "estimated"
            assert "cut_mid_event" in entry.notes

    run(test)


@pytest.mark.slow
@STREAMS
def test_a_stream_reset_at_any_byte_is_never_free(
    action: str, model: str, body: Any, config: Config, simulator: RunningSimulator
) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            whole = await ask(running, action, model, body("output=12 chunks=4"))
            cuts = range(1, len(whole.body), 31)
            for cut in cuts:
                await ask(running, action, model, body(f"output=12 chunks=4 reset_after={cut}"))
            entries = running.entries()
            assert len(entries) == len(cuts) + 1
            for entry in entries:
                assert entry.basis in {"metered", "estimated", "unknown"}
                assert entry.bound_usd is not None
                assert entry.cost_usd is None or 0 < entry.cost_usd <= entry.bound_usd
            assert {entry.basis for entry in entries} >= {"metered", "estimated"}

    run(test)


@pytest.mark.parametrize("status", [400, 404, 408, 424, 429, 500, 503])
def test_refusals_are_relayed_and_cost_nothing(status: int, config: Config, simulator: RunningSimulator) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, "converse", SONNET, converse(f"status={status}"))
            assert wire.status == status
            assert wire.headers["x-amzn-errortype"].partition(":")[0].endswith("Exception")
            assert all(entry.cost_usd == money.ZERO for entry in running.entries())
            assert simulator.books().total() == 0

    run(test)


def test_an_opaque_profile_goes_where_a_route_sends_it_and_is_not_guessed(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    config = config_for(tmp_path, simulator)
    opaque = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6"
    file = tmp_path / "costbearer.toml"
    file.write_text(file.read_text() + '\n[[routes]]\nmodel = "arn:aws:bedrock:*"\nupstreams = ["aws"]\n')
    config = load(file, overrides={"data": str(tmp_path / "data")}, environ={})

    async def test() -> None:
        async with gateway(config) as running:
            wire = await ask(running, "converse", opaque, converse())
            assert wire.status == 400, "the simulated AWS has no such profile"
            (entry,) = running.entries()
            assert (entry.request_model, entry.bound_usd) == (opaque, None)

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (f"/model/{SONNET}/converse", b'{"messages": [', "body_invalid"),
        (f"/model/{SONNET}/converse", b'{"requestMetadata": ["x"]}', "body_invalid"),
        (f"/model/{SONNET}/invoke", b"[]", "body_invalid"),
        (f"/model/{SONNET}/async-invoke", b"{}", "endpoint_not_metered"),
        (f"/model/../{SONNET}/converse", b"{}", "endpoint_not_metered"),
    ],
)
def test_refusals_of_ours_have_awss_shape(path: str, body: bytes, code: str, config: Config) -> None:
    async def test() -> None:
        async with gateway(config) as running:
            wire = await running.ask(body, path)
            assert (wire.json["code"], wire.status and wire.status >= 400) == (code, True)
            assert wire.json["message"]
            assert running.frames() == []

    run(test)
