"""The facts of a log: every call once, with who it belongs to, what it should have cost and what the log says it did.

`Evidence.calls` is what checks and reports ask. It is worked out in one pass over the records, rated by the archive in
the same pass, and small enough to be asked often. Ids and tags stay with the records, `Evidence.records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

import ibis
import ibis.expr.datatypes as dt

from costbearer import labels, money
from costbearer.audit.naming import resolver
from costbearer.audit.ownership import Ownership
from costbearer.contract import Contract
from costbearer.logformats.fields import ADJUSTMENT, CALL, REVERSAL
from costbearer.prices import PriceBook
from costbearer.rerate import Rates, costs
from costbearer.stores.logs import Logs
from costbearer.usage import COUNTS

LABELS = ("owner", "team", "agent", "workload", "asserted_owner", "asserted_team", "workflow", "feature")
"""Columns in which a placeholder (`n/a`, `default`, `unknown`) says nothing."""
PLACEHOLDER_CHARS_MAX = 24
NOISE_USD = Decimal("0.000000000002")
"""Two units of the last place: what adding up binary floats, or cutting them, leaves."""
NOISELESS_PLACES = 9
"""A log in which some cost is stated to so many places does not round its costs."""
EARLIEST = datetime(2020, 1, 1)  # noqa: DTZ001  as all times here, UTC without saying so
AHEAD = timedelta(days=1)

MONEY = dt.Decimal(money.DIGITS, money.PLACES)
VERIFIED, INFERRED, ASSERTED = "verified", "inferred", "asserted"
_SERVED = ("tier", "speed", "geo", "variant")
_CARRIED = (
    "file",
    "started_at",
    "provider",
    "request_model",
    "response_model",
    *_SERVED,
    "operation",
    "status",
    "cache_hit",
    "retrieved",
    "summed",
    "calls",
    "cost_usd",
    "cost_places",
    "provider_cost_usd",
    "currency",
    "total_tokens",
    "reason_unknown",
    "instrumentation",
    "hop",
    "key",
    "owner",
    "team",
    "agent",
    "workload",
    "asserted_owner",
    "asserted_team",
    "bearer",
    "provenance",
    "workflow",
    "has_session",
    "has_trace",
    "has_tenant",
    "fault",
    "several",
    "basis",
)


_MAPPED = ("mapped_owner", "mapped_team", "mapped_agent", "mapped_workload")


@dataclass(frozen=True)
class Evidence:
    """What is known of a log: `records` as they were read, `calls` with what follows from each.

    `counted` are the counts that any record states, `carries` is what the logs of each source can say at all, `cents`
    are the sources whose costs turned out to be cents.
    """

    logs: Logs
    book: PriceBook
    records: Any
    rates: Rates
    calls: Any
    counted: tuple[str, ...]
    now: datetime
    contract: Contract | None = None
    cents: tuple[int, ...] = ()
    carries: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def mispriced(self) -> Any:
        """The calls whose stated cost is wrong, with why, as far as that can be told: `audit.mispricing`."""
        from costbearer.audit.mispricing import explained

        return explained(self)

    def execute(self, expression: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.logs.execute(expression).to_pylist()
        return rows


def gathered(
    logs: Logs,
    book: PriceBook,
    ownership: Ownership | None,
    *,
    contract: Contract | None = None,
    unsure: Sequence[int] = (),
    carries: Mapping[int, frozenset[str]] | None = None,
    now: datetime | None = None,
) -> Evidence:
    """Work out the facts of everything that was read. `unsure` are sources whose costs may be cents."""
    now = (now or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
    records = logs.view("attributed", _attributed(logs, _cleaned(logs, logs.records), ownership))
    calls = _as_they_stand(logs, records)
    stated = logs.execute(calls.aggregate(**{name: calls[name].count() for name in COUNTS})).to_pylist()[0]
    counted = tuple(name for name in COUNTS if stated[name])
    resolve = resolver(book)
    carried = (*_CARRIED, *(_MAPPED if ownership is not None else ()), *counted)
    rates = costs(logs, _parts(calls, ()), book, resolve, contract=contract, carry=carried)
    cents = _in_cents(logs, rates, unsure)
    if cents:
        rates = costs(logs, _parts(calls, cents), book, resolve, contract=contract, carry=carried)
    return Evidence(
        logs=logs,
        book=book,
        records=records,
        rates=rates,
        calls=logs.keep("calls", _concluded(rates, _places(logs, calls), carried, counted, now)),
        counted=counted,
        now=now,
        contract=contract,
        cents=tuple(cents),
        carries=carries or {},
    )


def _cleaned(logs: Logs, records: Any) -> Any:
    """The records without labels that say nothing, by the rule that keys are held to."""
    changed = {}
    for name in LABELS:
        column = records[name]
        short = records.filter(column.length() <= PLACEHOLDER_CHARS_MAX)
        values = logs.execute(short.select(name).distinct()).column(0).to_pylist()
        empty = [value for value in values if value is not None and _says_nothing(value)]
        if empty:
            changed[name] = ibis.ifelse(column.isin(empty), ibis.null("string"), column)
    return records.mutate(**changed) if changed else records


def _says_nothing(value: str) -> bool:
    bare = labels.folded(value)
    return labels.is_blank(value) or not bare or bare in labels.PLACEHOLDERS


def _attributed(logs: Logs, records: Any, ownership: Ownership | None) -> Any:
    """The records with who bears each, and how that is known: the log's own word, the map's, the caller's."""
    mapped = ownership.joined(logs, records) if ownership is not None else records
    verified = ibis.coalesce(mapped.team, mapped.owner)
    asserted = ibis.coalesce(mapped.asserted_team, mapped.asserted_owner)
    inferred = ibis.coalesce(mapped.mapped_team, mapped.mapped_owner) if ownership is not None else ibis.null("string")
    return mapped.mutate(
        journey=ibis.coalesce(mapped.journey, mapped.trace_id),
        bearer=ibis.coalesce(verified, inferred, asserted),
        provenance=ibis.cases(
            (verified.notnull(), VERIFIED),
            (inferred.notnull(), INFERRED),
            (asserted.notnull(), ASSERTED),
            else_=ibis.null("string"),
        ),
    )


