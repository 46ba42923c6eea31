"""What the benchmarks run against: nginx as upstream and as yardstick, wrk as caller, a gateway with one worker."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
worker_processes 1; daemon off; error_log {dir}/error.log; pid {dir}/{name}.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 10000000;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    {http}
}}
"""


def missing() -> list[str]:
    """The programs that are not there."""
    return [name for name in ("nginx", "wrk") if shutil.which(name) is None]


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run of wrk."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass
class Bench:
    """Where everything listens, and the key to use."""

    directory: Path
    config: Config
    upstream: int
    proxy: int
    gateway: int
    key: str
    gateway_pid: int

    @property
    def worker_pid(self) -> int:
        return children(self.gateway_pid)[0]

    def cpu_s(self) -> float:
        """CPU seconds the worker has used so far."""
        return cpu_s(self.worker_pid)

    def rss_mib(self) -> float:
        text = Path(f"/proc/{self.worker_pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024

    def wrk(self, port: int, seconds: int, *, tags: bool = False, connections: int = 32) -> Measured:
        """One run against a port."""
        script = self.directory / "post.lua"
        body = json.dumps(REQUEST | (TAGS if tags else {}))
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = {json.dumps(body)}\n'
            f'wrk.headers["Content-Type"] = "application/json"\nwrk.headers["Authorization"] = "Bearer {self.key}"\n'
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}/v1/chat/completions"], capture_output=True, text=True, check=True
        )
        return _parsed(done.stdout)


@contextlib.contextmanager
def bench(*, settings: str = "") -> Iterator[Bench]:
    """nginx answering, nginx as a plain proxy in front of it, and the gateway in front of it: one worker each."""
    directory = Path(tempfile.mkdtemp(prefix="costbearer-bench-"))
    upstream, proxy, gateway = free_port(), free_port(), free_port()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        answer = json.dumps(ANSWER).replace("'", "")
        serve = (
            f"server {{ listen 127.0.0.1:{upstream}; default_type application/json;"
            f" location / {{ return 200 '{answer}'; }} }}"
        )
        passing = (
            f"upstream answer {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}"
            f"server {{ listen 127.0.0.1:{proxy}; location / {{ proxy_pass http://answer; proxy_http_version 1.1;"
            'proxy_set_header Connection ""; } }'
        )
        for name, http in (("upstream", serve), ("proxy", passing)):
            file = directory / f"{name}.conf"
            file.write_text(_NGINX.format(dir=directory, name=name, http=http))
            processes.append(subprocess.Popen(["nginx", "-c", str(file)], stderr=subprocess.DEVNULL))
        config, key = _configured(directory, upstream, gateway, settings)
        command = [sys.executable, "-m", "costbearer", "gateway", "--config", str(directory / "costbearer.toml")]
        log = (directory / "gateway.log").open("wb")
        running = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        processes.append(running)
        _await(gateway)
        yield Bench(directory, config, upstream, proxy, gateway, key, running.pid)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _configured(directory: Path, upstream: int, gateway: int, settings: str) -> tuple[Config, str]:
    (directory / "provider-key").write_text("bench-provider-key")
    file = directory / "costbearer.toml"
    file.write_text(
        f"""data = "{directory / "data"}"
[gateway]
port = {gateway}
workers = 1
connections_per_client_max = 10000
drain_timeout_s = 2
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


def _await(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the gateway did not start")


def _parsed(text: str) -> Measured:
    def milliseconds(share: str) -> float:
        found = re.search(rf"{share}%\s+([0-9.]+)(us|ms|s)", text)
        assert found is not None, text
        return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]

    rate = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    assert rate is not None, text
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Measured(float(rate[1]), milliseconds("50"), milliseconds("99"), errors)
