"""Envoy AI Gateway: its access log, with the names of its own examples.

Which request headers become labels is the operator's choice; the usual ones are looked for. There are no costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record


def _columns(r: Record) -> Mapping[str, Any]:
    used = "gen_ai.usage."
    headers = {
        name: r.text(*(prefix + said.replace("_", dash) for said in names for prefix, dash in (("", "_"), ("x-", "-"))))
        for name, names in ASSERTED.items()
    }
    backend = r.text("gen_ai.provider.name", "backend_name")
    return {
        "kind": ibis.ifelse(r.text("gen_ai.request.model").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("x-request-id"),
        "request_id": r.text("x-request-id"),
        "response_id": r.text("gen_ai.response.id"),
        "trace_id": r.text("trace_id", "traceparent"),
        "session_id": r.text("session.id"),
        "operation": r.text("request.path", "x-envoy-origin-path"),
        "started_at": r.time("start_time"),
        # A backend is named namespace/name/route/...; the name is what may be a provider.
        "provider": ibis.ifelse(backend.contains("/"), backend.split("/")[1], backend),
        "request_model": r.text("gen_ai.request.model"),
        "response_model": r.text("gen_ai.response.model"),
        "status": ibis.ifelse(r.count("response_code") >= 400, "error", "ok"),
        "input_tokens": r.count(f"{used}input_tokens", "llm_input_token"),
        "output_tokens": r.count(f"{used}output_tokens", "llm_output_token"),
        "total_tokens": r.count(f"{used}total_tokens", "llm_total_token"),
        "cache_read_input_tokens": r.count(
            f"{used}cached_input_tokens", f"{used}cache_read.input_tokens", "llm_cached_input_token"
        ),
        "cache_creation_input_tokens": r.count(
            f"{used}cache_creation_input_tokens", f"{used}cache_creation.input_tokens", "llm_cache_creation_input_token"
        ),
        "reasoning_output_tokens": r.count(f"{used}reasoning_tokens", "llm_reasoning_token"),
        "provider_cost_usd": r.usd(f"{used}cost"),
        "user": r.text("x-user-id"),
        **headers,
    }


ENVOY = LogFormat(
    name="envoy",
    title="Envoy AI Gateway access log",
    is_record=lambda value: (
        "gen_ai.request.model" in value
        and ("response_code" in value or any(name.startswith("x-envoy-") for name in value))
    ),
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant"}),
    sampled="the format of an example configuration of the project",
)
