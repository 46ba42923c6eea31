"""An audit as a table of findings: one line per finding and subject, to be kept as a backlog."""

from __future__ import annotations

from collections.abc import Iterator

from costbearer import money
from costbearer.audit.finding import Finding
from costbearer.audit.result import AuditResult
from costbearer.reports.formulas import harmless
from costbearer.reports.table import csv_quoted

COLUMNS = ("id", "code", "severity", "confidence", "subject", "records", "cost_usd", "measure", "file", "line", "fix")


def csv(result: AuditResult) -> str:
    """RFC 4180 with LF ends; what a spreadsheet would take for a formula gets an apostrophe."""
    lines = [COLUMNS, *(line for finding in result.findings for line in _lines(finding))]
    return "".join(",".join(map(csv_quoted, line)) + "\n" for line in lines)


def _lines(finding: Finding) -> Iterator[tuple[str, ...]]:
    check, first = finding.check, finding.sample[0] if finding.sample else None
    for subject in finding.subjects:
        yield (
            harmless(subject.id),
            check.code,
            check.severity,
            check.confidence,
            harmless(subject.subject),
            str(subject.records),
            "" if subject.cost_usd is None else money.text(subject.cost_usd),
            check.measure,
            harmless(first.file) if first else "",
            str(first.line) if first and first.line else "",
            check.fix,
        )
