"""The listener on real sockets: what callers may do, what they may hold open, and for how long."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from costbearer.gateway import caller_connection, pipeline
from costbearer.gateway import listener as listening
from costbearer.gateway.caller_connection import CallerConnection
from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import CHAT, Edge, chat, chunked, read_all, read_reply, running_edge, statuses

LIMIT = 40_000
LONG = "output=60000 chunks=600"
"""A reply of some hundreds of kilobytes: more than a caller's and the gateway's buffers hold in these tests."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("edge")
    with running_edge(directory, simulator, body_bytes_max=LIMIT, body_timeout_s=0.5, stall_timeout_s=0.6) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every connection that a test opened is forgotten again, and every request over."""
    yield
    if "edge" in request.fixturenames:
        edge: Edge = request.getfixturevalue("edge")
        edge.until(
            lambda: (
                not (edge.listener._count or edge.listener._clients or edge.listener._open)
                and not edge.inner.worker.requests
                and not edge.inner.worker.live
            )
        )


# -- requests and replies


def test_a_connection_carries_one_request_after_the_other(edge: Edge) -> None:
    with edge.connect() as caller:
        for _ in range(3):
            caller.sendall(edge.request())
            answer = read_reply(caller)
            assert statuses(answer) == [200]
            assert b"connection: close" not in answer
        assert edge.connections() == 1


def test_three_requests_at_once_are_answered_in_order(edge: Edge) -> None:
    asked = edge.request("output=7") + edge.head("GET", "/v1/nothing") + edge.request(lines="connection: close\r\n")
    answer = edge.exchange(asked)
    assert statuses(answer) == [200, 404, 200]


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_byte_by_byte(edge: Edge, framing: str) -> None:
    data = edge.request(lines="connection: close\r\n")
    if framing == "chunks":
        lines = "transfer-encoding: chunked\r\nconnection: close\r\n"
        data = edge.request(body=chunked(chat(), 7), lines=lines)
    with edge.connect() as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            caller.send(data[at : at + 1])
        assert statuses(read_all(caller)) == [200]


def test_who_expects_to_be_told_to_continue_is_told(edge: Edge) -> None:
    body = chat()
    lines = f"content-length: {len(body)}\r\nexpect: 100-continue\r\nconnection: close\r\n"
    with edge.connect() as caller:
        caller.sendall(edge.head("POST", CHAT, lines))
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(body)
        assert statuses(read_all(caller)) == [200]
    with edge.connect() as caller:
        # It is refused before it has sent anything, and is not told to go on.
        caller.sendall(edge.head("POST", CHAT, lines).replace(b"cbk_", b"cbx_"))
        assert statuses(read_all(caller)) == [401]
    with edge.connect() as caller:
        # HTTP/1.0 knows no 100.
        caller.sendall(edge.head("POST", CHAT, lines, "HTTP/1.0"))
        time.sleep(0.1)
        caller.sendall(body)
        assert statuses(read_all(caller)) == [200]


def test_http_1_0_gets_a_stream_that_ends_with_its_connection(edge: Edge) -> None:
    body = chat("output=20 chunks=5", stream=True)
    answer = edge.exchange(edge.head("POST", CHAT, f"content-length: {len(body)}\r\n", "HTTP/1.0") + body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n")


def test_half_a_reply_does_not_look_whole_to_http_1_0(edge: Edge) -> None:
    """Its end is the end of the connection, so only a reset tells."""
    body = chat(LONG + " delay_ms=5", stream=True, max_tokens=60000)
    with edge.connect() as caller:
        caller.sendall(edge.head("POST", CHAT, f"content-length: {len(body)}\r\n", "HTTP/1.0") + body)
        assert caller.recv(1000)
        edge.inside(lambda: next(iter(edge.listener._open)).abort())
        with pytest.raises(ConnectionResetError):
            while caller.recv(65536):
                pass


def test_head_has_the_length_and_no_body(edge: Edge) -> None:
    with edge.connect() as caller:
        caller.sendall(b"HEAD /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = caller.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")
        assert b"content-length: 24\r\n" in answer
        caller.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert read_reply(caller).endswith(b'{"ok":true,"alive":true}')


# -- bodies that are refused


def test_a_body_that_is_too_large_by_its_own_account(edge: Edge) -> None:
    answer = edge.exchange(edge.head("POST", CHAT, f"content-length: {LIMIT + 1}\r\n") + b"{" * (LIMIT + 1))
    assert statuses(answer) == [413]
    assert b"body_too_large" in answer


def test_a_body_that_turns_out_too_large(edge: Edge) -> None:
    head = edge.head("POST", CHAT, "transfer-encoding: chunked\r\n")
    answer = edge.exchange(head + b"%x\r\n" % (LIMIT + 500_000) + b"{" * (LIMIT + 500_000))
    assert statuses(answer) == [413]


def test_a_refusal_reaches_a_caller_who_still_sends(edge: Edge) -> None:
    """Closed at once, the connection would be reset by the bytes that come after, and the refusal lost with it."""
    data = edge.head("POST", CHAT, "content-length: 30000\r\n").replace(b"cbk_", b"cbx_")
    with edge.connect() as caller:
        caller.sendall(data)
        time.sleep(0.1)
        for _ in range(10):
            caller.sendall(b"x" * 3000)
            time.sleep(0.01)
        answer = read_all(caller)
    assert statuses(answer) == [401]
    assert b"connection: close" in answer


@pytest.mark.parametrize("framing", ["content-length: 500", "transfer-encoding: chunked"])
def test_a_body_that_is_cut_off_opens_no_call(edge: Edge, framing: str) -> None:
    before = edge.calls()
    with edge.connect() as caller:
        caller.sendall(edge.head("POST", CHAT, framing + "\r\n") + b"20\r\n" + chat()[:32])
        caller.shutdown(socket.SHUT_WR)
        assert not statuses(read_all(caller))
    assert edge.calls() == before


def test_a_body_that_does_not_come(edge: Edge) -> None:
    began = time.monotonic()
    with edge.connect() as caller:
        caller.sendall(edge.head("POST", CHAT, "content-length: 500\r\n") + b"{")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(12):
                # One byte now and then does not prolong it.
                time.sleep(0.1)
                caller.sendall(b" ")
        answer = read_all(caller)
    assert b"did not arrive within 0.5 s" in answer
    assert time.monotonic() - began < 5


def test_a_head_that_does_not_come(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_connection, "HEAD_TIMEOUT_S", 0.3)
    silent = edge.connect()
    with edge.connect() as caller:
        caller.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n")
        answer = read_all(caller)
        assert statuses(answer) == [408]
        assert b"request_timeout" in answer
    with silent:
        assert read_all(silent) == b""


def test_an_idle_connection_ends_without_a_word(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_connection, "IDLE_TIMEOUT_S", 0.3)
    with edge.connect() as caller:
        caller.sendall(edge.head("GET", "/v1/models"))
        assert statuses(read_reply(caller)) == [200]
        assert read_all(caller) == b""


@pytest.mark.parametrize("data", [b"A: b\r\n" * 101, b"A: " + b"b" * 40_000 + b"\r\n", b"A: " + b"b" * 40_000])
def test_a_head_without_measure(edge: Edge, data: bytes) -> None:
    answer = edge.exchange(b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + data + b"\r\n")
    assert statuses(answer) == [431]


# -- callers who leave, and callers who do not read


def test_a_caller_who_sends_no_more_does_not_wait(edge: Edge, simulator: RunningSimulator) -> None:
    with edge.connect() as caller:
        caller.sendall(edge.request("mark=half output=30 chunks=30 delay_ms=50", stream=True))
        assert caller.recv(100)
        caller.shutdown(socket.SHUT_WR)
        edge.until(lambda: not edge.inner.worker.live, 1.0)
    (line,) = [line for line in simulator.books() if line.mark == "half"]
    assert line.outcome == "cut_by_client"


def test_a_caller_who_leaves_ends_the_call_at_once(edge: Edge, simulator: RunningSimulator) -> None:
    caller = edge.connect()
    caller.sendall(edge.request("mark=gone output=100 chunks=100 delay_ms=30", stream=True))
    assert caller.recv(100)
    caller.close()
    began = time.monotonic()
    edge.until(lambda: not edge.inner.worker.live)
    assert time.monotonic() - began < 1.0
    end = time.monotonic() + 5
    while not (lines := [line for line in simulator.books() if line.mark == "gone"]):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (lines[0].outcome, lines[0].generated_tokens < 100) == ("cut_by_client", True)


def test_a_caller_who_does_not_read_is_given_up(edge: Edge, simulator: RunningSimulator) -> None:
    with edge.connect(receive_bytes=4096) as caller:
        caller.sendall(edge.request(f"mark=stalled {LONG} delay_ms=5", stream=True, max_tokens=60000))
        edge.until(lambda: any(connection.paused for connection in edge.listener._open))
        buffered = edge.inside(lambda: max(one._transport.get_write_buffer_size() for one in edge.listener._open))
        # Nothing more is read from the provider meanwhile: one piece beyond the mark at most.
        assert buffered < 400_000
        began = time.monotonic()
        edge.until(lambda: not edge.listener._open)
        assert time.monotonic() - began < 3
        assert not read_all(caller).endswith(b"0\r\n\r\n")
    assert [line.outcome for line in simulator.books() if line.mark == "stalled"] == ["cut_by_client"]


def test_a_caller_who_reads_slowly_gets_it_all(edge: Edge) -> None:
    with edge.connect(receive_bytes=4096) as caller:
        caller.sendall(edge.request("output=20000 chunks=200", stream=True, max_tokens=60000))
        answer = bytearray()
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += caller.recv(8192)
            time.sleep(0.002)
        caller.sendall(edge.head("GET", "/v1/models"))
        assert statuses(read_reply(caller)) == [200]


def fill(edge: Edge, caller: socket.socket) -> None:
    """Ask without reading, and without a key, until a reply waits in the gateway: too little of it to be paused."""
    asked = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n" * 20

    def settled() -> bool:
        return all(one._task is None and not one._unread for one in edge.listener._open)

    def waits() -> bool:
        return all(one._transport.get_write_buffer_size() > 0 for one in edge.listener._open)

    # So that the requests come as they are sent, and not in one burst that is too much.
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    edge.until(lambda: len(edge.listener._open) == 1)
    while not edge.inside(waits):
        caller.sendall(asked)
        time.sleep(0.002)
        edge.until(settled)
    assert not edge.inside(lambda: next(iter(edge.listener._open)).paused)


@pytest.mark.parametrize("last", ["answered", "under way"])
def test_who_takes_nothing_and_sends_no_more_is_not_waited_for(edge: Edge, last: str) -> None:
    """Whatever the caller asked for last, and whether or not that is over."""
    with edge.connect(receive_bytes=2048) as caller:
        fill(edge, caller)
        caller.sendall(edge.request("first_byte_ms=1500") if last == "under way" else edge.head("GET", "/healthz"))
        if last == "under way":
            edge.until(lambda: bool(edge.inner.worker.live))
        caller.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        edge.until(lambda: not edge.listener._open)
        assert time.monotonic() - began < 2.0


def test_who_sends_no_more_and_takes_slowly_gets_what_was_written(edge: Edge) -> None:
    with edge.connect(receive_bytes=2048) as caller:
        fill(edge, caller)
        waiting = edge.inside(lambda: next(iter(edge.listener._open))._transport.get_write_buffer_size())
        caller.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        answer = read_all(caller)
    assert len(answer) > waiting
    assert set(statuses(answer)) == {200} and answer.endswith(b"}")


def test_nothing_is_begun_for_a_caller_who_does_not_take_the_answer(edge: Edge) -> None:
    """Else each further request would add its reply to what is kept for them, with no end and no deadline."""
    before = edge.calls()
    with edge.connect(receive_bytes=4096) as caller:
        caller.sendall(edge.request("output=60000", max_tokens=60000))
        edge.until(lambda: any(one.paused and one._task is None for one in edge.listener._open))
        kept = edge.inside(lambda: max(one._transport.get_write_buffer_size() for one in edge.listener._open))
        for _ in range(3):
            caller.sendall(edge.request("output=60000", max_tokens=60000))
            time.sleep(0.05)
        assert edge.calls() == before + 1
        assert edge.inside(lambda: max(one._transport.get_write_buffer_size() for one in edge.listener._open)) <= kept
        edge.until(lambda: not edge.listener._open)


def test_what_waited_behind_a_large_reply_is_answered_once_it_is_taken(edge: Edge) -> None:
    with edge.connect(receive_bytes=4096) as caller:
        caller.sendall(edge.request("output=60000", max_tokens=60000))
        edge.until(lambda: any(one.paused and one._task is None for one in edge.listener._open))
        caller.sendall(edge.head("GET", "/v1/models"))
        caller.sendall(edge.head("GET", "/v1/models", "connection: close\r\n"))
        assert statuses(read_all(caller)) == [200, 200, 200]


def test_what_is_sent_ahead_is_bounded(edge: Edge) -> None:
    ahead = edge.head("GET", "/v1/models")
    with edge.connect() as caller:
        caller.sendall(edge.request("output=5 first_byte_ms=400"))
        caller.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 20_000_000:
                sent += caller.send(ahead * 200)
        assert sent < 20_000_000
        kept = edge.inside(lambda: max(len(one._unread) for one in edge.listener._open))
        assert kept < 2 * 256 * 1024 + caller_connection.READ_AHEAD_BYTES


# -- caps


def test_one_address_has_its_share_and_no_more(
    tmp_path: Path, simulator: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "EXCESS_ANSWERED", 1)
    asked = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    with running_edge(tmp_path, simulator, connections_per_client_max=2) as edge, contextlib.ExitStack() as stack:
        inside = [stack.enter_context(edge.connect()) for _ in range(2)]
        edge.await_connections(2)
        third, fourth = edge.connect(), edge.connect()
        with fourth:
            edge.await_connections(3)
            with contextlib.suppress(ConnectionResetError):
                assert fourth.recv(100) == b""
        with third:
            third.sendall(asked)
            refused = read_all(third)
            assert statuses(refused) == [429]
            assert b"rate_limited" in refused and b"connection: close" in refused
        with edge.connect(source="127.0.0.9") as other:
            other.sendall(asked)
            assert statuses(read_reply(other)) == [200]
        for caller in inside:
            caller.sendall(asked)
            assert statuses(read_reply(caller)) == [200]
        inside[0].close()
        edge.await_connections(1)
        with edge.connect() as again:
            again.sendall(asked)
            assert statuses(read_reply(again)) == [200]


def test_no_more_connections_than_there_may_be(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_edge(tmp_path, simulator, connections_max=2) as edge:
        callers = [edge.connect(source=f"127.0.0.{number}") for number in (2, 3)]
        edge.await_connections(2)
        with edge.connect(source="127.0.0.4") as third:
            assert read_all(third) == b""
        callers[0].close()
        edge.await_connections(1)
        with edge.connect(source="127.0.0.4") as third:
            third.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            assert statuses(read_reply(third)) == [200]
        callers[1].close()


class _Full:
    """A listening socket of a process that has no descriptor left, the first time."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.asked = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.asked == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._inner.accept()

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()


