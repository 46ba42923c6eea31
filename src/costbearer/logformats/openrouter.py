"""OpenRouter: its activity export (CSV) and the generations of its API.

The cost is what OpenRouter itself charges, so it is the provider's own; with a key of one's own (BYOK) it is
OpenRouter's fee, and the inference stands on another bill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import Record, first, places_of


def _columns(r: Record) -> Mapping[str, Any]:
    cost = ("cost_total", "total_cost")
    model = r.text("model_permaslug", "model")
    identity = r.text("generation_id", "id")
    return {
        "kind": ibis.ifelse(identity.notnull(), CALL, ibis.null("string")),
        "record_id": identity,
        "response_id": identity,
        "session_id": r.text("session_id"),
        "operation": r.text("api_type"),
        "started_at": r.time("created_at"),
        "provider": "openrouter",
        "request_model": model,
        "response_model": model,
        "status": ibis.ifelse(r.flag("cancelled"), "cancelled", "ok"),
        "input_tokens": r.count("native_tokens_prompt", "tokens_prompt"),
        "output_tokens": r.count("native_tokens_completion", "tokens_completion"),
        "cache_read_input_tokens": r.count("native_tokens_cached", "tokens_cached"),
        "reasoning_output_tokens": r.count("native_tokens_reasoning", "tokens_reasoning"),
        "image_output_tokens": r.count("native_tokens_completion_images"),
        "cost_usd": r.usd(*cost),
        "provider_cost_usd": r.usd(*cost),
        "cost_places": places_of(r.text(*cost)),
        "agent": r.text("app_name"),
        "key_name": r.text("api_key_name"),
        "user": first(r.text("user"), r.text("external_user")),
    }


OPENROUTER = LogFormat(
    name="openrouter",
    title="OpenRouter activity",
    is_record=lambda value: (
        {"generation_id", "cost_total"} <= value.keys()
        or (
            {"native_tokens_prompt", "total_cost", "id"} <= value.keys() and "native_tokens_cache_creation" not in value
        )
    ),
    columns=_columns,
    carries=frozenset({"owner", "tenant"}),
    sampled="the header of a real export with one row",
)
