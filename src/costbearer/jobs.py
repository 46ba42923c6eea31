"""The results of work that went on after its call: asked for at the provider until they are there, then settled.

A caller may never come back for a background response or a batch, and its cost would stay unknown. So the console
asks for it, with the provider's own retrieval, reads the answer with the dialect's own reader and hands the settlement
to the bookkeeper, which applies it once, whoever was first.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import httpx2
from msgspec.structs import replace

from costbearer.bookkeeper import Bookkeeper
from costbearer.config import Config, Provider
from costbearer.contract import Prices
from costbearer.credentials import Credentials
from costbearer.dialects.base import CallRequest, Dialect, Job, Outgoing, Place, Reading
from costbearer.ledger import RESULT_GONE, Entry, Settlement
from costbearer.settlements import settlement

FIRST_WAIT_S = 2.0
WAIT_MAX_S = 600.0
"""Between two looks at the same job: doubled from the first to this."""
TIMEOUT_S = 60.0

log = logging.getLogger("costbearer.jobs")


class Follow(NamedTuple):
    """The operations that tell of a job: its object, and the file of its results where the object does not say all."""

    retrieve: str
    results: str | None = None


FOLLOWED: Mapping[str, Follow] = {
    "responses": Follow("responses.retrieve"),
    "interactions": Follow("interactions.retrieve"),
    "batches.create": Follow("batches.retrieve", "files.content"),
    "messages.batches.create": Follow("messages.batches.retrieve", "messages.batches.results"),
}
"""By the operation of the call that began the job."""


class Poller:
    """Asks for what is awaited. One thread does."""

    def __init__(
        self,
        config: Config,
        bookkeeper: Bookkeeper,
        dialects: Mapping[str, Dialect],
        load_prices: Callable[[], Prices],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._providers = config.providers
        self._credentials = Credentials(config.providers)
        self._bookkeeper = bookkeeper
        self._dialects = dialects
        self._load_prices = load_prices
        self._clock = clock
        self._due: dict[str, tuple[float, float]] = {}

    def look(self) -> int:
        """Ask for every job whose time has come. Gives how many were settled.

        Raises:
            StoreFailed, JournalFailed: the ledger cannot be read, or the result not be posted.
        """
        now = self._clock().timestamp()
        awaited = [entry for entry in self._bookkeeper.awaiting() if entry.operation in FOLLOWED]
        self._due = {entry.entry_id: self._due.get(entry.entry_id, (now, FIRST_WAIT_S)) for entry in awaited}
        due = [entry for entry in awaited if self._due[entry.entry_id][0] <= now]
        if not due:
            return 0
        prices = self._load_prices()
        self._credentials.refresh()
        settled = 0
        with contextlib.ExitStack() as open_clients:
            clients: dict[str, httpx2.Client] = {}
            for entry in due:
                wait_s = self._due[entry.entry_id][1]
                self._due[entry.entry_id] = (now + wait_s, min(2 * wait_s, WAIT_MAX_S))
                provider = self._providers.get(entry.provider)
                if provider is None:
                    continue
                if provider.name not in clients:
                    clients[provider.name] = open_clients.enter_context(_client(provider))
                found = self._result(clients[provider.name], provider, entry, prices)
                if found is not None and self._bookkeeper.settle([found]):
                    settled += 1
        return settled

    def _result(self, client: httpx2.Client, provider: Provider, entry: Entry, prices: Prices) -> Settlement | None:
        job_id = entry.provider_response_id
        if job_id is None:
            return None
        follow = FOLLOWED[entry.operation]
        reading = self._read(client, provider, follow.retrieve, job_id)
        if reading is None:
            return None
        if isinstance(reading, int):
            return self._gone(entry, job_id) if reading in (404, 410) else None
        job = reading.job
        if job is not None and job.state == "pending" and job.result_id is not None and follow.results is not None:
            results = self._read(client, provider, follow.results, job.result_id)
            if not isinstance(results, Reading):
                return None
            done = Job(job_id, "done", job.created_at)
            model = results.response_model or reading.response_model
            reading = replace(results, job=done, tier=results.tier or reading.tier, response_model=model)
        return settlement(
            reading,
            provider=entry.provider,
            price_provider=provider.price_provider,
            book=prices.book,
            contract=prices.contract,
            at=self._clock(),
        )

    def _gone(self, entry: Entry, job_id: str) -> Settlement:
        return Settlement(
            provider=entry.provider,
            provider_response_id=job_id,
            status="unknown",
            basis="unknown",
            reason_unknown=RESULT_GONE,
            ended_at=self._clock(),
        )

    def _read(self, client: httpx2.Client, provider: Provider, name: str, subject: str) -> Reading | int | None:
        """What the provider says of an object: a reading, a refusal's status, or nothing where it did not answer."""
        dialect = self._dialects[provider.dialect]
        operation = dialect.operations[name]
        request: CallRequest = operation.read(b"", Place("GET", params={"id": subject}))
        sent: Outgoing = operation.outgoing(request, "")
        headers = dict((*dialect.credential_headers(self._credentials.of(provider.name)), *sent.headers))
        try:
            answer = client.get(f"{provider.base_url}{sent.path}", headers=headers)
        except httpx2.HTTPError as error:
            log.info("%s did not answer for %s: %s", provider.name, name, type(error).__name__)
            return None
        if answer.status_code != 200:
            return answer.status_code
        return operation.whole(request, answer.content, dict(answer.headers.items()))


def _client(provider: Provider) -> httpx2.Client:
    """Reaches the provider as the gateway does: by its way and by nothing that the environment says besides."""
    way = provider.way
    proxy = None
    if way.proxy is not None:
        told = {} if way.proxy.authorization is None else {"Proxy-Authorization": way.proxy.authorization}
        tls = way.proxy_tls() if way.proxy.scheme == "https" else None
        proxy = httpx2.Proxy(way.proxy.url, headers=told, ssl_context=tls)
    return httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, proxy=proxy, verify=way.tls())