def test_without_descriptors_it_waits_and_goes_on(
    tmp_path: Path, simulator: RunningSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    with running_edge(tmp_path, simulator) as edge:
        full = _Full(edge.listener._listening)
        edge.inside(lambda: setattr(edge.listener, "_listening", full))
        with edge.connect() as caller:
            caller.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            began = time.monotonic()
            assert statuses(read_reply(caller)) == [200]
            assert time.monotonic() - began > 0.8 * listening.ACCEPT_PAUSE_S
        assert full.asked == 2, "it did not spin"
    said = [record.getMessage() for record in caplog.records if record.name == "costbearer.gateway"]
    assert said == ["no connection can be accepted now: Too many open files"]


# -- faults and the end


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_ours_drops_one_connection(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ArithmeticError("a fault of ours")

    with edge.connect() as other:
        with monkeypatch.context() as broken:
            broken.setattr(pipeline, "find", fails)
            with edge.connect() as caller:
                caller.sendall(edge.request())
                assert read_all(caller) == b""
        other.sendall(edge.head("GET", "/v1/models"))
        assert statuses(read_reply(other)) == [200]
    assert "a fault of ours" in caplog.text


def test_the_watch_over_deadlines_survives_a_fault(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_connection, "HEAD_TIMEOUT_S", 0.1)
    failed: list[CallerConnection] = []

    def fails(one: CallerConnection, now: float) -> None:
        if not failed:
            failed.append(one)
            raise ArithmeticError("a fault of ours")
        expire(one, now)

    expire = CallerConnection.expire
    monkeypatch.setattr(CallerConnection, "expire", fails)
    with edge.connect() as caller:
        assert read_all(caller) == b""
    assert failed


def test_the_end_closes_what_is_idle_and_lets_the_rest_finish(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_edge(tmp_path, simulator) as edge, contextlib.ExitStack() as stack:
        idle, half, sending, streaming = (stack.enter_context(edge.connect()) for _ in range(4))
        idle.sendall(edge.head("GET", "/v1/models"))
        read_reply(idle)
        half.sendall(b"GET /healthz HTTP/1.1\r\nhos")
        sending.sendall(edge.head("POST", CHAT, "content-length: 500\r\n") + b"{")
        streaming.sendall(edge.request("output=20 chunks=20 delay_ms=20", stream=True))
        assert streaming.recv(100)
        edge.until(lambda: edge.inner.worker.requests == 2)
        edge.inside(edge.listener.stop_accepting)
        assert read_all(idle) == read_all(half) == b""
        refused = read_all(sending)
        assert statuses(refused) == [503]
        assert b"shutting_down" in refused
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", edge.port)) == errno.ECONNREFUSED
        assert read_all(streaming).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
