"""The ledger against the books the simulated providers kept: agent by agent, so SDK by SDK and API by API."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from costbearer import money
from costbearer.demo.acts import ACTS
from costbearer.demo.stage import Stage
from costbearer.simulator import Line

POST_TIMEOUT_S = 30.0
POLL_S = 0.3
EXACT = frozenset({"metered", "provider_cost"})


@dataclass
class Row:
    """The exact calls of one agent: what the ledger says they cost, and what was billed for them."""

    title: str
    calls: int = 0
    ledger: Decimal = money.ZERO
    books: Decimal = money.ZERO

    @property
    def holds(self) -> bool:
        return self.ledger == self.books


@dataclass(frozen=True)
class Comparison:
    """The whole comparison. `estimated` has (title, model, ledger, books) of the calls that were cut off;
    `left_out` says why an act was not played."""

    rows: list[Row]
    estimated: list[tuple[str, str, Decimal, Decimal]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(row.holds for row in self.rows) and not self.unmatched

    @property
    def total(self) -> Row:
        """All rows together."""
        return Row(
            "together",
            sum(row.calls for row in self.rows),
            money.total(row.ledger for row in self.rows),
            money.total(row.books for row in self.rows),
        )


def compare(entries: Iterable[Mapping[str, Any]], lines: Iterable[Line], left_out: Mapping[str, str]) -> Comparison:
    """Join every billed line of the books to what the ledger says of that call, by the provider's id of it, or by the
    mark that the caller gave to both where the provider's replies carry none.

    A call that was settled later has three entries: the one that did not know its cost, its reversal and its
    replacement. They are one call here as in every report.
    """
    billed = {line.request_id: line for line in lines if line.billed}
    request_of = {name: line.request_id for line in billed.values() for name in _names(line)}
    calls: dict[str, list[Mapping[str, Any]]] = {}
    unmatched: list[str] = []
    for entry in entries:
        known = request_of.get(entry["provider_request_id"] or f"mark:{entry['tags'].get('mark')}")
        if known is not None:
            calls.setdefault(known, []).append(entry)
        elif entry["cost_usd"] and Decimal(entry["cost_usd"]):
            unmatched.append(f"in the ledger, not billed: {entry['entry_id']}")
    rows = {act.agent: Row(act.title) for act in ACTS if act.agent not in left_out}
    estimated: list[tuple[str, str, Decimal, Decimal]] = []
    for request_id, line in billed.items():
        posted = calls.get(request_id)
        if not posted:
            unmatched.append(f"billed, not in the ledger: {request_id} ({line.operation})")
            continue
        cost = money.total(money.usd(entry["cost_usd"]) for entry in posted if entry["cost_usd"])
        last = _standing(posted)
        if last["basis"] in EXACT:
            row = rows[last["agent"]]
            row.calls, row.ledger = row.calls + 1, money.total([row.ledger, cost])
            row.books = money.total([row.books, money.usd(line.cost)])
        elif last["basis"] == "estimated":
            estimated.append((rows[last["agent"]].title, last["request_model"], cost, line.cost))
        else:
            unmatched.append(f"billed, of unknown cost in the ledger: {request_id} ({last['reason_unknown']})")
    titles = {act.agent: act.title for act in ACTS}
    return Comparison(
        rows=list(rows.values()),
        estimated=estimated,
        unmatched=unmatched,
        left_out=[f"{titles[agent]}: {why}" for agent, why in left_out.items()],
    )


def _standing(posted: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the entries of a call the one that counts: not taken back, and not what takes back."""
    reversed_ones = {entry["refers_to"] for entry in posted if entry["calls"] < 0}
    standing = [entry for entry in posted if entry["calls"] > 0 and entry["entry_id"] not in reversed_ones]
    return standing[-1] if standing else posted[-1]


def _names(line: Line) -> list[str]:
    """What an entry may know a line of the books by."""
    return [line.request_id, *([line.response_id] if line.response_id else []), f"mark:{line.mark}"]


def await_posted(running: Stage, left_out: Mapping[str, str]) -> Comparison:
    """Compare once everything the providers billed is posted and settled, or as things stand when it never is."""
    end = time.monotonic() + POST_TIMEOUT_S
    while True:
        outcome = compare(running.entries(), running.simulator.books(), left_out)
        if outcome.holds or time.monotonic() > end:
            return outcome
        time.sleep(POLL_S)


def verdict(outcome: Comparison) -> list[str]:
    """What the comparison says, in lines for people."""
    shown = [*outcome.rows, outcome.total]
    width = max(len(row.title) for row in shown)
    lines = ["Against the providers' own books", f"  {'SDK, API':{width}}  calls  {'ledger':>15}  {'books':>15}"]
    for row in shown:
        relation = "equal to the last digit" if row.holds else "NOT EQUAL"
        lines.append(
            f"  {row.title:{width}}  {row.calls:>5}  {money.text(row.ledger):>15}  {money.text(row.books):>15}"
            f"  {relation}"
        )
    for title, model, ours, theirs in outcome.estimated:
        error = money.share(money.minus(ours, theirs), theirs)
        off = "" if error is None else f"   error {error:+.1%}"
        lines.append(
            f"  estimated  {title}, {model}, its caller left: ledger {money.display(ours)}   "
            f"books {money.display(theirs)}{off}"
        )
    lines += [f"  left out   {why}" for why in outcome.left_out]
    lines += [f"  {fault}" for fault in outcome.unmatched]
    return lines
