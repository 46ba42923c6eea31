"""`costbearer serve`: gateway and console as children; one that dies is started again, both end together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from costbearer.app import check_port, listens, locked, prepare, shown_host
from costbearer.config import Config
from costbearer.errors import ConfigInvalid
from costbearer.stores import secrets

SUPERVISOR_LOCK = "supervisor.lock"
RESTART_PAUSE_S = 1.0
"""A child that died is started again after this long, so that one that dies at once does not spin."""
START_TIMEOUT_S = 30.0
STOP_MARGIN_S = 10.0

_log = logging.getLogger("costbearer")


def serve(config: Config, arguments: Sequence[str], announce: Callable[[str], None]) -> int:
    """Run gateway and console as children, start one again when it dies, stop both on SIGTERM or SIGINT.

    `arguments` are the command-line options both children are given. Gives back the exit code.
    """
    with locked(config.data / SUPERVISOR_LOCK, "a server is running on this data directory"):
        prepare(config)
        check_port(config, "gateway")
        check_port(config, "console")
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        children = {name: _Child(name, arguments) for name in ("console", "gateway")}
        for child in children.values():
            child.start()
        try:
            if _await_start(config, children, stopping):
                announce(_welcome(config))
            while not stopping.wait(0.2):
                for child in children.values():
                    child.restart_if_dead()
        finally:
            _stop(list(children.values()), config.number("gateway.drain_timeout_s") + STOP_MARGIN_S)
    return 0


class _Child:
    """One supervised process."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "costbearer", name, "--parent", str(os.getpid()), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches the supervisor alone, which then stops its children in order.
        self._process = subprocess.Popen(self._command, start_new_session=True)  # noqa: S603 - our own interpreter

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def restart_if_dead(self) -> None:
        code = self.exit_code()
        if code is None:
            return
        now = time.monotonic()
        if not self._again_at:
            _log.error("%s ended with code %s; starting it again", self.name, code)
            self._again_at = now + RESTART_PAUSE_S
        elif now >= self._again_at:
            self._again_at = 0.0
            self.start()

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(max(timeout_s, 0.1))
        except subprocess.TimeoutExpired:
            _log.error("%s did not stop in time and is killed; the journal keeps what it wrote", self.name)
            self._process.kill()
            self._process.wait()


def _await_start(config: Config, children: dict[str, _Child], stopping: threading.Event) -> bool:
    """Wait until both listen. A child that cannot start at all has said why on stderr; then everything ends."""
    end = time.monotonic() + START_TIMEOUT_S
    waiting = {"gateway", "console"}
    while waiting and not stopping.is_set() and time.monotonic() < end:
        for name in sorted(waiting):
            if children[name].exit_code() is not None:
                stopping.set()
                raise ConfigInvalid(f"the {name} could not start (exit code {children[name].exit_code()}); see above")
            if listens(config.text(f"{name}.host"), config.integer(f"{name}.port")):
                waiting.discard(name)
        time.sleep(0.05)
    return not waiting


def _stop(children: list[_Child], timeout_s: float) -> None:
    """Gateway first, so that the bookkeeper still posts what it drained."""
    end = time.monotonic() + timeout_s
    for child in reversed(children):
        child.terminate()
        child.wait(end - time.monotonic())


def _welcome(config: Config) -> str:
    gateway = f"http://{shown_host(config.text('gateway.host'))}:{config.integer('gateway.port')}"
    console = f"http://{shown_host(config.text('console.host'))}:{config.integer('console.port')}"
    return (
        f"gateway  {gateway}  (OpenAI base URL {gateway}/v1, Anthropic base URL {gateway})\n"
        f"console  {console}  (token in {config.data / secrets.TOKEN_FILE})\n"
        f"data     {config.data}"
    )
