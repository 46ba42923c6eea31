"""A chat completion's request in the neutral form.

Shapes: https://platform.openai.com/docs/api-reference/chat, as the types of the `openai` package state them. What a
member means is either carried over, or refused by its name, or stands in `translate_openai_shapes.IGNORED` with the
reason why nothing is lost. Three extensions that other OpenAI-compatible APIs have are understood, because a caller
could not say it otherwise:

* `cache_control` of a text, an image, a file or a tool (OpenRouter, LiteLLM): keep the prompt up to here in the cache.
* `reasoning_details` of an assistant's message (https://openrouter.ai/docs/use-cases/reasoning-tokens): reasoning with
  the provider's signature, as the answer gave it, to be sent back with the results of the tools it led to.
* `extra_content.google.thought_signature` of a tool call (https://ai.google.dev/gemini-api/docs/thought-signatures).

System and developer messages go before all others wherever they stand, as in Anthropic's own OpenAI-compatible API
(https://docs.anthropic.com/en/api/openai-sdk): none of the three providers takes them in between.
"""

from __future__ import annotations

import re

import msgspec

from costbearer.dialects import bounds
from costbearer.dialects import translate_openai_shapes as shapes
from costbearer.dialects.neutral import (
    SOUND_TYPES,
    Ask,
    Document,
    Format,
    Image,
    Lifetime,
    Part,
    Role,
    Sound,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    refuse,
)
from costbearer.dialects.reply import UNREADABLE
from costbearer.errors import BodyInvalid

_NAME = re.compile(r"`([^`]*)`")
_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_DATA_URL = re.compile(r"data:([A-Za-z0-9.+/-]*)((?:;[^,;]*)*?)(;base64)?,", re.IGNORECASE)
_EMPTY_OBJECT = msgspec.Raw(b"{}")
_BRACE, _NULL = ord("{"), ord("n")
_value = msgspec.json.Decoder(msgspec.Raw).decode

_request = msgspec.json.Decoder(shapes.Request).decode


def ask(body: bytes, provider: str) -> Ask:
    """A request in the neutral form. `provider` is the name to give in errors.

    Raises:
        BodyInvalid: a member that cannot be carried over, or is not of its type; it names which and where. Or there
            are too many.
    """
    if not bounds.few(body):
        raise BodyInvalid(f"the request has more than {bounds.VALUES_MAX} values, which is more than is translated")
    try:
        asked = _request(body)
    except msgspec.ValidationError as fault:
        raise _named(provider, str(fault)) from None
    except UNREADABLE:
        raise BodyInvalid("the request body is not JSON") from None
    for name, (harmless, why) in shapes.ONLY.items():
        value = getattr(asked, name)
        if value is not None and value not in harmless:
            raise refuse(provider, name, why)
    system, turns = _conversation(asked.messages, provider)
    tools, choice = _tools(asked, provider)
    stop = asked.stop
    return Ask(
        stream=asked.stream is True,
        system=system,
        turns=turns,
        tools=tools,
        tool_choice=choice,
        parallel=asked.parallel_tool_calls is not False,
        format=_format(asked.response_format, provider),
        effort=asked.reasoning_effort,
        limit=asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        frequency_penalty=asked.frequency_penalty or None,
        presence_penalty=asked.presence_penalty or None,
        seed=asked.seed,
        stop=() if stop is None else (stop,) if type(stop) is str else tuple(stop),
        tier=asked.service_tier,
    )


def _named(provider: str, fault: str) -> BodyInvalid:
    """The decoder's own words tell what is wrong with which member."""
    place = _PLACE.search(fault)
    said = _PLACE.sub("", fault)
    where = "" if place is None else place[1]
    if said.startswith("Object contains unknown field"):
        name = _NAME.search(said)
        member = ".".join(filter(None, (where, "" if name is None else name[1])))
        return refuse(provider, member, "this member is not known")
    return refuse(provider, where or "the request body", said[:1].lower() + said[1:])


def _conversation(messages: list[shapes.Message], provider: str) -> tuple[tuple[Text, ...], tuple[Turn, ...]]:
    """Instructions, and turns that alternate: messages of one side that follow each other are one turn."""
    system: list[Text] = []
    turns: list[tuple[Role, list[Part]]] = []
    called: dict[str, str] = {}
    last: Role | None = None
    for number, message in enumerate(messages):
        role: Role = "user"
        parts: list[Part]
        if type(message) is shapes.Result:
            name = called.get(message.tool_call_id)
            if name is None:
                raise refuse(
                    provider, f"messages[{number}].tool_call_id", "no message before it has a tool call of that id"
                )
            parts = [ToolResult(message.tool_call_id, name, _texts(message.content))]
        elif type(message) is shapes.Assistant:
            role, parts = "assistant", _assistant_parts(message, number, provider)
            for part in parts:
                if type(part) is ToolCall:
                    called[part.id] = part.name
        elif type(message) is shapes.User:
            content = message.content
            parts = [Text(content)] if isinstance(content, str) else _user_parts(content, number, provider)
        else:
            assert isinstance(message, shapes.System | shapes.Developer)
            system += _texts(message.content)
            continue
        if role == last:
            turns[-1][1].extend(parts)
        elif parts:
            turns.append((role, parts))
            last = role
    return tuple(system), tuple([Turn(role, tuple(parts)) for role, parts in turns])


def _texts(content: shapes.Texts) -> tuple[Text, ...]:
    if type(content) is str:
        return (Text(content),)
    return tuple(Text(part.text, _lifetime(part.cache_control)) for part in content if type(part) is shapes.Text)


def _lifetime(mark: shapes.Mark | None) -> Lifetime | None:
    return None if mark is None else mark.ttl or "5m"


