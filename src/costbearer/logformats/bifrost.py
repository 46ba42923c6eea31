"""Bifrost: the rows of its log store, from the API or out of its table.

Costs are US dollars and include the gateway's own cache look-up. A request's fallbacks are rows of their own that name
it as their parent. Counts contain what was cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, first, places_of, tag


def _columns(r: Record) -> Mapping[str, Any]:
    said = r.map("metadata")
    details, made = "token_usage/prompt_tokens_details", "token_usage/completion_tokens_details"
    status = r.text("status")
    return {
        "kind": ibis.ifelse(r.text("id").notnull() & status.notnull(), CALL, ibis.null("string")),
        "record_id": r.text("id"),
        "response_id": r.text("response_id"),
        "request_id": r.text("parent_request_id", "id"),
        "trace_id": tag(said, "trace_id"),
        "session_id": tag(said, "session_id"),
        "attempt": r.count("fallback_index") + 1,
        "operation": r.text("object", "object_type"),
        "started_at": r.time("timestamp", "created_at"),
        "provider": r.text("provider"),
        "request_model": r.text("model"),
        "response_model": r.text("model"),
        "status": ibis.ifelse(status == "error", "error", "ok"),
        "cache_hit": r.flag("cache_debug/cache_hit"),
        "input_tokens": r.count("token_usage/prompt_tokens", "prompt_tokens"),
        "output_tokens": r.count("token_usage/completion_tokens", "completion_tokens"),
        "total_tokens": r.count("token_usage/total_tokens", "total_tokens"),
        "cache_read_input_tokens": r.count(f"{details}/cached_read_tokens", f"{details}/cached_tokens"),
        "cache_creation_input_tokens": r.count(f"{details}/cached_write_tokens"),
        "audio_input_tokens": r.count(f"{details}/audio_tokens"),
        "reasoning_output_tokens": r.count(f"{made}/reasoning_tokens"),
        "audio_output_tokens": r.count(f"{made}/audio_tokens"),
        "provider_cost_usd": r.usd("token_usage/cost/total_cost"),
        "cost_usd": r.usd("cost"),
        "cost_places": places_of(r.raw("cost")),
        "team": r.text("virtual_key/team/name"),
        "owner": r.text("virtual_key/customer/name"),
        "key_id": first(r.text("virtual_key_id"), r.text("selected_key_id")),
        "key_name": r.text("virtual_key_name", "virtual_key/name", "selected_key_name"),
        "user": tag(said, "user", "user_id"),
        "tags": r.text("metadata").nullif("{}"),
        **{name: tag(said, *names) for name, names in ASSERTED.items()},
    }


BIFROST = LogFormat(
    name="bifrost",
    title="Bifrost logs",
    is_record=lambda value: (
        "status" in value
        and "model" in value
        and bool({"virtual_key_id", "selected_key_id", "number_of_retries", "fallback_index"} & value.keys())
    ),
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant", "trace_id"}),
    sampled=None,
)
