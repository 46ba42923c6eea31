"""The wiring: which parts there are, who is given what, and which process runs them. Nothing happens on import.

``serve`` supervises two children: the gateway (Granian and its workers) and the console process, which holds the ledger
and runs bookkeeper, API and metrics. Either can also be run alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costbearer.attribution import Hasher
from costbearer.config import Config
from costbearer.errors import ConfigInvalid, DataDirectoryBusy, NotFound
from costbearer.prices import PriceBook
from costbearer.stores import archive, secrets
from costbearer.stores.secrets import Keyring

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI

    from costbearer.backfill_desk import BackfillDesk
    from costbearer.bookkeeper import Bookkeeper
    from costbearer.contract import Contract, Prices
    from costbearer.corrections import Closed
    from costbearer.gateway.worker import Worker
    from costbearer.ledger import Entry
    from costbearer.reports.beside import Beside
    from costbearer.reports.periods import Zone
    from costbearer.stores.control import Control
    from costbearer.stores.directory import Directory
    from costbearer.stores.duckdb import Ledger
    from costbearer.stores.periods import Periods

SUPERVISOR_LOCK = "supervisor.lock"
SERVER_LOCK = "serve.lock"
SERVER_FILE = "server.json"
RESTART_PAUSE_S = 1.0
"""A child that died is started again after this long, so that one that dies at once does not spin."""
START_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 1.0
PORT_TIMEOUT_S = 10.0
"""How long a gateway that is started again waits for its predecessor's workers to let go of the port."""
STOP_MARGIN_S = 10.0

AMORTISE_INTERVAL_S = 600.0
"""How often the console looks for days whose fees are not amortised; a day is over once in 24 hours."""
JOBS_STOP_S = 5.0
"""What the poller of jobs may take to end; it holds nothing that is not asked for again."""

log = logging.getLogger("costbearer")


def prepare(config: Config) -> bytes:
    """Make the data directory usable: secrets, control store at the newest version, the price archive.

    Gives back the bytes of the price archive that holds.
    """
    from costbearer.stores.control import Control

    Control.open(config.control_file).close()
    secrets.admin_token(config.data)
    archive.keep(config.prices_dir, archive.bundled())
    archive.begin(config.prices_dir)
    return archive.current(config.prices_dir).archive


def hasher(keyring: Keyring) -> Hasher:
    """HMAC-SHA-256 under the active hash key, with its version in front: `h1_` and 32 hex. The field is part of what is
    hashed, so that the same text as user and as tenant cannot be joined."""
    key, version = keyring.hash_keys[keyring.hash_active], keyring.hash_active

    def keyed(field: str, value: str) -> str:
        tag = hmac.new(key, f"{field}\0{value}".encode(), hashlib.sha256).hexdigest()
        return f"h{version}_{tag[:32]}"

    return keyed


# -- the gateway


def run_gateway(config: Config, *, parent: int | None = None) -> None:
    """Granian and its workers, until SIGTERM or SIGINT."""
    from costbearer.gateway import server

    if not config.providers:
        raise ConfigInvalid("no provider is configured; add a [providers.NAME] table (see `costbearer config show`)")
    if parent is not None:
        server.die_with_parent(parent)
    check_port(config, "gateway", wait_s=PORT_TIMEOUT_S if parent is not None else 0.0)
    prepare(config)
    server.run(config, make_worker)


def load_prices(prices_dir: Path) -> Prices:
    """The archive and the contract that hold now."""
    from costbearer.contract import Contract, Prices

    now = archive.current(prices_dir)
    return Prices(PriceBook.loads(now.archive), None if now.contract is None else Contract.loads(now.contract))


