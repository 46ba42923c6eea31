"""`/api/v1/audits` and `/api/v1/findings`: audits of logs that are sent, and findings that a team works through."""

from __future__ import annotations

import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from costbearer.console.audits import RUN_S_MAX, Audits
from costbearer.console.bodies import actor, json_object
from costbearer.console.pages.finding_pages import document
from costbearer.errors import FieldInvalid, InputInvalid
from costbearer.logformats.registry import NAMES
from costbearer.stores.findings import LOG_CHARS_MAX, Findings

PATH = "/api/v1/audits"
Body = Annotated[dict[str, object], Depends(json_object)]
_CHANGES = ("version", "status", "owner", "comment")


def audits_router(audits: Audits, findings: Findings) -> APIRouter:
    """The routes. Errors are raised for the application's own handler."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/audits", summary="Audit a usage log; the body is the log, as a file has it", tags=["audits"])
    async def audit(
        request: Request,
        format: Annotated[str, Query(description=f"auto, {', '.join(NAMES)}")] = "auto",  # noqa: A002
        name: Annotated[str, Query(description="the log's name, with its ending", max_length=200)] = "log",
        keep: Annotated[bool, Query(description="keep its findings under that name")] = False,
    ) -> JSONResponse:
        if format != "auto" and format not in NAMES:
            raise FieldInvalid({"format": f"is one of auto, {', '.join(NAMES)}"})
        body = await request.body()
        return JSONResponse(await run_in_threadpool(_audited, request, name, body, format, keep))

    def _audited(request: Request, name: str, body: bytes, wanted: str, keep: bool) -> dict[str, Any]:
        started = audits.start(name, io.BytesIO(body), {} if wanted == "auto" else {"format": wanted})
        started.over.wait(RUN_S_MAX)
        if started.state != "done":
            raise InputInvalid(started.said)
        if keep:
            findings.keep(name[:LOG_CHARS_MAX], started.document["findings"], actor(request))
        return started.document

    @router.get("/findings", summary="The findings that were kept, what is open first", tags=["audits"])
    def listed() -> JSONResponse:
        return JSONResponse({"findings": [document(each) for each in findings.all()]})

    @router.get("/findings/{finding_id}", summary="One finding with its history", tags=["audits"])
    def one(finding_id: str) -> JSONResponse:
        return JSONResponse(document(*findings.get(finding_id)))

    @router.post("/findings/{finding_id}", summary="Say who works on it, how far it is, or a comment", tags=["audits"])
    def change(request: Request, finding_id: str, body: Body) -> JSONResponse:
        faults = {name[:60]: f"unknown; known are {', '.join(_CHANGES)}" for name in body if name not in _CHANGES}
        faults |= {
            name: "must be a text"
            for name in _CHANGES[1:]
            if not isinstance(body.get(name, ""), str) and name not in faults
        }
        version = body.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            faults["version"] = "must be the version that was read, a whole number"
        if faults or not isinstance(version, int):
            raise FieldInvalid(faults)
        texts = {name: str(body[name]) for name in _CHANGES[1:] if name in body}
        findings.change(finding_id, actor(request), version=version, **texts)
        return JSONResponse(document(*findings.get(finding_id)))

    return router
