"""What the names in foreign logs mean in the price archive: providers under other names, models with prefixes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from costbearer.prices import Context, PriceBook, Unrated
from costbearer.rerate import Named, Resolve

PROVIDERS: dict[str, str] = {
    "amazon": "aws",
    "amazon-bedrock": "aws",
    "amazon_bedrock": "aws",
    "aws.bedrock": "aws",
    "aws_bedrock": "aws",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "azure-openai": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "azure_ai": "azure",
    "azure_openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "google-ai-studio": "google",
    "google-vertex": "google",
    "google-vertex-ai": "google",
    "google_genai": "google",
    "palm": "google",
    "vertex": "google",
    "vertex-ai": "google",
    "vertex_ai": "google",
    "fireworks-ai": "fireworks",
    "fireworks_ai": "fireworks",
    "grok": "x-ai",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "moonshot_ai": "moonshotai",
    "perplexity-ai": "perplexity",
    "together-ai": "together",
    "together_ai": "together",
    "voyage": "voyageai",
    "workers-ai": "cloudflare",
    "z_ai": "zai",
    "chatopenai": "openai",
    "chatanthropic": "anthropic",
    "text-completion-openai": "openai",
    "openai.chat": "openai",
    "openai.responses": "openai",
    "anthropic.messages": "anthropic",
}
"""A provider's name elsewhere (LiteLLM, OpenTelemetry, LangChain, the gateways) -> its name in the price archive."""

UNKNOWN_MODEL, UNKNOWN_PROVIDER, NO_MODEL = "model_unpriced", "provider_unpriced", "model_missing"
_ABSENT = {UNKNOWN_MODEL, UNKNOWN_PROVIDER}


def resolver(book: PriceBook) -> Resolve:
    """A function that finds in this book what a record's names mean."""
    known = frozenset(book.providers())
    now = datetime.now(UTC)

    def provider_of(name: str | None) -> str | None:
        lower = (name or "").strip().lower()
        found = PROVIDERS.get(lower, lower)
        return found if found in known else None

    def lists(provider: str, model: str) -> bool:
        card = book.at(provider, model, Context(), now)
        return not (isinstance(card, Unrated) and card.reason in _ABSENT)

    def readings(provider: str | None, model: str) -> Iterator[tuple[str, str]]:
        """What a model's name can be, the likeliest first."""
        prefix, slash, rest = model.partition("/")
        if provider is not None:
            yield provider, model
            if slash:
                yield provider, rest
        if slash and (named := provider_of(prefix)) is not None and named != provider:
            yield named, rest
        for name in dict.fromkeys((model, rest)) if slash else (model,):
            if provider is None and (owners := book.providers_of(name)):
                yield owners[0], name

    def resolve(provider: str | None, asked: str | None, answered: str | None) -> Named:
        named = provider_of(provider)
        models = [model for model in dict.fromkeys((answered, asked)) if model]
        for model in models:
            for place, name in readings(named, model):
                if lists(place, name):
                    return Named(place, name)
        if not models:
            return Named(named or provider or "", "", NO_MODEL)
        unpriced = UNKNOWN_PROVIDER if provider and named is None and book.providers_of(models[0]) else UNKNOWN_MODEL
        return Named(named or provider or "", models[0], unpriced)

    return resolve
