"""OpenTelemetry spans as OTLP JSON, with the attributes that instrumentations really write.

The conventions for GenAI were renamed more than once and others keep names of their own, so each count is looked for
under every name it has had. Only spans of a model's work cost anything: a span of an agent or workflow repeats the sum
of its children. Which libraries are known to lose what is a table (`INSTRUMENTATIONS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ibis

from costbearer.logformats.base import LogFormat
from costbearer.logformats.fields import CALL, HOP
from costbearer.logformats.record import ASSERTED, Record, first

_NOT_CALLS = ("invoke_agent", "create_agent", "execute_tool", "invoke_workflow", "plan", "retrieval")
_INNER_SPANS = (".doGenerate", ".doStream", ".doEmbed")
_USED = "gen_ai.usage."


class Defect(NamedTuple):
    """What a library does not write, as fields of a record. `version` is how those begin in which it was seen."""

    instrumentation: str
    version: str
    loses: tuple[str, ...]
    says: str


INSTRUMENTATIONS: tuple[Defect, ...] = (
    Defect(
        "opentelemetry.instrumentation.openai_v2",
        "",
        ("cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_output_tokens"),
        "it writes the whole input and not what of it was cached (seen in 2.3b0)",
    ),
    Defect(
        "opentelemetry.instrumentation.openai.",
        "0.",
        ("cache_creation_input_tokens",),
        "it does not write cache writes, and of streams neither tier nor reasoning (seen in 0.62.4)",
    ),
    Defect(
        "opentelemetry.instrumentation.anthropic",
        "0.",
        ("cache_creation_1h_input_tokens", "web_search_requests", "tier"),
        "it writes neither cache lifetimes nor searches nor tiers; of streams it adds the first output count to the "
        "last one, and of tool loops it keeps the first input (seen in 0.62.4)",
    ),
)


def _columns(r: Record) -> Mapping[str, Any]:
    a = r.attributes("attributes")
    scope, resource = r.up(1), r.up(2).attributes("resource/attributes")
    operation = a.text("gen_ai.operation.name", "openinference.span.kind", "llm.request.type", "ai.operationId")
    name = r.text("name")
    model = a.text("gen_ai.request.model", "llm.request.model", "llm.model_name", "ai.model.id", "embedding.model_name")
    outer = a.text("ai.operationId").notnull() & ~ibis.or_(*(name.contains(suffix) for suffix in _INNER_SPANS))
    is_call = model.notnull() & ~ibis.coalesce(operation.lower().isin(_NOT_CALLS), False) & ~outer
    version = scope.text("scope/version")
    service = resource.text("service.name")
    asserted = {
        field: first(a.text(*names), a.text(*(f"baggage.{said}" for said in names)), resource.text(*names))
        for field, names in {
            **ASSERTED,
            "tenant": ("tenant_id_hash", "tenant.id", *ASSERTED["tenant"]),
            "env": ("deployment.environment.name", "deployment.environment", *ASSERTED["env"]),
        }.items()
    }
    status = r.text("status/code")
    return {
        "kind": ibis.cases(
            (is_call, CALL), (r.text("spanId", "span_id").notnull(), HOP), else_=ibis.null("string")
        ),
        "record_id": r.text("spanId", "span_id"),
        "response_id": a.text("gen_ai.response.id", "llm.response.id", "ai.response.id"),
        "trace_id": r.text("traceId", "trace_id"),
        "span_id": r.text("spanId", "span_id"),
        "parent_id": r.text("parentSpanId", "parent_span_id"),
        "session_id": a.text("session.id", "gen_ai.conversation.id", "traceloop.association.properties.session_id"),
        "operation": first(operation, name),
        "hop": first(service, name),
        "instrumentation": ibis.ifelse(
            version.notnull(), scope.text("scope/name").concat(" ", version), scope.text("scope/name")
        ),
        "started_at": r.time("startTimeUnixNano", "start_time_unix_nano"),
        "ended_at": r.time("endTimeUnixNano", "end_time_unix_nano"),
        "provider": a.text("gen_ai.provider.name", "gen_ai.system", "llm.system", "llm.provider", "ai.model.provider"),
        "request_model": model,
        "response_model": a.text("gen_ai.response.model", "llm.response.model", "ai.response.model"),
        "tier": a.text("openai.response.service_tier", "gen_ai.openai.response.service_tier"),
        "status": ibis.ifelse(
            status.isin(("STATUS_CODE_ERROR", "2")) | a.text("error.type").notnull(), "error", "ok"
        ),
        "input_tokens": a.count(
            f"{_USED}input_tokens", f"{_USED}prompt_tokens", "llm.token_count.prompt", "ai.usage.promptTokens",
            "ai.usage.inputTokens", "llm.usage.prompt_tokens", "ai.usage.tokens",
        ),
        "output_tokens": a.count(
            f"{_USED}output_tokens", f"{_USED}completion_tokens", "llm.token_count.completion",
            "ai.usage.completionTokens", "ai.usage.outputTokens", "llm.usage.completion_tokens",
        ),
        "total_tokens": a.count(f"{_USED}total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
        "cache_read_input_tokens": a.count(
            f"{_USED}cache_read.input_tokens", f"{_USED}cache_read_input_tokens", f"{_USED}cached_input_tokens",
            f"{_USED}input_tokens.cached", "llm.token_count.prompt_details.cache_read", "ai.usage.cachedInputTokens",
        ),
        "cache_creation_input_tokens": a.count(
            f"{_USED}cache_creation.input_tokens", f"{_USED}cache_creation_input_tokens",
            f"{_USED}input_tokens.cache_write", "llm.token_count.prompt_details.cache_write",
        ),
        "reasoning_output_tokens": a.count(
            f"{_USED}reasoning.output_tokens", f"{_USED}reasoning_tokens",
            "llm.token_count.completion_details.reasoning", "ai.usage.reasoningTokens",
        ),
        "cost_usd": a.usd(f"{_USED}cost", "llm.usage.cost", "llm.cost.total"),
        "agent": first(a.text("gen_ai.agent.name"), service),
        "identity": a.text("enduser.id"),
        "user": a.text("user_id_hash", "user.id", "enduser.id"),
        **asserted,
    }  # fmt: skip


OTLP = LogFormat(
    name="otlp",
    title="OpenTelemetry GenAI spans",
    is_record=lambda _: False,
    columns=_columns,
    carries=frozenset({"owner", "session_id", "tenant", "trace_id"}),
    sampled="spans written by three instrumentations",
    steps=("resourceSpans", "scopeSpans", "spans"),
    is_whole=lambda value: isinstance(value.get("resourceSpans"), list),
    notes=("spans are sampled and lose tokens in some libraries: less can be concluded from them than from a log",),
)
