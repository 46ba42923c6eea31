"""A trace of the ownership contract as one JSON object: who it belongs to, and the calls it made.

`provider_calls` are the calls; `gateway`, `router`, `queue`, `worker` and `billing_join` are what each hop still knew
of it. What a call does not say itself it has from its trace, which is then only asserted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL, HOP
from costbearer.logformats.record import Record, first, places_of

HOPS = ("provider_calls", "application", "gateway", "router", "queue", "worker", "billing_join")


def _columns(r: Record) -> Mapping[str, Any]:
    trace = r.up(1)

    def text(*names: str) -> Any:
        return r.text(*(f"value/{name}" for name in names))

    def count(*names: str) -> Any:
        return r.count(*(f"value/{name}" for name in names), *(f"value/usage/{name}" for name in names))

    hop = r.text("hop")
    within = hop == "provider_calls"

    def inherited(*names: str) -> Any:
        return first(text(*names), ibis.ifelse(within, trace.text(*names), ibis.null("string")))

    model = text("model", "response_model", "request_model")
    read = count("cache_read_input_tokens", "cached_input_tokens", "cached_tokens", "cache_read_tokens")
    return {
        "kind": ibis.cases((within | model.notnull(), CALL), (hop.notnull(), HOP), else_=ibis.null("string")),
        "record_id": text("call_id", "id", "span_id"),
        "response_id": text("response_id", "provider_response_id", "provider_request_id"),
        "request_id": text("request_id"),
        "journey": trace.text("trace_id", *(f"{name}/trace_id" for name in HOPS[1:])),
        "trace_id": inherited("trace_id"),
        "span_id": text("span_id"),
        "parent_id": text("parent_span_id", "parent_id", "retry_of", "fallback_of"),
        "session_id": inherited("session_id"),
        "attempt": count("attempt"),
        "operation": text("operation", "reason"),
        "hop": hop,
        "started_at": first(
            r.time("value/started_at", "value/timestamp", "value/start_time", "value/ts"),
            trace.time("started_at", "timestamp", "start_time", "ts"),
        ),
        "provider": text("provider"),
        "request_model": text("request_model", "model"),
        "response_model": text("response_model", "model"),
        "tier": text("service_tier", "tier"),
        "status": ibis.ifelse(text("status").lower().isin(("error", "failed", "failure", "timeout")), "error", "ok"),
        "cache_hit": r.flag("value/cache_hit"),
        "input_tokens": count("input_tokens", "prompt_tokens"),
        "output_tokens": count("output_tokens", "completion_tokens"),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": count("cache_creation_input_tokens", "cache_write_tokens"),
        "reasoning_output_tokens": count("reasoning_output_tokens", "reasoning_tokens"),
        "cost_usd": r.usd("value/cost_usd", "value/cost"),
        "cost_places": places_of(text("cost_usd", "cost")),
        "key_id": text("key_id", "api_key"),
        "asserted_owner": inherited("owner"),
        "asserted_team": inherited("owner_team", "team"),
        "workflow": inherited("workflow_id", "workflow"),
        "feature": inherited("feature"),
        "tenant": inherited("tenant_id_hash", "tenant_id", "tenant"),
        "user": inherited("user_id_hash", "user_id", "user"),
        "env": inherited("env", "environment"),
    }


def _is_trace(value: Mapping[str, Any]) -> bool:
    if isinstance(value.get("provider_calls"), list) and "trace_id" in value:
        return True
    hops = [name for name in ("gateway", "router", "worker", "billing_join") if isinstance(value.get(name), dict)]
    return len(hops) > 1


TRACE = LogFormat(
    name="trace",
    title="Ownership contract traces",
    is_record=lambda _: False,
    columns=_columns,
    carries=frozenset({"owner", "tenant", "trace_id"}),
    sampled=None,
    steps=("|".join(HOPS),),
    is_whole=_is_trace,
)
