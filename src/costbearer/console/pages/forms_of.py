"""Forms that pages send: read, proved to come from a page of this session, and told who sent them."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from costbearer.console.bodies import ADMINISTRATOR
from costbearer.console.pages.shell import session_of
from costbearer.errors import BodyInvalid, Conflict, FieldInvalid
from costbearer.stores.control import Actor

FIELDS_MAX = 2000
FIELD_CHARS_MAX = 64 * 1024 * 1024
TOKEN = "form_token"  # noqa: S105  the name of a field


class Posted:
    """The fields of a form. `texts` are those that are no files, without the token."""

    def __init__(self, form: FormData) -> None:
        self._form = form
        self.texts = {name: value for name, value in form.items() if isinstance(value, str) and name != TOKEN}

    def text(self, name: str) -> str:
        """A field without blanks around it; "" where it was not sent."""
        return self.texts.get(name, "").strip()

    def all(self, name: str) -> list[str]:
        """Every value of a field that may be sent several times."""
        return [value for value in self._form.getlist(name) if isinstance(value, str) and value.strip()]

    def number(self, name: str) -> int:
        """A whole number, such as a version.

        Raises:
            FieldInvalid: it is none.
        """
        text = self.text(name)
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise FieldInvalid({name: "must be a whole number"})
        return int(text)

    def file(self, name: str) -> UploadFile | None:
        """A file that was chosen; None where none was."""
        value = self._form.get(name)
        return value if isinstance(value, UploadFile) and value.filename else None

    def only(self, *names: str) -> None:
        """Refuse what the form does not have: a field that is ignored would be believed to have done something.

        Raises:
            FieldInvalid: naming each.
        """
        unknown = {name for name, _ in self._form.multi_items()} - {*names, TOKEN}
        if unknown:
            raise FieldInvalid({name[:60]: "not a field of this form" for name in sorted(unknown)})


async def posted(request: Request) -> Posted:
    """The form of a request.

    Raises:
        BodyInvalid: it is no form.
        Conflict: it was not made by a page of this session, or by one from before the last sign-in.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        raise BodyInvalid("a page takes forms alone; programs use the API under /api/v1")
    try:
        form = await request.form(max_files=4, max_fields=FIELDS_MAX, max_part_size=FIELD_CHARS_MAX)
    except MultiPartException as error:
        raise BodyInvalid(f"the form cannot be read: {error.message}") from None
    session = session_of(request)
    given = form.get(TOKEN)
    if session is not None and not (isinstance(given, str) and _same(given, session.form_token)):
        raise Conflict(
            "this form is from before you signed in, or from elsewhere; load the page again and send it anew"
        )
    return Posted(form)


def _same(given: str, own: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), own.encode())


Form = Annotated[Posted, Depends(posted)]


def actor(request: Request) -> Actor:
    """Who is written down for what a page does: the name of the session, which nobody has checked."""
    session = session_of(request)
    source = request.client.host if request.client else "unknown"
    who = session.who if session is not None and session.who else ADMINISTRATOR
    return Actor(who, source, request.scope["state"]["request_id"])


def filled(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The fields that say something."""
    return {name: text for name, text in texts if text}
