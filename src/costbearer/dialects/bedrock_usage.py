"""Bedrock's two ways to state usage: the Converse usage object, and AWS's own meter of an InvokeModel call. Pure.

Converse (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html): `inputTokens` is what
was neither read from nor written to the cache, so the three are added. Real replies state the cache counts a second
time as `cacheReadInputTokenCount` and `cacheWriteInputTokenCount`: the same tokens, taken only where the first name is
missing. `cacheDetails` splits the writes by their time to live.

The meter of InvokeModel (reply headers `x-amzn-bedrock-*-token-count`, or `amazon-bedrock-invocationMetrics` in the
last event of a stream) counts like Converse. It is what AWS logs and shows in CloudWatch, and so what its bill is made
of; where the model's own body says otherwise the meter holds, and a note keeps the body's count
(`output_tokens_differ:134`). The body supplies what the meter does not know: times to live, server-side tools,
reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects.reply import Counts, Notes, Number
from costbearer.usage import COUNT_MAX, Usage

_HEADER = "x-amzn-bedrock-"
_DECIMAL_CHARS_MAX = 13


class Meter(NamedTuple):
    """AWS's own counts of one call; `uncached` input contains neither of the two cache counts. None is not stated."""

    uncached: int | None = None
    output: int | None = None
    read: int | None = None
    written: int | None = None

    @property
    def states_nothing(self) -> bool:
        return self.uncached is None and self.output is None and self.read is None and self.written is None


NO_METER = Meter()


def read_converse(stated: Mapping[str, Any], *, ttl_1h: bool, notes: Notes) -> tuple[Usage, bool]:
    """Inclusive counts of a Converse usage object (Nova's own bodies have the same), and whether to rely on them.

    `ttl_1h` says that the request asked for cache writes that live for an hour.
    """
    counts = Counts(stated)
    uncached, output = counts.take("inputTokens"), counts.take("outputTokens")
    read = _either(counts, "cacheReadInputTokens", "cacheReadInputTokenCount", notes)
    written = _either(counts, "cacheWriteInputTokens", "cacheWriteInputTokenCount", notes)
    hour = _one_hour(stated.get("cacheDetails"), written, ttl_1h=ttl_1h, counts=counts, notes=notes)
    usage = _inclusive(Meter(uncached, output, read, written), hour)
    usage = msgspec.structs.replace(usage, web_search_requests=_searches(stated.get("serverToolUsage"), notes))
    total = counts.take("totalTokens")
    if counts.faults:
        notes.add("usage_malformed")
    if uncached is None or output is None:
        notes.add("usage_partial")
        return usage, False
    assert usage.input_tokens is not None
    if usage.input_tokens == 0:
        # No prompt is empty: whoever states none has lost it.
        notes.add("input_zero")
        return msgspec.structs.replace(usage, input_tokens=None), False
    if total is not None and total != usage.input_tokens + output:
        notes.add("total_mismatch")
    return usage, not counts.faults


def meter_of_headers(headers: Mapping[str, str], notes: Notes) -> Meter:
    """The meter in the headers of a whole InvokeModel reply."""
    return Meter(
        *(_header_count(headers, name, notes) for name in ("input", "output", "cache-read-input", "cache-write-input"))
    )


def meter_of_metrics(metrics: object, notes: Notes) -> Meter:
    """The meter in `amazon-bedrock-invocationMetrics`."""
    if type(metrics) is not dict:
        notes.add("usage_malformed")
        return NO_METER
    counts = Counts(metrics)
    meter = Meter(
        counts.take("inputTokenCount"),
        counts.take("outputTokenCount"),
        counts.take("cacheReadInputTokenCount"),
        counts.take("cacheWriteInputTokenCount"),
    )
    if counts.faults:
        notes.add("usage_malformed")
    return meter


