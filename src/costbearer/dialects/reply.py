"""What both dialects need to read a reply: nothing a provider sends may raise, nothing odd may be taken for a count."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from costbearer import money
from costbearer.dialects import sse
from costbearer.errors import AmountInvalid
from costbearer.usage import COUNT_MAX

NAME_LENGTH_MAX = 256
"""Characters of an id, a model or a tier; a longer one is not kept."""

ERROR_CODE_UNKNOWN = "provider_error"
"""What an error is called whose own code is not fit to be kept (codes go into the ledger, messages never do)."""

UNREADABLE = (ValueError, RecursionError)
"""What msgspec raises for bytes that are no JSON of the expected shape: bad UTF-8, bad syntax, endless nesting."""

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_DONE = b"[DONE]"

T = TypeVar("T")


class Number(str):
    """The exact text of a JSON number that has a point or an exponent: never a float, and never taken for a count."""

    __slots__ = ()


def decoder(shape: type[T]) -> Callable[[bytes], T]:
    """A decoder of that shape in which no number passes through a binary float."""
    return msgspec.json.Decoder(shape, float_hook=Number).decode


class Counts:
    """The counts of a usage object. `faults` gathers the names of those that are not whole numbers from 0 up."""

    __slots__ = ("_stated", "faults")

    def __init__(self, stated: Mapping[str, Any], faults: list[str] | None = None) -> None:
        self._stated = stated
        self.faults: list[str] = [] if faults is None else faults

    def take(self, name: str) -> int | None:
        """The count, None where it is absent, null or no count."""
        value = self._stated.get(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= COUNT_MAX:
            self.faults.append(name)
            return None
        return value

    def part(self, name: str) -> Counts:
        """The counts of a nested object; empty where it is absent."""
        value = self._stated.get(name)
        if value is not None and type(value) is not dict:
            self.faults.append(name)
        return Counts(value if type(value) is dict else {}, self.faults)


class Notes:
    """Machine codes in the order in which they were first seen, each once."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def add(self, *codes: str) -> None:
        for code in codes:
            self._seen[code] = None

    def codes(self) -> tuple[str, ...]:
        return tuple(self._seen)


def name(value: object) -> str | None:
    """An id, model or tier as the provider stated it; None for what is not such a text."""
    return value if type(value) is str and 0 < len(value) <= NAME_LENGTH_MAX and value.isprintable() else None


def code(*candidates: object, otherwise: str = ERROR_CODE_UNKNOWN) -> str:
    """The first of the candidates that can serve as a machine code."""
    for value in candidates:
        if value is not None and type(value) is not bool:
            text = str(value)
            if _CODE.fullmatch(text):
                return text
    return otherwise


def size(text: object) -> int:
    """UTF-8 bytes of a text; 0 for anything else."""
    if type(text) is not str:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def json_size(value: object) -> int:
    """UTF-8 bytes of a decoded value as compact JSON."""
    return len(msgspec.json.encode(value, enc_hook=str))


def amount(value: object) -> Decimal | None:
    """A stated cost in USD from the exact text of its JSON number; None for what is no amount from 0 up.

    Rounded half-even to 12 places, as all money is on entry.
    """
    if type(value) is not int and type(value) is not Number:
        return None
    try:
        cost = money.usd(value)
    except AmountInvalid:
        return None
    return cost if cost >= 0 else None


def together(amounts: Iterable[Decimal]) -> Decimal | None:
    """The sum of stated costs; None where it is more than one amount can be."""
    cost = money.total(amounts)
    return cost if money.within(cost) else None


class EventReader(ABC):
    """A stream on its way to the caller: whole events are given on as they complete, and read.

    `rest` and `reading` both end the stream: what is left of a last event is read as far as it is whole, so that a
    usage whose closing line end was lost still counts.
    """

    def __init__(self) -> None:
        self.ended = False
        self.notes = Notes()
        self._splitter = sse.Splitter()
        self._left = b""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller shall see of what has come so far."""
        # Nearly every chunk a provider sends is one whole event of one line; it needs no cutting.
        if chunk.startswith(b"data:") and self._splitter.takes_whole(chunk):
            return chunk if self._read(chunk[5:]) else b""
        events = self._splitter.feed(chunk)
        if len(events) == 1:
            event = events[0]
            return event if self._pass(event) else b""
        return b"".join([event for event in events if self._pass(event)])

    def rest(self) -> bytes:
        """What is left of an event that has not ended."""
        self.finish()
        left, self._left = self._left, b""
        return left

    def finish(self) -> None:
        """Read what is left, once."""
        left = self._splitter.rest()
        if left and self._pass(left, cut=True):
            self._left += left

    @abstractmethod
    def take(self, data: bytes) -> bool:
        """Read one event's data. False keeps the event from the caller. Raises one of `UNREADABLE`."""

    def _pass(self, event: bytes, *, cut: bool = False) -> bool:
        data = sse.data(event)
        return data is None or self._read(data, cut=cut)

    def _read(self, data: bytes, *, cut: bool = False) -> bool:
        try:
            return self.take(data)
        except UNREADABLE:
            if data.lstrip().startswith(_DONE):
                self.ended = True
            elif cut:
                self.notes.add("cut_mid_event")
            elif data.strip():
                self.notes.add("event_malformed")
            return True
