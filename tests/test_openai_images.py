"""Images: tokens where they are stated, else counted images of a size and quality."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import CallRequest, Place, Reading
from costbearer.dialects.openai_images import EDIT, GENERATE, VARIATION, OpenAIImages
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, Work, leaves
from tests.test_form import FILE, TYPE, closed, field

IMAGES = OpenAIImages(GENERATE)
FORM = Place(content_type=TYPE)
TOKENS = {
    "input_tokens": 250,
    "input_tokens_details": {"text_tokens": 50, "image_tokens": 200},
    "output_tokens": 4160,
    "total_tokens": 4410,
}
COUNTED = Usage(input_tokens=250, image_input_tokens=200, output_tokens=4160, image_output_tokens=4160)
CACHED = {"cached_tokens": 100, "cached_tokens_details": {"image_tokens": 90}}
PICTURE = {"b64_json": "aGk="}


def ask(model: str = "gpt-image-1.5", **members: Any) -> CallRequest:
    return IMAGES.read(json.dumps({"model": model, "prompt": "a fox", **members}).encode())


def whole(request: CallRequest, **members: Any) -> Reading:
    return IMAGES.whole(request, json.dumps({"created": 1, **members}).encode())


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, {"choices": 1, "stream": False, "variant": None, "open_ended": False}),
        ({"n": 3, "stream": True, "size": "1024x1024"}, {"choices": 3, "stream": True, "variant": None}),
        ({"model": "dall-e-3"}, {"variant": "1024x1024/standard"}),
        ({"model": "dall-e-3", "size": "1792x1024", "quality": "hd"}, {"variant": "1792x1024/hd"}),
        ({"model": "dall-e-2", "size": "256x256", "quality": "auto"}, {"variant": "256x256/standard"}),
        ({"model": "grok-2-image"}, {"variant": None}),
        ({"model": "flux", "size": "512x512"}, {"variant": "512x512"}),
        ({"model": "gpt-image-2.5-flare", "svg": {"model": "gpt-5.6-sol"}}, {"open_ended": True}),
    ],
)
def test_requests(members: dict[str, Any], expected: dict[str, Any]) -> None:
    request = ask(**members)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize("members", [{"model": None}, {"n": 0}, {"n": "2"}, {"stream": "yes"}])
def test_faulty_requests(members: dict[str, Any]) -> None:
    with pytest.raises(BodyInvalid):
        ask(**members)


def test_an_edit_comes_as_a_form_or_as_json() -> None:
    edits = OpenAIImages(EDIT)
    body = closed(field("model", "gpt-image-1.5"), FILE, field("n", "2"), field("metadata[tags][]", "a:b"))
    request = edits.read(body, FORM)
    assert (request.operation, request.model, request.choices, request.tags) == (EDIT, "gpt-image-1.5", 2, ("a:b",))
    assert request.open_ended
    outgoing = edits.outgoing(request, "gpt-image-2")
    assert (outgoing.path, outgoing.content_type) == ("/images/edits", TYPE)
    assert outgoing.body == closed(field("model", "gpt-image-2"), FILE, field("n", "2"))
    plain = edits.read(b'{"model":"gpt-image-1.5","images":[{"file_id":"file-1"}]}')
    assert (plain.model, plain.open_ended) == ("gpt-image-1.5", True)


def test_a_variation_has_a_default_model() -> None:
    variations = OpenAIImages(VARIATION)
    request = variations.read(closed(FILE, field("size", "512x512")), FORM)
    assert (request.model, request.variant) == ("dall-e-2", "512x512/standard")
    assert variations.outgoing(request, "dall-e-2").body is request.body
    assert variations.outgoing(request, "mine").body == closed(field("model", "mine"), FILE, field("size", "512x512"))


@pytest.mark.parametrize(
    "changes, expected, complete, notes",
    [
        ({}, COUNTED, True, ()),
        (
            {"output_tokens_details": {"text_tokens": 160, "image_tokens": 4000}},
            Usage(input_tokens=250, image_input_tokens=200, output_tokens=4160, image_output_tokens=4000),
            True,
            (),
        ),
        (
            {"output_tokens_details": {"text_tokens": 160}},
            Usage(input_tokens=250, image_input_tokens=200, output_tokens=4160, image_output_tokens=4000),
            True,
            (),
        ),
        (
            {"input_tokens_details": {"image_tokens": 200, **CACHED}},
            Usage(
                input_tokens=250,
                image_input_tokens=200,
                cache_read_input_tokens=100,
                cache_read_image_input_tokens=90,
                output_tokens=4160,
                image_output_tokens=4160,
            ),
            True,
            (),
        ),
        ({"total_tokens": 1}, COUNTED, True, ("total_mismatch",)),
        (
            {"input_tokens_details": None, "total_tokens": None},
            Usage(input_tokens=250, output_tokens=4160, image_output_tokens=4160),
            True,
            (),
        ),
        ({"output_tokens": None}, Usage(input_tokens=250, image_input_tokens=200), False, ("usage_partial",)),
        (
            {"input_tokens": 1.5},
            Usage(image_input_tokens=200, output_tokens=4160, image_output_tokens=4160),
            False,
            ("usage_malformed", "usage_partial"),
        ),
        (
            {"input_tokens_details": 7},
            Usage(input_tokens=250, output_tokens=4160, image_output_tokens=4160),
            False,
            ("usage_malformed",),
        ),
    ],
)
def test_tokens(changes: dict[str, Any], expected: Usage, complete: bool, notes: tuple[str, ...]) -> None:
    reading = whole(ask(), data=[PICTURE], usage=TOKENS | changes)
    assert (reading.work[0].usage, reading.complete, reading.notes) == (expected, complete, notes)
    assert (reading.work[0].model, reading.variant) == ("gpt-image-1.5", None)
    if complete:
        leaves(expected)


def test_an_svg_is_written_by_another_model() -> None:
    svg = {"model": "gpt-5.6-sol", "input_tokens": 10, "output_tokens": 20, "reasoning_tokens": 5, "total_tokens": 30}
    reading = whole(ask(), data=[PICTURE], usage=TOKENS, svg_usage=svg)
    written = Usage(input_tokens=10, output_tokens=20, reasoning_output_tokens=5)
    assert reading.work[1] == Work(model="gpt-5.6-sol", usage=written, largest_input_tokens=10)
    assert reading.complete
    unnamed = whole(ask(), data=[PICTURE], usage=TOKENS, svg_usage=svg | {"model": None})
    assert (len(unnamed.work), unnamed.complete, unnamed.notes) == (1, False, ("usage_malformed",))


@pytest.mark.parametrize(
    "model, data, images, variant",
    [
        ("dall-e-3", [PICTURE], 1, "1024x1024/standard"),
        ("dall-e-2", [PICTURE] * 4, 4, "1024x1024/standard"),
        ("grok-2-image", [PICTURE] * 2, 2, None),
        ("dall-e-3", [], None, None),
        ("dall-e-3", None, None, None),
        ("gpt-image-1.5", [PICTURE], None, None),
        ("chatgpt-image-latest", [PICTURE], None, None),
    ],
)
def test_images_without_usage_are_counted(model: str, data: Any, images: int | None, variant: str | None) -> None:
    reading = whole(ask(model), data=data)
    work = () if images is None else (Work(model=model, usage=Usage(generated_images=images)),)
    assert (reading.work, reading.complete, reading.variant) == (work, images is not None, variant)
    assert reading.notes == (() if images else ("usage_absent",))


@pytest.mark.parametrize(
    "body, notes",
    [
        (b"", ("body_not_json",)),
        (b'{"data":', ("body_not_json",)),
        (b"[]", ("body_unexpected", "usage_absent")),
        (b'{"data":{}}', ("body_unexpected", "usage_absent")),
        (b'{"data":[{}],"usage":[]}', ("usage_malformed", "usage_absent")),
        (b'{"data":[{}],"usage":{}}', ("usage_absent",)),
    ],
)
def test_replies_that_are_none(body: bytes, notes: tuple[str, ...]) -> None:
    reading = IMAGES.whole(ask(), body)
    assert (reading.complete, reading.work, reading.notes) == (False, (), notes)


def test_errors() -> None:
    assert whole(ask(), error={"code": "moderation_blocked"}).error_code == "moderation_blocked"


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


PARTIAL = event("image_generation.partial_image", partial_image_index=0, b64_json="QUJD" * 3000)
DONE = event("image_generation.completed", b64_json="QUJD" * 3000, size="1024x1024", usage=TOKENS)
STREAM = PARTIAL + PARTIAL + DONE


def stream(body: bytes, size: int | None = None, **members: Any) -> tuple[Reading, bytes, bool]:
    reader = IMAGES.stream_reader(ask(stream=True, **members))
    step = size or len(body) or 1
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step))
    ended = reader.ended
    seen += reader.rest()
    return reader.reading(), seen, ended


@pytest.mark.parametrize("size", [None, 1, 7, 4096])
def test_a_stream(size: int | None) -> None:
    reading, seen, ended = stream(STREAM, size)
    assert (seen, ended) == (STREAM, True)
    assert (reading.work, reading.complete) == ((Work(model="gpt-image-1.5", usage=COUNTED),), True)


def test_a_stream_cut_anywhere_is_complete_only_with_its_last_event() -> None:
    for end in range(0, len(STREAM), 97):
        reading, seen, ended = stream(STREAM[:end])
        assert (seen, ended, reading.complete, reading.work) == (STREAM[:end], False, False, ())


def test_each_image_of_a_stream_states_its_own() -> None:
    edited = event("image_edit.completed", usage=TOKENS)
    reading, _, ended = stream(edited + edited, n=2)
    assert ([work.usage for work in reading.work], reading.complete, ended) == ([COUNTED, COUNTED], True, True)
    assert reading.notes == ("usage_of_several_images",)
    reading, _, ended = stream(edited, n=2)
    assert (len(reading.work), reading.complete, ended) == (1, False, False)


def test_an_error_in_a_stream() -> None:
    reading, _, _ = stream(PARTIAL + event("error", error={"code": "server_error"}))
    assert (reading.error_code, reading.complete) == ("server_error", False)
    assert "error_in_stream" in reading.notes


def test_a_stream_of_a_model_without_tokens() -> None:
    reading, _, _ = stream(event("image_generation.completed", b64_json=""), model="dall-e-3")
    assert (reading.work[0].usage, reading.variant) == (Usage(generated_images=1), "1024x1024/standard")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 400))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    for body in (noise, b"data: " + noise + b"\n\n", DONE[:at] + noise, b"[" * 3000):
        stream(body)
        IMAGES.whole(ask(), body)
