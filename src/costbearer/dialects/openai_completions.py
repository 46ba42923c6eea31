"""OpenAI's legacy completions: a prompt in, text out.

Shape: https://platform.openai.com/docs/api-reference/completions. Replies are read as chat completions are; their
choices have `text` instead of a message. What bounds them is different: without `max_tokens` a choice has 16 tokens,
`best_of` makes more choices than are shown, and each prompt of a list has its own.
"""

from __future__ import annotations

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, reply
from costbearer.dialects.base import NOWHERE, CallRequest, Place
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_plain import CHOICES_MAX

MAX_TOKENS = 16
"""Tokens of a choice where the request sets no limit, by the API's reference."""

PROMPTS_MAX = 100_000
"""More prompts than any request can hold are counted as so many."""

_list = bounds.bounded(msgspec.json.Decoder(list[msgspec.Raw]).decode)


class OpenAICompletions(OpenAIChat):
    """The operation `completions`."""

    def __init__(self, path: str = "/completions") -> None:
        super().__init__(path)

    def read(self, body: bytes, place: Place = NOWHERE) -> CallRequest:
        """Understand a request. Raises `BodyInvalid`.

        `choices` are those that are shown, of all prompts; `max_output_tokens` is what makes up for those of `best_of`
        that are not.
        """
        fields = bodies.Fields(body)
        stream = fields.flag("stream") or False
        options = fields.object("stream_options")
        asked = options.flag("include_usage") if options is not None else None
        tags = fields.tags()
        shown = fields.whole("n", low=1, high=CHOICES_MAX) or 1
        best_of = max(fields.whole("best_of", low=1, high=CHOICES_MAX) or 1, shown)
        limit = fields.whole("max_tokens")
        limit = MAX_TOKENS if limit is None else limit
        return CallRequest(
            operation="completions",
            model=fields.model(),
            stream=stream,
            body=body,
            place=place,
            tags=tags or (),
            has_tags=tags is not None,
            wants_usage=bool(asked) or not stream,
            has_stream_options=fields.states("stream_options"),
            max_output_tokens=-(-limit * best_of // shown),
            choices=shown * _prompts(fields),
            tier=fields.word("service_tier"),
        )


def _prompts(fields: bodies.Fields) -> int:
    """How many prompts there are: a list of texts or of token lists is one each, a list of tokens is one."""
    stated = fields.raw("prompt")
    if stated is None or not bytes(stated).startswith(b"["):
        return 1
    try:
        items = _list(stated)
    except bounds.TooMuch:
        # Every prompt but a list of tokens that is the only one begins with a sign of its own.
        text = bytes(stated)
        return min(max(text.count(b'"') // 2 + text.count(b"[") - 1, 1), PROMPTS_MAX)
    except reply.UNREADABLE:
        return 1
    prompts = sum(bytes(item).lstrip()[:1] in {b'"', b"["} for item in items)
    return min(max(prompts, 1), PROMPTS_MAX)
