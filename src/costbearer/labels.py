"""The four labels of a key, and what does not count as one: blanks, placeholders, invisible characters. Pure.

The control store's CHECK constraints are generated from the constants here, so that the database refuses what the
doors refuse. The doors see a little more: they fold case and width by Unicode, the database only ASCII.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import msgspec

from costbearer.errors import FieldInvalid
from costbearer.ledger import LABELS

LABEL_CHARS_MAX = 128
"""Longest label: a name for people and a column in reports, not a description."""

OPTIONS: tuple[str, ...] = ("name", "env", "project", "cost_center")
"""Texts a key may carry beside its labels. They may be left out, but not be blank."""

REQUIRE_PRICE = "price"
"""What a key can require beside fields: that a call whose price is not known is refused."""

# fmt: off
PLACEHOLDERS: frozenset[str] = frozenset([
    "na", "none", "null", "nil", "undefined", "nan", "empty", "blank", "missing", "unset", "notset", "notapplicable",
    "notavailable", "notassigned", "notdefined", "notknown", "noone", "nobody", "nothing", "noowner", "noteam",
    "unknown", "unassigned", "unallocated", "unattributed", "unowned", "unnamed", "untitled", "anonymous", "default",
    "test", "todo", "tbd", "tba", "tbc", "fixme", "changeme", "replaceme", "placeholder", "dummy", "temp", "tmp",
    "foobar", "asdf", "x", "xx", "xxx", "xxxx", "xxxxx", "yourowner", "yourteam", "youragent", "yourworkload",
])
# fmt: on
"""Words that say nobody thought about it, as `folded` leaves them: no case, no punctuation, no spaces.

`(none)` is the reports' bucket for the missing value and is refused by the same entry as `none`.
"""

BLANKS = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Every character that Unicode counts as white space."""

INVISIBLES = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u2800\u3164\ufeff\uffa0"
)
"""Characters that print as nothing: two labels that differ only in these look the same in every report."""

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""ASCII punctuation, as the database strips it from both ends."""

INNER_PUNCTUATION = " ./\\-_:'"
"""What people put inside a placeholder (n/a, t.b.d., to do, not-set) and the database takes out of it."""


class Labels(msgspec.Struct, frozen=True, gc=False):
    """Who bears the cost: each a text of 1 to `LABEL_CHARS_MAX` characters that is not a placeholder."""

    owner: str
    team: str
    agent: str
    workload: str


def folded(text: str) -> str:
    """The text without case, width, punctuation, symbols and spaces: what is compared with `PLACEHOLDERS`."""
    wide = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in wide if unicodedata.category(character)[0] in "LNM")


def is_blank(text: str) -> bool:
    """True for a text that shows nothing: empty, white space, zero-width or control characters only."""
    return all(
        character in BLANKS or character in INVISIBLES or unicodedata.category(character)[0] in "CZ"
        for character in text
    )


def fault(value: object, *, placeholders: bool = True) -> str | None:
    """What is wrong with one text, in words that follow the field's name; None for a sound one.

    `placeholders` False is for fields in which `test` or `default` is a true answer (a name, an environment); the
    reports' own `(none)` stays reserved there as well.
    """
    if value is None:
        return "missing"
    if not isinstance(value, str):
        return "must be a text"
    if is_blank(value):
        return "blank"
    text = value.strip(BLANKS)
    if len(text) > LABEL_CHARS_MAX:
        return f"longer than {LABEL_CHARS_MAX} characters"
    for character in text:
        if character in INVISIBLES or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            return f"holds the control or invisible character U+{ord(character):04X}"
    bare = folded(text)
    if text.casefold() == "(none)" or (placeholders and bare in PLACEHOLDERS):
        return f"{text!r} is a placeholder, not a name"
    return None if bare else f"{text!r} holds no letter or digit"


def cleaned(value: str) -> str:
    """A sound text as it is kept: no white space around it, one form for one look (NFC)."""
    return unicodedata.normalize("NFC", value.strip(BLANKS))


def label_faults(given: Mapping[str, object]) -> dict[str, str]:
    """Every faulty label of the four, missing ones included."""
    found = {name: fault(given.get(name)) for name in LABELS}
    return {name: words for name, words in found.items() if words is not None}


def option_faults(given: Mapping[str, object]) -> dict[str, str]:
    """Every faulty text among those of `OPTIONS` that are given; None counts as left out."""
    found = {
        name: fault(given[name], placeholders=name in {"project", "cost_center"})
        for name in OPTIONS
        if given.get(name) is not None
    }
    return {name: words for name, words in found.items() if words is not None}


def check_labels(given: Mapping[str, object]) -> Labels:
    """The four labels, cleaned.

    Raises:
        FieldInvalid: naming every label that is missing, blank, a placeholder, too long, unprintable or not a text, and
            every faulty text of `OPTIONS` that came with them.
    """
    faults = label_faults(given) | option_faults(given)
    if faults:
        raise FieldInvalid(faults)
    return Labels(*(cleaned(str(given[name])) for name in LABELS))
