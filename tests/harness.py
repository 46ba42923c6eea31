"""The gateway in one process: a real worker, journal and upstream pool, and a fake wire to the caller.

What sockets and processes do is tested elsewhere; here the order of things is under the test's control, so that every
way a call can end can be tried quickly.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from costbearer import money
from costbearer.attribution import Hashers
from costbearer.config import Config, load
from costbearer.contract import Prices
from costbearer.dialects.registry import all_dialects
from costbearer.errors import CallRefused
from costbearer.forms import draft
from costbearer.frames import FrameAt, Intent, Outcome, read_frames
from costbearer.gateway import pipeline
from costbearer.gateway.edge import Leaver
from costbearer.gateway.http1 import Head, HeadReader
from costbearer.gateway.worker import Worker
from costbearer.journal import JournalWriter
from costbearer.keys import KeyRing
from costbearer.ledger import Entry, faults
from costbearer.prices import PriceBook
from costbearer.simulator import CREDENTIAL
from costbearer.stores import archive
from costbearer.stores.control import Actor, Control
from costbearer.stores.rekeying import Spool

LABELS = {"owner": "ada", "team": "search", "agent": "ranker", "workload": "rerank"}
ACTOR = Actor(who="test", source="test", request_id="test")
BOOK = PriceBook.loads(archive.bundled())


def head_of(method: str, path: str, headers: list[tuple[str, str]]) -> Head:
    """The head as the gateway reads it off the bytes that a caller sends.

    Raises:
        CallRefused: it does not read them.
    """
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return HeadReader().read("\r\n".join(lines).encode())


class FakeWire:
    """The caller's side. `leave()` closes it; `leave_after` does once so many bytes of a stream have been taken."""

    def __init__(self, data: bytes = b"", *, leave_after: int | None = None, fault: CallRefused | None = None) -> None:
        """`fault`: the body does not come whole, and that is why."""
        self._data = data
        self._fault = fault
        self._leave_after = leave_after
        self.gone = False
        self.paused = False
        self.caller: Leaver | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces: list[bytes] = []
        self.whole = False
        self.on_send: Callable[[bytes], None] | None = None

    def arrived(self) -> bytes | None:
        return None if self._fault else self._data

    async def read_body(self, key_id: str) -> bytes:
        assert self._fault is not None
        raise self._fault

    def leave(self) -> None:
        self.gone = True
        if self.caller is not None:
            self.caller.leave()

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body, self.whole = status, dict(headers), body, True

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, dict(headers)

    def send(self, data: bytes) -> None:
        if self.gone:
            return
        if self.on_send is not None:
            self.on_send(data)
        self.pieces.append(data)
        self.body += data
        if self._leave_after is not None and len(self.body) >= self._leave_after:
            self.leave()

    def end(self, data: bytes) -> None:
        if data:
            self.send(data)
        self.whole = not self.gone

    async def drained(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.leave()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error_code(self) -> str | None:
        code: str | None = self.json["error"].get("code")
        return code


class Gateway:
    """A worker with one key, and what its journal says."""

    def __init__(self, worker: Worker, key: str, control: Control, directory: Path) -> None:
        self.worker = worker
        self.key = key
        self.control = control
        self.directory = directory

    async def ask(
        self,
        body: bytes | dict[str, Any],
        path: str = "/v1/chat/completions",
        *,
        method: str = "POST",
        headers: list[tuple[str, str]] | None = None,
        key: str | None = None,
        wire: FakeWire | None = None,
        leave_after: int | None = None,
    ) -> FakeWire:
        """One request, to its end."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        if method == "GET":
            data = b""
        wire = wire or FakeWire(data, leave_after=leave_after)
        credential = [("authorization", f"Bearer {key or self.key}")]
        if path.startswith("/v1/messages"):
            credential.append(("anthropic-version", "2023-06-01"))
        standard = [("host", "gateway"), ("content-type", "application/json"), ("content-length", str(len(data)))]
        try:
            head = head_of(method, path, [*standard, *(credential if headers is None else headers)])
        except CallRefused as refused:
            pipeline.refuse(self.worker, wire, refused, path)
        else:
            await pipeline.serve(self.worker, head, wire)
        return wire

    def frames(self) -> list[Intent | Outcome]:
        """Every intent and outcome of the worker's journal, read back from the disk."""
        found: list[Intent | Outcome] = []
        for file in sorted((self.directory / "journal" / self.worker.journal.id).glob("*.cbj")):
            for item in read_frames(file.read_bytes()):
                assert isinstance(item, FrameAt), item
                if isinstance(item.frame, Intent | Outcome):
                    found.append(item.frame)
        return found

    def entries(self) -> list[Entry]:
        """The outcomes, oldest first, after checking that every intent has exactly one and each is sound."""
        frames = self.frames()
        intents = [frame.entry.sequence for frame in frames if isinstance(frame, Intent)]
        outcomes = [frame.entry for frame in frames if isinstance(frame, Outcome)]
        assert sorted(entry.sequence for entry in outcomes) == sorted(intents), "one outcome for each intent"
        for entry in outcomes:
            assert faults(entry) == [], (entry, faults(entry))
            if entry.list_cost_usd is not None:
                assert entry.list_cost_usd == money.total(charge.list_cost_usd for charge in entry.charges)
        return outcomes

    def total(self) -> Decimal:
        return money.total(entry.cost_usd for entry in self.entries() if entry.cost_usd is not None)


def make_config(directory: Path, openai_url: str, anthropic_url: str, **settings: str | int | float | bool) -> Config:
    """A configuration with both simulated providers."""
    (directory / "provider-key").write_text(CREDENTIAL, encoding="utf-8")
    file = directory / "costbearer.toml"
    file.write_text(
        f"""
[providers.openai]
dialect = "openai"
base_url = "{openai_url}"
api_key_file = "{directory / "provider-key"}"
[providers.anthropic]
dialect = "anthropic"
base_url = "{anthropic_url}"
api_key_file = "{directory / "provider-key"}"
""",
        encoding="utf-8",
    )
    return load(file, overrides={"data": str(directory / "data"), **settings}, environ={})


@functools.cache
def _new_store() -> Path:
    """A control store as it is made on an empty directory, with its keyring: made once, because migrating takes longer
    than most tests."""
    directory = Path(tempfile.mkdtemp(prefix="costbearer-store-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    Control.open(directory / "control.sqlite").close()
    return directory


@contextlib.asynccontextmanager
async def gateway(config: Config) -> AsyncIterator[Gateway]:
    """A started worker; closed at the end."""
    if not config.control_file.exists():
        shutil.copytree(_new_store(), config.control_file.parent, dirs_exist_ok=True)
    control = Control.open(config.control_file)
    issued = control.issue(draft(LABELS, now(), 90), ACTOR)
    spool = Spool(config.data)
    loop = asyncio.get_running_loop()
    worker = Worker(
        config,
        journal=JournalWriter.open(config.journal_dir),
        dialects=all_dialects(),
        load_keys=functools.partial(control.load_keyring, spool),
        load_prices=lambda: Prices(BOOK),
        price_revision=lambda: None,
        key_revision=control.revision,
        load_hashers=lambda: Hashers(lambda field, value: f"h1_{field}_{len(value)}"),
        hand_over_keys=spool.hand_over,
        loop=loop,
    )
    worker.start()
    try:
        yield Gateway(worker, issued.text, control, config.data)
    finally:
        await worker.close()
        control.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test body on a loop of its own, with a bound."""

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await test()

    asyncio.run(bounded())


def now() -> datetime:
    return datetime.now(UTC)


__all__ = ["ACTOR", "BOOK", "FakeWire", "Gateway", "KeyRing", "gateway", "head_of", "make_config", "now", "run"]
