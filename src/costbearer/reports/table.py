"""What a report answers: one value that every surface renders, so that text, CSV, JSON, XLSX and API show one number.

A `Table` is made once, from exact sums. JSON is its machine form and is read back without loss, which is how the
command line prints a server's answer with the code that prints its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from costbearer import money
from costbearer.reports.formulas import harmless
from costbearer.reports.periods import instant
from costbearer.reports.query import SPEND, Form, Query

Kind = Literal["bucket", "text", "count", "usd", "part", "delta", "moved", "unit", "price", "share", "change", "ms"]
Cell = str | int | float | Decimal | None
Empty = Literal["no_entries", "none_in_period", "none_match", "none_unknown"]
Source = Literal["entries", "rollups", "rollups and entries"]

AMOUNTS: frozenset[Kind] = frozenset({"usd", "part", "delta", "moved", "unit", "price"})
TEXTS: frozenset[Kind] = frozenset({"bucket", "text"})
EMPTY: Mapping[str, str] = {
    "no_entries": "No calls are recorded yet. They appear here within a second of the first call through the gateway.",
    "none_in_period": "No calls in this period; there are some outside it. Widen it with --since and --until.",
    "none_unknown": "Every call of this period has a cost.",
    "none_match": "No call in this period matches the filter; without --where there are some.",
}
_CSV_SPECIAL = re.compile('[,"\\r\\n]')


class Column(NamedTuple):
    """`name` is the key in JSON and the head in CSV; `title` the head for people, "" where the text leaves it out.

    `usd` and `delta` are amounts, unknown where there is none; `part` is one that need not be there, `moved` one that
    was calculated to more places than people read; `unit` is an amount per something, None where there is nothing to
    divide by, `price` one of a rate card. `share` and `change` are ratios, read as percentages. `unknown_of` names the
    counts (calls, those of unknown cost) behind a cell: where they are equal nothing is known, and people read that
    instead of $0.00.
    """

    name: str
    title: str
    kind: Kind
    unknown_of: tuple[tuple[str, str], ...] = ()


class Part(NamedTuple):
    """A further table of an answer: a title, columns, rows, and the totals under the columns of those names."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: Mapping[str, int | float | Decimal | None] = {}


@dataclass(frozen=True, slots=True)
class Table:
    """An answer with its question.

    `rows` hold one cell per column; an amount is an exact Decimal, a share a ratio or None where the whole is 0.
    `cost_usd` of a row is the sum of the costs that are known; `unknown_calls` beside it says how many are not.
    `totals` are by name, an amount under each name that ends in `_usd` or
    begins with `usd_per_` (None: not known). `complete_to` is the time up
    to which every closed call is in the ledger, where that is known. `empty` says why there are no rows. `notes` are
    what the report itself says in sentences, `source` is what it was added up from, `parts` are its further tables.
    """

    title: str
    query: Query
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: Mapping[str, int | float | Decimal | None]
    complete_to: datetime | None = None
    empty: Empty | None = None
    notes: tuple[str, ...] = ()
    source: Source | None = None
    parts: tuple[Part, ...] = ()
    form: Form = SPEND

    @property
    def command(self) -> str:
        """The shell command that asks the same again."""
        return self.query.command(self.form)

    def document(self) -> dict[str, Any]:
        """The JSON document, in the shape that stays (see INTERFACE): amounts as text with 12 places."""
        return {
            "report": self.query.report,
            "title": self.title,
            **self.query.head(),
            "rows": _rows(self.columns, self.rows),
            **{name: _plain(value) for name, value in self.totals.items()},
            "complete_to": instant(self.complete_to) if self.complete_to else None,
            "empty": self.empty,
            "notes": list(self.notes),
            "source": self.source,
            "parts": {
                part.name: {
                    "title": part.title,
                    "rows": _rows(part.columns, part.rows),
                    "totals": {name: _plain(value) for name, value in part.totals.items()},
                    "columns": _described(part.columns),
                }
                for part in self.parts
            },
            "columns": _described(self.columns),
            "totals": list(self.totals),
            "command": self.command,
        }

    def to_json(self) -> str:
        return msgspec.json.encode(self.document()).decode()

    def to_csv(self) -> str:
        """A head and one line per row, quoted as in RFC 4180 and ended by LF, the numbers as in JSON; no total.

        A text that a spreadsheet would run as a formula gets an apostrophe before it; JSON has it as it is.
        """
        return csv_of(self.columns, self.rows)

    def to_text(self, width: int | None = None) -> str:
        """For people; see `show_text`."""
        from costbearer.reports.show_text import text

        return text(self, width)

    def to_markdown(self) -> str:
        """For a page or a message; see `show_markdown`."""
        from costbearer.reports.show_markdown import markdown

        return markdown(self)

    def to_xlsx(self) -> bytes:
        """A workbook; see `show_xlsx`."""
        from costbearer.reports.show_xlsx import workbook

        return workbook(self)

    def remarks(self) -> list[str]:
        """What a reader must know of the numbers: what is not known, what is estimated, and the report's own notes."""
        totals = self.totals
        remarks = []
        unknown, bound = totals.get("unknown_calls"), totals.get("unknown_bound_usd")
        if unknown:
            most = f"at most {money.display(bound)}" if isinstance(bound, Decimal) else "without a bound"
            remarks.append(f"{calls(unknown)} whose cost is not known, {most}, not in the total.")
        before = totals.get("previous_unknown_calls")
        if before:
            remarks.append(f"{calls(before)} of the period compared with whose cost is not known.")
        estimated, amount = totals.get("estimated_calls"), totals.get("estimated_usd")
        if estimated and isinstance(amount, Decimal):
            remarks.append(f"{calls(estimated)} whose cost is estimated, {money.display(amount)} of the total.")
        return [*remarks, *self.notes]


