"""A request with an `Idempotency-Key` is done once: the same one again gets the first answer, and does nothing.

Status and body of the first answer are kept, refusals too, unless they are the server's own failure (5xx): the same
request may then be sent again. What changes the control store is one transaction with the answer
that is kept of it, and a second request waits for it. What posts entries takes long and is done elsewhere, so it is
written down as begun before; a second request is refused meanwhile. Where it failed, a part may be posted: whoever
posts looks first at what is there, so that sending it again posts the rest.

A virtual key is shown once: the answer that is kept has no `key`, and neither has its repetition.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from costbearer.console.security import error_document
from costbearer.errors import BodyInvalid, CostbearerError, FieldInvalid
from costbearer.keys import SCANNER_PATTERN
from costbearer.stores.answers import Answer, Answers, Doing
from costbearer.stores.control import IDEMPOTENCY_KEY_CHARS_MAX

HEADER = "Idempotency-Key"
REPLAYED = b"idempotency-replayed"
"""The header of an answer that was given before."""
METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_KEY = re.compile(SCANNER_PATTERN)


class OnceOnly:
    """The layer behind the guard. `apart` are paths that post entries; `large` are those whose bodies are too large to
    be held, and which therefore take no such header."""

    def __init__(self, app: ASGIApp, *, answers: Answers, apart: Iterable[str] = (), large: Iterable[str] = ()) -> None:
        self._app, self._answers = app, answers
        self._apart, self._large = frozenset(apart), frozenset(large)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = _given(scope)
        if not given:
            await self._app(scope, receive, send)
            return
        try:
            key = _checked(given)
            if scope["path"] in self._large:
                raise BodyInvalid(f"{HEADER} is not taken here; what is sent twice is kept once")
            body = await _whole(receive)
            held = _Held(self._app, scope, body)
            done = self._apart_done if scope["path"] in self._apart else self._joined_done
            before = await done(key, held)
        except CostbearerError as error:
            await _send(send, error.http_status, json.dumps(error_document(error)))
            return
        if before is not None:
            await _send(send, before.status, before.body, (REPLAYED, b"true"))
            return
        for message in held.sent:
            await send(message)

    async def _joined_done(self, key: str, held: _Held) -> Answer | None:
        """Do it in the transaction that keeps its answer."""
        doing, kept = Doing(self._answers, key, held.request), None
        try:
            before = await run_in_threadpool(doing.begin)
            if before is not None:
                return before
            with doing.joined():
                await held.run()
            kept = held.answer()
        finally:
            await run_in_threadpool(doing.end, kept)
        return None

    async def _apart_done(self, key: str, held: _Held) -> Answer | None:
        """Say that it is begun, do it, say what was answered."""
        before = await run_in_threadpool(self._answers.begin, key, held.request)
        if before is not None:
            return before
        kept = None
        try:
            await held.run()
            kept = held.answer()
        finally:
            await run_in_threadpool(self._answers.end, key, kept)
        return None


class _Held:
    """A request whose body is here, and the messages of its answer, which wait until they are kept."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._app, self._scope, self._body = app, scope, body
        self.sent: list[Message] = []
        parts = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
        self.request = hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()

    async def run(self) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": self._body, "more_body": False}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await self._app(self._scope, receive, send)

    def answer(self) -> Answer | None:
        """What is to be kept of the answer; None for a failure of ours."""
        status: int = self.sent[0]["status"]
        if status >= 500:
            return None
        text = b"".join(message.get("body", b"") for message in self.sent[1:]).decode()
        return Answer(status, json.dumps(_without_keys(json.loads(text)), ensure_ascii=False))


def _without_keys(value: Any) -> Any:
    """The same JSON without any member that holds a virtual key."""
    if isinstance(value, dict):
        return {name: _without_keys(each) for name, each in value.items() if not _is_key(each)}
    if isinstance(value, list):
        return [_without_keys(each) for each in value if not _is_key(each)]
    return value


def _is_key(value: object) -> bool:
    return isinstance(value, str) and _KEY.search(value) is not None


def _given(scope: Scope) -> list[str]:
    if scope["type"] != "http" or scope["method"] not in METHODS or not scope["path"].startswith("/api/"):
        return []
    wanted = HEADER.lower().encode()
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted]


def _checked(given: list[str]) -> str:
    key = given[0]
    if len(given) > 1 or not (0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        raise FieldInvalid({HEADER: f"must be there once, as 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters"})
    return key


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


async def _send(send: Send, status: int, body: str, *more: tuple[bytes, bytes]) -> None:
    data = body.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def taken_by(document: Mapping[str, Any]) -> None:
    """Add the header, and what it can be refused with, to every operation of an OpenAPI document that takes it."""
    header = {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": "done once: the same request with the same key gets the first answer for 24 hours at least",
        "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method.upper() in METHODS and path.startswith("/api/"):
                others = [each for each in operation.get("parameters", []) if each["name"] != HEADER]
                operation["parameters"] = [*others, header]
                words = "a conflict; idempotency_key_reused or idempotency_in_progress where the header is the reason"
                operation.setdefault("responses", {}).setdefault("409", {"description": words})
