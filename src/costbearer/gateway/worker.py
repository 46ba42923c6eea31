"""What one worker process holds: its journal, its keys in memory, prices, connections, and the calls in flight.

The hot path waits for no database: keys are a snapshot that is replaced when the control store's revision moves, and
while the store cannot be read the last snapshot holds for `control.stale_max_s`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from costbearer.attribution import Attributor, Bearer, Hashers
from costbearer.config import Config, Provider
from costbearer.contract import Prices
from costbearer.credentials import Credentials
from costbearer.dialects.base import Dialect, Outgoing, Signing
from costbearer.dialects.registry import Exchange
from costbearer.errors import (
    CostbearerError,
    JournalFailed,
    JournalFull,
    KeyInvalid,
    NotRecording,
    PriceUnknown,
    ShuttingDown,
)
from costbearer.gateway.calls import Call, Request, RequestIds
from costbearer.gateway.incoming import Room
from costbearer.gateway.pool import Pool
from costbearer.gateway.resolve import Resolver, Target
from costbearer.gateway.upstream import Limits
from costbearer.journal import GroupCommit, Intent, JournalWriter, Outcome
from costbearer.keys import KeyRecord, KeyRing
from costbearer.labels import REQUIRE_PRICE
from costbearer.ledger import Entry
from costbearer.money import ZERO
from costbearer.prices import Context
from costbearer.rate_card import Card, Price
from costbearer.rating import bound, worst_input_tokens, worst_output_tokens

NO_PRICE = Price(ZERO)
REVISION_INTERVAL_S = 0.25
"""How often the control store is asked whether anything changed: a revoked key stops within a second."""
PRICES_RETRY_S = 2.0
"""How often prices that could not be read are tried again: reading takes long, and a damaged file stays damaged."""
HEADS_CACHED_MAX = 1024
"""Request heads kept ready; their paths hold names that callers choose."""
STOP_TIMEOUT_S = 1.0
"""What calls that are ended by the drain may take to write their outcome."""
EXIT_NOT_RECORDING = 70
"""The exit code of a worker whose journal failed (sysexits: internal software error)."""

log = logging.getLogger("costbearer.gateway")


class Worker:
    """The state of one worker, and the few things that are done to it."""

    def __init__(
        self,
        config: Config,
        *,
        journal: JournalWriter,
        dialects: Mapping[str, Dialect],
        load_keys: Callable[[], KeyRing],
        key_revision: Callable[[], object],
        hand_over_keys: Callable[[], None],
        load_prices: Callable[[], Prices],
        price_revision: Callable[[], object],
        load_hashers: Callable[[], Hashers],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.config = config
        self.journal = journal
        self.dialects = dialects
        self.attributor = Attributor(load_hashers())
        self._load_hashers = load_hashers
        self.loop = loop
        self._exchange = Exchange(dialects)
        self._load_prices = load_prices
        self._price_revision = price_revision
        self._priced_at = price_revision()
        self.prices = load_prices()
        self.resolver = Resolver(config, self.prices.book, self._exchange)
        limits = Limits(
            connect_s=config.number("upstream.connect_timeout_s"),
            first_byte_s=config.number("upstream.first_byte_timeout_s"),
            idle_s=config.number("upstream.idle_timeout_s"),
            keep_alive_s=config.number("upstream.keep_alive_s"),
            connections_max=config.integer("upstream.connections_max"),
            reply_bytes_max=config.integer("gateway.reply_bytes_max"),
            age_s=config.number("upstream.connection_age_s"),
        )
        self.pools = {name: Pool(each.base_url, limits, loop, each.way) for name, each in config.providers.items()}
        self.retries = config.integer("gateway.retries")
        self.reply_bytes_max = config.integer("gateway.reply_bytes_max")
        self.retry_after_max_s = config.number("gateway.retry_after_max_s")
        self.body_bytes_max = config.integer("gateway.body_bytes_max")
        self.room = Room(config.integer("gateway.bodies_bytes_max"), self.body_bytes_max)
        self.stale_max_s = config.number("control.stale_max_s")
        self.sync_always = config.text("journal.sync") == "always"
        self.new_request_id = RequestIds()
        self.draining = False
        self.live: set[Call] = set()
        self.requests = 0
        self.refused: list[Outcome] = []
        self.commit = GroupCommit(journal, on_failure=self._journal_failed)
        self._load_keys = load_keys
        self._key_revision = key_revision
        self._hand_over_keys = hand_over_keys
        self._revision = key_revision()
        self.keyring = load_keys()
        self._keys_read = time.monotonic()
        self._refreshing = asyncio.Lock()
        self._prices_due = 0.0
        self._failing: set[str] = set()
        self._credentials = Credentials(config.providers)
        self._heads: dict[tuple[str, str, str, str | None], str] = {}
        self._bearers: dict[str, tuple[KeyRecord, Bearer]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    def start(self) -> None:
        """Begin group commit and the watch over keys. Needs the running loop.

        Raises:
            ConfigInvalid: a provider's credential cannot sign requests.
        """
        for provider in self.config.providers.values():
            dialect = self._exchange.dialects[provider.dialect]
            if dialect.signs:
                # Here and not in the first call: what signs is slow to load, and a bad credential is the operator's.
                self._signature(provider, dialect, Outgoing("/", b""))
        self.commit.start()
        self._tasks.append(self.loop.create_task(self._watch()))

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, wait for those in flight, then end the rest: each gets its outcome."""
        self.draining = True
        end = self.loop.time() + timeout_s
        while self.requests and self.loop.time() < end:
            await asyncio.sleep(0.02)
        for call in list(self.live):
            call.stop()
        end = self.loop.time() + STOP_TIMEOUT_S
        while self.requests and self.loop.time() < end:
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Release everything. What is still open is closed as unknown first."""
        for task in self._tasks:
            task.cancel()
        for call in list(self.live):
            self.done(call, abandoned="gateway_stopped")
        for pool in self.pools.values():
            pool.close()
        self._write_refused()
        self._hand_over_keys()
        await self.commit.stop()
        if not self.journal.failed:
            self.journal.close()

    def state(self) -> dict[str, bool]:
        """What must hold for calls to be served and recorded, by name."""
        return {
            "recording": not self.journal.failed,
            "keys": time.monotonic() - self._keys_read < self.stale_max_s,
            "accepting": not self.draining,
        }

    # -- one call

    async def authenticate(self, text: str, now: datetime) -> KeyRecord:
        """The key's record, from memory. A key that is not known may have been issued a moment ago: then, and only
        then, the control store is asked whether anything changed.

        Raises:
            KeyMissing, KeyInvalid, KeyExpired, KeyRevoked: as `KeyRing.authenticate`.
            NotRecording: the keys in memory are older than `control.stale_max_s`; any of them may be revoked by now.
        """
        if time.monotonic() - self._keys_read > self.stale_max_s:
            await self._refresh_keys()
        if time.monotonic() - self._keys_read > self.stale_max_s:
            raise NotRecording("keys cannot be checked now: the control store has not been readable for too long")
        ring = self.keyring
        try:
            return ring.authenticate(text, now)
        except KeyInvalid:
            await self._refresh_keys()
            # The watch may have read the keys while this call waited for its turn.
            if self.keyring is ring:
                raise
            return self.keyring.authenticate(text, now)

    def bearer(self, record: KeyRecord, now: datetime) -> Bearer:
        """The labels of a key at this moment."""
        held = self._bearers.get(record.key_id)
        if held is not None and held[0] is record and len(record.history) == 1:
            return held[1]
        labels = record.labels_at(now)
        made = Bearer(
            key_id=record.key_id,
            owner=labels.owner,
            team=labels.team,
            agent=labels.agent,
            workload=labels.workload,
            project=record.project,
            cost_center=record.cost_center,
            env=record.env,
            require=tuple(name for name in record.require if name != REQUIRE_PRICE),
            require_price=REQUIRE_PRICE in record.require,
        )
        self._bearers[record.key_id] = (record, made)
        return made

    async def open(self, request: Request, target: Target, outgoing: Outgoing, number: int, reason: str | None) -> Call:
        """Write the intent. From here on the call has an entry, whatever happens.

        Raises:
            PriceUnknown: the key's calls must have a price, and this one has none.
            NotRecording: the journal does not take it; nothing may be sent.
            ShuttingDown: the gateway drains; nothing is sent any more.
        """
        if self.draining:
            raise ShuttingDown("the gateway is shutting down; send the request again")
        now = datetime.now(UTC)
        intent = self._intent(request, target, outgoing, number, reason, now)
        try:
            self.journal.append(Intent(entry=intent))
        except JournalFailed as error:
            log.error("intent refused: %s", error.message)
            raise NotRecording("the gateway cannot record calls now, so none is sent") from None
        call = Call(self.journal, self.refused, intent, target, request)
        self.live.add(call)
        request.caller.call = call
        if self.sync_always:
            try:
                await self._synced(call.sequence)
            except NotRecording:
                self.done(call, abandoned="not_recorded")
                raise
        return call

    def done(self, call: Call, *, abandoned: str | None = None) -> None:
        """The call is over: give its connection back. With `abandoned`, close it as unknown if nothing closed it."""
        self.live.discard(call)
        try:
            if abandoned is not None:
                call.abandon(abandoned)
        except JournalFailed as error:
            # The intent stands and will be posted as unknown, which is what this outcome would have said.
            log.error("outcome refused: %s", error.message)
        if call.connection is not None:
            self.pools[call.target.provider.name].release(call.connection)
            call.connection = None

    async def recorded(self, call: Call) -> None:
        """The outcome is on disk when this returns; what is to be awaited with `journal.sync = "always"`."""
        await self._synced(call.sequence)

    def request_head(self, target: Target, outgoing: Outgoing, headers: Mapping[str, str]) -> bytes:
        """Request line and headers for the provider: no key, tag or baggage of ours, only headers known to be its."""
        dialect = target.dialect
        head = f"{self._fixed_head(target.provider, dialect, outgoing)}content-length: {len(outgoing.body)}\r\n"
        own = outgoing.headers
        if own:
            head += "".join([f"{name}: {value}\r\n" for name, value in own])
        if dialect.signs:
            signed = self._signature(target.provider, dialect, outgoing)
            head += "".join([f"{name}: {value}\r\n" for name, value in signed])
        for name in headers.keys() & dialect.forwarded_headers:
            if not (own and any(name == mine for mine, _ in own)):
                head += f"{name}: {headers[name]}\r\n"
        return (head + "\r\n").encode("latin-1", "replace")

    def _fixed_head(self, provider: Provider, dialect: Dialect, outgoing: Outgoing) -> str:
        """What is the same in every such request to this provider: all but the length and the caller's headers."""
        key = (provider.name, outgoing.method, outgoing.path, outgoing.content_type)
        head = self._heads.get(key)
        if head is None:
            pool = self.pools[provider.name]
            lines = [f"{outgoing.method} {pool.path}{outgoing.path} HTTP/1.1", f"host: {pool.host_header}"]
            if not dialect.signs:
                lines += [
                    f"{name}: {value}"
                    for name, value in dialect.credential_headers(self._credentials.of(provider.name))
                ]
            if outgoing.content_type is not None:
                lines.append(f"content-type: {outgoing.content_type}")
            lines += ["accept-encoding: identity", ""]
            head = "\r\n".join(lines)
            if len(self._heads) < HEADS_CACHED_MAX:
                self._heads[key] = head
        return head

    def _signature(self, provider: Provider, dialect: Dialect, outgoing: Outgoing) -> tuple[tuple[str, str], ...]:
        headers = outgoing.headers
        if outgoing.content_type is not None:
            headers = (*headers, ("content-type", outgoing.content_type))
        signing = Signing(
            outgoing.method, f"{provider.base_url}{outgoing.path}", headers, outgoing.body, datetime.now(UTC)
        )
        return dialect.credential_headers(self._credentials.of(provider.name), signing)

    def _intent(
        self, request: Request, target: Target, outgoing: Outgoing, number: int, reason: str | None, now: datetime
    ) -> Entry:
        asked = request.asked
        said = request.attribution
        return msgspec.structs.replace(
            said.entry,
            journal=self.journal.id,
            sequence=self.journal.next_sequence,
            request_id=request.id,
            call_id=f"{request.id}.{number}",
            trace_id=request.trace_id,
            attempt=number,
            reason=reason,
            requests=1 if number == 1 else 0,
            started_at=now,
            route=target.route,
            provider=target.provider.name,
            price_provider=_named_otherwise(target.provider),
            request_model=asked.model,
            operation=asked.operation,
            stream=asked.stream,
            bound_usd=self._bound(target, request, outgoing, now),
            reason_unknown="in_flight",
        )

    def _bound(self, target: Target, request: Request, outgoing: Outgoing, now: datetime) -> Decimal | None:
        """The most this call can cost: its bytes and its `max_tokens` at the dearest prices that may hold for it.

        A caller who leaves the tier to the provider may be served at a dearer one, so then every tier counts. None
        where nothing limits it: no card, or no context window.
        """
        asked = request.asked
        if asked.free:
            return ZERO
        provider, model = target.provider.price_provider, target.model
        if model in target.provider.deployments:
            model = target.provider.deployments[model].model
        book, contract = self.prices
        context = Context(asked.tier, asked.speed, asked.geo, asked.variant)
        if asked.tier is None or asked.tier == "auto":
            card = book.dearest(provider, model, now)
        else:
            card = book.at(provider, model, context, now)
        if contract is not None:
            own = card if isinstance(card, Card) else contract.card(provider, model, context, now)
            card = card if own is None else contract.ceiling(own, now)
        if not isinstance(card, Card):
            if request.bearer.require_price:
                raise PriceUnknown(
                    f"{asked.model[:100]} has no price here ({card.reason}), and this key's calls must have one: "
                    "`costbearer prices update` or `costbearer prices set` gives it one"
                )
            return None
        # What the gateway adds to a body is no text for the model; a translation may be longer than its original.
        translated = 0 if target.dialect.name == request.dialect.name else len(outgoing.body)
        size = max(len(asked.body), translated) + asked.overhead_tokens + outgoing.overhead_tokens
        input_max = worst_input_tokens(size, asked.open_ended, card.context_window)
        output_max = worst_output_tokens(asked.max_output_tokens, card.context_window)
        # What is paid by the image or the character has no price per token, and needs no limit of tokens.
        if input_max is None and card.dearest_input == NO_PRICE:
            input_max = 0
        if output_max is None and card.dearest_output == NO_PRICE:
            output_max = 0
        if input_max is None or output_max is None:
            return None
        return bound(
            card,
            input_tokens_max=input_max,
            output_tokens_max=output_max,
            choices=asked.choices,
            quantities_max=asked.quantities_max,
        )

    # -- the background

    async def _synced(self, sequence: int) -> None:
        try:
            await self.commit.wait(sequence)
        except JournalFailed:
            raise NotRecording("the gateway cannot record calls now") from None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REVISION_INTERVAL_S)
            await self._refresh_keys()
            await self._refresh_prices()
            self._refresh_credentials()
            self._write_refused()
            self._hand_over_keys()

    async def _refresh_keys(self) -> None:
        """Read the keys again if the control store's revision moved."""
        async with self._refreshing:
            await self._tried("the control store cannot be read, keys hold as they were", self._read_keys)

    async def _read_keys(self) -> None:
        revision = self._key_revision()
        if revision != self._revision:
            # Keys first: a revocation holds whatever becomes of the rest, which is tried again.
            self.keyring = await self.loop.run_in_executor(None, self._load_keys)
            self._bearers.clear()
            self.attributor.hashers = await self.loop.run_in_executor(None, self._load_hashers)
            self._revision = revision
        self._keys_read = time.monotonic()

    async def _refresh_prices(self) -> None:
        """Take the prices that hold now, if others do than before. Ones that cannot be read change nothing, and are
        tried again: the failure may have passed."""
        if time.monotonic() < self._prices_due:
            return
        if not await self._tried("the prices cannot be read, they hold as they were", self._read_prices):
            self._prices_due = time.monotonic() + PRICES_RETRY_S

    async def _read_prices(self) -> None:
        revision = self._price_revision()
        if revision == self._priced_at:
            return
        prices = await self.loop.run_in_executor(None, self._load_prices)
        self.resolver = Resolver(self.config, prices.book, self._exchange)
        self.prices = prices
        self._priced_at = revision

    async def _tried(self, failure: str, step: Callable[[], Awaitable[None]]) -> bool:
        """Take a step of the watch; says whether it succeeded. A failure is said once, until the step succeeds."""
        try:
            await step()
        except Exception as error:  # noqa: BLE001
            # Whatever is wrong with a store, the watch must go on: it is what makes revocations hold.
            if failure not in self._failing:
                log.warning("%s: %s", failure, error.message if isinstance(error, CostbearerError) else repr(error))
            self._failing.add(failure)
            return False
        self._failing.discard(failure)
        return True

    def _refresh_credentials(self) -> None:
        changed = self._credentials.refresh()
        if changed:
            self._heads = {key: head for key, head in self._heads.items() if key[0] not in changed}

    def _write_refused(self) -> None:
        """Write the outcomes that a full disk refused, as soon as it takes them.

        They are no more than the calls that were open when the disk became full: it takes no further intents either.
        """
        while self.refused and not self.journal.failed:
            try:
                self.journal.append(self.refused[0])
            except JournalFull as error:
                log.error("%d outcomes wait for space: %s", len(self.refused), error.message)
                return
            except JournalFailed as error:
                # One that cannot be written must not hold up those behind it.
                log.error("an outcome is given up, its call will be posted as unknown: %s", error.message)
            del self.refused[0]

    def _journal_failed(self) -> None:
        """A failed fsync is fatal: what the kernel still holds can no longer be told from what is on disk."""
        log.critical("the journal failed, this worker stops: %s", self.journal.failure)
        os._exit(EXIT_NOT_RECORDING)


def _named_otherwise(provider: Provider) -> str | None:
    return None if provider.price_provider == provider.name else provider.price_provider
