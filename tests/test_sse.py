"""Events are cut at the right bytes whatever the line ends and however they arrive; no byte is lost or changed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects import sse


def split(stream: bytes, *cuts: int) -> tuple[list[bytes], bytes]:
    """Events and rest of a stream that arrives in pieces cut at these places."""
    splitter = sse.Splitter()
    events: list[bytes] = []
    places = [0, *sorted(cuts), len(stream)]
    for begin, end in pairwise(places):
        events += splitter.feed(stream[begin:end])
    return events, splitter.rest()


STREAMS = {
    "lf": (b"data: 1\n\ndata: 2\n\n", [b"1", b"2"]),
    "crlf": (b"data: 1\r\n\r\nevent: x\r\ndata: 2\r\n\r\n", [b"1", b"2"]),
    "cr": (b"data: 1\r\rdata: 2\r\r:\r\r", [b"1", b"2"]),
    "mixed": (b"data: 1\n\r\ndata: 2\r\n\ndata: 3\r\ndata: 4\n\n", [b"1", b"2", b"3\n4"]),
    "named": (b"event: ping\ndata: {}\n\nevent: stop\ndata: 1\n\n", [b"{}", b"1"]),
    "comments": (b": hello\n\n: again\n\ndata: 1\n\n", [None, None, b"1"]),
    "other fields": (b"id: 7\nretry: 10\ndata: 1\n\nid: 8\n\n", [b"1", None]),
    "several data lines": (b"data: {\ndata: }\n\n", [b"{\n}"]),
    "no space": (b"data:1\n\ndata\n\n", [b"1", b""]),
    "byte order mark": (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
    "blank lines": (b"\n\ndata: 1\n\n\n\n", [None, b"1", None]),
    "data after a comment": (b": c\ndata: 1\n\n", [b"1"]),
    "text that looks like an end": (b'data: "a\\n\\ndata: b"\n\n', [b'"a\\n\\ndata: b"']),
}


@pytest.mark.parametrize("stream, expected", STREAMS.values(), ids=STREAMS)
def test_events_and_their_data(stream: bytes, expected: list[bytes | None]) -> None:
    events, rest = split(stream)
    # A CR at the very end may still become a CRLF, so such an event is whole only at the end of the body.
    events += [rest] if rest else []
    assert b"".join(events) == stream
    found = [sse.data(event) for event in events]
    trimmed = [data if data is None else data.strip() for data in found]
    assert [data for data in trimmed if data is not None] == [data for data in expected if data is not None]


@pytest.mark.parametrize("stream, expected", STREAMS.values(), ids=STREAMS)
def test_the_same_events_however_the_bytes_arrive(stream: bytes, expected: list[bytes | None]) -> None:
    def told(*cuts: int) -> list[bytes]:
        events, rest = split(stream, *cuts)
        assert b"".join(events) + rest == stream
        return [data.strip() for event in (*events, rest) if (data := sse.data(event)) is not None]

    at_once = told()
    assert told(*range(1, len(stream))) == at_once
    for first in range(1, len(stream)):
        assert told(first) == at_once


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: x", b":", b"event: e", b"y"]), max_size=30), st.data())
def test_no_byte_is_lost_and_cuts_do_not_matter(pieces: list[bytes], draw: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = draw.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    events, rest = split(stream, *cuts)
    assert b"".join(events) + rest == stream
    whole, left = split(stream)
    assert [sse.data(event) for event in (*events, rest)] == [sse.data(event) for event in (*whole, left)]


@pytest.mark.parametrize("chunk", [b"data: 1\n\n", b"data: 1\r\n\r\n"])
def test_a_whole_event_is_passed_on_without_a_copy(chunk: bytes) -> None:
    assert sse.Splitter().feed(chunk)[0] is chunk


def test_a_carriage_return_waits_for_its_line_feed() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\r\n\r") == []
    assert splitter.feed(b"\n") == [b"data: 1\r\n\r\n"]


def test_what_is_left_is_given_once() -> None:
    splitter = sse.Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2") == [b"data: 1\n\n"]
    assert splitter.rest() == b"data: 2"
    assert splitter.rest() == b""


def test_an_event_too_large_is_passed_on_unread_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 64)
    stream = b"data: 0\n\ndata: " + b"x" * 300 + b"\ndata: 666\n\ndata: 1\n\n"
    for size in (1, 7, 63, 65, len(stream)):
        events, rest = split(stream, *range(size, len(stream), size))
        assert b"".join(events) + rest == stream
        assert max(len(event) for event in events if type(event) is bytes) <= 64 + size
        if size < 60:
            assert [data.strip() for event in events if (data := sse.data(event)) is not None] == [b"0", b"1"]


def test_an_endless_line_is_never_held() -> None:
    splitter = sse.Splitter()
    piece = b"data: " + b"x" * (4 * 1024 * 1024)
    relayed = 0
    for _ in range(5):
        relayed += sum(len(event) for event in splitter.feed(piece))
    assert 5 * len(piece) - relayed <= sse.EVENT_BYTES_MAX
    assert type(splitter.rest()) is sse.Fragment


ODD = [b"", b"\n", b"\n\n", b"\r\n\r\n", b"data: a\r\r", b"data: a\n", b"data: a\n\n\n", b"data: a\r\n\n"]
ODD += [b"data: a\nb\n\n", b"data: a\rb\n\n", b"data: a\r\nb\r\n\r\n", b"data: a\n\ndata: b\n\n", b"data: a\rb\r\n\r\n"]
USUAL = [b'data: {"a": 1}\n\n', b'data: {"a": 1}\r\n\r\n', b"data:a\n\n"]


@pytest.mark.parametrize("held", [b"", b"data: x", b"\r"])
@pytest.mark.parametrize("chunk", [*ODD, *USUAL])
def test_what_is_taken_whole_is_what_would_be_given_out_whole(held: bytes, chunk: bytes) -> None:
    asked, fed = sse.Splitter(), sse.Splitter()
    for splitter in (asked, fed):
        splitter.feed(held)
    taken = asked.takes_whole(chunk)
    assert taken or held or chunk not in USUAL
    if taken:
        assert fed.feed(chunk) == [chunk]
        assert not chunk.startswith(b"data:") or sse.data(chunk) == chunk[5:]
