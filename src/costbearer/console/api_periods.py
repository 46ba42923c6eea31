"""`/api/v1/periods`: months that are closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid
from costbearer.keys import stamp
from costbearer.stores.control import Actor
from costbearer.stores.periods import ClosedMonth

Body = Annotated[dict[str, object], Depends(json_object)]


def periods_router(closed: Callable[[], list[ClosedMonth]], close: Callable[[str, Actor], ClosedMonth]) -> APIRouter:
    """The router of closed months: `closed` lists them, and `close` closes one for somebody."""
    router = APIRouter(prefix="/api/v1/periods", tags=["periods"])

    @router.get("", summary="List the closed months, the oldest first")
    def listed() -> JSONResponse:
        return JSONResponse({"periods": [document(each) for each in closed()]})

    @router.post("", status_code=201, summary="Close a month and all before it, for ever")
    def closing(request: Request, body: Body) -> JSONResponse:
        month = body.get("month")
        if set(body) != {"month"} or not isinstance(month, str):
            raise FieldInvalid({"month": "must be there, alone, as a text such as 2026-10"})
        return JSONResponse(document(close(month, actor(request))), status_code=201)

    return router


def document(of: ClosedMonth) -> dict[str, str | None]:
    """A closed month as JSON."""
    return {"month": of.month, "closed_at": stamp(of.closed_at)}
