"""Large bodies take room that is counted: for all keys, for one key, and until their requests are over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from costbearer.errors import BodyInvalid, BodyTooLarge, CallRefused, GatewayBusy, RateLimited
from costbearer.gateway.incoming import FREE_BYTES, IncomingBody, Room
from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import CHAT, Edge, chat, chunked, read_all, read_reply, running_edge, statuses

LARGE = 150_000
ROOM = 400_000


def test_room_is_for_all_and_for_each() -> None:
    room = Room(ROOM, 1000)
    room.take("a", 150_000)
    room.take("a", 50_000)
    with pytest.raises(RateLimited):
        room.take("a", 1)
    room.take("b", 199_000)
    with pytest.raises(GatewayBusy):
        room.take("c", 1001)
    room.take("c", 1000)
    for key, size in (("a", 200_000), ("b", 199_000), ("c", 1000)):
        room.give_back(key, size)
    assert (room.taken_bytes, room._taken) == (0, {})


def test_the_largest_body_fits_into_the_least_room() -> None:
    room = Room(1024, ROOM)
    room.take("a", ROOM)
    with pytest.raises(RateLimited):
        room.take("a", 1)
    with pytest.raises(GatewayBusy):
        room.take("b", 1)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("paid", ["at first", "in between", "at last"])
def test_a_body_has_room_for_what_it_is(framing: str, paid: str) -> None:
    content = bytes(range(256)) * 600
    sent = chunked(content, 1000) if framing == "chunks" else content
    room = Room(ROOM, ROOM)
    incoming = IncomingBody(None if framing == "chunks" else len(content), ROOM, room)
    if paid == "at first":
        incoming.admit("a")
        assert room.taken_bytes == (0 if framing == "chunks" else len(content))
    incoming.feed(sent[:FREE_BYTES])
    assert not incoming.is_ahead
    incoming.feed(sent[FREE_BYTES : 2 * FREE_BYTES])
    assert incoming.is_ahead == (paid != "at first")
    if paid == "in between":
        incoming.admit("a")
    incoming.feed(sent[2 * FREE_BYTES :] + b"POST /next")
    if paid == "at last":
        incoming.admit("a")
    assert incoming.whole and incoming.rest == b"POST /next"
    assert incoming.body() == content
    assert room.taken_bytes == len(content)
    incoming.give_back()
    incoming.give_back()
    assert room.taken_bytes == 0


def test_a_small_body_takes_none() -> None:
    room = Room(ROOM, ROOM)
    for length in (None, FREE_BYTES):
        incoming = IncomingBody(length, ROOM, room)
        incoming.admit("a")
        content = b"x" * FREE_BYTES
        incoming.feed(chunked(content, 1000) if length is None else content)
        assert incoming.body() == content
        assert room.taken_bytes == 0


@pytest.mark.parametrize(
    "data, fault",
    [
        (chunked(b"x" * (ROOM + 1), 5000), BodyTooLarge),
        (b"%x\r\n" % LARGE + b"x" * LARGE + b"no end of a chunk", BodyInvalid),
    ],
)
def test_a_body_that_fails_gives_its_room_back(data: bytes, fault: type[CallRefused]) -> None:
    room = Room(4 * ROOM, ROOM)
    incoming = IncomingBody(None, ROOM, room)
    incoming.admit("a")
    for at in range(0, len(data), 9000):
        incoming.feed(data[at : at + 9000])
    assert not incoming.whole
    with pytest.raises(fault):
        incoming.body()
    incoming.give_back()
    assert room.taken_bytes == 0


def test_who_waits_for_a_body_hears_that_it_has_no_room() -> None:
    room = Room(ROOM, 1000)
    room.take("a", ROOM // 2)
    incoming = IncomingBody(None, ROOM, room)
    incoming.admit("a")

    async def waits() -> None:
        waiting = asyncio.ensure_future(incoming.ended())
        await asyncio.sleep(0)
        incoming.feed(b"%x\r\n" % LARGE + b"x" * LARGE)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(waits())
    with pytest.raises(RateLimited):
        incoming.body()
    incoming.give_back()
    assert room.taken_bytes == ROOM // 2


# -- on real sockets


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("edge")
    with running_edge(directory, simulator, body_bytes_max=ROOM // 2, bodies_bytes_max=ROOM) as running:
        yield running


@pytest.fixture(autouse=True)
def no_room_is_lost(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "edge" in request.fixturenames:
        edge: Edge = request.getfixturevalue("edge")
        edge.until(lambda: not edge.inner.worker.room.taken_bytes and not edge.listener._count)


def large(directive: str = "") -> bytes:
    body = json.loads(chat(directive))
    body["messages"].append({"role": "user", "content": "x" * (LARGE - 200)})
    return json.dumps(body).encode()


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_key_that_has_taken_its_part_is_told_to_wait(edge: Edge, framing: str) -> None:
    lines = "transfer-encoding: chunked\r\n" if framing == "chunks" else ""
    body = large()
    sent = edge.request(body=chunked(body, 10_000) if lines else body, lines=lines + "connection: close\r\n")
    with edge.connect() as first:
        first.sendall(edge.request(body=large("first_byte_ms=400")))
        edge.until(lambda: bool(edge.inner.worker.live))
        assert edge.inside(lambda: edge.inner.worker.room.taken_bytes) > LARGE - 200
        refused = edge.exchange(sent)
        assert statuses(refused) == [429]
        assert b"retry-after: 1\r\n" in refused and b"gateway.bodies_bytes_max" in refused
        with edge.connect() as small:
            # What is small is served all the same.
            small.sendall(edge.request())
            assert statuses(read_reply(small)) == [200]
        assert statuses(read_reply(first)) == [200]
    assert statuses(edge.exchange(sent)) == [200]


def test_a_full_worker_says_so_and_serves_again(edge: Edge) -> None:
    room = edge.inner.worker.room
    others = [("b", ROOM // 2), ("c", ROOM // 2 - LARGE // 2)]
    for key, size in others:
        edge.inside(partial(room.take, key, size))
    with edge.connect() as caller:
        caller.sendall(edge.request(body=large()))
        refused = read_reply(caller)
    assert statuses(refused) == [503]
    assert b'"gateway_busy"' in refused and b"retry-after: 1\r\n" in refused
    for key, size in others:
        edge.inside(partial(room.give_back, key, size))
    with edge.connect() as caller:
        for _ in range(2):
            caller.sendall(edge.request(body=large()))
            assert statuses(read_reply(caller)) == [200]


def test_a_caller_who_leaves_takes_no_room_along(edge: Edge) -> None:
    head = edge.head("POST", CHAT, f"content-length: {LARGE}\r\n")
    with edge.connect() as caller:
        caller.sendall(head + b"x" * 1000)
        edge.until(lambda: edge.inner.worker.room.taken_bytes == LARGE)


def test_little_is_read_before_it_is_known_whose_it_is(
    tmp_path: Path, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_edge(tmp_path, simulator, body_bytes_max=8_000_000) as edge:
        worker = edge.inner.worker
        known, authenticate = asyncio.Event(), worker.authenticate

        async def later(*arguments: object) -> object:
            await known.wait()
            return await authenticate(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(worker, "authenticate", later)
        body = large() + b" " * 6_000_000
        with edge.connect() as caller:
            caller.setblocking(False)
            data = memoryview(edge.request(body=body, lines="connection: close\r\n"))
            end = time.monotonic() + 0.5
            while data and time.monotonic() < end:
                try:
                    data = data[caller.send(data) :]
                except BlockingIOError:
                    time.sleep(0.01)
            (one,) = edge.inside(lambda: list(edge.listener._open))
            assert one._coming is not None
            assert FREE_BYTES < len(one._coming._parts) < FREE_BYTES + 512 * 1024
            edge.inside(known.set)
            caller.settimeout(10)
            caller.sendall(data)
            assert statuses(read_all(caller)) == [200]
