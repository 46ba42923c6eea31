"""Asking one provider for stored objects: with the provider's own retrieval, within limits of bytes and time.

An object is read whole, a file of results line by line into its dialect's reader, so that its size is nobody's memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from enum import Enum

import httpx2

from costbearer.config import Provider
from costbearer.dialects.base import CallRequest, Dialect, Operation, Outgoing, Place, Reading
from costbearer.dialects.batch_results import ResultsReader
from costbearer.dialects.reply import ERROR_CODE_UNKNOWN

LOOK_S = 10.0
"""How long one provider may take for everything that it is asked at a time: others wait meanwhile."""
RESULTS_S = 300.0
"""How long one file of results may take."""
OBJECT_BYTES_MAX = 64 * 1024 * 1024
"""The largest object that is not read line by line: a response, with the images it made."""
REFUSAL_BYTES_MAX = 64 * 1024
"""The largest error body."""
RESULTS_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""The largest file of results: what comes in `RESULTS_S` at 100 Mbit a second, ten times a full batch of answers."""

log = logging.getLogger("costbearer.jobs")


class Nothing(Enum):
    """Why there is no reading.

    `GONE`: the provider itself says in its own words that there is no such object. `REFUSED`: any other answer that is
    no success, also from whoever stands before the provider. `SILENT`: no answer, or not in time. `UNREADABLE`: more
    than the limits let through, or no file of results where there should be one.
    """

    GONE = "gone"
    REFUSED = "refused"
    SILENT = "silent"
    UNREADABLE = "unreadable"


class _TooMuch(Exception):
    """More than is read."""


class Retrieval:
    """One provider, for as long as one look lasts. `client` reaches it; `clock` gives seconds, from any moment on."""

    def __init__(
        self,
        provider: Provider,
        dialect: Dialect,
        credential: str,
        client: httpx2.Client,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._dialect = dialect
        self._credential = credential
        self._client = client
        self._clock = clock
        self._end = clock() + LOOK_S
        self._silent = False

    @property
    def over(self) -> bool:
        """Nothing more is to be asked now: the time is up, or the provider does not answer."""
        return self._silent or self._clock() >= self._end

    def object(self, name: str, subject: str) -> Reading | Nothing:
        """What the operation of that name says of an object."""

        def whole(operation: Operation, request: CallRequest, answer: httpx2.Response) -> Reading:
            body = b"".join(self._within(answer, OBJECT_BYTES_MAX, self._end))
            return operation.whole(request, body, dict(answer.headers.items()))

        return self._asked(name, subject, whole, max(0.1, self._end - self._clock()))

    def results(self, name: str, subject: str) -> Reading | Nothing:
        """What the lines of a file of results say. The reading names no job where they could not all be read."""

        def lines(operation: Operation, request: CallRequest, answer: httpx2.Response) -> Reading:
            reader = operation.stream_reader(request, dict(answer.headers.items()))
            try:
                for chunk in self._within(answer, RESULTS_BYTES_MAX, self._clock() + RESULTS_S):
                    reader.feed(chunk)
            except TimeoutError:
                raise _TooMuch from None
            if isinstance(reader, ResultsReader):
                # A body that breaks off is an error of the client's.
                reader.end()
            return reader.reading()

        return self._asked(name, subject, lines, LOOK_S)

    def _asked(
        self,
        name: str,
        subject: str,
        read: Callable[[Operation, CallRequest, httpx2.Response], Reading],
        silence_s: float,
    ) -> Reading | Nothing:
        operation = self._dialect.operations[name]
        request = operation.read(b"", Place("GET", params={"id": subject}))
        sent: Outgoing = operation.outgoing(request, "")
        credential = self._dialect.credential_headers(self._credential)
        # What is packed has a size that is not seen before it is there.
        headers = {**dict((*credential, *sent.headers)), "accept-encoding": "identity"}
        try:
            url = f"{self._provider.base_url}{sent.path}"
            with self._client.stream("GET", url, headers=headers, timeout=silence_s) as answer:
                if answer.status_code == 200:
                    return read(operation, request, answer)
                return self._refusal(operation, request, answer)
        except (httpx2.HTTPError, TimeoutError) as error:
            self._silent = True
            log.info("%s did not answer for %s: %s", self._provider.name, name, type(error).__name__)
            return Nothing.SILENT
        except _TooMuch:
            return Nothing.UNREADABLE

    def _refusal(self, operation: Operation, request: CallRequest, answer: httpx2.Response) -> Nothing:
        if answer.status_code not in (404, 410):
            return Nothing.REFUSED
        body = b"".join(self._within(answer, REFUSAL_BYTES_MAX, self._end))
        told = operation.whole(request, body, dict(answer.headers.items())).error_code
        return Nothing.REFUSED if told in (None, ERROR_CODE_UNKNOWN) else Nothing.GONE

    def _within(self, answer: httpx2.Response, bytes_max: int, end: float) -> Iterator[bytes]:
        size = 0
        for chunk in answer.iter_bytes():
            size += len(chunk)
            if size > bytes_max:
                raise _TooMuch
            if self._clock() > end:
                raise TimeoutError
            yield chunk


def client_of(provider: Provider) -> httpx2.Client:
    """Reaches the provider as the gateway does: by its way and by nothing that the environment says besides."""
    way = provider.way
    proxy = None
    if way.proxy is not None:
        told = {} if way.proxy.authorization is None else {"Proxy-Authorization": way.proxy.authorization}
        tls = way.proxy_tls() if way.proxy.scheme == "https" else None
        proxy = httpx2.Proxy(way.proxy.url, headers=told, ssl_context=tls)
    return httpx2.Client(timeout=LOOK_S, follow_redirects=False, trust_env=False, proxy=proxy, verify=way.tls())
