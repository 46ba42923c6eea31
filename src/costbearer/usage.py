"""What a call used: counts with stated containment, and their split into quantities that are priced once each.

Counts follow OpenTelemetry's GenAI convention: they are *inclusive*. `input_tokens` contains cache reads, cache writes
and audio; `cache_creation_input_tokens` contains its 1-hour part; `output_tokens` contains reasoning and audio. A count
the provider did not state is absent (None), which is not 0. Adding counts of one `Usage` is therefore always wrong;
`leaves` gives the disjoint quantities that may be added and priced.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from costbearer.errors import UsageInvalid

COUNT_MAX = 10**12
"""No provider states a larger count; a larger one is damage, not usage."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Inclusive counts of one model's work in one call. Tokens unless the name says otherwise."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation_1h_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    audio_input_tokens: int | None = None
    cache_read_audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    web_search_requests: int | None = None


COUNTS: tuple[str, ...] = Usage.__struct_fields__
_counts = msgspec.structs.astuple


class Meter(msgspec.Struct, frozen=True):
    """One thing that is priced: a leaf quantity, and the inclusive counts it is made of.

    `plus` and `minus` name counts; the quantity is their difference. `falls_to` is the meter whose price holds where
    a rate card has none for this one, with `rule` as the reason; without it such usage is unrated.
    """

    name: str
    unit: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    falls_to: str | None = None
    rule: str = ""


METERS: tuple[Meter, ...] = (
    Meter(
        "input",
        "token",
        plus=("input_tokens", "cache_read_audio_input_tokens"),
        minus=("cache_read_input_tokens", "cache_creation_input_tokens", "audio_input_tokens"),
    ),
    Meter(
        "cache_read_input",
        "token",
        plus=("cache_read_input_tokens",),
        minus=("cache_read_audio_input_tokens",),
        falls_to="input",
        rule="a model without a published cached-input price bills cached tokens as input",
    ),
    Meter(
        "cache_creation_input",
        "token",
        plus=("cache_creation_input_tokens",),
        minus=("cache_creation_1h_input_tokens",),
        falls_to="input",
        rule="a model without a cache-write fee bills the tokens as input (OpenAI before gpt-5.6, Nova)",
    ),
    Meter("cache_creation_1h_input", "token", plus=("cache_creation_1h_input_tokens",)),
    Meter(
        "audio_input",
        "token",
        plus=("audio_input_tokens",),
        minus=("cache_read_audio_input_tokens",),
    ),
    Meter("cache_read_audio_input", "token", plus=("cache_read_audio_input_tokens",)),
    Meter(
        "output",
        "token",
        plus=("output_tokens",),
        minus=("reasoning_output_tokens", "audio_output_tokens"),
    ),
    Meter(
        "reasoning_output",
        "token",
        plus=("reasoning_output_tokens",),
        falls_to="output",
        rule="reasoning tokens are billed as output tokens unless the provider publishes a price of their own",
    ),
    Meter("audio_output", "token", plus=("audio_output_tokens",)),
    Meter("web_search", "request", plus=("web_search_requests",)),
)
METER: dict[str, Meter] = {meter.name: meter for meter in METERS}
_TERMS = tuple((meter, tuple(map(COUNTS.index, meter.plus)), tuple(map(COUNTS.index, meter.minus))) for meter in METERS)


def leaves(usage: Usage) -> dict[str, int]:
    """The disjoint quantities of a usage by meter, zero ones left out.

    Raises:
        UsageInvalid: a count is negative or absurd, or a part is larger than the whole that is said to contain it.
    """
    # Nearly every call counts no more than these four things; for them the table's terms are written out.
    given, made, cached, written, written_1h, reasoned, audio, cached_audio, spoken, searches = _counts(usage)
    if not (written or written_1h or audio or cached_audio or spoken or searches):
        given, made, cached, reasoned = given or 0, made or 0, cached or 0, reasoned or 0
        if 0 <= cached <= given <= COUNT_MAX and 0 <= reasoned <= made <= COUNT_MAX:
            usual = {}
            if given > cached:
                usual["input"] = given - cached
            if cached:
                usual["cache_read_input"] = cached
            if made > reasoned:
                usual["output"] = made - reasoned
            if reasoned:
                usual["reasoning_output"] = reasoned
            return usual
    return leaves_by_terms(usage)


def leaves_by_terms(usage: Usage) -> dict[str, int]:
    """The same for every usage, term by term as `METERS` says: slower, and what `leaves` is checked against."""
    counts = [0 if count is None else count for count in _counts(usage)]
    if min(counts) < 0 or max(counts) > COUNT_MAX:
        name = next(name for name, count in zip(COUNTS, counts, strict=True) if not 0 <= count <= COUNT_MAX)
        raise UsageInvalid(f"{name} is {getattr(usage, name)}; a count lies between 0 and {COUNT_MAX}", name)
    quantities: dict[str, int] = {}
    for meter, plus, minus in _TERMS:
        quantity = 0
        for position in plus:
            quantity += counts[position]
        for position in minus:
            quantity -= counts[position]
        if quantity < 0:
            exceeds = f"{' + '.join(meter.minus)} exceed {' + '.join(meter.plus)}"
            raise UsageInvalid(f"{meter.name} would be {quantity}: {exceeds}", meter.name)
        if quantity:
            quantities[meter.name] = quantity
    return quantities


def combined(parts: Iterable[Usage]) -> Usage:
    """The sum of several models' usage in one call, count by count; a count that no part states stays absent."""
    sums: dict[str, int] = {}
    for part in parts:
        for name in COUNTS:
            value = getattr(part, name)
            if value is not None:
                sums[name] = sums.get(name, 0) + value
    return Usage(**sums)


BYTES_PER_TOKEN = 4
"""The ratio by which text of unknown token count is estimated: UTF-8 bytes per token. It is what OpenAI and Anthropic
give as a rule of thumb for English text; other scripts take more tokens per character, but also more bytes.
An estimate is always marked as one (basis `estimated`) and never mixed with what a provider stated."""

OVERHEAD_TOKENS_PER_REQUEST = 1024
"""Tokens a provider's own template may add to a request beyond its bytes: role markers, separators, priming, and the
instructions that come with tools, which Anthropic states as up to 530 tokens
(https://docs.anthropic.com/en/docs/tool-use-pricing-and-tokens)."""


class Work(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one model did in a call. Most calls have one; server-side fallbacks, advisors and compaction have several.

    `largest_input_tokens` is the input of the largest single sampling step, on which long-context prices depend; None
    means that the input is the sum of steps whose sizes are not known, and then the base price holds (Anthropic sums
    the steps of server-tool loops; the context window of one step is never exceeded).
    """

    model: str
    usage: Usage
    largest_input_tokens: int | None = None


def estimated_tokens(size_bytes: int) -> int:
    """Tokens in a text of that many UTF-8 bytes, rounded up; 0 for no text."""
    return -(-size_bytes // BYTES_PER_TOKEN)
