"""The gateway as processes: one owns the listening socket and supervises; the others are workers, each with a journal.

The socket is bound once and inherited, so a second gateway cannot bind beside it, a worker that is started again finds
the connections that waited for its predecessor, and whoever is idle accepts next.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

import uvloop

from costbearer.config import Config
from costbearer.errors import ConfigInvalid, CostbearerError
from costbearer.gateway.listener import Listener
from costbearer.gateway.worker import Worker

BACKLOG = 4096
"""Connections that wait to be accepted; the system may have a lower limit of its own."""
KILL_AFTER_DRAIN_S = 5
"""What a worker may take beyond its drain before its supervisor kills it."""
LOOK_INTERVAL_S = 0.2
"""How often the supervisor looks around where no worker ends: for its own parent, and for workers to start again."""
RESPAWN_PAUSE_S = 1.0
"""A worker that died is started again after this long, so that one that dies at once does not spin."""
FLUSH_S = 1.0
"""What callers may take, after the drain, to take what is already written."""
GC_THRESHOLD = (20_000, 20, 50)
"""A call makes hundreds of objects and hardly a cycle; at Python's default the collector takes an eighth of the CPU."""
EXIT_NOT_STARTED = 78
"""The exit code of a worker, and of a gateway, that could not start (sysexits: configuration error)."""
EXIT_NOT_DRAINED = 75
"""The exit code of a worker that was ended with calls still open (sysexits: temporary failure)."""
EXIT_ORPHANED = 69
"""The exit code of a process whose parent was gone before it had begun (sysexits: unavailable)."""
REASON_BYTES_MAX = 2048
"""What a worker says of why it cannot start; a pipe takes this much in one piece."""
_PR_SET_PDEATHSIG = 1

log = logging.getLogger("costbearer.gateway")

MakeWorker = Callable[[Config, asyncio.AbstractEventLoop], Worker]


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent dies: an orphan would go on serving beside its successor.

    `parent` is the process id the parent had when it started this process; if it is gone already, this process ends.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(EXIT_ORPHANED)


# -- the supervisor


