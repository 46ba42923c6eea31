"""TOML that strangers wrote, read within bounds. Pure.

The standard library's reader takes hours and gigabytes for one key of very many parts, and raises errors of four kinds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

KEY_PARTS_MAX = 16
"""Parts of one dotted key, or of one table's name; the deepest of ours has four."""

_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{KEY_PARTS_MAX}}}")


def parsed(text: str, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The document.

    Raises:
        TOMLDecodeError: it is none, or is nested too deep, or a key or a number in it is too long.
    """
    long = _LONG_KEY.search(text)
    if long is not None:
        line = text.count("\n", 0, long.start()) + 1
        raise tomllib.TOMLDecodeError(f"a key of more than {KEY_PARTS_MAX} parts (at line {line})")
    try:
        return tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("it is nested too deep") from None
    except (ValueError, ArithmeticError) as error:
        # A number of thousands of digits, or a date that no calendar has.
        raise tomllib.TOMLDecodeError(str(error)) from None
