"""`report explain`: why two periods differ, to the last digit, with nothing left over. `causes` says how."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from costbearer import money
from costbearer.errors import AmountInvalid, QueryInvalid, StoreFailed
from costbearer.reports.beside import Beside
from costbearer.reports.causes import CAUSES, SIDES, Amount, Branch, Counts, State, caused, caused_per_day
from costbearer.reports.dimensions import REST, dimension
from costbearer.reports.facts import Facts, charge_facts, facts
from costbearer.reports.periods import Period
from costbearer.reports.query import Form, Query, Reader, within
from costbearer.reports.spend import why_empty
from costbearer.reports.table import Cell, Column, Part, Table, shown_cell

FORM = Form(
    "explain",
    "Why the cost of two periods differs: every dollar of the change by its cause, and the rows that changed most.",
    takes=("by", "where", "since", "until", "compare", "per", "tz", "limit"),
    by="team,agent,workload",
    compare="previous",
)
CELLS_MAX = 500
"""So many rows with calls in both periods are explained one by one, those that changed most; the others together."""

_BRANCH = ("reason", "status", "model", "tier")
CUT, CUT_SHORT = ", cut short", frozenset({"error", "cancelled"})
"""Attempts that did not come to their end are a kind of their own: they use what others do not."""
_BEFORE = "previous_"
_DAY = timedelta(days=1)
PER_DAY, PER_PERIOD = "day", "period"
"""What `per` can say: that each cause's part of the change per day stands beside that of the whole."""

Key = tuple[str, ...]
Pair = tuple[State, State]


def answer(reader: Reader, query: Query, beside: Beside) -> Table:
    """The change by cause, and in a part the rows that changed, each with its causes.

    Raises:
        StoreFailed: the charges do not add up to the cost of their calls; the ledger contradicts itself.
        QueryInvalid: `per` is neither day nor period.
    """
    compare = query.compare
    assert compare is not None, "a comparison is this report's default"
    if (per := query.option("per")) not in {None, PER_DAY, PER_PERIOD}:
        raise QueryInvalid({"per": f"is {PER_DAY} or {PER_PERIOD} here"})
    cells, called, charged, unknown = _cells(reader, query, compare)
    pairs = _together(cells, min(query.limit, CELLS_MAX))
    try:
        found = {key: caused(before, now) for key, (before, now) in pairs.items()}
        daily = [caused_per_day(*pair) for pair in pairs.values()] if per == PER_DAY else []
    except AmountInvalid as error:
        raise StoreFailed(f"a change of cost cannot be explained: {error.message}; run `costbearer doctor`") from None
    before_usd = money.total(before.cost for before, _ in pairs.values())
    now_usd = money.total(now.cost for _, now in pairs.values())
    change = money.minus(now_usd, before_usd)
    whole = _everything(pairs, query.period, compare)
    shown = _evidence(*whole, found)
    sums = {name: money.total(causes[name] for causes in found.values() if name in causes) for name in CAUSES}
    per_day = {name: money.total(causes[name] for causes in daily if name in causes) for name in CAUSES}
    rows: list[tuple[Any, ...]] = [
        (
            name,
            meaning,
            shown.get(name),
            sums[name],
            money.share(sums[name], change),
            *([per_day[name]] if daily else []),
        )
        for name, meaning in CAUSES.items()
        if sums[name] or per_day[name]
    ]
    rows.sort(key=lambda row: (-abs(row[3]), list(CAUSES).index(row[0])))
    return Table(
        title=f"Why spend changed, by {', '.join(query.by)}",
        query=query,
        columns=(
            Column("cause", "", "text"),
            Column("means", "cause", "text"),
            Column("evidence", "before -> now", "text"),
            Column("delta_usd", "change", "moved"),
            Column("share", "share of\nthe change", "share"),
            *((Column("per_day_usd", "change\nper day", "moved"),) if daily else ()),
        ),
        rows=tuple(rows),
        totals={
            "previous_usd": before_usd,
            "total_usd": now_usd,
            "delta_usd": change,
            **({"per_day_usd": money.total(per_day.values())} if daily else {}),
            **unknown,
        },
        complete_to=beside.complete_to,
        empty=why_empty(reader, query) if not pairs else None,
        notes=_notes(before_usd, now_usd, query.period, compare),
        source=called.source if called.source == charged.source else "rollups and entries",
        parts=(_movers(pairs, found, query),),
        form=FORM,
    )


