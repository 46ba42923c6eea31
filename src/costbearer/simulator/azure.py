"""The simulated Azure OpenAI: OpenAI's API at deployments, with the marks that Azure leaves on its replies.

Shapes follow https://learn.microsoft.com/en-us/azure/ai-foundry/openai/reference. A deployment's name says nothing of
its model, a reply's body does. Streams open with a chunk that has no choices, only what the filter says of the prompt;
API versions before 2024-09-01 do not know `stream_options`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from msgspec import json
from msgspec.structs import replace

from costbearer.simulator import openai
from costbearer.simulator.prices import PriceList
from costbearer.simulator.reply import Ask, Piece, Plan, Refusal, encode

NAME = "azure"
DEPLOYMENTS = {"support-chat": "gpt-4o-mini", "deep-thought": "gpt-5", "reserved-chat": "gpt-4o-mini"}
SPILLING = {"reserved-chat": "support-chat"}
"""Deployments of bought capacity, which is always full, and the ones that then serve their calls by the token."""

_V1 = "/openai/v1/chat/completions"
_PATH = re.compile(r"/openai/deployments/([^/]+)/chat/completions")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(?:-preview)?")
_STREAM_OPTIONS_SINCE = "2024-09-01"
_SAFE = {"hate": {"filtered": False, "severity": "safe"}, "violence": {"filtered": False, "severity": "safe"}}
_FILTER = [{"prompt_index": 0, "content_filter_results": _SAFE}]
_UNKNOWN = Refusal(404, "", "The API deployment for this resource does not exist.", "DeploymentNotFound")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment as it is asked; `name` is None where the body names it. It is what the API calls a provider."""

    name: str | None
    version: str | None

    NAME = NAME
    operation = "chat.completions"

    def headers(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """The headers of every reply."""
        return (("apim-request-id", request_id), ("x-request-id", request_id[::-1]), ("x-ms-region", "East US 2"))

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:
        """As OpenAI's."""
        return openai.error_body(refusal, request_id)

    def unauthorized(self) -> Refusal:
        """The credential is missing or wrong."""
        return Refusal(401, "", "Access denied due to invalid subscription key or wrong API endpoint.", "401")

    def ordered(self, status: int) -> Refusal:
        """The error that Azure gives with a status; with 400 its content filter's."""
        if status == 400:
            return Refusal(400, "", "The response was filtered due to the prompt.", "content_filter", "prompt")
        return openai.ordered(status)

    def invalid(self, message: str) -> Refusal:
        """A request that cannot be understood."""
        return openai.invalid(message)

    def models(self, prices: PriceList) -> bytes:
        """No request comes here for them."""
        return openai.models(prices)

    def understood(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as the simulated OpenAI takes it: the deployment's model, and `deployment` beside it."""
        name = self.name or str(body.get("model"))
        return body | {"model": DEPLOYMENTS.get(name, ""), "deployment": name}

    def check(self, body: dict[str, Any], prices: PriceList) -> Refusal | None:
        """What this API refuses."""
        if self.name is not None and (self.version is None or not _VERSION.fullmatch(self.version)):
            return Refusal(404, "", "Resource not found", "404")
        if body["deployment"] not in DEPLOYMENTS:
            return _UNKNOWN
        if self.version is not None and self.version < _STREAM_OPTIONS_SINCE and body.get("stream_options"):
            return openai.invalid("Unrecognized request argument supplied: stream_options", "stream_options")
        asked = {name: value for name, value in body.items() if name != "deployment"}
        return openai.check(asked, prices)

    def plan(self, ask: Ask) -> Plan | Refusal:
        """The reply to a request that has passed `check`."""
        made = openai.plan(ask)
        if isinstance(made, Refusal):
            return made
        name = ask.body["deployment"]
        served = SPILLING.get(name, name)
        headers = [("x-ms-deployment-name", served), ("x-ms-rai-invoked", "true")]
        if served != name:
            headers += [("x-ms-is-spilled-over", "true"), ("x-ms-spillover-from-deployment", name)]
        return replace(made, pieces=_filtered(made), headers=tuple(headers), repeatable=False)


def find(path: str, query: str) -> Deployment | None:
    """The deployment that is asked at this path; None where it is none of this API's."""
    if path == _V1:
        return Deployment(None, None)
    match = _PATH.fullmatch(path)
    version = parse_qs(query).get("api-version", [None])[-1]
    return None if match is None else Deployment(unquote(match[1]), version)


def _filtered(made: Plan) -> tuple[Piece, ...]:
    """The pieces with what the content filter says."""
    if made.stream:
        opening = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": _FILTER}
        return (Piece(b"data: " + encode(opening) + b"\n\n", 0), *made.pieces)
    (piece,) = made.pieces
    said = encode({"prompt_filter_results": _FILTER})
    assert json.decode(piece.data), "an answer has members"
    return (Piece(said[:-1] + b"," + piece.data[1:], piece.tokens),)
