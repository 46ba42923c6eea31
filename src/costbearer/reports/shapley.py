"""How much of the change of a product each of its factors caused. Pure.

The Shapley value (L. S. Shapley, "A value for n-person games", 1953; as a way to split the change of a product
A. F. Shorrocks, "Decomposition procedures for distributional analysis", 2013): the change that a factor makes when it
moves from its old to its new value, averaged over every order in which the factors could have moved. No order is
preferred, nothing is left over, and a factor that did not change gets nothing.

For a product the average needs no walk through the orders: of the n-1 other factors, those s that have moved already
count with weight s!(n-1-s)!/n!, and the sum over all choices of s of them is a coefficient of the polynomial
prod(old + new x).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from math import factorial

from costbearer import money

_multiply, _add, _subtract = money.DEEP.multiply, money.DEEP.add, money.DEEP.subtract
_ONE = Decimal(1)


def contributions(factors: Sequence[tuple[Decimal, Decimal]]) -> list[Decimal]:
    """What each factor, given as (old, new), contributed to the change of their product; they add up to it.

    To 100 digits: `money.settled` brings sums of them back to 12 places.
    """
    still = _ONE
    moved = []
    for place, (old, new) in enumerate(factors):
        if old == new:
            still = _multiply(still, old)
        else:
            moved.append(place)
    found = [Decimal(0)] * len(factors)
    for place in moved:
        old, new = factors[place]
        others = [factors[other] for other in moved if other != place]
        average = sum_of_weighted(others)
        found[place] = _multiply(_multiply(_subtract(new, old), average), still)
    return found


def sum_of_weighted(others: Sequence[tuple[Decimal, Decimal]]) -> Decimal:
    """The mean, over all orders, of the product of the other factors at the moment when one moves."""
    coefficients = [_ONE]
    for old, new in others:
        raised = [_multiply(new, coefficient) for coefficient in coefficients]
        kept = [_multiply(old, coefficient) for coefficient in coefficients]
        coefficients = [
            _add(kept[power] if power < len(kept) else Decimal(0), raised[power - 1] if power else Decimal(0))
            for power in range(len(coefficients) + 1)
        ]
    mean = Decimal(0)
    for weight, coefficient in zip(_weights(len(others)), coefficients, strict=True):
        mean = _add(mean, _multiply(weight, coefficient))
    return mean


@cache
def _weights(others: int) -> tuple[Decimal, ...]:
    whole = factorial(others + 1)
    return tuple(money.ratio(factorial(s) * factorial(others - s), whole) for s in range(others + 1))
