"""Forms: what is read of them, what is refused, and that nothing but what must changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import form
from costbearer.dialects.base import CallRequest, Place
from costbearer.dialects.form import Form
from costbearer.errors import BodyInvalid

BOUNDARY = "x7Y-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SOUND = b"RIFF\r\n--x7Y-boundar\r\n\r\n--x7Y-boundaryish \x00\xff"


def field(name: str, value: str | bytes, extra: str = "", headers: str = "") -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


def closed(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


FILE = field("file", SOUND, '; filename="a \\"b\\";name=model.wav"', "Content-Type: audio/wav\r\n")
WHOLE = closed(field("model", "whisper-1"), FILE, field("stream", "True"), field("n", "3"), field("prompt", ""))


def refusal(body: bytes, content_type: str = TYPE) -> str:
    with pytest.raises(BodyInvalid) as caught:
        read = Form(body, content_type)
        read.model()
        read.tags()
        read.flag("stream")
        read.whole("n", low=1, high=9)
    return caught.value.message


def test_what_is_read_of_a_form() -> None:
    read = Form(WHOLE, TYPE)
    assert [part.name for part in read.parts] == ["model", "file", "stream", "n", "prompt"]
    assert (read.model(), read.flag("stream"), read.whole("n"), read.word("prompt")) == ("whisper-1", True, 3, None)
    assert read.content("file") == SOUND
    assert (read.content("mask"), read.word("mask"), read.flag("mask"), read.whole("mask")) == (None,) * 4
    assert read.tags() is None
    assert (read.states("prompt"), read.states("mask")) == (True, False)
    assert (read.states_any(frozenset({"mask", "n"})), read.states_any(frozenset({"mask"}))) == (True, False)


@pytest.mark.parametrize(
    "content_type, body",
    [
        (f'Multipart/Form-Data; charset=utf-8; BOUNDARY="{BOUNDARY}"', WHOLE),
        (TYPE, b"\r\n" + WHOLE),
        (TYPE, WHOLE.removesuffix(b"\r\n") + b" \r\n\t\r\n"),
        (TYPE, WHOLE.replace(b"--x7Y-boundary\r\n", b"--x7Y-boundary \t\r\n")),
        (TYPE, WHOLE.replace(b'name="model"', b"name=model")),
        (TYPE, WHOLE.replace(b"Content-Disposition", b"content-disposition")),
    ],
)
def test_spellings_of_the_same_form(content_type: str, body: bytes) -> None:
    assert Form(body, content_type).model() == "whisper-1"
    assert Form(body, content_type).content("file") == SOUND


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        f"multipart/form-data; boundary={'b' * 71}",
        'multipart/form-data; boundary="a b "',
        'multipart/form-data; boundary="é"',
    ],
)
def test_content_types_without_a_boundary(content_type: str) -> None:
    assert "boundary" in refusal(WHOLE, content_type)


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "does not begin with the boundary"),
        (b'{"model":"m"}', "does not begin with the boundary"),
        (b"preamble\r\n" + WHOLE, "does not begin with the boundary"),
        (closed(), "has no parts"),
        (WHOLE[:-20], "cut off"),
        (b"--x7Y-boundary", "cut off"),
        (b"--x7Y-boundary\r\n", "cut off"),
        (closed(field("model", "m")) + field("model", "dearer"), "behind its closing boundary"),
        (closed(field("prompt", "p")), 'no field "model"'),
        (closed(field("model", " ")), 'no field "model"'),
        (closed(field("model", "m" * 300)), "at most 256"),
        (closed(field("model", "m\x00")), "at most 256"),
        (closed(field("model", b"\xff")), "not UTF-8"),
        (closed(field("model", "m"), field("model", "m")), "twice"),
        (closed(field("model", "m", '; filename="m"')), "not a file"),
        (closed(field("model", "m", headers="Content-Transfer-Encoding: base64\r\n")), "transfer encoding"),
        (closed(field("model", "m", '; name="n"')), 'one "name"'),
        (closed(field("model", "m", "; name*=UTF-8''n")), "encoded name"),
        (closed(field("model", "m", "; =")), "cannot be read"),
        (closed(field("model", "m", headers='Content-Disposition: form-data; name="n"\r\n')), "two content"),
        (closed(field("model", "m").replace(b"form-data;", b"attachment;")), "form-data"),
        (closed(field("model", "m").replace(b'name="model"', b"name=\xff")), "not UTF-8"),
        (closed(field("model", "m").replace(b'; name="model"', b"")), "form-data"),
        (closed(b"--x7Y-boundary\r\nmodel\r\n"), "no headers"),
        (closed(field("model", "m", headers=f"X: {'a' * 9000}\r\n")), "no headers"),
        (closed(field("model", "m"), field("stream", "maybe")), '"stream" must be true or false'),
        (closed(field("model", "m"), field("n", "-1")), "whole number"),
        (closed(field("model", "m"), field("n", "²")), "whole number"),
        (closed(field("model", "m"), field("n", "10")), "between 1 and 9"),
        (closed(field("model", "m"), field("n", "9" * 5000)), "between 1 and 9"),
        (closed(field("model", "m"), field("metadata", '{"tags":1}')), "metadata.tags"),
        (closed(field("model", "m"), field("metadata", '{"tags":[]}, "z":1')), "metadata"),
        (closed(field("model", "m"), field("metadata", "{"), field("metadata[tags]", "a:b")), "one of them"),
        (closed(field("model", "m"), field("metadata", "x" * 70_000)), "longer than"),
        (closed(*[field("model", "m")] * 1001), "more than 1000 parts"),
    ],
)
def test_forms_that_are_refused(body: bytes, words: str) -> None:
    assert words in refusal(body)


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([field("metadata", '{"tags":["a:b","c:d"],"k":"v"}')], ("a:b", "c:d")),
        ([field("metadata", ' {"tags": []}')], ()),
        ([field("metadata", '{"k":"v"}')], None),
        ([field("metadata", "free text")], None),
        ([field("metadata[tags][]", "a:b"), field("metadata[tags][]", "c:d")], ("a:b", "c:d")),
        ([field("metadata[tags]", "é:f")], ("é:f",)),
        ([field("metadata[k]", "v")], None),
    ],
)
def test_tags(parts: list[bytes], expected: tuple[str, ...] | None) -> None:
    assert Form(closed(field("model", "m"), *parts), TYPE).tags() == expected


@pytest.mark.parametrize(
    "parts, tagged, model, expected",
    [
        ([FILE, field("model", "a")], False, "b/c", [FILE, field("model", "b/c")]),
        ([FILE, field("model", "a"), FILE], False, None, [FILE, field("model", "a"), FILE]),
        ([FILE], False, "b", [field("model", "b"), FILE]),
        ([field("metadata", '{"tags":["a:b"]}'), FILE], True, None, [FILE]),
        ([FILE, field("metadata", '{"tags":["a:b"], "k":1}')], True, None, [FILE, field("metadata", '{"k":1}')]),
        ([field("metadata[tags][]", "a:b"), FILE, field("metadata[tags][]", "c:d")], True, None, [FILE]),
        (
            [field("metadata[k]", "v"), field("metadata[tags]", "a:b"), field("model", "")],
            True,
            "m",
            [field("metadata[k]", "v"), field("model", "m")],
        ),
    ],
)
def test_a_revision_changes_its_parts_and_no_other_byte(
    parts: list[bytes], tagged: bool, model: str | None, expected: list[bytes]
) -> None:
    for opening in (b"", b"\r\n"):
        revised = Form(opening + closed(*parts), TYPE).revised(tagged=tagged, model=model)
        assert revised == opening + closed(*expected)


def test_outgoing_gives_the_same_object_where_nothing_must_change() -> None:
    place = Place(path="/v1/audio/transcriptions", content_type=TYPE)
    request = CallRequest(operation="o", model="whisper-1", stream=False, body=WHOLE, place=place)
    same = form.outgoing(request, "/p", "whisper-1")
    assert same.body is WHOLE
    assert (same.path, same.content_type) == ("/p", TYPE)
    assert form.outgoing(request, "/p", "w2").body == WHOLE.replace(b"whisper-1", b"w2")
    json = CallRequest(operation="o", model="a", stream=False, body=b'{"model": "a" , "n":1.0}')
    assert form.outgoing(json, "/p", "b")[:5] == ("/p", b'{"model": "b" , "n":1.0}', "POST", "application/json", ())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
def test_any_bytes_are_read_or_refused(noise: bytes, start: int, end: int) -> None:
    for body in (noise, WHOLE[:start] + noise + WHOLE[end:], f"--{BOUNDARY}\r\n".encode() + noise):
        try:
            read = Form(body, TYPE)
            assert read.revised(tagged=False, model=None) == body
            read.model()
            read.tags()
        except BodyInvalid as refused:
            assert refused.message


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=60).filter(lambda data: b"x7Y-boundary" not in data), min_size=1, max_size=5))
def test_files_come_out_as_they_went_in(files: list[bytes]) -> None:
    body = closed(*(field(f"f{number}", data, '; filename="x"') for number, data in enumerate(files)))
    read = Form(body, TYPE)
    assert [read.content(f"f{number}") for number in range(len(files))] == files
