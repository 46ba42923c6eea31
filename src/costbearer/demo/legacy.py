"""The log of the gateway that the demo's company had before: JSON lines as LiteLLM writes them, with its faults.

Most of it belongs to a key that nobody put a name to. Some streams cost nothing in it though their tokens stand beside,
and some cached tokens were charged like any others; both are planted, and their dollars are given back.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from costbearer import money
from costbearer.app import books, hashers, load_prices
from costbearer.audit.intake import taken
from costbearer.audit.run import Options, audit, facts
from costbearer.config import Config
from costbearer.contract import Prices
from costbearer.demo.cast import LEGACY_KEY, PLANTED
from costbearer.imports import batches, post
from costbearer.prices import Context
from costbearer.rating import rate
from costbearer.stores import secrets
from costbearer.stores.logs import Logs, workplace
from costbearer.usage import Usage, Work

NAMED_KEY = "sk-old-search"
TAIL_KEYS = 9
PER_DAY = 20
_FREE_STREAM = 40
_FULL_CACHE = 25
"""Every so many records."""
_SEED = "costbearer-demo-legacy-1"


class Faults(NamedTuple):
    """What is planted: records and the dollars that the log is wrong by, always too low or too high."""

    free_streams: int = 0
    free_usd: Decimal = money.ZERO
    full_caches: int = 0
    full_usd: Decimal = money.ZERO


def write(file: Path, prices: Prices) -> Faults:
    """Write the log; gives back what is planted in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = Faults()
    with file.open("w", encoding="utf-8") as handle:
        for record, free, full in _records(prices):
            handle.write(json.dumps(record) + "\n")
            found = Faults(
                found.free_streams + (free is not None),
                money.total((found.free_usd, free or money.ZERO)),
                found.full_caches + (full is not None),
                money.total((found.full_usd, full or money.ZERO)),
            )
    return found


def bring_in(config: Config, file: Path) -> int:
    """Import the log into the ledger, as `costbearer import` does. Gives how many calls were posted."""
    prices = load_prices(config.prices_dir)
    posted = 0
    with workplace() as work, books(config) as (ledger, bookkeeper, closed):
        bookkeeper.catch_up()
        logs = Logs(work)
        try:
            options = Options((str(file),), contract=prices.contract)
            intake = taken(logs, options.names, wanted=options.wanted, columns=None)
            evidence = facts(logs, prices.book, options, intake, lambda _: None)
            for batch in batches(evidence, intake, hashers(secrets.keyring(config.data))):
                posted += post(ledger, bookkeeper, batch, closed).posted
        finally:
            logs.close()
    return posted


def audited(config: Config, file: Path) -> list[dict[str, Any]]:
    """The findings of an audit of the log, as documents; the log is known by its name, wherever it lies."""
    prices = load_prices(config.prices_dir)
    with workplace() as work:
        logs = Logs(work)
        try:
            result = audit(logs, prices.book, Options((str(file),), contract=prices.contract))
        finally:
            logs.close()
    found: list[dict[str, Any]] = result.document()["findings"]
    return [{**each, "sample": [{**one, "file": file.name} for one in each["sample"]]} for each in found]


def _records(prices: Prices) -> Iterator[tuple[dict[str, Any], Decimal | None, Decimal | None]]:
    chance = random.Random(_SEED)  # noqa: S311  the same every time is what is wanted
    day = datetime(PLANTED.legacy[0].year, PLANTED.legacy[0].month, PLANTED.legacy[0].day, tzinfo=UTC)
    days = (PLANTED.legacy[1] - PLANTED.legacy[0]).days + 1
    for number in range(days * PER_DAY):
        at = day + timedelta(days=number // PER_DAY, seconds=chance.randrange(86_000))
        key, team, owner = _key(chance)
        small = key not in {LEGACY_KEY, NAMED_KEY}
        prompt = chance.randint(300, 900) if small else chance.randint(14_000, 30_000)
        answer = chance.randint(30, 120) if small else chance.randint(600, 1600)
        cached = round(prompt * 0.6) if number % 5 == 0 else 0
        usage = Usage(input_tokens=prompt, output_tokens=answer, cache_read_input_tokens=cached or None)
        right = _cost(prices, usage, at)
        free = right if number % _FREE_STREAM == 7 else None
        wrong = _cost(prices, Usage(input_tokens=prompt, output_tokens=answer), at)
        full = money.minus(wrong, right) if cached and number % _FULL_CACHE == 0 else None
        spend = money.ZERO if free is not None else wrong if full is not None else right
        yield _record(number, at, key, team, owner, usage, spend, streamed=free is not None), free, full


def _key(chance: random.Random) -> tuple[str, str | None, str | None]:
    luck = chance.random()
    if luck < 0.62:
        return LEGACY_KEY, None, None
    if luck < 0.92:
        return NAMED_KEY, "search", "maria.lopez"
    return f"sk-old-script-{chance.randrange(TAIL_KEYS) + 1}", None, None


def _cost(prices: Prices, usage: Usage, at: datetime) -> Decimal:
    work = (Work(model="gpt-4.1", usage=usage, largest_input_tokens=usage.input_tokens),)
    cost = rate("openai", work, Context(), at, prices.book).cost_usd
    assert cost is not None, "the model has a price"
    return cost


def _record(
    number: int,
    at: datetime,
    key: str,
    team: str | None,
    owner: str | None,
    usage: Usage,
    spend: Decimal,
    *,
    streamed: bool,
) -> dict[str, Any]:
    tokens = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
    details = {"prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens or 0}}
    total = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    return {
        "request_id": f"chatcmpl-old-{number:05d}",
        "call_type": "acompletion",
        "api_key": key,
        "spend": float(spend),
        "startTime": at.isoformat(),
        "endTime": (at + timedelta(seconds=4)).isoformat(),
        "model": "gpt-4.1",
        "model_group": "gpt-4.1",
        "custom_llm_provider": "openai",
        "litellm_trace_id": f"old-trace-{number // 3:05d}",
        "session_id": f"old-session-{number // 9:05d}",
        "stream": streamed,
        "status": "success",
        "cache_hit": "False",
        **tokens,
        "total_tokens": total,
        "metadata": {
            "usage_object": {**tokens, "total_tokens": total, **details},
            **({"user_api_key_team_alias": team, "user_api_key_user_id": owner} if team else {}),
        },
        "request_tags": [],
    }
