"""What operations have in common that are never streamed, and those about stored objects, which cost nothing.

A stored object (a file, a batch) is named by its id and by no model: such a request goes to the first provider of the
caller's dialect, or to the one the caller names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from costbearer.dialects import form, reply
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Plain, Reading, ReplyReader

_PARAMETER = re.compile(r"\{(\w+)\}")


class Passing:
    """Relays a reply of which nothing is read on the way, because it states nothing (sound, the content of a file)."""

    def __init__(self, reading: Reading) -> None:
        self.ended = False
        self._reading = reading

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def rest(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        return self._reading


class Unstreamed(Plain):
    """An operation whose replies come whole."""

    streams: Mapping[str, str] = MappingProxyType({})

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        """For form's sake: no reply of this operation is a stream."""
        return Passing(Reading(notes=("usage_absent",)))


class _Refused(msgspec.Struct, gc=False):
    error: Any = None
    type: Any = None


_refused = reply.decoder(_Refused)


class StoredObject(Unstreamed):
    """A free request about a stored object, below a path such as `/files/{id}`.

    `takes_body` says that it has a body to send on: JSON or a form.
    """

    def __init__(self, operation: str, template: str, *, takes_body: bool = False) -> None:
        self._operation = operation
        self._template = template
        self._takes_body = takes_body

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        tags = form.fields(body, place).tags() if self._takes_body and body else None
        return CallRequest(
            operation=self._operation,
            model="",
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            free=True,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The same request at the provider, tags off."""
        return outgoing(request, self._template)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read the answer: nothing was used. Never raises."""
        return nothing_used(body)


def outgoing(request: CallRequest, template: str) -> Outgoing:
    """The caller's request below a path with its parameters filled in, and with its query; without tags."""
    place = request.place
    path = path_of(template, place)
    if not request.body:
        return Outgoing(path, b"", place.method, content_type=None)
    return form.outgoing(request, path, request.model)._replace(method=place.method)


def path_of(template: str, place: Place) -> str:
    """The path with its parameters filled in, escaped, and the caller's query."""
    path = _PARAMETER.sub(lambda found: quote(place.params.get(found[1], ""), safe=""), template)
    return f"{path}?{place.query}" if place.query else path


def nothing_used(body: bytes) -> Reading:
    """A reply that says nothing of usage because there is none."""
    try:
        found = _refused(body)
    except reply.UNREADABLE:
        return Reading(complete=True)
    return Reading(complete=not found.error, error_code=error_code(found.error))


def error_code(error: object) -> str | None:
    """The machine code of an error object; None where there is no error."""
    if type(error) is dict:
        return reply.code(error.get("code"), error.get("type"))
    return reply.ERROR_CODE_UNKNOWN if error else None
