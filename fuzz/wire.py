"""What cuts bytes into events, frames, elements, members and parts. Nothing is lost, and cuts do not matter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from costbearer.dialects import eventstream, form, jsonarray, jsonedit, sse
from costbearer.errors import BodyInvalid

STEPS = (1, 3, 7, 64)


def pieces(data: bytes, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


def events(data: bytes) -> None:
    """Server-sent events: every byte comes out again, and the same data whatever the chunks."""
    told = [list(_told(data, step)) for step in (len(data) or 1, *STEPS)]
    assert all(each == told[0] for each in told), "the events depend on the chunks"


def _told(data: bytes, step: int) -> Iterator[bytes]:
    splitter = sse.Splitter()
    out = b""
    for piece in pieces(data, step):
        whole = splitter.takes_whole(piece)
        found = splitter.feed(piece)
        assert not whole or found == [piece], "what is taken whole was not given out whole"
        for event in found:
            out += event
            text = sse.data(event)
            if text is not None:
                yield text.strip()
    left = splitter.rest()
    assert out + left == data, "bytes were lost"
    text = sse.data(left)
    if text is not None:
        yield text.strip()


def frames(data: bytes) -> None:
    """AWS event streams: every byte comes out again, the same sound frames whatever the chunks."""
    told = []
    for step in (len(data) or 1, *STEPS):
        splitter = eventstream.Splitter()
        found = [frame for piece in pieces(data, step) for frame in splitter.feed(piece)]
        assert b"".join(frame.raw for frame in found) + splitter.rest() == data, "bytes were lost"
        told.append([(frame.headers, frame.payload) for frame in found if frame.headers is not None])
    assert all(each == told[0] for each in told), "the frames depend on the chunks"


def elements(data: bytes) -> None:
    """JSON arrays in pieces: every byte comes out again; a sound array comes out as its elements."""
    told = []
    for step in (len(data) or 1, *STEPS):
        splitter = jsonarray.Splitter()
        found = [piece for part in pieces(data, step) for piece in splitter.feed(part)]
        assert b"".join(found) + splitter.rest() == data, "bytes were lost"
        told.append(found if not splitter.closed else [])
    assert all(each == told[0] for each in told), "the elements depend on the chunks"


def members(data: bytes) -> None:
    """Edits of JSON objects: what is kept is untouched, what is read again is what was meant."""
    try:
        found = jsonedit.members(data)
    except BodyInvalid:
        return
    places = jsonedit.locate(data)
    assert {place.name for place in places} == set(found)
    for place in places:
        assert data[place.value : place.end] == bytes(found[place.name]), "a value is not where it was said to be"
    assert jsonedit.Revision(data).text() == data, "an edit of nothing changed something"
    for name in list(found)[:4]:
        without = jsonedit.Revision(data)
        without.remove(name)
        left = jsonedit.members(without.text())
        assert name not in left, "a removed member is still there"
        assert {key: bytes(value) for key, value in left.items()} == {
            key: bytes(value) for key, value in found.items() if key != name
        }, "another member changed"
        changed = jsonedit.Revision(data)
        changed.replace(name, b'"x"')
        assert json.loads(changed.text().decode())[name] == "x"
    if "fuzz" not in found:
        put = jsonedit.members(jsonedit.prepend(data, "fuzz", b"1"))
        assert bytes(put["fuzz"]) == b"1"
        assert len(put) == len(found) + 1


BOUNDARY = "x7Y-boundary"
_TYPES = (
    f"multipart/form-data; boundary={BOUNDARY}",
    f'multipart/form-data; charset=x; boundary="{BOUNDARY}"',
    "multipart/form-data; boundary=-",
    "multipart/form-data",
)


def parts(data: bytes) -> None:
    """Forms: read or refused; what is taken out or renamed is what is read afterwards, all else byte for byte."""
    kind = _TYPES[data[0] % len(_TYPES)] if data else _TYPES[0]
    body = data[1:]
    try:
        read = form.Form(body, kind)
    except BodyInvalid:
        return
    for part in read.parts:
        assert 0 <= part.start < part.value <= part.end <= len(body), "a part is not inside the form"
    for ask in _ASKS:
        try:
            ask(read)
        except BodyInvalid:
            continue
    try:
        model, tags = read.model(), read.tags()
    except BodyInvalid:
        return
    again = form.Form(read.revised(tagged=tags is not None, model="another"), kind)
    assert again.model() == "another", f"{model!r} is still there"
    assert again.tags() is None
    kept = [body[part.value : part.end] for part in read.parts if part.name not in _EDITED]
    assert kept == [again._body[part.value : part.end] for part in again.parts if part.name not in _EDITED]


_EDITED = frozenset({"model", "metadata", "metadata[tags]", "metadata[tags][]"})
_ASKS: tuple[Callable[[form.Form], object], ...] = (
    form.Form.model,
    form.Form.tags,
    lambda read: read.flag("stream"),
    lambda read: read.whole("n"),
    lambda read: read.word("size"),
    lambda read: read.content("file"),
    lambda read: read.states_any(frozenset({"model", "file"})),
)
