"""An audit from end to end: read, rate, check, ask, compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costbearer import money
from costbearer.audit import groups, trace_questions
from costbearer.audit.billing import reconciled
from costbearer.audit.checks import carried_out
from costbearer.audit.evidence import Evidence, gathered
from costbearer.audit.intake import Intake, taken
from costbearer.audit.ownership import Ownership
from costbearer.audit.result import AuditResult
from costbearer.contract import Contract
from costbearer.logformats.registry import AUTO
from costbearer.prices import PriceBook
from costbearer.reconcile.invoices import Invoice
from costbearer.stores.logs import Logs

UNSURE = frozenset({"portkey"})
"""Formats whose cost may be in cents."""


class Options(NamedTuple):
    """What an audit is asked. `columns` is a map of fields to columns, for a table of nobody's
    format; `contract` are the prices that were agreed, which go before the public ones."""

    names: tuple[str, ...]
    wanted: str = AUTO
    columns: Mapping[str, str] | None = None
    ownership: Ownership | None = None
    contract: Contract | None = None
    invoices: tuple[Invoice, ...] = ()
    traces: int = trace_questions.TRACES
    seed: int = trace_questions.SEED


Progress = Callable[[str], None]


PROGRESS = "progress: "
"""What a line begins with that tells another program how far an audit is."""


def audit(logs: Logs, book: PriceBook, options: Options, progress: Progress = lambda _: None) -> AuditResult:
    """Read the logs and say what they are worth.

    Raises:
        InputInvalid: nothing could be read, or what goes with the logs cannot be taken.
    """
    intake = taken(logs, options.names, wanted=options.wanted, columns=options.columns, progress=progress)
    evidence = facts(logs, book, options, intake, progress)
    progress("checking")
    findings = carried_out(evidence, intake)
    progress("asking the traces")
    traces = trace_questions.asked(evidence, traces=options.traces, seed=options.seed)
    bill = reconciled(evidence, options.invoices) if options.invoices else None
    progress("adding up")
    totals = _totals(evidence)
    return AuditResult(
        formats=tuple((each.name, each.title) for each in intake.formats),
        files=len({source.file.name for source in intake.sources}),
        records=totals["records"],
        since=totals["since"],
        until=totals["until"],
        cost_usd=totals["spend"] or money.ZERO,
        computed_usd=totals["expected"] or money.ZERO,
        unknown_calls=int(totals["unknown"] or 0),
        attributed=groups.attributed(evidence),
        metrics=groups.metrics(evidence, bill.gap_pct if bill else None),
        findings=tuple(findings),
        groups=groups.by(evidence),
        traces=traces,
        reconciled=bill,
        unread=intake.unread,
        unread_count=intake.unread_count,
        notes=tuple(_notes(evidence, intake)),
        prices=book.hash[:12],
    )


def facts(logs: Logs, book: PriceBook, options: Options, intake: Intake, progress: Progress) -> Evidence:
    """The evidence of what was taken in."""
    progress("rating by the price archive")
    return gathered(
        logs,
        book,
        options.ownership,
        contract=options.contract,
        unsure=[source.number for source in intake.sources if source.format.name in UNSURE],
        carries={source.number: source.format.carries for source in intake.sources},
    )


def _totals(evidence: Evidence) -> dict[str, Any]:
    calls = evidence.calls
    return evidence.execute(
        calls.aggregate(
            records=calls.count(),
            since=calls.started_at.min(where=calls.timely),
            until=calls.started_at.max(where=calls.timely),
            spend=calls.spend_usd.sum(),
            expected=calls.expected_usd.sum(),
            unknown=calls.spend_usd.isnull().sum(),
        )
    )[0]


def _notes(evidence: Evidence, intake: Intake) -> list[str]:
    notes = []
    for format_ in intake.formats:
        if format_.sampled is None:
            notes.append(f"{format_.title}: no real sample was at hand when this format was written; check its numbers")
        notes += [f"{format_.title}: {note}" for note in format_.notes]
    for source in intake.sources:
        if source.number in evidence.cents:
            notes.append(f"{source.file.name}: its costs are cents, as the tokens show; they are read as dollars")
    return notes
