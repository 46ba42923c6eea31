"""The gateway as processes: Granian's supervisor and its workers, each with a journal of its own.

Granian parses HTTP (RSGI, HTTP/1.1 in the clear), supervises and respawns; this module gives it what it lacks: a drain
with a bound, a kill timeout above it, and workers that do not outlive their parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings

from costbearer.config import Config
from costbearer.errors import ConfigInvalid
from costbearer.gateway import pipeline
from costbearer.gateway.edge import Scope, Wire
from costbearer.gateway.worker import Worker

KILL_AFTER_DRAIN_S = 5
"""What a worker may take beyond its drain before its supervisor kills it."""
HEADER_TIMEOUT_MS = 15_000
GC_THRESHOLD = (20_000, 20, 50)
"""A call makes hundreds of objects and hardly a cycle; at Python's default the collector takes an eighth of the CPU."""
EXIT_NOT_DRAINED = 75
"""The exit code of a worker that was ended with calls still open (sysexits: temporary failure)."""
EXIT_ORPHANED = 69
"""The exit code of a process whose parent was gone before it had begun (sysexits: unavailable)."""
_PR_SET_PDEATHSIG = 1

log = logging.getLogger("costbearer.gateway")

MakeWorker = Callable[[Config, asyncio.AbstractEventLoop], Worker]


class App:
    """What Granian calls: `__rsgi_init__` once per worker, `__rsgi__` per request, `__rsgi_del__` at the end."""

    def __init__(self, config: Config, make: MakeWorker) -> None:
        self._config = config
        self._make = make
        self._worker: Worker | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._parent = 0

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None and parent.pid is not None
        self._parent = parent.pid
        die_with_parent(self._parent)
        worker = self._worker = self._make(self._config, loop)

        async def begin() -> None:
            worker.start()

        loop.run_until_complete(begin())
        # Granian's own SIGTERM ends the worker as soon as its calls are done, however long that takes; ours drains
        # within a bound first and then hands over by SIGINT, which Granian treats the same way.
        loop.add_signal_handler(signal.SIGTERM, self._terminate, loop)
        # What was made at start lives as long as the worker: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    async def __rsgi__(self, scope: Scope, wire: Wire) -> None:
        assert self._worker is not None
        await pipeline.serve(self._worker, scope, wire)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._worker is not None:
            loop.run_until_complete(self._worker.close())

    def _terminate(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stopping is None:
            self._stopping = loop.create_task(self._drain())

    async def _drain(self) -> None:
        assert self._worker is not None
        timeout_s = self._config.number("gateway.drain_timeout_s")
        # A caller who neither reads nor leaves can hold Granian's shutdown for ever. What is not closed by then stays
        # open in the journal and is posted as unknown.
        last = threading.Timer(timeout_s + KILL_AFTER_DRAIN_S, os._exit, (EXIT_NOT_DRAINED,))
        last.daemon = True
        last.start()
        if os.getppid() != self._parent:
            # An orphan must not go on taking calls from the port its successor wants: the socket is closed first.
            os.kill(os.getpid(), signal.SIGINT)
        await self._worker.drain(timeout_s)
        os.kill(os.getpid(), signal.SIGINT)


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies: an orphan would go on serving beside its successor.

    `parent` is the process id the parent had when it started this process; if it is gone already, this process ends.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


def run(config: Config, make: MakeWorker) -> None:
    """Serve until SIGTERM or SIGINT. Blocks.

    Raises:
        ConfigInvalid: only one of certificate and key is there.
    """
    certificate, key = _tls(config)
    server = Granian(
        "costbearer",
        address=config.text("gateway.host"),
        port=config.integer("gateway.port"),
        interface=Interfaces.RSGI,
        workers=config.integer("gateway.workers"),
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=int(config.number("gateway.drain_timeout_s")) + KILL_AFTER_DRAIN_S,
        process_name=None,
        ssl_cert=certificate,
        ssl_key=key,
    )
    server.serve(target_loader=functools.partial(_app, config, make), wrap_loader=False)


def _tls(config: Config) -> tuple[Path | None, Path | None]:
    names = ("gateway.tls_certificate", "gateway.tls_key")
    files = [Path(config.text(name)) if config.text(name) else None for name in names]
    if (files[0] is None) != (files[1] is None):
        raise ConfigInvalid("gateway.tls_certificate and gateway.tls_key belong together; one of them is missing")
    for name, file in zip(names, files, strict=True):
        if file is not None and not file.is_file():
            raise ConfigInvalid(f"{name}: {file} is no file")
    return files[0], files[1]


def _app(config: Config, make: MakeWorker, *_: Any) -> App:
    return App(config, make)