def run(config: Config, make: MakeWorker, *, parent: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the process `parent` is gone, and give back the exit code. Blocks.

    Raises:
        ConfigInvalid: the address cannot be listened on, or certificate and key cannot be used.
    """
    tls = _tls(config)
    _allow_descriptors()
    with contextlib.closing(_listen(config)) as listening:
        return _Workers(config, make, listening, tls).run(parent)


class _Workers:
    """The worker processes. One that dies is started again; all end together.

    One that cannot start ends them all, unless another has begun to serve before: then it is tried again.
    """

    def __init__(self, config: Config, make: MakeWorker, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._listening = listening
        self._arguments = (config, make, listening, tls)
        self._kill_after_s = config.number("gateway.drain_timeout_s") + KILL_AFTER_DRAIN_S
        self._pinned = config.flag("gateway.pin_workers")
        # By fork: what was loaded and prepared is there at once, and a new worker needs no second look at the settings.
        self._context = multiprocessing.get_context("fork")
        self._stopping = False
        # Written by workers, each in one piece: why it cannot start, or nothing once it serves.
        self._told, self._tell = self._context.Pipe(duplex=False)
        self._served = False
        # By its number, which whoever takes the place of a worker takes too.
        self._running = {number: self._start(number) for number in range(config.integer("gateway.workers"))}

    def run(self, parent: int | None) -> int:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        again_at: list[tuple[float, int]] = []
        while not self._stopping:
            connection.wait([process.sentinel for process in self._running.values()], timeout=LOOK_INTERVAL_S)
            # A process that is stopped when its parent dies may go on without having heard the kernel's signal for it.
            if parent not in {None, os.getppid()}:
                self._stopping = True
            if self._stopping:
                # Whoever told all of them to stop: a worker that has done so has not died.
                break
            now = time.monotonic()
            ended = [(number, process) for number, process in self._running.items() if process.exitcode is not None]
            for number, process in ended:
                del self._running[number]
                reason = self._listen_to_workers()
                if process.exitcode == EXIT_NOT_STARTED and not self._served:
                    log.critical("the gateway cannot start: %s", reason)
                    self._end()
                    return EXIT_NOT_STARTED
                why = f": {reason}" if reason else ""
                log.error("worker %s ended with code %s%s; starting another", process.pid, process.exitcode, why)
                again_at.append((now + RESPAWN_PAUSE_S, number))
            while again_at and now >= again_at[0][0] and not self._stopping:
                _, number = again_at.pop(0)
                self._running[number] = self._start(number)
        return self._end()

    def _listen_to_workers(self) -> str:
        """Why the first of them could not start that has said so since; "" if none has."""
        reason = ""
        while self._told.poll():
            said = self._told.recv_bytes().decode(errors="replace")
            self._served = self._served or not said
            reason = reason or said
        return reason

    def _start(self, number: int) -> multiprocessing.process.BaseProcess:
        core = core_of(number) if self._pinned else None
        process = self._context.Process(target=_work, args=(*self._arguments, os.getpid(), self._tell, core))
        process.start()
        return process

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _end(self) -> int:
        # Who connects from now on is refused at once; left open, it would queue those whom nobody will accept.
        self._listening.close()
        for process in self._running.values():
            process.terminate()
        end = time.monotonic() + self._kill_after_s
        for process in self._running.values():
            process.join(max(end - time.monotonic(), 0.1))
            if process.exitcode is None:
                log.error("worker %s did not stop in time and is killed; its journal keeps what it wrote", process.pid)
                process.kill()
                process.join()
        return 0


def core_of(number: int) -> int:
    """The core of the worker of that number; where there are more workers than cores, several have the same."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[number % len(cores)]


def _listen(config: Config) -> socket.socket:
    host, port = config.text("gateway.host"), config.integer("gateway.port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigInvalid(f"gateway.host and gateway.port: {host} port {port}: {error.strerror}") from error
    return listening


def _allow_descriptors() -> None:
    """Every call holds two connections: take as many descriptors as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tls(config: Config) -> ssl.SSLContext | None:
    names = ("gateway.tls_certificate", "gateway.tls_key")
    files = [Path(config.text(name)) if config.text(name) else None for name in names]
    if (files[0] is None) != (files[1] is None):
        raise ConfigInvalid("gateway.tls_certificate and gateway.tls_key belong together; one of them is missing")
    for name, file in zip(names, files, strict=True):
        if file is not None and not file.is_file():
            raise ConfigInvalid(f"{name}: {file} is no file")
    if files[0] is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty passphrase: a key that needs one fails, instead of waiting for somebody at a terminal.
        context.load_cert_chain(files[0], files[1], password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(f"{names[0]} and {names[1]} cannot be used together: {error}") from error
    return context


# -- a worker


def _work(
    config: Config,
    make: MakeWorker,
    listening: socket.socket,
    tls: ssl.SSLContext | None,
    parent: int,
    tell: connection.Connection,
    core: int | None,
) -> None:
    """One worker's whole life, in its own process, on one `core` where one is given."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    # Ctrl-C reaches the supervisor too, which ends its workers in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            worker = make(config, runner.get_loop())
            runner.run(_begin(worker))
        except CostbearerError as error:
            tell.send_bytes(error.message.encode()[:REASON_BYTES_MAX])
            os._exit(EXIT_NOT_STARTED)
        tell.send_bytes(b"")
        runner.run(_serve(worker, Listener(worker, listening, tls=tls)))


async def _begin(worker: Worker) -> None:
    worker.start()


async def _serve(worker: Worker, listener: Listener) -> None:
    """Serve until SIGTERM, then drain: new calls are refused, those in flight may end, the rest get their outcome."""
    ended = asyncio.Event()
    worker.loop.add_signal_handler(signal.SIGTERM, ended.set)
    listener.start()
    # What was made at start lives as long as the worker: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    await ended.wait()
    timeout_s = worker.config.number("gateway.drain_timeout_s")
    # Whatever hangs, this process ends. What is not closed by then stays open in the journal and is posted as unknown.
    last = threading.Timer(timeout_s + KILL_AFTER_DRAIN_S, os._exit, (EXIT_NOT_DRAINED,))
    last.daemon = True
    last.start()
    # The socket is let go of at once: an orphan must not take calls from the port its successor wants.
    listener.stop_accepting()
    await worker.drain(timeout_s)
    await listener.finish(FLUSH_S)
    await worker.close()
    last.cancel()
