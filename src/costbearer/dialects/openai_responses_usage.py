"""The billing rules of a response's usage, and of the tools it does not contain. Pure.

* `input_tokens` contains cache reads and writes, `output_tokens` contains reasoning, at every provider recorded (xAI
  too, unlike its chat completions); a total that says otherwise is believed.
* What the provider's own tools did is stated apart: `tool_usage` counts billable searches and sums the image model's
  tokens (openai SDK, `Response.tool_usage`), OpenRouter and xAI count calls inside `usage`. Where nothing counts them,
  the calls in `output` are counted, of searches those that are searches: opening a page is no billed call
  (https://platform.openai.com/docs/guides/tools-web-search).
* Images that the image generation tool made are billed on the image model. If its tokens are not stated they are work
  of that model in images, which no list prices: the call's cost is then unknown, with the number of images to show why.
* A container is billed as a session, however many calls it served (https://platform.openai.com/docs/pricing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects import openai_usage, reply
from costbearer.dialects.openai_usage import inclusive_output
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import Usage, Work

IMAGE_MODEL_UNSTATED = "image_generation"
"""The model of images of which neither the request's nor the reply's tool names one. No price list has it."""

_ONE_SAMPLING = frozenset(
    {
        "message",
        "reasoning",
        "function_call",
        "custom_tool_call",
        "compaction",
        "computer_call",
        "local_shell_call",
        "apply_patch_call",
        "mcp_list_tools",
        "mcp_approval_request",
    }
)
"""Output items of one sampling of the model. After any other the model may have read its whole prompt again, and
`input_tokens` is the sum."""

_COUNTED_ELSEWHERE = frozenset({"web_search_calls", "file_search_calls", "document_search_calls", "mcp_calls"})
"""xAI's counts of tool calls that have a meter, or are billed by their tokens alone."""


_COUNTERS = ("server_tool_use_details", "server_side_tool_usage_details")
"""Members of `usage` that count calls of tools: OpenRouter's and xAI's."""


class _Request(msgspec.Struct, gc=False):
    tools: Any = None


_request = reply.decoder(_Request)


