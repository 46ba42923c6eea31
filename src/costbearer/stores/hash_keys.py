"""The keys that hash tenants and users: a new one beside the old, and the end of the old one.

While two are live, whoever hashes states both hashes and the ledger links them (`stores.links`). Two is the most: an
entry has a place for one hash beside the active key's, and a third key would leave the first without a link.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import Connection, insert, select, update

from costbearer.errors import Conflict, NotFound, StoreFailed
from costbearer.stores import secrets
from costbearer.stores.acts import note
from costbearer.stores.control import Actor, fingerprint_of
from costbearer.stores.control_schema import hash_keys
from costbearer.stores.secrets import Keyring
from costbearer.stores.sqlite import Database, exclusive

LIVE_MAX = 2


class Unlinked(msgspec.Struct, frozen=True):
    """Tenants and users that are known under one version only: nothing links them to a newer hash."""

    tenants: int = 0
    users: int = 0

    def __bool__(self) -> bool:
        return bool(self.tenants or self.users)

    def __str__(self) -> str:
        return f"{self.tenants} tenants and {self.users} users"


class HashKey(msgspec.Struct, frozen=True):
    """One version. `waiting` are those that were not seen again since the version was replaced."""

    version: int
    active: bool
    retired_at: datetime | None
    waiting: Unlinked


Count = Callable[[int], Unlinked]
"""Asks the ledger who is known under a version only."""


class HashKeys:
    """The hash keys of one data directory.

    Every method raises `StoreFailed` where control store, keyring or ledger cannot be read or written.
    """

    def __init__(
        self, database: Database, waiting: Count, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._waiting, self._clock = database, waiting, clock
        self._directory: Path = database.file.parent
        self._lock = database.file.with_name(database.file.name + ".lock")

    def all(self) -> list[HashKey]:
        """Every version that ever was, the oldest first."""
        ring = secrets.keyring(self._directory, create=False)
        with self._database.reading() as connection:
            retired = _retirements(connection)
        return [
            HashKey(
                version,
                version == ring.hash_active,
                retired.get(version),
                Unlinked() if version == ring.hash_active else self._waiting(version),
            )
            for version in sorted(retired.keys() | ring.hash_keys)
        ]

    def rotate(self, actor: Actor) -> HashKey:
        """Make another version, which is active from now on; the one before goes on hashing beside it.

        Raises:
            Conflict: two are live already.
        """
        with exclusive(self._lock), self._database.writing() as connection:
            ring, kept = secrets.keyring(self._directory, create=False), _retirements(connection)
            self._check(connection, ring)
            live = {version for version in ring.hash_keys.keys() | kept.keys() if kept.get(version) is None}
            # A rotation that died between the file and its row is ended, not refused: the key hashes already.
            begun = len(ring.hash_keys) == LIVE_MAX and ring.hash_active not in kept
            if len(live) >= LIVE_MAX and not begun:
                old = min(live)
                raise Conflict(
                    f"versions {old} and {ring.hash_active} are live, and a call has room for two hashes: retire "
                    f"{old} first (`costbearer secrets retire {old} --hashes`)"
                )
            made = ring if begun else secrets.with_hash_key(ring)
            for version in made.hash_keys:
                _write_down(connection, version, made)
            old = min(made.hash_keys)
            note(connection, actor, "hash_key.rotate", self._clock(), {"active": made.hash_active}, {"active": old})
            # Last and before the commit: who sees the commit finds the new key in the file.
            secrets.replace_keyring(self._directory, made)
        return HashKey(made.hash_active, True, None, Unlinked())

    def retire(self, version: int, actor: Actor, *, anyway: bool = False) -> HashKey:
        """End a version for good. Whoever was not seen since it was replaced can never be linked again.

        Raises:
            NotFound: there is no such version.
            Conflict: it is the active one, it is retired already, or some wait and `anyway` is not said.
        """
        self._refuse_unless_old(version)
        now, waiting = self._clock(), self._waiting(version)
        with exclusive(self._lock), self._database.writing() as connection:
            # Once more, for who did the same meanwhile: the ledger is not asked while the control store is held.
            ring = self._refuse_unless_old(version)
            if waiting and not anyway:
                raise Conflict(
                    f"{waiting} were not seen since version {version} was replaced. After it nothing links them: what "
                    "they spent stays under the old hash, what they spend next comes under another. Wait until they "
                    "are seen, or retire it with --anyway"
                )
            if version in ring.hash_keys:
                _write_down(connection, version, ring)
            connection.execute(update(hash_keys).where(hash_keys.c.version == version).values(retired_at=now))
            after = {"version": version, "tenants": waiting.tenants, "users": waiting.users}
            note(connection, actor, "hash_key.retire", now, after)
            # Before the commit: who dies in between retires it once more, and it is in no file until then.
            secrets.replace_keyring(self._directory, secrets.without_hash_key(ring, version))
        return HashKey(version, False, now, waiting)

    def _refuse_unless_old(self, version: int) -> Keyring:
        """Raise unless this version can be retired; gives the keyring."""
        ring = secrets.keyring(self._directory, create=False)
        with self._database.reading() as connection:
            kept = _retirements(connection)
        if version not in ring.hash_keys and version not in kept:
            raise NotFound(f"there is no version {version}; `costbearer secrets list` shows those there are")
        if version == ring.hash_active:
            raise Conflict(f"version {version} is the active one; `costbearer secrets rotate --hashes` makes another")
        if kept.get(version) is not None:
            raise Conflict(f"version {version} is retired already")
        return ring

    def _check(self, connection: Connection, ring: Keyring) -> None:
        """A keyring of old would give a number to a key that another key had."""
        for row in connection.execute(select(hash_keys)).all():
            held = ring.hash_keys.get(row.version)
            if row.version > ring.hash_active or (held and fingerprint_of(held) != row.fingerprint):
                raise StoreFailed(
                    f"{self._directory / secrets.KEYRING_FILE} does not hold the hash key (version {row.version}) that "
                    "hashed tenants and users; restore it from a backup"
                )


def _retirements(connection: Connection) -> dict[int, datetime | None]:
    """Every version that was written down, and when it was retired."""
    return {row.version: row.retired_at for row in connection.execute(select(hash_keys)).all()}


def _write_down(connection: Connection, version: int, ring: Keyring) -> None:
    """A version's row, where it has none yet: the first one is older than the table."""
    known = connection.execute(select(hash_keys.c.version).where(hash_keys.c.version == version)).first()
    if known is None:
        values = {"version": version, "fingerprint": fingerprint_of(ring.hash_keys[version])}
        connection.execute(insert(hash_keys).values(values))
