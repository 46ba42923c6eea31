"""The journal's wire format: whole frames to bytes, bytes to frames and to what is wrong with them. No I/O.

A frame is a header `>4sIQI` (magic, payload length, sequence, CRC-32) and a payload, the JSON of an `Opening`, `Intent`
or `Outcome`. The CRC covers length, sequence and payload, so a flipped length is seen and not believed. JSON escapes
control characters, and every header holds zero bytes: no text a caller can put into an entry looks like a frame.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, get_type_hints

import msgspec

from costbearer.errors import JournalFailed
from costbearer.ledger import Charge, Entry

MAGIC = b"CBJ1"
_HEADER = struct.Struct(">4sIQI")
_CHECKED = struct.Struct(">8sIQ")
HEADER_BYTES = _HEADER.size
_NOTHING = bytes.fromhex("9d0ad96d") * 2
"""Four bytes whose CRC-32 is 0, twice: what follows them has the CRC that it has without them."""
PAYLOAD_BYTES_MAX = 1024 * 1024
"""An entry is about 1 KiB; a length above this is damage to a reader and a fault of the caller to a writer."""

DamageKind = Literal["torn_tail", "damaged", "gap", "chain"]
SEQUENCE_MAX = 2**63 - 1
"""The largest the ledger's columns hold; no journal gets near it."""
Readable = bytes | bytearray | mmap.mmap


class Opening(msgspec.Struct, tag="opening", frozen=True):
    """The first frame of every segment. `previous_sha256` is the hash of the whole segment before it, or None."""

    journal: str
    segment: int
    opened_at: datetime
    writer: str
    version: str
    previous_sha256: str | None


class Intent(msgspec.Struct, tag="intent", frozen=True, gc=False):
    """Written before a call is sent. `entry.sequence` is the sequence of this very frame."""

    entry: Entry


class Outcome(msgspec.Struct, tag="outcome", frozen=True, gc=False):
    """How a call ended: the whole entry again. `entry.sequence` is its intent's; the frame has one of its own."""

    entry: Entry


Frame = Opening | Intent | Outcome


class EntryHead(msgspec.Struct, frozen=True, gc=False):
    """Which call a frame is about; the rest of its entry was not looked at."""

    journal: str
    sequence: int
    started_at: datetime


class IntentHead(msgspec.Struct, tag="intent", frozen=True, gc=False):
    """What is read of an intent where only its outcome will be posted."""

    entry: EntryHead


class OutcomeHead(msgspec.Struct, tag="outcome", frozen=True, gc=False):
    """What is read of an outcome where only the fact counts that the call is closed."""

    entry: EntryHead


def _as_text(struct: type[msgspec.Struct], **instead: tuple[Any, Any]) -> type[msgspec.Struct]:
    """The same struct with amounts as their text, and another (type, default) for some fields.

    A column makes an amount of its text faster than Python does, and an entry has up to forty of them.
    """
    hints = get_type_hints(struct)
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if field.name in instead:
            fields.append((field.name, *instead[field.name]))
            continue
        kind = {Decimal: str, Decimal | None: str | None}.get(hints[field.name], hints[field.name])
        if field.required:
            fields.append((field.name, kind))
        elif field.default is not msgspec.NODEFAULT:
            fields.append((field.name, kind, field.default))
        else:
            fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
    return msgspec.defstruct(struct.__name__ + "Row", fields, frozen=True, gc=False, kw_only=True)


_ABSENT = msgspec.Raw()

ChargeRow = _as_text(Charge)
EntryRow = _as_text(
    Entry,
    attribution=(msgspec.Raw, _ABSENT),
    settlement=(msgspec.Raw, _ABSENT),
    work=(msgspec.Raw, _ABSENT),
    charges=(tuple[ChargeRow, ...], ()),  # type: ignore[valid-type]
)
"""An entry as the ledger's columns take it: amounts are text; `attribution`, `settlement` and `work` are JSON, empty
where they are absent."""


class OutcomeRow(msgspec.Struct, tag="outcome", frozen=True, gc=False):
    """An outcome as it is posted. `entry` is an `EntryRow`."""

    entry: EntryRow  # type: ignore[valid-type]


AnyFrame = Frame | IntentHead | OutcomeHead | OutcomeRow


class FrameAt(msgspec.Struct, frozen=True, gc=False):
    """A whole frame and where it stands: bytes `[offset, end)` of its segment."""

    offset: int
    end: int
    sequence: int
    frame: AnyFrame


class Damage(msgspec.Struct, frozen=True):
    """What does not hold of the bytes `[offset, end)` of a segment.

    - `torn_tail`: the last bytes are no whole frame: a write that was cut off or, while the writer lives, is under way.
    - `damaged`: bytes that are no frame with whole frames behind them, or a frame whose CRC holds but which cannot be
      decoded; then `sequence` is that frame's.
    - `gap`: a sequence that is missing, late or repeated.
    - `chain`: a segment that is missing or does not follow the one before it.
    """

    offset: int
    end: int
    kind: DamageKind
    detail: str
    sequence: int | None = None


_ENCODER = msgspec.json.Encoder()
Decode = Callable[[Readable | memoryview], AnyFrame]
"""How much of a payload is read. Raises msgspec's errors where it is none."""
whole: Decode = msgspec.json.Decoder(Frame).decode
"""Every field of every frame."""
heads: Decode = msgspec.json.Decoder(Opening | IntentHead | OutcomeHead).decode
"""Of intents and outcomes only which call they are about: an eighth of the time."""
rows: Decode = msgspec.json.Decoder(Opening | IntentHead | OutcomeRow).decode
"""Of intents their heads, of outcomes what is posted: half of the time."""


