"""Connections to providers: tunnels through proxies, certificates, several addresses, age and reuse; on both loops."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from costbearer.gateway.dial import NEXT_ADDRESS_S, reach
from costbearer.gateway.lookup import HOLD_S, Lookup
from costbearer.gateway.pool import Pool
from costbearer.gateway.upstream import ConnectFailed, Connection, Limits, ReplyBroken
from costbearer.outbound import Proxy, Way
from tests.loops import LOOPS, Run, runs_on
from tests.proxies import ANSWER, ConnectProxy, Listener, Origin, Papers, listening, papers

PASSWORD = "s3cr3t-of-the-proxy"
AUTHORIZATION = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
KEY = "sk-of-the-provider"
HEAD = f"POST /v1/x HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-length: 2\r\n\r\n".encode()


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return runs_on(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Papers, Papers]:
    directory = tmp_path_factory.mktemp("papers")
    return papers(directory), papers(directory, "other")


def pool_to(url: str, way: Way | None = None, **limits: Any) -> Pool:
    chosen: dict[str, Any] = {
        "connect_s": 5.0,
        "first_byte_s": 5.0,
        "idle_s": 5.0,
        "keep_alive_s": 30.0,
        "connections_max": 100,
        "reply_bytes_max": 1 << 20,
    }
    return Pool(url, Limits(**{**chosen, **limits}), asyncio.get_running_loop(), way)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ask(pool: Pool) -> bytes:
    connection = await pool.acquire()
    connection.send(HEAD, b"{}")
    await connection.head()
    body = await connection.whole()
    pool.release(connection)
    return body


def proxy_at(listener: Listener, scheme: str = "http") -> Proxy:
    return Proxy(scheme, "127.0.0.1", listener.port, AUTHORIZATION)


# -- through a proxy


@pytest.mark.parametrize("upstream", ["http", "https"])
@pytest.mark.parametrize("by", ["http", "https"])
def test_a_call_through_a_tunnel(by: str, upstream: str, run: Run, made: tuple[Papers, Papers]) -> None:
    async def body() -> None:
        origin, proxy = Origin(), ConnectProxy()
        tls = made[0].server()
        async with (
            listening(origin, tls if upstream == "https" else None),
            listening(proxy, tls if by == "https" else None),
        ):
            # The name exists for the proxy alone: whoever resolved it here would fail.
            way = Way(proxy_at(proxy, by), made[0].authority)
            pool = pool_to(f"{upstream}://provider.example:{origin.port}/v1", way)
            for _ in range(5):
                assert await ask(pool) == ANSWER
            pool.close()
            await asyncio.wait_for(proxy.ended.wait(), 5)
        target = f"provider.example:{origin.port}"
        assert proxy.heads == [
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: {AUTHORIZATION}\r\n\r\n".encode()
        ]
        assert (origin.connections, len(origin.received)) == (1, 5)
        assert all(AUTHORIZATION.encode() not in seen for seen in origin.received)
        # What passes through the proxy holds the provider's key in the clear only where the provider has no TLS.
        assert (KEY.encode() in b"".join(proxy.received)) is (upstream == "http")

    run(body)


REFUSALS: dict[str, tuple[bytes, bool, str]] = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", True, "status 407"),
    "403": (b"HTTP/1.0 403 no\r\n\r\nwhy", True, "status 403"),
    "302": (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n", True, "status 302"),
    "cut": (b"", True, "closes the connection"),
    "cut in the head": (b"HTTP/1.1 200 OK\r\nvia", True, "closes the connection"),
    "slow": (b"HTTP/1.1 200 OK\r\n", False, "not in time"),
    "garbage": (b"\x16\x03\x01\x00\x00\r\n\r\n", True, "no HTTP"),
    "bytes after the head": (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK", True, "speaks before"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 4000, False, "too much"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_tunnel_that_does_not_open_is_a_failure_to_connect(
    case: str, run: Run, made: tuple[Papers, Papers], caplog: pytest.LogCaptureFixture
) -> None:
    answer, close, words = REFUSALS[case]

    async def body() -> None:
        origin, proxy = Origin(), ConnectProxy(answer, close=close)
        async with listening(origin), listening(proxy):
            way = Way(proxy_at(proxy), made[0].authority)
            pool = pool_to(f"https://provider.example:{origin.port}", way, connect_s=0.4)
            for _ in range(2):
                with pytest.raises(ConnectFailed) as caught:
                    await ask(pool)
                assert words in str(caught.value)
                assert f"127.0.0.1:{proxy.port}" in str(caught.value)
                assert PASSWORD not in str(caught.value)
                assert AUTHORIZATION not in str(caught.value)
            pool.close()
        assert origin.connections == 0
        assert KEY.encode() not in b"".join([*proxy.heads, *proxy.received]), "nothing of the request was sent"

    with caplog.at_level(logging.INFO):
        run(body)
    assert len([row for row in caplog.records if row.name == "costbearer.upstream"]) == 1, "said once, not twice"
    assert words in caplog.text
    assert AUTHORIZATION not in caplog.text


def test_a_proxy_that_is_not_there_is_named(run: Run) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        pool = pool_to("https://provider.example", Way(Proxy("http", "127.0.0.1", port, AUTHORIZATION)))
        with pytest.raises(ConnectFailed, match=f"by proxy http://127.0.0.1:{port}: ConnectionRefusedError"):
            await ask(pool)
        pool.close()

    run(body)


# -- certificates


@pytest.mark.parametrize("through", [False, True])
def test_only_the_named_authority_is_trusted(run: Run, made: tuple[Papers, Papers], through: bool) -> None:
    async def body() -> None:
        origin, proxy = Origin(), ConnectProxy()
        async with listening(origin, made[0].server()), listening(proxy):
            by = proxy_at(proxy) if through else None
            url = f"https://localhost:{origin.port}"
            for authority in (None, made[1].authority):
                pool = pool_to(url, Way(by, authority))
                with pytest.raises(ConnectFailed, match="not to be trusted"):
                    await ask(pool)
                pool.close()
            if through:
                wrong_name = pool_to(f"https://other.example:{origin.port}", Way(by, made[0].authority))
                with pytest.raises(ConnectFailed, match="not to be trusted"):
                    await ask(wrong_name)
                wrong_name.close()
            pool = pool_to(url, Way(by, made[0].authority))
            assert await ask(pool) == ANSWER
            pool.close()
        assert len(origin.received) == 1

    run(body)


@pytest.mark.parametrize("through", [False, True])
def test_a_provider_that_asks_for_our_certificate(run: Run, made: tuple[Papers, Papers], through: bool) -> None:
    async def body() -> None:
        origin, proxy = Origin(), ConnectProxy()
        async with listening(origin, made[0].server(ask_client=True)), listening(proxy):
            by = proxy_at(proxy) if through else None
            own, other = made
            right = Way(by, own.authority, own.certificate, own.key)
            pool = pool_to(f"https://localhost:{origin.port}", right)
            assert await ask(pool) == ANSWER
            pool.close()
            for way in (Way(by, own.authority), Way(by, own.authority, other.certificate, other.key)):
                pool = pool_to(f"https://localhost:{origin.port}", way)
                # TLS 1.3 lets the client finish first: the refusal may come as the end of the reply.
                with pytest.raises((ConnectFailed, ReplyBroken)):
                    await ask(pool)
                pool.close()
        assert len(origin.received) == 1

    run(body)


# -- addresses


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """The name `many.example` has these addresses from now on; gives the names that were asked for."""
    asked: list[str] = []

    plain = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host != "many.example":
            return list(plain(host, port, *more, **named))
        asked.append(host)
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (each, port) if family == socket.AF_INET else (each, port, 0, 0))
            for family, each in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def reached() -> socket.socket:
    """A connection to `many.example`."""
    loop = asyncio.get_running_loop()
    return await reach(loop, await Lookup("many.example", 9, loop).addresses())


def silent(monkeypatch: pytest.MonkeyPatch, *dead: str) -> None:
    """These addresses answer nothing, as behind a firewall that drops; others are reached."""
    loop = asyncio.get_running_loop()
    plain = loop.sock_connect

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        if address[0] in dead:
            await asyncio.sleep(60)
        await plain(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)


def test_a_dead_address_fails_no_call_while_another_lives(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def body() -> None:
        origin = Origin()
        async with listening(origin):
            resolving(monkeypatch, "127.0.0.3", "127.0.0.4", "127.0.0.1")  # two refuse, the third listens
            pool = pool_to(f"http://many.example:{origin.port}")
            assert await ask(pool) == ANSWER
            pool.close()
            resolving(monkeypatch, "127.0.0.3", "127.0.0.4", "127.0.0.1")
            silent(monkeypatch, "127.0.0.3", "127.0.0.4")
            before = open_files()
            began = time.monotonic()
            pool = pool_to(f"http://many.example:{origin.port}", connect_s=3.0)
            assert await ask(pool) == ANSWER
            assert 2 * NEXT_ADDRESS_S <= time.monotonic() - began < 2
            pool.close()
            await asyncio.sleep(0.05)
            assert open_files() <= before + 1, "the sockets of the losers are closed"
        assert origin.connections == 2

    run(body)


def test_when_every_address_is_dead_the_call_fails_in_time(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def body() -> None:
        resolving(monkeypatch, "127.0.0.3", "127.0.0.4")
        with pytest.raises(OSError) as caught:
            await reached()
        assert caught.value.errno == errno.ECONNREFUSED
        silent(monkeypatch, "127.0.0.3", "127.0.0.4")
        before = open_files()
        pool = pool_to("http://many.example:9", connect_s=0.6)
        began = time.monotonic()
        with pytest.raises(ConnectFailed, match="not in time"):
            await ask(pool)
        assert time.monotonic() - began < 1.5
        assert open_files() == before
        pool.close()

    run(body)


def test_families_take_turns(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def body() -> None:
        resolving(monkeypatch, "fd00::1", "fd00::2", "fd00::3", "127.0.0.3")
        tried: list[str] = []

        async def sock_connect(_: socket.socket, address: Any) -> None:
            tried.append(address[0])
            raise ConnectionRefusedError

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
        with pytest.raises(ConnectionRefusedError):
            await reached()
        assert tried == ["fd00::1", "127.0.0.3", "fd00::2", "fd00::3"]

    run(body)


# -- reuse and age


def test_calls_in_turn_share_a_connection_and_calls_at_once_keep_theirs(run: Run) -> None:
    async def body() -> None:
        origin = Origin(delay_s=0.02)
        async with listening(origin):
            pool = pool_to(f"http://127.0.0.1:{origin.port}")
            for _ in range(10):
                await ask(pool)
            assert origin.connections == 1
            for _ in range(3):
                await asyncio.gather(*(ask(pool) for _ in range(20)))
            assert (origin.connections, len(origin.received)) == (20, 70)
            pool.close()

    run(body)


def test_a_connection_is_used_for_its_time_and_then_the_name_is_resolved_anew(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    async def body() -> None:
        origin = Origin(delay_s=0.01)
        async with listening(origin):
            monkeypatch.setattr("costbearer.gateway.lookup.HOLD_S", 0.0)
            asked = resolving(monkeypatch, "127.0.0.1")
            pool = pool_to(f"http://many.example:{origin.port}", age_s=0.5)
            began = time.monotonic()
            while time.monotonic() - began < 1.6:
                # Never idle for longer than a moment: it is the age that ends a connection, and never a call.
                assert await ask(pool) == ANSWER
            assert 2 <= origin.connections <= 4
            assert asked == ["many.example"] * origin.connections
            await asyncio.sleep(0.8)
            assert pool.take() is None, "an idle one goes too"
            pool.close()

    run(body)


def test_connections_do_not_all_grow_old_at_once(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        pool = pool_to("http://127.0.0.1:9", age_s=300.0)
        now = loop.time()
        ends = [Connection(loop, pool._limits, pool._names).retires_at - now for _ in range(200)]
        assert min(ends) >= 269
        assert max(ends) <= 301
        assert max(ends) - min(ends) > 15
        pool.close()

    run(body)


# -- names


def test_a_name_whose_servers_are_silent_holds_up_no_other(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """The loop's own look-ups share a few threads, and are not ended when their callers give up."""
    plain, speak = socket.getaddrinfo, threading.Event()
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host == "silent.example":
            asked.append(host)
            speak.wait(20)
        return list(plain(host if host != "well.example" else "127.0.0.1", port, *more, **named))

    async def body() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        async with listening(origin := Origin()):
            sick, well = pool_to("http://silent.example", connect_s=0.2), pool_to(f"http://well.example:{origin.port}")
            calls = [asyncio.create_task(ask(sick)) for _ in range(40)]
            await asyncio.sleep(0.01)
            began = time.monotonic()
            assert await ask(well) == ANSWER
            for call in calls:
                with pytest.raises(ConnectFailed, match="not in time"):
                    await call
            with pytest.raises(ConnectFailed, match="not in time"):
                await ask(sick)
            assert time.monotonic() - began < 1.5
            assert len(asked) == 1, "one look-up for all"
            speak.set()
            sick.close()
            well.close()

    try:
        run(body)
    finally:
        speak.set()


