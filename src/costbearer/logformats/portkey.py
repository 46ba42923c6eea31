"""Portkey: the export of its log.

The unit of `cost` is not the same everywhere (parts of its documentation speak of cents); the audit finds out by
comparing it with what the tokens cost, and says what it found.
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
    asserted = {name: tag(said, *names) for name, names in ASSERTED.items()}
    code = r.count("response_status_code")
    failed = (code >= 400) | (r.flag("is_success") == False)  # noqa: E712
    return {
        "kind": ibis.ifelse(r.text("ai_model").notnull() | r.text("ai_org").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("id"),
        "response_id": r.text("response/id"),
        "request_id": r.text("id"),
        "trace_id": r.text("trace_id"),
        "session_id": tag(said, "session_id", "_session"),
        "operation": r.text("request_url"),
        "started_at": r.time("created_at"),
        "provider": r.text("ai_org"),
        "request_model": r.text("request/model", "ai_model"),
        "response_model": r.text("response/model", "ai_model"),
        "tier": r.text("response/service_tier"),
        "status": ibis.ifelse(ibis.coalesce(failed, False), "error", "ok"),
        "cache_hit": r.text("cache_status").upper().isin(("HIT", "SEMANTIC HIT")),
        "input_tokens": r.count("req_units"),
        "output_tokens": r.count("res_units"),
        "total_tokens": r.count("total_units"),
        "cache_read_input_tokens": r.count(
            "response/usage/prompt_tokens_details/cached_tokens", "response/usage/cache_read_input_tokens"
        ),
        "cache_creation_input_tokens": r.count("response/usage/cache_creation_input_tokens"),
        "reasoning_output_tokens": r.count("response/usage/completion_tokens_details/reasoning_tokens"),
        "cost_usd": r.usd("cost"),
        "cost_places": places_of(r.raw("cost")),
        "currency": r.text("cost_currency").upper(),
        "key_id": r.text("virtual_key", "api_key_id"),
        "workspace": r.text("workspace_slug", "workspace_id"),
        "user": tag(said, "_user", "user"),
        "tags": r.text("metadata").nullif("{}"),
        **asserted,
        "env": first(asserted["env"], tag(said, "_environment")),
    }


PORTKEY = LogFormat(
    name="portkey",
    title="Portkey logs",
    is_record=lambda value: {"ai_org", "ai_model"} <= value.keys() and ("req_units" in value or "cost" in value),
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant", "trace_id"}),
    sampled=None,
    notes=("the unit of cost is told from the tokens",),
)
