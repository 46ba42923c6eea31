"""What dialects read: callers' requests, and providers' replies, whole and as streams.

The first byte of an input chooses the operation, so that one corpus serves a family; the rest is the body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec

from costbearer.dialects.base import CallRequest, Operation, Place, Reading
from costbearer.dialects.eventstream import CONTENT_TYPE
from costbearer.dialects.registry import Exchange, all_dialects
from costbearer.errors import CallRefused
from costbearer.usage import COUNT_MAX, COUNTS
from fuzz.wire import BOUNDARY, pieces

FORM = f"multipart/form-data; boundary={BOUNDARY}"
STEPS = (1, 5, 512)
TRANSLATED = "translated"
FAMILIES = (*all_dialects(), TRANSLATED)


class Asked(NamedTuple):
    """An operation, where it is asked for, and a request as the gateway would have read one."""

    name: str
    operation: Operation
    place: Place
    request: CallRequest
    headers: Mapping[str, str]


@cache
def operations(family: str) -> tuple[Asked, ...]:
    """Every operation of a dialect, in the order in which it lists them; each as JSON, those of forms as forms too."""
    dialects = all_dialects()
    if family == TRANSLATED:
        exchange = Exchange(dialects, clock=lambda: 1_800_000_000.0)
        found = {name: exchange.operation("openai", "chat", name) for name in ("anthropic", "bedrock", "gemini")}
    else:
        found = dict(dialects[family].operations)
    asked = []
    for name, operation in found.items():
        assert operation is not None
        for kind in ("application/json", FORM) if name.startswith(("images.", "audio.", "files.")) else (None,):
            params = {"model": "claude-sonnet-4-6", "id": "x1", "name": "x", "project": "p", "location": "l"}
            place = Place(path="/v1/x", params=params, content_type=kind or "application/json")
            streamed = family == "bedrock" or name == "bedrock"
            headers = {"content-type": CONTENT_TYPE if streamed else "text/event-stream", "x-amzn-requestid": "r"}
            request = CallRequest(
                operation=name, model="gpt-4.1-mini", stream=True, body=b'{"input":"x"}', place=place, choices=1
            )
            asked.append(Asked(name, operation, place, request, headers))
    return tuple(asked)


def requests(family: str) -> Callable[[bytes], None]:
    """A check of what callers send."""

    def check(data: bytes) -> None:
        """Callers' requests: understood or refused; what is sent on has no tags, and a path on one line."""
        asked, body = _chosen(family, data)
        try:
            request = asked.operation.read(body, asked.place)
        except CallRefused as refused:
            assert refused.message.isprintable(), "the message could steer a terminal"
            return
        assert request.body in (body, b""), "the body is not what the caller sent"
        assert request.max_output_tokens is None or 0 <= request.max_output_tokens <= COUNT_MAX
        assert request.choices >= 0
        assert request.overhead_tokens >= 0
        assert all(value >= 0 for value in request.quantities_max.values())
        for model in (request.model, "another/model"):
            try:
                sent = asked.operation.outgoing(request, model)
            except CallRefused:
                continue
            assert "\n" not in sent.path
            assert "\r" not in sent.path
            assert sent.path.isascii()
            if request.has_tags and family != TRANSLATED:
                again = asked.operation.read(sent.body, asked.place)
                assert not again.has_tags, "tags went to the provider"

    return check


def replies(family: str) -> Callable[[bytes], None]:
    """A check of what providers answer."""

    def check(data: bytes) -> None:
        """Providers' replies: nothing is raised, no count is negative, the same reading whatever the chunks."""
        asked, body = _chosen(family, data)
        _sound(asked.operation.whole(asked.request, body))
        for status in (200, 429):
            asked.operation.shown(asked.request, status, body)
        if asked.operation.streams:
            for headers in (asked.headers, {"content-type": "application/json"}):
                told = [_streamed(asked, body, step, headers) for step in (len(body) or 1, *STEPS)]
                assert all(each == told[0] for each in told), "the reading depends on the chunks"
                _sound(told[0][0])
                assert family == TRANSLATED or told[0][1] == body, "the caller does not see what the provider sent"
        if family != TRANSLATED:
            dialect = _dialects()[family]
            code = dialect.charged_refusal(400, body)
            assert code is None or code.isprintable()

    return check


@cache
def _dialects() -> dict[str, Any]:
    return dict(all_dialects())


def _chosen(family: str, data: bytes) -> tuple[Asked, bytes]:
    asked = operations(family)
    return asked[(data[0] if data else 0) % len(asked)], data[1:]


def _streamed(asked: Asked, body: bytes, step: int, headers: Mapping[str, str]) -> tuple[Reading, bytes]:
    reader = asked.operation.stream_reader(asked.request, headers)
    seen = b"".join([reader.feed(piece) for piece in pieces(body, step)])
    seen += reader.rest()
    return reader.reading(), seen


def _sound(reading: Reading) -> None:
    """Nothing in it that a ledger could not hold: no count below 0, no cost below 0, names that can be written."""
    for work in reading.work:
        for name in COUNTS:
            value = getattr(work.usage, name)
            assert value is None or 0 <= value <= COUNT_MAX, f"{name} is {value}"
        assert work.largest_input_tokens is None or work.largest_input_tokens >= 0
        assert len(work.model) <= 256
    assert reading.generated_bytes >= 0
    cost = reading.provider_cost_usd
    assert cost is None or (cost.is_finite() and cost >= 0)
    assert all(code.isprintable() and len(code) <= 100 for code in reading.notes)
    for text in (reading.response_model, reading.response_id, reading.tier, reading.speed, reading.geo):
        assert text is None or (text.isprintable() and 0 < len(text) <= 256)
    msgspec.json.encode(reading)
