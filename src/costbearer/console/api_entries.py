"""`GET /api/v1/entries`: single entries with their charges, oldest first, page by page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.entries import LIMIT, LIMIT_MAX, EntriesQuery, page
from costbearer.reports.query import Reader

_MEANINGS = {
    "since": "begin of the period in which calls started: 2026-11-01, RFC 3339, 7d or 24h ago; else the first",
    "until": "end of the period, excluded; else to the last",
    "limit": f"entries on a page, 1 to {LIMIT_MAX}; {LIMIT} unless given",
    "cursor": "next_cursor of the page before; the other parameters stay the same",
}


def entries_router(
    open_reader: Callable[[], AbstractContextManager[Reader]],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> APIRouter:
    """The router of single entries. `open_reader` is `Ledger.reader`.

    Answers 200 `{"entries": [...], "next_cursor": null | text}`; 400 `query_invalid` naming every unknown or unusable
    parameter. The errors are raised for the application's own handler.
    """
    router = APIRouter(prefix="/api/v1/entries", tags=["entries"])

    @router.get("", summary="Entries, oldest first", openapi_extra={"parameters": _described()})
    def entries(request: Request) -> JSONResponse:
        query = EntriesQuery.parse(request.query_params.multi_items(), now=now())
        with open_reader() as reader:
            documents, following = page(reader, query)
        return JSONResponse({"entries": documents, "next_cursor": following})

    return router


def _described() -> list[dict[str, object]]:
    meanings = {
        **_MEANINGS,
        **{name: f"only entries with this {name}, (none) for without; repeated: any of them" for name in DIMENSIONS},
        "tag:NAME": "only entries with this value of the tag NAME",
    }
    return [
        {"name": name, "in": "query", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in meanings.items()
    ]
