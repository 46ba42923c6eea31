"""Server-sent events, cut into whole events without losing or changing a byte.

The format is the WHATWG's (https://html.spec.whatwg.org/multipage/server-sent-events.html): lines end with LF, CRLF or
CR, an empty line ends an event, a line that begins with a colon is a comment, a byte order mark may open the stream.
Joining everything `feed` and `rest` return gives exactly what was fed.
"""

from __future__ import annotations

import re
from itertools import pairwise

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""The most that is held of one event. The largest seen are images as base64 in one delta, 2 to 6 MB. What exceeds it is
passed on in fragments and not read, so that an endless line cannot fill the memory of a worker."""

_OVERLAP = 3
"""Bytes before the unread part from which an end may have begun: one less than the longest, CRLF CRLF."""

_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
"""Two line ends in a row. A CR that is the last byte so far may be the first half of a CRLF and has to wait."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Fragment(bytes):
    """A piece of an event that is too large to be held: relayed, never read."""

    __slots__ = ()


class Splitter:
    """Bytes in, whole events out, each with the line ends that belong to it."""

    __slots__ = ("_held", "_large", "_scanned")

    def __init__(self) -> None:
        self._held = bytearray()
        self._scanned = 0
        self._large = False

    def takes_whole(self, chunk: bytes) -> bool:
        """Is it one whole event of a single line, which `feed` would give out as it is?"""
        if self._held or self._large:
            return False
        size, end = len(chunk), chunk.find(b"\n")
        if end == size - 2:
            return end > 0 and chunk.endswith(b"\n\n") and b"\r" not in chunk
        return end == size - 3 > 1 and chunk.endswith(b"\r\n\r\n") and chunk.find(b"\r") == size - 4

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that these bytes complete, oldest first."""
        held = self._held
        if not held and not self._large:
            # Nearly every chunk a provider sends is one whole event with LF line ends.
            if 0 < chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk:
                return [chunk]
            if _is_line_with_crlf(chunk):
                return [chunk]
            return self._cut(chunk, 0)
        start = max(0, self._scanned - _OVERLAP)
        held += chunk
        # A picture comes in hundreds of pieces without a line end; to see that is quicker than the search.
        lines = held.find(b"\n", start) >= 0 or held.find(b"\r", start) >= 0
        if len(held) <= EVENT_BYTES_MAX and not (lines and _END.search(held, start)):
            self._scanned = len(held)
            return []
        return self._cut(bytes(held), start)

    def rest(self) -> bytes:
        """What is held of an event that has not ended; nothing is held afterwards."""
        held: bytes = bytes(self._held)
        if self._large:
            held = Fragment(held)
        self._held, self._scanned, self._large = bytearray(), 0, False
        return held

    def _cut(self, buffer: bytes, start: int) -> list[bytes]:
        if b"\r" in buffer:
            ends = [match.end() for match in _END.finditer(buffer, start)]
            events = [buffer[begin:end] for begin, end in pairwise((0, *ends))]
            left = buffer[ends[-1] :] if ends else buffer
        else:
            *whole, left = buffer.split(b"\n\n")
            events = [event + b"\n\n" for event in whole]
        if events and self._large:
            events[0] = Fragment(events[0])
            self._large = False
        if len(left) > EVENT_BYTES_MAX:
            events.append(Fragment(left[:-_OVERLAP]))
            left = left[-_OVERLAP:]
            self._large = True
        self._held = bytearray(left)
        self._scanned = len(left)
        return events


def data(event: bytes) -> bytes | None:
    """The data of an event, None where it has none (comments, fragments).

    White space may be left around it, which JSON does not mind.
    """
    start = 0
    if event.startswith(b"event:"):
        start = event.find(b"\n") + 1
    # One data line, alone or after the event's name, is what the providers send; the rest of the format is below.
    if event.startswith(b"data:", start) and event.find(b"\n", start) >= len(event) - 2 and b"\r" not in event:
        return event[start + 5 :] if type(event) is bytes else None
    if event.startswith(b"data:") and _is_line_with_crlf(event):
        return event[5:] if type(event) is bytes else None
    return _data_of_lines(event)


def _is_line_with_crlf(event: bytes) -> bool:
    """Is it one line and the empty one that ends the event, both with CRLF? So Google sends them."""
    end = len(event) - 4
    return 0 < event.find(b"\r") == end and event.find(b"\n") == end + 1 and event.endswith(b"\n\r\n")


def _data_of_lines(event: bytes) -> bytes | None:
    if type(event) is Fragment:
        return None
    lines = [
        line[5:].removeprefix(b" ")
        for line in _LINE_END.split(event.removeprefix(_BYTE_ORDER_MARK))
        if line == b"data" or line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None
