"""What the gateway itself says to a caller: errors in the caller's dialect, health, the list of models."""

from __future__ import annotations

import msgspec

from costbearer.dialects.base import Dialect
from costbearer.errors import CallRefused
from costbearer.gateway.edge import Wire

REQUEST_ID = "x-costbearer-request-id"
TRACE_ID = "x-costbearer-trace-id"
COST = "x-costbearer-cost-usd"
BASIS = "x-costbearer-cost-basis"

_JSON = ("content-type", "application/json")
_RETRY_SOON = {429, 503}


def refuse(wire: Wire, dialect: Dialect, refused: CallRefused, request_id: str) -> None:
    """Answer with an error the caller's SDK understands."""
    headers = [_JSON, (REQUEST_ID, request_id)]
    if refused.http_status in _RETRY_SOON:
        headers.append(("retry-after", "1"))
    wire.respond(refused.http_status, headers, dialect.error_body(refused, request_id))


def health(wire: Wire, state: dict[str, bool]) -> None:
    """200 when everything in `state` holds, else 503, with the parts by name."""
    ok = all(state.values())
    wire.respond(200 if ok else 503, [_JSON], msgspec.json.encode({"ok": ok, **state}))


def models(wire: Wire, names: list[tuple[str, str]], *, anthropic: bool, request_id: str) -> None:
    """The models that can be called, as (model, provider), in the shape of OpenAI's or Anthropic's list."""
    headers = [_JSON, (REQUEST_ID, request_id)]
    if anthropic:
        data = [
            {"type": "model", "id": model, "display_name": model, "created_at": "1970-01-01T00:00:00Z"}
            for model, _ in names
        ]
        first, last = (names[0][0], names[-1][0]) if names else (None, None)
        body: dict[str, object] = {"data": data, "has_more": False, "first_id": first, "last_id": last}
    else:
        body = {
            "object": "list",
            "data": [{"id": model, "object": "model", "created": 0, "owned_by": provider} for model, provider in names],
        }
    wire.respond(200, headers, msgspec.json.encode(body))
