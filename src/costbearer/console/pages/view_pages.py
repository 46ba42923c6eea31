"""Saved views and annotations: the questions of a team, with names, and what happened when."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from costbearer.console import saved
from costbearer.console.api_views import annotation, annotation_document, applied, view_document
from costbearer.console.pages import shell
from costbearer.console.pages.forms_of import Form, Posted, actor
from costbearer.console.pages.links import address
from costbearer.console.pages.parts import Parts
from costbearer.errors import Conflict, FieldInvalid
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.table import Column, csv_of

PATH = "/views"
COLUMNS = tuple(Column(name, name, "text") for name in ("name", "description", "address", "updated_by", "updated_at"))


def view_pages_router(parts: Parts) -> APIRouter:
    """The list, the forms, the file, and `/view/NAME`, which leads to a view."""
    router = APIRouter(include_in_schema=False)

    @router.get(PATH)
    def listed(request: Request) -> Response:
        return _list(request, parts, {})

    @router.get(f"{PATH}.toml")
    def exported() -> Response:
        headers = {"content-disposition": 'attachment; filename="views.toml"'}
        return Response(saved.dumps(parts.views.all()), media_type="application/toml", headers=headers)

    @router.get(f"{PATH}.json")
    def as_json() -> dict[str, Any]:
        notes = [annotation_document(each) for each in parts.views.annotations()]
        return {"views": [view_document(view) for view in parts.views.all()], "annotations": notes}

    @router.get(f"{PATH}.csv")
    def as_csv() -> Response:
        found = [view_document(view) for view in parts.views.all()]
        rows = [tuple(view[column.name] for column in COLUMNS) for view in found]
        return Response(csv_of(COLUMNS, rows), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}/new")
    def form(request: Request, page: str = "/", q: Annotated[list[str] | None, Query()] = None) -> Response:
        pairs = [(name, text) for name, _, text in (each.partition("=") for each in q or ())]
        given = {"page": page, "parameters": address("", pairs).removeprefix("?"), "version": "0"}
        return _form(request, given, {})

    @router.get("/view/{name}")
    def follow(name: str) -> Response:
        return RedirectResponse(saved.address_of(parts.views.get(name)), 303)

    @router.get(f"{PATH}/edit")
    def edit(request: Request, name: str) -> Response:
        view = parts.views.get(name)
        given = {"name": view.name, "page": view.page, "parameters": view.parameters}
        return _form(request, {**given, "description": view.description, "version": str(view.version)}, {})

    @router.post(PATH)
    async def save(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_save, request, parts, posted)

    @router.post(f"{PATH}/remove")
    async def remove(request: Request, posted: Form) -> Response:
        posted.only("name")
        await run_in_threadpool(parts.views.remove, [posted.texts.get("name", "")], actor(request))
        return RedirectResponse(PATH, 303)

    @router.post(f"{PATH}/apply")
    async def apply(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_apply, request, parts, posted)

    @router.post("/annotations")
    async def annotate(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_annotate, request, parts, posted)

    @router.post("/annotations/remove")
    async def remove_annotation(request: Request, posted: Form) -> Response:
        posted.only("number")
        number = posted.number("number")
        await run_in_threadpool(parts.views.remove_annotation, number, actor(request))
        return RedirectResponse(f"{PATH}#annotations", 303)

    return router


def _list(
    request: Request,
    parts: Parts,
    faults: dict[str, str],
    content: str = "",
    changes: list[saved.Difference] | None = None,
) -> Response:
    return shell.page(
        request,
        "views.html",
        422 if faults else 200,
        title="Views",
        views=[(view, saved.address_of(view)) for view in parts.views.all()],
        annotations=list(reversed(parts.views.annotations())),
        dimensions=list(DIMENSIONS),
        today=parts.home.wall(parts.now()).date().isoformat(),
        faults=faults,
        content=content,
        changes=changes,
    )


def _form(request: Request, given: dict[str, str], faults: dict[str, str], status: int = 200) -> Response:
    return shell.page(request, "view.html", status, title="Save a view", given=given, faults=faults)


def _save(request: Request, parts: Parts, posted: Posted) -> Response:
    fields = ("name", "page", "parameters", "description")
    posted.only(*fields, "version")
    given = {name: posted.text(name) for name in (*fields, "version")}
    try:
        name, page, parameters, description = (given[field] for field in fields)
        made = saved.draft(name, page, parameters, description, parts.now(), parts.home)
        parts.views.save(*made, actor(request), version=posted.number("version"))
    except FieldInvalid as error:
        return _form(request, given, error.fields, 422)
    except Conflict as error:
        held = next((view.version for view in parts.views.all() if view.name == given["name"]), 0)
        # What was written is not lost; the next attempt is about the view as it is now.
        return _form(request, {**given, "version": str(held)}, {"name": error.message}, 409)
    return RedirectResponse(PATH, 303)


def _apply(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only("content", "apply", "remove")
    content = posted.texts.get("content", "").replace("\r\n", "\n")
    try:
        drafts = saved.loads(content, parts.now(), parts.home)
    except FieldInvalid as error:
        return _list(request, parts, error.fields, content)
    changes = saved.difference(parts.views.all(), drafts)
    if posted.text("apply") != "yes":
        return _list(request, parts, {}, content, changes)
    applied(parts.views, drafts, changes, actor(request), remove=posted.text("remove") == "yes")
    return RedirectResponse(PATH, 303)


def _annotate(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only("day", "text", "dim", "value")
    where = f"{posted.text('dim')}={posted.text('value')}" if posted.text("dim") else None
    try:
        day, text, scope = annotation(posted.text("day"), posted.text("text"), where, parts.now(), parts.home)
    except FieldInvalid as error:
        return _list(request, parts, error.fields)
    parts.views.annotate(day, text, scope, actor(request))
    return RedirectResponse(f"{PATH}#annotations", 303)
