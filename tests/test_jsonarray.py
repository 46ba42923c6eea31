"""A JSON array in pieces: its elements come out whole, and no byte is lost or changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.dialects import jsonarray
from costbearer.dialects.jsonarray import Splitter
from costbearer.dialects.sse import Fragment

SAMPLE = b'[{\n  "a": [1, {"b": "}]\\"{\\\\"}]\n}\n,\r\n{"c": {}}\n]\n'
ELEMENTS = [b'[{\n  "a": [1, {"b": "}]\\"{\\\\"}]\n}', b'\n,\r\n{"c": {}}', b"\n]"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def split(data: bytes, size: int) -> tuple[list[bytes], bytes, bool]:
    splitter = Splitter()
    pieces = [piece for at in range(0, len(data), size) for piece in splitter.feed(data[at : at + size])]
    return pieces, splitter.rest(), splitter.closed


@pytest.mark.parametrize("size", range(1, len(SAMPLE) + 1))
def test_elements_come_whole_however_the_bytes_arrive(size: int) -> None:
    pieces, rest, closed = split(SAMPLE, size)
    assert pieces[:3] == ELEMENTS
    assert b"".join(pieces) + rest == SAMPLE
    assert closed


@given(st.lists(st.dictionaries(st.text(max_size=5), values, max_size=3), max_size=4), st.integers(1, 40))
def test_every_array_of_objects_is_cut_into_its_elements(listed: list[dict[str, object]], size: int) -> None:
    data = json.dumps(listed, indent=1).encode()
    pieces, rest, closed = split(data, size)
    assert closed
    assert b"".join(pieces) + rest == data
    assert [json.loads(piece.strip(b" \n\r\t,[")) for piece in pieces[: len(listed)]] == listed


@given(st.binary(max_size=60), st.integers(1, 7))
def test_no_bytes_are_lost_or_refused(data: bytes, size: int) -> None:
    pieces, rest, _ = split(data, size)
    assert b"".join(pieces) + rest == data


def test_an_object_at_the_top_is_one_element() -> None:
    data = b'{"error": {"details": [{"a": 1}]}}'
    assert split(data, 1) == ([data], b"", True)


def test_an_element_that_has_not_ended_is_held() -> None:
    splitter = Splitter()
    assert splitter.feed(b'[{"a":1},{"b":"') == [b'[{"a":1}']
    assert not splitter.closed
    assert splitter.rest() == b',{"b":"'


def test_an_element_that_is_too_large_is_passed_on_in_fragments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonarray, "EVENT_BYTES_MAX", 20)
    data = b'[{"small":1},{"large":"' + b"\\\\" * 30 + b'"},{"small":2}]'
    pieces, rest, closed = split(data, 3)
    assert b"".join(pieces) + rest == data
    assert closed
    assert [piece for piece in pieces if type(piece) is bytes] == [b'[{"small":1}', b',{"small":2}', b"]"]
    assert sum(type(piece) is Fragment for piece in pieces) > 1
