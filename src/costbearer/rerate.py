"""The price book as a table, and the rating rules as one expression over many calls at once.

For the auditor and for restatements, which rate a million calls where `rating.rate` rates one. It gives the same
charges, costs and reasons, line by line; a property test holds the two together. What the archive says is asked of the
price book itself, once per distinct use (provider, model, context and time), so that names, aliases and contexts mean
here what they mean there; only quantities and prices meet in the engine, where money is multiplied and added, exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa

from costbearer import money
from costbearer.contract import Contract
from costbearer.prices import Context, PriceBook, Unrated
from costbearer.rate_card import UNSETTLED_REQUEST, Card, Price, priced_as
from costbearer.rating import public_price
from costbearer.usage import COUNT_MAX, COUNTS, METERS, REQUEST, Meter

MINUTES_PER_DAY = 24 * 60
STEP_MAX = 2**62

_TEXT, _COUNT = pa.string(), pa.int64()
_USE = ("provider", "model", "tier", "speed", "geo", "variant")
PARTS_ARROW = pa.schema(
    [
        ("row", _COUNT),
        ("part", _COUNT),
        *((name, _TEXT) for name in _USE),
        ("at", pa.timestamp("us", tz="UTC")),
        ("step", _COUNT),
        *((name, _COUNT) for name in COUNTS),
    ]
)
"""What is rated: one row per part of a call, `usage.Work`. `row` is the call's number, `part` the part's place in it;
`step` is `largest_input_tokens`. A count that is not stated is NULL."""

LINES_ARROW = pa.schema(
    [
        ("row", _COUNT),
        ("part", _COUNT),
        ("meter", _TEXT),
        ("quantity", _COUNT),
        ("unit_price_usd", pa.decimal128(money.DIGITS, money.PLACES)),
        ("list_cost_usd", pa.decimal128(money.DIGITS, money.PLACES)),
        ("cost_usd", pa.decimal128(money.DIGITS, money.PLACES)),
        ("model", _TEXT),
        ("card", _TEXT),
    ]
)

_MONEY = dt.Decimal(money.DIGITS, money.PLACES)
_QUANTITY = dt.Decimal(16, 0)
"""Holds the largest sum of counts there can be; with `_PRICE` the product has the 38 digits that money has."""
_PRICE_ARROW = pa.decimal128(22, money.PLACES)
_OWN = ("row", "part", *_USE, "at", "step")
_USES_ARROW = pa.schema(
    [("use", _COUNT), *((name, _TEXT) for name in _USE), ("slot", _COUNT), ("unrated", _TEXT), ("fee", _TEXT)]
)
_PRICES_ARROW = pa.schema(
    [
        ("use", _COUNT),
        ("charged_as", pa.int8()),
        ("above", _COUNT),
        ("up_to", _COUNT),
        ("unit_price_usd", _PRICE_ARROW),
        ("list_price_usd", _PRICE_ARROW),
    ]
)
_CARDS_ARROW = pa.schema([("use", _COUNT), ("model", _TEXT), ("card", _TEXT)])
_PLACE = {meter.name: number for number, meter in enumerate(METERS)}
_LAST = len(METERS)
"""The place of what is no meter: a fee that cannot be said."""


class Rerated(NamedTuple):
    """`lines` as `LINES_ARROW`, in the order in which `rating.rate` gives charges; none of a call without a cost.

    `calls` has one row per call: `row`, `cost_usd` and `list_cost_usd` (NULL where there is no cost) and `reason`.
    """

    lines: pa.Table
    calls: pa.Table


def rerate(parts: pa.Table, book: PriceBook, contract: Contract | None = None) -> Rerated:
    """Rate every call whose parts are given; one without a part cannot be told of."""
    parts = parts.cast(PARTS_ARROW)
    counted = tuple(name for name in COUNTS if parts[name].null_count < len(parts))
    meters = tuple(meter for meter in METERS if not {*meter.plus, *meter.minus}.isdisjoint(counted))
    engine: Any = ibis.duckdb.connect()
    try:
        minutes = _slot_minutes(parts, book)
        placed = _placed(ibis.memtable(parts.select([*_OWN, *counted])), minutes)
        keys = [*_USE, "slot"]
        uses = engine.to_pyarrow(placed.select(keys).distinct().order_by(keys)).to_pylist()
        found = [_found(use, minutes, book, contract) for use in uses]
        priced = _kept(engine, _priced(placed, _uses_table(uses, found, meters)))
        quantities = _Quantities(priced, counted, meters, found)
        charged = ibis.union(*quantities.pieces(), _fees(priced), distinct=False)
        lines = _kept(engine, _lines(charged, _prices_table(found)))
        faults = _kept(engine, _faults(quantities, lines))
        calls = engine.to_pyarrow(_calls(priced, lines, faults).order_by("row"))
        return Rerated(engine.to_pyarrow(_shown(lines, faults, found)).cast(LINES_ARROW), calls)
    finally:
        engine.disconnect()


class Engine(Protocol):
    """Where many records are: what can be asked of it, and where a small table can be put beside them."""

    def execute(self, expression: Any, /) -> pa.Table: ...

    def given(self, name: str, table: pa.Table, /) -> Any: ...

    def view(self, name: str, expression: Any, /) -> Any: ...


class Named(NamedTuple):
    """What a record's names mean in the price book; `unrated` where they mean nothing."""

    provider: str
    model: str
    unrated: str | None = None


