"""Bedrock's Converse, ConverseStream and CountTokens.

Shapes: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and the service model of
botocore. The rules by which usage is read stand in `bedrock_usage`; a stream states it once, in the event `metadata`,
which is its last. No reply names the model: it is the one in the path, except behind a prompt router, which says in its
trace whom it asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import bedrock_names, bounds, eventstream, jsonedit, reply
from costbearer.dialects import body as bodies
from costbearer.dialects.anthropic_plain import ONE_HOUR, TOOL_USE_TOKENS_MAX
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Reading, ReplyReader
from costbearer.dialects.bedrock_usage import read_converse
from costbearer.dialects.reply import Notes
from costbearer.errors import BodyInvalid
from costbearer.usage import Work

METADATA_PAIRS_MAX = 16
METADATA_CHARS_MAX = 256
"""AWS's limits on `requestMetadata`."""

_METADATA = "requestMetadata"
_NOT_OF_METADATA = re.compile(r"[^a-zA-Z0-9\s:_@$#=/+,.\-]")
_TAG_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/]{0,63}")

_CONTAINED = frozenset(
    {
        "text",
        "toolUse",
        "toolResult",
        "cachePoint",
        "reasoningContent",
        "guardContent",
        "citationsContent",
        "searchResult",
    }
)
"""Content blocks whose bytes bound their tokens; those of images, sound, video, documents and unknown kinds do not."""
_CONTAINED_IN_RESULT = frozenset({"text", "json", "searchResult"})
_CALLER_TOOLS = frozenset({"toolSpec", "cachePoint"})
_MODEL_FIELDS = frozenset(
    {
        "anthropic_beta",
        "frequency_penalty",
        "inferenceConfig",
        "output_config",
        "presence_penalty",
        "reasoningConfig",
        "reasoning_config",
        "reasoning_effort",
        "seed",
        "thinking",
        "top_k",
        "top_p",
    }
)
"""Members of `additionalModelRequestFields` by which a model gets no input of its own: all others may bring some."""

_ARRAY = ord("[")
_ONLY_MODEL = "the provider refused the gateway's own credential, or its account may not use this model"
_FORBIDDEN = 403

_Blocks = list[dict[str, msgspec.Raw]]
_texts = bounds.bounded(msgspec.json.Decoder(dict[str, str]).decode)


class _Turn(msgspec.Struct, gc=False):
    content: _Blocks | None = None


class _Result(msgspec.Struct, gc=False):
    content: _Blocks | None = None


_turns = bounds.bounded(msgspec.json.Decoder(list[_Turn]).decode)
_blocks = bounds.bounded(msgspec.json.Decoder(_Blocks).decode)
_result = bounds.bounded(msgspec.json.Decoder(_Result).decode)


class _Reply(msgspec.Struct, gc=False):
    """Of a whole reply or a `metadata` event, what is read. Types are checked where they are used."""

    usage: Any = None
    output: Any = None
    serviceTier: Any = None  # noqa: N815 - the provider's names
    performanceConfig: Any = None  # noqa: N815
    trace: Any = None
    message: Any = None
    Message: Any = None
    inputTokens: Any = None  # noqa: N815


class _Delta(msgspec.Struct, gc=False):
    delta: Any = None
    start: Any = None


_reply = reply.decoder(_Reply)
_delta = reply.decoder(_Delta)


class Converse:
    """The operations `converse` and `converse_stream`."""

    def __init__(self, *, stream: bool = False) -> None:
        self._stream = stream
        self._action = "converse-stream" if stream else "converse"
        self.streams: Mapping[str, str] = MappingProxyType({eventstream.CONTENT_TYPE: eventstream.CONTENT_TYPE})

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request; the model is in the path, `params["model"]`. Raises `BodyInvalid`.

        The caller's own `requestMetadata` counts as asserted tags as far as its names can be tags; it stays in the
        body, because it is AWS's field as much as ours. `has_tags` says that it is there.
        """
        name = bedrock_names.asked(place.params.get("model", ""))
        fields = bodies.Fields(body)
        config = fields.object("inferenceConfig")
        tier, latency = fields.object("serviceTier"), fields.object("performanceConfig")
        return CallRequest(
            operation="chat",
            model=name.model,
            stream=self._stream,
            body=body,
            place=place,
            tags=_asserted(fields),
            has_tags=fields.states(_METADATA),
            max_output_tokens=None if config is None else config.whole("maxTokens"),
            open_ended=_open_ended(fields) or bedrock_names.is_prompt(name.model),
            tier=name.tier or (None if tier is None else tier.word("type")),
            speed=None if latency is None else latency.word("latency"),
            cache_ttl_1h=b'"ttl"' in body and ONE_HOUR.search(body) is not None,
            overhead_tokens=TOOL_USE_TOKENS_MAX if fields.states_any(frozenset({"toolConfig", "outputConfig"})) else 0,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request for the provider: the caller's bytes with the verified labels in `requestMetadata`.

        Labels go first and hold; of the caller's own pairs those stay that have other names, as far as AWS's limit of
        16 leaves room. Characters that AWS does not take there become `_`.
        """
        path = bedrock_names.path(target(request, model), self._action)
        return Outgoing(path, with_metadata(request, labels) if labels else request.body)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole, or an error body. Never raises."""
        notes = Notes()
        try:
            found = _reply(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        message = found.output.get("message") if type(found.output) is dict else None
        content = message.get("content") if type(message) is dict else None
        generated = sum(text_size(block) for block in content) if type(content) is list else 0
        failed = found.output is None and found.usage is None and (found.message or found.Message)
        return reading(request, found, notes, generated=generated, error_code=error_code(headers) if failed else None)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The provider's bytes; but what it says of the gateway's own credential is not for callers."""
        return shown(status, body)


