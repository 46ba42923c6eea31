"""The results of a batch, a file of JSON lines: what all of them used together, model by model.

A batch has up to 100,000 requests, and its ledger entry a handful of charges: so the lines are summed. Only requests
that may differ in price by the size of their input are kept apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from costbearer.dialects import reply
from costbearer.dialects.base import Job, Reading
from costbearer.dialects.reply import Notes
from costbearer.dialects.sse import EVENT_BYTES_MAX
from costbearer.usage import COUNTS, MODELS_MAX, WORK_MAX, Usage, Work

BATCH = "batch"
"""The tier of everything a batch did, whatever its lines say: OpenAI's say `default`."""

LINE_BYTES_MAX = EVENT_BYTES_MAX
"""The longest line that is read; a longer one is passed on unread, and the sum is then not whole."""

RESULT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        kind: kind
        for kind in (
            "application/octet-stream",
            "application/binary",
            "application/jsonl",
            "application/x-jsonl",
            "application/x-ndjson",
            "application/jsonlines",
            "text/plain",
        )
    }
)
"""Content types under which providers give files, each relayed as it is."""

SHORT_INPUT_TOKENS = 32_000
"""No model's price steps up below this input."""

STEP_TOKENS = 1_000
ODD_STEPS = (199_999, 262_144, 524_288)
"""Prices step up at multiples of `STEP_TOKENS` and at these sizes of the input."""

_SECOND_MAX = 253_402_300_799
"""The last second of the year 9999."""


class Sums:
    """Work added up by model and by the step of price that its input reaches."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, object], dict[str, int]] = {}
        self._largest: dict[tuple[str, object], int | None] = {}
        self._models: set[str] = set()

    def add(self, work: Work) -> bool:
        """Add it; False, and nothing is added, where there would be more models or parts than a reading may have."""
        key = (work.model, _step(work.largest_input_tokens))
        if key not in self._counts:
            if len(self._counts) == WORK_MAX or (work.model not in self._models and len(self._models) == MODELS_MAX):
                return False
            self._models.add(work.model)
        counts = self._counts.setdefault(key, {})
        for name in COUNTS:
            count = getattr(work.usage, name)
            if count is not None:
                counts[name] = counts.get(name, 0) + count
        largest = work.largest_input_tokens
        self._largest[key] = largest if largest is None else max(largest, self._largest.get(key) or 0)
        return True

    def work(self) -> tuple[Work, ...]:
        """The sums, in the order in which their models first came."""
        return tuple(
            Work(model=key[0], usage=Usage(**counts), largest_input_tokens=self._largest[key])
            for key, counts in self._counts.items()
        )


def _step(input_tokens: int | None) -> object:
    if input_tokens is None or input_tokens <= SHORT_INPUT_TOKENS:
        return input_tokens is None
    return -(-input_tokens // STEP_TOKENS), bisect_left(ODD_STEPS, input_tokens)


class Results:
    """The lines of a file of results as they come.

    `read_line` reads one: what its request used, nothing where it was not billed. It raises one of `reply.UNREADABLE`
    for what is no line of results; a file whose first line is none is not looked at further, and neither is one of more
    models or sizes than `usage` lets a reading have.
    """

    def __init__(self, read_line: Callable[[bytes], Reading]) -> None:
        self._read_line = read_line
        self._sums = Sums()
        self._notes = Notes()
        self._sound = True
        self._geos: set[str | None] = set()
        self._full = False
        self.lines = 0
        self.foreign = False

    def add(self, line: bytes) -> None:
        """One line, with or without its end."""
        if self.foreign or self._full or not line.strip():
            return
        try:
            reading = self._read_line(line)
        except reply.UNREADABLE:
            self.foreign = not self.lines
            self.fault("line_malformed")
            return
        self.lines += 1
        self._notes.add(*reading.notes)
        if not reading.complete:
            self.fault("line_incomplete")
        for work in reading.work:
            if not self._sums.add(work):
                self._full = True
                self.fault("work_too_varied")
        if reading.work:
            self._geos.add(reading.geo)

    def too_long(self) -> None:
        """A line that was not read because of its size. No file of results begins with one."""
        self.foreign = not self.lines
        self.fault("line_too_long")

    def fault(self, note: str) -> None:
        """Something of the file could not be read: the sum is not whole."""
        self._notes.add(note)
        self._sound = False

    def reading(self, job: Job | None, *, whole: bool = True) -> Reading:
        """The sums. `job` is whose results these are; it is named only where all of them have been read.

        `whole` says that the file was seen to its end.
        """
        if self.foreign or not self.lines:
            return Reading(complete=True)
        if len(self._geos) > 1:
            # Each would have its own price, and a reading has one.
            self.fault("geo_mixed")
        complete = self._sound and whole
        if not whole:
            self._notes.add("file_cut")
        return Reading(
            work=self._sums.work(),
            complete=complete,
            response_id=None if job is None else job.id,
            tier=BATCH,
            geo=next(iter(self._geos)) if len(self._geos) == 1 else None,
            job=job if complete else None,
            notes=self._notes.codes(),
        )


def read_lines(lines: Iterable[bytes], read_line: Callable[[bytes], Reading], job: Job | None) -> Reading:
    """All lines of a whole file of results."""
    results = Results(read_line)
    for line in lines:
        results.add(line)
    return results.reading(job)


class ResultsReader:
    """Relays a file as it comes and reads its lines.

    A file has no end marker: that it came whole is known by its length, where the provider states that, or by who read
    the body to its end and says so with `end`; else the reading names no job, because a sum of half the lines must not
    be taken for all.
    """

    def __init__(self, results: Results, job: Job | None, headers: Mapping[str, str]) -> None:
        self.ended = False
        self._results = results
        self._job = job
        self._stated = headers.get("content-length", "")
        self._size = 0
        self._held = bytearray()
        self._skipping = False
        self._whole = False

    def feed(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if not self._results.foreign:
            self._take(chunk)
        return chunk

    def end(self) -> None:
        """The body came to its end."""
        self._whole = True

    def rest(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        if self._held:
            self._results.add(bytes(self._held))
            self._held.clear()
        return self._results.reading(self._job, whole=self._whole or self._stated == str(self._size))

    def _take(self, chunk: bytes) -> None:
        *lines, left = chunk.split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif self._held:
                self._held += line
                self._results.add(bytes(self._held))
            else:
                self._results.add(line)
            self._held.clear()
        if not self._skipping:
            self._held += left
            if len(self._held) > LINE_BYTES_MAX:
                self._held.clear()
                self._skipping = True
                self._results.too_long()


def moment(stated: Any) -> datetime | None:
    """A time as providers state it, in Unix seconds or as RFC 3339 text, in UTC; None for what is no time."""
    if type(stated) is int and 0 < stated <= _SECOND_MAX:
        return datetime.fromtimestamp(stated, UTC)
    if type(stated) is str and len(stated) <= 40:
        try:
            when = datetime.fromisoformat(stated)
            return when.astimezone(UTC) if when.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None
    return None
