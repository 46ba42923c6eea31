"""The billing rules of Anthropic's usage object: which model did how much, step by step. Pure.

The rules are those of `anthropic_messages`; their source is the API reference of the usage object and the docstrings of
the SDK's `BetaUsage`, checked against recorded replies.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from costbearer.dialects import reply
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import COUNT_MAX, Usage, Work

_SERVING = ("message", "fallback_message")
_OUTSIDE_THE_TOTALS = ("compaction", "advisor_message")


_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class _Split(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _OfOutput(msgspec.Struct, gc=False):
    thinking_tokens: _Count | None = None


class _OfServerTools(msgspec.Struct, gc=False):
    web_search_requests: _Count | None = None
    web_fetch_requests: _Count | None = None


class PlainUsage(msgspec.Struct, gc=False):
    """A message's final usage in which every count is one, without iterations."""

    input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _Split | None = None
    output_tokens_details: _OfOutput | None = None
    server_tool_use: _OfServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: None = None
    fallback_credit: None = None


class Message(NamedTuple):
    """A message's usage as far as it is known. `is_final` is False before a stream has stated its totals.

    `model_is_known` says that `model` is known to have served the answer; else a fallback in the iterations names it.
    """

    usage: dict[str, Any]
    is_final: bool
    model: str
    model_is_known: bool
    server_steps: bool
    ttl_1h: bool


def read_work(message: Message, notes: Notes) -> tuple[tuple[Work, ...], str | None, bool]:
    """(each model's work, the model that served where a fallback names it, can the counts be relied on?)."""
    counts = Counts(message.usage)
    iterations = message.usage.get("iterations")
    served_by: str | None = message.model if message.model_is_known else None
    credit = message.usage.get("fallback_credit")
    if type(credit) is dict and type(credit.get("type")) is str:
        notes.add("fallback_credit:" + reply.code(credit["type"], otherwise="unnamed"))
    if message.is_final and type(iterations) is list and iterations:
        steps = [step for step in iterations if type(step) is dict]
        served_by = _fallback(steps) or served_by
        work, sound = _steps(steps, served_by or message.model, message, notes)
        sound = sound and len(steps) == len(iterations)
        if len(steps) != len(iterations):
            notes.add("usage_malformed")
        return work, served_by, sound
    usage = _usage(counts, message, notes)
    sound = not counts.faults and counts.take("input_tokens") is not None and counts.take("output_tokens") is not None
    if counts.faults:
        notes.add("usage_malformed")
    elif message.is_final and not sound:
        notes.add("usage_partial")
    if not message.is_final:
        # What a stream states at its start of the output is not what it will have been.
        usage = msgspec.structs.replace(
            usage, output_tokens=None, reasoning_output_tokens=None, web_search_requests=None
        )
        if not usage.input_tokens:
            return (), served_by, False
    if usage.input_tokens is None and usage.output_tokens is None:
        return (), served_by, False
    if usage.input_tokens == 0:
        # No prompt is empty: whoever states none has lost it.
        notes.add("input_zero")
        usage, sound = msgspec.structs.replace(usage, input_tokens=None), False
    largest = None if _looped(counts, message) else usage.input_tokens
    return (Work(model=message.model, usage=usage, largest_input_tokens=largest),), served_by, sound


def _fallback(steps: list[dict[str, Any]]) -> str | None:
    """The model of the last step that a fallback served."""
    models = [reply.name(step.get("model")) for step in steps if step.get("type") == "fallback_message"]
    return models[-1] if models else None


def _steps(
    steps: list[dict[str, Any]], served_by: str, message: Message, notes: Notes
) -> tuple[tuple[Work, ...], bool]:
    work: list[Work] = []
    serving: list[int] = []
    inside: list[Usage] = []
    faults: list[str] = []
    fallback = any(step.get("type") == "fallback_message" for step in steps)
    for step in steps:
        kind = step.get("type")
        counts = Counts(step, faults)
        usage = _usage(counts, message, notes)
        model = reply.name(step.get("model")) or served_by
        if kind != "message":
            notes.add("iteration:" + reply.code(kind, otherwise="unnamed"))
        if kind not in _OUTSIDE_THE_TOTALS:
            inside.append(usage)
        if fallback and kind == "message" and model != served_by:
            if not usage.input_tokens and not usage.output_tokens:
                continue
            notes.add("fallback_declined_hop")
        elif kind in _SERVING:
            serving.append(len(work))
        work.append(Work(model=model, usage=usage, largest_input_tokens=usage.input_tokens))
    totals = Counts(message.usage, faults)
    _give_to_serving(work, serving, totals)
    sound = _covers(inside, _usage(totals, message, notes), notes) and all(
        part.usage.input_tokens is not None and part.usage.output_tokens is not None for part in work
    )
    if faults:
        notes.add("usage_malformed")
    return tuple(work), sound and not faults


