"""The places of a pool: every connection that dies, is handed on or is never made gives its own back; on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from costbearer.gateway.pool import SWEEP_INTERVAL_S, Pool
from costbearer.gateway.upstream import ConnectFailed, Connection, Limits, ReplyBroken
from tests.harness import gateway
from tests.loops import LOOPS, Run, runs_on
from tests.proxies import ANSWER, Origin, listening
from tests.test_gateway_wire import always, asked, config_for, provider, reply

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset."""


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return runs_on(request.param)


@contextlib.asynccontextmanager
async def pool_to(port: int, **limits: Any) -> AsyncIterator[Pool]:
    chosen: dict[str, Any] = {
        "connect_s": 2.0,
        "first_byte_s": 5.0,
        "idle_s": 5.0,
        "keep_alive_s": 4.0,
        "connections_max": 1,
        "reply_bytes_max": 1 << 20,
    }
    pool = Pool(f"http://127.0.0.1:{port}", Limits(**{**chosen, **limits}), asyncio.get_running_loop())
    try:
        yield pool
    finally:
        pool.close()


async def ask(pool: Pool) -> bytes:
    """One call, whose connection is given back however it ends."""
    connection = await pool.acquire()
    try:
        connection.send(HEAD, b"{}")
        await connection.head()
        return await connection.whole()
    finally:
        pool.release(connection)


def places(pool: Pool) -> int:
    return len(pool._all) + pool._coming


def test_a_connection_that_is_reset_at_once_keeps_no_place(run: Run) -> None:
    ill = True
    well = Origin()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ill:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        else:
            await well.serve(reader, writer)

    async def body() -> None:
        nonlocal ill
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with pool_to(server.sockets[0].getsockname()[1], connections_max=3) as pool:
            for _ in range(10):
                with pytest.raises((ConnectFailed, ReplyBroken)):
                    await ask(pool)
            assert places(pool) == 0
            ill = False
            assert await ask(pool) == ANSWER
        server.close()
        for writer in well.writers:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    run(body)


def test_callers_in_turn_are_all_answered_by_a_provider_that_closes_behind_each_reply(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        settings: dict[str, Any] = {"upstream.connections_max": 2, "gateway.retries": 0}
        async with (
            provider(always(reply(), keep=False)) as made,
            gateway(config_for(tmp_path, made.url, **settings)) as running,
        ):
            wires = await asyncio.gather(*(running.ask(asked()) for _ in range(12)))
            assert [wire.status for wire in wires] == [200] * 12
            assert (await running.ask(asked())).status == 200

    run(body)


def test_a_connection_that_closes_while_it_is_handed_over_leaves_its_place(run: Run) -> None:
    async def body() -> None:
        async with listening(origin := Origin()), pool_to(origin.port) as pool:
            first = await pool.acquire()
            second = asyncio.create_task(pool.acquire())
            third = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            pool.release(first)
            first.abort()
            pool._sweep()
            made = await second
            assert made is not first
            assert made.usable()
            assert places(pool) == 1
            pool.release(made)
            assert await third is made
            pool.release(made)
            assert pool.take() is made

    run(body)


def test_who_gives_up_while_a_connection_is_handed_over_gives_it_back(run: Run) -> None:
    async def body() -> None:
        async with listening(origin := Origin()), pool_to(origin.port) as pool:
            first = await pool.acquire()
            second = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            pool.release(first)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert places(pool) == 1
            assert pool.take() is first

    run(body)


def test_what_cannot_be_written_to_gives_its_place_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However closely a pool looks, a connection may close between the look and the writing."""

    async def body() -> None:
        settings: dict[str, Any] = {"upstream.connections_max": 1, "gateway.retries": 0}
        async with (
            provider(always(reply())) as made,
            gateway(config_for(tmp_path, made.url, **settings)) as running,
        ):
            pool = running.worker.pools["openai"]
            assert (await running.ask(asked())).status == 200
            looks = iter([True])
            monkeypatch.setattr(Connection, "usable", lambda _: next(looks, False))
            pool._idle[0]._transport.abort()
            assert (await running.ask(asked())).status == 502
            monkeypatch.undo()
            assert places(pool) == 0, "at once, and not by the next sweep"
            assert (await running.ask(asked())).status == 200
            assert [entry.error_code for entry in running.entries()] == [None, "connect_failed", None]

    run(body)


def test_nothing_is_left_of_a_pool_that_was_closed_while_it_dialled(run: Run) -> None:
    async def body() -> None:
        async with listening(origin := Origin()), pool_to(origin.port) as pool:
            dialling = asyncio.create_task(pool.acquire())
            waiting = asyncio.create_task(pool.acquire())
            await asyncio.sleep(0)
            pool.close()
            for task in (dialling, waiting):
                with pytest.raises(ConnectFailed):
                    await task
            assert places(pool) == 0

    run(body)


# -- how long they are kept


STATED: dict[str, float] = {
    "timeout=1": 0,
    "timeout=0, max=7": 0,
    "timeout=3": 2,
    "max=100,TIMEOUT=3": 2,
    "timeout=60": 4,
    "max=5": 4,
    "timeout=soon": 4,
    "mytimeout=1": 4,
    "timeout=99999999999999999999": 4,
}


@pytest.mark.parametrize("stated", STATED)
def test_a_connection_is_kept_a_second_less_than_its_provider_keeps_it(stated: str, run: Run) -> None:
    data = b"HTTP/1.1 200 OK\r\nkeep-alive: %s\r\ncontent-length: 2\r\n\r\nok" % stated.encode()

    async def body() -> None:
        async with listening(origin := Origin(data)), pool_to(origin.port) as pool:
            assert await ask(pool) == b"ok"
            if not STATED[stated]:
                assert pool.take() is None
                assert places(pool) == 0
                return
            (kept,) = pool._idle
            left = kept.idle_until - asyncio.get_running_loop().time()
            assert STATED[stated] - 0.5 < left <= STATED[stated]
            kept.idle_until -= left + 0.001
            pool._sweep()
            assert pool.take() is None
            assert places(pool) == 0

    run(body)


def test_connections_are_given_up_before_servers_usually_close_them(tmp_path: Path) -> None:
    """uvicorn and Node close after 5 s without a word."""
    config = config_for(tmp_path, "http://127.0.0.1:9/v1")
    assert config.number("upstream.keep_alive_s") + 2 * SWEEP_INTERVAL_S < 5
