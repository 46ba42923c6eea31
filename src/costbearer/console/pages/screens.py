"""The screens that show a report: where each stands, which report it is, and what it is asked unless told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from costbearer.reports import REPORTS
from costbearer.reports.query import Form


class Screen(NamedTuple):
    """`asked` are parameters where the address has none of that name; `lead` says what the page is for. `frame_first`:
    the report takes long enough for the frame to be sent before, and nothing that it is asked can be refused then."""

    path: str
    title: str
    report: str
    lead: str
    asked: Mapping[str, str] = {}
    frame_first: bool = False

    @property
    def form(self) -> Form:
        return REPORTS[self.report].form


ROWS, ROWS_OVER_TIME = "100", "5000"
"""Rows that a page asks for unless its address says how many: what lies behind is one row, and the files have all of
them. Along time all are wanted: a day without its smaller rows is no day."""

SCREENS: Mapping[str, Screen] = {
    screen.path: screen
    for screen in (
        Screen(
            "/explore", "Explore", "spend", "What was spent, by anything, down to the single entry.", {"limit": ROWS}
        ),
        Screen(
            "/why",
            "Why",
            "explain",
            "Every dollar of a change by its cause, nothing left over.",
            {"limit": ROWS, "per": "day"},
        ),
        Screen(
            "/chargeback", "Chargeback", "chargeback", "What each team bears, and what its month will cost.", {}, True
        ),
        Screen("/top-keys", "Top keys", "top-keys", "The keys that the spend is concentrated on."),
        Screen(
            "/agents",
            "Agents",
            "agents",
            "Team, agent and workload: what each costs by itself, with all below it, and per run.",
            {"by": "team,agent,workload", "limit": ROWS},
            True,
        ),
        Screen("/owner", "Owner", "owner", "One page for one owner: what is theirs, why it changed, what is open."),
        Screen(
            "/customers",
            "Customers",
            "unit-cost",
            "What it costs to serve each customer, per request and per business figure.",
            {"limit": ROWS},
        ),
        Screen("/models", "Models", "models", "Models by what they cost and how they do, and what others would cost."),
        Screen(
            "/coverage",
            "Coverage",
            "coverage",
            "How much of the spend is attributed, by whom it is vouched for.",
            {},
            True,
        ),
        Screen("/unknown", "Unknown", "unknown", "Calls whose cost is not known, and what makes it known."),
        Screen("/entries", "Entries", "entries", "The entries behind a number, the dearest first.", {"limit": ROWS}),
        Screen(
            "/traces",
            "Traces",
            "spend",
            "Runs of agents, the dearest first; each opens as a tree of its calls.",
            {"by": "trace", "limit": ROWS},
        ),
        Screen("/trace", "Trace", "trace", "One run as a tree of its calls."),
        Screen("/session", "Session", "session", "One session as a tree of its traces, requests and calls."),
        Screen("/request", "Request", "request", "Every attempt of one request."),
        Screen("/receipt", "Receipt", "receipt", "One charge traced to its ground."),
    )
}
"""By path."""


class Place(NamedTuple):
    """An entry of the navigation. `carries` says whether it keeps the period and the filter of the page before."""

    path: str
    title: str
    carries: bool = True


NAVIGATION: Mapping[str, tuple[Place, ...]] = {
    "": (Place("/", "Overview"),),
    "Spend": (
        Place("/explore", "Explore"),
        Place("/why", "Why"),
        Place("/chargeback", "Chargeback"),
        Place("/top-keys", "Top keys"),
        Place("/agents", "Agents"),
        Place("/customers", "Customers"),
        Place("/models", "Models"),
        Place("/traces", "Traces"),
    ),
    "Trust": (
        Place("/coverage", "Coverage"),
        Place("/unknown", "Unknown"),
        Place("/backfill", "Backfill", carries=False),
        Place("/findings", "Findings", carries=False),
    ),
    "Run": (
        Place("/keys", "Keys", carries=False),
        Place("/prices", "Prices", carries=False),
        Place("/views", "Views", carries=False),
    ),
}
"""Headings and what stands below each."""

CARRIED = ("since", "until", "where", "tz")
"""What the navigation takes along."""