def _cells(reader: Reader, query: Query, compare: Period) -> tuple[dict[Key, Pair], Facts, Facts, dict[str, Any]]:
    """What was called and charged, cell by cell, and what of it is not known."""
    columns = [source for name in _BRANCH for source in dimension(name).source]
    periods = {"": query.period, _BEFORE: compare}
    called = facts(reader, query, extra=columns)
    charged = charge_facts(reader, query, lambda rows: _shaped(rows, query, periods), extra=columns)
    cells: dict[Key, Pair] = {}
    for rows, measures in ((called, Counts._fields), (charged, Amount._fields)):
        for record in reader.execute(_grouped(rows, query, periods, charges=rows is charged)).to_pylist():
            key = query.buckets(record)
            if key not in cells:
                cells[key] = (State(_days(compare)), State(_days(query.period)))
            attempt = (record["reason"] or "first") + (CUT if record["status"] in CUT_SHORT else "")
            branch: Branch = (attempt, record["model"] or "", record["tier"] or "")
            for prefix, state in zip((_BEFORE, ""), cells[key], strict=True):
                values: list[Any] = [record[prefix + name] or 0 for name in measures]
                if not any(values):
                    continue
                if rows is called:
                    state.take(branch, Counts(*values))
                else:
                    leaf = (record["charge_model"] or "", record["meter"])
                    state.charge(branch, leaf, Amount(values[0], values[1] or money.ZERO))
    return cells, called, charged, _checked(reader, called, cells, periods)


def _shaped(rows: Any, query: Query, periods: Mapping[str, Period]) -> dict[str, Any]:
    """What a row belongs to: its cell, its branch, and the periods it lies in."""
    flags = {f"{prefix}inside": within(rows, period) for prefix, period in periods.items()}
    return query.keys(rows) | {name: dimension(name).column(rows) for name in _BRANCH} | flags


def _grouped(known: Facts, query: Query, periods: Mapping[str, Period], *, charges: bool) -> Any:
    table = known.table
    if charges:
        keys = {name: table[name] for name in (*query.keys_of(), *_BRANCH, "charge_model", "meter")}
        measures = {"quantity": "quantity", "cost": "cost_usd"}
        inside = {prefix: table[f"{prefix}inside"] for prefix in periods}
    else:
        shaped = _shaped(table, query, periods)
        keys = {name: shaped[name] for name in (*query.keys_of(), *_BRANCH)}
        measures = {"requests": "requests", "charged": "charged_calls", "unknown": "unknown_calls"}
        inside = {prefix: shaped[f"{prefix}inside"] for prefix in periods}
    sums = {
        prefix + name: table[source].sum(where=inside[prefix])
        for prefix in periods
        for name, source in measures.items()
    }
    return table.group_by(**keys).aggregate(**sums)


def _checked(reader: Reader, called: Facts, cells: Mapping[Key, Pair], periods: Mapping[str, Period]) -> dict[str, Any]:
    """The calls of unknown cost, once it is proved that the charges of either period are the cost of its calls."""
    measures = ("cost_usd", "unknown_calls", "unbounded_calls", "unknown_bound_usd")
    sums: dict[str, Any] = {}
    for prefix, period in periods.items():
        sums |= called.sums(called.table, measures, period, prefix)
    (row,) = reader.execute(called.table.aggregate(**sums)).to_pylist()
    for place, prefix in enumerate((_BEFORE, "")):
        charged, cost = money.total(pair[place].cost for pair in cells.values()), row[prefix + "cost_usd"] or money.ZERO
        if charged != cost:
            raise StoreFailed(
                f"charges add up to {money.text(charged)} USD and calls to {money.text(cost)}; run `costbearer doctor`"
            )
    return {
        "unknown_calls": row["unknown_calls"] or 0,
        "unknown_bound_usd": None if row["unbounded_calls"] else row["unknown_bound_usd"] or money.ZERO,
        "previous_unknown_calls": row[_BEFORE + "unknown_calls"] or 0,
    }


def _together(cells: Mapping[Key, Pair], limit: int) -> dict[Key, Pair]:
    """The cells to explain: those that changed most; what lies behind them becomes one."""

    def size(key: Key) -> tuple[Decimal, Key]:
        before, now = cells[key]
        return -abs(money.minus(now.cost, before.cost)), key

    ordered = sorted(cells, key=size)
    listed, rest = ordered[:limit], ordered[limit:]
    found = {key: cells[key] for key in listed}
    for key in rest:
        before, now = cells[key]
        name = (REST,) * len(key)
        if name not in found:
            found[name] = (State(before.days), State(now.days))
        found[name][0].with_state(before)
        found[name][1].with_state(now)
    return found


