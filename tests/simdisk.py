"""A disk that can be taken away: between Python's `os` and the real files below one directory.

It counts what changes them, has a chosen call fail or be the process's last, and knows of every file and name what has
been made durable. `cut_power` leaves one of the states that a file system may then show: of what was not synced, any
part; of names that were changed since their directory was synced, any or only the first ones. It is stricter than most
disks: syncing a file makes its bytes durable and not its name, and changes of names have no order. After a failed sync
a second one succeeds and writes nothing, as Linux does it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE_BYTES = 4096
WORKS = "write fsync fdatasync ftruncate posix_fallocate rename replace unlink mkdir open"


class Death(BaseException):
    """The process is dead: no handler of its own runs on."""


class Disk:
    """Patches `os` while it lives.

    Attributes:
        owner: the process that acts; who dies has its descriptors closed by `bury`.
        dead: a chosen call has been the last of this process.
        lying: files (inodes) of which a sync failed, and the bytes that were not durable then and will never be.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = str(root)
        self.owner = ""
        self.dead = False
        self.lying: dict[int, tuple[int, int]] = {}
        self._unheard: set[int] = set()
        self.trace = hashlib.sha256()
        self._fault = ("", 0, 0)
        self._count = 0
        self._fds: dict[int, tuple[str, int]] = {}
        self._durable: dict[int, bytes] = {}
        self._changes: dict[int, list[_Change]] = {}
        self._graves = root.parent / "graves"
        self._graves.mkdir()
        self._buried = 0
        self._real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*WORKS.split(), "close")}
        for name in WORKS.split():
            patch.setattr(os, name, getattr(self, f"_{name}"))
        patch.setattr(os, "close", self._close)
        real_open = Path.open

        def opened(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode == "wb" and self._inside(path):
                return _Stream(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            return real_open(path, mode, *arguments, **named)

        patch.setattr(Path, "open", opened)

    # -- what the test does to it

    def arm(self, how: str, nth: int, code: int = 0) -> None:
        """The `nth` call from now on: `before`, `half` or `after` it the process dies; `error` fails with `code`;
        `short` writes half."""
        self._fault, self._count = (how, nth, code), 0

    def disarm(self) -> None:
        self._fault = ("", 0, 0)

    def bury(self, owner: str) -> None:
        """What the system does with a dead process: close its descriptors, and with them its locks."""
        for fd in [fd for fd, (holder, _) in self._fds.items() if holder == owner]:
            self._close(fd)
        self.dead = False
        self.disarm()

    def step(self, name: str) -> Callable[[], None]:
        """A step that is no call of `os` (a transaction of the ledger's) begins; what it gives is called at its end. A
        process may die before it and after it."""
        return self._enter(name, "", fails=False)

    def cut_power(self, chance: random.Random) -> None:
        """What the disk shows when power comes back. Every process must have been buried."""
        assert not self._fds, "somebody still lives"
        for changes in self._changes.values():
            for change in _forgotten(changes, chance):
                change.undo()
        self._changes.clear()
        for path in sorted(Path(self.root).rglob("*")):
            if path.is_file():
                inode = path.stat().st_ino
                held, durable = path.read_bytes(), self._durable.get(inode, b"")
                if held != durable:
                    held = _remains(durable, held, chance)
                    with open(path, "wb") as stream:  # noqa: PTH123 - as the disk does it, around what is patched
                        stream.write(held)
                self._durable[inode] = held
                self.trace.update(f"{path.name} {hashlib.sha256(held).hexdigest()}\n".encode())
        self.lying.clear()

    # -- what the product calls

    def _inside(self, path: object) -> bool:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        return isinstance(text, str) and (text + "/").startswith(self.root + "/")

    def _enter(self, name: str, what: str, *, fails: bool = True) -> Callable[[], None]:
        """Before a call. What it gives is to be called after it."""
        if self.dead:
            raise Death
        self._count += 1
        how, nth, code = self._fault
        hit = self._count == nth
        self.trace.update(f"{self.owner} {name} {what} {how if hit else ''}\n".encode())
        if hit and how == "error" and fails:
            raise OSError(code, os.strerror(code))
        if hit and how == "before":
            self.dead = True
            raise Death

        def leave() -> None:
            if hit and how in {"half", "after"}:
                self.dead = True
                raise Death

        return leave

    def _changed(self, path: str | Path, undo: Callable[[Path], None], *names: str) -> None:
        """Names in the directory of `path` have changed; `undo` gets where that directory is by then."""
        inode = Path(path).parent.stat().st_ino

        def undone() -> None:
            for directory in (Path(self.root), *Path(self.root).rglob("*")):
                if directory.is_dir() and directory.stat().st_ino == inode:
                    undo(directory)
                    return

        self._changes.setdefault(inode, []).append(_Change(frozenset(names), undone))

    def _write(self, fd: int, data: Any) -> int:
        if fd not in self._fds:
            return int(self._real["write"](fd, data))
        leave = self._enter("write", hashlib.sha256(data).hexdigest())
        how, nth, _ = self._fault
        part = self._count == nth and how in {"half", "short"}
        done = self._real["write"](fd, bytes(data[: len(data) // 2])) if part else self._real["write"](fd, data)
        leave()
        return int(done)

    def _synced(self, name: str, fd: int) -> None:
        if fd not in self._fds:
            return
        inode, file = self._fds[fd][1], Path(f"/proc/self/fd/{fd}").resolve()
        try:
            leave = self._enter(name, file.name)
            if fd in self._unheard:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError:
            self._failed(fd, inode)
            raise
        if file.is_dir():
            self._changes.pop(inode, None)
        else:
            data = bytearray(file.read_bytes())
            start, end = self.lying.get(inode, (0, 0))
            data[start:end] = bytes(end - start)
            self._durable[inode] = bytes(data)
        leave()

    def _failed(self, fd: int, inode: int) -> None:
        """The pages that could not be written are dropped, and everybody who has the file open hears of it once."""
        self._unheard.discard(fd)
        if inode not in self.lying and not Path(f"/proc/self/fd/{fd}").resolve().is_dir():
            size = os.fstat(fd).st_size
            self.lying[inode] = (min(len(self._durable.get(inode, b"")), size), size)
            self._unheard |= {other for other, (_, held) in self._fds.items() if held == inode and other != fd}

    def _fsync(self, fd: int) -> None:
        self._synced("fsync", fd)

    def _fdatasync(self, fd: int) -> None:
        self._synced("fdatasync", fd)

    def _ftruncate(self, fd: int, size: int) -> None:
        leave = self._enter("ftruncate", str(size))
        self._real["ftruncate"](fd, size)
        inode = os.fstat(fd).st_ino
        start, end = self.lying.pop(inode, (0, 0))
        if start < min(end, size):
            self.lying[inode] = (start, min(end, size))
        leave()

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        leave = self._enter("posix_fallocate", str(size))
        self._real["ftruncate"](fd, max(offset + size, os.fstat(fd).st_size))
        leave()

    def _rename(self, source: Any, target: Any, **named: Any) -> None:
        if not self._inside(target):
            self._real["rename"](source, target, **named)
            return
        leave = self._enter("rename", Path(target).name)
        old, new = Path(source).name, Path(target).name
        covered = self._kept(target) if Path(target).exists() else None
        self._real["rename"](source, target)

        def undo(directory: Path) -> None:
            self._real["rename"](directory / new, directory / old)
            if covered is not None:
                os.link(covered, directory / new)

        self._changed(target, undo, old, new)
        leave()

    def _replace(self, source: Any, target: Any, **named: Any) -> None:
        self._rename(source, target, **named)

    def _unlink(self, path: Any, **named: Any) -> None:
        if not self._inside(path) or named:
            self._real["unlink"](path, **named)
            return
        if not os.path.lexists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        leave = self._enter("unlink", Path(path).name)
        kept, name = self._kept(path), Path(path).name
        self._real["unlink"](path)
        self._changed(path, lambda directory: os.link(kept, directory / name), name)
        leave()

    def _mkdir(self, path: Any, mode: int = 0o777, **named: Any) -> None:
        if not self._inside(path):
            self._real["mkdir"](path, mode, **named)
            return
        leave = self._enter("mkdir", Path(path).name)
        self._real["mkdir"](path, mode)
        name = Path(path).name
        self._changes.pop(Path(path).stat().st_ino, None)
        self._changed(path, lambda directory: shutil.rmtree(directory / name, ignore_errors=True), name)
        leave()

    def _open(self, path: Any, flags: int, mode: int = 0o777, **named: Any) -> int:
        if named or not self._inside(path):
            return int(self._real["open"](path, flags, mode, **named))
        if self.dead:
            raise Death
        fresh = bool(flags & os.O_CREAT) and not Path(path).exists()
        leave = self._enter("open", Path(path).name) if fresh or flags & os.O_TRUNC else None
        fd = int(self._real["open"](path, flags, mode))
        inode = os.fstat(fd).st_ino
        self._fds[fd] = (self.owner, inode)
        if fresh:
            # The number may have been another file's, which is gone.
            self._durable.pop(inode, None)
            self.lying.pop(inode, None)
        if flags & os.O_TRUNC:
            self.lying.pop(inode, None)
            name = Path(path).name
            self._changed(path, lambda directory: self._real["unlink"](directory / name), name)
        if leave is not None:
            leave()
        return fd

    def _close(self, fd: int) -> None:
        self._fds.pop(fd, None)
        self._unheard.discard(fd)
        self._real["close"](fd)

    def _kept(self, path: Any) -> Path:
        """Another name for a file that is about to lose its own, so that a power cut can give it back."""
        self._buried += 1
        grave = self._graves / str(self._buried)
        os.link(path, grave)
        return grave


class _Stream:
    """What `Path.open("wb")` gives: every write is one, and none waits in a buffer."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def flush(self) -> None:
        return

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        return len(data)


class _Change(NamedTuple):
    """A change of names in a directory that was not synced since, and how it is taken back."""

    names: frozenset[str]
    undo: Callable[[], None]


def _forgotten(changes: list[_Change], chance: random.Random) -> list[_Change]:
    """Which changes the disk has not kept, the latest first. One that is gone takes with it what was built on it."""
    kept = chance.randint(0, len(changes))
    if chance.random() < 0.5:
        return changes[kept:][::-1]
    gone: list[_Change] = []
    names: frozenset[str] = frozenset()
    for change in changes:
        if change.names & names or chance.random() < 0.4:
            gone.append(change)
            names |= change.names
    return gone[::-1]


def _remains(durable: bytes, held: bytes, chance: random.Random) -> bytes:
    """What may be there of a file that holds `held` and of which `durable` was synced."""
    if not held.startswith(durable):
        return chance.choice((durable, held))
    fresh = held[len(durable) :]
    how = chance.randrange(4)
    if how == 0:
        return held
    part = bytearray(fresh[: chance.randint(0, len(fresh))])
    if how == 1:
        # The file has grown, and its last blocks were never written.
        zeroed = chance.randint(0, len(part))
        part[zeroed:] = bytes(len(part) - zeroed)
    elif how == 2:
        # Pages reach the disk in any order: some in the middle are still empty.
        for start in range(0, len(part), PAGE_BYTES):
            if chance.random() < 0.3:
                end = min(start + PAGE_BYTES, len(part))
                part[start:end] = bytes(end - start)
    return durable + bytes(part)
