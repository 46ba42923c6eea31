"""Checks that one log alone can say, and the list of all codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer.audit.checks import CHECKS, CODES
from costbearer.audit.result import AuditResult
from costbearer.contract import Contract
from tests.auditing import audited, by_code
from tests.usagelogs import WRITERS, clean

Row = dict[str, Any]
CODES_THAT_STAY = """
missing_owner missing_session missing_trace missing_tenant owner_lost_at_hop owner_conflict tag_owner_conflict
duplicate_request retry_double_counted retrieval_billed price_mismatch model_alias unknown_price zero_cost_with_tokens
cost_without_tokens tokens_missing tokens_impossible cached_at_full_price cache_counted_twice
cache_write_ttl_mispriced tier_mispriced batch_mispriced provider_cost_discarded currency_mixed pii_in_metadata
tag_high_cardinality time_out_of_range mixed_provider_rollup
"""


def changed(change: Callable[[Row], None], tmp_path: Path) -> AuditResult:
    """An audit of a clean log of which the first record is changed."""
    lines = WRITERS["litellm"](clean(20)).splitlines()
    first = json.loads(lines[0])
    change(first)
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    return audited(file)


FIRST = clean(20)[0]


def test_the_codes_are_those_that_stay() -> None:
    assert sorted(CODES) == sorted(CODES_THAT_STAY.split())
    assert all(check.why.endswith(".") and check.fix.endswith(".") for check in CHECKS)


def test_an_answer_that_is_fetched_again_is_charged(tmp_path: Path) -> None:
    result = changed(lambda row: row.update(call_type="aget_responses"), tmp_path)
    found = by_code(result)["retrieval_billed"]
    assert (found.records, found.cost_usd) == (1, FIRST.cost_usd)
    result = changed(lambda row: row.update(cache_hit="True"), tmp_path)
    found = by_code(result)["retrieval_billed"]
    assert (found.records, found.cost_usd, found.subjects[0].subject) == (
        1,
        FIRST.cost_usd,
        "answered by the gateway's cache",
    )
    assert by_code(changed(lambda row: row.update(cache_hit="True", spend=0), tmp_path)) == {}


def test_a_name_of_ones_own_is_no_model(tmp_path: Path) -> None:
    result = changed(lambda row: row.update(model="prod-chat", model_group="prod-chat"), tmp_path)
    found = by_code(result)["model_alias"]
    assert (found.records, found.cost_usd) == (1, FIRST.cost_usd)
    assert found.subjects[0].subject == "prod-chat: not a billable model"
    assert set(by_code(result)) == {"model_alias"}


def test_an_alias_that_drifts(tmp_path: Path) -> None:
    rows = [json.loads(line) | {"model_group": "our-chat"} for line in WRITERS["litellm"](clean(20)).splitlines()]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = by_code(audited(file))["model_alias"]
    assert found.subjects[0].subject.startswith("our-chat: means ")
    assert found.records == len(rows)
    steady = [row for row in rows if row["model"] == "gpt-4o"]
    file.write_text("".join(json.dumps(row) + "\n" for row in steady))
    assert by_code(audited(file)) == {}


def test_the_providers_own_cost_is_thrown_away(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        metadata = json.loads(row["metadata"])
        metadata["usage_object"]["cost"] = float(FIRST.cost_usd + Decimal("0.25"))
        row["metadata"] = json.dumps(metadata)

    found = by_code(changed(change, tmp_path))["provider_cost_discarded"]
    assert (found.records, found.cost_usd, found.net_usd) == (1, Decimal("0.25"), Decimal("-0.25"))


def test_what_states_no_counts(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        row.update(prompt_tokens=None, completion_tokens=None, total_tokens=None, spend=0, metadata="{}")

    found = by_code(changed(change, tmp_path))["tokens_missing"]
    assert (found.records, found.cost_usd, found.unknown) == (1, None, 1)


def test_a_call_that_failed_before_it_said_anything_costs_nothing(tmp_path: Path) -> None:
    def change(row: Row) -> None:
        row.update(status="failure", spend=0, completion_tokens=0)
        row["metadata"] = json.dumps({"user_api_key_team_alias": "search"})

    assert "zero_cost_with_tokens" not in by_code(changed(change, tmp_path))


def test_a_tag_that_is_an_id(tmp_path: Path) -> None:
    calls = [replace(call, tags=(*call.tags, ("request", f"r{number}"))) for number, call in enumerate(clean(1500))]
    file = tmp_path / "log.jsonl"
    file.write_text(WRITERS["litellm"](calls))
    found = by_code(audited(file))["tag_high_cardinality"]
    assert (found.records, found.subjects[0].subject) == (len(calls), "request")


def portkey(cost: float, **more: Any) -> Row:
    return {
        "id": "p-1",
        "trace_id": "t",
        "created_at": "2026-10-05T08:00:00Z",
        "ai_org": "openai",
        "ai_model": "gpt-4o",
        "req_units": 1000,
        "res_units": 100,
        "total_units": 1100,
        "cost": cost,
        "cost_currency": "USD",
        "metadata": {"owner_team": "search", "session_id": "s", "tenant_id": "t"},
    } | more


def test_costs_in_cents_are_found_out_and_in_dollars_too(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    for cost in (0.35, 0.0035):
        file.write_text("".join(json.dumps(portkey(cost, id=f"p-{number}")) + "\n" for number in range(5)))
        result = audited(file)
        assert result.format == "portkey"
        assert result.cost_usd == Decimal("0.0175")
        assert by_code(result).keys() <= {"duplicate_request"}
        assert any("cents" in note for note in result.notes if "its costs" in note) == (cost > 0.1)


def test_another_currency_is_no_dollar(tmp_path: Path) -> None:
    rows = [
        portkey(0.0035, id="p-1"),
        portkey(0.0031, id="p-2", cost_currency="EUR", created_at="2026-10-05T09:00:00Z"),
    ]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = audited(file)
    found = by_code(result)["currency_mixed"]
    assert (found.records, found.cost_usd, found.subjects[0].subject) == (1, Decimal("0.0035"), "EUR")
    assert result.cost_usd == Decimal("0.007"), "what it costs by the archive stands in its place"


def test_a_sum_over_models_cannot_be_priced(tmp_path: Path) -> None:
    result_row = {"object": "organization.usage.completions.result", "input_tokens": 10, "output_tokens": 5,
                  "num_model_requests": 3, "model": None}  # fmt: skip
    page = {"object": "page", "data": [{"start_time": 1791158400, "end_time": 1791244800, "results": [result_row]}]}
    file = tmp_path / "page.json"
    file.write_text(json.dumps(page))
    assert by_code(audited(file))["mixed_provider_rollup"].records == 1
    page["data"][0]["results"] = [result_row | {"model": "gpt-4o-2024-08-06"}]  # type: ignore[index]
    file.write_text(json.dumps(page))
    result = audited(file)
    assert "mixed_provider_rollup" not in by_code(result)
    assert result.cost_usd == Decimal("0.000075"), "a log without costs is rated by the archive"


def test_the_same_content_at_the_same_instant_without_any_id(tmp_path: Path) -> None:
    head = "time,model,input_tokens,output_tokens,cost,team\n"
    file = tmp_path / "log.csv"
    for time, says in (("2026-10-05T08:00:00.123456Z", "at the same instant"), ("2026-10-05T08:00:00Z", "may be two")):
        file.write_text(
            head
            + f"{time},gpt-4o,1000,100,0.0035,search\n" * 3
            + "2026-10-05T08:00:01.5Z,gpt-4o,1000,100,0.0035,search\n"
        )
        found = by_code(audited(file))["duplicate_request"]
        assert (found.records, found.cost_usd) == (2, Decimal("0.0070"))
        assert says in found.subjects[0].subject


def test_a_retry_whose_usage_is_logged_for_both_attempts(tmp_path: Path) -> None:
    head = "timestamp,request_id,attempt,model,input_tokens,output_tokens,cost,team,status\n"
    file = tmp_path / "log.csv"
    file.write_text(
        head
        + "2026-10-05T08:00:00.1Z,r-1,1,gpt-4o,1000,100,0.0035,search,ok\n"
        + "2026-10-05T08:00:02.1Z,r-1,2,gpt-4o,1000,100,0.0035,search,ok\n"
        + "2026-10-05T08:00:04.1Z,r-2,1,gpt-4o,1000,100,0.0035,search,ok\n"
    )
    found = by_code(audited(file))["retry_double_counted"]
    assert (found.records, found.cost_usd) == (1, Decimal("0.0035"))


@pytest.mark.parametrize(
    ("day", "stated", "says"),
    [
        ("2025-05-01", "0.0100", ""),
        ("2025-07-01", "0.0100", "the price of 2025-06-09"),
        ("2025-05-01", "0.0020", "the price of"),
    ],
)
def test_a_stale_price_is_named_by_its_day(day: str, stated: str, says: str, tmp_path: Path) -> None:
    """o3 cost 10 and 40 dollars a million until 2025-06-10, then 2 and 8."""
    file = tmp_path / "log.csv"
    file.write_text(
        f"date,provider,model,input_tokens,output_tokens,cost,team\n{day},openai,o3,1000,0,{stated},search\n"
    )
    found = by_code(audited(file)).get("price_mismatch")
    assert (found is not None) == bool(says)
    if found is not None:
        assert re.search(says, found.subjects[0].subject)
        assert found.cost_usd == Decimal("0.008")


CONTRACT = b"""
[[terms]]
provider = "openai"
model = "gpt-4o*"
since = 2026-01-01
discount = "10"

[[terms]]
provider = "openai"
model = "our-own"
since = 2026-01-01
prices_per_million = { input = "1", output = "2" }
"""


def test_prices_that_were_agreed_go_before_the_public_ones(tmp_path: Path) -> None:
    """A log made with the contract's prices is right by them, and wrong by the public ones."""
    head = "date,provider,model,input_tokens,output_tokens,cost,team\n"
    file = tmp_path / "log.csv"
    file.write_text(
        head
        + "2026-10-05,openai,gpt-4o,1000,100,0.00315,search\n"
        + "2026-10-05,openai,our-own,1000,100,0.0012,search\n"
    )
    assert set(by_code(audited(file))) == {"price_mismatch", "model_alias"}
    assert by_code(audited(file, contract=Contract.loads(CONTRACT))) == {}
