"""All formats, and which one a file is of: told from what stands in it, never from its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from costbearer.errors import InputInvalid
from costbearer.logformats.base import CONTAINERS, LogFormat, Match
from costbearer.logformats.bedrock import BEDROCK
from costbearer.logformats.bifrost import BIFROST
from costbearer.logformats.cloudflare import CLOUDFLARE
from costbearer.logformats.contract_trace import TRACE
from costbearer.logformats.envoy import ENVOY
from costbearer.logformats.generic import generic, is_usage, matched
from costbearer.logformats.helicone import HELICONE
from costbearer.logformats.langfuse import LANGFUSE
from costbearer.logformats.litellm import LITELLM
from costbearer.logformats.openrouter import OPENROUTER
from costbearer.logformats.otlp import OTLP
from costbearer.logformats.own import OWN
from costbearer.logformats.portkey import PORTKEY
from costbearer.logformats.provider_usage import ANTHROPIC_USAGE, OPENAI_USAGE
from costbearer.logformats.vercel import VERCEL

FORMATS: tuple[LogFormat, ...] = (
    OWN,
    OTLP,
    OPENAI_USAGE,
    ANTHROPIC_USAGE,
    BEDROCK,
    LITELLM,
    LANGFUSE,
    HELICONE,
    PORTKEY,
    VERCEL,
    OPENROUTER,
    CLOUDFLARE,
    BIFROST,
    ENVOY,
    TRACE,
)
"""The narrower ones first: the first that recognises a record has it."""
GENERIC = "generic"
AUTO = "auto"
NAMES: tuple[str, ...] = (*(each.name for each in FORMATS), GENERIC)
ARRAY = "*"
LOOKED_AT = 200


def recognised(head: Sequence[Any], wanted: str = AUTO, columns: Mapping[str, str] | None = None) -> list[Match]:
    """What a file holds, by the first values in it: one match, several where formats are mixed, none if nothing fits.

    `wanted` names the one format to look for. `columns` says which column is which field, and then it is a table.

    Raises:
        InputInvalid: there is no format of that name.
    """
    if wanted not in {AUTO, *NAMES}:
        raise InputInvalid(f"there is no format {wanted!r}; there are {', '.join((AUTO, *NAMES))}")
    if columns is not None:
        return [Match(generic(columns, mapped=True), _way_to_objects(head))]
    found: Counter[Match] = Counter()
    if wanted != GENERIC:
        for value in head[:LOOKED_AT]:
            match = next(_matches(value, wanted), None)
            if match is not None:
                found[match] += 1
    if found:
        return [match for match, _ in found.most_common()]
    return _by_names(head) if wanted in {AUTO, GENERIC} else []


def _matches(value: Any, wanted: str) -> Iterator[Match]:
    """The formats of one value of a file, with the way from it to a record."""
    for format_ in FORMATS:
        if wanted not in {AUTO, format_.name}:
            continue
        for steps, each in _objects(value):
            if format_.is_whole(each):
                yield Match(format_, (*steps, *format_.steps))
            elif format_.is_record(each):
                yield Match(format_, steps)


def _objects(value: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The objects a value may be about: itself, the first of a list, and the first of a list that an API wrapped."""
    if isinstance(value, list):
        for each in value[:LOOKED_AT]:
            if isinstance(each, dict):
                yield (ARRAY,), each
    if isinstance(value, dict):
        yield (), value
        for name in (*CONTAINERS, "result"):
            members = value.get(name)
            if isinstance(members, list):
                yield from (((name,), each) for each in members[:LOOKED_AT] if isinstance(each, dict))


def _way_to_objects(head: Sequence[Any]) -> tuple[str, ...]:
    value = head[0] if head else {}
    ways = [steps for steps, _ in _objects(value)]
    return ways[-1] if isinstance(value, list) and ways else next((steps for steps in ways if steps), ())


def _by_names(head: Sequence[Any]) -> list[Match]:
    """A table whose columns say by their names what they are."""
    ways: dict[tuple[str, ...], list[str]] = {}
    for value in head[:LOOKED_AT]:
        for steps, each in _objects(value):
            ways.setdefault(steps, []).extend(each)
    for steps, names in ways.items():
        found = matched(dict.fromkeys(names))
        if is_usage(found):
            return [Match(generic(found, mapped=False), steps)]
    return []
