"""`POST /api/v1/amortisations`: the fees of capacity that is paid by time, spread over the calls that used it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from costbearer.console.api_restatements import period
from costbearer.console.bodies import actor
from costbearer.restate import Period
from costbearer.stores.control import Actor


def amortisation_router(amortised: Callable[[Period, Actor | None], dict[str, Any]]) -> APIRouter:
    """The router of amortisations. `amortised` takes a period and who posts it, nobody where it is only looked at."""
    router = APIRouter(prefix="/api/v1/amortisations", tags=["prices"])

    @router.post("", summary="Spread the fees of commitments over the calls of a period's whole days")
    def amortise(
        request: Request,
        since: Annotated[str, Query(description="begin of the period, as in reports")],
        until: Annotated[str | None, Query(description="end of the period, excluded; now unless given")] = None,
        apply: Annotated[bool, Query(description="post what is missing")] = False,
    ) -> JSONResponse:
        return JSONResponse(amortised(period(since, until), actor(request) if apply else None))

    return router
