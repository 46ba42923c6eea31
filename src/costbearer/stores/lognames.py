"""Which files names mean: those that are named, what a pattern matches, what lies in a directory and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from costbearer.errors import InputInvalid

STDIN = "-"
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""How packed files begin."""
USUAL_RATIO = 8
"""How much logs shrink when they are packed."""
PATTERN = re.compile(r"[*?\[]")
SKIPPED_SUFFIXES = frozenset({".md", ".html", ".htm", ".pdf", ".png", ".py", ".toml", ".yaml", ".yml", ".lock"})
"""What a directory may hold beside logs; a file that is named itself is always read."""


def found(names: Sequence[str]) -> list[str]:
    """The files that the names mean: files, patterns, directories with all that is in them, `-` for standard input.
    A link in a directory is followed only within it: what lies elsewhere has not been asked for.

    Raises:
        InputInvalid: a name means nothing, or cannot be read.
    """
    files: list[str] = []
    for name in names:
        try:
            files += _meant(name)
        except OSError as error:
            raise InputInvalid(f"{name[:200]}: cannot be read: {error.strerror or error}") from None
    return list(dict.fromkeys(files))


def _meant(name: str) -> list[str]:
    path = Path(name)
    if name == STDIN or path.is_file():
        return [name]
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file() and _is_log(each, path))
        if not inside:
            raise InputInvalid(f"{name}: the directory holds no log file")
        return list(map(str, inside))
    if "://" in name:
        # Not repeated: an address often holds a password or a token.
        raise InputInvalid("an address is read only where it is postgresql://HOST/DB; fetch the file first")
    if PATTERN.search(name):
        matches = sorted(str(each) for each in _globbed(path) if each.is_file())
        if not matches:
            raise InputInvalid(f"{name}: no file matches the pattern")
        return matches
    if not path.exists():
        raise InputInvalid(f"{name}: no such file or directory")
    return [name]


def bytes_of(names: Sequence[str]) -> int:
    """About how much text the names mean; packed files as if they were unpacked, standard input not at all."""
    size = 0
    for name in names:
        try:
            for file in found([name]) if name != STDIN and "://" not in name else ():
                with Path(file).open("rb") as handle:
                    packed = handle.read(4)[:2] in {GZIP, ZSTD[:2]}
                size += Path(file).stat().st_size * (USUAL_RATIO if packed else 1)
        except (InputInvalid, OSError):
            continue
    return size


def _globbed(pattern: Path) -> Iterator[Path]:
    parts = pattern.parts
    fixed = next(place for place, part in enumerate(parts) if PATTERN.search(part))
    return Path(*parts[:fixed]).glob("/".join(parts[fixed:]))


def _is_log(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    if hidden or path.suffix.lower() in SKIPPED_SUFFIXES:
        return False
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())
