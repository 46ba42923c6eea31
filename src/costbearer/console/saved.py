"""Saved views as text: checked like any address, written as TOML for a repository, and compared with what is kept."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode

from costbearer.console.pages.overview import PATH as OVERVIEW
from costbearer.console.pages.overview import TAKES
from costbearer.console.pages.screens import SCREENS
from costbearer.errors import FieldInvalid, QueryInvalid
from costbearer.reports import question
from costbearer.reports.periods import ZONE_UTC, Zone
from costbearer.stores.views import SavedView
from costbearer.toml_text import parsed

NAME_CHARS_MAX = 80
DESCRIPTION_CHARS_MAX = 500
VIEWS_MAX = 1000
FILE_BYTES_MAX = 1024 * 1024
PAGES = ("/", *SCREENS)

_BARE = re.compile(r"[A-Za-z0-9_-]+")

Action = Literal["new", "changed", "same", "gone"]


class Draft(NamedTuple):
    """A view to be kept. `parameters` is the query string of its page."""

    name: str
    page: str
    parameters: str
    description: str = ""


class Difference(NamedTuple):
    """What a file says otherwise than what is kept; `before` and `after` are addresses."""

    action: Action
    name: str
    before: str
    after: str


def draft(
    name: object, page: object, parameters: object, description: object, now: datetime, home: Zone = ZONE_UTC
) -> Draft:
    """A view that can be opened.

    Raises:
        FieldInvalid: naming every faulty field; a question that cannot be asked is named by its parameters.
    """
    faults: dict[str, str] = {}
    for field, value, most in (("name", name, NAME_CHARS_MAX), ("description", description, DESCRIPTION_CHARS_MAX)):
        least = 1 if field == "name" else 0
        if not isinstance(value, str) or not least <= len(value.strip()) <= most or not value.isprintable():
            faults[field] = f"must be a text of {least} to {most} printable characters"
    if page not in PAGES:
        faults["page"] = f"is one of {', '.join(PAGES)}"
    if not isinstance(parameters, str):
        faults["parameters"] = "must be the query string of an address"
    elif "page" not in faults:
        faults |= _unusable(str(page), parameters, now, home)
    if faults:
        raise FieldInvalid(faults)
    return Draft(str(name).strip(), str(page), str(parameters), str(description).strip())


def _unusable(page: str, parameters: str, now: datetime, home: Zone) -> dict[str, str]:
    pairs = parse_qsl(parameters, keep_blank_values=True)
    if page == "/":
        return {name[:60]: f"not a parameter of {OVERVIEW[1:]}" for name, _ in pairs if name not in TAKES}
    try:
        screen = SCREENS[page]
        given = {name for name, _ in pairs}
        usual = [(name, text) for name, text in screen.asked.items() if name not in given]
        question(screen.report, [*usual, *pairs], now=now, home=home)
    except QueryInvalid as error:
        return error.fields
    return {}


def address_of(view: SavedView | Draft) -> str:
    """Where it leads."""
    return f"{view.page}?{view.parameters}" if view.parameters else view.page


def dumps(views: Iterable[SavedView]) -> str:
    """The views as TOML, in the order of their names: the same views are the same text."""
    blocks = []
    for view in views:
        lines = ["[[views]]", f"name = {_text(view.name)}", f"page = {_text(view.page)}"]
        lines += [f"description = {_text(view.description)}"] if view.description else []
        asked: dict[str, list[str]] = {}
        for name, value in parse_qsl(view.parameters, keep_blank_values=True):
            asked.setdefault(name, []).append(value)
        if asked:
            lines.append("[views.ask]")
        for name, values in asked.items():
            written = [_text(value) for value in values]
            key = name if _BARE.fullmatch(name) else _text(name)
            lines.append(f"{key} = {written[0] if len(written) == 1 else '[' + ', '.join(written) + ']'}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def loads(text: str, now: datetime, home: Zone = ZONE_UTC) -> list[Draft]:
    """The views of a TOML file.

    Raises:
        FieldInvalid: it is not such a file; every faulty view is named.
    """
    try:
        given = parsed(text)
    except tomllib.TOMLDecodeError as error:
        raise FieldInvalid({"views": f"not TOML: {error}"}) from None
    rows = given.get("views", [])
    if set(given) - {"views"} or not isinstance(rows, list) or len(rows) > VIEWS_MAX:
        raise FieldInvalid({"views": f"must be [[views]] tables and nothing else, at most {VIEWS_MAX}"})
    faults: dict[str, str] = {}
    found: dict[str, Draft] = {}
    for number, row in enumerate(rows, 1):
        place = f"view {number}"
        if not isinstance(row, dict) or set(row) - {"name", "page", "description", "ask"}:
            faults[place] = "has name, page, description and a table ask, and nothing else"
            continue
        try:
            pairs = _asked(row.get("ask", {}))
            made = draft(row.get("name"), row.get("page"), urlencode(pairs), row.get("description", ""), now, home)
        except FieldInvalid as error:
            faults[place] = "; ".join(f"{name}: {words}" for name, words in error.fields.items())
            continue
        if made.name in found:
            faults[place] = f"the name {made.name!r} stands twice"
        found[made.name] = made
    if faults:
        raise FieldInvalid(faults)
    return list(found.values())


def _asked(given: object) -> list[tuple[str, str]]:
    if not isinstance(given, dict):
        raise FieldInvalid({"ask": "must be a table of parameters"})
    pairs = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in values):
            raise FieldInvalid({f"ask.{name}": "must be a text, or a list of texts"})
        pairs += [(name, each) for each in values]
    return pairs


def difference(held: Sequence[SavedView], wanted: Sequence[Draft]) -> list[Difference]:
    """What applying a file changes. A view that the file does not name is `gone`: it is removed only on request."""
    kept = {view.name: view for view in held}
    found = []
    for each in wanted:
        own = kept.pop(each.name, None)
        before = "" if own is None else address_of(own)
        same = own is not None and (own.page, own.parameters, own.description) == each[1:]
        action: Action = "new" if own is None else "same" if same else "changed"
        found.append(Difference(action, each.name, before, address_of(each)))
    return found + [Difference("gone", name, address_of(view), "") for name, view in kept.items()]


def _text(value: str) -> str:
    """A TOML basic string; its escapes are those of JSON, and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
