"""Costbearer's own export: entries as they stand in the ledger, one per line.

A call that was corrected stands there three times: as it was, taken back, and as it is now. Only the last one counts;
where a correction changes the cost alone, the difference is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import ADJUSTMENT, CALL, REVERSAL
from costbearer.logformats.record import Record
from costbearer.usage import COUNTS


def _columns(r: Record) -> Mapping[str, Any]:
    kind = r.text("kind")
    calls = r.count("calls")
    sign = ibis.coalesce(calls, 1)
    provenance = {name: r.text(f"attribution/{name}/provenance") for name in ("team", "owner")}
    verified = {
        name: ibis.ifelse(provenance[name] == "asserted", ibis.null("string"), r.text(name))
        for name in ("team", "owner")
    }
    asserted = {
        f"asserted_{name}": ibis.ifelse(provenance[name] == "asserted", r.text(name), ibis.null("string"))
        for name in ("team", "owner")
    }
    return {
        "kind": ibis.cases(
            (kind.isnull(), ibis.null("string")), (sign > 0, CALL), (sign < 0, REVERSAL), else_=ADJUSTMENT
        ),
        "refers_to": r.text("refers_to"),
        "record_id": r.text("entry_id"),
        "response_id": r.text("provider_response_id"),
        "request_id": r.text("request_id"),
        "trace_id": r.text("trace_id"),
        "span_id": r.text("call_id"),
        "parent_id": r.text("parent_id"),
        "session_id": r.text("session_id"),
        "attempt": r.count("attempt"),
        "operation": r.text("operation"),
        "hop": "costbearer",
        "started_at": r.time("started_at"),
        "ended_at": r.time("ended_at"),
        "provider": r.text("price_provider", "provider"),
        "request_model": r.text("request_model"),
        "response_model": r.text("response_model"),
        "tier": r.text("tier"),
        "speed": r.text("speed"),
        "geo": r.text("region"),
        "variant": r.text("variant"),
        "status": r.text("status"),
        "cache_hit": r.flag("cache_hit"),
        "calls": calls,
        "cost_usd": r.usd("cost_usd"),
        "provider_cost_usd": r.usd("provider_cost_usd"),
        "parts": r.text("work"),
        "basis": r.text("basis"),
        "reason_unknown": r.text("reason_unknown"),
        "agent": r.text("agent"),
        "workload": r.text("workload"),
        "key_id": r.text("key_id"),
        "workspace": r.text("project"),
        "user": r.text("user"),
        "tenant": r.text("customer", "tenant"),
        "workflow": r.text("workflow"),
        "feature": r.text("feature"),
        "env": r.text("env"),
        "tags": r.text("tags").nullif("{}"),
        **verified,
        **asserted,
        **{name: r.count(f"usage/{name}") for name in COUNTS},
    }


OWN = LogFormat(
    name="costbearer",
    title="Costbearer entries",
    is_record=lambda value: {"entry_id", "kind", "basis"} <= value.keys(),
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant", "trace_id"}),
    sampled="its own export",
)