def _give_to_serving(work: list[Work], serving: list[int], totals: Counts) -> None:
    """Put what only the totals state (searches, thinking) on the steps of the model that answered.

    Searches go to the last of them. Thinking fills them in order as far as their output holds it: which step thought
    how much is not stated, and thinking costs what output costs.
    """
    if not serving:
        return
    last = serving[-1]
    searches = totals.part("server_tool_use").take("web_search_requests")
    usage = msgspec.structs.replace(work[last].usage, web_search_requests=searches)
    work[last] = msgspec.structs.replace(work[last], usage=usage)
    thinking = totals.part("output_tokens_details").take("thinking_tokens")
    if thinking is None:
        return
    for index in serving:
        usage = work[index].usage
        share = thinking if index == last else min(thinking, usage.output_tokens or 0)
        thinking -= share
        usage = msgspec.structs.replace(usage, reasoning_output_tokens=share)
        work[index] = msgspec.structs.replace(work[index], usage=usage)


def _covers(inside: list[Usage], totals: Usage, notes: Notes) -> bool:
    """Do the steps account for the totals? They do not where a later event raised the totals and sent no steps."""
    short = any(
        sum(getattr(part, name) or 0 for part in inside) < (getattr(totals, name) or 0)
        for name in ("input_tokens", "output_tokens")
    )
    if short:
        notes.add("iterations_incomplete")
    return not short


def _usage(counts: Counts, message: Message, notes: Notes) -> Usage:
    """Inclusive counts of one usage object or iteration."""
    uncached = counts.take("input_tokens")
    read = counts.take("cache_read_input_tokens")
    written = counts.take("cache_creation_input_tokens")
    split = counts.part("cache_creation")
    five, hour = split.take("ephemeral_5m_input_tokens"), split.take("ephemeral_1h_input_tokens")
    if written is None and (five is not None or hour is not None):
        written = (five or 0) + (hour or 0)
    stated = [count for count in (uncached, read, written) if count is not None]
    return Usage(
        input_tokens=sum(stated) if stated else None,
        output_tokens=counts.take("output_tokens"),
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=_one_hour(written, five, hour, message.ttl_1h, notes),
        reasoning_output_tokens=counts.part("output_tokens_details").take("thinking_tokens"),
        web_search_requests=counts.part("server_tool_use").take("web_search_requests"),
    )


def read_plain(stated: PlainUsage, ttl_1h: bool, notes: Notes) -> Usage:
    """As `read_work` reads the same object, whose counts can be relied on unless no input is stated."""
    read, written, split = stated.cache_read_input_tokens, stated.cache_creation_input_tokens, stated.cache_creation
    five = hour = None
    if split is not None:
        five, hour = split.ephemeral_5m_input_tokens, split.ephemeral_1h_input_tokens
        if written is None and (five is not None or hour is not None):
            written = (five or 0) + (hour or 0)
    details, tools = stated.output_tokens_details, stated.server_tool_use
    return Usage(
        input_tokens=stated.input_tokens + (read or 0) + (written or 0),
        output_tokens=stated.output_tokens,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=_one_hour(written, five, hour, ttl_1h, notes) if written else hour,
        reasoning_output_tokens=None if details is None else details.thinking_tokens,
        web_search_requests=None if tools is None else tools.web_search_requests,
    )


def _one_hour(written: int | None, five: int | None, hour: int | None, ttl_1h: bool, notes: Notes) -> int | None:
    """The cache writes that live for an hour; what no split accounts for lives as long as the request asked for."""
    if not written:
        return hour
    rest = written - (five or 0) - (hour or 0)
    if rest == 0:
        return hour
    if rest < 0:
        # Writes that a compaction moved into an iteration are still in the split that `message_start` stated.
        notes.add("cache_split_stale")
        return min(hour or 0, written)
    notes.add("cache_ttl_assumed")
    if hour is None and not ttl_1h:
        return None
    return (hour or 0) + (rest if ttl_1h else 0)


def _looped(counts: Counts, message: Message) -> bool:
    """Is the input a sum over several steps? Server tools run between steps, each of which reads all input again."""
    tools = counts.part("server_tool_use")
    called = [tools.take(name) for name in ("web_search_requests", "web_fetch_requests")]
    return message.server_steps or any(called)
