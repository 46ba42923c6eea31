from __future__ import annotations

import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import QueryInvalid
from costbearer.reports.dimensions import DIMENSIONS, NONE, bucket, dimension, value_of
from costbearer.reports.periods import ZONE_UTC, Period, Unit, instant, parse_instant
from costbearer.reports.query import BY_MAX, VALUE_CHARACTERS_MAX, WHERE_MAX, Query

NOW = datetime(2026, 11, 22, 19, 34, 12, 123456, tzinfo=UTC)
MOMENTS = st.integers(min_value=10**15, max_value=7 * 10**15).map(
    lambda number: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=number)
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def parse(*pairs: tuple[str, str], now: datetime = NOW) -> Query:
    return Query.parse(pairs, now=now)


def faults(*pairs: tuple[str, str]) -> dict[str, str]:
    with pytest.raises(QueryInvalid) as caught:
        parse(*pairs)
    assert caught.value.code == "query_invalid"
    assert caught.value.http_status == 400
    return caught.value.fields


def test_every_dimension_of_the_interface_is_known() -> None:
    promised = """owner team agent workload key key_team project cost_center feature workflow customer user env session
        trace provider model request_model route operation tier status basis day week month hour"""
    assert set(promised.split()) <= set(DIMENSIONS)
    assert dimension("tag:shift").name == "tag:shift"


def test_defaults_are_the_team_and_the_month_so_far() -> None:
    query = parse()
    assert query == Query(("team",), (), Period(utc(2026, 11, 1), NOW))


@pytest.mark.parametrize(
    ("until", "since"),
    [
        ("2026-11-01", utc(2026, 10, 1)),
        ("2026-11", utc(2026, 10, 1)),
        ("2026-11-01T00:00:01Z", utc(2026, 11, 1)),
        ("2024-03-15", utc(2024, 3, 1)),
        ("2027-06-15", utc(2026, 11, 1)),
    ],
)
def test_the_default_since_is_the_month_in_which_the_period_ends_but_never_a_future_one(
    until: str, since: datetime
) -> None:
    assert parse(("until", until)).period.since == since


def test_at_the_first_moment_of_a_month_the_default_is_the_month_before() -> None:
    assert parse(now=utc(2026, 11, 1)).period == Period(utc(2026, 10, 1), utc(2026, 11, 1))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01", utc(2026, 11, 1)),
        ("2026-11", utc(2026, 11, 1)),
        ("2026-11-01T08:00:00Z", utc(2026, 11, 1, 8)),
        ("2026-11-01t08:00:00.5z", utc(2026, 11, 1, 8, 0, 0, 500000)),
        ("2026-11-01T08:00:00.000001Z", utc(2026, 11, 1, 8, 0, 0, 1)),
        ("2026-11-01T01:30:00+02:00", utc(2026, 10, 31, 23, 30)),
        ("7d", NOW - timedelta(days=7)),
        ("24h", NOW - timedelta(hours=24)),
        ("0h", NOW),
    ],
)
def test_points_in_time(text: str, moment: datetime) -> None:
    assert parse_instant(text, NOW) == moment
    assert parse_instant(text, NOW).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-01",
        "2026-02-30",
        "2026-11-01T08:00:00",  # RFC 3339 demands the offset, and guessing one would move money between days
        "2026-11-01T25:00:00Z",
        "2026-11-01 08:00:00Z",
        "2026-11-01T08:00:00.1234567Z",
        "20261101",
        "2026-W47",
        "1969-12-31",
        "2200-01-01",
        "-7d",
        "7m",
        "99999d",
        "9999999999d",
        "２０２６-11-01",
        "2026-11-01\n",
    ],
)
def test_what_is_not_a_point_in_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time from 1970 to 2199"):
        parse_instant(text, NOW)


@given(MOMENTS)
def test_an_instant_is_read_back(moment: datetime) -> None:
    assert parse_instant(instant(moment), NOW) == moment


