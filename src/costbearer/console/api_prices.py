"""`/api/v1/prices`: look prices up, compare archives, set contract terms, take an archive or a contract."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from costbearer.console.bodies import actor, json_object
from costbearer.errors import FieldInvalid
from costbearer.price_desk import Desk, moment, unpacked

Body = Annotated[dict[str, object], Depends(json_object)]
At = Annotated[str | None, Query(description="a day, or a time with its offset; now unless given")]
Archive = Annotated[str, Query(description="current, bundled, a day it held on, or 6 or more digits of its hash")]

_TEXT = {"type": "string"}
_DAY = {"type": "string", "format": "date"}
_PRICES = {"type": "object", "additionalProperties": _TEXT, "description": "meter and USD"}
_PACKED = {"type": "string", "description": "the file, gzip in base64"}


def prices_router(desk: Desk) -> APIRouter:
    """The routes over one desk. Money is decimal text in USD per unit of its meter."""
    routes = APIRouter(prefix="/api/v1/prices", tags=["prices"])

    @routes.get("", summary="The standard prices of every model, the contracted ones beside them")
    def listed(provider: str | None = None, model: str = "*", at: At = None) -> JSONResponse:
        return JSONResponse(desk.listed(provider=provider, model=model, at=moment(at) if at else None))

    @routes.get("/archives", summary="Which archives and contracts held when")
    def archives() -> JSONResponse:
        return JSONResponse(desk.archives())

    @routes.get("/archives/{reference}", summary="An archive as it was taken", response_class=Response)
    def archived(reference: str) -> Response:
        return Response(desk.find(reference), media_type="application/json")

    @routes.get("/diff", summary="What two archives say otherwise, the findings first")
    def diff(old: Archive, new: Archive = "current") -> JSONResponse:
        return JSONResponse(desk.difference(old, new))

    @routes.post(
        "/update",
        summary="Take an archive, the bundled one where none is given; `check` only shows what would change",
        openapi_extra=_body({"content": _PACKED, "check": {"type": "boolean"}}),
    )
    def update(request: Request, body: Body) -> JSONResponse:
        content, check = body.pop("content", None), body.pop("check", False)
        if body or not isinstance(content, str | None) or not isinstance(check, bool):
            raise FieldInvalid(dict.fromkeys(body, "unknown") or {"content": "text, and check true or false"})
        data = unpacked(content) if content is not None else None
        return JSONResponse(desk.update(data, by=actor(request), check=check))

    @routes.get("/contract", summary="The contract that holds")
    def contract() -> JSONResponse:
        return JSONResponse(desk.contract())

    @routes.put("/contract", summary="Let another contract hold", openapi_extra=_body({"content": _PACKED}))
    def take(request: Request, body: Body) -> JSONResponse:
        content = body.pop("content", None)
        if body or not isinstance(content, str):
            raise FieldInvalid(dict.fromkeys(body, "unknown") or {"content": "missing"})
        return JSONResponse(desk.take_contract(unpacked(content), by=actor(request)))

    @routes.post(
        "/contract/terms",
        status_code=201,
        summary="Add a discount or prices; what held before of the same ends with the day it begins",
        openapi_extra=_body(
            {
                **dict.fromkeys(("provider", "model", "tier", "geo", "discount"), _TEXT),
                **dict.fromkeys(("since", "until"), _DAY),
                **dict.fromkeys(("prices", "prices_per_million"), _PRICES),
            }
        ),
    )
    def set_term(request: Request, body: Body) -> JSONResponse:
        return JSONResponse(desk.set_term(body, by=actor(request)), status_code=201)

    @routes.get("/models/{model:path}", summary="Every price of one model, and every one it ever had")
    def shown(model: str, provider: str | None = None, at: At = None) -> JSONResponse:
        return JSONResponse(desk.shown(model, provider=provider, at=moment(at) if at else None))

    return routes


def _body(properties: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI part of a JSON object."""
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
