"""What reports add up: the measures of calls, from the hourly roll-ups where they can answer, else from the entries.

The roll-ups answer a question whose dimensions and filters they keep, in time zones that are whole hours from UTC. They
answer for the whole hours of a period; what lies at its edges is added up from the entries of those hours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from costbearer import money
from costbearer.ledger import CONFLICT, PROVENANCE_FIELDS
from costbearer.reports.dimensions import dimension
from costbearer.reports.periods import Period
from costbearer.reports.query import Query, Reader, within
from costbearer.reports.table import Source

SUMMED: tuple[str, ...] = (
    *("calls", "requests", "input_tokens", "output_tokens", "cache_read_input_tokens"),
    *("cache_creation_input_tokens", "reasoning_output_tokens", "duration_ms", "timed_calls"),
    *("charged_calls", "unknown_calls", "unbounded_calls", "estimated_calls"),
    *("ok_calls", "retried_calls", "fallback_calls"),
    *("cost_usd", "list_cost_usd", "effective_cost_usd", "estimated_usd", "unknown_bound_usd"),
)
"""Every measure: signed counts that add, and USD. A cost that is not known is in none of the amounts but the bound."""

CHARGED: tuple[str, ...] = ("charge_model", "meter", "quantity", "cost_usd", "list_cost_usd")
"""What `charge_facts` give beside the columns that are wanted."""

_HOUR = timedelta(hours=1)


class Facts(NamedTuple):
    """A table with the ledger's columns that were asked for and all measures, and what it was made of."""

    table: Any
    source: Source

    @staticmethod
    def sums(rows: Any, measures: Iterable[str], period: Period | None = None, prefix: str = "") -> dict[str, Any]:
        """The measures added up over rows of the table, or of a period of them alone. The sum of nothing is NULL."""
        where = None if period is None else within(rows, period)
        return {prefix + name: rows[name].sum(where=where) for name in measures}


def facts(reader: Reader, query: Query, by: Collection[str] | None = None, extra: Collection[str] = ()) -> Facts:
    """The calls that lie in the query's periods and meet its filters, with all of `SUMMED`.

    `by` are the dimensions that will be grouped by, the query's own unless given; `extra` are further columns of the
    ledger that the report looks at, `provenance` among them.
    """
    return _made(query, by, extra, reader.rollups, _of_rollups, lambda *asked: _of_entries(reader.entries, *asked))


Shape = Callable[[Any], Mapping[str, Any]]
"""Rows of entries, or of roll-ups -> the columns that are wanted of them."""


def charge_facts(reader: Reader, query: Query, shape: Shape, extra: Collection[str] = ()) -> Facts:
    """The charges of those calls: the columns that `shape` makes of their entries, and `CHARGED`.

    `shape` may look at the columns of the query's dimensions and at `extra`. It is applied before entries meet their
    charges: what is carried through that join decides how much memory it takes.
    """

    def of_rollups(rollups: Any, query: Query, _: list[str], period: Period) -> Any:
        chosen = rollups.filter(query.within(rollups, period))
        return chosen.select(**shape(chosen), **{name: chosen[name] for name in CHARGED})

    def of_entries(query: Query, _: list[str], periods: list[Period]) -> Any:
        chosen = _chosen(reader.entries, query, periods)
        shaped = shape(chosen)
        chosen = chosen.select("journal", "sequence", **shaped)
        charges = reader.charges
        charges = charges.select(
            "journal", "sequence", "meter", "quantity", "cost_usd", "list_cost_usd", charge_model=charges["model"]
        )
        return chosen.join(charges, ["journal", "sequence"]).select(*shaped, *CHARGED)

    return _made(query, None, extra, reader.charge_rollups, of_rollups, of_entries)


def _made(
    query: Query,
    by: Collection[str] | None,
    extra: Collection[str],
    rollups: Any | None,
    of_rollups: Callable[[Any, Query, list[str], Period], Any],
    of_entries: Callable[[Query, list[str], list[Period]], Any],
) -> Facts:
    names = [*(query.by if by is None else by), *(name for name, _ in query.where)]
    columns = sorted({column for name in names for column in dimension(name).source} | {"started_at", *extra})
    kept = rollups is not None and set(columns) <= set(rollups.columns)
    if kept and query.zone.whole_hours(query.periods):
        spans = [_split(period) for period in _apart(query.periods)]
        parts = [of_rollups(rollups, query, columns, inner) for inner, _ in spans if inner]
        edges = [edge for _, outer in spans for edge in outer]
        if parts:
            parts += [of_entries(query, columns, edges)] if edges else []
            table = parts[0] if len(parts) == 1 else parts[0].union(*parts[1:])
            return Facts(table, "rollups and entries" if edges else "rollups")
    return Facts(of_entries(query, columns, query.periods), "entries")


