"""Every dialect there is, and which operation lies between a caller's dialect and a provider's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from costbearer.dialects import translate_anthropic, translate_bedrock, translate_gemini
from costbearer.dialects.anthropic import Anthropic
from costbearer.dialects.azure import Azure
from costbearer.dialects.base import Dialect, Operation
from costbearer.dialects.bedrock import Bedrock
from costbearer.dialects.cohere import Cohere
from costbearer.dialects.gemini import Gemini
from costbearer.dialects.openai import OpenAI
from costbearer.dialects.translation import Speech, Translated


def all_dialects() -> dict[str, Dialect]:
    """A new instance of each, by name."""
    made: tuple[Dialect, ...] = (OpenAI(), Anthropic(), Bedrock(), Azure(), Gemini(), Cohere())
    return {dialect.name: dialect for dialect in made}


class Exchange:
    """Who can be asked what, in whose words: the caller's dialect and operation, and the provider's dialect."""

    def __init__(self, dialects: Mapping[str, Dialect], clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the seconds since 1970, for translated answers, which state when they were made."""
        self.dialects = dialects
        speeches: dict[str, tuple[str, Speech]] = {
            "anthropic": ("chat", translate_anthropic.Speech()),
            "bedrock": ("converse", translate_bedrock.Speech()),
            "gemini": ("chat", translate_gemini.Speech()),
        }
        self._translated: dict[tuple[str, str, str], Operation] = {
            ("openai", "chat", provider): Translated(dialects[provider].operations[native], speech, clock)
            for provider, (native, speech) in speeches.items()
            if provider in dialects
        }

    def operation(self, caller: str, operation: str, provider: str) -> Operation | None:
        """The operation that takes the caller's request to such a provider; None where there is none."""
        if caller == provider:
            return self.dialects[provider].operations.get(operation)
        if (caller, provider) == ("openai", "azure"):
            # The same requests at other addresses: Azure's operations have the same names and read the same bodies.
            return self.dialects[provider].operations.get(operation)
        return self._translated.get((caller, operation, provider))
