"""A table for people at a terminal: period, rows, total, what is unknown, how complete it is, how to repeat it.

Without colours or control sequences, so the same in a file and on a terminal.
"""

from __future__ import annotations

from datetime import datetime

from costbearer.reports.periods import Zone, instant
from costbearer.reports.table import EMPTY, TEXTS, Part, Table, shown_row, total_row, visible

_GAP = 2
_BUCKET_WIDTH_MIN = 20
"""Wide enough for every bucket of time, which must not be folded; longer names may be."""

_SOURCES = {"rollups": "hourly roll-ups", "rollups and entries": "hourly roll-ups, and entries at the edges"}


def text(table: Table, width: int | None = None) -> str:
    """The whole answer. On a terminal `width` columns wide long buckets are folded; numbers are never cut: where they
    alone are wider, so are the lines."""
    query = table.query
    lines = [visible(table.title)]
    lines += [] if table.form.ever else [f"period    {span(query.period.since, query.period.until, query.zone)}"]
    lines += [f"compared  {span(query.compare.since, query.compare.until, query.zone)}"] if query.compare else []
    lines += [f"where     {name} = {' or '.join(map(visible, values))}" for name, values in query.where]
    main = Part("", "", table.columns, table.rows, table.totals)
    lines += ["", EMPTY[table.empty] if table.empty else _grid(main, width)]
    for part in table.parts:
        if part.rows:
            lines += ["", part.title, _grid(part, width)]
    remarks = [visible(remark) for remark in table.remarks()]
    lines += ["", *remarks] if remarks else []
    lines.append("")
    if table.complete_to is not None:
        lines.append(f"complete to {instant(table.complete_to)}{_source(table)}")
    lines.append(f"reproduce: {table.command}")
    return "\n".join(line.rstrip() for line in "\n".join(lines).split("\n")) + "\n"


def span(since: datetime, until: datetime, zone: Zone) -> str:
    """A period in words, as clocks in the zone show it."""
    if zone.name == "UTC":
        return f"{instant(since)} to {instant(until)}, the end excluded"
    begin, end = (zone.wall(moment).isoformat() for moment in (since, until))
    return f"{begin} to {end} ({zone.name}), the end excluded"


def _source(table: Table) -> str:
    return "" if table.source is None or table.source == "entries" else f" (added up from {_SOURCES[table.source]})"


def _grid(part: Part, width: int | None) -> str:
    """Heads, rows and total as plain lines. Not rich's own table: that takes milliseconds for each of many rows."""
    shown = [column for column in part.columns if column.title]
    left = [column.kind in TEXTS for column in shown]
    heads = [visible(column.title) if column.kind == "bucket" else column.title for column in shown]
    names = [column.name for column in part.columns]
    totals = total_row(part.columns, part.totals)
    foot = shown_row(part.columns, totals) if totals else [""] * len(shown)
    if totals and any(left):
        foot[left.index(True)] = "total"
    body = [shown_row(part.columns, dict(zip(names, row, strict=True))) for row in part.rows]
    sizes = [
        max(_width(text) for text in (*head.split("\n"), total, *(cells[place] for cells in body)))
        for place, (head, total) in enumerate(zip(heads, foot, strict=True))
    ]
    if width is not None:
        _shrink(sizes, left, width)
    rule = "-" * (sum(sizes) + _GAP * (len(sizes) - 1))
    lines = [*_laid(heads, sizes, left, at_bottom=True), rule]
    for cells in body:
        lines += _laid(cells, sizes, left)
    return "\n".join([*lines, rule, *_laid(foot, sizes, left)] if totals else lines)


def _shrink(sizes: list[int], foldable: list[bool], width: int) -> None:
    """Make the widest columns of names narrower until the lines fit, but none narrower than its least width."""
    excess = sum(sizes) + _GAP * (len(sizes) - 1) - width
    while excess > 0:
        room = {
            place: sizes[place] for place, folds in enumerate(foldable) if folds and sizes[place] > _BUCKET_WIDTH_MIN
        }
        if not room:
            return
        widest = max(room, key=lambda place: room[place])
        sizes[widest] -= 1
        excess -= 1


def _laid(cells: list[str], sizes: list[int], left: list[bool], *, at_bottom: bool = False) -> list[str]:
    """One row as lines: names on the left and folded, numbers on the right and whole."""
    folded = [
        _folded(cell, size) if is_left else cell.split("\n")
        for cell, size, is_left in zip(cells, sizes, left, strict=True)
    ]
    height = max(map(len, folded))
    for place, parts in enumerate(folded):
        missing = [""] * (height - len(parts))
        folded[place] = missing + parts if at_bottom else parts + missing
    return [
        (" " * _GAP).join(
            part + " " * (size - _width(part)) if is_left else " " * (size - _width(part)) + part
            for part, size, is_left in zip(line, sizes, left, strict=True)
        )
        for line in zip(*folded, strict=True)
    ]


def _folded(text: str, size: int) -> list[str]:
    from rich.cells import chop_cells

    return [text] if _width(text) <= size else chop_cells(text, size)


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
