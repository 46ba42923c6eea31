"""Bills as providers give them: OpenAI's costs pages, Anthropic's cost reports, AWS's Cost and Usage Report, and plain
tables of periods and amounts. Each line becomes a day, an amount in dollars, and what else the bill says of it.

OpenAI's amounts are dollars, Anthropic's are cents in decimal text; both days are UTC, their ends excluded. AWS bills
Bedrock by usage type, whose names have a model and a class of tokens in them; credits and taxes are lines of their own.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from costbearer import money
from costbearer.errors import AmountInvalid, InputInvalid


class InvoiceLine(NamedTuple):
    """`since` to `until` (excluded) is what is billed for; a day, or what a plain table says."""

    since: date
    until: date
    amount_usd: Decimal
    provider: str | None = None
    model: str | None = None
    token_class: str | None = None
    description: str | None = None
    request_id: str | None = None


class Invoice(NamedTuple):
    """A bill. `kind` says what it was read as."""

    file: str
    kind: str
    lines: tuple[InvoiceLine, ...]

    @property
    def since(self) -> date:
        return min(line.since for line in self.lines)

    @property
    def until(self) -> date:
        return max(line.until for line in self.lines)

    @property
    def amount_usd(self) -> Decimal:
        return money.total(line.amount_usd for line in self.lines)


def read(file: Path) -> Invoice:
    """A bill out of a file, of whichever kind it is.

    Raises:
        InputInvalid: it cannot be read or is no bill that is known; the message says where.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    kind, lines = _json_lines(text, file) if text.lstrip()[:1] in {"{", "["} else _csv_lines(text, file)
    if not lines:
        raise InputInvalid(f"{file}: the bill has no lines")
    return Invoice(str(file), kind, tuple(lines))


def _usd(value: Any, place: str) -> Decimal:
    """An amount; JSON's numbers are read as they are written, never through a binary float."""
    try:
        return money.usd(str(value).replace(",", "").replace("$", "").strip())
    except AmountInvalid as error:
        raise InputInvalid(f"{place}: {error.message}") from None


# -- the providers' own


def _json_lines(text: str, file: Path) -> tuple[str, list[InvoiceLine]]:
    try:
        document = json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise InputInvalid(f"{file}: not JSON: it is nested too deep") from None
    except ValueError as error:
        raise InputInvalid(f"{file}: not JSON: {error}") from None
    pages = document if isinstance(document, list) else [document]
    lines: list[InvoiceLine] = []
    kinds = []
    for page in pages:
        buckets = page.get("data") if isinstance(page, dict) else None
        if not isinstance(buckets, list):
            raise InputInvalid(f"{file}: not a bill: OpenAI's costs and Anthropic's cost report are pages with `data`")
        for number, bucket in enumerate(buckets):
            place = f"{file}: data[{number}]"
            try:
                results = bucket["results"]
                own = "start_time" in bucket
                kinds.append("OpenAI costs" if own else "Anthropic cost report")
                made = _openai_line if own else _anthropic_line
                lines += [made(bucket, result, place) for result in results]
            except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, OSError) as error:
                # OSError and OverflowError are times that the platform has no day for.
                raise InputInvalid(f"{place}: not a bucket of a bill: {type(error).__name__}: {error}") from None
    if len(set(kinds)) > 1:
        raise InputInvalid(f"{file}: pages of two kinds of bills")
    return (kinds or ["bill"])[0], lines


def _openai_line(bucket: Mapping[str, Any], result: Mapping[str, Any], place: str) -> InvoiceLine:
    amount = result["amount"]
    if str(amount.get("currency", "usd")).lower() != "usd":
        raise InputInvalid(f"{place}: the amount is in {amount['currency']}, not in US dollars")
    item = result.get("line_item")
    model, _, what = (item or "").partition(", ")
    return InvoiceLine(
        since=datetime.fromtimestamp(int(bucket["start_time"]), UTC).date(),
        until=datetime.fromtimestamp(int(bucket["end_time"]), UTC).date(),
        amount_usd=_usd(amount["value"], place),
        provider="openai",
        model=model.lower() if what else None,
        token_class=_token_class(what) if what else None,
        description=item,
    )


def _anthropic_line(bucket: Mapping[str, Any], result: Mapping[str, Any], place: str) -> InvoiceLine:
    """Amounts are cents: `123.45` is $1.2345."""
    if str(result.get("currency", "USD")).upper() != "USD":
        raise InputInvalid(f"{place}: the amount is in {result['currency']}, not in US dollars")
    try:
        cents = Decimal(str(result["amount"]))
    except ArithmeticError:
        raise InputInvalid(f"{place}: {result['amount']!r} is not an amount") from None
    return InvoiceLine(
        since=datetime.fromisoformat(bucket["starting_at"]).date(),
        until=datetime.fromisoformat(bucket["ending_at"]).date(),
        amount_usd=_usd(cents.scaleb(-2), place),
        provider="anthropic",
        model=result.get("model"),
        token_class=_token_class(str(result.get("token_type") or "")),
        description=result.get("description"),
    )


