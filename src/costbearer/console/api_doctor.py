"""`GET /api/v1/doctor`: the doctor's findings over HTTP, and the doctor with every view of the ledger at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from costbearer.bookkeeper import Bookkeeper
from costbearer.console.metrics import metrics_text
from costbearer.doctor import Finding, examine
from costbearer.price_desk import Cards
from costbearer.reports import spend
from costbearer.reports.beside import NOTHING
from costbearer.reports.query import LIMIT_MAX, Query
from costbearer.stores.duckdb import Reader

_EVER = (("since", "1970-01-01"), ("until", "2199-12-31"))


def doctor_router(examination: Callable[[], Sequence[Finding]]) -> APIRouter:
    """The router of the doctor: 200 `{"ok": bool, "findings": [{"check", "ok", "detail"}]}`, whatever is found."""
    router = APIRouter(prefix="/api/v1/doctor", tags=["doctor"])

    @router.get("", summary="Recompute everything from the journal and compare")
    def doctor() -> JSONResponse:
        return JSONResponse(document(examination()))

    return router


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as the API and `costbearer doctor --json` give them."""
    listed = [{"check": finding.check, "ok": finding.ok, "detail": finding.detail} for finding in findings]
    return {"ok": all(finding.ok for finding in findings), "findings": listed}


def full_examination(bookkeeper: Bookkeeper, prices_dir: Path) -> list[Finding]:
    """`doctor.examine` with the spend report, the metrics and every kept price archive.

    Raises:
        StoreFailed: the ledger or a price archive cannot be read at all.
    """
    cards = Cards(prices_dir)
    return examine(
        bookkeeper,
        report_totals=report_totals,
        metrics_text=lambda reader: metrics_text(reader, bookkeeper.progress(), datetime.now(UTC)),
        card_lookup=cards.find,
        contracted=lambda card: {price for contract in cards.contracts for price in contract.ever(card)},
    )


def report_totals(reader: Reader, dimension: str) -> dict[str, Decimal]:
    """The spend report over all time by one dimension, bucket by bucket, as the doctor compares it."""
    query = Query.parse([("by", dimension), ("limit", str(LIMIT_MAX)), *_EVER], now=datetime.now(UTC))
    table = spend.answer(reader, query, NOTHING)
    at = [column.name for column in table.columns].index("cost_usd")
    totals: dict[str, Decimal] = {}
    for row in table.rows:
        cost = row[at]
        assert isinstance(cost, Decimal)
        totals[str(row[0])] = cost
    return totals
