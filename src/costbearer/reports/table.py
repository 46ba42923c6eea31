"""What a report answers: one value that every surface renders, so that text, CSV, JSON and API show the same number.

A `Table` is made once, from exact sums. JSON is its machine form and is read back without loss, which is how the
command line prints a server's answer with the code that prints its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from costbearer import money
from costbearer.reports.query import SpendQuery, instant

Kind = Literal["bucket", "count", "usd", "delta", "share"]
Cell = str | int | float | Decimal | None
Empty = Literal["no_entries", "none_in_period", "none_match", "none_unknown"]

_EMPTY: Mapping[str, str] = {
    "no_entries": "No calls are recorded yet. They appear here within a second of the first call through the gateway.",
    "none_in_period": "No calls in this period; there are some outside it. Widen it with --since and --until.",
    "none_unknown": "Every call of this period has a cost.",
    "none_match": "No call in this period matches the filter; without --where there are some.",
}
_GAP = 2
_CSV_SPECIAL = re.compile('[,"\\r\\n]')
_CSV_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_BUCKET_WIDTH_MIN = 20
"""Wide enough for every bucket of time, which must not be folded; longer names may be."""


class Column(NamedTuple):
    """`name` is the key in JSON and the head in CSV; `title` the head for people, "" where the text leaves it out.

    `usd` and `delta` are amounts. `unknown_of` names the counts (calls, those of unknown cost) behind an amount: where
    they are equal nothing is known, and people read that instead of $0.00.
    """

    name: str
    title: str
    kind: Kind
    unknown_of: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """An answer with its question.

    `rows` hold one cell per column; an amount is an exact Decimal, a share a ratio or None where the whole is 0.
    `cost_usd` of a row is the sum of the costs that are known; `unknown_calls` beside it says how many are not.
    `totals` are by name, an amount under each name that ends in `_usd` (None: not known). `complete_to` is the time up
    to which every closed call is in the ledger, where that is known. `empty` says why there are no rows.
    """

    title: str
    query: SpendQuery
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: Mapping[str, int | Decimal | None]
    complete_to: datetime | None = None
    empty: Empty | None = None

    def document(self) -> dict[str, Any]:
        """The JSON document, in the shape that stays (see INTERFACE): amounts as text with 12 places."""
        period, compare = self.query.period, self.query.compare
        head: dict[str, Any] = {
            "report": self.query.report,
            "since": instant(period.since),
            "until": instant(period.until),
            "by": list(self.query.by),
            "where": {name: list(values) for name, values in self.query.where},
            "compare": {"since": instant(compare.since), "until": instant(compare.until)} if compare else None,
            "sort": self.query.sort,
        }
        names = [column.name for column in self.columns]
        rows = [{name: _plain(cell) for name, cell in zip(names, row, strict=True)} for row in self.rows]
        return {
            **head,
            "rows": rows,
            **{name: _plain(value) for name, value in self.totals.items()},
            "complete_to": instant(self.complete_to) if self.complete_to else None,
            "empty": self.empty,
            "command": self.query.command(),
        }

    def to_json(self) -> str:
        return msgspec.json.encode(self.document()).decode()

    def to_csv(self) -> str:
        """A head and one line per bucket, quoted as in RFC 4180 and ended by LF, the numbers as in JSON; no total.

        A bucket that a spreadsheet would run as a formula gets a leading apostrophe; JSON has it as it is.
        """
        lines = [[harmless(column.name) for column in self.columns]]
        for row in self.rows:
            cells = zip(self.columns, row, strict=True)
            lines.append([harmless(str(cell)) if column.kind == "bucket" else _exact(cell) for column, cell in cells])
        return "".join(",".join(map(csv_quoted, line)) + "\n" for line in lines)

    def to_text(self, width: int | None = None) -> str:
        """For people: period, rows, total, what is unknown, how complete it is, and the command that repeats it.

        Without colours or control sequences, so the same in a file and on a terminal. On a terminal `width` columns
        wide long buckets are folded; numbers are never cut: where they alone are wider, so are the lines.
        """
        period, compare = self.query.period, self.query.compare
        lines = [self.title, f"period    {_span(period.since, period.until)}"]
        lines += [f"compared  {_span(compare.since, compare.until)}"] if compare else []
        lines += [f"where     {name} = {' or '.join(map(visible, values))}" for name, values in self.query.where]
        lines += ["", _EMPTY[self.empty] if self.empty else _grid(self, width), *self._remarks(), ""]
        if self.complete_to is not None:
            lines.append(f"complete to {instant(self.complete_to)}")
        lines.append(f"reproduce: {self.query.command()}")
        return "\n".join(line.rstrip() for line in "\n".join(lines).split("\n")) + "\n"

    def _remarks(self) -> list[str]:
        remarks = []
        unknown, bound = self.totals["unknown_calls"], self.totals["unknown_bound_usd"]
        if unknown:
            most = f"at most {money.display(bound)}" if isinstance(bound, Decimal) else "without a bound"
            remarks.append(f"{_calls(unknown)} whose cost is not known, {most}, not in the total.")
        before = self.totals.get("previous_unknown_calls")
        if before:
            remarks.append(f"{_calls(before)} of the period compared with whose cost is not known.")
        estimated, amount = self.totals["estimated_calls"], self.totals["estimated_usd"]
        if estimated and isinstance(amount, Decimal):
            remarks.append(f"{_calls(estimated)} whose cost is estimated, {money.display(amount)} of the total.")
        return ["", *remarks] if remarks else []


def amounts_of(document: Mapping[str, Any], columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
    """The rows of a JSON document as cells again.

    Raises:
        KeyError, TypeError, AmountInvalid: the document is not one of these columns.
    """
    return tuple(tuple(_cell(row[column.name], column.kind) for column in columns) for row in document["rows"])


def visible(text: str) -> str:
    """The text with every character that does not print written as an escape: no terminal is steered by a bucket."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _cell(value: Any, kind: Kind) -> Cell:
    if kind in {"usd", "delta"}:
        return money.usd(value)
    cell: Cell = value
    return cell


