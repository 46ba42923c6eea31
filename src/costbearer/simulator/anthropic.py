"""The simulated Anthropic API: `/v1/messages`, `/v1/messages/count_tokens` and `/v1/models`.

Shapes follow https://docs.claude.com/en/api/messages and its streaming page. What is cached is what `cache_control`
asks for, from 1,024 tokens on for every model. How a reply is made of samplings is told in `samplings.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from costbearer.simulator.blocks import Block, answer_blocks
from costbearer.simulator.faults import Orders, without_marks
from costbearer.simulator.prices import Card, PriceList, Sampling, Terms
from costbearer.simulator.reply import (
    EVENTS,
    Ask,
    Bill,
    Piece,
    Plan,
    Refusal,
    encode,
    mistyped,
    move_forward,
    stated,
    whole,
)
from costbearer.simulator.samplings import Course, Service, course, usage
from costbearer.simulator.text import CACHE_TOKENS_MIN, OVERHEAD_TOKENS_MAX, Segment, count

NAME = "anthropic"
BREAKPOINTS_MAX = 4
TTL_S = {"5m": 300, "1h": 3600}

_FIELDS = """
    betas billing_policy cache_control compaction container context_management diagnostics fallback_credit_token
    fallbacks inference_geo max_tokens mcp_servers messages metadata model output_config service_tier speed
    stop_sequences stream system temperature thinking thread tool_choice tools top_k top_p user_profile_id workspace_id
"""
FIELDS = frozenset(_FIELDS.split())
_TYPES: dict[str, tuple[type, ...]] = {
    "cache_control": (dict,),
    "inference_geo": (str,),
    "metadata": (dict,),
    "service_tier": (str,),
    "speed": (str,),
    "stream": (bool,),
    "system": (str, list),
    "thinking": (dict,),
    "tool_choice": (dict,),
    "tools": (list,),
}


def headers(request_id: str) -> tuple[tuple[str, str], ...]:
    """The headers of every reply."""
    return (
        ("request-id", request_id),
        ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
    )


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """An error in the shape of this API."""
    error = {"type": refusal.kind, "message": refusal.message}
    return encode({"type": "error", "error": error, "request_id": request_id})


def unauthorized() -> Refusal:
    """The provider's credential is missing or wrong."""
    return Refusal(401, "authentication_error", "invalid x-api-key")


def ordered(status: int) -> Refusal:
    """The error this provider gives with a status."""
    if status == 429:
        return Refusal(429, "rate_limit_error", "This request would exceed your organization's rate limit.")
    if status == 529:
        return Refusal(529, "overloaded_error", "Overloaded")
    if status >= 500:
        return Refusal(status, "api_error", "Internal server error")
    return Refusal(status, "invalid_request_error", f"The simulator was told to answer {status}.")


def invalid(message: str) -> Refusal:
    """A request that cannot be understood."""
    return Refusal(400, "invalid_request_error", message)


