"""Prices: every model's, one model's with its history, which archive held when, what differs, and the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from costbearer import money
from costbearer.console.pages import grids, shell
from costbearer.console.pages.forms_of import Form, Posted, actor, filled
from costbearer.console.pages.links import address
from costbearer.console.pages.parts import Parts
from costbearer.errors import CostbearerError, FieldInvalid, PricesInvalid
from costbearer.price_desk import moment
from costbearer.reports.table import Cell, Column, csv_of

PATH = "/prices"
ROWS_SHOWN = 200
METERS = ("input", "output", "cache_read_input", "cache_creation_input")
TERM = ("provider", "model", "tier", "geo", "discount", "since", "until")
LIST = (
    Column("provider", "provider", "bucket"),
    Column("model", "model", "bucket"),
    *(Column(f"{meter}_usd", f"{meter.replace('_', ' ')}\nper million", "price") for meter in METERS),
    *(Column(f"contract_{meter}_usd", "", "price") for meter in METERS),
    Column("since", "since", "text"),
    Column("card", "", "text"),
)
CARD = (
    Column("meter", "meter", "bucket"),
    Column("unit", "per", "text"),
    Column("price_usd", "list price", "price"),
    Column("contract_usd", "contract", "price"),
    Column("steps", "above a size of the input", "text"),
)
ONE = (
    *(Column(name, name, "text") for name in ("card", "context", "valid_from", "valid_until", "source")),
    *CARD,
)
HELD = (
    Column("revision", "revision", "count"),
    Column("since", "held from", "text"),
    Column("what", "why", "text"),
    Column("by", "by", "text"),
    Column("archive", "archive", "text"),
    Column("contract", "contract", "text"),
)
CHANGES = tuple(
    Column(name, title, "text")
    for name, title in (
        ("code", "what"), ("provider", "provider"), ("model", "model"), ("context", "for"), ("day", "from"),
        ("old", "before"), ("new", "now"),
    )
)  # fmt: skip


def prices_router(parts: Parts) -> APIRouter:
    """Every page of prices."""
    router = APIRouter(include_in_schema=False)
    desk = parts.prices

    @router.get(PATH)
    def listed(request: Request, provider: str = "", model: str = "", at: str = "") -> Response:
        found = desk.listed(provider=provider or None, model=_pattern(model), at=moment(at) if at else None)
        rows = _listed(found)
        given = filled((("provider", provider), ("model", model), ("at", at)))
        return shell.page(
            request,
            "prices.html",
            title="Prices",
            grid=grids.listing(
                "prices", "Standard prices, USD per million tokens", LIST, rows[:ROWS_SHOWN], _links(at)
            ),
            count=len(rows),
            shown=ROWS_SHOWN,
            given=given,
            found=found,
            files=_files(PATH, given),
        )

    @router.get(f"{PATH}.csv")
    def as_csv(provider: str = "", model: str = "", at: str = "") -> Response:
        found = desk.listed(provider=provider or None, model=_pattern(model), at=moment(at) if at else None)
        return Response(csv_of(LIST, _listed(found)), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}.json")
    def as_json(provider: str = "", model: str = "", at: str = "") -> dict[str, Any]:
        return desk.listed(provider=provider or None, model=_pattern(model), at=moment(at) if at else None)

    @router.get(f"{PATH}/model")
    def shown(request: Request, model: str, provider: str = "", at: str = "") -> Response:
        found = desk.shown(model, provider=provider or None, at=moment(at) if at else None)
        title = f"{found['provider']}/{found['model']}"
        return shell.page(
            request,
            "price.html",
            title=title,
            files=_files(f"{PATH}/model", filled((("model", model), ("provider", provider), ("at", at)))),
            found=found,
            cards=[(card, _card(card)) for card in found["cards"]],
            history=[(card, _card(card, "earlier and now: ")) for card in found["history"]],
            also=[
                (name, address(f"{PATH}/model", [("model", model), ("provider", name)])) for name in found["also_at"]
            ],
            spend=address("/explore", [("by", "team"), ("where", f"model={found['model']}")]),
        )

    @router.get(f"{PATH}/model.json")
    def model_json(model: str, provider: str = "", at: str = "") -> dict[str, Any]:
        return desk.shown(model, provider=provider or None, at=moment(at) if at else None)

    @router.get(f"{PATH}/model.csv")
    def model_csv(model: str, provider: str = "", at: str = "") -> Response:
        found = desk.shown(model, provider=provider or None, at=moment(at) if at else None)
        cards = {card["card"]: card for card in (*found["cards"], *found["history"])}
        rows = [(*_days(card), *row) for card in cards.values() for row in _meters(card)]
        return Response(csv_of(ONE, rows), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}/archives.json")
    def archives_json(old: str = "", new: str = "current") -> dict[str, Any]:
        return desk.archives() | ({"difference": desk.difference(old, new)} if old else {})

    @router.get(f"{PATH}/archives.csv")
    def archives_csv(old: str = "", new: str = "current") -> Response:
        columns, found = (CHANGES, desk.difference(old, new)["changes"]) if old else (HELD, desk.archives()["held"])
        rows = [tuple(row[column.name] for column in columns) for row in found]
        return Response(csv_of(columns, rows), media_type="text/csv; charset=utf-8")

    @router.get(f"{PATH}/archives")
    def archives(request: Request, old: str = "", new: str = "current") -> Response:
        found = desk.archives()
        difference = desk.difference(old, new) if old else None
        changes = (
            [tuple(change[column.name] for column in CHANGES) for change in difference["changes"]] if difference else []
        )
        held = [tuple(_short(row[column.name]) for column in HELD) for row in found["held"]]
        return shell.page(
            request,
            "archives.html",
            title="Price archives",
            held=grids.listing("held", "What held when, the newest first", HELD, held),
            changes=grids.listing("changes", "What differs, what needs a look first", CHANGES, changes),
            difference=difference,
            given={"old": old, "new": new},
            found=found,
            files=_files(f"{PATH}/archives", {"old": old, "new": new} if old else {}),
        )

    @router.get(f"{PATH}/contract")
    def contract(request: Request) -> Response:
        return _contract(request, parts, {}, {})

    @router.post(f"{PATH}/contract")
    async def set_term(request: Request, posted: Form) -> Response:
        return await run_in_threadpool(_set, request, parts, posted)

    return router


def _files(path: str, given: Mapping[str, str]) -> dict[str, str]:
    return {ending: address(f"{path}.{ending}", list(given.items())) for ending in ("csv", "json")}


def _pattern(text: str) -> str:
    """A part of a name finds it; a pattern stands for itself."""
    return text if "*" in text else f"*{text}*"


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def _per_million(text: str | None) -> Cell:
    return None if text is None else money.times(1_000_000, money.usd(text))


def _listed(found: Mapping[str, Any]) -> list[grids.Row]:
    rows: list[grids.Row] = []
    for each in found["prices"]:
        by = {price["meter"]: price for price in each["prices"]}
        listed = [_per_million(by[meter]["price_usd"]) if meter in by else None for meter in METERS]
        agreed = [_per_million(by[meter]["contract_usd"]) if meter in by else None for meter in METERS]
        rows.append((each["provider"], each["model"], *listed, *agreed, each["valid_from"] or "always", each["card"]))
    return rows


def _links(at: str) -> Any:
    def links(cells: Mapping[str, Cell]) -> dict[str, str]:
        pairs = [("model", str(cells["model"])), ("provider", str(cells["provider"])), *([("at", at)] if at else [])]
        return {"model": address(f"{PATH}/model", pairs)}

    return links


def _card(card: Mapping[str, Any], of: str = "") -> grids.Grid:
    days = f"{card['valid_from'] or 'always'} to {card['valid_until'] or 'now'}"
    title = f"{of}{card['context']}, {days}; source: {card['source']}; card {card['card'].rpartition('#')[2]}"
    return grids.listing(card["card"], title, CARD, _meters(card))


def _days(card: Mapping[str, Any]) -> grids.Row:
    return card["card"], card["context"], card["valid_from"], card["valid_until"], card["source"]


def _meters(card: Mapping[str, Any]) -> list[grids.Row]:
    rows: list[grids.Row] = []
    for price in card["prices"]:
        steps = "; ".join(
            f"{step['above_input_tokens']:,}: ${money.plain(money.usd(step['price_usd']))}" for step in price["steps"]
        )
        agreed = None if price["contract_usd"] is None else money.usd(price["contract_usd"])
        listed = None if price["price_usd"] is None else money.usd(price["price_usd"])
        rows.append((price["meter"], price["unit"], listed, agreed, steps or None))
    return rows


def _contract(
    request: Request, parts: Parts, given: Mapping[str, str], faults: Mapping[str, str], status: int = 200
) -> Response:
    return shell.page(
        request,
        "contract.html",
        status,
        title="Contract",
        contract=parts.prices.contract(),
        given=given,
        faults=faults,
        fields=TERM,
        head=parts.prices.archives()["held"][0]["revision"],
    )


def _set(request: Request, parts: Parts, posted: Posted) -> Response:
    posted.only(*TERM, "head")
    held = parts.prices.archives()["held"][0]
    if str(held["revision"]) != posted.text("head"):
        said = f"{held['by']} changed the prices meanwhile ({held['what']}); look at them, and send it again"
        return _contract(request, parts, posted.texts, {"contract": said}, 409)
    fields: dict[str, object] = dict(filled((name, posted.text(name)) for name in TERM))
    try:
        parts.prices.set_term(fields, by=actor(request))
    except (PricesInvalid, FieldInvalid) as error:
        return _contract(request, parts, posted.texts, _faults(error), 422)
    return RedirectResponse(f"{PATH}/contract", 303)


def _faults(error: CostbearerError) -> dict[str, str]:
    return error.fields if isinstance(error, FieldInvalid) else {"term": error.message}
