"""The price archives and contracts a data directory has ever used, each under its hash, for ever: a charge can always
be explained. They are written once and never over; what lies there is verified whenever it is read.

Which of them hold is said by one small file, `current.json`, which is replaced whole and remembers what held before.
Workers read it when they start and whenever `moved` tells them that it is another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import msgspec

from costbearer.errors import Conflict, NotFound, StoreFailed

_NAME = re.compile(r"[0-9a-f]{64}")
_ARCHIVE, _CONTRACT = ".json", ".contract"
_KINDS = {_ARCHIVE: "price archive", _CONTRACT: "contract"}
CURRENT = "current.json"
_LOCK = "current.lock"

Stamp = tuple[int, int, int]


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """One state of what holds: the hashes of an archive and of a contract, since when, and by whose word."""

    revision: int
    archive: str
    contract: str | None = None
    since: datetime | None = None
    by: str = ""
    what: str = ""


class Current(NamedTuple):
    """The bytes that hold now. `revision` counts up with every change; 0 is a directory in which nothing was said."""

    archive: bytes
    contract: bytes | None
    revision: int


def bundled() -> bytes:
    """The archive that came with this version."""
    return resources.files("costbearer").joinpath("data", "prices.json").read_bytes()


def current(prices_dir: Path) -> Current:
    """What holds now: the archive and contract that were last taken, or the bundled archive where none ever was.

    Raises:
        NotFound, StoreFailed: what should hold is not there, or is damaged.
    """
    held = history(prices_dir)
    if not held:
        return Current(bundled(), None, 0)
    now = held[-1]
    contract = load_contract(prices_dir, now.contract) if now.contract is not None else None
    return Current(load(prices_dir, now.archive), contract, now.revision)


def moved(prices_dir: Path) -> Stamp | None:
    """A stamp of the file that says what holds: another one after any change, None while there is none. One stat."""
    try:
        found = (prices_dir / CURRENT).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def begin(prices_dir: Path) -> None:
    """Let the bundled archive hold where nothing was ever said, so that a later version's does not come unasked.

    Raises:
        StoreFailed: it cannot be written.
    """
    if moved(prices_dir) is None:
        # Whoever came first said the same.
        with contextlib.suppress(Conflict):
            hold(prices_dir, expected=0, archive=bundled(), by="costbearer", what="the first start")


def history(prices_dir: Path) -> list[Held]:
    """Everything that ever held, the newest last.

    Raises:
        StoreFailed: the file cannot be read.
    """
    path = prices_dir / CURRENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Held])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise StoreFailed(f"{path} cannot be read: {error}; restore it from a backup") from error


def hold(
    prices_dir: Path,
    *,
    expected: int,
    archive: bytes | None = None,
    contract: bytes | None = None,
    by: str,
    what: str,
) -> Held:
    """Keep what is given and let it hold from now on; what is not given stays.

    `expected` is the revision the change was made from, so that of two that are made at once one is refused.

    Raises:
        Conflict: another change came first.
        StoreFailed: it cannot be written.
    """
    try:
        prices_dir.mkdir(parents=True, exist_ok=True)
        with (prices_dir / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = history(prices_dir)
            last = held[-1] if held else Held(0, hashlib.sha256(bundled()).hexdigest())
            if last.revision != expected:
                raise Conflict(
                    f"the prices have changed meanwhile (revision {last.revision}, not {expected}); look and try again"
                )
            if not held and archive is None:
                archive = bundled()
            new = Held(
                revision=last.revision + 1,
                archive=last.archive if archive is None else keep(prices_dir, archive),
                contract=last.contract if contract is None else keep_contract(prices_dir, contract),
                since=datetime.now(UTC),
                by=by,
                what=what,
            )
            _write_whole(prices_dir / CURRENT, msgspec.json.encode([*held, new]))
            return new
    except OSError as error:
        raise StoreFailed(f"the prices cannot be kept in {prices_dir}: {error.strerror}") from error


def keep(prices_dir: Path, data: bytes) -> str:
    """Keep an archive; gives its SHA-256 in hex. Keeping the same archive again only verifies it.

    The file appears whole or not at all, also when the machine stops in the middle; several processes may keep the same
    archive at once.

    Raises:
        StoreFailed: it cannot be written, or a file of that name holds something else.
    """
    return _keep(prices_dir, data, _ARCHIVE)


def keep_contract(prices_dir: Path, data: bytes) -> str:
    """Keep a contract's file, as `keep` keeps an archive."""
    return _keep(prices_dir, data, _CONTRACT)


def _keep(prices_dir: Path, data: bytes, kind: str) -> str:
    digest = hashlib.sha256(data).hexdigest()
    target = prices_dir / f"{digest}{kind}"
    try:
        if target.exists():
            _load(prices_dir, digest, kind)
            return digest
        prices_dir.mkdir(parents=True, exist_ok=True)
        _write_whole(target, data)
    except OSError as error:
        raise StoreFailed(f"the {_KINDS[kind]} cannot be kept in {prices_dir}: {error.strerror}") from error
    return digest


def load(prices_dir: Path, digest: str) -> bytes:
    """The archive of that hash, verified.

    Raises:
        NotFound: this directory has no archive of that hash.
        StoreFailed: the file cannot be read, or is not what its name says.
    """
    return _load(prices_dir, digest, _ARCHIVE)


def load_contract(prices_dir: Path, digest: str) -> bytes:
    """The contract's file of that hash, verified; raises as `load` does."""
    return _load(prices_dir, digest, _CONTRACT)


def _load(prices_dir: Path, digest: str, kind: str) -> bytes:
    if _NAME.fullmatch(digest) is None:
        raise NotFound(f"a {_KINDS[kind]} is named by the 64 hex digits of its SHA-256")
    path = prices_dir / f"{digest}{kind}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{prices_dir} has no {_KINDS[kind]} {digest}") from None
    except OSError as error:
        raise StoreFailed(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreFailed(f"{path} is damaged: its content is not what its name says; restore it from a backup")
    return data


def all_hashes(prices_dir: Path) -> list[str]:
    """The hashes of all archives kept there, sorted; empty for a directory that does not exist yet."""
    return _hashes(prices_dir, _ARCHIVE)


def all_contracts(prices_dir: Path) -> list[str]:
    """The hashes of all contracts kept there, sorted."""
    return _hashes(prices_dir, _CONTRACT)


def _hashes(prices_dir: Path, kind: str) -> list[str]:
    if not prices_dir.is_dir():
        return []
    return sorted(path.stem for path in prices_dir.glob(f"*{kind}") if _NAME.fullmatch(path.stem))


def _write_whole(target: Path, data: bytes) -> None:
    """Write beside the target, make it durable, then give it its name."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".new")
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.replace(target)
    except OSError:
        written.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Make the new name itself durable: fsync of a file does not promise that its directory entry survives."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
