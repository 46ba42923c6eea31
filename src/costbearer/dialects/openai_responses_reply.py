"""A response as it comes: whole, or as the events of a stream.

Shapes: https://platform.openai.com/docs/api-reference/responses and /responses-streaming. What matters of them:

* `response.completed`, `.incomplete` and `.failed` end a stream and may carry the usage, of which there is one; in the
  events before it is null. Nothing follows the end at OpenAI, `[DONE]` at OpenRouter.
* An `error` event is no end: `response.failed` may follow it with a usage.
* A response in the background (`queued`, `in_progress`) states no usage. Neither does its stream where that is cut off:
  the work goes on, and the result is there to be retrieved. It is never estimated.
* What was generated may be in `output` of the last event only, or in the items of the stream only.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from costbearer.dialects import reply
from costbearer.dialects.base import CallRequest, Job, Reading
from costbearer.dialects.openai_responses_usage import (
    Tools,
    image_work,
    read_cost,
    read_usage,
    variant,
    with_fees,
)
from costbearer.dialects.reply import Notes
from costbearer.usage import Usage, Work

UNDER_WAY = frozenset({"queued", "in_progress"})
ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
"""What `status` may say, https://platform.openai.com/docs/guides/background."""

ENDS = frozenset({f"response.{status}" for status in ENDED} | {"response.done"})
"""Events that end a stream. `response.done` is how a beta of OpenRouter named them."""

DISCOUNTED_WINDOWS = frozenset({"background_2h", "background_8h"})
"""Tiers of work in the background that may take so long: 30 and 40 % below the standard price
(https://platform.openai.com/docs/guides/flex-processing)."""

ITEMS_MAX = 10_000
"""Output items that are kept of one stream. A response has dozens; more is damage, and is not kept."""

_ITEM_EVENTS = frozenset({"response.output_item.added", "response.output_item.done"})
_AUDIO = "response.audio.delta"
_TEXTS = ("text", "refusal", "name", "arguments", "input", "code")
_PARTS = ("content", "summary")
_NULL = msgspec.Raw(b"null")
_OBJECT = ord("{")
_CREATED_MAX = 253_402_300_799
"""The last second of the year 9999."""

State = Literal["pending", "done", "failed"]
Asked = Literal["response", "stored", "compaction"]
"""What a reply answers: a request for a response, one about a stored response, one for a compaction."""


class _Event(msgspec.Struct, gc=False):
    """Of an event, what is read. Types are checked where they are used, so that none can fail it."""

    type: Any = None
    delta: Any = None
    response: msgspec.Raw = _NULL
    item: msgspec.Raw = _NULL
    output_index: Any = None
    code: Any = None
    error: Any = None


class Response(msgspec.Struct, gc=False):
    """Of a response, what is read."""

    id: Any = None
    model: Any = None
    status: Any = None
    service_tier: Any = None
    background: Any = None
    created_at: Any = None
    error: Any = None
    output: Any = None
    tools: Any = None
    tool_usage: Any = None
    usage: Any = None


class _Item(msgspec.Struct, gc=False):
    """Of an item of a stream, what is kept: never its text."""

    id: Any = None
    type: Any = None
    status: Any = None
    action: Any = None
    container_id: Any = None
    environment: Any = None
    svg_usage: Any = None


_event = reply.decoder(_Event)
_item = reply.decoder(_Item)
decode = reply.decoder(Response)


class _Billed(NamedTuple):
    """Each model's work, the cost the provider states, what its prices depend on, and can all of it be relied on?"""

    work: tuple[Work, ...] = ()
    cost: Decimal | None = None
    variant: str | None = None
    sound: bool = False


_NOTHING = _Billed()


