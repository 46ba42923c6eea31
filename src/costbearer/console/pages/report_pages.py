"""The pages that show a report, and their files: one question, one table, whatever it is looked at with."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from costbearer.console.api_reports import MEDIA, made
from costbearer.console.pages import charts, grids, shell
from costbearer.console.pages.links import address
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.screens import ROWS_OVER_TIME, SCREENS, Screen
from costbearer.errors import QueryInvalid
from costbearer.reports import answer, question
from costbearer.reports.beside import Beside
from costbearer.reports.dimensions import DIMENSIONS
from costbearer.reports.explain import PER_DAY, PER_PERIOD
from costbearer.reports.periods import Zone, month_of, months_later
from costbearer.reports.query import LIMIT_MAX, PARAMETERS, Query, Reader
from costbearer.reports.show_text import span
from costbearer.reports.table import Table

Pairs = list[tuple[str, str]]

ENDINGS: Mapping[str, str] = {"csv": "csv", "json": "json", "xlsx": "xlsx", "md": "markdown", "txt": "text"}
"""Ending of an address -> form of the answer."""
EMPTY: Mapping[str, tuple[str, str]] = {
    "no_entries": (
        "No calls are recorded yet.",
        "Issue a key and send a call through the gateway with it; it appears here within a second.",
    ),
    "none_in_period": ("No calls in this period.", "There are some outside of it: choose a longer one above."),
    "none_match": (
        "No call in this period matches the filter.",
        "Without the filter there are some: take a part of it away.",
    ),
    "none_unknown": ("Every call of this period has a cost.", "Nothing to do here."),
}
"""Why a table has no rows, and what to do."""
LEVELS = 3
"""Dimensions that the form asks for; the address takes more."""


class Preset(NamedTuple):
    """A period by its name, with the parameters that ask for it."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    href: str = ""
    chosen: bool = False


def reports_router(parts: Parts) -> APIRouter:
    """A page and its files for every screen, and `/go`, which turns a form into an address."""
    router = APIRouter(include_in_schema=False)
    for screen in SCREENS.values():
        _add(router, screen, parts)

    @router.get("/go", openapi_extra={"parameters": []})
    def go(request: Request) -> Response:
        return RedirectResponse(_gone(request.query_params.multi_items()), 303)

    return router


