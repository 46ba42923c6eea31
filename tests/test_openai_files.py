"""Files: free, and read for results of a batch as their content passes."""

from __future__ import annotations

import pytest

from costbearer.dialects.base import CallRequest, Job, Place, Reading
from costbearer.dialects.openai_files import operations
from tests.test_form import FILE, TYPE, closed, field
from tests.test_openai_batches import CHAT, answered

OPERATIONS = operations()
CONTENT = OPERATIONS["files.content"]
OUTPUT = answered(CHAT) + b"\n" + answered(CHAT) + b"\n"


def ask() -> CallRequest:
    return CONTENT.read(b"", Place("GET", "/v1/files/file-out/content", params={"id": "file-out"}))


def test_an_upload_is_sent_on_as_it_is() -> None:
    create = OPERATIONS["files.create"]
    body = closed(field("purpose", "batch"), FILE)
    request = create.read(body, Place("POST", "/v1/files", content_type=TYPE))
    assert (request.free, request.model) == (True, "")
    outgoing = create.outgoing(request, "")
    assert (outgoing.path, outgoing.method, outgoing.content_type) == ("/files", "POST", TYPE)
    assert outgoing.body is body


@pytest.mark.parametrize(
    "name, method, path",
    [
        ("files.list", "GET", "/files"),
        ("files.retrieve", "GET", "/files/file-out"),
        ("files.delete", "DELETE", "/files/file-out"),
        ("files.content", "GET", "/files/file-out/content"),
    ],
)
def test_paths(name: str, method: str, path: str) -> None:
    request = OPERATIONS[name].read(b"", Place(method, params={"id": "file-out"}))
    assert request.free
    assert OPERATIONS[name].outgoing(request, "")[:5] == (path, b"", method, None, ())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_output_of_a_batch_is_read_as_it_passes(size: int) -> None:
    assert CONTENT.streams["application/octet-stream"] == "application/octet-stream"
    reader = CONTENT.stream_reader(ask(), {"content-length": str(len(OUTPUT))})
    seen = b"".join(reader.feed(OUTPUT[at : at + size]) for at in range(0, len(OUTPUT), size)) + reader.rest()
    reading = reader.reading()
    assert (seen, reader.ended) == (OUTPUT, False)
    assert (reading.job, reading.complete, reading.tier) == (Job("file-out", "done"), True, "batch")
    assert reading.work[0].usage.input_tokens == 20
    assert CONTENT.whole(ask(), OUTPUT, {"content-type": "application/json"}) == reading


@pytest.mark.parametrize("body", [b"", b"\x89PNG\r\n\x00", b'{"custom_id":"c","method":"POST"}\n', b"a,b\n1,2\n"])
def test_other_files_say_nothing(body: bytes) -> None:
    assert CONTENT.whole(ask(), body, {}) == Reading(complete=True)
    reader = CONTENT.stream_reader(ask(), {"content-length": str(len(body))})
    assert reader.feed(body) == body
    assert reader.reading() == Reading(complete=True)


def test_an_error_instead_of_a_file() -> None:
    reading = CONTENT.whole(ask(), b'{"error":{"code":"c"}}', {"content-type": "application/json"})
    assert (reading.error_code, reading.job) == ("c", None)