Resolve = Callable[[str | None, str | None, str | None], Named]
"""(provider, model asked for, model that answered), as a log has them -> what the price book calls them."""


class Rates(NamedTuple):
    """Costs of many records, in the engine that holds them.

    `rows`: `row`, `use`, `above` (its band of prices), `computed_usd` and `reason`, one of the last two being NULL.
    `prices`: by `use` and `above` the price each meter is charged at, as `price_<meter>`; `meters` are those.
    `uses`: by number what each use is, with `provider`, `model`, `card` and `unrated` as the price book has them.
    """

    rows: Any
    prices: Any
    uses: Any
    meters: tuple[Meter, ...]


_NAMES = ("provider", "request_model", "response_model")
_SERVED = _USE[2:]


def costs(
    engine: Engine,
    parts: Any,
    book: PriceBook,
    resolve: Resolve,
    *,
    contract: Contract | None = None,
    carry: Sequence[str] = (),
    name: str = "rated",
) -> Rates:
    """What each record should have cost by the archive, without its charges: one pass, nothing leaves the engine.

    `parts` has `row`, the names as the log has them, the context, `at` (UTC, without its zone), `step` and the counts.
    `carry` names further columns, which `rows` then has too. `rows` is a view that is worked out when it is asked; it
    and the two tables that it asks stay, under names that begin with `name`.
    """
    stated = engine.execute(parts.aggregate(**{count: parts[count].count() for count in COUNTS})).to_pylist()[0]
    counted = tuple(count for count in COUNTS if stated[count])
    meters = tuple(meter for meter in METERS if not {*meter.plus, *meter.minus}.isdisjoint(counted))
    known = engine.execute(parts.select(*_NAMES).distinct().order_by(*_NAMES)).to_pylist()
    meanings = {tuple(names.values()): resolve(*names.values()) for names in known}
    minutes = _minutes({(each.provider, each.model) for each in meanings.values()}, book)
    placed = _slotted(parts, {names: minutes.get(each[:2], MINUTES_PER_DAY) for names, each in meanings.items()})
    keys = [*_NAMES, *_SERVED, "slot"]
    uses = engine.execute(placed.select(keys).distinct().order_by(keys)).to_pylist()
    found = [_meant(use, meanings[tuple(use[each] for each in _NAMES)], minutes, book, contract) for use in uses]
    said = [
        {**use, "use": number, "price_provider": of.provider, "model": of.use.model, "unrated": of.use.unrated}
        | {"card": of.use.card.id if of.use.card is not None else None}
        for number, (use, of) in enumerate(zip(uses, found, strict=True))
    ]
    uses_table = engine.given(f"{name}_uses", pa.Table.from_pylist(said, schema=_SAID_ARROW))
    shown = dict.fromkeys((*(meter.name for meter in meters), *_ALWAYS_PRICED))
    prices = engine.given(f"{name}_prices", _wide_prices([of.use for of in found], tuple(shown)))
    same = [placed[key].fill_null(_ABSENT) == uses_table[key].fill_null(_ABSENT) for key in keys if key != "slot"]
    numbered = placed.join(uses_table, [*same, placed.slot == uses_table.slot])
    own = dict.fromkeys(("row", "step", *counted, *carry))
    numbered = numbered.select(*(placed[each] for each in own), uses_table.use)
    band = [numbered.use == prices.use, numbered.step > prices.above, numbered.step <= prices.up_to]
    met = numbered.join(prices, band)
    return Rates(engine.view(name, _costed(met, counted, meters, carry)), prices, uses_table, meters)


