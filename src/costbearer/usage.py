"""What a call used: counts with stated containment, and their split into quantities that are priced once each.

Counts follow OpenTelemetry's GenAI convention: they are *inclusive*. `input_tokens` contains cache reads, cache
writes, audio, images and video; `cache_read_input_tokens` contains the cached audio and images, which their own counts
contain too; `cache_creation_input_tokens` contains its 1-hour part; `output_tokens` contains reasoning, audio and
images. Citation tokens, and what is not counted in tokens, stand beside them. A count the provider did not state is
absent (None), which is not 0. Adding counts of one `Usage` is therefore always wrong; `leaves` gives the disjoint
quantities that may be added and priced.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from costbearer import limits
from costbearer.errors import UsageInvalid

COUNT_MAX = limits.COUNT_MAX
"""No provider states a larger count; a larger one is damage, not usage."""

MODELS_MAX = 50
"""Models whose work one reading tells apart. OpenAI takes one model a batch, and nobody's batches mix this many; but
whoever can store a file at a provider can write any number of names into it."""

WORK_MAX = 1_000
"""Parts of work in one reading: requests of every size up to a million tokens, told apart by the thousand."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Inclusive counts of one model's work in one call. Tokens unless the name says otherwise.

    `input_characters` is the text that is to be spoken, `input_audio_seconds` the sound that is to be written down, in
    whole seconds as its provider rounds it; `search_units` are Cohere's: one query with up to 100 documents.
    """

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
    image_input_tokens: int | None = None
    cache_read_image_input_tokens: int | None = None
    video_input_tokens: int | None = None
    image_output_tokens: int | None = None
    citation_tokens: int | None = None
    input_characters: int | None = None
    input_audio_seconds: int | None = None
    input_pages: int | None = None
    generated_images: int | None = None
    file_search_requests: int | None = None
    code_interpreter_sessions: int | None = None
    search_units: int | None = None


COUNTS: tuple[str, ...] = Usage.__struct_fields__
_counts = msgspec.structs.astuple


def _signs(meter: Meter, count: str) -> tuple[int, ...]:
    return (1,) * (count in meter.plus) + (-1,) * (count in meter.minus)


class Meter(msgspec.Struct, frozen=True):
    """One thing that is priced: a leaf quantity, and the inclusive counts it is made of.

    `plus` and `minus` name counts; the quantity is their difference. `side` says of tokens which total they are part
    of, and is empty for what is in neither. `falls_to` are the meters in whose stead this one is charged where a rate
    card has no price for it, as the first of them that has one, with `rule` as the reason; where none has, such usage
    is unrated. `optional` is what a call uses only where a tool is asked for; the others are what the model works on.
    """

    name: str
    unit: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    falls_to: tuple[str, ...] = ()
    rule: str = ""
    side: str = ""
    optional: bool = False


REQUEST = "request"
"""The meter of a fee per request (Perplexity). It has no count: every call is one request, whatever its provider says
of its usage, so the fee follows from the rate card alone, and no reader of usage can forget it."""

METERS: tuple[Meter, ...] = (
    Meter(
        "input",
        "token",
        plus=("input_tokens", "cache_read_audio_input_tokens", "cache_read_image_input_tokens"),
        minus=(
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "audio_input_tokens",
            "image_input_tokens",
            "video_input_tokens",
        ),
        side="input",
    ),
    Meter(
        "cache_read_input",
        "token",
        plus=("cache_read_input_tokens",),
        minus=("cache_read_audio_input_tokens", "cache_read_image_input_tokens"),
        falls_to=("input",),
        side="input",
        rule="a model without a published cached-input price bills cached tokens as input",
    ),
    Meter(
        "cache_creation_input",
        "token",
        plus=("cache_creation_input_tokens",),
        minus=("cache_creation_1h_input_tokens",),
        falls_to=("input",),
        side="input",
        rule="a model without a cache-write fee bills the tokens as input (OpenAI before gpt-5.6, Nova)",
    ),
    Meter("cache_creation_1h_input", "token", plus=("cache_creation_1h_input_tokens",), side="input"),
    Meter(
        "audio_input",
        "token",
        plus=("audio_input_tokens",),
        minus=("cache_read_audio_input_tokens",),
        side="input",
    ),
    Meter("cache_read_audio_input", "token", plus=("cache_read_audio_input_tokens",), side="input"),
    Meter(
        "output",
        "token",
        plus=("output_tokens",),
        minus=("reasoning_output_tokens", "audio_output_tokens", "image_output_tokens"),
        side="output",
    ),
    Meter(
        "reasoning_output",
        "token",
        plus=("reasoning_output_tokens",),
        falls_to=("output",),
        side="output",
        rule="reasoning tokens are billed as output tokens unless the provider publishes a price of their own",
    ),
    Meter("audio_output", "token", plus=("audio_output_tokens",), side="output"),
    Meter("web_search", "request", plus=("web_search_requests",), optional=True),
    Meter(
        "image_input",
        "token",
        plus=("image_input_tokens",),
        minus=("cache_read_image_input_tokens",),
        falls_to=("input",),
        side="input",
        rule="chat models bill images as input unless the provider publishes a price of their own",
    ),
    Meter(
        "cache_read_image_input",
        "token",
        plus=("cache_read_image_input_tokens",),
        falls_to=("cache_read_input", "image_input", "input"),
        side="input",
        rule="cached images are billed as cached input unless the provider publishes a price of their own, and as "
        "images where it has no price for cached tokens at all",
    ),
    Meter(
        "video_input",
        "token",
        plus=("video_input_tokens",),
        falls_to=("input",),
        side="input",
        rule="chat models bill video as input unless the provider publishes a price of its own",
    ),
    Meter("image_output", "token", plus=("image_output_tokens",), side="output"),
    Meter("citation", "token", plus=("citation_tokens",)),
    Meter("input_character", "character", plus=("input_characters",)),
    Meter("input_audio_second", "second", plus=("input_audio_seconds",)),
    Meter("input_page", "page", plus=("input_pages",)),
    Meter("generated_image", "image", plus=("generated_images",)),
    Meter("file_search", "request", plus=("file_search_requests",), optional=True),
    Meter("code_interpreter_session", "session", plus=("code_interpreter_sessions",), optional=True),
    Meter("search_unit", "search unit", plus=("search_units",)),
    Meter(REQUEST, "request", plus=()),
)
METER: dict[str, Meter] = {meter.name: meter for meter in METERS}
_USUAL = 6
"""So many counts, the first, are all that nearly every call states."""
_NOT_STATED = (None,) * (len(COUNTS) - _USUAL)
_EFFECTS: tuple[tuple[tuple[int, int], ...], ...] = tuple(
    tuple((place, sign) for place, meter in enumerate(METERS) for sign in _signs(meter, name)) for name in COUNTS
)
"""For each count the meters it is added to (1) or taken from (-1), by their place in the table."""


def leaves(usage: Usage) -> dict[str, int]:
    """The disjoint quantities of a usage by meter, zero ones left out.

    Raises:
        UsageInvalid: a count is negative or absurd, or a part is larger than the whole that is said to contain it.
    """
    # Nearly every call counts no more than these six things; for them the table's terms are written out.
    counts = _counts(usage)
    others = counts[_USUAL:]
    if others == _NOT_STATED or not any(others):
        given, made, cached, written, written_1h, reasoned = counts[:_USUAL]
        given, made, cached, reasoned = given or 0, made or 0, cached or 0, reasoned or 0
        written, written_1h = written or 0, written_1h or 0
        plain = given - cached - written
        if (
            plain >= 0
            and cached >= 0
            and given <= COUNT_MAX
            and 0 <= written_1h <= written
            and 0 <= reasoned <= made <= COUNT_MAX
        ):
            usual = {}
            if plain:
                usual["input"] = plain
            if cached:
                usual["cache_read_input"] = cached
            if written:
                if written > written_1h:
                    usual["cache_creation_input"] = written - written_1h
                if written_1h:
                    usual["cache_creation_1h_input"] = written_1h
            if made > reasoned:
                usual["output"] = made - reasoned
            if reasoned:
                usual["reasoning_output"] = reasoned
            return usual
    return leaves_by_terms(usage)


def leaves_by_terms(usage: Usage) -> dict[str, int]:
    """The same for every usage, count by count as `METERS` says: slower, and what `leaves` is checked against."""
    quantities = [0] * len(METERS)
    for position, count in enumerate(_counts(usage)):
        if count:
            if not 0 <= count <= COUNT_MAX:
                name = COUNTS[position]
                raise UsageInvalid(f"{name} is {count}; a count lies between 0 and {COUNT_MAX}", name)
            for place, sign in _EFFECTS[position]:
                quantities[place] += sign * count
    if min(quantities) < 0:
        meter, quantity = next(pair for pair in zip(METERS, quantities, strict=True) if pair[1] < 0)
        exceeds = f"{' + '.join(meter.minus)} exceed {' + '.join(meter.plus)}"
        raise UsageInvalid(f"{meter.name} would be {quantity}: {exceeds}", meter.name)
    return {meter: quantity for meter, quantity in zip(METER, quantities, strict=True) if quantity}


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
