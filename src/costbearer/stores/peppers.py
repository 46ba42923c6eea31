"""The peppers that keys are kept under: a new one beside the old, keys that move to it, and the end of the old one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import Connection, insert, select, update

from costbearer.errors import Conflict, NotFound
from costbearer.stores import secrets
from costbearer.stores.acts import note
from costbearer.stores.control import Actor, fingerprint_of
from costbearer.stores.control_schema import key_secrets, keys, peppers
from costbearer.stores.rekeying import Rekeyed, Spool
from costbearer.stores.sqlite import INTEGER_MAX, Database, exclusive

REKEYING = Actor("costbearer", "console", "rekeying")
"""Who moves keys to another pepper: nobody asked for it, their use did."""
NOTED_MAX = 1000
"""Keys that the log names of those a retirement ends."""


class Pepper(msgspec.Struct, frozen=True):
    """One version. `waiting` are the living keys that are still kept under it and not under the active one."""

    version: int
    active: bool
    retired_at: datetime | None
    waiting: tuple[str, ...]


class Peppers:
    """The peppers of one data directory.

    Every method raises `StoreFailed` where control store or keyring cannot be read or written.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database, self._clock = database, clock
        self._directory: Path = database.file.parent
        self._lock = database.file.with_name(database.file.name + ".lock")

    def all(self) -> list[Pepper]:
        """Every version that ever was, the oldest first."""
        ring, now = secrets.keyring(self._directory, create=False), self._clock()
        with self._database.reading() as connection:
            rows = connection.execute(select(peppers).order_by(peppers.c.version)).all()
            found = [
                Pepper(
                    row.version,
                    row.version == ring.active,
                    row.retired_at,
                    () if row.version == ring.active else _waiting(connection, row.version, now),
                )
                for row in rows
            ]
        if ring.active not in {each.version for each in found}:
            found.append(Pepper(ring.active, True, None, ()))
        return found

    def rotate(self, actor: Actor) -> Pepper:
        """Make another version, which is active from now on; keys under the one before go on working, and move."""
        with exclusive(self._lock), self._database.writing() as connection:
            ring = secrets.keyring(self._directory, create=False)
            made = secrets.with_pepper(secrets.without_peppers(ring, _retired(connection)))
            values = {"version": made.active, "fingerprint": fingerprint_of(made.peppers[made.active])}
            connection.execute(insert(peppers).values(values))
            before = {"active": ring.active}
            note(connection, actor, "pepper.rotate", self._clock(), {"active": made.active}, before)
            # Last: a version that no row tells of yet does no harm, a row whose pepper is lost would.
            secrets.replace_keyring(self._directory, made)
        return Pepper(made.active, True, None, ())

    def retire(self, version: int, actor: Actor, *, anyway: bool = False) -> Pepper:
        """End a version for good. Keys that are still kept under it can never be checked again.

        Raises:
            NotFound: there is no such version.
            Conflict: it is the active one, it is retired already, or living keys wait and `anyway` is not said.
        """
        now = self._clock()
        with exclusive(self._lock):
            with self._database.writing() as connection:
                kept = select(peppers).where(peppers.c.version == version)
                row = connection.execute(kept).first() if abs(version) <= INTEGER_MAX else None
                if row is None:
                    raise NotFound(f"there is no version {version}; `costbearer secrets list` shows those there are")
                ring = secrets.keyring(self._directory, create=False)
                if version == ring.active:
                    raise Conflict(f"version {version} is the active one; `costbearer secrets rotate` makes another")
                if row.retired_at is not None:
                    raise Conflict(f"version {version} is retired already")
                waiting = _waiting(connection, version, now)
                if waiting and not anyway:
                    raise Conflict(
                        f"{len(waiting)} keys were not used since version {version} was replaced, and would be refused "
                        "for ever: `costbearer secrets list` names them; rotate them, or retire it with --anyway"
                    )
                connection.execute(update(peppers).where(peppers.c.version == version).values(retired_at=now))
                after = {"version": version, "keys": len(waiting), "refused": list(waiting[:NOTED_MAX])}
                note(connection, actor, "pepper.retire", now, after)
            # After the commit: a pepper that is in the file and retired is not used; one that is gone and not retired
            # would stop every worker.
            secrets.replace_keyring(self._directory, secrets.without_peppers(ring, {version}))
        return Pepper(version, False, now, waiting)

    def move(self, spool: Spool) -> int:
        """Take over what workers handed in; gives how many keys moved to another pepper."""
        with spool.taken() as handed:
            if not handed:
                return 0
            with self._database.writing() as connection:
                held = select(peppers.c.version).where(peppers.c.retired_at.is_(None))
                known = set(connection.execute(held).scalars())
                return sum(self._moved(connection, each) for each in handed if each.pepper in known)

    def _moved(self, connection: Connection, each: Rekeyed) -> bool:
        own = key_secrets.c.lookup_id == each.lookup_id
        row = connection.execute(select(key_secrets).where(own)).first()
        try:
            digest = bytes.fromhex(each.digest)
        except ValueError:
            return False
        if row is None or row.pepper_version >= each.pepper or len(digest) != secrets.SECRET_BYTES:
            return False
        connection.execute(update(key_secrets).where(own).values(digest=digest, pepper_version=each.pepper))
        before, after = {"pepper": row.pepper_version}, {"pepper": each.pepper}
        note(connection, REKEYING, "key.rekey", self._clock(), after, before, key_id=row.key_id)
        return True


def _retired(connection: Connection) -> set[int]:
    return set(connection.execute(select(peppers.c.version).where(peppers.c.retired_at.is_not(None))).scalars())


def _waiting(connection: Connection, version: int, now: datetime) -> tuple[str, ...]:
    """The keys with a living secret under a version, in the order of their issue."""
    query = (
        select(keys.c.key_id)
        .join(key_secrets, key_secrets.c.key_id == keys.c.key_id)
        .where(key_secrets.c.pepper_version == version, keys.c.revoked_at.is_(None))
        .where((keys.c.expires_at.is_(None)) | (keys.c.expires_at > now))
        .where((key_secrets.c.expires_at.is_(None)) | (key_secrets.c.expires_at > now))
        .order_by(keys.c.number)
        .distinct()
    )
    return tuple(connection.execute(query).scalars())
