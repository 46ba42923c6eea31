"""What every request to the console passes before any route sees it: host, origin, administrator's token or session,
and the headers of every answer.

Deny by default: a path that is not listed as public needs the token. Pages also take the cookie of a session; the API
never does, so that no form of another site can reach it. The decision is made on ``scope["path"]``, the same string
that routes, never on an address put together from the Host header (the class of CVE-2026-48710).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from costbearer.errors import BodyTooLarge, CostbearerError, FieldInvalid, HeaderInvalid, RateLimited, Unauthorized
from costbearer.stores.sessions import Session

BODY_BYTES_MAX = 1024 * 1024
"""Administration is small; a larger body is refused by its stated length, or as it comes."""

DRAINED_BYTES_MAX = 1024 * 1024 * 1024
"""Of a body that is too large; it is thrown away as it comes."""

FAILURES_MAX = 20
FAILURES_WINDOW_S = 60.0
"""Wrong tokens from one address within the window, before that address is answered 429 until the window is over."""
ADDRESSES_MAX = 10_000
"""Addresses remembered for that; the oldest is forgotten first."""

COOKIE = "costbearer_session"
SIGN_IN = "/sign-in"
_API = ("/api/", "/metrics", "/healthz", "/readyz", "/openapi.json")
"""What begins like this is no page: it takes the token alone and answers in JSON."""
_SAFE = frozenset({"GET", "HEAD"})

_LOOPBACK_NAMES = frozenset({"localhost", "localhost."})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  compared with, not bound to

ANSWER_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""Set unless the route set its own."""


def error_document(error: CostbearerError) -> dict[str, object]:
    """The JSON body of every error: `{"error": {"code", "message", "fields"?}}`."""
    body: dict[str, object] = {"code": error.code, "message": error.message}
    if isinstance(error, FieldInvalid):
        body["fields"] = error.fields
    return {"error": body}


class FailureLimit:
    """Counts wrong tokens by address in windows of `FAILURES_WINDOW_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address is heard again; 0 where it is heard now."""
        began, count = self._counts.get(address, (0.0, 0))
        return max(0.0, began + FAILURES_WINDOW_S - self._clock()) if count >= FAILURES_MAX else 0.0

    def failed(self, address: str) -> None:
        now = self._clock()
        began, count = self._counts.pop(address, (now, 0))
        if now - began >= FAILURES_WINDOW_S:
            began, count = now, 0
        self._counts[address] = (began, count + 1)
        if len(self._counts) > ADDRESSES_MAX:
            self._counts.popitem(last=False)


