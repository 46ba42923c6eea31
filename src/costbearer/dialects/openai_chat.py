"""OpenAI's chat completions, and every provider that speaks them.

Shapes: https://platform.openai.com/docs/api-reference/chat. What the compatible providers do differently, as recorded
from them:

* xAI states reasoning outside `completion_tokens` (total = prompt + completion + reasoning), and its cost in ticks.
* Gemini's compatible endpoint states no reasoning at all: the total is larger than prompt + completion by it.
* Groq repeats the usage of a stream in `x_groq`, and where it was not asked for states it only there.
* Moonshot may put the usage of a stream into its last choice, Perplexity states it so far in every chunk.
* Azure opens a stream with a chunk without choices that is not the usage chunk.
* OpenRouter states the cost; with a key of one's own (`is_byok`) that is only its fee, and the rest is stated apart.
* DeepSeek and Moonshot also (or only) state the cached part beside `prompt_tokens_details`: the same tokens, not more.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, jsonedit, openai_plain, reply
from costbearer.dialects.base import NOTHING, NOWHERE, CallRequest, Outgoing, Place, Plain, Reading, ReplyReader
from costbearer.dialects.openai_plain import CALLER_TOOLS, CHOICES_MAX, CONTAINED_PARTS
from costbearer.dialects.openai_usage import read_cost, read_usage, searched
from costbearer.dialects.reply import Notes
from costbearer.errors import BodyInvalid
from costbearer.usage import Work

_TEXTS = frozenset({"content", "refusal", "reasoning", "reasoning_content", "text"})
"""Members of a delta or message that are generated text. `reasoning_details` repeats `reasoning` and is left out."""

_OPEN_MEMBERS = frozenset({"web_search_options", "search_parameters", "plugins", "data_sources", "prompt", "models"})
"""Members by which the provider adds input of its own: searches (OpenAI, xAI, OpenRouter, Azure), stored prompts, and
other models that may serve the call instead (OpenRouter)."""

_ASK_FOR_USAGE = b'{"include_usage":true}'
_ARRAY = ord("[")
_TEXT_OR_NULL = b'"n'


class _Chunk(msgspec.Struct, gc=False):
    """Of a chunk or whole completion, what is read. Types are checked where they are used, so that none can fail it."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    choices: Any = None
    usage: Any = None
    x_groq: Any = None
    error: Any = None


class _Part(msgspec.Struct, gc=False):
    type: Any = None


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw(b"null")
    audio: Any = None


_chunk = reply.decoder(_Chunk)
_messages = bounds.bounded(msgspec.json.Decoder(list[_Message]).decode)
_parts = bounds.bounded(msgspec.json.Decoder(list[_Part]).decode)


