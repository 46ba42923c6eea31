"""What reads our own records and what callers say of themselves: keys, tags, the journal."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from costbearer.attribution import TAG_VALUE_CHARS_MAX, TAGS_MAX, Attributor, Bearer, Hashers, Said, attribute
from costbearer.errors import KeyInvalid, LabelMissing, TagMalformed
from costbearer.frames import HEADER_BYTES, Damage, Frame, FrameAt, Intent, Outcome, encode, heads, read_frames, rows
from costbearer.journal_files import segment_file
from costbearer.keys import parse_key, reference
from costbearer.recovery import take_over, verify

NOW = datetime(2026, 11, 23, tzinfo=UTC)
BEARER = Bearer(key_id="key_A", owner="ada", team="search", agent="ranker", workload="rerank", require=())
JOURNAL = "20261122T193000-1a2b3c4d"


def key(data: bytes) -> None:
    """A text is a key or refused, and says nothing of itself either way; a key with one character changed is none."""
    text = data.decode("utf-8", "replace")
    found = reference(text)
    assert found is None or found in text
    try:
        parsed = parse_key(text)
    except KeyInvalid as refused:
        assert len(text) < 8 or text not in refused.message, "the message repeats what was sent"
        return
    assert parsed.text == text
    for at in range(0, len(text), 7):
        other = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        try:
            parse_key(other)
        except KeyInvalid:
            continue
        raise AssertionError("a changed key is a key")


def tags(data: bytes) -> None:
    """Header, body, baggage and traceparent, one per line: attributed or refused; the key's labels always hold."""
    lines = [line.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode() for line in data.split(b"\n")]
    header, baggage, trace, *body = [*lines, "", "", ""][: 3 + TAGS_MAX + 3]
    said = Said(
        tags_header=header or None,
        baggage=baggage or None,
        traceparent=trace or None,
        body_tags=tuple(filter(None, body)),
    )
    hashed: list[str] = []

    def hasher(field: str, value: str) -> str:
        hashed.append(value)
        return f"h:{field}:{len(value)}"

    try:
        found = attribute(BEARER, said, Hashers(hasher))
    except (TagMalformed, LabelMissing) as refused:
        assert refused.message.isprintable(), "the message could steer a terminal"
        return
    for name in ("owner", "team", "agent", "workload"):
        assert found.values[name] == getattr(BEARER, name), "a caller's word went before the key's"
        assert found.fields[name].provenance == "verified"
    for text in (*found.values.values(), *found.tags.values()):
        assert 0 < len(text) <= TAG_VALUE_CHARS_MAX
    assert len(found.tags) <= TAGS_MAX
    for name in ("user", "tenant"):
        assert name not in found.values or found.values[name].startswith("h:"), "a person is named"
    encode(Intent(msgspec.structs.replace(found.entry, journal=JOURNAL, sequence=1)), 1, bytearray(HEADER_BYTES))
    assert attribute(BEARER, said, Hashers(hasher)) == found
    assert Attributor(Hashers(hasher)).attribute(BEARER, said) == found


def journal(data: bytes) -> None:
    """A segment: every byte is accounted for, no sequence is told twice, and what is whole can be written again."""
    told: set[int] = set()
    position = 0
    for item in read_frames(data):
        if isinstance(item, FrameAt) or item.end > item.offset:
            assert item.offset == position, "bytes were passed over in silence"
            position = item.end
        if isinstance(item, FrameAt):
            assert item.sequence not in told, "a sequence is there twice"
            told.add(item.sequence)
            again = bytearray(HEADER_BYTES)
            assert isinstance(item.frame, Frame)
            encode(item.frame, item.sequence, again)
            (back,) = list(read_frames(bytes(again)))
            assert isinstance(back, FrameAt)
            assert back.frame == item.frame
    assert position == len(data)
    for decode in (heads, rows):
        assert {item.sequence for item in read_frames(data, decode=decode) if isinstance(item, FrameAt)} >= told


def recovery(data: bytes) -> None:
    """The segment of a writer that died: it is brought to an end, and a second time there is nothing to do."""
    root = Path(tempfile.mkdtemp(prefix="costbearer-fuzz-"))
    try:
        directory = root / JOURNAL
        directory.mkdir()
        segment_file(directory, 1).write_bytes(data)
        before = _sequences(directory)
        done = take_over(directory, now=NOW)
        assert done is not None
        again = take_over(directory, now=NOW)
        assert again is not None
        assert (again.closed, again.cut_bytes) == ((), 0), "a journal that was brought to its end is not at its end"
        after = _sequences(directory)
        assert before <= after, "a whole frame was lost"
        told = [item for _, item in verify(directory)]
        opened = {item.sequence for item in told if isinstance(item, FrameAt) and isinstance(item.frame, Intent)}
        ended = {i.frame.entry.sequence for i in told if isinstance(i, FrameAt) and isinstance(i.frame, Outcome)}
        assert opened <= ended, "an intent has no outcome"
        cut = [item for item in told if isinstance(item, Damage) and "cut off" in item.detail]
        assert sum(item.end for item in cut) == done.cut_bytes
    finally:
        shutil.rmtree(root)


def _sequences(directory: Path) -> set[int]:
    return {item.sequence for _, item in verify(directory) if isinstance(item, FrameAt)}
