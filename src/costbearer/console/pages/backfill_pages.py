"""Spend that came before the labels: the worklist, labelling a key's past, a virtual key in the place of an old one.

What labelling moves is shown, month by month, before anything is posted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from costbearer import money
from costbearer.console.pages import grids, shell
from costbearer.console.pages.forms_of import Form, Posted, actor
from costbearer.console.pages.key_pages import LIVES
from costbearer.console.pages.labels_of import NEW, chosen, names_of
from costbearer.console.pages.links import address
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.snippets import snippets
from costbearer.errors import FieldInvalid, NotFound
from costbearer.ledger import LABELS
from costbearer.reports.table import Cell, Column, csv_of, shown_cell

PATH = "/backfill"
COLUMNS = (
    Column("rank", "rank", "count"),
    Column("key", "key", "bucket"),
    Column("provider", "provider", "bucket"),
    Column("calls", "calls", "count"),
    Column("cost_usd", "cost", "usd", (("calls", "unknown_calls"),)),
    Column("share", "share", "share"),
    Column("cumulative_share", "cumulative", "share"),
    Column("unknown_calls", "unknown\ncalls", "count"),
    Column("last", "last use", "text"),
    Column("do", "to do", "text"),
    Column("replaced_by", "replaced by", "text"),
)


def backfill_router(parts: Parts) -> APIRouter:
    """The worklist, and what can be done about a key of it."""
    router = APIRouter(include_in_schema=False)

    @router.get(PATH)
    def listed(request: Request) -> Response:
        found = parts.backfill.listed()
        share = found["unattributed_share"]
        return shell.page(
            request,
            "backfill.html",
            title="Backfill",
            grid=grids.listing("backfill", "Keys whose spend nobody wholly bears", COLUMNS, _rows(found), _links),
            keys=found["keys"],
            unattributed=money.usd_sum(found["unattributed_usd"]),
            total=money.usd_sum(found["total_usd"]),
            share=shown_cell(share, "share"),
            zone=parts.home.name,
            complete_to=parts.progress().complete_to,
            open_calls=parts.progress().open_calls,
        )

    @router.get(f"{PATH}.csv")
    def as_csv() -> Response:
        return Response(csv_of(COLUMNS, _rows(parts.backfill.listed())), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}.json")
    def as_json() -> dict[str, Any]:
        return parts.backfill.listed()

    @router.get(f"{PATH}/key")
    def one(request: Request, key: str) -> Response:
        return _page(request, parts, key, {})

    @router.post(f"{PATH}/label")
    async def label(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_label, request, parts, posted)

    @router.post(f"{PATH}/rotate")
    async def rotate(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_rotate, request, parts, posted)

    return router


def _rows(found: Mapping[str, Any]) -> list[grids.Row]:
    def cell(row: Mapping[str, Any], column: Column) -> Cell:
        value: Cell = row[column.name]
        if column.kind != "usd" or value is None or isinstance(value, float):
            return value
        return money.usd_sum(value)

    return [tuple(cell(row, column) for column in COLUMNS) for row in found["rows"]]


def _links(cells: Mapping[str, Cell]) -> dict[str, str]:
    key = str(cells["key"])
    behind = address("/entries", [("where", f"key={key}"), ("since", "1970-01-01")])
    found = {"key": address(f"{PATH}/key", [("key", key)]), "cost_usd": behind, "calls": behind}
    return found | ({"replaced_by": f"/keys/{cells['replaced_by']}"} if cells["replaced_by"] else {})


def _page(
    request: Request,
    parts: Parts,
    key: str,
    faults: Mapping[str, str],
    given: Mapping[str, str] | None = None,
    moved: Mapping[str, Any] | None = None,
) -> Response:
    row = next((row for row in parts.backfill.listed()["rows"] if row["key"] == key), None)
    if row is None and moved is None:
        raise NotFound(f"no call of key {key[:60]!r} lacks a label; it may have been labelled meanwhile")
    return shell.page(
        request,
        "backfill_key.html",
        422 if faults else 200,
        title=f"Key {key[:60]}",
        key=key,
        row=row,
        faults=faults,
        given=given or {},
        moved=moved,
        labels=LABELS,
        new=NEW,
        names=names_of(parts),
        lives=LIVES,
        entries=address("/entries", [("where", f"key={key}"), ("since", "1970-01-01")]),
    )


def _label(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only("key", *LABELS, *(label + NEW for label in LABELS), "from", "apply")
    key = posted.texts.get("key", "")
    labels, faults = chosen(posted, names_of(parts))
    if not faults:
        fields: dict[str, object] = {"key": key, **labels, "apply": posted.text("apply") == "yes"}
        fields |= {"from": posted.text("from")} if posted.text("from") else {}
        try:
            moved = parts.backfill.label(fields, actor(request))
        except FieldInvalid as error:
            faults = error.fields
        else:
            return _page(request, parts, key, {}, posted.texts, moved)
    return _page(request, parts, key, faults, posted.texts)


def _rotate(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only("key", *LABELS, *(label + NEW for label in LABELS), "expires")
    key = posted.texts.get("key", "")
    labels, faults = chosen(posted, names_of(parts))
    if not faults:
        try:
            made = parts.backfill.rotate(
                {"keys": [{"key": key, **labels}], "expires": posted.text("expires")}, actor(request)
            )
        except FieldInvalid as error:
            faults = error.fields
        else:
            (issued,) = made["keys"]
            url = parts.config.gateway_url
            return shell.page(
                request,
                "issued.html",
                201,
                title="Key issued",
                what=f"issued in the place of {key[:60]}",
                key=issued["key"],
                record=issued,
                labels=LABELS,
                previous_until=None,
                gateway_url=url,
                snippets=snippets(url),
            )
    return _page(request, parts, key, faults, posted.texts)