def make_worker(config: Config, loop: asyncio.AbstractEventLoop) -> Worker:
    """One worker's state, in the worker's own process: a new journal, keys and prices in memory."""
    from costbearer.dialects.registry import all_dialects
    from costbearer.gateway.worker import Worker
    from costbearer.journal import JournalWriter
    from costbearer.stores.control import Control

    control = Control.open(config.control_file, read_only=True)
    journal = JournalWriter.open(
        config.journal_dir,
        sync=config.text("journal.sync"),
        sync_interval_ms=config.integer("journal.sync_interval_ms"),
        segment_bytes=config.integer("journal.segment_bytes"),
        segment_s=config.number("journal.segment_s"),
    )
    return Worker(
        config,
        journal=journal,
        dialects=all_dialects(),
        load_keys=control.load_keyring,
        key_revision=control.revision,
        load_prices=functools.partial(load_prices, config.prices_dir),
        price_revision=functools.partial(archive.moved, config.prices_dir),
        hasher=hasher(secrets.keyring(config.data, create=False)),
        loop=loop,
    )


# -- the console process


def run_console(config: Config, *, parent: int | None = None) -> None:
    """Ledger, bookkeeper, API and metrics in one process, until SIGTERM or SIGINT."""
    import uvicorn

    from costbearer.gateway.server import die_with_parent

    if parent is not None:
        die_with_parent(parent)
    check_port(config, "console")
    with locked(config.data / SERVER_LOCK, "a console is running on this data directory"):
        prepare(config)
        with console_parts(config) as application:
            address = f"http://{_shown(config.text('console.host'))}:{config.integer('console.port')}"
            server_file = config.data / SERVER_FILE
            server_file.write_text(json.dumps({"pid": os.getpid(), "console_url": address}) + "\n", encoding="utf-8")
            try:
                uvicorn.run(
                    application,
                    host=config.text("console.host"),
                    port=config.integer("console.port"),
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=5,
                )
            finally:
                server_file.unlink(missing_ok=True)


@contextlib.contextmanager
def console_parts(config: Config) -> Iterator[FastAPI]:
    """The console's application with ledger and bookkeeper behind it; posts what is left at the end."""
    from costbearer.bookkeeper import Bookkeeper
    from costbearer.console.app import create_app
    from costbearer.stores.control import Control
    from costbearer.stores.duckdb import Ledger
    from costbearer.stores.periods import Periods

    with (
        Control.open(config.control_file) as control,
        contextlib.closing(Ledger.open(config.ledger_file, memory_mb=config.integer("ledger.memory_mb"))) as ledger,
    ):
        periods = Periods(control.database)
        bookkeeper = Bookkeeper(config.journal_dir, ledger, closed=periods.is_closed)
        with _background(config, ledger, bookkeeper, periods):
            yield create_app(
                config,
                control,
                routers=_routers(config, control, ledger, bookkeeper, periods),
                ready=lambda: {"ledger": bookkeeper.failure is None and bookkeeper.complete_to is not None},
            )
        bookkeeper.catch_up()


@contextlib.contextmanager
def _background(config: Config, ledger: Ledger, bookkeeper: Bookkeeper, periods: Periods) -> Iterator[None]:
    """What the console does beside answering: posting, asking for results of jobs, amortising."""
    from costbearer.amortise import keep_amortised
    from costbearer.dialects.registry import all_dialects
    from costbearer.jobs import Poller

    stop = threading.Event()
    posting_s, polling_s = config.number("ledger.post_interval_ms") / 1000, config.number("ledger.poll_interval_s")
    poller = Poller(config, bookkeeper, all_dialects(), functools.partial(load_prices, config.prices_dir))
    amortised = (stop, ledger, bookkeeper, functools.partial(_contract, config), AMORTISE_INTERVAL_S, periods.is_closed)
    posting = threading.Thread(target=bookkeeper.run, args=(stop, posting_s), name="bookkeeper")
    polling = threading.Thread(target=poller.run, args=(stop, polling_s), name="jobs", daemon=True)
    amortising = threading.Thread(target=keep_amortised, args=amortised, name="amortise")
    for thread in (posting, polling, amortising):
        thread.start()
    try:
        yield
    finally:
        stop.set()
        posting.join()
        amortising.join()
        polling.join(JOBS_STOP_S)


