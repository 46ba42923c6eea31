"""Reports: Ibis expressions over the ledger that become a `Table`, the only thing a surface renders.

Where the ledger is, `question` and `answer` make the table; where only its JSON arrives, `read` makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from costbearer.errors import NotFound
from costbearer.reports import spend, unknown
from costbearer.reports.query import Reader, SpendQuery
from costbearer.reports.table import Table

REPORTS: tuple[str, ...] = ("spend", unknown.NAME)


def question(name: str, parameters: Iterable[tuple[str, str]], *, now: datetime) -> SpendQuery:
    """What the named report is asked. `parameters` are (name, text) pairs as `SpendQuery.parse` takes them.

    Raises:
        NotFound: there is no such report.
        QueryInvalid: names every parameter that is unknown or cannot be used.
    """
    if name not in REPORTS:
        raise NotFound(f"there is no report {name[:60]!r}; known are {', '.join(REPORTS)}")
    if name == unknown.NAME:
        return unknown.question(list(parameters), now=now)
    return SpendQuery.parse(parameters, now=now)


def answer(query: SpendQuery, reader: Reader, *, complete_to: datetime | None = None) -> Table:
    """The report that was asked for.

    Raises:
        StoreFailed: the ledger cannot be read, or contradicts itself.
    """
    if query.report == unknown.NAME:
        return unknown.unknown(reader, query, complete_to=complete_to)
    return spend.spend(reader, query, complete_to=complete_to)


def read(document: Any) -> Table:
    """The table of a report's JSON document, without loss.

    Raises:
        RemoteFailed: the document is not one of a report.
    """
    named = document.get("report") if isinstance(document, Mapping) else None
    return unknown.read(document) if named == unknown.NAME else spend.read(document)
