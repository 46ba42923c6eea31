"""The family `gemini`: credentials, headers, errors, and the paths by which it is reached."""

from __future__ import annotations

import json

import pytest

from costbearer.dialects.base import Dialect
from costbearer.dialects.gemini import Gemini
from costbearer.errors import (
    BodyInvalid,
    BodyTooLarge,
    CallRefused,
    EndpointNotMetered,
    KeyMissing,
    RateLimited,
    ShuttingDown,
    UpstreamFailed,
    UpstreamTimeout,
)
from costbearer.gateway.endpoints import family, find

FAMILY: Dialect = Gemini()


@pytest.mark.parametrize(
    ("credential", "header"),
    [
        ("AIzaFAKEFAKE", ("x-goog-api-key", "AIzaFAKEFAKE")),
        ("AQ.FAKE", ("x-goog-api-key", "AQ.FAKE")),
        ("ya29.FAKE", ("authorization", "Bearer ya29.FAKE")),
        ("eyJFAKE.FAKE.FAKE", ("authorization", "Bearer eyJFAKE.FAKE.FAKE")),
    ],
)
def test_a_key_and_a_token_have_headers_of_their_own(credential: str, header: tuple[str, str]) -> None:
    assert FAMILY.credential_headers(credential) == (header,)


def test_no_header_of_googles_names_the_call() -> None:
    assert FAMILY.provider_request_id({"x-request-id": "x", "x-goog-anything": "y"}) is None


@pytest.mark.parametrize(
    ("refused", "code", "status"),
    [
        (KeyMissing("m"), 401, "UNAUTHENTICATED"),
        (BodyInvalid("m"), 400, "INVALID_ARGUMENT"),
        (BodyTooLarge("m"), 413, "INVALID_ARGUMENT"),
        (EndpointNotMetered("m"), 404, "NOT_FOUND"),
        (RateLimited("m"), 429, "RESOURCE_EXHAUSTED"),
        (UpstreamFailed("m"), 502, "UNAVAILABLE"),
        (ShuttingDown("m"), 503, "UNAVAILABLE"),
        (UpstreamTimeout("m"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_have_googles_shape_and_our_code(refused: CallRefused, code: int, status: str) -> None:
    body = json.loads(FAMILY.error_body(refused, "req_1"))
    error = body["error"]
    assert (error["code"], error["status"], error["message"]) == (code, status, "m")
    info, request = error["details"]
    assert info["@type"].endswith("google.rpc.ErrorInfo")
    assert (info["reason"], info["domain"]) == (refused.code, "costbearer")
    assert request["requestId"] == body["request_id"] == "req_1"
    assert body["code"] == refused.code
    event = FAMILY.error_event(refused, "req_1")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:]) == body | {"event_type": "error"}


def test_headers_that_could_hide_the_usage_or_name_a_payer_are_not_sent_on() -> None:
    assert not FAMILY.forwarded_headers & {"x-goog-fieldmask", "x-goog-user-project", "x-goog-api-key", "authorization"}
    assert "x-gemini-service-tier" in FAMILY.relayed_headers


IN_PROJECT = "projects/p-1/locations/us-central1/publishers/google/models/gemini-3.8-flash"


@pytest.mark.parametrize(
    ("path", "operation", "params"),
    [
        ("/v1beta/models/gemini-3.8-flash:generateContent", "chat", {"model": "gemini-3.8-flash"}),
        ("/v1/models/gemini-3.8-flash:streamGenerateContent", "chat.stream", {"model": "gemini-3.8-flash"}),
        ("/v1beta/models/m:countTokens", "count_tokens", {"model": "m"}),
        ("/v1beta/models/m:embedContent", "embeddings", {"model": "m"}),
        ("/v1beta/models/m:batchEmbedContents", "embeddings.batch", {"model": "m"}),
        (
            f"/v1/{IN_PROJECT}:generateContent",
            "chat",
            {"project": "p-1", "location": "us-central1", "publisher": "google", "model": "gemini-3.8-flash"},
        ),
        (
            f"/v1beta1/{IN_PROJECT}:predict",
            "embeddings.predict",
            {"project": "p-1", "location": "us-central1", "publisher": "google", "model": "gemini-3.8-flash"},
        ),
        (
            "/v1beta1/publishers/google/models/m@001:countTokens",
            "count_tokens",
            {"publisher": "google", "model": "m@001"},
        ),
        ("/v1beta/interactions/v1_Ch-d_x/cancel", "interactions.cancel", {"id": "v1_Ch-d_x"}),
    ],
)
def test_paths_that_are_metered(path: str, operation: str, params: dict[str, str]) -> None:
    found = find("POST", path)
    assert found is not None
    assert (found[0].dialect, found[0].operation, dict(found[1])) == ("gemini", operation, params)


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/cachedContents",
        "/v1beta/cachedContents/x",
        "/v1/cachedContents",
        "/v1beta/models/m:batchGenerateContent",
        "/v1beta/models/m:predict",
        "/v1beta/models/m:predictLongRunning",
        "/v1beta/models/m/x:generateContent",
        "/v1beta/models/:generateContent",
        "/v1beta/models/..:generateContent",
        "/v1beta/tunedModels/m:generateContent",
        "/v1/projects/p/locations/l/endpoints/1:generateContent",
        "/v1/models/m:generateAnswer",
        "/upload/v1beta/files",
    ],
)
def test_anything_else_is_refused_in_this_dialect(path: str) -> None:
    assert find("POST", path) is None
    assert family(path) == ("openai" if path.startswith("/upload") else "gemini")


def test_a_fine_tuned_model_of_openai_is_none_of_this_family() -> None:
    assert family("/v1/models/ft:gpt-4o-mini-2024-07-18:acme::abc123") == "openai"
