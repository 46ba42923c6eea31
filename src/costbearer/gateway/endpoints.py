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


_GEMINI = {
    "generateContent": "chat",
    "streamGenerateContent": "chat.stream",
    "countTokens": "count_tokens",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings.batch",
}
_VERTEX = _GEMINI | {"predict": "embeddings.predict"}
_IN_PROJECT = "projects/{project}/locations/{location}/publishers/{publisher}/models"


def _of_models(path: str, verbs: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """A row for everything that can be asked of a Gemini model below that path."""
    return tuple(Endpoint("POST", f"{path}/{{model}}:{verb}", "gemini", operation) for verb, operation in verbs.items())


def _of_interactions(path: str) -> tuple[Endpoint, ...]:
    return (
        Endpoint("POST", path, "gemini", "interactions"),
        Endpoint("GET", f"{path}/{{id}}", "gemini", "interactions.retrieve", "none"),
        Endpoint("DELETE", f"{path}/{{id}}", "gemini", "interactions.delete", "none"),
        Endpoint("POST", f"{path}/{{id}}/cancel", "gemini", "interactions.cancel", "none"),
    )


TABLE: tuple[Endpoint, ...] = (
    Endpoint("POST", "/v1/chat/completions", "openai", "chat"),
    Endpoint("POST", "/v1/responses", "openai", "responses"),
    Endpoint("POST", "/v1/responses/compact", "openai", "responses.compact"),
    Endpoint("POST", "/v1/responses/input_tokens", "openai", "responses.input_tokens"),
    Endpoint("GET", "/v1/responses/{id}", "openai", "responses.retrieve", "none"),
    Endpoint("DELETE", "/v1/responses/{id}", "openai", "responses.delete", "none"),
    Endpoint("POST", "/v1/responses/{id}/cancel", "openai", "responses.cancel", "none"),
    Endpoint("GET", "/v1/responses/{id}/input_items", "openai", "responses.input_items", "none"),
    Endpoint("POST", "/v1/completions", "openai", "completions"),
    Endpoint("POST", "/v1/embeddings", "openai", "embeddings"),
    Endpoint("POST", "/v1/moderations", "openai", "moderations"),
    Endpoint("POST", "/v1/images/generations", "openai", "images.generate"),
    Endpoint("POST", "/v1/images/edits", "openai", "images.edit", "form"),
    Endpoint("POST", "/v1/images/variations", "openai", "images.variation", "form"),
    Endpoint("POST", "/v1/audio/transcriptions", "openai", "audio.transcriptions", "form"),
    Endpoint("POST", "/v1/audio/translations", "openai", "audio.translations", "form"),
    Endpoint("POST", "/v1/audio/speech", "openai", "audio.speech"),
    Endpoint("POST", "/v1/files", "openai", "files.create", "form"),
    Endpoint("GET", "/v1/files", "openai", "files.list", "none"),
    Endpoint("GET", "/v1/files/{id}", "openai", "files.retrieve", "none"),
    Endpoint("DELETE", "/v1/files/{id}", "openai", "files.delete", "none"),
    Endpoint("GET", "/v1/files/{id}/content", "openai", "files.content", "none"),
    Endpoint("POST", "/v1/batches", "openai", "batches.create"),
    Endpoint("GET", "/v1/batches", "openai", "batches.list", "none"),
    Endpoint("GET", "/v1/batches/{id}", "openai", "batches.retrieve", "none"),
    Endpoint("POST", "/v1/batches/{id}/cancel", "openai", "batches.cancel", "none"),
    Endpoint("GET", "/v1/models", "openai", None, "none"),
    Endpoint("POST", "/v1/messages", "anthropic", "chat"),
    Endpoint("POST", "/v1/messages/count_tokens", "anthropic", "count_tokens"),
    Endpoint("POST", "/v1/messages/batches", "anthropic", "messages.batches.create"),
    Endpoint("GET", "/v1/messages/batches", "anthropic", "messages.batches.list", "none"),
    Endpoint("GET", "/v1/messages/batches/{id}", "anthropic", "messages.batches.retrieve", "none"),
    Endpoint("DELETE", "/v1/messages/batches/{id}", "anthropic", "messages.batches.delete", "none"),
    Endpoint("POST", "/v1/messages/batches/{id}/cancel", "anthropic", "messages.batches.cancel", "none"),
    Endpoint("GET", "/v1/messages/batches/{id}/results", "anthropic", "messages.batches.results", "none"),
    Endpoint("POST", "/v2/chat", "cohere", "chat"),
    Endpoint("POST", "/v2/rerank", "cohere", "rerank"),
    Endpoint("POST", "/v2/embed", "cohere", "embeddings"),
    *_of_models("/v1beta/models", _GEMINI),
    *_of_models("/v1/models", _GEMINI),
    *_of_models(f"/v1/{_IN_PROJECT}", _VERTEX),
    *_of_models(f"/v1beta1/{_IN_PROJECT}", _VERTEX),
    *_of_models("/v1/publishers/{publisher}/models", _VERTEX),
    *_of_models("/v1beta1/publishers/{publisher}/models", _VERTEX),
    *_of_interactions("/v1beta/interactions"),
    *_of_interactions("/v1/interactions"),
    Endpoint("POST", "/model/{model*}/converse", "bedrock", "converse"),
    Endpoint("POST", "/model/{model*}/converse-stream", "bedrock", "converse_stream"),
    Endpoint("POST", "/model/{model*}/invoke", "bedrock", "invoke"),
    Endpoint("POST", "/model/{model*}/invoke-with-response-stream", "bedrock", "invoke_stream"),
    Endpoint("POST", "/model/{model*}/count-tokens", "bedrock", "count_tokens"),
    Endpoint("POST", "/openai/deployments/{name}/chat/completions", "azure", "chat"),
    Endpoint("POST", "/openai/deployments/{name}/embeddings", "azure", "embeddings"),
    Endpoint("POST", "/openai/v1/chat/completions", "azure", "chat"),
    Endpoint("POST", "/openai/v1/embeddings", "azure", "embeddings"),
    Endpoint("POST", "/openai/v1/responses", "azure", "responses"),
    Endpoint("POST", "/openai/v1/responses/compact", "azure", "responses.compact"),
    Endpoint("POST", "/openai/v1/responses/input_tokens", "azure", "responses.input_tokens"),
    Endpoint("GET", "/openai/v1/responses/{id}", "azure", "responses.retrieve", "none"),
    Endpoint("DELETE", "/openai/v1/responses/{id}", "azure", "responses.delete", "none"),
    Endpoint("POST", "/openai/v1/responses/{id}/cancel", "azure", "responses.cancel", "none"),
    Endpoint("GET", "/openai/v1/responses/{id}/input_items", "azure", "responses.input_items", "none"),
)

METERED_SHOWN = 8
"""Paths that an error message names."""
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


def _by_ending() -> dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint]]]:
    """The rows with parameters, by their method and what follows the last parameter: few share both."""
    found: dict[tuple[str, str], list[tuple[re.Pattern[str], Endpoint]]] = {}
    for row in TABLE:
        if "{" in row.template:
            ending = row.template[row.template.rfind("}") + 1 :]
            found.setdefault((row.method, ending), []).append((_pattern(row.template), row))
    return found


