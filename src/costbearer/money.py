"""Exact US dollars. The only module that rounds, divides or formats money.

An amount is a `decimal.Decimal` with at most `PLACES` digits after the point, the scale of the ledger's
`DECIMAL(38,12)`. What arrives with more digits is rounded half-even once, on entry, by `usd`. Sums and products inside
the project are computed in a context that raises rather than round, so a lost digit is an error and never a surprise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from costbearer.errors import AmountInvalid
from costbearer.limits import AMOUNT_USD_MAX

PLACES = 12
DIGITS = 38
QUANTUM = Decimal(1).scaleb(-PLACES)
ZERO = Decimal("0.000000000000")

_EXACT = Context(prec=2 * DIGITS, rounding=ROUND_HALF_EVEN, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])
_ROUNDING = Context(prec=2 * DIGITS, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
DEEP = Context(prec=100, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
"""For calculations with ratios: so many digits that what is cut off at the end never shows."""
_CENT = Decimal("0.01")
_MICRO = Decimal("0.000001")
_AMOUNT_MAX = Decimal(AMOUNT_USD_MAX)
_BEYOND = Decimal(10) ** (DIGITS - PLACES)
_SUM_MAX = _EXACT.subtract(_BEYOND, QUANTUM)
_multiply, _add, _subtract = _EXACT.multiply, _EXACT.add, _EXACT.subtract


def usd(value: str | int | Decimal) -> Decimal:
    """The door for money: an exact amount with 12 places, rounded half-even where the source has more digits.

    A float is refused by type: its digits are not the ones somebody wrote.

    Raises:
        AmountInvalid: not a finite decimal number, or more than `limits.AMOUNT_USD_MAX`.
    """
    return _read(value, _AMOUNT_MAX, f"at most {AMOUNT_USD_MAX:,} USD")


def usd_sum(value: str | int | Decimal) -> Decimal:
    """The door for a sum of amounts, which may be as large as `DECIMAL(38,12)` holds; otherwise as `usd`.

    Raises:
        AmountInvalid: as `usd`.
    """
    return _read(value, _SUM_MAX, f"at most {DIGITS - PLACES} digits")


def within(amount: Decimal) -> bool:
    """Whether something that was calculated can be one amount."""
    return amount.copy_abs() <= _AMOUNT_MAX


def adds_up(largest: Decimal, count: int) -> bool:
    """Whether the sum of so many amounts, none larger, has the digits of `DECIMAL(38,12)` at most."""
    return _EXACT.multiply(largest, count) <= _SUM_MAX


def _read(value: str | int | Decimal, most: Decimal, said: str) -> Decimal:
    if isinstance(value, (float, bool)):
        raise AmountInvalid("an amount of money must not be a binary float or a truth value; pass its text")
    try:
        amount = Decimal(value)
        if amount.is_finite() and amount.copy_abs() < _BEYOND:
            rounded = _ROUNDING.add(amount.quantize(QUANTUM, context=_ROUNDING), ZERO)
            if rounded.copy_abs() <= most:
                return rounded
        raise AmountInvalid(f"{str(amount)[:60]!r} is not an amount of {said}")
    except (InvalidOperation, ValueError, TypeError):
        raise AmountInvalid(f"{str(value)[:60]!r} is not a decimal amount such as 0.0125") from None


def times(quantity: int, unit_price: Decimal) -> Decimal:
    """Quantity x unit price, exact; raises `decimal.Inexact` rather than round."""
    return _multiply(quantity, unit_price)


def scaled(amount: Decimal, factor: Decimal) -> Decimal:
    """Amount x factor (a multiplier such as 1.1), rounded half-even to 12 places."""
    return _ROUNDING.multiply(amount, factor).quantize(QUANTUM, context=_ROUNDING)


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum, with 12 places."""
    result = ZERO
    for amount in amounts:
        result = _add(result, amount)
    return result


def minus(left: Decimal, right: Decimal) -> Decimal:
    """The exact difference."""
    return _subtract(left, right)


def per(amount: Decimal, quantity: int | Decimal) -> Decimal | None:
    """Amount / quantity, rounded half-even to 12 places: an average or a unit price. None where quantity is 0."""
    if not quantity:
        return None
    return _ROUNDING.divide(amount, Decimal(quantity)).quantize(QUANTUM, context=_ROUNDING)


def share(part: Decimal, whole: Decimal) -> float | None:
    """The part's share of the whole, 0 to 1 (a ratio for reading, not money). None where the whole is 0."""
    if not whole:
        return None
    return float(_ROUNDING.divide(part, whole))


