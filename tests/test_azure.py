"""The Azure family: the same bodies as OpenAI's at other addresses, and what the headers say of who served them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from costbearer.dialects.azure import Azure
from costbearer.dialects.base import CallRequest, Place, Reading
from costbearer.dialects.openai import OpenAI
from costbearer.dialects.registry import Exchange, all_dialects
from costbearer.errors import BodyInvalid
from costbearer.usage import Usage

SAID = {"messages": [{"role": "user", "content": "Hi"}]}
DATED = "api-version=2024-10-21"
CHAT = Azure().operations["chat"]


def place(query: str = DATED, name: str | None = "prod-chat", below: str = "chat/completions") -> Place:
    if name is None:
        return Place("POST", f"/openai/v1/{below}", query)
    return Place("POST", f"/openai/deployments/{name}/{below}", query, {"name": name})


def understood(body: dict[str, Any], where: Place | None = None) -> CallRequest:
    return CHAT.read(json.dumps(body).encode(), place() if where is None else where)


@pytest.mark.parametrize("named", [{}, {"model": "prod-chat"}, {"model": "another"}, {"model": None}, {"model": 3}])
def test_the_deployment_of_the_path_is_the_model(named: dict[str, Any]) -> None:
    request = understood({**SAID, **named, "max_tokens": 9})
    assert (request.model, request.max_output_tokens) == ("prod-chat", 9)
    assert request.body == json.dumps({**SAID, **named, "max_tokens": 9}).encode()
    outgoing = CHAT.outgoing(request, "prod-chat")
    assert outgoing.path == "/openai/deployments/prod-chat/chat/completions?api-version=2024-10-21"
    assert outgoing.body is request.body


def test_below_v1_the_body_names_it() -> None:
    request = understood({**SAID, "model": "prod-chat"}, place("", None))
    assert request.model == "prod-chat"
    assert CHAT.outgoing(request, "prod-chat").path == "/openai/v1/chat/completions"
    preview = understood({**SAID, "model": "prod-chat"}, place("api-version=preview", None))
    assert CHAT.outgoing(preview, "prod-chat").path == "/openai/v1/chat/completions?api-version=preview"
    renamed = CHAT.outgoing(request, "other")
    assert json.loads(renamed.body)["model"] == "other"
    with pytest.raises(BodyInvalid):
        understood(SAID, place("", None))


def test_a_renamed_deployment_changes_the_path_alone() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"model": "x"}}}}
    request = understood({**SAID, "tools": [tool]})
    outgoing = CHAT.outgoing(request, "other one")
    assert outgoing.path.startswith("/openai/deployments/other%20one/chat/")
    assert outgoing.body is request.body


def test_tags_go_off() -> None:
    request = understood({**SAID, "metadata": {"tags": ["a:b"], "own": "1"}})
    assert request.tags == ("a:b",)
    assert json.loads(CHAT.outgoing(request, "prod-chat").body)["metadata"] == {"own": "1"}


@pytest.mark.parametrize(
    ("query", "asks"),
    [
        ("api-version=2024-02-01", False),
        ("api-version=2024-08-01-preview", False),
        ("api-version=2024-09-01-preview", True),
        ("api-version=2024-10-21", True),
        ("api-version=2025-04-01-preview&x=1", True),
        ("api-version=latest", True),
        ("", True),
    ],
)
def test_usage_is_asked_for_where_the_api_version_knows_it(query: str, asks: bool) -> None:
    request = understood({**SAID, "stream": True}, place(query))
    assert (b"include_usage" in CHAT.outgoing(request, "prod-chat").body) is asks
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    shown = CHAT.stream_reader(request).feed(usage)
    assert shown == (b"" if asks else usage), "what was not asked for is not taken off"


@pytest.mark.parametrize("query", ["a=b c", "a=\n", "a=\u00e9"])
def test_a_query_that_cannot_be_sent_on(query: str) -> None:
    with pytest.raises(BodyInvalid, match="query"):
        understood(SAID, place(query))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a":1,"a":2}', b"\xff"])
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(BodyInvalid):
        CHAT.read(body, place())


FILTERED = b'data: {"id":"","model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
STREAM = (
    FILTERED
    + b'data: {"id":"c1","model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
    + b'data: {"id":"c1","model":"gpt-4o-2024-08-06","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    + b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_filters_chunk_is_not_the_usage_chunk(step: int) -> None:
    reader = CHAT.stream_reader(understood({**SAID, "stream": True}), {"x-ms-region": "West US"})
    seen = b"".join(reader.feed(STREAM[at : at + step]) for at in range(0, len(STREAM), step))
    assert reader.ended
    assert FILTERED in seen and b"usage" not in seen
    reading = reader.reading()
    assert (reading.work[0].model, reading.work[0].usage) == (
        "gpt-4o-2024-08-06",
        Usage(input_tokens=3, output_tokens=2),
    )
    assert (reading.complete, reading.notes, reading.generated_bytes) == (True, ("region:westus",), 5)


def test_a_stream_that_is_cut() -> None:
    reader = CHAT.stream_reader(understood({**SAID, "stream": True}))
    cut = STREAM[: STREAM.index(b'"finish_reason"')]
    assert reader.feed(cut) + reader.rest() == cut
    reading = reader.reading()
    assert (reading.complete, reader.ended, reading.generated_bytes) == (False, False, 5)
    assert "cut_mid_event" in reading.notes


REPLY = {"id": "c1", "model": "gpt-4o", "choices": [{"finish_reason": "stop", "message": {"content": "Hello"}}]}
USED = {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


@pytest.mark.parametrize(
    ("headers", "notes"),
    [
        ({}, ()),
        ({"x-ms-region": "East US 2"}, ("region:eastus2",)),
        ({"x-ms-region": "\u00fc"}, ("region:unnamed",)),
        ({"x-ms-deployment-name": "prod-chat"}, ()),
        ({"x-ms-deployment-name": "spare one"}, ("deployment:spare_one",)),
        ({"x-ms-is-spilled-over": "true"}, ("spilled_over",)),
        ({"x-ms-is-spilled-over": "false"}, ()),
        (
            {"x-ms-spillover-from-deployment": "prod-chat", "x-ms-deployment-name": "spare"},
            ("deployment:spare", "spilled_over"),
        ),
    ],
)
def test_what_the_headers_say(headers: dict[str, str], notes: tuple[str, ...]) -> None:
    reading = CHAT.whole(understood(SAID), json.dumps(REPLY | USED).encode(), headers)
    assert (reading.notes, reading.response_model, reading.complete) == (notes, "gpt-4o", True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"<html>", b'{"usage":7}', b"[" * 99_999])
def test_replies_that_say_nothing(body: bytes) -> None:
    assert not CHAT.whole(understood(SAID), body, {"x-ms-region": "x"}).complete


def test_embeddings_and_responses() -> None:
    operations = Azure().operations
    embeddings = operations["embeddings"]
    request = embeddings.read(b'{"input":"x"}', place(below="embeddings"))
    assert (request.operation, request.model) == ("embeddings", "prod-chat")
    assert embeddings.outgoing(request, "prod-chat").path.startswith("/openai/deployments/prod-chat/embeddings?")
    reading = embeddings.whole(request, b'{"model":"text-embedding-3-small","usage":{"prompt_tokens":4}}')
    assert reading.work[0].usage == Usage(input_tokens=4)

    responses = operations["responses"]
    asked = responses.read(b'{"model":"prod","input":"x"}', place("api-version=preview", None, "responses"))
    assert responses.outgoing(asked, "prod").path == "/openai/v1/responses?api-version=preview"
    stored = operations["responses.retrieve"]
    where = Place("GET", "/openai/v1/responses/resp_1", "include=x", {"id": "resp_1"})
    retrieved = stored.outgoing(stored.read(b"", where), "")
    assert (retrieved.method, retrieved.path) == ("GET", "/openai/v1/responses/resp_1?include=x")


def test_an_openai_caller_is_taken_below_v1() -> None:
    exchange = Exchange(all_dialects())
    asked = OpenAI().operations["chat"].read(json.dumps({**SAID, "model": "m", "stream": True}).encode())
    operation = exchange.operation("openai", "chat", "azure")
    assert operation is not None
    outgoing = operation.outgoing(asked, "prod-chat")
    assert outgoing.path == "/openai/v1/chat/completions"
    assert json.loads(outgoing.body) == {
        **SAID,
        "model": "prod-chat",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert exchange.operation("openai", "moderations", "azure") is None
    assert exchange.operation("anthropic", "chat", "azure") is None


def test_headers() -> None:
    dialect = Azure()
    assert dialect.credential_headers("k") == (("api-key", "k"),)
    assert dialect.credential_headers("") == ()
    assert dialect.provider_request_id({"apim-request-id": "a", "x-request-id": "b"}) == "a"
    assert dialect.provider_request_id({"x-request-id": "b"}) == "b"
    assert "api-key" not in dialect.forwarded_headers
    assert {"x-ms-region", "x-request-id", "retry-after-ms"} <= dialect.relayed_headers


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (400, b'{"error":{"code":"content_filter","message":"x"}}', "content_filter"),
        (400, b'{"error":{"code":"context_length_exceeded"}}', "context_length_exceeded"),
        (400, b'{"error":{"code":"invalid_request"}}', None),
        (400, b'{"error":{"code":["content_filter"]}}', None),
        (400, b'{"error":"content_filter"}', None),
        (400, b"[]", None),
        (400, b"<html>", None),
        (404, b'{"error":{"code":"content_filter"}}', None),
        (429, b"", None),
        (408, b"", "timeout"),
    ],
)
def test_refusals_that_may_be_charged(status: int, body: bytes, why: str | None) -> None:
    assert Azure().charged_refusal(status, body) == why


def test_readings_are_left_as_they_are_but_for_notes() -> None:
    body = json.dumps(REPLY | USED).encode()
    plain: Reading = OpenAI().operations["chat"].whole(understood(SAID), body)
    assert CHAT.whole(understood(SAID), body) == plain
