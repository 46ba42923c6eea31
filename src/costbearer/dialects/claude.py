"""What Claude's models take, on whichever API: how much they answer, and how they are told to think.

Models from Claude 4.6 on think adaptively and take an effort (`output_config.effort`); those before take a budget of
tokens; the oldest do not think. https://platform.claude.com/docs/en/build-with-claude/effort and /thinking; on Bedrock
https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from costbearer.dialects.neutral import Effort, refuse

LIMIT = 64_000
LIMITS = (
    (re.compile(r"claude-3-(?:opus|sonnet|haiku)|claude-[12]|claude-instant"), 4_096),
    (re.compile(r"claude-3-5-"), 8_192),
    (re.compile(r"claude-opus-4(?:-[01](?:$|[^0-9])|-2025|@|$)"), 32_000),
)
"""The most output tokens of models that give less than `LIMIT`, which all others give at least
(https://docs.anthropic.com/en/docs/about-claude/models/overview)."""

BUDGET_MIN = 1_024
BUDGETS: Mapping[Effort, int] = MappingProxyType(
    {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 63_999}
)
"""Thinking tokens of an effort on models that know no effort. Up to `high` these are the figures that Google documents
for the same words (https://ai.google.dev/gemini-api/docs/openai); Anthropic documents none."""

EFFORTS: Mapping[Effort, str] = MappingProxyType(
    {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
)

_THINKS_BY_BUDGET = re.compile(r"claude-(?:3-7-sonnet|(?:opus|sonnet|haiku)-4(?:-[0-5](?:$|[^0-9])|-2025|@|$))")
_THINKS_NOT = re.compile(r"claude-(?:3-(?:opus|sonnet|haiku|5)|[12]|instant)")


def limit_of(model: str) -> int:
    """The most output tokens to ask of a model where the caller sets no limit."""
    return next((limit for pattern, limit in LIMITS if pattern.search(model)), LIMIT)


def thinking_of(effort: Effort, model: str, limit: int, provider: str) -> dict[str, Any]:
    """Members `thinking` and `effort` (which belongs into `output_config`) for an effort.

    Raises:
        BodyInvalid: the model cannot think, or the limit leaves no room for it.
    """
    if effort == "none":
        return {} if _THINKS_NOT.search(model) else {"thinking": {"type": "disabled"}}
    if _THINKS_NOT.search(model):
        raise refuse(provider, "reasoning_effort", f"{model[:100]} does not reason")
    if _THINKS_BY_BUDGET.search(model):
        budget = min(BUDGETS[effort], limit - 1)
        if budget < BUDGET_MIN:
            raise refuse(provider, "reasoning_effort", f"with it the limit must be above {BUDGET_MIN} tokens")
        return {"thinking": {"type": "enabled", "budget_tokens": budget}}
    return {"thinking": {"type": "adaptive", "display": "summarized"}, "effort": EFFORTS[effort]}
