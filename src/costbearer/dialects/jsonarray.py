"""A JSON array that comes piece by piece, cut into its elements without losing or changing a byte.

So Google streams where no server-sent events were asked for: an array of which each element is an object. Joining
everything `feed` and `rest` return gives exactly what was fed. A single object at the top counts as one element.
"""

from __future__ import annotations

import re

from costbearer.dialects.sse import EVENT_BYTES_MAX, Fragment

_OUTSIDE = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+(["{}\[\]])', re.DOTALL)
"""Up to the next bracket, over texts that are whole; or up to a text that is not."""
_INSIDE = re.compile(rb'["\\]')
_QUOTE, _BACKSLASH, _OBJECT, _ARRAY = b'"\\{['
_OPENING = frozenset({_OBJECT, _ARRAY})


class Splitter:
    """Bytes in, pieces out: each an element with whatever stood before it, and last the end of the array."""

    __slots__ = ("_at", "_depth", "_held", "_in_array", "_in_text", "_large", "closed")

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = 0
        self._depth = 0
        self._in_text = False
        self._in_array = False
        self._large = False
        self.closed = False
        """Has the value at the top ended?"""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The pieces that these bytes complete, oldest first."""
        self._held += chunk
        pieces: list[bytes] = []
        start = 0
        while (end := self._next_end()) is not None:
            pieces.append(self._piece(bytes(self._held[start:end])))
            self._large = False
            start = end
        if self.closed and start < len(self._held):
            # Behind the end nothing is an element, however whole it comes.
            pieces.append(Fragment(self._held[start:]))
            start = len(self._held)
        elif len(self._held) - start > EVENT_BYTES_MAX:
            # All but what may be the first half of an escape.
            pieces.append(Fragment(self._held[start : self._at]))
            start, self._large = self._at, True
        del self._held[:start]
        self._at -= start
        return pieces

    def rest(self) -> bytes:
        """What is held of an element that has not ended; nothing is held afterwards."""
        held = self._piece(bytes(self._held))
        self._held, self._at = bytearray(), 0
        return held

    def _piece(self, data: bytes) -> bytes:
        return Fragment(data) if self._large else data

    def _next_end(self) -> int | None:
        """Where the next element or the array ends, None if that has not come yet; reads on from where it stopped."""
        held = self._held
        while True:
            found = _INSIDE.search(held, self._at) if self._in_text else _OUTSIDE.match(held, self._at)
            if found is None or self.closed:
                self._at = len(held)
                return None
            self._at = found.end()
            sign = held[self._at - 1]
            if sign == _QUOTE:
                self._in_text = not self._in_text
            elif sign == _BACKSLASH:
                if self._at == len(held):
                    self._at -= 1
                    return None
                self._at += 1
            elif sign in _OPENING:
                self._in_array = self._in_array or (self._depth == 0 and sign == _ARRAY)
                self._depth += 1
            else:
                self._depth -= 1
                self.closed = self._depth <= 0
                if self.closed or (self._depth == 1 and self._in_array):
                    return self._at
