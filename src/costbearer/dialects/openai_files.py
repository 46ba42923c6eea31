"""OpenAI's files: stored, listed, read and deleted for free. The content of a batch's output is read as it passes.

Shapes: https://platform.openai.com/docs/api-reference/files. A line of an output file names the request of the batch it
answers, never the batch: the job of such a reading is known by the file's id, which the Batch object gives as
`output_file_id` (`base.Job.result_id`).
"""

from __future__ import annotations

from collections.abc import Mapping

from costbearer.dialects import batch_results, stored
from costbearer.dialects.base import JSON, NOTHING, NOWHERE, CallRequest, Job, Operation, Place, Reading, ReplyReader
from costbearer.dialects.batch_results import Results, ResultsReader
from costbearer.dialects.openai_batches import read_line, read_output


class FileContent(stored.StoredObject):
    """The operation `files.content`."""

    streams = batch_results.RESULT_TYPES

    def __init__(self, template: str = "/files/{id}/content") -> None:
        super().__init__("files.content", template)

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        return super().read(b"", place)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return ResultsReader(Results(read_line), _job(request), headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a file that came whole. Never raises."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == JSON and b"\n" not in body.strip():
            refused = stored.nothing_used(body)
            if refused.error_code is not None:
                return refused
        return read_output(body.split(b"\n"), _job(request))


def _job(request: CallRequest) -> Job | None:
    file_id = request.place.params.get("id")
    return Job(file_id, "done") if file_id else None


def operations(path: str = "/files") -> dict[str, Operation]:
    """The operations about files, below this path."""
    return {
        "files.create": stored.StoredObject("files.create", path, takes_body=True),
        "files.list": stored.StoredObject("files.list", path),
        "files.retrieve": stored.StoredObject("files.retrieve", path + "/{id}"),
        "files.delete": stored.StoredObject("files.delete", path + "/{id}"),
        "files.content": FileContent(path + "/{id}/content"),
    }
