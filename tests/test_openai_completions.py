"""Legacy completions: their requests, and their replies as the chat's reader reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from costbearer.dialects.base import CallRequest
from costbearer.dialects.openai_completions import OpenAICompletions
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage

COMPLETIONS = OpenAICompletions()
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


def ask(**members: Any) -> CallRequest:
    return COMPLETIONS.read(json.dumps({"model": "babbage-002", "prompt": "Once", **members}).encode())


@pytest.mark.parametrize(
    "members, choices, limit",
    [
        ({}, 1, 16),
        ({"max_tokens": 0}, 1, 0),
        ({"max_tokens": 7, "n": 2}, 2, 7),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, 2, 18),
        ({"max_tokens": 7, "best_of": 3}, 1, 21),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6, 16),
        ({"prompt": [[1, 2], [3]]}, 2, 16),
        ({"prompt": [1, 2, 3]}, 1, 16),
        ({"prompt": []}, 1, 16),
        ({"prompt": None}, 1, 16),
    ],
)
def test_what_bounds_a_request(members: dict[str, Any], choices: int, limit: int) -> None:
    request = ask(**members)
    assert (request.choices, request.max_output_tokens, request.open_ended) == (choices, limit, False)


def test_outgoing_asks_for_usage_and_takes_tags_off() -> None:
    request = ask(stream=True, metadata={"tags": ["a:b"]})
    outgoing = COMPLETIONS.outgoing(request, "other")
    assert (outgoing.path, request.operation, request.tags) == ("/completions", "completions", ("a:b",))
    asked = {"include_usage": True}
    assert json.loads(outgoing.body) == {"stream_options": asked, "model": "other", "prompt": "Once", "stream": True}


@pytest.mark.parametrize("members", [{"n": 0}, {"best_of": 0}, {"n": 129}, {"max_tokens": -1}, {"model": ""}])
def test_faulty_requests(members: dict[str, Any]) -> None:
    with pytest.raises(BodyInvalid):
        ask(**members)


def test_a_whole_reply() -> None:
    choice = {"text": " upon a time", "index": 0, "finish_reason": "length", "logprobs": None}
    body = {"id": "cmpl-1", "object": "text_completion", "model": "babbage:2", "choices": [choice], "usage": USAGE}
    reading = COMPLETIONS.whole(ask(), json.dumps(body).encode())
    assert reading.work[0].usage == Usage(input_tokens=5, output_tokens=4)
    assert (reading.complete, reading.response_model, reading.generated_bytes) == (True, "babbage:2", 12)


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("asks", [True, False])
def test_a_stream_of_two_prompts(size: int, asks: bool) -> None:
    events = [
        {"id": "cmpl-1", "model": "m", "choices": [{"text": text, "index": index, "finish_reason": finish}]}
        for text, index, finish in ((" a", 0, None), (" b", 1, None), ("", 0, "stop"), ("", 1, "stop"))
    ]
    usage = b'data: {"id":"cmpl-1","choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
    said = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    body = said + usage + b"data: [DONE]\n\n"
    request = ask(prompt=["x", "y"], stream=True, stream_options={"include_usage": asks})
    reader = COMPLETIONS.stream_reader(request)
    seen = b"".join(reader.feed(body[at : at + size]) for at in range(0, len(body), size)) + reader.rest()
    assert seen == (body if asks else said + b"data: [DONE]\n\n")
    reading = reader.reading()
    assert (reading.complete, reading.work[0].usage) == (True, Usage(input_tokens=5, output_tokens=4))
