"""When each key was last used: out of the ledger, never out of what a caller's process remembers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from costbearer.reports.query import Reader


def last_used(reader: Reader, keys: Collection[str] | None = None) -> dict[str, datetime]:
    """Key -> start of its last call, for the keys that have had one.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    entries = reader.entries
    chosen = entries if keys is None else entries.filter(entries["key_id"].isin(list(keys)))
    rows = reader.execute(chosen.group_by("key_id").aggregate(last=chosen["started_at"].max())).to_pylist()
    return {row["key_id"]: row["last"] for row in rows if row["key_id"]}
