"""AWS event streams: what botocore reads is what was written, and no byte is lost or changed on the way."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects.eventstream import (
    HEADER_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Frame,
    FrameReader,
    Splitter,
    encode,
)

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: len(text.encode()) < 256)
HEADERS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=60), max_size=6)
EVENT = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
THREE = encode(EVENT, b'{"a":1}') + encode(EVENT, b"") + encode(EVENT | {":event-type": "metadata"}, b"x" * 300)


def raw(block: bytes, payload: bytes = b"", *, headers_size: int | None = None, total: int | None = None) -> bytes:
    """A frame with right checksums and whatever lengths and headers one likes."""
    size = 16 + len(block) + len(payload) if total is None else total
    lengths = struct.pack(">II", size, len(block) if headers_size is None else headers_size)
    frame = lengths + struct.pack(">I", zlib.crc32(lengths)) + block + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


def split(data: bytes, step: int) -> list[Frame]:
    splitter = Splitter()
    frames = [frame for at in range(0, len(data), step) for frame in splitter.feed(data[at : at + step])]
    assert b"".join(frame.raw for frame in frames) + splitter.rest() == data
    return frames


@given(HEADERS, st.binary(max_size=200))
def test_botocore_reads_what_is_written(headers: dict[str, str], payload: bytes) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(encode(headers, payload))
    (event,) = list(buffer)
    assert (event.headers, event.payload) == (headers, payload)


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=80)), max_size=5), st.integers(1, 50))
def test_what_is_written_is_read_however_it_arrives(frames: list[tuple[dict[str, str], bytes]], step: int) -> None:
    data = b"".join(encode(headers, payload) for headers, payload in frames)
    assert [(frame.headers, frame.payload) for frame in split(data, step)] == frames


def test_a_cut_anywhere_leaves_the_frames_before_it_and_the_rest() -> None:
    for cut in range(len(THREE)):
        splitter = Splitter()
        frames = splitter.feed(THREE[:cut])
        assert b"".join(frame.raw for frame in frames) + splitter.rest() == THREE[:cut]
        assert all(frame.headers is not None for frame in frames)
        assert splitter.rest() == b""


@pytest.mark.parametrize("step", [1, 1000])
def test_a_damaged_byte_anywhere_is_never_read_as_sound(step: int) -> None:
    for at in range(len(THREE)):
        data = THREE[:at] + bytes([THREE[at] ^ 0x41]) + THREE[at + 1 :]
        sound = [frame.raw for frame in split(data, step) if frame.headers is not None]
        assert len(sound) < 3
        assert all(frame in THREE for frame in sound)


def test_a_frame_with_a_wrong_checksum_does_not_hide_the_next() -> None:
    first = encode(EVENT, b'{"a":1}')
    frames = split(first[:-6] + b"zz" + first[-4:] + first, 7)
    assert [frame.headers is None for frame in frames] == [True, False]


def test_headers_of_every_type_are_passed_over() -> None:
    def header(name: str, kind: int, value: bytes) -> bytes:
        return bytes([len(name)]) + name.encode() + bytes([kind]) + value

    values = [b"", b"", b"\1", b"\0\1", b"\0" * 4, b"\0" * 8, b"\0\2ab", b"\0\2ok", b"\0" * 8, b"\0" * 16]
    block = b"".join(header(f"h{kind}", kind, value) for kind, value in enumerate(values))
    (frame,) = split(raw(block, b"p"), 11)
    assert (frame.headers, frame.payload) == ({"h7": "ok"}, b"p")


@pytest.mark.parametrize(
    "block",
    [
        b"\x05ab",
        b"\x01a",
        b"\x01a\x63",
        b"\x01a\x07\x00",
        b"\x01a\x07\x00\x09ab",
        b"\x01a\x05\x00",
        b"\x01\xff\x07\x00\x00",
        b"\x01a\x07\x00\x01\xff",
    ],
)
def test_headers_that_are_none_make_a_damaged_frame(block: bytes) -> None:
    (frame,) = split(raw(block), 100)
    assert frame.headers is None


@pytest.mark.parametrize(
    ("headers_size", "total"),
    [(0, 15), (0, 0), (9, 16), (HEADER_BYTES_MAX + 1, 2**31), (0, PAYLOAD_BYTES_MAX + 17), (0, 2**32 - 1)],
)
def test_lengths_that_cannot_be_are_damage_and_are_not_waited_for(headers_size: int, total: int) -> None:
    splitter = Splitter()
    data = raw(b"", headers_size=headers_size, total=total)
    assert [frame.headers for frame in splitter.feed(data)] == [None]
    assert splitter.feed(b"more") == [Frame(b"more", None)]
    assert (splitter.feed(b""), splitter.rest()) == ([], b"")


@pytest.mark.parametrize(
    ("headers", "payload"),
    [({"": "x"}, b""), ({"n" * 256: "x"}, b""), ({"n": "x" * 32768}, b""), ({}, b"x" * (PAYLOAD_BYTES_MAX + 1))],
)
def test_what_the_format_cannot_say_is_not_written(headers: dict[str, str], payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"larger than a frame|header's name"):
        encode(headers, payload)


def test_different_header_blocks_without_end_are_not_all_remembered() -> None:
    splitter = Splitter()
    frames = [frame for number in range(200) for frame in splitter.feed(encode({"n": str(number)}, b""))]
    assert [frame.headers for frame in frames] == [{"n": str(number)} for number in range(200)]


class Taking(FrameReader):
    def __init__(self) -> None:
        super().__init__()
        self.taken: list[bytes] = []

    def take(self, headers: Mapping[str, str], payload: bytes) -> None:
        if payload == b"odd":
            raise ValueError
        self.taken.append(payload)


def test_a_reader_passes_on_everything_and_notes_what_it_cannot_read() -> None:
    odd, sound = encode(EVENT, b"odd"), encode(EVENT, b"sound")
    damaged = sound[:-1] + bytes([sound[-1] ^ 1])
    data = sound + odd + damaged + sound + sound[:9]
    reader = Taking()
    assert reader.feed(data) + reader.rest() == data
    assert reader.taken == [b"sound", b"sound"]
    assert reader.notes.codes() == ("event_malformed", "frame_damaged", "cut_mid_event")
    assert reader.rest() == b""
