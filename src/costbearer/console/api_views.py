"""`/api/v1/views` and `/api/v1/annotations`: saved views, one by one or as a TOML file, and what happened on a day."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from costbearer.console import saved
from costbearer.console.bodies import actor, json_object
from costbearer.console.pages.parts import Parts
from costbearer.errors import FieldInvalid, QueryInvalid
from costbearer.reports import question
from costbearer.reports.periods import Zone
from costbearer.stores.control import Actor
from costbearer.stores.views import Annotation, SavedView, Views

Body = Annotated[dict[str, object], Depends(json_object)]
TEXT_CHARS_MAX = 500
_VIEW = ("name", "page", "parameters", "description", "version")


def views_router(parts: Parts) -> APIRouter:
    """The routes. Errors are raised for the application's own handler."""
    router, views = APIRouter(prefix="/api/v1"), parts.views

    @router.get("/views", summary="Saved views", tags=["views"])
    def listed() -> JSONResponse:
        return JSONResponse({"views": [view_document(view) for view in views.all()]})

    @router.get("/views.toml", summary="Saved views as a file", tags=["views"], response_class=Response)
    def exported() -> Response:
        return Response(saved.dumps(views.all()), media_type="application/toml")

    @router.post("/views", summary="Keep a view under a name", tags=["views"])
    def save(request: Request, body: Body) -> JSONResponse:
        faults = {name[:60]: f"unknown; known are {', '.join(_VIEW)}" for name in body if name not in _VIEW}
        version = body.get("version")
        if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
            faults["version"] = "must be a whole number"
        if faults:
            raise FieldInvalid(faults)
        made = saved.draft(
            body.get("name"),
            body.get("page"),
            body.get("parameters", ""),
            body.get("description", ""),
            parts.now(),
            parts.home,
        )
        kept = views.save(*made, actor(request), version=version if isinstance(version, int) else None)
        return JSONResponse(view_document(kept))

    @router.post("/views/apply", summary="Take a file of views; `check` only shows what would change", tags=["views"])
    def apply(request: Request, body: Body) -> JSONResponse:
        content, check, remove = body.get("content"), body.get("check", False), body.get("remove", False)
        if set(body) - {"content", "check", "remove"} or not isinstance(content, str):
            raise FieldInvalid({"content": "must be there, as the text of the file, with check and remove beside it"})
        if not isinstance(check, bool) or not isinstance(remove, bool):
            raise FieldInvalid({"check": "must be true or false, as must remove"})
        drafts = saved.loads(content, parts.now(), parts.home)
        changes = saved.difference(views.all(), drafts)
        if not check:
            applied(views, drafts, changes, actor(request), remove=remove)
        return JSONResponse({"changes": [change._asdict() for change in changes], "applied": not check})

    @router.delete("/views/{name}", summary="Remove a view", tags=["views"])
    def remove_view(request: Request, name: str) -> JSONResponse:
        views.get(name)
        return JSONResponse({"removed": views.remove([name], actor(request))})

    @router.get("/annotations", summary="What happened on which day", tags=["views"])
    def annotations() -> JSONResponse:
        return JSONResponse({"annotations": [annotation_document(each) for each in views.annotations()]})

    @router.post("/annotations", status_code=201, summary="Say what happened on a day", tags=["views"])
    def annotate(request: Request, body: Body) -> JSONResponse:
        unknown = set(body) - {"day", "text", "where"}
        if unknown:
            raise FieldInvalid({name[:60]: "unknown; known are day, text, where" for name in sorted(unknown)})
        day, text, scope = annotation(body.get("day"), body.get("text"), body.get("where"), parts.now(), parts.home)
        return JSONResponse(annotation_document(views.annotate(day, text, scope, actor(request))), status_code=201)

    @router.delete("/annotations/{number}", summary="Take an annotation away", tags=["views"])
    def remove(request: Request, number: int) -> JSONResponse:
        views.remove_annotation(number, actor(request))
        return JSONResponse({"removed": 1})

    return router


def view_document(view: SavedView) -> dict[str, Any]:
    """A view as the API shows it."""
    return {
        **msgspec.structs.asdict(view),
        "updated_at": view.updated_at.isoformat(),
        "address": saved.address_of(view),
    }


def annotation_document(each: Annotation) -> dict[str, Any]:
    """An annotation as the API shows it."""
    where = None if each.dimension is None else f"{each.dimension}={each.value}"
    return {
        "number": each.number,
        "day": each.day.isoformat(),
        "text": each.text,
        "where": where,
        "created_by": each.created_by,
        "created_at": each.created_at.isoformat(),
    }


def applied(
    views: Views, drafts: list[saved.Draft], changes: list[saved.Difference], actor: Actor, *, remove: bool
) -> None:
    """Do what the difference says; views that the file does not name go only where `remove` says so."""
    by_name = {each.name: each for each in drafts}
    for change in changes:
        if change.action in {"new", "changed"}:
            views.save(*by_name[change.name], actor)
    if remove:
        views.remove([change.name for change in changes if change.action == "gone"], actor)


def annotation(
    day: object, text: object, where: object, now: datetime, home: Zone
) -> tuple[date, str, tuple[str, str] | None]:
    """What an annotation is made of.

    Raises:
        FieldInvalid: naming every faulty field.
    """
    faults: dict[str, str] = {}
    found: date | None = None
    try:
        found = date.fromisoformat(str(day)) if isinstance(day, str) and len(day) == 10 else None
    except ValueError:
        found = None
    if found is None:
        faults["day"] = "must be a day such as 2026-11-27"
    if not isinstance(text, str) or not 0 < len(text.strip()) <= TEXT_CHARS_MAX or not text.strip().isprintable():
        faults["text"] = f"must be a text of 1 to {TEXT_CHARS_MAX} printable characters"
    scope = None
    if where is not None:
        try:
            query = question("spend", [("where", str(where))], now=now, home=home)
            name, values = query.where[0]
            scope = name, values[0]
        except QueryInvalid as error:
            faults["where"] = error.fields.get("where", error.message)
    if faults or found is None:
        raise FieldInvalid(faults)
    return found, str(text).strip(), scope
