"""The directory that forms choose from: owners, teams, agents and workloads that there are, and new ones as an act."""

from __future__ import annotations

from collections.abc import Mapping

from costbearer.console.pages.forms_of import Posted
from costbearer.console.pages.parts import Parts
from costbearer.console.pages.report_pages import tables_of
from costbearer.labels import folded
from costbearer.ledger import LABELS
from costbearer.reports import question
from costbearer.reports.dimensions import NONE, REST

SINCE = "400d"
NAMES_MAX = 10_000
NEW = "_new"
"""What a field for a new name ends in."""

Names = Mapping[str, list[str]]


def names_of(parts: Parts) -> Names:
    """Label -> the names it has on keys, in the ownership map and in the ledger, in order."""
    found: dict[str, set[str]] = {label: set() for label in LABELS}
    records, following = parts.control.page()
    while True:
        for record in records:
            for label in LABELS:
                found[label].add(getattr(record.labels, label))
        if following is None:
            break
        records, following = parts.control.page(after=following)
    for row in parts.directory.owners():
        for label, name in row.gives.items():
            found[label].add(name)
    pairs = [("by", ",".join(LABELS)), ("since", SINCE), ("limit", str(NAMES_MAX))]
    query = question("spend", pairs, now=parts.now(), home=parts.home)
    others = parts.beside()
    with parts.open_reader() as reader:
        table = tables_of(reader, others, {"names": query})["names"]
    for row_ in table.rows:
        for label, value in zip(LABELS, row_, strict=False):
            found[label].add(str(value))
    return {label: sorted(values - {NONE, REST}, key=str.casefold) for label, values in found.items()}


def chosen(posted: Posted, names: Names) -> tuple[dict[str, object], dict[str, str]]:
    """(the four labels of a form, what is wrong with them). A name that is not in the directory is a new one only
    where it was typed as such, and not where it is one of the directory's in other clothes."""
    labels: dict[str, object] = {}
    faults: dict[str, str] = {}
    for label in LABELS:
        picked, new = posted.text(label), posted.text(label + NEW)
        if picked and new:
            faults[label] = f"both {picked!r} and a new one, {new!r}: which?"
        elif new:
            alike = next((name for name in names[label] if folded(name) == folded(new)), None)
            if alike is not None:
                faults[label] = f"there is {alike!r} already; choose it from the list"
            labels[label] = new
        elif picked:
            if picked not in names[label]:
                faults[label] = f"{picked!r} is not in the directory; add it as a new one"
            labels[label] = picked
    return labels, faults