def encode(frame: Frame, sequence: int, buffer: bytearray) -> None:
    """Make `buffer` the bytes of the frame, header and payload; what it held before is gone.

    Raises:
        JournalFailed: the frame cannot be encoded, or its payload exceeds `PAYLOAD_BYTES_MAX`.
    """
    try:
        _ENCODER.encode_into(frame, buffer, HEADER_BYTES)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        # The cause is cut off: an encoding error carries the text it failed on, and that may be private.
        raise JournalFailed(f"frame {sequence} cannot be encoded ({type(error).__name__})") from None
    length = len(buffer) - HEADER_BYTES
    if length > PAYLOAD_BYTES_MAX:
        raise JournalFailed(f"frame {sequence} has {length} bytes; at most {PAYLOAD_BYTES_MAX} are written")
    # The header's place holds what is checked beside the payload, in one piece with it, until the check is known.
    _CHECKED.pack_into(buffer, 0, _NOTHING, length, sequence)
    _HEADER.pack_into(buffer, 0, MAGIC, length, sequence, zlib.crc32(buffer))


def read_frames(
    data: Readable, offset: int = 0, expect: int | None = None, *, base: int = 0, decode: Decode = whole
) -> Iterator[FrameAt | Damage]:
    """Every whole frame from `offset` on, in file order, and everything that is wrong on the way.

    Damaged bytes are skipped up to the next whole frame. A frame that comes late is reported and yielded; one whose
    sequence was seen before is reported and left out, so no sequence is yielded twice.

    Args:
        data: a segment, or the part of it that begins at byte `base` of its file.
        offset: where in `data` to begin; a frame's start.
        expect: the sequence the first frame should have; None where it is not known.
        base: added to the offsets that are yielded.
        decode: `whole`, `heads` or `rows`: how much of each frame is read.
    """
    order = _Order(expect)
    size = len(data)
    position = offset
    with memoryview(data) as view:
        while position < size:
            found = _whole_frame(view, position, size)
            damaged_from = position
            if found is None:
                position, found = _next_whole_frame(data, view, position, size)
                if found is None:
                    detail = f"the last {size - damaged_from} bytes are no whole frame"
                    yield Damage(base + damaged_from, base + size, "torn_tail", detail)
                    return
            end, sequence = found
            verdict, remark = order.take(sequence)
            if damaged_from != position:
                lost = remark if verdict == "gap" else "no sequence is missing"
                detail = f"{position - damaged_from} bytes are no frame; {lost}"
                yield Damage(base + damaged_from, base + position, "damaged", detail)
            if verdict in {"late", "repeat"} or (verdict == "gap" and damaged_from == position):
                yield Damage(base + position, base + (end if verdict == "repeat" else position), "gap", remark)
            if verdict != "repeat":
                yield _decoded(decode, view, position, end, sequence, base)
            position = end


def _decoded(decode: Decode, view: memoryview, position: int, end: int, sequence: int, base: int) -> FrameAt | Damage:
    try:
        frame = decode(view[position + HEADER_BYTES : end])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Its CRC holds, so its bounds do too: another version's frame, or a fault of the writer; never a torn tail.
        detail = f"frame {sequence} is whole but cannot be decoded"
        return Damage(base + position, base + end, "damaged", detail, sequence)
    return FrameAt(base + position, base + end, sequence, frame)


def _whole_frame(view: memoryview, position: int, size: int) -> tuple[int, int] | None:
    """(end, sequence) of the frame at `position`, None where there is no whole one."""
    body = position + HEADER_BYTES
    if body > size:
        return None
    magic, length, sequence, check = _HEADER.unpack_from(view, position)
    end = body + length
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX or end > size or not 0 < sequence <= SEQUENCE_MAX:
        return None
    if zlib.crc32(view[body:end], zlib.crc32(view[position + 4 : position + 16])) != check:
        return None
    return end, sequence


def _next_whole_frame(data: Readable, view: memoryview, position: int, size: int) -> tuple[int, tuple[int, int] | None]:
    while (position := data.find(MAGIC, position + 1)) != -1:
        whole = _whole_frame(view, position, size)
        if whole is not None:
            return position, whole
    return size, None


class _Order:
    """Which sequences have been seen, kept as the few ranges that have not."""

    def __init__(self, expect: int | None) -> None:
        self._next = expect
        self._missing: list[tuple[int, int]] = []

    def take(self, sequence: int) -> tuple[Literal["next", "gap", "late", "repeat"], str]:
        if self._next is None:
            # Reading began in the middle of a journal: anything lower that still turns up was not read before.
            self._next = sequence
            self._missing.append((1, sequence - 1))
        if sequence == self._next:
            self._next += 1
            return "next", ""
        if sequence > self._next:
            first, last = self._next, sequence - 1
            self._missing.append((first, last))
            self._next = sequence + 1
            one = f"sequence {first} is missing"
            return "gap", one if first == last else f"sequences {first} to {last} are missing"
        for index, (first, last) in enumerate(self._missing):
            if first <= sequence <= last:
                rest = [(first, sequence - 1), (sequence + 1, last)]
                self._missing[index : index + 1] = [(low, high) for low, high in rest if low <= high]
                return "late", f"sequence {sequence} comes after {self._next - 1}"
        return "repeat", f"sequence {sequence} is there again and is left out"