@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        ("2026-11-01", "2026-12-01", "2026-10-01T00:00:00Z..2026-11-01T00:00:00Z"),
        ("2026-03-01", "2026-04-01", "2026-02-01T00:00:00Z..2026-03-01T00:00:00Z"),
        ("2026-01-01", "2026-04-01", "2025-10-01T00:00:00Z..2026-01-01T00:00:00Z"),
        ("2024-01-01", "2025-01-01", "2023-01-01T00:00:00Z..2024-01-01T00:00:00Z"),
        ("2026-11-08", "2026-11-15", "2026-11-01T00:00:00Z..2026-11-08T00:00:00Z"),
        ("2026-11-01", "2026-11-02", "2026-10-31T00:00:00Z..2026-11-01T00:00:00Z"),
    ],
)
def test_the_previous_period(since: str, until: str, before: str) -> None:
    query = parse(("since", since), ("until", until), ("compare", "previous"))
    assert str(query.compare) == before


@given(MOMENTS, MOMENTS)
def test_the_previous_period_ends_where_the_period_begins(one: datetime, other: datetime) -> None:
    if one == other or min(one, other) - abs(one - other) < utc(1970, 1, 1):
        return
    period = Period(min(one, other), max(one, other))
    previous = period.previous()
    assert previous.until == period.since
    assert previous.since < previous.until


def test_a_period_to_compare_with_can_be_named() -> None:
    assert parse(("compare", "2026-01..2026-02")).compare == Period(utc(2026, 1, 1), utc(2026, 2, 1))


@pytest.mark.parametrize(
    ("pairs", "field", "says"),
    [
        ([("colour", "red")], "colour", "known are by, where, since, until, compare, sort"),
        ([("by", "colour")], "by", "'colour' is not a dimension; known are owner, team, agent"),
        ([("by", "")], "by", "'' is not a dimension"),
        ([("by", "team,")], "by", "'' is not a dimension"),
        ([("by", "tag:")], "by", "'tag:' is not a dimension"),
        ([("by", "tag:feature")], "by", "ask for feature"),
        ([("by", "tag:session_id")], "by", "ask for session"),
        ([("by", "team,team")], "by", "twice"),
        ([("by", ",".join(list(DIMENSIONS)[: BY_MAX + 1]))], "by", "more than 8"),
        ([("by", "tag:" + "x" * VALUE_CHARACTERS_MAX)], "by", "more than 1024 characters"),
        ([("by", "tag:\ud800")], "by", "not valid text"),
        ([("where", "team")], "where", "'team' is not DIM=VALUE"),
        ([("where", "colour=red")], "where", "'colour' is not a dimension"),
        ([("where", "team=")], "where", "write team=(none)"),
        ([("where", "team=\ud800")], "where", "not valid text"),
        ([("where", "team=" + "x" * 1025)], "where", "more than 1024 characters"),
        ([("where", "day=2026-11-1")], "where", "is not a day such as 2026-11-22"),
        ([("where", "day=(none)")], "where", "is not a day"),
        ([("where", "week=2026-47")], "where", "is not a week such as 2026-W47"),
        ([("where", "month=2026-11-01")], "where", "is not a month such as 2026-11"),
        ([("where", "hour=2026-11-22T14")], "where", "is not a hour such as 2026-11-22T14:00:00Z"),
        ([("where", "team=a")] * (WHERE_MAX + 1), "where", "more than 1000"),
        ([("since", "soon")], "since", "'soon' is not a time"),
        ([("since", "2026-11-02"), ("until", "2026-11-01")], "since", "is not before until"),
        ([("since", "2026-11-01"), ("until", "2026-11-01")], "since", "is not before until"),
        ([("since", "2026-12-01")], "since", "is not before until"),
        ([("since", "7d"), ("since", "8d")], "since", "more than once"),
        ([("compare", "last")], "compare", "neither previous nor a period"),
        ([("compare", "x..y")], "compare", "'x' is not a time"),
        ([("compare", "2026-02..2026-01")], "compare", "is not before until"),
        ([("since", "1971-01-01"), ("compare", "previous")], "compare", "begins before 1970"),
        ([("sort", "size")], "sort", "is not one of cost, delta, name"),
        ([("sort", "delta")], "sort", "add compare=previous"),
    ],
)
def test_each_fault_is_named(pairs: list[tuple[str, str]], field: str, says: str) -> None:
    found = faults(*pairs)
    assert list(found) == [field]
    assert says in found[field]