class Door:
    """The administrator's token, and who has tried wrong ones too often."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = hashlib.sha256(token.encode()).digest()
        self._failures = FailureLimit(clock)

    def wait_s(self, address: str) -> float:
        """Seconds until wrong tokens from this address are answered again."""
        return self._failures.wait_s(address)

    def enter(self, given: str, address: str) -> None:
        """Let whoever has the token pass.

        Raises:
            Unauthorized: it is not the token.
            RateLimited: too many from this address were not.
        """
        stated = hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).digest()
        if hmac.compare_digest(stated, self._token):
            # The right token is always heard: somebody else on the same address must not be able to lock it out.
            return
        if self._failures.wait_s(address):
            raise RateLimited(f"too many wrong tokens from {address}; wrong ones are answered again within a minute")
        if given:
            self._failures.failed(address)
        raise Unauthorized(
            "this needs the administrator's token as Authorization: Bearer; "
            "it is in the file admin-token in the server's data directory"
        )


class Guard:
    """The outermost layer. `hosts` are names the console answers to beside loopback; `public` paths need no token;
    `session_of` finds the session of a cookie; `bodies` are paths that take more than `body_bytes_max`; `refused` makes
    the page that tells a reader why, who is told in JSON without."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Door,
        session_of: Callable[[str], Session | None] = lambda _: None,
        hosts: Iterable[str] = (),
        public: Iterable[str] = (),
        body_bytes_max: int = BODY_BYTES_MAX,
        bodies: Mapping[str, int] = MappingProxyType({}),
        refused: Callable[[Request, CostbearerError], ASGIApp] | None = None,
    ) -> None:
        self._app = app
        self._refused = refused
        self._door = door
        self._session_of = session_of
        self._hosts = frozenset(host.lower() for host in hosts)
        self._any_address = bool(self._hosts & _WILDCARDS)
        self._public = frozenset(public)
        self._body_bytes_max = body_bytes_max
        self._bodies = dict(bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = f"adm_{secrets.token_hex(8)}"
        scope.setdefault("state", {}).update(request_id=request_id, session=None)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [header for header in ANSWER_HEADERS if header[0] not in present]
                added.append((b"x-costbearer-request-id", request_id.encode()))
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._admit(scope)
        except CostbearerError as error:
            if isinstance(error, Unauthorized) and _by_browser(scope):
                await _to_sign_in(scope, answer)
            elif self._refused is not None and _by_browser(scope):
                if isinstance(error, BodyTooLarge):
                    await _drained(receive)
                await self._refused(Request(scope), error)(scope, receive, answer)
            else:
                await _refuse(error, self._door.wait_s(address_of(scope)), answer)
            return
        received, most = 0, self._most(scope)

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        await self._app(scope, counted, answer)

    def _most(self, scope: Scope) -> int:
        return self._bodies.get(scope["path"], self._body_bytes_max)

    def _admit(self, scope: Scope) -> None:
        host = _single(scope, b"host")
        if host is None or not self._known(host):
            raise HeaderInvalid(
                "the Host header must name this console once, as it was started (or localhost); "
                "further names go into console.hosts"
            )
        origin = _single(scope, b"origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise HeaderInvalid("the Origin header names another site; only this console's own pages may call it")
        length, most = _single(scope, b"content-length"), self._most(scope)
        if length is not None and not (length.isdecimal() and int(length) <= most):
            raise _too_large(most)
        path, safe = scope["path"], scope["method"] in _SAFE
        if path in self._public and (safe or path == SIGN_IN):
            return
        authorization = _single(scope, b"authorization")
        if authorization is None and is_page(path):
            session = self._session_of(_cookie(scope))
            if session is None:
                raise Unauthorized("sign in first")
            if not safe and origin is None:
                raise HeaderInvalid("a form must be sent by a page of this console, with its Origin header")
            scope["state"]["session"] = session
            return
        scheme, _, given = (authorization or "").partition(" ")
        self._door.enter(given if scheme.lower() == "bearer" else "", address_of(scope))

    def _known(self, host: str) -> bool:
        """Loopback, a configured name, or, where the console listens on every address, any literal address: a page of
        another site can make a browser send its own name here (DNS rebinding), but not a literal address of ours."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        if not name or parts.path or parts.query or parts.fragment or "@" in host or port == 0:
            return False
        if name in _LOOPBACK_NAMES or name in self._hosts - _WILDCARDS:
            return True
        try:
            literal = ipaddress.ip_address(name)
        except ValueError:
            return False
        return literal.is_loopback or self._any_address


def _netloc(origin: str) -> str | None:
    """Host and port of an Origin; None for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _single(scope: Scope, name: bytes) -> str | None:
    """The header's value; None where it is missing. Two are refused: which of them counts would be a guess."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise HeaderInvalid(f"the header {name.decode()} was sent {len(values)} times")
    return str(values[0].decode("latin-1")) if values else None


def is_page(path: str) -> bool:
    """Whether what stands at a path is for people, and answers them with a page."""
    return not path.startswith(_API)


def _by_browser(scope: Scope) -> bool:
    """Whether a person can be sent to sign in; a program that asks for a page without a token is told in JSON."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    return is_page(scope["path"]) and (b"text/html" in headers.get(b"accept", b"") or b"hx-request" in headers)


async def _drained(receive: Receive) -> None:
    """Let a body that is too large come, as far as that is bearable: a browser that is answered while it still sends
    shows its reader a broken connection and not the answer."""
    received = 0
    while received < DRAINED_BYTES_MAX:
        message = await receive()
        received += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _cookie(scope: Scope) -> str:
    """The session's cookie; "" where there is none. Other servers on this host set cookies of any shape, which must not
    hide ours: so not the standard library's parser, which stops at the first that is out of shape."""
    for name, value in scope["headers"]:
        if name.lower() == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, text = pair.partition("=")
                if key.strip() == COOKIE:
                    return str(text.strip())
    return ""


def _too_large(most: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {most} bytes")


def address_of(scope: Scope) -> str:
    """Where a request comes from, as far as the connection tells."""
    client = scope.get("client")
    return str(client[0]) if client else "an unknown address"


async def _to_sign_in(scope: Scope, send: Send) -> None:
    """A reader is sent to sign in and back; whatever was to change something is not done."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    asked = quote(scope["path"], safe="/") + (
        f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
    )
    back = f"?next={quote(asked, safe='/')}" if scope["method"] in _SAFE and asked != "/" else ""
    location = f"{SIGN_IN}{back}".encode("latin-1")
    if b"hx-request" in headers:
        answered = [(b"hx-redirect", location), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": answered})
    else:
        answered = [(b"location", location), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": answered})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(error: CostbearerError, wait_s: float, send: Send) -> None:
    body = json.dumps(error_document(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="costbearer"'))
    if isinstance(error, RateLimited):
        headers.append((b"retry-after", str(int(wait_s) + 1).encode()))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
