"""How an Anthropic reply is made: of one sampling, or of several that read and write each other's tokens.

A loop of the web_search tool samples once more after every search, over a prompt that has grown by the answer so far
and the results. Compaction samples once over the long prompt and once over its summary; an advisor is another model
asked in between; a fallback is a second model after the first declined. Only these three tell of it in `iterations`,
where the top-level counts leave out what compaction, the advisor and the declined model used. All of it is billed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from costbearer.simulator.prices import Card, PriceList, Sampling
from costbearer.simulator.reply import Ask
from costbearer.simulator.text import slices

OUTPUT_TOKENS_MIN = 8
OUTPUT_TOKENS_SPREAD = 120
ADVISOR = "claude-opus-4-8"
FALLBACK = "claude-opus-4-8"
FALLBACK_OF_FALLBACK = "claude-sonnet-4-5"


@dataclass(frozen=True, slots=True)
class Service:
    """How a call was served, as its usage states it."""

    tier: str
    speed: str
    geo: str
    states_speed: bool


@dataclass(frozen=True, slots=True)
class Course:
    """All samplings of a reply in order. `searches` happen between them; `thinking` is in the last one's output.

    `limited` says that `max_tokens` ended it. `kind` is the order `iterations=`, if there was one.
    """

    samplings: tuple[Sampling, ...]
    searches: int
    thinking: int
    limited: bool
    kind: str | None

    @property
    def tokens(self) -> int:
        """All tokens that are generated, by whichever model."""
        return sum(sampling.output for sampling in self.samplings)

    def until(self, generated: int) -> tuple[list[Sampling], int]:
        """The samplings begun once so many tokens were generated, with their output so far, and the searches."""
        begun: list[Sampling] = []
        left = generated
        for index, sampling in enumerate(self.samplings):
            if index and not left and generated < self.tokens:
                break
            output = min(left, sampling.output)
            begun.append(replace(sampling, output=output))
            left -= output
            if output < sampling.output:
                break
        ended = len(begun) - (begun[-1].output < self.samplings[len(begun) - 1].output)
        return begun, min(self.searches, ended)

    def at_start(self, output: int, service: Service) -> dict[str, Any]:
        """The usage of `message_start`: the first prompt's counts and the first few tokens."""
        return usage(replace(self, kind=None, thinking=0), [replace(self.samplings[0], output=output)], 0, service)

    def serving_model(self, card: Card, prices: PriceList) -> str:
        """The model whose name the reply bears."""
        return prices.cards[self.samplings[-1].model].served_as if self.kind == "fallback" else card.served_as


def course(ask: Ask, card: Card, prompt: Sampling, searches: int) -> Course:
    """Draw how this reply is made."""
    body, wanted, draws = ask.body, ask.orders, ask.draws
    output = wanted.output or max(OUTPUT_TOKENS_MIN + draws.length % OUTPUT_TOKENS_SPREAD, wanted.chunks or 0)
    limited = output > body["max_tokens"]
    output = min(output, body["max_tokens"])
    thinking = 0
    asked = body.get("thinking")
    if isinstance(asked, dict) and asked.get("type") in ("enabled", "adaptive"):
        thinking = output // 3
    if wanted.iterations == "compaction":
        samplings = _compaction(prompt, output, draws.extra)
    elif wanted.iterations == "advisor":
        samplings = _advisor(prompt, output, draws.extra)
    elif wanted.iterations == "fallback":
        samplings = _fallback(card, prompt, output)
    else:
        samplings = _searching(prompt, output, searches, draws.extra)
        searches = len(samplings) - 1
    return Course(samplings, searches, min(thinking, samplings[-1].output), limited, wanted.iterations)


def _searching(prompt: Sampling, output: int, searches: int, extra: int) -> tuple[Sampling, ...]:
    """One sampling more than searches, if there is a token for each of them."""
    parts = [tokens for _, tokens in slices("", output, min(searches + 1, output))]
    samplings = [replace(prompt, output=parts[0])]
    for index, part in enumerate(parts[1:]):
        before = samplings[-1]
        results = 180 + (extra >> index % 20) % 700
        cached = before.read + before.write_5m + before.write_1h
        samplings.append(Sampling(prompt.model, before.input + before.output + results, part, read=cached))
    return tuple(samplings)


def _compaction(prompt: Sampling, output: int, extra: int) -> tuple[Sampling, ...]:
    summary = 40 + extra % 100
    return (
        replace(prompt, output=summary, kind="compaction"),
        Sampling(prompt.model, summary + 20 + extra % 30, output),
    )


def _advisor(prompt: Sampling, output: int, extra: int) -> tuple[Sampling, ...]:
    before = max(1, output // 2)
    advice = 10 + extra % 40
    cached = prompt.read + prompt.write_5m + prompt.write_1h
    samplings = [
        replace(prompt, output=before),
        Sampling(ADVISOR, prompt.prompt + before + 50 + extra % 200, advice, kind="advisor_message"),
    ]
    if output > before:
        samplings.append(Sampling(prompt.model, prompt.input + before + advice, output - before, read=cached))
    return tuple(samplings)


def _fallback(card: Card, prompt: Sampling, output: int) -> tuple[Sampling, ...]:
    second = FALLBACK_OF_FALLBACK if card.model == FALLBACK else FALLBACK
    # The two models' tokenizers and caches are their own: nothing of the first one's cache serves the second.
    return (
        replace(prompt, output=0),
        Sampling(second, prompt.prompt + 4, output, kind="fallback_message"),
    )


def usage(run: Course, begun: Sequence[Sampling], searches: int, service: Service) -> dict[str, Any]:
    """The `usage` object once these samplings have begun."""
    top = [sampling for sampling in begun if sampling.kind in _TOP_LEVEL[run.kind]] or list(begun[:1])
    counts = _counts(top)
    stated: dict[str, Any] = dict(counts)
    stated["output_tokens"] = sum(sampling.output for sampling in top)
    if run.thinking:
        done = max(0, sum(sampling.output for sampling in begun) - (run.tokens - run.samplings[-1].output))
        stated["output_tokens_details"] = {"thinking_tokens": min(run.thinking, done)}
    if run.searches:
        stated["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": 0}
    stated["service_tier"] = service.tier
    stated["inference_geo"] = service.geo
    if service.states_speed:
        stated["speed"] = service.speed
    if run.kind is not None:
        stated["iterations"] = [_iteration(run, sampling) for sampling in begun]
    return stated


_TOP_LEVEL: dict[str | None, tuple[str, ...]] = {
    None: ("message", "compaction", "fallback_message"),
    "compaction": ("message",),
    "advisor": ("message",),
    "fallback": ("fallback_message",),
}
"""Kinds of samplings that the top-level counts add up, by the kind of reply."""


def _counts(samplings: Sequence[Sampling]) -> dict[str, Any]:
    write_5m = sum(sampling.write_5m for sampling in samplings)
    write_1h = sum(sampling.write_1h for sampling in samplings)
    return {
        "input_tokens": sum(sampling.input for sampling in samplings),
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_read_input_tokens": sum(sampling.read for sampling in samplings),
        "cache_creation": {"ephemeral_5m_input_tokens": write_5m, "ephemeral_1h_input_tokens": write_1h},
    }


def _iteration(run: Course, sampling: Sampling) -> dict[str, Any]:
    stated = {"type": sampling.kind, **_counts([sampling]), "output_tokens": sampling.output}
    if run.kind == "fallback" or sampling.kind == "advisor_message":
        stated["model"] = sampling.model
    return stated
