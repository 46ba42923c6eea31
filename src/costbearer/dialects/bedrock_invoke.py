"""Bedrock's InvokeModel and InvokeModelWithResponseStream: every model's own format, with AWS's meter around it.

Shapes: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html. The format of a body is told by its
members, never by the model's id, which an ARN may hide. Anthropic's and OpenAI's are read by their own readers. In a
stream every frame holds one event as base64 in `bytes`, beside padding; the last event of a model has the meter in
`amazon-bedrock-invocationMetrics`. `bedrock_usage` says which count holds where meter and body differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import bedrock_converse as converse
from costbearer.dialects import bedrock_names, eventstream, jsonedit, reply
from costbearer.dialects import body as bodies
from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.anthropic_messages import StreamReader as AnthropicEvents
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Reading, ReplyReader
from costbearer.dialects.bedrock_usage import (
    NO_METER,
    Meter,
    count,
    meter_of_headers,
    meter_of_metrics,
    metered,
    read_converse,
)
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_chat import StreamReader as OpenAIChunks
from costbearer.dialects.reply import Notes
from costbearer.usage import Usage, Work

EMBEDDINGS = "embeddings"

_METADATA_HEADER = "x-amzn-bedrock-request-metadata"
_TIER_HEADER = "x-amzn-bedrock-service-tier"
_LATENCY_HEADER = "x-amzn-bedrock-performanceconfig-latency"
_METRICS = "amazon-bedrock-invocationMetrics"
_METRICS_BYTES = _METRICS.encode()

_LIMITS = ("max_tokens", "max_tokens_to_sample", "max_gen_len", "max_completion_tokens", "maxTokens", "max_new_tokens")
"""What Mistral and Cohere, Claude 2, Llama, OpenAI, AI21 and old Nova bodies call the most tokens of an answer."""
_NESTED_LIMITS = (
    ("inferenceConfig", ("maxTokens", "max_new_tokens")),
    ("textGenerationConfig", ("maxTokenCount",)),
)
"""The same of Nova and Titan."""
_OTHER_MEDIA = re.compile(
    rb'"(?:audio|connectors|document|image|images|image_url|inputImage|input_audio|s3Location|taskType|video)"'
)
"""Names of members by which a body of these models brings content whose bytes do not bound its tokens. Found in a text
they only make the bound wider."""
_TEXTS = ("outputText", "generation", "text", "completion")
"""Generated text of Titan, Llama, Cohere and Claude 2."""


class _Body(msgspec.Struct, gc=False):
    """Of a body or an event of any model, what is read. Types are checked where they are used."""

    type: Any = None
    choices: Any = None
    usage: Any = None
    id: Any = None
    metadata: Any = None
    contentBlockDelta: Any = None  # noqa: N815 - the providers' names
    inputTextTokenCount: Any = None  # noqa: N815
    totalOutputTextTokenCount: Any = None  # noqa: N815
    outputText: Any = None  # noqa: N815
    results: Any = None
    prompt_token_count: Any = None
    generation_token_count: Any = None
    generation: Any = None
    outputs: Any = None
    output: Any = None
    text: Any = None
    completion: Any = None
    meta: Any = None
    images: Any = None
    metrics: Any = msgspec.field(name=_METRICS, default=None)


class _Chunk(msgspec.Struct, gc=False):
    """A frame's payload; the decoder takes the base64 off."""

    data: bytes = msgspec.field(name="bytes")


_body = reply.decoder(_Body)
_chunk = msgspec.json.Decoder(_Chunk).decode


