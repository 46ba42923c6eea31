"""Business figures: how much of something there was on a day, by label, so that a cost can be divided by it. Pure.

A figure has a name (`orders`) and lines of date, amount and label, as a table with those three columns holds them. The
label is a value of the dimension that a report groups by (a customer's name, say); without one a line is for all.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from costbearer.errors import InputInvalid

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
RESERVED = frozenset(
    {"request", "session", "trace", "user", "requests", "sessions", "traces", "users"}
    | {"calls", "cost_usd", "share", "unknown_calls"}
)
"""Units that the ledger counts itself, and what stands beside a figure in a report."""
LINES_MAX = 1_000_000
ROWS_MAX = 10_000
"""Lines of a figure, or rows of the ownership map, in one request to the API."""
LABEL_CHARACTERS_MAX = 1024
_DIGITS_MAX = 30
_COLUMNS = ("date", "amount", "label")


class Figure(NamedTuple):
    """One line: how much of it there was on a day, for a label or for everybody ("")."""

    day: date
    amount: Decimal
    label: str


def checked_name(name: str) -> str:
    """A figure's name.

    Raises:
        InputInvalid: it is none, or one of a unit that the ledger counts itself.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        raise InputInvalid(
            f"{name[:80]!r} cannot name a business figure: a letter, then letters, digits, _ . -, at most 64, and none "
            f"of {', '.join(sorted(RESERVED))}"
        )
    return name


def read(text: str, place: str) -> list[Figure]:
    """The lines of a CSV table with the columns date, amount and label (which may be left out).

    Raises:
        InputInvalid: it is no such table; the message names the line.
    """
    try:
        return _table(csv.DictReader(io.StringIO(text)), place)
    except csv.Error as error:
        raise InputInvalid(f"{place}: not CSV: {error}") from None


def _table(rows: csv.DictReader[str], place: str) -> list[Figure]:
    names = [name.strip().lower() for name in rows.fieldnames or ()]
    wrong = sorted(set(names) - set(_COLUMNS))
    if wrong or not {"date", "amount"} <= set(names) or len(names) > len(set(names)):
        raise InputInvalid(f"{place}: its first line must be date,amount,label; it is {','.join(names)[:80]!r}")
    rows.fieldnames = names
    return lines((row for row in rows if any(row.values())), place)


def lines(rows: Iterable[Mapping[str, object]], place: str) -> list[Figure]:
    """Lines given as date, amount and label.

    Raises:
        InputInvalid: one cannot be used, or says for a day and label what another one says.
    """
    found: list[Figure] = []
    seen: set[tuple[date, str]] = set()
    for number, row in enumerate(rows, 1):
        where = f"{place}, row {number}"
        line = _line(row, where)
        if (line.day, line.label) in seen:
            raise InputInvalid(f"{where}: there is a line for {line.day} and {line.label or 'no label'} before it")
        seen.add((line.day, line.label))
        found.append(line)
        if len(found) > LINES_MAX:
            raise InputInvalid(f"{place}: more than {LINES_MAX:,} lines")
    return found


def _line(row: Mapping[str, object], where: str) -> Figure:
    if None in row:
        raise InputInvalid(f"{where}: it has more cells than there are columns")
    day, amount, label = (str(row.get(name) or "").strip() for name in _COLUMNS)
    try:
        when = date.fromisoformat(day)
    except ValueError:
        raise InputInvalid(f"{where}: date: {day[:40]!r} is not a day such as 2026-11-01") from None
    try:
        size = Decimal(amount)
        if not size.is_finite() or size < 0 or len(amount) > _DIGITS_MAX or "e" in amount.lower():
            raise InvalidOperation
    except InvalidOperation:
        raise InputInvalid(
            f"{where}: amount: {amount[:40]!r} is not a number of 0 or more such as 1250 or 3.5"
        ) from None
    if len(label) > LABEL_CHARACTERS_MAX:
        raise InputInvalid(f"{where}: label: it has more than {LABEL_CHARACTERS_MAX} characters")
    return Figure(when, size, label)


def document(name: str, lines: Sequence[Figure]) -> dict[str, Any]:
    """A figure as JSON: amounts are decimal text."""
    rows = [{"date": line.day.isoformat(), "amount": format(line.amount, "f"), "label": line.label} for line in lines]
    return {"figure": name, "lines": rows}
