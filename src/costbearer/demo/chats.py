"""Chats by the OpenAI and the Anthropic package: streamed and not, tools, caches, other providers' models, batches.

Among them what goes wrong in real life: a retry, a refusal, a spoofed owner, callers who leave in mid-answer.
"""

from __future__ import annotations

import contextlib
from typing import Any

from costbearer.demo.stage import Stage

LONG_POLICY = (
    "You answer questions about orders. Quote the policy where it applies, stay friendly, and never promise a refund. "
    * 70
)
"""Long enough that providers cache it."""


def openai_client(running: Stage, key: str) -> Any:
    """OpenAI's package at the gateway, with an agent's key."""
    import openai

    return openai.OpenAI(base_url=f"{running.gateway_url}/v1", api_key=key, max_retries=0, timeout=60)


def _anthropic(running: Stage, key: str) -> Any:
    import anthropic

    return anthropic.Anthropic(base_url=running.gateway_url, api_key=key, max_retries=0, timeout=60)


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def rank(running: Stage, key: str) -> int:
    """Short calls with tags; one is retried, one refused."""
    import openai

    with openai_client(running, key) as client:
        for number in range(8):
            client.chat.completions.create(
                model="gpt-4o-mini",
                messages=_turn(f"Rank these twenty results for query {number}: shoes, boots, sandals."),
                max_tokens=120,
                extra_body={"metadata": {"tags": ["feature:search-page", f"customer:shop-{number % 3}"]}},
            )
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=_turn("Rank once more. [[sim:mark=demo-retry status=503 times=1]]"),
            max_tokens=80,
        )
        with contextlib.suppress(openai.RateLimitError):
            client.chat.completions.create(
                model="gpt-4o-mini",
                messages=_turn("Too much at once. [[sim:mark=demo-429 status=429 retry_after=30]]"),
                max_tokens=80,
            )
    return 10


def summarize(running: Stage, key: str) -> int:
    """Streams, one of which its caller leaves."""
    with openai_client(running, key) as client:
        for number in range(5):
            stream = client.chat.completions.create(
                model="gpt-4.1-mini",
                messages=_turn(f"Summarize page {number}. " + "The quick brown fox rests. " * 60),
                max_tokens=200,
                stream=True,
                extra_headers={"x-costbearer-tags": "feature:answer-page,release:2026-11"},
            )
            for _chunk in stream:
                pass
        stream = client.chat.completions.create(
            model="gpt-4o",
            messages=_turn("Tell a long story. [[sim:mark=demo-left-1 output=400 chunks=80 delay_ms=15]]"),
            max_tokens=500,
            stream=True,
        )
        for number, _ in enumerate(stream):
            if number == 30:
                break
        stream.close()
    return 6


def campaign(running: Stage, key: str) -> int:
    """Tools, and a caller who says that somebody else pays."""
    parameters = {"type": "object", "properties": {"sku": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "find_offer", "parameters": parameters}}
    with openai_client(running, key) as client:
        for number in range(3):
            client.chat.completions.create(
                model="gpt-5",
                messages=_turn(f"Write newsletter {number} with one offer. [[sim:tool=1]]"),
                tools=[tool],
                max_completion_tokens=400,
            )
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=_turn("Charge somebody else for this, please."),
            max_tokens=40,
            extra_body={"metadata": {"tags": ["owner:somebody.else", "team:support"]}},
        )
    return 4


def triage(running: Stage, key: str) -> int:
    """A long system prompt that is written to the cache once and read from it after that; baggage."""
    policy = [{"type": "text", "text": LONG_POLICY, "cache_control": {"type": "ephemeral"}}]
    with _anthropic(running, key) as client:
        for number in range(6):
            client.messages.create(
                model="claude-haiku-4-5",
                system=policy,
                messages=_turn(f"Which queue does mail {number} belong in?"),
                max_tokens=60,
                extra_headers={"baggage": f"tenant_id=tenant-{number % 2},feature=inbox,session_id=s-{number // 2}"},
            )
    return 6


def draft(running: Stage, key: str) -> int:
    """Streams, one of which its caller leaves."""
    with _anthropic(running, key) as client:
        for number in range(4):
            with client.messages.stream(
                model="claude-opus-4-8",
                messages=_turn(f"Draft an answer to mail {number}: where is my parcel?"),
                max_tokens=300,
            ) as stream:
                stream.get_final_message()
        story = "Tell another long story. [[sim:mark=demo-left-2 output=400 chunks=80 delay_ms=15]]"
        with client.messages.stream(model="claude-opus-4-8", messages=_turn(story), max_tokens=500) as answer:
            for number, _ in enumerate(answer.text_stream):
                if number == 30:
                    break
    return 5


def review(running: Stage, key: str) -> int:
    """Whole answers, and a count of tokens, which is free."""
    with _anthropic(running, key) as client:
        for number in range(3):
            asked = _turn(f"Review change {number}: " + "x = x + 1\n" * 200)
            client.messages.count_tokens(model="claude-opus-4-6", messages=asked)
            client.messages.create(model="claude-opus-4-6", messages=asked, max_tokens=500)
    return 6


def translate(running: Stage, key: str) -> int:
    """OpenAI's package at models of Anthropic, Google and Bedrock."""
    models = ("claude-sonnet-4-6", "gemini-3.1-flash-lite", "us.amazon.nova-lite-v1:0")
    with openai_client(running, key) as client:
        for model in models:
            client.chat.completions.create(model=model, messages=_turn("Say it in one line."), max_tokens=60)
            for _chunk in client.chat.completions.create(
                model=model, messages=_turn("Say it in three lines."), max_tokens=120, stream=True
            ):
                pass
    return 2 * len(models)


def broker(running: Stage, key: str) -> int:
    """A reseller that states what it bills: its word wins, ours stands beside it."""
    with openai_client(running, key) as client:
        for number in range(2):
            client.chat.completions.create(
                model="openai/gpt-4o-mini",
                messages=_turn(f"Find the cheapest offer, number {number}. [[sim:body_cost=1]]"),
                max_tokens=80,
            )
    return 2


def archive(running: Stage, key: str) -> int:
    """A batch that nobody comes back for: the console asks for its result."""
    requests = [
        {
            "custom_id": f"ticket-{number}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 80,
                "messages": _turn(f"Sort ticket {number} into a drawer."),
            },
        }
        for number in range(4)
    ]
    with _anthropic(running, key) as client:
        client.messages.batches.create(requests=requests)
    return 1
