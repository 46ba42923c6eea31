"""The control store: virtual keys, their dated labels and the audit log, in SQLite (WAL, synchronous FULL).

The console and the command line write; gateway workers read. A worker asks for `revision` four times a second and reads
the whole keyring again when it differs, so that a revocation holds everywhere within a second and a call waits for no
database. Every change writes its audit row in the same transaction.
"""

from __future__ import annotations

import hmac
import json
import secrets as chance
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from sqlalchemy import Connection, insert, select, update

from costbearer.errors import Conflict, FieldInvalid, NotFound, StoreFailed
from costbearer.forms import KeyDraft, Relabelling, Rotation
from costbearer.keys import (
    DatedLabels,
    KeyRecord,
    KeyRing,
    Rekeying,
    Secret,
    digest,
    new_id,
    new_key,
    reference,
    spoken,
    stamp,
    view,
)
from costbearer.labels import Labels, check_labels
from costbearer.ledger import LABELS
from costbearer.stores import secrets
from costbearer.stores.acts import note
from costbearer.stores.control_schema import audit_log, issued_once, key_labels, key_secrets, keys, peppers
from costbearer.stores.rekeying import Spool
from costbearer.stores.sqlite import Database, Revision, exclusive

PAGE_MAX = 1000
IDEMPOTENCY_KEY_CHARS_MAX = 255


class Actor(msgspec.Struct, frozen=True):
    """Who changes something, from where, and in which request: kept in the audit log."""

    who: str
    source: str
    request_id: str


class IssuedKey(msgspec.Struct, frozen=True):
    """A key and, this once, its text. `previous_until` is when the secret it replaces ends (rotations only)."""

    record: KeyRecord
    text: str
    previous_until: datetime | None = None

    def __repr__(self) -> str:
        return f"IssuedKey({self.record.key_id!r})"

    def document(self, now: datetime, gateway_url: str) -> dict[str, object]:
        """The only document that holds a key's text, with where to use it."""
        shown = view(self.record, now)
        document = {"key_id": shown.pop("key_id"), "key": self.text, **shown}
        if self.previous_until is not None:
            document["previous_until"] = stamp(self.previous_until)
        return {**document, "gateway_url": gateway_url}


