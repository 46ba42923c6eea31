"""Requests about stored objects: free, without a model, sent on below the path they name."""

from __future__ import annotations

from typing import Any

import pytest

from costbearer.dialects.base import Place, Reading
from costbearer.dialects.stored import Passing, StoredObject, error_code, nothing_used, path_of
from costbearer.errors import BodyInvalid

FILES = StoredObject("files.create", "/files", takes_body=True)
FILE = StoredObject("files.retrieve", "/files/{id}")


@pytest.mark.parametrize(
    "template, place, path",
    [
        ("/files", Place("GET", query="limit=2&after=a%20b"), "/files?limit=2&after=a%20b"),
        ("/files/{id}/content", Place("GET", params={"id": "file-1"}), "/files/file-1/content"),
        ("/files/{id}", Place("GET", params={"id": "a/../b?c"}), "/files/a%2F..%2Fb%3Fc"),
    ],
)
def test_paths(template: str, place: Place, path: str) -> None:
    assert path_of(template, place) == path


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_request_without_a_body(method: str) -> None:
    request = FILE.read(b"", Place(method, params={"id": "file-1"}))
    assert (request.free, request.model, request.tags, request.has_tags) == (True, "", (), False)
    assert FILE.outgoing(request, "")[:5] == ("/files/file-1", b"", method, None, ())


def test_a_body_is_sent_on_without_its_tags() -> None:
    request = FILES.read(b'{"purpose":"batch","metadata":{"tags":["a:b"]}}', Place("POST"))
    assert request.tags == ("a:b",)
    assert FILES.outgoing(request, "").body == b'{"purpose":"batch"}'
    with pytest.raises(BodyInvalid):
        FILES.read(b"[", Place("POST"))


@pytest.mark.parametrize(
    "body, expected",
    [
        (b'{"id":"file-1"}', Reading(complete=True)),
        (b"anything", Reading(complete=True)),
        (b"[1]", Reading(complete=True)),
        (b'{"error":{"code":"no_such_file"}}', Reading(error_code="no_such_file")),
        (b'{"error":"x"}', Reading(error_code="provider_error")),
    ],
)
def test_nothing_was_used(body: bytes, expected: Reading) -> None:
    assert nothing_used(body) == expected
    assert FILE.whole(FILE.read(b""), body) == expected


@pytest.mark.parametrize(
    "error, code",
    [
        (None, None),
        ("", None),
        ({}, "provider_error"),
        ({"code": {}, "type": "bad word!"}, "provider_error"),
        ({"code": None, "type": "t"}, "t"),
        ({"code": 7, "type": "t"}, "7"),
        ("text", "provider_error"),
    ],
)
def test_error_codes(error: Any, code: str | None) -> None:
    assert error_code(error) == code


def test_what_is_not_read_passes() -> None:
    reader = Passing(Reading(complete=True, notes=("n",)))
    assert reader.feed(b"\xff\x00") == b"\xff\x00"
    assert (reader.rest(), reader.ended, reader.reading().notes) == (b"", False, ("n",))
