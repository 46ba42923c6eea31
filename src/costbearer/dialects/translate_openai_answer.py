"""A neutral answer as an OpenAI chat completion, whole or in chunks, and a provider's error as OpenAI's.

Shapes: https://platform.openai.com/docs/api-reference/chat/object and /streaming. What OpenAI has no word for is said
in the words of other OpenAI-compatible APIs: `reasoning_content` (DeepSeek), `images`, `native_finish_reason` and
`reasoning_details` (OpenRouter; to be sent back by the caller, with the provider's signature), and
`extra_content.google.thought_signature` (Google).
"""

from __future__ import annotations

from typing import Any

import msgspec

from costbearer.dialects.base import Reading
from costbearer.dialects.neutral import (
    Answer,
    Begun,
    CallBegun,
    CallMore,
    Event,
    Fault,
    Finished,
    Image,
    Reasoned,
    Said,
    Text,
    Thought,
    ToolCall,
)
from costbearer.usage import Usage, combined

DONE = b"data: [DONE]\n\n"

_TIERS = {"default": "default", "standard": "default", "on_demand": "default", "flex": "flex", "priority": "priority"}
"""The tier that served a call, in OpenAI's words; other tiers have none and are left out."""

_encode = msgspec.json.Encoder().encode


def usage(reading: Reading) -> dict[str, Any] | None:
    """OpenAI's usage object for what the provider stated; None where it stated no tokens.

    All models of the call together: an answer has one usage object.
    """
    used = reading.work[0].usage if len(reading.work) == 1 else combined(part.usage for part in reading.work)
    prompt, completion = used.input_tokens, used.output_tokens
    if prompt is None or completion is None:
        return None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        **_details(used),
    }


def _details(used: Usage) -> dict[str, Any]:
    prompt = {
        "cached_tokens": used.cache_read_input_tokens,
        "cache_write_tokens": used.cache_creation_input_tokens,
        "audio_tokens": used.audio_input_tokens,
        "image_tokens": used.image_input_tokens,
    }
    completion = {"reasoning_tokens": used.reasoning_output_tokens, "audio_tokens": used.audio_output_tokens}
    found = {}
    for name, counts in (("prompt_tokens_details", prompt), ("completion_tokens_details", completion)):
        stated = {member: count for member, count in counts.items() if count is not None}
        if stated:
            found[name] = stated
    return found


def tier(reading: Reading) -> str | None:
    """The tier that served the call, where OpenAI has a word for it."""
    return None if reading.tier is None else _TIERS.get(reading.tier.lower())


def completion(answer: Answer, reading: Reading, *, answer_id: str, model: str, created: int) -> bytes:
    """The whole answer. `answer_id` and `model` stand in where the provider states none; `created` is in seconds."""
    choice = {
        "index": 0,
        "message": _message(answer),
        "logprobs": None,
        "finish_reason": answer.finish,
        "native_finish_reason": answer.native,
    }
    served = tier(reading)
    return _encode(
        {
            "id": answer.id or answer_id,
            "object": "chat.completion",
            "created": created,
            "model": answer.model or model,
            "choices": [choice],
            **({} if served is None else {"service_tier": served}),
            "usage": usage(reading),
        }
    )


def _message(answer: Answer) -> dict[str, Any]:
    texts = [part.text for part in answer.parts if type(part) is Text]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": answer.refusal,
    }
    thoughts = [part for part in answer.parts if type(part) is Thought]
    if thoughts:
        reasoning = "".join(thought.text for thought in thoughts)
        if reasoning:
            message["reasoning_content"] = reasoning
        returnable = [thought for thought in thoughts if _is_returnable(thought)]
        if returnable:
            message["reasoning_details"] = [_detail(thought, index) for index, thought in enumerate(returnable)]
    images = [_image(part) for part in answer.parts if type(part) is Image]
    if images:
        message["images"] = images
    calls = [part for part in answer.parts if type(part) is ToolCall]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": bytes(call.arguments).decode()},
                **_extra(call.signature),
            }
            for call in calls
        ]
    return message


def _is_returnable(thought: Thought) -> bool:
    """Reasoning that the provider takes back: only with its signature."""
    return thought.signature is not None or thought.sealed is not None


def _detail(thought: Thought, index: int) -> dict[str, Any]:
    if thought.sealed is not None:
        detail: dict[str, Any] = {"type": "reasoning.encrypted", "data": thought.sealed}
    else:
        detail = {"type": "reasoning.text", "text": thought.text, "signature": thought.signature}
    return {**detail, "format": thought.maker, "index": index}


