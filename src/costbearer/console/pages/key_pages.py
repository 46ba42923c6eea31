"""Keys: the list, one key with what happened to it, and the form that issues one in half a minute.

Nothing here knows another way than `forms` and the control store: what the API refuses, a page refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from costbearer import forms, money
from costbearer.console.pages import grids, shell
from costbearer.console.pages.forms_of import Form, Posted, actor
from costbearer.console.pages.labels_of import NEW, Names, chosen, names_of
from costbearer.console.pages.links import address
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.report_pages import tables_of
from costbearer.console.pages.snippets import snippets
from costbearer.errors import Conflict, FieldInvalid, QueryInvalid
from costbearer.keys import KeyRecord, view
from costbearer.labels import OPTIONS
from costbearer.ledger import LABELS
from costbearer.reports import question
from costbearer.reports.key_use import last_used
from costbearer.reports.periods import instant
from costbearer.reports.table import Cell, Column, csv_of, shown_cell
from costbearer.stores.control import IssuedKey

PATH = "/keys"
FILTERS = (*LABELS, "name", "env", "project", "cost_center", "status", "cursor")
PAGE = 200
LIVES: Mapping[str, str] = {"30d": "30 days", "90d": "90 days", "180d": "180 days", "366d": "a year"}
"""Lives that the form offers; the API takes any."""
OVERLAPS: Mapping[str, str] = {"0": "none: the old one ends now", "1h": "1 hour", "24h": "24 hours", "7d": "7 days"}
COLUMNS = (
    Column("key_id", "key", "bucket"),
    Column("name", "name", "bucket"),
    *(Column(label, label, "bucket") for label in LABELS),
    Column("env", "env", "text"),
    Column("status", "status", "text"),
    Column("expires", "expires", "text"),
    Column("last_used", "last use", "text"),
    Column("month_usd", "this month", "usd"),
)
_DAY_S = 86_400


def keys_router(parts: Parts) -> APIRouter:
    """Every page of keys."""
    router = APIRouter(include_in_schema=False)
    own: Mapping[str, Any] = {"openapi_extra": {"parameters": []}}

    @router.get(PATH, **own)
    def listed(request: Request) -> Response:
        given = _filters(request)
        rows, following = _rows(parts, given)
        return shell.page(
            request,
            "keys.html",
            title="Keys",
            grid=grids.listing("keys", "Keys, the oldest first", COLUMNS, rows, _links),
            given=given,
            names=names_of(parts),
            more=address(PATH, [*given.items(), ("cursor", following)]) if following else "",
            files={each: address(f"{PATH}.{each}", list(given.items())) for each in ("csv", "json")},
            stamp=instant(parts.now()),
            zone=parts.home.name,
        )

    @router.get(f"{PATH}.csv", **own)
    def as_csv(request: Request) -> Response:
        rows, _ = _rows(parts, _filters(request), all_=True)
        return Response(csv_of(COLUMNS, rows), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}.json", **own)
    def as_json(request: Request) -> dict[str, Any]:
        where = {name: value for name, value in _filters(request).items() if name != "cursor"}
        return {"keys": [view(record, parts.now()) for record in _all(parts, where)]}

    @router.get(f"{PATH}/issue", **own)
    def form(request: Request) -> Response:
        known = (*LABELS, *OPTIONS)
        wrong = {
            name[:60]: f"not a field; known are {', '.join(known)}"
            for name in request.query_params
            if name not in known
        }
        if wrong:
            raise QueryInvalid(wrong)
        return _form(request, parts, dict(request.query_params), {})

    @router.post(f"{PATH}/issue")
    async def issue(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_issue, request, parts, posted)

    @router.get(f"{PATH}/{{key_id}}")
    def one(request: Request, key_id: str) -> Response:
        return _page(request, parts, parts.control.get(key_id), {})

    for act, do in (("rotate", _rotate), ("revoke", _revoke), ("relabel", _relabel)):
        router.post(f"{PATH}/{{key_id}}/{act}")(_acting(parts, do))
    return router


def _acting(parts: Parts, do: Any) -> Any:
    async def act(request: Request, key_id: str, posted: Form) -> Response:
        return await run_in_threadpool(do, request, parts, key_id, posted)

    return act


# -- the list


def _filters(request: Request) -> dict[str, str]:
    given = {name: text for name, text in request.query_params.multi_items() if text}
    wrong = {
        name[:60]: f"not a parameter here; known are {', '.join(FILTERS)}" for name in given if name not in FILTERS
    }
    if "status" in given and given["status"] not in {"active", "expired", "revoked"}:
        wrong["status"] = "is one of active, expired, revoked"
    if wrong:
        raise QueryInvalid(wrong)
    return given


def _all(parts: Parts, where: Mapping[str, str]) -> list[KeyRecord]:
    records, following = parts.control.page(where=where)
    while following is not None:
        more, following = parts.control.page(where=where, after=following)
        records += more
    return records


def _rows(parts: Parts, given: Mapping[str, str], *, all_: bool = False) -> tuple[list[grids.Row], str | None]:
    where = {name: value for name, value in given.items() if name != "cursor"}
    following: str | None = None
    if all_:
        records = _all(parts, where)
    else:
        records, following = parts.control.page(where=where, after=given.get("cursor"), limit=PAGE)
    now, ids = parts.now(), [record.key_id for record in records]
    used, spent = _use(parts, ids)
    return [_row(record, used.get(record.key_id), spent.get(record.key_id), now) for record in records], following


def _use(parts: Parts, ids: list[str]) -> tuple[dict[str, datetime], dict[str, Cell]]:
    """Last use and this month's cost of keys."""
    if not ids:
        return {}, {}
    query = question("spend", [("by", "key"), ("limit", "100000")], now=parts.now(), home=parts.home)
    others = parts.beside()
    with parts.open_reader() as reader:
        table = tables_of(reader, others, {"keys": query})["keys"]
        used = last_used(reader, ids)
    names = [column.name for column in table.columns]
    calls, unknown, cost = (names.index(name) for name in ("calls", "unknown_calls", "cost_usd"))
    # Where nothing is known of any call, the cost is not 0.
    spent = {str(row[0]): None if row[calls] and row[calls] == row[unknown] else row[cost] for row in table.rows}
    return used, dict.fromkeys(ids, money.ZERO) | spent


