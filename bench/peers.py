"""Other gateways on the same upstream under the same load, each alone, at the version that installs today.

`make bench PEERS=1`. LiteLLM's proxy is taken from the Python package index into an environment of its own, Portkey's
gateway from npm, both in a temporary directory that is removed afterwards. One that cannot be installed is left out, and
the reason is its row. Both run as they come: no database, no log of spend, one worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2

from bench.machines import REQUEST, Measured, answering, running_gateway, started, wrk
from tests.system import free_port

INSTALL_TIMEOUT_S = 420
START_TIMEOUT_S = 90
ROUNDS = 3
SECONDS = 10
"""Longer than elsewhere: some of them answer a few calls in a second."""
CONNECTIONS = 32

Rows = list[tuple[str, str]]


class Absent(Exception):
    """The gateway cannot be measured here; the message says why."""


class Peer(NamedTuple):
    """A gateway that runs: which version, on which port, the key a caller shows and the headers it needs."""

    version: str
    port: int
    key: str
    headers: dict[str, str]


def measure(quick: bool) -> Rows:
    """Ours first, then each of the others, one at a time."""
    rounds, seconds = (1, 2) if quick else (ROUNDS, SECONDS)
    rows: Rows = []
    with tempfile.TemporaryDirectory(prefix="costbearer-peers-") as name:
        directory = Path(name)
        with answering(directory) as upstream:
            with running_gateway(directory, upstream) as gateway:
                ours = _loaded(directory, Peer("", gateway.port, gateway.key, {}), rounds, seconds)
            rows.append((_what("Costbearer, one worker"), _told(ours, None)))
            for title, run in (("LiteLLM proxy", _litellm), ("Portkey gateway", _portkey)):
                try:
                    with run(directory, upstream) as peer:
                        theirs = _loaded(directory, peer, rounds, seconds)
                    rows.append((_what(f"{title} {peer.version}, one worker"), _told(theirs, ours)))
                except Absent as absent:
                    rows.append((_what(title), f"not measured: {absent}"))
    return rows


def _what(title: str) -> str:
    return f"{title}: requests/s, p50, p99 at {CONNECTIONS} connections; throughput of ours / its"


def _told(measured: list[Measured], ours: list[Measured] | None) -> str:
    rate, p50, p99 = (
        statistics.median(getattr(each, name) for each in measured) for name in ("requests_per_s", "p50_ms", "p99_ms")
    )
    said = f"{rate:,.0f}, {p50:.1f} ms, {p99:.1f} ms"
    if ours is None:
        return said
    return f"{said}; **{statistics.median(each.requests_per_s for each in ours) / rate:.1f}**"


def _loaded(directory: Path, peer: Peer, rounds: int, seconds: int) -> list[Measured]:
    """The load of all: a round that is not counted, then so many that are."""
    found = [
        wrk(directory, peer.port, peer.key, seconds, connections=CONNECTIONS, headers=peer.headers)
        for _ in range(rounds + 1)
    ][1:]
    if any(each.errors for each in found):
        bad, asked = (sum(getattr(each, name) for each in found) for name in ("errors", "requests"))
        raise Absent(f"{bad:,} of {asked:,} requests were not answered with 200")
    return found


@contextlib.contextmanager
def _litellm(directory: Path, upstream: int) -> Iterator[Peer]:
    home, port = directory / "litellm", free_port()
    _run([sys.executable, "-m", "venv", str(home)])
    python = str(home / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"])
    version = _run([python, "-c", "from importlib.metadata import version; print(version('litellm'))"]).strip()
    settings = {
        "model_list": [
            {
                "model_name": REQUEST["model"],
                "litellm_params": {
                    "model": f"openai/{REQUEST['model']}",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "bench",
                },
            }
        ],
        "general_settings": {"master_key": "sk-bench"},
    }
    file = home / "config.yaml"
    # Every JSON document is YAML.
    file.write_text(json.dumps(settings))
    command = [str(home / "bin" / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1"]
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    peer = Peer(version, port, "sk-bench", {})
    with _serving(command, home, environment, peer):
        yield peer


@contextlib.contextmanager
def _portkey(directory: Path, upstream: int) -> Iterator[Peer]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise Absent("npm is not there")
    home, port = directory / "portkey", free_port()
    home.mkdir()
    _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), "@portkey-ai/gateway"])
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    manifest = json.loads((package / "package.json").read_text())
    command = [node, str(package / _script(manifest)), f"--port={port}", "--headless"]
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
    peer = Peer(str(manifest["version"]), port, "bench", headers)
    environment = os.environ | {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    with _serving(command, home, environment, peer):
        yield peer


def _script(manifest: dict[str, object]) -> str:
    """The program of a package, as its manifest names it."""
    named = manifest["bin"]
    return str(next(iter(named.values())) if isinstance(named, dict) else named)


def _run(command: list[str]) -> str:
    """The output of an installer.

    Raises:
        Absent: it failed, or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Absent(f"not installed within {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Absent(f"not installed: {said[-1][:200] if said else done.returncode}")
    return done.stdout


@contextlib.contextmanager
def _serving(command: list[str], home: Path, environment: dict[str, str], peer: Peer) -> Iterator[None]:
    """The process, once it answers a call as it should."""
    log = home / "peer.log"
    address = f"http://127.0.0.1:{peer.port}/v1/chat/completions"
    headers = {"authorization": f"Bearer {peer.key}", **peer.headers}
    with started(command, log, env=environment, cwd=home) as process:
        end, said = time.monotonic() + START_TIMEOUT_S, "it never listened"
        while time.monotonic() < end and process.poll() is None:
            try:
                answer = httpx2.post(address, headers=headers, json=REQUEST, timeout=20)
                if answer.status_code == 200:
                    break
                said = f"it answered {answer.status_code}: {answer.text[:150]}"
            except httpx2.HTTPError as error:
                said = f"it never answered ({type(error).__name__})"
            time.sleep(0.5)
        else:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Absent(f"{said}; its last words: {' '.join(tail)[:200]}")
        yield


if __name__ == "__main__":
    for what, figure in measure("--quick" in sys.argv):
        print(f"{what}: {figure}")
