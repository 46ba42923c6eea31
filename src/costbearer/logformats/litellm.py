"""LiteLLM's spend log: the rows of its table `LiteLLM_SpendLogs`, however they were exported.

Times are UTC without a zone, costs binary floats, `metadata` and `request_tags` the text of JSON. `prompt_tokens`
contains what was read from and written to a cache, in the usage object as well as beside it: LiteLLM adds Anthropic's
disjoint counts up. The key's labels in `metadata` are the proxy's own; `request_tags`, `end_user` and
`spend_logs_metadata` are what the caller said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, first, places_of

_USAGE = "metadata/usage_object"
_RETRIEVALS = (
    "get_responses",
    "aget_responses",
    "retrieve_batch",
    "aretrieve_batch",
    "list_input_items",
    "afile_content",
)


def _columns(r: Record) -> Mapping[str, Any]:
    asserted = {
        name: first(r.tag("request_tags", *names), r.text(*(f"metadata/spend_logs_metadata/{said}" for said in names)))
        for name, names in ASSERTED.items()
    }
    model = r.text("model")
    call_type = r.text("call_type")
    tier = r.text(f"{_USAGE}/service_tier", "metadata/additional_usage_values/service_tier")
    return {
        "kind": ibis.ifelse(r.text("request_id").notnull() | call_type.notnull(), CALL, ibis.null("string")),
        "record_id": r.text("request_id"),
        "response_id": r.text("request_id"),
        "request_id": r.text("litellm_call_id"),
        "trace_id": r.text("litellm_trace_id", "metadata/trace_id"),
        "session_id": r.text("session_id"),
        "operation": call_type,
        "started_at": r.time("startTime"),
        "ended_at": r.time("endTime"),
        "provider": r.text("custom_llm_provider"),
        "request_model": r.text("model_group", "model"),
        "response_model": model,
        "tier": ibis.ifelse(call_type.contains("batch"), "batch", tier),
        "geo": r.text(f"{_USAGE}/inference_geo"),
        "speed": r.text(f"{_USAGE}/speed"),
        "status": ibis.ifelse(r.text("status").lower() == "failure", "error", "ok"),
        "cache_hit": r.flag("cache_hit"),
        "retrieved": call_type.isin(_RETRIEVALS),
        "input_tokens": r.count("prompt_tokens", f"{_USAGE}/prompt_tokens"),
        "output_tokens": r.count("completion_tokens", f"{_USAGE}/completion_tokens"),
        "total_tokens": r.count("total_tokens", f"{_USAGE}/total_tokens"),
        "cache_read_input_tokens": r.count(
            f"{_USAGE}/cache_read_input_tokens",
            f"{_USAGE}/prompt_tokens_details/cached_tokens",
            "metadata/additional_usage_values/cache_read_input_tokens",
        ),
        "cache_creation_input_tokens": r.count(
            f"{_USAGE}/cache_creation_input_tokens",
            f"{_USAGE}/prompt_tokens_details/cache_creation_tokens",
            f"{_USAGE}/prompt_tokens_details/cache_write_tokens",
            "metadata/additional_usage_values/cache_creation_input_tokens",
        ),
        "cache_creation_1h_input_tokens": r.count(
            f"{_USAGE}/prompt_tokens_details/cache_creation_token_details/ephemeral_1h_input_tokens",
            f"{_USAGE}/cache_creation/ephemeral_1h_input_tokens",
        ),
        "reasoning_output_tokens": r.count(f"{_USAGE}/completion_tokens_details/reasoning_tokens"),
        "audio_input_tokens": r.count(f"{_USAGE}/prompt_tokens_details/audio_tokens"),
        "audio_output_tokens": r.count(f"{_USAGE}/completion_tokens_details/audio_tokens"),
        "image_input_tokens": r.count(f"{_USAGE}/prompt_tokens_details/image_tokens"),
        "image_output_tokens": r.count(f"{_USAGE}/completion_tokens_details/image_tokens"),
        "web_search_requests": r.count(
            f"{_USAGE}/server_tool_use/web_search_requests", f"{_USAGE}/prompt_tokens_details/web_search_requests"
        ),
        "cost_usd": r.usd("spend"),
        "cost_places": places_of(r.raw("spend")),
        "provider_cost_usd": r.usd(f"{_USAGE}/cost"),
        "owner": r.text("metadata/user_api_key_user_id"),
        "team": r.text("metadata/user_api_key_team_alias", "team_id", "metadata/user_api_key_team_id"),
        "agent": r.text("agent_id"),
        "key_id": r.text("api_key", "metadata/user_api_key"),
        "key_name": r.text("metadata/user_api_key_alias"),
        "workspace": r.text("metadata/user_api_key_project_alias", "organization_id", "metadata/user_api_key_org_id"),
        "user": r.text("user"),
        "tenant": first(r.text("end_user"), asserted.pop("tenant")),
        "tags": r.text("request_tags").nullif("[]"),
        **asserted,
    }


LITELLM = LogFormat(
    name="litellm",
    title="LiteLLM SpendLogs",
    is_record=lambda value: {"request_id", "call_type", "spend", "startTime"} <= value.keys(),
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant", "trace_id"}),
    sampled="a payload out of the tests of LiteLLM",
)
