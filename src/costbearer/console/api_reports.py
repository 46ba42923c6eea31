"""`GET /api/v1/reports/{name}`: the reports over HTTP, the same tables that the command line and the pages show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from costbearer.errors import QueryInvalid
from costbearer.reports import REPORTS, answer, question
from costbearer.reports.beside import Beside
from costbearer.reports.periods import ZONE_UTC, Zone
from costbearer.reports.query import PARAMETERS, Reader
from costbearer.reports.table import Table

MEDIA = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "markdown": "text/markdown; charset=utf-8",
    "text": "text/plain; charset=utf-8",
}
"""Forms of an answer and their media types."""


def report_router(
    open_reader: Callable[[], AbstractContextManager[Reader]],
    beside: Callable[[], Beside],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    home: Zone = ZONE_UTC,
) -> APIRouter:
    """The router of the reports. `open_reader` is `Ledger.reader`; `beside` gives what reports look at beside it.

    Answers 200 in one of the forms of `MEDIA`; 400 `query_invalid` naming every unknown or unusable parameter and what
    is known instead; 404 for an unknown report. The errors are raised for the application's own handler.
    """
    router = APIRouter(prefix="/api/v1/reports", tags=["reports"])

    @router.get("", summary="The reports there are")
    def listed() -> dict[str, list[dict[str, object]]]:
        forms = [report.form for report in REPORTS.values()]
        return {"reports": [{"name": form.name, "tells": form.tells, "takes": list(form.takes)} for form in forms]}

    @router.get(
        "/{name}",
        summary="A report",
        response_class=Response,
        responses={200: {"content": {media.partition(";")[0]: {} for media in MEDIA.values()}}},
        openapi_extra={"parameters": _described()},
    )
    def report(name: str, request: Request) -> Response:
        pairs = request.query_params.multi_items()
        query = question(name, [pair for pair in pairs if pair[0] != "format"], now=now(), home=home)
        wanted = [text for parameter, text in pairs if parameter == "format"] or ["json"]
        if len(wanted) > 1 or wanted[0] not in MEDIA:
            raise QueryInvalid({"format": f"is one of {', '.join(MEDIA)}, given once"})
        # The stamp is taken before the ledger is read: it may promise too little, never too much.
        others = beside()
        with open_reader() as reader:
            table = answer(query, reader, others)
        return Response(made(table, wanted[0]), media_type=MEDIA[wanted[0]])

    return router


def made(table: Table, form: str) -> str | bytes:
    """The table in one of the forms of `MEDIA`."""
    if form == "json":
        return table.to_json()
    if form == "csv":
        return table.to_csv()
    if form == "xlsx":
        return table.to_xlsx()
    return table.to_markdown() if form == "markdown" else table.to_text()


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
        for name, meaning in {**PARAMETERS, "format": f"{', '.join(MEDIA)}; json unless given"}.items()
    ]
