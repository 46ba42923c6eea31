"""How calls end: every ending leaves exactly one sound entry, and what the provider billed is what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer import money
from costbearer.config import Config, load
from costbearer.ledger import Entry
from costbearer.simulator import CREDENTIAL, Line, RunningSimulator, running_simulator
from tests.harness import FakeWire, gateway, make_config, run

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


def ask_for(path: str, directive: str = "", *, stream: bool = False, **more: Any) -> dict[str, Any]:
    model = "gpt-4o-mini" if path == CHAT else "claude-sonnet-4-5"
    content = "Tell me about the sea and the ships on it." + (f" [[sim:{directive}]]" if directive else "")
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 200,
        "stream": stream,
        **more,
    }


def billed(simulator: RunningSimulator) -> list[Line]:
    return [line for line in simulator.books() if line.billed]


def books_total(simulator: RunningSimulator) -> Decimal:
    return money.total(money.usd(line.cost) for line in billed(simulator))


SCHEMA = {"type": "object", "properties": {"port": {"type": "string"}}}
TOOL: dict[str, dict[str, Any]] = {
    CHAT: {"type": "function", "function": {"name": "find_ship", "parameters": SCHEMA}},
    MESSAGES: {"name": "find_ship", "input_schema": SCHEMA},
}
BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("directive", ["", "tool=1", "output=37", "cached=1", "chunk_bytes=7", "chunks=1"])
def test_a_call_costs_what_the_provider_billed(
    path: str, stream: bool, directive: str, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            tools = {"tools": [TOOL[path]]} if directive.startswith("tool") else {}
            wire = await running.ask(ask_for(path, directive, stream=stream, **tools), path)
            assert wire.status == 200
            (entry,) = running.entries()
            assert entry.basis == "metered"
            assert entry.cost_usd == books_total(simulator)
            assert entry.bound_usd is not None and entry.bound_usd >= entry.cost_usd
            assert entry.provider_request_id == billed(simulator)[0].request_id
            if not stream:
                assert wire.headers["x-costbearer-cost-usd"] == money.text(entry.cost_usd)
                assert wire.headers["x-costbearer-cost-basis"] == "metered"

    run(body)


@BOTH
def test_the_outcome_is_written_before_the_last_byte_leaves(path: str, config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            marker = b"[DONE]" if path == CHAT else b"message_stop"
            seen: list[int] = []
            data = json.dumps(ask_for(path, stream=True)).encode()
            wire = FakeWire(data)
            wire.on_send = lambda piece: seen.append(len(running.frames())) if marker in piece else None
            await running.ask(data, path, wire=wire)
            assert marker in wire.body
            assert seen == [2], "intent and outcome stand when the end marker leaves"

    run(body)


def test_chunks_are_relayed_as_they_come(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            data = json.dumps(ask_for(CHAT, "output=40 chunks=10 delay_ms=20", stream=True)).encode()
            wire = FakeWire(data)
            times: list[float] = []
            wire.on_send = lambda _: times.append(asyncio.get_running_loop().time())
            await running.ask(data, wire=wire)
            assert len(times) >= 8
            assert times[-1] - times[0] > 0.1

    run(body)


def test_usage_is_asked_for_and_taken_off_again(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            plain = await running.ask(ask_for(CHAT, stream=True))
            events = [line for line in plain.body.split(b"\n\n") if line]
            assert events[-1] == b"data: [DONE]"
            assert all(json.loads(event[6:])["choices"] for event in events[:-1])
            wanted = await running.ask(ask_for(CHAT, stream=True, stream_options={"include_usage": True}))
            last = [line for line in wanted.body.split(b"\n\n") if line][-2]
            assert json.loads(last[6:])["usage"]["prompt_tokens"] > 0
            assert [entry.basis for entry in running.entries()] == ["metered", "metered"]

    run(body)


@BOTH
def test_nothing_of_ours_reaches_the_provider(path: str, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            headers = [
                ("authorization", f"Bearer {running.key}"),
                ("baggage", "feature=x,secret=1"),
                ("x-costbearer-tags", "customer:acme"),
                ("cookie", "a=b"),
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ]
            asked = ask_for(path, metadata={"tags": ["workflow:nightly"]})
            await running.ask(asked, path, headers=headers)
            (line,) = simulator.books().lines
            assert line.saw == ()
            (entry,) = running.entries()
            assert (entry.feature, entry.customer, entry.workflow) == ("x", "acme", "nightly")
            assert entry.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"

    run(body)


def test_a_spoofed_owner_is_evidence_and_nothing_more(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(ask_for(CHAT, metadata={"tags": ["owner:mallory", "team:finance"]}))
            (entry,) = running.entries()
            assert (entry.owner, entry.team) == ("ada", "search")
            assert entry.attribution["owner"].conflict[0].value == "mallory"

    run(body)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_is_a_call_of_its_own(path: str, stream: bool, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(path, "mark=m1 status=503 times=1", stream=stream), path)
            assert wire.status == 200
            first, second = running.entries()
            assert (first.status, first.http_status, first.cost_usd, first.requests) == ("error", 503, money.ZERO, 1)
            assert (second.status, second.attempt, second.reason, second.requests) == ("ok", 2, "retry", 0)
            assert first.request_id == second.request_id
            assert second.cost_usd == books_total(simulator)

    run(body)


def test_a_long_retry_after_goes_to_the_caller(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(CHAT, "status=429 retry_after=60"))
            assert (wire.status, wire.headers["retry-after"]) == (429, "60")
            (entry,) = running.entries()
            assert (entry.status, entry.http_status, entry.cost_usd, entry.basis) == (
                "error",
                429,
                money.ZERO,
                "metered",
            )

    run(body)


def test_a_fallback_is_a_call_of_its_own(tmp_path: Path, simulator: RunningSimulator) -> None:
    config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    file = tmp_path / "costbearer.toml"
    text = file.read_text() + (
        f'[providers.dead]\ndialect = "openai"\nbase_url = "http://127.0.0.1:9"\nprice_provider = "openai"\n'
        f'api_key_file = "{tmp_path / "provider-key"}"\n'
        '[[routes]]\nmodel = "fast"\nupstreams = ["dead/gpt-4o", "openai/gpt-4o-mini"]\n'
    )
    file.write_text(text)
    config = load(file, overrides={"data": str(config.data), "gateway.retries": 0}, environ={})

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(CHAT) | {"model": "fast"})
            assert wire.status == 200
            first, second = running.entries()
            assert (first.provider, first.error_code, first.cost_usd) == ("dead", "connect_failed", money.ZERO)
            assert (second.provider, second.reason, second.request_model) == ("openai", "fallback", "fast")
            assert second.route == "fast"
            assert second.cost_usd == books_total(simulator)

    run(body)


def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    config = make_config(tmp_path, "http://127.0.0.1:9/v1", "http://127.0.0.1:9")

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(CHAT))
            assert (wire.status, wire.error_code) == (502, "upstream_failed")
            assert [entry.cost_usd for entry in running.entries()] == [money.ZERO, money.ZERO]

    run(body)


@BOTH
@pytest.mark.parametrize(
    ("directive", "code", "reason"),
    [
        ("reset_after=0", "upstream_failed", "no_reply_"),
        ("close_after=0", "upstream_failed", "no_reply_"),
        ("close_after=40", "upstream_failed", "no_reply_cut_off"),
        ("html=1", "upstream_failed", "reply_unreadable"),
        ("garbage=1", "upstream_failed", ""),
        ("truncated_json=1", "upstream_failed", ""),
    ],
)
def test_a_whole_reply_that_never_came_whole(
    path: str, directive: str, code: str, reason: str, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(path, directive), path)
            assert (wire.status, wire.error_code) == (502, code)
            (entry,) = running.entries()
            assert entry.basis == "unknown"
            assert entry.cost_usd is None
            assert (entry.reason_unknown or "").startswith(reason)
            assert entry.bound_usd is not None
            assert entry.bound_usd >= books_total(simulator)

    run(body)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_stalls(path: str, stream: bool, tmp_path: Path, simulator: RunningSimulator) -> None:
    quick: dict[str, Any] = {"upstream.first_byte_timeout_s": 0.3, "upstream.idle_timeout_s": 0.3}
    config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url, **quick)

    async def body() -> None:
        async with gateway(config) as running:
            late = await running.ask(ask_for(path, "first_byte_ms=3000", stream=stream), path)
            assert (late.status, late.error_code) == (504, "upstream_timeout")
            stalled = await running.ask(ask_for(path, "stall_after=900 output=150", stream=stream), path)
            if stream:
                assert stalled.status == 200
                assert b"upstream_timeout" in stalled.body
            else:
                assert (stalled.status, stalled.error_code) == (504, "upstream_timeout")
            bases = [entry.basis for entry in running.entries()]
            assert bases == ["unknown", "estimated" if stream else "unknown"]

    run(body)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_usage_that_is_missing_is_estimated_never_free(
    path: str, stream: bool, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(ask_for(path, "no_usage=1 output=100", stream=stream), path)
            (entry,) = running.entries()
            assert entry.basis == "estimated"
            assert entry.cost_usd is not None and entry.cost_usd > 0
            assert "estimated_from_bytes" in entry.notes

    run(body)


@pytest.mark.parametrize("stream", [False, True])
def test_usage_that_is_sent_twice_counts_once(stream: bool, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(ask_for(CHAT, "usage_twice=1", stream=True))
            (entry,) = running.entries()
            assert entry.cost_usd == books_total(simulator)

    run(body)


@BOTH
def test_a_caller_who_leaves_is_charged_for_what_was_made(
    path: str, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            asked = ask_for(path, "output=150 chunks=50 delay_ms=5", stream=True)
            await running.ask(asked, path, leave_after=2500)
            (entry,) = running.entries()
            assert (entry.status, entry.basis) == ("cancelled", "estimated")
            assert entry.cost_usd is not None and entry.cost_usd > 0
            await asyncio.sleep(0.2)
            (line,) = simulator.books().lines
            assert line.outcome == "cut_by_client", "the provider's side was aborted"
            assert entry.bound_usd is not None and entry.bound_usd >= line.cost

    run(body)


def test_a_caller_who_leaves_before_a_whole_answer_is_charged_exactly(
    config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            data = json.dumps(ask_for(CHAT, "first_byte_ms=200")).encode()
            wire = FakeWire(data)
            asyncio.get_running_loop().call_later(0.05, wire.leave)
            await running.ask(data, wire=wire)
            (entry,) = running.entries()
            assert (entry.status, entry.basis, entry.cost_usd) == ("cancelled", "metered", books_total(simulator))

    run(body)


@pytest.mark.slow
@BOTH
def test_a_stream_reset_at_any_byte_is_never_free(path: str, config: Config, simulator: RunningSimulator) -> None:
    """Upstream resets after every k-th byte of the body: estimated, exact or unknown with a bound, never 0."""

    async def body() -> None:
        async with gateway(config) as running:
            whole = await running.ask(ask_for(path, "output=12 chunks=4", stream=True, **_usage(path)), path)
            size = len(whole.body)
            asked = 1
            for cut in range(1, size, 5):
                await running.ask(
                    ask_for(path, f"output=12 chunks=4 reset_after={cut}", stream=True, **_usage(path)), path
                )
                asked += 1
            entries = running.entries()
            assert len(entries) == asked
            seen = {entry.basis for entry in entries}
            assert seen <= {"metered", "estimated", "unknown"}
            by_id = {line.request_id: line for line in simulator.books()}
            for entry in entries:
                _never_free(entry, by_id)

    run(body)


def _usage(path: str) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if path == CHAT else {}


def _never_free(entry: Entry, books: dict[str, Line]) -> None:
    assert entry.bound_usd is not None
    if entry.basis == "unknown":
        assert entry.cost_usd is None
    else:
        assert entry.cost_usd is not None and entry.cost_usd > 0
        assert entry.cost_usd <= entry.bound_usd
    line = books.get(entry.provider_request_id or "")
    if line is not None and entry.basis == "metered":
        assert entry.cost_usd == line.cost
    if line is not None:
        assert entry.bound_usd >= line.cost


@pytest.mark.parametrize(
    "directive", ["iterations=compaction", "iterations=advisor", "iterations=fallback", "web_search=3"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_side_work_is_charged(
    directive: str, stream: bool, config: Config, simulator: RunningSimulator
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            await running.ask(ask_for(MESSAGES, directive, stream=stream), MESSAGES)
            (entry,) = running.entries()
            assert entry.basis == "metered"
            assert entry.cost_usd == books_total(simulator)

    run(body)


@pytest.mark.parametrize("directive", ["cost_header=1", "body_cost=1"])
def test_a_stated_cost_wins_and_ours_stays_beside_it(
    directive: str, tmp_path: Path, simulator: RunningSimulator
) -> None:
    make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    file = tmp_path / "costbearer.toml"
    file.write_text(
        file.read_text().replace("[providers.openai]\n", '[providers.openai]\ncost_header = "x-sim-cost-usd"\n')
    )
    config = load(file, overrides={"data": str(tmp_path / "data")}, environ={})

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(CHAT, directive))
            (entry,) = running.entries()
            assert entry.basis == "provider_cost"
            assert entry.cost_usd == entry.provider_cost_usd == books_total(simulator)
            assert entry.computed_cost_usd is not None
            assert wire.headers["x-costbearer-cost-basis"] == "provider_cost"

    run(body)


def test_counting_tokens_is_free_and_has_its_entry(config: Config) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(MESSAGES), "/v1/messages/count_tokens")
            assert wire.json["input_tokens"] > 0
            (entry,) = running.entries()
            assert (entry.operation, entry.cost_usd, entry.basis) == ("count_tokens", money.ZERO, "metered")

    run(body)


def test_a_refused_provider_credential_is_not_the_callers_fault(tmp_path: Path, simulator: RunningSimulator) -> None:
    config = make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)
    (tmp_path / "provider-key").write_text("sim-wrong-key")
    config = load(tmp_path / "costbearer.toml", overrides={"data": str(config.data)}, environ={})

    async def body() -> None:
        async with gateway(config) as running:
            wire = await running.ask(ask_for(CHAT))
            assert (wire.status, wire.error_code) == (502, "upstream_failed")
            assert b"sim-wrong-key" not in wire.body
            (entry,) = running.entries()
            assert (entry.status, entry.http_status, entry.cost_usd) == ("error", 401, money.ZERO)

    run(body)


def test_what_the_gateway_stops_is_accounted_for(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            data = json.dumps(ask_for(CHAT, "output=150 chunks=100 delay_ms=20", stream=True)).encode()
            wire = FakeWire(data)
            asking = asyncio.create_task(running.ask(data, wire=wire))
            await asyncio.sleep(0.3)
            await running.worker.drain(0.1)
            await asking
            (entry,) = running.entries()
            assert entry.basis == "estimated"
            assert b"shutting_down" in wire.body

    run(body)


def test_many_calls_at_once_are_all_exact(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with gateway(config) as running:

            async def one(number: int) -> FakeWire:
                path = (CHAT, MESSAGES)[number % 2]
                return await running.ask(ask_for(path, f"mark=n{number}", stream=number % 3 == 0), path)

            wires = await asyncio.gather(*(one(number) for number in range(120)))
            assert {wire.status for wire in wires} == {200}
            assert running.total() == books_total(simulator)
            assert len(running.entries()) == 120
            assert len({entry.call_id for entry in running.entries()}) == 120

    run(body)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("directive", ["", "status=400", "truncated_json=1", "html=1"])
def test_prompts_keys_and_credentials_are_kept_nowhere(
    path: str, stream: bool, directive: str, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with gateway(config) as running:
            asked = ask_for(path, directive, stream=stream)
            asked["messages"][0]["content"] += " CANARY-PROMPT-7f3a"
            await running.ask({**asked, "metadata": {"tags": ["user:canary-person-7f3a"]}}, path)
            await running.ask(b'{"model": "CANARY-PROMPT-7f3a', path)
            assert len(running.entries()) == 1
            kept = b"".join(file.read_bytes() for file in running.directory.rglob("*") if file.is_file())
            assert b"gpt-4o-mini" in kept or b"claude" in kept, "the journal was looked at"
            for secret in ("CANARY-PROMPT-7f3a", "canary-person-7f3a", running.key, CREDENTIAL):
                assert secret.encode() not in kept
                assert secret not in caplog.text

    run(body)
