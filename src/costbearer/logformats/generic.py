"""A table of nobody's format: columns by the names people give them, or as a map says.

A map has one line per column, `field: column`; a column may be a path into JSON (`metadata/team`). Labels are taken to
be the caller's own word: who wrote the table is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import ibis

from costbearer.errors import InputInvalid
from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL, FIELD
from costbearer.logformats.record import Record, as_count, as_flag, as_time, as_usd, places_of

NAMES: Mapping[str, tuple[str, ...]] = {
    "record_id": ("id", "record_id", "log_id", "event_id", "call_id", "generation_id", "uuid"),
    "response_id": ("response_id", "provider_response_id", "completion_id", "message_id"),
    "request_id": ("request_id", "req_id", "x_request_id", "litellm_call_id"),
    "trace_id": ("trace_id", "trace", "traceid"),
    "span_id": ("span_id",),
    "parent_id": ("parent_id", "parent_span_id", "parent_request_id"),
    "session_id": ("session_id", "session", "conversation_id", "thread_id", "chat_id"),
    "attempt": ("attempt", "attempt_number", "try"),
    "operation": ("operation", "call_type", "endpoint", "path", "api", "method", "route"),
    "hop": ("service", "service_name", "hop", "source"),
    "started_at": (
        "started_at", "start_time", "timestamp", "created_at", "time", "ts", "date", "datetime", "created", "start",
        "request_time", "period", "usage_date", "day",
    ),
    "ended_at": ("ended_at", "end_time", "finished_at", "completed_at", "end"),
    "provider": ("provider", "provider_name", "vendor", "custom_llm_provider", "llm_provider", "ai_org"),
    "request_model": ("request_model", "requested_model", "model_group", "model_alias", "alias"),
    "response_model": (
        "response_model", "model", "model_name", "model_id", "served_model", "model_slug", "deployment", "engine",
    ),
    "tier": ("service_tier", "tier"),
    "geo": ("region", "inference_geo"),
    "status": ("status", "state", "outcome", "result", "success", "status_code", "http_status"),
    "cache_hit": ("cache_hit", "cached", "from_cache"),
    "input_tokens": (
        "input_tokens", "prompt_tokens", "tokens_in", "tokens_prompt", "input", "in_tokens", "tokens_input",
        "n_input_tokens", "num_input_tokens", "request_tokens",
    ),
    "output_tokens": (
        "output_tokens", "completion_tokens", "tokens_out", "tokens_completion", "output", "out_tokens",
        "tokens_output", "n_output_tokens", "num_output_tokens", "response_tokens", "generated_tokens",
    ),
    "total_tokens": ("total_tokens", "tokens", "tokens_total"),
    "cache_read_input_tokens": (
        "cache_read_input_tokens", "cached_tokens", "cache_read_tokens", "cached_input_tokens", "input_cached_tokens",
        "tokens_cached",
    ),
    "cache_creation_input_tokens": (
        "cache_creation_input_tokens", "cache_write_tokens", "cache_creation_tokens", "cache_write_input_tokens",
    ),
    "cache_creation_1h_input_tokens": ("cache_creation_1h_input_tokens", "ephemeral_1h_input_tokens"),
    "reasoning_output_tokens": (
        "reasoning_output_tokens", "reasoning_tokens", "thinking_tokens", "thoughts_tokens", "tokens_reasoning",
    ),
    "web_search_requests": ("web_search_requests", "web_searches"),
    "cost_usd": (
        "cost_usd", "cost", "spend", "total_cost", "price", "amount", "amount_usd", "usd", "cost_total",
        "response_cost",
        "spend_usd", "total_cost_usd", "price_usd",
    ),
    "provider_cost_usd": ("provider_cost_usd", "provider_cost", "upstream_cost", "billed_cost"),
    "currency": ("currency", "cost_currency"),
    "key_id": ("key_id", "api_key_id", "api_key", "key", "virtual_key", "api_key_hash"),
    "key_name": ("key_name", "api_key_name", "key_alias"),
    "identity": ("identity", "principal", "arn", "service_account", "iam_principal", "caller"),
    "workspace": ("workspace", "workspace_id", "project", "project_id", "organization", "organization_id", "account"),
    "asserted_owner": ("owner", "owner_email", "responsible"),
    "asserted_team": ("team", "owner_team", "team_name", "team_id", "team_alias", "department", "cost_center", "squad"),
    "agent": ("agent", "agent_name", "agent_id", "app", "app_name", "application"),
    "workload": ("workload", "job"),
    "user": ("user", "user_id", "end_user", "username", "user_id_hash"),
    "tenant": ("tenant", "tenant_id", "customer", "customer_id", "client", "tenant_id_hash"),
    "workflow": ("workflow", "workflow_id", "pipeline"),
    "feature": ("feature", "feature_name"),
    "env": ("env", "environment", "stage"),
}  # fmt: skip
"""What columns are called, the likeliest name first; spelling (case, dashes, spaces, camelCase) does not matter."""

NOT_MAPPED = frozenset(
    {"kind", "fault", "tags", "parts", "cost_places", "basis", "reason_unknown", "refers_to", "journey"}
)
"""Fields that no column of a table can be."""
_FAILED = ("error", "failed", "failure", "fail", "timeout", "false")
_ENOUGH = ({"input_tokens", "output_tokens", "total_tokens"}, {"cost_usd"})


def spelt(name: str) -> str:
    """A column's name without what spelling adds to it: `Prompt Tokens`, `promptTokens` and `prompt-tokens` are one."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def matched(columns: Iterable[str]) -> dict[str, str]:
    """Field -> column, for the columns whose names say what they are; no column is taken twice."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(spelt(column), column)
    found: dict[str, str] = {}
    for field, names in NAMES.items():
        name = next((name for name in names if name in by_name), None)
        if name is not None:
            found[field] = by_name.pop(name)
    return found


def is_usage(found: Mapping[str, str]) -> bool:
    """Whether a table of these columns can be a usage log: it says what was used or what it cost, of what or when."""
    fields = found.keys()
    named = {"request_model", "response_model", "provider", "started_at"} & fields
    return bool(named) and any(fields & enough for enough in _ENOUGH)


def check_map(given: Mapping[Any, Any], place: str) -> dict[str, str]:
    """A map as a person wrote it.

    Raises:
        InputInvalid: it names a field there is not, or a column that is no text.
    """
    allowed = FIELD.keys() - NOT_MAPPED
    for field, column in given.items():
        if field not in allowed:
            raise InputInvalid(
                f"{place}: {field!r} is not a field of a record; the fields are {', '.join(sorted(allowed))}"
            )
        if not isinstance(column, str) or not column:
            raise InputInvalid(f"{place}: {field}: a column is named by a text, not by {column!r}")
    if not given:
        raise InputInvalid(f"{place}: the map is empty; write one line per column, such as `input_tokens: tokens_in`")
    return {str(field): str(column) for field, column in given.items()}


def generic(found: Mapping[str, str], *, mapped: bool) -> LogFormat:
    """The format of a table with these columns by field."""

    def columns(r: Record) -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        for field, column in found.items():
            raw = r.raw(column)
            kind = FIELD[field].type
            values[field] = _typed(raw, kind)
        if "cost_usd" in found:
            values["cost_places"] = places_of(r.raw(found["cost_usd"]))
        if "status" in found:
            values["status"] = _status(r.text(found["status"]))
        values["kind"] = ibis.ifelse(
            ibis.or_(*(r.raw(column).notnull() for column in found.values())), CALL, ibis.null("string")
        )
        return values

    carried = {"owner"} & {"owner" for name in found if name.endswith(("owner", "team"))}
    carried |= {name for name in ("session_id", "trace_id", "tenant") if name in found}
    return LogFormat(
        name="generic",
        title="Table, by the map given" if mapped else "Table, by the names of its columns",
        is_record=lambda _: False,
        columns=columns,
        carries=frozenset(carried | {"owner"}),
        sampled="the columns themselves",
        notes=tuple(f"{field} is read from {column}" for field, column in found.items()),
    )


def _typed(raw: Any, kind: str) -> Any:
    text = raw.nullif("")
    readers = {"int64": as_count, "usd": as_usd, "time": as_time, "boolean": as_flag}
    return readers[kind](text) if kind in readers else text


def _status(text: Any) -> Any:
    said = text.lower()
    failed = ibis.coalesce(said.isin(_FAILED) | (as_count(said) >= 400), False)
    return ibis.ifelse(failed, "error", ibis.ifelse(said == "cancelled", "cancelled", "ok"))
