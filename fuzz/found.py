"""What fuzzing has found: the inputs as they were, replayed for ever with the seeds of their target."""

from __future__ import annotations

from collections.abc import Mapping

FOUND: Mapping[str, tuple[bytes, ...]] = {
    # A row of YAML whose name is no text: the refusal that should have named it was a TypeError.
    "owners": (
        b"ownership:\n  - key: sk-search-1\n    null: search\n    owner: ana\n    from: 2026-01-01\n",
        b"ownership:\n  - {key: a, 1: x, b: y, owner: ana}\n",
        b"- " * 3000,
        b"- key: 2026-13-45\n  owner: ana\n",
    ),
}
