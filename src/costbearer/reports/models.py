"""`report models`: what each model costs per call and per successful call, how reliable, fast and cached it is.

And what the same usage would have cost otherwise: `whatif` says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from costbearer import money
from costbearer.reports import spend
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import REST
from costbearer.reports.facts import facts
from costbearer.reports.query import Form, Query, Reader
from costbearer.reports.table import Cell, Column, Table

if TYPE_CHECKING:
    from costbearer.reports.whatif import Group, Otherwise

FORM = Form(
    "models",
    "Per model and workload: cost per call and per successful call, errors, retries, latency, cache, tokens; and what "
    "the same usage would have cost on another model, at list prices or with another cache rate.",
    takes=("by", "where", "since", "until", "as", "at", "cache_rate", "sort", "tz", "limit"),
    by="workload,model",
)
_MORE = ("ok_calls", "retried_calls", "fallback_calls", "cache_read_input_tokens", "duration_ms", "timed_calls")

Key = tuple[str, ...]


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """One row per model and workload.

    Raises:
        QueryInvalid: the other model has no price, or there are too many calls to price again.
        StoreFailed: the groups do not add up to the total.
    """
    found = spend.sums(reader, query)
    more, total = _more(reader, query, found)
    from costbearer.reports.whatif import otherwise

    other = otherwise(reader, query, beside)
    groups = [*found.groups, *([found.rest] if found.rest else [])]
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        made = (*group.key, *_cells(group.now, more.get(group.key, {}), found.total.now.cost_usd))
        if other is not None:
            own = _otherwise(other, group.key, {each.key for each in found.groups})
            made = (*made, own.usd, money.minus(own.usd, own.was_usd), own.unpriced)
        rows.append(made)
    known = ("calls", "unknown_calls")
    columns = [
        *(Column(name, name, "bucket") for name in query.by),
        Column("calls", "calls", "count"),
        Column("ok_calls", "", "count"),
        Column("cost_usd", "cost", "usd", (known,)),
        Column("share", "share", "share", (known,)),
        Column("usd_per_call", "per call", "unit"),
        Column("usd_per_ok_call", "per ok\ncall", "unit"),
        Column("error_rate", "not ok", "share"),
        Column("retry_rate", "retries", "share"),
        Column("mean_duration_ms", "mean time", "ms"),
        Column("cache_rate", "from\ncache", "share"),
        Column("input_tokens_per_call", "input\nper call", "count"),
        Column("output_tokens_per_call", "output\nper call", "count"),
        Column("unknown_calls", "unknown\ncalls", "count"),
    ]
    named = [column.name for column in columns[len(query.by) :]]
    whole = dict(zip(named, _cells(found.total.now, total, found.total.now.cost_usd), strict=True))
    totals: dict[str, Any] = {name: value for name, value in whole.items() if name not in {"cost_usd", "share"}}
    if other is not None:
        columns += [
            Column("as_usd", other.title, "usd"),
            Column("as_delta_usd", "difference", "delta"),
            Column("as_unpriced_calls", "not\npriced", "count"),
        ]
        totals |= {
            "as_usd": money.total(each.usd for each in other.groups.values()),
            "as_delta_usd": money.total(money.minus(each.usd, each.was_usd) for each in other.groups.values()),
            "as_unpriced_calls": sum(each.unpriced for each in other.groups.values()),
        }
    return spend.table(
        (reader, query, beside),
        found,
        title=f"Models by {', '.join(query.by)}",
        columns=columns,
        rows=rows,
        more=totals,
        notes=other.notes if other is not None else (),
        form=FORM,
    )


def _more(reader: Reader, query: Query, found: spend.Sums) -> tuple[dict[Key, dict[str, int]], dict[str, int]]:
    """The counts that `spend` does not have, by row and together."""
    known = facts(reader, query)
    table = known.table
    grouped = table.group_by(**query.keys(table)).aggregate(**known.sums(table, _MORE))
    listed = {group.key for group in found.groups}
    more: dict[Key, dict[str, int]] = {}
    total = dict.fromkeys(_MORE, 0)
    for row in reader.execute(grouped).to_pylist():
        key = query.buckets(row)
        own = more.setdefault(key if key in listed else (REST,) * len(query.by), dict.fromkeys(_MORE, 0))
        for name in _MORE:
            own[name] += row[name] or 0
            total[name] += row[name] or 0
    return more, total


def _cells(now: spend.Figures, more: Mapping[str, int], whole: Decimal) -> tuple[Cell, ...]:
    ok = more.get("ok_calls", 0)
    again = more.get("retried_calls", 0) + more.get("fallback_calls", 0)
    timed = more.get("timed_calls", 0)
    return (
        now.calls,
        ok,
        now.cost_usd,
        money.share(now.cost_usd, whole),
        money.per(now.cost_usd, now.calls),
        money.per(now.cost_usd, ok),
        _of(now.calls - ok, now.calls),
        _of(again, now.calls),
        _mean(more.get("duration_ms", 0), timed),
        _of(more.get("cache_read_input_tokens", 0), now.input_tokens),
        _mean(now.input_tokens, now.calls),
        _mean(now.output_tokens, now.calls),
        now.unknown_calls,
    )


def _of(part: int, whole: int) -> float | None:
    return money.share(Decimal(part), Decimal(whole))


def _mean(total: int, count: int) -> int | None:
    """To the nearest whole number, halves up; for counts and milliseconds."""
    return (2 * total + count) // (2 * count) if count > 0 else None


def _otherwise(other: Otherwise, key: Key, listed: set[Key]) -> Group:
    from costbearer.reports.whatif import Group

    if key in listed:
        return other.groups.get(key, Group())
    behind = [each for found, each in other.groups.items() if found not in listed]
    return Group(
        money.total(each.usd for each in behind),
        money.total(each.was_usd for each in behind),
        sum(each.unpriced for each in behind),
    )
