"""The wiring: which parts there are, who is given what, and which process runs them. Nothing happens on import.

``supervisor`` runs two children: the gateway with its workers and ``console_process``, which holds the ledger
and runs bookkeeper, API and pages. Either can also be run alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import hmac
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from costbearer.attribution import Hasher, Hashers
from costbearer.config import Config
from costbearer.errors import ConfigInvalid, DataDirectoryBusy, NotFound, StoreFailed
from costbearer.prices import PriceBook
from costbearer.stores import archive, secrets
from costbearer.stores.secrets import Keyring

if TYPE_CHECKING:
    from costbearer.backfill_desk import BackfillDesk
    from costbearer.bookkeeper import Bookkeeper
    from costbearer.contract import Contract, Prices
    from costbearer.corrections import Closed
    from costbearer.gateway.worker import Worker
    from costbearer.reports.beside import Beside
    from costbearer.reports.periods import Zone
    from costbearer.stores.directory import Directory
    from costbearer.stores.duckdb import Ledger
    from costbearer.stores.hash_keys import Count

SERVER_LOCK = "serve.lock"
SERVER_FILE = "server.json"
LOCK_TIMEOUT_S = 1.0
PORT_TIMEOUT_S = 10.0
"""How long a gateway that is started again waits for its predecessor's workers to let go of the port."""
log = logging.getLogger("costbearer")


PRIVATE = 0o077
"""The umask under which everything in a data directory is made: what was spent, and by whom, is nobody else's."""


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Whatever file this process or a child makes meanwhile, only its own user can read: the engines' files too, and
    also where the data directory was made beforehand and others may enter it."""
    before = os.umask(PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


def prepare(config: Config) -> bytes:
    """Make the data directory usable: secrets, control store at the newest version, the price archive.

    Gives back the bytes of the price archive that holds.
    """
    from costbearer.stores.control import Control

    with private_files():
        Control.open(config.control_file).close()
        secrets.admin_token(config.data)
        archive.keep(config.prices_dir, archive.bundled())
        archive.begin(config.prices_dir)
    # Ledgers of earlier versions, and what was put away of them, were made for everybody.
    for file in config.ledger_file.parent.glob(f"{config.ledger_file.name}*"):
        with contextlib.suppress(OSError):
            file.chmod(0o600)
    return archive.current(config.prices_dir).archive


def hashers(keyring: Keyring) -> Hashers:
    """What hashes tenants and users under the active hash key and, while another is live, under the newest of those."""
    live, active = keyring.hash_keys, keyring.hash_active
    before = max((version for version in live if version != active), default=None)
    return Hashers(_hasher(live[active], active), None if before is None else _hasher(live[before], before))


def load_hashers(directory: Path) -> Hashers:
    """Those of a data directory's keyring as it is now."""
    return hashers(secrets.keyring(directory, create=False))


def _hasher(key: bytes, version: int) -> Hasher:
    """HMAC-SHA-256 with the key's version in front: `h1_` and 32 hex. The field is part of what is hashed, so that the
    same text as user and as tenant cannot be joined."""

    def keyed(field: str, value: str) -> str:
        tag = hmac.new(key, f"{field}\0{value}".encode(), hashlib.sha256).hexdigest()
        return f"h{version}_{tag[:32]}"

    return keyed


def waiting_in(ledger: Ledger, bookkeeper: Bookkeeper) -> Count:
    """Asks a ledger, with everything posted, which tenants and users are known under a version of the hash key only."""
    from costbearer.stores.hash_keys import Unlinked

    def counted(version: int) -> Unlinked:
        bookkeeper.catch_up()
        with ledger.reader() as reader:
            return Unlinked(reader.unlinked("tenant", version), reader.unlinked("user", version))

    return counted


# -- the gateway


def run_gateway(config: Config, *, parent: int | None = None) -> int:
    """The gateway and its workers, until SIGTERM or SIGINT; gives back the exit code."""
    from costbearer.gateway import server

    if not config.providers:
        raise ConfigInvalid("no provider is configured; add a [providers.NAME] table (see `costbearer config show`)")
    if parent is not None:
        server.die_with_parent(parent)
    check_port(config, "gateway", wait_s=PORT_TIMEOUT_S if parent is not None else 0.0)
    prepare(config)
    return server.run(config, make_worker, parent=parent)


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
    from costbearer.stores.rekeying import Spool

    control = Control.open(config.control_file, read_only=True)
    spool = Spool(config.data)
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
        load_keys=functools.partial(control.load_keyring, spool),
        key_revision=control.revision,
        hand_over_keys=spool.hand_over,
        load_prices=functools.partial(load_prices, config.prices_dir),
        price_revision=functools.partial(archive.moved, config.prices_dir),
        load_hashers=functools.partial(load_hashers, config.data),
        loop=loop,
    )


# -- what reports and pages look at


def contract_of(config: Config) -> Contract | None:
    return load_prices(config.prices_dir).contract


def things_beside(config: Config, bookkeeper: Bookkeeper, directory: Directory | None) -> Beside:
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
        yield things_beside(config, bookkeeper, None)
        return
    with Control.open(config.control_file) as control:
        yield things_beside(config, bookkeeper, Directory(control.database))


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
    with (
        private_files(),
        contextlib.closing(
            Ledger.open(config.ledger_file, readers=1, memory_mb=config.integer("ledger.memory_mb"))
        ) as ledger,
    ):
        yield ledger, Bookkeeper(config.journal_dir, ledger, closed=closed), closed


def _closed_months(config: Config) -> Closed:
    from costbearer.corrections import never
    from costbearer.stores.control import Control
    from costbearer.stores.periods import Periods

    if not config.control_file.exists():
        return never
    with Control.open(config.control_file) as control:
        return Periods(control.database).as_of_now()


# -- small things


@contextlib.contextmanager
def locked(path: Path, held: str) -> Iterator[None]:
    """Hold an exclusive lock on a file for as long as the block runs; the kernel releases it with the process.

    Raises:
        DataDirectoryBusy: somebody else holds it.
        StoreFailed: the file cannot be made, as on a file system that is read-only.
    """
    try:
        secrets.data_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreFailed(f"{path} cannot be made: {error.strerror}") from None
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


def listens(host: str, port: int) -> bool:
    target = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    with contextlib.suppress(OSError), socket.create_connection((target, port), timeout=0.2):
        return True
    return False


def shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
