"""OpenAI's audio: transcriptions, translations and speech, and the providers that speak them.

Shapes: https://platform.openai.com/docs/api-reference/audio. What is billed, and where it is stated:

* A transcription's `usage` is of one of two types: `tokens` (audio and text in, text out) or `duration`, the seconds
  of sound (whisper-1). Mistral states seconds (`prompt_audio_seconds`) and tokens together.
* `verbose_json` also states the `duration` in fractions; it is billed rounded to the nearest second
  (https://platform.openai.com/docs/pricing). The formats `text`, `srt` and `vtt` state nothing at all: then the seconds
  are those of the sound that was sent where that is a WAV file, whose length its header gives, and unknown otherwise.
* Speech of tts-1 is billed by the characters of `input`, which the request holds. Models billed by token state their
  usage only in a stream of events (`stream_format: "sse"`); from their sound alone it cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import form, reply, stored
from costbearer.dialects.base import (
    EVENT_STREAM,
    JSON,
    NO_QUANTITIES,
    NOTHING,
    NOWHERE,
    CallRequest,
    Outgoing,
    Place,
    Plain,
    Reading,
    ReplyReader,
)
from costbearer.dialects.openai_usage import read_cost
from costbearer.dialects.reply import Counts, Notes
from costbearer.errors import BodyInvalid
from costbearer.usage import COUNT_MAX, Usage, Work

TRANSCRIPTIONS = "audio.transcriptions"
TRANSLATIONS = "audio.translations"

PATHS = {TRANSCRIPTIONS: "/audio/transcriptions", TRANSLATIONS: "/audio/translations"}

WAVE_CHUNKS_MAX = 64
"""Chunks of a WAV file that are looked at; the sound is the second or third."""

SOUND_TYPES = (
    "audio/mpeg",
    "audio/mp3",
    "audio/opus",
    "audio/ogg",
    "audio/aac",
    "audio/flac",
    "audio/wav",
    "audio/x-wav",
    "audio/pcm",
    "application/octet-stream",
)
"""Content types under which spoken text comes back."""

_TOKEN_VOICES = ("gpt-",)
"""What the names of speech models begin with that are billed by token."""

_TRANSCRIPT_DONE = "transcript.text.done"
_SPEECH_DONE = "speech.audio.done"
_SMALL_BYTES = 4096
_USAGE = b'"usage"'
_ERROR = b'"error"'
_DECIMAL = re.compile(r"\d{1,12}(?:\.\d{1,12})?", re.ASCII)


class _Heard(msgspec.Struct, gc=False):
    """Of a transcription or an event, what is read."""

    type: Any = None
    model: Any = None
    duration: Any = None
    usage: Any = None
    error: Any = None


_heard = reply.decoder(_Heard)


class OpenAITranscriptions(Plain):
    """The operations `audio.transcriptions` and `audio.translations`."""

    def __init__(self, operation: str = TRANSCRIPTIONS, path: str | None = None) -> None:
        self._operation = operation
        self._path = path or PATHS[operation]

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = form.fields(body, place)
        tags = fields.tags()
        return CallRequest(
            operation=self._operation,
            model=fields.model(),
            stream=fields.flag("stream") or False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            open_ended=True,
            tier=fields.word("service_tier"),
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The form for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, self._path, model)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request, _TRANSCRIPT_DONE)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a transcript that came whole, in whichever format, or an error body. Never raises."""
        kind = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind != JSON and kind.startswith(("text/", "application/x-subrip")) and kind != "text/html":
            return _unstated(request)
        try:
            found = _heard(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        if found.usage is None and found.duration is None and not found.error:
            return _unstated(request)
        return _reading(request, found, Notes(), ended=True)


class OpenAISpeech(Plain):
    """The operation `audio.speech`. The sound is relayed as it comes."""

    streams: Mapping[str, str] = MappingProxyType({EVENT_STREAM: EVENT_STREAM} | {kind: kind for kind in SOUND_TYPES})

    def __init__(self, path: str = "/audio/speech") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        tags = fields.tags()
        characters = spoken_characters(body)
        return CallRequest(
            operation="audio.speech",
            model=fields.model(),
            stream=fields.word("stream_format") == "sse",
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            quantities_max=NO_QUANTITIES if characters is None else {"input_character": characters},
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, self._path, model)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        kind = headers.get("content-type", EVENT_STREAM).partition(";")[0].strip().lower()
        return stored.Passing(_spoken(request)) if kind in SOUND_TYPES else StreamReader(request, _SPEECH_DONE)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply of another type than sound: what is JSON may be an error. Never raises."""
        kind = headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind.startswith(("audio/", "video/")):
            return _spoken(request)
        try:
            found = _heard(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        return _reading(request, found, Notes(), ended=True)


class StreamReader(reply.EventReader):
    """Reads a stream of transcript or speech; every event is relayed. The event that states the usage ends it."""

    def __init__(self, request: CallRequest, done: str) -> None:
        super().__init__()
        self._request = request
        self._done = done
        self._last = _Heard()

    def take(self, data: bytes) -> bool:
        # A piece of sound is base64, in which no quotation mark can stand.
        if len(data) > _SMALL_BYTES and _USAGE not in data and _ERROR not in data:
            return True
        found = _heard(data)
        if found.error:
            self.notes.add("error_in_stream")
        if found.usage is not None or found.error:
            self._last = found
        if found.type == self._done:
            self.ended = True
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return _reading(self._request, self._last, self.notes, ended=self.ended)


def _reading(request: CallRequest, found: _Heard, noted: Notes, *, ended: bool) -> Reading:
    notes = Notes()
    notes.add(*noted.codes())
    model = reply.name(found.model)
    usage, sound = Usage(), False
    if type(found.usage) is dict and found.usage:
        usage, sound = read_usage(found.usage, notes)
    elif found.usage is not None and found.usage != {}:
        notes.add("usage_malformed")
    elif found.duration is not None:
        seconds = whole_seconds(found.duration)
        usage, sound = Usage(input_audio_seconds=seconds), seconds is not None
        notes.add("usage_malformed" if seconds is None else "seconds_rounded")
    else:
        notes.add("usage_absent")
    stated = found.usage if type(found.usage) is dict else {}
    return Reading(
        work=() if usage == Usage() else (Work(model=model or request.model, usage=usage),),
        complete=sound and ended,
        response_model=model,
        provider_cost_usd=read_cost(stated, notes),
        error_code=stored.error_code(found.error),
        notes=notes.codes(),
    )


def read_usage(stated: dict[str, Any], notes: Notes) -> tuple[Usage, bool]:
    """Counts of tokens, of seconds, or of both, and whether they can be relied on."""
    counts = Counts({name: value for name, value in stated.items() if name not in _SECONDS})
    of_input = counts.part("input_token_details")
    given, made = counts.take("input_tokens"), counts.take("output_tokens")
    if given is None:
        given = counts.take("prompt_tokens")
    if made is None:
        made = counts.take("completion_tokens")
    timed = next((stated[name] for name in _SECONDS if stated.get(name) is not None), None)
    seconds = None if timed is None else whole_seconds(timed)
    usage = Usage(
        input_tokens=given,
        output_tokens=made,
        audio_input_tokens=of_input.take("audio_tokens"),
        input_audio_seconds=seconds,
    )
    if counts.faults or (timed is not None and seconds is None):
        notes.add("usage_malformed")
        return usage, False
    if type(timed) is reply.Number:
        notes.add("seconds_rounded")
    if seconds is None and (given is None or made is None):
        notes.add("usage_partial")
        return usage, False
    return usage, True


_SECONDS = ("seconds", "prompt_audio_seconds")


def whole_seconds(stated: object) -> int | None:
    """A duration to the nearest second, half a second up; None for what is no duration."""
    if type(stated) is int:
        return stated if 0 <= stated <= COUNT_MAX else None
    if type(stated) is not reply.Number or _DECIMAL.fullmatch(stated) is None:
        return None
    return int(Decimal(stated) * 2 + 1) // 2


def _unstated(request: CallRequest) -> Reading:
    """A transcript without usage: the seconds of what was sent, where its own header says them."""
    try:
        fields = form.fields(request.body, request.place)
    except BodyInvalid:
        fields = None
    sound = fields.content("file") if type(fields) is form.Form else None
    seconds = None if sound is None else wave_seconds(sound)
    if seconds is None:
        return Reading(notes=("usage_absent",))
    work = Work(model=request.model, usage=Usage(input_audio_seconds=seconds))
    return Reading(work=(work,), notes=("usage_absent", "seconds_from_request"))


def _spoken(request: CallRequest) -> Reading:
    """Sound came back, which states nothing: the characters that were asked to be spoken, where those are billed."""
    characters = None if request.model.lower().startswith(_TOKEN_VOICES) else spoken_characters(request.body)
    if characters is None:
        return Reading(notes=("usage_absent",))
    work = Work(model=request.model, usage=Usage(input_characters=characters))
    return Reading(work=(work,), complete=True, notes=("characters_from_request",))


class _Spoken(msgspec.Struct, gc=False):
    input: str


_spoken_text = msgspec.json.Decoder(_Spoken).decode


def spoken_characters(body: bytes) -> int | None:
    """Characters (Unicode code points) of the text that a speech request gives; None where it gives none."""
    try:
        return len(_spoken_text(body).input)
    except reply.UNREADABLE:
        return None


def wave_seconds(sound: bytes) -> int | None:
    """Seconds of a WAV file to the nearest one, from its header and as far as its bytes go; None for any other file.

    The format: RIFF chunks, of which `fmt ` has the bytes of a second at offset 8 and `data` the samples.
    """
    if sound[:4] != b"RIFF" or sound[8:12] != b"WAVE":
        return None
    at, bytes_per_second = 12, 0
    for _ in range(WAVE_CHUNKS_MAX):
        kind, size = sound[at : at + 4], int.from_bytes(sound[at + 4 : at + 8], "little")
        at += 8
        if kind == b"fmt " and size >= 16:
            bytes_per_second = int.from_bytes(sound[at + 8 : at + 12], "little")
        elif kind == b"data":
            # A recorder that did not know the length when it began says the largest there is.
            held = min(size, len(sound) - at)
            return (2 * held + bytes_per_second) // (2 * bytes_per_second) if bytes_per_second else None
        at += size + size % 2
    return None
