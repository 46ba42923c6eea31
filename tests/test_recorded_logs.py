"""Logs that gateways, libraries and providers really wrote: each is recognised, its sums are what its index states, and
what is known to be wrong with it is found. `COSTBEARER_RECORDED` names the directory they are in."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer.reconcile import invoices
from tests.auditing import audited, by_code, evidence

FORMATS = {
    "anthropic_usage_report": "anthropic_usage",
    "bedrock_model_invocation_log": "bedrock",
    "envoy_ai_gateway_access_log": "envoy",
    "langfuse_trace_export (public API Observation objects)": "langfuse",
    "litellm_spendlogs": "litellm",
    "openai_usage_api_page": "openai_usage",
    "openrouter_activity_csv": "openrouter",
    "otlp_json_traces": "otlp",
}
BILLS = {"anthropic_cost_report", "aws_cur2_csv", "openai_costs_api_page"}


def _samples() -> list[Any]:
    named = os.environ.get("COSTBEARER_RECORDED")
    index = Path(named or "", "recorded_logs", "index.json")
    if not named or not index.is_file():
        skip = pytest.mark.skip("COSTBEARER_RECORDED names no directory with recorded_logs/index.json")
        return [pytest.param({}, id="none", marks=skip)]
    return [
        pytest.param({**sample, "path": index.parent / sample["file"]}, id=sample["id"])
        for sample in json.loads(index.read_text(encoding="utf-8"))
    ]


SAMPLES = _samples()


def _sums(path: Path) -> dict[str, Any]:
    with evidence(path) as (known, _):
        calls = known.calls
        counts = {name: calls[name].sum() for name in known.counted}
        row = known.execute(calls.aggregate(calls=calls.count(), usd=calls.stated_usd.sum(), **counts))[0]
        return {
            name: int(value) if name in known.counted and value is not None else value for name, value in row.items()
        }


@pytest.mark.parametrize("sample", SAMPLES)
def test_it_is_recognised(sample: dict[str, Any]) -> None:
    if sample["format"] in BILLS:
        assert invoices.read(sample["path"]).lines
    else:
        assert audited(sample["path"]).format == FORMATS[sample["format"]]


@pytest.mark.parametrize("sample", SAMPLES)
def test_its_sums_are_those_of_its_index(sample: dict[str, Any]) -> None:
    expected: dict[str, Any] = sample.get("expected", {})
    if sample["format"] in BILLS:
        if "usd" in expected:
            assert invoices.read(sample["path"]).amount_usd == Decimal(expected["usd"])
        return
    sums = _sums(sample["path"])
    for name, value in _wanted(sample["format"], expected, sample.get("span_usage", [])).items():
        assert sums.get(name) == value, name


def _wanted(format_: str, expected: dict[str, Any], spans: list[dict[str, Any]]) -> dict[str, Any]:
    """What an index states, by the names that records have."""
    if format_ == "otlp_json_traces":
        named = {
            "input_tokens": "gen_ai.usage.input_tokens",
            "output_tokens": "gen_ai.usage.output_tokens",
            "cache_read_input_tokens": "gen_ai.usage.cache_read.input_tokens",
            "reasoning_output_tokens": "gen_ai.usage.reasoning_tokens",
        }
        present = {name: [int(span[key]) for span in spans if key in span] for name, key in named.items()}
        return {name: sum(values) for name, values in present.items() if values} | {"calls": len(spans)}
    if format_ == "anthropic_usage_report":
        written = expected["cache_1h"] + expected["cache_5m"]
        return {
            "input_tokens": expected["uncached_input_tokens"] + expected["cache_read"] + written,
            "output_tokens": expected["output"],
            "cache_read_input_tokens": expected["cache_read"],
            "cache_creation_input_tokens": written,
            "cache_creation_1h_input_tokens": expected["cache_1h"],
            "web_search_requests": expected["web_search"],
        }
    if format_ == "bedrock_model_invocation_log":
        whole = expected["inputTokens"] + expected["cacheReadInputTokens"] + expected["cacheWriteInputTokens"]
        return {"input_tokens": whole, "output_tokens": expected["outputTokens"]}
    if format_ == "envoy_ai_gateway_access_log":
        return {"input_tokens": expected["in"], "output_tokens": expected["out"]}
    if format_.startswith("langfuse"):
        # A float's noise is repaired to the twelfth place, as everywhere.
        usd = Decimal(expected["sum_totalCost"]).quantize(Decimal("1e-12"))
        return {
            "calls": expected["generations"],
            "input_tokens": expected["sum_inputUsage"],
            "output_tokens": expected["sum_outputUsage"],
            "usd": usd,
        }
    if format_ == "litellm_spendlogs":
        exact = Decimal("0.000225")
        return {"input_tokens": expected["prompt_tokens"], "output_tokens": expected["completion_tokens"], "usd": exact}
    if format_ == "openrouter_activity_csv":
        return {"calls": expected["rows"], "usd": Decimal(expected["cost_total"])}
    return {}


KNOWN_DEFECTS = {
    "otlp_openai_v2_latest_chat_cache_read": "cached",
    "otlp_openai_v2_chat_priority": "cached",
    "otlp_openai_v2_latest_chat_priority": "cached",
    "otlp_openai_v2_chat_stream_usage": "cached",
    "otlp_openai_v2_chat_stream_no_usage": "no counts",
    "otlp_openai_v2_latest_chat_stream_no_usage": "no counts",
    "otlp_traceloop_anthropic_thinking_stream": "adds the first output count",
    "otlp_traceloop_openai_chat_cache_read": "cache writes",
}


@pytest.mark.parametrize("sample", [each for each in SAMPLES if each.id in KNOWN_DEFECTS or each.id == "none"])
def test_what_its_library_loses_is_found(sample: dict[str, Any]) -> None:
    finding = by_code(audited(sample["path"]))["tokens_missing"]
    assert KNOWN_DEFECTS[sample["id"]] in finding.subjects[0].subject
    if sample["id"].endswith("cache_read") and "openai_v2" in sample["id"]:
        # 4,020 tokens in, all charged as fresh; the provider's own answer says 4,012 of them were cached.
        assert finding.cost_usd is not None
        assert finding.cost_usd > Decimal("0.014")


@pytest.mark.parametrize("sample", [each for each in SAMPLES if "langgraph" in str(each.id) or each.id == "none"])
def test_a_log_that_charged_another_price_is_found(sample: dict[str, Any]) -> None:
    """Its costs were made with $1 per million tokens, in and out, for a model of $2.50 and $10."""
    finding = by_code(audited(sample["path"]))["price_mismatch"]
    assert finding.records == 2
    assert finding.net_usd == Decimal("-0.000846")
