"""The trace audit: a complete trace and a broken one give the verdicts they should, and the hop that loses is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from costbearer.audit.result import AuditResult
from tests.auditing import audited, by_code
from tests.usagelogs import WRITERS, clean


def call(**more: Any) -> dict[str, Any]:
    return {
        "provider": "openai",
        "model": "gpt-4o",
        "response_id": "resp-1",
        "started_at": "2026-10-05T08:00:00Z",
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_input_tokens": 200,
        "cost_usd": "0.003250000000",
        "attempt": 1,
    } | more


COMPLETE: dict[str, Any] = {
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "owner_team": "search",
    "workflow_id": "rerank",
    "feature": "answers",
    "tenant_id_hash": "h1_0f3a",
    "user_id_hash": "h1_77aa",
    "provider_calls": [
        call(),
        call(response_id="resp-2", request_id="r-2", status="error", attempt=1, input_tokens=None, output_tokens=None,
             cached_input_tokens=None, cost_usd=None, cache_hit=True),
        call(response_id="resp-3", request_id="r-2", attempt=2),
    ],
}  # fmt: skip
BROKEN: dict[str, Any] = {
    "gateway": {"trace_id": "t-9", "owner_team": "search", "workflow_id": "rerank", "feature": "answers"},
    "router": {"trace_id": "t-9", "owner_team": "search", "workflow_id": None, "feature": None},
    "worker": {"trace_id": "another", "owner_team": None, "workflow_id": None, "feature": None},
    "billing_join": call(trace_id=None, owner_team=None),
}


def traced(document: Any, tmp_path: Path) -> AuditResult:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(document, indent=2))
    return audited(file)


def answers(result: AuditResult) -> dict[int, bool]:
    return {question.n: question.passed for question in result.traces.questions}


def test_a_complete_trace_answers_all_seven(tmp_path: Path) -> None:
    result = traced(COMPLETE, tmp_path)
    assert result.format == "trace"
    assert result.records == 3
    assert answers(result) == dict.fromkeys(range(1, 8), True), [
        (each.n, each.evidence) for each in result.traces.questions if not each.passed
    ]
    assert result.traces.ready
    assert result.traces.hops == ()
    assert result.findings == ()


def test_a_broken_trace_fails_where_it_is_broken(tmp_path: Path) -> None:
    result = traced(BROKEN, tmp_path)
    assert result.format == "trace"
    assert result.records == 1
    passed = answers(result)
    assert not passed[1]
    assert not passed[2]
    assert not passed[3]
    assert passed[5]
    assert not passed[7]
    assert not result.traces.ready
    lost = {hop.hop: dict(hop.lost) for hop in result.traces.hops}
    assert lost["router"] == {"workflow_id": 1, "feature": 1}
    assert lost["worker"] == {"owner_team": 1, "workflow_id": 1, "feature": 1}
    assert lost["billing_join"] == {"owner_team": 1, "workflow_id": 1, "feature": 1, "trace_id": 1}
    assert "gateway" not in lost
    assert "worker" in next(each.evidence for each in result.traces.questions if each.n == 2)
    found = by_code(result)["owner_lost_at_hop"]
    assert found.subjects[0].subject == "billing_join"


def test_many_traces_of_both_kinds_one_per_line(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in (COMPLETE, BROKEN, COMPLETE | {"trace_id": "second"})))
    result = audited(file)
    assert result.records == 7
    assert result.traces.of == 3


def test_spans_lose_the_owner_at_a_hop(tmp_path: Path) -> None:
    """A worker that starts its spans without the baggage: it is named, and nobody else."""
    document: dict[str, Any] = {"resourceSpans": []}
    for service, said in (("api", {"owner_team": "search", "workflow_id": "w", "feature": "f"}), ("worker", {})):
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", **said}
        document["resourceSpans"].append(
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "acme"},
                        "spans": [
                            {
                                "traceId": "t-1",
                                "spanId": service,
                                "startTimeUnixNano": "1791187200000000000",
                                "attributes": [
                                    {"key": key, "value": {"stringValue": value}} for key, value in attributes.items()
                                ],
                            }
                        ],
                    }
                ],
            }
        )
    result = traced(document, tmp_path)
    assert [(hop.hop, dict(hop.lost)) for hop in result.traces.hops] == [
        ("worker", {"owner_team": 1, "workflow_id": 1, "feature": 1})
    ]
    assert by_code(result)["owner_lost_at_hop"].subjects[0].subject == "worker"


def test_which_traces_are_drawn_depends_on_the_seed_alone(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(WRITERS["litellm"](clean(200)))
    first, again, other = audited(file), audited(file), audited(file, seed=7)
    assert first.traces.traces == again.traces.traces
    assert len(first.traces.traces) == 10
    assert first.traces.of == 100
    assert first.traces.traces != other.traces.traces
    assert first.traces.ready
    assert len(audited(file, traces=3).traces.traces) == 3


def test_a_log_without_traces_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    rows = [json.loads(line) | {"litellm_trace_id": None} for line in WRITERS["litellm"](clean(20)).splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    passed = answers(audited(file))
    assert not passed[1]
    assert not passed[2]
    assert passed[5]
