"""The untrusted side: headers and bodies as callers send them, checked before anything else looks at them.

Granian parses HTTP and passes some hostile framing on (several Hosts, several credentials, encodings nobody asked for);
what it lets through ends here. Routing and authorization use the same path string.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

from costbearer.errors import BodyInvalid, BodyTooLarge, HeaderInvalid, KeyMissing

CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
SINGLE_HEADERS = frozenset(
    {
        *CREDENTIAL_HEADERS,
        "host",
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "x-costbearer-tags",
        "traceparent",
    }
)
"""Headers of which a second one makes the request ambiguous."""
HEADERS_MAX = 100
HEADER_BYTES_MAX = 32 * 1024
KEY_BYTES_MAX = 200
"""No virtual key is longer; a longer credential is not worth hashing."""


class Scope(Protocol):
    """What Granian's RSGI scope gives."""

    method: str
    path: str
    query_string: str
    client: str
    http_version: str

    @property
    def headers(self) -> Any: ...


class Wire(Protocol):
    """What Granian's RSGI protocol gives."""

    async def __call__(self) -> bytes: ...

    def __aiter__(self) -> Any: ...

    async def client_disconnect(self) -> None: ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Any: ...


def read_headers(scope: Scope) -> dict[str, str]:
    """The headers as a map; several `baggage` or other list headers are joined by a comma, as HTTP allows.

    Raises:
        HeaderInvalid: too many or too large, a repeated header that must be single, no Host.
    """
    items: list[tuple[str, str]] = scope.headers.items()
    headers = dict(items)
    if len(headers) != len(items):
        headers = _joined(items)
    if len(items) > HEADERS_MAX:
        raise HeaderInvalid(f"{len(items)} headers; at most {HEADERS_MAX} are read")
    if len("".join(headers.values())) > HEADER_BYTES_MAX:
        raise HeaderInvalid(f"the headers are larger than {HEADER_BYTES_MAX} bytes")
    if scope.http_version.startswith("1") and not headers.get("host"):
        raise HeaderInvalid("the Host header is missing")
    return headers


def _joined(items: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in items:
        if name not in headers:
            headers[name] = value
        elif name in SINGLE_HEADERS:
            raise HeaderInvalid(f"the header {name} is there more than once")
        else:
            headers[name] = f"{headers[name]},{value}"
    return headers


def credential(headers: dict[str, str]) -> str:
    """The virtual key, from whichever header the caller's SDK uses for its provider.

    Raises:
        KeyMissing: none of them is there, or Authorization is not `Bearer <key>`.
        HeaderInvalid: more than one is there: which of them pays would be a guess.
    """
    found = headers.keys() & CREDENTIAL_HEADERS
    if not found:
        raise KeyMissing("no key: send a Costbearer virtual key (cbk_...) as the SDK's API key")
    if len(found) > 1:
        both = " and ".join(sorted(found, key=CREDENTIAL_HEADERS.index))
        raise HeaderInvalid(f"two credentials in one request ({both}); send exactly one")
    name = found.pop()
    value = headers[name].strip()
    if name == "authorization":
        scheme, _, value = value.partition(" ")
        if scheme.lower() != "bearer":
            raise KeyMissing("the Authorization header must be: Bearer cbk_...")
        value = value.strip()
    if not value or len(value) > KEY_BYTES_MAX:
        raise KeyMissing(f"{name} holds no key; send a Costbearer virtual key (cbk_...)")
    return value


class Deadlines:
    """One time limit for many waits: a look over all of them now and then instead of a timer for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self.limit_s = limit_s
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._expired: set[asyncio.Task[Any]] = set()

    async def wait(self, waiting: Awaitable[bytes]) -> bytes:
        """Await something; `TimeoutError` once it has taken `limit_s` and somebody called `expire`."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting[task] = self._loop.time() + self.limit_s
        try:
            return await waiting
        except asyncio.CancelledError:
            if task not in self._expired:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._waiting[task]
            if self._expired:
                self._expired.discard(task)

    def expire(self) -> None:
        """End the waits whose time is over."""
        now = self._loop.time()
        for task, end in self._waiting.items():
            if now > end and task not in self._expired:
                self._expired.add(task)
                task.cancel()


async def read_body(headers: dict[str, str], wire: Wire, *, media: str, bytes_max: int, deadlines: Deadlines) -> bytes:
    """The caller's whole body, JSON or, with `media` "form", a form or JSON.

    A body in chunks that was cut off looks whole here; it then fails as JSON, before any call is opened.

    Raises:
        BodyInvalid: not JSON (or no form) by its type, compressed, cut off, or too slow.
        BodyTooLarge: larger than `gateway.body_bytes_max`.
    """
    kind = headers.get("content-type", "application/json")
    if kind != "application/json":
        _check_media(kind, media)
    if "content-encoding" in headers or "transfer-encoding" in headers:
        _check_encoding(headers)
    length = headers.get("content-length")
    if length is not None and (not length.isdigit() or int(length) > bytes_max):
        raise BodyTooLarge(f"the body is {length[:20]} bytes; gateway.body_bytes_max is {bytes_max}")
    try:
        return await deadlines.wait(wire() if length is not None else _chunked(wire, bytes_max))
    except TimeoutError:
        raise BodyInvalid(f"the body did not arrive within {deadlines.limit_s:g} s") from None
    except RuntimeError:
        # Granian's RSGIProtocolClosed: the connection ended inside the body.
        raise BodyInvalid("the body was cut off: the connection ended before it was whole") from None


def _check_media(kind: str, media: str) -> None:
    kind = kind.partition(";")[0].strip().lower()
    if kind != "application/json" and not (media == "form" and kind == "multipart/form-data"):
        wanted = "application/json" if media == "json" else "multipart/form-data or application/json"
        raise BodyInvalid(f"the content type is {kind[:60]!r}; send {wanted}")


def _check_encoding(headers: dict[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    transfer = headers.get("transfer-encoding", "chunked").strip().lower()
    if encoding not in {"", "identity"} or transfer != "chunked":
        raise BodyInvalid("compressed request bodies are not read; send the JSON as it is")


async def _chunked(wire: Wire, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in wire:
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise BodyTooLarge(f"the body is larger than gateway.body_bytes_max, {bytes_max} bytes")
    return b"".join(parts)
