"""Usage logs of several makes, written from one list of calls whose right cost is worked out by hand here.

A call is what really happened. A writer puts it into a log the way that gateway does; a fault is what one of them gets
wrong. So a test knows, without asking the product, how many records of a log are wrong and by how many dollars.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

BEGIN = datetime(2026, 10, 5, 8, 0, tzinfo=UTC)
PER_MILLION = {
    # model: input, cached, output, cache write 5 minutes, 1 hour (USD per million tokens, October 2026)
    "gpt-4o": ("2.5", "1.25", "10", None, None),
    "gpt-4o-mini": ("0.15", "0.075", "0.6", None, None),
    "claude-sonnet-4-6": ("3", "0.3", "15", "3.75", "6"),
}
PROVIDER = {"gpt-4o": "openai", "gpt-4o-mini": "openai", "claude-sonnet-4-6": "anthropic"}


@dataclass(frozen=True)
class Call:
    """What happened. `input_tokens` contains what was cached and written; `wrong_usd` is what a log says instead."""

    number: int
    model: str
    input_tokens: int
    output_tokens: int
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    started_at: datetime = BEGIN
    team: str | None = "search"
    owner: str | None = "ana"
    tenant: str = "t-1a2b"
    session: str = "s-1"
    trace: str = "trace-1"
    tier: str | None = None
    status: str = "ok"
    request: str = ""
    attempt: int = 1
    response: str = ""
    wrong_usd: Decimal | None = None
    tags: tuple[tuple[str, str], ...] = (("workflow_id", "rerank"), ("feature", "answers"))

    @property
    def ended_at(self) -> datetime:
        return self.started_at + timedelta(milliseconds=750)

    @property
    def response_id(self) -> str:
        return self.response or f"resp-{self.number:08d}"

    @property
    def request_id(self) -> str:
        return self.request or f"req-{self.number:08d}"

    @property
    def cost_usd(self) -> Decimal:
        """What the provider bills."""
        return self.at()

    @property
    def logged_usd(self) -> Decimal:
        return self.cost_usd if self.wrong_usd is None else self.wrong_usd

    def at(self, *, cached: int | None = None, fresh: int = 0, hour_as_five: bool = False) -> Decimal:
        """The cost with so many cached tokens, so many fresh ones more, and hours priced as five minutes."""
        price = [Decimal(each or 0) / 1_000_000 for each in PER_MILLION[self.model]]
        read = self.cached if cached is None else cached
        plain = self.input_tokens - read - self.written + fresh
        five = self.written - self.written_1h
        hour = price[3] if hour_as_five else price[4]
        return (
            plain * price[0] + read * price[1] + self.output_tokens * price[2] + five * price[3]
            + self.written_1h * hour
        )  # fmt: skip


def clean(count: int, seed: int = 1) -> list[Call]:
    """Calls without a fault, among them repeated prompts, retries that failed for nothing, and calls at one instant."""
    draw = random.Random(seed)
    calls: list[Call] = []
    for number in range(count):
        model = draw.choice(list(PER_MILLION))
        size = draw.choice((draw.randint(20, 900), draw.randint(900, 9000), 4096))
        cached = draw.randint(0, size) if draw.random() < 0.4 else 0
        written = draw.randint(0, size - cached) if model.startswith("claude") and draw.random() < 0.3 else 0
        calls.append(
            Call(
                number,
                model,
                size,
                draw.choice((draw.randint(1, 800), 256)),
                cached=cached,
                written=written,
                started_at=BEGIN + timedelta(seconds=number * 3 + draw.random()),
                # A trace has one team, however many calls.
                team=("search", "support", "billing")[number // 2 % 3],
                owner=draw.choice(("ana", "bo", "cy")),
                tenant=f"t-{draw.randint(1, 40):04d}",
                session=f"s-{number // 4}",
                trace=f"trace-{number // 2}",
            )
        )
        if number % 50 == 7:
            # The same prompt again, a moment later: a repeat, not a duplicate.
            again = calls[-1].started_at + timedelta(milliseconds=draw.randint(200, 900))
            calls.append(replace(calls[-1], number=count + number, started_at=again))
        if number % 70 == 11:
            # A retry as it should be: the first attempt failed and cost nothing.
            last = calls.pop()
            failed = replace(last, number=2 * count + number, status="error", output_tokens=0, input_tokens=0, cached=0,
                             written=0, request=last.request_id)  # fmt: skip
            calls += [failed, replace(last, request=last.request_id, attempt=2,
                                      started_at=last.started_at + timedelta(seconds=1))]  # fmt: skip
    return calls


Writer = Callable[[Sequence[Call]], str]


def _z(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _number(usd: Decimal) -> float:
    return float(usd)


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def litellm(calls: Sequence[Call]) -> str:
    def row(call: Call) -> dict[str, Any]:
        failed = call.status == "error"
        usage = {
            "prompt_tokens": call.input_tokens,
            "completion_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
            "prompt_tokens_details": {"cached_tokens": call.cached},
            "cache_creation_input_tokens": call.written,
            "cache_creation": {"ephemeral_1h_input_tokens": call.written_1h},
            "service_tier": call.tier,
        }
        metadata = {
            "user_api_key_alias": f"key-{call.team}",
            "user_api_key_team_alias": call.team,
            "user_api_key_user_id": call.owner,
            "usage_object": None if failed else usage,
        }
        return {
            "request_id": call.response_id,
            "litellm_call_id": call.request_id,
            "call_type": "acompletion",
            "api_key": f"hash-of-{call.team}",
            "spend": 0.0 if failed and call.wrong_usd is None else _number(call.logged_usd),
            "prompt_tokens": call.input_tokens,
            "completion_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
            "startTime": call.started_at.replace(tzinfo=None).isoformat(" "),
            "endTime": call.ended_at.replace(tzinfo=None).isoformat(" "),
            "model": call.model,
            "model_group": call.model,
            "custom_llm_provider": PROVIDER[call.model],
            "team_id": call.team or "",
            "end_user": call.tenant,
            "session_id": call.session,
            "litellm_trace_id": call.trace,
            "request_tags": [f"{name}:{value}" for name, value in call.tags],
            "metadata": json.dumps(metadata),
            "status": "failure" if failed else "success",
            "cache_hit": "False",
        }

    return _lines(map(row, calls))


def langfuse(calls: Sequence[Call]) -> str:
    """The API's answer: one document."""

    def row(call: Call) -> dict[str, Any]:
        failed = call.status == "error"
        details = {
            "input": call.input_tokens - call.cached - call.written,
            "input_cache_read": call.cached,
            "input_cache_creation": call.written,
            "output": call.output_tokens,
            "total": call.input_tokens + call.output_tokens,
        }
        if call.written_1h:
            details["input_cache_creation_1h"] = call.written_1h
        return {
            "id": f"obs-{call.number}",
            "traceId": call.trace,
            "type": "GENERATION",
            "name": "chat",
            "startTime": _z(call.started_at),
            "endTime": _z(call.ended_at),
            "model": call.model,
            "sessionId": call.session,
            "userId": call.tenant,
            "level": "ERROR" if failed else "DEFAULT",
            "usageDetails": {} if failed else details,
            "costDetails": {} if failed and call.wrong_usd is None else {"total": _number(call.logged_usd)},
            "totalCost": 0 if failed and call.wrong_usd is None else _number(call.logged_usd),
            "modelParameters": {"service_tier": call.tier} if call.tier else {},
            "output": None if failed else {"id": call.response_id},
            "metadata": {"owner_team": call.team, "owner": call.owner, "tenant_id": call.tenant} | dict(call.tags),
        }

    return json.dumps({"data": [row(call) for call in calls], "meta": {"page": 1}}, indent=1)


