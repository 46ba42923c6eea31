"""Embeddings of the Gemini family: one, a batch, and Vertex AI's `predict`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer import errors
from costbearer.dialects.base import CallRequest, Operation, Place, Reading
from costbearer.dialects.gemini_embeddings import GeminiEmbeddings, VertexEmbeddings
from costbearer.usage import Usage

ONE: Operation = GeminiEmbeddings("embedContent")
BATCH: Operation = GeminiEmbeddings("batchEmbedContents")
PREDICT: Operation = VertexEmbeddings()
MODEL = "gemini-embedding-2"
PLACE = Place(path=f"/v1beta/models/{MODEL}:embedContent", params={"model": MODEL})
VERTEX = Place(
    path=f"/v1/projects/p/locations/eu/publishers/google/models/{MODEL}:predict",
    params={"project": "p", "location": "eu", "publisher": "google", "model": MODEL},
)
TEXT = {"parts": [{"text": "a line of the day book"}]}
IMAGE = {"parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]}


def ask(operation: Operation, place: Place = PLACE, **members: Any) -> CallRequest:
    return operation.read(json.dumps(members).encode(), place)


def read(operation: Operation, reply: Any, place: Place = PLACE) -> Reading:
    request = CallRequest(operation="embeddings", model=MODEL, stream=False, body=b"{}", place=place, geo="eu")
    return operation.whole(request, json.dumps(reply).encode())


def only(reading: Reading) -> Usage:
    (work,) = reading.work
    return work.usage


def test_requests() -> None:
    asked = ask(ONE, content=TEXT, metadata={"tags": ["a:b"]})
    assert (asked.operation, asked.model, asked.max_output_tokens, asked.open_ended) == ("embeddings", MODEL, 0, False)
    assert asked.tags == ("a:b",)
    assert json.loads(ONE.outgoing(asked, MODEL).body) == {"content": TEXT}
    asked = ask(BATCH, requests=[{"model": f"models/{MODEL}", "content": TEXT}] * 2)
    assert not asked.open_ended
    assert BATCH.outgoing(asked, MODEL).body is asked.body
    asked = ask(PREDICT, VERTEX, instances=[{"content": "a"}, {"content": "b", "task_type": "RETRIEVAL_QUERY"}])
    assert (asked.geo, asked.open_ended) == ("eu", False)
    assert PREDICT.outgoing(asked, MODEL, {"team": "x"}).path == VERTEX.path


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        (ONE, {"content": IMAGE}),
        (BATCH, {"requests": [{"content": TEXT}, {"content": IMAGE}]}),
        (ONE, {"content": 7}),
        (BATCH, {"requests": 7}),
    ],
)
def test_media_is_not_bounded_by_its_bytes(operation: Operation, members: dict[str, Any]) -> None:
    assert ask(operation, **members).open_ended


def test_a_renamed_model_is_renamed_in_every_request_of_a_batch() -> None:
    asked = ask(BATCH, requests=[{"model": f"models/{MODEL}", "content": TEXT}, {"content": TEXT}])
    sent = BATCH.outgoing(asked, "gemini-embedding-001")
    assert sent.path == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert [each.get("model") for each in json.loads(sent.body)["requests"]] == ["models/gemini-embedding-001", None]


@pytest.mark.parametrize("instances", [None, [], [{"prompt": "a picture"}], [{"content": "a"}, {"image": {}}], [7], 7])
def test_predict_makes_pictures_too_and_these_are_not_metered(instances: Any) -> None:
    with pytest.raises(errors.EndpointNotMetered, match="texts"):
        ask(PREDICT, VERTEX, instances=instances)


def test_what_an_embedding_used() -> None:
    usage = {"promptTokenCount": 300, "promptTokenDetails": [{"modality": "IMAGE", "tokenCount": 258}]}
    reading = read(ONE, {"embedding": {"values": [0.1]}, "usageMetadata": usage})
    assert reading.complete
    assert only(reading) == Usage(input_tokens=300, image_input_tokens=258)
    assert (reading.work[0].model, reading.geo) == (MODEL, "eu")


def statistics(count: Any) -> dict[str, Any]:
    return {"embeddings": {"values": [0.5], "statistics": {"truncated": False, "token_count": count}}}


def test_predict_counts_each_text() -> None:
    reading = read(PREDICT, {"predictions": [statistics(6), statistics(5.0)]}, VERTEX)
    assert reading.complete
    assert only(reading) == Usage(input_tokens=11, output_tokens=0)
    assert reading.work[0].largest_input_tokens == 6
    reading = read(PREDICT, {"predictions": [{}], "metadata": {"billableCharacterCount": 40}}, VERTEX)
    assert reading.complete
    assert only(reading) == Usage(input_characters=40)


@pytest.mark.parametrize(
    ("operation", "reply", "note"),
    [
        (ONE, {"embedding": {"values": []}}, "usage_absent"),
        (BATCH, {"embeddings": [], "usageMetadata": {}}, "usage_absent"),
        (ONE, {"usageMetadata": 5}, "usage_malformed"),
        (PREDICT, {"predictions": []}, "usage_absent"),
        (PREDICT, {"predictions": [statistics(6), statistics("x")]}, "usage_partial"),
        (PREDICT, {"predictions": [statistics(1.5)]}, "usage_absent"),
        (PREDICT, {"predictions": [statistics(-1)]}, "usage_absent"),
        (PREDICT, {"predictions": [7], "metadata": 7}, "usage_absent"),
    ],
)
def test_what_is_not_stated_is_left_to_an_estimate(operation: Operation, reply: Any, note: str) -> None:
    reading = read(operation, reply)
    assert not reading.complete
    assert note in reading.notes
    assert only(reading).output_tokens == 0


def test_an_error_is_named() -> None:
    reading = read(ONE, {"error": {"code": 400, "status": "INVALID_ARGUMENT"}})
    assert (reading.error_code, reading.complete, reading.work) == ("INVALID_ARGUMENT", False, ())


@given(st.binary(max_size=100))
def test_no_bytes_raise(noise: bytes) -> None:
    request = CallRequest(operation="embeddings", model=MODEL, stream=False, body=b"{}")
    for operation in (ONE, PREDICT):
        assert not operation.whole(request, noise).complete
