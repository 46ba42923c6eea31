"""What a price archive holds: providers, models, the names they match, and dated rows of prices.

The archive is JSON, written by `tools/compile_prices.py` and kept under its hash for ever; `prices.PriceBook` answers
from it. Prices are decimal text in USD per token or per request, at most 12 places. Units without a meter keep their
source's name and unit (`input_image_tokens` per token, `audio_hours` per hour) and are never rated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from typing import Any

import msgspec

FORMAT = 1
"""The archive format this version reads and writes."""

Clause = Mapping[str, Any]
"""How a name is recognised: `equals`, `starts_with`, `ends_with`, `contains` or `regex` with a text, `or` or `and` with
clauses. Names are matched in lower case."""


class Row(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Prices by unit, with the days `[since, until)`, the daily UTC hours and the context they hold in.

    A price is its text, or `[text, [threshold, text], ...]` where it steps up with the size of the input. `source`
    names the overlay's rule it comes from; None is genai-prices.
    """

    prices: dict[str, str | list[Any]]
    when: dict[str, str] = {}
    since: date | None = None
    until: date | None = None
    hours: tuple[time, time] | None = None
    source: str | None = None

    def active(self, day: date, clock: time) -> bool:
        if (self.since is not None and day < self.since) or (self.until is not None and day >= self.until):
            return False
        if self.hours is None:
            return True
        start, end = self.hours
        return start <= clock < end if start <= end else clock >= start or clock < end


class Model(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One model at one provider. The last active row of `prices` holds; of `variants`, the first that names a unit."""

    provider: str
    id: str
    match: dict[str, Any]
    prices: tuple[Row, ...]
    variants: tuple[Row, ...] = ()
    context_window: int | None = None

    def edges(self) -> tuple[time, ...]:
        """The times of day (UTC) at which a price may change, sorted."""
        return tuple(sorted({edge for row in (*self.prices, *self.variants) for edge in row.hours or ()}))

    def boundaries(self, special: Mapping[str, str]) -> set[date]:
        """The days on which the price in this context may change."""
        rows = (*self.prices, *(row for row in self.variants if row.when == special))
        return {day for row in rows for day in (row.since, row.until) if day is not None}

    def standard(self, day: date, clock: time) -> Row:
        """The row of standard prices in force."""
        return next((row for row in reversed(self.prices) if row.active(day, clock)), self.prices[0])

    def special(self, special: Mapping[str, str], day: date, clock: time) -> list[Row]:
        """The rows in force for exactly this context, the one that wins first; empty where the archive states none."""
        return [row for row in self.variants if row.when == special and row.active(day, clock)]


class Provider(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`match` recognises the names of models this provider makes; `fallback` are providers whose prices it borrows."""

    id: str
    name: str
    api_pattern: str
    match: dict[str, Any] | None = None
    fallback: tuple[str, ...] = ()


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name that meant another model before the day `until`."""

    provider: str
    name: str
    model: str
    until: date
    source: str


class Archive(msgspec.Struct, frozen=True):
    """The parts that prices follow from; the file says besides where they come from and what was repaired."""

    format: int
    providers: tuple[Provider, ...]
    aliases: tuple[Alias, ...]
    models: tuple[Model, ...]


def matcher(clause: Clause) -> Callable[[str], bool]:
    """The clause as a test of a name in lower case.

    Raises:
        ValueError: a clause of no known kind.
        re.error: a regular expression that is none.
    """
    ((kind, value),) = clause.items()
    if kind in ("or", "and"):
        tests = [matcher(each) for each in value]
        return (
            (lambda name: any(test(name) for test in tests))
            if kind == "or"
            else lambda name: all(test(name) for test in tests)
        )
    if kind == "regex":
        search = re.compile(value).search
        return lambda name: search(name) is not None
    text = value.lower()
    match kind:
        case "equals":
            return lambda name: name == text
        case "starts_with":
            return lambda name: name.startswith(text)
        case "ends_with":
            return lambda name: name.endswith(text)
        case "contains":
            return lambda name: text in name
    raise ValueError(f"no such clause: {kind}")


class NameIndex:
    """Finds the first of many clauses that matches a name: exact names by one look-up, patterns in order."""

    def __init__(self, clauses: Iterable[Clause]) -> None:
        self._exact: dict[str, int] = {}
        self._patterns: list[tuple[int, Callable[[str], bool]]] = []
        for position, clause in enumerate(clauses):
            for each in clause.get("or", (clause,)):
                if "equals" in each:
                    self._exact.setdefault(each["equals"].lower(), position)
                else:
                    self._patterns.append((position, matcher(each)))

    def find(self, name: str) -> int | None:
        """The position of the first clause that matches the name (in lower case)."""
        exact = self._exact.get(name)
        for position, test in self._patterns:
            if exact is not None and position >= exact:
                break
            if test(name):
                return position
        return exact
