"""What a dialect answers with: a refusal, or a plan of the bytes to send and of what they cost as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from costbearer.simulator.faults import Orders
from costbearer.simulator.prices import PriceList
from costbearer.simulator.text import Draws, PromptCache

encode = msgspec.json.Encoder().encode

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class World:
    """What all calls to one simulator share. `stored` is what callers left with the providers, by its id."""

    seed: int
    prices: PriceList
    cache: PromptCache = field(default_factory=PromptCache)
    stored: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that has passed its checks: the decoded body, its size in bytes, and what was drawn for it."""

    world: World
    body: dict[str, Any]
    size: int
    orders: Orders
    draws: Draws
    response_id: str
    created: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error before anything was generated. `kind` and `code` are the provider's own words.

    `headers` come with it beside those of every reply.
    """

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Piece(NamedTuple):
    """Bytes of the body, and the tokens that were generated for them."""

    data: bytes
    tokens: int


class Bill(NamedTuple):
    """What has been generated so far costs: the counts in the provider's shape, and US dollars."""

    usage: dict[str, Any]
    cost: Decimal


class Plan(msgspec.Struct, frozen=True):
    """A reply as it will be generated.

    `bill(n)` is the bill once n tokens were generated; `final` is the bill of all `total` of them. A reply that is not
    a stream has one piece. `error_event` is how this dialect says in a stream that it cannot go on. `repeatable` says
    that the same request gets the same reply but for its id. `headers` are those of this reply alone.
    """

    status: int
    pieces: tuple[Piece, ...]
    model: str | None = None
    content_type: str = JSON
    stream: bool = False
    total: int = 0
    final: Bill | None = None
    bill: Callable[[int], Bill] | None = None
    error_event: bytes = b""
    repeatable: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def tokens(self) -> int:
        """The tokens of the pieces: `total`, unless a fault left pieces out."""
        return sum(piece.tokens for piece in self.pieces)


class Provider(Protocol):
    """What a dialect module offers."""

    NAME: str

    def headers(self, request_id: str) -> tuple[tuple[str, str], ...]: ...
    def error_body(self, refusal: Refusal, request_id: str) -> bytes: ...
    def unauthorized(self) -> Refusal: ...
    def ordered(self, status: int) -> Refusal: ...
    def invalid(self, message: str) -> Refusal: ...
    def models(self, prices: PriceList) -> bytes: ...
    def check(self, body: dict[str, Any], prices: PriceList) -> Refusal | None: ...
    def plan(self, ask: Ask) -> Plan | Refusal: ...


def mistyped(body: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> str | None:
    """The first field whose value is neither null nor of its types."""
    for name, allowed in types.items():
        value = body.get(name)
        if value is not None and not isinstance(value, allowed):
            return name
    return None


def whole(body: dict[str, Any], usage: dict[str, Any], wanted: Orders) -> bytes:
    """The JSON of a whole reply, its usage last: left out or twice if so ordered."""
    if wanted.no_usage:
        return encode(body)
    stated = b',"usage":' + encode(usage)
    return encode(body)[:-1] + (stated * 2 if wanted.usage_twice else stated) + b"}"


def stated(bill: Bill, wanted: Orders) -> dict[str, Any]:
    """The usage as the reply states it, with the cost as OpenRouter puts it if so ordered."""
    if not wanted.body_cost:
        return bill.usage
    cost = msgspec.Raw(format(bill.cost, "f").encode())
    return bill.usage | {"cost": cost, "is_byok": False, "cost_details": {"upstream_inference_cost": cost}}


def move_forward(pieces: list[Piece], first: int) -> tuple[Piece, ...]:
    """Let the first piece account for `first` tokens, taken from the pieces behind it."""
    result = [Piece(pieces[0].data, pieces[0].tokens + first)]
    for piece in pieces[1:]:
        taken = min(first, piece.tokens)
        first -= taken
        result.append(Piece(piece.data, piece.tokens - taken))
    return tuple(result)


def renamed(plan: Plan, old_id: str, new_id: str) -> Plan:
    """The same reply under another id of the same length."""
    old, new = old_id.encode(), new_id.encode()
    return replace(plan, pieces=tuple(Piece(data.replace(old, new), tokens) for data, tokens in plan.pieces))


def spoil(plan: Plan, wanted: Orders) -> Plan:
    """The same reply, damaged on its way as ordered. What was generated for it is billed all the same."""
    if wanted.error_event is not None and plan.stream:
        kept = plan.pieces[: wanted.error_event]
        return replace(plan, pieces=(*kept, Piece(plan.error_event, 0)))
    if wanted.html:
        page = (Piece(_HTML, plan.tokens),)
        return replace(plan, pieces=page, content_type="text/html; charset=utf-8", stream=False)
    if wanted.garbage:
        return replace(plan, pieces=(Piece(_NOISE, plan.tokens),))
    if wanted.truncated_json:
        half = len(plan.pieces) // 2
        spoiled = plan.pieces[half].data
        rest = sum(piece.tokens for piece in plan.pieces[half:])
        return replace(plan, pieces=(*plan.pieces[:half], Piece(spoiled[: len(spoiled) // 2], rest)))
    return plan


_HTML = b"<!DOCTYPE html>\n<html><head><title>Just a moment</title></head><body>Checking your browser</body></html>\n"
_NOISE = bytes((index * 167 + 13) % 256 for index in range(512)) + b'\n\n{"usage":{"prompt_tokens":7,'
