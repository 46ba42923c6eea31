"""Which posted calls await their result, and which posted results are to be applied.

Known from the ledger when it is opened, and from there on from what is posted. Nothing here is kept: whoever loses it
asks the ledger again and gets the same, because a call that was settled has a replacement in the ledger. Results that
nobody awaits are not held: where a call is posted after its result, the result is in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from costbearer.ledger import AWAITING_RESULT, RESULT_GONE, Settlement
from costbearer.stores.duckdb import Ledger

_WAITING = (AWAITING_RESULT, RESULT_GONE)
"""Reasons of an unknown cost that a result makes known."""
_STANDING = """
SELECT journal, sequence, provider, provider_response_id, reason_unknown FROM entries
WHERE reason_unknown IN (SELECT unnest(?)) AND calls > 0 AND provider_response_id IS NOT NULL
AND journal || '.' || sequence NOT IN (SELECT refers_to FROM entries WHERE refers_to IS NOT NULL AND calls < 0)
ORDER BY started_at, journal, sequence
"""
# A reversal and its replacement refer to the same entry: here to one that awaited its result and does so no more.
_SETTLED = """
SELECT DISTINCT provider, provider_response_id FROM entries
WHERE calls > 0 AND provider_response_id IN (SELECT unnest(?)) AND reason_unknown IS DISTINCT FROM ?
AND refers_to IN (SELECT refers_to FROM entries WHERE calls < 0 AND reason_unknown = ?)
"""
_RESULTS = r"""
SELECT settlement FROM entries WHERE settlement IS NOT NULL
AND regexp_extract(settlement, '"provider_response_id":"((?:[^"\\]|\\.)*)"', 1) IN (SELECT unnest(?))
ORDER BY started_at, journal, sequence
"""


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


class Due(NamedTuple):
    """What is to be corrected: a call, and its result; None for a call that repeats one whose result is known."""

    call: Address
    result: Settlement | None


class _Said(msgspec.Struct, frozen=True):
    provider: str
    provider_response_id: str

    @property
    def key(self) -> Key:
        return Key(self.provider, self.provider_response_id)


_said = msgspec.json.Decoder(_Said).decode
_settlement = msgspec.json.Decoder(Settlement).decode
_CALL = ("journal", "sequence", "provider", "provider_response_id", "reason_unknown")


class Awaited:
    """`open`: by key the calls without their result. Several of one key are one piece of work that was asked for again
    (a create that was sent twice under one idempotency key): the first one posted bears it, the others repeat it.

    `gone`: by key the call whose result was given up; a result of known cost, should one come, still replaces that.
    """

    def __init__(self) -> None:
        self.open: dict[Key, list[Address]] = {}
        self.gone: dict[Key, Address] = {}
        self._results: dict[Key, Settlement] = {}
        self._settled: set[Key] = set()
        self._new: set[Key] = set()

    @classmethod
    def survey(cls, ledger: Ledger) -> Awaited:
        """What the ledger holds.

        Raises:
            StoreFailed: it cannot be read.
        """
        awaited = cls()
        awaited._take_calls(ledger.asked(_STANDING, [list(_WAITING)]))
        return awaited

    def take(self, table: pa.Table) -> None:
        """Rows that are posted now (`SEALED_ARROW`), in order."""
        waiting = pc.is_in(table.column("reason_unknown"), pa.array(_WAITING))
        if pc.any(waiting).as_py():
            found = table.filter(waiting)
            self._remove(set(found.filter(pc.less(found.column("calls"), 0)).column("refers_to").to_pylist()))
            self._take_calls(found.filter(pc.greater(found.column("calls"), 0)).select(_CALL))
            self._new &= self.open.keys() | self.gone.keys()
            self._settled &= self.open.keys()
            self._results = {key: said for key, said in self._results.items() if self._applies(key, said)}
        if table.column("settlement").null_count < table.num_rows:
            self._take_results(table.column("settlement").drop_null())

    def due(self, ledger: Ledger) -> list[Due]:
        """What the posted results correct. It is no more due once the corrections are taken.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        self._look_up(ledger)
        repeats = [Due(call, None) for key in self._settled for call in self.open[key]]
        results = [(key, said) for key, said in self._results.items() if self._applies(key, said)]
        return repeats + [due for key, said in results for due in self._applied(key, said)]

    def due_by(self, results: Iterable[Settlement], ledger: Ledger) -> list[Due]:
        """What these results, which are not posted, would correct; of several for one piece of work the first one.

        Raises:
            StoreFailed: the ledger cannot be read.
        """
        self._look_up(ledger)
        found: dict[Key, list[Due]] = {}
        for said in results:
            key = Key(said.provider, said.provider_response_id)
            if key not in found and self._applies(key, said):
                found[key] = self._applied(key, said)
        return [due for each in found.values() for due in each]

    def _applies(self, key: Key, said: Settlement) -> bool:
        if said.reason_unknown == AWAITING_RESULT:
            return False
        return self._is_open(key) or (key in self.gone and said.cost_usd is not None)

    def _applied(self, key: Key, said: Settlement) -> list[Due]:
        first, *repeats = self.open[key] if self._is_open(key) else [self.gone[key]]
        return [Due(first, said), *(Due(call, None) for call in repeats)]

    def _is_open(self, key: Key) -> bool:
        return key in self.open and key not in self._settled

    def _look_up(self, ledger: Ledger) -> None:
        """What the ledger holds of the calls that came: whether their work was settled before, and their results."""
        if not self._new:
            return
        ids = sorted({key.provider_response_id for key in self._new})
        settled = {Key(**row) for row in ledger.asked(_SETTLED, [ids, AWAITING_RESULT, AWAITING_RESULT]).to_pylist()}
        self._settled |= settled & self.open.keys()
        spelled = [msgspec.json.encode(each).decode()[1:-1] for each in ids]
        self._take_results(ledger.asked(_RESULTS, [spelled]).column("settlement"))
        self._new.clear()

    def _remove(self, entry_ids: set[str]) -> None:
        for key, calls in list(self.open.items()):
            left = [call for call in calls if call.entry_id not in entry_ids]
            if left:
                self.open[key] = left
            else:
                del self.open[key]
        self.gone = {key: call for key, call in self.gone.items() if call.entry_id not in entry_ids}

    def _take_calls(self, rows: pa.Table) -> None:
        for row in rows.to_pylist():
            if row["provider_response_id"]:
                key, call = Key(row["provider"], row["provider_response_id"]), Address(row["journal"], row["sequence"])
                if row["reason_unknown"] == RESULT_GONE:
                    self.gone[key] = call
                else:
                    self.open.setdefault(key, []).append(call)
                self._new.add(key)

    def _take_results(self, column: pa.ChunkedArray) -> None:
        """Hold what applies: the first result of a piece of work, one of known cost before one of unknown."""
        for text in column.to_pylist():
            key = _said(text).key
            if key in self.open or key in self.gone:
                said, held = _settlement(text), self._results.get(key)
                if self._applies(key, said) and (held is None or (held.cost_usd is None and said.cost_usd is not None)):
                    self._results[key] = said
