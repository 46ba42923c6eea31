"""The rows of a contract file, TOML or CSV: what was negotiated, and capacity that is paid by time.

    [[terms]]                       # a discount, or prices
    provider = "openai"
    model = "gpt-5*"                # * is any text; without it, every model
    tier = "batch"                  # without it any tier; "standard" is none
    since = 2026-01-01
    until = 2027-01-01              # without it, until further notice
    discount = "12.5"               # percent off the price list

    [[terms]]
    provider = "anthropic"
    model = "claude-opus-5"
    prices_per_million = { input = "4.20", output = "21" }
    prices = { web_search = "0.008" }       # each

    [[commitments]]
    name = "ptu-east"
    provider = "azure"
    model = "gpt-4.1*"
    deployment = "prod-east"        # without it, any
    fee = "730"
    every = "month"                 # or hour
    since = 2026-01-01

In CSV a row is a term of one meter, or a discount where `discount` is set, or a commitment where `fee` is; the columns
have the names above, with `meter`, `price` and `per` (1 or 1000000) for a price.

A file is taken whole or refused whole, naming the line: rows that overlap, days between two rows that neither covers,
negative and inexact numbers. Pure: no file is opened here.
"""

from __future__ import annotations

import calendar
import csv
import io
import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, cast

import msgspec

from costbearer import money
from costbearer.errors import PricesInvalid
from costbearer.price_context import MODEL_NAME_CHARS_MAX, Context, words_of
from costbearer.toml_text import parsed
from costbearer.usage import METER

BYTES_MAX = 1024 * 1024
"""No contract is larger; the console takes no larger body either."""

WHOLE = Decimal(100)
"""All of a price, in percent."""

STANDARD = "standard"
"""The word for the tier or geo that is nothing special."""

PER_MILLION = 1_000_000
Every = Literal["hour", "month"]
Period = Literal["hour", "day", "month"]

_TERM_KEYS = {"provider", "model", "tier", "geo", "since", "until", "discount", "prices", "prices_per_million"}
_COMMITMENT_KEYS = {"name", "provider", "model", "deployment", "fee", "every", "since", "until"}
_CSV_KEYS = (_TERM_KEYS - {"prices", "prices_per_million"}) | _COMMITMENT_KEYS | {"meter", "price", "per"}
_NUMBER = re.compile(r"-?\d{1,20}(\.\d+)?", re.ASCII)


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for some models of a provider on the days `[since, until)`: either `discount` or `prices`.

    `discount` is in percent, 0 to 100. `prices` are USD per unit of a meter (`usage.METERS`), 12 places. `tier` and
    `geo` None hold for every one. `line` is where it stands in its file.
    """

    provider: str
    model: str = "*"
    tier: str | None = None
    geo: str | None = None
    since: date | None = None
    until: date | None = None
    discount: Decimal | None = None
    prices: dict[str, Decimal] = {}
    line: int = 0

    @property
    def scope(self) -> tuple[str, str, str | None, str | None]:
        """What it is about; two terms of one scope must not hold on the same day."""
        return (self.provider, self.model, self.tier, self.geo)

    def holds(self, day: date) -> bool:
        return (self.since is None or day >= self.since) and (self.until is None or day < self.until)

    def covers(self, provider: str, model: str, special: Mapping[str, str], day: date) -> bool:
        """Whether it is about this model, served so, on this day."""
        return (
            self.provider == provider
            and self.holds(day)
            and (self.tier is None or self.tier == special.get("tier", STANDARD))
            and (self.geo is None or self.geo == special.get("geo", STANDARD))
            and matches(self.model, model)
        )

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """How specific it is: of several terms that cover a call the highest holds, and of equals the first written."""
        literal = len(self.model.replace("*", ""))
        return (self.tier is not None, self.geo is not None, literal + ("*" not in self.model), -self.line)


class Commitment(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity paid by time, used or not, on the days `[since, until)`. `fee_usd` is per hour or per calendar month."""

    name: str
    provider: str
    model: str = "*"
    deployment: str | None = None
    fee_usd: Decimal
    every: Every
    since: date | None = None
    until: date | None = None
    line: int = 0

    def holds(self, day: date) -> bool:
        return (self.since is None or day >= self.since) and (self.until is None or day < self.until)

    def covers(self, provider: str, model: str, deployment: str | None, day: date) -> bool:
        """Whether a call on this day ran on it."""
        return (
            self.provider == provider
            and self.holds(day)
            and (self.deployment is None or self.deployment == deployment)
            and matches(self.model, model)
        )

    def fee_of(self, start: datetime, period: Period) -> Decimal:
        """The fee of the hour, day or month that begins at `start` (UTC), 0 for days on which it does not hold.

        A monthly fee is split evenly over the month's days and a day's part over its hours, so that the hours of a day
        and the days of a month add up to it to the last digit.
        """
        day = start.date()
        if period == "month":
            days = calendar.monthrange(day.year, day.month)[1]
            return money.total(self._fee_of_day(day.replace(day=1) + timedelta(days=each)) for each in range(days))
        if period == "day":
            return self._fee_of_day(day)
        if self.every == "hour":
            return self.fee_usd if self.holds(day) else money.ZERO
        return money.allocate(self._fee_of_day(day), [1] * _HOURS)[start.hour]

    def _fee_of_day(self, day: date) -> Decimal:
        if not self.holds(day):
            return money.ZERO
        if self.every == "hour":
            return money.times(_HOURS, self.fee_usd)
        days = calendar.monthrange(day.year, day.month)[1]
        return money.allocate(self.fee_usd, [1] * days)[day.day - 1]


