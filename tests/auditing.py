"""How tests audit: a text or a file in, the result out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ibis

from costbearer.audit.evidence import Evidence
from costbearer.audit.finding import Finding
from costbearer.audit.intake import Intake, taken
from costbearer.audit.result import AuditResult
from costbearer.audit.run import Options, audit, facts
from costbearer.prices import PriceBook
from costbearer.stores.logfiles import Limits
from costbearer.stores.logs import Logs, workplace


@cache
def book() -> PriceBook:
    return PriceBook.loads(resources.files("costbearer").joinpath("data", "prices.json").read_bytes())


_SQL: dict[Any, str] = {}
_to_sql = ibis.to_sql


def _remembered(expression: Any, dialect: str) -> str:
    """The SQL of an expression that is like one before. To make it takes most of a small audit's time, and the tests
    ask the same of hundreds of logs; a table in memory has a name of its own and is like no other."""
    node = expression.op()
    if node not in _SQL:
        _SQL[node] = str(_to_sql(expression, dialect=dialect))
    return _SQL[node]


@contextmanager
def engine(limits: Limits = Limits()) -> Iterator[Logs]:  # noqa: B008
    with workplace() as work, patch.object(ibis, "to_sql", _remembered):
        logs = Logs(work, limits)
        try:
            yield logs
        finally:
            logs.close()


def audited(*names: Path | str, limits: Limits = Limits(), **options: Any) -> AuditResult:  # noqa: B008
    with engine(limits) as logs:
        return audit(logs, book(), Options(tuple(map(str, names)), **options))


@contextmanager
def evidence(*names: Path | str, **options: Any) -> Iterator[tuple[Evidence, Intake]]:
    with engine() as logs:
        given = Options(tuple(map(str, names)), **options)
        intake = taken(logs, given.names, wanted=given.wanted, columns=given.columns)
        yield facts(logs, book(), given, intake, lambda _: None), intake


def by_code(result: AuditResult) -> dict[str, Finding]:
    return {finding.code: finding for finding in result.findings}
