from __future__ import annotations

import mmap
import struct
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import JournalFailed
from costbearer.frames import (
    HEADER_BYTES,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    Damage,
    Frame,
    FrameAt,
    Intent,
    Opening,
    Outcome,
    encode,
    read_frames,
)
from costbearer.ledger import Charge, Entry, Field
from costbearer.usage import Usage

JOURNAL = "20261122T193000-1a2b3c4d"
NOW = datetime(2026, 11, 22, 19, 30, 0, 123456, UTC)


def entry(sequence: int, **changes: object) -> Entry:
    label = Field("search", "verified", "key")
    made = Entry(
        journal=JOURNAL,
        sequence=sequence,
        request_id=f"req-{sequence}",
        call_id=f"call-{sequence}",
        started_at=NOW,
        owner="alice@example.com",
        team="search",
        agent="ranker",
        workload="prod",
        attribution={"team": label},
        provider="openai",
        request_model="gpt-5.4-mini",
        bound_usd=Decimal("0.012345678901"),
        reason_unknown="in_flight",
    )
    return msgspec.structs.replace(made, **changes)


def opening(segment: int = 1) -> Opening:
    return Opening(JOURNAL, segment, NOW, "gateway", "0.1.0", None)


def encoded(frame: Frame, sequence: int) -> bytes:
    buffer = bytearray()
    encode(frame, sequence, buffer)
    return bytes(buffer)


def sample(calls: int = 4) -> list[bytes]:
    """An opening, then intent and outcome of each call: `1 + 2 * calls` frames with sequences from 1."""
    parts = [encoded(opening(), 1)]
    for _ in range(calls):
        sequence = len(parts) + 1
        parts.append(encoded(Intent(entry(sequence)), sequence))
        parts.append(encoded(Outcome(entry(sequence, status="ok")), sequence + 1))
    return parts


def read(data: bytes, expect: int | None = 1) -> tuple[list[FrameAt], list[Damage]]:
    items = list(read_frames(data, 0, expect))
    return [i for i in items if isinstance(i, FrameAt)], [i for i in items if isinstance(i, Damage)]


WHOLE = sample()
FRAMES = read(b"".join(WHOLE))[0]
CONTENT = {item.sequence: item.frame for item in FRAMES}

text = st.text(max_size=20)
amounts = st.decimals(0, 10**9, places=12, allow_nan=False)
charges = st.builds(
    Charge,
    meter=text,
    quantity=st.integers(0, 10**12),
    unit_price_usd=amounts,
    list_cost_usd=amounts,
    cost_usd=amounts,
    model=text,
    card=text,
)
entries = st.builds(
    Entry,
    journal=st.just(JOURNAL),
    sequence=st.integers(1, 2**63 - 1),
    request_id=text,
    call_id=text,
    started_at=st.datetimes(timezones=st.just(UTC)),
    ended_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    owner=st.none() | text,
    attribution=st.dictionaries(text, st.builds(Field, text, st.just("asserted"), text), max_size=3),
    tags=st.dictionaries(text, text, max_size=3),
    provider=text,
    stream=st.booleans(),
    usage=st.builds(Usage, input_tokens=st.none() | st.integers(0, 10**12)),
    charges=st.lists(charges, max_size=2).map(tuple),
    cost_usd=st.none() | amounts,
    notes=st.lists(text, max_size=2).map(tuple),
)
frames = st.builds(Intent, entries) | st.builds(Outcome, entries) | st.just(opening())


@given(st.lists(frames, min_size=1, max_size=5), st.integers(1, 2**62))
def test_what_is_written_is_read(made: list[Frame], first: int) -> None:
    data = b"".join(encoded(frame, first + index) for index, frame in enumerate(made))
    found, damage = read(data, first)
    assert [item.frame for item in found] == made
    assert [item.sequence for item in found] == list(range(first, first + len(made)))
    assert [item.offset for item in found] == [0, *(item.end for item in found[:-1])]
    assert found[-1].end == len(data)
    assert not damage


