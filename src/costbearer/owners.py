"""Rows of the ownership map: who answers, from a moment on, for what other gateways' logs name. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from costbearer.errors import FieldInvalid
from costbearer.forms import moment
from costbearer.labels import cleaned, fault
from costbearer.ledger import LABELS

KINDS: tuple[str, ...] = ("key", "identity", "workspace", "project", "agent", "user")
"""What a row can match, the most exact first."""
_VALUE_CHARACTERS_MAX = 1024


class OwnerRow(msgspec.Struct, frozen=True):
    """One row of the ownership map: what it matches, from when (None: from ever), and the labels it gives."""

    kind: str
    value: str
    since: datetime | None
    gives: dict[str, str]


def document(row: OwnerRow) -> dict[str, Any]:
    """A row of the map as JSON."""
    since = None if row.since is None else row.since.isoformat().replace("+00:00", "Z")
    return {"kind": row.kind, "value": row.value, "from": since, **{name: row.gives.get(name) for name in LABELS}}


def rows(given: Sequence[dict[str, object]]) -> list[OwnerRow]:
    """Rows of the map out of JSON.

    Raises:
        FieldInvalid: naming every faulty row.
    """
    faults: dict[str, str] = {}
    found = []
    for number, row in enumerate(given, 1):
        own: dict[str, str] = {}
        found.append(_owner_row(row, own))
        if own:
            faults[f"rows, row {number}"] = "; ".join(f"{name}: {words}" for name, words in own.items())
    if faults:
        raise FieldInvalid(faults)
    return found


def _owner_row(row: dict[str, object], faults: dict[str, str]) -> OwnerRow:
    faults |= {str(name)[:60]: "unknown field" for name in set(row) - {"kind", "value", "from", *LABELS}}
    kind, value = row.get("kind"), row.get("value")
    if kind not in KINDS:
        faults["kind"] = f"must be one of {', '.join(KINDS)}"
    if not isinstance(value, str) or not 0 < len(value) <= _VALUE_CHARACTERS_MAX:
        faults["value"] = f"must be a text of 1 to {_VALUE_CHARACTERS_MAX} characters"
    since: datetime | None = None
    if row.get("from") is not None:
        since = moment(row["from"])
        if since is None:
            faults["from"] = "must be a day such as 2026-08-01, or a time with its offset"
    gives = {name: row[name] for name in LABELS if row.get(name) is not None}
    faults |= {name: words for name, each in gives.items() if (words := fault(each)) is not None}
    if not gives.keys() & {"owner", "team"}:
        faults["owner"] = "neither owner nor team is said"
    return OwnerRow(str(kind), str(value), since, {name: cleaned(str(each)) for name, each in gives.items()})
