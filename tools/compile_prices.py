"""Compiles the price archive, `src/costbearer/data/prices.json`, from genai-prices and `data/overlay.toml`.

The same sources give the same bytes. genai-prices is needed here only; the package itself reads the archive.

    python tools/compile_prices.py           write the archive
    python tools/compile_prices.py --check   exit 1 if the committed archive is not what the sources give
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from genai_prices import types as source
from genai_prices.data import providers as source_providers
from genai_prices.data_units import unit_data

from costbearer import money
from costbearer.price_archive import FORMAT, Alias, Archive, Factor, Model, NameIndex, Provider, Row, faults
from costbearer.price_changes import compare
from costbearer.price_context import DIMENSIONS
from costbearer.prices import PriceBook
from costbearer.rate_card import UNSETTLED_REQUEST
from costbearer.usage import METER, REQUEST

DATA = Path(__file__).resolve().parent.parent / "src" / "costbearer" / "data"
ARCHIVE = DATA / "prices.json"
OVERLAY = DATA / "overlay.toml"

METERS = {
    "input_tokens": "input",
    "cache_read_tokens": "cache_read_input",
    "cache_write_tokens": "cache_creation_input",
    "cache_write_1h_tokens": "cache_creation_1h_input",
    "input_audio_tokens": "audio_input",
    "cache_audio_read_tokens": "cache_read_audio_input",
    "output_tokens": "output",
    "output_reasoning_tokens": "reasoning_output",
    "output_audio_tokens": "audio_output",
    "web_searches": "web_search",
    "input_image_tokens": "image_input",
    "cache_image_read_tokens": "cache_read_image_input",
    "input_video_tokens": "video_input",
    "output_image_tokens": "image_output",
    "output_citation_tokens": "citation",
    "input_characters": "input_character",
    "input_audio_seconds": "input_audio_second",
    "input_document_pages": "input_page",
    "storage_searches": "file_search",
    "rerank_searches": "search_unit",
    "requests": REQUEST,
}
"""genai-prices' usage key -> our meter. All other units keep their source's name."""

ANY_AUDIO = "audio_seconds"
"""genai-prices' price of a second of audio, whichever way it goes. It has a meter only for what comes in."""

CONTEXTS = {
    ("service_tier", "fast"): ("tier", "fast"),
    ("service_tier", "flex"): ("tier", "flex"),
    ("service_tier", "priority"): ("tier", "priority"),
    ("processing", "batch"): ("tier", "batch"),
    ("speed", "fast"): ("speed", "fast"),
}
"""genai-prices' context -> ours; any other (a search type, a route) is a variant of its own family."""

NOISE = Decimal("1e-9")
"""A relative difference below this is a binary float's rounding and not a price."""

ALWAYS = date.min
NEVER = date.max


class Unit(NamedTuple):
    """`divisor` turns the source's price into one per `counted`."""

    name: str
    divisor: Decimal
    counted: str
    is_token: bool


def units() -> dict[str, Unit]:
    """Price key -> unit. A price per hour becomes one per second, rounded once and listed among the repairs."""
    found = {}
    for usage_key, raw in unit_data.items():
        price_key, per = raw.get("price_key", usage_key), raw["per"]
        is_token = raw["dimensions"].get("family") == "tokens"
        name = METERS.get(usage_key, usage_key)
        counted = METER[name].unit if name in METER else "token" if is_token else "each"
        found[price_key] = Unit(name, Decimal(per), counted, is_token)
    return found


def text(amount: Decimal) -> str:
    return money.text(amount).rstrip("0").rstrip(".")


