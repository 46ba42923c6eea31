"""Spend by who, what and how; the five metrics."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import ibis

from costbearer import money
from costbearer.audit.evidence import Evidence
from costbearer.audit.result import Group, Metrics

GROUPS_MAX = 50
NONE = "(none)"
PROVENANCES = ("verified", "inferred", "asserted")
UNATTRIBUTED = "unattributed"

_BANDS = ((1_000, "up to 1k in"), (10_000, "1k to 10k in"), (100_000, "10k to 100k in"))


def by(evidence: Evidence) -> dict[str, tuple[Group, ...]]:
    """Spend by owner, team, key, model, provider and request pattern; the dearest first, the rest in one row."""
    calls = evidence.calls
    owner = ibis.coalesce(calls.owner, calls.asserted_owner)
    team = ibis.coalesce(calls.team, calls.asserted_team)
    mapped = {"mapped_owner", "mapped_team"} <= set(calls.columns)
    if mapped:
        owner = ibis.coalesce(calls.owner, calls.mapped_owner, calls.asserted_owner)
        team = ibis.coalesce(calls.team, calls.mapped_team, calls.asserted_team)
    size = calls.input_tokens if "input_tokens" in evidence.counted else ibis.null("int64")
    band = ibis.cases(
        (size.isnull(), "no counts"), *((size <= most, says) for most, says in _BANDS), else_="above 100k in"
    )
    named = calls.mutate(
        owner=owner,
        team=team,
        model=ibis.coalesce(calls.model, calls.response_model, calls.request_model),
        provider=ibis.coalesce(calls.price_provider.nullif(""), calls.provider),
        pattern=ibis.coalesce(calls.operation, "call").concat(", ", band),
    )
    whole = evidence.execute(named.aggregate(usd=named.spend_usd.sum()))[0]["usd"] or money.ZERO
    dimensions = {
        "owner": ("owner", "team"),
        "team": ("team",),
        "key": ("key", "team"),
        "model": ("model",),
        "provider": ("provider",),
        "pattern": ("pattern",),
    }
    return {
        name: _grouped(evidence, named, columns, whole, provenance=name in {"owner", "team"})
        for name, columns in dimensions.items()
    }


def _grouped(
    evidence: Evidence, named: Any, columns: tuple[str, ...], whole: Decimal, *, provenance: bool
) -> tuple[Group, ...]:
    sums = {
        "n": named["calls"].sum(),
        "usd": named.spend_usd.sum(),
        "unknown": named.spend_usd.isnull().sum(),
    }
    if provenance:
        sums |= {each: named.spend_usd.sum(where=named.provenance == each) for each in PROVENANCES}
    table = named.group_by(list(columns)).aggregate(**sums)
    count = evidence.execute(table.aggregate(n=table.count()))[0]["n"]
    ordered = table.order_by(ibis.desc(table.usd.fill_null(0)), ibis.desc("n"), *columns).limit(GROUPS_MAX)
    groups = [
        Group(
            tuple((column, row[column]) for column in columns),
            int(row["n"] or 0),
            row["usd"] or money.ZERO,
            money.share(row["usd"] or money.ZERO, whole),
            int(row["unknown"] or 0),
            tuple((each, row[each]) for each in PROVENANCES if provenance and row[each]),
        )
        for row in evidence.execute(ordered)
    ]
    if count > GROUPS_MAX:
        groups.append(_rest(evidence, named, columns, groups, count - GROUPS_MAX, whole))
    return tuple(groups)


def _rest(
    evidence: Evidence, named: Any, columns: tuple[str, ...], groups: list[Group], more: int, whole: Decimal
) -> Group:
    """What is left of the sums, so that the rows add up to the whole."""
    totals = evidence.execute(named.aggregate(n=named["calls"].sum(), unknown=named.spend_usd.isnull().sum()))[0]
    left = money.minus(whole, money.total(group.cost_usd for group in groups))
    return Group(
        tuple((column, f"({more} more)" if not place else None) for place, column in enumerate(columns)),
        int(totals["n"]) - sum(group.calls for group in groups),
        left,
        money.share(left, whole),
        int(totals["unknown"]) - sum(group.unknown_calls for group in groups),
    )


def attributed(evidence: Evidence) -> tuple[tuple[str, Decimal], ...]:
    """Spend by how its bearer is known; `unattributed` is what nobody bears."""
    calls = evidence.calls
    sums = calls.group_by(how=ibis.coalesce(calls.provenance, UNATTRIBUTED)).aggregate(usd=calls.spend_usd.sum())
    found = {row["how"]: row["usd"] or money.ZERO for row in evidence.execute(sums)}
    return tuple((name, found.get(name, money.ZERO)) for name in (*PROVENANCES, UNATTRIBUTED))


def metrics(evidence: Evidence, gap_pct: float | None) -> Metrics:
    """The five metrics.

    A record is ready for FinOps if somebody bears it and it states tokens, a model that can be billed and a time.
    """
    calls = evidence.calls
    teams = [calls.team, calls.asserted_team, *([calls.mapped_team] if "mapped_team" in calls.columns else [])]
    ready = (
        calls.bearer.notnull()
        & ~calls.no_counts
        & calls.model.notnull()
        & ~calls.reason.isin(("model_unpriced", "provider_unpriced", "model_missing")).fill_null(False)
        & ibis.coalesce(calls.timely, False)
    )
    row = evidence.execute(
        calls.aggregate(
            n=calls.count(),
            no_team=ibis.coalesce(*teams).isnull().sum(),
            no_session=(~calls.has_session).sum(),
            ready=ready.sum(),
            usd=calls.spend_usd.sum(),
            lost=calls.spend_usd.sum(where=calls.bearer.isnull()),
        )
    )[0]
    return Metrics(
        _pct(row["no_team"], row["n"]),
        _pct(row["no_session"], row["n"]),
        _pct(row["lost"] or money.ZERO, row["usd"] or money.ZERO),
        _pct(row["ready"], row["n"]),
        gap_pct,
    )


def _pct(part: Decimal | int, whole: Decimal | int) -> float | None:
    share = money.share(Decimal(part or 0), Decimal(whole or 0))
    return None if share is None else round(100 * share, 4)