def test_all_faults_are_named_at_once() -> None:
    assert set(faults(("by", "x"), ("where", "y"), ("since", "z"), ("sort", "q"), ("p", "q"))) == {
        "by",
        "where",
        "since",
        "sort",
        "p",
    }


def test_a_fault_cannot_steer_the_terminal() -> None:
    (message,) = faults(("by", "\x1b[2J")).values()
    assert "\x1b" not in message
    assert list(faults(("\x1b[2J", ""))) == [repr("\x1b[2J")]


@given(st.one_of(st.none(), st.text(), st.sampled_from([NONE, "\\" + NONE, "\\\\" + NONE])))
def test_buckets_spell_every_value_and_only_one(value: str | None) -> None:
    assert value_of(bucket(value)) == value
    assert (bucket(value) == NONE) == (value is None)


@given(MOMENTS, st.sampled_from(["month", "week", "day", "hour"]))
def test_a_bucket_of_time_stands_for_the_period_it_names(moment: datetime, unit: Unit) -> None:
    start = moment.replace(minute=0, second=0, microsecond=0)
    if unit != "hour":
        start = start.replace(hour=0)
    if unit == "month":
        start = start.replace(day=1)
    if unit == "week":
        start -= timedelta(days=start.weekday())
    period = ZONE_UTC.span_of(unit, ZONE_UTC.spell(unit, start))
    assert period.since == start
    assert period.since <= moment < period.until
    assert ZONE_UTC.spell(unit, period.until) != ZONE_UTC.spell(unit, start)


def texts(**limits: Any) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12, **limits)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    names = st.sampled_from([name for name, found in DIMENSIONS.items() if not found.unit] + ["tag:shift"])
    where = draw(st.dictionaries(names, st.lists(texts(), min_size=1, max_size=3, unique=True), max_size=3))
    ends = sorted(draw(st.lists(MOMENTS, min_size=4, max_size=4, unique=True)))
    compare = draw(st.none() | st.just(Period(ends[0], ends[1])))
    return Query(
        by=tuple(draw(st.lists(names, min_size=1, max_size=4, unique=True))),
        where=tuple((name, tuple(values)) for name, values in where.items()),
        period=Period(ends[2], ends[3]),
        compare=compare,
        sort=draw(st.sampled_from(["cost", "name", "delta"] if compare else ["cost", "name"])),
    )


@given(queries())
def test_a_query_is_read_back_from_its_parameters(query: Query) -> None:
    assert parse(*query.parameters()) == query


@given(queries())
def test_the_command_prints_harmlessly(query: Query) -> None:
    assert query.command().isprintable()


@pytest.mark.parametrize(
    "value", ["search", "it's", "a b", "$(true)", "`true`", "\x1b[31m!", "tab\tand\nline", "\\", "é'"]
)
def test_a_shell_reads_the_command_back(value: str) -> None:
    query = parse(("where", f"feature={value}"))
    shell = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {query.command()}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    words = shell.stdout.decode().split("\0")
    assert words[words.index("--where") + 1] == f"feature={value}"


def test_a_plain_command_is_plain() -> None:
    query = parse(("by", "team, agent"), ("where", "team=search"), ("since", "2026-11-01"), ("until", "2026-11-08"))
    assert query.command() == (
        "costbearer report spend --by team,agent --where team=search"
        " --since 2026-11-01T00:00:00Z --until 2026-11-08T00:00:00Z"
    )
    assert shlex.split(query.command())[3:5] == ["--by", "team,agent"]