def test_addresses_hold_for_a_while_and_not_when_they_lead_nowhere(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def body() -> None:
        asked = resolving(monkeypatch, "127.0.0.1")
        async with listening(origin := Origin()):
            pool = pool_to(f"http://many.example:{origin.port}")
            assert await asyncio.gather(*(ask(pool) for _ in range(5))) == [ANSWER] * 5
            pool._sweep()
            pool._idle.clear()
            assert await ask(pool) == ANSWER
            assert (len(asked), origin.connections) == (1, 6)
            assert HOLD_S < 10, "a name that moves is followed soon"
        pool._idle.clear()
        for looked_up in (1, 2):
            with pytest.raises(ConnectFailed):
                await ask(pool)
            assert len(asked) == looked_up
        pool.close()

    run(body)


def test_a_name_that_is_not_known_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if len(asked) == 3:
            return []
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def body() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        lookup = Lookup("nowhere.example", 9, asyncio.get_running_loop())
        for fault in ("no such name", "no such name", "has no address"):
            with pytest.raises(OSError, match=fault):
                await lookup.addresses()
        assert len(asked) == 3

    run(body)


def test_an_address_needs_no_look_up(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    async def body() -> None:
        monkeypatch.setattr(threading, "Thread", None)
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            (found,) = await Lookup(host, 9, asyncio.get_running_loop()).addresses()
            assert (found[0], found[4][:2]) == (family, (host, 9))

    run(body)
