"""A report's tables as cells for a page: what people read, the exact value behind it, and where it leads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from costbearer import money
from costbearer.console.pages.links import BEHIND, IDS, Links, address, one
from costbearer.reports.dimensions import DIMENSIONS, NONE, REST
from costbearer.reports.table import AMOUNTS, TEXTS, Cell, Column, Part, Table, exact, shown_row, total_row, visible

ROWS_MAX = 500
"""Rows that a page shows however many were asked for; the files have all of them."""
CHARS_MAX = 120
"""Longer texts are cut on the page; the whole is in the cell's title and in the files."""

Row = tuple[Cell, ...]
LinksOf = Callable[[Sequence[Column], Row], Mapping[str, str]]


class Head(NamedTuple):
    """`sort` is where the head leads to order by it; `sorted_` whether the rows are."""

    text: str
    css: str
    sort: str = ""
    sorted_: bool = False


class Shown(NamedTuple):
    """`exact` is the machine's form where it differs from what is read, `title` the whole of a text that was cut."""

    text: str
    css: str
    href: str = ""
    exact: str = ""
    title: str = ""


class Grid(NamedTuple):
    """`more` is how many rows there are beyond those that are shown."""

    name: str
    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Shown, ...], ...]
    foot: tuple[Shown, ...]
    more: int


def main_grid(table: Table, sorts: Mapping[str, str] | None = None, only: Collection[str] = ()) -> Grid:
    """The rows of the answer itself."""
    part = Part(table.query.report, table.title, table.columns, table.rows, table.totals)
    return grid(part, table, sorts, only)


def part_grids(table: Table) -> list[Grid]:
    """Its further tables that have rows."""
    return [grid(part, table) for part in table.parts if part.rows]


def grid(part: Part, table: Table, sorts: Mapping[str, str] | None = None, only: Collection[str] = ()) -> Grid:
    """One table. `sorts` maps an order to its address; `only` names the columns where not all are shown."""
    titled = [column for column in part.columns if column.title]
    kept = [place for place, column in enumerate(titled) if not only or column.name in only]
    shown = [titled[place] for place in kept]
    names = [column.name for column in part.columns]
    own_links = _links_of(part, table)
    rows = []
    for row in part.rows[:ROWS_MAX]:
        cells = dict(zip(names, row, strict=True))
        texts = shown_row(part.columns, cells)
        hrefs = own_links(part.columns, row)
        rows.append(
            tuple(
                _shown(column, cells[column.name], text, hrefs.get(column.name, ""), cells)
                for column, text in zip(shown, [texts[place] for place in kept], strict=True)
            )
        )
    heads = tuple(_head(column, table, sorts or {}) for column in shown)
    return Grid(part.name, part.title, heads, tuple(rows), _foot(part, shown, kept), max(0, len(part.rows) - ROWS_MAX))


def listing(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    links_of: Callable[[Mapping[str, Cell]], Mapping[str, str]] = lambda _: {},
) -> Grid:
    """A table of things that are no report: keys, prices, findings."""
    shown = [column for column in columns if column.title]
    names = [column.name for column in columns]
    made = []
    for row in rows[:ROWS_MAX]:
        cells = dict(zip(names, row, strict=True))
        texts, hrefs = shown_row(columns, cells), links_of(cells)
        made.append(
            tuple(
                _shown(column, cells[column.name], text, hrefs.get(column.name, ""), cells)
                for column, text in zip(shown, texts, strict=True)
            )
        )
    heads = tuple(Head(column.title.replace("\n", " "), _css(column)) for column in shown)
    return Grid(name, title, heads, tuple(made), (), max(0, len(rows) - ROWS_MAX))


def _head(column: Column, table: Table, sorts: Mapping[str, str]) -> Head:
    order = {"cost_usd": "cost", "delta_usd": "delta"}.get(column.name, "")
    if not order and column.kind == "bucket" and table.query.by and column.name == table.query.by[0]:
        order = "name"
    text = visible(column.title) if column.kind == "bucket" else column.title.replace("\n", " ")
    return Head(text, _css(column), sorts.get(order, ""), bool(order) and table.query.sort == order)


