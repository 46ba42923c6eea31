"""Faults planted into logs of several makes, exported from traffic at the simulated providers, among repeats, retries
and identical prompts: each is found, to the last digit of its dollars, and a log without faults yields nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from costbearer.audit.checks import CODES
from tests.auditing import audited, by_code
from tests.simulated import traffic
from tests.usagelogs import WRITERS, Call, clean

COUNT = 200
FORMATS = sorted(WRITERS)


def written(calls: list[Call], name: str, tmp_path: Path) -> Path:
    file = tmp_path / f"{name}.log"
    file.write_text(WRITERS[name](calls), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_a_clean_log_yields_no_finding(name: str, tmp_path: Path) -> None:
    for calls in (clean(COUNT), list(traffic())):
        result = audited(written(calls, name, tmp_path))
        assert result.format == name
        assert result.records == len(calls)
        assert [(each.code, each.records, each.subjects[:3]) for each in result.findings] == []
        assert result.cost_usd == sum((call.cost_usd for call in calls if call.status == "ok"), Decimal(0))
        assert result.computed_usd == result.cost_usd
        assert result.unread_count == 0
        assert result.metrics.unattributed_spend_pct == 0


Planted = tuple[list[Call], int, Decimal]
"""The log, how many records are wrong, and by how many dollars."""


def _some(calls: list[Call], wanted: Callable[[Call], bool], count: int = 7) -> list[int]:
    places = [place for place, call in enumerate(calls) if call.status == "ok" and wanted(call)]
    return places[:: max(1, len(places) // count)][:count]


def _changed(calls: list[Call], wanted: Callable[[Call], bool], change: Callable[[Call], Call]) -> Planted:
    places = _some(calls, wanted)
    assert places
    changed = list(calls)
    for place in places:
        changed[place] = change(calls[place])
    usd = sum((abs(changed[place].logged_usd - calls[place].cost_usd) for place in places), Decimal(0))
    return changed, len(places), usd


def cached_at_full_price(calls: list[Call]) -> Planted:
    return _changed(calls, lambda call: call.cached > 0, lambda call: replace(call, wrong_usd=call.at(cached=0)))


def cache_counted_twice(calls: list[Call]) -> Planted:
    return _changed(
        calls, lambda call: call.cached > 0, lambda call: replace(call, wrong_usd=call.at(fresh=call.cached))
    )


def zero_cost_with_tokens(calls: list[Call]) -> Planted:
    return _changed(calls, lambda call: call.cached == 0, lambda call: replace(call, wrong_usd=Decimal(0)))


def batch_mispriced(calls: list[Call]) -> Planted:
    """Work that was billed as batch, at half, and logged at the full price."""
    changed, count, _ = _changed(
        calls,
        lambda call: call.model == "gpt-4o" and call.cached == 0,
        lambda call: replace(call, tier="batch", wrong_usd=call.cost_usd),
    )
    usd = sum((call.cost_usd / 2 for call in changed if call.tier == "batch"), Decimal(0))
    return changed, count, usd


def price_mismatch(calls: list[Call]) -> Planted:
    return _changed(
        calls, lambda call: call.cached == 0, lambda call: replace(call, wrong_usd=call.cost_usd + Decimal("0.0123"))
    )


def missing_owner(calls: list[Call]) -> Planted:
    """Of whole traces, so that no other record of theirs says whose they are."""
    traces = {calls[place].trace for place in _some(calls, lambda call: True)}
    changed = [replace(call, team=None, owner=None) if call.trace in traces else call for call in calls]
    lost = [call for call in changed if call.team is None]
    return changed, len(lost), sum((call.cost_usd for call in lost if call.status == "ok"), Decimal(0))


def owner_lost_at_hop(calls: list[Call]) -> Planted:
    places = _some(calls, lambda call: sum(other.trace == call.trace for other in calls) > 1)
    changed = list(calls)
    seen: set[str] = set()
    lost = []
    for place in places:
        if calls[place].trace not in seen:
            seen.add(calls[place].trace)
            changed[place] = replace(calls[place], team=None, owner=None)
            lost.append(changed[place])
    return changed, len(lost), sum((call.cost_usd for call in lost), Decimal(0))


def duplicate_request(calls: list[Call]) -> Planted:
    """The same answer again under another number and another time."""
    places = _some(calls, lambda call: True)
    again = [
        replace(
            calls[place],
            number=10_000_000 + place,
            response=calls[place].response_id,
            request=f"again-{place}",
            started_at=calls[place].started_at + timedelta(minutes=1),
        )
        for place in places
    ]
    return [*calls, *again], len(again), sum((call.cost_usd for call in again), Decimal(0))


def retry_double_counted(calls: list[Call]) -> Planted:
    """An attempt that failed, logged with the cost of the one that succeeded."""
    places = _some(calls, lambda call: not call.request)
    changed = list(calls)
    failed = []
    for place in places:
        call = replace(calls[place], request=calls[place].request_id, attempt=2)
        changed[place] = call
        failed.append(
            replace(
                call,
                number=20_000_000 + place,
                attempt=1,
                status="error",
                input_tokens=0,
                output_tokens=0,
                cached=0,
                written=0,
                wrong_usd=call.cost_usd,
                response=f"failed-{place}",
            )
        )
    return [*changed, *failed], len(failed), sum((call.logged_usd for call in failed), Decimal(0))


def time_out_of_range(calls: list[Call]) -> Planted:
    places = _some(calls, lambda call: True)
    changed = list(calls)
    for place in places:
        changed[place] = replace(calls[place], started_at=calls[place].started_at.replace(year=2031))
    # A price that may change until then is still a price; what is found is the time.
    return changed, len(places), sum((calls[place].cost_usd for place in places), Decimal(0))


def tag_owner_conflict(calls: list[Call]) -> Planted:
    places = _some(calls, lambda call: True)
    changed = list(calls)
    for place in places:
        changed[place] = replace(calls[place], tags=(*calls[place].tags, ("team", "somebody-else")))
    return changed, len(places), sum((calls[place].cost_usd for place in places), Decimal(0))


def pii_in_metadata(calls: list[Call]) -> Planted:
    return _named(calls, lambda call: replace(call, tenant="jane.doe@example.com"))


def _named(calls: list[Call], change: Callable[[Call], Call]) -> Planted:
    places = _some(calls, lambda call: True)
    changed = list(calls)
    for place in places:
        changed[place] = change(calls[place])
    return changed, len(places), sum((calls[place].cost_usd for place in places), Decimal(0))


def cache_write_ttl_mispriced(calls: list[Call]) -> Planted:
    """Written for an hour, logged at the price of five minutes."""
    changed, count, _ = _changed(
        calls,
        lambda call: call.written > 0,
        lambda call: replace(
            call, written_1h=call.written, wrong_usd=replace(call, written_1h=call.written).at(hour_as_five=True)
        ),
    )
    wrong = [call for call in changed if call.written_1h]
    return changed, count, sum((call.cost_usd - call.logged_usd for call in wrong), Decimal(0))


def tier_mispriced(calls: list[Call]) -> Planted:
    """Served as priority, which costs 1.7 times as much, and logged at the standard price."""
    changed, count, _ = _changed(
        calls,
        lambda call: call.model == "gpt-4o",
        lambda call: replace(call, tier="priority", wrong_usd=call.cost_usd),
    )
    usd = sum((call.cost_usd * Decimal("0.7") for call in changed if call.tier == "priority"), Decimal(0))
    return changed, count, usd


def unknown_price(calls: list[Call]) -> Planted:
    """A tier that no price list has."""
    return _named(calls, lambda call: replace(call, tier="midnight", wrong_usd=call.cost_usd))


def tokens_impossible(calls: list[Call]) -> Planted:
    """More cached than there was."""
    return _named(calls, lambda call: replace(call, cached=call.input_tokens + 5, written=0, wrong_usd=call.cost_usd))


def cost_without_tokens(calls: list[Call]) -> Planted:
    return _named(
        calls,
        lambda call: replace(
            call, input_tokens=0, output_tokens=0, cached=0, written=0, written_1h=0, wrong_usd=call.cost_usd
        ),
    )


def missing_session(calls: list[Call]) -> Planted:
    return _named(calls, lambda call: replace(call, session=""))


def missing_tenant(calls: list[Call]) -> Planted:
    return _named(calls, lambda call: replace(call, tenant=""))


def missing_trace(calls: list[Call]) -> Planted:
    return _named(calls, lambda call: replace(call, trace=""))


def owner_conflict(calls: list[Call]) -> Planted:
    """The last call of some traces is borne by somebody else."""
    last = {call.trace: place for place, call in enumerate(calls) if call.status == "ok"}
    first = {call.trace: place for place, call in reversed(list(enumerate(calls)))}
    places = [place for trace, place in last.items() if place != first[trace]][:7]
    changed = list(calls)
    for place in places:
        changed[place] = replace(calls[place], team="platform")
    assert places
    return changed, len(places), sum((calls[place].cost_usd for place in places), Decimal(0))


PLANTS: dict[str, tuple[Callable[[list[Call]], Planted], tuple[str, ...]]] = {
    "cached_at_full_price": (cached_at_full_price, tuple(FORMATS)),
    "cache_counted_twice": (cache_counted_twice, tuple(FORMATS)),
    "zero_cost_with_tokens": (zero_cost_with_tokens, tuple(FORMATS)),
    "price_mismatch": (price_mismatch, tuple(FORMATS)),
    "batch_mispriced": (batch_mispriced, ("litellm", "langfuse", "otlp", "generic")),
    "cache_write_ttl_mispriced": (cache_write_ttl_mispriced, ("litellm", "langfuse")),
    "missing_owner": (missing_owner, ("litellm", "langfuse", "otlp", "generic", "helicone")),
    "owner_lost_at_hop": (owner_lost_at_hop, ("litellm", "langfuse", "otlp", "generic")),
    "duplicate_request": (duplicate_request, tuple(FORMATS)),
    "retry_double_counted": (retry_double_counted, ("litellm", "bifrost", "generic")),
    "tag_owner_conflict": (tag_owner_conflict, ("litellm", "bifrost")),
    "tier_mispriced": (tier_mispriced, ("litellm", "langfuse", "otlp", "generic")),
    "unknown_price": (unknown_price, ("litellm", "langfuse", "otlp", "generic")),
    "tokens_impossible": (tokens_impossible, ("litellm", "otlp", "bifrost", "generic")),
    "cost_without_tokens": (cost_without_tokens, ("litellm", "otlp", "bifrost", "generic", "helicone")),
    "missing_session": (missing_session, ("litellm", "bifrost", "generic", "helicone")),
    "missing_tenant": (missing_tenant, ("litellm", "bifrost", "generic", "otlp")),
    "missing_trace": (missing_trace, ("litellm", "bifrost", "generic")),
    "owner_conflict": (owner_conflict, ("litellm", "bifrost", "generic", "otlp", "langfuse")),
    "pii_in_metadata": (pii_in_metadata, tuple(FORMATS)),
}
"""By code how it is planted, and the formats that can say it: a key's team beside a tag, a lifetime, an attempt."""

