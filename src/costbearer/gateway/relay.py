"""The way back: the provider's reply to the caller as it comes, its usage read on the way, the outcome written first.

The outcome is in the journal before the last byte leaves. A stream's end marker is therefore held until the provider's
body has ended (or `TRAILING_S` have passed: what follows an end marker is not worth a caller's wait). A cost header is
read for whole answers only: on a stream it is sent before the cost is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from costbearer import money
from costbearer.dialects.base import EVENT_STREAM, Reading, ReplyReader
from costbearer.dialects.deployments import as_deployed
from costbearer.errors import CallRefused, JournalFailed, NotRecording, ShuttingDown, UpstreamFailed, UpstreamTimeout
from costbearer.gateway import settle
from costbearer.gateway.attempts import TIMEOUTS, Refusal, no_reply, refused
from costbearer.gateway.calls import Call, Request
from costbearer.gateway.edge import Wire
from costbearer.gateway.replies import BASIS, COST, REQUEST_ID, TRACE_ID
from costbearer.gateway.upstream import Connection, ReplyBroken
from costbearer.gateway.worker import Worker
from costbearer.ledger import Status

TRAILING_S = 1.0
EVENT_TYPES = frozenset({EVENT_STREAM, "application/vnd.amazon.eventstream"})
"""Streams of events, in which an error can be said after they have begun."""

UNREADABLE = frozenset({"body_not_json", "body_unexpected"})
"""Notes of a reading that say that its reply is no answer."""

_OURS = frozenset({401, 407})
"""Statuses that speak of the gateway's own credential; their text is not for callers."""


async def relay(worker: Worker, request: Request, answer: Call | Refusal) -> None:
    """Give the caller the provider's answer and close the call. The call of a refusal is closed already.

    Raises:
        CallRefused: the answer cannot be relayed; nothing has been sent to the caller yet and the call is closed.
    """
    if isinstance(answer, Refusal):
        _give(request, answer)
        return
    call = answer
    connection = call.connection
    assert connection is not None
    status = connection.status
    try:
        if not 200 <= status < 300:
            await _relay_refusal(request, call, connection)
        elif "content-encoding" in connection.headers and _coding(connection.headers):
            raise _coded(call, _coding(connection.headers))
        elif (stream_type := call.target.operation.streams.get(_content_type(connection))) is not None:
            await _relay_stream(worker, request, call, connection, stream_type)
        else:
            await _relay_whole(worker, request, call, connection)
    except BaseException:
        worker.done(call, abandoned="gateway_fault")
        raise
    worker.done(call)


async def _relay_refusal(request: Request, call: Call, connection: Connection) -> None:
    """A status other than 2xx: not billed, and given to the caller as the provider wrote it."""
    try:
        body = await connection.whole()
    except ReplyBroken:
        body = b""
    call.close(refused(call, body))
    _give(request, Refusal(call, connection.status, connection.headers, body))


def _give(request: Request, refusal: Refusal) -> None:
    call, status, headers, body = refusal
    name = call.target.provider.name
    if status in _OURS:
        raise UpstreamFailed(f"{name} refused the gateway's own credential (status {status}); tell its operator")
    if status < 400:
        raise UpstreamFailed(f"{name} answered with a redirect (status {status}); redirects are not followed")
    shown = call.target.operation.shown(request.asked, status, body, headers)
    relayed = _headers(request, call, headers)
    if shown is body and (coding := _coding(headers)):
        relayed.append(("content-encoding", coding))
    request.caller.wire.respond(status, relayed, shown)


def _coding(headers: Mapping[str, str]) -> str:
    """How the body is packed, in spite of what was asked for; empty where it is not."""
    coding = headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _coded(call: Call, coding: str) -> UpstreamFailed:
    """Close a call whose reply is packed: its usage cannot be read, and neither could a caller who was not told."""
    ending = call.ending("error", error_code="reply_coded")
    if call.asked.free:
        call.close(settle.not_billed(call.intent, ending))
    elif call.header_cost is not None:
        call.close(settle.stated(call.intent, ending, call.header_cost, call.target.model))
    else:
        call.close(settle.unknown(call.intent, ending, "reply_unreadable"))
    return UpstreamFailed(
        f"{call.target.provider.name} answered in the coding {coding[:20]!r}, which it was asked not to use"
    )


