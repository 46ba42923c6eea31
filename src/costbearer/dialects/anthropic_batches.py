"""Anthropic's Message Batches: messages that are answered within a day, at batch prices.

Shapes: https://docs.anthropic.com/en/api/creating-message-batches. Creating a batch is what costs. The batch object
never states a usage: the lines of its results do, each a whole message with its own model, once the batch has ended.
Requests that failed, expired or were cancelled are not billed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from costbearer.dialects import batch_results, bounds, reply, stored
from costbearer.dialects import body as bodies
from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.base import (
    NOTHING,
    NOWHERE,
    CallRequest,
    Job,
    Operation,
    Outgoing,
    Place,
    Reading,
    ReplyReader,
)
from costbearer.dialects.batch_results import BATCH, Results, ResultsReader
from costbearer.dialects.reply import Counts
from costbearer.errors import BodyInvalid

_RESULTS_URL = re.compile(rb'("results_url"\s*:\s*")[^"\\]*?(/v1/messages/batches/[A-Za-z0-9_-]+/results")')


class _Batch(msgspec.Struct, gc=False):
    """Of a batch object, what is read. Types are checked where they are used, so that none can fail it."""

    id: Any = None
    type: Any = None
    processing_status: Any = None
    created_at: Any = None
    request_counts: Any = None
    error: Any = None


class _Result(msgspec.Struct, gc=False):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"null")


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    result: _Result


class _Params(msgspec.Struct, gc=False):
    metadata: Any = None


class _Request(msgspec.Struct, gc=False):
    params: _Params | None = None


class _Create(msgspec.Struct, gc=False):
    requests: list[_Request] | None = None


_batch = reply.decoder(_Batch)
_line = reply.decoder(_Line)
_create = reply.decoder(_Create)


class BatchCreate(stored.Unstreamed):
    """The operation `messages.batches.create`: what it costs is known when the batch has ended."""

    def __init__(self, path: str = "/v1/messages/batches") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`, also where a single message has tags: the batch is one call."""
        bodies.Fields(body)
        if b'"tags"' in body:
            _refuse_tags(body)
        return CallRequest(
            operation="messages.batches.create",
            model="",
            stream=False,
            body=body,
            place=place,
            open_ended=True,
            tier=BATCH,
            background=True,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The caller's request as it is."""
        return stored.outgoing(request, self._path)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the new batch. Never raises."""
        return read_batch(body)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The batch with its results where the gateway has them."""
        return with_own_results(body)


class BatchObject(stored.StoredObject):
    """The operations that answer with a batch as it stands, or with a list of batches."""

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the batch; a list reads as nothing. Never raises."""
        return read_batch(body)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The batch with its results where the gateway has them."""
        return with_own_results(body)


class BatchResults(stored.StoredObject):
    """The operation `messages.batches.results`: its lines are read as they pass."""

    streams = batch_results.RESULT_TYPES

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return ResultsReader(Results(read_line), _job(request), headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read results that came whole, or an error body. Never raises."""
        if b"\n" not in body.strip():
            refused = stored.nothing_used(body)
            if refused.error_code is not None:
                return refused
        return read_results(body.split(b"\n"), _job(request))


def operations(path: str = "/v1/messages/batches") -> dict[str, Operation]:
    """The operations about batches, below this path."""
    return {
        "messages.batches.create": BatchCreate(path),
        "messages.batches.list": BatchObject("messages.batches.list", path),
        "messages.batches.retrieve": BatchObject("messages.batches.retrieve", path + "/{id}"),
        "messages.batches.delete": BatchObject("messages.batches.delete", path + "/{id}"),
        "messages.batches.cancel": BatchObject("messages.batches.cancel", path + "/{id}/cancel"),
        "messages.batches.results": BatchResults("messages.batches.results", path + "/{id}/results"),
    }


def read_batch(body: bytes) -> Reading:
    """What a batch object says. Never raises.

    Its job is `pending` until the results are read, `failed` where it has ended and no message succeeded. `result_id`
    is set once there are results, and is the batch's own id: they are at `/{id}/results`.
    """
    try:
        stated = _batch(body)
    except reply.UNREADABLE:
        return Reading(notes=("body_unexpected",))
    batch_id = reply.name(stated.id)
    if batch_id is None or stated.type != "message_batch":
        return Reading(complete=not stated.error, error_code=stored.error_code(stated.error))
    created_at = batch_results.moment(stated.created_at)
    if stated.processing_status != "ended":
        return Reading(response_id=batch_id, tier=BATCH, job=Job(batch_id, "pending", created_at))
    counts = Counts(stated.request_counts if type(stated.request_counts) is dict else {})
    if counts.take("succeeded") == 0:
        return Reading(complete=True, response_id=batch_id, tier=BATCH, job=Job(batch_id, "failed", created_at))
    job = Job(batch_id, "pending", created_at, batch_id)
    return Reading(response_id=batch_id, tier=BATCH, job=job, notes=("usage_in_results",))


def read_results(lines: Iterable[bytes], job: Job | None = None) -> Reading:
    """What the lines of a batch's results say was used, all at batch prices. Never raises.

    The reading names `job` only where every line could be read.
    """
    return batch_results.read_lines(lines, read_line, job)


def read_line(line: bytes) -> Reading:
    """One result. Raises one of `reply.UNREADABLE` for what is none."""
    result = _line(line).result
    if result.type != "succeeded":
        return Reading(complete=True)
    reading = _MESSAGES.whole(_ANSWERED, bytes(result.message))
    if any(not work.model for work in reading.work):
        return msgspec.structs.replace(reading, work=(), complete=False, notes=(*reading.notes, "model_absent"))
    return reading


def with_own_results(body: bytes) -> bytes:
    """The body with `results_url` as a path alone, which SDKs take relative to the gateway.

    As it comes it names the provider's host, where a caller's SDK would send its virtual key.
    """
    return _RESULTS_URL.sub(rb"\1\2", body) if b'"results_url"' in body else body


def _refuse_tags(body: bytes) -> None:
    if not bounds.few(body, bounds.BATCH_VALUES_MAX):
        raise BodyInvalid(f"the batch has tags and more than {bounds.BATCH_VALUES_MAX} values; send smaller batches")
    try:
        requests = _create(body).requests or ()
    except reply.UNREADABLE:
        return
    for number, request in enumerate(requests):
        metadata = request.params.metadata if request.params is not None else None
        if type(metadata) is dict and "tags" in metadata:
            raise BodyInvalid(
                f'"requests[{number}].params.metadata.tags": a batch is one call; send its tags in x-costbearer-tags'
            )


def _job(request: CallRequest) -> Job | None:
    batch_id = request.place.params.get("id")
    return Job(batch_id, "done") if batch_id else None


_MESSAGES = AnthropicMessages()
_ANSWERED = CallRequest(operation="chat", model="", stream=False, body=b"{}")
"""What a message answers, as far as its reader asks: it names its own model and states its cache writes' lifetime."""
