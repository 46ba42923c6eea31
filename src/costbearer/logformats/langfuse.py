"""Langfuse: observations from its API, its trace export, its batch and blob exports.

Only generations and embeddings cost anything; spans are steps on the way. What the counts in `usageDetails` contain
depends on who wrote them: Langfuse's own integrations split them up (`input` is what was not cached, `input_cache_read`
stands beside it), OpenInference's are parts of the whole (`prompt_details.cache_read` is within `input`). Where the
stated total is input plus output, the parts are within; else they stand beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL, HOP
from costbearer.logformats.record import ASSERTED, Record, first, places_of, total

_CALLS = ("GENERATION", "EMBEDDING")
_READ = ("input_cache_read", "input_cached_tokens", "cache_read_input_tokens")
_WRITTEN = ("input_cache_creation", "cache_creation_input_tokens")


def _columns(r: Record) -> Mapping[str, Any]:
    kind = r.text("type").upper()
    usage = _usage(r)
    cost = ("totalCost", "calculatedTotalCost", "total_cost", "costDetails/total", "cost_details/total")
    asserted = {
        name: r.text(*(f"metadata/{said}" for said in names), *(f"metadata/attributes/{said}" for said in names))
        for name, names in ASSERTED.items()
    }
    trace = r.up(1)
    tier = ("modelParameters/service_tier", "metadata/attributes/gen_ai.openai.response.service_tier")
    return {
        "kind": ibis.cases(
            (kind.isin(_CALLS), CALL), (r.text("id").notnull() & kind.notnull(), HOP), else_=ibis.null("string")
        ),
        "record_id": r.text("id"),
        "response_id": r.text("output/id", "metadata/attributes/gen_ai.response.id"),
        "trace_id": r.text("traceId", "trace_id"),
        "span_id": r.text("id"),
        "parent_id": r.text("parentObservationId", "parent_observation_id"),
        "session_id": first(r.text("sessionId", "session_id"), trace.text("trace/sessionId")),
        "operation": r.text("name"),
        "hop": r.text("metadata/resourceAttributes/service.name", "name"),
        "instrumentation": r.text("metadata/scope/name"),
        "started_at": r.time("startTime", "start_time"),
        "ended_at": r.time("endTime", "end_time"),
        "provider": r.text("metadata/ls_provider", "metadata/attributes/gen_ai.system"),
        "request_model": r.text("providedModelName", "provided_model_name", "model"),
        "response_model": r.text("model", "provided_model_name"),
        "tier": r.text(*tier),
        "status": ibis.ifelse(r.text("level") == "ERROR", "error", "ok"),
        "cost_usd": r.usd(*cost),
        "cost_places": places_of(r.text(*cost)),
        "provider_cost_usd": r.usd("providedCostDetails/total", "provided_cost_details/total").nullif(0),
        "workspace": r.text("projectId", "project_id"),
        "user": first(r.text("userId", "user_id"), trace.text("trace/userId")),
        "agent": trace.text("trace/name"),
        **asserted,
        "env": first(asserted["env"], r.text("environment").nullif("default")),
        **usage,
    }


def _usage(r: Record) -> dict[str, Any]:
    def detail(*names: str) -> Any:
        return r.count(*(f"{place}/{name}" for place in ("usageDetails", "usage_details") for name in names))

    given = first(detail("input", "input_tokens"), r.count("inputUsage", "promptTokens", "usage/input"))
    made = first(detail("output", "output_tokens"), r.count("outputUsage", "completionTokens", "usage/output"))
    stated = first(detail("total"), r.count("totalUsage", "totalTokens", "usage/total"))
    read, audio, image = detail(*_READ), detail("input_audio"), detail("input_image")
    five, hour = detail("input_cache_creation_5m"), detail("input_cache_creation_1h")
    written = first(detail(*_WRITTEN), total(five, hour))
    reasoned, audio_made = detail("output_reasoning", "output_reasoning_tokens"), detail("output_audio")
    within = stated == ibis.coalesce(given, 0) + ibis.coalesce(made, 0)
    return {
        "input_tokens": ibis.ifelse(within, given, total(given, read, written, audio, image)),
        "output_tokens": ibis.ifelse(within, made, total(made, reasoned, audio_made)),
        "total_tokens": stated,
        "cache_read_input_tokens": first(read, detail("prompt_details.cache_read", "input_token_details.cache_read")),
        "cache_creation_input_tokens": first(written, detail("prompt_details.cache_write")),
        "cache_creation_1h_input_tokens": hour,
        "reasoning_output_tokens": first(reasoned, detail("completion_details.reasoning")),
        "audio_input_tokens": first(audio, detail("prompt_details.audio")),
        "audio_output_tokens": first(audio_made, detail("completion_details.audio")),
        "image_input_tokens": image,
    }


def _is_observation(value: Mapping[str, Any]) -> bool:
    api = {"traceId", "type", "startTime"} <= value.keys()
    return api or {"trace_id", "type", "start_time", "project_id"} <= value.keys()


LANGFUSE = LogFormat(
    name="langfuse",
    title="Langfuse observations",
    is_record=_is_observation,
    columns=_columns,
    carries=frozenset({"owner", "session_id", "trace_id", "tenant"}),
    sampled="seven traces recorded by the Langfuse team",
    steps=("observations",),
    is_whole=lambda value: "trace" in value and isinstance(value.get("observations"), list),
)
