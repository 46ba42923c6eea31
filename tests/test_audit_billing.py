"""Bills beside logs: read as what they are, and told where they differ."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from costbearer.errors import InputInvalid
from costbearer.reconcile import invoices
from tests.auditing import audited
from tests.usagelogs import BEGIN, PROVIDER, WRITERS, clean

CALLS = [call for call in clean(60) if call.status == "ok"]
DAY = BEGIN.date()


def cost(provider: str) -> Decimal:
    return sum((call.cost_usd for call in CALLS if PROVIDER[call.model] == provider), Decimal(0))


def read(text: str | dict[str, Any], tmp_path: Path, name: str = "bill") -> invoices.Invoice:
    file = tmp_path / name
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    return invoices.read(file)


def openai(amount: Decimal, **more: Any) -> dict[str, Any]:
    begin = int(datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp())
    result = {"object": "organization.costs.result", "amount": {"value": float(amount), "currency": "usd"}} | more
    return {"object": "page", "data": [{"start_time": begin, "end_time": begin + 86400, "results": [result]}]}


def anthropic(cents: Decimal, **more: Any) -> dict[str, Any]:
    result = {"currency": "USD", "amount": str(cents)} | more
    return {"data": [{"starting_at": f"{DAY}T00:00:00Z", "ending_at": "2026-10-06T00:00:00Z", "results": [result]}]}


def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text(WRITERS["litellm"](CALLS))
    return file


def test_amounts_are_dollars_at_openai_and_cents_at_anthropic(tmp_path: Path) -> None:
    (line,) = read(openai(Decimal("0.06")), tmp_path).lines
    assert (line.amount_usd, line.since, line.until) == (Decimal("0.06"), DAY, date(2026, 10, 6))
    (line,) = read(anthropic(Decimal("123.78912"), model="claude-sonnet-4-6"), tmp_path).lines
    assert (line.amount_usd, line.model) == (Decimal("1.2378912"), "claude-sonnet-4-6")


def test_a_bill_that_agrees(tmp_path: Path) -> None:
    bills = (read(openai(cost("openai")), tmp_path, "o"), read(anthropic(cost("anthropic") * 100), tmp_path, "a"))
    result = audited(log(tmp_path), invoices=bills)
    assert result.metrics.reconciliation_gap_pct == 0
    assert result.reconciled is not None
    assert result.reconciled.gaps == ()


def test_what_went_around_the_log_is_on_the_bill(tmp_path: Path) -> None:
    more = cost("openai") + Decimal("1.25")
    result = audited(log(tmp_path), invoices=(read(openai(more), tmp_path),))
    assert result.reconciled is not None
    assert (result.reconciled.invoice_usd, result.reconciled.log_usd) == (more, cost("openai"))
    (gap,) = result.reconciled.gaps
    assert (gap.what, gap.gap_usd) == (str(DAY), Decimal("1.25"))
    assert result.metrics.reconciliation_gap_pct == pytest.approx(float(Decimal("1.25") / more * 100), abs=0.001)


def test_models_that_do_not_match_are_named(tmp_path: Path) -> None:
    bill = openai(Decimal("5"), line_item="gpt-5, input")
    result = audited(log(tmp_path), invoices=(read(bill, tmp_path),))
    assert result.reconciled is not None
    named = {gap.what: (gap.invoice_usd, gap.log_usd) for gap in result.reconciled.gaps}
    assert named["gpt-5"] == (Decimal(5), None)
    assert named["gpt-4o"][0] is None


def test_a_month_and_a_day_of_a_plain_table(tmp_path: Path) -> None:
    month, day = read('period,amount,provider\n2026-10,"1,234.50",OpenAI\n2026-10-05,$2,\n', tmp_path).lines
    assert (month.since, month.until, month.amount_usd, month.provider) == (
        date(2026, 10, 1), date(2026, 11, 1), Decimal("1234.50"), "openai")  # fmt: skip
    assert (day.since, day.until, day.amount_usd) == (DAY, date(2026, 10, 6), Decimal(2))


CUR = (
    "line_item_usage_start_date,line_item_product_code,line_item_usage_type,line_item_line_item_type,"
    "line_item_unblended_cost,request_id\n"
    "2026-10-05T00:00:00Z,AmazonBedrock,USE1-Claude4.6Sonnet-input-tokens,Usage,0.0693,\n"
    "2026-10-05T00:00:00Z,AmazonBedrock,USE1-Claude4.6Sonnet-cache-read-input-token-count,Usage,0.01,\n"
    "2026-10-05T00:00:00Z,AmazonBedrock,USE1-MP:USE1_CacheWrite1hInputTokenCount_Global-Units,Usage,0.5,r-1\n"
    "2026-10-05T00:00:00Z,AmazonBedrock,USE1-Nova2.0Lite-output-tokens-batch,Usage,0.25,\n"
    "2026-10-05T00:00:00Z,AmazonBedrock,Tax,Tax,9,\n"
    "2026-10-05T00:00:00Z,AmazonEC2,BoxUsage,Usage,9,\n"
)


def test_bedrock_on_the_cost_and_usage_report(tmp_path: Path) -> None:
    lines = read(CUR, tmp_path).lines
    assert [(line.model, line.token_class) for line in lines] == [
        ("Claude4.6Sonnet", "input"),
        ("Claude4.6Sonnet", "cache_read"),
        ("USE1_", "cache_write"),
        ("Nova2.0Lite", "output"),
    ]
    assert lines[2].request_id == "r-1"
    assert sum(line.amount_usd for line in lines) == Decimal("0.8293")


def test_a_name_on_a_bill_and_in_a_log() -> None:
    assert invoices.same_model("Claude4.6Sonnet", "us.anthropic.claude-sonnet-4-6-v1:0")
    assert not invoices.same_model("Claude4.6Sonnet", "us.anthropic.claude-haiku-4-5-v1:0")
    assert invoices.same_model("gpt-4o", "gpt-4o-2024-08-06")


def test_bedrock_requests_are_joined_by_their_ids(tmp_path: Path) -> None:
    row = {
        "schemaType": "ModelInvocationLog",
        "timestamp": "2026-10-05T09:00:00Z",
        "requestId": "r-1",
        "operation": "Converse",
        "modelId": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "identity": {"arn": "arn:aws:sts::1:assumed-role/search/s"},
        "input": {"inputTokenCount": 1000},
        "output": {"outputTokenCount": 100},
    }
    file = tmp_path / "bedrock.jsonl"
    file.write_text(json.dumps(row) + "\n")
    result = audited(file, invoices=(read(CUR, tmp_path, "cur.csv"),))
    assert result.reconciled is not None
    (gap,) = [gap for gap in result.reconciled.gaps if gap.what == "request r-1"]
    # 1,000 in at $3.30 and 100 out at $16.50 per million in a region of the US.
    assert (gap.invoice_usd, gap.log_usd) == (Decimal("0.5"), Decimal("0.00495"))


def test_bedrock_is_joined_by_day_model_and_class_of_tokens(tmp_path: Path) -> None:
    """1,000 in, a million more out of the cache and 100 out, a hundred times: $3.30, $0.33 and $16.50 per million."""
    row = {
        "schemaType": "ModelInvocationLog",
        "timestamp": "2026-10-05T09:00:00Z",
        "operation": "Converse",
        "modelId": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "identity": {"arn": "arn:aws:sts::1:assumed-role/search/s"},
        "input": {"inputTokenCount": 1000, "cacheReadInputTokenCount": 1_000_000},
        "output": {"outputTokenCount": 100},
    }
    file = tmp_path / "bedrock.jsonl"
    file.write_text("".join(json.dumps(row | {"requestId": f"r-{number}"}) + "\n" for number in range(100)))
    head = "line_item_usage_start_date,line_item_usage_type,line_item_line_item_type,line_item_unblended_cost\n"
    lines = {
        "input-tokens": ("0.33", None),
        "cache-read-input-token-count": ("66", "2026-10-05, Claude4.5Sonnet, cache_read"),
        "output-tokens": ("0.165", None),
    }
    bill = head + "".join(
        f"2026-10-05T00:00:00Z,USE1-Claude4.5Sonnet-{name},Usage,{usd}\n" for name, (usd, _) in lines.items()
    )
    result = audited(file, invoices=(read(bill, tmp_path, "cur.csv"),))
    assert result.reconciled is not None
    wrong = [gap for gap in result.reconciled.gaps if gap.what.count(",") == 2]
    assert [gap.what for gap in wrong] == ["2026-10-05, Claude4.5Sonnet, cache_read"]
    assert (wrong[0].invoice_usd, wrong[0].log_usd) == (Decimal(66), Decimal(33))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("{}", "not a bill"),
        ('{"data": [{}]}', "not a bucket"),
        ('{"data": []}', "no lines"),
        ("a,b\n1,2\n", "not a bill"),
        ("period,amount\n2026-10,abc\n", ":2"),
        ("period,amount\nautumn,1\n", "neither a month"),
        ("period,amount\n2026-10,NaN\n", "not an amount"),
    ],
)
def test_what_is_no_bill_is_refused_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match=says) as refused:
        read(text, tmp_path)
    assert "bill" in refused.value.message


def test_another_currency_is_refused(tmp_path: Path) -> None:
    page = anthropic(Decimal(1), currency="EUR")
    with pytest.raises(InputInvalid, match="EUR"):
        read(page, tmp_path)