def helicone(calls: Sequence[Call]) -> str:
    """CSV, with properties as JSON in a cell."""

    def row(call: Call) -> dict[str, Any]:
        prompt = call.input_tokens - (call.cached + call.written if call.model.startswith("claude") else 0)
        failed = call.status == "error"
        said = {"owner_team": call.team, "owner": call.owner, "tenant_id": call.tenant} | dict(call.tags)
        said |= {"Helicone-Session-Id": call.session}
        return {
            "request_id": call.request_id if not call.request else f"{call.request}-{call.attempt}",
            "response_id": "" if failed else call.response_id,
            "request_created_at": _z(call.started_at),
            "response_created_at": _z(call.ended_at),
            "provider": PROVIDER[call.model].upper(),
            "request_model": call.model,
            "response_model": call.model,
            "prompt_tokens": "" if failed else prompt,
            "completion_tokens": "" if failed else call.output_tokens,
            "prompt_cache_read_tokens": "" if failed else call.cached,
            "prompt_cache_write_tokens": "" if failed else call.written,
            "costUSD": 0 if failed and call.wrong_usd is None else f"{call.logged_usd:f}",
            "response_status": 500 if failed else 200,
            "request_properties": json.dumps({name: value for name, value in said.items() if value is not None}),
        }

    out = io.StringIO()
    rows = [row(call) for call in calls]
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def otlp(calls: Sequence[Call]) -> str:
    """One export of spans per line, as the collector's file exporter writes them; costs as some instrumentations do."""

    def attribute(name: str, value: Any) -> dict[str, Any]:
        kind = "intValue" if isinstance(value, int) else "doubleValue" if isinstance(value, float) else "stringValue"
        return {"key": name, "value": {kind: str(value) if kind == "intValue" else value}}

    def span(call: Call) -> dict[str, Any]:
        failed = call.status == "error"
        said: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER[call.model],
            "gen_ai.request.model": call.model,
            "owner_team": call.team,
            "owner": call.owner,
            "tenant_id_hash": call.tenant,
            "session.id": call.session,
            "openai.response.service_tier": call.tier,
            **dict(call.tags),
        }
        if not failed:
            said |= {
                "gen_ai.response.model": call.model,
                "gen_ai.response.id": call.response_id,
                "gen_ai.usage.input_tokens": call.input_tokens,
                "gen_ai.usage.output_tokens": call.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": call.cached,
                "gen_ai.usage.cache_creation.input_tokens": call.written,
                "gen_ai.usage.cost": _number(call.logged_usd),
            }
        return {
            "traceId": call.trace,
            "spanId": f"span-{call.number}",
            "name": "chat",
            "startTimeUnixNano": str(int(call.started_at.timestamp() * 1_000_000) * 1000),
            "endTimeUnixNano": str(int(call.ended_at.timestamp() * 1_000_000) * 1000),
            "status": {"code": 2} if failed else {},
            "attributes": [attribute(name, value) for name, value in said.items() if value is not None],
        }

    resource = {"attributes": [attribute("service.name", "answers")]}
    pieces = [calls[at : at + 3] for at in range(0, len(calls), 3)]
    return _lines(
        {
            "resourceSpans": [
                {
                    "resource": resource,
                    "scopeSpans": [{"scope": {"name": "acme.llm", "version": "3"}, "spans": list(map(span, piece))}],
                }
            ]
        }
        for piece in pieces
    )


