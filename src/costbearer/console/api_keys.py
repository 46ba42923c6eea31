"""`/api/v1/keys`: issue, list, show, rotate, revoke and relabel virtual keys.

Bodies are not declared as models on purpose: `forms` names every faulty field of a key at once, those of the wrong type
and those of the wrong name together with the blank and the missing ones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse

from costbearer import forms
from costbearer.config import Config
from costbearer.console.bodies import actor, json_object
from costbearer.keys import view
from costbearer.labels import LABEL_CHARS_MAX, OPTIONS
from costbearer.ledger import LABELS
from costbearer.stores.control import PAGE_MAX, Control

_TEXT = {"type": "string", "maxLength": LABEL_CHARS_MAX}
_MAYBE_TEXT = {"type": ["string", "null"], "maxLength": LABEL_CHARS_MAX}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_OPTIONAL = dict.fromkeys(OPTIONS, _MAYBE_TEXT)
_EXPIRES = {"type": "string", "description": "90d, 12w, 2026-12-31, a time with offset, or never", "examples": ["90d"]}

_ISSUE = {
    "type": "object",
    "additionalProperties": False,
    "required": list(LABELS),
    "properties": {
        **dict.fromkeys(LABELS, _TEXT),
        **_OPTIONAL,
        "require": {"type": "array", "items": {"enum": list(forms.REQUIRABLE)}},
        "expires": _EXPIRES,
    },
}
_ROTATE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"overlap": {"type": "string", "examples": ["24h", "0"]}, "expires": _EXPIRES},
}
_RELABEL = {
    "type": "object",
    "additionalProperties": False,
    "properties": {**dict.fromkeys(LABELS, _TEXT), "from": {"type": "string", "examples": ["2026-12-01"]}},
}
_SHOWN: dict[str, Any] = {
    "key_id": {"type": "string"},
    **dict.fromkeys(LABELS, _TEXT),
    **_OPTIONAL,
    "require": {"type": "array", "items": {"type": "string"}},
    "status": {"enum": ["active", "expired", "revoked"]},
    "created_at": _TIME,
    "expires_at": _TIME,
    "revoked_at": _TIME,
    "labels": {"type": "array", "items": {"type": "object"}},
    "secrets": {"type": "array", "items": {"type": "object"}},
}
_KEY = {"type": "object", "properties": _SHOWN}
_SHOWN_ONCE = {
    "type": "object",
    "properties": {
        **_SHOWN,
        "key": {"type": "string"},
        "previous_until": _TIME,
        "gateway_url": {"type": "string"},
    },
}

Body = Annotated[dict[str, object], Depends(json_object)]
KeyId = Annotated[
    str, Path(description="the key's id, or what one of its secrets begins with (cbk_ and 12 characters)")
]
Once = Annotated[str | None, Header(alias="Idempotency-Key")]
Filter = Annotated[str | None, Query()]


def router(config: Config, control: Control) -> APIRouter:
    """The routes over one control store."""
    routes = APIRouter(prefix="/api/v1/keys", tags=["keys"])

    @routes.post(
        "",
        status_code=201,
        summary="Issue a key; the answer is the only time it is shown",
        **_docs(201, _SHOWN_ONCE, _ISSUE),
    )
    def issue(request: Request, body: Body, idempotency_key: Once = None) -> JSONResponse:
        now = datetime.now(UTC)
        draft = forms.draft(body, now, config.integer("keys.expire_days"))
        issued = control.issue(draft, actor(request), idempotency_key=idempotency_key)
        return JSONResponse(issued.document(now, config.gateway_url), status_code=201)

    @routes.get("", summary="List keys, the oldest first")
    def page(
        owner: Filter = None,
        team: Filter = None,
        agent: Filter = None,
        workload: Filter = None,
        name: Filter = None,
        env: Filter = None,
        project: Filter = None,
        cost_center: Filter = None,
        status: Literal["active", "expired", "revoked"] | None = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_MAX,
        cursor: str | None = None,
    ) -> JSONResponse:
        given = {
            "owner": owner,
            "team": team,
            "agent": agent,
            "workload": workload,
            "name": name,
            "env": env,
            "project": project,
            "cost_center": cost_center,
            "status": status,
        }
        where = {field: value for field, value in given.items() if value is not None}
        records, following = control.page(where=where, after=cursor, limit=limit)
        now = datetime.now(UTC)
        return JSONResponse({"keys": [view(record, now) for record in records], "next_cursor": following})

    @routes.get("/{key_id}", summary="Show one key, without its secret", **_docs(200, _KEY))
    def show(key_id: KeyId) -> JSONResponse:
        return JSONResponse(view(control.get(key_id), datetime.now(UTC)))

    @routes.post(
        "/{key_id}/rotate",
        summary="Give a key a new secret; the old one lives on for the overlap",
        **_docs(200, _SHOWN_ONCE, _ROTATE),
    )
    def rotate(request: Request, key_id: KeyId, body: Body, idempotency_key: Once = None) -> JSONResponse:
        now = datetime.now(UTC)
        rotation = forms.rotation(body, now)
        issued = control.rotate(key_id, rotation, actor(request), idempotency_key=idempotency_key)
        return JSONResponse(issued.document(now, config.gateway_url))

    @routes.post("/{key_id}/revoke", summary="End a key for good, within a second on every worker", **_docs(200, _KEY))
    def revoke(request: Request, key_id: KeyId, body: Body) -> JSONResponse:
        forms.nothing(body)
        return JSONResponse(view(control.revoke(key_id, actor(request)), datetime.now(UTC)))

    @routes.post("/{key_id}/relabel", summary="Change labels from now or a later time on", **_docs(200, _KEY, _RELABEL))
    def relabel(request: Request, key_id: KeyId, body: Body) -> JSONResponse:
        change = forms.relabelling(body, datetime.now(UTC))
        return JSONResponse(view(control.relabel(key_id, change, actor(request)), datetime.now(UTC)))

    return routes


def _docs(status: int, answer: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The OpenAPI parts of a route whose body and answer are plain JSON."""
    described: dict[str, Any] = {
        "responses": {
            status: {"description": "done", "content": {"application/json": {"schema": answer}}},
            422: {"description": "every faulty field, named in error.fields"},
        }
    }
    if body is not None:
        content = {"application/json": {"schema": body}}
        described["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return described