def csv_of(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> str:
    """`Table.to_csv` of any rows."""
    lines = [[harmless(column.name) for column in columns]]
    for row in rows:
        cells = zip(columns, row, strict=True)
        lines.append(
            [
                harmless("" if cell is None else str(cell)) if column.kind in TEXTS else exact(cell)
                for column, cell in cells
            ]
        )
    return "".join(",".join(map(csv_quoted, line)) + "\n" for line in lines)


def total_row(columns: Sequence[Column], totals: Mapping[str, Any]) -> dict[str, Cell]:
    """The foot: `total_usd` stands under `cost_usd`, the others under their own name; what has none is left out."""
    row: dict[str, Cell] = {}
    whole = totals.get("total_usd", totals.get("cost_usd"))
    for column in columns:
        if column.kind in TEXTS:
            continue
        if column.name == "share" and column.kind == "share":
            row[column.name] = money.share(whole, whole) if isinstance(whole, Decimal) else None
        elif column.name == "cost_usd" and "total_usd" in totals:
            row[column.name] = totals["total_usd"]
        elif column.name in totals:
            row[column.name] = totals[column.name]
    return row


def shown_row(columns: Sequence[Column], cells: Mapping[str, Cell]) -> list[str]:
    """The cells as people read them, of the columns that have a title; blank where there is none."""
    found = []
    for column in columns:
        if not column.title:
            continue
        if column.name not in cells:
            found.append("")
            continue
        cell = cells[column.name]
        nothing_known = any(cells.get(all_) and cells[all_] == cells.get(lost) for all_, lost in column.unknown_of)
        if nothing_known and (column.kind == "delta" or not cell):
            found.append(money.display(None) if column.kind in {"usd", "delta"} else "-")
        else:
            found.append(shown_cell(cell, column.kind))
    return found


def shown_cell(cell: Cell, kind: Kind) -> str:
    """One cell as people read it."""
    if isinstance(cell, Decimal):
        sign = "+" if kind in {"delta", "moved"} and cell > 0 else ""
        shown = {"unit": money.brief, "moved": money.brief, "price": money.display_price}.get(kind, money.display)
        return sign + shown(cell)
    if cell is None:
        return money.display(None) if kind in {"usd", "delta"} else "-"
    if isinstance(cell, float):
        size = f"{cell:.1%}" if cell == 0 or abs(cell) >= 0.001 else f"{'-' if cell < 0 else ''}<0.1%"
        return "+" + size if kind == "change" and cell > 0 else size
    if isinstance(cell, int):
        return f"{cell:,}" + (" ms" if kind == "ms" else "")
    return visible(cell)


def amounts_of(document: Mapping[str, Any], columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
    """The rows of a JSON document as cells again.

    Raises:
        KeyError, TypeError, AmountInvalid: the document is not one of these columns.
    """
    return tuple(tuple(_cell(row[column.name], column.kind) for column in columns) for row in document["rows"])


def columns_of(described: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """The columns as a document describes them."""
    return tuple(
        Column(each["name"], each["title"], each["kind"], tuple((pair[0], pair[1]) for pair in each["unknown_of"]))
        for each in described
    )


def total_of(name: str, value: Any) -> int | float | Decimal | None:
    """A total of a JSON document."""
    if (name.endswith("_usd") or name.startswith("usd_per_")) and value is not None:
        return money.usd_sum(value)
    count: int | float | None = value
    return count


def visible(text: str) -> str:
    """The text with every character that does not print written as an escape: no terminal is steered by a bucket."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def exact(cell: Cell) -> str:
    """A number with all of its digits; nothing where there is none."""
    return "" if cell is None else str(_plain(cell))


def csv_quoted(text: str) -> str:
    """The csv module leaves a lone CR bare, which readers then take for the end of the line."""
    return '"' + text.replace('"', '""') + '"' if _CSV_SPECIAL.search(text) else text


def calls(count: float | Decimal) -> str:
    """`1 call`, `2,000 calls`."""
    return f"{count:,} call{'' if count == 1 else 's'}"


def _cell(value: Any, kind: Kind) -> Cell:
    if kind in AMOUNTS and value is not None:
        return money.usd_sum(value)
    cell: Cell = value
    return cell


def _plain(cell: Cell) -> str | int | float | None:
    return money.text(cell) if isinstance(cell, Decimal) else cell


def _rows(columns: Sequence[Column], rows: Sequence[tuple[Cell, ...]]) -> list[dict[str, Any]]:
    names = [column.name for column in columns]
    return [{name: _plain(cell) for name, cell in zip(names, row, strict=True)} for row in rows]


def _described(columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [column._asdict() for column in columns]
