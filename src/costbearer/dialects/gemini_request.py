"""What all requests of the Gemini family share: paths with the model in them, query parameters, labels.

The same body is sent to the Gemini API (`/v1beta/models/{model}:generateContent`) and to Vertex AI
(`/v1/projects/{project}/locations/{location}/publishers/{publisher}/models/{model}:generateContent`, or without project
and location where an API key says both). Base URLs of their providers are the host:
`https://generativelanguage.googleapis.com`, `https://us-central1-aiplatform.googleapis.com`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from costbearer.dialects import body as bodies
from costbearer.dialects import bounds, jsonedit
from costbearer.dialects.base import CallRequest, Place
from costbearer.dialects.gemini_usage import tier_word
from costbearer.errors import BodyInvalid

MODEL_PREFIX = "models/"
LABEL_PREFIX = "costbearer_"
"""Labels of ours begin so, and never take the place of one that the caller set for their own bills."""
LABEL_LENGTH_MAX = 63
LABELS_MAX = 64
"""Google's limits on labels: https://cloud.google.com/resource-manager/docs/labels-overview#requirements."""

_CREDENTIALS = frozenset({"key", "access_token", "oauth_token"})
_QUERY = {
    "alt": re.compile(r"json|sse"),
    "$alt": re.compile(r"(?:json|sse)(?:;enum-encoding=(?:int|string))?"),
    "prettyPrint": re.compile(r"true|false"),
    "$prettyPrint": re.compile(r"true|false"),
}
"""Query parameters that are sent on, of Google's (https://cloud.google.com/apis/docs/system-parameters), with the
values they may have. `fields` is not among them: it can leave the usage out of a reply."""

_NO_LABEL_SIGN = re.compile(r"[^a-z0-9_-]")


def model_of(place: Place) -> str:
    """The model that the path names. Raises `BodyInvalid` where it names none."""
    model = place.params.get("model", "")
    if not model:
        raise BodyInvalid("the path names no model; it must be such as /v1beta/models/{model}:generateContent")
    return model


def is_vertex(place: Place) -> bool:
    """Is it one of Vertex AI's paths?"""
    return "publisher" in place.params


def geo_of(place: Place) -> str | None:
    """Where Vertex AI was told to do the work: `us-central1`, `eu`, `global`."""
    return place.params.get("location")


def query_of(place: Place, known: Mapping[str, re.Pattern[str]] = _QUERY) -> list[tuple[str, str]]:
    """The query parameters that are sent on.

    A credential among them is left out: the call was authenticated by its headers, and Google would take the key in the
    query before the gateway's own.

    Raises:
        BodyInvalid: a parameter that the gateway does not know, or a value with which it could not read the reply.
    """
    if not place.query:
        return []
    sent = []
    for name, value in parse_qsl(place.query, keep_blank_values=True):
        if name in _CREDENTIALS:
            continue
        allowed = known.get(name)
        if allowed is None:
            raise BodyInvalid(f"the query parameter {name[:60]!r} is not sent on; leave it out")
        if not allowed.fullmatch(value):
            raise BodyInvalid(f"the query parameter {name} must be like {allowed.pattern}, not {value[:60]!r}")
        sent.append((name, value))
    return sent


def with_query(path: str, query: list[tuple[str, str]]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def path_to(request: CallRequest, model: str, verb: str) -> str:
    """Where such a request goes for a model: the caller's path with the model's name there, and its query."""
    place = request.place
    above, _, _ = place.path.rpartition("/")
    return with_query(f"{above or '/v1beta/models'}/{quote(model, safe='@')}:{verb}", query_of(place))


def either(fields: bodies.Fields, camel: str, snake: str) -> str:
    """The name under which a member is there: Google reads both spellings."""
    return camel if fields.states(camel) else snake


def tier_of(fields: bodies.Fields, place: Place) -> str | None:
    """The tier asked for. The Gemini API's is standard unless the body says otherwise
    (https://ai.google.dev/gemini-api/docs/priority-inference); Vertex AI's is said by headers and quota."""
    stated = tier_word(fields.word(either(fields, "serviceTier", "service_tier")))
    return stated or (None if is_vertex(place) else "standard")


def without_tags(request: CallRequest) -> bytes:
    """The body without `metadata.tags`, and without `metadata` where nothing else is in it: no request of this family
    has such a member."""
    return bodies.revised(request.body, True, None) if request.has_tags else request.body


def renamed(body: bytes, model: str) -> bytes:
    """The body with another model wherever it repeats the path's: in itself, in the requests of a batch, in a request
    whose tokens are to be counted.

    Raises:
        BodyInvalid: the batch is too large to be looked through.
    """
    revision = jsonedit.Revision(body)
    named = revision.value("model")
    if named is not None:
        revision.replace("model", msgspec.json.encode(MODEL_PREFIX + model if b"models/" in named else model))
    for name in ("generateContentRequest", "generate_content_request"):
        inner = revision.value(name)
        if inner is not None and inner.startswith(b"{"):
            revision.replace(name, renamed(inner, model))
    requests = revision.value("requests")
    if requests is not None and requests.startswith(b"["):
        # The body has been read: its members are valid JSON.
        if not bounds.few(requests):
            raise BodyInvalid(f'"requests" holds more than {bounds.VALUES_MAX} values; send fewer at once')
        parts = msgspec.json.decode(requests, type=list[msgspec.Raw])
        each = [renamed(bytes(part), model) if bytes(part).startswith(b"{") else bytes(part) for part in parts]
        revision.replace("requests", b"[" + b",".join(each) + b"]")
    return revision.text()


def label(value: str) -> str:
    """A label's value as Google takes it: lower case, of letters, digits, `_` and `-`, at most 63 of them."""
    return _NO_LABEL_SIGN.sub("_", value.lower())[:LABEL_LENGTH_MAX]


def with_labels(body: bytes, labels: Mapping[str, str]) -> bytes:
    """The body with the verified labels added to its `labels`, which Vertex AI keeps in its logs and its billing export
    (https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/add-labels-to-api-calls).

    Raises:
        BodyInvalid: the caller's `labels` are no object.
    """
    if not labels:
        return body
    ours = {LABEL_PREFIX + name: msgspec.json.encode(label(value)) for name, value in labels.items()}
    whole = b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in ours.items()) + b"}"
    if b'"labels"' not in body and b"\\u" not in body:
        return jsonedit.prepend(body, "labels", whole)
    revision = jsonedit.Revision(body)
    stated = revision.value("labels")
    if stated is None:
        revision.insert("labels", whole)
    elif stated == b"null":
        revision.replace("labels", whole)
    else:
        inner = jsonedit.Revision(stated, '"labels"')
        names = set(inner.names())
        if len(names | ours.keys()) > LABELS_MAX:
            return body
        for name, value in ours.items():
            if name in names:
                inner.replace(name, value)
            else:
                inner.insert(name, value)
        revision.replace("labels", inner.text())
    return revision.text()
