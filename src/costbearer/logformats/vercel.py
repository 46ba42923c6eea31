"""Vercel AI Gateway: the generations of its API.

The cost is what the gateway charges. Whether its prompt tokens contain the cached ones is not documented: they are
taken to, unless there are more cached tokens than prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, places_of, total


def _columns(r: Record) -> Mapping[str, Any]:
    prompt, read = r.count("native_tokens_prompt"), r.count("native_tokens_cached")
    written = r.count("native_tokens_cache_creation")
    beside = ibis.coalesce(read, 0) + ibis.coalesce(written, 0) > prompt
    return {
        "kind": ibis.ifelse(r.text("id").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("id"),
        "response_id": r.text("id"),
        "started_at": r.time("created_at"),
        "provider": r.text("provider_name"),
        "request_model": r.text("model"),
        "response_model": r.text("model"),
        "status": "ok",
        "input_tokens": ibis.ifelse(beside, total(prompt, read, written), prompt),
        "output_tokens": r.count("native_tokens_completion"),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "reasoning_output_tokens": r.count("native_tokens_reasoning"),
        "web_search_requests": r.count("billable_web_search_calls"),
        "cost_usd": r.usd("total_cost"),
        "provider_cost_usd": r.usd("total_cost"),
        "cost_places": places_of(r.raw("total_cost")),
        "user": r.text("user"),
        "tags": r.text("tags").nullif("[]"),
        **{name: r.tag("tags", *names) for name, names in ASSERTED.items()},
    }


VERCEL = LogFormat(
    name="vercel",
    title="Vercel AI Gateway generations",
    is_record=lambda value: {"native_tokens_cache_creation", "total_cost"} <= value.keys(),
    columns=_columns,
    carries=frozenset({"owner", "tenant"}),
    sampled=None,
)
