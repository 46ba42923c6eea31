"""Reading what an administrator's request carries: its JSON object and who sent it."""

from __future__ import annotations

import msgspec
from fastapi import Request

from costbearer.errors import BodyInvalid
from costbearer.stores.control import Actor

ADMINISTRATOR = "administrator"


async def json_object(request: Request) -> dict[str, object]:
    """The body as a JSON object; no body is an empty one.

    Raises:
        BodyInvalid: it is not declared as JSON (a form of another site can send anything else), or is not an object.
    """
    body = await request.body()
    if not body:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BodyInvalid("the body must be sent as Content-Type: application/json")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyInvalid(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BodyInvalid("the body must be a JSON object")
    return value


def actor(request: Request) -> Actor:
    """Who is recorded in the audit log for this request."""
    source = request.client.host if request.client else "unknown"
    return Actor(ADMINISTRATOR, source, request.scope["state"]["request_id"])
