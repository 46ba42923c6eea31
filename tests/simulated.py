"""Calls that were really made: traffic at the simulated providers, told by the books they kept for themselves.

Prompts that repeat, prompts that are cached, writes to caches, attempts that fail and are made again. What each call
cost is what the provider billed; nothing of the product had a part in it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import httpx2

from costbearer.simulator import running_simulator
from costbearer.simulator.books import Line
from tests.usagelogs import Call

CALLS = 120
_TEAMS = ("search", "support", "billing")


@cache
def traffic() -> tuple[Call, ...]:
    """The same calls for every test of a process."""
    draw = random.Random(5)
    with running_simulator() as simulator, httpx2.Client(trust_env=False) as client:
        for number in range(CALLS):
            _call(client, simulator, number, draw)
        lines = [line for line in simulator.books() if line.mark]
    calls = [_told(place, line) for place, line in enumerate(lines)]
    for call, line in zip(calls, lines, strict=True):
        assert call.cost_usd == line.cost, (call, line)
    return tuple(calls)


def _call(client: httpx2.Client, simulator: Any, number: int, draw: random.Random) -> None:
    model = draw.choice(("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-6"))
    # Every fifth prompt is one that was sent before, word for word.
    text = "The tides of a harbour. " * (40 if number % 5 == 0 else draw.randint(5, 400))
    orders = f"mark=c{number} output={draw.randint(5, 300)}"
    if draw.random() < 0.4:
        orders += f" cached={draw.randint(1, 20)}"
    if number % 17 == 3:
        orders += " status=500 times=1"
    for _ in range(2 if "times=1" in orders else 1):
        if model.startswith("claude"):
            _anthropic(client, simulator, model, text, orders, number)
        else:
            body = {"model": model, "messages": [{"role": "user", "content": f"{text}[[sim:{orders}]]"}]}
            headers = {"authorization": f"Bearer {simulator.credential}"}
            client.post(f"{simulator.openai_base_url}/chat/completions", json=body, headers=headers)


def _anthropic(client: httpx2.Client, simulator: Any, model: str, text: str, orders: str, number: int) -> None:
    block: dict[str, Any] = {"type": "text", "text": f"{text} {number % 7}"}
    if number % 2:
        block["cache_control"] = {"type": "ephemeral"}
        orders = " ".join(word for word in orders.split() if not word.startswith("cached"))
    messages = [{"role": "user", "content": f"Go on. [[sim:{orders}]]"}]
    body = {"model": model, "max_tokens": 1000, "system": [block], "messages": messages}
    headers = {"x-api-key": simulator.credential, "anthropic-version": "2023-06-01"}
    client.post(f"{simulator.anthropic_base_url}/v1/messages", json=body, headers=headers)


def _told(place: int, line: Line) -> Call:
    """A line of the books as a call."""
    usage = line.usage if line.billed and line.usage else {}
    number = int(line.mark.removeprefix("c"))
    if line.provider == "anthropic":
        read, written = usage.get("cache_read_input_tokens", 0), usage.get("cache_creation_input_tokens", 0)
        given, made = usage.get("input_tokens", 0) + read + written, usage.get("output_tokens", 0)
    else:
        read = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        given, made, written = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), 0
    call = Call(
        place,
        line.request_model or "",
        given,
        made,
        cached=read,
        written=written,
        started_at=line.at,
        team=_TEAMS[number // 2 % 3],
        session=f"s-{number // 4}",
        trace=f"trace-{number // 2}",
        tenant=f"t-{number % 9}",
        status="ok" if line.billed else "error",
        response=line.response_id or "",
    )
    return replace(call, request=f"r-{number}", attempt=2 if line.billed else 1) if number % 17 == 3 else call
