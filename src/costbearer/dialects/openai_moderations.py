"""OpenAI's moderations, which are free: https://platform.openai.com/docs/guides/moderation."""

from __future__ import annotations

from collections.abc import Mapping

from costbearer.dialects import body as bodies
from costbearer.dialects import form, stored
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Reading


class OpenAIModerations(stored.Unstreamed):
    """The operation `moderations`. The model may be left to the provider."""

    def __init__(self, path: str = "/moderations") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        tags = fields.tags()
        return CallRequest(
            operation="moderations",
            model="" if fields.raw("model") is None else fields.model(),
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=0,
            free=True,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, self._path, model)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the answer: nothing was used. Never raises."""
        return stored.nothing_used(body)
