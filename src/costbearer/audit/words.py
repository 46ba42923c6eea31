"""How an audit speaks, on every surface alike: periods, shares, places, dollars."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from costbearer import money
from costbearer.audit.finding import Finding, Sample
from costbearer.audit.result import AuditResult

HEADLINES = {
    "fit": "FIT FOR CHARGEBACK",
    "leaking": "LEAKING",
    "unfit": "NOT FIT FOR CHARGEBACK",
    "broken": "CHARGEBACK WOULD BE BROKEN",
    "unknown": "NOTHING TO CHARGE",
}


def dollars(usd: Decimal | None) -> str:
    """For reading: cents from a dollar on, six places below. Exact amounts stand in JSON and CSV."""
    return "not known" if usd is None else money.brief(usd)


def percent(value: float | None) -> str:
    """Whole percents are enough for a large share; small ones keep a digit. Never 100 % for less than all."""
    if value is None:
        return "-"
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.1f}%"


def share(part: Decimal, whole: Decimal) -> str:
    ratio = money.share(part, whole)
    return percent(None if ratio is None else 100 * ratio)


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def period(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None:
        return "no usable times"
    return f"{since:%Y-%m-%d}" if since.date() == until.date() else f"{since:%Y-%m-%d} to {until:%Y-%m-%d}"


def subject_line(result: AuditResult) -> str:
    """What was looked at, in one line."""
    titles = ", ".join(title for _, title in result.formats)
    what = f"{count(result.records, 'call')} in {count(result.files, 'file')}"
    return f"{what} ({titles}), {period(result.since, result.until)}"


def finding_dollars(finding: Finding) -> str:
    """Dollars with what they are: too much, too little, or the spend that the finding is about."""
    if finding.cost_usd is None:
        return "not known"
    amount = dollars(finding.cost_usd)
    if finding.check.measure == "difference" and finding.net_usd is not None:
        if finding.net_usd == finding.cost_usd:
            return f"{amount} too much"
        if -finding.net_usd == finding.cost_usd:
            return f"{amount} too little"
        return f"{amount} off"
    return f"up to {amount}" if finding.check.measure == "unknown" else amount


def places(samples: Sequence[Sample], *, one_file: bool = False) -> str:
    """Where records stand; of a log in one file the directory says nothing."""
    return ", ".join(_place(each, one_file) for each in samples)


def _place(sample: Sample, one_file: bool) -> str:
    file = sample.file.rpartition("/")[2] if one_file else sample.file
    return f"{file}:{sample.line}" if sample.line else f"{file} {sample.id or ''}".rstrip()
