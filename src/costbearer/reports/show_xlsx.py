"""A table as an XLSX workbook: a sheet per table, and one that says what the file is.

A cell of a workbook is a binary float of about 15 digits. So every amount has two columns: a number to calculate with,
and beside it the exact amount as text. Names are written as texts, never as formulas or links. The same table gives the
same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import xlsxwriter

from costbearer import money
from costbearer.reports.periods import instant
from costbearer.reports.table import AMOUNTS, EMPTY, TEXTS, Cell, Column, Part, Table, total_row, visible

_CELL_CHARACTERS_MAX = 32_767
_SHEET_NAME_MAX = 31
_SHEET_NAME = re.compile(r"[\[\]:*?/\\']")
_FORMATS = {
    "usd": "$#,##0.00####",
    "delta": "+$#,##0.00####;-$#,##0.00####;$0.00",
    "unit": "$#,##0.00####",
    "share": "0.0%",
    "change": "+0.0%;-0.0%;0.0%",
    "part": "$#,##0.00####",
    "moved": "+$#,##0.00####;-$#,##0.00####;$0.00",
    "price": "$#,##0.00##########",
    "count": "#,##0",
    "ms": "#,##0",
}
_NEVER = datetime(1980, 1, 1)  # noqa: DTZ001  a file says when it was made; the same answer is to be the same file
_NUMBER_LIMIT = 10**15


def workbook(table: Table) -> bytes:
    """The whole answer as a file."""
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(
        buffer, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    )
    book.set_properties({"title": visible(table.title)[:255], "created": _NEVER})
    bold = book.add_format({"bold": True})
    formats = {kind: book.add_format({"num_format": code}) for kind, code in _FORMATS.items()}
    main = Part(table.query.report, table.title, table.columns, table.rows, table.totals)
    used: set[str] = {"about this file"}
    for part in (main, *table.parts):
        _sheet(book, part, _sheet_name(part.name, used), bold, formats)
    _about(book, table, bold)
    book.close()
    return buffer.getvalue()


def _sheet(book: Any, part: Part, name: str, bold: Any, formats: Mapping[str, Any]) -> None:
    sheet = book.add_worksheet(name)
    place = 0
    for column in part.columns:
        sheet.write_string(0, place, _text(column.name), bold)
        width = max([len(column.name), *(len(_text(row[part.columns.index(column)])) for row in part.rows[:200])])
        sheet.set_column(place, place, min(max(width + 2, 10), 60))
        place += 1
        if column.kind in AMOUNTS:
            sheet.write_string(0, place, f"{column.name} (exact)", bold)
            sheet.set_column(place, place, 24)
            place += 1
    for number, row in enumerate(part.rows, 1):
        _line(sheet, number, part.columns, dict(zip((c.name for c in part.columns), row, strict=True)), formats)
    totals = total_row(part.columns, part.totals)
    if totals:
        last = len(part.rows) + 1
        if part.columns[0].kind in TEXTS:
            sheet.write_string(last, 0, "total", bold)
        _line(sheet, last, part.columns, totals, formats)
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, max(len(part.rows), 1), place - 1)


def _line(
    sheet: Any, number: int, columns: Sequence[Column], cells: Mapping[str, Cell], formats: Mapping[str, Any]
) -> None:
    place = -1
    for column in columns:
        place += 1
        cell = cells.get(column.name)
        if column.kind in AMOUNTS:
            place += 1
        if column.name not in cells or cell is None:
            continue
        if isinstance(cell, Decimal):
            sheet.write_number(number, place - 1, float(cell), formats[column.kind])
            sheet.write_string(number, place, money.text(cell))
        elif isinstance(cell, str):
            sheet.write_string(number, place, _text(cell))
        elif isinstance(cell, int) and abs(cell) >= _NUMBER_LIMIT:
            sheet.write_string(number, place, str(cell))
        else:
            sheet.write_number(number, place, cell, formats.get(column.kind))


def _about(book: Any, table: Table, bold: Any) -> None:
    sheet = book.add_worksheet("about this file")
    query = table.query
    lines = [
        ("title", table.title),
        ("since", instant(query.period.since)),
        ("until (excluded)", instant(query.period.until)),
        *([("compared with", str(query.compare))] if query.compare else []),
        *(("where", f"{name} = {' or '.join(values)}") for name, values in query.where),
        ("time zone", query.zone.name),
        ("currency", "USD; columns named (exact) hold every digit as text"),
        ("complete to", instant(table.complete_to) if table.complete_to else ""),
        ("command", table.command),
        *([("empty", EMPTY[table.empty])] if table.empty else []),
        *(("remark", remark) for remark in table.remarks()),
    ]
    sheet.set_column(0, 0, 18)
    sheet.set_column(1, 1, 100)
    for number, (name, value) in enumerate(lines):
        sheet.write_string(number, 0, name, bold)
        sheet.write_string(number, 1, _text(value))


def _text(cell: Cell) -> str:
    """A text that any reader of the format takes; one that is too long for a cell is cut, and says so."""
    text = "" if cell is None else visible(str(cell))
    return text if len(text) <= _CELL_CHARACTERS_MAX else text[: _CELL_CHARACTERS_MAX - 6] + " (cut)"


def _sheet_name(name: str, used: set[str]) -> str:
    base = _SHEET_NAME.sub("_", name)[:_SHEET_NAME_MAX] or "report"
    found, number = base, 1
    while found.lower() in used:
        number += 1
        suffix = f" {number}"
        found = base[: _SHEET_NAME_MAX - len(suffix)] + suffix
    used.add(found.lower())
    return found