class OpenAIChat(Plain):
    """The operation `chat`."""

    def __init__(self, path: str = "/chat/completions") -> None:
        self._path = path

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`."""
        return openai_plain.read("chat", body) or self._member_by_member("chat", body)

    def _member_by_member(self, operation: str, body: bytes) -> CallRequest:
        fields = bodies.Fields(body)
        stream = fields.flag("stream") or False
        options = fields.object("stream_options")
        asked = options.flag("include_usage") if options is not None else None
        tags = fields.tags()
        limits = [fields.whole("max_completion_tokens"), fields.whole("max_tokens")]
        return CallRequest(
            operation=operation,
            model=fields.model(),
            stream=stream,
            body=body,
            tags=tags or (),
            has_tags=tags is not None,
            wants_usage=bool(asked) or not stream,
            has_stream_options=fields.states("stream_options"),
            max_output_tokens=max((limit for limit in limits if limit is not None), default=None),
            choices=fields.whole("n", low=1, high=CHOICES_MAX) or 1,
            open_ended=_open_ended(fields),
            tier=fields.word("service_tier"),
            variant=_searching(fields),
        )

    def outgoing(self, request: CallRequest, model: str, labels: Mapping[str, str] = NOTHING) -> Outgoing:
        """The body for the provider: tags off, usage asked for in streams, model renamed; else the caller's bytes.

        Where nothing must change the very same object is given back.
        """
        return Outgoing(self._path, self.body_for(request, model))

    def body_for(self, request: CallRequest, model: str) -> bytes:
        """The body alone."""
        asking = request.stream and not request.wants_usage
        if not request.has_tags and model == request.model and not (asking and request.has_stream_options):
            return jsonedit.prepend(request.body, "stream_options", _ASK_FOR_USAGE) if asking else request.body
        if not (asking and request.has_stream_options):
            edited = bodies.outgoing(request.body, request.has_tags, model if model != request.model else None)
            if edited is not None:
                return jsonedit.prepend(edited, "stream_options", _ASK_FOR_USAGE) if asking else edited
        revision = jsonedit.Revision(request.body)
        if request.has_tags:
            bodies.drop_tags(revision)
        if model != request.model:
            revision.replace("model", msgspec.json.encode(model))
        if asking:
            _ask(revision)
        return revision.text()

    def stream_reader(self, request: CallRequest, headers: Mapping[str, str] = NOTHING) -> ReplyReader:
        return StreamReader(request)

    def whole(self, request: CallRequest, body: bytes, headers: Mapping[str, str] = NOTHING) -> Reading:
        """Read a completion that came whole, or an error body. Never raises."""
        return openai_plain.whole(request, body) or self._tolerant(request, body)

    def _tolerant(self, request: CallRequest, body: bytes) -> Reading:
        try:
            found = _chunk(body)
        except msgspec.ValidationError:
            return Reading(notes=("body_unexpected", "usage_absent"))
        except reply.UNREADABLE:
            return Reading(notes=("body_not_json",))
        told = _Told(request)
        told.read(found, "message")
        return told.reading(Notes(), ended=True)


class _Told:
    """What a reply has told so far."""

    def __init__(self, request: CallRequest) -> None:
        self._request = request
        self._id: str | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._generated = 0
        self._answered = False
        self._finished: set[int] = set()
        self._usage: dict[str, Any] | None = None
        self._usage_is_final = False
        self._unreadable = False
        self._groq_usage: dict[str, Any] | None = None
        self._error_code: str | None = None
        self._notes = Notes()

    def read(self, chunk: _Chunk, member: str) -> None:
        """A chunk, whose choices have a `delta`, or a completion, whose choices have a `message`."""
        choices = chunk.choices
        if type(choices) is list:
            for choice in choices:
                if type(choice) is dict:
                    self._choice(choice, member)
        if chunk.usage is not None:
            self._stated(chunk.usage, last=choices == [])
        if self._id is None:
            self._id = reply.name(chunk.id)
        if self._model is None:
            self._model = reply.name(chunk.model)
        if chunk.service_tier is not None and chunk.service_tier != self._tier:
            self._tier = reply.name(chunk.service_tier)
        if chunk.x_groq is not None and type(chunk.x_groq) is dict and type(chunk.x_groq.get("usage")) is dict:
            self._groq_usage = chunk.x_groq["usage"]
        if chunk.error:
            self._failed(chunk.error)

    def _choice(self, choice: dict[str, Any], member: str) -> None:
        self._answered = True
        part = choice.get(member)
        if type(part) is dict:
            text = part.get("content")
            if len(part) == 1 and type(text) is str and text.isascii():
                # The delta nearly every chunk brings; counted without the walk that the others need.
                self._generated += len(text)
            else:
                self._generated += _generated(part, self._notes)
        elif "text" in choice:
            self._generated += reply.size(choice["text"])
        if choice.get("finish_reason") is not None:
            index = choice.get("index")
            self._finished.add(index if type(index) is int else 0)
        if "usage" in choice and choice["usage"] is not None:
            self._stated(choice["usage"], last=False)

    def _stated(self, usage: object, *, last: bool) -> None:
        """A usage object. It is final once every choice is finished, or where a chunk without choices follows some."""
        if type(usage) is not dict:
            self._unreadable = True
            return
        if not usage:
            return
        if self._usage is not None and self._usage_is_final:
            self._notes.add("usage_repeated")
        self._usage = usage
        self._usage_is_final = len(self._finished) >= self._request.choices or (last and self._answered)

    def _failed(self, error: object) -> None:
        if type(error) is dict:
            self._error_code = reply.code(error.get("code"), error.get("type"))
        else:
            self._error_code = reply.ERROR_CODE_UNKNOWN
        if self._request.stream:
            self._notes.add("error_in_stream")

    def reading(self, noted: Notes, *, ended: bool) -> Reading:
        usage, final = self._usage, self._usage_is_final
        if usage is None and self._groq_usage is not None:
            usage, final = self._groq_usage, bool(self._finished)
        notes = Notes()
        notes.add(*noted.codes(), *self._notes.codes())
        work: tuple[Work, ...] = ()
        cost: Decimal | None = None
        sound = not self._unreadable
        if self._unreadable:
            notes.add("usage_malformed")
        if usage is None:
            notes.add("usage_absent")
            sound = False
        else:
            counts, is_sound = read_usage(usage, notes)
            sound = sound and is_sound
            cost = read_cost(usage, notes)
            if counts.input_tokens is not None or counts.output_tokens is not None:
                model = self._model or self._request.model
                work = (Work(model=model, usage=counts, largest_input_tokens=counts.input_tokens),)
        return Reading(
            work=work,
            complete=sound and (ended or final),
            response_model=self._model,
            response_id=self._id,
            tier=self._tier,
            variant=searched(usage, self._request.variant),
            provider_cost_usd=cost,
            generated_bytes=self._generated,
            error_code=self._error_code,
            notes=notes.codes(),
        )


class StreamReader(reply.EventReader):
    """Reads a stream of chunks.

    The chunk that was only sent because the gateway asked for usage (no choices, and a usage) is kept from a caller who
    did not ask: code that indexes `choices[0]` fails on it. The `"usage":null` that asking adds to the other chunks is
    left in them; SDKs read it as absent, and taking it out would mean to write every chunk anew.
    """

    def __init__(self, request: CallRequest) -> None:
        super().__init__()
        self._told = _Told(request)
        self._strip = not request.wants_usage

    def take(self, data: bytes) -> bool:
        chunk = _chunk(data)
        self._told.read(chunk, "delta")
        return not (chunk.usage and self._strip and chunk.choices == [] and not chunk.error)

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes, ended=self.ended)


def _generated(part: dict[str, Any], notes: Notes) -> int:
    """UTF-8 bytes of generated text in a delta or message: text, refusals, reasoning, names and arguments of tools."""
    found = 0
    for member, value in part.items():
        if value is None:
            continue
        if member in _TEXTS:
            if type(value) is str:
                found += len(value) if value.isascii() else reply.size(value)
            elif type(value) is list:
                found += sum(_part_size(item) for item in value)
        elif member == "tool_calls" and type(value) is list:
            found += sum(_call_size(call) for call in value)
        elif member == "function_call":
            found += _call_size({"function": value})
        elif member == "audio" and type(value) is dict:
            notes.add("audio_output")
            found += reply.size(value.get("transcript"))
    if "reasoning" in part and "reasoning_content" in part and part["reasoning"] == part["reasoning_content"]:
        found -= reply.size(part["reasoning"])
    return found


def _part_size(item: object) -> int:
    """A content part (Mistral: text, and thinking as a list of parts)."""
    if type(item) is not dict:
        return 0
    inner = item.get("thinking")
    if type(inner) is list:
        return sum(reply.size(part.get("text")) for part in inner if type(part) is dict)
    return reply.size(item.get("text")) + reply.size(inner)


def _call_size(call: object) -> int:
    found = 0
    for form, argument in (("function", "arguments"), ("custom", "input")):
        named = call.get(form) if type(call) is dict else None
        if type(named) is dict:
            found += reply.size(named.get("name")) + reply.size(named.get(argument))
    return found


def _searching(fields: bodies.Fields) -> str | None:
    """How far and how a search is asked to go, in the words of `price_context.Context.variant`; None where the request
    does not say. Perplexity's pages name two sizes as the default, so that none is taken for granted."""
    try:
        options = fields.object("web_search_options")
    except BodyInvalid:
        # The provider refuses it.
        return None
    size = None if options is None else options.word("search_context_size")
    kind = None if options is None else options.word("search_type")
    return size if size is None or kind in (None, "fast") else f"{kind}/{size}"


def _open_ended(fields: bodies.Fields) -> bool:
    """May the input be larger than the body's bytes say? What cannot be read is such; the provider refuses it."""
    if fields.states_any(_OPEN_MEMBERS):
        return True
    try:
        tools = fields.raw("tools")
        if tools is not None and any(tool.type not in CALLER_TOOLS for tool in _parts(tools)):
            return True
        messages = fields.raw("messages")
        for message in _messages(messages) if messages is not None else ():
            first = memoryview(message.content)[0]
            if message.audio is not None:
                return True
            if first == _ARRAY:
                # Images, sound and files count even inside the body: their bytes do not bound their tokens.
                if any(part.type not in CONTAINED_PARTS for part in _parts(message.content)):
                    return True
            elif first not in _TEXT_OR_NULL:
                return True
    except (*reply.UNREADABLE, TypeError):
        return True
    return False


def _ask(revision: jsonedit.Revision) -> None:
    """Ask for usage, beside whatever other stream options there are."""
    stated = revision.value("stream_options")
    if stated is None:
        revision.insert("stream_options", _ASK_FOR_USAGE)
    elif stated == b"null":
        revision.replace("stream_options", _ASK_FOR_USAGE)
    else:
        options = jsonedit.Revision(stated, '"stream_options"')
        if "include_usage" in options.names():
            options.replace("include_usage", b"true")
        else:
            options.insert("include_usage", b"true")
        revision.replace("stream_options", options.text())
