"""The first page: what was spent, by whom, what changed and why, and what is not in order. Each of it leads further.

All of its tables are answers to one period's questions out of one state of the ledger.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, Request, Response

from costbearer import money
from costbearer.console.pages import charts, grids, shell
from costbearer.console.pages.links import Links, address
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.report_pages import (
    ENDINGS,
    Pairs,
    Preset,
    about,
    annotations_of,
    file_of,
    presets,
    tables_of,
)
from costbearer.errors import QueryInvalid
from costbearer.reports import question
from costbearer.reports.coverage import LIMIT_SHARE, Attention, attention
from costbearer.reports.periods import Period, month_of, months_later
from costbearer.reports.query import Query
from costbearer.reports.table import Part, Table, calls, shown_cell
from costbearer.stores.findings import ENDED

PATH = "/overview"
TAKES = ("since", "until", "compare", "where", "tz")
MONTHS = 6
MOVERS = 8
LIVE_S_MIN, LIVE_S_MAX, LIVE_SHARE = 2, 3, 5
"""An open page looks again after five times what the look took, so that one that is left open takes little of the
process that also posts; but soon enough to show a call within five seconds."""
HOURS_UP_TO, DAYS_UP_TO = timedelta(days=3), timedelta(days=100)
"""Longest periods that are drawn by the hour, and by the day; what is longer, by the week."""
_ROWS = {"teams": "12", "time": "5000", "why": "100"}
_TEAMS = ("team", "calls", "cost_usd", "share", "previous_usd", "delta_usd")
_MOVERS = ("team", "agent", "workload", "delta_usd", "most")
"""Columns that are shown here; the files have all of them."""


class Tile(NamedTuple):
    """One figure with what it says and where it leads. `exact` is the machine's form of an amount."""

    name: str
    value: str
    says: str
    href: str
    exact: str = ""
    alarm: bool = False


class Overview(NamedTuple):
    """The answers of one page, and what stands beside the reports."""

    tables: Mapping[str, Table]
    attention: Attention


