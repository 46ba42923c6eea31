"""Cloudflare AI Gateway: its log, from the API or pushed.

Neither cached tokens nor service tiers are recorded, so a call that read from a cache looks dearer here than it was.
What the gateway's own cache answered (`cached`) cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, places_of, tag


def _columns(r: Record) -> Mapping[str, Any]:
    said = r.map("metadata")
    failed = (r.count("status_code") >= 400) | (r.flag("success") == False)  # noqa: E712
    return {
        "kind": ibis.ifelse(r.text("id").notnull() & r.text("model").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("id"),
        "request_id": r.text("event_id", "id"),
        "trace_id": tag(said, "trace_id"),
        "session_id": tag(said, "session_id"),
        "attempt": r.count("step") + 1,
        "operation": r.text("path", "request_type"),
        "started_at": r.time("created_at"),
        "provider": r.text("provider"),
        "request_model": r.text("model"),
        "response_model": r.text("model"),
        "status": ibis.ifelse(ibis.coalesce(failed, False), "error", "ok"),
        "cache_hit": r.flag("cached"),
        "input_tokens": r.count("tokens_in"),
        "output_tokens": r.count("tokens_out"),
        "cost_usd": r.usd("cost"),
        "cost_places": places_of(r.raw("cost")),
        "user": tag(said, "user", "user_id"),
        "tags": r.text("metadata").nullif("{}"),
        **{name: tag(said, *names) for name, names in ASSERTED.items()},
    }


CLOUDFLARE = LogFormat(
    name="cloudflare",
    title="Cloudflare AI Gateway logs",
    is_record=lambda value: {"tokens_in", "tokens_out", "cached"} <= value.keys(),
    columns=_columns,
    carries=frozenset({"owner", "tenant"}),
    sampled=None,
    notes=("cached tokens and service tiers are not recorded by this gateway",),
)
