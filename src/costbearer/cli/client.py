"""Where a command does its work: through a running server's API, or, without one, on the stores themselves.

`Local` and `Remote` have the same methods, take the same fields and give back the same documents, so that a command
cannot tell which it talks to, and a script gets the same answer from both.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pwd
import secrets as chance
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import quote

import click

from costbearer import config as settings
from costbearer.config import Config
from costbearer.errors import (
    ConfigInvalid,
    Conflict,
    DataDirectoryBusy,
    FieldInvalid,
    NotFound,
    PricesInvalid,
    QueryInvalid,
    RemoteFailed,
    Unauthorized,
)
from costbearer.keys import reference, view
from costbearer.stores import secrets

if TYPE_CHECKING:
    import httpx2

    from costbearer.stores.control import Actor, Control
    from costbearer.stores.directory import Directory
    from costbearer.stores.sqlite import Database
    from costbearer.stores.views import Views

SERVER_LOCK = "serve.lock"
SERVER_FILE = "server.json"
START_WAIT_S = 5.0
"""How long a command waits for a server that holds the data directory but does not answer yet."""
TIMEOUT_S = 60.0
POSTING = frozenset(f"/api/v1/{name}" for name in ("restatements", "amortisations", "backfill/labels"))
POSTING_TIMEOUT_S = 3600.0
"""How long a command waits for what rates and posts whole months again: millions of calls take minutes."""

Document = dict[str, Any]
Pairs = Sequence[tuple[str, str]]
R = TypeVar("R")


class Client(Protocol):
    """What commands ask for. Documents are those of the API; errors are raised as their own classes on both sides."""

    config: Config

    def issue_key(self, fields: Mapping[str, object]) -> Document: ...
    def list_keys(self, where: Mapping[str, str]) -> list[Document]: ...
    def show_key(self, key: str) -> Document: ...
    def rotate_key(self, key: str, fields: Mapping[str, object]) -> Document: ...
    def revoke_key(self, key: str) -> Document: ...
    def relabel_key(self, key: str, fields: Mapping[str, object]) -> Document: ...


class Local:
    """On the stores of the data directory, opened when they are first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._control: Control | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._control is not None:
            self._control.close()

    @property
    def control(self) -> Control:
        """The control store that is there.

        Raises:
            NotFound: there is none; making one would answer a mistyped path with "no keys yet".
        """
        if not self.config.control_file.exists():
            raise NotFound(
                f"there are no keys in {self.config.data}; name the data directory with --data, "
                "or begin with `costbearer keys issue` or `costbearer serve`"
            )
        return self._opened()

    def _opened(self) -> Control:
        if self._control is None:
            from costbearer.stores.control import Control

            self._control = Control.open(self.config.control_file)
        return self._control

    def directory(self, *, create: bool = False) -> Directory:
        """Figures, ownership map and replaced keys.

        Raises:
            NotFound: there is no control store, and none is to be made.
        """
        from costbearer.stores.directory import Directory

        return Directory((self._opened() if create else self.control).database)

    def views(self, *, create: bool = False) -> Views:
        """Saved views and annotations.

        Raises:
            NotFound: there is no control store, and none is to be made.
        """
        from costbearer.stores.views import Views

        return Views((self._opened() if create else self.control).database)

    def acts(self) -> Database:
        """Where the audit log is; made where there is none yet."""
        return self._opened().database

    def issue_key(self, fields: Mapping[str, object]) -> Document:
        from costbearer import forms

        now = datetime.now(UTC)
        draft = forms.draft(fields, now, self.config.integer("keys.expire_days"))
        return self._opened().issue(draft, operator()).document(now, self.config.gateway_url)

    def list_keys(self, where: Mapping[str, str]) -> list[Document]:
        now = datetime.now(UTC)
        found: list[Document] = []
        cursor = None
        while True:
            records, cursor = self.control.page(where=where, after=cursor)
            found += [view(record, now) for record in records]
            if cursor is None:
                return found

    def show_key(self, key: str) -> Document:
        return view(self.control.get(key), datetime.now(UTC))

    def rotate_key(self, key: str, fields: Mapping[str, object]) -> Document:
        from costbearer import forms

        now = datetime.now(UTC)
        issued = self.control.rotate(key, forms.rotation(fields, now), operator())
        return issued.document(now, self.config.gateway_url)

    def revoke_key(self, key: str) -> Document:
        return view(self.control.revoke(key, operator()), datetime.now(UTC))

    def relabel_key(self, key: str, fields: Mapping[str, object]) -> Document:
        from costbearer import forms

        now = datetime.now(UTC)
        return view(self.control.relabel(key, forms.relabelling(fields, now), operator()), datetime.now(UTC))


