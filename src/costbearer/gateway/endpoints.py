"""The paths that are metered. A path that is not in this table is refused, never passed through unseen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from costbearer.dialects.base import NOTHING


class Endpoint(NamedTuple):
    """`operation` is None for what the gateway answers itself. `media` says what kind of body there is to read.

    A part of the path in braces is a parameter and holds no slash; one that ends in `*` may, because it is an ARN.
    """

    method: str
    template: str
    dialect: str
    operation: str | None
    media: Literal["json", "form", "none"] = "json"


TABLE: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/chat/completions", "openai", "chat"),
    Endpoint("GET", "/v1/models", "openai", None, "none"),
    Endpoint("POST", "/v1/messages", "anthropic", "chat"),
    Endpoint("POST", "/v1/messages/count_tokens", "anthropic", "count_tokens"),
)

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})

_PARAMETER = re.compile(r"\{(\w+)(\*?)\}")
_FIXED = {(row.method, row.template): row for row in TABLE if "{" not in row.template}


def _pattern(template: str) -> re.Pattern[str]:
    """What follows a parameter in the template ends it: `{model}:generateContent`, `{model*}/converse`."""
    text, end = "", 0
    for found in _PARAMETER.finditer(template):
        text += re.escape(template[end : found.start()])
        text += f"(?P<{found[1]}>[A-Za-z0-9@._:/-]+)" if found[2] else f"(?P<{found[1]}>[A-Za-z0-9@._-]+)"
        end = found.end()
    return re.compile(text + re.escape(template[end:]))


_VARIABLE = tuple((row.method, _pattern(row.template), row) for row in TABLE if "{" in row.template)


def find(method: str, path: str) -> tuple[Endpoint, Mapping[str, str]] | None:
    """The endpoint of a path and its parameters. A parameter that climbs (`..`) or is empty matches nothing."""
    fixed = _FIXED.get((method, path))
    if fixed is not None:
        return fixed, NOTHING
    if ".." in path or "//" in path:
        return None
    for wanted, pattern, row in _VARIABLE:
        if wanted == method:
            match = pattern.fullmatch(path)
            if match is not None:
                return row, match.groupdict()
    return None


def family(path: str) -> str:
    """The dialect in which to refuse a path that is not in the table."""
    for prefix, dialect in _FAMILIES:
        if path.startswith(prefix):
            return dialect
    return "openai"


_FAMILIES = (
    ("/v1/messages", "anthropic"),
    ("/v1beta/", "gemini"),
    ("/v1/projects/", "gemini"),
    ("/v1beta1/projects/", "gemini"),
    ("/model/", "bedrock"),
    ("/openai/", "azure"),
)


def metered_paths() -> str:
    """For error messages: every method and path of the table."""
    return ", ".join(f"{row.method} {row.template}" for row in TABLE)
