"""Moderations are free, with a model or without one."""

from __future__ import annotations

import pytest

from costbearer.dialects.openai_moderations import OpenAIModerations
from costbearer.errors import BodyInvalid

MODERATIONS = OpenAIModerations()


@pytest.mark.parametrize(
    "body, model",
    [
        (b'{"input":"x"}', ""),
        (b'{"input":"x","model":null}', ""),
        (b'{"input":"x","model":"omni-moderation-latest"}', "omni-moderation-latest"),
    ],
)
def test_requests(body: bytes, model: str) -> None:
    request = MODERATIONS.read(body)
    assert (request.model, request.free, request.operation) == (model, True, "moderations")
    outgoing = MODERATIONS.outgoing(request, model)
    assert (outgoing.path, outgoing.body) == ("/moderations", body)
    assert outgoing.body is request.body


def test_tags_and_models_are_edited() -> None:
    request = MODERATIONS.read(b'{"model":"a","metadata":{"tags":["a:b"]},"input":"x"}')
    assert MODERATIONS.outgoing(request, "b").body == b'{"model":"b","input":"x"}'
    with pytest.raises(BodyInvalid):
        MODERATIONS.read(b'{"model":7}')


@pytest.mark.parametrize(
    "body, complete", [(b'{"id":"modr-1","results":[]}', True), (b'{"error":{"type":"t"}}', False)]
)
def test_replies(body: bytes, complete: bool) -> None:
    reading = MODERATIONS.whole(MODERATIONS.read(b"{}"), body)
    assert (reading.complete, reading.work) == (complete, ())
