"""What became different between two price archives. Data that moved backwards in time, a past price that is not what it
was, and a model that vanished are findings: they are shown whenever an archive is taken, and nothing hides them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from typing import Any

import msgspec

from costbearer.price_archive import Archive, Model, NameIndex, Row
from costbearer.price_context import DIMENSIONS, context_text
from costbearer.rate_card import UNSETTLED_REQUEST
from costbearer.usage import REQUEST

FINDINGS = frozenset({"moved_backwards", "past_price_changed", "model_vanished", "provider_vanished", "name_moved"})
"""Codes that ask for a person. The others (`price_changed`, `model_added`, `provider_added`) are the usual news."""

FIRST_FORMAT = 1

_RENAMED = {
    "input_image_tokens": "image_input",
    "cache_image_read_tokens": "cache_read_image_input",
    "input_video_tokens": "video_input",
    "output_image_tokens": "image_output",
    "output_citation_tokens": "citation",
    "input_characters": "input_character",
    "input_document_pages": "input_page",
    "storage_searches": "file_search",
}
"""Units of format 1 that have a meter since; their prices are the same."""
_RESCALED = frozenset({"audio_hours", "input_audio_hours"})
"""Priced by the hour in format 1 and by the second since: another number for the same price, and not compared."""


class Change(msgspec.Struct, frozen=True):
    """One difference. `day` is the first on which it holds, None for ever; `old` and `new` are as the archives write
    it, None where one has nothing there."""

    code: str
    provider: str
    model: str = ""
    context: str = ""
    day: date | None = None
    old: str | None = None
    new: str | None = None

    @property
    def is_finding(self) -> bool:
        return self.code in FINDINGS


def compare(old: Archive, new: Archive, today: date) -> list[Change]:
    """Every difference in what a call would cost, the findings first. What changes only after `today` is no finding."""
    found = [*_backwards(old, new)]
    before, after = _providers(old), _providers(new)
    found += [Change("provider_vanished", name) for name in sorted(before - after)]
    found += [Change("provider_added", name) for name in sorted(after - before)]
    olds, news = _models(old), _models(new)
    for key in sorted(olds.keys() | news.keys()):
        if key not in news:
            found.append(Change("model_vanished", *key))
        elif key not in olds:
            found.append(Change("model_added", *key))
        elif olds[key] != news[key]:
            found += _prices_changed(olds[key], news[key], today)
    found += _names_moved(old, new, today)
    return sorted(found, key=lambda change: not change.is_finding)


def _backwards(old: Archive, new: Archive) -> Iterator[Change]:
    if old.as_of is not None and new.as_of is not None and new.as_of < old.as_of:
        yield Change("moved_backwards", "", day=new.as_of, old=old.as_of.isoformat(), new=new.as_of.isoformat())
    for name in sorted(old.sources.keys() & new.sources.keys()):
        if _version(new.sources[name]) < _version(old.sources[name]):
            yield Change("moved_backwards", "", name, old=old.sources[name], new=new.sources[name])


def _version(text: str) -> tuple[int, ...]:
    """The numbers in a version; a path has none, and is never before another."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _providers(archive: Archive) -> set[str]:
    return {provider.id for provider in archive.providers}


def _models(archive: Archive) -> dict[tuple[str, str], Model]:
    now = _as_now if archive.format == FIRST_FORMAT else lambda model: model
    return {(model.provider, model.id): now(model) for model in archive.models}


def _as_now(model: Model) -> Model:
    """A model of format 1 as it is written since, as far as its prices can be compared."""

    def written(row: Row) -> Row:
        when = {name: value for name, value in row.when.items() if name in DIMENSIONS}
        others = [f"{name}={value}" for name, value in row.when.items() if name not in DIMENSIONS]
        prices = {_RENAMED.get(unit, unit): price for unit, price in row.prices.items() if unit not in _RESCALED}
        return msgspec.structs.replace(
            row, prices=prices, when={**when, "variant": ",".join(others)} if others else when
        )

    return msgspec.structs.replace(
        model, prices=tuple(map(written, model.prices)), variants=tuple(map(written, model.variants))
    )


