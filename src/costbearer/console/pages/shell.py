"""The frame of every page: templates, what they all show, static files, and the headers that keep scripts out."""

from __future__ import annotations

import functools
import gzip
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from costbearer import __version__, money
from costbearer.console.pages.links import address
from costbearer.console.pages.screens import CARRIED, NAVIGATION, SCREENS
from costbearer.console.security import SIGN_IN
from costbearer.errors import CostbearerError, FieldInvalid
from costbearer.reports.periods import instant
from costbearer.stores.sessions import Session

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Content-Security-Policy of every page: nothing inline, nothing from elsewhere."""
# Not no-referrer: with that, browsers send their own forms with the origin "null".
_HEADERS = {"content-security-policy": POLICY, "referrer-policy": "same-origin"}
_FLUSH = Markup("<!-- -->")
STATIC = "/static"
THEME_COOKIE = "costbearer_theme"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_log = logging.getLogger("costbearer.console")
_FOREVER = "public, max-age=31536000, immutable"


class File(NamedTuple):
    """A static file as it is sent: its address changes with its content."""

    path: str
    body: bytes
    zipped: bytes
    media: str


@functools.cache
def files() -> Mapping[str, File]:
    """Every static file by its name."""
    found = {}
    root = resources.files("costbearer.console").joinpath("static")
    for folder in ("", "vendor"):
        place = root.joinpath(folder) if folder else root
        for each in place.iterdir():
            stem, _, ending = each.name.rpartition(".")
            if each.is_file() and ending in _TYPES:
                body = each.read_bytes()
                # A vendored file has its version in its name; ours change and are told apart by their content.
                version = "" if folder else f".{hashlib.sha256(body).hexdigest()[:10]}"
                path = f"{STATIC}/{folder + '/' if folder else ''}{stem}{version}.{ending}"
                found[each.name] = File(path, body, gzip.compress(body, 9, mtime=0), _TYPES[ending])
    return found


def public() -> frozenset[str]:
    """What needs no session: the form to sign in, and files that say nothing about anybody."""
    return frozenset({SIGN_IN, *(file.path for file in files().values())})


def static_router() -> APIRouter:
    """The static files, for ever under their addresses."""
    router = APIRouter(include_in_schema=False)
    by_path = {file.path: file for file in files().values()}

    @router.get(STATIC + "/{name:path}")
    def static(name: str, request: Request) -> Response:
        file = by_path.get(f"{STATIC}/{name}")
        if file is None:
            return Response(status_code=404)
        headers = {"cache-control": _FOREVER, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.zipped, media_type=file.media, headers=headers | {"content-encoding": "gzip"})
        return Response(file.body, media_type=file.media, headers=headers)

    return router


@functools.cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("costbearer.console", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"usd": money.display, "instant": instant, "exact": money.text}
    made.globals |= {
        "file": lambda name: files()[name].path,
        "address": address,
        "version": __version__,
        "navigation": NAVIGATION,
    }
    return made


def page(request: Request, template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """One page. What every page has (navigation, session, theme) is added here."""
    text = _templates().get_template(template).render(_everywhere(request) | shown)
    return HTMLResponse(text, status_code=status, headers=_HEADERS)


def streamed(
    request: Request, template: str, load: Callable[[], Mapping[str, Any]], part: str, **shown: Any
) -> Response:
    """A page whose frame is sent at once, and `part` of it when `load` has found what it shows.

    The template puts `{{ flush }}` where the frame can be sent, and `{{ late() }}` where the part stands.
    """
    context = _everywhere(request) | shown

    def late() -> Markup:
        try:
            return Markup(_templates().get_template(part).render(context | dict(load())))  # noqa: S704  from a template
        except CostbearerError as error:
            # The frame is sent, and its status with it.
            _log.error("%s [%s]", error.message, error.code)
            return Markup('<div class="alert" role="alert"><p>{}</p><p>code <code>{}</code></p></div>').format(
                error.message, error.code
            )

    def pieces() -> Iterator[str]:
        held: list[str] = []
        for piece in _templates().get_template(template).generate(context, flush=_FLUSH, late=late):
            held.append(piece)
            if piece == _FLUSH:
                yield "".join(held)
                held.clear()
        yield "".join(held)

    return StreamingResponse(pieces(), media_type="text/html", headers=_HEADERS)


def _everywhere(request: Request) -> dict[str, Any]:
    session = session_of(request)
    theme = request.cookies.get(THEME_COOKIE, "")
    carried = [(name, value) for name, value in request.query_params.multi_items() if name in CARRIED]
    return {
        "path": request.url.path,
        "session": session,
        "form_token": session.form_token if session is not None else "",
        "theme": theme if theme in {"light", "dark"} else "",
        "carried": carried if request.url.path in SCREENS or request.url.path == "/" else [],
    }


def session_of(request: Request) -> Session | None:
    """The session that the guard found; None for whoever sent the token itself."""
    found: Session | None = request.scope["state"].get("session")
    return found


def error_page(request: Request, error: CostbearerError) -> HTMLResponse:
    """What is wrong, where, and how to mend it; every faulty parameter at once."""
    fields = error.fields if isinstance(error, FieldInvalid) else {}
    return page(
        request,
        "error.html",
        error.http_status,
        title=HTTPStatus(error.http_status).phrase,
        code=error.code,
        message=error.message,
        fields=fields,
    )