class Compiler:
    """Turns genai-prices' objects into archive rows, and notes each price that had to be changed on the way."""

    def __init__(self) -> None:
        self.units = units()
        self.repaired: list[dict[str, str]] = []
        self.used: dict[str, str] = {}
        self._place = ("", "")

    def provider(self, entry: Any) -> Provider:
        return Provider(
            id=entry.id,
            name=entry.name,
            api_pattern=entry.api_pattern,
            match=clause(entry.model_match) if entry.model_match else None,
            fallback=tuple(entry.fallback_model_providers or ()),
        )

    def model(self, provider: str, entry: Any) -> Model:
        self._place = (provider, entry.id)
        dated = entry.prices if isinstance(entry.prices, list) else [source.ConditionalPrice(prices=entry.prices)]
        rows = tuple(self.row(each.prices, each.constraint, {}) for each in dated)
        if rows[0].since or rows[0].until or rows[0].hours:
            raise SystemExit(
                f"{provider}/{entry.id}: the first price has a condition; an archive cannot say what holds before"
            )
        return Model(
            provider=provider,
            id=entry.id,
            match=clause(entry.match),
            prices=rows,
            variants=tuple(self.variants(entry)),
            context_window=entry.context_window,
        )

    def variants(self, entry: Any) -> Iterator[Row]:
        for variant in entry.price_variants or ():
            if variant.when == {"service_tier": "default"}:
                if any(price is not None for price in variant.prices.__dict__.values()):
                    raise SystemExit(f"{self._place}: the default tier has prices of its own")
                continue
            when = dict(CONTEXTS.get(item, ("variant", "=".join(item))) for item in variant.when.items())
            yield self.row(variant.prices, variant.constraint, when)

    def row(self, prices: Any, constraint: Any, when: dict[str, str]) -> Row:
        stated = {key: value for key, value in prices.__dict__.items() if value is not None}
        by_name = {self.units[key].name: self.price(key, value) for key, value in stated.items()}
        if ANY_AUDIO in by_name:
            any_audio = by_name.pop(ANY_AUDIO)
            by_name.setdefault("input_audio_second", any_audio)
        since, hours = None, None
        if isinstance(constraint, source.StartDateConstraint):
            since = constraint.start_date
        elif constraint is not None:
            hours = (clock(constraint.start_time), clock(constraint.end_time))
        return Row(prices=dict(sorted(by_name.items())), when=when, since=since, hours=hours)

    def price(self, key: str, value: Any) -> str | list[Any]:
        unit = self.units[key]
        self.used[unit.name] = unit.counted
        if isinstance(value, Decimal):
            return self.amount(unit, value)
        tiers = [[tier.start, self.amount(unit, tier.price)] for tier in value.tiers]
        return [self.amount(unit, value.base), *tiers]

    def amount(self, unit: Unit, stated: Decimal) -> str:
        exact = stated / unit.divisor
        amount = money.usd(exact)
        if amount != exact:
            kind = "float noise" if abs(amount - exact) <= exact * NOISE else "more than 12 places"
            provider, model = self._place
            row = {
                "provider": provider,
                "model": model,
                "unit": unit.name,
                "stated": str(stated),
                "per": str(unit.divisor),
            }
            if (entry := row | {"kept": text(amount), "kind": kind}) not in self.repaired:
                self.repaired.append(entry)
        return text(amount)


def clause(entry: Any) -> dict[str, Any]:
    (kind, value), *_ = entry.__dict__.items()
    name = kind.rstrip("_")
    return {name: [clause(each) for each in value] if isinstance(value, list) else value}


def clock(value: time) -> time:
    """The time in UTC, without a zone: all times of an archive are UTC."""
    if value.tzinfo not in (None, UTC):
        raise SystemExit(f"a price window is given in {value.tzinfo}; only UTC is understood")
    return value.replace(tzinfo=None)


# ---- the overlay ---------------------------------------------------------------------------------------------------


def multiplied(rule: Mapping[str, Any], model: Model, token_units: set[str]) -> tuple[Row, ...]:
    """The rows a `multiple` rule adds to a model: one per span of days in which the multiplied price stays the same."""
    added: list[Row] = []
    for over in rule["over"]:
        when = ordered({**over, **rule["context"]})
        own = [row for row in model.variants if row.when == when]
        if rule["models"] == "with_variant" and not own:
            continue
        named = {unit for row in own for unit in row.prices} if rule["units"] == "as_variant" else token_units
        spans: list[Row] = []
        for since, until in pairs(rule, model, [over, when]):
            if model.special(when, since, time(0)):
                continue
            rows = model.special(over, since, time(0)) if over else []
            if over and not rows:
                continue
            base: dict[str, Any] = {}
            for row in (model.standard(since, time(0)), *reversed(rows)):
                base.update(row.prices)
            prices = {unit: times(price, Decimal(rule["factor"])) for unit, price in base.items() if unit in named}
            prices |= {unit: price for row in rows for unit, price in row.prices.items() if unit not in prices}
            row = Row(
                prices=dict(sorted(prices.items())),
                when=when,
                since=since if since != ALWAYS else None,
                until=until if until != NEVER else None,
                source=rule["name"],
            )
            if spans and spans[-1].until == since and spans[-1].prices == row.prices:
                row = msgspec.structs.replace(row, since=spans.pop().since)
            spans.append(row)
        added += spans
    return tuple(added)


