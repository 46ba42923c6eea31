"""`/api/v1/peppers`: the secrets that keys are kept under: which there are, another one, and the end of an old one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from costbearer import forms
from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid
from costbearer.keys import stamp
from costbearer.stores.peppers import Pepper, Peppers

Body = Annotated[dict[str, object], Depends(json_object)]


def peppers_router(peppers: Peppers) -> APIRouter:
    """The routes. Errors are raised for the application's own handler."""
    router = APIRouter(prefix="/api/v1/peppers", tags=["keys"])

    @router.get("", summary="The versions of the secret that keys are kept under, and the keys that wait to move")
    def listed() -> JSONResponse:
        return JSONResponse({"peppers": [document(each) for each in peppers.all()]})

    @router.post("", status_code=201, summary="Make another version; keys move to it as they are used")
    def rotate(request: Request, body: Body) -> JSONResponse:
        forms.nothing(body)
        return JSONResponse(document(peppers.rotate(actor(request))), status_code=201)

    @router.post("/{version}/retire", summary="End a version; keys that wait are named and end with it only anyway")
    def retire(request: Request, version: int, body: Body) -> JSONResponse:
        anyway = body.pop("anyway", False)
        if body or not isinstance(anyway, bool):
            raise FieldInvalid({"anyway": "must be true or false, and is all that is taken"})
        return JSONResponse(document(peppers.retire(version, actor(request), anyway=anyway)))

    return router


def document(each: Pepper) -> dict[str, Any]:
    """A version as JSON; no byte of the secret is in it."""
    return {
        "version": each.version,
        "active": each.active,
        "retired_at": stamp(each.retired_at),
        "waiting": list(each.waiting),
    }
