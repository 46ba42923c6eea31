"""The neutral form to and from Gemini's `generateContent`.

Shapes: https://ai.google.dev/api/generate-content, as the types of the `google-genai` package state them. What is
translated by a rule of its own:

* Effort: models before Gemini 3 take a budget of tokens, later ones a level; both as Google documents it for its own
  OpenAI-compatible API (https://ai.google.dev/gemini-api/docs/openai#thinking). Gemini 3 cannot stop thinking.
* Calls of functions have an id only from Gemini 3 on; where there is none, one is made from the reply's id.
* Gemini 3 refuses a call of its own that comes back without its thought signature. A caller who could not keep it
  (`extra_content` of the tool call) gets the value that Google documents for history it did not write itself
  (https://ai.google.dev/gemini-api/docs/thought-signatures#faqs).
* A tool's result is an object: JSON objects as they are, other text as `output`.
* Tools that are `strict` turn the mode AUTO into VALIDATED, which holds calls to their schema; ANY does so anyway.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from costbearer.dialects import reply, sse
from costbearer.dialects.base import NOTHING, Outgoing
from costbearer.dialects.neutral import (
    LOST,
    SOUND_TYPES,
    Answer,
    Ask,
    Begun,
    CallBegun,
    Document,
    Effort,
    Event,
    Fault,
    Finish,
    Finished,
    Image,
    Part,
    Reasoned,
    Said,
    Sound,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    described,
    finish,
    member,
    objects,
    refuse,
    returned,
    text,
)

NAME = "Gemini"
MAKER = "google-gemini-v1"
"""The `format` of Gemini's reasoning, as OpenRouter calls it."""

BUDGETS: Mapping[Effort, int] = MappingProxyType(
    {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576}
)
LEVELS: Mapping[Effort, str] = MappingProxyType(
    {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
)
TIERS: Mapping[str, str | None] = MappingProxyType(
    {"auto": None, "default": "standard", "flex": "flex", "priority": "priority", "fast": "priority"}
)
MODES: Mapping[str, str] = MappingProxyType({"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"})

UNSIGNED = "skip_thought_signature_validator"

FINISHES: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "BLOCKLIST": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "LANGUAGE": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "RECITATION": "content_filter",
    "SAFETY": "content_filter",
    "SPII": "content_filter",
}
_NUMBERS = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION", 5: "OTHER"}
"""Enumerations come as numbers where a proxy wrote the JSON. Beyond these the two APIs number differently."""
_UNFINISHED = (None, 0, "FINISH_REASON_UNSPECIFIED")

_GENERATION = re.compile(r"gemini-(\d+)")
_TYPES_BY_END = {
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
}
_ID_CHARS_MAX = 24
"""Of a reply's id in a call's: OpenAI takes ids of calls of up to 40 characters."""

_EMPTY = msgspec.Raw(b"{}")
_encode = msgspec.json.Encoder().encode
_value = msgspec.json.Decoder(msgspec.Raw).decode