def models(prices: PriceList) -> bytes:
    """`GET /v1/models`."""
    names = [name for name, card in prices.cards.items() if card.provider == NAME]
    data = [{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names]
    return encode({"data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})


def check(body: dict[str, Any], prices: PriceList) -> Refusal | None:
    """What this API refuses of `/v1/messages` with 400 or 404."""
    limit = body.get("max_tokens")
    if limit is None:
        return invalid("max_tokens: Field required")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return invalid("max_tokens: Input should be greater than or equal to 1")
    return check_prompt(body, prices)


def check_prompt(body: dict[str, Any], prices: PriceList) -> Refusal | None:
    """What this API refuses of `/v1/messages/count_tokens`, and of `/v1/messages` besides."""
    for name in body:
        if name not in FIELDS:
            return invalid(f"{name}: Extra inputs are not permitted")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str):
        return invalid("model: Field required")
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        return invalid("messages: at least one message with a role and content is required")
    wrong = mistyped(body, _TYPES)
    if wrong is not None:
        return invalid(f"{wrong}: Input should be a valid {_TYPES[wrong][0].__name__}")
    for name in body.get("metadata") or {}:
        if name != "user_id":
            return invalid(f"metadata.{name}: Extra inputs are not permitted")
    if body.get("service_tier") not in (None, "auto", "standard_only"):
        return invalid("service_tier: Input should be 'auto' or 'standard_only'")
    card = prices.find(model, NAME)
    if card is None:
        return Refusal(404, "not_found_error", f"model: {model}")
    if body.get("speed") not in (None, "standard") and body["speed"] not in card.rates:
        return invalid(f"speed: not available for {model}")
    geo = body.get("inference_geo")
    if geo is not None and (geo not in ("us", "global") or card.us_factor is None):
        return invalid(f"inference_geo: not available for {model}")
    if sum(ttl_s is not None for _, ttl_s in _parts(body)) > BREAKPOINTS_MAX:
        return invalid(f"A maximum of {BREAKPOINTS_MAX} blocks with cache_control may be provided.")
    return None


def counted(ask: Ask) -> Plan:
    """The reply of `/v1/messages/count_tokens`: the tokens that a message of this prompt would have, free of charge."""
    return Plan(200, (Piece(encode({"input_tokens": _prompt(ask, None).prompt}), 0),))


def plan(ask: Ask) -> Plan | Refusal:
    """The reply to a request that has passed `check`."""
    body, wanted = ask.body, ask.orders
    card = ask.world.prices.cards[body["model"]]
    tools = [tool for tool in body.get("tools") or [] if isinstance(tool, dict) and "input_schema" in tool]
    if wanted.tool and not tools:
        return invalid("simulator: tool needs a tool with an input_schema in the request's tools")
    if wanted.iterations is not None and _searches(body, wanted):
        return invalid("simulator: iterations and web_search do not go together")
    run = course(ask, card, _prompt(ask, card), _searches(body, wanted))
    service = _service(body, wanted, card)
    terms = Terms(
        service.speed if service.tier == "standard" else service.tier, in_us=service.geo == "us", fixed=wanted.cost
    )
    bill = partial(_bill, ask.world.prices, run, service, terms)
    final = bill(run.tokens)
    blocks = answer_blocks(ask, run, tools)
    finish = _finish(run, blocks)
    # Caches make a second reply differ from the first, and blocks of tools have ids of their own.
    repeatable = run.samplings[0].prompt < CACHE_TOKENS_MIN and len(blocks) == 1 and finish != "tool_use"
    if body.get("stream"):
        pieces = _stream(ask, card, run, blocks, finish, service, final)
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return Plan(
            200,
            pieces,
            run.serving_model(card, ask.world.prices),
            EVENTS,
            stream=True,
            total=run.tokens,
            final=final,
            bill=bill,
            error_event=_event("error", encode(error)),
            repeatable=repeatable,
        )
    content = {
        "id": ask.response_id,
        "type": "message",
        "role": "assistant",
        "model": run.serving_model(card, ask.world.prices),
        "content": [block.whole for block in blocks],
        "stop_reason": finish,
        "stop_sequence": None,
    }
    piece = Piece(whole(content, stated(final, wanted), wanted), run.tokens)
    return Plan(
        200,
        (piece,),
        run.serving_model(card, ask.world.prices),
        total=run.tokens,
        final=final,
        bill=bill,
        repeatable=repeatable,
    )


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), (str, list))
    )


def _searches(body: dict[str, Any], wanted: Orders) -> int:
    """Searches of this call: what was ordered, else one where the request allows the server tool."""
    if wanted.web_search is not None:
        return wanted.web_search
    tools = body.get("tools") or []
    allowed = any(isinstance(tool, dict) and str(tool.get("type", "")).startswith("web_search") for tool in tools)
    return 1 if allowed and not wanted.tool and wanted.iterations is None else 0


def _service(body: dict[str, Any], wanted: Orders, card: Card) -> Service:
    geo = "not_available" if card.us_factor is None else body.get("inference_geo") or "global"
    return Service(wanted.tier or "standard", body.get("speed") or "standard", geo, states_speed="fast" in card.rates)


def _parts(body: dict[str, Any]) -> list[tuple[Any, int | None]]:
    """The prompt in the order in which caches see it (tools, system, messages), with each breakpoint's time to live."""
    parts: list[Any] = [*(body.get("tools") or [])]
    for holder in ({"content": body.get("system") or []}, *body["messages"]):
        content = holder["content"]
        if isinstance(content, list):
            parts += content
        else:
            parts.append(content)
    pairs = [(part, _ttl(part) if isinstance(part, dict) else None) for part in parts]
    if pairs and pairs[-1][1] is None:
        pairs[-1] = (pairs[-1][0], _ttl(body))
    return pairs


