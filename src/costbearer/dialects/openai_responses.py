"""OpenAI's Responses API, and every provider that speaks it: responses, stored responses, counts and compactions.

Shapes: https://platform.openai.com/docs/api-reference/responses. Retrieving, deleting and cancelling a stored response,
listing its input and counting tokens are free. A response that ran in the background is paid for where it was asked
for; who retrieves or cancels it only learns what it used, which the reading gives as the result of that `Job`. What a
reply says is read in `openai_responses_reply`, what it costs in `openai_responses_usage`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, jsonedit, reply
from costbearer.dialects import openai_responses_reply as replies
from costbearer.dialects.base import (
    JSON,
    NOTHING,
    NOWHERE,
    CallRequest,
    Operation,
    Outgoing,
    Place,
    Plain,
    Reading,
    ReplyReader,
)
from costbearer.dialects.reply import Notes
from costbearer.errors import BodyInvalid

RESPONSES = "responses"
RETRIEVE = "responses.retrieve"
DELETE = "responses.delete"
CANCEL = "responses.cancel"
INPUT_ITEMS = "responses.input_items"
INPUT_TOKENS = "responses.input_tokens"
COMPACT = "responses.compact"

_OPEN_MEMBERS = frozenset(
    {
        "previous_response_id",
        "conversation",
        "prompt",
        "context_management",
        "plugins",
        "models",
        "search_parameters",
        "data_sources",
        "web_search_options",
    }
)
"""Members by which the provider adds input of its own: stored conversations and prompts, compaction on the way,
searches (OpenRouter, xAI, Azure), and other models that may serve the call instead (OpenRouter)."""

_CALLER_TOOLS = frozenset({None, "function", "custom", "namespace"})
"""Tools that the caller runs and that are all in the body. Any other is the provider's, or brings input of its own."""

_CONTAINED_ITEMS = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "compaction",
    }
)
"""Input items whose tokens their bytes bound. What is encrypted in them is longer than what it says."""

_CONTAINED_PARTS = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_QUERY = re.compile(r"[!-~]*")
_ARRAY = ord("[")
_TEXT = ord('"')
_NOT_JSON = Reading(notes=("body_not_json",))
_UNEXPECTED = Reading(notes=("body_unexpected", "usage_absent"))


class _Part(msgspec.Struct, gc=False):
    type: Any = None


class _Item(msgspec.Struct, gc=False):
    type: Any = "message"
    content: msgspec.Raw = msgspec.Raw(b'""')
    output: msgspec.Raw = msgspec.Raw(b'""')


class _Free(msgspec.Struct, gc=False):
    error: Any = None


_items = bounds.bounded(msgspec.json.Decoder(list[_Item]).decode)
_parts = bounds.bounded(msgspec.json.Decoder(list[_Part]).decode)
_free = reply.decoder(_Free)


def operations(path: str = "/responses") -> dict[str, Operation]:
    """The operations by name. `path` is where responses are, below the provider's base URL."""
    return {
        RESPONSES: OpenAIResponses(RESPONSES, path),
        COMPACT: OpenAIResponses(COMPACT, f"{path}/compact"),
        INPUT_TOKENS: InputTokens(path),
        RETRIEVE: StoredResponse(RETRIEVE, path),
        CANCEL: StoredResponse(CANCEL, path, "/cancel"),
        DELETE: StoredResponse(DELETE, path),
        INPUT_ITEMS: StoredResponse(INPUT_ITEMS, path, "/input_items"),
    }


