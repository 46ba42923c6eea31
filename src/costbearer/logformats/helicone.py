"""Helicone: the export of its request log.

Tokens are as the provider counts them, so Anthropic's prompt does not contain what was cached and OpenAI's does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, first, places_of, tag, total


def _columns(r: Record) -> Mapping[str, Any]:
    properties = r.map("request_properties")
    others = r.map("properties")
    asserted = {name: first(tag(properties, *names), tag(others, *names)) for name, names in ASSERTED.items()}
    provider = r.text("provider", "request_provider")
    prompt, read = r.count("prompt_tokens"), r.count("prompt_cache_read_tokens")
    written = r.count("prompt_cache_write_tokens")
    apart = provider.lower().contains("anthropic")
    session = (tag(properties, "Helicone-Session-Id", "session_id"), r.text("session_id"))
    cost = ("costUSD", "cost_usd", "cost")
    status = r.count("response_status", "status")
    return {
        "kind": ibis.ifelse(r.text("request_id").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("request_id"),
        "response_id": r.text("response_body/id", "response_id"),
        "request_id": r.text("request_id"),
        "trace_id": first(tag(properties, "trace_id", "Helicone-Trace-Id"), r.text("trace_id")),
        "session_id": first(*session),
        "operation": r.text("request_path", "target_url"),
        "started_at": r.time("request_created_at", "created_at"),
        "ended_at": r.time("response_created_at"),
        "provider": provider,
        "request_model": r.text("model_override", "request_model", "model"),
        "response_model": r.text("response_model", "model"),
        "tier": r.text("response_body/service_tier"),
        "status": ibis.ifelse(status >= 400, "error", "ok"),
        "cache_hit": r.flag("cache_enabled_hit", "cached", "response_cached"),
        "input_tokens": ibis.ifelse(apart, total(prompt, read, written), prompt),
        "output_tokens": r.count("completion_tokens"),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "audio_input_tokens": r.count("prompt_audio_tokens"),
        "audio_output_tokens": r.count("completion_audio_tokens"),
        "reasoning_output_tokens": r.count("reasoning_tokens"),
        "cost_usd": r.usd(*cost),
        "cost_places": places_of(r.text(*cost)),
        "key_id": r.text("api_key_id", "auth_hash"),
        "user": r.text("request_user_id", "helicone_user", "user_id"),
        "tags": r.text("request_properties", "properties").nullif("{}"),
        **asserted,
    }


HELICONE = LogFormat(
    name="helicone",
    title="Helicone requests",
    is_record=lambda value: {"request_id", "request_created_at"} <= value.keys() and "response_id" in value,
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant"}),
    sampled=None,
)
