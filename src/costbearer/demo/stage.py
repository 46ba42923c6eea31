"""What the demo runs on: simulated providers, a gateway, a console, and a second gateway that speaks HTTPS."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from costbearer.errors import StoreFailed
from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator

GATEWAY_PORT = 4000
CONSOLE_PORT = 4001
LIVE = "1d"
"""From when on entries are those of the live traffic; the history ends long before."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 45.0

AUTHORITY = "trustme"
"""The package that makes the certificate of the HTTPS gateway; without it there is none, and no act that needs it."""


@dataclass
class Stage:
    """A running demo: where everything is, and how to stop it.

    `https_url` is the gateway for SDKs that send a bearer to HTTPS alone; `authority` vouches for it. Both are None
    where no certificate could be made.
    """

    gateway_url: str
    console_url: str
    https_url: str | None
    authority: Path | None
    data: Path
    simulator: RunningSimulator
    token: str = field(repr=False)
    server: subprocess.Popen[bytes] = field(repr=False)
    keys: dict[str, str] = field(default_factory=dict, repr=False)

    def api(self, method: str, path: str, **options: Any) -> Any:
        answer = httpx2.request(
            method,
            f"{self.console_url}{path}",
            headers={"authorization": f"Bearer {self.token}"},
            timeout=30,
            **options,
        )
        answer.raise_for_status()
        return answer.json()

    def entries(self) -> list[dict[str, Any]]:
        """Every entry of the live traffic, the oldest first."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.api(
                "GET", "/api/v1/entries", params={"limit": 500, "since": LIVE, **({"cursor": cursor} if cursor else {})}
            )
            found += page["entries"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


@contextlib.contextmanager
def stage(directory: Path, keys: Mapping[str, Mapping[str, str]]) -> Iterator[Stage]:
    """Simulated providers, gateways and console on loopback, and a key per name; all of it ends with the block."""
    gateway_port, console_port, https_port = _port(GATEWAY_PORT), _port(CONSOLE_PORT), _port(0)
    with running_simulator() as simulator, contextlib.ExitStack() as processes:
        (directory / "provider-key").write_text(CREDENTIAL, encoding="utf-8")
        common = _providers(directory, simulator)
        clear = f"[gateway]\nport = {gateway_port}\nworkers = 2\n[console]\nport = {console_port}\n"
        server = processes.enter_context(_process(directory, "serve", clear + common))
        console_url, gateway_url = f"http://127.0.0.1:{console_port}", f"http://127.0.0.1:{gateway_port}"
        _await_ready(server, directory / "serve.log", [f"{console_url}/readyz", f"{gateway_url}/readyz"])
        https_url, authority = None, None
        if importlib.util.find_spec(AUTHORITY) is not None:
            authority, files = _certificate(directory)
            secure = f"[gateway]\nport = {https_port}\nworkers = 1\n{files}"
            https = processes.enter_context(_process(directory, "gateway", secure + common))
            https_url = f"https://127.0.0.1:{https_port}"
            _await_ready(https, directory / "gateway.log", [f"{https_url}/readyz"], authority)
        data = directory / "data"
        token = (data / "admin-token").read_text(encoding="utf-8").strip()
        running = Stage(gateway_url, console_url, https_url, authority, data, simulator, token, server)
        for name, labels in keys.items():
            running.keys[name] = running.api("POST", "/api/v1/keys", json=dict(labels))["key"]
        yield running


@contextlib.contextmanager
def _process(directory: Path, command: str, settings: str) -> Iterator[subprocess.Popen[bytes]]:
    config = directory / f"{command}.toml"
    config.write_text(f'data = "{directory / "data"}"\n{settings}', encoding="utf-8")
    line = [sys.executable, "-m", "costbearer", command, "--config", str(config)]
    with (directory / f"{command}.log").open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _certificate(directory: Path) -> tuple[Path, str]:
    """(the file of the authority that vouches, the settings of a gateway with a certificate of it)."""
    import trustme

    made, authority = trustme.CA(), directory / "authority.pem"
    issued = made.issue_cert("127.0.0.1")
    made.cert_pem.write_to_path(str(authority))
    issued.cert_chain_pems[0].write_to_path(str(directory / "gateway.pem"))
    issued.private_key_pem.write_to_path(str(directory / "gateway.key"))
    names = (("tls_certificate", "gateway.pem"), ("tls_key", "gateway.key"))
    return authority, "".join(f'{name} = "{directory / file}"\n' for name, file in names)


def _providers(directory: Path, simulator: RunningSimulator) -> str:
    """Every simulated provider by its own name; they all listen on one port and take one credential."""
    addresses = {
        "openai": simulator.openai_base_url,
        "anthropic": simulator.anthropic_base_url,
        "gemini": simulator.origin,
        "bedrock": simulator.origin,
        "azure": simulator.origin,
        "openrouter": simulator.openai_base_url,
    }
    tables = [
        f'[providers.{name}]\nbase_url = "{address}"\napi_key_file = "{directory / "provider-key"}"\n'
        for name, address in addresses.items()
    ]
    return "[ledger]\npoll_interval_s = 0.5\n" + "".join(tables)


def _port(wanted: int) -> int:
    """The usual port, or any free one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StoreFailed("no free port on the loopback address")


def _await_ready(
    server: subprocess.Popen[bytes], log: Path, addresses: list[str], authority: Path | None = None
) -> None:
    import ssl

    verify = True if authority is None else ssl.create_default_context(cafile=str(authority))
    end = time.monotonic() + START_TIMEOUT_S
    for address in addresses:
        while True:
            if server.poll() is not None or time.monotonic() > end:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise StoreFailed(f"the demo's server did not start: {' '.join(said) or address}")
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(address, timeout=2, verify=verify).status_code == 200:
                    break
            time.sleep(0.1)
