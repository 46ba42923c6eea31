"""`POST /api/v1/restatements`: a period rated again with the prices of today, looked at or posted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from costbearer.reports.query import Query as Question
from costbearer.restate import Period


def restatement_router(restated: Callable[[Period, bool], dict[str, Any]]) -> APIRouter:
    """The router of restatements. `restated` takes a period and whether to post, and gives the document."""
    router = APIRouter(prefix="/api/v1/restatements", tags=["prices"])

    @router.post("", summary="Rate a period again with the prices of today")
    def restate(
        since: Annotated[str, Query(description="begin of the period, as in reports")],
        until: Annotated[str | None, Query(description="end of the period, excluded; now unless given")] = None,
        apply: Annotated[bool, Query(description="post the corrections")] = False,
    ) -> JSONResponse:
        return JSONResponse(restated(period(since, until), apply))

    return router


def period(since: str, until: str | None) -> Period:
    """A period as reports read it.

    Raises:
        QueryInvalid: one of them is no time, or they are the wrong way round.
    """
    pairs = [("since", since), *([("until", until)] if until else [])]
    found = Question.parse(pairs, now=datetime.now(UTC)).period
    return Period(found.since, found.until)
