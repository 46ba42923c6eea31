"""How a format reads one record: by the paths of its values, which become columns of the engine.

A format's mapping is a function of a `Record`. It is called twice: once to learn which paths it asks for, so that the
engine reads these and nothing else; then with the columns that were read. It sees values, never rows.

A path is written with slashes, `metadata/usage_object/prompt_tokens`. What stands at its first name may be an object
or the text of one (a cell of a table, a string of JSON inside JSON); the rest leads into it. Every value is read as
text, in which nothing is lost, and `count`, `usd`, `time` and `flag` say what it is; text that is not that is NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import ibis

Form = Literal["text", "map", "attributes"]
"""What stands at a path: a value, an object with names of its own, or OTLP's list of attributes. The last two become
names and texts."""


ASSERTED: Mapping[str, tuple[str, ...]] = {
    "asserted_owner": ("owner",),
    "asserted_team": ("owner_team", "team"),
    "workflow": ("workflow_id", "workflow"),
    "feature": ("feature",),
    "tenant": ("tenant_id", "tenant", "customer_id", "customer"),
    "env": ("env", "environment"),
}
"""What callers say of a call in tags, metadata and baggage, by the names they use for it."""


class Ask(NamedTuple):
    """A value a format asks for. `up` is 0 in the record, 1 in what holds it, 2 in what holds that."""

    up: int
    path: tuple[str, ...]
    form: Form


_NOTHING: Mapping[Form, str] = {
    "text": "string",
    "map": "map<string, string>",
    "attributes": "map<string, string>",
}
_Value = Any


class Record:
    """The values of a record, as columns."""

    def __init__(self, values: Mapping[Ask, Any] | None = None, *, up: int = 0, asked: dict[Ask, None] | None = None):
        """Without `values` everything is NULL, and `asked` remembers what was wanted."""
        self._values = values
        self._up = up
        self.asked: dict[Ask, None] = {} if asked is None else asked

    def up(self, levels: int) -> Record:
        """What holds the record, so many levels above it: of a span its scope, then its resource."""
        return Record(self._values, up=self._up + levels, asked=self.asked)

    def _get(self, path: str, form: Form) -> Any:
        ask = Ask(self._up, tuple(path.split("/")), form)
        self.asked[ask] = None
        if self._values is None:
            return ibis.null(_NOTHING[form])
        return self._values[ask]

    def raw(self, path: str) -> Any:
        """The text as it stands; NULL where there is none."""
        return self._get(path, "text")

    def text(self, *paths: str) -> Any:
        """The first of these that says something; an empty text says nothing."""
        return first(*(_said(self.raw(path)) for path in paths))

    def count(self, *paths: str) -> Any:
        """A whole number of tokens, characters, calls."""
        return first(*(as_count(self.raw(path)) for path in paths))

    def usd(self, *paths: str) -> Any:
        """An amount with 12 places."""
        return first(*(as_usd(self.raw(path)) for path in paths))

    def time(self, *paths: str) -> Any:
        """A moment, in UTC; a time without a zone is UTC."""
        return first(*(as_time(_said(self.raw(path))) for path in paths))

    def flag(self, *paths: str) -> Any:
        return first(*(as_flag(self.raw(path)) for path in paths))

    def map(self, path: str) -> Any:
        """An object whose names are not known beforehand, as names and texts."""
        return self._get(path, "map")

    def tag(self, path: str, *names: str) -> Any:
        """The first of these names in a list of texts such as `feature:search`."""
        text = self.raw(path)
        return first(*(_said(tag_of(text, name)) for name in names))

    def attributes(self, path: str) -> Attributes:
        """OTLP's list of attributes, by name."""
        return Attributes(self._get(path, "attributes"))


class Attributes:
    """Values by names that may contain anything, of which the first that is there is taken."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def text(self, *names: str) -> Any:
        return first(*(_said(self.values.get(name)) for name in names))

    def count(self, *names: str) -> Any:
        return first(*(as_count(self.values.get(name)) for name in names))

    def usd(self, *names: str) -> Any:
        return first(*(as_usd(self.values.get(name)) for name in names))

    def flag(self, *names: str) -> Any:
        return first(*(as_flag(self.values.get(name)) for name in names))


def asked(columns: Callable[[Record], Mapping[str, Any]]) -> list[Ask]:
    """What a mapping asks for."""
    record = Record()
    columns(record)
    return list(record.asked)


def first(*values: Any) -> Any:
    return values[0] if len(values) == 1 else ibis.coalesce(*values)


def _said(value: Any) -> Any:
    return value.nullif("")


def total(*counts: Any) -> Any:
    """The sum of counts of which some may be missing; NULL where all are."""
    return ibis.ifelse(
        ibis.or_(*(count.notnull() for count in counts)),
        sum((ibis.coalesce(count, 0) for count in counts), ibis.literal(0, "int64")),
        ibis.null("int64"),
    ).cast("int64")


def tag(values: Any, *names: str) -> Any:
    """The first of these names in a map that says something."""
    return first(*(_said(values.get(name)) for name in names))


# The engine's own functions, which `stores.logs` defines; here only their names and types are known.


@ibis.udf.scalar.builtin(name="as_count", signature=(("string",), "int64"))
def as_count(text): ...  # type: ignore[no-untyped-def]


@ibis.udf.scalar.builtin(name="as_usd", signature=(("string",), "decimal(38, 12)"))
def as_usd(text): ...  # type: ignore[no-untyped-def]


@ibis.udf.scalar.builtin(name="as_time", signature=(("string",), "timestamp(6)"))
def as_time(text): ...  # type: ignore[no-untyped-def]


@ibis.udf.scalar.builtin(name="as_flag", signature=(("string",), "boolean"))
def as_flag(text): ...  # type: ignore[no-untyped-def]


@ibis.udf.scalar.builtin(name="tag_of", signature=(("string", "string"), "string"))
def tag_of(text, key): ...  # type: ignore[no-untyped-def]


@ibis.udf.scalar.builtin(name="places_of", signature=(("string",), "int64"))
def places_of(text): ...  # type: ignore[no-untyped-def]
