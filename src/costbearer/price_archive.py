"""What a price archive holds: providers, models, the names they match, and dated rows of prices.

The archive is JSON, written by `tools/compile_prices.py` and kept under its hash for ever; `prices.PriceBook` answers
from it. Prices are decimal text in USD per token or per request, at most 12 places. Units without a meter keep their
source's name and unit (`input_image_tokens` per token, `audio_hours` per hour) and are never rated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from typing import Any

import msgspec

FORMAT = 2
"""The archive format this version writes."""

FORMATS = frozenset({1, FORMAT})
"""The formats it reads. Format 1 had no factors of a provider, and kept units that have a meter now under their
source's names; a card from it keeps the id it has always had."""

Clause = Mapping[str, Any]
"""How a name is recognised: `equals`, `starts_with`, `ends_with`, `contains` or `regex` with a text, `or` or `and` with
clauses. Names are matched in lower case."""


class Row(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Prices by unit, with the days `[since, until)`, the daily UTC hours and the context they hold in.

    A price is its text, or `[text, [threshold, text], ...]` where it steps up with the size of the input. `source`
    names the overlay's rule it comes from; None is genai-prices, to which the rules in `added` added units. `when`
    names tier, speed and geo, and as `variant` one word of what else the price depends on (`prices.Context`).
    """

    prices: dict[str, str | list[Any]]
    when: dict[str, str] = {}
    since: date | None = None
    until: date | None = None
    hours: tuple[time, time] | None = None
    source: str | None = None
    added: tuple[str, ...] = ()

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


class Factor(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Token prices in the context `when` are a multiple of those in the context `over`, unless a model has rows for it.

    It holds for the models whose id `match` recognises (None: all, those whose price is borrowed too), on the days
    `[since, until)`. What is not priced per token keeps its price.
    """

    when: dict[str, str]
    factor: str
    source: str
    over: dict[str, str] = {}
    match: dict[str, Any] | None = None
    since: date | None = None
    until: date | None = None

    def active(self, day: date) -> bool:
        return (self.since is None or day >= self.since) and (self.until is None or day < self.until)


class Provider(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`match` recognises the names of models this provider makes; `fallback` are providers whose prices it borrows."""

    id: str
    name: str
    api_pattern: str
    match: dict[str, Any] | None = None
    fallback: tuple[str, ...] = ()
    factors: tuple[Factor, ...] = ()


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name that meant another model before the day `until`; of several rows of one name the earliest day wins."""

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
    sources: dict[str, str] = {}
    as_of: date | None = None


def faults(archive: Archive) -> Iterator[str]:
    """What is wrong with an archive, each with the row it is in: prices that are no amounts or negative, rows that
    overlap, days that no row covers, thresholds out of order, models and names that are there twice.

    A file that has any is refused whole: half a price list is a wrong price list.
    """
    known = {provider.id for provider in archive.providers}
    seen: set[tuple[str, str]] = set()
    for model in archive.models:
        name = f"{model.provider}/{model.id}"
        if model.provider not in known:
            yield f"{name}: no such provider"
        if (model.provider, model.id) in seen:
            yield f"{name}: there twice"
        seen.add((model.provider, model.id))
        if not model.prices or model.prices[0].since or model.prices[0].until or model.prices[0].hours:
            yield f"{name}, prices row 1: a gap; the first row must hold without condition"
        for kind, rows in (("prices", model.prices), ("variants", model.variants)):
            for number, row in enumerate(rows, 1):
                yield from (f"{name}, {kind} row {number}: {fault}" for fault in _row_faults(row))
        yield from (f"{name}, {fault}" for fault in (*_span_faults("prices", model.prices), *_variant_faults(model)))
    for alias in archive.aliases:
        if (alias.provider, alias.model) not in seen:
            yield f"alias {alias.provider}/{alias.name}: no model {alias.model}"
    dated = [(alias.provider, alias.name, alias.until) for alias in archive.aliases]
    yield from (
        f"alias {provider}/{name} until {until}: there twice"
        for provider, name, until in sorted({row for row in dated if dated.count(row) > 1})
    )
    for provider in archive.providers:
        for number, factor in enumerate(provider.factors, 1):
            if fault := _amount_fault(factor.factor):
                yield f"{provider.id}, factor {number}: {fault}"
            if not factor.over.items() < factor.when.items():
                yield f"{provider.id}, factor {number}: a context is a multiple of a part of itself, or of standard"


def _row_faults(row: Row) -> Iterator[str]:
    if row.since is not None and row.until is not None and row.since >= row.until:
        yield f"it ends on {row.until}, not after it begins on {row.since}"
    for unit, price in row.prices.items():
        steps = [price] if isinstance(price, str) else price[:1] + [step[1] for step in price[1:]]
        yield from (f"{unit}: {fault}" for text in steps if (fault := _amount_fault(text)))
        thresholds = [] if isinstance(price, str) else [step[0] for step in price[1:]]
        if any(not isinstance(each, int) or each < 0 for each in thresholds) or thresholds != sorted(set(thresholds)):
            yield f"{unit}: the thresholds {thresholds} do not rise"


def _amount_fault(text: object) -> str | None:
    """Why this is not a price: not decimal text, negative, or finer than what money is kept in."""
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None:
        return f"{str(text)[:40]!r} is not a decimal number of 0 or more with at most 12 places"
    return None


_DECIMAL = re.compile(r"\d{1,20}(\.\d{1,12})?", re.ASCII)


def _span_faults(kind: str, rows: Sequence[Row]) -> Iterator[str]:
    """Rows of standard prices replace each other by beginning later; two that begin together say two things."""
    begun: dict[tuple[date | None, tuple[time, time] | None], int] = {}
    for number, row in enumerate(rows, 1):
        other = begun.setdefault((row.since, row.hours), number)
        if other != number:
            yield f"{kind} rows {other} and {number} overlap: both begin on {row.since or 'the first day'}"
        if (
            number > 1
            and row.since is not None
            and any(before.since is not None and before.since > row.since for before in rows[: number - 1])
        ):
            yield f"{kind} row {number} begins on {row.since}, before the row above it"


def _variant_faults(model: Model) -> Iterator[str]:
    """Of the rows of one context in force the first wins, so the one that begins later must stand above the other."""
    by_context: dict[tuple[str, tuple[time, time] | None], list[tuple[int, Row]]] = {}
    for number, row in enumerate(model.variants, 1):
        by_context.setdefault((str(sorted(row.when.items())), row.hours), []).append((number, row))
    for rows in by_context.values():
        for place, (number, row) in enumerate(rows):
            for above_number, above in rows[:place]:
                shared = row.prices.keys() & above.prices.keys()
                if shared and _overlap(above, row) and (above.since or date.min) <= (row.since or date.min):
                    yield f"variants rows {above_number} and {number} overlap: both price {', '.join(sorted(shared))}"
                    break


def _overlap(one: Row, other: Row) -> bool:
    return (one.until is None or other.since is None or other.since < one.until) and (
        other.until is None or one.since is None or one.since < other.until
    )


def matcher(clause: Clause) -> Callable[[str], bool]:
    """The clause as a test of a name in lower case.

    Raises:
        ValueError: a clause of no known kind.
        re.error: a regular expression that is none.
    """
    kind, value = _clause(clause)
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


def _clause(clause: Clause) -> tuple[str, Any]:
    """The kind of a clause and what it is about: a list of clauses, or a text."""
    if not isinstance(clause, dict) or len(clause) != 1:
        raise ValueError("a clause is an object with one name")
    ((kind, value),) = clause.items()
    if not isinstance(value, list if kind in ("or", "and") else str):
        raise ValueError(f"a clause {kind} of what is none")
    return kind, value


class NameIndex:
    """Finds the first of many clauses that matches a name: exact names by one look-up, patterns in order."""

    def __init__(self, clauses: Iterable[Clause]) -> None:
        self._exact: dict[str, int] = {}
        self._patterns: list[tuple[int, Callable[[str], bool]]] = []
        for position, clause in enumerate(clauses):
            kind, value = _clause(clause)
            for each in value if kind == "or" else (clause,):
                of, text = _clause(each)
                if of == "equals":
                    self._exact.setdefault(text.lower(), position)
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
