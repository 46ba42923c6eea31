"""What a change of cost is made of: the cost of a slice as a sum of products, and each factor a cause. Pure.

The cost of one cell (one team's agent and workload, say) in one period is, charge by charge,

    days x requests per day x charged calls per request x share of calls whose cost is known
      x share of the model x share of the tier
      x input tokens per call x share of the meter in them x unit price       (tokens that go in)
      x output tokens per call x unit price                                   (tokens that come out)
      x quantity per call x unit price                                        (searches, images, fees)

summed over first attempts, retries and fallbacks, models, tiers and meters. Every factor is a quotient of two sums of
the ledger, so the product is the cost, exactly. `shapley` splits the change of each product among its factors; where
a factor has no value in one period (a model nobody called, say), it has the value of the other, so that what brought
the term about gets all of it. What no factor explains, such as a correction posted for a call of another period, is a
cause of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from costbearer import money
from costbearer.reports.shapley import contributions
from costbearer.usage import METERS

CAUSES: Mapping[str, str] = {
    "new": "new: had no calls before",
    "gone": "gone: has no calls any more",
    "days": "length of the period",
    "volume": "volume: requests per day",
    "retries": "retries, fallbacks, failures: charged calls per request",
    "unknown": "calls whose cost is not known",
    "model_mix": "model mix",
    "tier": "service tier",
    "prompt": "prompt length: input tokens per call",
    "cache": "cache rate: kind of input tokens",
    "answer": "answer length: output tokens per call",
    "other_usage": "searches, images, audio, fees per call",
    "price": "price per unit",
    "adjustments": "corrections of calls of other periods",
}
"""Cause -> what it is, in the order in which they are listed where they are equal."""

SIDES: Mapping[str, str] = {meter.name: meter.side for meter in METERS}
_ZERO = Decimal(0)
_ONE = Decimal(1)

Branch = tuple[str, str, str]
"""Attempt (first, retry, fallback; each whole or cut short), model, tier."""
Leaf = tuple[str, str]
"""Model that did the work, meter."""


class Counts(NamedTuple):
    """Of one branch: requests, calls that are charged, calls whose cost is not known."""

    requests: int = 0
    charged: int = 0
    unknown: int = 0


class Amount(NamedTuple):
    """Of one meter of a branch."""

    quantity: int = 0
    cost: Decimal = money.ZERO


class State:
    """One cell in one period: what was called and what it cost. `days` is the length of the period."""

    def __init__(self, days: Decimal) -> None:
        self.days = days
        self.branches: dict[Branch, Counts] = {}
        self.leaves: dict[Branch, dict[Leaf, Amount]] = {}

    @property
    def cost(self) -> Decimal:
        return money.total(amount.cost for leaves in self.leaves.values() for amount in leaves.values())

    @property
    def idle(self) -> bool:
        """Nothing was called, and nothing is charged."""
        return not self.leaves and not any(any(counts) for counts in self.branches.values())

    def take(self, branch: Branch, counts: Counts) -> None:
        old = self.branches.get(branch, Counts())
        self.branches[branch] = Counts(*(left + right for left, right in zip(old, counts, strict=True)))

    def charge(self, branch: Branch, leaf: Leaf, amount: Amount) -> None:
        leaves = self.leaves.setdefault(branch, {})
        old = leaves.get(leaf, Amount())
        leaves[leaf] = Amount(old.quantity + amount.quantity, money.total((old.cost, amount.cost)))

    def with_state(self, other: State) -> None:
        """Take in all of another cell of the same period."""
        for branch, counts in other.branches.items():
            self.take(branch, counts)
        for branch, leaves in other.leaves.items():
            for leaf, amount in leaves.items():
                self.charge(branch, leaf, amount)


def caused(before: State, now: State) -> dict[str, Decimal]:
    """How much each cause contributed to the change of a cell's cost; exact, and adding up to it."""
    change = money.minus(now.cost, before.cost)
    if before.idle or now.idle:
        return {"new" if before.idle else "gone": change} if change else {}
    return _settled(change, _contributed(_Chain(before), _Chain(now)))


def caused_per_day(before: State, now: State) -> dict[str, Decimal]:
    """The same of the change of its cost per day, to which the length of the periods is no cause. USD per day; the
    parts add up to the change, which is rounded to 12 places once."""
    if before.idle or now.idle:
        name, state = ("new", now) if before.idle else ("gone", before)
        change = money.usd_sum(money.ratio(state.cost if before.idle else state.cost.copy_negate(), state.days))
        return {name: change} if change else {}
    found = _contributed(_Chain(before, per_day=True), _Chain(now, per_day=True))
    exact = Decimal(0)
    for part in found.values():
        exact = money.DEEP.add(exact, part)
    return _settled(money.usd_sum(exact), found)