class Invoke:
    """The operations `invoke` and `invoke_stream`."""

    def __init__(self, *, stream: bool = False) -> None:
        self._stream = stream
        self._action = "invoke-with-response-stream" if stream else "invoke"
        self.streams: Mapping[str, str] = MappingProxyType({eventstream.CONTENT_TYPE: eventstream.CONTENT_TYPE})

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request; the model is in the path, `params["model"]`. Raises `BodyInvalid`.

        `metadata.tags` are asserted tags as in every JSON dialect; the header in which a caller states tier or latency
        is not seen here, so the reply says them.
        """
        name = bedrock_names.asked(place.params.get("model", ""))
        fields = bodies.Fields(body)
        if fields.states("anthropic_version") and not fields.states("model"):
            understood = AnthropicMessages().read(jsonedit.prepend(body, "model", b'"in the path"'))
        else:
            tags = fields.tags()
            understood = CallRequest(
                operation="chat",
                model=name.model,
                stream=self._stream,
                body=body,
                tags=tags or (),
                has_tags=tags is not None,
                max_output_tokens=_limit(fields),
                choices=fields.whole("num_generations", low=1, high=128) or 1,
                open_ended=_OTHER_MEDIA.search(body) is not None,
            )
        return msgspec.structs.replace(
            understood,
            operation=EMBEDDINGS if "embed" in name.model.lower() else "chat",
            model=name.model,
            stream=self._stream,
            body=body,
            place=place,
            tier=name.tier,
            speed=None,
            geo=None,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The caller's bytes without tags of ours; the verified labels go into AWS's logs by their header."""
        body = request.body
        if request.has_tags:
            revision = jsonedit.Revision(body)
            bodies.drop_tags(revision)
            body = revision.text()
        said = msgspec.json.encode(converse.metadata(labels, {})).decode("ascii", "backslashreplace")
        headers = ((_METADATA_HEADER, said),) if labels else ()
        return Outgoing(bedrock_names.path(converse.target(request, model), self._action), body, headers=headers)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole. Never raises."""
        notes = Notes()
        meter = meter_of_headers(headers, notes)
        try:
            found = _body(body)
        except msgspec.ValidationError:
            notes.add("body_unexpected")
            found = _Body()
        except reply.UNREADABLE:
            notes.add("body_not_json")
            return _settled(request, Reading(notes=notes.codes()), meter, notes, headers)
        own = _by_its_maker(request, found, body)
        if own is None:
            told = _Told(request)
            told.read(found)
            own = told.reading()
        return _settled(request, own, meter, notes, headers)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The provider's bytes; but what it says of the gateway's own credential is not for callers."""
        return converse.shown(status, body)


