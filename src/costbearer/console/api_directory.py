"""`/api/v1/figures`, `/api/v1/ownership` and `/api/v1/backfill`: what is kept beside the keys, and spend that came
before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from costbearer import figures, forms, labels
from costbearer.backfill_desk import BackfillDesk
from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid, NotFound
from costbearer.ledger import LABELS
from costbearer.stores.directory import Directory, OwnerRow

KINDS = ("key", "identity", "workspace", "project", "agent", "user")
ROWS_MAX = 10_000
"""Rows of a map, or lines of a figure, in one request."""
_VALUE_CHARACTERS_MAX = 1024

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
        return JSONResponse(figure_document(name, lines))

    @router.post("/figures/{name}", summary="Keep lines of a business figure", tags=["figures"])
    def keep(name: str, request: Request, body: Body) -> JSONResponse:
        lines = figures.lines(_listed(body, "lines"), "lines")
        changed = directory.keep_figure(figures.checked_name(name), lines, actor(request))
        return JSONResponse({"figure": name, "lines": len(lines), "changed": changed})

    @router.get("/ownership", summary="The ownership map, the oldest row first", tags=["ownership"])
    def owners() -> JSONResponse:
        return JSONResponse({"rows": [owner_document(row) for row in directory.owners()]})

    @router.post("/ownership", summary="Add dated rows to the ownership map", tags=["ownership"])
    def add(request: Request, body: Body) -> JSONResponse:
        rows = owner_rows(_listed(body, "rows"))
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


def figure_document(name: str, lines: Sequence[figures.Figure]) -> dict[str, Any]:
    """A figure as JSON: amounts are decimal text."""
    rows = [{"date": line.day.isoformat(), "amount": format(line.amount, "f"), "label": line.label} for line in lines]
    return {"figure": name, "lines": rows}


def owner_document(row: OwnerRow) -> dict[str, Any]:
    """A row of the map as JSON."""
    since = None if row.since is None else row.since.isoformat().replace("+00:00", "Z")
    return {"kind": row.kind, "value": row.value, "from": since, **{name: row.gives.get(name) for name in LABELS}}


def owner_rows(given: Sequence[dict[str, object]]) -> list[OwnerRow]:
    """Rows of the map out of JSON.

    Raises:
        FieldInvalid: naming every faulty row.
    """
    faults: dict[str, str] = {}
    found = []
    for number, row in enumerate(given, 1):
        own: dict[str, str] = {}
        found.append(_owner_row(row, own))
        if own:
            faults[f"rows, row {number}"] = "; ".join(f"{name}: {words}" for name, words in own.items())
    if faults:
        raise FieldInvalid(faults)
    return found


def _owner_row(row: dict[str, object], faults: dict[str, str]) -> OwnerRow:
    faults |= {str(name)[:60]: "unknown field" for name in set(row) - {"kind", "value", "from", *LABELS}}
    kind, value = row.get("kind"), row.get("value")
    if kind not in KINDS:
        faults["kind"] = f"must be one of {', '.join(KINDS)}"
    if not isinstance(value, str) or not 0 < len(value) <= _VALUE_CHARACTERS_MAX:
        faults["value"] = f"must be a text of 1 to {_VALUE_CHARACTERS_MAX} characters"
    since: datetime | None = None
    if row.get("from") is not None:
        since = forms.moment(row["from"])
        if since is None:
            faults["from"] = "must be a day such as 2026-08-01, or a time with its offset"
    gives = {name: row[name] for name in LABELS if row.get(name) is not None}
    faults |= {name: words for name, each in gives.items() if (words := labels.fault(each)) is not None}
    if not gives.keys() & {"owner", "team"}:
        faults["owner"] = "neither owner nor team is said"
    return OwnerRow(str(kind), str(value), since, {name: labels.cleaned(str(each)) for name, each in gives.items()})


def _listed(body: dict[str, object], name: str) -> list[dict[str, object]]:
    given = body.get(name)
    if set(body) != {name} or not isinstance(given, list) or len(given) > ROWS_MAX:
        raise FieldInvalid({name: f"must be there, alone, as a list of at most {ROWS_MAX} objects"})
    try:
        return msgspec.convert(given, list[dict[str, object]])
    except msgspec.ValidationError as error:
        raise FieldInvalid({name: str(error)}) from None
