"""What a format is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costbearer.logformats.record import Record

Columns = Callable[[Record], Mapping[str, Any]]

CONTAINERS = ("data", "observations", "results", "items", "rows", "records", "logs", "requests", "entries", "traces")
"""Names under which an API wraps a list of records of any format."""


class LogFormat(NamedTuple):
    """A usage log of one make.

    `is_record` says of an object whether it is a record of this format. `steps` lead from an object that `is_whole`
    recognises to its records, where these are not objects of their own; `columns` maps one. `carries` are the fields
    that such a log can say at all: one that is missing in a record is a finding only where it could be there.
    `sampled` is where its shape was seen; None where no real sample was at hand, which the report then says.
    `exact_cost` says that its cost is a price times tokens, and not something rounded on the way.
    """

    name: str
    title: str
    is_record: Callable[[Mapping[str, Any]], bool]
    columns: Columns
    carries: frozenset[str]
    sampled: str | None
    steps: tuple[str, ...] = ()
    is_whole: Callable[[Mapping[str, Any]], bool] = lambda _: False
    notes: tuple[str, ...] = ()


class Match(NamedTuple):
    """A format, and the way to its records in a file."""

    format: LogFormat
    steps: tuple[str, ...]


def has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether an object has all of these names."""
    return lambda value: all(name in value for name in names)
