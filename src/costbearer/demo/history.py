"""The demo's history: about 300,000 calls of 92 days, always the same ones, recorded through the books' own journal.

Every call is rated by the price archive and the demo's contract on its own day, like any other; nothing here says what
a call costs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from costbearer import money
from costbearer.app import books, load_prices, prepare
from costbearer.config import Config
from costbearer.contract import Prices
from costbearer.demo import legacy
from costbearer.demo.cast import (
    AGENTS,
    COST_CENTERS,
    CUSTOMERS,
    FIRST,
    LAST,
    NEW_CUSTOMER,
    PLANTED,
    SONNET,
    SPOOFED_AGENT,
    SPOOFED_TEAM,
    Agent,
)
from costbearer.errors import Conflict
from costbearer.figures import Figure
from costbearer.ledger import Claim, Entry, Field
from costbearer.price_desk import Desk
from costbearer.prices import Context
from costbearer.rating import rate
from costbearer.stores.control import Actor, Control
from costbearer.stores.directory import Directory
from costbearer.stores.findings import Findings
from costbearer.stores.rows import Posted, table_of
from costbearer.stores.views import Views
from costbearer.usage import Usage, Work

SEED = "costbearer-demo-1"
DAYS_AT_ONCE = 12
PROCESSES = 2
ACTOR = Actor("demo", "demo", "demo")
FIGURE = "tickets"
LOG = Path("logs") / "litellm.jsonl"
"""Where the log of the gateway before is kept, below the data directory."""
_WORKDAYS = 5
_WEEKEND = 0.35
_HOURS = (1, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 10, 9, 11, 12, 11, 9, 7, 5, 4, 3, 2, 1, 1)
"""How busy each hour of a day is (UTC)."""
_BUSY = 0.86
"""How much of its usual calls an agent makes on an average day."""
_FAILED = 0.008
_LOST = 0.0004
_BOUND = money.usd("0.05")
_ADAPTERS: Mapping[str, str] = {"google": "gemini", "aws": "bedrock"}
"""Where the gateway's name for a provider is not that of the price archive."""


class _Key(NamedTuple):
    """A key of an agent."""

    key_id: str
    env: str


class _Run(NamedTuple):
    """A trace that other agents may work in."""

    trace_id: str
    session_id: str
    started_at: datetime
    customer: str | None


def write(config: Config, say: Callable[[str], None] = lambda _: None) -> int:
    """Record the whole history in a data directory that has none. Gives how many entries were posted.

    Raises:
        Conflict: the directory holds entries.
        DataDirectoryBusy: a server runs on it.
    """
    prepare(config)
    agree_prices(config.prices_dir)
    posted = 0
    with books(config) as (ledger, bookkeeper, _):
        bookkeeper.catch_up()
        if ledger.positions():
            raise Conflict(f"{config.data} holds entries; the history is written into an empty directory")
        for table in tables(config.prices_dir):
            posted += bookkeeper.record(table)
            say(f"{posted:,} calls are posted")
    log = config.data / LOG
    legacy.write(log, load_prices(config.prices_dir))
    posted += legacy.bring_in(config, log)
    say(f"{posted:,} with the log of the gateway before, {log}")
    with Control.open(config.control_file) as control:
        Directory(control.database).keep_figure(FIGURE, figures(), ACTOR)
        Findings(control.database).keep(log.name, legacy.audited(config, log), ACTOR)
        _look_at(Views(control.database))
    return posted


def _look_at(views: Views) -> None:
    """What the company's people have written down and saved."""
    change = PLANTED.price_change
    views.annotate(change, f"the discount on {SONNET} ended", ("model", SONNET), ACTOR)
    views.annotate(change, "new contract with Anthropic", None, ACTOR)
    asked = "by=day,agent&where=team%3Dresearch&since=2026-09&until=2026-10"
    views.save("Research in September", "/explore", asked, "what the new prices did", ACTOR)


def agree_prices(prices_dir: Path) -> None:
    """20 % off the one model, until the contract ends: then its prices rise by a quarter."""
    desk = Desk(prices_dir)
    term = {"provider": "anthropic", "model": SONNET, "discount": "20", "since": "2026-01-01"}
    desk.set_term({**term, "until": PLANTED.price_change.isoformat()}, by=ACTOR)


def figures() -> list[Figure]:
    """Support tickets per day and customer: a business figure to divide costs by."""
    found = []
    for day in _days():
        chance = random.Random(f"{SEED}/{FIGURE}/{day}")  # noqa: S311  the same every time is what is wanted
        served = (*CUSTOMERS, *([NEW_CUSTOMER] if day >= PLANTED.new_customer else []))
        found += [Figure(day, Decimal(chance.randint(4, 30)), customer) for customer in served]
    return found


def _days() -> Iterator[date]:
    day = FIRST
    while day <= LAST:
        yield day
        day += timedelta(days=1)


