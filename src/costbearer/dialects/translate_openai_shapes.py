"""The members of a chat completion's request, as types, and the tables of those that are not translated.

Every object is closed: a member that is not declared here is refused by its name. Shapes are those of the `openai`
package; what is not in them is told in `translate_openai`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from costbearer.dialects.neutral import Effort, Lifetime

IGNORED: Mapping[str, str] = MappingProxyType(
    {
        "metadata": "labels of OpenAI's own store of completions; tags in it are taken off and kept as attribution",
        "prediction": "makes OpenAI faster where it guesses right; the answer is the same without it",
        "prompt_cache_key": "tells OpenAI's cache where to look; the answer is the same without it",
        "prompt_cache_options": "rules of OpenAI's cache; the answer is the same without them",
        "prompt_cache_retention": "a lifetime in OpenAI's cache; the answer is the same without it",
        "safety_identifier": "names the end user to OpenAI's abuse detection, not to the model",
        "user": "names the end user to OpenAI's abuse detection, not to the model",
    }
)
"""Members of a request that are not translated because neither the answer nor its cost depends on them."""

IGNORED_INSIDE: Mapping[str, str] = MappingProxyType(
    {
        "cache_control": "for Gemini, which caches without being asked; the answer is the same without it",
        "image_url.detail": "how OpenAI scales an image down; the other providers have rules of their own",
        "prompt_cache_breakpoint": "a place in OpenAI's cache; the answer is the same without it",
        "stream_options.include_obfuscation": "padding against eavesdroppers of OpenAI's streams",
        "json_schema.strict": "the other providers always hold the answer to the schema",
        "messages[].annotations": "citations of an earlier answer, which OpenAI does not read back either",
        "messages[].reasoning_details": "of another provider's: nobody takes back what somebody else has signed",
        "messages[].reasoning_content": "earlier reasoning without its signature, which no provider takes back",
        "messages[].name of a tool": "the name is that of the call the message answers",
        "tool_calls[].index": "a leftover of a stream; calls stand in their order",
    }
)
"""The same, of members further inside."""

ONLY: Mapping[str, tuple[tuple[object, ...], str]] = MappingProxyType(
    {
        "audio": ((), "answers are text"),
        "function_call": ((), 'use "tool_choice"'),
        "functions": ((), 'use "tools"'),
        "logit_bias": (({},), "its tokens are those of OpenAI's tokenizer"),
        "logprobs": ((False,), "there are no log probabilities in the translated answer"),
        "modalities": ((["text"],), "answers are text"),
        "moderation": ((), "OpenAI's moderation is not there"),
        "n": ((1,), "ask once for each answer"),
        "store": ((False,), "nothing is stored there for OpenAI's tools"),
        "top_logprobs": ((0,), "there are no log probabilities in the translated answer"),
        "verbosity": (("medium",), "there is no such setting; say it in the prompt"),
        "web_search_options": ((), "OpenAI's search is not there"),
    }
)
"""Members that are refused, apart from the values that ask for nothing."""

Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Limit: TypeAlias = Annotated[int, Meta(ge=1)]


NULL = msgspec.Raw(b"null")


class Shape(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object whose every member is known; another one is refused by its name."""


class Mark(Shape):
    type: Literal["ephemeral"]
    ttl: Lifetime | None = None


class Text(Shape, tag="text"):
    text: str
    cache_control: Mark | None = None
    prompt_cache_breakpoint: Any = None


class ImageUrl(Shape):
    url: str
    detail: Any = None


class Image(Shape, tag="image_url"):
    image_url: ImageUrl
    cache_control: Mark | None = None
    prompt_cache_breakpoint: Any = None


class SoundData(Shape):
    data: str
    format: str


class Sound(Shape, tag="input_audio"):
    input_audio: SoundData
    prompt_cache_breakpoint: Any = None


class FileData(Shape):
    file_data: str | None = None
    file_id: None = None
    filename: str | None = None


class File(Shape, tag="file"):
    file: FileData
    cache_control: Mark | None = None
    prompt_cache_breakpoint: Any = None


class Refusal(Shape, tag="refusal"):
    refusal: str


Texts: TypeAlias = str | list[Text]
UserPart: TypeAlias = Text | Image | Sound | File


class System(Shape, tag_field="role", tag="system"):
    content: Texts
    name: None = None


class Developer(Shape, tag_field="role", tag="developer"):
    content: Texts
    name: None = None


class User(Shape, tag_field="role", tag="user"):
    content: str | list[UserPart]
    name: None = None


class Function(Shape):
    name: str
    arguments: str


class Google(Shape):
    thought_signature: str | None = None


class Extra(Shape):
    google: Google | None = None


class Call(Shape):
    id: str
    function: Function
    type: Literal["function"] = "function"
    index: Any = None
    extra_content: Extra | None = None


class Reasoning(msgspec.Struct, gc=False):
    """One of `reasoning_details`: other APIs add members, which are of no use to the provider."""

    type: str = ""
    format: str | None = None
    text: str | None = None
    signature: str | None = None
    data: str | None = None


class Assistant(Shape, tag_field="role", tag="assistant"):
    content: str | list[Text | Refusal] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None
    reasoning_details: list[Reasoning] | None = None
    reasoning_content: Any = None
    annotations: Any = None
    audio: None = None
    function_call: None = None
    name: None = None


class Result(Shape, tag_field="role", tag="tool"):
    tool_call_id: str
    content: Texts
    name: Any = None


class Declared(Shape):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = NULL
    strict: bool | None = None


class Tool(Shape, tag="function"):
    function: Declared
    cache_control: Mark | None = None


class ByName(Shape):
    name: str


class Named(Shape, tag="function"):
    function: ByName


class AllowedTool(Shape):
    function: ByName
    type: Literal["function"] = "function"


class AllowedTools(Shape):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class Allowed(Shape, tag="allowed_tools"):
    allowed_tools: AllowedTools


class AnyText(Shape, tag="text"):
    pass


class AnyObject(Shape, tag="json_object"):
    pass


class Schema(Shape):
    name: str
    schema: msgspec.Raw = NULL
    description: str | None = None
    strict: Any = None


class OfSchema(Shape, tag="json_schema"):
    json_schema: Schema


class StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: Any = None


Message: TypeAlias = System | Developer | User | Assistant | Result


class Request(Shape):
    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Limit | None = None
    max_tokens: Limit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | Named | Allowed | None = None
    parallel_tool_calls: bool | None = None
    response_format: AnyText | AnyObject | OfSchema | None = None
    reasoning_effort: Effort | None = None
    service_tier: str | None = None
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    user: Any = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    modalities: Any = None
    moderation: Any = None
    n: Any = None
    store: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None
