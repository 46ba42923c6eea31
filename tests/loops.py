"""The event loops that the gateway must work on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import uvloop

Run = Callable[[Callable[[], Awaitable[None]]], None]
LOOPS = ("asyncio", "uvloop")


def runs_on(name: str) -> Run:
    """What runs something to its end on the loop of that name, for half a minute at most."""
    factory = uvloop.new_event_loop if name == "uvloop" else asyncio.new_event_loop

    def on_loop(body: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await body()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return on_loop
