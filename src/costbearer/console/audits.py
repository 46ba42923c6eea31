"""Audits that a page or the API asks for: each in a process of its own, so that a hostile log can hurt nothing else.

Nothing of the log is kept: its file goes as soon as it has been read, the result after an hour, or with the console.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from costbearer.audit.run import PROGRESS
from costbearer.errors import InputInvalid, NotFound, RateLimited

LOG_BYTES_MAX = 50 * 1024 * 1024
RUNS_MAX = 20
"""Audits that are remembered; the oldest that has ended makes room."""
WAITING_MAX = 8
RUN_S_MAX = 600.0
KEPT_S = 3600.0
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARS_MAX = 80

State = Literal["waiting", "running", "done", "failed"]


class Audit:
    """One audit. `document` is its result, `html` its page; `said` what it is doing, or why it failed."""

    def __init__(self, name: str, size: int, began: float) -> None:
        self.audit_id = f"aud_{secrets.token_hex(8)}"
        self.name, self.size, self.began = name, size, began
        self.state: State = "waiting"
        self.said = "waiting for the one before"
        self.document: dict[str, Any] = {}
        self.html = b""
        self.ended = 0.0
        self.over = threading.Event()


class Audits:
    """The audits of one console, one at a time. `data` is the data directory: its prices and contract hold."""

    def __init__(self, data: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._data, self._clock = data, clock
        self._runs: dict[str, Audit] = {}
        self._lock, self._turn = threading.Lock(), threading.Semaphore(1)

    def start(self, name: str, log: IO[bytes], options: Mapping[str, str | tuple[str, bytes]]) -> Audit:
        """Begin an audit of a log. `options` are those of the command, a file as (name, content).

        Raises:
            InputInvalid: there is nothing in it, or more than `LOG_BYTES_MAX`.
            RateLimited: too many are waiting.
        """
        place = Path(tempfile.mkdtemp(prefix="costbearer-audit-"))
        try:
            shown = safe_name(name)
            size = _copied(log, place / shown)
            arguments = [part for key, value in options.items() for part in _argument(place, key, value)]
            made = Audit(shown, size, self._clock())
            self._remember(made)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        threading.Thread(target=self._run, args=(made, place, arguments), name="audit", daemon=True).start()
        return made

    def get(self, audit_id: str) -> Audit:
        """Raises `NotFound` where there is none, or it is forgotten."""
        found = self._runs.get(audit_id)
        if found is None or (found.ended and self._clock() - found.ended > KEPT_S):
            raise NotFound(
                f"there is no audit {audit_id[:40]!r}; results are kept for an hour, findings where you keep them"
            )
        return found

    def _remember(self, made: Audit) -> None:
        with self._lock:
            if sum(1 for each in self._runs.values() if not each.over.is_set()) >= WAITING_MAX:
                raise RateLimited(f"{WAITING_MAX} audits are waiting or running; wait for one of them")
            ended = [each for each in self._runs.values() if each.over.is_set()]
            for each in ended[: max(0, len(self._runs) + 1 - RUNS_MAX)]:
                del self._runs[each.audit_id]
            self._runs[made.audit_id] = made

    def _run(self, made: Audit, place: Path, arguments: list[str]) -> None:
        try:
            with self._turn:
                made.state, made.said = "running", "starting"
                self._audited(made, place, arguments)
        except (OSError, InputInvalid, msgspec.DecodeError) as error:
            made.state, made.said = "failed", str(error) or "it failed; the server's log says more"
        finally:
            shutil.rmtree(place, ignore_errors=True)
            made.ended = self._clock()
            made.over.set()

    def _audited(self, made: Audit, place: Path, arguments: list[str]) -> None:
        page, out = place / "audit.html", place / "audit.json"
        command = [sys.executable, "-m", "costbearer", "audit", made.name, *arguments]
        command += ["--json", "--html", page.name, "--progress", "--data", str(self._data)]
        last = ""
        with (
            out.open("wb") as stdout,
            subprocess.Popen(command, cwd=place, stdout=stdout, stderr=subprocess.PIPE) as process,  # noqa: S603
        ):
            ending = threading.Timer(RUN_S_MAX, process.kill)
            ending.start()
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    text = line.decode("utf-8", "replace").strip()
                    if text.startswith(PROGRESS):
                        made.said = text.removeprefix(PROGRESS)
                    elif text:
                        last = text
                code = process.wait()
            finally:
                ending.cancel()
        if code != 0:
            raise InputInvalid(last.removeprefix("error: ") if last else f"it was ended after {RUN_S_MAX:.0f} s")
        made.document = msgspec.json.decode(out.read_bytes())
        with contextlib.suppress(FileNotFoundError):
            made.html = page.read_bytes()
        made.state, made.said = "done", ""


def safe_name(name: str) -> str:
    """A file's name without a way to anywhere else; what it ends in says what it is packed with."""
    bare = _NAME.sub("_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".-")
    return bare[-_NAME_CHARS_MAX:] or "log"


def _copied(log: IO[bytes], file: Path) -> int:
    size = 0
    with file.open("wb") as target:
        while piece := log.read(1024 * 1024):
            size += len(piece)
            if size > LOG_BYTES_MAX:
                raise InputInvalid(
                    f"the log has more than {LOG_BYTES_MAX // 1024 // 1024} MB; `costbearer audit FILE` takes any size"
                )
            target.write(piece)
    if not size:
        raise InputInvalid("there is nothing in it: paste a log, or choose a file")
    return size


def _argument(place: Path, key: str, value: str | tuple[str, bytes]) -> list[str]:
    if isinstance(value, str):
        return [f"--{key}", value]
    name, content = value
    file = f"{key}-{safe_name(name)}"
    (place / file).write_bytes(content)
    return [f"--{key}", file]
