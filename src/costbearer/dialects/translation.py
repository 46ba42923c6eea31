"""OpenAI's chat completions at a provider of another dialect.

The caller's request is read as OpenAI's and sent as the provider's. What was used is read from the provider's reply by
the provider's own reader, which sees every byte of it; what the caller sees is made from the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol

import msgspec

from costbearer.dialects import translate_openai, translate_openai_answer
from costbearer.dialects.anthropic_plain import ONE_HOUR, TOOL_USE_TOKENS_MAX
from costbearer.dialects.base import (
    EVENT_STREAM,
    NOTHING,
    NOWHERE,
    CallRequest,
    Operation,
    Outgoing,
    Place,
    Reading,
    ReplyReader,
)
from costbearer.dialects.neutral import LOST, Answer, Ask, Event, Fault
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.reply import ERROR_CODE_UNKNOWN, UNREADABLE
from costbearer.dialects.translate_openai_answer import Chunks

_ID_BYTES = 12


class Events(Protocol):
    """What the bytes of one stream tell, in the neutral form."""

    def feed(self, chunk: bytes) -> list[Event]: ...

    def rest(self) -> list[Event]: ...


class Speech(Protocol):
    """A provider's words for the neutral form. One serves all calls."""

    name: str
    """The provider's name in errors."""

    def outgoing(self, ask: Ask, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The native request. Raises `BodyInvalid` naming what cannot be asked."""
        ...

    def answer(self, body: bytes) -> Answer | Fault:
        """A reply of status 2xx that came whole. Raises one of `reply.UNREADABLE`."""
        ...

    def fault(self, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> Fault:
        """A reply of another status. Raises one of `reply.UNREADABLE`."""
        ...

    def events(self) -> Events: ...


class Translated:
    """The operation `chat` in OpenAI's dialect at a provider whose native operation is given.

    `clock` gives the seconds since 1970: OpenAI's answers state when they were made, the others' do not.
    """

    def __init__(self, native: Operation, speech: Speech, clock: Callable[[], float]) -> None:
        self._native = native
        self._speech = speech
        self._clock = clock
        self._openai = OpenAIChat()
        kinds = (kind for kind in native.streams if kind != "application/json")
        self.streams: Mapping[str, str] = MappingProxyType(dict.fromkeys(kinds, EVENT_STREAM))

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request, as OpenAI's. Raises `BodyInvalid`."""
        return self._openai.read(body, place)

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request in the provider's words.

        Raises:
            BodyInvalid: a member of the request cannot be translated; it names which and why.
        """
        ask = translate_openai.ask(request.body, self._speech.name)
        sent = self._speech.outgoing(ask, model, labels)
        return sent._replace(overhead_tokens=TOOL_USE_TOKENS_MAX) if ask.tools or ask.format is not None else sent

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        asked = _native(request)
        chunks = Chunks(
            answer_id=_answer_id(headers.get("x-amzn-requestid", "").encode() or request.body),
            model=request.model,
            created=int(self._clock()),
            wants_usage=request.wants_usage,
        )
        return TranslatedReader(self._native.stream_reader(asked, headers), self._speech.events(), chunks)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole, by the provider's rules. Never raises."""
        return self._native.whole(_native(request), body, headers)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        """The reply as OpenAI's. Never raises: what cannot be read is an error in OpenAI's shape."""
        try:
            if not 200 <= status < 300:
                shown = self._native.shown(request, status, body, headers)
                fault = self._speech.fault(status, shown, headers)
                return translate_openai_answer.error(fault)
            answer = self._speech.answer(body)
            if isinstance(answer, Fault):
                return translate_openai_answer.error(answer)
            return translate_openai_answer.completion(
                answer,
                self.whole(request, body),
                answer_id=_answer_id(body),
                model=request.model,
                created=int(self._clock()),
            )
        except UNREADABLE:
            return translate_openai_answer.error(_unreadable(status))


class TranslatedReader:
    """Reads one streamed reply with the provider's own reader, and gives the caller OpenAI's chunks.

    The chunks that end the answer come from `rest`: some providers state the usage after their end marker.
    """

    def __init__(self, native: ReplyReader, events: Events, chunks: Chunks) -> None:
        self.ended = False
        self._native = native
        self._events = events
        self._chunks = chunks
        self._reading: Reading | None = None
        self._left = b""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller shall see of what has come so far."""
        self._native.feed(chunk)
        self.ended = self._native.ended
        of = self._chunks.of
        return b"".join([of(event) for event in self._events.feed(chunk)])

    def rest(self) -> bytes:
        """The end of the answer, where the provider's has come to its end."""
        self.reading()
        left, self._left = self._left, b""
        return left

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        reading = self._reading
        if reading is None:
            of = self._chunks.of
            left = b"".join([of(event) for event in self._events.rest()])
            reading = self._reading = self._native.reading()
            self._left = left + self._chunks.end(reading)
        return reading


def _native(request: CallRequest) -> CallRequest:
    """The request as the native reader is to know it: with the lifetime of the caches that it asked for."""
    body = request.body
    if b'"ttl"' in body and ONE_HOUR.search(body) is not None:
        return msgspec.structs.replace(request, cache_ttl_1h=True)
    return request


def _answer_id(seed: bytes) -> str:
    """An id for an answer whose provider gives it none in its body."""
    return f"chatcmpl-{blake2b(seed, digest_size=_ID_BYTES).hexdigest()}"


def _unreadable(status: int) -> Fault:
    if 200 <= status < 300:
        return LOST
    return Fault(ERROR_CODE_UNKNOWN, ERROR_CODE_UNKNOWN, f"the provider answered with status {status}")
