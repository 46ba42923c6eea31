"""The Gemini family: what is the same for all its operations, on the Gemini API and on Vertex AI.

Base URLs of its providers are the host, without a version or a path. The credential of the Gemini API, and of Vertex AI
in express mode, is an API key; the one of Vertex AI with projects is an OAuth access token, which its operator renews.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from costbearer.dialects import gemini_content
from costbearer.dialects.base import Family, Operation, Signing
from costbearer.dialects.gemini_content import GeminiContent
from costbearer.dialects.gemini_embeddings import GeminiEmbeddings, VertexEmbeddings
from costbearer.dialects.gemini_interactions import GeminiInteraction, StoredInteraction
from costbearer.dialects.gemini_usage import TIER_HEADER
from costbearer.errors import CallRefused

ERROR_DOMAIN = "costbearer"

_BEARER_TOKENS = ("ya29.", "eyJ")
"""How Google's access tokens and signed JSON web tokens begin; its API keys begin otherwise (`AIza`, `AQ.`)."""


class Gemini(Family):
    """The dialect `gemini`."""

    def __init__(self) -> None:
        self.name = "gemini"
        self.operations: Mapping[str, Operation] = {
            "chat": GeminiContent(),
            "chat.stream": GeminiContent(gemini_content.STREAM),
            "count_tokens": GeminiContent(gemini_content.COUNT),
            "embeddings": GeminiEmbeddings("embedContent"),
            "embeddings.batch": GeminiEmbeddings("batchEmbedContents"),
            "embeddings.predict": VertexEmbeddings(),
            "interactions": GeminiInteraction(),
            "interactions.retrieve": StoredInteraction("retrieve"),
            "interactions.delete": StoredInteraction("delete"),
            "interactions.cancel": StoredInteraction("cancel"),
        }
        self.forwarded_headers = FORWARDED_HEADERS
        self.relayed_headers = RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        """An API key has a header of its own; an access token is a bearer token."""
        if credential.startswith(_BEARER_TOKENS):
            return (("authorization", f"Bearer {credential}"),)
        return (("x-goog-api-key", credential),)

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        """Google documents no header for it: the id of the call is the reply's `responseId`."""
        return None

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """The shape of https://cloud.google.com/apis/design/errors#http_mapping. Its `code` is the status as a number,
        which its SDKs compare; our machine code is the `reason`, and `code` beside the error."""
        return msgspec.json.encode(_error(refused, request_id))

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        """One event for both kinds of stream: a chunk with an `error`, and an interaction's event of that type."""
        return b"data: " + msgspec.json.encode(_error(refused, request_id) | {"event_type": "error"}) + b"\n\n"


def _error(refused: CallRefused, request_id: str) -> dict[str, object]:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refused.code,
        "domain": ERROR_DOMAIN,
        "metadata": {},
    }
    request = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id}
    error = {
        "code": refused.http_status,
        "message": refused.message,
        "status": _status(refused.http_status),
        "details": [info, request],
    }
    return {"error": error, "code": refused.code, "request_id": request_id}


def _status(http_status: int) -> str:
    """Google's names for classes of errors (google.rpc.Code)."""
    named = {
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        409: "ABORTED",
        429: "RESOURCE_EXHAUSTED",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
    return named.get(http_status, "INVALID_ARGUMENT" if http_status < 500 else "INTERNAL")


FORWARDED_HEADERS = frozenset(
    {
        "accept",
        "api-revision",
        "traceparent",
        "user-agent",
        "x-goog-api-client",
        "x-server-timeout",
        "x-vertex-ai-llm-request-type",
        "x-vertex-ai-llm-shared-request-type",
    }
)
"""Not among them: `x-goog-user-project`, which belongs to the provider's credential, and `x-goog-fieldmask`, which can
leave the usage out of a reply."""

RELAYED_HEADERS = frozenset({"content-type", "retry-after", TIER_HEADER})