_VARIABLE = _by_ending()
_ENDINGS = sorted({ending for _, ending in _VARIABLE}, key=len, reverse=True)


def find(method: str, path: str) -> tuple[Endpoint, Mapping[str, str]] | None:
    """The endpoint of a path and its parameters. A parameter that climbs (`..`) or is empty matches nothing."""
    fixed = _FIXED.get((method, path))
    if fixed is not None:
        return fixed, NOTHING
    if ".." in path or "//" in path:
        return None
    for ending in _ENDINGS:
        if path.endswith(ending):
            for pattern, row in _VARIABLE.get((method, ending), ()):
                match = pattern.fullmatch(path)
                if match is not None:
                    return row, match.groupdict()
    return None


def family(path: str) -> str:
    """The dialect in which to refuse a path that is not in the table."""
    for prefix, dialect in _FAMILIES:
        if path.startswith(prefix):
            return dialect
    return "gemini" if _GEMINI_MODEL.match(path) else "openai"


_GEMINI_MODEL = re.compile(r"/v1/models/[^/:]+:[a-z]+[A-Z]")
"""A verb after a model; OpenAI's fine-tuned models have colons in their names too, but no such words after them."""

_FAMILIES = (
    ("/v1/messages", "anthropic"),
    ("/v1beta/", "gemini"),
    ("/v1/projects/", "gemini"),
    ("/v1/publishers/", "gemini"),
    ("/v1beta1/", "gemini"),
    ("/v1/interactions", "gemini"),
    ("/v1/cachedContents", "gemini"),
    ("/model/", "bedrock"),
    ("/openai/", "azure"),
    ("/v2/", "cohere"),
)


def metered_paths(dialect: str) -> str:
    """For error messages: what of this dialect calls a model. The whole table is longer than anybody reads."""
    called = (row.template for row in TABLE if row.dialect == dialect and row.method == "POST" and row.media == "json")
    shown = list(dict.fromkeys(path for path in called if path.count("{") <= 1))
    return ", ".join(shown[:METERED_SHOWN]) + (", ..." if len(shown) > METERED_SHOWN else "")