class AuditRow(msgspec.Struct, frozen=True):
    """One change, as it was recorded with it."""

    at: datetime
    actor: Actor
    action: str
    key_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Control:
    """One open control store. Safe to use from several threads; several processes may have it open at once."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._directory = database.file.parent
        self._clock = clock

    @classmethod
    def open(cls, file: Path, *, read_only: bool = False, clock: Callable[[], datetime] | None = None) -> Self:
        """Open the store; unless `read_only`, make or migrate it and the keyring beside it first.

        Two processes may do this at once on an empty directory: a lock lets one go first, the other finds it done.

        Raises:
            StoreFailed: it cannot be opened, is of a newer version, or its keyring is missing.
        """
        if not read_only:
            secrets.data_directory(file.parent)
            with exclusive(file.with_name(file.name + ".lock")):
                secrets.keyring(file.parent, create=not file.exists())
                Database.prepare(file)
        return cls(Database.open(file, read_only=read_only), clock or _utc_now)

    @property
    def database(self) -> Database:
        """For what else is kept in the same store (`periods`)."""
        return self._database

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def revision(self) -> Revision:
        """Differs from the last one when something may have been changed, here or in another process. About 6 us.

        Raises:
            StoreFailed: the store cannot be read now.
        """
        return self._database.revision()

    def check(self) -> None:
        """Raises `StoreFailed` where the store cannot be read now."""
        self._database.check()

    def load_keyring(self, spool: Spool | None = None) -> KeyRing:
        """Every key, expired and revoked ones too (they are refused by their own name), for `KeyRing.authenticate`.

        Keys that are used under a pepper that is not the active one are added to the spool; `Spool.hand_over` writes.

        Raises:
            StoreFailed: the store cannot be read, or `keyring.json` is not the one these keys were made with.
        """
        with self._database.reading() as connection:
            known = connection.execute(select(peppers)).all()
            records = _records(connection)
        held = secrets.keyring(self._directory, create=False)
        retired = {row.version for row in known if row.retired_at is not None}
        for row in known:
            if row.version not in retired:
                self._check_pepper(row.version, held.peppers.get(row.version), row.fingerprint)
        rekeying = None if spool is None else Rekeying(held.active, held.peppers[held.active], spool.add)
        return KeyRing(records, held.peppers, self._clock(), retired=retired, rekeying=rekeying)

    def get(self, key: str) -> KeyRecord:
        """One key by its id, or by what a secret of it begins with (`cbk_` and 12 characters).

        Raises:
            NotFound: there is none.
        """
        with self._database.reading() as connection:
            return self._find(connection, key)

    def page(
        self, *, where: Mapping[str, str] | None = None, after: str | None = None, limit: int = PAGE_MAX
    ) -> tuple[list[KeyRecord], str | None]:
        """Keys in the order of their issue, and the cursor for the next page (None at the end).

        `where` filters by the labels that hold now, by `env`, `project`, `cost_center`, `name` or `status`.

        Raises:
            FieldInvalid: a cursor that no page gave, a limit out of range.
        """
        faults = {}
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
            faults["cursor"] = "not one that a page gave"
        if not 1 <= limit <= PAGE_MAX:
            faults["limit"] = f"must be 1 to {PAGE_MAX}"
        if faults:
            raise FieldInvalid(faults)
        now = self._clock()
        with self._database.reading() as connection:
            rows = connection.execute(select(keys.c.number, keys.c.key_id).order_by(keys.c.number)).all()
            numbers = {row.key_id: row.number for row in rows}
            records = [record.at(now) for record in _records(connection)]
        start = int(after) if after is not None else 0
        wanted = [record for record in records if numbers[record.key_id] > start and _matches(record, where or {}, now)]
        chosen = wanted[:limit]
        return chosen, str(numbers[chosen[-1].key_id]) if len(wanted) > limit else None

    def issued_with(self, idempotency_key: str) -> str | None:
        """The key that was issued or rotated with an idempotency key; None where it was not used."""
        query = select(issued_once.c.key_id).where(issued_once.c.idempotency_key == idempotency_key)
        with self._database.reading() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

    def audit_rows(self, key_id: str | None = None) -> list[AuditRow]:
        """The recorded changes, the oldest first; of one key, or of all."""
        query = select(audit_log).order_by(audit_log.c.number)
        if key_id is not None:
            query = query.where(audit_log.c.key_id == key_id)
        with self._database.reading() as connection:
            return [
                AuditRow(
                    row.at,
                    Actor(row.who, row.source, row.request_id),
                    row.action,
                    row.key_id,
                    None if row.before is None else json.loads(row.before),
                    None if row.after is None else json.loads(row.after),
                )
                for row in connection.execute(query)
            ]

    # -- changing --------------------------------------------------------------------------------------------------

    def issue(self, draft: KeyDraft, actor: Actor, *, idempotency_key: str | None = None) -> IssuedKey:
        """Make a key. Its text is in the answer and nowhere else.

        Raises:
            FieldInvalid: labels that do not count as such.
            Conflict: `idempotency_key` has issued a key before; it is named, its text is gone.
        """
        labels = check_labels(msgspec.structs.asdict(draft.labels))
        now = self._clock()
        key_id = new_id(chance.randbelow)
        with self._database.writing() as connection:
            self._once(connection, idempotency_key)
            connection.execute(
                insert(keys).values(
                    key_id=key_id,
                    **msgspec.structs.asdict(labels),
                    name=draft.name,
                    env=draft.env,
                    project=draft.project,
                    cost_center=draft.cost_center,
                    require=json.dumps(draft.require),
                    created_at=now,
                    expires_at=draft.expires_at,
                )
            )
            self._note_once(connection, idempotency_key, key_id, now)
            text = self._new_secret(connection, key_id, now)
            record = self._find(connection, key_id)
            self._audit(connection, actor, "key.issue", now, None, record)
        return IssuedKey(record, text)

    def rotate(self, key: str, rotation: Rotation, actor: Actor, *, idempotency_key: str | None = None) -> IssuedKey:
        """Give a key a second secret; the old one ends after the overlap, or at the key's old expiry if sooner.

        The key keeps its id, its labels and, unless the rotation names another, its expiry.

        Raises:
            NotFound: no such key.
            Conflict: it is revoked; it has expired and the rotation names no new expiry; or two secrets are alive
                already and the rotation has an overlap.
        """
        now = self._clock()
        with self._database.writing() as connection:
            self._once(connection, idempotency_key)
            before = self._find(connection, key)
            _refuse_rotation(before, rotation, now)
            ends_at = now + rotation.overlap
            if before.expires_at is not None:
                ends_at = min(ends_at, max(before.expires_at, before.created_at))
            for secret in before.secrets:
                if secret.expires_at is None or secret.expires_at > ends_at:
                    connection.execute(
                        update(key_secrets)
                        .where(key_secrets.c.lookup_id == secret.lookup_id)
                        .values(expires_at=ends_at)
                    )
            if rotation.expires_at is not msgspec.UNSET:
                connection.execute(
                    update(keys).where(keys.c.key_id == before.key_id).values(expires_at=rotation.expires_at)
                )
            self._note_once(connection, idempotency_key, before.key_id, now)
            text = self._new_secret(connection, before.key_id, now)
            after = self._find(connection, before.key_id)
            self._audit(connection, actor, "key.rotate", now, before, after)
        return IssuedKey(after, text, ends_at)

    def revoke(self, key: str, actor: Actor) -> KeyRecord:
        """End a key for good, all its secrets at once. Revoking it again changes nothing.

        Raises:
            NotFound: no such key.
        """
        now = self._clock()
        with self._database.writing() as connection:
            before = self._find(connection, key)
            if before.revoked_at is not None:
                return before
            connection.execute(update(keys).where(keys.c.key_id == before.key_id).values(revoked_at=now))
            after = self._find(connection, before.key_id)
            self._audit(connection, actor, "key.revoke", now, before, after)
        return after

    def relabel(self, key: str, change: Relabelling, actor: Actor) -> KeyRecord:
        """Change labels from now or a later time on. What was posted before keeps the labels it was posted under.

        Labels that the change does not name stay as they are at that time.

        Raises:
            NotFound: no such key.
            Conflict: it is revoked.
            FieldInvalid: a past time, or labels that are the same already.
        """
        now = self._clock()
        since = change.since or now
        if since < now:
            raise FieldInvalid({"from": f"{spoken(since)} has passed, and posted entries do not change"})
        with self._database.writing() as connection:
            before = self._find(connection, key)
            if before.revoked_at is not None:
                raise Conflict(f"key {before.key_id} was revoked on {spoken(before.revoked_at)}; its labels stay")
            standing = before.labels_at(since)
            labels = check_labels(msgspec.structs.asdict(standing) | change.changes)
            if labels == standing:
                raise FieldInvalid({"labels": f"nothing changes; these are the labels of {before.key_id} already"})
            connection.execute(
                insert(key_labels).values(key_id=before.key_id, since=since, **msgspec.structs.asdict(labels))
            )
            after = self._find(connection, before.key_id)
            self._audit(connection, actor, "key.relabel", now, before, after)
        return after

    # -- inside ----------------------------------------------------------------------------------------------------

    def _find(self, connection: Connection, key: str) -> KeyRecord:
        named = reference(key)
        if named is not None and named.startswith("cbk_"):
            query = select(key_secrets.c.key_id).where(key_secrets.c.lookup_id == named.removeprefix("cbk_"))
            named = connection.execute(query).scalar()
        records = _records(connection, named) if named is not None else []
        if not records:
            shown = reference(key) or "that text, which is no key's id,"
            raise NotFound(f"no key {shown} here; `costbearer keys list` shows those there are")
        return records[0].at(self._clock())

    def _new_secret(self, connection: Connection, key_id: str, now: datetime) -> str:
        ring = secrets.keyring(self._directory, create=False)
        pepper = ring.peppers[ring.active]
        known = connection.execute(select(peppers.c.fingerprint).where(peppers.c.version == ring.active)).scalar()
        if known is None:
            connection.execute(insert(peppers).values(version=ring.active, fingerprint=fingerprint_of(pepper)))
        else:
            self._check_pepper(ring.active, pepper, known)
        key = new_key(chance.randbelow)
        connection.execute(
            insert(key_secrets).values(
                lookup_id=key.lookup_id,
                key_id=key_id,
                digest=digest(pepper, key.text),
                pepper_version=ring.active,
                created_at=now,
            )
        )
        return key.text

    def _check_pepper(self, version: int, pepper: bytes | None, fingerprint: bytes) -> None:
        if pepper is None or not hmac.compare_digest(fingerprint_of(pepper), fingerprint):
            raise StoreFailed(
                f"{self._directory / secrets.KEYRING_FILE} does not hold the pepper (version {version}) that keys "
                "here were made with; restore it from the backup that belongs to this control store"
            )

    def _once(self, connection: Connection, idempotency_key: str | None) -> None:
        if idempotency_key is None:
            return
        if not idempotency_key or len(idempotency_key) > IDEMPOTENCY_KEY_CHARS_MAX or not idempotency_key.isprintable():
            raise FieldInvalid({"Idempotency-Key": f"must be 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable characters"})
        query = select(issued_once.c.key_id).where(issued_once.c.idempotency_key == idempotency_key)
        if (key_id := connection.execute(query).scalar()) is not None:
            raise Conflict(
                f"this Idempotency-Key has issued {key_id} already; a key is shown only once, so if it was lost, "
                f"rotate {key_id} and use the new one"
            )

    def _note_once(self, connection: Connection, idempotency_key: str | None, key_id: str, now: datetime) -> None:
        if idempotency_key is not None:
            connection.execute(insert(issued_once).values(idempotency_key=idempotency_key, key_id=key_id, at=now))

    def _audit(
        self,
        connection: Connection,
        actor: Actor,
        action: str,
        now: datetime,
        before: KeyRecord | None,
        after: KeyRecord,
    ) -> None:
        was = None if before is None else view(before, now)
        note(connection, actor, action, now, view(after, now), was, key_id=after.key_id)


def _refuse_rotation(record: KeyRecord, rotation: Rotation, now: datetime) -> None:
    if record.revoked_at is not None:
        raise Conflict(f"key {record.key_id} was revoked on {spoken(record.revoked_at)}; issue another in its place")
    if record.status(now) == "expired" and rotation.expires_at is msgspec.UNSET and record.expires_at is not None:
        raise Conflict(
            f"key {record.key_id} expired on {spoken(record.expires_at)}; "
            "name its new life with the rotation (--expires 90d)"
        )
    living = [secret for secret in record.secrets if secret.expires_at is None or secret.expires_at > now]
    if len(living) > 1 and rotation.overlap and record.status(now) == "active":
        ends = min(secret.expires_at for secret in living if secret.expires_at is not None)
        raise Conflict(
            f"key {record.key_id} has two secrets until {spoken(ends)} from an earlier rotation; "
            "wait for that, or rotate with an overlap of 0, which ends both now"
        )


def _records(connection: Connection, key_id: str | None = None) -> list[KeyRecord]:
    """All keys in the order of their issue, or the one; three queries in one snapshot."""
    found, labelled, held = select(keys).order_by(keys.c.number), select(key_labels), select(key_secrets)
    labelled = labelled.order_by(key_labels.c.since, key_labels.c.number)
    held = held.order_by(key_secrets.c.created_at)
    if key_id is not None:
        found = found.where(keys.c.key_id == key_id)
        labelled = labelled.where(key_labels.c.key_id == key_id)
        held = held.where(key_secrets.c.key_id == key_id)
    # Plain tuples in the order of the columns: ten thousand keys are read again after every change.
    history: dict[str, list[DatedLabels]] = {}
    for _, of, since, *four in connection.execute(labelled).all():
        history.setdefault(of, []).append(DatedLabels(since, Labels(*four)))
    living: dict[str, list[Secret]] = {}
    for lookup_id, of, *rest in connection.execute(held).all():
        living.setdefault(of, []).append(Secret(lookup_id, *rest))
    records = []
    for _, of, owner, team, agent, workload, name, env, project, cost_center, *rest in connection.execute(found).all():
        require, created_at, expires_at, revoked_at = rest
        labels = Labels(owner, team, agent, workload)
        records.append(
            KeyRecord(
                key_id=of,
                labels=labels,
                history=(DatedLabels(created_at, labels), *history.get(of, ())),
                created_at=created_at,
                expires_at=expires_at,
                revoked_at=revoked_at,
                name=name,
                env=env,
                project=project,
                cost_center=cost_center,
                require=_required(of, require),
                secrets=tuple(living.get(of, ())),
            )
        )
    return records


_REQUIRE = msgspec.json.Decoder(tuple[str, ...])


def _required(key_id: str, text: str) -> tuple[str, ...]:
    try:
        return _REQUIRE.decode(text)
    except msgspec.DecodeError:
        raise StoreFailed(f"the control store's row of {key_id} is damaged; restore the store from a backup") from None


def _matches(record: KeyRecord, where: Mapping[str, str], now: datetime) -> bool:
    for name, value in where.items():
        if name == "status":
            held: object = record.status(now)
        else:
            held = getattr(record.labels if name in LABELS else record, name)
        if held != value:
            return False
    return True


def fingerprint_of(pepper: bytes) -> bytes:
    """What tells a pepper from another without saying it."""
    return hmac.digest(pepper, b"costbearer pepper fingerprint", "sha256")


def _utc_now() -> datetime:
    return datetime.now(UTC)
