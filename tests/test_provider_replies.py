"""Replies that are cut by us, hold each other up, or come in a form that was not asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.harness import gateway, run
from tests.test_gateway_wire import CHUNK, OK, Provider, Script, asked, config_for, provider, reply

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