def _routers(
    config: Config, control: Control, ledger: Ledger, bookkeeper: Bookkeeper, periods: Periods
) -> list[APIRouter]:
    from costbearer.amortise import amortise
    from costbearer.backfill_desk import BackfillDesk
    from costbearer.console.api_amortisations import amortisation_router
    from costbearer.console.api_directory import directory_router
    from costbearer.console.api_doctor import doctor_router, full_examination
    from costbearer.console.api_entries import entries_router
    from costbearer.console.api_imports import imports_router
    from costbearer.console.api_periods import periods_router
    from costbearer.console.api_prices import prices_router
    from costbearer.console.api_reports import report_router
    from costbearer.console.api_restatements import restatement_router
    from costbearer.console.metrics import metrics_router
    from costbearer.imports import post
    from costbearer.restate import Period, restate
    from costbearer.stores.directory import Directory

    importing = threading.Lock()
    directory = Directory(control.database)
    desk = BackfillDesk(
        directory, control, ledger, bookkeeper, closed=periods.as_of_now, gateway_url=config.gateway_url
    )

    def imported(batch: Sequence[Entry]) -> dict[str, Any]:
        # One at a time: whether a call is there already is asked before it is posted.
        with importing:
            return post(ledger, bookkeeper, batch, periods.as_of_now()).document()

    def others() -> Beside:
        return _beside(config, bookkeeper, directory)

    def amortised(span: Period, apply: bool) -> dict[str, Any]:
        contract, closed, now = _contract(config), periods.as_of_now(), datetime.now(UTC)
        return amortise(ledger, bookkeeper, contract, **span._asdict(), now=now, apply=apply, closed=closed)

    def restated(span: Period, apply: bool) -> dict[str, Any]:
        prices, closed = load_prices(config.prices_dir), periods.as_of_now()
        return restate(ledger, bookkeeper, prices, span, apply=apply, closed=closed)

    return [
        report_router(ledger.reader, others, home=home_zone(config)),
        entries_router(ledger.reader),
        imports_router(imported),
        metrics_router(ledger.reader, bookkeeper.progress),
        doctor_router(lambda: full_examination(bookkeeper, config.prices_dir)),
        prices_router(config.prices_dir),
        periods_router(periods),
        directory_router(directory, desk),
        amortisation_router(amortised),
        restatement_router(restated),
    ]


def _contract(config: Config) -> Contract | None:
    return load_prices(config.prices_dir).contract


def _beside(config: Config, bookkeeper: Bookkeeper, directory: Directory | None) -> Beside:
    """What reports look at beside the ledger, as it is now."""
    from costbearer.price_desk import Cards
    from costbearer.reports.beside import Beside, Sealed
    from costbearer.stores.segments import seal_of

    def sealed(journal: str, sequence: int) -> Sealed | None:
        found = seal_of(config.journal_dir / journal, sequence)
        return None if found is None else Sealed(found[0].segment, found[1], found[0].parquet_sha256)

    return Beside(
        complete_to=bookkeeper.complete_to,
        prices=functools.partial(load_prices, config.prices_dir),
        card=Cards(config.prices_dir).find,
        figures=directory.figure if directory is not None else lambda _: None,
        figure_names=lambda: tuple(directory.figure_names()) if directory is not None else (),
        seal=sealed,
    )


def home_zone(config: Config) -> Zone:
    """The reporting time zone.

    Raises:
        ConfigInvalid: the setting names none.
    """
    from costbearer.reports.periods import zone

    try:
        return zone(config.text("reports.time_zone"))
    except ValueError as error:
        raise ConfigInvalid(f"reports.time_zone: {error}") from None


# -- a command without a server


