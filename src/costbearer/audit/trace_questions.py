"""The trace audit: some traces, drawn across workflows, and seven questions that chargeback rests on.

What is drawn depends on the log and the seed alone. A log that answers six of the seven is ready; which hop loses the
fields says where to begin.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import ibis

from costbearer import money
from costbearer.audit.checks_ownership import PERSONAL
from costbearer.audit.evidence import Evidence
from costbearer.logformats.fields import CALL

TRACES = 10
SEED = 0
READY = 6
RECORDS_MAX = 5000
UNATTRIBUTED_MAX = 0.02
CONTRACT = ("bearer", "workflow", "feature")
NAMES = {"bearer": "owner_team", "workflow": "workflow_id", "feature": "feature", "trace_id": "trace_id"}


@ibis.udf.scalar.builtin(name="md5_number_lower", signature=(("string",), "uint64"))
def _md5(text): ...  # type: ignore[no-untyped-def]


class Question(NamedTuple):
    """One question, whether it was answered yes, and what shows it."""

    n: int
    question: str
    passed: bool
    evidence: str


class Hop(NamedTuple):
    """What a hop was seen to lose: by field how many of its records lack what another record of the trace has."""

    hop: str
    records: int
    lost: tuple[tuple[str, int], ...]


class TraceAudit(NamedTuple):
    """`traces` were looked at, of `of` in the log."""

    traces: tuple[str, ...]
    of: int
    questions: tuple[Question, ...]
    hops: tuple[Hop, ...]

    @property
    def ready(self) -> bool:
        return sum(question.passed for question in self.questions) >= READY


def asked(evidence: Evidence, *, traces: int = TRACES, seed: int = SEED) -> TraceAudit:
    """Draw the traces and ask."""
    drawn, of = _drawn(evidence, traces, seed)
    records = _records(evidence, drawn)
    calls = [each for each in records if each["kind"] == CALL]
    return TraceAudit(
        tuple(drawn),
        of,
        (
            _reachable(evidence, records, calls, drawn),
            _same_trace(records, drawn),
            _contract(calls),
            _tenant(calls),
            _cost(calls),
            _explained(calls),
            _attributed(calls),
        ),
        _hops(records),
    )


def _drawn(evidence: Evidence, wanted: int, seed: int) -> tuple[list[str], int]:
    """Traces of as many workflows as there are, in an order that only the seed changes."""
    records = evidence.records
    calls = records.filter(records.journey.notnull() & (records.kind == CALL))
    of = evidence.execute(calls.aggregate(n=calls.journey.nunique()))[0]["n"]
    named = calls.select("journey", workflow=ibis.coalesce(calls.workflow, calls.feature, calls.agent, ""))
    pairs = named.distinct()
    ordered = pairs.mutate(order=_md5(pairs.journey.concat(f"/{seed}")))
    place = ibis.row_number().over(ibis.window(group_by=ordered.workflow, order_by=ordered.order))
    first = ordered.mutate(place=place).filter(lambda each: each.place < wanted)
    rows = evidence.execute(first.order_by("place", "order").select("journey"))
    return list(dict.fromkeys(row["journey"] for row in rows))[:wanted], of


_COLUMNS = (
    "row", "kind", "journey", "trace_id", "request_id", "span_id", "parent_id", "hop", "instrumentation", "bearer",
    "workflow", "feature", "tenant", "user", "attempt", "status", "operation", "provider", "response_model",
)  # fmt: skip


def _records(evidence: Evidence, drawn: Sequence[str]) -> list[dict[str, Any]]:
    """All that belongs to these traces, by their ids and by those of their requests; without traces, some calls."""
    records = evidence.records
    if drawn:
        of_traces = records.filter(records.journey.isin(list(drawn)))
        asked_for = of_traces.filter(of_traces.request_id.notnull()).select("request_id").distinct()
        requests = [row["request_id"] for row in evidence.execute(asked_for.limit(RECORDS_MAX))]
        belongs = records.journey.isin(list(drawn)) | records.request_id.isin(requests)
    else:
        belongs = records.kind == CALL
    chosen = records.filter(belongs).order_by("row").limit(RECORDS_MAX if drawn else TRACES).select(*_COLUMNS)
    rows = evidence.execute(chosen)
    calls = evidence.calls
    facts = evidence.execute(
        calls.filter(calls.row.isin([row["row"] for row in rows])).select(
            "row", "spend_usd", "stated_usd", "expected_usd", "wrong", "reason", "tokens", "cache_hit",
            cached=calls.cache_read_input_tokens.notnull()
            if "cache_read_input_tokens" in evidence.counted
            else ibis.literal(False),
        )
    )  # fmt: skip
    by_row = {fact.pop("row"): fact for fact in facts}
    return [row | by_row.get(row["row"], {}) for row in rows]


def _reachable(
    evidence: Evidence, records: Sequence[dict[str, Any]], calls: Sequence[dict[str, Any]], drawn: Sequence[str]
) -> Question:
    spans = {(row["trace_id"], row["span_id"]) for row in records if row["span_id"]}
    orphans = [row for row in calls if row["parent_id"] and spans and (row["trace_id"], row["parent_id"]) not in spans]
    # A parent outside the log (the caller's own span) is the root of what is in it.
    roots = {(row["trace_id"], row["parent_id"]) for row in orphans}
    lost = [row for row in orphans if sum(trace == row["trace_id"] for trace, _ in roots) > 1]
    without = evidence.execute(evidence.calls.aggregate(n=(~evidence.calls.has_trace).sum()))[0]["n"] or 0
    passed = bool(drawn) and not lost and not without
    says = f"{len(calls)} calls in {len(drawn)} traces; {len(lost)} hang on no record of their trace"
    return Question(
        1, "Is every provider call reachable from a trace?", passed, f"{says}; {without} calls of the log have no trace"
    )


def _same_trace(records: Sequence[dict[str, Any]], drawn: Sequence[str]) -> Question:
    ids: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in records:
        ids[_tie(row)].add(row["trace_id"])
    split = {tie for tie, each in ids.items() if len(each) > 1}
    hops = sorted({row["hop"] or "(none)" for row in records if _tie(row) in split and row["trace_id"] not in drawn})
    says = f"{len(split)} requests or traces change their trace id on the way" + (
        f", at {', '.join(hops[:5])}" if hops else ""
    )
    return Question(
        2,
        "Is the trace id the same on each hop?",
        bool(drawn) and not split,
        says if drawn else "the log has no traces",
    )


def _contract(calls: Sequence[dict[str, Any]]) -> Question:
    missing = Counter(NAMES[name] for row in calls for name in CONTRACT if row[name] is None)
    says = ", ".join(f"{name} missing on {count} of {len(calls)}" for name, count in missing.items())
    question = "Does every provider event carry owner_team, workflow_id and feature?"
    return Question(3, question, bool(calls) and not missing, says or f"all {len(calls)} calls carry them")


def _tenant(calls: Sequence[dict[str, Any]]) -> Question:
    import re

    pattern = re.compile("|".join(f"(?:{each})" for each in PERSONAL.values()))
    without = sum(row["tenant"] is None and row["user"] is None for row in calls)
    personal = sum(any(pattern.search(row[name] or "") for name in ("tenant", "user")) for row in calls)
    says = f"{without} of {len(calls)} calls name neither tenant nor user; {personal} name a person"
    return Question(4, "Is the tenant known without personal data?", bool(calls) and not without and not personal, says)


def _cost(calls: Sequence[dict[str, Any]]) -> Question:
    unknown = Counter(row.get("reason") or "without a reason" for row in calls if row.get("expected_usd") is None)
    wrong = sum(bool(row.get("wrong")) for row in calls)
    says = f"{sum(unknown.values())} of {len(calls)} calls cannot be rated"
    reasons = ", ".join(f"{count} {reason}" for reason, count in unknown.most_common(3))
    says += f" ({reasons})" if reasons else ""
    passed = bool(calls) and not unknown and not wrong
    return Question(
        5, "Can the cost be reconstructed from tokens and prices?", passed, f"{says}; {wrong} cost something else"
    )


def _explained(calls: Sequence[dict[str, Any]]) -> Question:
    by_request: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in calls:
        if row["request_id"]:
            by_request[row["request_id"]].append(row)
    several = [rows for rows in by_request.values() if len(rows) > 1]
    unexplained = [rows for rows in several if any(row["attempt"] is None for row in rows)]
    failed = sum(row["status"] == "error" and row["attempt"] is None and row["request_id"] is None for row in calls)
    blind = sum(bool(row.get("tokens")) and not row.get("cached") and not row.get("cache_hit") for row in calls)
    says = f"{len(several)} requests with several calls, {len(unexplained)} of them without attempt numbers"
    says += f"; {failed} failures of no request; {blind} of {len(calls)} calls do not say what was cached"
    passed = bool(calls) and not unexplained and not failed and not blind
    return Question(6, "Are retries, fallbacks and caching explained?", passed, says)


def _attributed(calls: Sequence[dict[str, Any]]) -> Question:
    def spend(rows: Iterable[dict[str, Any]]) -> Decimal:
        return money.total(row["spend_usd"] for row in rows if row.get("spend_usd") is not None)

    whole, lost = spend(calls), spend(row for row in calls if row["bearer"] is None)
    share = money.share(lost, whole)
    if share is None:
        nameless = sum(row["bearer"] is None for row in calls)
        share = nameless / len(calls) if calls else 1.0
    says = f"{share:.1%} of {money.brief(whole)} in these traces has no bearer"
    return Question(
        7,
        f"Is less than {UNATTRIBUTED_MAX:.0%} of the spend unattributed?",
        bool(calls) and share <= UNATTRIBUTED_MAX,
        says,
    )


def _hops(records: Sequence[dict[str, Any]]) -> tuple[Hop, ...]:
    """Which hop loses what, the one that loses most first."""
    known: defaultdict[str, set[str]] = defaultdict(set)
    for row in records:
        known[_tie(row)] |= {name for name in (*CONTRACT, "trace_id") if row[name] is not None}
    lost: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seen: Counter[str] = Counter()
    for row in records:
        hop = row["hop"] or row["provider"] or "(none)"
        seen[hop] += 1
        lost[hop].update(NAMES[name] for name in known[_tie(row)] if row[name] is None)
    hops = [Hop(hop, seen[hop], tuple(counts.most_common())) for hop, counts in lost.items() if counts]
    return tuple(sorted(hops, key=lambda each: (-sum(count for _, count in each.lost), each.hop)))


def _tie(row: dict[str, Any]) -> str:
    """What a record shares with the others of its trace, even where it lost the trace's id."""
    return str(row["journey"] or row["request_id"] or row["row"])
