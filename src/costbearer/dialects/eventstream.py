"""AWS event streams: binary frames with headers, a payload and two checksums.

The format is `application/vnd.amazon.eventstream`
(https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html, the same for all AWS services): total
length, length of the headers, CRC-32 of these two; headers; payload; CRC-32 of all before it. Numbers are big-endian.
Joining the bytes of everything `feed` and `rest` return gives exactly what was fed.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from costbearer.dialects.reply import UNREADABLE, Notes

CONTENT_TYPE = "application/vnd.amazon.eventstream"

PAYLOAD_BYTES_MAX = 24 * 1024 * 1024
HEADER_BYTES_MAX = 128 * 1024
"""The format's own limits, which AWS's SDKs hold too; a longer length is damage, and would fill a worker's memory."""

HEADERS_KEPT_MAX = 64
"""Different header blocks that one stream's splitter remembers: a stream repeats a dozen of them in thousands of
frames."""

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_PRELUDE_BYTES = _PRELUDE.size
_FRAME_BYTES_MIN = _PRELUDE_BYTES + _CRC.size
_TEXT = 7
_SIZED = frozenset({6, _TEXT})
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type, for types of a fixed size; 6 (bytes) and 7 (text) bring their own size."""


class Frame(NamedTuple):
    """One frame. `headers` are those whose values are texts; None where the frame is damaged and cannot be read."""

    raw: bytes
    headers: Mapping[str, str] | None
    payload: bytes = b""


class Splitter:
    """Bytes in, whole frames out.

    A frame whose own checksum is wrong is given out as damaged and the next one is read. Where the checksum of the
    lengths is wrong nobody knows where the next frame begins: everything from there on is one damaged piece after
    another, passed on as it comes.
    """

    __slots__ = ("_held", "_known", "_lost", "_needed")

    def __init__(self) -> None:
        self._held = bytearray()
        self._needed = _FRAME_BYTES_MIN
        self._lost = False
        self._known: dict[bytes, Mapping[str, str] | None] = {}

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that these bytes complete, oldest first."""
        if self._lost:
            return [Frame(chunk, None)] if chunk else []
        data = chunk
        held = self._held
        if held:
            held += chunk
            if len(held) < self._needed:
                return []
            data = bytes(held)
        frames: list[Frame] = []
        start, size = 0, len(data)
        while size - start >= _FRAME_BYTES_MIN:
            total, headers_size, crc = _PRELUDE.unpack_from(data, start)
            if not _is_prelude(data, start, total, headers_size, crc):
                self._lost = True
                frames.append(Frame(data[start:], None))
                start = size
                break
            if size - start < total:
                break
            # Most chunks are one whole frame, of which a slice is no copy.
            frames.append(self._frame(data[start : start + total], headers_size))
            start += total
        if held or start < size:
            left = size - start
            self._needed = _PRELUDE.unpack_from(data, start)[0] if left >= _FRAME_BYTES_MIN else _FRAME_BYTES_MIN
            self._held = bytearray(data[start:])
        return frames

    def rest(self) -> bytes:
        """What is held of a frame that has not ended; nothing is held afterwards."""
        held, self._held = bytes(self._held), bytearray()
        self._needed = _FRAME_BYTES_MIN
        return held

    def _frame(self, raw: bytes, headers_size: int) -> Frame:
        body_end = len(raw) - _CRC.size
        if zlib.crc32(raw[:body_end]) != _CRC.unpack_from(raw, body_end)[0]:
            return Frame(raw, None)
        headers_end = _PRELUDE_BYTES + headers_size
        block = raw[_PRELUDE_BYTES:headers_end]
        known = self._known
        if block in known:
            headers = known[block]
        else:
            headers = _headers(block)
            if len(known) < HEADERS_KEPT_MAX:
                known[block] = headers
        return Frame(raw, headers, raw[headers_end:body_end])


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A frame with these headers as texts.

    Raises:
        ValueError: a name, a value, the headers or the payload are longer than the format can say.
    """
    block = b"".join(_header(name, value) for name, value in headers.items())
    if len(block) > HEADER_BYTES_MAX or len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError("larger than a frame of an event stream can be")
    lengths = struct.pack(">II", _FRAME_BYTES_MIN + len(block) + len(payload), len(block))
    frame = b"".join((lengths, _CRC.pack(zlib.crc32(lengths)), block, payload))
    return frame + _CRC.pack(zlib.crc32(frame))


class FrameReader(ABC):
    """A stream of frames on its way to the caller: whole frames are given on as they complete, and read.

    `rest` and `reading` both end the stream. Part of a frame is never read: its checksum is at its end.
    """

    def __init__(self) -> None:
        self.ended = False
        self.notes = Notes()
        self._splitter = Splitter()
        self._left = b""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller shall see of what has come so far."""
        frames = self._splitter.feed(chunk)
        for frame in frames:
            self._read(frame)
        return frames[0].raw if len(frames) == 1 else b"".join([frame.raw for frame in frames])

    def rest(self) -> bytes:
        """What is left of a frame that has not ended."""
        self.finish()
        left, self._left = self._left, b""
        return left

    def finish(self) -> None:
        """Note what is left, once."""
        left = self._splitter.rest()
        if left:
            self.notes.add("cut_mid_event")
            self._left += left

    @abstractmethod
    def take(self, headers: Mapping[str, str], payload: bytes) -> None:
        """Read one frame. Raises one of `reply.UNREADABLE`."""

    def _read(self, frame: Frame) -> None:
        if frame.headers is None:
            self.notes.add("frame_damaged")
            return
        try:
            self.take(frame.headers, frame.payload)
        except UNREADABLE:
            self.notes.add("event_malformed")


def _is_prelude(data: bytes, start: int, total: int, headers_size: int, crc: int) -> bool:
    return (
        zlib.crc32(data[start : start + 8]) == crc
        and headers_size <= HEADER_BYTES_MAX
        and _FRAME_BYTES_MIN + headers_size <= total <= _FRAME_BYTES_MIN + headers_size + PAYLOAD_BYTES_MAX
    )


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    if not 0 < len(key) < 256 or len(text) > 0x7FFF:
        raise ValueError("a header's name has 1 to 255 bytes, its value at most 32767")
    return struct.pack(f">B{len(key)}sBH", len(key), key, _TEXT, len(text)) + text


def _headers(block: bytes) -> Mapping[str, str] | None:
    """The headers that are texts; None where the block does not end where its last header does."""
    found: dict[str, str] = {}
    at, end = 0, len(block)
    try:
        while at < end:
            name_end = at + 1 + block[at]
            name, kind = block[at + 1 : name_end], block[name_end]
            at = name_end + 1
            if kind in _SIZED:
                (size,) = struct.unpack_from(">H", block, at)
                at += 2
            else:
                size = _SIZES[kind]
            if kind == _TEXT:
                found[name.decode()] = block[at : at + size].decode()
            at += size
    except (IndexError, KeyError, struct.error, UnicodeDecodeError):
        return None
    return found if at == end else None
