"""The price archives a data directory has ever used, each under its hash, for ever: a charge can always be explained.

An archive is written once and never over; what lies there is verified whenever it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from importlib import resources
from pathlib import Path

from costbearer.errors import NotFound, StoreFailed

_NAME = re.compile(r"[0-9a-f]{64}")


def bundled() -> bytes:
    """The archive that came with this version."""
    return resources.files("costbearer").joinpath("data", "prices.json").read_bytes()


def keep(prices_dir: Path, data: bytes) -> str:
    """Keep an archive; gives its SHA-256 in hex. Keeping the same archive again only verifies it.

    The file appears whole or not at all, also when the machine stops in the middle; several processes may keep the same
    archive at once.

    Raises:
        StoreFailed: it cannot be written, or a file of that name holds something else.
    """
    digest = hashlib.sha256(data).hexdigest()
    target = prices_dir / f"{digest}.json"
    try:
        if target.exists():
            load(prices_dir, digest)
            return digest
        prices_dir.mkdir(parents=True, exist_ok=True)
        _write_whole(target, data)
    except OSError as error:
        raise StoreFailed(f"the price archive cannot be kept in {prices_dir}: {error.strerror}") from error
    return digest


def load(prices_dir: Path, digest: str) -> bytes:
    """The archive of that hash, verified.

    Raises:
        NotFound: this directory has no archive of that hash.
        StoreFailed: the file cannot be read, or is not what its name says.
    """
    if _NAME.fullmatch(digest) is None:
        raise NotFound("a price archive is named by the 64 hex digits of its SHA-256")
    path = prices_dir / f"{digest}.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{prices_dir} has no price archive {digest}") from None
    except OSError as error:
        raise StoreFailed(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreFailed(f"{path} is damaged: its content is not what its name says; restore it from a backup")
    return data


def all_hashes(prices_dir: Path) -> list[str]:
    """The hashes of all archives kept there, sorted; empty for a directory that does not exist yet."""
    if not prices_dir.is_dir():
        return []
    return sorted(path.stem for path in prices_dir.glob("*.json") if _NAME.fullmatch(path.stem))


def _write_whole(target: Path, data: bytes) -> None:
    """Write beside the target, make it durable, then give it its name."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".new")
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.rename(target)
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
