"""Time zones in reports: days of 23 and 25 hours, hours that occur twice, half hours; and what is no time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costbearer import money, reports
from costbearer.errors import QueryInvalid
from costbearer.reports.periods import Period, month_of, parse_instant, zone
from costbearer.reports.query import Query
from costbearer.reports.table import Table
from tests.factories import make_entry
from tests.ledgers import reader_of

JOURNAL = "20261001T000000-1a2b3c4d"
NOW = datetime(2026, 11, 20, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def hourly(first: datetime, hours: int, **shape: Any) -> list[Any]:
    return [
        make_entry(JOURNAL, number + 1, started_at=first + timedelta(hours=number), **shape) for number in range(hours)
    ]


def ask(entries: list[Any], *pairs: tuple[str, str], report: str = "spend") -> Table:
    with reader_of(entries) as reader:
        return reports.answer(reports.question(report, pairs, now=NOW), reader)


def calls(table: Table) -> dict[str, Any]:
    place = len(table.query.by)
    return {str(row[0]): row[place] for row in table.rows}


def test_a_day_has_the_hours_that_clocks_show() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    entries = hourly(datetime(2026, 10, 24, tzinfo=berlin).astimezone(UTC), 24 + 25 + 24)
    table = ask(entries, ("by", "day"), ("since", "2026-10-24"), ("until", "2026-10-27"), ("tz", "Europe/Berlin"))
    assert calls(table) == {"2026-10-24": 24, "2026-10-25": 25, "2026-10-26": 24}
    spring = hourly(datetime(2026, 3, 28, tzinfo=berlin).astimezone(UTC), 24 + 23)
    table = ask(spring, ("by", "day"), ("since", "2026-03-28"), ("until", "2026-03-30"), ("tz", "Europe/Berlin"))
    assert calls(table) == {"2026-03-28": 24, "2026-03-29": 23}


def test_an_hour_that_occurs_twice_is_two_buckets() -> None:
    entries = hourly(datetime(2026, 11, 1, 4, tzinfo=UTC), 4)
    pairs = [("by", "hour"), ("since", "2026-11-01"), ("until", "2026-11-02"), ("tz", "America/New_York")]
    table = ask(entries, *pairs, ("sort", "name"))
    assert list(calls(table)) == [
        "2026-11-01T00:00:00-04:00",
        "2026-11-01T01:00:00-04:00",
        "2026-11-01T01:00:00-05:00",
        "2026-11-01T02:00:00-05:00",
    ]
    one = ask(entries, *pairs, ("where", "hour=2026-11-01T01:00:00-05:00"))
    assert calls(one) == {"2026-11-01T01:00:00-05:00": 1}


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("unit", ["day", "week", "month", "hour"])
def test_buckets_of_time_are_those_of_a_clock_in_the_zone(name: str, unit: str) -> None:
    info = ZoneInfo(name)
    entries = hourly(datetime(2026, 3, 20, 0, 40, tzinfo=UTC), 24 * 20)
    table = ask(
        entries, ("by", unit), ("since", "2026-03-01"), ("until", "2026-04-30"), ("tz", name), ("limit", "9999")
    )
    expected: dict[str, int] = {}
    for entry in entries:
        wall = entry.started_at.astimezone(info)
        if unit == "hour":
            start = (entry.started_at - timedelta(minutes=wall.minute)).astimezone(info)
            spelled = start.isoformat().replace("+00:00", "Z")
        else:
            spelled = {"day": f"{wall:%Y-%m-%d}", "week": f"{wall:%G-W%V}", "month": f"{wall:%Y-%m}"}[unit]
        expected[spelled] = expected.get(spelled, 0) + 1
    assert calls(table) == expected
    assert table.totals["calls"] == len(entries)


@settings(max_examples=200)
@given(st.sampled_from(ZONES), MOMENTS)
def test_the_moment_of_a_wall_clock_shows_it(name: str, moment: datetime) -> None:
    asked = zone(name)
    wall = asked.wall(moment).replace(tzinfo=None)
    found = asked.moment(wall)
    assert asked.wall(found).replace(tzinfo=None) == wall
    assert found <= moment, "of two the first"
    month = month_of(moment, asked)
    assert month.since <= moment < month.until
    assert asked.wall(month.since).day == asked.wall(month.until).day == 1


@settings(max_examples=200)
@given(st.sampled_from(ZONES), st.sampled_from(["month", "week", "day"]), MOMENTS)
def test_a_bucket_is_the_span_it_is_made_of(name: str, unit: Any, moment: datetime) -> None:
    asked = zone(name)
    spelled = asked.spell(unit, asked.wall(moment))
    span = asked.span_of(unit, spelled)
    assert span.since <= moment < span.until


def test_the_period_before_is_as_many_days_or_months() -> None:
    berlin = zone("Europe/Berlin")
    day = Period(*(parse_instant(text, NOW, berlin) for text in ("2026-10-26", "2026-10-27")))
    before = day.previous(berlin)
    assert (before.until - before.since) == timedelta(hours=25)
    month = Period(*(parse_instant(text, NOW, berlin) for text in ("2026-03", "2026-04")))
    assert str(month.previous(berlin)) == "2026-01-31T23:00:00Z..2026-02-28T23:00:00Z"


def test_dates_and_defaults_are_those_of_the_zone() -> None:
    query = Query.parse([("tz", "Asia/Kolkata"), ("until", "2026-10-05")], now=NOW)
    assert str(query.period) == "2026-09-30T18:30:00Z..2026-10-04T18:30:00Z"
    assert "--tz Asia/Kolkata" in query.command()
    home = Query.parse([("until", "2026-10-05")], now=NOW, home=zone("Asia/Kolkata"))
    assert home.period == query.period
    utc = Query.parse([("tz", "UTC")], now=NOW, home=zone("Asia/Kolkata"))
    assert "--tz UTC" in utc.command(), "where another zone is at home, UTC must be said"


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 500, "\0", "CEST?"]
)
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(QueryInvalid) as caught:
        Query.parse([("tz", name)], now=NOW)
    assert "is not a time zone" in caught.value.fields["tz"]


def test_totals_do_not_depend_on_the_zone() -> None:
    entries = hourly(datetime(2026, 10, 20, 0, 7, tzinfo=UTC), 24 * 10)
    found = set()
    for name in ZONES:
        table = ask(
            entries, ("by", "day"), ("since", "2026-10-20T00:00:00Z"), ("until", "2026-10-30T00:00:00Z"), ("tz", name)
        )
        found.add(table.totals["total_usd"])
        assert money.total(entry.cost_usd for entry in entries) in found
    assert len(found) == 1