async def _relay_whole(worker: Worker, request: Request, call: Call, connection: Connection) -> None:
    body = connection.arrived()
    if body is None:
        try:
            body = await connection.whole()
        except ReplyBroken as broken:
            raise no_reply(call, broken) from None
    operation = call.target.operation
    reading = _as_deployed(call, operation.whole(call.asked, body, connection.headers))
    unreadable = bool(reading.notes) and not UNREADABLE.isdisjoint(reading.notes)
    entry = call.close(
        settle.read(
            call.intent,
            call.ending("error", error_code="reply_unreadable") if unreadable else call.ending("ok"),
            reading,
            call.asked,
            worker.prices,
            price_provider=call.target.provider.price_provider,
            header_cost=call.header_cost,
        )
    )
    if worker.sync_always:
        await worker.recorded(call)
    if unreadable:
        raise UpstreamFailed(
            f"{call.target.provider.name} answered {connection.status} with something that cannot be read"
        )
    headers = _headers(request, call, connection.headers)
    if entry.cost_usd is not None:
        headers.append((COST, money.text(entry.cost_usd)))
    headers.append((BASIS, entry.basis))
    request.caller.wire.respond(
        connection.status, headers, operation.shown(request.asked, connection.status, body, connection.headers)
    )


async def _relay_stream(
    worker: Worker, request: Request, call: Call, connection: Connection, content_type: str
) -> None:
    reader = call.target.operation.stream_reader(call.asked, connection.headers)
    headers = [(name, value) for name, value in _headers(request, call, connection.headers) if name != "content-type"]
    headers.append(("content-type", content_type))
    wire = request.caller.wire
    wire.begin(connection.status, headers)
    held = bytearray()
    broken: ReplyBroken | None = None
    try:
        await _pass_on(reader, wire, connection, held, worker.reply_bytes_max)
    except ReplyBroken as error:
        # An end marker that has passed makes the reply whole, however its connection then ended.
        broken = None if reader.ended else error
    refused_by: CallRefused | None = None if broken is None else _said(call, broken)
    try:
        _close_stream(worker, call, reader, broken)
        if worker.sync_always:
            await worker.recorded(call)
    except (JournalFailed, NotRecording):
        # The intent stands; but an answer whose outcome is not on record must not look finished.
        refused_by = NotRecording("the gateway cannot record this call; the answer ends here")
    if call.caller.gone:
        return
    # Half an event in front of an error event would make both unreadable.
    rest = reader.rest()
    if refused_by is None:
        wire.end(bytes(held) + rest)
    elif content_type in EVENT_TYPES:
        wire.end(request.dialect.error_event(refused_by, request.id))
    else:
        # Sound and files have no place for an error: their readers see that the reply was cut off.
        wire.abort()


async def _pass_on(reader: ReplyReader, wire: Wire, connection: Connection, held: bytearray, bytes_max: int) -> None:
    """Relay until the body ends; what must wait for the outcome is gathered in `held`.

    While the caller does not take what is written, nothing more is read from the provider.

    Raises:
        ReplyBroken: cut off, stalled, or larger than `bytes_max`.
    """
    size = 0
    while (chunk := await connection.chunk()) is not None:
        seen = reader.feed(chunk)
        size += len(chunk)
        if size > bytes_max:
            connection.abort()
            raise ReplyBroken("too_large")
        if reader.ended:
            held += seen
            if connection.at_end():
                break
            connection.hurry(TRAILING_S)
        elif seen:
            wire.send(seen)
            if wire.paused:
                await wire.drained()


def _close_stream(worker: Worker, call: Call, reader: ReplyReader, broken: ReplyBroken | None) -> None:
    status: Status = "ok" if broken is None else "error"
    call.close(
        settle.read(
            call.intent,
            call.ending(status, error_code=broken.kind if broken is not None and not call.caller.gone else None),
            _as_deployed(call, reader.reading()),
            call.asked,
            worker.prices,
            price_provider=call.target.provider.price_provider,
            header_cost=None,
        )
    )


def _as_deployed(call: Call, reading: Reading) -> Reading:
    """The reading, with the model that the configuration says this name is."""
    deployment = call.target.provider.deployments.get(call.target.model)
    return reading if deployment is None else as_deployed(reading, deployment)


def _said(call: Call, broken: ReplyBroken) -> UpstreamFailed | UpstreamTimeout | ShuttingDown:
    name = call.target.provider.name
    if call.stopped:
        return ShuttingDown("the gateway is shutting down; the answer ends here")
    if broken.kind in TIMEOUTS:
        return UpstreamTimeout(f"{name} stopped sending; the answer ends here")
    return UpstreamFailed(f"the connection to {name} broke; the answer ends here")


def _content_type(connection: Connection) -> str:
    return connection.headers.get("content-type", "").partition(";")[0].strip().lower()


def _headers(request: Request, call: Call, said: Mapping[str, str]) -> list[tuple[str, str]]:
    relayed = call.target.dialect.relayed_headers
    headers = [(name, value) for name, value in said.items() if name in relayed]
    headers.append((REQUEST_ID, request.id))
    headers.append((TRACE_ID, request.trace_id))
    return headers
