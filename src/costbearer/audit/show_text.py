"""An audit on a terminal: what one can read in a minute, the verdict first, the dearest finding next."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from costbearer.audit import words
from costbearer.audit.result import AuditResult, Group
from costbearer.audit.verdict import Compared, verdict
from costbearer.reports.table import visible

WIDTH = 100
WIDTH_MIN = 60
ROWS = 8
FINDINGS = 12
SUBJECTS = 3


def text(result: AuditResult, compared: Compared | None = None, width: int | None = None) -> str:
    """The report as plain lines. `width` is the terminal's; none for a file."""
    wide = max(WIDTH_MIN, min(width or WIDTH, 120))
    lines = [line for part in _parts(result, compared, wide) for line in part]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _parts(result: AuditResult, compared: Compared | None, width: int) -> Iterator[list[str]]:
    yield [visible(words.subject_line(result)), ""]
    yield _verdict(result, width)
    yield _money(result)
    yield _findings(result, width)
    yield _bearers(result, width)
    yield _models(result, width)
    yield _questions(result, width)
    if result.reconciled is not None:
        yield _bill(result)
    if compared is not None:
        yield _changes(compared)
    yield _unread(result, width)


def _wrapped(text_: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(visible(text_), width, initial_indent=indent, subsequent_indent=indent) or [indent]


def _verdict(result: AuditResult, width: int) -> list[str]:
    word, sentence = verdict(result)
    return [words.HEADLINES[word], *_wrapped(sentence, width, "  "), ""]


def _money(result: AuditResult) -> list[str]:
    metrics = result.metrics
    known = [(name, usd) for name, usd in result.attributed if usd]
    shares = "   ".join(f"{name} {words.share(usd, result.cost_usd)}" for name, usd in known) or "nothing is known"
    unknown = f"   ({words.count(result.unknown_calls, 'call')} of unknown cost)" if result.unknown_calls else ""
    rows = [
        (
            "spend",
            f"{words.dollars(result.cost_usd)} by the log, "
            f"{words.dollars(result.computed_usd)} by the prices of the day{unknown}",
        ),
        ("attributed", shares),
        (
            "FinOps-ready",
            f"{words.percent(metrics.finops_ready_pct)} of the calls have bearer, tokens, billable model and time",
        ),
        (
            "missing",
            f"team on {words.percent(metrics.requests_missing_team_pct)}, "
            f"session on {words.percent(metrics.requests_missing_session_pct)} of the calls",
        ),
    ]
    return [f"  {name:<13}{says}" for name, says in rows] + [""]


def _findings(result: AuditResult, width: int) -> list[str]:
    if not result.findings:
        return ["FINDINGS", "  None.", ""]
    lines = [f"FINDINGS ({len(result.findings)}), the dearest first"]
    shown = result.findings[:FINDINGS]
    money_width = max(len(words.finding_dollars(each)) for each in shown)
    for finding in shown:
        check = finding.check
        head = f"  {words.finding_dollars(finding):>{money_width}}  {check.code}"
        lines.append(f"{head}  [{check.severity}, {check.confidence}]")
        indent = " " * (money_width + 4)
        lines += _wrapped(f"{check.title}: {words.count(finding.records, 'call')}.", width, indent)
        named = [each for each in finding.subjects[:SUBJECTS] if each.subject != "(none)"]
        for each in named:
            usd = f", {words.dollars(each.cost_usd)}" if each.cost_usd is not None and len(finding.subjects) > 1 else ""
            lines += _wrapped(f"- {each.subject} ({each.records:,}{usd})", width, indent)
        more = len(finding.subjects) - SUBJECTS
        if more > 0:
            lines.append(f"{indent}- and {more} more")
        lines += _wrapped(f"see {words.places(finding.sample[:2], one_file=result.files == 1)}", width, indent)
        lines += _wrapped(f"fix: {check.fix}", width, indent)
    if len(result.findings) > FINDINGS:
        lines.append(f"  and {len(result.findings) - FINDINGS} more: --json or --html shows them all")
    return [*lines, ""]


def _bearers(result: AuditResult, width: int) -> list[str]:
    return _groups("WHO BEARS IT", result.groups["owner"], width)


def _models(result: AuditResult, width: int) -> list[str]:
    return _groups("MODELS", result.groups["model"], width)


def _groups(title: str, groups: Sequence[Group], width: int) -> list[str]:
    if not groups:
        return []
    names = [" / ".join(visible(value) for _, value in group.names if value) or "(none)" for group in groups]
    shown = list(zip(names, groups, strict=True))[:ROWS]
    longest = min(max(len(name) for name, _ in shown), width - 40)
    lines = [title]
    for name, group in shown:
        cut = name if len(name) <= longest else name[: longest - 3] + "..."
        part = words.percent(None if group.share is None else 100 * group.share)
        lines.append(f"  {cut:<{longest}}  {words.dollars(group.cost_usd):>14}  {part:>6}  {group.calls:>11,} calls")
    if len(groups) > ROWS:
        lines.append(f"  and {len(groups) - ROWS} more")
    return [*lines, ""]


def _questions(result: AuditResult, width: int) -> list[str]:
    audit = result.traces
    yes = sum(each.passed for each in audit.questions)
    ready = "ready" if audit.ready else "not ready"
    lines = [
        f"TRACES: {yes} of {len(audit.questions)} questions answered, {ready} "
        f"({len(audit.traces)} of {audit.of:,} traces)"
    ]
    for each in audit.questions:
        lines += _wrapped(f"{'yes' if each.passed else 'NO '}  {each.n}. {each.question}", width, "  ")
        if not each.passed:
            lines += _wrapped(each.evidence, width, "          ")
    for hop in audit.hops[:ROWS]:
        lost = ", ".join(f"{name} on {number} of {hop.records}" for name, number in hop.lost)
        lines += _wrapped(f"the hop {hop.hop} loses {lost}", width, "  ")
    return [*lines, ""]


def _bill(result: AuditResult) -> list[str]:
    bill = result.reconciled
    assert bill is not None, "asked for by the caller"
    lines = [
        f"BILL  {words.dollars(bill.invoice_usd)} billed, {words.dollars(bill.log_usd)} in the log: "
        f"gap {'-' if bill.gap_pct is None else f'{bill.gap_pct:g}%'}; {bill.matched} days, models and requests agree"
    ]
    lines += [
        f"  {visible(gap.what)}: billed {words.dollars(gap.invoice_usd)}, logged {words.dollars(gap.log_usd)}"
        for gap in bill.gaps[:ROWS]
    ]
    if len(bill.gaps) > ROWS:
        lines.append(f"  and {len(bill.gaps) - ROWS} more")
    return [*lines, ""]


def _changes(compared: Compared) -> list[str]:
    lines = [f"SINCE {compared.baseline}"]
    for name in ("new", "worse", "better", "gone"):
        changes = getattr(compared, name)
        if changes:
            lines.append(f"  {name}: {len(changes)}")
        for each in changes[:SUBJECTS]:
            before, after = words.dollars(each.before_usd), words.dollars(each.after_usd)
            span = {"new": after, "gone": before}.get(name, f"{before} -> {after}")
            lines.append(f"    {visible(each.id)}  {span}")
    return [*lines, ""] if len(lines) > 1 else [*lines, "  nothing changed", ""]


def _unread(result: AuditResult, width: int) -> list[str]:
    lines = [line for note in result.notes for line in _wrapped(f"note: {note}", width)]
    if result.unread_count:
        lines.append(f"{words.count(result.unread_count, 'line')} could not be read; everything else was:")
    for each in result.unread[:5]:
        place = f"{each.file}:{each.line}" if each.line else each.file
        lines += _wrapped(f"{place}: {each.why}", width, "  ")
    return lines