def pairs(rule: Mapping[str, Any], model: Model, contexts: Iterable[dict[str, str]]) -> Iterator[tuple[date, date]]:
    """The spans between the days on which anything in these contexts changes, inside the rule's own span."""
    if model.edges():
        raise SystemExit(f"{model.provider}/{model.id} has prices by time of day; a multiple of those is not supported")
    first, last = rule.get("since", ALWAYS), rule.get("until", NEVER)
    days = {day for special in contexts for day in model.boundaries(special) if first < day < last}
    edges = [first, *sorted(days), last]
    yield from itertools.pairwise(edges)


def times(price: str | list[Any], factor: Decimal) -> str | list[Any]:
    if isinstance(price, str):
        return text(money.scaled(Decimal(price), factor))
    base, *steps = price
    return [times(base, factor), *([threshold, times(each, factor)] for threshold, each in steps)]


def ordered(when: Mapping[str, str]) -> dict[str, str]:
    return {name: when[name] for name in DIMENSIONS if name in when}


def applies(rule: Mapping[str, Any], model: Model) -> bool:
    if model.provider != rule["provider"]:
        return False
    if isinstance(rule["models"], str):
        return model.id not in rule.get("except", ())
    if model.id in rule["models"]:
        return True
    if model.id not in rule["not_models"]:
        raise SystemExit(f"overlay rule {rule['name']} decides nothing about {model.provider}/{model.id}")
    return False


def overlaid(models: Iterable[Model], rules: Iterable[Mapping[str, Any]], token_units: set[str]) -> list[Model]:
    """The models with every rule applied in the overlay's order: a later rule may multiply what an earlier added."""
    result = list(models)
    for rule in rules:
        for position, model in enumerate(result):
            if applies(rule, model):
                rows = (*model.variants, *multiplied(rule, model, token_units))
                result[position] = msgspec.structs.replace(model, variants=rows)
    return result


def with_new_models(models: list[Model], rows: Iterable[Mapping[str, Any]]) -> list[Model]:
    """The models and the overlay's own, in order. A name that a model has already would change its meaning."""
    for row in rows:
        own = [model for model in models if model.provider == row["provider"]]
        index = NameIndex(model.match for model in own)
        new = Model(provider=row["provider"], id=row["id"], match=row["match"], prices=(Row(prices={}),))
        for clause in new.match.get("or", [new.match]):
            if index.find(clause["equals"]) is not None:
                raise SystemExit(f"overlay model {new.provider}/{new.id}: genai-prices has {clause['equals']} already")
        models = sorted([*models, new], key=lambda model: (model.provider, model.id))
    return models


def priced(rule: Mapping[str, Any], model: Model) -> Model:
    """The model with a `price` rule's prices: rows of their own for variants, else added to every standard row."""
    if not chosen(rule, model):
        return model
    rows = tuple(
        Row(
            prices=dict(prices),
            when={"variant": variant},
            since=rule.get("since"),
            until=rule.get("until"),
            source=rule["name"],
        )
        for variant, prices in rule.get("variants", {}).items()
    )
    standard = [added(row, rule["prices"], rule["name"]) for row in model.prices] if "prices" in rule else model.prices
    if any(REQUEST in row.prices for row in rows):
        standard = [unsettled(row) for row in standard]
    return msgspec.structs.replace(model, prices=tuple(standard), variants=(*model.variants, *rows))


def unsettled(row: Row) -> Row:
    """The row with its fee per request as one that is not the whole truth."""
    named = {UNSETTLED_REQUEST if unit == REQUEST else unit: price for unit, price in row.prices.items()}
    return msgspec.structs.replace(row, prices=named)


def chosen(rule: Mapping[str, Any], model: Model) -> bool:
    if model.provider != rule["provider"]:
        return False
    if isinstance(rule["models"], str):
        unit = rule["models"].removeprefix("with_unit:")
        return any(unit in row.prices for row in model.prices)
    return model.id in rule["models"]


def added(row: Row, prices: Mapping[str, Any], name: str) -> Row:
    """The row with prices for units it has none for."""
    missing = {unit: price for unit, price in prices.items() if unit not in row.prices}
    if not missing:
        return row
    merged = dict(sorted({**row.prices, **missing}.items()))
    return msgspec.structs.replace(row, prices=merged, added=(*row.added, name))


def equalled(rule: Mapping[str, Any], model: Model) -> Model:
    """The model with one meter priced as another wherever only the other is."""
    if not chosen(rule, model):
        return model

    def filled(row: Row) -> Row:
        return added(row, {rule["meter"]: row.prices[rule["as"]]}, rule["name"]) if rule["as"] in row.prices else row

    return msgspec.structs.replace(
        model, prices=tuple(map(filled, model.prices)), variants=tuple(map(filled, model.variants))
    )