def _ttl(holder: dict[str, Any]) -> int | None:
    control = holder.get("cache_control")
    if not isinstance(control, dict):
        return None
    return TTL_S["1h"] if control.get("ttl") == "1h" else TTL_S["5m"]


def _part_bytes(part: object) -> bytes:
    if isinstance(part, str):
        return part.encode("utf-8", "surrogatepass")
    if isinstance(part, dict):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            return bytes(part["text"].encode("utf-8", "surrogatepass"))
        return encode({name: value for name, value in part.items() if name not in ("type", "cache_control")})
    return encode(part)


def _prompt(ask: Ask, card: Card | None) -> Sampling:
    """The prompt's counts, served by the cache of this model; without a card nothing is cached."""
    seed = ask.world.seed
    segments = []
    marks = 0
    for part, ttl_s in _parts(ask.body):
        data = _part_bytes(part)
        text = without_marks(data)
        segments.append(Segment(text, count(text, seed), ttl_s))
        if len(text) < len(data):
            marks += count(data, seed) // 4
    overhead = min(OVERHEAD_TOKENS_MAX, 4 + 3 * len(segments))
    total = min(ask.size, sum(segment.tokens for segment in segments) + marks + overhead)
    if card is None:
        return Sampling("", total, 0)
    if ask.orders.cached is not None:
        read = min(ask.orders.cached, total - 1)
        return Sampling(card.model, total - read, 0, read=read)
    found = ask.world.cache.serve(card.model, segments)
    write_5m, write_1h = found.written.get(TTL_S["5m"], 0), found.written.get(TTL_S["1h"], 0)
    rest = total - found.read - write_5m - write_1h
    return Sampling(card.model, rest, 0, read=found.read, write_5m=write_5m, write_1h=write_1h)


def _bill(prices: PriceList, run: Course, service: Service, terms: Terms, generated: int) -> Bill:
    begun, searches = run.until(generated)
    return Bill(usage(run, begun, searches, service), prices.cost(begun, terms, searches))


def _finish(run: Course, blocks: list[Block]) -> str:
    if run.limited:
        return "max_tokens"
    return "tool_use" if blocks[-1].whole["type"] == "tool_use" else "end_turn"


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _stream(
    ask: Ask, card: Card, run: Course, blocks: list[Block], finish: str, service: Service, final: Bill
) -> tuple[Piece, ...]:
    wanted = ask.orders
    first = min(1 + ask.draws.first % 8, run.samplings[0].output or run.tokens)
    message: dict[str, Any] = {
        "id": ask.response_id,
        "type": "message",
        "role": "assistant",
        "model": card.served_as,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if not wanted.no_usage:
        message["usage"] = run.at_start(first, service)
    pieces = [
        Piece(_event("message_start", encode({"type": "message_start", "message": message})), 0),
        Piece(_event("ping", b'{"type": "ping"}'), 0),
    ]
    generated = 0
    for index, block in enumerate(blocks):
        told = list(_block_pieces(index, block))
        pieces += told
        generated += sum(piece.tokens for piece in told)
        if block.ends_sampling and generated < run.tokens:
            growth = usage(run, *run.until(generated), service)
            pieces.append(_delta(None, growth, wanted))
    last = _delta(finish, stated(final, wanted), wanted)
    pieces += [last, last] if wanted.usage_twice else [last]
    pieces.append(Piece(_event("message_stop", b'{"type":"message_stop"}'), 0))
    return move_forward(pieces, first)


_STATED_AT_START = ("cache_creation", "service_tier", "inference_geo", "speed")


def _delta(finish: str | None, used: dict[str, Any], wanted: Orders) -> Piece:
    """`message_delta`: the counts so far, without what only `message_start` states."""
    data: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": finish, "stop_sequence": None}}
    if not wanted.no_usage:
        data["usage"] = {name: value for name, value in used.items() if name not in _STATED_AT_START}
    return Piece(_event("message_delta", encode(data)), 0)


def _block_pieces(index: int, block: Block) -> Iterator[Piece]:
    start = encode({"type": "content_block_start", "index": index, "content_block": block.start})
    yield Piece(_event("content_block_start", start), 0 if block.deltas else block.tokens)
    opening = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
    for delta, tokens in block.deltas:
        yield Piece(opening + encode(delta) + b"}\n\n", tokens)
    yield Piece(_event("content_block_stop", b'{"type":"content_block_stop","index":%d}' % index), 0)
