"""The data directory's secrets: the keyring (peppers and hash keys) and the administrator's token.

Each is a file of mode 0600, made once; a file that others can read is refused, not repaired, because it may have been
read already. Only the keyring is ever replaced, whole, when a pepper or a hash key comes or goes.

``keyring.json``::

    {"active": 1, "peppers": {"1": "<base64, 32 bytes>"}, "hash_active": 1, "hash_keys": {"1": "<base64, 32 bytes>"}}

New keys are digested under the active pepper; every version a living key names stays in the file. A pepper is changed
by adding a version, which is active from then on; keys move to it as they are used (`stores.rekeying`), and then the
old one is retired. `hash_keys` hash tenant and user names: under the active one and, while there is another, under
that one too, which links the two hashes (`stores.hash_keys`).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

from costbearer.errors import StoreFailed

KEYRING_FILE = "keyring.json"
TOKEN_FILE = "admin-token"  # noqa: S105  the name of the file
TOKEN_PREFIX = "cba_"  # noqa: S105  what every token begins with
SECRET_BYTES = 32


class Keyring(NamedTuple):
    """Versioned 32-byte secrets: `peppers` for virtual keys, `hash_keys` for names kept only as a keyed hash."""

    active: int
    peppers: Mapping[int, bytes]
    hash_active: int
    hash_keys: Mapping[int, bytes]

    def __repr__(self) -> str:
        return f"Keyring(peppers={sorted(self.peppers)}, hash_keys={sorted(self.hash_keys)})"


def data_directory(path: Path) -> Path:
    """The directory, made with mode 0700 where there is none.

    Raises:
        StoreFailed: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreFailed(f"the data directory {path} cannot be made: {error.strerror}") from None
    return path


def keyring(directory: Path, *, create: bool = True) -> Keyring:
    """Read the directory's keyring, making one on the first start.

    Raises:
        StoreFailed: missing (without `create`), readable by others, or not a keyring.
    """
    path = directory / KEYRING_FILE
    text = _private(path, _fresh_keyring() if create else None)
    try:
        document = json.loads(text)
        held = Keyring(
            int(document["active"]),
            _versions(document["peppers"]),
            int(document["hash_active"]),
            _versions(document["hash_keys"]),
        )
        if held.active not in held.peppers or held.hash_active not in held.hash_keys:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise StoreFailed(
            f"{path}: not a keyring; restore it from a backup (without it the keys issued so far cannot be checked)"
        ) from None
    return held


def with_pepper(ring: Keyring) -> Keyring:
    """The same keyring with another pepper, which is the active one."""
    version = max(ring.peppers) + 1
    return ring._replace(active=version, peppers={**ring.peppers, version: secrets.token_bytes(SECRET_BYTES)})


def without_peppers(ring: Keyring, versions: Container[int]) -> Keyring:
    """The same keyring without those peppers; the active one stays."""
    kept = {each: pepper for each, pepper in ring.peppers.items() if each == ring.active or each not in versions}
    return ring._replace(peppers=kept)


def with_hash_key(ring: Keyring) -> Keyring:
    """The same keyring with another hash key, which is the active one."""
    version = max(ring.hash_keys) + 1
    made = {**ring.hash_keys, version: secrets.token_bytes(SECRET_BYTES)}
    return ring._replace(hash_active=version, hash_keys=made)


def without_hash_key(ring: Keyring, version: int) -> Keyring:
    """The same keyring without that hash key, which is not the active one."""
    return ring._replace(hash_keys={each: key for each, key in ring.hash_keys.items() if each != version})


def replace_keyring(directory: Path, ring: Keyring) -> None:
    """Put a keyring in the place of the one that is there: whole, durable, and never readable by others.

    Raises:
        StoreFailed: it cannot be written; the old one stands.
    """

    def shown(versions: Mapping[int, bytes]) -> dict[str, str]:
        return {str(version): base64.b64encode(secret).decode() for version, secret in sorted(versions.items())}

    made = {
        "active": ring.active,
        "peppers": shown(ring.peppers),
        "hash_active": ring.hash_active,
        "hash_keys": shown(ring.hash_keys),
    }
    path = directory / KEYRING_FILE
    try:
        _create(path, json.dumps(made, indent=2) + "\n", over=True)
    except OSError as error:
        raise StoreFailed(f"{path} cannot be written: {error.strerror}; the one before holds") from None


def admin_token(directory: Path, *, create: bool = True) -> str:
    """The administrator's token for the console's API, making one on the first start.

    Raises:
        StoreFailed: missing (without `create`), readable by others, or empty.
    """
    path = directory / TOKEN_FILE
    fresh = TOKEN_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    token = _private(path, fresh + "\n" if create else None).strip()
    if len(token) < SECRET_BYTES or not token.isascii():
        raise StoreFailed(f"{path}: not a token; delete the file and start the server to make another")
    return token


def _fresh_keyring() -> str:
    def secret() -> str:
        return base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()

    made = {"active": 1, "peppers": {"1": secret()}, "hash_active": 1, "hash_keys": {"1": secret()}}
    return json.dumps(made, indent=2) + "\n"


def _versions(table: Mapping[str, str]) -> dict[int, bytes]:
    found = {int(version): base64.b64decode(text, validate=True) for version, text in table.items()}
    if any(len(secret) != SECRET_BYTES for secret in found.values()):
        raise ValueError
    return found


def _private(path: Path, fresh: str | None) -> str:
    """The file's text; where there is none, `fresh` is written first. Of two processes at once, one writes."""
    try:
        if fresh is not None and not path.exists():
            _create(path, fresh)
        with path.open(encoding="utf-8") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            if mode & 0o077:
                raise StoreFailed(f"{path} can be read by others (mode {mode & 0o777:04o}); chmod 600 it")
            return handle.read()
    except FileNotFoundError:
        raise StoreFailed(f"{path} is missing; start the server once, or restore it from a backup") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreFailed(f"{path} cannot be read or made: {getattr(error, 'strerror', None) or 'not text'}") from None


def _create(path: Path, text: str, *, over: bool = False) -> None:
    """Whole or not at all: written beside, then given its name. Over an existing file only where `over` says so."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            if over:
                beside.replace(path)
            else:
                os.link(beside, path)
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        beside.unlink(missing_ok=True)
