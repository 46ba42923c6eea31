"""How much of the change of a product each of its factors caused. Pure.

The Shapley value (L. S. Shapley, "A value for n-person games", 1953; as a way to split the change of a product
A. F. Shorrocks, "Decomposition procedures for distributional analysis", 2013): the change that a factor makes when it
moves from its old to its new value, averaged over every order in which the factors could have moved. No order is
preferred, nothing is left over, and a factor that did not change gets nothing.

For a product the average needs no walk through the orders. It is the mean of the other factors' product while all of
them move together from old to new (the multilinear extension: G. Owen, "Multilinear extensions of games", 1972), an
integral of a polynomial, which Gauss's quadrature with five nodes gives exactly up to the ninth degree.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from costbearer import money

FACTORS_MAX = 10
"""Of these many factors the others' product has the ninth degree."""

_multiply, _add, _subtract = money.DEEP.multiply, money.DEEP.add, money.DEEP.subtract
_ONE = Decimal(1)


def _nodes() -> tuple[tuple[Decimal, Decimal], ...]:
    """Gauss-Legendre's nodes in 0 to 1 and their weights, which add up to 1, from their closed form."""
    root, half = money.DEEP.sqrt, Decimal("0.5")
    inner = _multiply(Decimal(2), root(money.ratio(10, 7)))
    spread = _multiply(Decimal(13), root(Decimal(70)))
    found = [(half, money.ratio(64, 225))]
    for shift, more in ((_subtract(Decimal(0), inner), spread), (inner, _subtract(Decimal(0), spread))):
        place = money.ratio(root(_add(Decimal(5), shift)), 6)
        weight = money.ratio(_add(Decimal(322), more), 1800)
        found += [(_add(half, place), weight), (_subtract(half, place), weight)]
    return tuple(found)


_NODES = _nodes()


def contributions(factors: Sequence[tuple[Decimal, Decimal]]) -> list[Decimal]:
    """What each factor, given as (old, new), contributed to the change of their product; they add up to it.

    At most `FACTORS_MAX`. To 100 digits: `money.settled` brings sums of them back to 12 places.
    """
    assert len(factors) <= FACTORS_MAX, "more factors need more nodes"
    still = _ONE
    moved = []
    for place, (old, new) in enumerate(factors):
        if old == new:
            still = _multiply(still, old)
        else:
            moved.append(place)
    found = [Decimal(0)] * len(factors)
    if len(moved) == 1:
        old, new = factors[moved[0]]
        found[moved[0]] = _multiply(_subtract(new, old), still)
        return found
    for node, weight in _NODES:
        values = [_add(old, _multiply(node, _subtract(new, old))) for old, new in (factors[place] for place in moved)]
        for place, others in zip(moved, _without_each(values), strict=True):
            found[place] = _add(found[place], _multiply(weight, others))
    for place in moved:
        old, new = factors[place]
        found[place] = _multiply(_multiply(_subtract(new, old), found[place]), still)
    return found


def _without_each(values: Sequence[Decimal]) -> list[Decimal]:
    """For each value the product of all the others."""
    after = [_ONE] * len(values)
    for place in range(len(values) - 2, -1, -1):
        after[place] = _multiply(after[place + 1], values[place + 1])
    before, found = _ONE, []
    for place, value in enumerate(values):
        found.append(_multiply(before, after[place]))
        before = _multiply(before, value)
    return found
