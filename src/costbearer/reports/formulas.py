"""Texts in files that spreadsheets open: none of them becomes a formula, and each can be read back as it was.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@`, be it after white space or in the wide forms of East
Asian type. Where it splits lines at another mark than the comma, as in most of Europe, a cell may begin in the midst
of a text. So an apostrophe, which spreadsheets take for "this is text", goes before whatever could begin one.
"""

from __future__ import annotations

import re

_STARTS = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"
"""What begins a formula: the four, their full-width and their small forms."""

_PASSED = r"[\s'\x00-\x1f\u200b-\u200f\u2060\ufeff]*"
"""What is not seen before it; apostrophes too, so that one more can be told from those of the text."""

_CELL = r'(?:\A|(?<=[,;|"\t\r\n]))'
"""Where a cell may begin: at the front, and after marks that some reader takes for the end of one."""

_RISKY = re.compile(rf"{_CELL}(?={_PASSED}[{_STARTS}])|\A(?='*[\t\r\n])")
_MARKED = re.compile(rf"{_CELL}'(?={_PASSED}[{_STARTS}])|\A'(?='*[\t\r\n])")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?", re.ASCII)


def harmless(text: str) -> str:
    """The text so that no spreadsheet takes it, or a part of it, for a formula."""
    return _RISKY.sub("'", text)


def harmless_cell(cell: object) -> str:
    """A cell of a table whose columns are not told apart: a number as it stands, None as nothing, a text harmless."""
    if cell is None:
        return ""
    text = str(cell)
    return text if _NUMBER.fullmatch(text) else harmless(text)


def as_written(text: str) -> str:
    """The text that `harmless` was given."""
    return _MARKED.sub("", text)
