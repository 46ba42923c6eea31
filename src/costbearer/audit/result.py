"""An audit's answer: one value that text, JSON, CSV, Markdown and HTML are made of, so that all say the same."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from costbearer import money
from costbearer.audit.billing import Reconciled
from costbearer.audit.finding import SUBJECTS_SHOWN, Finding
from costbearer.audit.trace_questions import TraceAudit
from costbearer.stores.logfiles import Unread

VERSION = 1
"""Of the document; a baseline of another version is not compared."""


class Group(NamedTuple):
    """Spend under one name or several. `verified`, `inferred` and `asserted` say how it is known who bears it."""

    names: tuple[tuple[str, str | None], ...]
    calls: int
    cost_usd: Decimal
    share: float | None
    unknown_calls: int
    provenance: tuple[tuple[str, Decimal], ...] = ()


class Metrics(NamedTuple):
    """Percentages, None where there is nothing to take one of."""

    requests_missing_team_pct: float | None
    requests_missing_session_pct: float | None
    unattributed_spend_pct: float | None
    finops_ready_pct: float | None
    reconciliation_gap_pct: float | None


class AuditResult(NamedTuple):
    """`records` are calls that were read; `cost_usd` what the log says they cost, by the archive where it says nothing.

    `computed_usd` is what they cost by the archive, as far as they can be rated. `attributed` is spend by how its
    bearer is known. `notes` are what a reader must know of the formats.
    """

    formats: tuple[tuple[str, str], ...]
    files: int
    records: int
    since: datetime | None
    until: datetime | None
    cost_usd: Decimal
    computed_usd: Decimal
    unknown_calls: int
    attributed: tuple[tuple[str, Decimal], ...]
    metrics: Metrics
    findings: tuple[Finding, ...]
    groups: Mapping[str, tuple[Group, ...]]
    traces: TraceAudit
    reconciled: Reconciled | None
    unread: tuple[Unread, ...]
    unread_count: int
    notes: tuple[str, ...]
    prices: str

    @property
    def format(self) -> str:
        return "+".join(name for name, _ in self.formats)

    def document(self) -> dict[str, Any]:
        """The JSON document, in the shape that stays (see INTERFACE), and more."""
        return {
            "version": VERSION,
            "format": self.format,
            "formats": [{"format": name, "title": title} for name, title in self.formats],
            "files": self.files,
            "records": self.records,
            "since": instant(self.since),
            "until": instant(self.until),
            "cost_usd": money.text(self.cost_usd),
            "computed_usd": money.text(self.computed_usd),
            "unknown_calls": self.unknown_calls,
            "attributed": {name: money.text(usd) for name, usd in self.attributed},
            "metrics": self.metrics._asdict(),
            "findings": [_finding(each) for each in self.findings],
            **{f"by_{name}": [_group(each) for each in groups] for name, groups in self.groups.items()},
            "questions": [
                {"n": each.n, "question": each.question, "pass": each.passed, "evidence": each.evidence}
                for each in self.traces.questions
            ],
            "ready": self.traces.ready,
            "traces": {"looked_at": list(self.traces.traces), "of": self.traces.of},
            "hops": [{"hop": each.hop, "records": each.records, "lost": dict(each.lost)} for each in self.traces.hops],
            "reconciliation": _reconciled(self.reconciled),
            "unread": {
                "count": self.unread_count,
                "first": [{"file": each.file, "line": each.line, "why": each.why} for each in self.unread],
            },
            "notes": list(self.notes),
            "prices": self.prices,
        }


def instant(moment: datetime | None) -> str | None:
    """RFC 3339; times of records are UTC without saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def _text(usd: Decimal | None) -> str | None:
    return None if usd is None else money.text(usd)


def _finding(finding: Finding) -> dict[str, Any]:
    check = finding.check
    return {
        "id": finding.code,
        "code": finding.code,
        "title": check.title,
        "severity": check.severity,
        "confidence": check.confidence,
        "measure": check.measure,
        "records": finding.records,
        "cost_usd": _text(finding.cost_usd),
        "net_usd": _text(finding.net_usd),
        "unknown": finding.unknown,
        "sample": [each._asdict() for each in finding.sample],
        "subjects": [
            {"id": each.id, "subject": each.subject, "records": each.records, "cost_usd": _text(each.cost_usd)}
            for each in finding.subjects
        ],
        "more_subjects": max(0, len(finding.subjects) - SUBJECTS_SHOWN),
        "why": check.why,
        "fix": check.fix,
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        **dict(group.names),
        "calls": group.calls,
        "cost_usd": money.text(group.cost_usd),
        "share": group.share,
        "unknown_calls": group.unknown_calls,
        **({"provenance": {name: money.text(usd) for name, usd in group.provenance}} if group.provenance else {}),
    }


def _reconciled(reconciled: Reconciled | None) -> dict[str, Any] | None:
    if reconciled is None:
        return None
    return {
        "invoices": [{"file": each.file, "kind": each.kind, "lines": len(each.lines)} for each in reconciled.invoices],
        "invoice_usd": money.text(reconciled.invoice_usd),
        "log_usd": money.text(reconciled.log_usd),
        "gap_pct": reconciled.gap_pct,
        "matched": reconciled.matched,
        "gaps": [
            {
                "what": each.what,
                "invoice_usd": _text(each.invoice_usd),
                "log_usd": _text(each.log_usd),
                "gap_usd": money.text(each.gap_usd),
            }
            for each in reconciled.gaps
        ],
    }
