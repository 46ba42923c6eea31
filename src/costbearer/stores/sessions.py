"""Who is signed in to the pages: sessions of the control store, known by the hash of their cookie alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import delete, insert, select

from costbearer.stores.acts import note
from costbearer.stores.control import Actor
from costbearer.stores.control_schema import sessions
from costbearer.stores.sqlite import Database

LIFE = timedelta(hours=12)
"""A working day; then the token is asked for again."""
SESSIONS_MAX = 1000
"""Living sessions; the oldest ends where another begins."""
WHO_CHARS_MAX = 80


class Session(msgspec.Struct, frozen=True):
    """`who` is the name that was given at sign-in: said, not verified, and shown beside what is done with it."""

    digest: str
    who: str
    source: str
    created_at: datetime
    expires_at: datetime

    @property
    def form_token(self) -> str:
        """What every form of this session carries, so that no other site can send one (CSRF)."""
        return hmac.digest(bytes.fromhex(self.digest), b"costbearer form", "sha256").hex()


class Sessions:
    """The living sessions of one control store, held in memory by the one process that serves pages."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database, self._clock = database, clock
        self._lock = threading.Lock()
        with database.reading() as connection:
            rows = connection.execute(select(sessions).order_by(sessions.c.created_at)).all()
        self._living = {row.digest: Session(*row) for row in rows}

    def begin(self, who: str, source: str, request_id: str) -> str:
        """Sign somebody in; gives the text of the cookie, which is kept nowhere.

        Raises:
            StoreFailed: the store cannot be written.
        """
        cookie, now = secrets.token_urlsafe(32), self._clock()
        made = Session(_digest(cookie), who[:WHO_CHARS_MAX], source, now, now + LIFE)
        with self._lock, self._database.writing() as connection:
            ended = [each.digest for each in self._living.values() if each.expires_at <= now]
            kept = [digest for digest in self._living if digest not in ended]
            ended += kept[: max(0, len(kept) + 1 - SESSIONS_MAX)]
            connection.execute(delete(sessions).where(sessions.c.digest.in_(ended)))
            connection.execute(insert(sessions).values(msgspec.structs.asdict(made)))
            note(connection, Actor(who, source, request_id), "session.begin", now, {"who": who})
            self._living = {digest: each for digest, each in self._living.items() if digest not in ended}
            self._living[made.digest] = made
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The living session of a cookie."""
        found = self._living.get(_digest(cookie))
        return None if found is None or found.expires_at <= self._clock() else found

    def living(self) -> list[Session]:
        """All that have not ended, the newest first."""
        now = self._clock()
        return sorted((each for each in self._living.values() if each.expires_at > now), key=_began, reverse=True)

    def end(self, session: Session, actor: Actor) -> None:
        """Sign one out."""
        self._end([session.digest], actor, "session.end")

    def end_all(self, actor: Actor) -> int:
        """Sign everybody out; gives how many there were."""
        return self._end(list(self._living), actor, "session.end_all")

    def _end(self, digests: list[str], actor: Actor, action: str) -> int:
        with self._lock, self._database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.digest.in_(digests)))
            note(connection, actor, action, self._clock(), {"sessions": len(digests)})
            self._living = {digest: each for digest, each in self._living.items() if digest not in digests}
        return len(digests)


def _began(session: Session) -> datetime:
    return session.created_at


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
