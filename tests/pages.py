"""The console without a browser: everything behind it in this process, for tests of what pages do and refuse."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from httpx2 import Response

from costbearer.config import Config, load
from costbearer.console_process import console_parts
from costbearer.ledger import Entry
from costbearer.stores import secrets

HOME = "http://127.0.0.1:4001"
HTML = {"accept": "text/html"}


class Reader(TestClient):
    """Somebody in front of a browser: with cookies, and with the origin that browsers send with forms."""

    def page(self, path: str, **options: Any) -> Response:
        return self.get(path, headers=HTML, **options)

    def submit(self, path: str, fields: Mapping[str, Any], *, token: str | None = None, **options: Any) -> Response:
        """A form of this session."""
        given = form_token(self.page("/help").text) if token is None else token
        return self.post(
            path,
            data={"form_token": given, **fields},
            headers={**HTML, "origin": HOME},
            follow_redirects=False,
            **options,
        )

    def sign_in(self, token: str, who: str = "Ada Byron", **options: Any) -> Response:
        fields = {"token": token, "who": who, "next": options.pop("next", "/")}
        return self.post("/sign-in", data=fields, headers={**HTML, "origin": HOME}, follow_redirects=False, **options)


def form_token(html: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', html)
    assert found is not None, html[:500]
    return found[1]


def settings(directory: Path, **overrides: str | int) -> Config:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(overrides={"data": str(directory / "data"), **named}, environ={})


@contextlib.contextmanager
def console(config: Config, entries: Sequence[Entry] = ()) -> Iterator[Reader]:
    """A console with these entries in its ledger; nobody is signed in yet."""
    from costbearer.app import books, prepare

    prepare(config)
    if entries:
        with books(config) as (_, bookkeeper, _closed):
            bookkeeper.catch_up()
            bookkeeper.record(list(entries))
    with console_parts(config) as application:
        yield Reader(application, base_url=HOME, raise_server_exceptions=False)


def admin_token(config: Config) -> str:
    return secrets.admin_token(config.data)


def today() -> str:
    return datetime.now(UTC).date().isoformat()
