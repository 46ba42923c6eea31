"""What a month will cost: the method, and how far it was off in the months before. Pure.

The rest of a month is what the same days of the week cost in the four weeks before, on average; a bearer with less than
a week behind it has the average of the days it has. Days that have begun count for what is left of them. The error band
comes from the bearer's own past: for each of the last three whole months the same forecast is made as of the same day
of the month, and its rest compared with what the rest really cost; the band runs from the smallest to the largest of
these ratios, and always holds the forecast itself. A bearer without a whole month behind it has no band.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple

from costbearer import money

WEEKS = 4
MONTHS = 3
"""How many weeks the average is taken over, and how many past months the band comes from."""
_DAY = timedelta(days=1)
_WEEK = 7

Daily = Mapping[date, Decimal]
"""Cost of each day on which there was any."""


class Forecast(NamedTuple):
    """The whole month's cost; the band where there is one."""

    usd: Decimal
    low_usd: Decimal | None
    high_usd: Decimal | None


def forecast(daily: Daily, *, today: date, passed: Decimal) -> Forecast:
    """The month of `today`, of which `passed` (0 to 1) of the current day is in `daily`."""
    first = today.replace(day=1)
    known = money.total(cost for day, cost in daily.items() if first <= day <= today)
    rest = _rest(daily, today, money.DEEP.subtract(Decimal(1), passed))
    ratios = [ratio for back in range(1, MONTHS + 1) if (ratio := _past(daily, today, back)) is not None]
    if not ratios:
        return Forecast(money.total((known, rest)), None, None)
    low, high = (money.scaled(rest, choose(Decimal(1), *ratios)) for choose in (min, max))
    return Forecast(*(money.total((known, each)) for each in (rest, low, high)))


def _rest(daily: Daily, today: date, left: Decimal) -> Decimal:
    """The days from `today` on, of which `left` is still to come, to the end of the month."""
    begun = min(daily, default=today)
    behind = [today - _DAY * back for back in range(1, WEEKS * _WEEK + 1) if today - _DAY * back >= begun]
    parts = []
    day = today
    while day.month == today.month:
        same = [each for each in behind if each.weekday() == day.weekday()]
        # Less than a week behind it: not every day of the week has been seen.
        seen = same if len(behind) >= _WEEK else behind
        mean = money.per(money.total(daily.get(each, money.ZERO) for each in seen), len(seen)) or money.ZERO
        parts.append(money.scaled(mean, left) if day == today else mean)
        day += _DAY
    return money.total(parts)


def _past(daily: Daily, today: date, back: int) -> Decimal | None:
    """Of a month before: what its rest cost, divided by what was forecast for it as of the same day."""
    first = today.replace(day=1)
    for _ in range(back):
        first = (first - _DAY).replace(day=1)
    after = (first + timedelta(days=31)).replace(day=1)
    then = min(first.replace(day=1) + _DAY * (today.day - 1), after - _DAY)
    if min(daily, default=today) > first:
        return None
    before = {day: cost for day, cost in daily.items() if day < then}
    expected = _rest(before, then, Decimal(1))
    actual = money.total(cost for day, cost in daily.items() if then <= day < after)
    return money.ratio(actual, expected) if expected > 0 and actual >= 0 else None