class Speech:
    """Gemini's words. One instance serves all calls."""

    name = NAME

    def outgoing(self, ask: Ask, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The native request, on the Gemini API. Raises `BodyInvalid` naming what cannot be asked."""
        verb = "streamGenerateContent?alt=sse" if ask.stream else "generateContent"
        return Outgoing(f"/v1beta/models/{quote(model, safe='@')}:{verb}", _encode(request(ask, model)))

    def answer(self, body: bytes) -> Answer | Fault:
        return answer(body)

    def fault(self, status: int, body: bytes, headers: Mapping[str, str] = NOTHING) -> Fault:
        return _fault(_whole(body))

    def events(self) -> Events:
        return Events()


# -- the request


def request(ask: Ask, model: str) -> dict[str, Any]:
    """The body of a `generateContent` request."""
    if not ask.parallel and ask.tools:
        raise refuse(NAME, "parallel_tool_calls", "it cannot be told to make one call at a time")
    body: dict[str, Any] = {}
    if ask.system:
        body["systemInstruction"] = {"parts": [{"text": part.text} for part in ask.system]}
    later = generation_of(model) >= 3
    body["contents"] = [_content(turn, signed=later) for turn in ask.turns]
    if ask.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in ask.tools]}]
        calling = _calling(ask)
        if calling:
            body["toolConfig"] = {"functionCallingConfig": calling}
    config = _config(ask, model)
    if config:
        body["generationConfig"] = config
    if ask.tier is not None:
        if ask.tier not in TIERS:
            raise refuse(NAME, "service_tier", f"it knows {', '.join(TIERS)}")
        tier = TIERS[ask.tier]
        if tier is not None:
            body["serviceTier"] = tier
    return body


def generation_of(model: str) -> int:
    """The generation a model's name states; names without one (`gemini-flash-latest`) mean the newest."""
    found = _GENERATION.search(model)
    return 3 if found is None else int(found[1])


def _config(ask: Ask, model: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "maxOutputTokens": ask.limit,
        "temperature": ask.temperature,
        "topP": ask.top_p,
        "seed": ask.seed,
        "stopSequences": ask.stop or None,
        "frequencyPenalty": ask.frequency_penalty,
        "presencePenalty": ask.presence_penalty,
    }
    if ask.format is not None:
        config["responseMimeType"] = "application/json"
        if ask.format.schema is not None:
            config["responseJsonSchema"] = described(ask.format)
    if ask.effort is not None:
        config["thinkingConfig"] = _thinking(ask.effort, model)
    return {name: value for name, value in config.items() if value is not None}


def _thinking(effort: Effort, model: str) -> dict[str, Any]:
    if generation_of(model) < 3:
        if effort not in BUDGETS:
            raise refuse(NAME, "reasoning_effort", f"{model[:100]} knows {', '.join(BUDGETS)}")
        budget = BUDGETS[effort]
        return {"thinkingBudget": budget, "includeThoughts": True} if budget else {"thinkingBudget": 0}
    if effort not in LEVELS:
        raise refuse(NAME, "reasoning_effort", f"{model[:100]} knows {', '.join(LEVELS)}")
    return {"thinkingLevel": LEVELS[effort], "includeThoughts": True}


def _content(turn: Turn, *, signed: bool) -> dict[str, Any]:
    parts = returned(turn.parts, MAKER)
    found = [_part(part) for part in parts]
    if signed:
        # Of calls made together only the first has a signature.
        first = next((index for index, part in enumerate(parts) if type(part) is ToolCall), None)
        if first is not None:
            found[first].setdefault("thoughtSignature", UNSIGNED)
    return {"role": "model" if turn.role == "assistant" else "user", "parts": found}


def _part(part: Part) -> dict[str, Any]:
    if type(part) is Text:
        return {"text": part.text}
    if type(part) is ToolCall:
        call: dict[str, Any] = {"functionCall": {"id": part.id, "name": part.name, "args": part.arguments}}
        if part.signature is not None:
            call["thoughtSignature"] = part.signature
        return call
    if type(part) is ToolResult:
        return {"functionResponse": {"id": part.call_id, "name": part.name, "response": _response(part)}}
    if type(part) is Image:
        return _image(part)
    if type(part) is Sound:
        return {"inlineData": {"mimeType": SOUND_TYPES[part.format], "data": part.data}}
    if type(part) is Document:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    assert type(part) is Thought
    if part.sealed is not None:
        return {"text": "", "thoughtSignature": part.sealed}
    return {"text": part.text, "thought": True, "thoughtSignature": part.signature}


def _response(result: ToolResult) -> msgspec.Raw | dict[str, str]:
    said = "".join(part.text for part in result.texts)
    if said[:1] == "{":
        try:
            return _value(said)
        except reply.UNREADABLE:
            return {"output": said}
    return {"output": said}


def _image(image: Image) -> dict[str, Any]:
    if image.url is None:
        return {"inlineData": {"mimeType": image.media_type, "data": image.data}}
    if image.url[:2].lower() == "s3":
        raise refuse(NAME, image.where, "it takes addresses on the web, and gs:// on Google's storage")
    data = {"fileUri": image.url}
    media_type = _TYPES_BY_END.get(urlsplit(image.url).path.rpartition(".")[2].lower())
    if media_type is not None:
        data["mimeType"] = media_type
    return {"fileData": data}


def _tool(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        found["description"] = tool.description
    if tool.parameters is not None:
        found["parametersJsonSchema"] = tool.parameters
    return found


def _calling(ask: Ask) -> dict[str, Any]:
    choice = ask.tool_choice
    mode = "AUTO" if choice is None else MODES[choice.mode]
    if mode == "AUTO" and any(tool.strict for tool in ask.tools):
        mode = "VALIDATED"
    if choice is None and mode == "AUTO":
        return {}
    calling: dict[str, Any] = {"mode": mode}
    if choice is not None and choice.name is not None:
        calling["allowedFunctionNames"] = [choice.name]
    return calling


# -- the answer


class _Call(msgspec.Struct, gc=False):
    id: Any = None
    name: Any = None
    args: msgspec.Raw = _EMPTY


class _Part(msgspec.Struct, gc=False):
    """A part; types are checked where they are used, so that none can fail it."""

    text: Any = None
    thought: Any = None
    thoughtSignature: Any = None  # noqa: N815 - the API's names
    functionCall: _Call | None = None  # noqa: N815
    inlineData: Any = None  # noqa: N815


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None
    finishReason: Any = None  # noqa: N815
    finishMessage: Any = None  # noqa: N815
    index: Any = None


class _Chunk(msgspec.Struct, gc=False):
    candidates: list[_Candidate] | None = None
    modelVersion: Any = None  # noqa: N815
    responseId: Any = None  # noqa: N815
    promptFeedback: Any = None  # noqa: N815
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk).decode
_whole = msgspec.json.Decoder(Any).decode


def answer(body: bytes) -> Answer | Fault:
    """A reply that came whole. Raises one of `reply.UNREADABLE`."""
    chunk = _chunk(body)
    if chunk.error:
        return _fault({"error": chunk.error})
    parts: list[Part] = []
    ended = _blocked(chunk) or Finished("stop", None)
    for candidate in (chunk.candidates or [])[:1]:
        for part in (candidate.content.parts or []) if candidate.content is not None else []:
            number = sum(type(known) is ToolCall for known in parts)
            parts += _neutral(part, chunk.responseId, number)
        ended = _finished(candidate, tuple(parts)) or ended
    return Answer(
        reply.name(chunk.responseId),
        reply.name(chunk.modelVersion),
        tuple(parts),
        ended.finish,
        ended.native,
        ended.refusal,
    )


def _neutral(part: _Part, response_id: object, number: int) -> list[Part]:
    """What a part says; `number` counts the calls before it."""
    signature = text(part.thoughtSignature) or None
    if part.functionCall is not None:
        call = part.functionCall
        own = text(call.id) or f"call_{text(response_id)[:_ID_CHARS_MAX]}_{number}"
        return [ToolCall(own, text(call.name), _EMPTY if bytes(call.args) == b"null" else call.args, signature)]
    found: list[Part] = []
    said = text(part.text)
    if part.thought is True:
        return [Thought(MAKER, said, signature)]
    if said:
        found.append(Text(said))
    data = part.inlineData
    if type(data) is dict:
        found.append(Image("", media_type=text(data.get("mimeType")), data=text(data.get("data"))))
    if signature is not None:
        found.append(Thought(MAKER, sealed=signature))
    return found


def _finished(candidate: _Candidate, parts: tuple[Part, ...]) -> Finished | None:
    reason = candidate.finishReason
    if reason in _UNFINISHED:
        return None
    native = _NUMBERS.get(reason) if type(reason) is int else reply.name(reason)
    ended = finish(native, FINISHES, parts)
    return Finished(ended, native, text(candidate.finishMessage) or None if ended == "content_filter" else None)


def _blocked(chunk: _Chunk) -> Finished | None:
    """The prompt was refused before any answer."""
    feedback = chunk.promptFeedback
    reason = feedback.get("blockReason") if type(feedback) is dict else None
    if type(feedback) is not dict or reason in (None, 0):
        return None
    said = text(feedback.get("blockReasonMessage")) or "The prompt was blocked."
    return Finished("content_filter", reply.name(reason), said)


def _fault(body: object) -> Fault:
    """Of `{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message", "details"}}`, or a list with one of it.

    A reason among the details (`API_KEY_INVALID`) is more particular than the status.
    """
    error = member(body[0] if type(body) is list and body else body, "error")
    kind = text(error.get("status")) or str(error.get("code") or reply.ERROR_CODE_UNKNOWN)
    reasons = [text(detail.get("reason")) for detail in objects(error.get("details"))]
    return Fault(kind, next(filter(None, reasons), kind), text(error.get("message")))


class Events:
    """The events of one stream of server-sent events."""

    def __init__(self) -> None:
        self._splitter = sse.Splitter()
        self._begun = False
        self._id: object = None
        self._calls: list[Part] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """What these bytes tell."""
        found: list[Event] = []
        for raw in self._splitter.feed(chunk):
            found += self._read(raw)
        return found

    def rest(self) -> list[Event]:
        """What is left where the last event lost its closing line end."""
        left = self._splitter.rest()
        return self._read(left) if left else []

    def _read(self, raw: bytes) -> list[Event]:
        data = sse.data(raw)
        if data is None:
            return [LOST] if type(raw) is sse.Fragment else []
        try:
            return self._events(_chunk(data))
        except reply.UNREADABLE:
            return [LOST] if data.strip() else []

    def _events(self, chunk: _Chunk) -> list[Event]:
        if chunk.error:
            return [_fault({"error": chunk.error})]
        found: list[Event] = []
        if not self._begun:
            self._begun, self._id = True, chunk.responseId
            found.append(Begun(reply.name(chunk.responseId), reply.name(chunk.modelVersion)))
        for candidate in (chunk.candidates or [])[:1]:
            for part in (candidate.content.parts or []) if candidate.content is not None else []:
                for said in _neutral(part, self._id, len(self._calls)):
                    found += self._event(said)
            ended = _finished(candidate, tuple(self._calls))
            if ended is not None:
                found.append(ended)
        blocked = _blocked(chunk)
        return found if blocked is None else [*found, blocked]

    def _event(self, part: Part) -> list[Event]:
        if type(part) is Text:
            return [Said(part.text)]
        if type(part) is ToolCall:
            number = len(self._calls)
            self._calls.append(part)
            return [CallBegun(number, part.id, part.name, bytes(part.arguments).decode(), part.signature)]
        if type(part) is Thought and part.sealed is None:
            # A thought comes in pieces, each a part: its text is told as it comes, its signature where it has one.
            said: list[Event] = [Reasoned(part.text)] if part.text else []
            return said if part.signature is None else [*said, part]
        return [part] if isinstance(part, Thought | Image) else []