def _as_they_stand(logs: Logs, records: Any) -> Any:
    """The calls without those that were taken back, and with what later records changed of their cost."""
    calls = records.filter(records.kind == CALL)
    later = records.filter(records.kind.isin((REVERSAL, ADJUSTMENT)))
    if not logs.execute(later.aggregate(n=later.count())).to_pylist()[0]["n"]:
        return calls
    reversed_ones = later.filter(later.kind == REVERSAL).select(record_id="refers_to").distinct()
    calls = calls.anti_join(reversed_ones, "record_id")
    changes = later.filter((later.kind == ADJUSTMENT) & later.refers_to.notnull())
    sums = changes.group_by("refers_to").aggregate(changed_usd=changes.cost_usd.sum())
    sums = sums.rename(changed="refers_to")
    met = calls.left_join(sums, calls.record_id == sums.changed)
    cost = met.cost_usd + ibis.coalesce(met.changed_usd, ibis.literal(money.ZERO, MONEY))
    return met.mutate(cost_usd=cost.cast(MONEY)).select(*calls.columns)


def _parts(calls: Any, cents: Sequence[int]) -> Any:
    """The calls as they are rated: a sum over calls says nothing of the size of one."""
    step = ibis.coalesce(calls.largest_input_tokens, ibis.ifelse(calls.summed, ibis.null("int64"), calls.input_tokens))
    cost = calls.cost_usd
    if cents:
        hundredth = (cost * ibis.literal(Decimal("0.01"), dt.Decimal(3, 2))).cast(MONEY)
        cost = ibis.ifelse(calls.file.isin(list(cents)), hundredth, cost)
    return calls.mutate(
        at=calls.started_at,
        step=step,
        cost_usd=cost,
        key=ibis.coalesce(calls.key_name, calls.key_id, calls.identity),
        calls=ibis.coalesce(calls["calls"], 1),
        summed=ibis.coalesce(calls.summed, False),
        cache_hit=ibis.coalesce(calls.cache_hit, False),
        retrieved=ibis.coalesce(calls.retrieved, False),
        several=calls.parts.notnull(),
        has_session=calls.session_id.notnull(),
        has_trace=calls.trace_id.notnull(),
        has_tenant=calls.tenant.notnull(),
    )


