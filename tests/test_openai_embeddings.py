"""Embeddings: what is read of requests and of replies, the vectors passed over."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer.dialects.base import CallRequest, Reading
from costbearer.dialects.openai_embeddings import OpenAIEmbeddings
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage, Work

EMBEDDINGS = OpenAIEmbeddings()
VECTORS = [{"object": "embedding", "index": 0, "embedding": [0.1, -2.5e-3]}]


def ask(**members: Any) -> CallRequest:
    return EMBEDDINGS.read(json.dumps({"model": "text-embedding-3-small", "input": "Hi", **members}).encode())


def read(body: bytes) -> Reading:
    return EMBEDDINGS.whole(ask(), body)


def answer(usage: Any, **members: Any) -> bytes:
    return json.dumps({"object": "list", "data": VECTORS, "model": "served", "usage": usage, **members}).encode()


def test_a_request() -> None:
    request = ask(metadata={"tags": ["a:b"]}, dimensions=8)
    assert (request.operation, request.model, request.tags) == ("embeddings", "text-embedding-3-small", ("a:b",))
    assert (request.max_output_tokens, request.free, request.stream) == (0, False, False)
    outgoing = EMBEDDINGS.outgoing(request, "other")
    assert outgoing.path == "/embeddings"
    assert json.loads(outgoing.body) == {"model": "other", "input": "Hi", "dimensions": 8}


@pytest.mark.parametrize(
    "given_input, open_ended",
    [
        ("text", False),
        (["a", "b"], False),
        ([1, 2, 3], False),
        ([[1, 2], [3]], False),
        ([], False),
        (["a", {"image_url": "https://x"}], True),
        ({"image": "x"}, True),
        (None, True),
    ],
)
def test_input_that_the_bytes_do_not_bound(given_input: Any, open_ended: bool) -> None:
    assert ask(input=given_input).open_ended is open_ended


@pytest.mark.parametrize("body", [b"", b"[]", b'{"input":"x"}', b'{"model":1}', b'{"model":"a","model":"b"}'])
def test_faulty_requests(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        EMBEDDINGS.read(body)


@pytest.mark.parametrize(
    "usage, tokens, complete, notes",
    [
        ({"prompt_tokens": 8, "total_tokens": 8}, 8, True, ()),
        ({"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}, 8, True, ()),
        ({"total_tokens": 9}, 9, True, ()),
        ({"prompt_tokens": 0, "total_tokens": 0}, 0, True, ()),
        (None, None, False, ("usage_absent",)),
        ({}, None, False, ("usage_absent",)),
        ([], None, False, ("usage_malformed",)),
        ({"prompt_tokens": 8.0}, None, False, ("usage_malformed",)),
        ({"prompt_tokens": -1, "total_tokens": 5}, 5, False, ("usage_malformed",)),
        ({"prompt_tokens": 10**13}, None, False, ("usage_malformed",)),
        ({"image_pixels": 5}, None, False, ("usage_partial",)),
    ],
)
def test_usage(usage: Any, tokens: int | None, complete: bool, notes: tuple[str, ...]) -> None:
    reading = read(answer(usage))
    work = () if tokens is None else (Work(model="served", usage=Usage(input_tokens=tokens)),)
    assert (reading.work, reading.complete, reading.notes) == (work, complete, notes)


def test_what_else_a_reply_says() -> None:
    reading = read(answer({"prompt_tokens": 1, "cost": 2e-8}, id="gen-1"))
    assert (reading.response_id, reading.provider_cost_usd) == ("gen-1", Decimal("2e-8"))
    assert read(b'{"error":{"code":"c"}}').error_code == "c"
    unnamed = read(answer({"prompt_tokens": 1}, model=None))
    assert (unnamed.work[0].model, unnamed.response_model) == ("text-embedding-3-small", None)


@pytest.mark.parametrize(
    "body, note",
    [(b"", "body_not_json"), (b"\xff{}", "body_not_json"), (b'{"usage":', "body_not_json"), (b"[]", "body_unexpected")],
)
def test_replies_that_are_none(body: bytes, note: str) -> None:
    assert note in read(body).notes
    assert not read(body).complete


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 150))
def test_no_bytes_raise(noise: bytes, at: int) -> None:
    whole = answer({"prompt_tokens": 8, "total_tokens": 8})
    for body in (noise, whole[:at], whole[:at] + noise, b"[" * 5000):
        reading = read(body)
        assert not reading.complete or reading.work
