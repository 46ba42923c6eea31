"""The whole system in real processes: supervisor, gateway with workers, console; and a load on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import httpx2

from costbearer.simulator import CREDENTIAL, RunningSimulator

START_TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    """The process ids of a process's direct children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(part) for part in text.split()]


def kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Server:
    """`costbearer serve` on a data directory, its processes known by role, and its API."""

    def __init__(
        self,
        directory: Path,
        simulator: RunningSimulator,
        *,
        workers: int = 2,
        extra: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        """`environment` is that of the server's processes; None leaves it as it is here."""
        self.directory = directory
        self.environment = environment
        self.data = directory / "data"
        self.gateway_port, self.console_port = free_port(), free_port()
        self.gateway_url = f"http://127.0.0.1:{self.gateway_port}"
        self.console_url = f"http://127.0.0.1:{self.console_port}"
        self.config = directory / "costbearer.toml"
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "provider-key").write_text(CREDENTIAL)
        self.config.write_text(
            f"""data = "{self.data}"
[gateway]
port = {self.gateway_port}
workers = {workers}
drain_timeout_s = 5
[console]
port = {self.console_port}
{extra}
[providers.openai]
dialect = "openai"
base_url = "{simulator.openai_base_url}"
api_key_file = "{directory / "provider-key"}"
[providers.anthropic]
dialect = "anthropic"
base_url = "{simulator.anthropic_base_url}"
api_key_file = "{directory / "provider-key"}"
"""
        )

    def start(self) -> None:
        log = (self.directory / "server.log").open("ab")
        command = [sys.executable, "-m", "costbearer", "serve", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=self.environment)
        log.close()
        self.await_ready()

    def await_ready(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        for address in (f"{self.console_url}/readyz", f"{self.gateway_url}/readyz"):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    # Reading the certificates for each of these looks took more than half of a core.
                    if httpx2.get(address, timeout=2, verify=False).status_code == 200:
                        break
                assert self.process is not None and self.process.poll() is None, self.log()
                assert time.monotonic() < end, f"not ready: {address}\n{self.log()}"
                time.sleep(0.05)

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")[-6000:]

    def roles(self) -> dict[str, list[int]]:
        """The process ids of supervisor, gateway, workers and console, as they are now."""
        assert self.process is not None
        found: dict[str, list[int]] = {"supervisor": [self.process.pid], "gateway": [], "workers": [], "console": []}
        for pid in children(self.process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except FileNotFoundError:
                continue
            if b"gateway" in command:
                found["gateway"].append(pid)
                found["workers"] += children(pid)
            elif b"console" in command:
                found["console"].append(pid)
        return found

    def kill_everything(self) -> None:
        """SIGKILL to every process of the server, the supervisor first so that it restarts nothing."""
        roles = self.roles()
        pids = [pid for name in ("supervisor", "gateway", "workers", "console") for pid in roles[name]]
        for pid in pids:
            kill(pid)
        assert self.process is not None
        self.process.wait()
        end = time.monotonic() + 10
        while any(alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.01)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise

    def api(self, method: str, path: str, **options: Any) -> Any:
        token = (self.data / "admin-token").read_text().strip()
        answer = httpx2.request(
            method,
            self.console_url + path,
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
            verify=False,
            **options,
        )
        assert answer.status_code < 300, (answer.status_code, answer.text)
        return answer.json()

    def issue(self, **labels: str) -> str:
        standard = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
        key: str = self.api("POST", "/api/v1/keys", json=standard | labels)["key"]
        return key

    def entries(self) -> list[dict[str, Any]]:
        """Every entry of the ledger, page by page."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.api("GET", "/api/v1/entries", params={"limit": 1000, **({"cursor": cursor} if cursor else {})})
            found += page["entries"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `costbearer` command on this server's configuration."""
        command = [sys.executable, "-m", "costbearer", *arguments, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@contextlib.contextmanager
def running_server(directory: Path, simulator: RunningSimulator, **options: Any) -> Iterator[Server]:
    server = Server(directory, simulator, **options)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


# -- a load that remembers what it was told


@dataclass
class Ask:
    """One request of the load: what was sent, and how much of the answer came."""

    mark: str
    body: bytes
    path: str
    status: int = 0
    complete: bool = False
    """The last byte of a good answer reached the caller."""


class _Reply:
    def __init__(self) -> None:
        self.done = False
        self.tail = b""

    def on_body(self, body: bytes) -> None:
        self.tail = (self.tail + body)[-400:]

    def on_message_complete(self) -> None:
        self.done = True


@dataclass
class Load:
    """Callers in a loop, streamed and not, of both dialects, each with a mark in its prompt and in its tags."""

    server: Server
    keys: list[str]
    seed: int
    concurrency: int = 12
    asked: list[Ask] = field(default_factory=list)
    _stop: bool = False

    async def run(self, seconds: float) -> None:
        self._stop = False
        tasks = [asyncio.create_task(self._caller(number)) for number in range(self.concurrency)]
        await asyncio.sleep(seconds)
        self._stop = True
        await asyncio.gather(*tasks)

    async def _caller(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number} {len(self.asked)}")
        while not self._stop:
            ask = self._next(chance)
            self.asked.append(ask)
            try:
                async with asyncio.timeout(20):
                    await self._one(ask, chance.choice(self.keys))
            except (OSError, TimeoutError, asyncio.IncompleteReadError, httptools.HttpParserError):
                await asyncio.sleep(0.05)

    def _next(self, chance: random.Random) -> Ask:
        mark = f"m{self.seed}-{len(self.asked)}"
        openai = chance.random() < 0.5
        stream = chance.random() < 0.6
        order = f"mark={mark} output={chance.randrange(5, 60)}"
        if stream:
            order += f" chunks={chance.randrange(2, 12)} delay_ms={chance.randrange(1, 15)}"
        else:
            order += f" first_byte_ms={chance.randrange(0, 60)}"
        body = {
            "model": "gpt-4o-mini" if openai else "claude-haiku-4-5",
            "messages": [{"role": "user", "content": "Tell me more. " * chance.randrange(1, 20) + f"[[sim:{order}]]"}],
            "max_tokens": 80,
            "stream": stream,
            "metadata": {"tags": [f"mark:{mark}"]},
        }
        return Ask(mark, json.dumps(body).encode(), "/v1/chat/completions" if openai else "/v1/messages")

    async def _one(self, ask: Ask, key: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.gateway_port)
        try:
            head = (
                f"POST {ask.path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
                f"anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(ask.body)}\r\n\r\n"
            )
            writer.write(head.encode() + ask.body)
            reply = _Reply()
            parser = httptools.HttpResponseParser(reply)
            while not reply.done:
                data = await reader.read(65536)
                if not data:
                    break
                parser.feed_data(data)
                ask.status = parser.get_status_code()
            streamed = b'"stream": true' in ask.body
            ended = not streamed or b"[DONE]" in reply.tail or b"message_stop" in reply.tail
            ask.complete = reply.done and ask.status == 200 and ended
        finally:
            writer.close()
