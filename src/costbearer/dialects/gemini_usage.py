"""The billing rules of Gemini's usage objects, of `generateContent` and of interactions. Pure.

Fields: https://ai.google.dev/api/generate-content#UsageMetadata and the types of the google-genai SDK. The rules:

* The total is prompt + candidates + thoughts + tool-use prompt: four disjoint counts, of which the prompt contains what
  came from a cache. Our input contains prompt and tool-use prompt, our output candidates and thoughts.
* A count of zero is left out. A blocked prompt therefore has no candidates; it is billed all the same.
* The details by modality need not add up to their count: what they do not account for is text. They are never checked
  against it. A document is text as far as prices go.
* A service that was asked to write enums as numbers writes the modality and the traffic type as numbers too.
* Long-context prices follow the prompt alone: what tools add is read in further, shorter steps.
* Grounding with Google Search is billed per query by Gemini 3 and later, per grounded prompt before; empty queries and
  repeated ones do not count (https://ai.google.dev/gemini-api/docs/google-search#pricing). The free allowance is the
  whole account's and is not in any reply, so the price is the list's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects import reply
from costbearer.dialects.reply import Counts, Notes
from costbearer.usage import COUNT_MAX, Usage

TIER_HEADER = "x-gemini-service-tier"
"""The tier that served the call: https://ai.google.dev/gemini-api/docs/priority-inference."""

_TEXT, _IMAGE, _VIDEO, _AUDIO = "text", "image", "video", "audio"

_MODALITIES: dict[str | int, str] = {
    "MODALITY_UNSPECIFIED": _TEXT,
    "TEXT": _TEXT,
    "IMAGE": _IMAGE,
    "VIDEO": _VIDEO,
    "AUDIO": _AUDIO,
    "DOCUMENT": _TEXT,
    0: _TEXT,
    1: _TEXT,
    2: _IMAGE,
    3: _VIDEO,
    4: _AUDIO,
    5: _TEXT,
}
"""What a modality is priced as, by its name and by its number in google.cloud.aiplatform.v1.Modality."""

_TRAFFIC_TYPES = {1: "ON_DEMAND", 2: "PROVISIONED_THROUGHPUT"}
"""google.cloud.aiplatform.v1.GenerateContentResponse.UsageMetadata.TrafficType. Any other number stays a number, which
no price list knows."""

_UNSAID = frozenset({"unspecified", "traffic_type_unspecified", "service_tier_unspecified"})
_TIER_PREFIX = "SERVICE_TIER_"
_BILLED_PER_PROMPT = re.compile(r"gemini-[12](?![0-9])")
"""Models before Gemini 3. A name without a number (`gemini-pro-latest`) is answered under that of the serving model."""


class Part(NamedTuple):
    """One of a usage object's counts with its details by modality."""

    tokens: int | None
    by_modality: Mapping[str, int]

    def of(self, modality: str) -> int:
        return self.by_modality.get(modality, 0)


class Stated(NamedTuple):
    """A usage object, whichever API's names it came under."""

    prompt: Part
    tool_use: Part
    cached: Part
    candidates: Part
    thoughts: int | None
    total: int | None


class Grounding:
    """The searches that a reply says were made for it."""

    __slots__ = ("_queries", "_stated", "maps")

    def __init__(self) -> None:
        self._queries: set[str] = set()
        self._stated: int | None = None
        self.maps = False
        """Was Google Maps asked? Its price is not the one of a search, and its queries are not stated."""

    def add(self, queries: object) -> None:
        """Queries as a reply lists them, again in later chunks of a stream."""
        if type(queries) is list:
            self._queries.update(query for query in queries if type(query) is str and query.strip())

    def state(self, count: int) -> None:
        """The number of searches, where the usage has it."""
        self._stated = count

    def requests(self, model: str) -> int | None:
        """The searches that are billed; None where there is no sign of any."""
        found = len(self._queries) if self._stated is None else self._stated
        if not found:
            return self._stated
        return 1 if _BILLED_PER_PROMPT.match(model) else found


def read_content_usage(usage: Mapping[str, Any], notes: Notes) -> tuple[Stated, bool]:
    """A `usageMetadata`, and whether all that it states are counts. The Live API's names are read as well."""
    counts = Counts(usage)
    candidates = "candidatesTokenCount" if "candidatesTokenCount" in usage else "responseTokenCount"
    details = "candidatesTokensDetails" if "candidatesTokensDetails" in usage else "responseTokensDetails"
    prompt_details = "promptTokensDetails" if "promptTokensDetails" in usage else "promptTokenDetails"
    stated = Stated(
        prompt=_part(counts, "promptTokenCount", usage.get(prompt_details), notes),
        tool_use=_part(counts, "toolUsePromptTokenCount", usage.get("toolUsePromptTokensDetails"), notes),
        cached=_part(counts, "cachedContentTokenCount", usage.get("cacheTokensDetails"), notes),
        candidates=_part(counts, candidates, usage.get(details), notes),
        thoughts=counts.take("thoughtsTokenCount"),
        total=counts.take("totalTokenCount"),
    )
    return stated, _sound(counts, notes)


