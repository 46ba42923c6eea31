"""Reports: Ibis expressions over the ledger that become a `Table`, the only thing a surface renders.

Where the ledger is, `question` and `answer` make the table; where only its JSON arrives, `read` makes the same one.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from costbearer.errors import CostbearerError, NotFound, RemoteFailed
from costbearer.reports import (
    agents,
    chargeback,
    coverage,
    entry_list,
    explain,
    models,
    owner,
    receipt,
    runs,
    spend,
    top_keys,
    unit_cost,
    unknown,
)
from costbearer.reports.beside import NOTHING, Beside
from costbearer.reports.periods import ZONE_UTC, Zone, parse_instant, zone
from costbearer.reports.query import SPEND, Form, Query, Reader
from costbearer.reports.table import Part, Table, amounts_of, columns_of, total_of

Answer = Callable[[Reader, Query, Beside], Table]


class Report(NamedTuple):
    """One report: what it can be asked, and what answers."""

    form: Form
    answer: Answer


REPORTS: Mapping[str, Report] = {
    report.form.name: report
    for report in (
        Report(SPEND, spend.answer),
        Report(top_keys.FORM, top_keys.answer),
        Report(chargeback.FORM, chargeback.answer),
        Report(agents.FORM, agents.answer),
        Report(owner.FORM, owner.answer),
        Report(unit_cost.FORM, unit_cost.answer),
        Report(models.FORM, models.answer),
        Report(coverage.FORM, coverage.answer),
        Report(explain.FORM, explain.answer),
        Report(unknown.FORM, unknown.answer),
        Report(entry_list.FORM, entry_list.answer),
        *(Report(form, runs.answer) for form in runs.FORMS.values()),
        Report(receipt.FORM, receipt.answer),
    )
}


def question(name: str, parameters: Iterable[tuple[str, str]], *, now: datetime, home: Zone = ZONE_UTC) -> Query:
    """What the named report is asked. `parameters` are (name, text) pairs as `Query.parse` takes them.

    Raises:
        NotFound: there is no such report.
        QueryInvalid: names every parameter that is unknown or cannot be used.
    """
    if name not in REPORTS:
        raise NotFound(f"there is no report {name[:60]!r}; known are {', '.join(REPORTS)}")
    return Query.parse(parameters, now=now, form=REPORTS[name].form, home=home)


def answer(query: Query, reader: Reader, beside: Beside = NOTHING) -> Table:
    """The report that was asked for.

    Raises:
        StoreFailed: the ledger cannot be read, or contradicts itself.
        NotFound: what it is about is not there.
        QueryInvalid: what is asked for is not beside the ledger: a figure or a price that nobody knows.
    """
    return REPORTS[query.report].answer(reader, query.followed(reader), beside)


def read(document: Any) -> Table:
    """The table of a report's JSON document, without loss.

    Raises:
        RemoteFailed: the document is not one of a report.
    """
    try:
        form = REPORTS[document["report"]].form
        query = _asked(document, form)
        columns = columns_of(document["columns"])
        table = Table(
            title=document["title"],
            query=query,
            columns=columns,
            rows=amounts_of(document, columns),
            totals={name: total_of(name, document[name]) for name in document["totals"]},
            complete_to=parse_instant(document["complete_to"], query.period.until) if document["complete_to"] else None,
            empty=document["empty"],
            notes=tuple(document["notes"]),
            source=document["source"],
            parts=tuple(_part(name, part) for name, part in document["parts"].items()),
            form=form,
        )
    except (KeyError, TypeError, ValueError, AttributeError, CostbearerError):
        raise RemoteFailed("the server's answer is not a report; is it another version?") from None
    return table


def _asked(document: Mapping[str, Any], form: Form) -> Query:
    home = zone(document["tz"]) if "--tz" in shlex.split(document["command"]) else ZONE_UTC
    pairs = [("where", f"{name}={value}") for name, values in document["where"].items() for value in values]
    pairs += [(name, document[name]) for name in ("since", "until", "sort") if name in form.takes]
    pairs += [("by", ",".join(document["by"]))] if "by" in form.takes else []
    pairs += [("limit", str(document["limit"]))] if "limit" in form.takes else []
    pairs += list(document["options"].items())
    compare = document["compare"]
    pairs += [("compare", f"{compare['since']}..{compare['until']}")] if compare else []
    return Query.parse(pairs, now=datetime.fromisoformat(document["until"]), form=form, home=home)


def _part(name: str, part: Mapping[str, Any]) -> Part:
    columns = columns_of(part["columns"])
    totals = {each: total_of(each, value) for each, value in part["totals"].items()}
    return Part(name, part["title"], columns, amounts_of(part, columns), totals)
