"""`POST /api/v1/restatements`: a period rated again with the prices of today, looked at or posted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from costbearer.console.bodies import actor
from costbearer.reports.query import Query as Question
from costbearer.restate import Period
from costbearer.stores.control import Actor


def restatement_router(restated: Callable[[Period, Actor | None], dict[str, Any]]) -> APIRouter:
    """The router of restatements. `restated` takes a period and who posts it, nobody where it is only looked at."""
    router = APIRouter(prefix="/api/v1/restatements", tags=["prices"])

    @router.post("", summary="Rate a period again with the prices of today")
    def restate(
        request: Request,
        since: Annotated[str, Query(description="begin of the period, as in reports")],
        until: Annotated[str | None, Query(description="end of the period, excluded; now unless given")] = None,
        apply: Annotated[bool, Query(description="post the corrections")] = False,
    ) -> JSONResponse:
        return JSONResponse(restated(period(since, until), actor(request) if apply else None))

    return router


def period(since: str, until: str | None) -> Period:
    """A period as reports read it.

    Raises:
        QueryInvalid: one of them is no time, or they are the wrong way round.
    """
    pairs = [("since", since), *([("until", until)] if until else [])]
    found = Question.parse(pairs, now=datetime.now(UTC)).period
    return Period(found.since, found.until)
