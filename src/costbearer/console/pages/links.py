"""Where everything on a page leads: from a bucket to what is inside it, from a number to the entries behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode

from costbearer.reports.dimensions import DIMENSIONS, REST, TAG
from costbearer.reports.query import Query
from costbearer.reports.table import Cell, Column

Pairs = Sequence[tuple[str, str]]

FURTHER: Mapping[str, str] = {
    "owner": "team",
    "team": "agent",
    "agent": "workload",
    "workload": "key",
    "key": "day",
    "customer": "workload",
    "feature": "workload",
    "workflow": "agent",
    "provider": "model",
    "model": "workload",
    "month": "day",
    "week": "day",
    "day": "hour",
    "hour": "request",
}
"""What is asked next inside a bucket of a dimension; requests where nothing is said."""
OPENED = {"trace": "/trace", "session": "/session", "request": "/request"}
"""Dimensions whose values have a page of their own."""
IDS = {
    "entry_id": "/receipt",
    "refers_to": "/receipt",
    "call_id": "/receipt",
    "request_id": "/request",
    "trace_id": "/trace",
    "session_id": "/session",
}
_NESTED = frozenset({"spend", "explain"})
"""Reports that keep asking for what stands beside a bucket."""
BEHIND: Mapping[str, Pairs] = {
    "retries": (("reason", "retry"), ("reason", "fallback")),
    "unknown": (("basis", "unknown"),),
}
"""The entries that a cause is about, where they can be told from the others."""


def address(path: str, pairs: Iterable[tuple[str, str]] = ()) -> str:
    """A path with its parameters, readable."""
    query = urlencode(list(pairs), safe=":,/=")
    return f"{path}?{query}" if query else path


def one(path: str, name: str) -> str:
    """The page of one thing."""
    return address(path, [("id", name)])


class Links:
    """Where the cells of a report's tables lead. The period is the table's own, in absolute times, so that a number is
    still the same one click later."""

    def __init__(self, query: Query) -> None:
        self.query = query

    def behind(self, buckets: Mapping[str, str] | None = None, more: Pairs = ()) -> str:
        """The entries of the question, of some buckets of it."""
        return address("/entries", [*self.where(buckets or {}, more), *self.times()])

    def inside(self, buckets: Mapping[str, str], path: str = "/explore") -> str:
        """What is inside of buckets, by the next dimension that is not asked yet."""
        asked = {name for name, _ in self.query.where} | set(buckets)
        rest = [name for name in self.query.by if name not in buckets] if self.query.report in _NESTED else []
        by = ",".join(rest) if rest else self.further(list(buckets)[-1] if buckets else "", asked)
        compare = self._compare() if path in {"/explore", "/why"} else []
        limit = [("limit", "100")] if by == "request" and path == "/explore" else []
        return address(path, [("by", by), *self.where(buckets), *self.times(), *compare, *limit])

    def further(self, name: str, asked: Iterable[str]) -> str:
        """The dimension to ask next below one."""
        taken, found = set(asked), FURTHER.get(name, "request")
        while found in taken and found != "request":
            found = FURTHER.get(found, "request")
        return found

    def where(self, buckets: Mapping[str, str], more: Pairs = ()) -> list[tuple[str, str]]:
        """The question's filters with these buckets in the place of what they narrow."""
        narrowed = set(buckets) | {name for name, _ in more}
        kept = [(name, value) for name, values in self.query.where if name not in narrowed for value in values]
        return [("where", f"{name}={value}") for name, value in (*kept, *buckets.items(), *more)]

    def times(self) -> list[tuple[str, str]]:
        """The question's period and time zone."""
        pairs = self.query.parameters()
        return [(name, value) for name, value in pairs if name in {"since", "until", "tz"}]

    def _compare(self) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.query.parameters() if name == "compare"]

    def of_row(self, columns: Sequence[Column], row: Sequence[Cell]) -> dict[str, str]:
        """Column name -> where its cell leads, for a row whose buckets are dimensions."""
        cells = {column.name: cell for column, cell in zip(columns, row, strict=True)}
        found = {name: one(path, str(cells[name])) for name, path in IDS.items() if _told(cells.get(name))}
        buckets: dict[str, str] = {}
        for column in columns:
            value = cells[column.name]
            if column.kind != "bucket" or not (column.name in DIMENSIONS or column.name.startswith(TAG)):
                continue
            if not isinstance(value, str) or value == REST:
                return found
            buckets[column.name] = value
            own = OPENED.get(column.name)
            opened = own is not None and value != "(none)"
            found[column.name] = one(own, value) if opened and own else self.inside(dict(buckets), self._path())
        if not buckets:
            return found
        if "entry_id" in cells:
            return found | ({"cost_usd": found["entry_id"]} if _told(cells["entry_id"]) else {})
        for name in ("cost_usd", "calls", "unattributed_usd"):
            if name in cells:
                found[name] = self.behind(buckets)
        if cells.get("unknown_calls"):
            found["unknown_calls"] = self.behind(buckets, [("basis", "unknown")])
        if "delta_usd" in cells:
            found["delta_usd"] = self.behind(buckets) if self._path() == "/why" else self.inside(buckets, "/why")
        return found

    def _path(self) -> str:
        return "/why" if self.query.report == "explain" else "/explore"


def _told(cell: Cell) -> bool:
    return isinstance(cell, str) and cell not in {"", REST}
