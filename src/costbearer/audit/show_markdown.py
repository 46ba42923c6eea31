"""An audit for a pull request: verdict, numbers, the dearest findings, what changed. Short."""

from __future__ import annotations

import re

from costbearer.audit import words
from costbearer.audit.result import AuditResult
from costbearer.audit.verdict import Compared, verdict

FINDINGS = 10


def markdown(result: AuditResult, compared: Compared | None = None) -> str:
    word, sentence = verdict(result)
    metrics = result.metrics
    lines = [
        f"### LLM cost audit: {words.HEADLINES[word].lower()}",
        "",
        f"{_safe(sentence)} {_safe(words.subject_line(result))}.",
        "",
        "| spend by the log | by the prices of the day | unattributed | FinOps-ready | gap to the bill |",
        "|---|---|---|---|---|",
        f"| {words.dollars(result.cost_usd)} | {words.dollars(result.computed_usd)} | "
        f"{words.percent(metrics.unattributed_spend_pct)} | {words.percent(metrics.finops_ready_pct)} | "
        f"{'-' if metrics.reconciliation_gap_pct is None else f'{metrics.reconciliation_gap_pct:g}%'} |",
        "",
    ]
    if result.findings:
        lines += ["| dollars | finding | calls | severity | first seen |", "|---:|---|---:|---|---|"]
        for finding in result.findings[:FINDINGS]:
            place = _safe(words.places(finding.sample[:1], one_file=result.files == 1))
            lines.append(
                f"| {words.finding_dollars(finding)} | `{finding.code}` {finding.check.title} | {finding.records:,} | "
                f"{finding.check.severity} | {place} |"
            )
        if len(result.findings) > FINDINGS:
            lines.append(f"\n{len(result.findings) - FINDINGS} more findings.")
    else:
        lines.append("No findings.")
    if compared is not None:
        parts = [f"{len(getattr(compared, name))} {name}" for name in ("new", "worse", "better", "gone")]
        lines += ["", f"Since the baseline: {', '.join(parts)}."]
        lines += [f"- new: {_safe(each.id)} ({words.dollars(each.after_usd)})" for each in compared.new[:5]]
    questions = result.traces.questions
    passed = sum(each.passed for each in questions)
    lines += ["", f"Trace audit: {passed} of {len(questions)}, {'ready' if result.traces.ready else 'not ready'}."]
    if result.unread_count:
        lines.append(f"{words.count(result.unread_count, 'line')} could not be read.")
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    """Text that formats nothing and links nowhere: names in logs are anybody's."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()<>#|!~@])", r"\\\1", flat)
