"""What an audit means: whether it may pass, and what has changed since an earlier one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from costbearer import money
from costbearer.audit.checks import CODES
from costbearer.audit.finding import SEVERITIES
from costbearer.audit.result import VERSION, AuditResult
from costbearer.errors import InputInvalid

DEFECT_PCT, SIGNAL_PCT, BROKEN_PCT = 2.0, 3.0, 10.0
"""Unattributed spend above which a log is not fit for chargeback as it is, something is being lost, and chargeback
makes no sense."""

MEASURES: Mapping[str, str] = {
    "unattributed": "unattributed_spend_pct",
    "missing_team": "requests_missing_team_pct",
    "missing_session": "requests_missing_session_pct",
    "gap": "reconciliation_gap_pct",
    "not_ready": "finops_ready_pct",
}


class Condition(NamedTuple):
    """Something that must not be: a code, a severity or worse, or a measure above a number of percent."""

    text: str
    code: str | None = None
    severity: str | None = None
    measure: str | None = None
    pct: float = 0.0


def condition(text: str) -> Condition:
    """Read `CODE`, `SEVERITY` or `unattributed>2%`.

    Raises:
        InputInvalid: it is none of these.
    """
    spelt = text.strip()
    if spelt in CODES:
        return Condition(spelt, code=spelt)
    if spelt in SEVERITIES:
        return Condition(spelt, severity=spelt)
    found = re.fullmatch(r"(\w+)\s*>\s*(\d+(?:\.\d+)?)\s*%?", spelt)
    if found and found[1] in MEASURES:
        return Condition(spelt, measure=found[1], pct=float(found[2]))
    raise InputInvalid(
        f"--fail-on {text!r}: it is a code ({', '.join(CODES[:3])}, ...), one of {', '.join(SEVERITIES)}, or a measure "
        f"such as unattributed>2% ({', '.join(MEASURES)})"
    )


def failed(result: AuditResult, conditions: Sequence[Condition]) -> list[str]:
    """The conditions that are met, in words."""
    return [says for each in conditions if (says := _met(result, each)) is not None]


def _met(result: AuditResult, given: Condition) -> str | None:
    if given.measure is not None:
        value = getattr(result.metrics, MEASURES[given.measure])
        if value is not None and given.measure == "not_ready":
            value = 100.0 - value
        if value is None:
            return None
        return f"{given.text}: it is {abs(value):g}%" if abs(value) > given.pct else None
    worse = SEVERITIES[: SEVERITIES.index(given.severity) + 1] if given.severity else ()
    found = [each for each in result.findings if each.code == given.code or each.check.severity in worse]
    if not found:
        return None
    return f"{given.text}: {', '.join(f'{each.code} ({each.records} records)' for each in found)}"


def verdict(result: AuditResult) -> tuple[str, str]:
    """One word and one sentence: `fit`, `leaking`, `unfit` or `broken` for chargeback."""
    lost = result.metrics.unattributed_spend_pct
    if lost is None:
        return "unknown", "There is no spend to speak of, so nothing can be said about chargeback."
    said = f"{lost:.2f}".rstrip("0").rstrip(".") + "%"
    if lost >= BROKEN_PCT:
        return "broken", f"{said} of the spend is nobody's: chargeback cannot rest on this log."
    if lost >= SIGNAL_PCT:
        return "unfit", f"{said} of the spend is nobody's: a key or a hop is losing its owner."
    if lost > DEFECT_PCT:
        return "leaking", f"{said} of the spend is nobody's, more than the {DEFECT_PCT:g}% that can be carried."
    if not lost:
        return "fit", "All of the spend has a bearer."
    return "fit", f"All but {said} of the spend has a bearer."


# -- against an earlier one


class Change(NamedTuple):
    """A part of a finding then and now; None where it was not there."""

    id: str
    before_usd: Decimal | None
    after_usd: Decimal | None
    before_records: int
    after_records: int


class Compared(NamedTuple):
    """What is new, gone, worse and better since the baseline; the dearest first."""

    baseline: str
    new: tuple[Change, ...]
    gone: tuple[Change, ...]
    worse: tuple[Change, ...]
    better: tuple[Change, ...]

    def document(self) -> dict[str, Any]:
        return {"baseline": self.baseline} | {
            name: [
                {
                    "id": each.id,
                    "before_usd": None if each.before_usd is None else money.text(each.before_usd),
                    "after_usd": None if each.after_usd is None else money.text(each.after_usd),
                    "before_records": each.before_records,
                    "after_records": each.after_records,
                }
                for each in getattr(self, name)
            ]
            for name in ("new", "gone", "worse", "better")
        }


def compared(result: AuditResult, baseline: Path) -> Compared:
    """Compare with the JSON of an earlier audit.

    Raises:
        InputInvalid: the file is no such JSON.
    """
    before = _parts(_read(baseline), baseline)
    after = _parts(result.document(), baseline)
    changes = [
        Change(name, *_usd(before.get(name), after.get(name)), *_records(before.get(name), after.get(name)))
        for name in sorted(before.keys() | after.keys())
    ]

    def dearest(chosen: list[Change]) -> tuple[Change, ...]:
        return tuple(sorted(chosen, key=lambda each: -(each.after_usd or each.before_usd or money.ZERO)))

    def size(change: Change, *, after: bool) -> tuple[Decimal, int]:
        usd = change.after_usd if after else change.before_usd
        return (usd or money.ZERO, change.after_records if after else change.before_records)

    both = [each for each in changes if each.before_records and each.after_records]
    return Compared(
        str(baseline),
        dearest([each for each in changes if not each.before_records]),
        dearest([each for each in changes if not each.after_records]),
        dearest([each for each in both if size(each, after=True) > size(each, after=False)]),
        dearest([each for each in both if size(each, after=True) < size(each, after=False)]),
    )


Part = tuple[Decimal | None, int]


def _usd(before: Part | None, after: Part | None) -> tuple[Decimal | None, Decimal | None]:
    return (before[0] if before else None, after[0] if after else None)


def _records(before: Part | None, after: Part | None) -> tuple[int, int]:
    return (before[1] if before else 0, after[1] if after else 0)


def _read(baseline: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(baseline.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputInvalid(f"{baseline}: not the result of an audit (`costbearer audit --json`): {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise InputInvalid(f"{baseline}: not the result of an audit of version {VERSION} (`costbearer audit --json`)")
    return document


def _parts(document: Mapping[str, Any], place: Path) -> dict[str, Part]:
    try:
        return {
            part["id"]: (None if part["cost_usd"] is None else money.usd_sum(part["cost_usd"]), int(part["records"]))
            for finding in document["findings"]
            for part in finding["subjects"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputInvalid(f"{place}: not the result of an audit: {error!r}") from None
