"""`POST /api/v1/imports`: calls of another gateway's log, as entries of kind `import`; what is there is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid
from costbearer.ledger import Entry
from costbearer.stores.control import Actor

ENTRIES_MAX = 1000


def imports_router(posted: Callable[[Sequence[Entry], Actor], dict[str, Any]]) -> APIRouter:
    """The router of imports. `posted` takes entries and who posts them, and gives what became of them."""
    router = APIRouter(prefix="/api/v1/imports", tags=["entries"])

    @router.post("", summary="Post calls of another gateway's log, once for ever")
    async def post(request: Request) -> JSONResponse:
        entries = _entries(await json_object(request))
        # Posting waits for the disk, and must not hold up what else the console answers.
        from starlette.concurrency import run_in_threadpool

        return JSONResponse(await run_in_threadpool(posted, entries, actor(request)))

    return router


def _entries(body: dict[str, object]) -> list[Entry]:
    given = body.get("entries")
    if not isinstance(given, list) or len(given) > ENTRIES_MAX:
        raise FieldInvalid({"entries": f"must be a list of at most {ENTRIES_MAX} entries"})
    try:
        entries = msgspec.convert(given, list[Entry], strict=True)
    except msgspec.ValidationError as error:
        raise FieldInvalid({"entries": str(error)}) from None
    wrong = next((place for place, entry in enumerate(entries) if entry.kind != "import"), None)
    if wrong is not None:
        raise FieldInvalid({"entries": f"number {wrong} is of kind {entries[wrong].kind}; only imports are taken"})
    return entries
