"""Attempts: each a call of its own, with its own intent and outcome. Retried only where that cannot be billed twice.

Safe to try again: no byte was sent, or the provider answered with a status that says it did not do the work
(`RETRYABLE`). After a reset or a timeout the provider may have done it, so the caller is told and decides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from decimal import Decimal

from costbearer import money
from costbearer.errors import AmountInvalid, CallRefused, ShuttingDown, UpstreamFailed, UpstreamTimeout
from costbearer.gateway import settle
from costbearer.gateway.calls import Call, Request
from costbearer.gateway.resolve import Target
from costbearer.gateway.upstream import ConnectFailed, Connection, ReplyBroken
from costbearer.gateway.worker import Worker

RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses after which OpenAI's and Anthropic's own SDKs try again; none of them is billed."""
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
    attempts = list(plan(request.targets, worker.retries))
    failure: CallRefused | None = None
    for number, (target, reason) in enumerate(attempts, start=1):
        call = await worker.open(request, target, number, reason)
        try:
            try:
                connection = call.connection = await worker.pools[target.provider.name].acquire()
                if call.client_gone or call.stopped:
                    raise ConnectFailed("no longer wanted")
                connection.send(*_outgoing(worker, request, target))
            except ConnectFailed:
                call.close(settle.not_billed(call.intent, call.ending("error", error_code="connect_failed")))
                worker.done(call)
                failure = UpstreamFailed(
                    f"no connection to {target.provider.name} could be made; nothing was sent to it"
                )
                continue
            try:
                await connection.head()
            except ReplyBroken as broken:
                raise no_reply(call, broken) from None
            call.answered(request.dialect.provider_request_id(connection.headers))
            wait = _wait_before_retry(worker, connection, last=number == len(attempts))
            if wait is None:
                call.header_cost = _header_cost(connection, target)
                return call
            await _discard(connection)
            call.close(settle.not_billed(call.intent, call.ending("error", error_code="provider_status")))
            worker.done(call)
        except BaseException:
            worker.done(call, abandoned="gateway_fault")
            raise
        await asyncio.sleep(wait)
    assert failure is not None, "a plan ends in an answer or a failure"
    raise failure


def no_reply(call: Call, broken: ReplyBroken) -> CallRefused:
    """Close a call whose reply never came whole, and say so to the caller."""
    name = call.target.provider.name
    reason = "client_gone_before_reply" if call.client_gone else f"no_reply_{broken.kind}"
    call.close(settle.unknown(call.intent, call.ending("unknown", error_code=broken.kind), reason))
    if call.stopped:
        return ShuttingDown("the gateway is shutting down; send the request again")
    if broken.kind in TIMEOUTS:
        return UpstreamTimeout(f"{name} did not answer in time; it may have done the work, so it was not tried again")
    return UpstreamFailed(
        f"the connection to {name} ended before its reply; it may have done the work, so it was not tried again"
    )


def _outgoing(worker: Worker, request: Request, target: Target) -> tuple[bytes, bytes]:
    """Head and body for the provider: no key, tag or baggage of ours, only headers known to be the provider's."""
    dialect = request.dialect
    body = dialect.outgoing(request.asked, target.model)
    lines = [worker.request_head(target.provider, dialect, request.asked.operation), f"content-length: {len(body)}\r\n"]
    headers = request.headers
    lines += [f"{name}: {headers[name]}\r\n" for name in dialect.forwarded_headers if name in headers]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1", "replace"), body


def _wait_before_retry(worker: Worker, connection: Connection, *, last: bool) -> float | None:
    """Seconds to wait before the next attempt, or None where this answer is the one to relay."""
    if connection.status not in RETRYABLE or last or worker.draining:
        return None
    stated = connection.headers.get("retry-after", "")
    wait = float(stated) if stated.replace(".", "", 1).isdigit() else BACKOFF_S * (1 + random.random())  # noqa: S311 - jitter
    return wait if wait <= worker.retry_after_max_s else None


async def _discard(connection: Connection) -> None:
    """Take the rest of a reply nobody will see, so that the connection can be used again."""
    try:
        await connection.whole()
    except ReplyBroken:
        connection.abort()


def _header_cost(connection: Connection, target: Target) -> Decimal | None:
    """The cost stated in the header that the provider's configuration names; text that is no amount is not stated."""
    name = target.provider.cost_header
    if name is None or name not in connection.headers:
        return None
    try:
        return money.usd(connection.headers[name].strip())
    except AmountInvalid:
        return None