def test_amounts_keep_every_digit() -> None:
    found, _ = read(encoded(Intent(entry(1, bound_usd=Decimal("0.000000000001"))), 1))
    frame = found[0].frame
    assert isinstance(frame, Intent)
    assert str(frame.entry.bound_usd) == str(Decimal("0.000000000001"))


def test_every_readable_kind(tmp_path: Path) -> None:
    data = b"".join(WHOLE)
    file = tmp_path / "segment"
    file.write_bytes(data)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert list(read_frames(mapped)) == list(read_frames(data)) == list(read_frames(bytearray(data))) == FRAMES


def test_reading_on_from_any_frame() -> None:
    data = b"".join(WHOLE)
    for index, item in enumerate(FRAMES):
        assert list(read_frames(data, item.offset, item.sequence)) == FRAMES[index:]
        assert list(read_frames(data[item.offset :], 0, item.sequence, base=item.offset)) == FRAMES[index:]
    assert list(read_frames(data, len(data))) == list(read_frames(b"")) == []


@given(text, st.sampled_from(WHOLE), text)
def test_no_text_looks_like_a_frame(before: str, frame: bytes, after: str) -> None:
    hostile = before + frame.decode("latin-1") + after
    carrier = encoded(Intent(entry(9, tags={hostile: hostile})), 9)
    assert MAGIC in carrier[4:]
    damaged = b"\0" + carrier[1:]
    assert read(carrier, 9)[1] == []
    assert read(damaged, 9)[0] == []


def test_cut_at_every_byte_of_the_last_three_frames() -> None:
    data = b"".join(WHOLE)
    ends = [item.end for item in FRAMES]
    for cut in range(FRAMES[-3].offset, len(data) + 1):
        found, damage = read(data[:cut])
        assert found == [item for item in FRAMES if item.end <= cut]
        if cut in ends:
            assert not damage
        else:
            assert damage == [Damage(found[-1].end, cut, "torn_tail", damage[0].detail)]


@pytest.mark.parametrize("pattern", [0x01, 0x20, 0x80, 0xFF])
@pytest.mark.parametrize("index", [3, -3, -2, -1])
def test_each_byte_flipped(index: int, pattern: int) -> None:
    data = bytearray(b"".join(WHOLE))
    hit = FRAMES[index]
    others = [item for item in FRAMES if item is not hit]
    for position in range(hit.offset, hit.end):
        data[position] ^= pattern
        found, damage = read(bytes(data))
        assert found == others
        assert [(d.offset, d.end, d.kind) for d in damage] == [
            (hit.offset, hit.end, "torn_tail" if index == -1 else "damaged")
        ]
        if index != -1:
            assert f"sequence {hit.sequence} is missing" in damage[0].detail
        data[position] ^= pattern


@pytest.mark.parametrize("size", [1, 512, 4096])
def test_zeros_at_the_end(size: int) -> None:
    data = b"".join(sample(12))
    ends = [item.end for item in read(data)[0]]
    kept = data[:-size]
    found, damage = read(kept + bytes(size))
    assert [item.end for item in found] == [end for end in ends if end <= len(kept)]
    assert [(d.offset, d.end, d.kind) for d in damage] == [(found[-1].end, len(data), "torn_tail")]
    found, damage = read(data + bytes(size))
    assert len(found) == len(ends)
    assert [(d.offset, d.end, d.kind) for d in damage] == [(len(data), len(data) + size, "torn_tail")]


garbage = st.lists(st.binary(max_size=40) | st.just(MAGIC), min_size=1, max_size=6).map(b"".join).filter(bool)


@given(garbage, st.integers(0, len(WHOLE)))
def test_garbage_anywhere(junk: bytes, place: int) -> None:
    found, damage = read(b"".join([*WHOLE[:place], junk, *WHOLE[place:]]))
    assert [(item.sequence, item.frame) for item in found] == list(CONTENT.items())
    assert [d.kind for d in damage] == ["torn_tail" if place == len(WHOLE) else "damaged"]
    assert damage[0].end - damage[0].offset == len(junk)


