"""Embeddings of the Gemini family: `embedContent` and `batchEmbedContents`, and Vertex AI's `predict` of texts.

Shapes: https://ai.google.dev/api/embeddings and
https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api. Older models state no usage
on the Gemini API; what they were given is then estimated from the request's bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, reply
from costbearer.dialects import gemini_request as requests
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Plain, Reading, ReplyReader
from costbearer.dialects.gemini_content import StreamReader, has_media
from costbearer.dialects.gemini_usage import inclusive, read_content_usage, read_tier
from costbearer.dialects.reply import Notes, Number
from costbearer.errors import EndpointNotMetered
from costbearer.usage import COUNT_MAX, Usage, Work

OPERATION = "embeddings"

_ABSENT = Usage(output_tokens=0)
"""What is known where no usage is stated: an embedding is no output token."""


class _Reply(msgspec.Struct, gc=False):
    """Of a reply, what is read. Types are checked where they are used, so that none can fail it."""

    usageMetadata: Any = None  # noqa: N815 - the API's name
    predictions: Any = None
    metadata: Any = None
    error: Any = None


class _Asked(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw(b"null")


_reply = reply.decoder(_Reply)
_requests = bounds.bounded(msgspec.json.Decoder(list[_Asked]).decode)
_instances = bounds.bounded(msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode)


class _Embeddings(Plain, ABC):
    """What both kinds share."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def _asked(self, fields: bodies.Fields, body: bytes, place: Place, *, open_ended: bool) -> CallRequest:
        requests.query_of(place)
        tags = fields.tags()
        return CallRequest(
            operation=OPERATION,
            model=requests.model_of(place),
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=0,
            open_ended=open_ended,
            tier=requests.tier_of(fields, place),
            geo=requests.geo_of(place),
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, and the model renamed where it repeats the path's."""
        body = requests.without_tags(request)
        if model != request.model:
            body = requests.renamed(body, model)
        return Outgoing(requests.path_to(request, model, self._verb), body)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        """Embeddings are not streamed; were they, it would be as content is."""
        return StreamReader(request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole, or an error body. Never raises."""
        try:
            found = _reply(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        notes = Notes()
        if found.error:
            error = found.error if type(found.error) is dict else {}
            return Reading(error_code=reply.code(error.get("status"), error.get("code")), notes=("usage_absent",))
        usage, largest, sound = self._usage(found, notes)
        stated = found.usageMetadata if type(found.usageMetadata) is dict else {}
        return Reading(
            work=(Work(model=request.model, usage=usage, largest_input_tokens=largest),),
            complete=sound,
            tier=read_tier(stated, headers),
            geo=request.geo,
            notes=notes.codes(),
        )

    @abstractmethod
    def _usage(self, found: _Reply, notes: Notes) -> tuple[Usage, int | None, bool]:
        """The counts, the prompt's size, and whether they can be relied on."""


class GeminiEmbeddings(_Embeddings):
    """`embedContent`, and `batchEmbedContents` whose `requests` are as many of them."""

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        return self._asked(fields, body, place, open_ended=_has_media(fields))

    def _usage(self, found: _Reply, notes: Notes) -> tuple[Usage, int | None, bool]:
        stated = found.usageMetadata
        if type(stated) is not dict or not stated:
            notes.add("usage_absent" if not stated else "usage_malformed")
            return _ABSENT, None, False
        counts, all_counts = read_content_usage(stated, notes)
        usage, usable = inclusive(counts, notes)
        return usage, counts.prompt.tokens, all_counts and usable


class VertexEmbeddings(_Embeddings):
    """`predict` of Vertex AI's models for texts; those that make images, video or music are asked by the same verb."""

    def __init__(self) -> None:
        super().__init__("predict")

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request.

        Raises:
            BodyInvalid: as every request does.
            EndpointNotMetered: it asks for something else than embeddings of texts.
        """
        fields = bodies.Fields(body)
        try:
            instances = _instances(fields.raw("instances") or b"[]")
            texts = bool(instances) and all("content" in instance for instance in instances)
        except reply.UNREADABLE:
            texts = False
        if not texts:
            raise EndpointNotMetered('predict is metered for embeddings of texts only: every instance has a "content"')
        return self._asked(fields, body, place, open_ended=False)

    def _usage(self, found: _Reply, notes: Notes) -> tuple[Usage, int | None, bool]:
        """Tokens of each text, or the characters that older models are billed by."""
        predictions = found.predictions if type(found.predictions) is list else []
        counts = [_token_count(prediction) for prediction in predictions]
        stated = [count for count in counts if count is not None]
        if stated:
            if len(stated) < len(counts):
                notes.add("usage_partial")
            # Each text is a step of its own; none of these models has a price that grows with it.
            return Usage(input_tokens=sum(stated), output_tokens=0), max(stated), len(stated) == len(counts)
        metadata = found.metadata if type(found.metadata) is dict else {}
        characters = _whole(metadata.get("billableCharacterCount"))
        if characters is not None:
            return Usage(input_characters=characters), None, True
        notes.add("usage_absent")
        return _ABSENT, None, False


def _has_media(fields: bodies.Fields) -> bool:
    try:
        listed = fields.raw("requests")
        contents: Iterable[msgspec.Raw] = [each.content for each in _requests(listed)] if listed is not None else []
        single = fields.raw("content")
        return any(has_media(content) for content in (*contents, *(() if single is None else (single,))))
    except (*reply.UNREADABLE, TypeError):
        return True


def _token_count(prediction: object) -> int | None:
    for name in ("embeddings", "statistics"):
        prediction = prediction.get(name) if type(prediction) is dict else None
    return _whole(prediction.get("token_count")) if type(prediction) is dict else None


def _whole(value: object) -> int | None:
    """A count in a reply whose numbers are all written as `google.protobuf.Value`: also `6.0`."""
    if type(value) is Number:
        exact = Decimal(value)
        if not exact.is_finite() or abs(exact) > COUNT_MAX or exact != exact.to_integral_value():
            return None
        value = int(exact)
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None