class StreamReader(eventstream.FrameReader):
    """Reads the frames of a streamed InvokeModel; every one is relayed. The event with AWS's meter ends it."""

    def __init__(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> None:
        super().__init__()
        self._request = request
        self._headers = headers
        self._maker: AnthropicEvents | OpenAIChunks | None = None
        self._told = _Told(request)
        self._meter = NO_METER
        self._error_code: str | None = None

    def take(self, headers: Mapping[str, str], payload: bytes) -> None:
        if headers.get(":message-type", "event") != "event":
            self._error_code = converse.exception_code(headers)
            self.notes.add("error_in_stream")
            return
        data = _chunk(payload).data
        last = _METRICS_BYTES in data
        if self._maker is not None and not last:
            self._maker.take(data)
            return
        event = _body(data)
        if last and event.metrics is not None:
            self._meter = meter_of_metrics(event.metrics, self.notes)
            self.ended = True
        if self._maker is None:
            self._maker = self._whose(event)
        if self._maker is not None:
            self._maker.take(data)
        else:
            self._told.read(event)

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        own = self._told.reading() if self._maker is None else self._maker.reading()
        reading = _settled(self._request, own, self._meter, self.notes, self._headers)
        if self._error_code is not None:
            reading = msgspec.structs.replace(reading, error_code=self._error_code)
        return reading

    def _whose(self, event: _Body) -> AnthropicEvents | OpenAIChunks | None:
        """The reader of the maker whose format this event has."""
        if type(event.type) is str:
            return AnthropicEvents(self._request)
        return OpenAIChunks(self._request) if type(event.choices) is list else None


class _Told:
    """What a body or a stream has told so far, in the formats of Nova, Titan, Llama, Mistral, Cohere and AI21.

    Images that were made are counted, and so are Cohere's search units; neither comes with tokens.
    """

    def __init__(self, request: CallRequest) -> None:
        self._request = request
        self._input: int | None = None
        self._output: int | None = None
        self._units: int | None = None
        self._images: int | None = None
        self._nova: dict[str, Any] | None = None
        self._generated = 0

    def read(self, found: _Body) -> None:
        """A whole body or one event; later counts replace earlier ones."""
        usage = found.usage
        if usage is None and type(found.metadata) is dict:
            usage = found.metadata.get("usage")
        if type(usage) is dict and usage:
            self._nova = usage
        billed = found.meta.get("billed_units") if type(found.meta) is dict else None
        cohere: dict[str, Any] = billed if type(billed) is dict else {}
        results = found.results if type(found.results) is list else []
        counted = [count(result.get("tokenCount")) for result in results if type(result) is dict]
        known = [number for number in counted if number is not None]
        summed = sum(known) if known else None
        inputs = (found.inputTextTokenCount, found.prompt_token_count, cohere.get("input_tokens"))
        outputs = (found.totalOutputTextTokenCount, found.generation_token_count, cohere.get("output_tokens"), summed)
        self._input = next((number for number in map(count, inputs) if number is not None), self._input)
        self._output = next((number for number in map(count, outputs) if number is not None), self._output)
        units = count(cohere.get("search_units"))
        self._units = self._units if units is None else units
        if type(found.images) is list:
            self._images = (self._images or 0) + len(found.images)
        self._generated += _text(found, results)

    def reading(self) -> Reading:
        """The body's own counts as a reading; without any it is empty."""
        notes = Notes()
        counts = {"search_units": self._units, "generated_images": self._images}
        usage, sound = Usage(input_tokens=self._input or None, output_tokens=self._output, **counts), False
        if self._nova is not None:
            usage, sound = read_converse(self._nova, ttl_1h=self._request.cache_ttl_1h, notes=notes)
        elif self._input and (self._output is not None or self._request.operation == EMBEDDINGS):
            # In a stream these are counts so far, of which only the meter says that they are the last.
            sound = not self._request.stream
        elif self._input is None and (self._units or self._images):
            sound = True
        stated = usage != Usage()
        part = Work(model=self._request.model, usage=usage, largest_input_tokens=usage.input_tokens)
        work = (part,) if stated else ()
        return Reading(work=work, complete=sound, generated_bytes=self._generated, notes=notes.codes())


def _by_its_maker(request: CallRequest, found: _Body, body: bytes) -> Reading | None:
    """What the reader of Anthropic or OpenAI says of a body of theirs; None for any other."""
    if found.type == "message":
        return AnthropicMessages().whole(request, body)
    return OpenAIChat().whole(request, body) if type(found.choices) is list and type(found.usage) is dict else None


def _settled(request: CallRequest, own: Reading, meter: Meter, notes: Notes, headers: Mapping[str, str]) -> Reading:
    """The body's reading under AWS's meter, priced as the model that was asked.

    Where the body tells of several models or steps (compaction, fallbacks) the meter's one sum cannot say which of them
    it is of; then the steps hold, and a difference is noted.
    """
    name = bedrock_names.named(request.model)
    notes.add(*own.notes)
    work, complete = own.work, own.complete
    if len(work) > 1:
        work = tuple(
            msgspec.structs.replace(part, model=name.model) if part.model in _same(request, own) else part
            for part in work
        )
        spoken = sum(part.usage.output_tokens or 0 for part in work)
        if meter.output is not None and meter.output != spoken:
            notes.add(f"output_tokens_differ:{meter.output}")
    elif work or not meter.states_nothing:
        usage = metered(meter, work[0].usage if work else None, notes)
        if usage.input_tokens == 0:
            notes.add("input_zero")
            usage = msgspec.structs.replace(usage, input_tokens=None)
        looped = bool(work) and work[0].usage.input_tokens is not None and work[0].largest_input_tokens is None
        work = (Work(model=name.model, usage=usage, largest_input_tokens=None if looped else usage.input_tokens),)
        told_by_meter = meter.uncached is not None and (meter.output is not None or request.operation == EMBEDDINGS)
        something = usage.input_tokens is not None or usage.search_units or usage.generated_images
        complete = (own.complete or told_by_meter) and bool(something)
    if not work:
        notes.add("usage_absent")
    return msgspec.structs.replace(
        own,
        work=work,
        complete=complete,
        tier=name.tier or bodies.word(headers.get(_TIER_HEADER)) or own.tier,
        speed=bodies.word(headers.get(_LATENCY_HEADER)) or own.speed,
        # Where it ran is part of the id; a body's `inference_geo` speaks of Anthropic's own API.
        geo=None,
        notes=tuple(code for code in notes.codes() if code not in _MET or not complete),
    )


_MET = frozenset({"usage_absent", "final_usage_absent", "usage_partial", "input_zero"})
"""What the body's reader misses, and what the meter then supplied."""


def _same(request: CallRequest, own: Reading) -> tuple[str | None, ...]:
    return request.model, own.response_model


def _limit(fields: bodies.Fields) -> int | None:
    """The most tokens of an answer that the body states, under whichever name."""
    found = [fields.whole(name) for name in _LIMITS]
    for member, names in _NESTED_LIMITS:
        inner = fields.object(member)
        found += [inner.whole(name) for name in names] if inner is not None else []
    return max((limit for limit in found if limit is not None), default=None)


def _text(found: _Body, results: list[Any]) -> int:
    """UTF-8 bytes of the generated text in a body or event."""
    size = sum(reply.size(getattr(found, member)) for member in _TEXTS)
    size += sum(reply.size(result.get("outputText")) for result in results if type(result) is dict)
    outputs = found.outputs if type(found.outputs) is list else []
    size += sum(reply.size(output.get("text")) for output in outputs if type(output) is dict)
    nova = found.contentBlockDelta
    delta = nova.get("delta") if type(nova) is dict else None
    size += converse.text_size(delta)
    message = found.output.get("message") if type(found.output) is dict else None
    content = message.get("content") if type(message) is dict else None
    return size + (sum(map(converse.text_size, content)) if type(content) is list else 0)