class Tools(NamedTuple):
    """What the provider's tools did, from wherever it is said. `stated` is the reply's `tool_usage`, `served` are its
    `tools`, `usage` is its usage; any of them may be anything. `asked` is the body of the request."""

    items: tuple[Mapping[str, Any], ...]
    stated: object
    served: object
    usage: Mapping[str, Any]
    asked: bytes

    @property
    def looped(self) -> bool:
        """May the input be the sum of several samplings?"""
        return bool(self.usage.get("num_server_side_tools_used")) or any(
            reply.name(item.get("type")) not in _ONE_SAMPLING for item in self.items
        )

    @property
    def silent(self) -> bool:
        """Is there nothing at all that speaks of tools? So it is of most replies, and then nothing need be counted."""
        return not (self.stated or self.looped or any(name in self.usage for name in _COUNTERS))

    def declared(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The tools of this kind or a version of it: first as the reply repeats them, with the provider's defaults
        filled in, then as the request has them."""
        yield from _of_kind(self.served, kind)
        try:
            yield from _of_kind(_request(self.asked).tools, kind)
        except reply.UNREADABLE:
            return


def read_usage(stated: Mapping[str, Any], notes: Notes, *, may_be_none: bool) -> tuple[Usage, bool]:
    """Inclusive counts of a usage object, and whether they can be relied on.

    `may_be_none` says that an input of 0 is believed: the response failed, or was cancelled, before it began.
    """
    counts = Counts(stated)
    given, made, total = counts.take("input_tokens"), counts.take("output_tokens"), counts.take("total_tokens")
    of_input, of_output = counts.part("input_tokens_details"), counts.part("output_tokens_details")
    reasoning = of_output.take("reasoning_tokens")
    usage = Usage(
        input_tokens=given,
        output_tokens=inclusive_output(given, made, total, reasoning, notes),
        cache_read_input_tokens=of_input.take("cached_tokens"),
        cache_creation_input_tokens=of_input.take("cache_write_tokens"),
        reasoning_output_tokens=reasoning,
        audio_input_tokens=of_input.take("audio_tokens"),
        audio_output_tokens=of_output.take("audio_tokens"),
    )
    sound = True
    if of_input.part("cache_write_tokens_details").take("ttl_12h_tokens"):
        # The price list has one price for cache writes, that of the usual 30 minutes.
        notes.add("cache_write_12h")
        sound = False
    if counts.faults:
        notes.add("usage_malformed")
    if usage.input_tokens is None or usage.output_tokens is None:
        notes.add("usage_partial")
        return usage, False
    if usage.input_tokens == 0 and not may_be_none:
        # No prompt is empty: whoever states none has lost it.
        notes.add("input_zero")
        return msgspec.structs.replace(usage, input_tokens=None), False
    return usage, sound and not counts.faults


def read_cost(usage: dict[str, Any], notes: Notes) -> Decimal | None:
    """What the provider says the response cost, None where it does not say; as `openai_usage.read_cost`.

    OpenRouter's responses may state the cost at one's own provider (`is_byok`) only by its two parts.
    """
    details = usage.get("cost_details")
    if (
        usage.get("is_byok") is True
        and type(details) is dict
        and details.get("upstream_inference_cost") is None
        and "cost_in_usd_ticks" not in usage
    ):
        parts = (usage.get("cost"), *(details.get(f"upstream_inference_{side}_cost") for side in ("input", "output")))
        amounts = [amount for amount in map(reply.amount, parts) if amount is not None]
        notes.add("byok")
        cost = reply.together(amounts) if len(amounts) == len(parts) else None
        if cost is None:
            notes.add("cost_unreadable")
        return cost
    return openai_usage.read_cost(usage, notes)


def with_fees(usage: Usage, tools: Tools, notes: Notes) -> tuple[Usage, bool]:
    """The usage with what the tools are billed for besides tokens, and whether all of that is known to have a meter."""
    called = Counts(_object(tools.usage.get("server_side_tool_usage_details")))
    searches = _searches(tools, called, notes)
    files = _number(tools.items, "file_search_call")
    for name in ("file_search_calls", "document_search_calls"):
        files = called.take(name) or files
    containers = len(set(_containers(tools.items)))
    if containers:
        # The session's minutes and memory, by which newer ones are billed, are nowhere in the reply.
        notes.add("container_time_unstated")
    known = True
    for name in _object(tools.usage.get("server_side_tool_usage_details")):
        if name not in _COUNTED_ELSEWHERE and called.take(name):
            notes.add("tool_fee_unmetered")
            known = False
    fees = {
        "web_search_requests": searches,
        "file_search_requests": files or None,
        "code_interpreter_sessions": containers or None,
    }
    stated = {name: count for name, count in fees.items() if count is not None}
    return msgspec.structs.replace(usage, **stated) if stated else usage, known


def variant(usage: Usage, tools: Tools) -> str | None:
    """What the prices of the fees in this usage depend on, in the words of `prices.Context`; None where on nothing."""
    words = []
    if usage.web_search_requests and any("preview" in tool["type"] for tool in tools.declared("web_search")):
        words.append("tool=web_search_preview")
    if usage.code_interpreter_sessions:
        memory = next((_memory(tool) for tool in tools.declared("code_interpreter")), None)
        if memory is not None:
            words.append(f"container={memory}")
    return ",".join(words) or None


def image_work(tools: Tools, notes: Notes) -> tuple[Work, ...]:
    """The work of image models: tokens where they are stated, else images."""
    calls = [item for item in tools.items if item.get("type") == "image_generation_call"]
    drawn = [_drawing(call["svg_usage"]) for call in calls if type(call.get("svg_usage")) is dict]
    if drawn:
        notes.add("svg_usage")
    made = sum(call.get("status") != "failed" and type(call.get("svg_usage")) is not dict for call in calls)
    tokens = _image_tokens(_object(_object(tools.stated).get("image_gen")), notes)
    if tokens is None and not made:
        return tuple(drawn)
    named = (reply.name(tool.get("model")) for tool in tools.declared("image_generation"))
    model = next((name for name in named if name is not None), IMAGE_MODEL_UNSTATED)
    if tokens is None:
        notes.add("image_tokens_unstated")
        tokens = Usage(generated_images=made)
    return (*drawn, Work(model=model, usage=tokens, largest_input_tokens=tokens.input_tokens))


def _searches(tools: Tools, called: Counts, notes: Notes) -> int | None:
    """Billed searches: the provider's count, else those in the output, None where there is nothing to count."""
    seen = sum(_is_search(item) for item in tools.items)
    stated = Counts(_object(_object(tools.stated).get("web_search"))).take("num_requests")
    if stated is None:
        stated = Counts(_object(tools.usage.get("server_tool_use_details"))).take("web_search_requests")
    if stated is None:
        stated = called.take("web_search_calls")
    if stated is None:
        return seen or None
    if stated != seen:
        notes.add("web_search_count_differs")
    return stated


def _is_search(item: Mapping[str, Any]) -> bool:
    """Is it a search, or a call that does not say what it is?"""
    if item.get("type") != "web_search_call":
        return False
    kind = _object(item.get("action")).get("type")
    return kind is None or kind == "search"


def _containers(items: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The container of each call that ran in one. A call that does not name it had one of its own."""
    for number, item in enumerate(items):
        if item.get("type") == "code_interpreter_call":
            yield reply.name(item.get("container_id")) or f"item {number}"
        elif item.get("type") == "shell_call":
            place = _object(item.get("environment"))
            if place.get("type") == "container_reference":
                yield reply.name(place.get("container_id")) or f"item {number}"


def _image_tokens(stated: Mapping[str, Any], notes: Notes) -> Usage | None:
    """The image model's counts; None where they are not stated, are all 0, or are damaged."""
    if not (stated.get("input_tokens") or stated.get("output_tokens")):
        return None
    counts = Counts(stated)
    given, made = counts.take("input_tokens"), counts.take("output_tokens")
    of_input, of_output = counts.part("input_tokens_details"), counts.part("output_tokens_details")
    of_cached = counts.part("cached_tokens_details")
    images = of_output.take("image_tokens")
    usage = Usage(
        input_tokens=given,
        image_input_tokens=of_input.take("image_tokens"),
        cache_read_input_tokens=counts.take("cached_tokens"),
        cache_read_image_input_tokens=of_cached.take("cached_image_tokens"),
        output_tokens=made,
        # Without details all of it is image: so it is in the Images API, where the same model answers.
        image_output_tokens=made if images is None else images,
    )
    if counts.faults:
        notes.add("usage_malformed")
        return None
    return usage


def _drawing(stated: dict[str, Any]) -> Work:
    """What the author of an SVG image used; it is a text model, named in the same object."""
    counts = Counts(stated)
    given = counts.take("input_tokens")
    usage = Usage(
        input_tokens=given,
        output_tokens=counts.take("output_tokens"),
        reasoning_output_tokens=counts.take("reasoning_tokens"),
    )
    model = reply.name(stated.get("model")) or IMAGE_MODEL_UNSTATED
    return Work(model=model, usage=usage, largest_input_tokens=given)


def _of_kind(tools: object, kind: str) -> Iterator[Mapping[str, Any]]:
    for tool in tools if type(tools) is list else ():
        if type(tool) is dict and type(tool.get("type")) is str and tool["type"].startswith(kind):
            yield tool


def _memory(tool: Mapping[str, Any]) -> str | None:
    """The memory of the tool's containers, 1 GB where nothing else is asked for; None for a container of the caller's
    own, which the reply does not describe (openai SDK, `CodeInterpreterContainerCodeInterpreterToolAuto`)."""
    container = tool.get("container")
    return (reply.name(container.get("memory_limit")) or "1g") if type(container) is dict else None


def _number(items: Iterable[Mapping[str, Any]], kind: str) -> int:
    return sum(item.get("type") == kind for item in items)


def _object(value: object) -> Mapping[str, Any]:
    return value if type(value) is dict else {}
