"""Who appears in the demo's history: six teams, 25 agents, 40 keys, their customers, and what is planted among them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

FIRST, LAST = date(2026, 8, 1), date(2026, 10, 31)
"""The first and the last day: 92 of them."""


class Agent(NamedTuple):
    """One agent: who owns it, what it calls how often, and how much goes in and comes out on average.

    `calls` are those of a working day; `cached` is the share of its input that is read from the provider's cache.
    `begins` names the agent whose runs it works in; None where it begins its own.
    """

    team: str
    name: str
    workload: str
    owner: str
    provider: str
    model: str
    calls: int
    prompt: int
    answer: int
    cached: float = 0.0
    keys: int = 2
    feature: str | None = None
    customers: bool = False
    begins: str | None = None


COST_CENTERS: Mapping[str, str] = {
    "support": "4100",
    "search": "4200",
    "payments": "4300",
    "growth": "4400",
    "platform": "4500",
    "research": "4600",
}
"""Team -> its cost center."""

AGENTS: tuple[Agent, ...] = (
    Agent(
        "support",
        "concierge",
        "live-chat",
        "aiko.tanaka",
        "openai",
        "gpt-4.1-mini",
        520,
        900,
        140,
        0.3,
        2,
        "chat",
        True,
    ),
    Agent(
        "support",
        "answerer",
        "live-chat",
        "aiko.tanaka",
        "openai",
        "gpt-4.1",
        360,
        1800,
        260,
        0.4,
        2,
        "chat",
        True,
        "concierge",
    ),
    Agent("support", "summarizer", "case-notes", "sam.okafor", "openai", "gpt-5-mini", 210, 2600, 220, 0.0, 2, "notes"),
    Agent(
        "support",
        "translator",
        "replies",
        "sam.okafor",
        "google",
        "gemini-2.5-flash",
        180,
        700,
        650,
        0.0,
        1,
        "translate",
    ),
    Agent(
        "support",
        "escalator",
        "live-chat",
        "aiko.tanaka",
        "anthropic",
        "claude-haiku-4-5",
        60,
        1500,
        120,
        0.0,
        1,
        None,
        True,
        "concierge",
    ),
    Agent("search", "ranker", "rerank-results", "maria.lopez", "openai", "gpt-4.1", 420, 1200, 40, 0.5, 2, "rerank"),
    Agent("search", "rewriter", "queries", "maria.lopez", "openai", "gpt-4.1-mini", 380, 350, 60, 0.0, 2, "rewrite"),
    Agent(
        "search",
        "answer-page",
        "answers",
        "jonas.weber",
        "google",
        "gemini-2.5-flash",
        240,
        3200,
        420,
        0.2,
        2,
        "answers",
    ),
    Agent(
        "search", "indexer", "nightly-index", "jonas.weber", "openai", "text-embedding-3-small", 300, 2200, 0, 0.0, 1
    ),
    Agent(
        "payments",
        "invoice-reader",
        "invoices",
        "priya.shah",
        "openai",
        "gpt-5-mini",
        260,
        2400,
        320,
        0.0,
        2,
        "extract",
        True,
    ),
    Agent(
        "payments",
        "fraud-check",
        "transactions",
        "priya.shah",
        "openai",
        "gpt-4.1-mini",
        310,
        1100,
        60,
        0.3,
        2,
        "fraud",
    ),
    Agent("payments", "dunning", "reminders", "tom.ellis", "openai", "gpt-4.1-mini", 70, 600, 240, 0.0, 1, "letters"),
    Agent("payments", "reconciler", "month-end", "tom.ellis", "anthropic", "claude-haiku-4-5", 50, 5200, 380, 0.0, 1),
    Agent(
        "growth", "campaign-writer", "newsletter", "lena.fischer", "openai", "gpt-4.1", 110, 900, 700, 0.0, 2, "copy"
    ),
    Agent("growth", "segmenter", "audiences", "lena.fischer", "openai", "gpt-4.1-mini", 140, 1600, 90, 0.0, 2),
    Agent("growth", "ad-tester", "ads", "nico.marin", "google", "gemini-2.5-flash", 120, 500, 300, 0.0, 1, "ads"),
    Agent("growth", "transcriber", "webinars", "nico.marin", "aws", "amazon.nova-lite-v1:0", 40, 9000, 900, 0.0, 1),
    Agent(
        "platform",
        "code-reviewer",
        "pull-requests",
        "ivo.novak",
        "anthropic",
        "claude-haiku-4-5",
        160,
        6400,
        520,
        0.5,
        2,
        "review",
    ),
    Agent(
        "platform",
        "test-writer",
        "pull-requests",
        "ivo.novak",
        "openai",
        "gpt-5-mini",
        90,
        4200,
        1400,
        0.0,
        1,
        None,
        False,
        "code-reviewer",
    ),
    Agent("platform", "log-explainer", "incidents", "grace.kim", "openai", "gpt-4.1-mini", 110, 3800, 260, 0.0, 2),
    Agent("platform", "doc-bot", "handbook", "grace.kim", "openai", "gpt-4.1-mini", 90, 2100, 310, 0.6, 1),
    Agent(
        "research",
        "planner",
        "deep-research",
        "yara.haddad",
        "anthropic",
        "claude-sonnet-4-5",
        45,
        2600,
        900,
        0.2,
        2,
        "research",
    ),
    Agent(
        "research",
        "reader",
        "deep-research",
        "yara.haddad",
        "anthropic",
        "claude-sonnet-4-5",
        130,
        7800,
        450,
        0.3,
        2,
        "research",
        False,
        "planner",
    ),
    Agent(
        "research",
        "writer",
        "deep-research",
        "yara.haddad",
        "anthropic",
        "claude-sonnet-4-5",
        45,
        9000,
        1800,
        0.2,
        1,
        "research",
        False,
        "planner",
    ),
    Agent("research", "evaluator", "benchmarks", "omar.said", "openai", "gpt-5-mini", 120, 1500, 500, 0.0, 1),
)
"""40 keys: `keys` of each agent, the first for production and the second for staging."""

CUSTOMERS = ("acme", "globex", "initech", "hooli", "vandelay")


class Planted(NamedTuple):
    """What is planted, and where."""

    price_change: date = date(2026, 9, 16)
    """The day on which the contract for `SONNET` ends: its prices rise by a quarter."""
    storm: tuple[date, date] = (date(2026, 9, 22), date(2026, 9, 24))
    """The days (both included) on which the provider answers `invoice-reader` late: every request is tried again."""
    new_customer: date = date(2026, 10, 5)
    """The first day of `umbrella`, a customer of the live chat."""
    model_switch: date = date(2026, 10, 1)
    """From then on the `ranker` asks for `gpt-4.1-mini` instead of `gpt-4.1`."""
    spoofed_from: date = date(2026, 9, 1)
    """From then on one key of `campaign-writer` says that its team is `search`."""
    legacy: tuple[date, date] = (date(2026, 8, 1), date(2026, 10, 31))
    """The days of the old gateway's log, with an untagged key, streams at $0 and a cache at full price."""


PLANTED = Planted()
SONNET = "claude-sonnet-4-5"
NEW_CUSTOMER = "umbrella"
SPOOFED_AGENT, SPOOFED_TEAM = "campaign-writer", "search"
LEGACY_KEY = "sk-old-reporting"
