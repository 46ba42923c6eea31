"""The server as its users run it: real processes, the official SDKs, signals, hostile bytes on the socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from costbearer.console_process import NICENESS
from costbearer.simulator import RunningSimulator, running_simulator
from tests.system import Server, alive, free_port, kill, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), simulator) as running:
        yield running


def posted(server: Server, mark: str, count: int = 1) -> list[dict[str, Any]]:
    """The entries with this mark, once the bookkeeper has posted them."""
    end = time.monotonic() + 15
    while True:
        found: list[dict[str, Any]] = server.api("GET", "/api/v1/entries", params={"tag:mark": mark})["entries"]
        if len(found) >= count or time.monotonic() > end:
            assert len(found) == count, found
            return found
        time.sleep(0.1)


def billed(simulator: RunningSimulator, mark: str) -> Decimal:
    return sum((line.cost for line in simulator.books() if line.mark == mark), Decimal(0))


def raw(server: Server, data: bytes, *, wait_s: float = 3.0) -> bytes:
    """Bytes to the gateway's socket, and what comes back until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.gateway_port), timeout=wait_s) as connection:
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
                if b"\r\n\r\n" in answer and b"content-length" in answer.lower():
                    break
        return answer


def openai_at(server: Server, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.gateway_url}/v1", api_key=key or server.issue(), max_retries=0)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai_at(server) as opened:
        yield opened


@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_sdk(server: Server, simulator: RunningSimulator, client: openai.OpenAI, stream: bool) -> None:
    mark = f"sdk-openai-{stream}"
    metadata: Any = {"tags": [f"mark:{mark}", "feature:tests"]}
    messages: Any = [{"role": "user", "content": f"Say something. [[sim:mark={mark}]]"}]
    if stream:
        text = ""
        for chunk in client.chat.completions.create(
            model="gpt-4o-mini", messages=messages, max_tokens=50, stream=True, metadata=metadata
        ):
            text += chunk.choices[0].delta.content or ""
        assert text
    else:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=messages, max_tokens=50, metadata=metadata
        )
        assert Decimal(answer.headers["x-costbearer-cost-usd"]) == billed(simulator, mark)
        assert answer.parse().choices[0].message.content
    (entry,) = posted(server, mark)
    assert (entry["basis"], entry["feature"], entry["team"]) == ("metered", "tests", "search")
    assert Decimal(entry["cost_usd"]) == billed(simulator, mark)


@pytest.mark.parametrize("stream", [False, True])
def test_the_anthropic_sdk(server: Server, simulator: RunningSimulator, stream: bool) -> None:
    mark = f"sdk-anthropic-{stream}"
    asked: Any = {
        "model": "claude-haiku-4-5",
        "messages": [{"role": "user", "content": f"Say something. [[sim:mark={mark}]]"}],
        "max_tokens": 50,
        "extra_headers": {"x-costbearer-tags": f"mark:{mark}"},
    }
    with anthropic.Anthropic(base_url=server.gateway_url, api_key=server.issue(), max_retries=0) as claude:
        if stream:
            with claude.messages.stream(**asked) as events:
                assert events.get_final_message().usage.output_tokens
        else:
            assert claude.messages.create(**asked).usage.output_tokens
    (entry,) = posted(server, mark)
    assert entry["basis"] == "metered"
    assert Decimal(entry["cost_usd"]) == billed(simulator, mark)


def test_sdk_errors_carry_our_code(server: Server) -> None:
    with openai_at(server, "cbk_wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "key_invalid"
    with (
        anthropic.Anthropic(base_url=server.gateway_url, api_key="cbk_wrong", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError) as other,
    ):
        claude.messages.create(model="claude-haiku-4-5", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    body: Any = other.value.body
    assert body["error"]["code"] == "key_invalid"


def test_a_caller_who_leaves_is_noticed(server: Server, simulator: RunningSimulator, client: openai.OpenAI) -> None:
    mark = "left"
    metadata: Any = {"tags": [f"mark:{mark}"]}
    stream = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": f"Long. [[sim:mark={mark} output=300 chunks=100 delay_ms=20]]"}],
        max_tokens=400,
        stream=True,
        metadata=metadata,
    )
    for number, _ in enumerate(stream):
        if number == 5:
            break
    stream.close()
    (entry,) = posted(server, mark)
    assert (entry["status"], entry["basis"]) == ("cancelled", "estimated")
    (line,) = [line for line in simulator.books() if line.mark == mark]
    assert line.outcome == "cut_by_client"
    assert line.generated_tokens < 300


def test_a_revoked_key_stops_within_a_second_on_every_worker(server: Server) -> None:
    issued = server.api("POST", "/api/v1/keys", json={"owner": "o", "team": "t1", "agent": "a1", "workload": "w1"})
    address, headers = f"{server.gateway_url}/v1/models", {"authorization": f"Bearer {issued['key']}"}
    end = time.monotonic() + 5
    while httpx2.get(address, headers=headers).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    server.api("POST", f"/api/v1/keys/{issued['key_id']}/revoke", json={})
    time.sleep(1.0)
    codes = {httpx2.get(address, headers=headers).json()["error"]["code"] for _ in range(30)}
    assert codes == {"key_revoked"}


HOSTILE: dict[str, tuple[bytes, bytes]] = {
    "no host": (b"POST /v1/chat/completions HTTP/1.1\r\n\r\n", b"header_invalid"),
    "two hosts": (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b"header_invalid"),
    "two keys": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\nauthorization: Bearer y\r\n\r\n",
        b"header_invalid",
    ),
    "bearer and x-api-key": (
        b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\nx-api-key: y\r\n\r\n",
        b"header_invalid",
    ),
    "trace": (b"TRACE /v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n", b"method_refused"),
    "double slash": (b"POST //v1/chat/completions HTTP/1.1\r\nhost: a\r\n\r\n", b"endpoint_not_metered"),
    "dot segments": (b"POST /v1/../v1/messages HTTP/1.1\r\nhost: a\r\n\r\n", b"endpoint_not_metered"),
    "encoded slash": (b"POST /v1%2fmessages HTTP/1.1\r\nhost: a\r\n\r\n", b"request_malformed"),
    "absolute form": (b"POST http://evil/v1/nothing HTTP/1.1\r\nhost: a\r\n\r\n", b"request_malformed"),
    "http/2 in the clear": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"request_malformed"),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_framing(server: Server, name: str) -> None:
    data, code = HOSTILE[name]
    answer = raw(server, data)
    assert not answer.startswith(b"HTTP/1.1 2")
    if code:
        assert code in answer
    assert httpx2.get(f"{server.gateway_url}/healthz").status_code == 200