def _prices_changed(old: Model, new: Model, today: date) -> Iterator[Change]:
    """Context by context and span by span; neighbouring spans with the same difference are one change."""
    contexts = {context_text(row.when): row.when for row in (*old.variants, *new.variants)}
    for name, context in {"standard": {}, **contexts}.items():
        days = sorted(old.boundaries(context) | new.boundaries(context))
        first = min(days, default=today) - timedelta(days=1)
        last: tuple[str | None, str | None] | None = None
        for begins, day in ((None, first), *((day, day) for day in days)):
            for clock in sorted({time(0), *old.edges(), *new.edges()}):
                before, after = (_stated(model, context, day, clock) for model in (old, new))
                pair = _difference(before, after)
                if pair is not None and pair != last:
                    past = begins is None or begins <= today
                    # A price where there was none makes the unknown known; it contradicts nothing.
                    code = "past_price_changed" if past and pair[0] is not None else "price_changed"
                    yield Change(code, new.provider, new.id, name, begins, *pair)
                last = pair


def _stated(model: Model, context: Mapping[str, str], day: date, clock: time) -> dict[str, str | list[Any]]:
    """What the archive says in this context alone, by unit; nothing where it says nothing."""
    rows = model.special(context, day, clock) if context else [model.standard(day, clock)]
    prices: dict[str, str | list[Any]] = {}
    for row in reversed(rows):
        prices.update(row.prices)
    # A fee per request is the same fee, whether the variant it depends on is settled or not.
    named = {REQUEST if unit == UNSETTLED_REQUEST else unit: price for unit, price in prices.items()}
    return {unit: price for unit, price in named.items() if unit not in _RESCALED}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str | None, str | None] | None:
    units = sorted(unit for unit in old.keys() | new.keys() if old.get(unit) != new.get(unit))
    if not units:
        return None
    return _listed(old, units), _listed(new, units)


def _listed(prices: Mapping[str, Any], units: Sequence[str]) -> str | None:
    """`input=0.000002 output=0.000008`; a price with steps as `0.000002,0.000004>200000`."""
    return " ".join(f"{unit}={_price(prices[unit])}" for unit in units if unit in prices) or None


def _price(stated: str | list[Any]) -> str:
    if isinstance(stated, str):
        return stated
    base, *steps = stated
    return ",".join([str(base), *(f"{price}>{threshold}" for threshold, price in steps)])


def _names_moved(old: Archive, new: Archive, today: date) -> Iterator[Change]:
    """Names that meant one model and now mean another, without a dated row that says since when."""
    dated = {(alias.provider, alias.name) for alias in new.aliases if alias.until <= today}
    for provider in sorted(_providers(old) & _providers(new)):
        if _clauses(old, provider) == _clauses(new, provider):
            continue
        before, after = _names(old, provider), _names(new, provider)
        for name in sorted(_literals(model for model in old.models if model.provider == provider)):
            meant, means = before(name), after(name)
            if meant and means and meant != means and (provider, name) not in dated:
                yield Change("name_moved", provider, name, old=meant, new=means)


def _clauses(archive: Archive, provider: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(model.id, model.match) for model in archive.models if model.provider == provider]


def _names(archive: Archive, provider: str) -> Callable[[str], str | None]:
    """What a name means at a provider, as a function."""
    models = [model for model in archive.models if model.provider == provider]
    index = NameIndex(model.match for model in models)

    def meaning(name: str) -> str | None:
        position = index.find(name)
        return None if position is None else models[position].id

    return meaning


def _literals(models: Iterable[Model]) -> set[str]:
    """The whole names that models' clauses spell out."""
    clauses = [model.match for model in models]
    names: set[str] = set()
    while clauses:
        clause = clauses.pop()
        clauses += clause.get("or", [])
        if "equals" in clause:
            names.add(clause["equals"].lower())
    return names