def _in_cents(logs: Logs, rates: Rates, unsure: Sequence[int]) -> list[int]:
    """The sources whose stated costs are about a hundred times what the tokens cost."""
    if not unsure:
        return []
    rows = rates.rows
    both = rows.filter(rows.file.isin(list(unsure)) & rows.cost_usd.notnull() & rows.computed_usd.notnull())
    sums = both.group_by("file").aggregate(stated=both.cost_usd.sum(), right=both.computed_usd.sum())
    return [
        each["file"]
        for each in logs.execute(sums).to_pylist()
        if each["right"] and 30 < (money.share(each["stated"], each["right"]) or 0) < 300
    ]


def _places(logs: Logs, calls: Any) -> dict[int, int | None]:
    """By source the most places in which any of its costs is stated."""
    found = logs.execute(calls.group_by("file").aggregate(places=calls.cost_places.max())).to_pylist()
    return {row["file"]: row["places"] for row in found}


def _concluded(
    rates: Rates, places: Mapping[int, int | None], carried: Sequence[str], counted: Sequence[str], now: datetime
) -> Any:
    """The calls with what follows from each alone."""
    rows = rates.rows
    tolerance = _tolerances(places)
    noise = ibis.literal(NOISE_USD, MONEY)
    rounded = [(rows.file == file, ibis.literal(usd, MONEY)) for file, usd in tolerance.items()]
    tolerated = ibis.cases(*rounded, else_=noise) if rounded else noise
    uses = rates.uses
    met = rows.join(uses, rows.use == uses.use)
    dollars = rows.currency.isnull() | rows.currency.upper().isin(("USD", "US$", "$"))
    stated = ibis.ifelse(dollars, rows.cost_usd, ibis.null(MONEY))
    has_tokens = ibis.or_(*(rows[name] > 0 for name in counted)) if counted else ibis.literal(False)
    none_stated = ibis.and_(*(rows[name].isnull() for name in counted)) if counted else ibis.literal(True)
    # Where several models worked in one call, its sums of counts say nothing of its price.
    own_word = (rows.provider_cost_usd.notnull() & (rows.provider_cost_usd == rows.cost_usd)) | rows.several
    nothing = ibis.literal(money.ZERO, MONEY)
    rated = ibis.ifelse(rows.several, stated, rows.computed_usd)
    expected = ibis.ifelse(rows.cache_hit | rows.retrieved, nothing, rated)
    return met.select(
        *(rows[name] for name in ("row", "use", "above", *carried)),
        rows.computed_usd,
        rows.reason,
        uses.price_provider,
        model=uses.model.nullif(""),
        dollars=dollars,
        stated_usd=stated,
        expected_usd=expected,
        spend_usd=ibis.coalesce(stated, rows.provider_cost_usd, expected),
        tokens=ibis.coalesce(has_tokens, False),
        no_counts=none_stated,
        comparable=stated.notnull() & expected.notnull() & ~own_word,
        wrong=((stated - expected).abs() > tolerated).fill_null(False) & ~ibis.coalesce(own_word, False),
        tolerated=tolerated,
        timely=(rows.started_at >= EARLIEST) & (rows.started_at <= now + AHEAD),
    )


def _tolerances(places: Mapping[int, int | None]) -> dict[int, Decimal]:
    """By source how far a stated cost may be from the right one: its rounding, if it rounds, and noise."""
    return {
        file: Decimal(1).scaleb(-digits)
        for file, digits in places.items()
        if digits is not None and digits < NOISELESS_PLACES
    }
