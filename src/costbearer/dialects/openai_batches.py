"""OpenAI's batches: work that is asked for in a file and done within a day, at batch prices.

Shapes: https://platform.openai.com/docs/api-reference/batch. Creating a batch is what costs; how much is known once it
has ended. Batches made after 2025-09-07 then state it themselves (`usage` and `model`), as a sum over all requests. The
lines of the output file state it for each request, and are what counts where

* the object states no usage or no model (older batches, Azure),
* the endpoint is one whose cost is not in the sum: what the tools of a response did, what of an image's tokens is text.

Requests that failed, expired or were cancelled are not billed and not in the sum; a batch that failed did nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import batch_results, reply, stored
from costbearer.dialects import body as bodies
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Job, Operation, Outgoing, Place, Reading
from costbearer.dialects.batch_results import BATCH
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_embeddings import OpenAIEmbeddings
from costbearer.dialects.openai_images import GENERATE, OpenAIImages
from costbearer.dialects.openai_responses import OpenAIResponses
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import Usage, Work

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""What `status` says of a batch that does nothing more."""

SUMMED_ENDPOINTS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
"""Endpoints of whose requests the batch's own usage tells the whole cost."""

FREE_ENDPOINTS = frozenset({"/v1/moderations"})

_STATUS_OK = range(200, 300)
_NULL = msgspec.Raw(b"null")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a Batch object says.

    `reading` is what it says was used. Its job is `pending` while the batch runs, and also where it has ended but only
    its output file tells the cost: then `ended` is True and `output_file_id` names the file. It is `failed` where not
    one request was completed, whatever ended the batch. The error file holds requests that are not billed.
    """

    reading: Reading
    ended: bool
    output_file_id: str | None
    error_file_id: str | None


class _Stated(msgspec.Struct, gc=False):
    """Of a Batch object, what is read. Types are checked where they are used, so that none can fail it."""

    id: Any = None
    object: Any = None
    status: Any = None
    endpoint: Any = None
    model: Any = None
    created_at: Any = None
    usage: Any = None
    request_counts: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    error: Any = None


class _Answer(msgspec.Struct, gc=False):
    status_code: int
    body: msgspec.Raw


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: _Answer | None
    error: Any = None


class _Body(msgspec.Struct, gc=False):
    object: Any = None
    results: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL


_stated = reply.decoder(_Stated)
_line = reply.decoder(_Line)
_body = reply.decoder(_Body)


class BatchCreate(stored.Unstreamed):
    """The operation `batches.create`: what it costs is not known before the batch has ended, nor bounded."""

    def __init__(self, path: str = "/batches") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        tags = bodies.Fields(body).tags()
        return CallRequest(
            operation="batches.create",
            model="",
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            open_ended=True,
            tier=BATCH,
            background=True,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request for the provider: tags off; else the caller's bytes."""
        return stored.outgoing(request, self._path)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the new batch. Never raises."""
        return reading_of(body)


class BatchObject(stored.StoredObject):
    """The operations `batches.retrieve` and `batches.cancel`, which answer with the batch as it stands."""

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the batch. Never raises."""
        return reading_of(body)


def operations(path: str = "/batches") -> dict[str, Operation]:
    """The operations about batches, below this path."""
    return {
        "batches.create": BatchCreate(path),
        "batches.list": stored.StoredObject("batches.list", path),
        "batches.retrieve": BatchObject("batches.retrieve", path + "/{id}"),
        "batches.cancel": BatchObject("batches.cancel", path + "/{id}/cancel"),
    }


def reading_of(body: bytes) -> Reading:
    """The reading of a reply that is a Batch object, or an error body. Never raises."""
    batch = read_batch(body)
    if batch is not None:
        return batch.reading
    refused = stored.nothing_used(body)
    notes = refused.notes if refused.error_code else ("body_unexpected",)
    return msgspec.structs.replace(refused, complete=False, notes=notes)


def read_batch(body: bytes) -> Batch | None:
    """A Batch object; None for what is none. Never raises."""
    try:
        stated = _stated(body)
    except reply.UNREADABLE:
        return None
    batch_id = reply.name(stated.id)
    if batch_id is None or stated.object != BATCH:
        return None
    ended = type(stated.status) is str and stated.status in ENDED
    output_file = reply.name(stated.output_file_id)
    return Batch(
        reading=_ended(batch_id, stated, output_file) if ended else _under_way(batch_id, stated, None),
        ended=ended,
        output_file_id=output_file,
        error_file_id=reply.name(stated.error_file_id),
    )


