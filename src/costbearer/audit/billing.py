"""A bill beside the log: how far they are apart, and on which days and models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import ibis

from costbearer import money
from costbearer.audit.evidence import Evidence
from costbearer.reconcile.invoices import Invoice, InvoiceLine, same_model
from costbearer.rerate import amount, leaf
from costbearer.usage import METERS

MATCH_USD = Decimal("0.01")
"""Bills round to the cent, some of them line by line."""


class Gap(NamedTuple):
    """One day, model or request of which bill and log say different things; None where one of them says nothing."""

    what: str
    invoice_usd: Decimal | None
    log_usd: Decimal | None

    @property
    def gap_usd(self) -> Decimal:
        return money.minus(self.invoice_usd or money.ZERO, self.log_usd or money.ZERO)


class Reconciled(NamedTuple):
    """`gap_pct` is what the log lacks of the bill, in percent of the bill; negative where it has more."""

    invoices: tuple[Invoice, ...]
    invoice_usd: Decimal
    log_usd: Decimal
    gap_pct: float | None
    matched: int
    gaps: tuple[Gap, ...]


def reconciled(evidence: Evidence, invoices: Sequence[Invoice]) -> Reconciled:
    """Compare bills with the calls of the same providers in the same periods."""
    lines = [line for invoice in invoices for line in invoice.lines]
    since, until = min(line.since for line in lines), max(line.until for line in lines)
    billed = {line.provider for line in lines}
    calls = evidence.calls
    within = calls.filter((calls.started_at.date() >= since) & (calls.started_at.date() < until))
    if None not in billed:
        within = within.filter(within.price_provider.isin(sorted(name for name in billed if name)))
    within = within.mutate(day=within.started_at.date())
    sums = within.group_by("day", "price_provider", "model").aggregate(usd=within.spend_usd.sum())
    logged = [row for row in evidence.execute(sums) if row["usd"] is not None]
    invoice_usd = money.total(line.amount_usd for line in lines)
    log_usd = money.total(row["usd"] for row in logged)
    share = money.share(money.minus(invoice_usd, log_usd), invoice_usd)
    compared = [
        *_by_day(lines, logged),
        *_by_model(lines, logged),
        *_by_class(evidence, within, lines),
        *_by_request(evidence, lines),
    ]
    gaps = [gap for gap in compared if abs(gap.gap_usd) >= MATCH_USD]
    return Reconciled(
        tuple(invoices),
        invoice_usd,
        log_usd,
        None if share is None else round(100 * share, 4),
        len(compared) - len(gaps),
        tuple(sorted(gaps, key=lambda gap: -abs(gap.gap_usd))),
    )


def _sum(amounts: dict[Any, Decimal], key: Any, usd: Decimal) -> None:
    amounts[key] = money.total((amounts.get(key, money.ZERO), usd))


def _by_day(lines: Sequence[InvoiceLine], logged: Sequence[dict[str, Any]]) -> list[Gap]:
    """Day by day where the bill has days; else period by period."""
    spans: dict[tuple[date, date], Decimal] = {}
    for line in lines:
        _sum(spans, (line.since, line.until), line.amount_usd)
    days: dict[date, Decimal] = {}
    for row in logged:
        _sum(days, row["day"], row["usd"])
    gaps = []
    for (since, until), billed in sorted(spans.items()):
        inside = [usd for day, usd in days.items() if since <= day < until]
        what = f"{since}" if until - since == timedelta(days=1) else f"{since} to {until}"
        gaps.append(Gap(what, billed, money.total(inside) if inside else None))
    covered = [day for day in days if not any(since <= day < until for since, until in spans)]
    gaps += [Gap(f"{day}", None, days[day]) for day in sorted(covered)]
    return gaps


def _by_model(lines: Sequence[InvoiceLine], logged: Sequence[dict[str, Any]]) -> list[Gap]:
    """Model by model where the bill names models."""
    billed: dict[str, Decimal] = {}
    for line in lines:
        if line.model:
            _sum(billed, line.model, line.amount_usd)
    if not billed:
        return []
    used: dict[str, Decimal] = {}
    for row in logged:
        _sum(used, row["model"] or "(none)", row["usd"])
    gaps = []
    left = dict(used)
    for name, usd in sorted(billed.items()):
        names = [each for each in left if each == name or same_model(name, each)]
        found = money.total(left.pop(each) for each in names)
        gaps.append(Gap(name, usd, found if names else None))
    return [*gaps, *(Gap(name, None, usd) for name, usd in sorted(left.items()))]


_CLASSES: dict[str, str] = {
    meter.name: (
        "cache_read"
        if meter.name.startswith("cache_read")
        else "cache_write"
        if meter.name.startswith("cache_creation")
        else meter.side
    )
    for meter in METERS
    if meter.side
}
"""By meter the class of tokens under which a bill has it."""


def _by_class(evidence: Evidence, within: Any, lines: Sequence[InvoiceLine]) -> list[Gap]:
    """Day, model and class of tokens, where the bill has all three. A log has sums only, so its side is rated."""
    billed: dict[tuple[date, str, str], Decimal] = {}
    for line in lines:
        if line.model and line.token_class and line.until - line.since == timedelta(days=1):
            _sum(billed, (line.since, line.model, line.token_class), line.amount_usd)
    if not billed:
        return []
    used = _rated_by_class(evidence, within)
    gaps = []
    for (day, model, token_class), usd in sorted(billed.items()):
        mine = [
            amount
            for (at, name, of), amount in used.items()
            if (at, of) == (day, token_class) and (name == model or same_model(model, name))
        ]
        gaps.append(Gap(f"{day}, {model}, {token_class}", usd, money.total(mine) if mine else None))
    return gaps


def _rated_by_class(evidence: Evidence, within: Any) -> dict[tuple[date, str, str], Decimal]:
    """What the calls cost by the archive, by day, model and class of tokens."""
    prices = evidence.rates.prices
    met = within.filter(within.expected_usd.notnull()).join(
        prices, [within.use == prices.use, within.above == prices.above]
    )
    sums = {}
    for token_class in dict.fromkeys(_CLASSES.values()):
        charged = [
            amount(leaf(met, meter, evidence.counted), ibis.coalesce(met[f"price_{meter.name}"], money.ZERO))
            for meter in evidence.rates.meters
            if _CLASSES.get(meter.name) == token_class
        ]
        if charged:
            sums[token_class] = sum(charged[1:], charged[0]).sum()
    if not sums:
        return {}
    rows = evidence.execute(met.group_by(met.day, met.model).aggregate(**sums))
    return {
        (row["day"], row["model"] or "(none)", token_class): row[token_class]
        for row in rows
        for token_class in sums
        if row[token_class]
    }


def _by_request(evidence: Evidence, lines: Sequence[InvoiceLine]) -> list[Gap]:
    """Request by request where bill and log both name them."""
    billed: dict[str, Decimal] = {}
    for line in lines:
        if line.request_id:
            _sum(billed, line.request_id, line.amount_usd)
    if not billed:
        return []
    calls, records = evidence.calls, evidence.records
    met = calls.join(records.select("row", "response_id"), "row")
    rows = evidence.execute(
        met.filter(met.response_id.isin(sorted(billed))).group_by("response_id").aggregate(usd=met.spend_usd.sum())
    )
    logged = {row["response_id"]: row["usd"] for row in rows}
    return [Gap(f"request {name}", usd, logged.get(name)) for name, usd in sorted(billed.items())]
