"""The usage pages of OpenAI's and Anthropic's administration APIs: sums by day, hour or minute, without costs.

OpenAI's input contains what was cached and written; Anthropic's does not. A dimension that was not grouped by is null,
and a row without a model cannot be priced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import Record, total


def _openai(r: Record) -> Mapping[str, Any]:
    bucket = r.up(1)
    audio, read_audio = r.count("input_audio_tokens"), r.count("input_cached_audio_tokens")
    image, read_image = r.count("input_image_tokens"), r.count("input_cached_image_tokens")
    what = r.text("object").re_extract("usage[.]([a-z_]+)[.]result", 1)
    return {
        "kind": ibis.ifelse(what != "", CALL, ibis.null("string")),
        "operation": what,
        "started_at": bucket.time("start_time"),
        "ended_at": bucket.time("end_time"),
        "provider": "openai",
        "request_model": r.text("model"),
        "response_model": r.text("model"),
        "tier": ibis.ifelse(r.flag("batch"), "batch", r.text("service_tier")),
        "status": "ok",
        "calls": r.count("num_model_requests", "num_requests", "num_sessions"),
        "summed": True,
        "input_tokens": r.count("input_tokens"),
        "output_tokens": r.count("output_tokens"),
        "cache_read_input_tokens": r.count("input_cached_tokens"),
        "cache_creation_input_tokens": r.count("input_cache_write_tokens"),
        "audio_input_tokens": total(audio, read_audio),
        "cache_read_audio_input_tokens": read_audio,
        "audio_output_tokens": r.count("output_audio_tokens"),
        "image_input_tokens": total(image, read_image),
        "cache_read_image_input_tokens": read_image,
        "image_output_tokens": r.count("output_image_tokens"),
        "input_characters": r.count("characters"),
        "input_audio_seconds": r.count("seconds"),
        "generated_images": r.count("images"),
        "file_search_requests": ibis.ifelse(what == "file_search_calls", r.count("num_requests"), ibis.null("int64")),
        "web_search_requests": ibis.ifelse(what == "web_search_calls", r.count("num_requests"), ibis.null("int64")),
        "code_interpreter_sessions": r.count("num_sessions"),
        "key_id": r.text("api_key_id"),
        "workspace": r.text("project_id"),
        "user": r.text("user_id"),
    }


def _anthropic(r: Record) -> Mapping[str, Any]:
    bucket = r.up(1)
    hour = r.count("cache_creation/ephemeral_1h_input_tokens")
    written = total(hour, r.count("cache_creation/ephemeral_5m_input_tokens"))
    plain, read = r.count("uncached_input_tokens"), r.count("cache_read_input_tokens")
    long = r.text("context_window") == "200k-1M"
    return {
        "kind": ibis.ifelse(plain.notnull(), CALL, ibis.null("string")),
        "operation": "messages",
        "started_at": bucket.time("starting_at"),
        "ended_at": bucket.time("ending_at"),
        "provider": "anthropic",
        "request_model": r.text("model"),
        "response_model": r.text("model"),
        "tier": r.text("service_tier"),
        "speed": r.text("speed"),
        "geo": r.text("inference_geo"),
        "status": "ok",
        "summed": True,
        "largest_input_tokens": ibis.ifelse(long, ibis.literal(200_001, "int64"), ibis.null("int64")),
        "input_tokens": total(plain, read, written),
        "output_tokens": r.count("output_tokens"),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation_1h_input_tokens": hour,
        "web_search_requests": r.count("server_tool_use/web_search_requests"),
        "key_id": r.text("api_key_id"),
        "workspace": r.text("workspace_id"),
        "identity": r.text("service_account_id", "account_id"),
    }


def _results(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    buckets = value.get("data")
    if not isinstance(buckets, list):
        return []
    return [
        result
        for bucket in buckets
        if isinstance(bucket, dict) and isinstance(bucket.get("results"), list)
        for result in bucket["results"]
        if isinstance(result, dict)
    ]


OPENAI_USAGE = LogFormat(
    name="openai_usage",
    title="OpenAI usage API",
    is_record=lambda _: False,
    columns=_openai,
    carries=frozenset({"owner"}),
    sampled="the examples of its API reference",
    steps=("data", "results"),
    is_whole=lambda value: any(
        str(result.get("object", "")).startswith("organization.usage.") for result in _results(value)
    ),
)
ANTHROPIC_USAGE = LogFormat(
    name="anthropic_usage",
    title="Anthropic usage report",
    is_record=lambda _: False,
    columns=_anthropic,
    carries=frozenset({"owner"}),
    sampled="the example of its API reference",
    steps=("data", "results"),
    is_whole=lambda value: any("uncached_input_tokens" in result for result in _results(value)),
)
