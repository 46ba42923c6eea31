"""Replies that are cut by us, hold each other up, or come in a form that was not asked for."""

from __future__ import annotations

import asyncio
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.harness import gateway, run
from tests.test_gateway_wire import CHUNK, DONE, OK, USAGE, Provider, Script, always, asked, config_for, provider, reply

SOUND = "/v1/audio/speech"
SAY = {"model": "tts-1", "input": "hello", "voice": "alloy"}
ROUTES = "".join(f'[[routes]]\nmodel = "{name}"\nupstreams = ["openai/{name}"]\n' for name in ("tts-1", "gpt-4o-mini"))


def then_silence(data: bytes) -> Script:
    """A reply that only the end of its connection would end, and that end does not come."""

    async def script(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(30)
        return False

    return script


STREAM = reply(200, CHUNK, kind="text/event-stream", length=False)


def test_a_reply_until_close_is_not_whole_because_we_closed(tmp_path: Path) -> None:
    async def body() -> None:
        quick: dict[str, Any] = {"upstream.idle_timeout_s": 0.2}
        async with (
            provider(then_silence(STREAM)) as made,
            gateway(config_for(tmp_path, made.url, **quick)) as running,
        ):
            wire = await running.ask(asked(stream=True))
            assert b"upstream_timeout" in wire.body
            (entry,) = running.entries()
            assert (entry.status, entry.error_code, entry.basis) == ("error", "idle_timeout", "estimated")

    run(body)


def test_a_reply_until_close_is_not_whole_because_the_drain_cut_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with provider(then_silence(STREAM)) as made, gateway(config_for(tmp_path, made.url)) as running:
            asking = asyncio.create_task(running.ask(asked(stream=True)))
            while not made.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await running.worker.drain(0)
            wire = await asking
            assert b"shutting_down" in wire.body
            (entry,) = running.entries()
            assert (entry.status, entry.error_code) == ("error", "cut_off")

    run(body)


def test_sound_and_answers_until_close_are_not_whole_because_we_closed(tmp_path: Path) -> None:
    sound = reply(200, b"\xff\xfb" * 100, kind="audio/mpeg", length=False)

    async def script(made: Provider, writer: asyncio.StreamWriter) -> bool:
        data = sound if b"tts-1" in made.requests[-1] else reply(200, OK[:60], length=False)
        return await then_silence(data)(made, writer)

    async def body() -> None:
        quick: dict[str, Any] = {"upstream.idle_timeout_s": 0.2, "gateway.retries": 0}
        async with (
            provider(script) as made,
            gateway(config_for(tmp_path, made.url, routes=ROUTES, **quick)) as running,
        ):
            wire, spoken = await asyncio.gather(running.ask(asked()), running.ask(SAY, SOUND))
            assert (wire.status, wire.error_code) == (504, "upstream_timeout")
            assert not spoken.whole
            assert [entry.error_code for entry in running.entries()] == ["idle_timeout"] * 2

    run(body)


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_an_interim_answer_takes_nothing_of_the_time_to_the_first_byte(interim: bytes, tmp_path: Path) -> None:
    async def script(_: Provider, writer: asyncio.StreamWriter) -> bool:
        writer.write(interim)
        await writer.drain()
        await asyncio.sleep(0.6)
        writer.write(reply())
        return True

    async def body() -> None:
        settings: dict[str, Any] = {"upstream.idle_timeout_s": 0.1, "upstream.first_byte_timeout_s": 5}
        async with provider(script) as made, gateway(config_for(tmp_path, made.url, **settings)) as running:
            assert (await running.ask(asked())).status == 200

    run(body)


# -- packed, although nothing but identity was asked for


PACKED: dict[str, tuple[str, dict[str, Any] | bytes, str, str]] = {
    "whole": ("/v1/chat/completions", asked(), "application/json", "unknown"),
    "stream": ("/v1/chat/completions", asked(stream=True), "text/event-stream", "unknown"),
    "sound": (SOUND, SAY, "audio/mpeg", "unknown"),
    "file": ("/v1/files/file-1/content", b"", "application/octet-stream", "metered"),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_reply_that_is_packed_all_the_same_is_not_passed_on(name: str, tmp_path: Path) -> None:
    path, said, kind, basis = PACKED[name]
    data = reply(200, gzip.compress(CHUNK + USAGE + DONE), "content-encoding: GZIP", kind=kind)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(data)
        await reader.read(65536)
        writer.close()

    async def body() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with gateway(config_for(tmp_path, url)) as running:
            wire = await running.ask(said, path, method="GET" if name == "file" else "POST")
            assert (wire.status, wire.error_code) == (502, "upstream_failed")
            assert "gzip" in wire.json["error"]["message"]
            (entry,) = running.entries()
            assert (entry.status, entry.error_code, entry.basis) == ("error", "reply_coded", basis)
        server.close()
        await asyncio.sleep(0.01)

    run(body)


def test_a_packed_reply_costs_what_its_header_states(tmp_path: Path) -> None:
    data = reply(200, gzip.compress(OK), "content-encoding: gzip", "x-cost: 0.25")

    async def body() -> None:
        async with provider(always(data)) as made:
            config = config_for(tmp_path, made.url, provider_lines='cost_header = "X-Cost"')
            async with gateway(config) as running:
                assert (await running.ask(asked())).status == 502
                (entry,) = running.entries()
                assert (entry.basis, entry.cost_usd) == ("provider_cost", Decimal("0.25"))

    run(body)


def test_identity_is_no_coding(tmp_path: Path) -> None:
    async def body() -> None:
        data = reply(200, OK, "content-encoding: identity")
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url)) as running:
            wire = await running.ask(asked())
            assert (wire.status, wire.headers["x-costbearer-cost-basis"]) == (200, "metered")

    run(body)


def test_a_packed_refusal_says_how_it_is_packed(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"error":{"message":"bad thing","type":"invalid_request_error"}}')

    async def body() -> None:
        data = reply(400, packed, "content-encoding: gzip")
        async with provider(always(data)) as made, gateway(config_for(tmp_path, made.url)) as running:
            wire = await running.ask(asked())
            assert (wire.status, wire.headers["content-encoding"], wire.body) == (400, "gzip", packed)

    run(body)


@pytest.mark.parametrize("data", [b"<html>busy</html>", b"[]", b'{"id":"c1"'])
def test_a_whole_answer_that_cannot_be_read_did_not_end_well(data: bytes, tmp_path: Path) -> None:
    async def body() -> None:
        async with provider(always(reply(200, data))) as made, gateway(config_for(tmp_path, made.url)) as running:
            assert (await running.ask(asked())).status == 502
            (entry,) = running.entries()
            assert (entry.status, entry.error_code, entry.basis) == ("error", "reply_unreadable", "unknown")

    run(body)
