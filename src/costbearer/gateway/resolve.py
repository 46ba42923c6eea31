"""Which upstreams a model goes to: the configured routes, or, without routes, the provider the price archive names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from costbearer.config import Config, Provider
from costbearer.errors import ModelUnknown
from costbearer.prices import PriceBook

TARGETS_CACHED_MAX = 4096


class Target(NamedTuple):
    """One upstream to try: the provider, the model's name there, and the route that said so."""

    provider: Provider
    model: str
    route: str


class Resolver:
    """Routes of one configuration. Answers are remembered; callers choose the names, so the memory is bounded."""

    def __init__(self, config: Config, book: PriceBook) -> None:
        self._routes = config.routes
        self._providers: Mapping[str, Provider] = config.providers
        self._book = book
        self._known: dict[tuple[str, str], tuple[Target, ...]] = {}

    def targets(self, model: str, dialect: str) -> tuple[Target, ...]:
        """The upstreams for a model, in the order in which they are tried.

        Raises:
            ModelUnknown: no route matches and no configured provider is known to serve the model in this dialect.
        """
        key = (model, dialect)
        found = self._known.get(key)
        if found is None:
            found = self._find(model, dialect)
            if len(self._known) < TARGETS_CACHED_MAX:
                self._known[key] = found
        return found

    def models(self, dialect: str) -> list[tuple[str, str]]:
        """(model, provider) of everything that can be named in this dialect without a wildcard, sorted."""
        names: dict[str, str] = {}
        for route in self._routes:
            provider = self._providers[route.upstreams[0].split("/", 1)[0]]
            if "*" not in route.model and provider.dialect == dialect:
                names.setdefault(route.model, provider.name)
        if not self._routes:
            for provider in self._providers.values():
                if provider.dialect == dialect:
                    for model in self._book.models(provider.price_provider):
                        names.setdefault(model, provider.name)
        return sorted(names.items())

    def _find(self, model: str, dialect: str) -> tuple[Target, ...]:
        for route in self._routes:
            if fnmatchcase(model, route.model):
                targets = tuple(self._target(upstream, model, route.model) for upstream in route.upstreams)
                if targets[0].provider.dialect == dialect:
                    return targets
        if not self._routes:
            names = self._book.providers_of(model)
            by_prices = [provider for provider in self._providers.values() if provider.dialect == dialect]
            ranked = sorted(
                (provider for provider in by_prices if provider.price_provider in names),
                key=lambda provider: names.index(provider.price_provider),
            )
            if ranked:
                return (Target(ranked[0], model, ranked[0].name),)
        hint = (
            "no route in the configuration matches it"
            if self._routes
            else "no configured provider of this API is known to serve it; add a [[routes]] entry to send it somewhere"
        )
        raise ModelUnknown(f"unknown model {model[:100]!r}: {hint}")

    def _target(self, upstream: str, model: str, route: str) -> Target:
        name, _, renamed = upstream.partition("/")
        return Target(self._providers[name], renamed or model, route)