def _plain(cell: Cell) -> str | int | float | None:
    return money.text(cell) if isinstance(cell, Decimal) else cell


def _exact(cell: Cell) -> str:
    return "" if cell is None else str(_plain(cell))


def harmless(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return "'" + text if text.startswith(_CSV_FORMULA) else text


def csv_quoted(text: str) -> str:
    """The csv module leaves a lone CR bare, which readers then take for the end of the line."""
    return '"' + text.replace('"', '""') + '"' if _CSV_SPECIAL.search(text) else text


def _calls(count: int | Decimal) -> str:
    return f"{count:,} call{'' if count == 1 else 's'}"


def _span(since: datetime, until: datetime) -> str:
    return f"{instant(since)} to {instant(until)}, the end excluded"


def _grid(table: Table, width: int | None) -> str:
    """Heads, rows and total as plain lines. Not rich's own table: that takes milliseconds for each of many rows."""
    shown = [column for column in table.columns if column.title]
    left = [column.kind == "bucket" for column in shown]
    heads = [visible(column.title) if column.kind == "bucket" else column.title for column in shown]
    foot = _shown_row(_total_row(table))
    body = [_shown_row(dict(zip(table.columns, row, strict=True))) for row in table.rows]
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
    return "\n".join([*lines, rule, *_laid(foot, sizes, left)])


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


def _total_row(table: Table) -> dict[Column, Cell]:
    """The foot: `total_usd` stands under `cost_usd`, the other totals under their own name."""
    totals = table.totals
    whole = totals["total_usd"]
    row: dict[Column, Cell] = {}
    for position, column in enumerate(table.columns):
        if column.kind == "bucket":
            row[column] = "" if position else "total"
        elif column.kind == "share":
            row[column] = money.share(whole, whole) if isinstance(whole, Decimal) else None
        else:
            row[column] = totals["total_usd" if column.name == "cost_usd" else column.name]
    return row


def _shown_row(row: Mapping[Column, Cell]) -> list[str]:
    """The cells as people read them, of the columns that have a title."""
    by_name = {column.name: cell for column, cell in row.items()}
    shown = []
    for column, cell in row.items():
        if not column.title:
            continue
        nothing_known = any(by_name[calls] and by_name[calls] == by_name[lost] for calls, lost in column.unknown_of)
        if nothing_known and (column.kind == "delta" or not cell):
            shown.append("-" if column.kind in {"count", "share"} else money.display(None))
        else:
            shown.append(_shown(cell, column.kind))
    return shown


def _shown(cell: Cell, kind: Kind) -> str:
    if isinstance(cell, Decimal):
        return ("+" if kind == "delta" and cell > 0 else "") + money.display(cell)
    if isinstance(cell, float):
        return f"{cell:.1%}" if cell == 0 or abs(cell) >= 0.001 else f"{'-' if cell < 0 else ''}<0.1%"
    if isinstance(cell, int):
        return f"{cell:,}"
    return "-" if cell is None else visible(cell)
