"""Providers and proxies that speak HTTP in unexpected ways, from a script; and callers who leave in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer import money
from costbearer.attribution import Bearer, Hashers, Said, attribute
from costbearer.config import Config, load
from costbearer.errors import StoreFailed
from costbearer.gateway.upstream import HEADER_NAMES_KNOWN_MAX, HeaderNames
from tests.harness import FakeWire, gateway, make_config, run

ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
COST = Decimal("0.0000045")
"""10 x 0.15 and 5 x 0.60 USD per million tokens (gpt-4o-mini)."""
OK = json.dumps(ANSWER).encode()
CHUNK = b'data: {"id":"c1","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"hello there"}}]}\n\n'
USAGE = b'data: {"id":"c1","model":"gpt-4o-mini","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"

Script = Callable[["Provider", asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; says whether the connection stays open."""


class Provider:
    """A provider that does what its script says, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                self.requests.append(await reader.readexactly(length))
                if not await self._script(self, writer):
                    break
        writer.close()


@contextlib.asynccontextmanager
async def provider(script: Script) -> AsyncIterator[Provider]:
    made = Provider(script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.transport.abort()
        await server.wait_closed()
        # One turn of the loop, in which the transports that were aborted are closed.
        await asyncio.sleep(0.01)


def reply(
    status: int = 200, body: bytes = OK, *headers: str, kind: str = "application/json", length: bool = True
) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", *headers]
    lines += [f"content-length: {len(body)}"] if length else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8") + body


def always(data: bytes, *, keep: bool = True) -> Script:
    async def script(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return keep

    return script


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, **more}


def config_for(directory: Path, url: str, *, provider_lines: str = "", routes: str = "", **settings: Any) -> Config:
    config = make_config(directory, url, url.removesuffix("/v1"), **settings)
    file = directory / "costbearer.toml"
    file.write_text(
        file.read_text().replace("[providers.openai]\n", f"[providers.openai]\n{provider_lines}\n") + routes
    )
    return load(file, overrides={"data": str(config.data), **settings}, environ={})


ODD: dict[str, tuple[bytes, bool]] = {
    "mixed-case event stream": (reply(200, CHUNK + USAGE + DONE, kind="Text/Event-Stream"), True),
    "ended by close": (reply(length=False), False),
    "transfer-encoding identity": (reply(200, OK, "transfer-encoding: identity", length=False), False),
    "1xx first": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + reply(), True),
    "two replies at once": (reply() + reply(500, b"{}"), True),
    "connection: close": (reply(200, OK, "connection: close"), False),
    "header names in capitals": (
        b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: application/json\r\nContent-Length: %d\r\n\r\n" % len(OK) + OK,
        True,
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\ncontent-type: text/event-stream\r\nx-cost: 7\r\n\r\n" % (len(OK), OK),
        True,
    ),
    "as many headers as may be": (reply(200, OK, *(f"x-{number}: {number}" for number in range(198))), True),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_replies_are_read_right(name: str, tmp_path: Path) -> None:
    data, keep = ODD[name]

    async def body() -> None:
        async with provider(always(data, keep=keep)) as made, gateway(config_for(tmp_path, made.url)) as running:
            for _ in range(2):
                wire = await running.ask(asked(stream="stream" in name))
                assert wire.status == 200
            entries = running.entries()
            assert [(entry.basis, entry.cost_usd) for entry in entries] == [("metered", COST)] * 2

    run(body)


def test_what_follows_a_reply_is_not_the_next_ones(tmp_path: Path) -> None:
    """Trailers and a second reply, in one piece with the reply or after it, leave nothing to the next request."""
    first = ODD["trailers"][0] + reply(200, b"{}", "x-cost: 5")

    async def script(made: Provider, writer: asyncio.StreamWriter) -> bool:
        asked_before = len(made.requests) - 1
        writer.write(first if asked_before == 0 else reply())
        if asked_before == 1:
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(reply(200, b"{}", "x-cost: 6"))
        return True

    async def body() -> None:
        async with provider(script) as made:
            config = config_for(tmp_path, made.url, provider_lines='cost_header = "X-Cost"')
            async with gateway(config) as running:
                for _ in range(4):
                    assert (await running.ask(asked())).json["id"] == "c1"
                    await asyncio.sleep(0.1)
                assert [(entry.basis, entry.cost_usd) for entry in running.entries()] == [("metered", COST)] * 4
                assert made.connections == 3

    run(body)


def test_header_names_are_remembered_and_few() -> None:
    names = HeaderNames()
    assert names[b"Content-Type"] == names[b"content-type"] == "content-type"
    for number in range(2 * HEADER_NAMES_KNOWN_MAX):
        assert names[b"X-%d" % number] == f"x-{number}"
    assert len(names) == HEADER_NAMES_KNOWN_MAX


REFUSALS: dict[str, tuple[bytes, str, str | None]] = {
    "101": (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "unknown", "no_reply_protocol"),
    "a redirect": (reply(302, b"", "location: http://127.0.0.1:1/"), "metered", None),
    "504 of a proxy": (reply(504, b"{}"), "unknown", "status_504"),
    "504 of the provider": (reply(504, b"{}", "x-request-id: req_1"), "metered", None),
    "400": (reply(400, b"{}"), "metered", None),
    "more headers than may be": (
        reply(200, OK, *(f"x-{number}: {number}" for number in range(199))),
        "unknown",
        "no_reply_protocol",
    ),
    "a head without end": (
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %s\r\n" % (number, b"v" * 1000) for number in range(190)),
        "unknown",
        "no_reply_protocol",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_cost_nothing_or_are_unknown(name: str, tmp_path: Path) -> None:
    data, basis, reason = REFUSALS[name]

    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 0}
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            await running.ask(asked())
            (entry,) = running.entries()
            assert (entry.basis, entry.reason_unknown) == (basis, reason)
            assert entry.cost_usd == (money.ZERO if basis == "metered" else None)

    run(body)


def test_what_nobody_can_know_is_not_tried_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with provider(always(reply(504, b"{}"))) as made, gateway(config_for(tmp_path, made.url)) as running:
            wire = await running.ask(asked())
            assert wire.status == 504
            assert len(made.requests) == 1

    run(body)


@pytest.mark.parametrize("stated", ["²", "soon", "-1", "1e3", "١"])
def test_a_retry_after_that_is_no_number_is_ignored(stated: str, tmp_path: Path) -> None:
    async def body() -> None:
        data = reply(429, b"{}", f"retry-after: {stated}")
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url)) as running:
            wire = await running.ask(asked())
            assert wire.status == 429
            assert [entry.basis for entry in running.entries()] == ["metered", "metered"]

    run(body)


@pytest.mark.parametrize(
    ("status", "stated", "expected"), [(200, "-5", COST), (200, "0.25", "0.25"), (400, "0.02", "0.02")]
)
def test_a_cost_stated_in_a_header(status: int, stated: str, expected: Decimal | str, tmp_path: Path) -> None:
    async def body() -> None:
        data = reply(status, OK, f"x-cost: {stated}")
        async with provider(always(data)) as made:
            config = config_for(tmp_path, made.url, provider_lines='cost_header = "X-Cost"')
            async with gateway(config) as running:
                await running.ask(asked())
                (entry,) = running.entries()
                assert entry.cost_usd == Decimal(expected)
                assert entry.basis == ("metered" if stated == "-5" else "provider_cost")
                assert all(charge.model for charge in entry.charges)

    run(body)


@pytest.mark.parametrize("stream", [False, True])
def test_a_renamed_model_is_priced_as_what_it_is(stream: bool, tmp_path: Path) -> None:
    nameless = json.dumps({key: value for key, value in ANSWER.items() if key != "model"}).encode()
    events = (CHUNK + USAGE + DONE).replace(b'"model":"gpt-4o-mini",', b"")
    data = reply(200, events, kind="text/event-stream") if stream else reply(200, nameless)

    async def body() -> None:
        routes = '[[routes]]\nmodel = "gpt-4o"\nupstreams = ["openai/gpt-4o-mini"]\n'
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url, routes=routes)) as running:
            await running.ask(asked(model="gpt-4o", stream=stream))
            (entry,) = running.entries()
            assert (entry.request_model, entry.cost_usd) == ("gpt-4o", COST)
            assert json.loads(made.requests[0])["model"] == "gpt-4o-mini"

    run(body)


def test_a_full_pool_hands_its_connection_on(tmp_path: Path) -> None:
    async def slow(_: Provider, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.1)
        writer.write(reply())
        return True

    async def body() -> None:
        settings: dict[str, Any] = {"upstream.connections_max": 2}
        async with provider(slow) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            began = time.monotonic()
            wires = await asyncio.gather(*(running.ask(asked()) for _ in range(8)))
            assert {wire.status for wire in wires} == {200}
            assert time.monotonic() - began < 5
            assert made.connections == 2

    run(body)


def test_a_pool_that_stays_full_says_so(tmp_path: Path) -> None:
    async def never(_: Provider, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(1.5)
        writer.write(reply())
        return True

    async def body() -> None:
        settings: dict[str, Any] = {
            "upstream.connections_max": 1,
            "upstream.connect_timeout_s": 0.2,
            "gateway.retries": 0,
        }
        async with provider(never) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            first = asyncio.create_task(running.ask(asked()))
            await asyncio.sleep(0.1)
            second = await running.ask(asked())
            assert (second.status, second.error_code) == (502, "upstream_failed")
            assert (await first).status == 200
            assert (await running.ask(asked())).status == 200, "its place in the pool was not lost"
            assert [entry.cost_usd for entry in running.entries()] == [money.ZERO, COST, COST]

    run(body)


def test_a_connection_that_is_closing_is_not_used_again(tmp_path: Path) -> None:
    async def once(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply())
        await writer.drain()
        return False

    async def body() -> None:
        async with provider(once) as made, gateway(config_for(tmp_path, made.url)) as running:
            for _ in range(5):
                assert (await running.ask(asked())).status == 200
                await asyncio.sleep(0.05)
            assert made.connections == 5

    run(body)


def test_a_caller_who_leaves_between_two_attempts_gets_no_second(tmp_path: Path) -> None:
    async def body() -> None:
        data = reply(503, b"{}", "retry-after: 1")
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url)) as running:
            wire = FakeWire(json.dumps(asked()).encode())
            asyncio.get_running_loop().call_later(0.4, wire.leave)
            await running.ask(asked(), wire=wire)
            assert len(made.requests) == 1

    run(body)


def test_nothing_is_sent_after_the_drain(tmp_path: Path) -> None:
    async def body() -> None:
        data = reply(503, b"{}", "retry-after: 0.5")
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url)) as running:
            asking = asyncio.create_task(running.ask(asked()))
            await asyncio.sleep(0.2)
            await running.worker.drain(5)
            assert asking.done(), "the drain waits for requests between two attempts too"
            wire = await asking
            assert (wire.status, wire.error_code) == (503, "shutting_down")
            assert len(made.requests) == 1

    run(body)


def test_what_follows_the_end_marker_is_not_waited_for(tmp_path: Path) -> None:
    async def dribble(made: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply(200, CHUNK + USAGE + DONE, kind="text/event-stream", length=False))
        for _ in range(20):
            await asyncio.sleep(0.3)
            writer.write(b": ping\n\n")
        return False

    async def body() -> None:
        async with provider(dribble) as made, gateway(config_for(tmp_path, made.url)) as running:
            began = time.monotonic()
            wire = await running.ask(asked(stream=True))
            assert time.monotonic() - began < 3
            assert wire.body.rstrip().endswith(b"[DONE]") or b": ping" in wire.body
            (entry,) = running.entries()
            assert (entry.basis, entry.status) == ("metered", "ok")

    run(body)


def test_a_stream_without_end_is_cut(tmp_path: Path) -> None:
    async def endless(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply(200, b"", kind="text/event-stream", length=False))
        for _chunk in range(1000):
            writer.write(CHUNK * 100)
            await writer.drain()
            if writer.is_closing():
                break
        return False

    async def body() -> None:
        settings: dict[str, Any] = {"gateway.reply_bytes_max": 100_000}
        async with provider(endless) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            wire = await running.ask(asked(stream=True))
            assert len(wire.body) < 200_000
            (entry,) = running.entries()
            assert (entry.basis, entry.error_code) == ("estimated", "too_large")

    run(body)


def test_an_address_that_cannot_be_one_is_a_failure_to_connect(tmp_path: Path) -> None:
    async def body() -> None:
        settings: dict[str, Any] = {"gateway.retries": 0}
        async with gateway(config_for(tmp_path, "http://a" + "b" * 70 + ".test/v1", **settings)) as running:
            wire = await running.ask(asked())
            assert (wire.status, wire.error_code) == (502, "upstream_failed")
            (entry,) = running.entries()
            assert (entry.basis, entry.cost_usd, entry.error_code) == ("metered", money.ZERO, "connect_failed")

    run(body)


def test_keys_that_are_too_old_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        settings: dict[str, Any] = {"control.stale_max_s": 1}
        async with provider(always(reply())) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            assert (await running.ask(asked())).status == 200

            def down() -> int:
                raise StoreFailed("gone")

            monkeypatch.setattr(running.worker, "_key_revision", down)
            await asyncio.sleep(0.5)
            assert (await running.ask(asked())).status == 200, "a store that is down delays nothing at first"
            await asyncio.sleep(0.8)
            wire = await running.ask(asked())
            assert (wire.status, wire.error_code) == (503, "not_recording")
            monkeypatch.undo()
            assert (await running.ask(asked())).status == 200

    run(body)


def test_the_watch_over_keys_survives_whatever_the_store_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with provider(always(reply())) as made, gateway(config_for(tmp_path, made.url)) as running:

            def broken() -> int:
                raise ValueError("a damaged row")

            monkeypatch.setattr(running.worker, "_key_revision", broken)
            await asyncio.sleep(0.4)
            monkeypatch.undo()
            key_id = running.control.get(running.key[:16]).key_id
            from tests.harness import ACTOR

            running.control.revoke(key_id, ACTOR)
            await asyncio.sleep(0.9)
            assert (await running.ask(asked())).error_code == "key_revoked"

    run(body)


def test_malformed_baggage_is_noted_once() -> None:
    bearer = Bearer(key_id="k", owner="a", team="b", agent="c", workload="d")
    done = attribute(bearer, Said(baggage=",".join(["x"] * 4000)), Hashers(lambda field, value: f"{field}{value}"))
    assert done.notes == ("baggage_malformed",)
