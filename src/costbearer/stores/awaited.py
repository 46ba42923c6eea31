"""Which posted calls await their result, and which posted results await their call.

Known from the ledger when it is opened, and from there on from what is posted. Nothing here is kept: whoever loses it
asks the ledger again and gets the same, because a call that was settled has a reversal in the ledger.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer.ledger import AWAITING_RESULT
from costbearer.stores.duckdb import Ledger


class Key(NamedTuple):
    """By what a result finds its call."""

    provider: str
    provider_response_id: str


class Address(NamedTuple):
    """An entry's identity."""

    journal: str
    sequence: int

    @property
    def entry_id(self) -> str:
        return f"{self.journal}.{self.sequence}"


class _Said(msgspec.Struct, frozen=True):
    provider: str
    provider_response_id: str
    reason_unknown: str | None = None


_said = msgspec.json.Decoder(_Said).decode
_OPEN = ("journal", "sequence", "provider", "provider_response_id")


class Awaited:
    """`open`: calls without their result, by key; the first one posted where there are several.

    `results`: where the first result for a key stands that was posted and not applied.
    """

    def __init__(self) -> None:
        self.open: dict[Key, Address] = {}
        self.results: dict[Key, Address] = {}

    @classmethod
    def survey(cls, ledger: Ledger) -> Awaited:
        """What the ledger holds.

        Raises:
            StoreFailed: it cannot be read.
        """
        awaited = cls()
        awaited._take_open(ledger.awaiting())
        awaited._take_results(ledger.settlements())
        settled = {Key(**row) for row in ledger.settled().to_pylist()} - awaited.open.keys()
        for key in settled & awaited.results.keys():
            del awaited.results[key]
        return awaited

    def take(self, table: pa.Table) -> None:
        """Rows that are posted now (`SEALED_ARROW`), in order."""
        waiting = pc.equal(table.column("reason_unknown"), AWAITING_RESULT)
        if pc.any(waiting).as_py():
            found = table.filter(waiting)
            gone = set(found.filter(pc.less(found.column("calls"), 0)).column("refers_to").to_pylist())
            for key in [key for key, address in self.open.items() if address.entry_id in gone]:
                del self.open[key]
            self._take_open(found.filter(pc.greater(found.column("calls"), 0)).select(_OPEN))
        if table.column("settlement").null_count < table.num_rows:
            has = pc.is_valid(table.column("settlement"))
            self._take_results(table.filter(has).select(["journal", "sequence", "settlement"]))

    def due(self) -> list[tuple[Address, Address]]:
        """(call, result) of every result whose call is there. `drop` what was applied."""
        return [(self.open[key], result) for key, result in self.results.items() if key in self.open]

    def drop(self, key: Key) -> None:
        """The result for this key was applied."""
        self.results.pop(key, None)

    def _take_open(self, rows: pa.Table) -> None:
        for row in rows.to_pylist():
            if row["provider_response_id"]:
                key = Key(row["provider"], row["provider_response_id"])
                self.open.setdefault(key, Address(row["journal"], row["sequence"]))

    def _take_results(self, rows: pa.Table) -> None:
        for row in rows.to_pylist():
            said = _said(row["settlement"])
            if said.reason_unknown != AWAITING_RESULT:
                key = Key(said.provider, said.provider_response_id)
                self.results.setdefault(key, Address(row["journal"], row["sequence"]))
