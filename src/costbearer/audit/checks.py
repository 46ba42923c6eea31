"""The list of all checks, and how one is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ibis

from costbearer import money
from costbearer.audit import checks_counting, checks_ownership, checks_pricing
from costbearer.audit.evidence import Evidence
from costbearer.audit.finding import SAMPLES, SEVERITIES, Check, Finding, Sample, Subject
from costbearer.audit.intake import Intake

CHECKS: tuple[Check, ...] = (*checks_ownership.CHECKS, *checks_counting.CHECKS, *checks_pricing.CHECKS)
CODES: tuple[str, ...] = tuple(check.code for check in CHECKS)
SUBJECTS_MAX = 1000


def carried_out(evidence: Evidence, intake: Intake, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What all checks find, the dearest first."""
    findings = [finding for check in checks if (finding := _found(evidence, intake, check)) is not None]
    return sorted(findings, key=_rank)


def _rank(finding: Finding) -> tuple[Any, ...]:
    return (-(finding.cost_usd or money.ZERO), SEVERITIES.index(finding.check.severity), -finding.records, finding.code)


def _found(evidence: Evidence, intake: Intake, check: Check) -> Finding | None:
    rows = check.find(evidence)
    if rows is None:
        return None
    table = evidence.logs.keep("flagged", rows)
    sums = evidence.logs.sums("flagged")
    if not sums.records:
        return None
    return Finding(
        check=check,
        records=sums.records,
        cost_usd=sums.usd,
        net_usd=sums.net_usd,
        unknown=sums.unknown,
        sample=_sample(evidence, intake, table),
        subjects=_subjects(evidence, check, table),
    )


def _subjects(evidence: Evidence, check: Check, table: Any) -> tuple[Subject, ...]:
    grouped = table.group_by("subject").aggregate(records=table.count(), usd=table.usd.abs().sum())
    ordered = grouped.order_by(ibis.desc(grouped.usd.fill_null(0)), ibis.desc("records"), "subject").limit(SUBJECTS_MAX)
    return tuple(
        Subject(f"{check.code}:{row['subject']}", row["subject"] or "(none)", row["records"], row["usd"])
        for row in evidence.execute(ordered)
    )


def _sample(evidence: Evidence, intake: Intake, table: Any) -> tuple[Sample, ...]:
    """The dearest records; of equals the first."""
    dearest = table.order_by(ibis.desc(table.usd.abs().fill_null(0)), "row").limit(SAMPLES).select("row")
    rows = [row["row"] for row in evidence.execute(dearest)]
    records = evidence.records
    known = {
        row["row"]: row
        for row in evidence.execute(
            records.filter(records.row.isin(rows)).select(
                "row", "line", id=ibis.coalesce(records.record_id, records.response_id, records.span_id)
            )
        )
    }
    samples = []
    for row in rows:
        file, line = intake.place(row, known[row]["line"])
        samples.append(Sample(file, line, known[row]["id"]))
    return tuple(samples)