def read_output(lines: Iterable[bytes], job: Job | None = None, model: str = "") -> Reading:
    """What the lines of an output file say was used, all at batch prices. Never raises.

    `model` is the batch's (`Batch.reading.response_model`): images do not name theirs. The reading names `job` only
    where every line could be read; a file that holds no results reads as nothing.
    """
    return batch_results.read_lines(lines, lambda line: read_line(line, model), job)


def read_line(line: bytes, model: str = "") -> Reading:
    """One line of an output or error file. Raises one of `reply.UNREADABLE` for what is none."""
    found = _line(line)
    answer = found.response
    if answer is None or answer.status_code not in _STATUS_OK:
        return Reading(complete=True)
    body = bytes(answer.body)
    kind = _body(body)
    name = "response" if kind.object == "response" else "images" if _is_array(kind.data) else None
    if kind.object in _COMPLETIONS:
        name = "chat"
    elif kind.object == "list":
        name = "embeddings"
    if name is None:
        # A moderation is free.
        return Reading(complete=True) if _is_array(kind.results) else Reading(notes=("body_unexpected",))
    reading = _READERS[name].whole(CallRequest(operation=name, model=model, stream=False, body=b"{}"), body)
    if any(not work.model for work in reading.work):
        # What a reply does not name its request did, and that is in the input file.
        return msgspec.structs.replace(reading, work=(), complete=False, notes=(*reading.notes, "model_absent"))
    return reading


def _is_array(value: msgspec.Raw) -> bool:
    return memoryview(value)[0] == ord("[")


def _under_way(batch_id: str, stated: _Stated, result_id: str | None, *notes: str) -> Reading:
    job = Job(batch_id, "pending", batch_results.moment(stated.created_at), result_id)
    return Reading(response_model=reply.name(stated.model), response_id=batch_id, tier=BATCH, job=job, notes=notes)


def _ended(batch_id: str, stated: _Stated, output_file: str | None) -> Reading:
    notes = Notes()
    completed = Counts(stated.request_counts if type(stated.request_counts) is dict else {}).take("completed")
    model = reply.name(stated.model)
    usage, sound = _read_usage(stated.usage, notes)
    free = type(stated.endpoint) is str and stated.endpoint in FREE_ENDPOINTS
    failed = completed == 0 or (completed is None and stated.status == "failed" and output_file is None)
    work: tuple[Work, ...] = ()
    if (failed and usage is None) or free:
        sound = True
    elif usage is not None and model is not None and _is_summed(stated.endpoint):
        # Of a single request the sum is its size; of several nobody knows the largest.
        work = (Work(model=model, usage=usage, largest_input_tokens=usage.input_tokens if completed == 1 else None),)
    elif output_file is not None:
        return _under_way(batch_id, stated, output_file, *notes.codes(), "usage_in_output_file")
    else:
        sound = False
        notes.add("usage_absent" if usage is None else "model_absent" if model is None else "usage_partial")
    return Reading(
        work=work,
        complete=sound,
        response_model=model,
        response_id=batch_id,
        tier=BATCH,
        job=Job(batch_id, "failed" if failed else "done", batch_results.moment(stated.created_at)),
        notes=notes.codes(),
    )


def _is_summed(endpoint: object) -> bool:
    return type(endpoint) is str and endpoint in SUMMED_ENDPOINTS


def _read_usage(stated: object, notes: Notes) -> tuple[Usage | None, bool]:
    """The counts of a batch, and whether they can be relied on; None where it states none, or only zeros."""
    if type(stated) is not dict:
        return None, False
    counts = Counts(stated)
    given, made = counts.take("input_tokens"), counts.take("output_tokens")
    usage = Usage(
        input_tokens=given,
        output_tokens=made,
        cache_read_input_tokens=counts.part("input_tokens_details").take("cached_tokens"),
        cache_creation_input_tokens=counts.part("input_tokens_details").take("cache_write_tokens"),
        reasoning_output_tokens=counts.part("output_tokens_details").take("reasoning_tokens"),
    )
    if counts.faults:
        notes.add("usage_malformed")
        return None, False
    if given is None or made is None:
        if stated:
            notes.add("usage_partial")
        return None, False
    return (usage, True) if given or made else (None, True)


_COMPLETIONS = ("chat.completion", "text_completion")
_READERS: Mapping[str, Operation] = MappingProxyType(
    {
        "chat": OpenAIChat(),
        "response": OpenAIResponses(),
        "embeddings": OpenAIEmbeddings(),
        "images": OpenAIImages(GENERATE),
    }
)
