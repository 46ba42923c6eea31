"""Checks of what was counted: twice, not at all, or as it cannot be."""

from __future__ import annotations

from typing import Any

import ibis

from costbearer import money
from costbearer.audit.evidence import EARLIEST, MONEY, Evidence
from costbearer.audit.finding import Check
from costbearer.logformats.fields import CALL
from costbearer.logformats.otlp import INSTRUMENTATIONS
from costbearer.rerate import amount

_INVALID = "usage_invalid:"
_ZERO = ibis.literal(money.ZERO, MONEY)


def _with_ids(evidence: Evidence) -> Any:
    """The calls with their ids."""
    records = evidence.records
    ids = records.filter(records.kind == CALL).select(
        "row", "record_id", "response_id", "request_id", "attempt", "ended_at", "user", "trace_id"
    )
    calls = evidence.calls
    return calls.join(ids, calls.row == ids.row).select(
        *(calls[name] for name in calls.columns), *(ids[name] for name in ids.columns if name != "row")
    )


def _again(rows: Any, keys: list[str], order: Any) -> Any:
    """All rows but the first of those that are equal in these columns."""
    several = rows.group_by(keys).aggregate(first=order.min(), n=rows.count())
    several = several.filter(several.n > 1)
    same = [(rows[key] == several[key]) | (rows[key].isnull() & several[key].isnull()) for key in keys]
    return rows.join(several, same).filter(order > several["first"])


def _duplicates(evidence: Evidence) -> Any:
    """By the provider's id of the answer; without one by the log's own id of the record; without either by content."""
    calls = evidence.calls
    charged = calls.filter(~calls.cache_hit & ~calls.retrieved & ~calls.summed)
    records = evidence.records
    ids = records.filter(records.kind == CALL)
    by_answer = _repeated(charged, ids, "response_id", "the same answer, logged again")
    by_record = _repeated(charged, ids.filter(ids.response_id.isnull()), "record_id", "the same record, logged again")
    by_content = _same_content(evidence, charged, ids.filter(ids.response_id.isnull()))
    both = ibis.union(by_answer, by_record, by_content, distinct=False)
    first = both.group_by("row").aggregate(subject=both.subject.max(), usd=both.usd.max())
    return first.select("row", "subject", "usd")


def _repeated(charged: Any, ids: Any, name: str, says: str) -> Any:
    known = ids.filter(ids[name].notnull()).select("row", id=ids[name])
    several = known.group_by("id").aggregate(n=known.count())
    several = several.filter(several.n > 1)
    # Only what stands there more than once is joined with what it cost.
    repeated = known.semi_join(several, "id")
    met = charged.join(repeated, charged.row == repeated.row)
    met = met.select(row=charged.row, id=repeated.id, usd=charged.spend_usd)
    first = met.group_by("id").aggregate(first=met.row.min())
    again = met.join(first, met.id == first.id).filter(lambda each: each.row > each["first"])
    # What is there again at no cost is not counted twice.
    again = again.filter(again.usd.isnull() | (again.usd != 0))
    return again.select("row", subject=ibis.literal(says), usd=again.usd)


def _same_content(evidence: Evidence, charged: Any, ids: Any) -> Any:
    """Equal in names, counts, cost, key and time to the instant: more than the same prompt asked again."""
    plain = ids.select("row", "ended_at", "user", "session_id")
    fine = charged.filter(charged.tokens & charged.started_at.notnull())
    met = fine.join(plain, fine.row == plain.row)
    keys = ["started_at", "response_model", "key", *evidence.counted]
    rows = met.select(
        row=fine.row,
        usd=fine.spend_usd,
        **{key: fine[key] for key in keys},
        ended_at=plain.ended_at,
        user=plain.user,
        session_id=plain.session_id,
    )
    print_ = ibis.literal("").concat(
        *(ibis.coalesce(rows[key].cast("string"), "").concat("|") for key in (*keys, "ended_at", "user", "session_id"))
    )
    marked = rows.select("row", "usd", "started_at", print=print_)
    several = marked.group_by("print").aggregate(first=marked.row.min(), n=marked.count())
    several = several.filter(several.n > 1)
    again = marked.join(several, marked.print == several.print).filter(lambda each: each.row > each["first"])
    whole = again.started_at.microsecond() == 0
    says = ibis.ifelse(
        whole, "the same content in the same second; may be two calls", "the same content at the same instant"
    )
    return again.select("row", subject=says, usd=again.usd)