class OpenAIResponses(Plain):
    """The operations `responses` and `responses.compact`, which ask for work."""

    def __init__(self, operation: str = RESPONSES, path: str = "/responses") -> None:
        self._operation = operation
        self._path = path
        self._asked: replies.Asked = "compaction" if operation == COMPACT else "response"

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        tags = fields.tags()
        return CallRequest(
            operation=self._operation,
            model=fields.model(),
            stream=fields.flag("stream") or False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            has_stream_options=fields.states("stream_options"),
            max_output_tokens=fields.whole("max_output_tokens"),
            open_ended=_open_ended(fields),
            tier=_tier(fields),
            background=fields.flag("background") or False,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, model renamed; else the caller's bytes.

        Where nothing must change the very same object is given back.
        """
        return Outgoing(self._path, _body_for(request, model))

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return replies.StreamReader(replies.Told(request, self._asked))

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a response that came whole, or an error body. Never raises."""
        return _whole(request, body, self._asked)


class InputTokens(Plain):
    """The operation `responses.input_tokens`: how many tokens a request would have. Free."""

    def __init__(self, path: str = "/responses") -> None:
        self._path = f"{path}/input_tokens"

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request; it need not name a model. Raises `BodyInvalid`."""
        fields = bodies.Fields(body)
        tags = fields.tags()
        return CallRequest(
            operation=INPUT_TOKENS,
            model="" if fields.raw("model") is None else fields.model(),
            stream=False,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            free=True,
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """As `OpenAIResponses.outgoing`."""
        return Outgoing(self._path, _body_for(request, model))

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return replies.StreamReader(replies.Told(request, "stored"))

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """A complete reading without work, or an error body. Never raises."""
        return _unpaid(body)


class StoredResponse(Plain):
    """What can be asked about one stored response: free, without a model and, but for its address, without a body.

    A retrieval may be a stream (`?stream=true`), and like a cancellation it gives the response as a `Job` with what it
    used. The reading is incomplete while the response runs, and where it ended without saying what it used (OpenAI
    states no usage of a cancelled one).
    """

    def __init__(self, operation: str, path: str = "/responses", below: str = "") -> None:
        self._operation = operation
        self._path = path
        self._below = below

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`: no response is named, or the query cannot be sent on."""
        if not place.params.get("id"):
            raise BodyInvalid("the path names no response; it ends in a response's id")
        if _QUERY.fullmatch(place.query) is None:
            raise BodyInvalid("the query has characters that must be escaped; send them as %XX")
        stream = self._operation == RETRIEVE and parse_qs(place.query).get("stream", [""])[-1].lower() in {"true", "1"}
        return CallRequest(operation=self._operation, model="", stream=stream, body=b"", place=place, free=True)

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The same method, id and query."""
        place = request.place
        path = f"{self._path}/{quote(place.params['id'], safe='')}{self._below}"
        method = place.method
        return Outgoing(
            f"{path}?{place.query}" if place.query else path,
            b"",
            method=method,
            content_type=JSON if method == "POST" else None,
        )

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return replies.StreamReader(replies.Told(request, "stored"))

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a stored response, or what else was answered. Never raises."""
        if self._operation in {RETRIEVE, CANCEL}:
            return _whole(request, body, "stored")
        return _unpaid(body)


def _body_for(request: CallRequest, model: str) -> bytes:
    renamed = model if model != request.model else None
    if not request.has_tags and renamed is None:
        return request.body
    edited = bodies.outgoing(request.body, request.has_tags, renamed)
    if edited is not None:
        return edited
    revision = jsonedit.Revision(request.body)
    if request.has_tags:
        bodies.drop_tags(revision)
    if renamed is not None:
        revision.replace("model", msgspec.json.encode(model))
    return revision.text()


def _whole(request: CallRequest, body: bytes, asked: replies.Asked) -> Reading:
    try:
        found = replies.decode(body)
    except msgspec.ValidationError:
        return _UNEXPECTED
    except reply.UNREADABLE:
        return _NOT_JSON
    told = replies.Told(request, asked)
    told.whole(found)
    return told.reading(Notes(), ended=True)


def _unpaid(body: bytes) -> Reading:
    """A reply for which nothing is billed; one without a body is as good."""
    if not body.strip():
        return Reading(complete=True)
    try:
        error = _free(body).error
    except msgspec.ValidationError:
        return Reading(notes=("body_unexpected",))
    except reply.UNREADABLE:
        return _NOT_JSON
    if not error:
        return Reading(complete=True)
    code = reply.code(error.get("code"), error.get("type")) if type(error) is dict else reply.ERROR_CODE_UNKNOWN
    return Reading(error_code=code)


def _tier(fields: bodies.Fields) -> str | None:
    """The tier that was asked for. A discounted window for work in the background is one, with prices of its own."""
    options = fields.object("background_options")
    window = options.word("completion_window") if options is not None else None
    tier = f"background_{window}"
    return tier if tier in replies.DISCOUNTED_WINDOWS else fields.word("service_tier")


def _open_ended(fields: bodies.Fields) -> bool:
    """May the input be larger than the body's bytes say? What cannot be read is such; the provider refuses it."""
    if fields.states_any(_OPEN_MEMBERS):
        return True
    try:
        tools = fields.raw("tools")
        if tools is not None and any(tool.type not in _CALLER_TOOLS for tool in _parts(tools)):
            return True
        for name in ("input", "instructions"):
            value = fields.raw(name)
            if value is not None and memoryview(value)[0] != _TEXT and any(map(_is_elsewhere, _items(value))):
                return True
    except (*reply.UNREADABLE, TypeError):
        return True
    return False


def _is_elsewhere(item: _Item) -> bool:
    """An input item whose tokens its bytes do not bound: a reference, an image, a file, what a tool brought."""
    if item.type not in _CONTAINED_ITEMS:
        return True
    for value in (item.content, item.output):
        first = memoryview(value)[0]
        if first == _ARRAY:
            if any(part.type not in _CONTAINED_PARTS for part in _parts(value)):
                return True
        elif first not in b'"n':
            return True
    return False
