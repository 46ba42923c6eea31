"""The simulated OpenAI API: `/v1/chat/completions` and `/v1/models`.

Shapes follow https://platform.openai.com/docs/api-reference/chat. A prompt of 1,024 tokens or more is cached without
being asked for; the cached part of the next one is a multiple of 128 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from typing import Any

from costbearer.simulator.faults import without_marks
from costbearer.simulator.prices import Card, PriceList, Sampling, Terms
from costbearer.simulator.reply import EVENTS, Ask, Bill, Piece, Plan, Refusal, encode, mistyped, stated, whole
from costbearer.simulator.text import CACHE_TOKENS_MIN, OVERHEAD_TOKENS_MAX, Draws, Segment, count, draw, slices, write

NAME = "openai"
CACHE_STEP = 128
CACHE_TTL_S = 600
OUTPUT_TOKENS_MIN = 8
OUTPUT_TOKENS_SPREAD = 120
TOOL_CALL_OVERHEAD_TOKENS = 8

_FIELDS = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
    metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
FIELDS = frozenset(_FIELDS.split())
_TYPES: dict[str, tuple[type, ...]] = {
    "metadata": (dict,),
    "parallel_tool_calls": (bool,),
    "reasoning_effort": (str,),
    "service_tier": (str,),
    "stream": (bool,),
    "stream_options": (dict,),
    "tools": (list,),
}
CHOICES_MAX = 128
_SERVED_TIER = {None: "default", "auto": "default", "default": "default", "flex": "flex", "priority": "priority"} | {
    "fast": "priority"
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Input tokens; `cached` and `written` are contained in `total`."""

    total: int
    cached: int
    written: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `tokens` contains `reasoning`. It is text, or calls of tools as (id, name, arguments)."""

    tokens: int
    reasoning: int
    text: str
    calls: tuple[tuple[str, str, str], ...]
    finish: str


def headers(request_id: str) -> tuple[tuple[str, str], ...]:
    """The headers of every reply."""
    return (
        ("x-request-id", request_id),
        ("openai-processing-ms", str(5 + int(request_id[-2:], 16))),
        ("openai-organization", "org-simulated"),
        ("openai-version", "2020-10-01"),
    )


def error_body(refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG001 - both dialects have this signature
    """An error in the shape of this API."""
    return encode(
        {
            "error": {
                "message": refusal.message,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
            }
        }
    )


def unauthorized() -> Refusal:
    """The provider's credential is missing or wrong."""
    return Refusal(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key")


def ordered(status: int) -> Refusal:
    """The error this provider gives with a status."""
    if status == 429:
        return Refusal(
            429, "requests", "Rate limit reached for requests. Please try again later.", "rate_limit_exceeded"
        )
    if status in (500, 502, 503, 529):
        return Refusal(
            status, "server_error", "The server had an error while processing your request. Sorry about that!"
        )
    return Refusal(status, "invalid_request_error", f"The simulator was told to answer {status}.")


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A request that cannot be understood."""
    return Refusal(400, "invalid_request_error", message, code, param)


def models(prices: PriceList) -> bytes:
    """`GET /v1/models`."""
    names = [name for name, card in prices.cards.items() if card.provider == NAME]
    data = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"} for name in names]
    return encode({"object": "list", "data": data})


def check(body: dict[str, Any], prices: PriceList) -> Refusal | None:
    """What this API refuses with 400 or 404."""
    for name in body:
        if name not in FIELDS:
            return invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return invalid("you must provide a model parameter", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        return invalid("Invalid 'messages': expected a non-empty array of messages with a role.", "messages")
    wrong = mistyped(body, _TYPES)
    if wrong is not None:
        return invalid(f"Invalid type for '{wrong}'.", wrong, "invalid_type")
    for name, value in (body.get("metadata") or {}).items():
        if not isinstance(value, str):
            param = f"metadata.{name}"
            return invalid(f"Invalid type for '{param}': expected a string.", param, "invalid_type")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            return invalid(f"Invalid '{name}': expected an integer of at least 1.", name, "integer_below_min_value")
    if (body.get("n") or 1) > CHOICES_MAX:
        return invalid(f"Invalid 'n': expected at most {CHOICES_MAX}.", "n", "integer_above_max_value")
    if body.get("stream_options") is not None and not body.get("stream"):
        return invalid("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if body.get("service_tier") not in _SERVED_TIER:
        return invalid("Invalid 'service_tier' argument.", "service_tier", "invalid_value")
    card = prices.find(model, NAME)
    if card is None:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return Refusal(404, "invalid_request_error", message, "model_not_found")
    if _SERVED_TIER[body.get("service_tier")] not in card.rates:
        return invalid(f"Invalid service_tier for model {model}.", "service_tier", "invalid_value")
    return None


def plan(ask: Ask) -> Plan | Refusal:
    """The reply to a request that has passed `check`."""
    body, wanted = ask.body, ask.orders
    card = ask.world.prices.cards[body["model"]]
    if wanted.iterations is not None or wanted.web_search is not None:
        return invalid("simulator: iterations and web_search are Anthropic's")
    names = [tool["function"]["name"] for tool in _functions(body)]
    if wanted.tool and not names:
        return invalid("simulator: tool needs a function in the request's tools")
    prompt = prompt_of(ask, card)
    choices = [choice_of(ask, card, index) for index in range(body.get("n") or 1)]
    tier = wanted.tier or _SERVED_TIER[body.get("service_tier")]
    terms = Terms(tier, fixed=wanted.cost)
    total = sum(choice.tokens for choice in choices)
    reasoning = sum(choice.reasoning for choice in choices)
    bill = partial(_bill, ask.world.prices, card, prompt, terms, reasoning)
    final = bill(total)
    common = {"id": ask.response_id, "created": ask.created, "model": card.served_as}
    # Caches make a second reply differ from the first, and calls of tools have ids of their own.
    repeatable = prompt.total < CACHE_TOKENS_MIN and not any(choice.calls for choice in choices)
    if body.get("stream"):
        options = body.get("stream_options") or {}
        shown = bool(options.get("include_usage"))
        pieces = _stream(common | {"service_tier": tier}, choices, ask, stated(final, wanted) if shown else None)
        return Plan(
            200,
            tuple(pieces),
            card.served_as,
            EVENTS,
            stream=True,
            total=total,
            final=final,
            bill=bill,
            error_event=_event(encode({"error": {"message": "The server had an error.", "type": "server_error"}})),
            repeatable=repeatable,
        )
    content = {
        "id": ask.response_id,
        "object": "chat.completion",
        "created": ask.created,
        "model": card.served_as,
        "choices": [_whole_choice(index, choice) for index, choice in enumerate(choices)],
        "service_tier": tier,
        "system_fingerprint": "fp_simulated",
    }
    piece = Piece(whole(content, stated(final, wanted), wanted), total)
    return Plan(200, (piece,), card.served_as, total=total, final=final, bill=bill, repeatable=repeatable)


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _functions(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = body.get("tools") or []
    functions = [tool for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    return [tool for tool in functions if isinstance(tool["function"].get("name"), str)]


def _message_bytes(message: dict[str, Any]) -> bytes:
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return content.encode("utf-8", "surrogatepass")
    return encode({name: value for name, value in message.items() if name != "role"})


def prompt_of(ask: Ask, card: Card) -> Prompt:
    """The prompt's tokens, and what of them the cache served and took."""
    body, seed = ask.body, ask.world.seed
    segments = [Segment(encode(body["tools"]), 0)] if body.get("tools") else []
    segments += [Segment(_message_bytes(message), 0) for message in body["messages"]]
    counted = []
    marks = 0
    for data, _, _ in segments:
        text = without_marks(data)
        counted.append(Segment(text, count(text, seed), CACHE_TTL_S))
        if len(text) < len(data):
            marks += count(data, seed) // 4
    overhead = min(OVERHEAD_TOKENS_MAX, 3 + 3 * len(segments))
    total = min(ask.size, sum(segment.tokens for segment in counted) + marks + overhead)
    if ask.orders.cached is not None:
        return Prompt(total, min(ask.orders.cached, total), 0)
    found = ask.world.cache.serve(card.model, counted)
    cached = found.read - found.read % CACHE_STEP
    written = sum(found.written.values()) if card.states_cache_writes else 0
    return Prompt(total, cached, min(written - written % CACHE_STEP, total - cached))


def _bill(prices: PriceList, card: Card, prompt: Prompt, terms: Terms, reasoning: int, generated: int) -> Bill:
    details = {"cached_tokens": prompt.cached, "audio_tokens": 0}
    if card.states_cache_writes:
        details["cache_write_tokens"] = prompt.written
    usage = {
        "prompt_tokens": prompt.total,
        "completion_tokens": generated,
        "total_tokens": prompt.total + generated,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": min(reasoning, generated),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    sampling = Sampling(
        card.model,
        input=prompt.total - prompt.cached - prompt.written,
        output=generated,
        read=prompt.cached,
        write_5m=prompt.written,
    )
    return Bill(usage, prices.cost((sampling,), terms))


def choice_of(ask: Ask, card: Card, index: int) -> Choice:
    """Draw one answer."""
    body, wanted = ask.body, ask.orders
    draws = ask.draws if index == 0 else draw(ask.world.seed, f"{ask.draws.mark} {index}".encode())
    calls = _calls(ask, draws)
    if calls:
        visible = sum(
            count(arguments.encode(), ask.world.seed) + TOOL_CALL_OVERHEAD_TOKENS for _, _, arguments in calls
        )
    else:
        visible = max(OUTPUT_TOKENS_MIN + draws.length % OUTPUT_TOKENS_SPREAD, wanted.chunks or 0)
    reasoning = 0
    if card.reasons and body.get("reasoning_effort") not in ("none", "minimal"):
        reasoning = 64 * (1 + draws.reasoning % 4)
    if wanted.output is not None:
        reasoning = min(reasoning, wanted.output // 2)
        visible = wanted.output - reasoning
    finish = "tool_calls" if calls else "stop"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and reasoning + visible > limit:
        reasoning = min(reasoning, limit)
        visible = limit - reasoning
        finish = "length"
    text = "" if calls else write(visible, draws)
    return Choice(reasoning + visible, reasoning, text, calls, finish)


def _calls(ask: Ask, draws: Draws) -> tuple[tuple[str, str, str], ...]:
    body, functions = ask.body, _functions(ask.body)
    asked = body.get("tool_choice")
    if not functions or body["messages"][-1]["role"] == "tool" or asked == "none":
        return ()
    if isinstance(asked, dict):
        named = asked.get("function")
        wanted = named.get("name") if isinstance(named, dict) else None
        functions = [tool for tool in functions if tool["function"]["name"] == wanted] or functions
    elif asked != "required" and not ask.orders.tool:
        return ()
    number = 1 if body.get("parallel_tool_calls") is False else max(1, ask.orders.tool)
    calls = []
    for index in range(number):
        function = functions[index % len(functions)]["function"]
        arguments = encode(example(function.get("parameters"), draws, index)).decode()
        calls.append((f"call_{ask.response_id[-16:]}{index:04d}", function["name"], arguments))
    return tuple(calls)


def example(schema: object, draws: Draws, index: int) -> dict[str, Any]:
    """Arguments for a tool whose parameters have this JSON schema."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    values: dict[str, Any] = {}
    for position, (name, rule) in enumerate(properties.items()):
        rules = rule if isinstance(rule, dict) else {}
        number = (draws.extra >> position % 24) % 100 + index
        enum = rules.get("enum")
        if isinstance(enum, list) and enum:
            values[name] = enum[number % len(enum)]
        elif rules.get("type") in ("integer", "number"):
            values[name] = number
        elif rules.get("type") == "boolean":
            values[name] = number % 2 == 0
        elif rules.get("type") == "array":
            values[name] = []
        elif rules.get("type") == "object":
            values[name] = {}
        else:
            values[name] = f"value {number} of {name}"
    return values


def _whole_choice(index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
    if choice.calls:
        message["content"] = None
        message["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
            for call, name, arguments in choice.calls
        ]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish}


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _stream(common: dict[str, Any], choices: list[Choice], ask: Ask, usage: dict[str, Any] | None) -> Iterable[Piece]:
    """The events. `usage` is None where the caller did not ask for it: then no event mentions usage at all."""
    base = {"object": "chat.completion.chunk", **common, "system_fingerprint": "fp_simulated"}
    head = encode(base)[:-1] + b',"choices":['
    tail = b'],"usage":null}' if usage is not None else b"]}"
    told = [_choice_pieces(index, choice, ask) for index, choice in enumerate(choices)]
    pieces = [
        Piece(_event(head + piece.data + tail), piece.tokens)
        for piece in chain.from_iterable(zip_longest(*told))
        if piece is not None
    ]
    if usage is not None and not ask.orders.no_usage:
        last = Piece(_event(encode(base | {"choices": [], "usage": usage})), 0)
        pieces += [last, last] if ask.orders.usage_twice else [last]
    pieces.append(Piece(_event(b"[DONE]"), 0))
    return pieces


def _choice_pieces(index: int, choice: Choice, ask: Ask) -> list[Piece]:
    """The `choices` members of one choice's events. Reasoning happens before the first of them."""
    start = b'{"index":%d,"delta":' % index
    end = b',"logprobs":null,"finish_reason":null}'
    visible = choice.tokens - choice.reasoning
    opening = {"role": "assistant", "content": None if choice.calls else "", "refusal": None}
    pieces = [Piece(start + encode(opening) + end, choice.reasoning)]
    if choice.calls:
        pieces += _call_pieces(start, end, choice.calls, visible, ask.orders.chunks)
    elif visible:
        parts = ask.orders.chunks or -(-visible // 4)
        pieces += [
            Piece(start + b'{"content":' + encode(text) + b"}" + end, tokens)
            for text, tokens in slices(choice.text, visible, parts)
        ]
    finish = b',"logprobs":null,"finish_reason":%s}' % encode(choice.finish)
    pieces.append(Piece(start + b"{}" + finish, 0))
    return pieces


def _call_pieces(
    start: bytes, end: bytes, calls: tuple[tuple[str, str, str], ...], tokens: int, parts: int | None
) -> list[Piece]:
    pieces = []
    for number, ((call, name, arguments), (_, share)) in enumerate(
        zip(calls, slices("", tokens, len(calls)), strict=True)
    ):
        function = {"name": name, "arguments": ""}
        opened = {"tool_calls": [{"index": number, "id": call, "type": "function", "function": function}]}
        pieces.append(Piece(start + encode(opened) + end, 0))
        for text, part in slices(arguments, share, parts or max(1, share // 4)):
            delta = {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
            pieces.append(Piece(start + encode(delta) + end, part))
    return pieces
