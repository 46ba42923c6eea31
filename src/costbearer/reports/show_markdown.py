"""A table as Markdown, for an issue, a page or a message. Names in it can neither become markup nor break a row."""

from __future__ import annotations

import re
from collections.abc import Sequence

from costbearer.reports.show_text import span
from costbearer.reports.table import EMPTY, TEXTS, Part, Table, shown_row, total_row, visible

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>~&@$])")


def markdown(table: Table) -> str:
    """A heading, the period, the rows with their total, remarks, and the command that repeats it."""
    query = table.query
    lines = [f"### {escaped(table.title)}"]
    lines += [] if table.form.ever else ["", escaped(span(query.period.since, query.period.until, query.zone))]
    if query.compare is not None:
        compared = span(query.compare.since, query.compare.until, query.zone)
        lines += ["", f"compared with {escaped(compared)}"]
    for name, values in query.where:
        lines += ["", f"where {escaped(name)} = {' or '.join(map(escaped, values))}"]
    main = Part("", "", table.columns, table.rows, table.totals)
    lines += ["", EMPTY[table.empty]] if table.empty else ["", *_grid(main)]
    for part in table.parts:
        if part.rows:
            lines += ["", f"#### {escaped(part.title)}", "", *_grid(part)]
    for remark in table.remarks():
        lines += ["", escaped(remark)]
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", table.command)), default=0))
    lines += ["", f"reproduce: {fence} {visible(table.command)} {fence}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """The text as Markdown shows it, on one line, with what does not print written out."""
    return _MARKUP.sub(r"\\\1", visible(text))


def _grid(part: Part) -> list[str]:
    shown = [column for column in part.columns if column.title]
    names = [column.name for column in part.columns]
    lines = [_line([escaped(" ".join(column.title.split())) for column in shown])]
    lines.append(_line([":--" if column.kind in TEXTS else "--:" for column in shown]))
    rows = [shown_row(part.columns, dict(zip(names, row, strict=True))) for row in part.rows]
    lines += [_line([escaped(cell) for cell in row]) for row in rows]
    totals = total_row(part.columns, part.totals)
    if totals:
        foot = [escaped(cell) for cell in shown_row(part.columns, totals)]
        texts = [column.kind in TEXTS for column in shown]
        if any(texts):
            foot[texts.index(True)] = "total"
        lines.append(_line([f"**{cell}**" if cell else "" for cell in foot]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
