"""What the benchmarks run against: nginx as upstream and yardstick, wrk as caller, a gateway, and its console if asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from costbearer.config import Config, load
from costbearer.forms import draft
from costbearer.stores.control import Actor, Control
from tests.system import children, free_port

ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello! I am well, and the world says hello back. " * 2},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 40,
        "total_tokens": 160,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
}
REQUEST = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant that answers briefly."},
        {"role": "user", "content": "Say hello to the world, please, and ask how it is today."},
    ],
    "max_tokens": 100,
    "temperature": 0.2,
}
TAGS = {"metadata": {"tags": ["feature:hello", "customer:acme"]}}

_NGINX = """
worker_processes {workers}; {pinned} daemon off; error_log {dir}/error.log; pid {dir}/{name}.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 10000000;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    {http}
}}
"""


POSTED_TIMEOUT_S = 120.0


def missing() -> list[str]:
    """The programs that are not there."""
    return [name for name in ("nginx", "wrk") if shutil.which(name) is None]


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@dataclass(frozen=True)
class Measured:
    """One run of wrk."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True)
class Lag:
    """How far the bookkeeper was behind when the load ended: entries not yet posted, and seconds until all were."""

    entries: int
    seconds: float


@dataclass
class Gateway:
    """A gateway that runs, alone or with a console process that posts what it writes."""

    directory: Path
    config: Config
    port: int
    key: str
    pid: int
    console_port: int | None

    @property
    def workers(self) -> list[int]:
        return children(self.pid)

    @property
    def worker_pid(self) -> int:
        return self.workers[0]

    def cpu_s(self) -> float:
        """CPU seconds the workers have used so far, together."""
        return sum(map(cpu_s, self.workers))

    def rss_mib(self) -> float:
        """Resident memory of its first worker."""
        return rss_mib(self.worker_pid)

    def posted(self) -> Lag:
        """Wait until everything written before now is in the ledger; says how much that was.

        Raises:
            RuntimeError: it is not within `POSTED_TIMEOUT_S`.
        """
        began, since = time.perf_counter(), time.time()
        first = None
        while (waited_s := time.perf_counter() - began) < POSTED_TIMEOUT_S:
            metrics = self._metrics()
            entries = metrics["costbearer_ledger_entries"]
            first = entries if first is None else first
            if metrics.get("costbearer_complete_to_timestamp_seconds", 0.0) >= since:
                return Lag(round(entries - first), waited_s)
            time.sleep(0.1)
        raise RuntimeError("the bookkeeper does not catch up")

    def _metrics(self) -> dict[str, float]:
        """What the console says of itself: the figures that have no labels, by name."""
        token = (self.config.data / "admin-token").read_text().strip()
        address = f"http://127.0.0.1:{self.console_port}/metrics"
        text = httpx2.get(address, headers={"authorization": f"Bearer {token}"}, timeout=60).raise_for_status().text
        return {name: float(value) for name, value in re.findall(r"^(\w+) ([0-9.e+-]+)$", text, re.MULTILINE)}


@dataclass
class Bench:
    """Where everything listens: what answers, nginx and a bare proxy in Python before it, and the gateway.

    `proxy` keeps its connections to what answers, as the gateway does; `default` is nginx as `proxy_pass` alone makes
    it, with a connection for each request.
    """

    gateway: Gateway
    upstream: int
    proxy: int
    default: int
    bare: int

    def wrk(self, port: int, seconds: int, *, tags: bool = False, connections: int = 32, pause_ms: int = 0) -> Measured:
        """One run against a port."""
        directory, key = self.gateway.directory, self.gateway.key
        return wrk(directory, port, key, seconds, tags=tags, connections=connections, pause_ms=pause_ms)


def wrk(
    directory: Path,
    port: int,
    key: str,
    seconds: int,
    *,
    tags: bool = False,
    connections: int = 32,
    pause_ms: int = 0,
    headers: Mapping[str, str] | None = None,
) -> Measured:
    """One run of wrk, one thread; every connection asks again as soon as it is answered, or after a pause.

    The pause is random, `pause_ms` in the middle and at most twice that: whoever answers sooner is not asked more.
    """
    script = directory / "post.lua"
    body = json.dumps(REQUEST | (TAGS if tags else {}))
    said = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", **(headers or {})}
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(body)}"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in said.items()]
    if pause_ms:
        lines.append(f"function delay() return math.random(0, {2 * pause_ms}) end")
    script.write_text("\n".join(lines))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/v1/chat/completions"], capture_output=True, text=True, check=True
    )
    return _parsed(done.stdout)