class CountTokens:
    """The operation `count_tokens`, which is free (https://docs.aws.amazon.com/bedrock/latest/userguide/count-tokens.html)."""

    streams: Mapping[str, str] = NOTHING

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        name = bedrock_names.asked(place.params.get("model", ""))
        bodies.Fields(body)
        return CallRequest(
            operation="count_tokens", model=name.model, stream=False, body=body, place=place, tier=name.tier, free=True
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The caller's bytes; AWS logs no labels for it."""
        return Outgoing(bedrock_names.path(target(request, model), "count-tokens"), request.body)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """A complete reading without work, unless it is an error."""
        try:
            found = _reply(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected",))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        if found.inputTokens is None:
            return Reading(error_code=error_code(headers))
        return Reading(complete=True)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        return shown(status, body)


class StreamReader(eventstream.FrameReader):
    """Reads the frames of a ConverseStream; every one is relayed. The event `metadata` ends it."""

    def __init__(self, request: CallRequest) -> None:
        super().__init__()
        self._request = request
        self._generated = 0
        self._found = _Reply()
        self._error_code: str | None = None

    def take(self, headers: Mapping[str, str], payload: bytes) -> None:
        kind = headers.get(":event-type")
        if kind in {"contentBlockDelta", "contentBlockStart"}:
            event = _delta(payload)
            part = event.delta if event.start is None else event.start
            self._generated += text_size(part)
        elif kind == "metadata":
            if self._found.usage is not None:
                self.notes.add("usage_repeated")
            self._found = _reply(payload)
            self.ended = True
        elif kind is None:
            self._error_code = exception_code(headers)
            self.notes.add("error_in_stream")

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return reading(self._request, self._found, self.notes, generated=self._generated, error_code=self._error_code)


def reading(
    request: CallRequest, found: _Reply, notes: Notes, *, generated: int, error_code: str | None = None
) -> Reading:
    """What a whole reply or a stream's `metadata` says."""
    name = bedrock_names.named(request.model)
    invoked = _invoked(found.trace)
    model = name.model if invoked is None else bedrock_names.named(invoked).model
    work: tuple[Work, ...] = ()
    sound = False
    if type(found.usage) is dict and found.usage:
        usage, sound = read_converse(found.usage, ttl_1h=request.cache_ttl_1h, notes=notes)
        if usage.input_tokens is not None or usage.output_tokens is not None:
            work = (Work(model=model, usage=usage, largest_input_tokens=usage.input_tokens),)
    else:
        notes.add("usage_absent" if found.usage is None else "usage_malformed")
    return Reading(
        work=work,
        complete=sound,
        response_model=None if invoked is None else model,
        tier=name.tier or _word(found.serviceTier, "type"),
        speed=_word(found.performanceConfig, "latency"),
        generated_bytes=generated,
        error_code=error_code,
        notes=notes.codes(),
    )


def target(request: CallRequest, model: str) -> str:
    """The model id to ask: the caller's own, ARN and all, unless a route renames it."""
    return request.place.params.get("model", model) if model == request.model else model


def with_metadata(request: CallRequest, labels: Mapping[str, str]) -> bytes:
    """The request's body with these labels in its `requestMetadata`. Raises `BodyInvalid`."""
    if not request.has_tags:
        return jsonedit.prepend(request.body, _METADATA, msgspec.json.encode(metadata(labels, {})))
    revision = jsonedit.Revision(request.body)
    pairs = _pairs(revision.value(_METADATA))
    revision.replace(_METADATA, msgspec.json.encode(metadata(labels, pairs)))
    return revision.text()


def metadata(labels: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Labels, then the caller's own pairs as far as there is room, in what AWS takes as `requestMetadata`."""
    pairs = {_fit(name): _fit(value) for name, value in labels.items()}
    for name, value in own.items():
        if len(pairs) >= METADATA_PAIRS_MAX:
            break
        pairs.setdefault(name, value)
    return pairs


def error_code(headers: Mapping[str, str]) -> str:
    """AWS's name for an error, from the reply's headers: `ThrottlingException:http://...` is the first part."""
    return reply.code(headers.get("x-amzn-errortype", "").partition(":")[0] or None)


def exception_code(headers: Mapping[str, str]) -> str:
    """The name of an exception or error that comes as a frame."""
    return reply.code(headers.get(":exception-type"), headers.get(":error-code"))


def shown(status: int, body: bytes) -> bytes:
    """The provider's bytes, but for 403: its text names the account and role of the gateway's own credential."""
    return msgspec.json.encode({"message": _ONLY_MODEL}) if status == _FORBIDDEN else body


def _fit(text: str) -> str:
    return _NOT_OF_METADATA.sub("_", text)[:METADATA_CHARS_MAX]


def _pairs(value: bytes | msgspec.Raw | None) -> dict[str, str]:
    if value is None or bytes(value) == b"null":
        return {}
    try:
        return _texts(value)
    except reply.UNREADABLE:
        raise BodyInvalid(f'"{_METADATA}" must be an object of texts such as {{"feature": "search"}}') from None


def _asserted(fields: bodies.Fields) -> tuple[str, ...]:
    pairs = _pairs(fields.raw(_METADATA))
    return tuple(
        f"{name}:{value}"
        for name, value in pairs.items()
        if _TAG_NAME.fullmatch(name) and value.strip() and value.isprintable() and len(value) <= METADATA_CHARS_MAX
    )


def _open_ended(fields: bodies.Fields) -> bool:
    """May the input be larger than the body's bytes say? What cannot be read is such; the provider refuses it."""
    if fields.raw("promptVariables") is not None:
        return True
    extra = fields.raw("additionalModelRequestFields")
    if (
        extra is not None
        and not jsonedit.members(bytes(extra), '"additionalModelRequestFields"').keys() <= _MODEL_FIELDS
    ):
        return True
    try:
        tools = fields.object("toolConfig")
        raw = None if tools is None else tools.raw("tools")
        if raw is not None and any(not tool.keys() <= _CALLER_TOOLS for tool in _blocks(raw)):
            return True
        system, messages = fields.raw("system"), fields.raw("messages")
        contents = [turn.content for turn in _turns(messages)] if messages is not None else []
        if system is not None:
            contents.append(_blocks(system))
        return any(_is_elsewhere(block) for content in contents for block in content or ())
    except (*reply.UNREADABLE, TypeError):
        return True


def _is_elsewhere(block: dict[str, msgspec.Raw]) -> bool:
    if not block.keys() <= _CONTAINED:
        return True
    result, guarded = block.get("toolResult"), block.get("guardContent")
    if guarded is not None and b'"image"' in bytes(guarded):
        return True
    if result is None:
        return False
    return any(not part.keys() <= _CONTAINED_IN_RESULT for part in _result(result).content or ())


def _invoked(trace: object) -> str | None:
    """The model that a prompt router asked."""
    router = trace.get("promptRouter") if type(trace) is dict else None
    return reply.name(router.get("invokedModelId")) if type(router) is dict else None


def _word(holder: object, member: str) -> str | None:
    return reply.name(holder.get(member)) if type(holder) is dict else None


def text_size(block: object) -> int:
    """UTF-8 bytes of generated text in a content block, its start or a delta of it."""
    if type(block) is not dict:
        return 0
    text = block.get("text")
    if type(text) is str:
        return len(text) if text.isascii() else reply.size(text)
    found = 0
    tool = block.get("toolUse")
    if type(tool) is dict:
        found += reply.size(tool.get("name"))
        given = tool.get("input")
        found += reply.size(given) if type(given) is str else reply.json_size(given) if given else 0
    reasoning = block.get("reasoningContent")
    if type(reasoning) is dict:
        inner = reasoning.get("reasoningText")
        found += reply.size((inner if type(inner) is dict else reasoning).get("text"))
    cited = block.get("citationsContent")
    if type(cited) is dict and type(cited.get("content")) is list:
        found += sum(text_size(part) for part in cited["content"])
    return found