def _contributed(old: _Chain, new: _Chain) -> dict[str, Decimal]:
    found: dict[str, Decimal] = defaultdict(Decimal)
    # Where one period has no first attempts of its own, requests say nothing; calls do.
    by_calls = not (old.requests and new.requests)
    states = (old.state, new.state)
    leaves = [(branch, leaf) for state in states for branch, own in state.leaves.items() for leaf in own]
    for branch, leaf in dict.fromkeys(leaves):
        left, right = old.term(branch, leaf, by_calls=by_calls), new.term(branch, leaf, by_calls=by_calls)
        _split(found, left, right)
    return found


def _settled(change: Decimal, found: Mapping[str, Decimal]) -> dict[str, Decimal]:
    names = [name for name in CAUSES if found.get(name)]
    parts = money.settled(change, [found[name] for name in names])
    return {name: part for name, part in zip(names, parts, strict=True) if part}


def _split(found: dict[str, Decimal], old: _Term, new: _Term) -> None:
    loose = money.DEEP.subtract(new.loose, old.loose)
    if loose:
        found["adjustments"] = money.DEEP.add(found["adjustments"], loose)
    if not old.factors and not new.factors:
        return
    names = list(old.factors or new.factors)
    pairs = []
    for name in names:
        left, right = old.factors.get(name), new.factors.get(name)
        # A value that one period does not have is that of the other.
        left, right = (right if left is None else left), (left if right is None else right)
        if left is None or right is None:
            left = right = _ZERO
        pairs.append((left, right))
    for name, part in zip(names, contributions(pairs), strict=True):
        cause = name.partition(".")[0]
        found[cause] = money.DEEP.add(found[cause], part)


class _Term(NamedTuple):
    """One product: its factors by cause, and a cost that no factor explains."""

    factors: dict[str, Decimal | None]
    loose: Decimal = money.ZERO


class _Chain:
    """The quotients of one state; `per_day` those of its cost per day."""

    def __init__(self, state: State, *, per_day: bool = False) -> None:
        self.state = state
        self.per_day = per_day
        self.requests = sum(counts.requests for counts in state.branches.values())
        self.calls = sum(counts.charged + counts.unknown for counts in state.branches.values())
        self.tried: dict[str, int] = defaultdict(int)
        self.charged: dict[tuple[str, ...], int] = defaultdict(int)
        self.inputs: dict[Branch, int] = defaultdict(int)
        for branch, counts in state.branches.items():
            self.tried[branch[0]] += counts.charged + counts.unknown
            for depth in (1, 2, 3):
                self.charged[branch[:depth]] += counts.charged
        for branch, leaves in state.leaves.items():
            self.inputs[branch] = sum(
                amount.quantity for leaf, amount in leaves.items() if SIDES.get(leaf[1]) == "input"
            )

    def term(self, branch: Branch, leaf: Leaf, *, by_calls: bool) -> _Term:
        """The product for one meter of a branch."""
        amount = self.state.leaves.get(branch, {}).get(leaf, Amount())
        base = self.calls if by_calls else self.requests
        attempt, charged, inputs = branch[:1], self.charged[branch], self.inputs[branch]
        factors: dict[str, Decimal | None] = {
            "days": _ONE if self.per_day else self.state.days,
            "volume": _over(Decimal(base), self.state.days),
            "retries": _over(self.tried[branch[0]], base),
            "unknown": _over(self.charged[attempt], self.tried[branch[0]]),
            "model_mix": _over(self.charged[branch[:2]], self.charged[attempt]),
            "tier": _over(charged, self.charged[branch[:2]]),
        }
        side = SIDES.get(leaf[1], "")
        if side == "input":
            factors["prompt"] = _over(inputs, charged)
            factors["cache"] = _over(amount.quantity, inputs)
        else:
            factors["answer" if side == "output" else "other_usage"] = _over(amount.quantity, charged)
        factors["price"] = _over(amount.cost, amount.quantity)
        whole = all(value is not None for value in factors.values())
        if whole or not amount.cost:
            return _Term(factors)
        return _Term(
            factors | _NOTHING_CHARGED, money.ratio(amount.cost, self.state.days) if self.per_day else amount.cost
        )


_NOTHING_CHARGED: dict[str, Decimal | None] = {"volume": _ZERO}
"""What makes a product nothing where its cost cannot be one: the cost stands beside it as a whole."""


def _over(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return money.ratio(part, whole) if whole else None