def _foot(part: Part, shown: Sequence[Column], kept: Sequence[int]) -> tuple[Shown, ...]:
    totals = total_row(part.columns, part.totals)
    if not totals:
        return ()
    all_ = shown_row(part.columns, totals)
    texts = [all_[place] for place in kept]
    cells = [
        _shown(column, totals.get(column.name), text, "", totals) if text else Shown("", _css(column))
        for column, text in zip(shown, texts, strict=True)
    ]
    first = next((place for place, column in enumerate(shown) if column.kind in TEXTS), None)
    if first is not None:
        cells[first] = Shown("total", _css(shown[first]))
    return tuple(cells)


def _shown(column: Column, cell: Cell, text: str, href: str, cells: Mapping[str, Cell]) -> Shown:
    css = _css(column)
    if column.kind in AMOUNTS:
        css += " unknown" if text == money.display(None) else ""
        css += " estimated" if cells.get("basis") == "estimated" and column.name == "cost_usd" else ""
        if column.kind in {"delta", "moved"} and cell:
            css += " up" if exact(cell)[0] != "-" else " down"
        return Shown(text, css, href, exact(cell))
    if isinstance(cell, str) and cell in {NONE, REST}:
        css += " none"
    if column.name == "node":
        depth = cells.get("depth") or 0
        return Shown(text.strip(), f"{css} depth-{min(int(str(depth)), 9)}", href)
    if len(text) > CHARS_MAX:
        return Shown(text[: CHARS_MAX - 1] + "…", css, href, title=text[:2000])
    return Shown(text, css, href)


def _css(column: Column) -> str:
    return "text" if column.kind in TEXTS else "number"


def _links_of(part: Part, table: Table) -> LinksOf:
    links = Links(table.query)
    special = _SPECIAL.get((table.query.report, part.name))
    if special is not None:
        return lambda columns, row: special(
            links, {column.name: cell for column, cell in zip(columns, row, strict=True)}
        )
    return links.of_row


# -- tables whose rows are not buckets of dimensions


def _cause(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    return {"delta_usd": links.behind(more=BEHIND.get(str(cells["cause"]), ()))}


def _field(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    name = str(cells["field"])
    if name not in DIMENSIONS:
        return {}
    within = [*links.where({}), *links.times()]
    missing = [*links.where({}, [(name, NONE)]), *links.times()]
    return {
        "field": address("/explore", [("by", name), *within]),
        "missing_usd": address("/explore", [("by", "key"), *missing]) if cells["missing_usd"] else "",
    }


def _week(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    week = {"week": str(cells["week"])}
    return {name: address("/explore", [("by", "owner,team,key"), *links.where(week), *links.times()]) for name in week}


def _unknown(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    buckets = {name: str(cells[name]) for name in ("reason_unknown", "provider", "model", "tier")}
    behind = links.behind(buckets, [("basis", "unknown")])
    return dict.fromkeys(("reason_unknown", "calls", "bound_usd"), behind)


def _pair(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    name, value = str(cells["name"]), str(cells["value"])
    if name in IDS:
        return {"value": one(IDS[name], value)}
    if name == "key_id":
        return {"value": address("/explore", [("by", "day"), ("where", f"key={value}"), *links.times()])}
    return {}


def _label(links: Links, cells: Mapping[str, Cell]) -> dict[str, str]:
    name, value = str(cells["field"]).removesuffix("_id"), cells["value"]
    if value is None or (name not in DIMENSIONS and not name.startswith("tag:")):
        return {}
    month = [("since", "30d")]
    by = links.further(name, [name])
    return {"value": address("/explore", [("by", by), ("where", f"{name}={value}"), *month])}


_SPECIAL: Mapping[tuple[str, str], Callable[[Links, Mapping[str, Cell]], Mapping[str, str]]] = {
    ("explain", "explain"): _cause,
    ("owner", "why"): _cause,
    ("coverage", "coverage"): _field,
    ("coverage", "weeks"): _week,
    ("unknown", "unknown"): _unknown,
    ("owner", "unknown"): _unknown,
    ("receipt", "call"): _pair,
    ("receipt", "labels"): _label,
}
"""(report, part) -> links of a row."""