def test_a_body_that_is_cut_off_opens_no_call(server: Server, simulator: RunningSimulator) -> None:
    key = server.issue()
    before = len(simulator.books().lines)
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 500}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
    cut = body[:200]
    for framed in (
        f"content-length: {len(body)}\r\n\r\n".encode() + cut,
        b"transfer-encoding: chunked\r\n\r\n" + f"{len(cut):x}\r\n".encode() + cut + b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.gateway_port), timeout=3) as connection:
            connection.sendall(head.encode() + framed)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                assert not connection.recv(65536).startswith(b"HTTP/1.1 2")
    assert len(simulator.books().lines) == before


def test_a_second_server_on_the_same_data_is_refused(server: Server) -> None:
    again = server.run("serve")
    assert again.returncode == 2
    assert "data_directory_busy" in again.stderr
    console = server.run("console", "--console-port", str(free_port()))
    assert console.returncode == 2
    assert "data_directory_busy" in console.stderr


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path, server: Server, simulator: RunningSimulator) -> None:
    other = Server(tmp_path, simulator)
    refused = other.run("serve", "--gateway-port", str(server.gateway_port))
    assert refused.returncode == 2
    assert f"127.0.0.1:{server.gateway_port} cannot be used" in refused.stderr


def test_commands_go_through_the_running_server(server: Server) -> None:
    listed = server.run("keys", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    report = server.run("report", "spend", "--by", "team", "--json")
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["by"] == ["team"]
    doctor = server.run("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_sigterm_lets_running_calls_end_and_stops_in_time(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_server(tmp_path, simulator) as server, openai_at(server) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Slowly. [[sim:mark=drain output=40 chunks=40 delay_ms=40]]"}],
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        events = iter(stream)
        next(events)
        # A caller who stalls in the middle of its request must not hold up the stop.
        stalled = socket.create_connection(("127.0.0.1", server.gateway_port))
        stalled.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\nx-api-key: x\r\n\r\n{")
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        last = list(events)[-1]
        assert last.usage is not None, "the stream came to its end"
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 20
        stalled.close()
        report = server.run("report", "spend", "--json")
        assert json.loads(report.stdout)["calls"] == 1, report.stderr


def test_workers_do_not_outlive_their_gateway(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_server(tmp_path, simulator) as server:
        workers = server.roles()["workers"]
        assert len(workers) == 2
        kill(server.roles()["gateway"][0])
        end = time.monotonic() + 10
        while any(alive(pid) for pid in workers) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in workers)
        server.await_ready()
        assert server.roles()["workers"] != workers


def test_everything_ends_with_its_supervisor(tmp_path: Path, simulator: RunningSimulator) -> None:
    with running_server(tmp_path, simulator) as server:
        roles = server.roles()
        assert server.process is not None
        niceness = {name: {os.getpriority(os.PRIO_PROCESS, pid) for pid in roles[name]} for name in roles}
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        assert niceness["workers"] == niceness["gateway"] == {mine}
        assert niceness["console"] == {max(mine, NICENESS)}
        # Who was stopped at that moment must hear of it as well.
        os.kill(roles["gateway"][0], signal.SIGSTOP)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        os.kill(roles["gateway"][0], signal.SIGCONT)
        pids = [*roles["gateway"], *roles["workers"], *roles["console"]]
        end = time.monotonic() + 15
        while any(alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids)


def test_a_gateway_without_providers_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "costbearer", "gateway", "--data", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "[providers.NAME]" in done.stderr