_ALWAYS_PRICED = ("input", "cache_read_input")
"""Meters whose prices are there even where no record has a count of theirs: what was not counted may have been used."""
_ABSENT = "\x00"
"""Stands for a name or a context that is not there, where two tables meet."""
_SAID_ARROW = pa.schema(
    [("use", _COUNT), ("slot", _COUNT)]
    + [(each, _TEXT) for each in (*_NAMES, *_SERVED, "price_provider", "model", "card", "unrated")]
)


class _Meant(NamedTuple):
    provider: str
    use: _Use


_ABSENT_REASONS = ("model_unpriced", "provider_unpriced")


def _meant(
    use: Mapping[str, Any],
    named: Named,
    minutes: Mapping[tuple[str, str], int],
    book: PriceBook,
    contract: Contract | None,
) -> _Meant:
    """What a use is charged by; what the archive does not know may stand in a contract."""
    unrated = named.unrated or ("time_missing" if use["slot"] < 0 else None)
    if unrated is not None and (contract is None or use["slot"] < 0 or unrated not in _ABSENT_REASONS):
        return _Meant(named.provider, _Use(named.model, None, {}, {}, (), unrated))
    served = {each: use[each] or "" for each in _SERVED}
    asked = {"provider": named.provider, "model": named.model, "slot": use["slot"], **served}
    return _Meant(named.provider, _found(asked, minutes, book, contract))


