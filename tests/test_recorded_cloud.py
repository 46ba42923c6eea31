"""Replies that Bedrock and Azure really gave, read as their index says; see `test_recorded` for where they are."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from costbearer.dialects.azure import Azure
from costbearer.dialects.base import CallRequest, Operation, Place, Reading
from costbearer.dialects.bedrock import Bedrock
from costbearer.usage import Usage, leaves
from tests.test_recorded import RECORDED

BEDROCK = {
    "converse": "converse",
    "converse-stream": "converse_stream",
    "bedrock-invoke": "invoke",
    "invoke-with-response-stream": "invoke_stream",
}
AZURE = {"chat.completions": "chat", "responses": "responses"}
INDEX: list[dict[str, Any]] = json.loads((RECORDED / "index.json").read_bytes()) if RECORDED else []
ENTRIES = [
    entry for entry in INDEX if entry["api"] in BEDROCK or (entry["provider"] == "azure" and entry["api"] in AZURE)
]
ABSENT = pytest.param(
    {}, id="none", marks=pytest.mark.skip("COSTBEARER_RECORDED names no directory with an index.json")
)
EVERY = pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["id"]) for entry in ENTRIES] or [ABSENT])

WHAT_WAS_USED: dict[str, tuple[int, int, dict[str, int]]] = {
    "bedrock_invoke_otel": (14, 10, {}),
    "bedrock_converse_nova": (2514, 13, {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 2492}),
    "bedrock_converse_cache_read": (1324, 5, {"cache_read_input_tokens": 1322, "cache_creation_input_tokens": 0}),
    "bedrock_converse_stream": (210, 18, {}),
    "bedrock_converse_stream_nova": (415, 202, {}),
    "bedrock_invoke_stream_titan": (28, 188, {}),
    # The model says 134, AWS's own meter 90: what AWS counts is what it bills.
    "bedrock_invoke_stream_claude": (392, 90, {}),
    "azure_chat_reasoning": (
        11,
        203,
        {
            "cache_read_input_tokens": 0,
            "reasoning_output_tokens": 192,
            "audio_input_tokens": 0,
            "audio_output_tokens": 0,
        },
    ),
    "azure_chat_deployment_name": (15, 24, {}),
    "vercel_azure_azure_web_search_preview_tool_1": (
        10188,
        405,
        {"cache_read_input_tokens": 0, "reasoning_output_tokens": 0, "web_search_requests": 2},
    ),
}


def operation_of(entry: dict[str, Any]) -> tuple[Operation, CallRequest]:
    if entry["api"] in BEDROCK:
        model = unquote(entry["uri"].split("/model/")[1].rpartition("/")[0])
        made: Operation = Bedrock().operations[BEDROCK[entry["api"]]]
    else:
        model = entry["request"].get("model", "asked")
        made = Azure().operations[AZURE[entry["api"]]]
    place = Place(params={"model": model})
    return made, CallRequest(operation="chat", model=model, stream=entry["stream"], body=b"{}", place=place)


def read(entry: dict[str, Any], size: int = 0) -> Reading:
    assert RECORDED is not None
    made, request = operation_of(entry)
    body = (RECORDED / entry["file"]).read_bytes()
    if not entry["stream"]:
        return made.whole(request, body, entry["headers"])
    reader = made.stream_reader(request, entry["headers"])
    step = size or len(body)
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step))
    assert seen == body and reader.rest() == b"" and reader.ended
    return reader.reading()


def test_every_recorded_reply_is_expected() -> None:
    assert {entry["id"] for entry in ENTRIES} in (set(), set(WHAT_WAS_USED))


@EVERY
def test_the_usage_is_the_one_the_index_states(entry: dict[str, Any]) -> None:
    reading = read(entry)
    given, made, more = WHAT_WAS_USED[entry["id"]]
    (work,) = reading.work
    assert work.usage == Usage(input_tokens=given, output_tokens=made, **more)
    assert reading.complete
    assert reading.error_code is None
    leaves(work.usage)


@EVERY
def test_the_model_is_the_one_that_has_the_price(entry: dict[str, Any]) -> None:
    _, request = operation_of(entry)
    (work,) = read(entry).work
    assert work.model == (request.model if entry["api"] in BEDROCK else entry["model_in_body"])


@EVERY
def test_how_the_bytes_arrive_does_not_matter(entry: dict[str, Any]) -> None:
    assert read(entry) == read(entry, 1) == read(entry, 13)


@EVERY
def test_what_was_odd_is_noted(entry: dict[str, Any]) -> None:
    expected = {
        "bedrock_converse_nova": {"cache_ttl_assumed"},
        "bedrock_invoke_stream_claude": {"output_tokens_differ:134"},
        "azure_chat_reasoning": {"region:eastus2"},
        "azure_chat_deployment_name": {"region:eastus2"},
    }
    assert set(read(entry).notes) == expected.get(entry["id"], set())


IDENTIFIED = [entry for entry in ENTRIES if {"apim-request-id", "x-amzn-requestid"} & set(entry["headers"])]


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["id"]) for entry in IDENTIFIED] or [ABSENT])
def test_the_providers_own_id_is_in_a_header(entry: dict[str, Any]) -> None:
    azure = entry["provider"] == "azure"
    found = (Azure() if azure else Bedrock()).provider_request_id(entry["headers"])
    assert found == entry["headers"]["apim-request-id" if azure else "x-amzn-requestid"]
