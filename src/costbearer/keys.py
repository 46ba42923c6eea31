"""Virtual keys: their format, what is kept of one, how one is checked, and the snapshot workers hold in memory. Pure.

A key is ``cbk_<lookup id>_<secret><checksum>``, base62 throughout:

* the lookup id (12 characters) finds the record; it is not secret and may be shown;
* the secret (30 characters, 178 bits) is never kept: at rest there is HMAC-SHA-256 of the whole key under a pepper;
* the checksum (6 characters, CRC-32 of everything before it) refuses typos without a look-up and lets scanners tell a
  leaked key from a random text. The underscores keep the key one word on a double click.
"""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple, NoReturn

import msgspec

from costbearer.errors import KeyExpired, KeyInvalid, KeyMissing, KeyRevoked
from costbearer.labels import Labels

PREFIX = "cbk"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LOOKUP_CHARS = 12
SECRET_CHARS = 30
CHECK_CHARS = 6

SCANNER_PATTERN = rf"\b{PREFIX}_[0-9A-Za-z]{{{LOOKUP_CHARS}}}_[0-9A-Za-z]{{{SECRET_CHARS + CHECK_CHARS}}}\b"
"""For gitleaks, trufflehog and custom secret scanning; `parse_key` then tells real keys from look-alikes offline."""

_SHAPE = re.compile(rf"{PREFIX}_([0-9A-Za-z]{{{LOOKUP_CHARS}}})_[0-9A-Za-z]{{{SECRET_CHARS + CHECK_CHARS}}}")
_REFERENCE = re.compile(rf"(?:key|{PREFIX})_[0-9A-Za-z]{{{LOOKUP_CHARS}}}(?![0-9A-Za-z])")
_VALUE_OF = {character: value for value, character in enumerate(ALPHABET)}
_LOOKUP_ID = slice(len(PREFIX) + 1, len(PREFIX) + 1 + LOOKUP_CHARS)
_BEFORE_ANY_TIME = datetime.min.replace(tzinfo=UTC)
# The structs below are left out of garbage collection (`gc=False`): they cannot form cycles, and a worker that holds
# ten thousand keys would otherwise walk them all in every full collection.

Below = Callable[[int], int]
"""A source of chance: a number of 0 to n - 1, as `secrets.randbelow` gives."""


class ParsedKey(msgspec.Struct, frozen=True, gc=False):
    """A key whose form and checksum hold; nothing is known of whether it exists."""

    lookup_id: str
    text: str

    def __repr__(self) -> str:
        return f"ParsedKey({self.lookup_id!r})"


class Secret(msgspec.Struct, frozen=True, gc=False):
    """What is kept of one issued secret. During a rotation a key has two, the older with an end."""

    lookup_id: str
    digest: bytes
    pepper_version: int
    created_at: datetime
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"Secret({self.lookup_id!r})"


class DatedLabels(msgspec.Struct, frozen=True, gc=False):
    """Labels that hold from a time on, until later ones do."""

    since: datetime
    labels: Labels


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A virtual key. `labels` are those that held when the record was read; `history` has all, the oldest first.

    `require` names the fields a caller must assert with this key. `expires_at` None means that it does not expire.
    """

    key_id: str
    labels: Labels
    history: tuple[DatedLabels, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None
    name: str | None = None
    env: str | None = None
    project: str | None = None
    cost_center: str | None = None
    require: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()

    def labels_at(self, when: datetime) -> Labels:
        """The newest labels whose date has come; those it was issued with before any date."""
        for dated in reversed(self.history):
            if dated.since <= when:
                return dated.labels
        return self.history[0].labels

    def at(self, when: datetime) -> KeyRecord:
        """The record with the labels that hold then."""
        labels = self.labels_at(when)
        return self if labels == self.labels else msgspec.structs.replace(self, labels=labels)

    def status(self, when: datetime) -> Literal["active", "expired", "revoked"]:
        """Revocation has no date to come: it holds at once, whatever the clock says."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= when:
            return "expired"
        return "active"


def new_id(below: Below) -> str:
    """A key's own id, `key_` and 12 base62 characters; it says nothing about its secrets and never changes."""
    return f"key_{_base62(below(62**LOOKUP_CHARS), LOOKUP_CHARS)}"


def new_key(below: Below) -> ParsedKey:
    """A fresh key of the given chance, checksum included."""
    lookup_id = _base62(below(62**LOOKUP_CHARS), LOOKUP_CHARS)
    unchecked = f"{PREFIX}_{lookup_id}_{_base62(below(62**SECRET_CHARS), SECRET_CHARS)}"
    return ParsedKey(lookup_id, unchecked + _base62(zlib.crc32(unchecked.encode()), CHECK_CHARS))


