"""Replies that providers really gave, read as their index says. `COSTBEARER_RECORDED` names the directory they are in.

The bodies are not part of this project. What each must read as is derived here from the index's copy of the provider's
usage object, without any of the code under test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costbearer.dialects.anthropic_messages import AnthropicMessages
from costbearer.dialects.base import CallRequest, Operation, Reading
from costbearer.dialects.cohere import CohereBilled, CohereChat
from costbearer.dialects.gemini_content import STREAM, GeminiContent
from costbearer.dialects.gemini_interactions import GeminiInteraction
from costbearer.dialects.openai_audio import OpenAITranscriptions
from costbearer.dialects.openai_chat import OpenAIChat
from costbearer.dialects.openai_completions import OpenAICompletions
from costbearer.dialects.openai_responses import OpenAIResponses
from costbearer.usage import COUNTS, combined, leaves

DIALECTS: dict[str, Operation] = {
    "chat.completions": OpenAIChat(),
    "completions": OpenAICompletions(),
    "audio.transcriptions": OpenAITranscriptions(),
    "v2/chat": CohereChat(),
    "v2/rerank": CohereBilled("rerank", "/v2/rerank"),
    "messages": AnthropicMessages(),
    "messages-beta": AnthropicMessages(),
    "generateContent": GeminiContent(),
    "streamGenerateContent": GeminiContent(STREAM),
    "interactions": GeminiInteraction(),
    "responses": OpenAIResponses(),
}
Counts = dict[str, int]


def _directory() -> Path | None:
    named = os.environ.get("COSTBEARER_RECORDED")
    candidates = [Path(named), Path(named) / "recorded"] if named else []
    return next((path for path in candidates if (path / "index.json").is_file()), None)


RECORDED = _directory()
ENTRIES: list[dict[str, Any]] = (
    [entry for entry in json.loads((RECORDED / "index.json").read_bytes()) if entry["api"] in DIALECTS]
    if RECORDED
    else []
)


def recorded(applies: Callable[[dict[str, Any]], bool] = lambda entry: True) -> pytest.MarkDecorator:
    """One test for each recorded reply to which it applies; one that is skipped where there are none."""
    entries = [entry for entry in ENTRIES if applies(entry)]
    absent = pytest.mark.skip("COSTBEARER_RECORDED names no directory with recorded replies (index.json)")
    values = [pytest.param(entry, id=entry["id"]) for entry in entries]
    return pytest.mark.parametrize("entry", values or [pytest.param({}, marks=absent, id="none")])


def is_anthropic(entry: dict[str, Any]) -> bool:
    return bool(entry["api"].startswith("messages"))


def is_responses(entry: dict[str, Any]) -> bool:
    return bool(entry["api"] == "responses")


def is_google(entry: dict[str, Any]) -> bool:
    return entry["api"] in {"generateContent", "streamGenerateContent", "interactions"}


def stream_of(entry: dict[str, Any]) -> bytes | None:
    """The reply as a stream, None where it came whole."""
    assert RECORDED is not None
    body = (RECORDED / entry["file"]).read_bytes()
    if entry["file"].endswith(".chunks.jsonl"):
        return b"".join(b"data: " + line + b"\n\n" for line in body.splitlines() if line.strip())
    return body if entry["file"].endswith(".sse") else None


def asked(entry: dict[str, Any], **changes: Any) -> CallRequest:
    model = entry["request"].get("model") or "asked"
    return CallRequest(operation="chat", model=model, stream=entry["stream"], body=b"{}", **changes)


def read(entry: dict[str, Any], size: int | None = None) -> Reading:
    dialect = DIALECTS[entry["api"]]
    body = stream_of(entry)
    if body is None:
        assert RECORDED is not None
        return dialect.whole(asked(entry), (RECORDED / entry["file"]).read_bytes())
    reader = dialect.stream_reader(asked(entry))
    step = size or len(body)
    seen = b"".join(reader.feed(body[at : at + step]) for at in range(0, len(body), step))
    assert seen + reader.rest() == body
    return reader.reading()


def _stated(counts: dict[str, int | None]) -> Counts:
    return {name: value for name, value in counts.items() if value is not None}


def expected_of_openai(usage: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    prompt, total = usage["prompt_tokens"], usage["total_tokens"]
    of_prompt = usage.get("prompt_tokens_details") or {}
    of_completion = usage.get("completion_tokens_details") or {}
    counts = {
        "input_tokens": prompt,
        # Whatever is not prompt was generated: true of every provider, wherever it puts its reasoning.
        "output_tokens": total - prompt,
        "cache_read_input_tokens": of_prompt.get("cached_tokens"),
        "cache_creation_input_tokens": of_prompt.get("cache_write_tokens"),
        "audio_input_tokens": of_prompt.get("audio_tokens"),
        "reasoning_output_tokens": of_completion.get("reasoning_tokens"),
        "audio_output_tokens": of_completion.get("audio_tokens"),
        "web_search_requests": (usage.get("server_tool_use_details") or {}).get("web_search_requests"),
    }
    return [(None, _stated(counts))]


def expected_of_responses(usage: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    of_input, of_output = usage["input_tokens_details"], usage["output_tokens_details"]
    counts = {
        "input_tokens": usage["input_tokens"],
        "output_tokens": usage["total_tokens"] - usage["input_tokens"],
        "cache_read_input_tokens": of_input.get("cached_tokens"),
        "cache_creation_input_tokens": of_input.get("cache_write_tokens"),
        "reasoning_output_tokens": of_output.get("reasoning_tokens"),
    }
    return [(None, _stated(counts))]


def expected_of_cohere(usage: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    return [(None, dict(usage["billed_units"]))]


def expected_of_transcription(usage: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    seconds = {"input_audio_seconds": usage["prompt_audio_seconds"]}
    return [(None, {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"], **seconds})]


def expected_of_google(entry: dict[str, Any], usage: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    """Input is stated in two disjoint counts; the rest of the total was generated."""
    prompt, tools, thoughts, total = (
        "promptTokenCount",
        "toolUsePromptTokenCount",
        "thoughtsTokenCount",
        "totalTokenCount",
    )
    if entry["api"] == "interactions":
        prompt, tools, thoughts, total = (f"total_{name}tokens" for name in ("input_", "tool_use_", "thought_", ""))
    given = usage[prompt] + usage.get(tools, 0)
    counts = {
        "input_tokens": given,
        "output_tokens": usage[total] - given,
        "reasoning_output_tokens": usage.get(thoughts),
        "cache_read_input_tokens": usage.get("total_cached_tokens"),
    }
    return [(None, _stated(counts))]


def _anthropic_counts(usage: dict[str, Any]) -> Counts:
    parts = [usage.get(name) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")]
    split = usage.get("cache_creation") or {}
    return _stated(
        {
            "input_tokens": sum(part or 0 for part in parts),
            "output_tokens": usage["output_tokens"],
            "cache_read_input_tokens": usage.get("cache_read_input_tokens"),
            "cache_creation_input_tokens": usage.get("cache_creation_input_tokens"),
            "cache_creation_1h_input_tokens": split.get("ephemeral_1h_input_tokens"),
        }
    )


def expected_of_anthropic(usage: dict[str, Any], first: dict[str, Any] | None) -> list[tuple[str | None, Counts]]:
    """One line for each step, or one for the totals; fields that the final usage lacks are those of the first."""
    usage = {**(first or {}), **usage}
    if usage.get("iterations"):
        return [(step.get("model"), _anthropic_counts(step)) for step in usage["iterations"]]
    return [(None, _anthropic_counts(usage))]


def expected(entry: dict[str, Any]) -> list[tuple[str | None, Counts]]:
    usage = entry["expected_usage"]
    if usage is None:
        return []
    if is_anthropic(entry):
        return expected_of_anthropic(usage, entry["first_usage"])
    if is_responses(entry):
        return expected_of_responses(usage)
    if is_google(entry):
        return expected_of_google(entry, usage)
    if entry["provider"] == "cohere":
        return expected_of_cohere(usage)
    if entry["api"] == "audio.transcriptions":
        return expected_of_transcription(usage)
    return expected_of_openai(usage)


@recorded()
def test_the_usage_is_the_one_the_index_states(entry: dict[str, Any]) -> None:
    reading = read(entry)
    wanted = expected(entry)
    assert len(reading.work) == len(wanted)
    elsewhere: set[str] = {"reasoning_output_tokens", "web_search_requests"} if is_anthropic(entry) else set()
    if is_responses(entry):
        elsewhere = {"web_search_requests", "file_search_requests"}
    if is_google(entry):
        elsewhere = {"web_search_requests"}
    for work, (model, counts) in zip(reading.work, wanted, strict=True):
        assert work.model == (model or entry["model_in_body"] or asked(entry).model)
        stated = {name: getattr(work.usage, name) for name in COUNTS if name not in elsewhere}
        assert _stated(stated) == counts
        leaves(work.usage)
    assert reading.complete is bool(wanted)


@recorded(is_anthropic)
def test_what_only_the_totals_state_is_there_once(entry: dict[str, Any]) -> None:
    usage = entry["expected_usage"]
    total = combined(work.usage for work in read(entry).work)
    assert total.web_search_requests == (usage.get("server_tool_use") or {}).get("web_search_requests")
    assert total.reasoning_output_tokens == (usage.get("output_tokens_details") or {}).get("thinking_tokens")


@recorded(is_responses)
def test_tools_of_a_response_are_counted_in_its_output(entry: dict[str, Any]) -> None:
    usage = combined(work.usage for work in read(entry).work)
    searches = {"vercel_azure_azure_web_search_preview_tool_1": 2, "vercel_openai_openai_web_search_tool_1": 1}
    files = {"vercel_openai_openai_file_search_tool_1": 1}
    assert (usage.web_search_requests or 0) == searches.get(entry["id"], 0)
    assert (usage.file_search_requests or 0) == files.get(entry["id"], 0)


@recorded(is_google)
def test_a_grounded_prompt_of_these_models_is_one_search_however_many_queries_it_took(entry: dict[str, Any]) -> None:
    usage = combined(work.usage for work in read(entry).work)
    grounded = {"gemini_web_search", "vercel_google_google_search"}
    assert usage.web_search_requests == (1 if entry["id"] in grounded else None)


@recorded()
def test_tier_and_stated_cost(entry: dict[str, Any]) -> None:
    reading = read(entry)
    usage = entry["expected_usage"] or {}
    traffic = {1: "ON_DEMAND"}.get(usage.get("trafficType", ""), usage.get("trafficType"))
    assert reading.tier == (entry["service_tier_in_body"] or traffic)
    assert reading.error_code is None
    if usage.get("is_byok"):
        stated = usage["cost"] + usage["cost_details"]["upstream_inference_cost"]
    elif "cost_in_usd_ticks" in usage:
        stated = usage["cost_in_usd_ticks"] / 10**10
    else:
        stated = usage.get("cost")
    cost = None if reading.provider_cost_usd is None else float(reading.provider_cost_usd)
    assert cost == stated


@recorded(lambda entry: bool(entry["stream"]))
def test_how_the_bytes_arrive_does_not_matter(entry: dict[str, Any]) -> None:
    at_once = read(entry)
    for size in (1, 7, 1000):
        assert read(entry, size) == at_once


@recorded(lambda entry: entry["stream"] and entry["api"] in {"chat.completions", "completions"})
def test_only_the_usage_chunk_is_kept_from_a_caller_who_did_not_ask(entry: dict[str, Any]) -> None:
    body = stream_of(entry)
    assert body is not None
    reader = DIALECTS[entry["api"]].stream_reader(asked(entry, wants_usage=False))
    seen = reader.feed(body) + reader.rest()
    events = body.split(b"\n\n")
    kept = [event for event in events if not (b'"choices":[]' in event and b'"usage":{' in event)]
    assert seen == b"\n\n".join(kept)
    assert len(events) - len(kept) <= 1
    assert reader.reading() == read(entry)
