"""Answers of the API to requests with an Idempotency-Key, kept in the transaction of what was done."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from costbearer.errors import InProgress, KeyReused
from costbearer.stores.control_schema import answered_once
from costbearer.stores.sqlite import Database

WINDOW = timedelta(hours=24)
"""How long an answer is kept at least; then the same Idempotency-Key is a new one, except that it issues no key again
(`issued_once` keeps those for ever)."""


class Answer(msgspec.Struct, frozen=True):
    """What was answered: the HTTP status, and the JSON text of the body without any key."""

    status: int
    body: str


class Answers:
    """The answers of one control store, for the one process that serves the API."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.database = database
        self.clock = clock
        self.life = secrets.token_hex(16)
        # By their keys, the requests that are being done apart. What the store says of one that has ended may not be
        # so: it was not there to be told.
        self._running: set[str] = set()

    def begin(self, key: str, request: str) -> Answer | None:
        """The answer there is; None where this request comes first, which is then written down as begun.

        Begun by a process that is no more, or by this one, which could not write down how it ended, a request is begun
        again: whatever is done apart from the control store does not do a thing twice.

        Raises:
            KeyReused: the key came with another request before.
            InProgress: the first request with it is not done yet.
            StoreFailed: the store does not take it.
        """
        with self.database.writing() as connection:
            before = _begin(connection, self, key, request)
            if before is None:
                self._running.add(key)
            return before

    def runs(self, key: str) -> bool:
        """Whether a request with this key is being done apart."""
        return key in self._running

    def end(self, key: str, answer: Answer | None) -> None:
        """What was answered to the request that was begun; None where it came to nothing and may be sent again.

        Raises:
            StoreFailed: the store does not take it.
        """
        try:
            with self.database.writing() as connection:
                _end(connection, key, answer)
        finally:
            self._running.discard(key)


class _Undone(Exception):
    """Ends a transaction that must leave nothing."""


class Doing:
    """One transaction that does what is asked and keeps its answer. Its methods may be called from several threads, one
    after the other: `begin`, what is done within `joined` where that gave None, then `end`."""

    def __init__(self, answers: Answers, key: str, request: str) -> None:
        self._answers, self._key, self._request = answers, key, request
        self._writing = answers.database.writing()
        self._connection: Connection | None = None

    def begin(self) -> Answer | None:
        """As `Answers.begin`; waits for another request's transaction."""
        self._connection = self._writing.__enter__()
        return _begin(self._connection, self._answers, self._key, self._request)

    def joined(self) -> AbstractContextManager[None]:
        """Whatever is read and written meanwhile belongs to this transaction."""
        assert self._connection is not None
        return self._answers.database.joined(self._connection)

    def end(self, answer: Answer | None) -> None:
        """Commit with the answer; None leaves nothing of what was done.

        Raises:
            StoreFailed: the store does not take it; nothing was done.
        """
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        if answer is None:
            self._writing.__exit__(_Undone, _Undone(), None)
            return
        try:
            _end(connection, self._key, answer)
        except BaseException as error:
            self._writing.__exit__(type(error), error, error.__traceback__)
            raise
        self._writing.__exit__(None, None, None)


def _begin(connection: Connection, answers: Answers, key: str, request: str) -> Answer | None:
    now = answers.clock()
    connection.execute(delete(answered_once).where(answered_once.c.at < now - WINDOW))
    own = answered_once.c.idempotency_key == key
    row = connection.execute(select(answered_once).where(own)).first()
    if row is None:
        values = {"idempotency_key": key, "request": request, "life": answers.life, "at": now}
        connection.execute(insert(answered_once).values(values))
        return None
    if row.request != request:
        raise KeyReused("this Idempotency-Key came with another request before; a new request needs a new key")
    if row.status is not None:
        return Answer(row.status, row.body)
    if row.life == answers.life and answers.runs(key):
        raise InProgress("the first request with this Idempotency-Key is not done yet; send it again in a moment")
    connection.execute(update(answered_once).where(own).values(life=answers.life, at=now))
    return None


def _end(connection: Connection, key: str, answer: Answer | None) -> None:
    own = answered_once.c.idempotency_key == key
    if answer is None:
        connection.execute(delete(answered_once).where(own))
    else:
        connection.execute(update(answered_once).where(own).values(status=answer.status, body=answer.body))
