"""Signing in with the administrator's token, and out again, here or everywhere."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from costbearer.console.bodies import ADMINISTRATOR
from costbearer.console.pages import shell
from costbearer.console.pages.forms_of import Form, actor
from costbearer.console.security import COOKIE, SIGN_IN, Door, address_of
from costbearer.errors import RateLimited, Unauthorized
from costbearer.stores.sessions import LIFE, WHO_CHARS_MAX, Sessions


def entrance_router(door: Door, sessions: Sessions) -> APIRouter:
    """The form, what it does, and the way out."""
    router = APIRouter(include_in_schema=False)

    @router.get(SIGN_IN)
    def form(request: Request, next: str = "/") -> Response:  # noqa: A002  the parameter's name in the address
        return _form(request, local(next), "", {})

    @router.post(SIGN_IN)
    async def enter(request: Request, posted: Form) -> Response:
        posted.only("token", "who", "next")
        back, who = local(posted.text("next")), posted.text("who")[:WHO_CHARS_MAX]
        address = address_of(request.scope)
        try:
            door.enter(posted.text("token"), address)
        except (Unauthorized, RateLimited) as error:
            wrong = "that is not the token" if isinstance(error, Unauthorized) else error.message
            return _form(request, back, who, {"token": wrong}, error.http_status)
        request_id = request.scope["state"]["request_id"]
        cookie = await run_in_threadpool(sessions.begin, who or ADMINISTRATOR, address, request_id)
        answer = RedirectResponse(back, 303)
        # The page that sent this says itself whether it came over TLS; behind a proxy the connection does not.
        secure = request.headers.get("origin", "").startswith("https:") or request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, cookie, max_age=int(LIFE.total_seconds()), httponly=True, samesite="lax", secure=secure, path="/"
        )
        return answer

    @router.post("/sign-out")
    async def leave(request: Request, posted: Form) -> Response:
        posted.only()
        session = shell.session_of(request)
        if session is not None:
            await run_in_threadpool(sessions.end, session, actor(request))
        return _out()

    @router.post("/sign-out-everywhere")
    async def leave_everywhere(request: Request, posted: Form) -> Response:
        posted.only()
        await run_in_threadpool(sessions.end_all, actor(request))
        return _out()

    @router.get("/sessions")
    def living(request: Request) -> Response:
        return shell.page(request, "sessions.html", title="Signed in", living=sessions.living())

    return router


def local(address: str) -> str:
    """An address on this console, wherever somebody would have it lead."""
    safe = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if safe else "/"


def _form(request: Request, back: str, who: str, faults: dict[str, str], status: int = 200) -> Response:
    return shell.page(request, "sign_in.html", status, title="Sign in", next=back, who=who, faults=faults)


def _out() -> Response:
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(COOKIE, path="/")
    return answer
