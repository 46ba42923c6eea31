"""The Anthropic family: what is the same for all its operations.

Base URLs of its providers end before `/v1/messages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from costbearer.dialects import anthropic_batches, reply
from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.base import Family, Operation, Signing
from costbearer.errors import CallRefused


class Anthropic(Family):
    """The dialect `anthropic`."""

    def __init__(self) -> None:
        self.name = "anthropic"
        self.operations: Mapping[str, Operation] = {
            "chat": AnthropicMessages(),
            "count_tokens": AnthropicMessages("count_tokens", "/v1/messages/count_tokens"),
            **anthropic_batches.operations(),
        }
        self.forwarded_headers = FORWARDED_HEADERS
        self.relayed_headers = RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        return (("x-api-key", credential),)

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        return reply.name(headers.get("request-id"))

    def error_body(self, refused: CallRefused, request_id: str) -> bytes:
        """The shape of https://docs.anthropic.com/en/api/errors; `code`, and the SDK's `error_code`, are ours."""
        return msgspec.json.encode(
            {
                "type": "error",
                "error": {
                    "type": _error_type(refused.http_status),
                    "message": refused.message,
                    "code": refused.code,
                    "details": {"error_code": refused.code},
                },
                "request_id": request_id,
            }
        )

    def error_event(self, refused: CallRefused, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(refused, request_id) + b"\n\n"


def _error_type(status: int) -> str:
    """Anthropic's names for classes of errors (https://docs.anthropic.com/en/api/errors)."""
    named = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    return named.get(status, "invalid_request_error" if status < 500 else "api_error")


def _rate_limit_headers() -> Iterator[str]:
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        for state in ("limit", "remaining", "reset"):
            yield f"anthropic-ratelimit-{what}-{state}"


FORWARDED_HEADERS = frozenset(
    {"accept", "anthropic-beta", "anthropic-version", "idempotency-key", "traceparent", "user-agent"}
)

RELAYED_HEADERS = frozenset(
    {"content-type", "request-id", "retry-after", "retry-after-ms", "x-should-retry", *_rate_limit_headers()}
)
"""Not among them: the provider's organisation and workspace, its cookies, and what its own proxies add."""
