"""Every dialect there is, and which operation lies between a caller's dialect and a provider's."""

from __future__ import annotations

from collections.abc import Mapping

from costbearer.dialects.anthropic import Anthropic
from costbearer.dialects.base import Dialect, Operation
from costbearer.dialects.openai import OpenAI


def all_dialects() -> dict[str, Dialect]:
    """A new instance of each, by name."""
    made: tuple[Dialect, ...] = (OpenAI(), Anthropic())
    return {dialect.name: dialect for dialect in made}


class Exchange:
    """Who can be asked what, in whose words: the caller's dialect and operation, and the provider's dialect."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self.dialects = dialects

    def operation(self, caller: str, operation: str, provider: str) -> Operation | None:
        """The operation that takes the caller's request to such a provider; None where there is none."""
        if caller == provider:
            return self.dialects[provider].operations.get(operation)
        return None