def allocate(amount: Decimal, weights: Sequence[Decimal | int]) -> list[Decimal]:
    """Split an amount by weights so that the parts add up to it to the last digit (largest remainder).

    Each part is the exact proportion cut to 12 places; the units that are left go, one each, to the largest remainders,
    the earlier one first where two are equal.

    Raises:
        AmountInvalid: no weight is positive, or one is negative.
    """
    shares = [Decimal(weight) for weight in weights]
    whole = sum(shares, Decimal(0))
    if whole <= 0 or any(weight < 0 for weight in shares):
        raise AmountInvalid("an amount can only be split by weights of 0 or more, at least one of them positive")
    units = int(_EXACT.scaleb(usd_sum(amount), PLACES))
    sign = -1 if units < 0 else 1
    scale = min(int(weight.as_tuple().exponent) for weight in shares)
    integers = [int(weight.scaleb(-min(scale, 0), context=_EXACT)) for weight in shares]
    divisor = sum(integers)
    parts = [divmod(abs(units) * weight, divisor) for weight in integers]
    left = abs(units) - sum(quotient for quotient, _ in parts)
    order = sorted(range(len(parts)), key=lambda index: -parts[index][1])
    extra = set(order[:left])
    return [
        Decimal(sign * (quotient + (1 if index in extra else 0))).scaleb(-PLACES, context=_EXACT)
        for index, (quotient, _) in enumerate(parts)
    ]


def ratio(part: Decimal | int, whole: Decimal | int) -> Decimal:
    """The part divided by the whole to 100 digits, for a calculation whose end `settled` brings back to 12 places.

    Raises:
        decimal.DivisionByZero: the whole is 0.
    """
    return DEEP.divide(Decimal(part), Decimal(whole))


def settled(amount: Decimal, parts: Sequence[Decimal]) -> list[Decimal]:
    """Parts that were calculated to 100 digits and add up to an amount, with 12 places and still adding up to it.

    Each is cut to 12 places; the units that are left go, one each, to the largest remainders, the earlier one first
    where two are equal.

    Raises:
        AmountInvalid: they do not add up to the amount.
    """
    cut = [part.quantize(QUANTUM, rounding=ROUND_FLOOR, context=DEEP) for part in parts]
    units = int(_EXACT.scaleb(_subtract(amount, total(cut)), PLACES))
    if not 0 <= units <= len(parts):
        raise AmountInvalid(f"parts that should add up to {text(amount)} do not: they are {units} units away from it")
    order = sorted(range(len(parts)), key=lambda index: (cut[index] - parts[index], index))
    more = set(order[:units])
    return [_add(part, QUANTUM) if index in more else _add(part, ZERO) for index, part in enumerate(cut)]


def text(amount: Decimal) -> str:
    """The amount for JSON, CSV and headers: plain digits, always 12 places."""
    return f"{amount.quantize(QUANTUM, context=_ROUNDING):f}"


def plain(amount: Decimal) -> str:
    """The amount in the digits that say something: `0.0125`, `3`; for files that people write and read."""
    digits = text(amount)
    return digits.rstrip("0").rstrip(".")


def display_price(amount: Decimal) -> str:
    """A price for people: every digit of it, at least two after the point, because a rounded price is another price."""
    whole, _, part = plain(amount).partition(".")
    return f"${whole}.{part.ljust(len('00'), '0')}"


def display(amount: Decimal | None) -> str:
    """The amount for people: `$1,234.50`; below a dollar as many digits as it takes; unknown is never $0.00."""
    if amount is None:
        return "unknown"
    sign = "-" if amount < 0 else ""
    size = amount.copy_abs()
    if size >= 1:
        return f"{sign}${size.quantize(_CENT, context=_ROUNDING):,}"
    digits = f"{size.quantize(QUANTUM, context=_ROUNDING):f}".rstrip("0")
    return f"{sign}${digits.ljust(len('0.00'), '0')}"


def brief(amount: Decimal) -> str:
    """The amount for a glance: `$1,234.50`; below a dollar at most six places, and what is less still is not $0.00."""
    size = amount.copy_abs()
    if size >= 1:
        return display(amount)
    rounded = size.quantize(_MICRO, context=_ROUNDING)
    if size and not rounded:
        return f"{'-' if amount < 0 else ''}<$0.000001"
    return display(rounded.copy_sign(amount))
