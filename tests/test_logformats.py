"""Each format by a record made here: recognised by itself, its counts made inclusive, its labels in their place."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer.audit.checks import CODES
from costbearer.logformats.registry import FORMATS
from tests.auditing import audited, evidence

Row = dict[str, Any]


def attributes(values: Row) -> list[Row]:
    return [{"key": key, "value": {"stringValue": str(value)}} for key, value in values.items()]


def spans(*given: Row) -> Row:
    made = [
        {
            "traceId": "t",
            "spanId": f"s{place}",
            "startTimeUnixNano": "1791187200000000000",
            "name": span.pop("name", "x"),
            "attributes": attributes(span),
        }
        for place, span in enumerate(given)
    ]
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": made}]}]}


CLOUDFLARE = {
    "id": "c",
    "created_at": "2026-10-05T08:00:00Z",
    "provider": "openai",
    "model": "gpt-4o",
    "tokens_in": 1000,
    "tokens_out": 100,
    "cached": False,
    "cost": 0.0035,
    "status_code": 200,
    "success": True,
    "metadata": '{"team": "search"}',
}
VERCEL = {
    "id": "gen_1",
    "created_at": "2026-10-05T08:00:00Z",
    "provider_name": "anthropic",
    "model": "claude-sonnet-4-6",
    "native_tokens_prompt": 10,
    "native_tokens_completion": 5,
    "native_tokens_cached": 100,
    "native_tokens_cache_creation": 20,
    "total_cost": 0.01,
    "tags": ["team:search"],
}
ENVOY = {
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.provider.name": "ns/openai/route/r",
    "start_time": "2026-10-05T08:00:00Z",
    "gen_ai.usage.input_tokens": "1000",
    "gen_ai.usage.output_tokens": "100",
    "response_code": 200,
    "x-team": "search",
    "gen_ai.usage.cached_input_tokens": 400,
    "x-request-id": "r",
}
OPENROUTER = {
    "generation_id": "gen-1",
    "created_at": "2026-10-05 08:00:00.5",
    "cost_total": "0.0123",
    "tokens_prompt": 50,
    "tokens_completion": 5,
    "tokens_cached": 10,
    "model_permaslug": "openai/gpt-4o",
    "cancelled": "true",
}
BEDROCK = {
    "schemaType": "ModelInvocationLog",
    "timestamp": "2026-10-05T08:00:00Z",
    "requestId": "r",
    "operation": "Converse",
    "modelId": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "requestMetadata": {"team": "search"},
    "input": {"inputTokenCount": 2, "cacheReadInputTokenCount": 30, "cacheWriteInputTokenCount": 20},
    "output": {
        "outputTokenCount": 5,
        "outputBodyJson": {
            "usage": {"cacheDetails": [{"ttl": "5m", "inputTokens": 8}, {"inputTokens": 12, "ttl": "1h"}]}
        },
    },
}
LANGFUSE = {"id": "o", "traceId": "t", "type": "GENERATION", "startTime": "2026-10-05T08:00:00Z", "model": "gpt-4o"}
ANTHROPIC = {
    "data": [
        {
            "starting_at": "2026-10-05T00:00:00Z",
            "ending_at": "2026-10-06T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 10,
                    "cache_read_input_tokens": 20,
                    "output_tokens": 7,
                    "model": "claude-sonnet-4-6",
                    "cache_creation": {"ephemeral_1h_input_tokens": 3, "ephemeral_5m_input_tokens": 4},
                }
            ],
        }
    ]
}
OPENAI = {
    "data": [
        {
            "start_time": 1791158400,
            "end_time": 1791244800,
            "results": [
                {
                    "object": "organization.usage.completions.result",
                    "input_tokens": 50,
                    "input_cached_tokens": 20,
                    "output_tokens": 7,
                    "input_audio_tokens": 3,
                    "input_cached_audio_tokens": 2,
                    "num_model_requests": 4,
                    "model": "gpt-4o",
                    "batch": True,
                }
            ],
        }
    ]
}

CASES: dict[str, tuple[str, Any, Row]] = {
    "cloudflare": ("cloudflare", CLOUDFLARE, {"input_tokens": 1000, "output_tokens": 100, "bearer": "search"}),
    "cloudflare, as its API wraps it": (
        "cloudflare",
        {"result": [CLOUDFLARE], "success": True},
        {"input_tokens": 1000},
    ),
    "cloudflare, out of its cache": ("cloudflare", CLOUDFLARE | {"cached": True, "cost": 0}, {"cache_hit": True}),
    "vercel, the cache beside the prompt": (
        "vercel",
        VERCEL,
        {"input_tokens": 130, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "bearer": "search"},
    ),
    "vercel, the cache within the prompt": ("vercel", VERCEL | {"native_tokens_prompt": 500}, {"input_tokens": 500}),
    "envoy": (
        "envoy",
        ENVOY,
        {"input_tokens": 1000, "cache_read_input_tokens": 400, "provider": "openai", "bearer": "search"},
    ),
    "openrouter": (
        "openrouter",
        OPENROUTER,
        {"input_tokens": 50, "status": "cancelled", "spend_usd": Decimal("0.0123")},
    ),
    "bedrock": (
        "bedrock",
        BEDROCK,
        {
            "input_tokens": 52,
            "cache_read_input_tokens": 30,
            "bearer": "search",
            "cache_creation_input_tokens": 20,
            "cache_creation_1h_input_tokens": 12,
        },
    ),
    "langfuse, parts beside": (
        "langfuse",
        LANGFUSE
        | {"usageDetails": {"input": 10, "input_cache_read": 90, "output": 5, "output_reasoning": 15, "total": 120}},
        {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 90, "reasoning_output_tokens": 15},
    ),
    "langfuse, parts within": (
        "langfuse",
        LANGFUSE
        | {"usageDetails": {"input": 100, "input_cache_read": 90, "output": 20, "output_reasoning": 15, "total": 120}},
        {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 90, "reasoning_output_tokens": 15},
    ),
    "langfuse, OpenInference": (
        "langfuse",
        LANGFUSE | {"usageDetails": {"input": 100, "prompt_details.cache_read": 90, "output": 20, "total": 120}},
        {"input_tokens": 100, "cache_read_input_tokens": 90},
    ),
    "anthropic's usage": (
        "anthropic_usage",
        ANTHROPIC,
        {"input_tokens": 37, "cache_creation_input_tokens": 7, "cache_creation_1h_input_tokens": 3},
    ),
    "openai's usage": (
        "openai_usage",
        OPENAI,
        {"input_tokens": 50, "audio_input_tokens": 5, "calls": 4, "tier": "batch", "cache_read_audio_input_tokens": 2},
    ),
    "spans of OpenInference": (
        "otlp",
        spans(
            {
                "openinference.span.kind": "LLM",
                "llm.model_name": "gpt-4o",
                "llm.token_count.prompt": 100,
                "llm.token_count.completion": 20,
                "llm.token_count.prompt_details.cache_read": 90,
            }
        ),
        {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 90},
    ),
    "spans of Vercel's SDK, the outer one left out": (
        "otlp",
        spans(
            {
                "name": "ai.generateText",
                "ai.operationId": "ai.generateText",
                "ai.model.id": "gpt-4o",
                "ai.usage.promptTokens": 100,
                "ai.usage.completionTokens": 20,
            },
            {
                "name": "ai.generateText.doGenerate",
                "ai.operationId": "ai.generateText.doGenerate",
                "ai.model.id": "gpt-4o",
                "ai.usage.promptTokens": 100,
                "ai.usage.completionTokens": 20,
            },
        ),
        {"input_tokens": 100},
    ),
    "spans of an agent, which repeat their children": (
        "otlp",
        spans(
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.usage.input_tokens": 100,
            },
            {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.prompt_tokens": 100},
        ),
        {"input_tokens": 100},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_record_of_each_format(name: str, tmp_path: Path) -> None:
    format_, document, expected = CASES[name]
    file = tmp_path / "log"
    file.write_text(json.dumps(document))
    with evidence(file) as (known, intake):
        assert [source.format.name for source in intake.sources] == [format_]
        (call,) = known.execute(known.calls)
    assert {field: call.get(field) for field in expected} == expected


def test_what_was_written_without_a_sample_says_so(tmp_path: Path) -> None:
    """All formats in one audit: each that nobody has seen a sample of is named, and no other."""
    for number, (_, document, _) in enumerate(CASES.values()):
        (tmp_path / f"log{number}").write_text(json.dumps(document))
    result = audited(*sorted(tmp_path.iterdir()))
    said = {note.partition(":")[0] for note in result.notes if "no real sample" in note}
    used = {format_ for format_, _, _ in CASES.values()}
    assert said == {each.title for each in FORMATS if each.sampled is None and each.name in used}
    assert said
    assert {finding.code for finding in result.findings} <= set(CODES)
