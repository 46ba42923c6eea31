"""The ways to slice: every dimension by name, how its column is made, and how its values are spelled as buckets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costbearer.attribution import FIELD_OF_TAG
from costbearer.reports.periods import Period, Unit, Zone, shown

NONE = "(none)"
"""The bucket of the missing value. An empty text says nothing and counts as missing."""
REST = "(the rest)"
"""The bucket of all groups behind the limit."""
TAG = "tag:"

_RESERVED = re.compile(r"\\*\((none|the rest)\)")


class Dimension(NamedTuple):
    """One way to slice. `column` makes the Ibis text column (NULL where missing) out of the entries table.

    A dimension of time has a `unit` instead of a column.
    """

    name: str
    column: Callable[[Any], Any]
    unit: Unit | None = None
    source: tuple[str, ...] = ()
    """The ledger's columns that it is made of."""


def _named(name: str, source: str | None = None) -> Dimension:
    column = source or name
    return Dimension(name, lambda entries: entries[column].nullif(""), source=(column,))


def _model(entries: Any) -> Any:
    return entries["response_model"].nullif("").coalesce(entries["request_model"].nullif(""))


def _tag(name: str) -> Callable[[Any], Any]:
    return lambda entries: entries["tags"].get(name).nullif("")


def _no_column(_: Any) -> Any:
    raise TypeError("a dimension of time is made by its zone")


DIMENSIONS: Mapping[str, Dimension] = {
    dimension.name: dimension
    for dimension in (
        *(_named(name) for name in ("owner", "team", "agent", "workload")),
        _named("key", "key_id"),
        *(_named(name) for name in ("key_team", "project", "cost_center", "feature", "workflow")),
        *(_named(name) for name in ("customer", "tenant", "user", "env")),
        _named("session", "session_id"),
        _named("trace", "trace_id"),
        _named("request", "request_id"),
        _named("provider"),
        Dimension("model", _model, source=("response_model", "request_model")),
        *(_named(name) for name in ("request_model", "route", "operation", "tier", "region")),
        *(_named(name) for name in ("status", "basis", "kind", "reason", "reason_unknown", "error_code")),
        *(Dimension(unit, _no_column, unit, ("started_at",)) for unit in ("day", "week", "month", "hour")),
    )
}
"""Every dimension by name, `tag:NAME` apart. `model` is the one that answered; where none did, the one asked for."""


def dimension(name: str) -> Dimension:
    """The dimension of that name.

    Raises:
        KeyError: there is no such dimension; the message lists those there are.
    """
    tag = name.removeprefix(TAG)
    if name.startswith(TAG) and tag in FIELD_OF_TAG:
        field = FIELD_OF_TAG[tag]
        raise KeyError(f"{name} is a field of its own; ask for {field.removesuffix('_id')}")
    if name.startswith(TAG) and tag:
        return Dimension(name, _tag(tag), source=("tags",))
    if name not in DIMENSIONS:
        raise KeyError(f"{shown(name)} is not a dimension; known are {', '.join(DIMENSIONS)} and tag:NAME")
    return DIMENSIONS[name]


def column_of(name: str, entries: Any, zone: Zone, periods: list[Period]) -> Any:
    """The column to group by: text, or the start of a bucket of time (see `Zone.start`) for times in the periods."""
    asked = dimension(name)
    if asked.unit is None:
        return asked.column(entries)
    return zone.start(asked.unit, entries["started_at"], periods)


def spelled(name: str, value: Any, zone: Zone) -> str:
    """The bucket of a value of `column_of`."""
    unit = DIMENSIONS[name].unit if name in DIMENSIONS else None
    return bucket(value) if unit is None else zone.spell(unit, value)


def bucket(value: str | None) -> str:
    r"""How a value is spelled as a bucket: missing is `(none)`, a value that really reads `(none)` is `\(none)`."""
    if value is None:
        return NONE
    return "\\" + value if _RESERVED.fullmatch(value) else value


def value_of(text: str) -> str | None:
    """The value a bucket's spelling stands for; the reverse of `bucket`."""
    if text == NONE:
        return None
    return text[1:] if _RESERVED.fullmatch(text) else text