class Remote:
    """Through a server's API. `url` is the console's address; the token is sent to it and nowhere else."""

    def __init__(self, config: Config, url: str, token: str, *, wait_s: float = 0.0) -> None:
        import httpx2

        self.config = config
        self.url = url.rstrip("/")
        self._until = time.monotonic() + wait_s
        # No proxy and no redirect: the token goes to the address that was named, and settings come from `config` alone.
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def issue_key(self, fields: Mapping[str, object]) -> Document:
        return self._document("POST", "/api/v1/keys", body=fields, once=True)

    def list_keys(self, where: Mapping[str, str]) -> list[Document]:
        found: list[Document] = []
        cursor: str | None = None
        while True:
            params = [*where.items(), *([("cursor", cursor)] if cursor else [])]
            page = self._document("GET", "/api/v1/keys", params=params)
            found += page["keys"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def show_key(self, key: str) -> Document:
        return self._document("GET", _key_path(key))

    def rotate_key(self, key: str, fields: Mapping[str, object]) -> Document:
        return self._document("POST", f"{_key_path(key)}/rotate", body=fields, once=True)

    def revoke_key(self, key: str) -> Document:
        return self._document("POST", f"{_key_path(key)}/revoke", body={})

    def relabel_key(self, key: str, fields: Mapping[str, object]) -> Document:
        return self._document("POST", f"{_key_path(key)}/relabel", body=fields)

    def document(
        self, method: str, path: str, *, params: Pairs = (), body: Mapping[str, object] | None = None
    ) -> Document:
        """The JSON object that a path answers.

        Raises:
            RemoteFailed: no answer, none in JSON, or a refusal that has no class of its own here.
        """
        return self._document(method, path, params=params, body=body)

    def text(self, path: str, params: Pairs = ()) -> str:
        """The body of a GET as it came: a report in JSON or CSV.

        Raises:
            RemoteFailed: no answer, or a refusal that has no class of its own here.
        """
        return self._send("GET", path, params, None, once=False).text

    def _document(
        self,
        method: str,
        path: str,
        *,
        params: Pairs = (),
        body: Mapping[str, object] | None = None,
        once: bool = False,
    ) -> Document:
        answer = self._send(method, path, params, body, once=once)
        try:
            document = answer.json()
        except ValueError:
            raise RemoteFailed(
                f"{self.url} answered {answer.status_code} without JSON; is it a Costbearer console?"
            ) from None
        if not isinstance(document, dict):
            raise RemoteFailed(f"{self.url} answered JSON that is not an object; is it a Costbearer console?")
        return document

    def _send(
        self, method: str, path: str, params: Pairs, body: Mapping[str, object] | None, *, once: bool
    ) -> httpx2.Response:
        import httpx2

        headers = {"idempotency-key": chance.token_hex(16)} if once else {}
        while True:
            try:
                answer = self._http.request(
                    method, path, params=list(params), json=body, headers=headers, timeout=_timeout_s(path)
                )
            except httpx2.ConnectError:
                # Nothing was sent, so asking again is safe; a server that has just started may not listen yet.
                if time.monotonic() >= self._until:
                    raise RemoteFailed(f"{self.url} cannot be reached; is the server running?") from None
                time.sleep(0.1)
            except httpx2.ReadTimeout:
                raise RemoteFailed(
                    f"{self.url} has not answered within {_timeout_s(path):.0f} s, and may still be doing what was "
                    "asked; look at what there is now, or ask again: nothing is posted twice"
                ) from None
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise RemoteFailed(f"{self.url} did not answer: {type(error).__name__}") from None
            else:
                if answer.status_code >= 300:
                    raise _as_raised(answer, self.url)
                return answer


def _timeout_s(path: str) -> float:
    return POSTING_TIMEOUT_S if path in POSTING else TIMEOUT_S


def open_client(config: Config, environ: Mapping[str, str] | None = None) -> Local | Remote:
    """The server named in the environment, else the one that runs on the data directory, else the stores themselves.

    Raises:
        ConfigInvalid: a server is named without its token.
        DataDirectoryBusy: a server holds the data directory and does not say where it listens.
    """
    url, token = settings.client_environment(environ)
    if url:
        if not token:
            raise ConfigInvalid(
                "COSTBEARER_URL is set without COSTBEARER_TOKEN, the administrator's token of that server"
            )
        return Remote(config, url, token)
    end = time.monotonic() + START_WAIT_S
    while _is_held(config.data / SERVER_LOCK):
        address = _console_url(config.data / SERVER_FILE)
        if address is not None:
            return Remote(config, address, secrets.admin_token(config.data, create=False), wait_s=START_WAIT_S)
        if time.monotonic() >= end:
            raise DataDirectoryBusy(
                f"a server holds {config.data} but does not say where it listens; try again in a moment"
            )
        time.sleep(0.1)
    return Local(config)


def with_config(function: Callable[..., R]) -> Callable[..., R]:
    """Adds `--config` and `--data` to a command and hands it the settings first."""

    @click.option("--config", "config_file", type=click.Path(path_type=Path), help="Settings file (costbearer.toml).")
    @click.option("--data", type=click.Path(path_type=Path), help="Data directory.")
    @functools.wraps(function)
    def run(*args: Any, config_file: Path | None, data: Path | None, **options: Any) -> R:
        overrides = {} if data is None else {"data": str(data)}
        return function(settings.load(config_file, overrides=overrides), *args, **options)

    return run


def with_client(function: Callable[..., R]) -> Callable[..., R]:
    """Adds `--config` and `--data` to a command and hands it an open client first."""

    @with_config
    @functools.wraps(function)
    def run(config: Config, *args: Any, **options: Any) -> R:
        with open_client(config) as client:
            return function(client, *args, **options)

    return run


def operator() -> Actor:
    """Who is recorded in the audit log for a change made on the stores themselves."""
    from costbearer.stores.control import Actor

    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Actor(name, f"command line on {socket.gethostname()}", f"cli_{chance.token_hex(8)}")


def _key_path(key: str) -> str:
    """The path of one key. Of a pasted key only what is not secret goes into an address."""
    return f"/api/v1/keys/{quote(reference(key) or 'unknown', safe='')}"


def _is_held(lock: Path) -> bool:
    """Whether a living process holds the lock; asked with a shared lock that is let go at once."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _console_url(file: Path) -> str | None:
    """The address in the server's file; None while the server has not written it whole."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return str(document["console_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as_raised(answer: httpx2.Response, url: str) -> Exception:
    """The refusal as the class it had on the server, so that local and remote read the same."""
    try:
        error = answer.json()["error"]
        code, message = str(error["code"]), str(error["message"])
        fields = {str(name): str(fault) for name, fault in error.get("fields", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return RemoteFailed(f"{url} answered {answer.status_code}; is it a Costbearer console?")
    if fields:
        return QueryInvalid(fields) if code == QueryInvalid.code else FieldInvalid(fields)
    known = {kind.code: kind for kind in (NotFound, Conflict, PricesInvalid, Unauthorized)}
    if code in known:
        return known[code](message)
    return RemoteFailed(f"{url} refused: {message} ({code})")