def factors(rules: Iterable[Mapping[str, Any]], provider: str) -> tuple[Factor, ...]:
    return tuple(
        Factor(
            when=ordered(rule["context"]),
            factor=rule["factor"],
            source=rule["name"],
            over=ordered(rule.get("over", {})),
            match=rule.get("match"),
            since=rule.get("since"),
            until=rule.get("until"),
        )
        for rule in rules
        if rule["provider"] == provider
    )


# ---- the file ------------------------------------------------------------------------------------------------------


def line(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))


def block(name: str, rows: Iterable[Any]) -> str:
    """One row per line, so that a change of one price is a change of one line."""
    return f'"{name}":[\n' + ",\n".join(line(row) for row in rows) + "\n]"


def compiled() -> bytes:
    """The archive's bytes."""
    compiler = Compiler()
    overlay = tomllib.loads(OVERLAY.read_text(encoding="utf-8"))
    entries = sorted(source_providers, key=lambda entry: str(entry.id))
    models = []
    for entry in entries:
        own = [compiler.model(entry.id, model) for model in entry.models]
        if [model.id for model in own] != sorted({model.id for model in own}):
            raise SystemExit(
                f"{entry.id}: models are not in order; the first match wins, so sorting would change meanings"
            )
        models += own
    token_units = {unit.name for unit in compiler.units.values() if unit.is_token}
    missing = {unit for unit in METER if METER[unit].unit == "token"} - token_units
    if missing:
        raise SystemExit(f"meters without a unit of genai-prices: {sorted(missing)}")
    models = with_new_models(models, overlay["model"])
    models = overlaid(models, overlay["multiple"], token_units)
    for rule in overlay["price"]:
        models = [priced(rule, model) for model in models]
    for rule in overlay["same"]:
        models = [equalled(rule, model) for model in models]
    stated = [rule for kind in ("multiple", "factor", "price", "same") for rule in overlay[kind]]
    rules = [{"name": rule["name"], "source": rule["source"], "looked_up": rule["looked_up"]} for rule in stated]
    used = {unit for model in models for row in (*model.prices, *model.variants) for unit in row.prices}
    compiler.used |= {unit: METER[unit].unit for unit in used if unit in METER} | {UNSETTLED_REQUEST: "each"}
    providers = [
        msgspec.structs.replace(compiler.provider(entry), factors=factors(overlay["factor"], entry.id))
        for entry in entries
    ]
    aliases = [Alias(**{name: row[name] for name in Alias.__struct_fields__}) for row in overlay["alias"]]
    head = {
        "generated": "by tools/compile_prices.py; do not edit",
        "format": FORMAT,
        "license": "prices: genai-prices, MIT, Copyright (c) Pydantic Services Inc.; https://github.com/pydantic/genai-prices",
        "sources": {"genai-prices": importlib.metadata.version("genai-prices"), "overlay": "data/overlay.toml"},
        "as_of": max(row["looked_up"] for row in [*stated, *overlay["alias"]]),
        "prices": "USD per token, per request, or per unit as `units` says; decimal text, at most 12 places",
        "units": {unit: counted for unit, counted in sorted(compiler.used.items()) if unit in used},
    }
    parts = [f'"{name}":{line(value)}' for name, value in head.items()]
    parts += [
        block("overlay", rules),
        block("unstated", overlay["unstated"]),
        block("repaired", compiler.repaired),
        block("providers", providers),
        block("aliases", aliases),
        block("models", models),
    ]
    data = ("{\n" + ",\n".join(parts) + "\n}\n").encode()
    PriceBook.loads(data)
    wrong = list(faults(msgspec.json.decode(data, type=Archive)))
    if wrong:
        raise SystemExit("\n".join(wrong))
    return data


def changes(before: bytes, after: bytes) -> list[str]:
    """What the new archive says otherwise than the one before, the findings first."""
    old, new = (msgspec.json.decode(data, type=Archive) for data in (before, after))
    return [
        f"{'FINDING ' if change.is_finding else ''}{change.code} {change.provider}/{change.model} {change.context} "
        f"{change.day or ''}: {change.old} -> {change.new}"
        for change in compare(old, new, datetime.now(UTC).date())
    ]


def main(arguments: list[str]) -> int:
    data = compiled()
    if arguments == ["--check"]:
        same = ARCHIVE.read_bytes() == data
        print("up to date" if same else f"{ARCHIVE.name} is not what its sources give; run tools/compile_prices.py")
        return 0 if same else 1
    for line_ in changes(ARCHIVE.read_bytes() if ARCHIVE.exists() else data, data):
        print(line_)
    ARCHIVE.write_bytes(data)
    print(f"{ARCHIVE.name}: {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