ALSO = {"owner_lost_at_hop": "missing_owner"}
"""What a planted fault is besides, by its nature, with the same records and dollars."""


def apart(calls: list[Call], number: int) -> list[Call]:
    """The same calls under ids and traces of their own."""
    return [
        replace(
            call,
            number=call.number + number * 1_000_000,
            trace=f"{number}-{call.trace}",
            request=f"{number}-{call.request}" if call.request else "",
            response=f"{number}-{call.response_id}" if call.status == "ok" else "",
        )
        for call in calls
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_planted_fault_is_found_with_its_dollars(name: str, tmp_path: Path) -> None:
    """All faults that a format can say, each in the same traffic under ids of its own; and nothing else is found."""
    codes = [code for code, (_, formats) in PLANTS.items() if name in formats]
    log: list[Call] = []
    expected: dict[str, tuple[int, Decimal]] = {}
    for number, code in enumerate(codes):
        calls, count, usd = PLANTS[code][0](apart(list(traffic()), number))
        log += calls
        for each in (code, ALSO.get(code)):
            if each is not None:
                before = expected.get(each, (0, Decimal(0)))
                expected[each] = (before[0] + count, before[1] + usd)
    found = by_code(audited(written(log, name, tmp_path)))
    assert {code: (each.records, each.cost_usd) for code, each in found.items()} == expected
    for finding in found.values():
        assert finding.sample
        assert all(sample.line for sample in finding.sample)


@pytest.mark.parametrize("name", FORMATS)
def test_a_time_that_cannot_be_is_found(name: str, tmp_path: Path) -> None:
    calls, count, usd = time_out_of_range(clean(COUNT))
    found = by_code(audited(written(calls, name, tmp_path)))["time_out_of_range"]
    assert (found.records, found.cost_usd) == (count, usd)


def test_every_planted_code_is_one_of_the_codes() -> None:
    assert PLANTS.keys() <= set(CODES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_clean_records_yield_no_finding(name: str, tmp_path: Path) -> None:
    clean_of(name, tmp_path, 15_000)


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
def test_a_hundred_thousand_clean_records_yield_no_finding(name: str, tmp_path: Path) -> None:
    clean_of(name, tmp_path, 97_000)


def clean_of(name: str, tmp_path: Path, count: int) -> None:
    calls = clean(count)
    assert len(calls) > count
    result = audited(written(calls, name, tmp_path))
    assert result.records == len(calls)
    assert [(each.code, each.records, each.subjects[:3]) for each in result.findings] == []
    assert result.cost_usd == result.computed_usd == sum((c.cost_usd for c in calls if c.status == "ok"), Decimal(0))
