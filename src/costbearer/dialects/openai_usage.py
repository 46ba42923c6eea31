"""The billing rules of a chat completion's usage object, and the costs that some providers state in it. Pure.

The rules are those of `openai_chat`; each provider's deviation is told by the counts themselves, never by its name.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from costbearer import money
from costbearer.dialects import reply
from costbearer.dialects.reply import Counts, Notes
from costbearer.limits import AMOUNT_USD_MAX
from costbearer.usage import COUNT_MAX, Usage

USD_PER_TICK = Decimal("1e-10")
"""xAI's `cost_in_usd_ticks`: 10,000,000,000 ticks are one dollar (shown by two recorded bodies priced at list)."""

TICKS_MAX = AMOUNT_USD_MAX * 10**10


_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class _OfPrompt(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class _OfCompletion(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _Count | None = None


class _OfServerTools(msgspec.Struct, gc=False):
    web_search_requests: _Count | None = None


class PlainUsage(msgspec.Struct, gc=False):
    """A usage object in which every count is one, and that states no cost."""

    prompt_tokens: Annotated[int, Meta(ge=1, le=COUNT_MAX)]
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _OfPrompt | None = None
    completion_tokens_details: _OfCompletion | None = None
    prompt_cache_hit_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    server_tool_use_details: _OfServerTools | None = None
    cost: None = None
    cost_in_usd_ticks: None = None
    search_context_size: None = None


_NO_PROMPT = _OfPrompt()
_NO_COMPLETION = _OfCompletion()


def read_plain(stated: PlainUsage, notes: Notes) -> Usage:
    """As `read_usage` reads the same object; it can be relied on."""
    of_prompt, of_completion = stated.prompt_tokens_details or _NO_PROMPT, stated.completion_tokens_details
    of_completion = of_completion or _NO_COMPLETION
    prompt, completion, total = stated.prompt_tokens, stated.completion_tokens, stated.total_tokens
    reasoning = of_completion.reasoning_tokens
    cached = of_prompt.cached_tokens
    if cached is None:
        cached = stated.prompt_cache_hit_tokens
    if cached is None:
        cached = stated.cached_tokens
    searched = stated.server_tool_use_details
    return Usage(
        input_tokens=prompt,
        output_tokens=completion
        if total is None or total == prompt + completion
        else inclusive_output(prompt, completion, total, reasoning, notes),
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=of_prompt.cache_write_tokens,
        reasoning_output_tokens=reasoning,
        audio_input_tokens=of_prompt.audio_tokens,
        audio_output_tokens=of_completion.audio_tokens,
        web_search_requests=None if searched is None else searched.web_search_requests,
    )


def read_usage(stated: dict[str, Any], notes: Notes) -> tuple[Usage, bool]:
    """Inclusive counts of a chat usage object, and whether they can be relied on.

    Parts that exceed their whole are kept as stated: `usage.leaves` refuses them.
    """
    counts = Counts(stated)
    prompt, completion = counts.take("prompt_tokens"), counts.take("completion_tokens")
    total = counts.take("total_tokens")
    of_prompt, of_completion = counts.part("prompt_tokens_details"), counts.part("completion_tokens_details")
    reasoning = of_completion.take("reasoning_tokens")
    cached = of_prompt.take("cached_tokens")
    for alias in ("prompt_cache_hit_tokens", "cached_tokens"):
        if cached is None:
            cached = counts.take(alias)
    usage = Usage(
        input_tokens=prompt,
        output_tokens=inclusive_output(prompt, completion, total, reasoning, notes),
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=of_prompt.take("cache_write_tokens"),
        reasoning_output_tokens=reasoning,
        audio_input_tokens=of_prompt.take("audio_tokens"),
        audio_output_tokens=of_completion.take("audio_tokens"),
        web_search_requests=counts.part("server_tool_use_details").take("web_search_requests"),
    )
    if counts.faults:
        notes.add("usage_malformed")
    if usage.input_tokens is None or usage.output_tokens is None:
        notes.add("usage_partial")
        return usage, False
    if usage.input_tokens == 0:
        # No prompt is empty: whoever states none has lost it.
        notes.add("input_zero")
        return msgspec.structs.replace(usage, input_tokens=None), False
    return usage, not counts.faults


def inclusive_output(
    prompt: int | None, completion: int | None, total: int | None, reasoning: int | None, notes: Notes
) -> int | None:
    """Output with reasoning inside, from whatever the provider's total says of where it left it."""
    if prompt is None or total is None or total < prompt:
        if total is not None and prompt is not None:
            notes.add("total_mismatch")
        return completion
    if completion is None:
        notes.add("output_from_total")
        return total - prompt
    hidden = total - prompt - completion
    if hidden == 0:
        return completion
    if hidden > 0 and hidden == reasoning:
        notes.add("reasoning_outside_output")
        return completion + hidden
    if hidden > 0 and not reasoning:
        notes.add("output_from_total")
        return total - prompt
    notes.add("total_mismatch")
    return completion


def searched(usage: dict[str, Any] | None, asked: str | None) -> str | None:
    """The size of the search context on which a fee per request depends (Perplexity: `usage.search_context_size`), with
    the kind of search that was asked for in front of it; what was asked for where the reply states no size."""
    size = reply.name(usage.get("search_context_size")) if usage is not None else None
    if size is None:
        return asked
    kind, slash, _ = (asked or "").rpartition("/")
    return f"{kind}{slash}{size}"


def read_cost(usage: dict[str, Any], notes: Notes) -> Decimal | None:
    """What the provider says the call cost, None where it does not say.

    xAI: `cost_in_usd_ticks`. OpenRouter: `cost`, and with `is_byok` true the cost at one's own provider on top of it,
    which is then not inside (https://openrouter.ai/docs/guides/administration/usage-accounting). Perplexity: `cost` is
    an object with `total_cost`.
    """
    ticks = usage.get("cost_in_usd_ticks")
    stated = usage.get("cost")
    if type(stated) is dict:
        stated = stated.get("total_cost")
    if ticks is None and stated is None:
        return None
    if ticks is not None:
        cost = money.usd(money.times(ticks, USD_PER_TICK)) if type(ticks) is int and 0 <= ticks <= TICKS_MAX else None
    else:
        cost = reply.amount(stated)
        if cost is not None and usage.get("is_byok") is True:
            notes.add("byok")
            details = usage.get("cost_details")
            upstream = reply.amount(details.get("upstream_inference_cost")) if type(details) is dict else None
            cost = None if upstream is None else reply.together((cost, upstream))
    if cost is None:
        notes.add("cost_unreadable")
    return cost
