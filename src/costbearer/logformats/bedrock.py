"""AWS Bedrock: its model invocation log, as it stands in S3 (gzip, one object per line) or CloudWatch.

`inputTokenCount` does not contain what was read from or written to a cache. `identity.arn` is set by AWS and can be
trusted; `requestMetadata` is what the caller said. There are no costs: they stand in the Cost and Usage Report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL
from costbearer.logformats.record import ASSERTED, Record, as_count, first, tag, total

_USAGE = "output/outputBodyJson/usage"


def _columns(r: Record) -> Mapping[str, Any]:
    said = r.map("requestMetadata")
    given = r.count("input/inputTokenCount", f"{_USAGE}/inputTokens", f"{_USAGE}/input_tokens")
    read = r.count(
        "input/cacheReadInputTokenCount", f"{_USAGE}/cacheReadInputTokens", f"{_USAGE}/cache_read_input_tokens"
    )
    written = r.count(
        "input/cacheWriteInputTokenCount", f"{_USAGE}/cacheWriteInputTokens", f"{_USAGE}/cache_creation_input_tokens"
    )
    # A list of lifetimes and tokens; JSON does not say which name comes first.
    lifetimes = r.raw(f"{_USAGE}/cacheDetails")
    hour = first(
        as_count(lifetimes.re_extract('"ttl" *: *"1h"[^}]*"inputTokens" *: *([0-9]+)', 1).nullif("")),
        as_count(lifetimes.re_extract('"inputTokens" *: *([0-9]+)[^}]*"ttl" *: *"1h"', 1).nullif("")),
        r.count(f"{_USAGE}/cache_creation/ephemeral_1h_input_tokens"),
    )
    arn = r.text("identity/arn")
    return {
        "kind": ibis.ifelse(r.text("requestId").notnull() & r.text("modelId").notnull(), CALL, ibis.null("string")),
        "record_id": r.text("requestId"),
        "response_id": r.text("requestId"),
        "request_id": r.text("requestId"),
        "trace_id": tag(said, "trace_id", "traceId"),
        "session_id": tag(said, "session_id", "sessionId"),
        "operation": r.text("operation"),
        "started_at": r.time("timestamp"),
        "provider": "bedrock",
        "request_model": r.text("modelId"),
        "response_model": r.text("modelId"),
        "tier": r.text("output/outputBodyJson/serviceTier/type"),
        "status": ibis.ifelse(r.text("errorCode").notnull(), "error", "ok"),
        "input_tokens": total(given, read, written),
        "output_tokens": r.count("output/outputTokenCount", f"{_USAGE}/outputTokens", f"{_USAGE}/output_tokens"),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation_1h_input_tokens": hour,
        "identity": arn,
        "workspace": r.text("accountId"),
        "tags": r.text("requestMetadata").nullif("{}"),
        **{name: tag(said, *names) for name, names in ASSERTED.items()},
    }


BEDROCK = LogFormat(
    name="bedrock",
    title="Bedrock invocation log",
    is_record=lambda value: (
        value.get("schemaType") == "ModelInvocationLog"
        or {"requestId", "modelId", "operation", "identity"} <= value.keys()
    ),
    columns=_columns,
    carries=frozenset({"owner", "tenant"}),
    sampled="the documented envelope with a real body",
)
