"""One call: an attempt at one provider, from its intent in the journal to its outcome, exactly one of each."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from costbearer.attribution import Attribution, Bearer
from costbearer.dialects.base import CallRequest, Dialect
from costbearer.errors import JournalFailed, JournalFull
from costbearer.gateway import settle
from costbearer.gateway.edge import Wire
from costbearer.gateway.resolve import Target
from costbearer.gateway.settle import Ending
from costbearer.gateway.upstream import Connection
from costbearer.journal import JournalWriter, Outcome
from costbearer.ledger import Entry, Status

CHANCE_IDS = 256
"""Request ids for which chance is drawn at once."""

log = logging.getLogger("costbearer.gateway")


class RequestIds:
    """Ids of requests, sortable by time, unique without asking anybody: `req_`, 11 hex of milliseconds, 16 hex random.

    The system is asked for a block of chance at a time: asking it for every id took 6 % of a call's CPU.
    """

    def __init__(self) -> None:
        self._chance: Iterator[str] = iter(())

    def __call__(self) -> str:
        chance = next(self._chance, None)
        if chance is None:
            block = secrets.token_hex(8 * CHANCE_IDS)
            self._chance = iter([block[at : at + 16] for at in range(0, len(block), 16)])
            chance = next(self._chance)
        return f"req_{time.time_ns() // 1_000_000:011x}{chance}"


class Caller:
    """Who waits for the answer. They may leave at any moment, also between two attempts."""

    __slots__ = ("call", "gone", "stream", "wire")

    def __init__(self, wire: Wire, *, stream: bool) -> None:
        self.wire = wire
        self.stream = stream
        self.gone = wire.gone
        self.call: Call | None = None
        wire.caller = self

    def leave(self) -> None:
        """They have gone. A stream is then stopped: every further token would be wasted. A whole answer is awaited,
        because the provider does the work either way and its exact cost comes with the end."""
        self.gone = True
        if self.stream and self.call is not None:
            self.call.drop()

    def end(self) -> None:
        """Their request is over, whatever they do now."""
        self.wire.caller = None


class Request(msgspec.Struct, frozen=True):
    """What the caller asked for, attributed and resolved. It owns one or more calls."""

    id: str
    trace_id: str
    dialect: Dialect
    asked: CallRequest
    headers: dict[str, str]
    bearer: Bearer
    attribution: Attribution
    targets: tuple[Target, ...]
    caller: Caller

    @property
    def labels(self) -> dict[str, str]:
        """The verified labels, for providers that keep labels of their own."""
        bearer = self.bearer
        return {"owner": bearer.owner, "team": bearer.team, "agent": bearer.agent, "workload": bearer.workload}


class Call:
    """One attempt. Whoever holds it must close it; `abandon` closes what nobody else did.

    `asked` is the request as this provider gets it, under the model's name there.
    """

    __slots__ = (
        "_first_byte",
        "_journal",
        "_refused",
        "_started",
        "asked",
        "caller",
        "closed",
        "connection",
        "header_cost",
        "intent",
        "provider_request_id",
        "sequence",
        "stopped",
        "target",
    )

    def __init__(
        self, journal: JournalWriter, refused: list[Outcome], intent: Entry, target: Target, request: Request
    ) -> None:
        """`refused` takes the outcome where the disk has no space for it now; the worker writes it later."""
        self._journal = journal
        self._refused = refused
        self._started = time.monotonic()
        self._first_byte: float | None = None
        asked = request.asked
        self.asked = asked if asked.model == target.model else msgspec.structs.replace(asked, model=target.model)
        self.intent = intent
        self.target = target
        self.caller = request.caller
        self.sequence = intent.sequence
        self.connection: Connection | None = None
        self.provider_request_id: str | None = None
        self.header_cost: Decimal | None = None
        self.stopped = False
        self.closed = False

    @property
    def wanted(self) -> bool:
        """Is there anybody left to answer, and time to do it?"""
        return not self.stopped and not self.caller.gone

    def answered(self, provider_request_id: str | None) -> None:
        """The head of the provider's reply is there."""
        self._first_byte = time.monotonic()
        self.provider_request_id = provider_request_id

    def ending(self, status: Status, *, error_code: str | None = None) -> Ending:
        """How the call ended, at this moment. A caller who is gone is said before anything else."""
        connection = self.connection
        first = self._first_byte
        started = self.intent.started_at
        return Ending(
            status="cancelled" if self.caller.gone else status,
            # A clock that was set back must not make a call end before it began.
            ended_at=max(datetime.now(UTC), started),
            duration_ms=round((time.monotonic() - self._started) * 1000),
            first_byte_ms=None if first is None else round((first - self._started) * 1000),
            http_status=connection.status if connection is not None and first is not None else None,
            error_code=error_code,
            provider_request_id=self.provider_request_id,
        )

    def close(self, entry: Entry) -> Entry:
        """Write the outcome, and give back what was written: `entry`, or that the cost is unknown where the journal can
        never take it.

        Raises:
            JournalFull: it waits in `refused` for space.
            JournalFailed: it is not written and never will be: the intent stands and is posted as unknown.
        """
        assert not self.closed, "a call has one outcome"
        self.closed = True
        try:
            self._write(entry)
        except JournalFull:
            raise
        except JournalFailed as error:
            if self._journal.failed:
                raise
            # It must not wait: it would be held as long as this worker lives, and a caller can make it large.
            log.error("the outcome of call %s is recorded as unknown: %s", entry.call_id, error.message)
            entry = settle.unwritable(self.intent, entry)
            self._write(entry)
        return entry

    def _write(self, entry: Entry) -> None:
        outcome = Outcome(entry=entry)
        try:
            self.sequence = self._journal.append(outcome)
        except JournalFull:
            self._refused.append(outcome)
            raise

    def abandon(self, reason: str) -> None:
        """Close what was left open, as unknown if anything may have been sent, and drop the connection."""
        self.drop()
        if self.closed:
            return
        ending = self.ending("unknown", error_code=reason)
        if self.connection is None:
            self.close(settle.not_billed(self.intent, msgspec.structs.replace(ending, status="error")))
        else:
            self.close(settle.unknown(self.intent, ending, reason))

    def drop(self) -> None:
        """Drop the connection, so that the provider stops."""
        if self.connection is not None:
            self.connection.abort()

    def stop(self) -> None:
        """The gateway stops before the call has ended."""
        self.stopped = True
        self.drop()
