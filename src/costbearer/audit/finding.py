"""What a check is, and what it finds.

A check is a small function: it names the records that something is wrong with, and how many dollars each is about. The
rest (counting, adding up, samples, order) is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from costbearer.audit.evidence import Evidence

Severity = Literal["high", "medium", "low"]
Confidence = Literal["certain", "likely", "possible"]
Measure = Literal["spend", "difference", "unknown"]
"""What a finding's dollars are: the spend of its records, how far the log is from what is right, or not known."""

SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")
SAMPLES = 5
SUBJECTS_SHOWN = 10


class Check(NamedTuple):
    """`find` gives a table of `row`, `subject` and `usd`, or None where the log cannot show this at all.

    `usd` of a difference is what the log says too much, negative where it says too little. `subject` says what the
    finding is about within its code: a model, a key, a hop.
    """

    code: str
    severity: Severity
    confidence: Confidence
    measure: Measure
    title: str
    why: str
    fix: str
    find: Callable[[Evidence], Any]


class Sample(NamedTuple):
    """Where a record stands, and its id; nothing of what it says."""

    file: str
    line: int | None
    id: str | None


class Subject(NamedTuple):
    """A part of a finding; `id` is the same in every audit of the same place."""

    id: str
    subject: str
    records: int
    cost_usd: Decimal | None


class Finding(NamedTuple):
    """`cost_usd` is the sum of all its dollars without their sign, None where it is not known of any.

    `net_usd` is with their sign: what the log says too much in all.
    """

    check: Check
    records: int
    cost_usd: Decimal | None
    net_usd: Decimal | None
    unknown: int
    sample: tuple[Sample, ...]
    subjects: tuple[Subject, ...]

    @property
    def code(self) -> str:
        return self.check.code