def overview_router(parts: Parts) -> APIRouter:
    """The page, the part of it that is kept up to date, and its files."""
    router = APIRouter(include_in_schema=False)
    own: Mapping[str, Any] = {"openapi_extra": {"parameters": []}}

    @router.get("/", **own)
    def overview(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        questions = _questions(parts, pairs)
        load = functools.partial(_shown, parts, pairs, questions)
        return shell.streamed(request, "overview.html", load, "overview_body.html", title="Overview")

    @router.get("/live", **own)
    def live(request: Request) -> Response:
        seen = [text for name, text in request.query_params.multi_items() if name == "seen"]
        if seen == [str(parts.progress().entries)]:
            return Response(status_code=204)
        pairs = request.query_params.multi_items()
        shown = _shown(parts, pairs, _questions(parts, pairs))
        return shell.page(request, "overview_body.html", title="Overview", **shown)

    for ending in ENDINGS:

        def filed(request: Request) -> Response:
            form = ENDINGS[request.url.path.rpartition(".")[2]]
            pairs = request.query_params.multi_items()
            found = _asked(parts, _questions(parts, pairs))
            if form == "json":
                return Response(msgspec.json.encode(document(found)), media_type="application/json")
            return file_of(found.tables["teams"], form, "overview")

        router.get(f"{PATH}.{ending}", **own)(filed)
    return router


def document(found: Overview) -> dict[str, Any]:
    """The page as JSON: the total, and every table by its name."""
    teams = found.tables["teams"].document()
    named = {name: table.document() for name, table in found.tables.items()}
    return {
        **{name: teams[name] for name in ("since", "until", "compare", "tz", "total_usd", "calls", "unknown_calls")},
        "complete_to": teams["complete_to"],
        "attention": {
            name: money.text(value) if isinstance(value, Decimal) else value
            for name, value in found.attention._asdict().items()
        },
        "tables": named,
    }


def _questions(parts: Parts, pairs: Pairs) -> dict[str, Query]:
    """Every question of the page by the name of its table.

    Raises:
        QueryInvalid: a parameter that the page does not take, or that cannot be used.
    """
    allowed = {*TAKES, "live", "seen"}
    said = f"not a parameter here; known are {', '.join(TAKES)}"
    if faults := {name[:60]: said for name, _ in pairs if name not in allowed}:
        raise QueryInvalid(faults)
    given = [pair for pair in pairs if pair[0] in TAKES]
    plain = [pair for pair in given if pair[0] != "compare"]
    compared = given if len(given) > len(plain) else [*given, ("compare", "previous")]

    now = parts.now()

    def ask(report: str, pairs: Pairs, *more: tuple[str, str]) -> Query:
        return question(report, [*pairs, *more], now=now, home=parts.home)

    teams = ask("spend", compared, ("by", "team"), ("limit", _ROWS["teams"]))
    by = f"{unit_of(teams.period)},team"
    kept = [pair for pair in plain if pair[0] in {"where", "tz"}]
    first = months_later(month_of(now, parts.home).since, 1 - MONTHS)
    return {
        "teams": teams,
        "time": ask("spend", plain, ("by", by), ("sort", "name"), ("limit", _ROWS["time"])),
        "why": ask("explain", compared, ("by", "team,agent,workload"), ("limit", _ROWS["why"])),
        "months": ask("spend", kept, ("by", "month"), ("since", first.isoformat()), ("sort", "name")),
    }


def _asked(parts: Parts, questions: Mapping[str, Query]) -> Overview:
    """Every answer of the page."""
    others = parts.beside()
    with parts.open_reader() as reader:
        tables = tables_of(reader, others, questions)
        return Overview(tables, attention(reader, replace(questions["teams"], compare=None)))


def unit_of(period: Period) -> str:
    """What a period is drawn by."""
    length = period.until - period.since
    return "hour" if length <= HOURS_UP_TO else "day" if length <= DAYS_UP_TO else "week"


def _shown(parts: Parts, pairs: Pairs, questions: Mapping[str, Query]) -> dict[str, Any]:
    # What is seen is asked first: an entry that is posted meanwhile is shown once more, not missed.
    stand = parts.progress()
    began = time.perf_counter()
    found = _asked(parts, questions)
    took = time.perf_counter() - began
    given = [pair for pair in pairs if pair[0] in TAKES]
    teams = found.tables["teams"]
    notes = annotations_of(parts, teams.query)
    live = not any(name == "until" for name, _ in given) and ("live", "off") not in pairs
    why = found.tables["why"]
    movers = next(part for part in why.parts if part.name == "movers")
    few = Part(movers.name, movers.title, movers.columns, movers.rows[:MOVERS])
    seen = ("seen", str(stand.entries))
    return {
        **about(teams, parts, PATH, given, TAKES),
        "chart": charts.chart_of(found.tables["time"], notes),
        "annotations": notes,
        "tiles": _tiles(parts, found),
        "teams": grids.main_grid(teams, only=_TEAMS),
        "movers": grids.grid(few, why, only=_MOVERS) if movers.rows else None,
        "causes": grids.main_grid(why) if why.rows else None,
        "why_href": Links(why.query).inside({}, "/why") if why.rows else "",
        "months": _strip(parts, found.tables["months"], given),
        "presets": presets("/", given, teams.query.zone, parts.now()),
        "live": address("/live", [*given, seen]) if live else "",
        "every": max(LIVE_S_MIN, min(LIVE_S_MAX, math.ceil(took * LIVE_SHARE))),
        "pause": address("/", [*given, ("live", "off")]),
        "resume": address("/", given) if ("live", "off") in pairs else "",
        "change": teams.totals.get("delta_usd"),
    }


def _strip(parts: Parts, months: Table, given: list[tuple[str, str]]) -> list[tuple[Preset, str]]:
    """The last months with what each cost: the way into the past."""
    at = [column.name for column in months.columns].index("cost_usd")
    kept = [pair for pair in given if pair[0] not in {"since", "until", "compare"}]
    this = f"{months.query.zone.wall(parts.now()):%Y-%m}"
    asked = dict(given)
    strip = []
    for row in months.rows:
        name = str(row[0])
        until = f"{parts.home.wall(months_later(parts.home.moment(_first(name)), 1)):%Y-%m}"
        pairs = () if name == this else (("since", name), ("until", until))
        chosen = (asked.get("since"), asked.get("until")) == ((name, until) if pairs else (None, None))
        strip.append((Preset(name, pairs, address("/", [*kept, *pairs]), chosen), shown_cell(row[at], "usd")))
    return strip


def _first(month: str) -> Any:
    from datetime import datetime

    return datetime.strptime(month, "%Y-%m")  # noqa: DTZ007  a wall clock's time; the zone makes a moment of it


def _tiles(parts: Parts, found: Overview) -> list[Tile]:
    teams, seen = found.tables["teams"], found.attention
    links = Links(teams.query)
    period = [*links.where({}), *links.times()]
    total = teams.totals["total_usd"]
    assert isinstance(total, Decimal)
    share = money.share(seen.unattributed_usd, total)
    unknown, bound = int(teams.totals["unknown_calls"] or 0), teams.totals["unknown_bound_usd"]
    most = f", at most {money.display(bound)}" if isinstance(bound, Decimal) else ", without a bound"
    open_ = [each for each in parts.findings.all() if each.status not in ENDED]
    failed = address(
        "/explore", [("by", "agent,day"), ("where", "status=error"), ("where", "status=cancelled"), *period]
    )

    def amount(name: str, usd: Decimal, says: str, href: str, *, alarm: bool = False) -> Tile:
        return Tile(name, money.display(usd), says, href, money.text(usd), alarm)

    return [
        amount(
            "unattributed",
            seen.unattributed_usd,
            f"is nobody's, {shown_cell(share, 'share')}",
            address("/coverage", period),
            alarm=share is not None and share > float(LIMIT_SHARE),
        ),
        Tile("unknown", calls(unknown), f"of unknown cost{most if unknown else ''}", address("/unknown", period)),
        amount(
            "disputed",
            seen.disputed_usd,
            f"in {calls(seen.disputed_calls)} that named somebody else",
            address("/coverage", period),
        ),
        amount("failed", seen.failed_usd, "charged for calls that failed or were cut", failed),
        Tile("backfill", "Backfill", "keys whose spend nobody wholly bears", "/backfill"),
        Tile("findings", f"{len(open_):,}", f"finding{'' if len(open_) == 1 else 's'} of audits open", "/findings"),
    ]
