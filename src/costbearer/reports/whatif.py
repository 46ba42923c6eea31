"""What the same usage would have cost: on another model, at list prices, with another share of it read from cache.

Every call is rated again by the rules of `rating`, at the prices of its own day, call by call (prices can depend on the
length of one prompt, so no sum could be priced). What has no price there is counted, and left out on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from costbearer import money
from costbearer.contract import Contract, Prices
from costbearer.errors import QueryInvalid
from costbearer.prices import PriceBook
from costbearer.reports.beside import Beside
from costbearer.reports.query import Query, Reader
from costbearer.rerate import PARTS_ARROW, rerate
from costbearer.standing import RATED_BY, parts_of
from costbearer.standing import calls as standing_calls
from costbearer.usage import COUNTS

CALLS_MAX = 2_000_000
"""More calls are not priced again in one answer; that would take minutes."""
SPAN_CALLS = 250_000

Key = tuple[str, ...]


class Group(NamedTuple):
    """Of the calls that have a price otherwise: that cost, and what they did cost; and how many have none."""

    usd: Decimal = money.ZERO
    was_usd: Decimal = money.ZERO
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Otherwise:
    """The other costs by row, the head of their column, and what must be said of them."""

    groups: Mapping[Key, Group]
    title: str
    notes: tuple[str, ...]


def otherwise(reader: Reader, query: Query, beside: Beside) -> Otherwise | None:
    """The costs under what was asked for; None where nothing was.

    Raises:
        QueryInvalid: nobody has a price for the model, or there are more than `CALLS_MAX` calls.
    """
    asked, at, rate = query.option("as"), query.option("at"), query.option("cache_rate")
    if asked is None and at is None and rate is None:
        return None
    if beside.prices is None:
        raise QueryInvalid({"as": "prices are not at hand here"})
    prices = beside.prices()
    contract = None if at == "list" else prices.contract
    target = _target(asked, prices, query) if asked is not None else None
    calls = _calls(reader, query)
    groups: dict[Key, Group] = {}
    for begin in range(0, len(calls), SPAN_CALLS):
        span = calls.slice(begin, SPAN_CALLS)
        _add(groups, span, _rated(span, target, rate, prices.book, contract), query)
    return Otherwise(groups, _title(asked, at, rate), _notes(asked, at, rate))


def _calls(reader: Reader, query: Query) -> pa.Table:
    """The calls as they count now, with the buckets they belong to and their cost."""
    entries = reader.entries
    standing = standing_calls(entries, query.period.since, query.period.until)
    standing = standing.filter([*query.conditions(standing), standing["cost_usd"].notnull(), ~standing["cache_hit"]])
    differences = entries.filter([entries["calls"] == 0, entries["refers_to"].notnull()])
    differences = differences.group_by("refers_to").aggregate(more=differences["cost_usd"].sum())
    (count,) = reader.execute(standing.aggregate(calls=standing.count())).to_pylist()
    if count["calls"] > CALLS_MAX:
        raise QueryInvalid(
            {"as": f"{count['calls']:,} calls would be priced again, at most {CALLS_MAX:,} are; narrow the period"}
        )
    keys = query.keys(standing)
    met = standing.mutate(**keys).left_join(differences, standing["entry_id"] == differences["refers_to"])
    return reader.execute(met.select(*keys, *RATED_BY, "cost_usd", "more", *COUNTS))


def _target(asked: str, prices: Prices, query: Query) -> tuple[str, str]:
    """Provider and model, as the price book knows them."""
    book = prices.book
    provider, slash, model = asked.partition("/")
    if not slash or provider not in book.providers():
        known = book.providers_of(asked)
        if known:
            return known[0], asked
        sellers = prices.contract.sellers(asked) if prices.contract is not None else ()
        if sellers:
            return sellers[0], asked
        raise QueryInvalid({"as": f"no price for model {asked!r}; see `costbearer prices list`"})
    if not isinstance(book.every(provider, model, query.period.since), list):
        raise QueryInvalid({"as": f"{provider} has no price for model {model!r}; see `costbearer prices list`"})
    return provider, model


def _rated(
    calls: pa.Table, target: tuple[str, str] | None, rate: str | None, book: PriceBook, contract: Contract | None
) -> pa.ChunkedArray:
    """The cost of each call under the other terms, NULL where there is none."""
    parts = parts_of(calls, 0)
    columns = dict(zip(parts.column_names, parts.columns, strict=True))
    if rate is not None:
        columns |= _cached(columns["input_tokens"], Decimal(rate))
    if target is not None:
        columns |= {
            name: pa.array([value] * len(parts)) for name, value in zip(("provider", "model"), target, strict=True)
        }
        # These are words of the provider that served the call; the other one has its own.
        columns |= dict.fromkeys(("tier", "speed", "geo", "variant"), pa.nulls(len(parts), pa.string()))
    parts = pa.table(list(columns.values()), names=list(columns)).cast(PARTS_ARROW)
    return rerate(parts, book, contract).calls.sort_by("row")["cost_usd"]


def _cached(input_tokens: pa.ChunkedArray, rate: Decimal) -> dict[str, Any]:
    """The same input with this share of it read from cache and none written; halves of a token fall to the cache."""
    digits = 10**6
    share = int(rate * digits)
    read = pc.divide(pc.add(pc.multiply(input_tokens, share), digits // 2), digits)
    none = pa.nulls(len(read), pa.int64())
    names = ("cache_creation_input_tokens", "cache_creation_1h_input_tokens", "cache_read_audio_input_tokens")
    return {"cache_read_input_tokens": read, **dict.fromkeys((*names, "cache_read_image_input_tokens"), none)}


def _add(groups: dict[Key, Group], calls: pa.Table, costs: pa.ChunkedArray, query: Query) -> None:
    names = [f"by_{place}" for place in range(len(query.by))]
    was = calls["cost_usd"].to_pylist()
    more = calls["more"].to_pylist()
    keys = calls.select(names).to_pylist()
    buckets: dict[tuple[Any, ...], Key] = {}
    for key, cost, before, extra in zip(keys, costs.to_pylist(), was, more, strict=True):
        plain = tuple(key.values())
        if plain not in buckets:
            buckets[plain] = query.buckets(key)
        old = groups.get(buckets[plain], Group())
        if cost is None:
            groups[buckets[plain]] = old._replace(unpriced=old.unpriced + 1)
        else:
            did = money.total((old.was_usd, before, extra or money.ZERO))
            groups[buckets[plain]] = Group(money.total((old.usd, cost)), did, old.unpriced)


def _title(asked: str | None, at: str | None, rate: str | None) -> str:
    said = [f"as {asked}" if asked else "", f"at {at} prices" if at else "", f"cache {rate}" if rate else ""]
    return ", ".join(each for each in said if each)


def _notes(asked: str | None, at: str | None, rate: str | None) -> tuple[str, ...]:
    lines = ["The difference is between calls that have a price otherwise and what these did cost."]
    if asked:
        lines.append(
            f"On {asked}: the same tokens, at its standard prices; another model counts and answers otherwise."
        )
    if rate:
        lines.append(f"With {rate} of the input tokens read from cache and none written to it.")
    if at:
        lines.append(f"At {at} prices of each call's day.")
    return tuple(lines)
