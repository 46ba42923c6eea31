"""`POST /api/v1/amortisations`: the fees of capacity that is paid by time, spread over the calls that used it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from costbearer.console.api_restatements import period
from costbearer.restate import Period


def amortisation_router(amortised: Callable[[Period, bool], dict[str, Any]]) -> APIRouter:
    """The router of amortisations. `amortised` takes a period and whether to post, and gives the document."""
    router = APIRouter(prefix="/api/v1/amortisations", tags=["prices"])

    @router.post("", summary="Spread the fees of commitments over the calls of a period's whole days")
    def amortise(
        since: Annotated[str, Query(description="begin of the period, as in reports")],
        until: Annotated[str | None, Query(description="end of the period, excluded; now unless given")] = None,
        apply: Annotated[bool, Query(description="post what is missing")] = False,
    ) -> JSONResponse:
        return JSONResponse(amortised(period(since, until), apply))

    return router