def _image(image: Image) -> dict[str, Any]:
    url = image.url or f"data:{image.media_type};base64,{image.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _extra(signature: str | None) -> dict[str, Any]:
    return {} if signature is None else {"extra_content": {"google": {"thought_signature": signature}}}


def error(fault: Fault) -> bytes:
    """A provider's error in OpenAI's shape, in the provider's own words."""
    return _encode({"error": {"message": fault.message, "type": fault.kind, "param": None, "code": fault.code}})


class Chunks:
    """The chunks of one streamed answer.

    `answer_id` and `model` hold where the provider states none. With `wants_usage` every chunk has a member `usage`, as
    OpenAI's do: null until the last.
    """

    def __init__(self, *, answer_id: str, model: str, created: int, wants_usage: bool) -> None:
        self._id = answer_id
        self._model = model
        self._created = created
        self._wants_usage = wants_usage
        self._head = b""
        self._tail = b',"finish_reason":null}]' + (b',"usage":null' if wants_usage else b"") + b"}\n\n"
        self._thoughts = 0
        self._finished: Finished | None = None
        self.failed = False

    def of(self, event: Event) -> bytes:
        """The chunks that tell of an event. Nothing follows an error."""
        if self.failed:
            return b""
        kind = type(event)
        if kind is Said:
            return self._delta(b'{"content":' + _encode(event.text) + b"}")  # type: ignore[union-attr]
        if kind is Begun:
            return self._begin(event)  # type: ignore[arg-type]
        if kind is Finished:
            self._finished = event  # type: ignore[assignment]
            return b""
        if kind is Fault:
            self.failed = True
            return b"data: " + error(event) + b"\n\n"  # type: ignore[arg-type]
        delta = self._other(event)
        return b"" if delta is None else self._delta(_encode(delta))

    def _begin(self, begun: Begun) -> bytes:
        if self._head:
            # A second beginning is a proxy's artefact; the caller has had the first.
            return b""
        self._id, self._model = begun.id or self._id, begun.model or self._model
        return self._delta(b'{"role":"assistant","content":""}')

    def _other(self, event: Event) -> dict[str, Any] | None:
        if isinstance(event, Reasoned):
            return {"reasoning_content": event.text}
        if isinstance(event, CallMore):
            return {"tool_calls": [{"index": event.call, "function": {"arguments": event.arguments}}]}
        if isinstance(event, CallBegun):
            function = {"name": event.name, "arguments": event.arguments}
            call = {"index": event.call, "id": event.id, "type": "function", "function": function}
            return {"tool_calls": [{**call, **_extra(event.signature)}]}
        if isinstance(event, Thought):
            if not _is_returnable(event):
                return None
            index, self._thoughts = self._thoughts, self._thoughts + 1
            return {"reasoning_details": [_detail(event, index)]}
        if isinstance(event, Image):
            return {"images": [_image(event)]}
        return None

    def end(self, reading: Reading) -> bytes:
        """The last chunks: why it ended, what it used if the caller asked, and the end marker.

        Nothing where the provider never said that the answer is complete: its end must not look like one.
        """
        finished = self._finished
        if self.failed or finished is None:
            return b""
        opened = b"" if self._head else self._begin(Begun(None, None))
        delta = {} if finished.refusal is None else {"refusal": finished.refusal}
        choice = {
            "index": 0,
            "delta": delta,
            "finish_reason": finished.finish,
            "native_finish_reason": finished.native,
        }
        served = tier(reading)
        members = {"choices": [choice], **({} if served is None else {"service_tier": served})}
        if not self._wants_usage:
            return opened + self._chunk(members) + DONE
        used = usage(reading)
        last = b"" if used is None else self._chunk({"choices": [], "usage": used})
        return opened + self._chunk({**members, "usage": None}) + last + DONE

    def _common(self) -> dict[str, Any]:
        return {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}

    def _chunk(self, members: dict[str, Any]) -> bytes:
        return b"data: " + _encode({**self._common(), **members}) + b"\n\n"

    def _delta(self, delta: bytes) -> bytes:
        head = self._head
        if not head:
            # The same in every chunk; written once, because a chunk often brings a single token.
            head = b"data: " + _encode(self._common())[:-1] + b',"choices":[{"index":0,"delta":'
            self._head = head
        return head + delta + self._tail
