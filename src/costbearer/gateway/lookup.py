"""The addresses of one provider's name, found beside the event loop.

The loop's own look-ups share a few threads, and one goes on after whoever asked for it has given up: a name whose
servers are silent would soon hold all of them, and no provider could be reached any more. So each name has one look-up
at a time, on a thread of its own, and everybody who needs its addresses meanwhile waits for that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Any

HOLD_S = 5.0
"""How long addresses are used before the name is looked up again: many connections are often needed at once."""

Address = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it: family, type, protocol, canonical name, and the address itself."""


class Lookup:
    """One host and port. Used on the loop's thread only."""

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._port = port
        self._loop = loop
        self._found: list[Address] = []
        self._until = 0.0
        self._asking: asyncio.Future[list[Address]] | None = None

    async def addresses(self) -> list[Address]:
        """At least one, in the resolver's order. Whoever waits bounds the time.

        Raises:
            OSError, ValueError: no such name, no address, or a name that cannot be one.
        """
        if self._found and self._loop.time() < self._until:
            return self._found
        if _is_address(self._host):
            return list(
                socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            )
        if self._asking is None:
            asking: asyncio.Future[list[Address]] = self._loop.create_future()
            # It must hold up nobody, the end of the process included.
            threading.Thread(target=self._ask, args=(asking,), name=f"lookup {self._host}", daemon=True).start()
            self._asking = asking
        # Who gives up leaves the look-up to the others.
        return await asyncio.shield(self._asking)

    def forget(self) -> None:
        """The addresses that were given out lead nowhere: the next who needs one asks for them anew."""
        self._found = []

    def _ask(self, asking: asyncio.Future[list[Address]]) -> None:
        """On the thread: as long as the resolver takes."""
        found: list[Address] = []
        fault: OSError | ValueError = OSError(f"{self._host} has no address")
        try:
            found = list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            fault = error
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answered, asking, found, fault)

    def _answered(
        self, asking: asyncio.Future[list[Address]], found: list[Address], fault: OSError | ValueError
    ) -> None:
        self._asking = None
        if found:
            self._found = found
            self._until = self._loop.time() + HOLD_S
            asking.set_result(found)
        else:
            asking.set_exception(fault)
            # Nobody may be waiting any more.
            asking.exception()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
