"""Members are found where they stand, and an edit changes nothing but the member it names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects import jsonedit
from costbearer.errors import BodyInvalid

DOCUMENTS = [
    b'{"a":1}',
    b' \n{ "a" : [1, {"a": 2}] , "b":"x,}\\" {", "c":null }\n',
    b'{"\\u0061":1,"b\\"":{"z":"\\\\"},"\xc3\xa9":"\xf0\x9f\x8e\x88"}',
    b'{"n":-1.50e+03,"t":true,"e":{},"l":[],"s":""}',
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_members_stand_where_they_are_said_to(document: bytes) -> None:
    decoded = json.loads(document)
    found = jsonedit.locate(document)
    assert [member.name for member in found] == list(decoded)
    for member in found:
        assert json.loads(document[member.value : member.end]) == decoded[member.name]
        assert json.loads(b"{" + document[member.start : member.end] + b"}") == {member.name: decoded[member.name]}


def revised(document: bytes, **changes: bytes | None) -> bytes:
    revision = jsonedit.Revision(document)
    for name, value in changes.items():
        if value is None:
            revision.remove(name)
        elif name in revision.names():
            revision.replace(name, value)
        else:
            revision.insert(name, value)
    return revision.text()


@pytest.mark.parametrize(
    "document, changes, expected",
    [
        (b'{"a":1,"b":2,"c":3}', {"a": None}, b'{"b":2,"c":3}'),
        (b'{"a":1,"b":2,"c":3}', {"b": None}, b'{"a":1,"c":3}'),
        (b'{"a":1,"b":2,"c":3}', {"c": None}, b'{"a":1,"b":2}'),
        (b'{"a":1,"b":2,"c":3}', {"b": None, "c": None}, b'{"a":1}'),
        (b'{"a":1,"b":2,"c":3}', {"a": None, "b": None}, b'{"c":3}'),
        (b'{"a":1}', {"a": None}, b"{}"),
        (b'{"a":1}', {"a": None, "z": b"9"}, b'{"z":9}'),
        (b'{ "a": 1, "b": 2 }', {"a": None}, b'{"b": 2 }'),
        (b'{ "a": 1,\n  "b": 2\n}', {"b": None}, b'{ "a": 1\n}'),
        (b'{ "a": 1, "b": 2 }', {"a": b"[]"}, b'{ "a": [], "b": 2 }'),
        (b'{ "a": 1, "b": 2 }', {"z": b'"v"'}, b'{"z":"v", "a": 1, "b": 2 }'),
        (b'{ "a": 1, "b": 2 }', {"a": None, "z": b"0"}, b'{"z":0,"b": 2 }'),
        (b"{}", {"z": b"0"}, b'{"z":0}'),
        (b"{}", {}, b"{}"),
        (b'{"a":1.0}', {"q": None}, b'{"a":1.0}'),
        (b'{"m\\u006fdel":"x","y":[ ]}', {"model": b'"z"'}, b'{"m\\u006fdel":"z","y":[ ]}'),
    ],
)
def test_revisions(document: bytes, changes: dict[str, bytes | None], expected: bytes) -> None:
    assert revised(document, **changes) == expected


@pytest.mark.parametrize(
    "document, expected",
    [
        (b'{"a":1}', b'{"z":0,"a":1}'),
        (b' { "a":1}', b' {"z":0, "a":1}'),
        (b"{ }", b'{"z":0 }'),
    ],
)
def test_a_member_put_in_front(document: bytes, expected: bytes) -> None:
    assert jsonedit.prepend(document, "z", b"0") == expected


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.dictionaries(texts, values, max_size=5), st.booleans(), st.sampled_from([None, 2]), st.data())
def test_any_object_revised_is_the_object_with_those_members_changed(
    content: dict[str, Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    document = json.dumps(content, ensure_ascii=ascii_only, indent=indent).encode()
    names = list(content)
    gone = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    other = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    revision = jsonedit.Revision(document)
    for name in gone:
        revision.remove(name)
    for name in other:
        revision.replace(name, b'"new"')
    expected = {name: "new" if name in other else value for name, value in content.items() if name not in gone}
    if "fresh" not in content and data.draw(st.booleans()):
        revision.insert("fresh", b"[1]")
        expected = {"fresh": [1], **expected}
    pairs = json.loads(revision.text(), object_pairs_hook=list)
    assert [name for name, _ in pairs] == list(expected)
    assert json.loads(revision.text()) == expected


@pytest.mark.parametrize(
    "document, words",
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b'{"a":1', "cut off"),
        (b'{"a":"x', "cut off"),
        (b'{"a":[1,2', "cut off"),
        (b'{"a":"\\ud83d', "cut off"),
        (b'{"a":"\\ud83d"}', "half of a surrogate pair"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"<html></html>", "is not JSON"),
        (b'{"a":NaN}', "is not JSON"),
        (b'{"a":-Infinity}', "is not JSON"),
        (b'{"a":1,}', "is not JSON"),
        (b"{'a':1}", "is not JSON"),
        (b'{"a":1}{"b":2}', "is not JSON"),
        (b'{"a":"\x01"}', "is not JSON"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b"\x1f\x8b\x08\x00\xff", "looks like gzip"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8 at byte 0"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b'{"a":1,"b":2,"a":3}', "the member 'a' twice"),
        (b'{"a":1,"\\u0061":3}', "the member 'a' twice"),
    ],
)
def test_what_is_no_object_is_refused_with_its_reason(document: bytes, words: str) -> None:
    with pytest.raises(BodyInvalid, match=words):
        jsonedit.members(document)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(document: bytes) -> None:
    try:
        found = jsonedit.members(document)
    except BodyInvalid:
        return
    assert list(json.loads(document)) == list(found)