class Told:
    """What a reply has told so far."""

    def __init__(self, request: CallRequest, asked: Asked) -> None:
        self._request = request
        self._asked = asked
        self._seen = Response()
        self._id: str | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._status: str | None = None
        self._usage: dict[str, Any] | None = None
        self._items: dict[object, dict[str, Any]] = {}
        self._generated = 0
        self._error_code: str | None = None
        self._notes = Notes()

    def event(self, event: _Event) -> bool:
        """An event that is no piece of text. Says whether it ends the stream."""
        kind = event.type
        if type(kind) is str and kind in _ITEM_EVENTS:
            self._item(event)
        elif memoryview(event.response)[0] == _OBJECT:
            is_final = type(kind) is str and kind in ENDS
            self.response(decode(bytes(event.response)), is_final=is_final)
            if is_final and self._status not in ENDED:
                self._status = "completed"
            return is_final
        elif kind == "error" or event.error:
            self._failed(event.error if event.error else {"code": event.code})
            self._notes.add("error_in_stream")
        return False

    def generated(self, text: str) -> None:
        """A piece of text, of reasoning or of a tool's arguments."""
        self._generated += len(text) if text.isascii() else reply.size(text)

    def whole(self, found: Response) -> None:
        """A response that came in one piece."""
        self.response(found, is_final=True)
        for item in found.output if type(found.output) is list else ():
            if type(item) is dict:
                self._generated += _generated(item)

    def response(self, found: Response, *, is_final: bool) -> None:
        """A response as it stands at this moment; what it states replaces what was known."""
        self._seen = found
        self._id = reply.name(found.id) or self._id
        self._model = reply.name(found.model) or self._model
        self._tier = reply.name(found.service_tier) or self._tier
        self._status = reply.name(found.status) or self._status
        if found.error:
            self._failed(found.error)
        if type(found.usage) is dict and found.usage:
            if self._usage is not None and is_final:
                self._notes.add("usage_repeated")
            if is_final:
                self._usage = found.usage
        elif found.usage is not None and found.usage != {}:
            self._notes.add("usage_malformed")

    def _item(self, event: _Event) -> None:
        found = _item(bytes(event.item))
        index = event.output_index
        key = found.id if type(found.id) is str else index if type(index) is int else len(self._items)
        if len(self._items) < ITEMS_MAX or key in self._items:
            self._items[key] = msgspec.structs.asdict(found)

    def _failed(self, error: object) -> None:
        if type(error) is dict:
            self._error_code = reply.code(error.get("code"), error.get("type"))
        else:
            self._error_code = reply.ERROR_CODE_UNKNOWN

    @property
    def _under_way(self) -> bool:
        """Does the provider go on, whatever became of this reply?"""
        if self._status in ENDED:
            return False
        background = self._request.background or self._seen.background is True
        return self._status in UNDER_WAY and (background or not self._request.stream)

    def reading(self, noted: Notes, *, ended: bool) -> Reading:
        notes = Notes()
        notes.add(*noted.codes(), *self._notes.codes())
        if self._under_way or (self._asked == "stored" and not ended):
            return self._told(_NOTHING, complete=False, job="pending", notes=notes)
        billed = self._billed(notes)
        complete = ended and billed.sound and "usage_malformed" not in notes.codes()
        state: State | None = None
        if self._asked == "stored" and (self._status is not None or self._usage is not None):
            state = "failed" if self._status == "failed" else "done"
        return self._told(billed, complete=complete, job=state, notes=notes)

    @property
    def _served_tier(self) -> str | None:
        """As the reply states it. Compactions do not, and no reply states a discounted window of background work: for
        these what was asked for is all that is known."""
        asked = self._request.tier
        if asked in DISCOUNTED_WINDOWS or (self._asked == "compaction" and self._tier is None):
            return asked
        return self._tier

    def _billed(self, notes: Notes) -> _Billed:
        stated = self._usage
        seen = self._seen
        tools = Tools(self._called(), seen.tool_usage, seen.tools, stated or {}, self._request.body)
        usage, sound, cost = Usage(), False, None
        if stated is None:
            notes.add("usage_absent")
        else:
            usage, sound = read_usage(stated, notes, may_be_none=self._status in {"failed", "cancelled"})
            cost = read_cost(stated, notes)
        known = True
        images: tuple[Work, ...] = ()
        if not tools.silent:
            usage, known = with_fees(usage, tools, notes)
            images = image_work(tools, notes)
        if usage == Usage() and not images:
            return _Billed(cost=cost)
        model = self._model or self._request.model
        largest = None if tools.looped else usage.input_tokens
        first = Work(model=model, usage=usage, largest_input_tokens=largest)
        return _Billed((first, *images), cost, variant(usage, tools), sound and (known or cost is not None))

    def _called(self) -> tuple[dict[str, Any], ...]:
        output = self._seen.output
        if type(output) is list and output:
            return tuple(item for item in output if type(item) is dict)
        return tuple(self._items.values())

    def _told(self, billed: _Billed, *, complete: bool, job: State | None, notes: Notes) -> Reading:
        made = None if job is None or self._id is None else Job(self._id, job, _time(self._seen.created_at))
        return Reading(
            work=billed.work,
            complete=complete,
            response_model=self._model,
            response_id=self._id,
            tier=self._served_tier,
            variant=billed.variant,
            provider_cost_usd=billed.cost,
            generated_bytes=self._generated,
            error_code=self._error_code,
            job=made,
            notes=notes.codes(),
        )


class StreamReader(reply.EventReader):
    """Reads a stream of events; every event is relayed."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    def take(self, data: bytes) -> bool:
        event = _event(data)
        delta = event.delta
        if type(delta) is str:
            if event.type != _AUDIO:
                self._told.generated(delta)
        elif self._told.event(event):
            self.ended = True
        return True

    def reading(self) -> Reading:
        """What was said, at the end of the stream or where it was cut."""
        self.finish()
        return self._told.reading(self.notes, ended=self.ended)


def _generated(item: dict[str, Any]) -> int:
    """UTF-8 bytes of generated text in an output item: text, refusals, reasoning, names and arguments of tools."""
    found = sum(reply.size(item.get(member)) for member in _TEXTS)
    for member in _PARTS:
        parts = item.get(member)
        for part in parts if type(parts) is list else ():
            if type(part) is dict:
                found += reply.size(part.get("text")) + reply.size(part.get("refusal"))
    return found


def _time(stated: object) -> datetime | None:
    """A time in seconds since 1970, None for what is none."""
    if type(stated) is reply.Number:
        exact = Decimal(stated)
        stated = int(exact) if 0 <= exact <= _CREATED_MAX else None
    if type(stated) is not int or not 0 <= stated <= _CREATED_MAX:
        return None
    return datetime.fromtimestamp(stated, UTC)
