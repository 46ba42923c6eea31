"""`/api/v1/hash-keys`: the keys that hash tenants and users: which there are, another one, the end of an old one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from costbearer import forms
from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid
from costbearer.keys import stamp
from costbearer.stores.hash_keys import HashKey, HashKeys

Body = Annotated[dict[str, object], Depends(json_object)]


def hash_keys_router(hash_keys: HashKeys) -> APIRouter:
    """The routes. Errors are raised for the application's own handler."""
    router = APIRouter(prefix="/api/v1/hash-keys", tags=["keys"])

    @router.get("", summary="The versions of the key that hashes tenants and users, and how many of them wait")
    def listed() -> JSONResponse:
        return JSONResponse({"hash_keys": [document(each) for each in hash_keys.all()]})

    @router.post("", status_code=201, summary="Make another version; calls state both hashes, so that groups stay one")
    def rotate(request: Request, body: Body) -> JSONResponse:
        forms.nothing(body)
        return JSONResponse(document(hash_keys.rotate(actor(request))), status_code=201)

    @router.post("/{version}/retire", summary="End a version; who was not seen since is never linked, so only anyway")
    def retire(request: Request, version: int, body: Body) -> JSONResponse:
        anyway = body.pop("anyway", False)
        if body or not isinstance(anyway, bool):
            raise FieldInvalid({"anyway": "must be true or false, and is all that is taken"})
        return JSONResponse(document(hash_keys.retire(version, actor(request), anyway=anyway)))

    return router


def document(each: HashKey) -> dict[str, Any]:
    """A version as JSON; no byte of the secret is in it."""
    return {
        "version": each.version,
        "active": each.active,
        "retired_at": stamp(each.retired_at),
        "waiting": {"tenants": each.waiting.tenants, "users": each.waiting.users},
    }
