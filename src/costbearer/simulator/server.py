"""The simulator as a server: in a running loop, in a thread beside a test, or as a process."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from costbearer.simulator.api import Api
from costbearer.simulator.books import Books, Statement
from costbearer.simulator.faults import Orders
from costbearer.simulator.prices import CARDS, Card, PriceList
from costbearer.simulator.reply import World
from costbearer.simulator.wire import Connection

CREDENTIAL = "sim-provider-key"
"""The only key the simulated providers accept, unless told another one."""
BACKLOG = 4096
GC_THRESHOLD = 50_000
"""New objects between two garbage collections, where the simulator has the process to itself."""
SETTLE_POLL_S = 0.005


class Simulator:
    """OpenAI and Anthropic on one loopback port, with their own books.

    `prices` replaces or adds cards, `seed` changes all that is drawn. The answer to a prompt, its counts and its
    cost depend on the seed, on what was asked and on what was cached before it, on nothing else.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        books: Path | None = None,
        *,
        seed: int = 0,
        prices: Iterable[Card] = (),
        credential: str = CREDENTIAL,
        keep_bodies: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.credential = credential
        self._books = Books(books)
        self._api = Api(World(seed, PriceList.of(CARDS, prices)), self._books, credential, keep_bodies=keep_bodies)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        return f"http://{self.host}:{self.port}"

    @property
    def openai_base_url(self) -> str:
        """What the OpenAI SDK takes as `base_url`."""
        return f"{self.origin}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """What the Anthropic SDK takes as `base_url`."""
        return self.origin

    @property
    def in_flight(self) -> int:
        """Calls that are not yet in the books."""
        return len(self._api.open)

    def books(self) -> Statement:
        """What the books hold now."""
        return self._books.statement()

    def set_faults(self, **wanted: Any) -> None:
        """Orders for every request from now on, until they are set anew; without arguments there are none.

        Raises:
            msgspec.ValidationError: an unknown key, or a value that the key cannot have.
        """
        msgspec.convert(wanted, Orders, strict=False)
        self._api.defaults = dict(wanted)

    def reset(self) -> None:
        """As new: empty books and caches, no standing faults."""
        self._api.reset()

    async def start(self) -> None:
        """Listen; `port` is then the real one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._api, self._connections), self.host, self.port, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and break off what is open; calls under way are booked as cut by the provider."""
        if self._server is not None:
            self._server.close()
        while self._connections:
            await asyncio.gather(*(connection.stop() for connection in tuple(self._connections)))
            await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self._books.close()

    async def settle(self, timeout_s: float = 5.0) -> None:
        """Wait until every call is in the books.

        Raises:
            TimeoutError: some call is still under way.
        """
        async with asyncio.timeout(timeout_s):
            while self.in_flight:
                await asyncio.sleep(SETTLE_POLL_S)


class RunningSimulator:
    """A simulator in a thread of its own, to be used from any other thread."""

    def __init__(self, simulator: Simulator, loop: asyncio.AbstractEventLoop) -> None:
        self._simulator = simulator
        self._loop = loop
        self.credential = simulator.credential
        self.port = simulator.port
        self.origin = simulator.origin
        self.openai_base_url = simulator.openai_base_url
        self.anthropic_base_url = simulator.anthropic_base_url

    def books(self, *, settle_s: float = 5.0) -> Statement:
        """What the books hold once no call is under way.

        Raises:
            TimeoutError: a call is still under way after `settle_s` seconds.
        """
        asyncio.run_coroutine_threadsafe(self._simulator.settle(settle_s), self._loop).result()
        return self._simulator.books()

    @property
    def in_flight(self) -> int:
        """Calls that are not yet in the books."""
        return self._simulator.in_flight

    def set_faults(self, **wanted: Any) -> None:
        """As `Simulator.set_faults`."""
        self._on_loop(lambda: self._simulator.set_faults(**wanted))

    def reset(self) -> None:
        """As `Simulator.reset`."""
        self._on_loop(self._simulator.reset)

    def _on_loop(self, action: Callable[[], None]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()


@contextmanager
def running_simulator(
    host: str = "127.0.0.1",
    port: int = 0,
    books: Path | None = None,
    *,
    seed: int = 0,
    prices: Iterable[Card] = (),
    keep_bodies: bool = False,
) -> Iterator[RunningSimulator]:
    """A simulator that runs in a thread for as long as the block does."""
    simulator = Simulator(host, port, books, seed=seed, prices=prices, keep_bodies=keep_bodies)
    loop = _new_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result()
        yield RunningSimulator(simulator, loop)
    finally:
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run(
    host: str = "127.0.0.1",
    port: int = 0,
    books: Path | None = None,
    *,
    seed: int = 0,
    keep_bodies: bool = False,
    faults: Mapping[str, Any] | None = None,
    ready: Callable[[Simulator], None] | None = None,
) -> None:
    """Run a simulator in this process until SIGINT or SIGTERM. `ready` is called once it listens."""

    async def live() -> None:
        simulator = Simulator(host, port, books, seed=seed, keep_bodies=keep_bodies)
        if faults:
            simulator.set_faults(**faults)
        finish = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, finish.set)
        await simulator.start()
        # A call makes no reference cycles; at the default threshold a fifth of its time went into looking for them.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        if ready is not None:
            ready(simulator)
        await finish.wait()
        await simulator.stop()

    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(live())


def _new_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
