"""`/api/v1/figures`, `/api/v1/ownership` and `/api/v1/backfill`: what is kept beside the keys, and spend that came
before."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from costbearer import figures, owners
from costbearer.backfill_desk import BackfillDesk
from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid, NotFound
from costbearer.stores.directory import Directory

Body = Annotated[dict[str, object], Depends(json_object)]


def directory_router(directory: Directory, desk: BackfillDesk) -> APIRouter:
    """The router. Errors are raised for the application's own handler."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/figures", summary="The business figures there are", tags=["figures"])
    def listed() -> JSONResponse:
        names = directory.figure_names()
        return JSONResponse({"figures": [{"name": name, "lines": lines} for name, lines in names.items()]})

    @router.get("/figures/{name}", summary="The lines of a business figure", tags=["figures"])
    def figure(name: str) -> JSONResponse:
        lines = directory.figure(name)
        if lines is None:
            raise NotFound(f"there is no business figure {name[:60]!r}")
        return JSONResponse(figures.document(name, lines))

    @router.post("/figures/{name}", summary="Keep lines of a business figure", tags=["figures"])
    def keep(name: str, request: Request, body: Body) -> JSONResponse:
        lines = figures.lines(_listed(body, "lines"), "lines")
        changed = directory.keep_figure(figures.checked_name(name), lines, actor(request))
        return JSONResponse({"figure": name, "lines": len(lines), "changed": changed})

    @router.get("/ownership", summary="The ownership map, the oldest row first", tags=["ownership"])
    def listed_owners() -> JSONResponse:
        return JSONResponse({"rows": [owners.document(row) for row in directory.owners()]})

    @router.post("/ownership", summary="Add dated rows to the ownership map", tags=["ownership"])
    def add(request: Request, body: Body) -> JSONResponse:
        rows = owners.rows(_listed(body, "rows"))
        return JSONResponse({"rows": len(rows), "added": directory.add_owners(rows, actor(request))})

    @router.get("/backfill", summary="Spend that nobody wholly bears, by key, the dearest first", tags=["backfill"])
    def backfill() -> JSONResponse:
        return JSONResponse(desk.listed())

    @router.post("/backfill/labels", summary="Label a key's past; shown unless apply is true", tags=["backfill"])
    def label(request: Request, body: Body) -> JSONResponse:
        return JSONResponse(desk.label(body, actor(request)))

    @router.post("/backfill/rotations", status_code=201, summary="Replace keys by virtual keys", tags=["backfill"])
    def rotate(request: Request, body: Body) -> JSONResponse:
        return JSONResponse(desk.rotate(body, actor(request)), status_code=201)

    return router


def _listed(body: dict[str, object], name: str) -> list[dict[str, object]]:
    given = body.get(name)
    if set(body) != {name} or not isinstance(given, list) or len(given) > figures.ROWS_MAX:
        raise FieldInvalid({name: f"must be there, alone, as a list of at most {figures.ROWS_MAX} objects"})
    try:
        return msgspec.convert(given, list[dict[str, object]])
    except msgspec.ValidationError as error:
        raise FieldInvalid({name: str(error)}) from None
