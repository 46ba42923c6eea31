"""Which upstreams a model goes to: the configured routes, or, without routes, the provider the price archive names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from costbearer.config import Config, Provider
from costbearer.dialects.base import Dialect, Operation
from costbearer.dialects.registry import Exchange
from costbearer.errors import HeaderInvalid, ModelUnknown
from costbearer.prices import PriceBook

TARGETS_CACHED_MAX = 4096


class Target(NamedTuple):
    """One upstream to try: the provider, the model's name there, and the route that said so.

    `dialect` is the provider's; `operation` takes the caller's request to it.
    """

    provider: Provider
    model: str
    route: str
    dialect: Dialect
    operation: Operation


class Resolver:
    """Routes of one configuration. Answers are remembered; callers choose the names, so the memory is bounded."""

    def __init__(self, config: Config, book: PriceBook, exchange: Exchange) -> None:
        self._routes = config.routes
        self._providers: Mapping[str, Provider] = config.providers
        self._book = book
        self._exchange = exchange
        self._known: dict[tuple[str, str, str], tuple[Target, ...]] = {}

    def targets(self, model: str, dialect: str, operation: str) -> tuple[Target, ...]:
        """The upstreams for a model, in the order in which they are tried.

        Without routes a model goes to the provider that has a deployment of that name, else to the one the price
        archive names, else to the first of the caller's own dialect: what no archive knows yet is served all the same,
        and its cost is unknown until it has a price.

        Raises:
            ModelUnknown: no route matches, or no configured provider can be asked in this dialect.
        """
        key = (model, dialect, operation)
        found = self._known.get(key)
        if found is None:
            found = self._find(model, dialect, operation)
            if len(self._known) < TARGETS_CACHED_MAX:
                self._known[key] = found
        return found

    def stored(self, dialect: str, operation: str, wanted: str | None) -> tuple[Target, ...]:
        """The one upstream for a request that names no model: about files, batches, stored responses.

        `wanted` is a provider's name; without it the first configured provider of the dialect is asked.

        Raises:
            ModelUnknown: no configured provider can be asked that.
            HeaderInvalid: `wanted` names none that can.
        """
        for provider in self._providers.values():
            if wanted is None or provider.name == wanted:
                target = self._target(provider, "", provider.name, dialect, operation)
                if target is not None and provider.dialect == dialect:
                    return (target,)
        if wanted is not None:
            raise HeaderInvalid(f"x-costbearer-provider names {wanted[:60]!r}, which cannot be asked this")
        raise ModelUnknown(f"no configured provider of the dialect {dialect} can be asked this")

    def models(self, dialect: str) -> list[tuple[str, str]]:
        """(model, provider) of everything that can be named in this dialect without a wildcard, sorted."""
        names: dict[str, str] = {}
        for route in self._routes:
            provider = self._providers[route.upstreams[0].split("/", 1)[0]]
            if "*" not in route.model and self._exchange.operation(dialect, "chat", provider.dialect) is not None:
                names.setdefault(route.model, provider.name)
        if not self._routes:
            for provider in self._providers.values():
                if self._exchange.operation(dialect, "chat", provider.dialect) is not None:
                    for model in self._book.models(provider.price_provider):
                        names.setdefault(model, provider.name)
        return sorted(names.items())

    def _find(self, model: str, dialect: str, operation: str) -> tuple[Target, ...]:
        for route in self._routes:
            if fnmatchcase(model, route.model):
                found = [
                    self._upstream(upstream, model, route.model, dialect, operation) for upstream in route.upstreams
                ]
                targets = tuple(target for target in found if target is not None)
                if targets:
                    return targets
        if not self._routes:
            for provider in self._candidates(model, dialect):
                target = self._target(provider, model, provider.name, dialect, operation)
                if target is not None:
                    return (target,)
        hint = (
            "no route in the configuration matches it"
            if self._routes
            else "no configured provider can be asked this in this API; add a [[routes]] entry to send it somewhere"
        )
        raise ModelUnknown(f"unknown model {model[:100]!r}: {hint}")

    def _candidates(self, model: str, dialect: str) -> list[Provider]:
        providers = self._providers.values()
        names = self._book.providers_of(model)
        known = [provider for provider in providers if provider.price_provider in names]
        # Native speakers before translations, where the archive has no opinion.
        known.sort(key=lambda provider: (names.index(provider.price_provider), provider.dialect != dialect))
        deployed = [provider for provider in providers if model in provider.deployments]
        return [*deployed, *known, *(provider for provider in providers if provider.dialect == dialect)]

    def _upstream(self, upstream: str, model: str, route: str, dialect: str, operation: str) -> Target | None:
        name, _, renamed = upstream.partition("/")
        return self._target(self._providers[name], renamed or model, route, dialect, operation)

    def _target(self, provider: Provider, model: str, route: str, dialect: str, operation: str) -> Target | None:
        asked = self._exchange.operation(dialect, operation, provider.dialect)
        if asked is None:
            return None
        return Target(provider, model, route, self._exchange.dialects[provider.dialect], asked)