def _retries(evidence: Evidence) -> Any:
    """Of several calls of one request: attempts that failed and are charged, and one attempt's usage logged for two."""
    records = evidence.records
    known = records.filter((records.kind == CALL) & records.request_id.notnull())
    known = known.select("row", "request_id", "response_id")
    several = known.group_by("request_id").aggregate(n=known.count())
    several = several.filter(several.n > 1)
    attempts = known.semi_join(several, "request_id")
    calls = evidence.calls
    met = calls.filter(~calls.cache_hit & ~calls.retrieved).join(attempts, "row")
    succeeded = met.filter(met.status == "ok")
    saved = succeeded.select("request_id").distinct()
    both = met.semi_join(saved, "request_id")
    failed = both.filter((both.status == "error") & (both.spend_usd > 0))
    failed = failed.select("row", subject=ibis.literal("a failed attempt is charged"), usd=failed.spend_usd)
    unnamed = succeeded.filter(succeeded.response_id.isnull() & succeeded.tokens)
    keys = ["request_id", "response_model", *evidence.counted]
    marked = unnamed.select(
        "row",
        usd=unnamed.spend_usd,
        print=ibis.literal("").concat(*(ibis.coalesce(unnamed[key].cast("string"), "").concat("|") for key in keys)),
    )
    groups = marked.group_by("print").aggregate(last=marked.row.max(), n=marked.count())
    groups = groups.filter(groups.n > 1)
    again = marked.join(groups, "print").filter(lambda each: each.row < each["last"])
    again = again.select("row", subject=ibis.literal("one attempt's usage is logged for two"), usd=again.usd)
    return failed.union(again)


def _count(evidence: Evidence, table: Any, name: str) -> Any:
    return table[name] if name in evidence.counted else ibis.null("int64")


