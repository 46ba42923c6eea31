"""The OpenAI family: what is the same for all its operations, and at every provider that is compatible with it.

Base URLs of its providers end where `/chat/completions` begins (`.../v1`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from costbearer.dialects import openai_audio, openai_batches, openai_files, openai_images, openai_responses, reply
from costbearer.dialects.base import Family, Operation, Signing
from costbearer.dialects.openai_audio import OpenAISpeech, OpenAITranscriptions
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_completions import OpenAICompletions
from costbearer.dialects.openai_embeddings import OpenAIEmbeddings
from costbearer.dialects.openai_images import OpenAIImages
from costbearer.dialects.openai_moderations import OpenAIModerations
from costbearer.errors import CallRefused


class OpenAI(Family):
    """The dialect `openai`."""

    def __init__(self) -> None:
        self.name = "openai"
        self.operations: Mapping[str, Operation] = {
            "chat": OpenAIChat(),
            "completions": OpenAICompletions(),
            "embeddings": OpenAIEmbeddings(),
            "moderations": OpenAIModerations(),
            **{name: OpenAIImages(name) for name in openai_images.PATHS},
            **{name: OpenAITranscriptions(name) for name in openai_audio.PATHS},
            "audio.speech": OpenAISpeech(),
            **openai_responses.operations(),
            **openai_files.operations(),
            **openai_batches.operations(),
        }
        self.forwarded_headers = FORWARDED_HEADERS
        self.relayed_headers = RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        """A bearer token; nothing for a server of one's own that needs none."""
        return (("authorization", f"Bearer {credential}"),) if credential else ()

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        """`x-request-id`; Azure's gateway calls it `apim-request-id`."""
        return reply.name(headers.get("x-request-id") or headers.get("apim-request-id"))

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """`error` in the shape of https://platform.openai.com/docs/guides/error-codes; `code` is ours."""
        error = {
            "message": refused.message,
            "type": _error_type(refused.http_status),
            "param": None,
            "code": refused.code,
        }
        return msgspec.json.encode({"error": error, "request_id": request_id})

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        return b"data: " + self.error_body(refused, request_id) + b"\n\n"


def _error_type(status: int) -> str:
    """OpenAI's names for classes of errors."""
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")


FORWARDED_HEADERS = frozenset(
    {"accept", "idempotency-key", "openai-beta", "traceparent", "user-agent", "x-client-request-id"}
)
"""Not among them: organisation and project, which belong to the provider's credential, and what names the caller."""

RELAYED_HEADERS = frozenset(
    {
        "content-type",
        "openai-processing-ms",
        "openai-version",
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-request-id",
        "x-should-retry",
    }
)
"""Not among them: the provider's organisation, its cookies, and what its own proxies add."""