def _everything(pairs: Mapping[Key, Pair], period: Period, compare: Period) -> Pair:
    whole = (State(_days(compare)), State(_days(period)))
    for before, now in pairs.values():
        # What is new or gone is a cause of its own, and says nothing of how the others changed.
        if not before.idle and not now.idle:
            whole[0].with_state(before)
            whole[1].with_state(now)
    return whole


def _movers(pairs: Mapping[Key, Pair], found: Mapping[Key, Mapping[str, Decimal]], query: Query) -> Part:
    """A row per cell, with a column for each cause that counted anywhere."""
    counted = [name for name in CAUSES if any(causes.get(name) for causes in found.values())]
    rows: list[tuple[Cell, ...]] = []
    for key, (before, now) in pairs.items():
        causes = found[key]
        change = money.minus(now.cost, before.cost)
        if not change and not causes:
            continue
        most = max(causes, key=lambda name: (abs(causes[name]), name), default=None)
        parts = [causes.get(name, money.ZERO) for name in counted]
        rows.append((*key, before.cost, now.cost, change, most and CAUSES[most].partition(":")[0], *parts))
    rows.sort(key=lambda row: (row[0] == REST, -abs(_amount(row[len(query.by) + 2])), row[: len(query.by)]))
    columns = (
        *(Column(name, name, "bucket") for name in query.by),
        Column("previous_usd", "previous", "usd"),
        Column("cost_usd", "now", "usd"),
        Column("delta_usd", "change", "delta"),
        Column("most", "mostly", "text"),
        *(Column(f"{name}_usd", "", "delta") for name in counted),
    )
    places = [place for place, column in enumerate(columns) if column.kind in {"usd", "delta"}]
    totals = {columns[place].name: money.total(_amount(row[place]) for row in rows) for place in places}
    return Part("movers", "What changed most", columns, tuple(rows), totals)


def _amount(cell: Cell) -> Decimal:
    assert isinstance(cell, Decimal)
    return cell


def _evidence(before: State, now: State, found: Mapping[Key, Mapping[str, Decimal]]) -> dict[str, str]:
    """What changed, in one pair of figures for each cause, over everything together."""
    pairs = [_figures(before), _figures(now)]
    shown = {name: f"{pairs[0][name]} -> {pairs[1][name]}" for name in pairs[0]}
    for name in ("new", "gone"):
        count = sum(name in causes for causes in found.values())
        shown[name] = f"{count} row{'' if count == 1 else 's'}"
    return shown


def _figures(state: State) -> dict[str, str]:
    requests = sum(counts.requests for counts in state.branches.values())
    charged = sum(counts.charged for counts in state.branches.values())
    unknown = sum(counts.unknown for counts in state.branches.values())
    sides = {"input": 0, "output": 0}
    cached = 0
    for leaves in state.leaves.values():
        for (_, meter), amount in leaves.items():
            if SIDES.get(meter):
                sides[SIDES[meter]] += amount.quantity
            if meter.startswith("cache_read"):
                cached += amount.quantity
    return {
        "days": f"{_short(state.days)} days",
        "volume": f"{_short(money.ratio(requests, state.days))} requests a day",
        "retries": f"{_per(charged + unknown, requests)} calls per request",
        "unknown": f"{unknown:,} unknown",
        "prompt": f"{_per(sides['input'], charged)} tokens",
        "answer": f"{_per(sides['output'], charged)} tokens",
        "cache": f"{shown_cell(money.share(Decimal(cached), Decimal(sides['input'])), 'share')} from cache",
    }


def _per(part: int, whole: int) -> str:
    return _short(money.ratio(part, whole)) if whole else "no"


def _short(value: Decimal) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == value.to_integral_value() else f"{value:,.3g}"


def _days(period: Period) -> Decimal:
    microseconds = (period.until - period.since) // timedelta(microseconds=1)
    return money.ratio(microseconds, _DAY // timedelta(microseconds=1))


def _notes(before: Decimal, now: Decimal, period: Period, compare: Period) -> tuple[str, ...]:
    notes = [f"Cost: {money.display(before)} -> {money.display(now)}."]
    left, right = _days(compare), _days(period)
    if left != right:
        per_day = [money.per(before, left), money.per(now, right)]
        shown = [money.brief(amount or money.ZERO) for amount in per_day]
        notes.append(f"Per day: {shown[0]} -> {shown[1]}, over {_short(left)} and {_short(right)} days.")
    return tuple(notes)
