"""Findings: a log is pasted or dropped and audited; what is kept of it is worked through by a team."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from costbearer import money
from costbearer.audit.words import HEADLINES
from costbearer.console.audits import LOG_BYTES_MAX, Audit, Audits
from costbearer.console.pages import grids, shell
from costbearer.console.pages.forms_of import Form, Posted, actor
from costbearer.console.pages.labels_of import names_of
from costbearer.console.pages.parts import Parts
from costbearer.errors import Conflict, CostbearerError, FieldInvalid, InputInvalid, QueryInvalid
from costbearer.logformats.registry import NAMES
from costbearer.reports.table import Cell, Column, csv_of
from costbearer.stores.findings import LOG_CHARS_MAX, STATUSES, Event, KeptFinding

PATH = "/findings"
AUDIT = f"{PATH}/audit"
SIDE_BYTES_MAX = 4 * 1024 * 1024
"""An ownership map or an invoice beside the log."""
BODY_BYTES_MAX = LOG_BYTES_MAX + 2 * SIDE_BYTES_MAX
KEPT = (
    Column("finding_id", "", "bucket"),
    Column("title", "finding", "bucket"),
    Column("log", "log", "bucket"),
    Column("severity", "severity", "text"),
    Column("records", "calls", "count"),
    Column("cost_usd", "amount", "part"),
    Column("status", "status", "text"),
    Column("owner", "owner", "bucket"),
    Column("last_seen", "last seen", "text"),
)
FOUND = (
    Column("title", "finding", "bucket"),
    Column("code", "code", "text"),
    Column("severity", "severity", "text"),
    Column("records", "calls", "count"),
    Column("cost_usd", "amount", "part"),
    Column("where", "see", "text"),
    Column("fix", "what to do", "text"),
)
GROUPS: Mapping[str, tuple[str, ...]] = {"owner": ("owner", "team"), "model": ("model",)}


def findings_router(parts: Parts, audits: Audits) -> APIRouter:
    """The worklist, one finding, and audits."""
    router = APIRouter(include_in_schema=False)

    @router.get(PATH)
    def listed(request: Request, status: str = "", owner: str = "") -> Response:
        rows = _kept(parts, status, owner)
        return shell.page(
            request,
            "findings.html",
            title="Findings",
            grid=grids.listing("findings", "Kept findings, what is open first", KEPT, rows, _links),
            only_status=status,
            only_owner=owner,
            statuses=STATUSES,
            any_kept=bool(rows) or bool(parts.findings.all()),
            formats=NAMES,
            most=LOG_BYTES_MAX // 1024 // 1024,
            faults={},
        )

    @router.get(f"{PATH}.csv")
    def as_csv(status: str = "", owner: str = "") -> Response:
        return Response(csv_of(KEPT, _kept(parts, status, owner)), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}.json")
    def as_json(status: str = "", owner: str = "") -> dict[str, Any]:
        ids = {row[0] for row in _kept(parts, status, owner)}
        return {"findings": [document(each) for each in parts.findings.all() if each.finding_id in ids]}

    @router.post(AUDIT)
    async def audit(posted: Form) -> Response:
        posted.only("text", "file", "format", "ownership", "invoice")
        side = {name: await _side(posted, name) for name in ("ownership", "invoice")}
        started = await run_in_threadpool(
            _started, audits, posted, {key: value for key, value in side.items() if value}
        )
        return RedirectResponse(f"{AUDIT}/{started.audit_id}", 303)

    @router.get(f"{AUDIT}/{{audit_id}}.json")
    def result(audit_id: str) -> dict[str, Any]:
        return _done(audits, audit_id).document

    @router.get(f"{AUDIT}/{{audit_id}}.html")
    def saved(audit_id: str) -> Response:
        # As a file to save: what is in it came from the log, and is not shown as a page of this console.
        headers = {"content-disposition": 'attachment; filename="audit.html"'}
        return Response(_done(audits, audit_id).html, media_type="text/html; charset=utf-8", headers=headers)

    @router.get(f"{AUDIT}/{{audit_id}}")
    def shown(request: Request, audit_id: str) -> Response:
        found = audits.get(audit_id)
        if found.state != "done":
            template = "audit_state.html" if "hx-request" in request.headers else "audit_running.html"
            return shell.page(request, template, title="Audit", audit=found, own=f"{AUDIT}/{audit_id}")
        if "hx-request" in request.headers:
            return Response(status_code=200, headers={"hx-refresh": "true"})
        return _result(request, found)

    @router.post(f"{AUDIT}/{{audit_id}}/keep")
    async def keep(request: Request, audit_id: str, posted: Form) -> Response:
        posted.only("log")
        found = _done(audits, audit_id)
        log = posted.text("log")
        if not 0 < len(log) <= LOG_CHARS_MAX or not log.isprintable():
            raise FieldInvalid({"log": f"must be a name of 1 to {LOG_CHARS_MAX} printable characters"})
        await run_in_threadpool(parts.findings.keep, log, found.document["findings"], actor(request))
        return RedirectResponse(PATH, 303)

    @router.get(f"{PATH}/{{finding_id}}")
    def one(request: Request, finding_id: str) -> Response:
        return _finding(request, parts, *parts.findings.get(finding_id), faults={})

    @router.post(f"{PATH}/{{finding_id}}")
    async def change(request: Request, finding_id: str, posted: Form) -> Response:
        return await run_in_threadpool(_change, request, parts, finding_id, posted)

    return router


def document(kept: KeptFinding, history: list[Event] | None = None) -> dict[str, Any]:
    """A kept finding as the API shows it."""
    made = {
        **kept.document,
        "finding_id": kept.finding_id,
        "log": kept.log,
        "status": kept.status,
        "owner": kept.owner,
        "version": kept.version,
        "first_seen": kept.first_seen.isoformat(),
        "last_seen": kept.last_seen.isoformat(),
    }
    if history is not None:
        made["history"] = [
            {"at": each.at.isoformat(), "who": each.who, "what": each.what, "before": each.before, "after": each.after}
            for each in history
        ]
    return made


def started_with(audits: Audits, name: str, log: bytes, options: Mapping[str, str | tuple[str, bytes]]) -> Audit:
    """An audit of bytes."""
    return audits.start(name, io.BytesIO(log), options)


# -- an audit


async def _side(posted: Posted, name: str) -> tuple[str, bytes] | None:
    file = posted.file(name)
    if file is None:
        return None
    content = await file.read(SIDE_BYTES_MAX + 1)
    if len(content) > SIDE_BYTES_MAX:
        raise InputInvalid(f"{name}: more than {SIDE_BYTES_MAX // 1024 // 1024} MB")
    return file.filename or name, content


def _started(audits: Audits, posted: Posted, side: Mapping[str, tuple[str, bytes]]) -> Audit:
    file, text, wanted = posted.file("file"), posted.texts.get("text", ""), posted.text("format")
    if wanted and wanted not in NAMES:
        raise FieldInvalid({"format": f"is one of {', '.join(NAMES)}"})
    if file is not None and text.strip():
        raise FieldInvalid({"text": "a log was pasted and a file chosen: which of them?"})
    options: dict[str, str | tuple[str, bytes]] = {**({"format": wanted} if wanted else {}), **side}
    if isinstance(file, UploadFile):
        return audits.start(file.filename or "log", file.file, options)
    return started_with(audits, "pasted", text.strip().encode("utf-8", "surrogatepass"), options)


def _done(audits: Audits, audit_id: str) -> Audit:
    found = audits.get(audit_id)
    if found.state != "done":
        raise Conflict(f"the audit is {found.state}: {found.said}")
    return found


def _result(request: Request, audit: Audit) -> Response:
    found = audit.document
    rows = [_found_row(each) for each in found["findings"]]
    return shell.page(
        request,
        "audit.html",
        title=f"Audit of {audit.name}",
        audit=audit,
        found=found,
        headline=HEADLINES[found["verdict"]].capitalize(),
        cost=money.usd_sum(found["cost_usd"]),
        computed=money.usd_sum(found["computed_usd"]),
        grid=grids.listing("found", "Findings, the dearest first", FOUND, rows),
        groups=[_group(name, labels, found[f"by_{name}"]) for name, labels in GROUPS.items() if found[f"by_{name}"]],
        own=f"{AUDIT}/{audit.audit_id}",
    )


def _found_row(each: Mapping[str, Any]) -> grids.Row:
    places = ", ".join(f"{sample['file']}:{sample['line']}" for sample in each["sample"][:2])
    cost = None if each["cost_usd"] is None else money.usd_sum(each["cost_usd"])
    return each["title"], each["code"], each["severity"], each["records"], cost, places or None, each["fix"]


def _group(name: str, labels: tuple[str, ...], groups: list[dict[str, Any]]) -> grids.Grid:
    columns = (
        *(Column(label, label, "bucket") for label in labels),
        Column("calls", "calls", "count"),
        Column("cost_usd", "cost", "usd", (("calls", "unknown_calls"),)),
        Column("share", "share", "share"),
        Column("unknown_calls", "unknown\ncalls", "count"),
    )
    rows = [
        (
            *(group.get(label) or "(none)" for label in labels),
            group["calls"],
            money.usd_sum(group["cost_usd"]),
            group["share"],
            group["unknown_calls"],
        )
        for group in groups
    ]
    return grids.listing(f"by-{name}", "Who bears it" if name == "owner" else "Models", columns, rows)


# -- kept findings


def _kept(parts: Parts, status: str, owner: str) -> list[grids.Row]:
    if status and status not in STATUSES:
        raise QueryInvalid({"status": f"is one of {', '.join(STATUSES)}"})
    found = [
        each
        for each in parts.findings.all()
        if (not status or each.status == status) and (not owner or each.owner == owner)
    ]
    return [_row(each) for each in found]


def _row(each: KeptFinding) -> grids.Row:
    shown = each.document
    cost = shown.get("cost_usd")
    return (
        each.finding_id,
        shown["title"],
        each.log,
        shown["severity"],
        shown["records"],
        None if cost is None else money.usd_sum(cost),
        each.status,
        each.owner,
        each.last_seen.strftime("%Y-%m-%d"),
    )


def _links(cells: Mapping[str, Cell]) -> dict[str, str]:
    return {"title": f"{PATH}/{cells['finding_id']}"}


def _finding(
    request: Request,
    parts: Parts,
    kept: KeptFinding,
    history: list[Event],
    *,
    faults: Mapping[str, str],
    status: int = 200,
    said: str = "",
) -> Response:
    cost = kept.document.get("cost_usd")
    return shell.page(
        request,
        "finding.html",
        status,
        title=kept.document["title"],
        kept=kept,
        found=kept.document,
        cost=None if cost is None else money.usd_sum(cost),
        history=list(reversed(history)),
        statuses=STATUSES,
        owners=names_of(parts)["owner"],
        faults=faults,
        said=said,
    )


def _change(request: Request, parts: Parts, finding_id: str, posted: Posted) -> Response:
    posted.only("version", "status", "owner", "comment")
    owner, status = posted.text("owner"), posted.text("status")
    comment = posted.texts.get("comment", "")
    kept, history = parts.findings.get(finding_id)
    if owner and owner != kept.owner and owner not in names_of(parts)["owner"]:
        faults = {"owner": f"{owner[:60]!r} is not in the directory of owners"}
        return _finding(request, parts, kept, history, faults=faults, status=422, said=comment)
    try:
        parts.findings.change(
            finding_id,
            actor(request),
            version=posted.number("version"),
            status=status or None,
            owner=owner,
            comment=comment.replace("\r\n", "\n"),
        )
    except (Conflict, FieldInvalid) as error:
        kept, history = parts.findings.get(finding_id)
        faults = error.fields if isinstance(error, FieldInvalid) else {"version": error.message}
        # What was written is not lost: it stands in the form again.
        return _finding(request, parts, kept, history, faults=faults, status=_status(error), said=comment)
    return RedirectResponse(f"{PATH}/{finding_id}", 303)


def _status(error: CostbearerError) -> int:
    return error.http_status