def bifrost(calls: Sequence[Call]) -> str:
    def row(call: Call) -> dict[str, Any]:
        failed = call.status == "error"
        usage = {
            "prompt_tokens": call.input_tokens,
            "completion_tokens": call.output_tokens,
            "total_tokens": call.input_tokens + call.output_tokens,
            "prompt_tokens_details": {"cached_read_tokens": call.cached, "cached_write_tokens": call.written},
        }
        said = {"owner": call.owner, "tenant_id": call.tenant, "session_id": call.session, "trace_id": call.trace}
        return {
            "id": f"log-{call.number}",
            "parent_request_id": call.request or None,
            "fallback_index": call.attempt - 1,
            "number_of_retries": 0,
            "timestamp": _z(call.started_at),
            "object": "chat.completion",
            "provider": PROVIDER[call.model],
            "model": call.model,
            "virtual_key_id": f"vk-{call.team}",
            "virtual_key": {"team": {"name": call.team}},
            "status": "error" if failed else "success",
            "cost": 0 if failed and call.wrong_usd is None else _number(call.logged_usd),
            "token_usage": None if failed else usage,
            "response_id": None if failed else call.response_id,
            "metadata": said | dict(call.tags),
        }

    return _lines(map(row, calls))


def table(calls: Sequence[Call]) -> str:
    """Nobody's format: a CSV with names of its own, semicolons, and times in seconds."""

    def row(call: Call) -> dict[str, Any]:
        failed = call.status == "error"
        return {
            "Timestamp": f"{call.started_at.timestamp():.6f}",
            "Vendor": PROVIDER[call.model],
            "Model Name": call.model,
            "Prompt Tokens": "" if failed else call.input_tokens,
            "Completion Tokens": "" if failed else call.output_tokens,
            "Cached Tokens": "" if failed else call.cached,
            "Cache Write Tokens": "" if failed else call.written,
            "Cost (USD)": 0 if failed and call.wrong_usd is None else f"{call.logged_usd:f}",
            "Team": call.team or "",
            "Owner": call.owner or "",
            "Tenant": call.tenant,
            "Session ID": call.session,
            "Trace ID": call.trace,
            "Response ID": "" if failed else call.response_id,
            "Request ID": call.request_id,
            "Attempt": call.attempt,
            "Service Tier": call.tier or "",
            "Status": call.status,
        }

    out = io.StringIO()
    rows = [row(call) for call in calls]
    writer = csv.DictWriter(out, list(rows[0]), delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


WRITERS: dict[str, Writer] = {
    "litellm": litellm,
    "langfuse": langfuse,
    "helicone": helicone,
    "otlp": otlp,
    "bifrost": bifrost,
    "generic": table,
}