def _retrievals(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter((calls.retrieved | calls.cache_hit) & (calls.stated_usd > 0))
    says = ibis.ifelse(found.cache_hit, "answered by the gateway's cache", "a stored answer fetched again")
    return found.select("row", subject=says, usd=found.stated_usd)


def _tokens_missing(evidence: Evidence) -> Any:
    """Calls that worked and state no counts; and those written by a library that is known to lose some."""
    calls = evidence.calls
    silent = calls.filter(
        calls.no_counts
        & (calls.status == "ok")
        & ~calls.cache_hit
        & ~calls.retrieved
        & ~(calls.stated_usd > 0).fill_null(False)
        # What our own ledger has a cost for needs no counts: a file that was uploaded, a result that was read.
        & (calls.basis.isnull() | (calls.reason_unknown == "usage_missing").fill_null(False))
    )
    silent = silent.select("row", subject=ibis.literal("no counts at all"), usd=ibis.null(MONEY))
    return ibis.union(silent, *_lost(evidence), distinct=False)


def _lost(evidence: Evidence) -> list[Any]:
    calls, prices = evidence.calls, evidence.rates.prices
    found = []
    for defect in INSTRUMENTATIONS:
        written = calls.instrumentation.startswith(defect.instrumentation)
        if defect.version:
            written = written & calls.instrumentation.contains(f" {defect.version}")
        lost = [name for name in defect.loses if name in evidence.counted]
        absent = ibis.and_(*(calls[name].isnull() for name in lost)) if lost else ibis.literal(True)
        hit = calls.filter(ibis.coalesce(written, False) & absent & calls.tokens)
        subject = ibis.literal(f"{defect.instrumentation.rstrip('.')}: {defect.says}")
        if "cache_read_input_tokens" in defect.loses and "input_tokens" in evidence.counted:
            # If all of the input had been cached, this much of the cost would not be there.
            met = hit.join(prices, [hit.use == prices.use, hit.above == prices.above])
            cached = "price_cache_read_input"
            if cached in prices.columns:
                most = amount(hit.input_tokens, prices.price_input) - amount(hit.input_tokens, prices[cached])
                found.append(met.select(hit.row, subject=subject, usd=ibis.coalesce(most, _ZERO).cast(MONEY)))
                continue
        found.append(hit.select("row", subject=subject, usd=ibis.null(MONEY)))
    return found


def _impossible(evidence: Evidence) -> Any:
    calls = evidence.calls
    added = ibis.literal(0, "int64")
    for name in ("input_tokens", "output_tokens"):
        added = added + ibis.coalesce(_count(evidence, calls, name), 0)
    both = [_count(evidence, calls, name).notnull() for name in ("input_tokens", "output_tokens")]
    # A total above input and output is reasoning beside the output (xAI, Gemini's OpenAI dialect); one below is wrong.
    less = (calls.total_tokens < added) & ibis.and_(*both)
    contradicts = calls.reason.startswith(_INVALID)
    found = calls.filter(ibis.coalesce(contradicts, False) | ibis.coalesce(less, False) | calls.fault.notnull())
    what = ibis.coalesce(
        found.fault,
        ibis.ifelse(found.reason.startswith(_INVALID), found.reason.substr(len(_INVALID)), ibis.null("string")),
        "total_tokens",
    )
    return found.select("row", subject=what, usd=found.spend_usd)


def _cost_without_tokens(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter(
        ~calls.tokens & (calls.stated_usd > 0) & ~calls.cache_hit & ~calls.retrieved & (calls.status != "error")
    )
    return found.select("row", subject=ibis.coalesce(found.model, "(none)"), usd=found.stated_usd)


def _zero_cost(evidence: Evidence) -> Any:
    calls = evidence.calls
    # A call that failed before it said anything is not billed, whatever was counted of its prompt.
    failed = (calls.status == "error") & (ibis.coalesce(_count(evidence, calls, "output_tokens"), 0) == 0)
    charged = (calls.stated_usd == 0) & (calls.expected_usd > 0) & calls.tokens
    found = calls.filter(charged & ~ibis.coalesce(failed, False))
    return found.select("row", subject=ibis.coalesce(found.model, "(none)"), usd=(-found.expected_usd).cast(MONEY))


def _out_of_range(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter(~ibis.coalesce(calls.timely, False))
    says = ibis.cases(
        (found.started_at.isnull(), "no time that can be read"),
        (found.started_at < EARLIEST, "long ago"),
        else_="in the future",
    )
    return found.select("row", subject=says, usd=found.spend_usd)


def _rollup(evidence: Evidence) -> Any:
    calls = evidence.calls
    found = calls.filter(calls.summed & calls.response_model.isnull() & calls.request_model.isnull())
    return found.select("row", subject=ibis.coalesce(found.operation, "(none)"), usd=found.spend_usd)


CHECKS: tuple[Check, ...] = (
    Check(
        "duplicate_request",
        "high",
        "likely",
        "spend",
        "Counted more than once",
        "The same call stands in the log again. Ids prove it; without ids the same content at the same instant is "
        "taken for it, and the same content at another time never is: it may be a prompt that was asked twice.",
        "Keep one record per provider response id.",
        _duplicates,
    ),
    Check(
        "retry_double_counted",
        "high",
        "likely",
        "spend",
        "A retry is charged twice",
        "Of several attempts at one request more is charged than succeeded. Providers do not bill what failed.",
        "Charge an attempt only where the provider answered it.",
        _retries,
    ),
    Check(
        "retrieval_billed",
        "high",
        "certain",
        "spend",
        "An answer that was only fetched again is charged",
        "A cached or stored answer costs nothing at the provider; its price was paid when it was made.",
        "Log reads of stored answers and cache hits at 0.",
        _retrievals,
    ),
    Check(
        "zero_cost_with_tokens",
        "high",
        "certain",
        "difference",
        "Charged at 0 although tokens were used",
        "A missing price or usage became 0. The provider bills it.",
        "Price the model; where that is not possible, keep the cost unknown and not 0.",
        _zero_cost,
    ),
    Check(
        "tokens_missing",
        "high",
        "likely",
        "unknown",
        "Token counts are missing",
        "A call that worked states no counts, or was written by a library that is known to lose some. Dollars, where "
        "they are given, are the most that can be wrong.",
        "Ask for usage in streams (stream_options.include_usage), and meter at the gateway rather than in the client.",
        _tokens_missing,
    ),
    Check(
        "cost_without_tokens",
        "medium",
        "certain",
        "spend",
        "A cost without any counts",
        "It cannot be checked against a price.",
        "Log the counts the provider states beside the cost.",
        _cost_without_tokens,
    ),
    Check(
        "tokens_impossible",
        "medium",
        "certain",
        "spend",
        "Counts that cannot be",
        "A count is negative, a part is larger than its whole, or the total is less than its parts: dialects with "
        "different containment were added up.",
        "State which counts contain which, and add only those that do not overlap.",
        _impossible,
    ),
    Check(
        "time_out_of_range",
        "medium",
        "certain",
        "spend",
        "No usable time",
        "Without its time a call belongs to no period and has no price.",
        "Log the start of every call in UTC (ISO 8601).",
        _out_of_range,
    ),
    Check(
        "mixed_provider_rollup",
        "medium",
        "certain",
        "spend",
        "A sum over several models",
        "Its tokens cannot be priced, nor can it be charged to anyone exactly.",
        "Group the export by model (and by key or project).",
        _rollup,
    ),
)
