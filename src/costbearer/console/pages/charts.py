"""A report drawn: what the script turns into a picture, and the one sentence that says what the picture shows.

A chart is made of the table that stands below it and of nothing else. Its heights are floats, for the eye; its labels
are the texts of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from costbearer import money
from costbearer.console.pages.links import BEHIND, Links
from costbearer.reports.coverage import LIMIT_NAME, LIMIT_SHARE
from costbearer.reports.dimensions import DIMENSIONS, NONE, REST
from costbearer.reports.periods import Period
from costbearer.reports.table import Cell, Part, Table, shown_cell, visible

Kind = Literal["bars", "stacked", "pareto", "waterfall", "treemap", "line"]

BARS_MAX = 20
SERIES_MAX = 8
"""More colours than that are not told apart; what is smaller is one series."""
NAME_CHARS_MAX = 40
OTHERS = "(others)"
_DAY_S = 86_400


class Mark(NamedTuple):
    """Something that happened, at a label of the horizontal axis."""

    label: str
    text: str


class Chart(NamedTuple):
    """`labels` along the axis; `series` hold a value, a text and an address per label; `limit` is a line across."""

    kind: Kind
    sentence: str
    labels: tuple[str, ...]
    series: tuple[Mapping[str, Any], ...]
    marks: tuple[Mark, ...] = ()
    limit: Mapping[str, Any] = {}

    @property
    def data(self) -> str:
        """The JSON that the script reads."""
        return msgspec.json.encode(self._asdict() | {"marks": [mark._asdict() for mark in self.marks]}).decode()


def chart_of(table: Table, marks: Sequence[Mark] = ()) -> Chart | None:
    """The chart of a report; None where there is nothing to draw or the table says it better."""
    made = _CHARTS.get(table.query.report)
    return made(table, marks) if made is not None and table.rows else None


def _spend(table: Table, marks: Sequence[Mark]) -> Chart | None:
    times = [name for name in table.query.by if name in DIMENSIONS and DIMENSIONS[name].unit]
    return stacked(table, times[0], marks) if times else bars(table)


def bars(table: Table) -> Chart | None:
    """The dearest rows, each as a bar."""
    links = Links(table.query)
    named = [(_name(table, row), row, _cell(table, row, "cost_usd")) for row in table.rows[:BARS_MAX]]
    known = [(name, row, cost) for name, row, cost in named if isinstance(cost, Decimal)]
    if not known:
        return None
    hrefs = [links.of_row(table.columns, row).get("cost_usd", "") for _, row, _ in known]
    series = _series("cost", [cost for _, _, cost in known], hrefs)
    return Chart("bars", _most(table, known), tuple(name for name, _, _ in known), (series,))


def stacked(table: Table, time: str, marks: Sequence[Mark]) -> Chart | None:
    """Spend along time, one colour for each of the dearest of what else it is grouped by."""
    at = [column.name for column in table.columns].index(time)
    others = [place for place, name in enumerate(table.query.by) if name != time]
    sums: dict[str, dict[str, Decimal]] = {}
    labels: dict[str, None] = {}
    rest = money.ZERO
    for row in table.rows:
        label, cost = str(row[at]), _cell(table, row, "cost_usd")
        if not isinstance(cost, Decimal):
            continue
        if label == REST:
            rest = cost
            continue
        labels[label] = None
        name = " / ".join(str(row[place]) for place in others) or "cost"
        own = sums.setdefault(name, {})
        own[label] = money.total([own.get(label, money.ZERO), cost])
    ordered = sorted(labels)
    if not ordered:
        return None
    whole = {name: money.total(values.values()) for name, values in sums.items()}
    ranked = sorted(sums, key=lambda name: (-whole[name], name))
    shown = ranked if len(ranked) <= SERIES_MAX else ranked[: SERIES_MAX - 1]
    behind = [sums[name] for name in ranked[len(shown) :]]
    drawn = {name: sums[name] for name in shown}
    if behind:
        drawn[OTHERS] = {label: money.total(each.get(label, money.ZERO) for each in behind) for label in ordered}
    links = Links(table.query)
    hrefs = [links.inside({time: label}) for label in ordered]
    series = tuple(
        _series(_cut(name), [values.get(label, money.ZERO) for label in ordered], hrefs)
        for name, values in drawn.items()
    )
    days = {label: money.total(values.get(label, money.ZERO) for values in sums.values()) for label in ordered}
    top = max(ordered, key=lambda label: days[label])
    said = f"Spend per {time}: {money.display(days[top])} on {top}, the dearest of {len(ordered):,}"
    first = f"; {visible(ranked[0])} has the most, {money.display(whole[ranked[0]])}." if others else "."
    if rest:
        # Days without their smaller rows are no days: whoever looks must know that they are not whole.
        first += f" {money.display(rest)} behind the limit is not drawn: ask for more rows."
    return Chart("stacked", said + first, tuple(ordered), series, _placed(marks, time, ordered))


def _placed(marks: Sequence[Mark], time: str, labels: Sequence[str]) -> tuple[Mark, ...]:
    """The marks that have a place on the axis: annotations are of days, which hours and months begin with."""
    if time == "day":
        return tuple(mark for mark in marks if mark.label in labels)
    if time == "month":
        return tuple(Mark(mark.label[:7], mark.text) for mark in marks if mark.label[:7] in labels)
    if time == "hour":
        first = {label[:10]: label for label in reversed(labels)}
        return tuple(Mark(first[mark.label], mark.text) for mark in marks if mark.label in first)
    return ()


def _waterfall(table: Table, _: Sequence[Mark]) -> Chart:
    """From the period before to this one, cause by cause; per day where that is asked, so that a longer month is no
    cause."""
    daily = any(column.name == "per_day_usd" for column in table.columns)
    before, now = table.totals["previous_usd"], table.totals["total_usd"]
    assert isinstance(before, Decimal) and isinstance(now, Decimal)
    ends = [before, now]
    if daily and table.query.compare is not None:
        days = [money.ratio(_seconds(period), _DAY_S) for period in (table.query.compare, table.query.period)]
        ends = [money.per(amount, length) or money.ZERO for amount, length in zip(ends, days, strict=True)]
    links, named = Links(table.query), "per_day_usd" if daily else "delta_usd"
    steps = [(row, cell) for row in table.rows if isinstance(cell := _cell(table, row, named), Decimal) and cell]
    names = [str(_cell(table, row, "means")).partition(":")[0] for row, _ in steps]
    moves = [cell for _, cell in steps]
    hrefs = [links.behind(more=BEHIND.get(str(_cell(table, row, "cause")), ())) for row, _ in steps]
    shown = [money.brief(amount) if daily else money.display(amount) for amount in ends]
    texts = [shown[0], *(shown_cell(move, "moved") for move in moves), shown[1]]
    per = " per day" if daily else ""
    most = max(range(len(moves)), key=lambda place: abs(moves[place]), default=None)
    moved = "." if most is None else f"; {names[most]} moved it most, {texts[most + 1]}{per}."
    values = [float(size) for size in (ends[0], *moves, ends[1])]
    series = {"name": "change", "values": values, "texts": texts, "hrefs": [links.behind(), *hrefs, links.behind()]}
    said = f"From {shown[0]} to {shown[1]}{per}{moved}"
    return Chart("waterfall", said, ("before", *names, "now"), (series,))


def _seconds(period: Period) -> Decimal:
    return Decimal((period.until - period.since) // timedelta(microseconds=1)).scaleb(-6)


def _pareto(table: Table, _: Sequence[Mark]) -> Chart | None:
    drawn = bars(table)
    if drawn is None:
        return None
    rows = table.rows[: len(drawn.labels)]
    shares = [_cell(table, row, "cumulative_share") for row in rows]
    line = {
        "name": "cumulative",
        "values": [share if isinstance(share, float) else None for share in shares],
        "texts": [shown_cell(share, "share") for share in shares],
        "hrefs": [""] * len(rows),
    }
    labels = tuple(str(_cell(table, row, "key")) for row in rows)
    said = table.notes[0] if table.notes else drawn.sentence
    return Chart("pareto", said, tuple(map(_cut, labels)), (*drawn.series, line))


def _treemap(table: Table, _: Sequence[Mark]) -> Chart | None:
    links = Links(table.query)
    leaves = []
    for row in table.rows:
        cost = _cell(table, row, "cost_usd")
        if isinstance(cost, Decimal) and cost > 0 and REST not in row:
            path = [str(row[place]) for place in range(len(table.query.by))]
            buckets = dict(zip(table.query.by, path, strict=True))
            leaf = {"path": list(map(_cut, path)), "value": float(cost), "text": money.display(cost)}
            leaves.append(leaf | {"href": links.inside(buckets)})
    if not leaves:
        return None
    known = [(_name(table, row), row, _cell(table, row, "cost_usd")) for row in table.rows]
    series = {"name": "cost", "leaves": leaves}
    return Chart("treemap", _most(table, known), (), (series,))


def _coverage(table: Table, _: Sequence[Mark]) -> Chart | None:
    weeks = next((part for part in table.parts if part.name == "weeks"), None)
    if weeks is None or not weeks.rows:
        return None
    labels = [str(_of(weeks, row, "week")) for row in weeks.rows]
    shares = [_of(weeks, row, "unattributed_share") for row in weeks.rows]
    over = [label for label, row in zip(labels, weeks.rows, strict=True) if _of(weeks, row, "over")]
    are = f"{len(over):,} of {len(labels):,} weeks {'is' if len(over) == 1 else 'are'} over {LIMIT_NAME}"
    said = (
        f"Spend without owner or team per week: {are}." if over else f"No week is over {LIMIT_NAME} without an owner."
    )
    series = {
        "name": "unattributed",
        "values": [share if isinstance(share, float) else None for share in shares],
        "texts": [shown_cell(share, "share") for share in shares],
        "hrefs": [""] * len(labels),
    }
    return Chart("line", said, tuple(labels), (series,), limit={"at": float(LIMIT_SHARE), "text": LIMIT_NAME})


def _unknown(table: Table, _: Sequence[Mark]) -> Chart | None:
    names = [f"{_cell(table, row, 'reason_unknown')} ({_cell(table, row, 'model')})" for row in table.rows[:BARS_MAX]]
    bounds = [_cell(table, row, "bound_usd") for row in table.rows[:BARS_MAX]]
    known = [bound if isinstance(bound, Decimal) else money.ZERO for bound in bounds]
    said = f"At most {money.display(money.total(known))} more than the total, by the reason why it is not known."
    return Chart("bars", said, tuple(map(_cut, names)), (_series("at most", known, [""] * len(names)),))


_CHARTS: Mapping[str, Callable[[Table, Sequence[Mark]], Chart | None]] = {
    "spend": _spend,
    "explain": _waterfall,
    "chargeback": lambda table, _: bars(table),
    "top-keys": _pareto,
    "agents": _treemap,
    "owner": lambda table, _: bars(table),
    "unit-cost": lambda table, _: bars(table),
    "models": lambda table, _: bars(table),
    "coverage": _coverage,
    "unknown": _unknown,
}


def _series(name: str, costs: Sequence[Decimal], hrefs: Sequence[str]) -> dict[str, Any]:
    values = [float(cost) for cost in costs]
    return {"name": name, "values": values, "texts": list(map(money.display, costs)), "hrefs": list(hrefs)}


def _most(table: Table, named: Sequence[tuple[str, Any, Cell]]) -> str:
    """Who has the most, and how much of the whole that is."""
    whole = table.totals.get("total_usd")
    own = [(cost, name) for name, row, cost in named if isinstance(cost, Decimal) and REST not in row]
    if not own or not isinstance(whole, Decimal):
        return table.title
    # Not the first row: rows may be in the order of their names or of their change.
    cost, name = max(own, key=lambda each: each[0])
    part = shown_cell(money.share(cost, whole), "share")
    who = "Nobody (no label)" if name == NONE else name
    return f"{who} has the most: {money.display(cost)} of {money.display(whole)}, {part}."


def _name(table: Table, row: Sequence[Cell]) -> str:
    buckets = [str(row[place]) for place, column in enumerate(table.columns) if column.kind == "bucket"]
    return _cut(" / ".join(buckets))


def _cut(name: str) -> str:
    shown = visible(name)
    return shown if len(shown) <= NAME_CHARS_MAX else shown[: NAME_CHARS_MAX - 1] + "…"


def _cell(table: Table, row: Sequence[Cell], name: str) -> Cell:
    return next((cell for column, cell in zip(table.columns, row, strict=True) if column.name == name), None)


def _of(part: Part, row: Sequence[Cell], name: str) -> Cell:
    return next((cell for column, cell in zip(part.columns, row, strict=True) if column.name == name), None)
