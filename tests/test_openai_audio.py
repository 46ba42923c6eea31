"""Sound in and sound out: tokens, seconds and characters, from wherever they are stated."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import CallRequest, Place, Reading
from costbearer.dialects.openai_audio import (
    TRANSLATIONS,
    OpenAISpeech,
    OpenAITranscriptions,
    spoken_characters,
    wave_seconds,
)
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, leaves
from tests.test_form import FILE, TYPE, closed, field

TRANSCRIPTIONS, SPEECH = OpenAITranscriptions(), OpenAISpeech()
FORM = Place(content_type=TYPE)
TOKENS = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 45,
    "total_tokens": 59,
}
COUNTED = Usage(input_tokens=14, audio_input_tokens=10, output_tokens=45)


def wave(seconds: float, rate: int = 16_000, *, stated: int | None = None, extra: bytes = b"") -> bytes:
    """A WAV file of silence, 16 bits, one channel."""
    data = bytes(int(seconds * rate) * 2)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    size = len(data) if stated is None else stated
    return b"RIFF\xff\xff\xff\xffWAVE" + form + extra + struct.pack("<4sI", b"data", size) + data


def ask(model: str = "gpt-4o-mini-transcribe", *parts: bytes) -> CallRequest:
    return TRANSCRIPTIONS.read(closed(field("model", model), *(parts or (FILE,))), FORM)


def heard(content_type: str = "application/json", request: CallRequest | None = None, **members: Any) -> Reading:
    return TRANSCRIPTIONS.whole(request or ask(), json.dumps(members).encode(), {"content-type": content_type})


def test_a_transcription_is_a_form() -> None:
    request = ask("whisper-1", field("stream", "true"), FILE, field("metadata", '{"tags":["a:b"]}'))
    assert (request.operation, request.model, request.stream) == ("audio.transcriptions", "whisper-1", True)
    assert (request.tags, request.open_ended) == (("a:b",), True)
    outgoing = TRANSCRIPTIONS.outgoing(request, "w2")
    assert (outgoing.path, outgoing.content_type) == ("/audio/transcriptions", TYPE)
    assert outgoing.body == closed(field("model", "w2"), field("stream", "true"), FILE)
    translations = OpenAITranscriptions(TRANSLATIONS)
    assert translations.outgoing(translations.read(request.body, FORM), "whisper-1").path == "/audio/translations"
    with pytest.raises(BodyInvalid):
        TRANSCRIPTIONS.read(closed(FILE), FORM)


@pytest.mark.parametrize(
    "members, expected, complete, notes",
    [
        ({"usage": TOKENS}, COUNTED, True, ()),
        ({"usage": {"type": "duration", "seconds": 7}}, Usage(input_audio_seconds=7), True, ()),
        ({"usage": {"type": "duration", "seconds": 0}}, Usage(input_audio_seconds=0), True, ()),
        ({"usage": {"type": "duration", "seconds": 6.5}}, Usage(input_audio_seconds=7), True, ("seconds_rounded",)),
        ({"usage": {"type": "duration", "seconds": 6.49}}, Usage(input_audio_seconds=6), True, ("seconds_rounded",)),
        ({"duration": 8.47, "usage": {"seconds": 9}}, Usage(input_audio_seconds=9), True, ()),
        ({"duration": 8.47}, Usage(input_audio_seconds=8), True, ("seconds_rounded",)),
        ({"duration": 3, "usage": None}, Usage(input_audio_seconds=3), True, ("seconds_rounded",)),
        (
            {"usage": {"prompt_audio_seconds": 36, "prompt_tokens": 13, "completion_tokens": 15, "request_count": 1}},
            Usage(input_audio_seconds=36, input_tokens=13, output_tokens=15),
            True,
            (),
        ),
        ({"usage": {"type": "duration", "seconds": -1}}, None, False, ("usage_malformed",)),
        ({"usage": {"type": "duration", "seconds": "7"}}, None, False, ("usage_malformed",)),
        ({"usage": {"type": "duration", "seconds": 1e300}}, None, False, ("usage_malformed",)),
        ({"usage": {"type": "duration"}}, None, False, ("usage_partial",)),
        (
            {"usage": TOKENS | {"output_tokens": None}},
            Usage(input_tokens=14, audio_input_tokens=10),
            False,
            ("usage_partial",),
        ),
        (
            {"usage": TOKENS | {"input_token_details": []}},
            Usage(input_tokens=14, output_tokens=45),
            False,
            ("usage_malformed",),
        ),
        ({"usage": 7}, None, False, ("usage_malformed",)),
        ({"duration": "x"}, None, False, ("usage_malformed",)),
        ({"text": "Hi"}, None, False, ("usage_absent",)),
        ({"text": "Hi", "usage": {}}, None, False, ("usage_absent",)),
    ],
)
def test_transcripts(members: dict[str, Any], expected: Usage | None, complete: bool, notes: tuple[str, ...]) -> None:
    reading = heard(**members)
    assert [work.usage for work in reading.work] == ([] if expected is None else [expected])
    assert (reading.complete, reading.notes) == (complete, notes)
    if expected is not None and complete:
        leaves(expected)


def test_who_answered() -> None:
    assert heard(model="voxtral-mini-latest", usage=TOKENS).work[0].model == "voxtral-mini-latest"
    assert heard(usage=TOKENS).work[0].model == "gpt-4o-mini-transcribe"
    assert heard(error={"code": "c"}).error_code == "c"


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "text/vtt", "application/x-subrip"])
@pytest.mark.parametrize("sound, seconds", [(wave(2.6), 3), (b"ID3 something", None), (wave(1)[:30], None)])
def test_formats_without_usage(content_type: str, sound: bytes, seconds: int | None) -> None:
    request = ask("whisper-1", field("file", sound, '; filename="a.wav"'))
    reading = TRANSCRIPTIONS.whole(request, b"1\n00:00:00,000 --> 00:00:02,600\nHi", {"content-type": content_type})
    assert [work.usage for work in reading.work] == ([] if seconds is None else [Usage(input_audio_seconds=seconds)])
    assert not reading.complete
    assert reading.notes == (("usage_absent",) if seconds is None else ("usage_absent", "seconds_from_request"))


@pytest.mark.parametrize(
    "content_type, body, note",
    [
        ("text/html", b"<html>", "body_not_json"),
        ("application/json", b"", "body_not_json"),
        ("application/json", b"[]", "body_unexpected"),
    ],
)
def test_replies_that_are_none(content_type: str, body: bytes, note: str) -> None:
    for operation in (TRANSCRIPTIONS, SPEECH):
        assert note in operation.whole(ask(), body, {"content-type": content_type}).notes


def test_a_json_request_for_a_transcript_is_read_too() -> None:
    request = TRANSCRIPTIONS.read(b'{"model":"voxtral-mini-latest","file_url":"https://x"}')
    assert heard(request=request, text="Hi").notes == ("usage_absent",)


@pytest.mark.parametrize(
    "sound, seconds",
    [
        (wave(0.5), 1),
        (wave(0.49), 0),
        (wave(3.2, rate=8_000), 3),
        (wave(2, stated=0xFFFFFFFF), 2),
        (wave(2, stated=32_000), 1),
        (wave(2, extra=struct.pack("<4sI", b"LIST", 5) + b"abcde\0"), 2),
        (wave(2, extra=struct.pack("<4sI", b"LIST", 0) * 70), None),
        (wave(2).replace(struct.pack("<I", 32_000), bytes(4)), None),
        (wave(2)[:36], None),
        (b"RIFFxxxxAVI ", None),
        (b"", None),
    ],
)
def test_the_length_of_a_wave(sound: bytes, seconds: int | None) -> None:
    assert wave_seconds(sound) == seconds


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_wave_raises(noise: bytes) -> None:
    for sound in (noise, b"RIFF1234WAVE" + noise, wave(0)[:44] + noise):
        assert wave_seconds(sound) is None or wave_seconds(sound) >= 0  # type: ignore[operator]


def event(kind: str, **members: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **members})}\n\n".encode()


HEARD = event("transcript.text.delta", delta="Hel") + event("transcript.text.done", text="Hello", usage=TOKENS)
SPOKEN_USAGE = {"input_tokens": 12, "output_tokens": 300, "total_tokens": 312}
SPOKEN = event("speech.audio.delta", audio="QUJD" * 2000) * 2 + event("speech.audio.done", usage=SPOKEN_USAGE)


def say(model: str = "gpt-4o-mini-tts", text: Any = "Grüße 📒", **members: Any) -> CallRequest:
    return SPEECH.read(json.dumps({"model": model, "input": text, "voice": "alloy", **members}).encode())


def stream(
    body: bytes, operation: Any, request: CallRequest, size: int | None = None, kind: str = "text/event-stream"
) -> tuple[Reading, bytes, bool]:
    reader = operation.stream_reader(request, {"content-type": kind})
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step))
    ended = reader.ended
    seen += reader.rest()
    return reader.reading(), seen, ended


@pytest.mark.parametrize("size", [None, 1, 7, 1000])
@pytest.mark.parametrize(
    "body, operation, request_, expected",
    [
        (HEARD, TRANSCRIPTIONS, ask(), COUNTED),
        (SPOKEN, SPEECH, say(stream_format="sse"), Usage(input_tokens=12, output_tokens=300)),
    ],
    ids=["transcript", "speech"],
)
def test_streams(size: int | None, body: bytes, operation: Any, request_: CallRequest, expected: Usage) -> None:
    reading, seen, ended = stream(body, operation, request_, size)
    assert (seen, ended, reading.complete) == (body, True, True)
    assert reading.work[0].usage == expected


def test_streams_that_are_cut_say_nothing() -> None:
    for body, operation, request in ((HEARD, TRANSCRIPTIONS, ask()), (SPOKEN, SPEECH, say(stream_format="sse"))):
        for end in range(0, len(body) - 2, 61):
            reading, seen, ended = stream(body[:end], operation, request)
            assert (seen, ended, reading.complete, reading.generated_bytes) == (body[:end], False, False, 0)


def test_an_error_in_a_stream() -> None:
    reading, _, _ = stream(event("error", error={"type": "server_error"}), TRANSCRIPTIONS, ask())
    assert (reading.error_code, reading.notes) == ("server_error", ("error_in_stream", "usage_absent"))


@pytest.mark.parametrize(
    "model, text, characters, notes",
    [
        ("tts-1", "Grüße 📒", 7, ("characters_from_request",)),
        ("tts-1-hd", "", 0, ("characters_from_request",)),
        ("playai-tts", "abc", 3, ("characters_from_request",)),
        ("tts-1", ["a"], None, ("usage_absent",)),
        ("gpt-4o-mini-tts", "Hi", None, ("usage_absent",)),
    ],
)
def test_sound_without_usage(model: str, text: Any, characters: int | None, notes: tuple[str, ...]) -> None:
    sound = b"ID3\xff\xfb\x00"
    whole = SPEECH.whole(say(model, text), sound, {"content-type": "audio/mpeg"})
    streamed, seen, ended = stream(sound, SPEECH, say(model, text), 2, "audio/mpeg")
    assert (whole, seen, ended) == (streamed, sound, False)
    assert [work.usage for work in whole.work] == ([] if characters is None else [Usage(input_characters=characters)])
    assert (whole.complete, whole.notes) == (characters is not None, notes)


def test_a_speech_request() -> None:
    request = say(metadata={"tags": ["a:b"]}, stream_format="sse")
    assert (request.operation, request.stream, request.tags) == ("audio.speech", True, ("a:b",))
    assert "metadata" not in json.loads(SPEECH.outgoing(request, "x").body)
    assert say().stream is False
    assert {"audio/mpeg", "audio/pcm", "text/event-stream"} <= SPEECH.streams.keys()


@pytest.mark.parametrize("body, characters", [(b'{"input":"\\ud83d\\udcd2"}', 1), (b"{}", None), (b"\xff", None)])
def test_characters_are_code_points(body: bytes, characters: int | None) -> None:
    assert spoken_characters(body) == characters


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120))
def test_no_bytes_raise(noise: bytes) -> None:
    for body in (noise, b"data: " + noise + b"\n\n", b"[" * 3000):
        stream(body, TRANSCRIPTIONS, ask())
        heard_as = {"content-type": "application/json"}
        assert not TRANSCRIPTIONS.whole(ask(), body, heard_as).complete
        assert not SPEECH.whole(say(), body, heard_as).complete
