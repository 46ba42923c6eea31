"""The search field: an id leads to its page at once, a name to where it stands in the labels."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from costbearer.console.pages import shell
from costbearer.console.pages.links import address, one
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.report_pages import tables_of
from costbearer.errors import NotFound
from costbearer.keys import reference
from costbearer.reports import answer, question
from costbearer.reports.dimensions import NONE, REST
from costbearer.reports.query import Query, Reader
from costbearer.reports.table import Cell, Column, Table, csv_of, shown_cell

NAMES = ("owner", "team", "agent", "workload", "key", "model", "customer", "feature")
"""Dimensions whose values are searched, of the last quarter."""
SINCE = "100d"
HITS_MAX = 50
_IDS: Mapping[str, str] = {"receipt": "/receipt", "request": "/request", "trace": "/trace", "session": "/session"}


class Hit(NamedTuple):
    """A value that was found, what it cost in that time, and where it leads."""

    dimension: str
    value: str
    cost: str
    href: str


def find_router(parts: Parts) -> APIRouter:
    """`/find` and `/help`."""
    router = APIRouter(include_in_schema=False)

    def found(q: str) -> tuple[str, str | None, list[Hit]]:
        # Of a key that was pasted whole only what is not secret is looked for and shown.
        text = reference(q) or q.strip()[:200]
        if not text or not text.isprintable():
            return text, None, []
        if reference(text):
            with contextlib.suppress(NotFound):
                return text, f"/keys/{parts.control.get(text).key_id}", []
        others = parts.beside()
        with parts.open_reader() as reader:
            place = _identified(reader, text, parts, others)
            return text, place, [] if place else _named(reader, text, parts, others)

    @router.get("/find.json")
    def as_json(q: str = "") -> dict[str, Any]:
        _, place, hits = found(q)
        return {"id": place, "names": [hit._asdict() for hit in hits]}

    @router.get("/find.csv")
    def as_csv(q: str = "") -> Response:
        columns = tuple(Column(name, name, "text") for name in Hit._fields)
        return Response(csv_of(columns, found(q)[2]), media_type="text/csv; charset=utf-8")

    @router.get("/find")
    def find(request: Request, q: str = "") -> Response:
        text, place, hits = found(q)
        if place:
            return RedirectResponse(place, 303)
        return shell.page(request, "find.html", title="Find", text=text, hits=hits[:HITS_MAX], since=SINCE)

    @router.get("/help")
    def help_(request: Request) -> Response:
        return shell.page(request, "help.html", title="Help")

    return router


def _identified(reader: Reader, text: str, parts: Parts, others: Any) -> str | None:
    """The page of whatever has this id."""
    for name, path in _IDS.items():
        try:
            answer(question(name, [("id", text)], now=parts.now(), home=parts.home), reader, others)
        except NotFound:
            continue
        return one(path, text)
    return None


def _named(reader: Reader, text: str, parts: Parts, others: Any) -> list[Hit]:
    """Values that contain the text, whatever its case, the dearest first in each dimension."""

    def ask(name: str) -> Query:
        pairs = [("by", name), ("since", SINCE), ("limit", "10000")]
        return question("spend", pairs, now=parts.now(), home=parts.home)

    hits = []
    for name, table in tables_of(reader, others, {name: ask(name) for name in NAMES}).items():
        for row in table.rows:
            value = str(row[0])
            if text.casefold() in value.casefold() and value not in {NONE, REST}:
                pairs = [("by", "day"), ("where", f"{name}={value}"), ("since", SINCE)]
                hits.append(Hit(name, value, shown_cell(_cost(table, row), "usd"), address("/explore", pairs)))
    return hits


def _cost(table: Table, row: tuple[Cell, ...]) -> Cell:
    return row[[column.name for column in table.columns].index("cost_usd")]
