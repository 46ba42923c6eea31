"""What a usage record says, whatever log it stands in: the columns that every format maps to.

Counts are inclusive, as everywhere (`usage`). A column that a format cannot fill is NULL. Labels that the log's own
gateway or cloud took from a key or an identity stand under their own name and are *verified*; what the caller said
(tags, headers, metadata, baggage) stands under `asserted_...`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from costbearer.usage import COUNTS

Type = Literal["string", "int64", "boolean", "usd", "time"]

CALL, HOP, REVERSAL, ADJUSTMENT = "call", "hop", "reversal", "adjustment"
"""Kinds of records: a call of a model; a step on the way to one, which costs nothing itself; the taking back of an
earlier record; a change of what an earlier one cost."""


class Field(NamedTuple):
    """One column."""

    name: str
    type: Type
    meaning: str


_IDS = (
    Field("record_id", "string", "the log's own id of the record"),
    Field("response_id", "string", "the provider's id of the answer: one answer has one, however often it is logged"),
    Field("request_id", "string", "what the caller asked for: the same in a request's retries and fallbacks"),
    Field("trace_id", "string", "the trace the call belongs to"),
    Field("journey", "string", "what ties the records of a trace together where a hop may have lost its id"),
    Field("span_id", "string", "the step of the trace"),
    Field("parent_id", "string", "the step that caused it"),
    Field("session_id", "string", "the session or conversation"),
    Field("attempt", "int64", "1 for the first attempt at a request, 2 for its first retry"),
)
_SERVED = (
    Field("operation", "string", "what was asked for, in the log's own word"),
    Field("hop", "string", "the service, gateway or worker that wrote the record"),
    Field("instrumentation", "string", "library and version that wrote it, where some are known to lose tokens"),
    Field("started_at", "time", "when the call began, in UTC"),
    Field("ended_at", "time", "when it ended, in UTC"),
    Field("provider", "string", "who served it, in the log's own word"),
    Field("request_model", "string", "the model that was asked for"),
    Field("response_model", "string", "the model that answered, where the log says so"),
    Field("tier", "string", "service tier as served; `batch` for batch work"),
    Field("speed", "string", "Anthropic's speed setting"),
    Field("geo", "string", "where it ran, as far as the price depends on it"),
    Field("variant", "string", "what else the price depends on"),
    Field("status", "string", "ok, error or cancelled"),
    Field("cache_hit", "boolean", "answered from the gateway's own cache: no provider was asked"),
    Field("retrieved", "boolean", "a stored answer was fetched again: no model worked"),
    Field("calls", "int64", "how many calls the record stands for; 1 unless it is a sum"),
    Field("summed", "boolean", "the record is a sum over calls, so its input says nothing of long contexts"),
    Field("largest_input_tokens", "int64", "the input of the largest call in it, where it is a sum"),
    Field("parts", "string", "what each of several models did in the call, where its price is not that of its sums"),
    Field("basis", "string", "what the cost rests on, in Costbearer's own words"),
    Field("refers_to", "string", "the record that a reversal or an adjustment is about"),
    Field("reason_unknown", "string", "why the cost is not known, in Costbearer's own words"),
)
_MONEY = (
    Field("cost_usd", "usd", "the cost the log states"),
    Field("cost_places", "int64", "digits after the point in which it is stated"),
    Field("provider_cost_usd", "usd", "the cost the provider itself stated, where the log keeps it"),
    Field("currency", "string", "currency of the stated cost, where the log names one"),
)
_WHO = (
    Field("owner", "string", "the person or service that answers for it"),
    Field("team", "string", "the team that bears it"),
    Field("agent", "string", "the agent or application"),
    Field("workload", "string", "the workload"),
    Field("key_id", "string", "the key, by id or hash"),
    Field("key_name", "string", "the key's name"),
    Field("identity", "string", "the service identity that authenticated it: an ARN, a service account"),
    Field("workspace", "string", "the provider's workspace or project, or the log's organization"),
    Field("asserted_owner", "string", "the owner the caller stated"),
    Field("asserted_team", "string", "the team the caller stated"),
    Field("user", "string", "whose request it was"),
    Field("tenant", "string", "the customer or tenant it was made for"),
    Field("workflow", "string", "the workflow"),
    Field("feature", "string", "the feature"),
    Field("env", "string", "the environment"),
    Field("tags", "string", "everything else the caller said: JSON, an object or a list of texts `name:value`"),
)
_FAULT = (
    Field("total_tokens", "int64", "the total the log states"),
    Field("fault", "string", "the value that is not what it should be, by name"),
)
FIELDS: tuple[Field, ...] = (
    Field("kind", "string", "call, hop, reversal or adjustment; NULL for what is no record at all"),
    *_IDS,
    *_SERVED,
    *(Field(name, "int64", f"usage.{name}") for name in COUNTS),
    *_MONEY,
    *_WHO,
    *_FAULT,
)
FIELD: dict[str, Field] = {field.name: field for field in FIELDS}
