"""The results of work that went on after its call: asked for at the provider until they are there, then settled.

A caller may never come back for a background response or a batch, and its cost would stay unknown. So the console
asks for it, with the provider's own retrieval, reads the answer with the dialect's own reader and hands the settlement
to the bookkeeper, which applies it once, whoever was first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from costbearer.bookkeeper import Bookkeeper
from costbearer.config import Config, Provider
from costbearer.contract import Prices
from costbearer.credentials import Credentials
from costbearer.dialects.base import Dialect, Job, Reading
from costbearer.errors import PostingBusy
from costbearer.ledger import RESULT_GONE, Entry, Settlement
from costbearer.retrieval import Nothing, Retrieval, client_of
from costbearer.settlements import settlement

FIRST_WAIT_S = 2.0
WAIT_MAX_S = 600.0
"""Between two looks at the same job: doubled from the first to this."""
UNREADABLE_WAIT_S = 6 * 3600.0
"""Before what passed the limits, or could not be read, is fetched again."""
GONE_AFTER_S = 6 * 3600.0
"""So long a provider must say of a job that there is none before that is believed. It counts from the first time that
this process was told so, without an answer to the contrary in between: a process that starts counts anew."""

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


class Plan(NamedTuple):
    """When a job is asked for next, in Unix seconds, how long to wait then, and since when it is said to be gone."""

    at: float
    wait_s: float = FIRST_WAIT_S
    gone_since: float | None = None


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
        self._plans: dict[str, Plan] = {}
        self._said: set[str] = set()

    def look(self) -> int:
        """Ask for every job whose time has come, and settle what was found in one record. Gives how many were settled.

        A provider that does not answer, or takes too long, is asked no more in this look; the jobs that it was not
        asked for come first in the next one.

        Raises:
            StoreFailed, JournalFailed: the ledger cannot be read, or the results not be posted.
        """
        now = self._clock().timestamp()
        awaited = [entry for entry in self._bookkeeper.awaiting() if self._can_be_asked_for(entry)]
        self._plans = {entry.entry_id: self._plans.get(entry.entry_id, Plan(now)) for entry in awaited}
        due: dict[str, list[Entry]] = {}
        for entry in sorted(awaited, key=lambda entry: self._plans[entry.entry_id].at):
            if self._plans[entry.entry_id].at <= now:
                due.setdefault(entry.provider, []).append(entry)
        if not due:
            return 0
        prices = self._load_prices()
        self._credentials.refresh()
        found = [result for name, jobs in due.items() for result in self._found(self._providers[name], jobs, prices)]
        try:
            return self._bookkeeper.settle(found)
        except PostingBusy:
            log.info("%d results of jobs are asked for again: others post entries for a long time", len(found))
            return 0

    def _can_be_asked_for(self, entry: Entry) -> bool:
        follow = FOLLOWED.get(entry.operation)
        if follow is None or entry.provider_response_id is None:
            return False
        provider = self._providers.get(entry.provider)
        if provider is None:
            self._say(f"results of provider {entry.provider} are not asked for: the settings know it no more")
            return False
        known = self._dialects[provider.dialect].operations
        if any(name is not None and name not in known for name in follow):
            self._say(
                f"results of {entry.operation} of provider {provider.name} are not asked for: "
                f"the settings say now that it speaks {provider.dialect}, which has no such thing"
            )
            return False
        return True

    def _found(self, provider: Provider, jobs: Sequence[Entry], prices: Prices) -> list[Settlement]:
        found: list[Settlement] = []
        with client_of(provider) as client:
            dialect, credential = self._dialects[provider.dialect], self._credentials.of(provider.name)
            retrieval = Retrieval(provider, dialect, credential, client)
            for entry in jobs:
                if retrieval.over:
                    break
                result = self._result(retrieval, provider, entry, prices)
                if result is not None:
                    found.append(result)
        return found

    def _result(self, retrieval: Retrieval, provider: Provider, entry: Entry, prices: Prices) -> Settlement | None:
        """What is known of a job now; what is not plans when it is asked for again."""
        now, plan = self._clock(), self._plans[entry.entry_id]
        told = self._told(retrieval, entry)
        since = plan.gone_since
        if isinstance(told, Reading):
            since = None
        elif told is Nothing.GONE:
            since = now.timestamp() if since is None else since
            if now.timestamp() - since >= GONE_AFTER_S:
                return _gone(entry, now)
        wait_s = plan.wait_s
        if told is Nothing.UNREADABLE:
            wait_s = UNREADABLE_WAIT_S
            self._say(f"a result of {entry.operation} of provider {provider.name} is too large, slow or unreadable")
        self._plans[entry.entry_id] = Plan(now.timestamp() + wait_s, min(2 * plan.wait_s, WAIT_MAX_S), since)
        if not isinstance(told, Reading):
            return None
        return settlement(
            told,
            provider=entry.provider,
            price_provider=provider.price_provider,
            book=prices.book,
            contract=prices.contract,
            at=now,
        )

    def _told(self, retrieval: Retrieval, entry: Entry) -> Reading | Nothing:
        """What the provider says of a job: its object, with the sum of its results where only they tell the cost."""
        follow, job_id = FOLLOWED[entry.operation], entry.provider_response_id or ""
        told = retrieval.object(follow.retrieve, job_id)
        if isinstance(told, Nothing) or told.job is None or follow.results is None:
            return told
        job = told.job
        if job.state != "pending" or job.result_id is None:
            return told
        results = retrieval.results(follow.results, job.result_id)
        if isinstance(results, Nothing):
            return results
        if results.job is None and not results.work:
            # Whatever that was, it was no file of results: a job that did no work has none.
            return Nothing.UNREADABLE
        model = results.response_model or told.response_model
        done = Job(job_id, "done", job.created_at)
        return replace(results, job=done, tier=results.tier or told.tier, response_model=model)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def _gone(entry: Entry, now: datetime) -> Settlement:
    return Settlement(
        provider=entry.provider,
        provider_response_id=entry.provider_response_id or "",
        status="unknown",
        basis="unknown",
        reason_unknown=RESULT_GONE,
        ended_at=now,
    )