def _user_parts(content: list[shapes.UserPart], number: int, provider: str) -> list[Part]:
    found: list[Part] = []
    for index, part in enumerate(content):
        where = f"messages[{number}].content[{index}]"
        if type(part) is shapes.Text:
            found.append(Text(part.text, _lifetime(part.cache_control)))
        elif type(part) is shapes.Image:
            found.append(_image(part, f"{where}.image_url.url", provider))
        elif type(part) is shapes.Sound:
            found.append(_sound(part, f"{where}.input_audio.format", provider))
        elif type(part) is shapes.File:
            found.append(_document(part, f"{where}.file", provider))
    return found


def _image(part: shapes.Image, where: str, provider: str) -> Image:
    url, cache = part.image_url.url, _lifetime(part.cache_control)
    if url[:5].lower() == "data:":
        media_type, data = _data_url(url, where, provider)
        return Image(where, media_type=media_type, data=data, cache=cache)
    if url.partition(":")[0].lower() not in ("https", "http", "gs", "s3"):
        raise refuse(provider, where, "neither a data URL nor an address on the web")
    return Image(where, url=url, cache=cache)


def _sound(part: shapes.Sound, where: str, provider: str) -> Sound:
    sound = part.input_audio
    if sound.format not in SOUND_TYPES:
        raise refuse(provider, where, f"it must be one of {', '.join(SOUND_TYPES)}")
    return Sound(where, sound.format, sound.data)


def _document(part: shapes.File, where: str, provider: str) -> Document:
    file = part.file
    if file.file_data is None:
        raise refuse(provider, f"{where}.file_data", "it is missing; a file must be inside the request")
    media_type, data = _data_url(file.file_data, f"{where}.file_data", provider)
    return Document(where, media_type, data, name=file.filename, cache=_lifetime(part.cache_control))


def _data_url(url: str, where: str, provider: str) -> tuple[str, str]:
    """(media type, base64) of a data URL."""
    found = _DATA_URL.match(url)
    if found is None or not found[1] or found[3] is None:
        raise refuse(provider, where, "send data:<media type>;base64,<data>")
    return found[1].lower(), url[found.end() :]


def _assistant_parts(message: shapes.Assistant, number: int, provider: str) -> list[Part]:
    """Reasoning, then text, then calls: the order in which a model says them, and which the providers demand."""
    found: list[Part] = []
    for detail in message.reasoning_details or ():
        if detail.data is not None:
            found.append(Thought(detail.format, sealed=detail.data))
        elif detail.signature is not None:
            found.append(Thought(detail.format, detail.text or "", detail.signature))
    content = message.content
    if type(content) is str:
        if content:
            found.append(Text(content))
    elif content is not None:
        for part in content:
            if isinstance(part, shapes.Text):
                found += [Text(part.text, _lifetime(part.cache_control))] if part.text else []
            elif isinstance(part, shapes.Refusal) and part.refusal:
                found.append(Text(part.refusal))
    if message.refusal:
        found.append(Text(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        extra = call.extra_content
        signature = extra.google.thought_signature if extra is not None and extra.google is not None else None
        arguments = _arguments(call.function.arguments)
        if arguments is None:
            where = f"messages[{number}].tool_calls[{index}].function.arguments"
            raise refuse(provider, where, "its text is not a JSON object")
        found.append(ToolCall(call.id, call.function.name, arguments, signature))
    return found


def _arguments(text: str) -> msgspec.Raw | None:
    """Arguments are text that holds a JSON object, else None. A tool without parameters may be called with nothing."""
    if not text:
        return _EMPTY_OBJECT
    try:
        value = _value(text)
    except UNREADABLE:
        return None
    return value if memoryview(value)[0] == _BRACE else None


def _tools(asked: shapes.Request, provider: str) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Tools and the choice among them. A choice of some tools is the same as having only them."""
    declared = asked.tools or []
    choice = asked.tool_choice
    chosen: ToolChoice | None = None
    if type(choice) is shapes.Allowed:
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        missing = allowed - {tool.function.name for tool in declared}
        if missing:
            raise refuse(provider, "tool_choice.allowed_tools.tools", f"{min(missing)[:64]!r} is not among the tools")
        declared = [tool for tool in declared if tool.function.name in allowed]
        chosen = ToolChoice(choice.allowed_tools.mode)
    elif type(choice) is shapes.Named:
        chosen = ToolChoice("named", choice.function.name)
    elif choice is not None:
        assert isinstance(choice, str)
        chosen = ToolChoice(choice)
    if not declared:
        if chosen is not None and chosen.mode in ("required", "named"):
            raise refuse(provider, "tool_choice", "the request has no tools")
        chosen = None
    return tuple(_tool(tool, index, provider) for index, tool in enumerate(declared)), chosen


def _tool(tool: shapes.Tool, index: int, provider: str) -> Tool:
    declared = tool.function
    parameters = _schema(declared.parameters, f"tools[{index}].function.parameters", provider)
    return Tool(declared.name, declared.description, parameters, declared.strict, _lifetime(tool.cache_control))


def _format(stated: shapes.AnyText | shapes.AnyObject | shapes.OfSchema | None, provider: str) -> Format | None:
    if type(stated) is shapes.AnyObject:
        return Format()
    if type(stated) is not shapes.OfSchema:
        return None
    asked, where = stated.json_schema, "response_format.json_schema.schema"
    schema = _schema(asked.schema, where, provider)
    if schema is None:
        raise refuse(provider, where, "it is missing")
    return Format(schema, asked.name, asked.description)


def _schema(value: msgspec.Raw, where: str, provider: str) -> msgspec.Raw | None:
    """A JSON schema as it stands; null is none."""
    first = memoryview(value)[0]
    if first == _NULL:
        return None
    if first != _BRACE:
        raise refuse(provider, where, "it is not an object")
    return value