_CLASSES: tuple[tuple[str, str], ...] = (
    (r"cache.?read|cached|cache.?hit", "cache_read"),
    (r"cache.?write|cache.?creation", "cache_write"),
    (r"output", "output"),
    (r"input", "input"),
)


def _token_class(text: str) -> str | None:
    """input, output, cache_read or cache_write, out of whichever spelling a bill uses."""
    spelt = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    return next((name for pattern, name in _CLASSES if re.search(pattern, spelt)), None)


# -- tables


def _csv_lines(text: str, file: Path) -> tuple[str, list[InvoiceLine]]:
    try:
        return _table(csv.DictReader(text.splitlines()), file)
    except csv.Error as error:
        raise InputInvalid(f"{file}: not CSV: {error}") from None


def _table(rows: csv.DictReader[str], file: Path) -> tuple[str, list[InvoiceLine]]:
    names = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    if "line_item_usage_type" in names or "lineitem/usagetype" in names:
        return "AWS Cost and Usage Report", list(_cur_lines(rows, names, file))
    if {"period", "amount"} <= names.keys():
        return "periods and amounts", list(_plain_lines(rows, names, file))
    raise InputInvalid(
        f"{file}: not a bill: it needs the columns `period` and `amount` (with `provider` and `model` if it has them), "
        "or those of AWS's Cost and Usage Report"
    )


def _plain_lines(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], file: Path) -> Iterator[InvoiceLine]:
    for number, row in enumerate(rows, 2):
        place = f"{file}:{number}"
        since, until = _period(str(row[names["period"]] or ""), place)
        yield InvoiceLine(
            since,
            until,
            _usd(row[names["amount"]], place),
            provider=(row.get(names.get("provider", "")) or "").lower() or None,
            model=row.get(names.get("model", "")) or None,
        )


def _period(text: str, place: str) -> tuple[date, date]:
    """A day or a month."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}", text.strip()):
            first = date.fromisoformat(f"{text.strip()}-01")
            return first, (first + timedelta(days=32)).replace(day=1)
        day = datetime.fromisoformat(text.strip()).date()
        return day, day + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InputInvalid(f"{place}: period: {text!r} is neither a month (2026-11) nor a day (2026-11-27)") from None


_USAGE_TYPE = re.compile(
    r"^(?:[A-Z]{2,4}\d?-)?(?:MP:)?(?P<model>.*?)-?"
    r"(?P<class>text-input-tokens|input-tokens?|output-tokens?|cache-read-input-token-count|cache-write-input-token-count"
    r"|cache-read-tokens|cache-write-tokens|InputTokenCount|OutputTokenCount|CacheReadInputTokenCount"
    r"|CacheWrite\w*InputTokenCount|input_tokens|output_tokens|Million\w*Tokens)",
)


def _cur_lines(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], file: Path) -> Iterator[InvoiceLine]:
    def column(row: Mapping[str, Any], *wanted: str) -> str:
        return next((str(row[names[name]] or "") for name in wanted if name in names), "")

    for number, row in enumerate(rows, 2):
        place = f"{file}:{number}"
        code = column(row, "line_item_product_code", "lineitem/productcode")
        usage_type = column(row, "line_item_usage_type", "lineitem/usagetype")
        found = _USAGE_TYPE.match(usage_type)
        if "bedrock" not in (code + usage_type).lower() and not found:
            continue
        kind = column(row, "line_item_line_item_type", "lineitem/lineitemtype")
        if kind in {"Tax", "Credit", "Refund"}:
            continue
        begin = column(row, "line_item_usage_start_date", "lineitem/usagestartdate")
        try:
            since = datetime.fromisoformat(begin).date()
            until = since + timedelta(days=1)
        except (ValueError, OverflowError):
            raise InputInvalid(f"{place}: {begin!r} is not a day on which usage began") from None
        yield InvoiceLine(
            since,
            until,
            _usd(column(row, "line_item_unblended_cost", "lineitem/unblendedcost"), place),
            provider="aws",
            model=found["model"] if found else None,
            token_class=_token_class(found["class"]) if found else None,
            description=usage_type,
            request_id=column(row, "request_id", "line_item_request_id") or None,
        )


def same_model(billed: str, logged: str) -> bool:
    """Whether a bill's name of a model is a log's: `Claude4.6Sonnet` is `anthropic.claude-sonnet-4-6-v1:0`.

    Bills put the words of a name in another order and leave out maker, date and version, so the words and numbers of
    the shorter name must all be in the longer one.
    """
    ours, theirs = _words(billed), _words(logged)
    return bool(ours) and ours <= theirs


def _words(name: str) -> frozenset[str]:
    parts = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return frozenset(parts)


def total_by_day(lines: Sequence[InvoiceLine]) -> dict[date, Decimal]:
    """What is billed for single days."""
    days: dict[date, Decimal] = {}
    for line in lines:
        if line.until - line.since == timedelta(days=1):
            days[line.since] = money.total((days.get(line.since, money.ZERO), line.amount_usd))
    return days
