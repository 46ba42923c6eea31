"""Providers' credentials as they are now: those in files are read again when the files change.

Some do not last: an access token of Vertex AI lives for an hour. Whatever renews it writes it to the file that
`api_key_file` names, best to another file that then takes its name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from costbearer.config import Provider, is_key

log = logging.getLogger("costbearer.credentials")

Stamp = tuple[int, int, int]


class Credentials:
    """The credential of each provider, by the provider's name. One thread uses it."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._held = {name: provider.credential for name, provider in providers.items()}
        self._files = {name: each.credential_file for name, each in providers.items() if each.credential_file}
        self._unread: set[str] = set()
        self._seen: dict[str, Stamp | None] = {name: _stamp(file) for name, file in self._files.items()}

    def of(self, name: str) -> str:
        """The credential that holds for a provider."""
        return self._held[name]

    def refresh(self) -> frozenset[str]:
        """Look at the files; gives the providers whose credential is another one now.

        A file that is gone or holds no key changes nothing: that is said once, and looked at again when it changes. One
        that cannot be read is said once too, and tried again.
        """
        changed: set[str] = set()
        for name, file in self._files.items():
            stamp = _stamp(file)
            if stamp == self._seen[name]:
                continue
            try:
                found = _read(file)
            except OSError as error:
                # Descriptors may be short for a moment: what was not read is not seen.
                if name not in self._unread:
                    log.warning("%s: the file of its credential cannot be read; the one before holds: %s", name, error)
                self._unread.add(name)
                continue
            self._seen[name] = stamp
            self._unread.discard(name)
            if not found:
                log.warning("%s: the file of its credential holds no key now; the one before holds", name)
            elif found != self._held[name]:
                self._held[name] = found
                changed.add(name)
        return frozenset(changed)


def _stamp(file: Path) -> Stamp | None:
    """What changes when the file does; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return text if is_key(text) else ""
