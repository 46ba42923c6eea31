"""Periods and the reporting time zone: what a point in time, a span and a bucket of time are, read from text and back.

Periods are half open and kept in UTC. The reporting time zone decides where days, weeks, months and hours begin and
what a date without a time means; an hour that occurs twice when clocks are set back is two buckets.
"""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Literal, NamedTuple

from costbearer.errors import QueryInvalid

FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MONTH = re.compile(r"\d{4}-\d{2}")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})")
_AGO = re.compile(r"(\d{1,5})([dh])")
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+\-]{1,32}(/[A-Za-z0-9_+\-]{1,32}){0,2}")
_HOUR = timedelta(hours=1)

Unit = Literal["month", "week", "day", "hour"]
_TRUNCATION = {"month": "M", "week": "W", "day": "D", "hour": "h"}


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open period `[since, until)` in UTC.

    Raises:
        QueryInvalid: it ends before it begins, or is empty.
    """

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if self.since >= self.until:
            raise QueryInvalid({"since": f"{instant(self.since)} is not before until, {instant(self.until)}"})

    def previous(self, zone: Zone | None = None) -> Period:
        """The period directly before it: as many whole calendar months where it is whole months, else of equal length.

        What is whole is judged in the zone; so is what is equal: a period of whole days is preceded by as many days,
        though one of them may have had 23 hours.

        Raises:
            QueryInvalid: it would begin before 1970.
        """
        zone = zone or ZONE_UTC
        begin, end = zone.wall(self.since), zone.wall(self.until)
        try:
            if _is_month_start(begin) and _is_month_start(end):
                months = (end.year - begin.year) * 12 + end.month - begin.month
                since = zone.moment(months_later(begin, -months))
            elif begin.time() == end.time():
                since = zone.moment(begin - (end - begin))
            else:
                since = self.since - (self.until - self.since)
        except (ValueError, OverflowError):
            since = FIRST - _HOUR
        if since < FIRST:
            raise QueryInvalid({"compare": f"the period before {instant(self.since)} begins before 1970"})
        return Period(since, self.since)

    def __str__(self) -> str:
        return f"{instant(self.since)}..{instant(self.until)}"


class _Span(NamedTuple):
    """A stretch of time over which a zone's offset does not change."""

    since: datetime
    until: datetime
    offset: timedelta


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone of the IANA database by its name."""

    name: str
    _info: tzinfo = field(compare=False, repr=False)

    def wall(self, moment: datetime) -> datetime:
        """What a clock in the zone shows, as a value that says so: in the zone."""
        return moment.astimezone(self._info)

    def moment(self, wall: datetime) -> datetime:
        """The moment (in UTC) at which a clock in the zone shows this; where it does so twice, the first time.

        A time that clocks skip is the moment at which they skip it.
        """
        found = wall.replace(tzinfo=self._info, fold=0).astimezone(UTC)
        if found.astimezone(self._info).replace(tzinfo=None) != wall.replace(tzinfo=None):
            # Skipped: both readings of it lie beside the gap, one hour (or whatever is skipped) apart.
            later = wall.replace(tzinfo=self._info, fold=1).astimezone(UTC)
            return _change_between(self._info, min(found, later), max(found, later))
        return found

    def whole_hours(self, periods: list[Period]) -> bool:
        """Whether the zone is whole hours from UTC all through these periods."""
        return all(not span.offset % _HOUR for period in periods for span in self._spans(period))

    def start(self, unit: Unit, column: Any, periods: list[Period]) -> Any:
        """The start of each time's bucket as an Ibis expression: of an hour in UTC, of others as a wall clock shows it.

        Right for times within the periods.
        """
        import ibis

        spans = _merged([span for period in periods for span in self._spans(period)])
        code = _TRUNCATION[unit]
        if {span.offset for span in spans} <= {timedelta(0)}:
            return column.truncate(code)
        starts = []
        for span in spans:
            offset = ibis.interval(seconds=int(span.offset.total_seconds()))
            wall = (column + offset).truncate(code)
            starts.append(wall - offset if unit == "hour" else wall)
        if len(spans) == 1:
            return starts[0]
        branches = [(column < span.until, start) for span, start in zip(spans[:-1], starts[:-1], strict=True)]
        return ibis.cases(*branches, else_=starts[-1])

    def spell(self, unit: Unit, start: datetime) -> str:
        """A bucket of time: `2026-11`, `2026-W47` (ISO week, from Monday), `2026-11-22`, `2026-11-22T14:00:00Z`.

        An hour has the zone's offset: `2026-11-22T09:00:00-05:00`.
        """
        if unit == "month":
            return f"{start:%Y-%m}"
        if unit == "week":
            year, week, _ = start.isocalendar()
            return f"{year:04d}-W{week:02d}"
        if unit == "day":
            return f"{start:%Y-%m-%d}"
        return self.wall(start).isoformat().replace("+00:00", "Z")

    def span_of(self, unit: Unit, spelled: str) -> Period:
        """The period a bucket of time stands for.

        Raises:
            ValueError: not a bucket of this unit as `spell` writes it.
        """
        if unit == "hour":
            start = datetime.fromisoformat(spelled)
            wall = start
        else:
            day = date.fromisoformat(spelled + "-01" if unit == "month" else spelled)
            wall = datetime.combine(day, datetime.min.time())
            start = self.moment(wall)
        if start.tzinfo is None or not FIRST - _DAY <= start < LAST or self.spell(unit, wall) != spelled:
            raise ValueError(spelled)
        if unit == "hour":
            return Period(start, start + _HOUR)
        end = months_later(wall, 1) if unit == "month" else wall + timedelta(weeks=1) if unit == "week" else wall + _DAY
        return Period(start, self.moment(end))

    def days(self, period: Period) -> int | None:
        """How many whole days the period is in the zone; None where it is not."""
        begin, end = self.wall(period.since).replace(tzinfo=None), self.wall(period.until).replace(tzinfo=None)
        return None if (end - begin) % _DAY else (end - begin) // _DAY

    def _spans(self, period: Period) -> list[_Span]:
        if self._info is UTC:
            return [_Span(period.since, period.until, timedelta(0))]
        spans = []
        begin = period.since
        while begin < period.until:
            offset = _offset(self._info, begin)
            before = end = begin
            while end < period.until and _offset(self._info, end) == offset:
                before, end = end, min(end + _STEP, period.until)
            if _offset(self._info, end) != offset:
                end = _change_between(self._info, before, end)
            spans.append(_Span(begin, end, offset))
            begin = end
        return spans


_DAY = timedelta(days=1)
_STEP = timedelta(weeks=1)
"""No zone has ever changed its offset and changed it again within a week (the shortest took a month)."""
ZONE_UTC = Zone("UTC", UTC)


def zone(name: str) -> Zone:
    """The zone of that name.

    Raises:
        ValueError: there is none, with a message for a person.
    """
    if name == "UTC":
        return ZONE_UTC
    try:
        if not _ZONE_NAME.fullmatch(name):
            raise ValueError
        return Zone(name, zoneinfo.ZoneInfo(name))
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise ValueError(f"{shown(name)} is not a time zone such as UTC, Europe/Berlin or America/New_York") from None


def _offset(info: tzinfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(info).utcoffset()
    assert offset is not None, "a zone has an offset"
    return offset


def _change_between(info: tzinfo, low: datetime, high: datetime) -> datetime:
    """The first moment after `low` with the offset of `high`; there is one change between them, at a full second."""
    low, target = low.replace(microsecond=0), _offset(info, high)
    first, last = 0, int((high - low).total_seconds())
    while first < last:
        middle = (first + last) // 2
        if _offset(info, low + timedelta(seconds=middle)) == target:
            last = middle
        else:
            first = middle + 1
    return low + timedelta(seconds=first)


def _merged(spans: list[_Span]) -> list[_Span]:
    """The spans in order, neighbours of one offset joined; what lies between two periods belongs to the earlier."""
    found: list[_Span] = []
    for span in sorted(spans):
        if found and found[-1].offset == span.offset:
            found[-1] = found[-1]._replace(until=max(found[-1].until, span.until))
        elif found:
            found[-1] = found[-1]._replace(until=span.since)
            found.append(span)
        else:
            found.append(span)
    return found


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_instant(text: str, now: datetime, zone: Zone = ZONE_UTC) -> datetime:
    """A point in time: `2026-11-01` or `2026-11` (its first moment in the zone), RFC 3339, or `7d`, `24h` ago.

    Raises:
        ValueError: the text is none of these, with a message for a person.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            moment = now - int(ago[1]) * (timedelta(days=1) if ago[2] == "d" else timedelta(hours=1))
        elif _RFC3339.fullmatch(text):
            moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
        elif _DATE.fullmatch(text) or _MONTH.fullmatch(text):
            day = date.fromisoformat(text if _DATE.fullmatch(text) else text + "-01")
            moment = zone.moment(datetime.combine(day, datetime.min.time()))
        else:
            raise ValueError
        if not FIRST <= moment < LAST:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"{shown(text)} is not a time from 1970 to 2199 such as 2026-11-01, 2026-11-01T08:00:00Z, 7d or 24h"
        ) from None
    return moment


def months_later(moment: datetime, months: int) -> datetime:
    """The same day of another month; for the first of a month."""
    years, month = divmod(moment.month - 1 + months, 12)
    return moment.replace(year=moment.year + years, month=month + 1)


def month_of(moment: datetime, zone: Zone) -> Period:
    """The calendar month in the zone that the moment lies in."""
    first = zone.wall(moment).replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    return Period(zone.moment(first), zone.moment(months_later(first, 1)))


def _is_month_start(moment: datetime) -> bool:
    return moment == moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def shown(text: str) -> str:
    """A caller's text inside a message: quoted, cut, and without what would change the terminal."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
