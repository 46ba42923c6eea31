"""Attempts: each a call of its own, with its own intent and outcome. Retried only where that cannot be billed twice.

Safe to try again: no byte was sent, or the provider itself answered with a status that says it did not do the work
(`RETRYABLE`). After a reset or a timeout the provider may have done it, so the caller is told and decides; the same
holds where something in front of the provider says so for it (`DOUBTFUL`).

An upstream that asks to be left alone for long, or whose retries are used up, gives way to the next at once: waiting is
for the same upstream only. The caller gets the first answer, or else the first refusal, that a provider gave.
"""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from typing import NamedTuple

from costbearer import money
from costbearer.dialects import reply
from costbearer.dialects.base import Outgoing
from costbearer.errors import (
    AmountInvalid,
    CallRefused,
    PriceUnknown,
    ShuttingDown,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamTimeout,
)
from costbearer.gateway import settle
from costbearer.gateway.calls import Call, Request
from costbearer.gateway.resolve import Target
from costbearer.gateway.upstream import ConnectFailed, Connection, PoolFull, ReplyBroken
from costbearer.gateway.worker import Worker
from costbearer.ledger import Entry

RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses after which OpenAI's and Anthropic's own SDKs try again; none of them is billed."""
DOUBTFUL = frozenset({408, 502, 504})
"""Statuses that a proxy also gives when it lost sight of a provider at work. Without the provider's own request id in
the answer nobody knows whether the work was done."""
BACKOFF_S = 0.25
REFUSAL_S = 1.0
"""How long the body of a refusal is awaited before the next attempt."""
REFUSAL_BYTES_MAX = 64 * 1024
"""How much of it is read: providers explain themselves in far less."""
TIMEOUTS = frozenset({"first_byte_timeout", "idle_timeout"})


class Refusal(NamedTuple):
    """A provider's answer that was worth another attempt. It goes to the caller where no attempt gives a better one."""

    call: Call
    status: int
    headers: dict[str, str]
    body: bytes


class Miss(NamedTuple):
    """An attempt whose call is closed and whose answer, if there was one, is not yet what the caller gets."""

    failure: Refusal | CallRefused
    wait_s: float | None
    """To be waited before the same upstream is asked again; None where it must not be."""


class Plan:
    """The upstreams of a request in their order. Each is put into its provider's words when it is its turn, not before:
    translating costs time, and a fallback is seldom needed."""

    __slots__ = ("_next", "_request", "_rest", "refusal")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._rest = iter(request.targets)
        self._next: tuple[Target, Outgoing] | None = None
        self.refusal: CallRefused | None = None
        """Why the first of those that cannot be asked cannot."""

    def take(self) -> tuple[Target, Outgoing] | None:
        """The next that can be asked."""
        found = self._next or self._find()
        self._next = None
        return found

    def more(self) -> bool:
        """Will `take` give another?"""
        self._next = self._next or self._find()
        return self._next is not None

    def refuse(self, refusal: CallRefused) -> None:
        """The upstream that was taken cannot be asked after all."""
        self.refusal = self.refusal or refusal

    def _find(self) -> tuple[Target, Outgoing] | None:
        request = self._request
        for target in self._rest:
            try:
                return target, target.operation.outgoing(request.asked, target.model, request.labels)
            except CallRefused as refusal:
                # What one provider cannot be asked, the next perhaps can.
                self.refuse(refusal)
        return None


async def attempt(worker: Worker, request: Request) -> Call | Refusal:
    """Ask one upstream after the other until a provider answers with something to relay: an open call, at the body of
    its reply. Where none does, the first refusal that a provider gave.

    Raises:
        CallRefused: no provider answered, or the journal refused the intent (then nothing was sent). Every call that
            was opened has its entry by then.
    """
    plan = Plan(request)
    kept: Refusal | CallRefused | None = None
    number = 0
    while (upstream := plan.take()) is not None:
        target, outgoing = upstream
        for left in range(worker.retries, -1, -1):
            reason = "retry" if left < worker.retries else "fallback" if number else None
            try:
                call = await worker.open(request, target, outgoing, number + 1, reason)
            except PriceUnknown as unpriced:
                plan.refuse(unpriced)
                break
            number += 1
            try:
                missed = await _try(worker, request, call, outgoing, plan, left)
            except ConnectFailed as failed:
                missed = _unsent(worker, call, failed)
            except BaseException:
                worker.done(call, abandoned="gateway_fault")
                raise
            if missed is None:
                return call
            if not isinstance(kept, Refusal):
                kept = missed.failure
            if not call.wanted:
                return _given_up(kept)
            if not left or missed.wait_s is None:
                break
            await asyncio.sleep(missed.wait_s)
            if request.caller.gone:
                return _given_up(kept)
    return _given_up(kept or plan.refusal)


def _given_up(kept: Refusal | CallRefused | None) -> Refusal:
    if isinstance(kept, Refusal):
        return kept
    raise kept or UpstreamFailed("no upstream could be asked")


async def _try(worker: Worker, request: Request, call: Call, outgoing: Outgoing, plan: Plan, left: int) -> Miss | None:
    """One attempt, after which the same upstream may be asked `left` times. None: its answer is the one to relay.

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
    wait = _retry_after(worker, call, connection)
    if wait is None:
        return None
    again = left > 0 and wait <= worker.retry_after_max_s
    if not again and not plan.more():
        return None
    body = await _rest(connection)
    refusal = Refusal(call, connection.status, connection.headers, body)
    call.close(refused(call, body))
    worker.done(call)
    return Miss(refusal, wait if again else None)


def _unsent(worker: Worker, call: Call, failed: ConnectFailed) -> Miss:
    """Close a call of which no byte was sent."""
    name = call.target.provider.name
    full = isinstance(failed, PoolFull)
    try:
        # A connection that is still being made when the worker ends finds its call closed.
        if not call.closed:
            code = UpstreamBusy.code if full else "connect_failed"
            call.close(settle.not_billed(call.intent, call.ending("error", error_code=code)))
    finally:
        worker.done(call)
    if call.stopped:
        return Miss(ShuttingDown("the gateway is shutting down; send the request again"), None)
    if full:
        # Its turn was waited for as long as may be: the same again would only make the queue longer.
        said = f"all connections to {name} are in use (upstream.connections_max); nothing was sent, try again later"
        return Miss(UpstreamBusy(said), None)
    return Miss(UpstreamFailed(f"no connection to {name} could be made; nothing was sent to it"), 0.0)


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


def _retry_after(worker: Worker, call: Call, connection: Connection) -> float | None:
    """Seconds to wait before the same upstream may be asked again, or None where this answer is the one to relay."""
    status = connection.status
    if status not in RETRYABLE or worker.draining or call.header_cost:
        return None
    if status in DOUBTFUL and call.provider_request_id is None:
        return None
    stated = connection.headers.get("retry-after", "").strip()
    whole, _, part = stated.partition(".")
    known = stated.isascii() and whole.isdecimal() and (not part or part.isdecimal())
    return float(stated) if known else BACKOFF_S * (1 + random.random())  # noqa: S311 - jitter


async def _rest(connection: Connection) -> bytes:
    """The rest of a refusal that is perhaps nobody's answer; nothing where it is long or slow. Read to its end, its
    connection can be used again; but the next attempt does not wait for it long."""
    connection.hurry(REFUSAL_S)
    parts: list[bytes] = []
    size = 0
    try:
        while (piece := await connection.chunk()) is not None:
            parts.append(piece)
            size += len(piece)
            if size > REFUSAL_BYTES_MAX:
                connection.abort()
                return b""
    except ReplyBroken:
        return b""
    return b"".join(parts)


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