@contextlib.contextmanager
def bench(*, workers: int = 1, console: bool = False) -> Iterator[Bench]:
    """nginx answering, and in front of it: nginx as a plain proxy, a bare proxy in Python, and the gateway.

    nginx as proxy and the gateway have as many workers as each other, each on a core of its own where there are
    several; the bare proxy is one process always.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_directory())
        upstream = stack.enter_context(answering(directory))
        proxy, default, bare = free_port(), free_port(), free_port()
        passing = (
            f"upstream answer {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}"
            f"server {{ listen 127.0.0.1:{proxy}; location / {{ proxy_pass http://answer; proxy_http_version 1.1;"
            'proxy_set_header Connection ""; } }'
            f"server {{ listen 127.0.0.1:{default}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}"
        )
        stack.enter_context(_nginx(directory, "proxy", passing, workers))
        command = [sys.executable, "-m", "bench.bare", "--port", str(bare), "--upstream", str(upstream)]
        stack.enter_context(started(command, directory / "bare.log"))
        gateway = stack.enter_context(running_gateway(directory, upstream, workers=workers, console=console))
        yield Bench(gateway, upstream, proxy, default, bare)


@contextlib.contextmanager
def answering(directory: Path) -> Iterator[int]:
    """nginx that gives `ANSWER` to everything; its port."""
    port, answer = free_port(), json.dumps(ANSWER).replace("'", "")
    serve = (
        f"server {{ listen 127.0.0.1:{port}; default_type application/json; location / {{ return 200 '{answer}'; }} }}"
    )
    with _nginx(directory, "upstream", serve, 1):
        yield port


@contextlib.contextmanager
def running_gateway(
    directory: Path, upstream: int, *, workers: int = 1, console: bool = False, settings: str = ""
) -> Iterator[Gateway]:
    """A gateway before the port `upstream`, with a console process on the same data directory if `console`."""
    port, console_port = free_port(), free_port()
    config, key = configured(directory, upstream, port, console_port, workers=workers, settings=settings)
    command = [sys.executable, "-m", "costbearer"]
    file = ["--config", str(directory / "costbearer.toml")]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(started([*command, "gateway", *file], directory / "gateway.log"))
        await_ready(port)
        if console:
            stack.enter_context(started([*command, "console", *file], directory / "console.log"))
            await_ready(console_port)
        yield Gateway(directory, config, port, key, process.pid, console_port if console else None)


@contextlib.contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with the block; what it says goes to `log`."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=options.pop("stdout", said), stderr=said, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="costbearer-bench-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _nginx(directory: Path, name: str, http: str, workers: int) -> Iterator[None]:
    file = directory / f"{name}.conf"
    pinned = "worker_cpu_affinity auto;" if workers > 1 else ""
    file.write_text(_NGINX.format(dir=directory, name=name, http=http, workers=workers, pinned=pinned))
    with started(["nginx", "-c", str(file)], directory / f"{name}.log"):
        yield


def configured(
    directory: Path, upstream: int, gateway: int, console: int, *, workers: int, settings: str
) -> tuple[Config, str]:
    (directory / "provider-key").write_text("bench-provider-key")
    file = directory / "costbearer.toml"
    file.write_text(
        f"""data = "{directory / "data"}"
[gateway]
port = {gateway}
workers = {workers}
pin_workers = {"true" if workers > 1 else "false"}
connections_per_client_max = 10000
drain_timeout_s = 2
[console]
port = {console}
{settings}
[providers.openai]
dialect = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key_file = "{directory / "provider-key"}"
"""
    )
    config = load(file, environ={})
    labels = {"owner": "ada.byron", "team": "search", "agent": "ranker", "workload": "rerank"}
    with Control.open(config.control_file) as control:
        issued = control.issue(draft(labels, datetime.now(UTC), 90), Actor("bench", "bench", "bench"))
    return config, issued.text


def await_ready(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nothing is ready on port {port}")


def _parsed(text: str) -> Measured:
    def milliseconds(share: str) -> float:
        found = re.search(rf"{share}%\s+([0-9.]+)(us|ms|s)", text)
        assert found is not None, text
        return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]

    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    assert rate is not None and count is not None, text
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Measured(int(count[1]), float(rate[1]), milliseconds("50"), milliseconds("99"), errors)
