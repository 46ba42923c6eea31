"""What of a request is checked before anything else looks at it: its credential, and what its body is said to be.

How a request is framed is checked before that, by `http1`; whether its body is what it should be, by the dialect.
"""

from __future__ import annotations

from typing import Protocol

from costbearer.errors import BodyInvalid, HeaderInvalid, KeyMissing
from costbearer.gateway.http1 import CREDENTIAL_HEADERS, Head

KEY_BYTES_MAX = 200
"""No virtual key is longer; a longer credential is not worth hashing."""


class Leaver(Protocol):
    """Who wants to know that the caller has gone."""

    def leave(self) -> None: ...


class Wire(Protocol):
    """The caller's side of one request: its body, and the ways to answer it.

    `arrived` is the body if it came with the head and is small, else None; `read_body` waits for it and takes room for
    it, which is the key's.

    `caller` is told when the caller leaves; `gone` says that they have, and then nothing that is written goes anywhere.
    `paused`: they do not take what is written, and `drained` waits until they do or have gone. A reply is one
    `respond`, or `begin`, any number of `send` and one `end`; without the end it does not look whole.
    """

    gone: bool
    paused: bool
    caller: Leaver | None

    def arrived(self) -> bytes | None: ...

    async def read_body(self, key_id: str) -> bytes: ...

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None: ...

    def send(self, data: bytes) -> None: ...

    def end(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...

    def abort(self) -> None: ...


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


def check_body(head: Head, media: str) -> None:
    """Is the body said to be JSON or, with `media` "form", a form or JSON, and as it is?

    Raises:
        BodyInvalid: it is said to be something else, or compressed.
    """
    kind = head.headers.get("content-type", "application/json")
    if kind != "application/json":
        _check_media(kind, media)
    if head.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise BodyInvalid("compressed request bodies are not read; send the JSON as it is")


def _check_media(kind: str, media: str) -> None:
    kind = kind.partition(";")[0].strip().lower()
    if kind != "application/json" and not (media == "form" and kind == "multipart/form-data"):
        wanted = "application/json" if media == "json" else "multipart/form-data or application/json"
        raise BodyInvalid(f"the content type is {kind[:60]!r}; send {wanted}")