def _row(record: KeyRecord, used: datetime | None, spent: Cell, now: datetime) -> grids.Row:
    labels = record.labels
    return (
        record.key_id,
        record.name,
        *(getattr(labels, label) for label in LABELS),
        record.env,
        record.status(now),
        _expiry(record, now),
        instant(used) if used is not None else "never",
        spent,
    )


def _expiry(record: KeyRecord, now: datetime) -> str:
    if record.expires_at is None:
        return "never"
    days = int((record.expires_at - now).total_seconds() // _DAY_S)
    return f"{record.expires_at:%Y-%m-%d}" + (f" (in {days:,} days)" if days >= 0 else "")


def _links(cells: Mapping[str, Cell]) -> dict[str, str]:
    key = str(cells["key_id"])
    found = {label: address(PATH, [(label, str(cells[label]))]) for label in LABELS}
    spent = address("/explore", [("by", "day"), ("where", f"key={key}")])
    return {"key_id": f"{PATH}/{key}", "month_usd": spent, **found}


# -- issuing


def _form(
    request: Request, parts: Parts, given: Mapping[str, str], faults: Mapping[str, str], names: Names | None = None
) -> Response:
    return shell.page(
        request,
        "issue.html",
        422 if faults else 200,
        title="Issue a key",
        names=names if names is not None else names_of(parts),
        given=given,
        faults=faults,
        labels=LABELS,
        new=NEW,
        lives=LIVES,
        usual=f"{parts.config.integer('keys.expire_days')}d",
        requirable=forms.REQUIRABLE,
        required=[],
        once=secrets.token_hex(16),
    )


def _issue(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only(*LABELS, *(label + NEW for label in LABELS), *OPTIONS, "require", "expires", "once")
    once = f"page-{posted.text('once')}"
    # Asked first: whoever loads the answer's page again has sent names that are new no more.
    if (key_id := parts.control.issued_with(once)) is not None:
        raise Conflict(
            f"this form has issued {key_id} already, and a key is shown only once; if it was lost, rotate it"
        )
    names = names_of(parts)
    labels, faults = chosen(posted, names)
    fields = {**labels, **{name: posted.text(name) for name in (*OPTIONS, "expires") if posted.text(name)}}
    if posted.all("require"):
        fields["require"] = posted.all("require")
    try:
        draft = forms.draft(fields, parts.now(), parts.config.integer("keys.expire_days"))
    except FieldInvalid as error:
        return _form(request, parts, posted.texts, error.fields | faults, names)
    if faults:
        return _form(request, parts, posted.texts, faults, names)
    issued = parts.control.issue(draft, actor(request), idempotency_key=once)
    return _issued(request, parts, issued, "issued")


def _issued(request: Request, parts: Parts, issued: IssuedKey, what: str) -> Response:
    """The only page that ever shows a key."""
    url = parts.config.gateway_url
    return shell.page(
        request,
        "issued.html",
        201,
        title=f"Key {what}",
        what=what,
        key=issued.text,
        record=view(issued.record, parts.now()),
        labels=LABELS,
        previous_until=issued.previous_until,
        gateway_url=url,
        snippets=snippets(url),
    )


# -- one key


def _page(request: Request, parts: Parts, record: KeyRecord, faults: Mapping[str, str]) -> Response:
    used, spent = _use(parts, [record.key_id])
    history = parts.control.audit_rows(record.key_id)
    return shell.page(
        request,
        "key.html",
        422 if faults else 200,
        title=f"Key {record.key_id}",
        record=view(record, parts.now()),
        labels=LABELS,
        names=names_of(parts),
        new=NEW,
        faults=faults,
        history=list(reversed(history)),
        version=len(history),
        used=used.get(record.key_id),
        spent=shown_cell(spent[record.key_id], "usd"),
        spend=address("/explore", [("by", "day"), ("where", f"key={record.key_id}")]),
        overlaps=OVERLAPS,
        lives=LIVES,
        once=secrets.token_hex(16),
        another=address(f"{PATH}/issue", [(label, getattr(record.labels, label)) for label in LABELS]),
    )


def _unchanged(parts: Parts, key_id: str, posted: Posted) -> KeyRecord:
    """The key, as the page that sent the form showed it.

    Raises:
        Conflict: somebody else changed it meanwhile; says who and what.
    """
    record = parts.control.get(key_id)
    history = parts.control.audit_rows(record.key_id)
    if len(history) != posted.number("version"):
        last = history[-1]
        raise Conflict(
            f"key {record.key_id} is not as the page showed it: {last.actor.who} did {last.action} at "
            f"{last.at:%H:%M:%S} UTC. Look at it, then do it again"
        )
    return record


def _rotate(request: Request, parts: Parts, key_id: str, posted: Posted) -> Response:
    posted.only("version", "overlap", "expires", "once")
    record = _unchanged(parts, key_id, posted)
    given = {name: posted.text(name) for name in ("overlap", "expires") if posted.text(name)}
    try:
        rotation = forms.rotation(given, parts.now())
    except FieldInvalid as error:
        return _page(request, parts, record, error.fields)
    once = f"page-{posted.text('once')}"
    return _issued(
        request, parts, parts.control.rotate(key_id, rotation, actor(request), idempotency_key=once), "rotated"
    )


def _revoke(request: Request, parts: Parts, key_id: str, posted: Posted) -> Response:
    posted.only("version", "sure")
    record = _unchanged(parts, key_id, posted)
    if posted.text("sure") != "yes":
        return _page(request, parts, record, {"sure": "tick the box: a revoked key never works again"})
    return _page(request, parts, parts.control.revoke(key_id, actor(request)), {})


def _relabel(request: Request, parts: Parts, key_id: str, posted: Posted) -> Response:
    posted.only(*LABELS, *(label + NEW for label in LABELS), "from", "version")
    record = _unchanged(parts, key_id, posted)
    fields, faults = chosen(posted, names_of(parts))
    fields = {label: value for label, value in fields.items() if value != getattr(record.labels, label)}
    if posted.text("from"):
        fields["from"] = posted.text("from")
    try:
        change = forms.relabelling(fields, parts.now())
    except FieldInvalid as error:
        return _page(request, parts, record, error.fields | faults)
    if faults:
        return _page(request, parts, record, faults)
    return _page(request, parts, parts.control.relabel(key_id, change, actor(request)), {})