def _add(router: APIRouter, screen: Screen, parts: Parts) -> None:
    """Routes check their parameters themselves (see `create_app`)."""

    def shown(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        query = query_of(parts, screen, pairs)
        if screen.frame_first:
            load = functools.partial(_late, parts, screen, query, pairs)
            return shell.streamed(request, "report.html", load, "report_body.html", title=screen.title, screen=screen)
        table = answered(parts, query)
        title = screen.title if "id" not in screen.form.takes else table.title
        return shell.page(request, "report.html", title=title, screen=screen, **body(parts, screen, table, pairs))

    def filed(request: Request) -> Response:
        ending = request.url.path.rpartition(".")[2]
        return file_of(asked(parts, screen, request.query_params.multi_items()), ENDINGS[ending], screen.path[1:])

    own: Mapping[str, Any] = {"openapi_extra": {"parameters": []}}
    router.get(screen.path, **own)(shown)
    for ending in ENDINGS:
        router.get(f"{screen.path}.{ending}", **own)(filed)


def asked(parts: Parts, screen: Screen, pairs: Pairs) -> Table:
    """The screen's table for these parameters.

    Raises:
        QueryInvalid: naming every parameter that cannot be used.
        NotFound: what it is about is not there.
    """
    return answered(parts, query_of(parts, screen, pairs))


def answered(parts: Parts, query: Query) -> Table:
    """The answer, as the ledger stands now."""
    others = parts.beside()
    with parts.open_reader() as reader:
        return answer(query, reader, others)


def _late(parts: Parts, screen: Screen, query: Query, pairs: Pairs) -> dict[str, Any]:
    return body(parts, screen, answered(parts, query), pairs)


def query_of(parts: Parts, screen: Screen, pairs: Pairs) -> Query:
    """The question: what the address says, and the screen's own for what it does not."""
    given = {name for name, _ in pairs}
    asked = dict(screen.asked)
    by = ",".join(text for name, text in pairs if name == "by").split(",")
    if asked.get("limit") and any(name in DIMENSIONS and DIMENSIONS[name].unit for name in by):
        asked["limit"] = ROWS_OVER_TIME
    usual = [(name, text) for name, text in asked.items() if name not in given]
    return question(screen.report, [*usual, *pairs], now=parts.now(), home=parts.home)


def tables_of(reader: Reader, others: Beside, queries: Mapping[str, Query]) -> dict[str, Table]:
    """Several answers out of one state of the ledger."""
    return {name: answer(query, reader, others) for name, query in queries.items()}


def file_of(table: Table, form: str, name: str) -> Response:
    """The table as a file; the total, the period and the time zone stand in its headers."""
    total = table.document().get("total_usd")
    headers = {
        "content-disposition": f'inline; filename="{name}.{_ending(form)}"',
        "x-time-zone": table.query.zone.name,
    }
    headers |= {"x-total-usd": str(total)} if total is not None else {}
    return Response(made(table, form), media_type=MEDIA[form], headers=headers)


def _ending(form: str) -> str:
    return next(ending for ending, own in ENDINGS.items() if own == form)


def body(parts: Parts, screen: Screen, table: Table, pairs: Pairs) -> dict[str, Any]:
    """What the page of a report shows below its title."""
    # A receipt or a tree is of one moment; what happened on other days is not about it.
    notes = [] if table.form.ever else annotations_of(parts, table.query)
    return {
        "chart": charts.chart_of(table, notes),
        "main": grids.main_grid(table, _sorts(screen, pairs)),
        "tables": grids.part_grids(table),
        "annotations": notes,
        "filters": filters(screen, table.query, pairs, parts.now()),
        **about(table, parts, screen.path, pairs),
    }


def about(table: Table, parts: Parts, path: str, pairs: Pairs, takes: Collection[str] | None = None) -> dict[str, Any]:
    """What stands on every page with numbers: total, period, time zone, how complete, and the same as files."""
    stand = parts.progress()
    query = table.query
    # The files repeat the page's own times, so that all of them answer the same question.
    absolute = query.parameters()
    asked = [pair for pair in absolute if pair[0] in (table.form.takes if takes is None else takes)]
    files = {ending: address(f"{path}.{ending}", asked) for ending in ENDINGS}
    return {
        "total": table.totals.get("total_usd"),
        # A charge without a cost has an unknown total; a worklist of unknown costs has none.
        "has_total": "total_usd" in table.totals and (table.query.report != "unknown"),
        "previous": table.totals.get("previous_usd"),
        "period": "" if table.form.ever else span(query.period.since, query.period.until, query.zone),
        "compared": span(query.compare.since, query.compare.until, query.zone) if query.compare else "",
        "zone": query.zone.name,
        "complete_to": table.complete_to,
        "open_calls": stand.open_calls,
        "source": table.source,
        "remarks": table.remarks(),
        "empty": EMPTY[table.empty] if table.empty else None,
        "command": table.command,
        "files": files,
        "saving": address("/views/new", [("page", path), *[("q", f"{name}={text}") for name, text in pairs]]),
    }


def annotations_of(parts: Parts, query: Query) -> list[charts.Mark]:
    """What was written down for days of the period, for everything or for what the question is about."""
    where = dict(query.where)
    found = []
    for each in parts.views.annotations():
        concerned = each.dimension is None or each.value in where.get(each.dimension, (each.value,))
        first, last = query.zone.wall(query.period.since).date(), query.zone.wall(query.period.until).date()
        if concerned and first <= each.day <= last:
            scope = f" ({each.dimension}: {each.value})" if each.dimension else ""
            found.append(charts.Mark(each.day.isoformat(), each.text + scope))
    return found


# -- the form above a report


def filters(screen: Screen, query: Query, pairs: Pairs, now: datetime) -> dict[str, Any]:
    """What the form shows: what is asked now, and addresses that ask something else."""
    takes = screen.form.takes
    where = [(name, value) for name, values in query.where for value in values]
    chips = []
    for name, value in where:
        rest = [pair for pair in pairs if pair != ("where", f"{name}={value}")]
        chips.append({"name": name, "value": value, "off": address(screen.path, rest)})
    given = dict(pairs)
    return {
        "takes": takes,
        "chips": chips,
        "levels": [*query.by, ""][:LEVELS] if "by" in takes else [],
        "dimensions": list(DIMENSIONS),
        "further": _others(screen, query, pairs) if "by" in takes else [],
        "presets": presets(screen.path, pairs, query.zone, now) if "since" in takes else [],
        "given": {name: given.get(name, "") for name in PARAMETERS},
        "toggle": _toggle(screen, query, pairs),
        "kept": [pair for pair in pairs if pair[0] not in {"by", "since", "until", "compare", "limit", "per", "as"}],
        "usual_compare": screen.form.compare,
        "limit_max": LIMIT_MAX,
    }


def presets(path: str, pairs: Pairs, zone: Zone, now: datetime) -> list[Preset]:
    """The periods people ask for."""
    month = month_of(now, zone)
    last = zone.wall(months_later(month.since, -1))
    before = zone.wall(months_later(month.since, -2))
    this = zone.wall(month.since)
    named = [
        Preset("this month", ()),
        Preset(f"{last:%B}", (("since", f"{last:%Y-%m}"), ("until", f"{this:%Y-%m}"))),
        Preset(f"{before:%B}", (("since", f"{before:%Y-%m}"), ("until", f"{last:%Y-%m}"))),
        Preset("24 hours", (("since", "24h"),)),
        Preset("7 days", (("since", "7d"),)),
        Preset("30 days", (("since", "30d"),)),
        Preset("90 days", (("since", "90d"),)),
    ]
    kept = [pair for pair in pairs if pair[0] not in {"since", "until", "compare"}]
    compare = [pair for pair in pairs if pair == ("compare", "previous")]
    asked = tuple(pair for pair in pairs if pair[0] in {"since", "until"})
    return [
        each._replace(href=address(path, [*kept, *each.pairs, *compare]), chosen=asked == each.pairs) for each in named
    ]


def _others(screen: Screen, query: Query, pairs: Pairs) -> list[tuple[str, str]]:
    """The same question by another dimension: a click instead of a form."""
    kept = [pair for pair in pairs if pair[0] != "by"]
    narrowed = {name for name, values in query.where if len(values) == 1}
    names = ("owner", "team", "agent", "workload", "key", "customer", "feature", "model", "provider", "day")
    return [
        (name, address(screen.path, [("by", name), *kept]))
        for name in names
        if name not in narrowed and (name,) != query.by
    ]


def _toggle(screen: Screen, query: Query, pairs: Pairs) -> tuple[str, str] | None:
    """Words and address of the other way to look at a change: per day, or as a whole."""
    if screen.report != "explain":
        return None
    daily = query.option("per") == PER_DAY
    kept = [pair for pair in pairs if pair[0] != "per"]
    other = address(screen.path, [*kept, ("per", PER_PERIOD if daily else PER_DAY)])
    return ("per day; show the whole periods" if daily else "the whole periods; show it per day"), other


def _sorts(screen: Screen, pairs: Pairs) -> dict[str, str]:
    """Order -> the address that asks for it; a change can be sorted by only where there is one."""
    if "sort" not in screen.form.takes:
        return {}
    kept = [pair for pair in pairs if pair[0] != "sort"]
    compared = bool(screen.form.compare) or any(name == "compare" and text for name, text in pairs)
    orders = ["cost", "name", *(["delta"] if compared else [])]
    return {order: address(screen.path, [*kept, ("sort", order)]) for order in orders}


def _gone(pairs: Sequence[tuple[str, str]]) -> str:
    """The address that a form means: blank fields are not asked, levels are joined, a filter is added.

    Raises:
        QueryInvalid: a field that no form has.
    """
    paths = [text for name, text in pairs if name == "page"]
    if len(paths) != 1 or paths[0] not in {"/", *SCREENS}:
        raise QueryInvalid({"page": f"is one of /, {', '.join(SCREENS)}"})
    unknown = {name for name, _ in pairs} - {"page", "dim", "value", *PARAMETERS}
    if unknown:
        raise QueryInvalid({name[:60]: "not a field of the form" for name in sorted(unknown)})
    levels = list(dict.fromkeys(text for name, text in pairs if name == "by" and text))
    found = [("by", ",".join(levels))] if levels else []
    found += [(name, text.strip()) for name, text in pairs if name in PARAMETERS and name != "by" and text.strip()]
    dimension = next((text for name, text in pairs if name == "dim"), "")
    value = next((text for name, text in pairs if name == "value"), "").strip()
    if dimension and value:
        found.append(("where", f"{dimension}={value}"))
    return address(paths[0], dict.fromkeys(found))
