"""Attempts: each a call of its own, with its own intent and outcome. Retried only where that cannot be billed twice.

Safe to try again: no byte was sent, or the provider itself answered with a status that says it did not do the work
(`RETRYABLE`). After a reset or a timeout the provider may have done it, so the caller is told and decides; the same
holds where something in front of the provider says so for it (`DOUBTFUL`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from decimal import Decimal

from costbearer import money
from costbearer.dialects import reply
from costbearer.dialects.base import Outgoing
from costbearer.errors import AmountInvalid, CallRefused, ShuttingDown, UpstreamFailed, UpstreamTimeout
from costbearer.gateway import settle
from costbearer.gateway.calls import Call, Request
from costbearer.gateway.resolve import Target
from costbearer.gateway.upstream import ConnectFailed, Connection, ReplyBroken
from costbearer.gateway.worker import Worker
from costbearer.ledger import Entry

RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses after which OpenAI's and Anthropic's own SDKs try again; none of them is billed."""
DOUBTFUL = frozenset({408, 502, 504})
"""Statuses that a proxy also gives when it lost sight of a provider at work. Without the provider's own request id in
the answer nobody knows whether the work was done."""
BACKOFF_S = 0.25
TIMEOUTS = frozenset({"first_byte_timeout", "idle_timeout"})


def plan(targets: tuple[Target, ...], retries: int) -> Iterator[tuple[Target, str | None]]:
    """The attempts in order, each with the reason it exists: the first, its retries, then the fallbacks and theirs."""
    for index, target in enumerate(targets):
        yield target, "fallback" if index else None
        for _ in range(retries):
            yield target, "retry"


async def attempt(worker: Worker, request: Request) -> Call:
    """Try the plan until a provider answers with something to relay; the call comes back open, at the reply's body.

    Raises:
        CallRefused: no attempt gave an answer, or the journal refused the intent (then nothing was sent). Every call
            that was opened has its entry by then.
    """
    last = len(request.targets) * (1 + worker.retries)
    failure: CallRefused | None = None
    for number, (target, reason) in enumerate(plan(request.targets, worker.retries), start=1):
        try:
            outgoing = target.operation.outgoing(request.asked, target.model, request.labels)
        except CallRefused as refusal:
            # What one provider cannot be asked, the next perhaps can.
            failure = failure or refusal
            continue
        call = await worker.open(request, target, outgoing, number, reason)
        try:
            wait = await _try(worker, request, call, outgoing, last=number == last)
        except ConnectFailed:
            call.close(settle.not_billed(call.intent, call.ending("error", error_code="connect_failed")))
            worker.done(call)
            failure = UpstreamFailed(f"no connection to {target.provider.name} could be made; nothing was sent to it")
            wait = 0.0
        except BaseException:
            worker.done(call, abandoned="gateway_fault")
            raise
        if wait is None:
            return call
        if not call.wanted:
            break
        await asyncio.sleep(wait)
        if request.caller.gone:
            break
    raise failure or UpstreamFailed("the caller left before an answer came")


async def _try(worker: Worker, request: Request, call: Call, outgoing: Outgoing, *, last: bool) -> float | None:
    """One attempt. None: its answer is the one to relay. Else it is closed, and that many seconds are to be waited.

    Raises:
        ConnectFailed: nothing was sent; the call is still open.
        CallRefused: something was sent and no answer came; the call is closed.
    """
    target = call.target
    head = worker.request_head(target, outgoing, request.headers)
    pool = worker.pools[target.provider.name]
    connection = pool.take() or await pool.acquire()
    if not call.wanted:
        pool.release(connection)
        raise ConnectFailed("no longer wanted")
    try:
        connection.send(head, outgoing.body)
    except ConnectFailed:
        pool.release(connection)
        raise
    call.connection = connection
    try:
        if not connection.has_head:
            await connection.head()
    except ReplyBroken as broken:
        raise no_reply(call, broken) from None
    call.answered(_provider_request_id(target, connection.headers))
    call.header_cost = _header_cost(connection, target)
    wait = _wait_before_retry(worker, call, connection)
    if last or wait is None:
        return None
    await _discard(connection)
    call.close(refused(call))
    worker.done(call)
    return wait


def refused(call: Call, body: bytes = b"") -> Entry:
    """The outcome of an answer that is not 2xx: not billed, unless a cost is stated or nobody can know."""
    ending = call.ending("error", error_code="provider_status")
    if call.header_cost:
        return settle.stated(call.intent, ending, call.header_cost, call.target.model)
    if ending.http_status in DOUBTFUL and call.provider_request_id is None:
        return settle.unknown(call.intent, ending, f"status_{ending.http_status}")
    charged = call.target.dialect.charged_refusal(ending.http_status or 0, body)
    if charged is not None:
        return settle.unknown(call.intent, ending, f"refusal_charged:{charged}")
    return settle.not_billed(call.intent, ending)


def no_reply(call: Call, broken: ReplyBroken) -> CallRefused:
    """Close a call whose reply never came whole, and say so to the caller."""
    name = call.target.provider.name
    reason = "client_gone_before_reply" if call.caller.gone else f"no_reply_{broken.kind}"
    call.close(settle.unknown(call.intent, call.ending("unknown", error_code=broken.kind), reason))
    if call.stopped:
        return ShuttingDown("the gateway is shutting down; send the request again")
    if broken.kind in TIMEOUTS:
        return UpstreamTimeout(f"{name} did not answer in time; it may have done the work, so it was not tried again")
    return UpstreamFailed(
        f"the connection to {name} ended before its reply; it may have done the work, so it was not tried again"
    )


def _provider_request_id(target: Target, headers: dict[str, str]) -> str | None:
    for name in target.provider.request_id_headers:
        if name in headers:
            return reply.name(headers[name])
    return target.dialect.provider_request_id(headers)


def _wait_before_retry(worker: Worker, call: Call, connection: Connection) -> float | None:
    """Seconds to wait before the next attempt, or None where this answer is the one to relay."""
    status = connection.status
    if status not in RETRYABLE or worker.draining or call.header_cost:
        return None
    if status in DOUBTFUL and call.provider_request_id is None:
        return None
    stated = connection.headers.get("retry-after", "").strip()
    whole, _, part = stated.partition(".")
    known = stated.isascii() and whole.isdecimal() and (not part or part.isdecimal())
    wait = float(stated) if known else BACKOFF_S * (1 + random.random())  # noqa: S311 - jitter
    return wait if wait <= worker.retry_after_max_s else None


async def _discard(connection: Connection) -> None:
    """Take the rest of a reply nobody will see, so that the connection can be used again."""
    try:
        await connection.whole()
    except ReplyBroken:
        connection.abort()


def _header_cost(connection: Connection, target: Target) -> Decimal | None:
    """The cost stated in the header that the provider's configuration names; what is no cost is not stated."""
    name = target.provider.cost_header
    if name is None or name not in connection.headers:
        return None
    try:
        cost = money.usd(connection.headers[name].strip())
    except AmountInvalid:
        return None
    return cost if cost >= 0 else None