_HOURS = 24


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.lower().split("*")), re.DOTALL)


def matches(pattern: str, model: str) -> bool:
    return pattern == "*" or _pattern(pattern).fullmatch(model.lower()) is not None


def read(data: bytes) -> tuple[list[Term], list[Commitment]]:
    """The rows of a file.

    Raises:
        PricesInvalid: it cannot be read, or a row of it contradicts itself or another; the message names the line.
    """
    if len(data) > BYTES_MAX:
        raise PricesInvalid(f"a contract has at most {BYTES_MAX:,} bytes; this one has {len(data):,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(10) + 1
        raise PricesInvalid(f"line {line}: not UTF-8") from None
    rows = list(_csv_rows(text) if _is_csv(text) else _toml_rows(text))
    terms = [_term(row) for row in rows if row.kind == "terms"]
    commitments = [_commitment(row) for row in rows if row.kind == "commitments"]
    _check(terms, commitments)
    return terms, commitments


def term(values: Mapping[str, object]) -> Term:
    """One term from its fields, named as in a file.

    Raises:
        PricesInvalid: naming the field.
    """
    return _term(_Row("terms", 0, dict(values)))


def written(terms: Iterable[Term], commitments: Iterable[Commitment]) -> bytes:
    """The rows as TOML, which `read` reads back to the same."""
    return "\n".join([*map(_term_text, terms), *map(_commitment_text, commitments)]).encode()


class _Row(msgspec.Struct):
    """One row as written, with the line to name when it is wrong."""

    kind: str
    line: int
    values: dict[str, Any]
    lines: dict[str, int] = {}

    def wrong(self, what: str, key: str = "") -> PricesInvalid:
        line = self.lines.get(key, self.line)
        where = [*([f"line {line}"] if line else []), *([key] if key else [])]
        return PricesInvalid(": ".join([*where, what]))


def _is_csv(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return "," in first and "=" not in first and not first.lstrip().startswith("[")


def _toml_rows(text: str) -> Iterator[_Row]:
    try:
        document = parsed(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise PricesInvalid(f"not TOML: {error}") from None
    unknown = sorted(document.keys() - {"terms", "commitments"})
    if unknown:
        raise PricesInvalid(f"line {_line_of(text, unknown[0])}: {unknown[0]!r} is neither terms nor commitments")
    lines = text.splitlines()
    for kind in ("terms", "commitments"):
        header = re.compile(rf"\s*\[\[\s*{kind}\s*\]\]")
        starts = [number for number, line in enumerate(lines, 1) if header.match(line)]
        tables = document.get(kind, [])
        if not isinstance(tables, list) or len(tables) != len(starts):
            raise PricesInvalid(f"line {_line_of(text, kind)}: {kind} are written as [[{kind}]] tables")
        for start, values in zip(starts, tables, strict=True):
            yield _Row(kind, start, values, _lines_of_keys(lines, start))


def _line_of(text: str, name: str) -> int:
    return next((number for number, line in enumerate(text.splitlines(), 1) if name in line), 1)


def _lines_of_keys(lines: Sequence[str], start: int) -> dict[str, int]:
    """The line of each key of the table whose header is on line `start`."""
    found: dict[str, int] = {}
    for number, line in enumerate(lines[start:], start + 1):
        if line.lstrip().startswith("[["):
            break
        for key in re.findall(r"(?:^\s*|[{,.\[]\s*)\"?(\w+)\"?\s*[=\]]", line):
            found.setdefault(key, number)
    return found


def _csv_rows(text: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    merged: dict[tuple[str, ...], _Row] = {}
    try:
        unknown = sorted(set(reader.fieldnames or ()) - _CSV_KEYS)
        if unknown:
            raise PricesInvalid(f"line 1: unknown column {unknown[0]!r}; known are {', '.join(sorted(_CSV_KEYS))}")
        for raw in reader:
            row = _csv_row(raw, reader.line_num)
            same = tuple(str(row.values.get(key)) for key in ("provider", "model", "tier", "geo", "since", "until"))
            if "prices" not in row.values or same not in merged:
                merged[same if "prices" in row.values else (str(row.line),)] = row
                continue
            ((meter, price),) = row.values["prices"].items()
            held = merged[same].values["prices"]
            if meter in held:
                raise row.wrong(
                    f"overlaps line {merged[same].lines[meter]}, which prices the same on the same days", meter
                )
            held[meter] = price
            merged[same].lines[meter] = row.line
    except csv.Error as error:
        raise PricesInvalid(f"line {reader.reader.line_num}: not CSV: {error}") from None
    yield from merged.values()


def _csv_row(raw: Mapping[str | None, Any], line: int) -> _Row:
    if None in raw or None in raw.values():
        raise PricesInvalid(f"line {line}: it has not as many cells as the header")
    values = {str(key): value.strip() for key, value in raw.items() if value.strip()}
    kind = "commitments" if "fee" in values else "terms"
    row = _Row(kind, line, values)
    meter, price, per = (values.pop(key, None) for key in ("meter", "price", "per"))
    if (meter is None) != (price is None):
        raise row.wrong("a price needs both meter and price")
    if per not in (None, "1", str(PER_MILLION)):
        raise row.wrong(f"{per!r} is neither 1 nor {PER_MILLION}", "per")
    if meter is not None:
        values["prices"] = {meter: _amount(row, meter, price, million=per == str(PER_MILLION))}
        row.lines = {meter: line}
    return row


def _term(row: _Row) -> Term:
    values = row.values
    _known(row, _TERM_KEYS)
    prices: dict[str, Decimal] = {}
    for key, million in (("prices", False), ("prices_per_million", True)):
        table = values.get(key, {})
        if not isinstance(table, dict):
            raise row.wrong("a table of meter and price", key)
        for meter, price in table.items():
            if meter in prices:
                raise row.wrong("priced twice", meter)
            if meter not in METER:
                raise row.wrong(f"no such meter; known are {', '.join(METER)}", meter)
            if million and METER[meter].unit not in ("token", "character"):
                raise row.wrong(f"priced per {METER[meter].unit}, not per million", meter)
            prices[meter] = price if isinstance(price, Decimal) else _amount(row, meter, price, million=million)
    discount = values.get("discount")
    if (discount is None) == (not prices):
        raise row.wrong("a term has either a discount or prices")
    since, until = _days(row)
    provider, tier, geo = _text(row, "provider"), _text(row, "tier", ""), _text(row, "geo", "")
    # The same words as in a card's context, whichever of the provider's words for it was written.
    special = words_of(provider, Context(tier=tier, geo=geo))
    return Term(
        provider=provider,
        model=_text(row, "model", "*"),
        tier=special.get("tier", STANDARD) if tier else None,
        geo=special.get("geo", STANDARD) if geo else None,
        since=since,
        until=until,
        discount=None if discount is None else _percent(row, discount),
        prices=prices,
        line=row.line,
    )


def _commitment(row: _Row) -> Commitment:
    _known(row, _COMMITMENT_KEYS)
    every = _text(row, "every")
    if every not in ("hour", "month"):
        raise row.wrong(f"{every!r} is neither hour nor month", "every")
    since, until = _days(row)
    return Commitment(
        name=_text(row, "name"),
        provider=_text(row, "provider"),
        model=_text(row, "model", "*"),
        deployment=_text(row, "deployment", "") or None,
        fee_usd=_amount(row, "fee", row.values.get("fee"), million=False),
        every=cast("Every", every),
        since=since,
        until=until,
        line=row.line,
    )


def _known(row: _Row, keys: set[str]) -> None:
    unknown = sorted(row.values.keys() - keys)
    if unknown:
        raise row.wrong(f"not known here; known are {', '.join(sorted(keys))}", unknown[0])


def _text(row: _Row, key: str, default: str | None = None) -> str:
    value = row.values.get(key, default)
    if not isinstance(value, str) or len(value) > MODEL_NAME_CHARS_MAX or (default is None and not value.strip()):
        raise row.wrong("missing" if value is None else f"text of 1 to {MODEL_NAME_CHARS_MAX} characters", key)
    return value.strip().lower() if key not in ("name", "deployment") else value.strip()


def _days(row: _Row) -> tuple[date | None, date | None]:
    since, until = _day(row, "since"), _day(row, "until")
    if since is not None and until is not None and since >= until:
        raise row.wrong(f"{until} is not after {since}", "until")
    return since, until


def _day(row: _Row, key: str) -> date | None:
    value = row.values.get(key)
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise row.wrong(f"{str(value)[:40]!r} is not a day such as 2026-12-31", key) from None


def _number(row: _Row, key: str, value: object) -> Decimal:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _NUMBER.fullmatch(text.strip()) is None:
        raise row.wrong(f"{str(value)[:40]!r} is not a decimal number such as 0.0125", key)
    number = Decimal(text.strip())
    if number < 0:
        raise row.wrong(f"{text} is negative", key)
    return number


def _amount(row: _Row, key: str, value: object, *, million: bool) -> Decimal:
    """An exact amount in USD. More than 12 places per unit are refused: rounding a negotiated price would be silent."""
    number = _number(row, key, value)
    exact = number.scaleb(-6) if million else number
    if money.usd(exact) != exact:
        raise row.wrong(f"{value} has more than {money.PLACES} places per unit", key)
    return money.usd(exact)


def _percent(row: _Row, value: object) -> Decimal:
    number = _number(row, "discount", value)
    if number > WHOLE:
        raise row.wrong(f"{value} is more than 100 percent", "discount")
    if money.usd(number) != number:
        raise row.wrong(f"{value} has more than {money.PLACES} places", "discount")
    return number


def _check(terms: Sequence[Term], commitments: Sequence[Commitment]) -> None:
    """Terms of one scope follow each other without overlap and without gap; a commitment's name is its own."""
    by_scope: dict[tuple[str, str, str | None, str | None], list[Term]] = {}
    for term in terms:
        by_scope.setdefault(term.scope, []).append(term)
    for scope in by_scope.values():
        ordered = sorted(scope, key=lambda term: term.since or date.min)
        for earlier, later in itertools.pairwise(ordered):
            one, other = sorted((earlier.line, later.line))
            if earlier.until is None or later.since is None or later.since < earlier.until:
                raise PricesInvalid(f"line {other}: overlaps the term of line {one}, which is about the same")
            if later.since > earlier.until:
                raise PricesInvalid(
                    f"line {later.line}: a gap from {earlier.until} to {later.since} after the term of line "
                    f"{earlier.line}; a discount of 0 says that the price list holds"
                )
    held: dict[tuple[str, str | None], list[Commitment]] = {}
    for commitment in commitments:
        for other_one in held.setdefault((commitment.name, commitment.deployment), []):
            if (other_one.until is None or commitment.since is None or commitment.since < other_one.until) and (
                commitment.until is None or other_one.since is None or other_one.since < commitment.until
            ):
                raise PricesInvalid(
                    f"line {commitment.line}: overlaps the commitment of line {other_one.line}, which has its name"
                )
        held[commitment.name, commitment.deployment].append(commitment)


# ---- writing -------------------------------------------------------------------------------------------------------


def _term_text(term: Term) -> str:
    lines = ["[[terms]]", *_pairs(term, ("provider", "model", "tier", "geo", "since", "until"))]
    if term.discount is not None:
        lines.append(f'discount = "{term.discount:f}"')
    if term.prices:
        listed = ", ".join(f'{meter} = "{money.plain(price)}"' for meter, price in term.prices.items())
        lines.append(f"prices = {{ {listed} }}")
    return "\n".join([*lines, ""])


def _commitment_text(commitment: Commitment) -> str:
    lines = ["[[commitments]]", *_pairs(commitment, ("name", "provider", "model", "deployment", "since", "until"))]
    return "\n".join([*lines, f'fee = "{money.plain(commitment.fee_usd)}"', f'every = "{commitment.every}"', ""])


def _pairs(row: Term | Commitment, names: Iterable[str]) -> list[str]:
    stated = ((name, getattr(row, name)) for name in names)
    return [
        f"{name} = {value.isoformat() if isinstance(value, date) else _quoted(value)}"
        for name, value in stated
        if value is not None
    ]


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
