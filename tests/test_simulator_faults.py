"""The simulated providers on a bad day, seen through raw sockets: what arrives, what is in the books, and when."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from costbearer.errors import StoreFailed
from costbearer.simulator import CREDENTIAL, Line, RunningSimulator, Simulator, read_books, running_simulator

OPENAI_PATH, ANTHROPIC_PATH = "/v1/chat/completions", "/v1/messages"
TEXT = "Tell me what the harbour clerk wrote. "


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def simulator(shared: RunningSimulator) -> RunningSimulator:
    shared.reset()
    return shared


class Heard(NamedTuple):
    """A raw reply: its head, the body with the transfer coding taken off as far as it came, and how it ended."""

    head: bytes
    body: bytes
    ending: str  # "whole", "eof" or "reset"


def body_of(path: str, orders: str, stream: bool = True) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{TEXT}[[sim:{orders}]]"}]
    if path == ANTHROPIC_PATH:
        return {"model": "claude-opus-4-8", "max_tokens": 4000, "stream": stream, "messages": messages}
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"model": "gpt-4o-mini", "messages": messages} | options


def request_bytes(path: str, body: dict[str, Any], version: str = "1.1") -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/{version}\r\nHost: simulator\r\nAuthorization: Bearer {CREDENTIAL}\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def dial(simulator: RunningSimulator) -> socket.socket:
    return socket.create_connection(("127.0.0.1", simulator.port), timeout=10)


def ask(simulator: RunningSimulator, path: str, orders: str, *, stream: bool = True) -> Heard:
    """One request on a connection of its own, read until it is whole or breaks."""
    with dial(simulator) as sock:
        sock.sendall(request_bytes(path, body_of(path, orders, stream)))
        raw = b""
        while True:
            heard = take_apart(raw)
            if heard is not None and heard.ending == "whole":
                return heard
            try:
                part = sock.recv(65536)
            except ConnectionResetError:
                return (heard or Heard(b"", b"", ""))._replace(ending="reset")
            if not part:
                return (heard or Heard(b"", b"", ""))._replace(ending="eof")
            raw += part


def take_apart(raw: bytes) -> Heard | None:
    head, found, rest = raw.partition(b"\r\n\r\n")
    if not found:
        return None
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return Heard(head, rest, "whole" if len(rest) == length else "partial")
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return Heard(head, body, "partial")
        length = int(size, 16)
        if not length:
            return Heard(head, body, "whole")
        body += rest[:length]
        if len(rest) < length + 2:
            return Heard(head, body, "partial")
        rest = rest[length + 2 :]


def only(simulator: RunningSimulator) -> Line:
    books = simulator.books()
    assert len(books) == 1
    return books.lines[0]


BOTH = pytest.mark.parametrize("path", [OPENAI_PATH, ANTHROPIC_PATH])


def test_a_refusal_for_the_first_tries_is_retried_by_the_sdk(simulator: RunningSimulator) -> None:
    with openai.OpenAI(base_url=simulator.openai_base_url, api_key=CREDENTIAL, max_retries=2) as client:
        content = "Try. [[sim:mark=r1 status=429 times=2 retry_after=0.01]]"
        reply = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": content}])
    books = simulator.books()
    assert [(line.status, line.billed) for line in books] == [(429, False), (429, False), (200, True)]
    assert books.where(mark="r1", billed=True).lines[0].response_id == reply.id
    assert books.lines[0].fault == "status=429"
    assert books.total() == books.lines[2].cost > 0


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit_error"), (500, "api_error"), (503, "api_error"), (529, "overloaded_error")]
)
def test_anthropic_refuses_in_its_own_words(simulator: RunningSimulator, status: int, kind: str) -> None:
    base_url = simulator.anthropic_base_url
    with (
        anthropic.Anthropic(base_url=base_url, api_key=CREDENTIAL, max_retries=0) as client,
        pytest.raises(anthropic.APIStatusError) as refused,
    ):
        content = f"Try. [[sim:status={status} retry_after=7]]"
        client.messages.create(model="claude-opus-4-8", max_tokens=5, messages=[{"role": "user", "content": content}])
    assert refused.value.status_code == status
    assert refused.value.type == kind
    assert refused.value.response.headers["retry-after"] == "7"
    assert only(simulator).outcome == "error"


@BOTH
def test_a_stream_cut_after_every_so_many_bytes_is_billed_for_what_was_generated(
    simulator: RunningSimulator, path: str
) -> None:
    entire = ask(simulator, path, "output=12 chunks=4")
    assert entire.ending == "whole"
    full = only(simulator)
    previous, line = Decimal(0), full
    for at in range(0, len(entire.body) + 1, 37):
        simulator.reset()
        simulator.set_faults(reset_after=at)
        heard = ask(simulator, path, "output=12 chunks=4")
        assert (heard.ending, len(heard.body)) == ("reset", at)
        line = only(simulator)
        assert (line.outcome, line.bytes_sent, line.billed) == ("cut_by_fault", at, True)
        assert line.fault == f"reset_after={at}"
        assert line.cost > 0
        assert previous <= line.cost <= full.cost
        previous = line.cost
    assert (line.generated_tokens, line.cost) == (12, full.cost)
    simulator.reset()
    simulator.set_faults(reset_after=len(entire.body) + 500)
    assert ask(simulator, path, "output=12 chunks=4").ending == "whole"
    assert only(simulator).outcome == "complete"


@BOTH
@pytest.mark.parametrize("stream", [True, False])
def test_closed_before_the_head_and_in_the_middle(simulator: RunningSimulator, path: str, stream: bool) -> None:
    nothing = ask(simulator, path, "close_after=-1 output=30", stream=stream)
    assert nothing == (b"", b"", "eof")
    reset = ask(simulator, path, "reset_after=-1 output=30", stream=stream)
    assert reset == (b"", b"", "reset")
    middle = ask(simulator, path, "close_after=100 output=30", stream=stream)
    assert middle.ending == "eof"
    assert len(middle.body) == 100
    one, two, three = simulator.books()
    assert [line.outcome for line in (one, two, three)] == ["cut_by_fault"] * 3
    assert one.cost > 0  # the prompt was read
    # A whole reply is generated to its end before its first byte; of a stream only what had been told.
    assert [line.generated_tokens for line in (one, two)] == ([0, 0] if stream else [30, 30])
    assert (three.generated_tokens == 30) is not stream


@BOTH
def test_a_stall_is_in_the_books_while_it_lasts(simulator: RunningSimulator, path: str) -> None:
    with dial(simulator) as sock:
        sock.sendall(request_bytes(path, body_of(path, "stall_after=40 output=30")))
        raw = b""
        while (heard := take_apart(raw)) is None or len(heard.body) < 40:
            raw += sock.recv(65536)
        assert len(heard.body) == 40
        assert only(simulator).outcome == "cut_by_fault"
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert len(simulator.books()) == 1


@BOTH
def test_a_client_that_leaves_a_stream_pays_for_what_was_generated(simulator: RunningSimulator, path: str) -> None:
    with dial(simulator) as sock:
        sock.sendall(request_bytes(path, body_of(path, "output=400 chunks=200 delay_ms=5")))
        raw = b""
        while (heard := take_apart(raw)) is None or len(heard.body) < 2500:
            raw += sock.recv(4096)
    line = only(simulator)
    assert line.outcome == "cut_by_client"
    assert 0 < line.generated_tokens < 400
    assert line.bytes_sent >= 2500
    assert line.usage is not None
    rates = (Decimal("0.15"), Decimal("0.60")) if path == OPENAI_PATH else (Decimal(5), Decimal(25))
    counts = ("prompt_tokens", "completion_tokens") if path == OPENAI_PATH else ("input_tokens", "output_tokens")
    assert line.usage[counts[1]] == line.generated_tokens
    expected = sum(line.usage[name] * rate for name, rate in zip(counts, rates, strict=True))
    assert line.cost == expected * Decimal("0.000001")


@BOTH
@pytest.mark.parametrize(("stream", "generated"), [(True, 0), (False, 50)])
def test_a_client_that_leaves_before_the_first_byte(
    simulator: RunningSimulator, path: str, stream: bool, generated: int
) -> None:
    with dial(simulator) as sock:
        sock.sendall(request_bytes(path, body_of(path, "output=50 first_byte_ms=60000", stream)))
        deadline = time.monotonic() + 5
        while not simulator.in_flight and time.monotonic() < deadline:
            time.sleep(0.005)
        assert simulator.in_flight == 1
    line = only(simulator)
    assert (line.outcome, line.generated_tokens, line.bytes_sent) == ("cut_by_client", generated, 0)
    assert line.cost > 0


@BOTH
@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_nobody_can_read_are_billed(simulator: RunningSimulator, path: str, stream: bool) -> None:
    page = ask(simulator, path, "html=1 output=25", stream=stream)
    assert b"200 OK" in page.head
    assert b"text/html" in page.head
    assert page.body.startswith(b"<!DOCTYPE html>")
    noise = ask(simulator, path, "garbage=1 output=25", stream=stream)
    with pytest.raises(UnicodeDecodeError):
        noise.body.decode()
    cut = ask(simulator, path, "truncated_json=1 output=25", stream=stream)
    assert [heard.ending for heard in (page, noise, cut)] == ["whole"] * 3
    last = cut.body.rpartition(b"data: ")[2] if stream else cut.body
    with pytest.raises(json.JSONDecodeError):
        json.loads(last)
    lines = simulator.books().lines
    assert [line.generated_tokens for line in lines] == [25] * 3
    assert [line.outcome for line in lines] == ["cut_by_fault"] * 3
    assert all(line.billed and line.cost > 0 and line.stream is stream for line in lines)


@BOTH
@pytest.mark.parametrize("stream", [True, False])
def test_usage_left_out_or_told_twice(simulator: RunningSimulator, path: str, stream: bool) -> None:
    usual = ask(simulator, path, "output=25", stream=stream)
    without = ask(simulator, path, "no_usage=1 output=25", stream=stream)
    twice = ask(simulator, path, "usage_twice=1 output=25", stream=stream)
    told = b'"output_tokens":25' if path == ANTHROPIC_PATH else b'"completion_tokens":25'
    assert [heard.body.count(told) for heard in (usual, without, twice)] == [1, 0, 2]
    assert [line.generated_tokens for line in simulator.books()] == [25] * 3
    assert [line.fault for line in simulator.books()] == [None, "no_usage=True", "usage_twice=True"]


@BOTH
def test_the_smallest_pieces_make_the_same_reply(simulator: RunningSimulator, path: str) -> None:
    entire = ask(simulator, path, "output=12")
    simulator.set_faults(chunk_bytes=1)
    apart = ask(simulator, path, "output=12")
    assert apart.ending == "whole"
    assert len(words(path, entire.body)) >= 30
    assert words(path, apart.body) == words(path, entire.body)
    assert apart.head.count(b"\r\n") == entire.head.count(b"\r\n")
    assert [line.outcome for line in simulator.books()] == ["complete"] * 2
    assert simulator.books().lines[1].bytes_sent == len(apart.body)


def words(path: str, body: bytes) -> str:
    told = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if path == ANTHROPIC_PATH:
                told.append(event.get("delta", {}).get("text", ""))
            elif event["choices"]:
                told.append(event["choices"][0]["delta"].get("content") or "")
    return "".join(told)


def test_an_error_inside_a_stream_reaches_the_sdk(simulator: RunningSimulator) -> None:
    content: list[Any] = [{"role": "user", "content": f"{TEXT}[[sim:error_event=5 output=60]]"}]
    with openai.OpenAI(base_url=simulator.openai_base_url, api_key=CREDENTIAL, max_retries=0) as client:
        stream = client.chat.completions.create(model="gpt-4o-mini", messages=content, stream=True)
        with stream, pytest.raises(openai.APIError, match="server had an error"):
            list(stream)
    base_url = simulator.anthropic_base_url
    with (
        anthropic.Anthropic(base_url=base_url, api_key=CREDENTIAL, max_retries=0) as claude,
        claude.messages.stream(model="claude-opus-4-8", max_tokens=99, messages=content) as events,
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
    ):
        list(events)
    for line in simulator.books():
        assert line.outcome == "cut_by_fault"
        assert 0 < line.generated_tokens < 60


@BOTH
def test_a_cost_that_the_provider_states(simulator: RunningSimulator, path: str) -> None:
    heard = ask(simulator, path, "cost_header=1 body_cost=1 output=7", stream=False)
    line = only(simulator)
    assert f"x-sim-cost-usd: {line.cost_usd}".encode() in heard.head
    usage = json.loads(heard.body, parse_float=Decimal)["usage"]
    assert usage["cost"] == line.cost
    assert line.usage is not None
    assert "cost" not in line.usage
    fixed = ask(simulator, path, "body_cost=1 cost=0.000000123456 output=7")
    assert b'"cost":0.000000123456' in fixed.body
    assert simulator.books().lines[1].cost == Decimal("0.000000123456")


def test_standing_faults_books_and_reset_over_http(simulator: RunningSimulator) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=10)

    def call(method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection.request(method, path, None if body is None else json.dumps(body))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())

    assert call("POST", "/sim/faults", {"status": 503, "mark": "z"}) == (200, {"faults": {"status": 503, "mark": "z"}})
    assert b" 503 " in ask(simulator, OPENAI_PATH, "output=5", stream=False).head
    assert call("POST", "/sim/faults", {"stat": 503})[0] == 400
    assert call("POST", "/sim/faults", {}) == (200, {"faults": {}})
    ask(simulator, OPENAI_PATH, "output=5 mark=ok", stream=False)
    _, books = call("GET", "/sim/books")
    assert [(line["mark"], line["billed"]) for line in books["lines"]] == [("z", False), ("ok", True)]
    assert books["in_flight"] == 0
    assert Decimal(books["total_usd"]) == simulator.books().total() > 0
    model = books["totals"]["openai"]["gpt-4o-mini-2024-07-18"]
    assert model == {"billed": 1, "refused": 0, "cost_usd": books["total_usd"]}
    assert "lines" not in call("GET", "/sim/books?lines=0&mark=ok")[1]
    assert call("GET", "/sim/nothing")[0] == 404
    assert call("POST", "/sim/reset") == (200, {})
    assert call("GET", "/sim/books")[1]["lines"] == []
    connection.close()


def test_http_edges(simulator: RunningSimulator) -> None:
    body = body_of(OPENAI_PATH, "output=5", stream=False)
    with dial(simulator) as sock:  # three requests in one write are answered in order
        sock.sendall(request_bytes(OPENAI_PATH, body) * 3)
        raw = b""
        while raw.count(b'"finish_reason"') < 3:
            raw += sock.recv(65536)
    ids = [line.response_id for line in simulator.books()]
    positions = [raw.index(str(response_id).encode()) for response_id in ids]
    assert positions == sorted(positions)
    assert len(set(ids)) == 3
    with dial(simulator) as sock:  # HTTP/1.0 knows no chunks: the end of the connection is the end of the stream
        sock.sendall(request_bytes(OPENAI_PATH, body_of(OPENAI_PATH, "output=5"), "1.0"))
        raw = b"".join(iter(lambda: sock.recv(65536), b""))
    assert raw.endswith(b"data: [DONE]\n\n")
    assert b"chunked" not in raw
    with dial(simulator) as sock:
        sock.sendall(b"NONSENSE\r\n\r\n")
        assert b" 400 " in sock.recv(1000)
        assert sock.recv(1000) == b""
    with dial(simulator) as sock:
        sock.sendall(request_bytes(OPENAI_PATH, body).replace(b"Host:", b"Expect: 100-continue\r\nHost:"))
        assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    simulator.reset()
    with dial(simulator) as sock:
        sock.sendall(request_bytes(OPENAI_PATH, body).replace(b'{"model"', b'["model"'))
        assert b" 400 " in sock.recv(65536)
        sock.sendall(request_bytes("/v1/embeddings", body))
        assert b" 404 " in sock.recv(65536)
        sock.sendall(request_bytes(ANTHROPIC_PATH, body).replace(b"POST", b"PUT"))
        assert b" 405 " in sock.recv(65536)
        sock.sendall(request_bytes(ANTHROPIC_PATH, body).replace(b"anthropic-version", b"x-version"))
        assert b" 400 " in sock.recv(65536)
    assert [line.outcome for line in simulator.books()] == ["error"] * 4


def test_books_outlive_the_simulator_and_are_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    for expected in (1, 2):
        with running_simulator(books=path) as simulator:
            ask(simulator, OPENAI_PATH, "output=5", stream=False)
            assert [line.seq for line in simulator.books()] == list(range(1, expected + 1))
    books = read_books(path)
    assert len({line.response_id for line in books}) == 2
    with path.open("ab") as file:
        file.write(b'{"seq":3')
    assert len(read_books(path)) == 2  # a line that is still being written
    with path.open("ab") as file:
        file.write(b"}\n")
    with pytest.raises(StoreFailed, match="line 3"):
        read_books(path)


def test_stopping_in_the_middle_is_the_providers_fault(tmp_path: Path) -> None:
    async def live() -> None:
        simulator = Simulator(books=tmp_path / "books.jsonl")
        await simulator.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(request_bytes(OPENAI_PATH, body_of(OPENAI_PATH, "output=50 chunks=50 delay_ms=100")))
        await reader.readuntil(b"assistant")
        assert simulator.in_flight == 1
        with pytest.raises(TimeoutError):
            await simulator.settle(0.01)
        await simulator.stop()
        writer.close()

    asyncio.run(live())
    (line,) = read_books(tmp_path / "books.jsonl")
    assert line.outcome == "cut_by_fault"
    assert line.generated_tokens < 50


def test_a_slow_reader_is_waited_for(simulator: RunningSimulator) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", simulator.port))
        sock.sendall(request_bytes(OPENAI_PATH, body_of(OPENAI_PATH, "output=25000 chunks=25000 first_byte_ms=1")))
        assert sock.recv(1)
        time.sleep(0.3)
        assert simulator.in_flight == 1  # 7 MB do not fit into the buffers between us
        raw = bytearray()
        while not raw.endswith(b"0\r\n\r\n"):
            raw += sock.recv(1 << 20)
    line = only(simulator)
    assert (line.outcome, line.generated_tokens) == ("complete", 25000)


def test_as_a_process(tmp_path: Path) -> None:
    books = tmp_path / "books.jsonl"
    command = [sys.executable, "-m", "costbearer.simulator", "--books", str(books), "--seed", "5", "--keep-bodies"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        origin = process.stdout.readline().split()[-1]
        port = int(origin.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request_bytes(OPENAI_PATH, body_of(OPENAI_PATH, "output=5 mark=p", stream=False)))
            assert b" 200 " in sock.recv(65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    (line,) = read_books(books)
    assert line.mark == "p"
    assert line.body is not None