def tables(prices_dir: Path) -> Iterator[pa.Table]:
    """The history piece by piece, in order. Days do not depend on each other, so two processors make them."""
    days = list(_days())
    pieces = [days[at : at + DAYS_AT_ONCE] for at in range(0, len(days), DAYS_AT_ONCE)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        yield from pool.map(table_of_days, [prices_dir] * len(pieces), pieces)


def table_of_days(prices_dir: Path, days: list[date]) -> pa.Table:
    return table_of(Posted(0, entry) for entry in entries(load_prices(prices_dir), days))


def entries(prices: Prices, days: Iterable[date] | None = None) -> Iterator[Entry]:
    """Every call of these days, of all unless given, in order; the same ones every time."""
    rated = _Rater(prices)
    for day in _days() if days is None else days:
        runs: dict[str, list[_Run]] = {}
        # Those who begin runs come before those who work in them.
        for agent in sorted(AGENTS, key=lambda each: each.begins is not None):
            yield from _day_of(agent, day, runs, rated)


class _Rater:
    """Rates a call, and remembers nothing: prices are asked per call, as the gateway does."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    def costs(self, agent: Agent, model: str, usage: Usage, at: datetime) -> dict[str, Any]:
        work = (Work(model=model, usage=usage, largest_input_tokens=usage.input_tokens),)
        rating = rate(agent.provider, work, Context(), at, self._prices.book, self._prices.contract)
        assert rating.cost_usd is not None, f"{model} has a price on {at:%Y-%m-%d}"
        listed = money.total(charge.list_cost_usd for charge in rating.charges)
        return {
            "charges": rating.charges,
            "cost_usd": rating.cost_usd,
            "list_cost_usd": listed,
            "effective_cost_usd": rating.cost_usd,
            "computed_cost_usd": rating.cost_usd,
            "basis": "metered",
        }


def _day_of(agent: Agent, day: date, runs: dict[str, list[_Run]], rated: _Rater) -> Iterator[Entry]:
    chance = random.Random(f"{SEED}/{agent.name}/{day}")  # noqa: S311
    size = agent.calls * _BUSY * (1.0 if day.weekday() < _WORKDAYS else _WEEKEND) * chance.uniform(0.93, 1.07)
    own: list[_Run] = runs.setdefault(agent.name, [])
    begun = runs.get(agent.begins or "", [])
    for place in range(round(size)):
        key = _key(agent, chance)
        run = _run_of(agent, day, own, begun, chance, place)
        yield from _request(agent, key, run, day, chance, rated, f"{day:%m%d}{AGENTS.index(agent):02d}{place:05d}")
    if agent.name in _WITH_NEW_CUSTOMER and day >= PLANTED.new_customer:
        for place in range(round(size * 0.45)):
            key = _key(agent, chance)
            theirs = runs.setdefault(NEW_CUSTOMER, [])
            if agent.begins is None or not theirs:
                begin, trace = _moment(day, chance), f"{chance.getrandbits(128):032x}"
                theirs.append(_Run(trace, f"ses_{chance.getrandbits(40):010x}", begin, NEW_CUSTOMER))
                run = theirs[-1]
            else:
                run = chance.choice(theirs)
                run = run._replace(started_at=_same_day(run.started_at, timedelta(seconds=chance.uniform(1, 40))))
            name = f"{day:%m%d}{AGENTS.index(agent):02d}{90_000 + place:05d}"
            yield from _request(agent, key, run, day, chance, rated, name)


_WITH_NEW_CUSTOMER = frozenset({"concierge", "answerer"})


def _key(agent: Agent, chance: random.Random) -> _Key:
    staging = agent.keys > 1 and chance.random() < 0.12
    return _Key(f"key_{agent.name}_{'staging' if staging else 'prod'}", "staging" if staging else "prod")


def _moment(day: date, chance: random.Random) -> datetime:
    (hour,) = chance.choices(range(24), weights=_HOURS)
    seconds = timedelta(hours=hour, seconds=chance.randrange(3600), milliseconds=chance.randrange(1000))
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + seconds


def _run_of(agent: Agent, day: date, own: list[_Run], begun: list[_Run], chance: random.Random, place: int) -> _Run:
    """The trace a request belongs to: one that another agent began, the one before, or a new one."""
    if begun:
        run = chance.choice(begun)
        return run._replace(started_at=_same_day(run.started_at, timedelta(seconds=chance.uniform(1, 40))))
    if own and place % 3:
        return own[-1]._replace(started_at=_same_day(own[-1].started_at, timedelta(seconds=chance.uniform(1, 20))))
    customer = chance.choice(CUSTOMERS) if agent.customers else None
    session = own[-1].session_id if own and chance.random() < 0.3 else f"ses_{chance.getrandbits(40):010x}"
    own.append(_Run(f"{chance.getrandbits(128):032x}", session, _moment(day, chance), customer))
    return own[-1]


def _same_day(moment: datetime, later: timedelta) -> datetime:
    found = moment + later
    return found if found.date() == moment.date() else moment


def _request(
    agent: Agent, key: _Key, run: _Run, day: date, chance: random.Random, rated: _Rater, name: str
) -> Iterator[Entry]:
    """The attempts of one request: one, unless the provider is overloaded."""
    model = "gpt-4.1-mini" if agent.name == "ranker" and day >= PLANTED.model_switch else agent.model
    storm = agent.name == "invoice-reader" and PLANTED.storm[0] <= day <= PLANTED.storm[1]
    usage = _usage(agent, chance)
    common = {
        **_said(agent, key, run, day),
        "request_id": f"req_{name}",
        "request_model": model,
        "trace_id": run.trace_id,
    }
    at = run.started_at
    attempts = 1 + (chance.randint(1, 3) if storm else 0)
    for attempt in range(1, attempts + 1):
        last = attempt == attempts
        values = common | {
            "call_id": f"call_{name}_{attempt}",
            "attempt": attempt,
            "reason": None if attempt == 1 else "retry",
            "requests": 1 if attempt == 1 else 0,
            "started_at": at,
        }
        if not last:
            # The caller gave up waiting, and the provider bills what it had read.
            spent = Usage(input_tokens=usage.input_tokens, output_tokens=0)
            yield _ended(values, spent, rated.costs(agent, model, spent, at), "cancelled", chance, model)
        else:
            yield _outcome(agent, values, usage, rated, chance, model)
        at = _same_day(at, timedelta(seconds=chance.uniform(8, 30)))


def _outcome(
    agent: Agent, values: Mapping[str, Any], usage: Usage, rated: _Rater, chance: random.Random, model: str
) -> Entry:
    luck = chance.random()
    if luck < _LOST:
        unknown = {"basis": "unknown", "reason_unknown": "writer_died", "bound_usd": _BOUND, "status": "unknown"}
        return Entry(journal="", sequence=0, **{**values, **unknown})
    if luck < _LOST + _FAILED:
        nothing = {"cost_usd": money.ZERO, "list_cost_usd": money.ZERO, "effective_cost_usd": money.ZERO}
        refused = nothing | {"computed_cost_usd": money.ZERO, "basis": "metered", "status": "error", "http_status": 400}
        ended = values["started_at"] + timedelta(milliseconds=90)
        more = {"ended_at": ended, "duration_ms": 90, "error_code": "invalid_request"}
        return Entry(journal="", sequence=0, **{**values, **refused, **more})
    return _ended(values, usage, rated.costs(agent, model, usage, values["started_at"]), "ok", chance, model)


def _ended(
    values: Mapping[str, Any], usage: Usage, costs: Mapping[str, Any], status: str, chance: random.Random, model: str
) -> Entry:
    took = 200 + (usage.output_tokens or 0) * 9 + chance.randrange(400)
    ended = {
        "ended_at": values["started_at"] + timedelta(milliseconds=took),
        "duration_ms": took,
        "first_byte_ms": 150 + chance.randrange(200),
        "status": status,
        "http_status": 200 if status == "ok" else None,
        "response_model": model,
        "provider_response_id": f"resp_{chance.getrandbits(64):016x}",
        "usage": usage,
        "tier": "default" if values["provider"] == "openai" else None,
    }
    return Entry(journal="", sequence=0, **{**values, **ended, **costs})


def _usage(agent: Agent, chance: random.Random) -> Usage:
    prompt = max(8, round(agent.prompt * chance.uniform(0.6, 1.4)))
    if not agent.answer:
        return Usage(input_tokens=prompt)
    cached = round(prompt * agent.cached * chance.uniform(0.8, 1.2)) if agent.cached else 0
    answer = max(4, round(agent.answer * chance.uniform(0.5, 1.5)))
    return Usage(input_tokens=prompt, output_tokens=answer, cache_read_input_tokens=cached or None)


def _said(agent: Agent, key: _Key, run: _Run, day: date) -> dict[str, Any]:
    """Labels, what the caller said beside them, and who vouches for each."""
    labels = {"owner": agent.owner, "team": agent.team, "agent": agent.name, "workload": agent.workload}
    verified = labels | {"project": agent.workload, "cost_center": COST_CENTERS[agent.team], "env": key.env}
    asserted = {"feature": agent.feature, "customer": run.customer, "session_id": run.session_id}
    fields = {name: Field(value, "verified", "key") for name, value in verified.items()}
    fields |= {name: Field(value, "asserted", "body") for name, value in asserted.items() if value is not None}
    if agent.name == SPOOFED_AGENT and key.env == "prod" and day >= PLANTED.spoofed_from:
        fields["team"] = Field(agent.team, "verified", "key", (Claim(SPOOFED_TEAM, "body"),))
    provider = _ADAPTERS.get(agent.provider, agent.provider)
    return {
        **verified,
        **asserted,
        "key_id": key.key_id,
        "key_team": agent.team,
        "attribution": fields,
        "provider": provider,
        "price_provider": agent.provider if provider != agent.provider else None,
        "operation": "chat" if agent.answer else "embeddings",
    }
