"""Bodies of requests on their way in, and the room they take in a worker.

A small body mostly comes with its head, and nothing of this is asked. What is larger has to be paid for by a key before
more than a little of it is read, and stays counted until its request is over: until then it may be sent again.
"""

from __future__ import annotations

import asyncio

from costbearer.errors import BodyTooLarge, CallRefused, GatewayBusy, RateLimited
from costbearer.gateway.http1 import Chunks

FREE_BYTES = 64 * 1024
"""A body up to this size takes no room, and so much of any body is read before it is known whose it is."""
SHARE = 2
"""One key has at most one part in so many of the room."""


class Room:
    """How many bytes of large bodies one worker holds, and for whom."""

    def __init__(self, bytes_max: int, body_bytes_max: int) -> None:
        """`bytes_max` is for all keys together; a body of `body_bytes_max` fits in any case."""
        self._bytes_max = max(bytes_max, body_bytes_max)
        self._share_max = max(bytes_max // SHARE, body_bytes_max)
        self._taken: dict[str, int] = {}
        self.taken_bytes = 0

    def take(self, key_id: str, size: int) -> None:
        """Take `size` bytes of room for this key.

        Raises:
            RateLimited: the key has taken its share.
            GatewayBusy: all keys together have taken all there is.
        """
        taken = self._taken.get(key_id, 0) + size
        if taken > self._share_max:
            raise RateLimited(
                f"the bodies of this key's requests under way would be more than {self._share_max} bytes, its part of "
                "gateway.bodies_bytes_max; send fewer large requests at once"
            )
        if self.taken_bytes + size > self._bytes_max:
            raise GatewayBusy(
                f"the bodies of requests under way would be more than gateway.bodies_bytes_max, {self._bytes_max} "
                "bytes; send the request again"
            )
        self._taken[key_id] = taken
        self.taken_bytes += size

    def give_back(self, key_id: str, size: int) -> None:
        """Give back what was taken."""
        self.taken_bytes -= size
        left = self._taken[key_id] - size
        if left:
            self._taken[key_id] = left
        else:
            del self._taken[key_id]


class IncomingBody:
    """One body that did not come with its head, or is not small.

    Attributes:
        whole: all of it is there.
        fault: why it will not come, or is not taken.
        rest: what came behind its end.
    """

    __slots__ = (
        "_chunks",
        "_left",
        "_limit",
        "_parts",
        "_payer",
        "_room",
        "_taken",
        "_waiter",
        "fault",
        "rest",
        "whole",
    )

    def __init__(self, length: int | None, limit: int, room: Room) -> None:
        """`length` is None where it comes in chunks. `limit` is the largest body that is taken, in bytes."""
        self._parts = bytearray()
        self._left = length or 0
        self._chunks = Chunks() if length is None else None
        self._limit = limit
        self._room = room
        self._payer: str | None = None
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None
        self.whole = False
        self.fault: CallRefused | None = None
        self.rest = b""
        if self._left > limit:
            self.fault = BodyTooLarge(f"the body is {length} bytes; gateway.body_bytes_max is {limit}")

    def feed(self, data: bytes) -> None:
        """The next bytes, which may hold its end and more."""
        if self.fault is not None:
            return
        if self._chunks is None:
            self._parts += data[: self._left]
            self.rest = data[self._left :]
            self._left -= min(self._left, len(data))
            self.whole = not self._left
        else:
            try:
                self._parts += self._chunks.feed(data)
                self._pay()
            except CallRefused as refused:
                self.fail(refused)
                return
            self.rest = self._chunks.rest
            if len(self._parts) > self._limit:
                self.fail(BodyTooLarge(f"the body is larger than gateway.body_bytes_max, {self._limit} bytes"))
                return
            self.whole = self._chunks.over
        if self.whole:
            self._wake()

    def fail(self, fault: CallRefused) -> None:
        """It will not come. A fault that it had before stays."""
        self.fault = self.fault or fault
        self._parts = bytearray()
        self._wake()

    @property
    def is_ahead(self) -> bool:
        """Has more of it come than is read before somebody pays for it?"""
        return self._payer is None and len(self._parts) > FREE_BYTES

    def admit(self, key_id: str) -> None:
        """Take room for it, on account of this key; `fault` says where there is none."""
        self._payer = key_id
        try:
            self._pay()
        except CallRefused as refused:
            self.fail(refused)

    def _pay(self) -> None:
        """For all of it where its length is known, else for what has come."""
        size = len(self._parts) + self._left
        if self._payer is not None and self.fault is None and size > FREE_BYTES and size > self._taken:
            self._room.take(self._payer, size - self._taken)
            self._taken = size

    async def ended(self) -> None:
        """Wait until it is whole, or will not come."""
        if not self.whole and self.fault is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def body(self) -> bytes:
        """All of it, to be asked for once. Raises its `fault`."""
        if self.fault is not None:
            raise self.fault
        assert self.whole
        parts, self._parts = self._parts, bytearray()
        return bytes(parts)

    def give_back(self) -> None:
        """Its request is over: nothing of it is held any more."""
        self._parts = bytearray()
        if self._payer is not None and self._taken:
            self._room.give_back(self._payer, self._taken)
            self._taken = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
