"""The paths that are metered. A path that is not in this table is refused, never passed through unseen."""

from __future__ import annotations

from typing import NamedTuple


class Endpoint(NamedTuple):
    """`operation` is None for what the gateway answers itself."""

    dialect: str
    operation: str | None


ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/chat/completions"): Endpoint("openai", "chat"),
    ("POST", "/v1/messages"): Endpoint("anthropic", "chat"),
    ("POST", "/v1/messages/count_tokens"): Endpoint("anthropic", "count_tokens"),
    ("GET", "/v1/models"): Endpoint("openai", None),
}

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})


def metered_paths() -> str:
    """For error messages: every method and path of the table."""
    return ", ".join(f"{method} {path}" for method, path in ENDPOINTS)
