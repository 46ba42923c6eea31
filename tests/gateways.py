"""`costbearer gateway` by itself in real processes, with one key; and callers of it on sockets of their own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from costbearer.app import prepare
from costbearer.config import load
from costbearer.forms import draft
from costbearer.frames import FrameAt, Outcome, read_frames
from costbearer.ledger import Entry
from costbearer.simulator import CREDENTIAL, RunningSimulator
from costbearer.stores.control import Control
from tests.edges import CHAT, chat
from tests.harness import ACTOR, LABELS, now
from tests.system import children, free_port, kill


class GatewayProcess:
    """The gateway's supervisor and its workers."""

    def __init__(self, directory: Path, simulator: RunningSimulator, **settings: str | float) -> None:
        self.directory, self.port = directory, free_port()
        (directory / "provider-key").write_text(CREDENTIAL)
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        file = directory / "costbearer.toml"
        file.write_text(
            f'data = "{directory / "data"}"\n[gateway]\nport = {self.port}\n{lines}[providers.openai]\n'
            f'dialect = "openai"\nbase_url = "{simulator.openai_base_url}"\n'
            f'api_key_file = "{directory / "provider-key"}"\n'
        )
        self.config = load(file, overrides={}, environ={})
        prepare(self.config)
        control = Control.open(self.config.control_file)
        self.key = control.issue(draft(LABELS, now(), 90), ACTOR).text
        control.close()
        self._command = [sys.executable, "-m", "costbearer", "gateway", "--config", str(file)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def await_ready(self, within_s: float = 30.0) -> None:
        end = time.monotonic() + within_s
        while True:
            with contextlib.suppress(OSError), self.connect() as caller:
                caller.sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                if caller.recv(100).startswith(b"HTTP/1.1 200"):
                    return
            assert self.process is not None and self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=15, source_address=(source, 0))

    def workers(self) -> list[int]:
        assert self.process is not None
        return children(self.process.pid)

    def log(self) -> str:
        return (self.directory / "gateway.log").read_text(errors="replace")

    def terminate(self) -> float:
        """SIGTERM, and the seconds until it has ended."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()
        return time.monotonic() - began

    def entries(self) -> list[Entry]:
        """The outcomes of every worker's journal."""
        return [
            item.frame.entry
            for file in sorted(self.config.journal_dir.glob("*/*.cbj"))
            for item in read_frames(file.read_bytes())
            if isinstance(item, FrameAt) and isinstance(item.frame, Outcome)
        ]

    def request(self, directive: str, lines: str = "", **more: Any) -> bytes:
        body = chat(directive, **more)
        return self.head(f"content-length: {len(body)}\r\n{lines}") + body

    def head(self, lines: str) -> bytes:
        credential = f"host: gateway\r\nauthorization: Bearer {self.key}\r\n"
        return f"POST {CHAT} HTTP/1.1\r\n{credential}{lines}\r\n".encode()

    async def ask(self, data: bytes) -> bytes:
        """What comes back until the gateway closes; nothing where it does not answer at all."""
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                return await reader.read(-1)
            finally:
                writer.transport.abort()
        return b""

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            workers = self.workers()
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                for pid in (self.process.pid, *workers):
                    kill(pid)
                self.process.wait()
                raise


@contextlib.contextmanager
def running_gateway(directory: Path, simulator: RunningSimulator, **settings: str | float) -> Iterator[GatewayProcess]:
    made = GatewayProcess(directory, simulator, **settings)
    made.start()
    try:
        made.await_ready()
        yield made
    finally:
        made.stop()
