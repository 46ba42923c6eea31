"""OpenAI's embeddings, and every provider that speaks them.

Shape: https://platform.openai.com/docs/api-reference/embeddings. All of the usage is input: `usage.prompt_tokens`, or
`total_tokens` alone (Voyage). Some state their cost beside it, as for a completion (OpenRouter).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, form, reply, stored
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Reading
from costbearer.dialects.openai_usage import read_cost
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import Usage, Work

_BRACE = b"{"


class _Embedded(msgspec.Struct, gc=False):
    """Of a reply, what is read; the vectors are passed over."""

    id: Any = None
    model: Any = None
    usage: Any = None
    error: Any = None


_embedded = reply.decoder(_Embedded)
_list = bounds.bounded(msgspec.json.Decoder(list[msgspec.Raw]).decode)


class OpenAIEmbeddings(stored.Unstreamed):
    """The operation `embeddings`."""

    def __init__(self, path: str = "/embeddings") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        tags = fields.tags()
        return CallRequest(
            operation="embeddings",
            model=fields.model(),
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            max_output_tokens=0,
            open_ended=_open_ended(fields),
            tier=fields.word("service_tier"),
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes."""
        return form.outgoing(request, self._path, model)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the vectors' reply, or an error body. Never raises."""
        try:
            found = _embedded(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        notes = Notes()
        usage = found.usage if type(found.usage) is dict else {}
        counts = Counts(usage)
        given = counts.take("prompt_tokens")
        if given is None:
            given = counts.take("total_tokens")
        model = reply.name(found.model)
        sound = given is not None and not counts.faults
        if not usage:
            notes.add("usage_absent" if found.usage is None or found.usage == {} else "usage_malformed")
        elif not sound:
            notes.add("usage_malformed" if counts.faults else "usage_partial")
        work = () if given is None else (Work(model=model or request.model, usage=Usage(input_tokens=given)),)
        return Reading(
            work=work,
            complete=sound,
            response_model=model,
            response_id=reply.name(found.id),
            provider_cost_usd=read_cost(usage, notes),
            error_code=stored.error_code(found.error),
            notes=notes.codes(),
        )


def _open_ended(fields: bodies.Fields) -> bool:
    """Does the input hold anything but texts and tokens (Voyage and Cohere embed images)?"""
    stated = fields.raw("input")
    if stated is None:
        return True
    text = bytes(stated)
    if not text.startswith(b"["):
        return text.startswith(_BRACE)
    if _BRACE not in text:
        # Tokens and nearly all texts, of which there may be more than are worth looking at.
        return False
    try:
        return any(bytes(item).lstrip().startswith(_BRACE) for item in _list(text))
    except reply.UNREADABLE:
        return True
