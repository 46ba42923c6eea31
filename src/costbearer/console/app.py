"""The console's application: routes are handed in, errors have one shape, nothing is reachable that is not listed.

`create_app` only puts together. Reports, entries and metrics bring routers of their own. A query parameter that a route
does not declare is refused by name, because a filter that is ignored gives a wrong number. A route that describes its
parameters itself (``openapi_extra={"parameters": [...]}``) reads and checks them itself too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from costbearer import __version__
from costbearer.config import Config
from costbearer.console import api_keys
from costbearer.console.api_peppers import peppers_router
from costbearer.console.described import described
from costbearer.console.once import OnceOnly, taken_by
from costbearer.console.pages import shell
from costbearer.console.pages.entrance import entrance_router
from costbearer.console.security import ANSWER_HEADERS, Door, Guard, error_document, is_page
from costbearer.errors import (
    CostbearerError,
    FieldInvalid,
    NotFound,
    QueryInvalid,
    StoreFailed,
)
from costbearer.stores import secrets
from costbearer.stores.answers import Answers
from costbearer.stores.control import Control
from costbearer.stores.peppers import Peppers
from costbearer.stores.sessions import Sessions

PUBLIC_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""What answers without a token: none of it says anything about keys, labels or money."""

Ready = Callable[[], dict[str, bool]]

_log = logging.getLogger("costbearer.console")


def create_app(
    config: Config,
    control: Control,
    *,
    routers: Sequence[APIRouter] = (),
    pages: Sequence[APIRouter] = (),
    ready: Ready = dict,
    public: Iterable[str] = (),
    bodies: Mapping[str, int] = MappingProxyType({}),
    apart: Iterable[str] = (),
) -> FastAPI:
    """The application. `ready` names what must hold for calls to be served and recorded; `public` lists further paths
    that need no token, `bodies` those that take larger bodies than others, `apart` those that post entries.

    Makes the administrator's token on the first start (`stores.secrets.admin_token` reads it).

    Raises:
        StoreFailed: the token's file cannot be used.
    """
    app = FastAPI(
        title="Costbearer",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_refuse_unknown_query)],
    )
    app.include_router(_health(control, ready))
    documented = [Depends(HTTPBearer(auto_error=False, description="the administrator's token"))]
    own = (api_keys.router(config, control), peppers_router(Peppers(control.database)))
    for router in (*own, *routers):
        app.include_router(router, dependencies=documented)
    door, sessions = Door(secrets.admin_token(config.data)), Sessions(control.database)
    for router in (shell.static_router(), entrance_router(door, sessions), *pages):
        app.include_router(router)
    app.openapi = described(app, taken_by)  # type: ignore[method-assign]
    app.add_exception_handler(CostbearerError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(OnceOnly, answers=Answers(control.database), apart=apart, large=bodies)
    app.add_middleware(
        Guard,
        door=door,
        session_of=sessions.find,
        hosts=[config.text("console.host"), *config.names("console.hosts")],
        public=PUBLIC_PATHS | shell.public() | set(public),
        bodies=bodies,
        refused=shell.error_page,
    )
    return app


def _health(control: Control, ready: Ready) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Calls can be served and recorded", responses={503: {"description": "not now"}})
    def readyz() -> JSONResponse:
        checks = {"control": _readable(control), **ready()}
        good = all(checks.values())
        return JSONResponse({"ready": good, "checks": checks}, status_code=200 if good else 503)

    return router


def _readable(control: Control) -> bool:
    try:
        control.check()
    except StoreFailed:
        return False
    return True


async def _refuse_unknown_query(request: Request) -> None:
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or "parameters" in (route.openapi_extra or {}):
        return
    known = _query_names(route.dependant)
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        listed = f"known are {', '.join(sorted(known))}" if known else "this takes none"
        raise QueryInvalid({name[:60]: f"not a parameter here; {listed}" for name in unknown})


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(inner) for inner in dependant.dependencies))


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, CostbearerError)
    if error.http_status >= 500:
        _log.error("%s [%s]", error.message, error.code)
    if _by_a_reader(request):
        return shell.error_page(request, error)
    return JSONResponse(error_document(error), status_code=error.http_status)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = {".".join(str(part) for part in fault["loc"][1:]) or "body": str(fault["msg"]) for fault in error.errors()}
    query_only = all(fault["loc"][0] == "query" for fault in error.errors())
    return await _told(request, QueryInvalid(faults) if query_only else FieldInvalid(faults))


async def _http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await _told(request, NotFound("there is nothing at this path; /openapi.json describes what there is"))
    message = f"{request.method} is not for this path" if error.status_code == 405 else str(error.detail)
    code = "method_not_allowed" if error.status_code == 405 else "bad_request"
    body = {"error": {"code": code, "message": message}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _unexpected(request: Request, _: Exception) -> Response:
    """A defect of ours. The server's log has the trace; the caller gets only what finds it there."""
    request_id = request.scope["state"]["request_id"]
    _log.error("unexpected failure in request %s", request_id)
    error = CostbearerError(f"an unexpected failure; the log names it with request {request_id}")
    if _by_a_reader(request):
        answer: Response = shell.error_page(request, error)
    else:
        answer = JSONResponse(error_document(error), status_code=error.http_status)
    # The framework answers this one outside of every layer, the guard too.
    for name, value in ANSWER_HEADERS:
        answer.headers.setdefault(name.decode(), value.decode())
    return answer


def _by_a_reader(request: Request) -> bool:
    return is_page(request.url.path) and "text/html" in request.headers.get("accept", "")