@given(st.lists(st.integers(0, len(WHOLE) - 1), min_size=1, max_size=12))
def test_duplicated_reordered_and_missing_frames(indices: list[int]) -> None:
    found, damage = read(b"".join(WHOLE[index] for index in indices))
    assert [item.sequence for item in found] == [index + 1 for index in dict.fromkeys(indices)]
    assert all(item.frame == CONTENT[item.sequence] for item in found)
    assert bool(damage) == (indices != list(range(len(indices))))
    assert {d.kind for d in damage} <= {"gap"}
    repeats = [d for d in damage if d.end > d.offset]
    assert len(repeats) == len(indices) - len(set(indices))


def test_a_second_frame_with_the_same_sequence_never_replaces_the_first() -> None:
    forged = encoded(Outcome(entry(2, status="ok", owner="mallory")), 3)
    found, damage = read(b"".join([*WHOLE[:3], forged, *WHOLE[3:]]))
    assert {item.sequence: item.frame for item in found} == CONTENT
    assert [d.kind for d in damage] == ["gap"]


def test_what_is_missing_is_named() -> None:
    data = b"".join([*WHOLE[:2], *WHOLE[3:4], *WHOLE[6:]])
    assert [d.detail for d in read(data)[1]] == ["sequence 3 is missing", "sequences 5 to 6 are missing"]


def test_reading_from_an_unknown_sequence_reports_what_comes_late() -> None:
    found, damage = read(WHOLE[4] + WHOLE[2] + WHOLE[5] + WHOLE[4], None)
    assert [item.sequence for item in found] == [5, 3, 6]
    assert [d.detail for d in damage] == ["sequence 3 comes after 5", "sequence 5 is there again and is left out"]


def raw_frame(payload: bytes, sequence: int) -> bytes:
    check = zlib.crc32(payload, zlib.crc32(struct.pack(">IQ", len(payload), sequence)))
    return struct.pack(">4sIQI", MAGIC, len(payload), sequence, check) + payload


@pytest.mark.parametrize("payload", [b'{"type":"later"}', b"", b"{", b'{"type":"intent","entry":\xff}', b"[" * 5000])
def test_a_whole_frame_that_cannot_be_decoded_is_no_torn_tail(payload: bytes) -> None:
    found, damage = read(b"".join(WHOLE) + raw_frame(payload, 10))
    assert found == FRAMES
    assert [(d.kind, d.sequence) for d in damage] == [("damaged", 10)]


def test_the_frame_is_laid_out_as_documented() -> None:
    payload = msgspec.json.encode(opening())
    assert encoded(opening(), 1) == raw_frame(payload, 1)
    assert HEADER_BYTES == 20


@pytest.mark.parametrize("sequence", [0, 2**63, 2**64 - 1])
def test_sequences_no_journal_has(sequence: int) -> None:
    assert [d.kind for d in read(raw_frame(msgspec.json.encode(opening()), sequence))[1]] == ["torn_tail"]


def test_payloads_are_bounded() -> None:
    room = PAYLOAD_BYTES_MAX - len(msgspec.json.encode(Intent(entry(1, notes=("",)))))
    assert len(read(encoded(Intent(entry(1, notes=("x" * room,))), 1))[0]) == 1
    with pytest.raises(JournalFailed, match="at most 1048576"):
        encoded(Intent(entry(1, notes=("x" * (room + 1),))), 1)


@pytest.mark.parametrize("tag", ["private \ud800", object()])
def test_what_cannot_be_encoded_is_refused_without_repeating_it(tag: object) -> None:
    with pytest.raises(JournalFailed) as caught:
        encoded(Intent(entry(1, notes=(tag,))), 1)
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=200) | st.lists(st.sampled_from(WHOLE) | st.binary(max_size=30), max_size=8).map(b"".join))
def test_any_bytes_are_read_without_an_error_and_accounted_for(data: bytes) -> None:
    position = 0
    for item in read_frames(data):
        if isinstance(item, FrameAt) or item.end > item.offset:
            assert item.offset == position
            position = item.end
    assert position == len(data)