def _apart(periods: list[Period]) -> list[Period]:
    """The same time as pieces that do not overlap, cut wherever a period begins or ends."""
    cuts = sorted({moment for period in periods for moment in (period.since, period.until)})
    pieces = [Period(begin, end) for begin, end in itertools.pairwise(cuts)]
    return [
        piece
        for piece in pieces
        if any(period.since <= piece.since and piece.until <= period.until for period in periods)
    ]


def _split(period: Period) -> tuple[Period | None, list[Period]]:
    """The whole hours of a period, and what is left of it on either side."""
    begin, end = _hour_up(period.since), _hour(period.until)
    if begin >= end:
        return None, [period]
    edges = [Period(period.since, begin)] if period.since < begin else []
    edges += [Period(end, period.until)] if end < period.until else []
    return Period(begin, end), edges


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _hour_up(moment: datetime) -> datetime:
    return _hour(moment + _HOUR - timedelta(microseconds=1))


def _of_rollups(rollups: Any, query: Query, columns: list[str], period: Period) -> Any:
    chosen = rollups.filter(query.within(rollups, period))
    return chosen.select(*columns, **_measures(chosen, chosen["unknown_calls"], chosen["unbounded_calls"]))


def _chosen(entries: Any, query: Query, periods: list[Period]) -> Any:
    inside = within(entries, periods[0])
    for period in periods[1:]:
        inside |= within(entries, period)
    return entries.filter([inside, *query.conditions(entries)])


def _of_entries(entries: Any, query: Query, columns: list[str], periods: list[Period]) -> Any:
    chosen = _chosen(entries, query, periods)
    unknown = chosen["cost_usd"].isnull()
    chosen = chosen.mutate(
        timed_calls=chosen["duration_ms"].notnull().cast("int64"),
        charged_calls=_charged(chosen).fill_null(False).ifelse(chosen["calls"], 0),
        unknown_bound_usd=unknown.ifelse(chosen["bound_usd"], None),
        **({"provenance": _provenance(chosen)} if "provenance" in columns else {}),
    )
    no_bound = unknown & chosen["bound_usd"].isnull()
    return chosen.select(
        *columns, **_measures(chosen, unknown.ifelse(chosen["calls"], 0), no_bound.ifelse(chosen["calls"], 0))
    )


def _charged(entries: Any) -> Any:
    """What is billed, if only at a price of 0: not what failed, nor what a cache of the gateway answered."""
    import ibis

    cost = entries["cost_usd"]
    nothing = ibis.literal(money.ZERO, cost.type())
    return (cost != nothing) | ((cost == nothing) & (entries["status"] == "ok") & ~entries["cache_hit"])


def _measures(rows: Any, unknown: Any, unbounded: Any) -> dict[str, Any]:
    """All of `SUMMED` out of rows that are entries or roll-ups: the columns are called the same."""
    estimated = rows["basis"] == "estimated"
    again, else_ = rows["reason"] == "retry", rows["reason"] == "fallback"
    made = {
        "unknown_calls": unknown.cast("int64"),
        "unbounded_calls": unbounded.cast("int64"),
        "estimated_calls": estimated.ifelse(rows["calls"], 0),
        "ok_calls": (rows["status"] == "ok").ifelse(rows["calls"], 0),
        "retried_calls": again.ifelse(rows["calls"], 0),
        "fallback_calls": else_.ifelse(rows["calls"], 0),
        "estimated_usd": estimated.ifelse(rows["cost_usd"], None),
    }
    return {name: made[name] if name in made else rows[name] for name in SUMMED}


def _provenance(entries: Any) -> Any:
    """What the roll-ups keep, out of an entry's attribution: JSON as this project writes it, without blanks."""
    letters = []
    for name in PROVENANCE_FIELDS:
        pattern = f'"{name}":\\{{"value":"(?:[^"\\\\]|\\\\.)*","provenance":"([a-z])'
        letter = entries["attribution"].re_extract(pattern, 1).nullif("").fill_null("a")
        letters.append(entries[name].nullif("").isnull().ifelse("-", letter))
    spelled = letters[0]
    for letter in letters[1:]:
        spelled = spelled + letter
    return spelled + entries["attribution"].contains(CONFLICT).ifelse("!", "-")
