"""The simulated OpenAI API beside chat: completions, embeddings, images, sound, moderations.

Shapes follow https://platform.openai.com/docs/api-reference. Prices are of November 2026, written by hand from
https://platform.openai.com/docs/pricing: US dollars per million tokens or characters, and per second of sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.simulator.faults import Orders, without_marks
from costbearer.simulator.openai import invalid
from costbearer.simulator.reply import EVENTS, Ask, Bill, Piece, Plan, Refusal, encode, whole
from costbearer.simulator.text import count, slices, write

PATHS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/embeddings"): "embeddings",
        ("POST", "/v1/images/generations"): "images.generate",
        ("POST", "/v1/images/edits"): "images.edit",
        ("POST", "/v1/audio/transcriptions"): "audio.transcriptions",
        ("POST", "/v1/audio/translations"): "audio.translations",
        ("POST", "/v1/audio/speech"): "audio.speech",
        ("POST", "/v1/moderations"): "moderations",
    }
)

RATES: Mapping[str, Mapping[str, Decimal]] = MappingProxyType(
    {
        model: MappingProxyType({unit: Decimal(price) for unit, price in zip(words[::2], words[1::2], strict=True)})
        for model, words in {
            "gpt-3.5-turbo-instruct": ("input", "1.50", "output", "2.00"),
            "text-embedding-3-small": ("input", "0.02"),
            "text-embedding-3-large": ("input", "0.13"),
            "gpt-image-1.5": ("input", "5", "image_input", "8", "output", "10", "image_output", "32"),
            "gpt-4o-mini-transcribe": ("input", "1.25", "audio_input", "3", "output", "5"),
            "gpt-4o-mini-tts": ("input", "0.60", "output", "12"),
            "tts-1": ("character", "15"),
            "whisper-1": ("second", "100"),
        }.items()
    }
)
"""US dollars per million of each unit: whisper-1 costs 0.006 a minute, which is 100 per million seconds."""

_EMBEDDING = (0.25, -0.5, 0.125, 1.0)
IMAGE_TOKENS = 272
GIVEN_IMAGE_TOKENS = 194
SOUND_BYTES_PER_SECOND = 32_000
"""Of 16 bits at 16 kHz, one channel."""
SPEECH_TOKENS_PER_CHARACTER = 2
_PICTURE = "iVBORw0KGgo" * 40
_DISPOSITION = re.compile(rb'name="([^"]*)"(; filename=)?')


def find(method: str, path: str) -> str | None:
    """The operation of a path."""
    return PATHS.get((method, path))


def understood(content_type: str, body: bytes) -> dict[str, Any] | None:
    """The fields of a request, of JSON or of a form (files as bytes); None for what is neither."""
    if not content_type.startswith("multipart/form-data"):
        try:
            decoded = msgspec.json.decode(body) if body else {}
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return decoded if isinstance(decoded, dict) else None
    fields: dict[str, Any] = {}
    delimiter = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
    for part in body.split(delimiter)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        named = _DISPOSITION.search(head)
        if named is None:
            return None
        name, value = named[1].decode(), content.removesuffix(b"\r\n")
        fields[name] = value if named[2] else value.decode()
    if fields.get("stream") in ("true", "True"):
        fields["stream"] = True
    return fields


def answer(operation: str, ask: Ask) -> Plan | Refusal:
    """The reply to a request of one of these operations."""
    if operation == "moderations":
        results = [{"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}]
        told = {"id": f"modr-{ask.response_id[9:]}", "model": "omni-moderation-latest", "results": results}
        return Plan(200, (Piece(encode(told), 0),))
    model = ask.body.get("model")
    if model not in RATES:
        return Refusal(404, "invalid_request_error", f"The model `{model}` does not exist.", "model_not_found")
    return _MAKERS[operation](ask)


def bill(model: str, usage: dict[str, Any], orders: Orders, **quantities: int) -> Bill:
    """What so much of each unit costs, or the amount that was ordered."""
    cost = sum((RATES[model][unit] * number for unit, number in quantities.items() if number), Decimal(0))
    return Bill(usage, cost.scaleb(-6) if orders.cost is None else orders.cost)


def _tokens(ask: Ask, text: object) -> int:
    data = text.encode() if isinstance(text, str) else encode(text)
    return count(without_marks(data), ask.world.seed)


def _told(ask: Ask, document: dict[str, Any], usage: dict[str, Any], final: Bill, tokens: int = 0) -> Plan:
    piece = Piece(whole(document, usage, ask.orders), tokens)
    return Plan(200, (piece,), ask.body["model"], total=tokens, final=final)


def _streamed(ask: Ask, events: list[dict[str, Any]], final: Bill) -> Plan:
    """Events of which the last states the usage; all of it is generated by then, however much was delivered."""
    if ask.orders.no_usage:
        events[-1].pop("usage")
    pieces = tuple(Piece(b"data: " + encode(event) + b"\n\n", 0) for event in events)
    failed = encode({"type": "error", "error": {"type": "server_error", "message": "The server had an error."}})
    return Plan(
        200, pieces, ask.body["model"], EVENTS, stream=True, final=final, error_event=b"data: " + failed + b"\n\n"
    )


def _completion(ask: Ask) -> Plan | Refusal:
    body = ask.body
    model, limit = body["model"], body.get("max_tokens", 16)
    prompts = body["prompt"] if isinstance(body.get("prompt"), list) else [body.get("prompt", "")]
    given = sum(_tokens(ask, prompt) for prompt in prompts)
    choices = len(prompts) * (body.get("n") or 1)
    made = min(ask.orders.output or 12, limit)
    usage = {
        "prompt_tokens": given,
        "completion_tokens": made * choices,
        "total_tokens": given + made * choices,
    }
    final = bill(model, usage, ask.orders, input=given, output=made * choices)
    common = {"id": "cmpl-" + ask.response_id[9:], "object": "text_completion", "created": ask.created, "model": model}
    text = write(made, ask.draws)
    if not body.get("stream"):
        said = [{"text": text, "index": at, "logprobs": None, "finish_reason": "length"} for at in range(choices)]
        return _told(ask, common | {"choices": said}, usage, final)
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    null = {"usage": None} if asked else {}
    pieces = []
    for at in range(choices):
        for part, _ in slices(text, made, max(1, made // 4)):
            choice = {"text": part, "index": at, "logprobs": None, "finish_reason": None}
            pieces.append(common | {"choices": [choice]} | null)
        pieces.append(common | {"choices": [{"text": "", "index": at, "finish_reason": "length"}]} | null)
    if asked and not ask.orders.no_usage:
        pieces.append(common | {"choices": [], "usage": usage})
    told = tuple(Piece(b"data: " + encode(piece) + b"\n\n", 0) for piece in pieces)
    return Plan(200, (*told, Piece(b"data: [DONE]\n\n", 0)), model, EVENTS, stream=True, final=final)


def _embedding(ask: Ask) -> Plan | Refusal:
    texts = ask.body.get("input")
    texts = texts if isinstance(texts, list) else [texts]
    given = sum(_tokens(ask, text) for text in texts)
    usage = {"prompt_tokens": given, "total_tokens": given}
    data = [{"object": "embedding", "index": index, "embedding": _EMBEDDING} for index in range(len(texts))]
    document = {"object": "list", "model": ask.body["model"], "data": data}
    return _told(ask, document, usage, bill(ask.body["model"], usage, ask.orders, input=given))


def _image(ask: Ask) -> Plan | Refusal:
    body = ask.body
    model, number = body["model"], int(body.get("n") or 1)
    text = _tokens(ask, body.get("prompt", ""))
    pictures = GIVEN_IMAGE_TOKENS * sum(isinstance(value, bytes) for value in body.values())
    made = IMAGE_TOKENS * number
    usage = {
        "input_tokens": text + pictures,
        "input_tokens_details": {"text_tokens": text, "image_tokens": pictures},
        "output_tokens": made,
        "total_tokens": text + pictures + made,
    }
    final = bill(model, usage, ask.orders, input=text, image_input=pictures, image_output=made)
    shown = {"size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "png"}
    if not body.get("stream"):
        data = [{"b64_json": _PICTURE}] * number
        return _told(ask, {"created": ask.created, "data": data, **shown}, usage, final)
    if number > 1:
        return invalid("simulator: a stream has one image", "n")
    kind = "image_edit" if pictures else "image_generation"
    common = {"created_at": ask.created, "b64_json": _PICTURE, **shown}
    partial = {"type": f"{kind}.partial_image", "partial_image_index": 0, **common}
    return _streamed(ask, [partial, {"type": f"{kind}.completed", **common, "usage": usage}], final)


def _transcript(ask: Ask) -> Plan | Refusal:
    body = ask.body
    model, sound = body["model"], body.get("file")
    if not isinstance(sound, bytes):
        return invalid("Missing required parameter: 'file'.", "file")
    seconds = max(1, (len(sound) + SOUND_BYTES_PER_SECOND // 2) // SOUND_BYTES_PER_SECOND)
    text, said = _tokens(ask, body.get("prompt", "")), write(ask.orders.output or 20, ask.draws)
    heard, made = 10 * seconds, ask.orders.output or 20
    usage: dict[str, Any] = {"type": "duration", "seconds": seconds}
    final = None
    if model == "whisper-1":
        final = bill(model, usage, ask.orders, second=seconds)
    else:
        usage = {
            "type": "tokens",
            "input_tokens": heard + text,
            "input_token_details": {"audio_tokens": heard, "text_tokens": text},
            "output_tokens": made,
            "total_tokens": heard + text + made,
        }
        final = bill(model, usage, ask.orders, input=text, audio_input=heard, output=made)
    if body.get("response_format") in ("text", "srt", "vtt"):
        return Plan(200, (Piece(said.encode() + b"\n", 0),), model, "text/plain; charset=utf-8", final=final)
    if body.get("stream") and model != "whisper-1":
        delta = {"type": "transcript.text.delta", "delta": said}
        return _streamed(ask, [delta, {"type": "transcript.text.done", "text": said, "usage": usage}], final)
    verbose = {"language": "english", "duration": float(seconds), "segments": []}
    document = {"text": said} | (verbose if body.get("response_format") == "verbose_json" else {})
    return _told(ask, document, usage, final)


def _speech(ask: Ask) -> Plan | Refusal:
    body = ask.body
    model, text = body["model"], body.get("input")
    if not isinstance(text, str):
        return invalid("Missing required parameter: 'input'.", "input")
    given, made = _tokens(ask, text), SPEECH_TOKENS_PER_CHARACTER * len(text)
    usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
    if model == "tts-1":
        final = bill(model, {"characters": len(text)}, ask.orders, character=len(text))
    else:
        final = bill(model, usage, ask.orders, input=given, output=made)
    if body.get("stream_format") != "sse":
        sound = b"ID3\x04\x00" + bytes(range(256)) * len(text)
        pieces = tuple(Piece(sound[at : at + 1000], 0) for at in range(0, len(sound), 1000))
        return Plan(200, pieces, model, "audio/mpeg", stream=True, final=final)
    if model == "tts-1":
        return invalid("stream_format 'sse' is not supported by this model.", "stream_format")
    delta = {"type": "speech.audio.delta", "audio": _PICTURE}
    return _streamed(ask, [delta, delta, {"type": "speech.audio.done", "usage": usage}], final)


_MAKERS: Mapping[str, Callable[[Ask], Plan | Refusal]] = MappingProxyType(
    {
        "completions": _completion,
        "embeddings": _embedding,
        "images.generate": _image,
        "images.edit": _image,
        "audio.transcriptions": _transcript,
        "audio.translations": _transcript,
        "audio.speech": _speech,
    }
)