def read_interaction_usage(usage: Mapping[str, Any], notes: Notes) -> tuple[Stated, bool]:
    """The `usage` of an interaction, and whether all that it states are counts."""
    counts = Counts(usage)
    stated = Stated(
        prompt=_part(counts, "total_input_tokens", usage.get("input_tokens_by_modality"), notes),
        tool_use=_part(counts, "total_tool_use_tokens", usage.get("tool_use_tokens_by_modality"), notes),
        cached=_part(counts, "total_cached_tokens", usage.get("cached_tokens_by_modality"), notes),
        candidates=_part(counts, "total_output_tokens", usage.get("output_tokens_by_modality"), notes),
        thoughts=counts.take("total_thought_tokens"),
        total=counts.take("total_tokens"),
    )
    return stated, _sound(counts, notes)


def _sound(counts: Counts, notes: Notes) -> bool:
    if counts.faults:
        notes.add("usage_malformed")
    return not counts.faults


def _part(counts: Counts, name: str, details: object, notes: Notes) -> Part:
    tokens = counts.take(name)
    if details is None:
        return Part(tokens, {})
    if type(details) is not list:
        counts.faults.append(f"{name} details")
        return Part(tokens, {})
    found: dict[str, int] = {}
    for item in details:
        if type(item) is not dict:
            counts.faults.append(f"{name} details")
            continue
        count = item.get("tokenCount", item.get("tokens", 0))
        if type(count) is not int or not 0 <= count <= COUNT_MAX:
            counts.faults.append(f"{name} details")
            continue
        modality = _modality(item.get("modality"), notes)
        found[modality] = found.get(modality, 0) + count
    return Part(tokens, found)


def _modality(stated: object, notes: Notes) -> str:
    """What a modality is priced as; one that is new is text until somebody knows better, and noted."""
    if stated is None:
        return _TEXT
    key = stated.upper() if type(stated) is str else stated if type(stated) is int else -1
    found = _MODALITIES.get(key)
    if found is None:
        notes.add("modality_unknown")
        return _TEXT
    return found


def inclusive(stated: Stated, notes: Notes) -> tuple[Usage, bool]:
    """Inclusive counts, and whether they can be relied on.

    Parts that exceed their whole are kept as stated: `usage.leaves` refuses them. Video has no cached count of its own,
    so that video that came from a cache counts as cached input and not as video.
    """
    prompt, tool_use, cached = stated.prompt, stated.tool_use, stated.cached
    usage = Usage(
        input_tokens=_sum(prompt.tokens, tool_use.tokens),
        output_tokens=_output(stated, notes),
        cache_read_input_tokens=cached.tokens,
        reasoning_output_tokens=stated.thoughts,
        audio_input_tokens=_input_of(_AUDIO, stated),
        cache_read_audio_input_tokens=cached.of(_AUDIO) or None,
        image_input_tokens=_input_of(_IMAGE, stated),
        cache_read_image_input_tokens=cached.of(_IMAGE) or None,
        video_input_tokens=_video(stated),
        audio_output_tokens=stated.candidates.of(_AUDIO) or None,
        image_output_tokens=stated.candidates.of(_IMAGE) or None,
    )
    if cached.tokens and not cached.by_modality and (usage.audio_input_tokens or usage.image_input_tokens):
        notes.add("cache_modality_assumed")
    if prompt.tokens is None:
        notes.add("usage_partial")
        return usage, False
    if prompt.tokens == 0:
        # No prompt is empty: whoever states none has lost it.
        notes.add("input_zero")
        return msgspec.structs.replace(usage, input_tokens=None), False
    return usage, True


def _sum(*parts: int | None) -> int | None:
    stated = [part for part in parts if part is not None]
    return sum(stated) if stated else None


def _input_of(modality: str, stated: Stated) -> int | None:
    return stated.prompt.of(modality) + stated.tool_use.of(modality) or None


def _video(stated: Stated) -> int | None:
    seen = _input_of(_VIDEO, stated)
    return None if seen is None else max(0, seen - stated.cached.of(_VIDEO))


def _output(stated: Stated, notes: Notes) -> int | None:
    """Candidates and thoughts. Where neither is stated the total says how many there were: none, for a blocked prompt.

    A total that differs is noted and changes nothing: what it counts beyond the four is not documented.
    """
    output = _sum(stated.candidates.tokens, stated.thoughts)
    given = (stated.prompt.tokens or 0) + (stated.tool_use.tokens or 0)
    if stated.total is None:
        return output
    if output is None:
        return stated.total - given if stated.total >= given else None
    if stated.total != given + output:
        notes.add("total_mismatch")
    return output


def read_tier(usage: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """The tier that served a call: the Gemini API's `serviceTier` (in the usage or the header of that name) or Vertex
    AI's `trafficType`, which says it in other words."""
    for stated in (usage.get("serviceTier"), usage.get("trafficType"), headers.get(TIER_HEADER)):
        tier = _traffic_type(stated) if type(stated) is int else tier_word(stated)
        if tier is not None:
            return tier
    return None


def _traffic_type(number: int) -> str | None:
    return _TRAFFIC_TYPES.get(number, f"TRAFFIC_TYPE_{number}") if number else None


def tier_word(stated: object) -> str | None:
    """A tier in one spelling of the API's two (`priority`, `SERVICE_TIER_PRIORITY`); None where nothing is said."""
    word = reply.name(stated)
    if word is None or word.lower() in _UNSAID:
        return None
    return word[len(_TIER_PREFIX) :].lower() if word.upper().startswith(_TIER_PREFIX) else word