@contextlib.contextmanager
def beside(config: Config, bookkeeper: Bookkeeper) -> Iterator[Beside]:
    """What reports look at beside the ledger, for one command."""
    from costbearer.stores.control import Control
    from costbearer.stores.directory import Directory

    if not config.control_file.exists():
        yield _beside(config, bookkeeper, None)
        return
    with Control.open(config.control_file) as control:
        yield _beside(config, bookkeeper, Directory(control.database))


@contextlib.contextmanager
def backfill_desk(config: Config, ledger: Ledger, bookkeeper: Bookkeeper, closed: Closed) -> Iterator[BackfillDesk]:
    """The desk for one command."""
    from costbearer.backfill_desk import BackfillDesk
    from costbearer.stores.control import Control
    from costbearer.stores.directory import Directory

    with Control.open(config.control_file) as control:
        yield BackfillDesk(
            Directory(control.database),
            control,
            ledger,
            bookkeeper,
            closed=lambda: closed,
            gateway_url=config.gateway_url,
        )


@contextlib.contextmanager
def books(config: Config) -> Iterator[tuple[Ledger, Bookkeeper, Closed]]:
    """Ledger, bookkeeper and closed months of a data directory on which no server runs, for one command.

    Raises:
        NotFound: there is no such directory; making one would answer a mistyped path with nothing.
        DataDirectoryBusy: another command has the ledger open.
    """
    from costbearer.bookkeeper import Bookkeeper
    from costbearer.stores.duckdb import Ledger

    if not config.data.is_dir():
        raise NotFound(
            f"there is no data directory {config.data}; name it with --data, or begin with `costbearer serve`"
        )
    closed = _closed_months(config)
    with contextlib.closing(
        Ledger.open(config.ledger_file, readers=1, memory_mb=config.integer("ledger.memory_mb"))
    ) as ledger:
        yield ledger, Bookkeeper(config.journal_dir, ledger, closed=closed), closed


def _closed_months(config: Config) -> Closed:
    from costbearer.corrections import never
    from costbearer.stores.control import Control
    from costbearer.stores.periods import Periods

    if not config.control_file.exists():
        return never
    with Control.open(config.control_file) as control:
        return Periods(control.database).as_of_now()


# -- both, supervised


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
            log.error("%s ended with code %s; starting it again", self.name, code)
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
            log.error("%s did not stop in time and is killed; the journal keeps what it wrote", self.name)
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
            if _listens(config.text(f"{name}.host"), config.integer(f"{name}.port")):
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
    gateway = f"http://{_shown(config.text('gateway.host'))}:{config.integer('gateway.port')}"
    console = f"http://{_shown(config.text('console.host'))}:{config.integer('console.port')}"
    return (
        f"gateway  {gateway}  (OpenAI base URL {gateway}/v1, Anthropic base URL {gateway})\n"
        f"console  {console}  (token in {config.data / secrets.TOKEN_FILE})\n"
        f"data     {config.data}"
    )


# -- small things


@contextlib.contextmanager
def locked(path: Path, held: str) -> Iterator[None]:
    """Hold an exclusive lock on a file for as long as the block runs; the kernel releases it with the process.

    Raises:
        DataDirectoryBusy: somebody else holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Commands look at the lock for microseconds with a lock of their own; only what stays held is a server.
        end = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DataDirectoryBusy(f"{path.parent}: {held}; stop it first, or use another --data") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def check_port(config: Config, part: str, *, wait_s: float = 0.0) -> None:
    """Say it at once and clearly where a port is taken; or after `wait_s`, where a predecessor may still let go of it.

    Raises:
        ConfigInvalid: the address cannot be bound.
    """
    host, port = config.text(f"{part}.host"), config.integer(f"{part}.port")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigInvalid(f"{part}.host: {host!r} is not an IP address such as 127.0.0.1 or ::1") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + wait_s
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() >= end:
                    raise ConfigInvalid(f"{part}.port: {host}:{port} cannot be used: {error.strerror}") from None
            else:
                return
        time.sleep(0.1)


def _listens(host: str, port: int) -> bool:
    target = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=0.2):
        return True
    return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
