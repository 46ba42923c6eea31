"""`GET /metrics`: what Prometheus scrapes, made from the ledger at every scrape, so that it can never drift from it.

Prometheus keeps binary floats; each value is the float nearest to the exact sum. Counters of money may go down where a
correction was posted, which Prometheus takes for a restart of the counter: use the reports for bills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from costbearer.bookkeeper import Progress
from costbearer.ledger import PROVENANCE_FIELDS
from costbearer.reports.coverage import FORM as COVERAGE
from costbearer.reports.coverage import PROVENANCES, covered
from costbearer.reports.periods import FIRST, instant
from costbearer.reports.query import Query
from costbearer.stores.duckdb import Reader
from costbearer.usage import COUNTS

LABELS: tuple[str, ...] = ("team", "provider", "model", "basis")
NONE = "(none)"
_KINDS = tuple(name for name in COUNTS if name.endswith("_tokens"))


def metrics_router(
    open_reader: Callable[[], AbstractContextManager[Reader]],
    progress: Callable[[], Progress],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> APIRouter:
    """The router of /metrics. `open_reader` is `Ledger.reader`, `progress` is `Bookkeeper.progress`."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    def metrics() -> Response:
        stand = progress()
        with open_reader() as reader:
            text = metrics_text(reader, stand, now())
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router


def metrics_text(reader: Reader, progress: Progress, now: datetime) -> str:
    """The exposition of one state of the ledger.

    Raises:
        StoreFailed: the ledger cannot be read.
    """
    registry = CollectorRegistry()
    families = [*_sums(reader.grouped(LABELS)), *_coverage(reader, now), *_bookkeeping(progress, now)]
    registry.register(_Ledger(families))
    return generate_latest(registry).decode()


class _Ledger(Collector):
    """Families that were made before, as `prometheus_client` wants them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _sums(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    rows = sorted(rows, key=_labels)
    yield _counter("costbearer_cost_usd", "Sum of the costs that are known, US dollars", rows, "cost_usd")
    yield _counter("costbearer_calls", "Calls: attempts at a provider", rows, "calls")
    yield _counter("costbearer_requests", "Requests of callers, each with one or more calls", rows, "requests")
    yield _counter("costbearer_unknown_calls", "Calls whose cost is not known", rows, "unknown_calls")
    yield _counter(
        "costbearer_unknown_bound_usd", "The most that calls of unknown cost can cost, US dollars", rows, "bound_usd"
    )
    tokens = CounterMetricFamily(
        "costbearer_tokens",
        "Tokens as stated. Do not add kinds: input contains cached tokens, output contains reasoning",
        labels=[*LABELS, "kind"],
    )
    for row in rows:
        for name in _KINDS:
            if row[name]:
                tokens.add_metric([*_labels(row), name.removesuffix("_tokens")], row[name])
    yield tokens


def _coverage(reader: Reader, now: datetime) -> Iterator[Metric]:
    """The coverage of all calls there ever were; a window is the difference of two scrapes."""
    query = Query.parse(
        [("since", instant(FIRST)), ("until", "2199-12-31")], now=now, form=COVERAGE._replace(compare="")
    )
    found = covered(reader, query, query.period)
    by_field = GaugeMetricFamily(
        "costbearer_field_cost_usd",
        "Known cost of the calls that have a field, by who vouches for it, US dollars",
        labels=["field", "provenance"],
    )
    for field in PROVENANCE_FIELDS:
        for letter, provenance in PROVENANCES.items():
            by_field.add_metric([field.removesuffix("_id"), provenance], float(found.having(field, letter).usd))
    yield by_field
    yield GaugeMetricFamily(
        "costbearer_unattributed_cost_usd",
        "Known cost without owner or team, US dollars",
        float(found.unattributed.usd),
    )
    yield GaugeMetricFamily(
        "costbearer_finops_ready_calls", "Calls with owner, team, model and a known cost", float(found.ready_calls)
    )


def _counter(name: str, meaning: str, rows: list[dict[str, Any]], field: str) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=LABELS)
    for row in rows:
        family.add_metric(_labels(row), float(row[field] or 0))
    return family


def _labels(row: dict[str, Any]) -> list[str]:
    return [row[name] or NONE for name in LABELS]


def _bookkeeping(progress: Progress, now: datetime) -> Iterator[Metric]:
    if progress.complete_to is not None:
        complete, lag = progress.complete_to.timestamp(), (now - progress.complete_to).total_seconds()
        yield GaugeMetricFamily(
            "costbearer_complete_to_timestamp_seconds", "Everything before is in the ledger", complete
        )
        yield GaugeMetricFamily(
            "costbearer_bookkeeper_lag_seconds", "How far the ledger is behind the journals", max(0.0, lag)
        )
    yield GaugeMetricFamily("costbearer_ledger_entries", "Entries in the ledger", progress.entries)
    yield GaugeMetricFamily("costbearer_open_calls", "Calls under way: intents without an outcome", progress.open_calls)
    yield GaugeMetricFamily("costbearer_journals", "Journals, of living and of ended writers", progress.journals)
    yield GaugeMetricFamily(
        "costbearer_unsealed_segments", "Journal segments that are not sealed", progress.unsealed_segments
    )
    yield GaugeMetricFamily(
        "costbearer_journal_damage", "Places in the journals that do not hold; see costbearer doctor", progress.damage
    )
    yield GaugeMetricFamily("costbearer_journals_held", "Journals that are not posted any further", len(progress.held))
    yield GaugeMetricFamily("costbearer_bookkeeper_up", "1 where the last pass succeeded", 0 if progress.failure else 1)
