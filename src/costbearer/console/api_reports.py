"""`GET /api/v1/reports/{name}`: the reports over HTTP, the same tables that the command line and the pages show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from costbearer.errors import QueryInvalid
from costbearer.reports import answer, question
from costbearer.reports.query import PARAMETERS, Reader

FORMATS = ("json", "csv")


def report_router(
    open_reader: Callable[[], AbstractContextManager[Reader]],
    complete_to: Callable[[], datetime | None],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> APIRouter:
    """The router of the reports. `open_reader` is `Ledger.reader`; `complete_to` gives the bookkeeper's stamp.

    Answers 200 with JSON or CSV; 400 `query_invalid` naming every unknown or unusable parameter and what is known
    instead; 404 for an unknown report. The errors are raised for the application's own handler.
    """
    router = APIRouter(prefix="/api/v1/reports", tags=["reports"])

    @router.get(
        "/{name}",
        summary="A report",
        response_class=Response,
        responses={200: {"content": {"application/json": {}, "text/csv": {}}}},
        openapi_extra={"parameters": _described()},
    )
    def report(name: str, request: Request) -> Response:
        pairs = request.query_params.multi_items()
        query = question(name, [pair for pair in pairs if pair[0] != "format"], now=now())
        wanted = [text for parameter, text in pairs if parameter == "format"] or ["json"]
        if len(wanted) > 1 or wanted[0] not in FORMATS:
            raise QueryInvalid({"format": f"is one of {', '.join(FORMATS)}, given once"})
        # The stamp is taken before the ledger is read: it may promise too little, never too much.
        stamp = complete_to()
        with open_reader() as reader:
            table = answer(query, reader, complete_to=stamp)
        if wanted == ["csv"]:
            return Response(table.to_csv(), media_type="text/csv; charset=utf-8")
        return Response(table.to_json(), media_type="application/json")

    return router


def _described() -> list[dict[str, object]]:
    """The query parameters for /openapi.json, from the same table as the command line's help."""
    many = {"by", "where"}
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": meaning,
            "schema": {"type": "array", "items": {"type": "string"}} if name in many else {"type": "string"},
        }
        for name, meaning in {**PARAMETERS, "format": "json or csv; json unless given"}.items()
    ]
