"""The Azure OpenAI family: OpenAI's operations at deployments with names of their own.

Base URLs of its providers end before `/openai` (`https://NAME.openai.azure.com`). A deployment is named in the path
(`/openai/deployments/{name}/chat/completions?api-version=...`) or, below `/openai/v1`, by the body's `model`
(https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference and .../api-version-lifecycle). The reply's own
`model` says what was served, sometimes as a family only, and is what a call is priced as unless the configuration names
the deployment's model. Callers of the OpenAI dialect reach it below `/openai/v1`, which needs no API version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec

from costbearer.dialects import jsonedit, openai, openai_responses, reply
from costbearer.dialects.base import (
    NOTHING,
    NOWHERE,
    CallRequest,
    Operation,
    Outgoing,
    Place,
    Reading,
    ReplyReader,
    Signing,
)
from costbearer.dialects.deployments import SPILLED_OVER
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_embeddings import OpenAIEmbeddings
from costbearer.dialects.reply import Notes
from costbearer.errors import BodyInvalid

STREAM_USAGE_SINCE = "2024-09-01"
"""The first API version that takes `stream_options`; an older one refuses a request that asks for usage
(https://learn.microsoft.com/en-us/azure/ai-foundry/openai/api-version-lifecycle)."""

_V1 = "/openai/v1"
_OWN_PATHS = "/openai/"
_QUERY = re.compile(r"[!-~]*")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")
_NOT_OF_CODES = re.compile(r"[^A-Za-z0-9_.-]")
_CHARGED_REFUSALS = frozenset({"content_filter", "context_length_exceeded"})


class _Refusal(msgspec.Struct, gc=False):
    error: Any = None


_refusal = reply.decoder(_Refusal)


class Azure(openai.OpenAI):
    """The dialect `azure`. Its errors are OpenAI's."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "azure"
        self.operations: Mapping[str, Operation] = {
            "chat": Deployed(OpenAIChat(), "/chat/completions"),
            "embeddings": Deployed(OpenAIEmbeddings(), "/embeddings"),
            **{name: Deployed(operation) for name, operation in openai_responses.operations().items()},
        }
        self.forwarded_headers = openai.FORWARDED_HEADERS | {"x-ms-client-request-id"}
        self.relayed_headers = openai.RELAYED_HEADERS | RELAYED_HEADERS

    def credential_headers(self, credential: str, signing: Signing | None = None) -> tuple[tuple[str, str], ...]:
        return (("api-key", credential),) if credential else ()

    def provider_request_id(self, headers: Mapping[str, str]) -> str | None:
        """`apim-request-id`, which every reply has; `x-request-id` is the model's behind it."""
        return reply.name(headers.get("apim-request-id") or headers.get("x-request-id"))

    def charged_refusal(self, status: int, body: bytes) -> str | None:
        """Why a refusal may be charged all the same: prompts that a filter stopped, that were too long, or timed out.

        Source: https://learn.microsoft.com/en-us/azure/ai-foundry/openai/how-to/manage-costs: where it did work,
        a reply that is no success may be billed; a content filter, an input limit and a time-out are its examples.
        """
        if status == 408:
            return "timeout"
        if status != 400:
            return None
        try:
            error = _refusal(body).error
        except reply.UNREADABLE:
            return None
        code = error.get("code") if type(error) is dict else None
        return code if type(code) is str and code in _CHARGED_REFUSALS else None


class Deployed:
    """An operation of OpenAI's at Azure: another address, more headers, the same bodies."""

    def __init__(self, inner: Operation, below: str = "") -> None:
        """`below` is the path below a deployment; empty where there is none and the body names it."""
        self._inner = inner
        self._below = below
        self.streams = inner.streams

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request; its model is the deployment, which the path or the body names. Raises `BodyInvalid`."""
        if _QUERY.fullmatch(place.query) is None:
            raise BodyInvalid("the query has characters that must be escaped; send them as %XX")
        name = place.params.get("name")
        if name is None:
            return msgspec.structs.replace(self._inner.read(body, place), place=place)
        try:
            understood = self._inner.read(body, place)
        except BodyInvalid:
            # Most likely it names no model, which below a deployment's path it need not.
            understood = self._inner.read(_naming(body, name), place)
        return msgspec.structs.replace(
            understood,
            model=name,
            body=body,
            place=place,
            # Usage that cannot be asked for is not taken off either.
            wants_usage=understood.wants_usage or not _takes_stream_options(place.query),
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The request for the provider, at the address that the caller used, with its query."""
        place = request.place
        if "name" in place.params:
            # The path says which deployment it is; what the body calls it Azure does not read.
            made = self._inner.outgoing(request, request.model, labels)
            path = f"/openai/deployments/{quote(model, safe='')}{self._below}"
        else:
            made = self._inner.outgoing(request, model, labels)
            path = _V1 + made.path
        if place.query and place.path.startswith(_OWN_PATHS) and "?" not in path:
            path = f"{path}?{place.query}"
        return made._replace(path=path)

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return _Reader(self._inner.stream_reader(request, headers), request, headers)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a reply that came whole. Never raises."""
        return served(self._inner.whole(request, body, headers), request, headers)

    def shown(self, request: CallRequest, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> bytes:
        return self._inner.shown(request, status, body, headers)


class _Reader:
    """A reader of OpenAI's with Azure's headers before it."""

    def __init__(self, inner: ReplyReader, request: CallRequest, headers: Mapping[str, str]) -> None:
        self.ended = False
        self._inner = inner
        self._request = request
        self._headers = headers

    def feed(self, chunk: bytes) -> bytes:
        seen = self._inner.feed(chunk)
        self.ended = self._inner.ended
        return seen

    def rest(self) -> bytes:
        return self._inner.rest()

    def reading(self) -> Reading:
        reading = served(self._inner.reading(), self._request, self._headers)
        self.ended = self._inner.ended
        return reading


def served(reading: Reading, request: CallRequest, headers: Mapping[str, str]) -> Reading:
    """The reading with what the headers say of who served the call.

    Notes: `region:eastus2`; `deployment:NAME` where another deployment than the one that was asked answered, and
    `spilled_over` where it did because that one's bought capacity was full, so that the call is billed by the token
    (https://learn.microsoft.com/en-us/azure/ai-foundry/openai/how-to/spillover-traffic-management).
    """
    notes = Notes()
    notes.add(*reading.notes)
    region = headers.get("x-ms-region")
    if region:
        notes.add("region:" + reply.code(region.replace(" ", "").lower(), otherwise="unnamed"))
    deployment = headers.get("x-ms-deployment-name")
    if deployment and request.model and deployment != request.model:
        notes.add("deployment:" + (_NOT_OF_CODES.sub("_", deployment)[:64]))
    if headers.get("x-ms-spillover-from-deployment") or headers.get("x-ms-is-spilled-over", "").lower() == "true":
        notes.add(SPILLED_OVER)
    return msgspec.structs.replace(reading, notes=notes.codes())


def _naming(body: bytes, name: str) -> bytes:
    """The body with this model in it: a deployment's path need not be repeated there."""
    revision = jsonedit.Revision(body)
    if "model" in revision.names():
        revision.replace("model", msgspec.json.encode(name))
    else:
        revision.insert("model", msgspec.json.encode(name))
    return revision.text()


def _takes_stream_options(query: str) -> bool:
    """Names of versions that are no dates (`preview`, `latest`) are newer than all that are."""
    version = parse_qs(query).get("api-version", [""])[-1]
    return _VERSION.match(version) is None or version[:10] >= STREAM_USAGE_SINCE


RELAYED_HEADERS = frozenset(
    {
        "apim-request-id",
        "azureml-model-session",
        "x-ms-client-request-id",
        "x-ms-deployment-name",
        "x-ms-is-spilled-over",
        "x-ms-rai-invoked",
        "x-ms-region",
        "x-ms-spillover-from-deployment",
    }
)
"""Those of Azure's own that its callers' tools read."""