def parse_key(text: str) -> ParsedKey:
    """The key if its form and checksum hold, without any look-up.

    Raises:
        KeyInvalid: not the form of a key, or characters were changed or lost.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise KeyInvalid(
            "this is not a Costbearer key (cbk_ and 49 more characters): it may be cut off, or be a provider's own, "
            "which is not taken here; use the key that `costbearer keys issue` showed"
        )
    stated = 0
    for character in text[-CHECK_CHARS:]:
        stated = stated * 62 + _VALUE_OF[character]
    if zlib.crc32(text[:-CHECK_CHARS].encode()) != stated:
        raise KeyInvalid(
            "the key's checksum does not hold: a character was changed or lost in copying; copy it again whole"
        )
    return ParsedKey(match[1], text)


def reference(text: str) -> str | None:
    """What identifies a key and is not secret: its id, or `cbk_<lookup id>` cut from a key. None for anything else."""
    match = _REFERENCE.match(text.strip())
    return match[0] if match is not None else None


def digest(pepper: bytes, text: str) -> bytes:
    """What is kept of a key: HMAC-SHA-256 over all of it."""
    return hmac.digest(pepper, text.encode(), "sha256")


class _Held(msgspec.Struct, frozen=True, gc=False):
    """One secret as the ring needs it. `ends_at` is the end of a secret that a rotation replaced. `mac` is keyed with
    the secret's pepper and is only ever copied: keying it is half the work of an HMAC.

    Before `plain_until` the record is the answer as it stands: it is the first of the key's end, the secret's end and
    the next change of labels, and before any time for a revoked key. None where nothing will change by itself.

    `old` says that its pepper is not the active one: it is never plain, so that its use is noticed. Of a `retired`
    pepper nothing is left, and nothing can be checked.
    """

    record: KeyRecord
    digest: bytes
    mac: hmac.HMAC
    ends_at: datetime | None
    plain_until: datetime | None
    old: bool = False
    retired: bool = False


class Rekeying(NamedTuple):
    """The active pepper, and who is told of a key that was used under another: its lookup id, the version of this one,
    and the digest under it."""

    version: int
    pepper: bytes
    used: Callable[[str, int, bytes], None]


class KeyRing:
    """Every key there is, as of one reading of the control store. Never changes; a later reading is another ring.

    `peppers` maps each version that a secret names to its 32 bytes; a missing one that is not in `retired` is a
    `KeyError`. `rekeying` is told of every key that is used under another pepper than its own, once.
    """

    __slots__ = ("_held", "_nobody", "_rekeying", "_told", "keys")

    def __init__(
        self,
        records: Iterable[KeyRecord],
        peppers: Mapping[int, bytes],
        as_of: datetime,
        *,
        retired: Container[int] = (),
        rekeying: Rekeying | None = None,
    ) -> None:
        macs = {version: hmac.new(pepper, digestmod="sha256") for version, pepper in peppers.items()}
        held: dict[str, _Held] = {}
        nobody = _nobody(as_of)
        keys = 0
        for record in records:
            keys += 1
            current = record.at(as_of)
            turns = [dated.since for dated in record.history if dated.since > as_of]
            if record.expires_at is not None:
                turns.append(record.expires_at)
            if record.revoked_at is not None:
                turns.append(_BEFORE_ANY_TIME)
            for secret in record.secrets:
                ends_at = secret.expires_at
                if secret.pepper_version in retired:
                    held[secret.lookup_id] = _Held(current, bytes(32), nobody.mac, ends_at, None, retired=True)
                    continue
                mac = macs[secret.pepper_version]
                old = rekeying is not None and secret.pepper_version != rekeying.version
                last = [*turns, _BEFORE_ANY_TIME] if old else turns
                plain_until = min([*last, ends_at] if ends_at is not None else last, default=None)
                held[secret.lookup_id] = _Held(current, secret.digest, mac, ends_at, plain_until, old)
        self._held = held
        self._nobody = nobody
        self._rekeying = rekeying
        self._told: set[str] = set()
        self.keys = keys

    def authenticate(self, text: str, now: datetime) -> KeyRecord:
        """The record of a key that holds now, with the labels that hold now.

        Revocation, expiry and the secret are checked every time; there is no cache. Whatever is sent costs one HMAC and
        one comparison in constant time, and an unknown key gets the same answer as a wrong secret.

        Raises:
            KeyMissing: no text.
            KeyInvalid: wrong form or checksum, or no such key.
            KeyRevoked: it was revoked.
            KeyExpired: its time, or its secret's time after a rotation, is over; or it was not used between the change
                of the pepper and the end of the old one, and can no longer be checked.
        """
        # An unknown key is checked against nobody's digest: how long a refusal takes must not tell which of the two it
        # was.
        held = self._held.get(text[_LOOKUP_ID], self._nobody)
        mac = held.mac.copy()
        mac.update(text.encode("utf-8", "replace"))
        if not hmac.compare_digest(mac.digest(), held.digest) or held is self._nobody or held.retired:
            # Form and checksum are looked at only here: a text with a key's digest is that key.
            _refuse(text, held)
        if held.plain_until is None or now < held.plain_until:
            return held.record
        record = _past_turn(held, now)
        if held.old:
            self._rekey(text)
        return record

    def _rekey(self, text: str) -> None:
        lookup_id = text[_LOOKUP_ID]
        if self._rekeying is not None and lookup_id not in self._told:
            self._told.add(lookup_id)
            self._rekeying.used(lookup_id, self._rekeying.version, digest(self._rekeying.pepper, text))


def _nobody(as_of: datetime) -> _Held:
    """What a key that is not known is checked against; no text passes, whatever its digest."""
    none = Labels("", "", "", "")
    record = KeyRecord(key_id="", labels=none, history=(), created_at=as_of, expires_at=as_of, revoked_at=as_of)
    return _Held(record, bytes(32), hmac.new(bytes(32), digestmod="sha256"), None, _BEFORE_ANY_TIME)


def _refuse(text: str, held: _Held) -> NoReturn:
    """Say why a text is no key here, by its form before anything else.

    Nobody has proved to hold a key whose pepper is retired, so no word of whose it is.
    """
    if not text:
        raise KeyMissing(
            "no key: send a Costbearer key where the provider's key goes (Authorization: Bearer, x-api-key); "
            "`costbearer keys issue` makes one"
        )
    lookup_id = parse_key(text).lookup_id
    if held.retired:
        raise KeyExpired(
            f"{PREFIX}_{lookup_id} was not used before the secret that it was kept under was retired, and cannot be "
            f"checked any more; `costbearer keys rotate {PREFIX}_{lookup_id}` gives its owner a new one"
        )
    raise KeyInvalid(
        "no such key here: it may belong to another installation; "
        "`costbearer keys list` shows the keys there are, `costbearer keys issue` makes one"
    )


def _past_turn(held: _Held, now: datetime) -> KeyRecord:
    """The record with the labels that hold now, of a key that is still good although one of its dates has come."""
    record = held.record
    if record.revoked_at is not None:
        raise KeyRevoked(
            f"key {record.key_id} of {record.labels.owner} was revoked on {spoken(record.revoked_at)}; "
            "ask its owner or an administrator for another: `costbearer keys issue`"
        )
    if record.expires_at is not None and record.expires_at <= now:
        raise KeyExpired(
            f"key {record.key_id} of {record.labels.owner} expired on {spoken(record.expires_at)}; "
            f"`costbearer keys rotate {record.key_id} --expires 90d` gives it a new secret and a new life"
        )
    if held.ends_at is not None and held.ends_at <= now:
        raise KeyExpired(
            f"this secret of key {record.key_id} of {record.labels.owner} was replaced by a rotation and ended on "
            f"{spoken(held.ends_at)}; use the newer one, or `costbearer keys rotate {record.key_id}` makes another"
        )
    return record.at(now)


def spoken(when: datetime) -> str:
    """A time for people, to the minute and always in UTC."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def view(record: KeyRecord, now: datetime) -> dict[str, object]:
    """What may be shown of a key, as JSON: an allow-list, without secret or digest. Times are RFC 3339 in UTC.

    `secrets` tells the living secrets apart by their lookup id, `labels` lists all dated labels, the oldest first.
    """
    current = record.at(now)
    return {
        "key_id": record.key_id,
        "name": record.name,
        **msgspec.structs.asdict(current.labels),
        "env": record.env,
        "project": record.project,
        "cost_center": record.cost_center,
        "require": list(record.require),
        "status": record.status(now),
        "created_at": stamp(record.created_at),
        "expires_at": stamp(record.expires_at),
        "revoked_at": stamp(record.revoked_at),
        "labels": [{"from": stamp(dated.since), **msgspec.structs.asdict(dated.labels)} for dated in record.history],
        "secrets": [
            {
                "begins_with": f"{PREFIX}_{secret.lookup_id}_",
                "created_at": stamp(secret.created_at),
                "expires_at": stamp(secret.expires_at),
            }
            for secret in record.secrets
            if secret.expires_at is None or secret.expires_at > now
        ],
    }


def stamp(when: datetime | None) -> str | None:
    """RFC 3339 in UTC with a Z; microseconds only where there are any."""
    return None if when is None else when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, value = divmod(number, 62)
        digits.append(ALPHABET[value])
    return "".join(reversed(digits))