def _slotted(parts: Any, minutes: Mapping[tuple[Any, ...], int]) -> Any:
    """The records with their part of the time: a day, or less where a price changes within it."""
    length = ibis.literal(MINUTES_PER_DAY, "int64")
    shorter = [(names, each) for names, each in minutes.items() if each != MINUTES_PER_DAY]
    if shorter:
        within = [
            (
                ibis.and_(
                    *(parts[key].fill_null("") == (value or "") for key, value in zip(_NAMES, names, strict=True))
                ),
                each,
            )
            for names, each in shorter
        ]
        length = ibis.cases(*((test, ibis.literal(each, "int64")) for test, each in within), else_=length)
    slot = (parts["at"].epoch_seconds().cast("int64") // (length * 60)).cast("int64")
    # A size below 0 is damage, of which the counts tell; it has a band of prices all the same.
    return parts.mutate(slot=ibis.coalesce(slot, -1), step=ibis.greatest(ibis.coalesce(parts.step, 0), 0))


def _wide_prices(found: Sequence[_Use], meters: Sequence[str]) -> pa.Table:
    """One row per use and band of input sizes, with the price at which each meter is charged there."""
    rows = []
    for number, use in enumerate(found):
        for above, up_to in itertools.pairwise((-1, *use.steps, STEP_MAX)):
            size = up_to if up_to != STEP_MAX else above + 1
            at = {meter: price.at(size) for meter, price in use.known.items()}
            fee = use.fee()
            rows.append(
                {
                    "use": number,
                    "above": above,
                    "up_to": up_to,
                    "unrated": use.unrated,
                    "fee": at.get(fee) if fee else money.ZERO,
                    **{f"price_{meter}": at.get(use.charged_as(meter)) for meter in meters},
                }
            )
    fixed: list[tuple[str, pa.DataType]] = [("use", _COUNT), ("above", _COUNT), ("up_to", _COUNT), ("unrated", _TEXT)]
    prices = [(name, _PRICE_ARROW) for name in ("fee", *(f"price_{meter}" for meter in meters))]
    return pa.Table.from_pylist(rows, schema=pa.schema([*fixed, *prices]))


def leaf(counts: Any, meter: Meter, counted: Collection[str]) -> Any:
    """A meter's quantity out of a table of inclusive counts, of which only `counted` are stated anywhere."""
    quantity = ibis.literal(0, "int64")
    for name in meter.plus:
        quantity = quantity + ibis.coalesce(counts[name], 0) if name in counted else quantity
    for name in meter.minus:
        quantity = quantity - ibis.coalesce(counts[name], 0) if name in counted else quantity
    return quantity


def amount(quantity: Any, price: Any) -> Any:
    """Quantity times price, exact."""
    return (quantity.cast(_QUANTITY) * price).cast(_MONEY)


def _costed(met: Any, counted: Sequence[str], meters: Sequence[Meter], carry: Sequence[str]) -> Any:
    quantities = {meter.name: leaf(met, meter, counted) for meter in meters}
    nothing = ibis.and_(*(met[name].isnull() for name in counted)) if counted else ibis.literal(True)
    absurd = [((met[name] < 0) | (met[name] > COUNT_MAX), f"usage_invalid:{name}") for name in counted]
    negative = [(quantities[meter.name] < 0, f"usage_invalid:{meter.name}") for meter in meters]
    unpriced = [
        ((quantities[meter.name] != 0) & met[f"price_{meter.name}"].isnull(), f"meter_unpriced:{meter.name}")
        for meter in meters
    ]
    no_fee = [(met.fee.isnull(), f"meter_unpriced:{REQUEST}")]
    first = ibis.cases((nothing, "usage_missing"), *absurd, *negative, *no_fee, *unpriced, else_=ibis.null("string"))
    # A record whose counts cannot be is told of here and not multiplied: the product might not fit.
    faulty = ibis.coalesce(met.unrated, first)
    total = met.fee.cast(_MONEY)
    for meter in meters:
        quantity = ibis.ifelse(faulty.isnull(), quantities[meter.name], 0)
        total = total + ibis.coalesce(amount(quantity, met[f"price_{meter.name}"]), ibis.literal(money.ZERO, _MONEY))
    return met.select(
        *dict.fromkeys(("row", "use", "above", *carry)),
        computed_usd=ibis.ifelse(faulty.isnull(), total, ibis.null(_MONEY)).cast(_MONEY),
        reason=faulty,
    )


def _kept(engine: Any, expression: Any) -> Any:
    """The rows of an expression that more than one other needs, worked out once."""
    return ibis.memtable(engine.to_pyarrow(expression))


# -- what the price book says of each use


class _Use(NamedTuple):
    """A card, what is charged on it, and the sizes of input between which its prices differ; or why there is none."""

    model: str
    card: Card | None
    known: Mapping[str, Price]
    contracted: Mapping[str, Price]
    steps: tuple[int, ...]
    unrated: str | None

    def charged_as(self, meter: str) -> str:
        """The meter whose price holds for this one; itself where none does."""
        return priced_as(meter, self.known) or meter

    def fee(self) -> str | None:
        """The fee per request that every call on this card owes, if there is one."""
        if REQUEST in self.known:
            return REQUEST
        return UNSETTLED_REQUEST if self.card is not None and UNSETTLED_REQUEST in self.card.unmetered else None


def _slot_minutes(parts: pa.Table, book: PriceBook) -> dict[tuple[str, str], int]:
    pairs = parts.group_by(["provider", "model"]).aggregate([]).to_pylist()
    return _minutes({(pair["provider"], pair["model"]) for pair in pairs}, book)


def _minutes(pairs: Iterable[tuple[str, str]], book: PriceBook) -> dict[tuple[str, str], int]:
    """By provider and model the length of the parts of a day within which no price of it changes; else it is a day."""
    minutes: dict[tuple[str, str], int] = {}
    for provider, model in pairs:
        edges = [edge.hour * 60 + edge.minute for edge in book.edges(provider, model)]
        if edges:
            minutes[provider, model] = math.gcd(MINUTES_PER_DAY, *edges)
    return minutes


def _found(
    use: Mapping[str, Any], minutes: Mapping[tuple[str, str], int], book: PriceBook, contract: Contract | None
) -> _Use:
    slot_minutes = minutes.get((use["provider"], use["model"]), MINUTES_PER_DAY)
    when = datetime.fromtimestamp(use["slot"] * slot_minutes * 60, UTC)
    context = Context(*(use[name] or None for name in _USE[2:]))
    card = book.at(use["provider"], use["model"], context, when)
    if isinstance(card, Unrated):
        own = contract.card(use["provider"], use["model"], context, when) if contract is not None else None
        if own is None:
            return _Use(use["model"], None, {}, {}, (), card.reason)
        card = own
    contracted = (contract.at(card, when) if contract is not None else None) or {}
    known = {**card.prices, **contracted}
    steps = sorted({threshold for price in (*known.values(), *card.prices.values()) for threshold, _ in price.steps})
    return _Use(use["model"], card, known, contracted, tuple(steps), None)


def _uses_table(uses: list[dict[str, Any]], found: list[_Use], meters: Sequence[Meter]) -> pa.Table:
    """Each use with its number, its fault, its fee, and for each meter the place of what it is charged as."""
    rows = [
        {
            **use,
            "use": number,
            "unrated": of.unrated,
            "fee": of.fee(),
            **{f"as_{meter.name}": _PLACE[of.charged_as(meter.name)] for meter in meters},
        }
        for number, (use, of) in enumerate(zip(uses, found, strict=True))
    ]
    charged = [(f"as_{meter.name}", pa.int8()) for meter in meters]
    return pa.Table.from_pylist(rows, schema=pa.schema([*_USES_ARROW, *charged]))


def _prices_table(found: list[_Use]) -> pa.Table:
    rows = [row for number, use in enumerate(found) for row in _price_rows(number, use)]
    return pa.Table.from_pylist(rows, schema=_PRICES_ARROW)


def _price_rows(number: int, use: _Use) -> Iterator[dict[str, Any]]:
    """One row per price and band of input sizes; a band holds what is above one step and up to the next."""
    bounds = (-1, *use.steps, STEP_MAX)
    for meter, price in use.known.items():
        public = public_price(meter, use.card.prices) if use.card is not None and meter in use.contracted else None
        for above, up_to in itertools.pairwise(bounds):
            size = up_to if up_to != STEP_MAX else above + 1
            yield {
                "use": number,
                "charged_as": _PLACE[meter],
                "above": above,
                "up_to": up_to,
                "unit_price_usd": price.at(size),
                "list_price_usd": (public or price).at(size),
            }


# -- the expressions


def _placed(parts: Any, minutes: Mapping[tuple[str, str], int]) -> Any:
    """The parts with their slot of time, and with contexts that can be compared."""
    contexts = {name: ibis.coalesce(parts[name], "") for name in _USE}
    day = ibis.literal(MINUTES_PER_DAY, "int64")
    changing = [
        ((parts.provider == provider) & (parts.model == model), ibis.literal(length, "int64"))
        for (provider, model), length in minutes.items()
    ]
    length = ibis.cases(*changing, else_=day) if changing else day
    slot = (parts.at.epoch_seconds().cast("int64") // (length * 60)).cast("int64")
    return parts.mutate(**contexts, slot=slot, step=ibis.coalesce(parts.step, 0))


def _priced(placed: Any, uses: pa.Table) -> Any:
    """The parts, without what says which use they are, and with what the uses' table says of it."""
    table = ibis.memtable(uses)
    keys = {*_USE, "slot"}
    own = [placed[name] for name in placed.columns if name not in {*keys, "at"}]
    return placed.join(table, [*_USE, "slot"]).select(
        *own, *(table[name] for name in uses.column_names if name not in keys)
    )


class _Quantities:
    """The leaf quantities of the parts, as `usage.METERS` says, for the counts that any of them states."""

    def __init__(self, priced: Any, counted: Sequence[str], meters: Sequence[Meter], found: Sequence[_Use]) -> None:
        self.priced = priced
        self._charged = {(meter.name, use.charged_as(meter.name)) for meter in meters for use in found}
        self.counts = [priced[name] for name in counted]
        self._counted = frozenset(counted)
        self._meters = meters

    def leaf(self, meter: Meter) -> Any:
        return leaf(self.priced, meter, self._counted)

    def pieces(self) -> Iterator[Any]:
        """For each meter that may be charged, what is charged as it, and the place of the first meter in it."""
        priced = self.priced
        for target in METERS:
            falling = [meter for meter in self._meters if (meter.name, target.name) in self._charged]
            if not falling:
                continue
            place = _PLACE[target.name]
            within = [(meter, priced[f"as_{meter.name}"] == place) for meter in falling]
            none = ibis.literal(0, "int64")
            quantity = sum((ibis.ifelse(here, self.leaf(meter), 0) for meter, here in within), none)
            used = [ibis.ifelse(here & (self.leaf(meter) != 0), _PLACE[meter.name], _LAST) for meter, here in within]
            piece = priced.select(
                "row",
                "part",
                "use",
                "step",
                charged_as=ibis.literal(place, "int8"),
                place=ibis.least(*used).cast("int8"),
                quantity=quantity.cast("int64"),
            )
            yield piece.filter(piece.quantity != 0)

    def fault(self) -> Any:
        """Why a part's usage cannot be rated, NULL where it can."""
        absurd = ((count < 0) | (count > COUNT_MAX) for count in self.counts)
        named = (f"usage_invalid:{count.get_name()}" for count in self.counts)
        negative = ((self.leaf(meter) < 0, f"usage_invalid:{meter.name}") for meter in self._meters)
        nothing = ibis.and_(*(count.isnull() for count in self.counts))
        branches = ((nothing, "usage_missing"), *zip(absurd, named, strict=True), *negative)
        return ibis.cases(*branches, else_=ibis.null("string"))


def _fees(priced: Any) -> Any:
    """The fee per request, once for the first part whose card has one; and every part whose fee cannot be said."""
    owed = priced.filter(priced.fee.notnull())
    first = owed.filter(owed.fee == REQUEST).group_by("row").aggregate(first=lambda table: table.part.min())
    kept = owed.left_join(first, "row")
    kept = kept.filter((kept.fee == UNSETTLED_REQUEST) | (kept.part == kept["first"]))
    settled = kept.fee == REQUEST
    return kept.select(
        "row",
        "part",
        "use",
        "step",
        charged_as=ibis.ifelse(settled, _PLACE[REQUEST], _LAST).cast("int8"),
        # Which fee holds is asked before any meter is.
        place=ibis.ifelse(settled, _PLACE[REQUEST], -1).cast("int8"),
        quantity=ibis.literal(1, "int64"),
    )


def _lines(charged: Any, prices: pa.Table) -> Any:
    """What is charged, with its price; without one the price is NULL."""
    table = ibis.memtable(prices)
    same = [
        charged.use == table.use,
        charged.charged_as == table.charged_as,
        charged.step > table.above,
        charged.step <= table.up_to,
    ]
    met = charged.left_join(table, same)
    quantity = charged.quantity.cast(_QUANTITY)
    return met.select(
        *(charged[name] for name in ("row", "part", "use", "charged_as", "place", "quantity")),
        unit_price_usd=table.unit_price_usd.cast(_MONEY),
        cost_usd=(quantity * table.unit_price_usd).cast(_MONEY),
        list_cost_usd=(quantity * table.list_price_usd).cast(_MONEY),
    )


def _faults(quantities: _Quantities, lines: Any) -> Any:
    """`row` and `reason` of every call without a cost: the first fault of the first part that has one."""
    priced = quantities.priced
    unpriced = lines.filter(lines.unit_price_usd.isnull())
    first = unpriced.group_by(["row", "part"]).aggregate(meter=unpriced.charged_as.argmin(unpriced.place))
    names = ((place, f"meter_unpriced:{name}") for name, place in _PLACE.items())
    parts = priced.select("row", "part", before=ibis.coalesce(priced.unrated, quantities.fault()))
    both = parts.left_join(first, ["row", "part"])
    unknown = both.meter.cases(*names, (_LAST, f"meter_unpriced:{REQUEST}"), else_=ibis.null("string"))
    both = both.select("row", "part", reason=ibis.coalesce(both.before, unknown))
    faulty = both.filter(both.reason.notnull())
    return faulty.group_by("row").aggregate(reason=faulty.reason.argmin(faulty.part))


def _calls(priced: Any, lines: Any, faults: Any) -> Any:
    rows = priced.select("row").distinct()
    sums = lines.group_by("row").aggregate(cost_usd=lines.cost_usd.sum(), list_cost_usd=lines.list_cost_usd.sum())
    met = rows.left_join(sums, "row").left_join(faults, "row")
    nothing = ibis.literal(Decimal(0), _MONEY)
    known = met.reason.isnull()
    return met.select(
        "row",
        cost_usd=ibis.ifelse(known, ibis.coalesce(met.cost_usd, nothing), ibis.null(_MONEY)).cast(_MONEY),
        list_cost_usd=ibis.ifelse(known, ibis.coalesce(met.list_cost_usd, nothing), ibis.null(_MONEY)).cast(_MONEY),
        reason=met.reason,
    )


def _shown(lines: Any, faults: Any, found: list[_Use]) -> Any:
    """The lines of the calls that have a cost, with names in the place of numbers."""
    cards = [
        {"use": number, "model": use.model, "card": use.card.id}
        for number, use in enumerate(found)
        if use.card is not None
    ]
    names = ibis.memtable(pa.Table.from_pylist(cards, schema=_CARDS_ARROW))
    meters = lines.charged_as.cases(*((place, name) for name, place in _PLACE.items()), else_="")
    sound = lines.mutate(meter=meters).anti_join(faults, "row").join(names, "use")
    return sound.order_by(["row", "part", "place"]).select(LINES_ARROW.names)