def metered(meter: Meter, body: Usage | None, notes: Notes) -> Usage:
    """The meter's counts, with what only the body says beside them; differences are noted with the body's count."""
    if body is None:
        return _inclusive(meter, None)
    read = body.cache_read_input_tokens if meter.read is None else meter.read
    written = body.cache_creation_input_tokens if meter.written is None else meter.written
    uncached, output = meter.uncached, meter.output
    cached = (read or 0) + (written or 0)
    if body.input_tokens is not None:
        own = max(0, body.input_tokens - cached)
        if uncached is None or (meter.read is None and meter.written is None and uncached == body.input_tokens):
            # A meter that names no cache counts, and as much input as the body has in all, counted the cache in.
            uncached = own
        elif uncached != own:
            notes.add(f"input_tokens_differ:{body.input_tokens}")
    if output is None:
        output = body.output_tokens
    elif body.output_tokens is not None and output != body.output_tokens:
        notes.add(f"output_tokens_differ:{body.output_tokens}")
    hour, reasoning = body.cache_creation_1h_input_tokens, body.reasoning_output_tokens
    return msgspec.structs.replace(
        body,
        input_tokens=None if uncached is None else uncached + cached,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cache_creation_1h_input_tokens=hour if hour is None or written is None else min(hour, written),
        reasoning_output_tokens=reasoning if reasoning is None or output is None else min(reasoning, output),
    )


def count(value: object) -> int | None:
    """A count, also where it is written with a fraction of zero (Titan: `188.0`); None for anything else."""
    if type(value) is Number:
        whole, _, fraction = value.partition(".")
        value = (
            int(whole) if whole.isdecimal() and len(whole) <= _DECIMAL_CHARS_MAX and not fraction.strip("0") else None
        )
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def _inclusive(meter: Meter, hour: int | None) -> Usage:
    stated = [part for part in (meter.uncached, meter.read, meter.written) if part is not None]
    return Usage(
        input_tokens=sum(stated) if meter.uncached is not None else None,
        output_tokens=meter.output,
        cache_read_input_tokens=meter.read,
        cache_creation_input_tokens=meter.written,
        cache_creation_1h_input_tokens=hour,
    )


def _either(counts: Counts, name: str, alias: str, notes: Notes) -> int | None:
    """One count under two names: never their sum."""
    first, second = counts.take(name), counts.take(alias)
    if first is not None and second is not None and first != second:
        notes.add("cache_alias_mismatch")
    return second if first is None else first


def _one_hour(details: object, written: int | None, *, ttl_1h: bool, counts: Counts, notes: Notes) -> int | None:
    """The cache writes that live for an hour; what no split accounts for lives as long as the request asked for."""
    split = {"5m": 0, "1h": 0}
    for detail in details if type(details) is list else ():
        ttl = detail.get("ttl") if type(detail) is dict else None
        tokens = Counts(detail, counts.faults).take("inputTokens") if type(detail) is dict else None
        if type(ttl) is str and ttl in split and tokens is not None:
            split[ttl] += tokens
        else:
            notes.add("cache_split_unreadable")
    if not written:
        return None if written is None or not details else 0
    left = written - split["5m"] - split["1h"]
    if left < 0:
        notes.add("cache_split_mismatch")
        return min(split["1h"], written)
    if left:
        notes.add("cache_ttl_assumed")
        if not details and not ttl_1h:
            return None
    return split["1h"] + (left if ttl_1h else 0)


def _searches(tools: object, notes: Notes) -> int | None:
    """Searches by a tool of the server; uses of any other tool are named, because no count of ours has them."""
    if type(tools) is not dict:
        return None
    searches = None
    for name, value in tools.items():
        if name in ("webSearchRequests", "web_search_requests") and type(value) is int and 0 <= value <= COUNT_MAX:
            searches = value
        elif value:
            notes.add("server_tool_usage")
    return searches


def _header_count(headers: Mapping[str, str], name: str, notes: Notes) -> int | None:
    text = headers.get(f"{_HEADER}{name}-token-count")
    if text is None:
        return None
    text = text.strip()
    if not text.isascii() or not text.isdecimal() or len(text) > _DECIMAL_CHARS_MAX or int(text) > COUNT_MAX:
        notes.add("usage_malformed")
        return None
    return int(text)
