"""The simulated Responses API: responses, streamed, stored and in the background, token counts and compactions.

Shapes follow https://platform.openai.com/docs/api-reference/responses. A request is put into the words of a chat
completion, so that the same text has the same tokens, the same caches and the same answer in both. The tools of the
provider run when they are ordered (`web_search`, `file_search`, `code_interpreter`, `images`) and the request has them.

A response in the background is generated, billed and booked with the call that asked for it, which does not learn what
it used. Only a retrieval says that, after `polls` earlier ones; a cancelled response never says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from costbearer.simulator.making import (
    SERVED_TIER,
    Making,
    Stored,
    as_input,
    as_message,
    items_of,
    provider_tools,
    sampling_of,
    usage_of,
)
from costbearer.simulator.openai import (
    NAME,
    error_body,
    headers,
    invalid,
    models,
    ordered,
    prompt_of,
    unauthorized,
)
from costbearer.simulator.prices import Card, PriceList, Terms
from costbearer.simulator.reply import EVENTS, Ask, Bill, Piece, Plan, Refusal, World, encode, mistyped, stated, whole

__all__ = ["NAME", "check", "error_body", "headers", "invalid", "models", "ordered", "plan", "unauthorized"]

RESPONSES, COMPACT, INPUT_TOKENS = "/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"
COMPACTION_TOKENS_MIN = 40

_FIELDS = """
    background conversation include input instructions max_output_tokens max_tool_calls metadata model
    parallel_tool_calls previous_response_id prompt_cache_key prompt_cache_retention reasoning safety_identifier
    service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p truncation user
"""
FIELDS = frozenset(_FIELDS.split())
_TYPES: dict[str, tuple[type, ...]] = {
    "background": (bool,),
    "input": (str, list),
    "instructions": (str,),
    "metadata": (dict,),
    "reasoning": (dict,),
    "store": (bool,),
    "stream": (bool,),
    "tools": (list,),
}
_TOOL_ORDERS = {"web_search": "web_search", "file_search": "file_search", "code_interpreter": "code_interpreter"} | {
    "images": "image_generation"
}

OPERATIONS = {
    RESPONSES: "responses",
    COMPACT: "responses.compact",
    INPUT_TOKENS: "responses.input_tokens",
}


def subject(body: Mapping[str, Any]) -> list[Any]:
    """What an answer depends on."""
    return [body["model"], body.get("input"), body.get("instructions"), body.get("previous_response_id")]


def check(body: dict[str, Any], prices: PriceList) -> Refusal | None:
    """What this API refuses with 400 or 404."""
    for name in body:
        if name not in FIELDS:
            return invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return invalid("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    wrong = mistyped(body, _TYPES)
    if wrong is not None:
        return invalid(f"Invalid type for '{wrong}'.", wrong, "invalid_type")
    if not body.get("input") and not body.get("previous_response_id"):
        return invalid("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    for name, value in (body.get("metadata") or {}).items():
        if not isinstance(value, str):
            param = f"metadata.{name}"
            return invalid(f"Invalid type for '{param}': expected a string.", param, "invalid_type")
    limit = body.get("max_output_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 16):
        message = "Invalid 'max_output_tokens': expected an integer of at least 16."
        return invalid(message, "max_output_tokens", "integer_below_min_value")
    if body.get("background") and body.get("store") is False:
        return invalid("'background' needs 'store' to be true.", "background")
    tier = body.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or tier not in SERVED_TIER):
        return invalid("Invalid 'service_tier' argument.", "service_tier", "invalid_value")
    card = prices.find(model, NAME)
    if card is None:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return Refusal(404, "invalid_request_error", message, "model_not_found")
    if SERVED_TIER[tier] not in card.rates:
        return invalid(f"Invalid service_tier for model {model}.", "service_tier", "invalid_value")
    return None


def plan(ask: Ask) -> Plan | Refusal:
    """The reply to a request for a response that has passed `check`."""
    return answer("responses", ask)


def answer(operation: str, ask: Ask) -> Plan | Refusal:
    """The reply to one of the operations that have a body."""
    chat = _as_chat(ask)
    if isinstance(chat, Refusal):
        return chat
    card = ask.world.prices.cards[ask.body["model"]]
    if operation == "responses.input_tokens":
        counted = {"object": "response.input_tokens", "input_tokens": prompt_of(chat, card).total}
        return Plan(200, (Piece(encode(counted), 0),), card.served_as)
    if operation == "responses.compact":
        return _compaction(chat, card)
    for order, kind in _TOOL_ORDERS.items():
        if getattr(ask.orders, order) and kind not in provider_tools(ask.body):
            return invalid(f"simulator: {order} needs the tool {kind} in the request")
    if ask.orders.iterations is not None:
        return invalid("simulator: iterations are Anthropic's")
    return Making(ask, chat, card).plan()


def stored_operation(method: str, path: str) -> tuple[str, str] | None:
    """(operation, response id) of a request about a stored response."""
    rest = path.removeprefix(f"{RESPONSES}/")
    if rest == path or path in OPERATIONS:
        return None
    response_id, _, below = rest.partition("/")
    operation = {
        ("GET", ""): "retrieve",
        ("DELETE", ""): "delete",
        ("POST", "cancel"): "cancel",
        ("GET", "input_items"): "input_items",
    }.get((method, below))
    return None if operation is None else (f"responses.{operation}", response_id)


def stored(world: World, operation: str, response_id: str, query: Mapping[str, list[str]]) -> Plan | Refusal:
    """The reply to a request about a stored response; all of them are free."""
    found = world.stored.get(response_id)
    if not isinstance(found, Stored):
        message = f"Response with id '{response_id}' not found."
        return Refusal(404, "invalid_request_error", message, None, "id")
    if operation == "responses.delete":
        del world.stored[response_id]
        return _told({"id": response_id, "object": "response", "deleted": True})
    if operation == "responses.input_items":
        ids = [item["id"] for item in found.input]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return _told({"object": "list", "data": found.input, **ends, "has_more": False})
    if operation == "responses.cancel":
        if not found.background:
            return invalid("Only background responses can be cancelled.")
        if found.polls:
            found.polls = 0
            found.final |= {"status": "cancelled", "output": [], "usage": None, "tool_usage": None}
        return _told(found.final)
    if query.get("stream", [""])[-1] == "true":
        after = int(query.get("starting_after", ["-1"])[-1])
        found.polls = 0
        return Plan(200, found.stream[after + 1 :], found.final["model"], EVENTS, stream=True)
    if found.polls:
        found.polls -= 1
        return _told(found.final | {"status": "in_progress", "output": [], "usage": None, "tool_usage": None})
    return _told(found.final)


def _told(document: dict[str, Any]) -> Plan:
    return Plan(200, (Piece(encode(document), 0),))


def _as_chat(ask: Ask) -> Ask | Refusal:
    """The same request in the words of a chat completion."""
    body = ask.body
    messages: list[dict[str, Any]] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    previous = body.get("previous_response_id")
    if previous is not None:
        found = ask.world.stored.get(previous)
        if not isinstance(found, Stored):
            message = f"Previous response with id '{previous}' not found."
            return Refusal(400, "invalid_request_error", message, "previous_response_not_found", "previous_response_id")
        messages += found.messages
    messages += [as_message(item) for item in items_of(body)]
    tools = [
        {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
        for tool in body.get("tools") or []
        if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    chat = {
        "model": body["model"],
        "messages": messages,
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": body.get("parallel_tool_calls"),
        "max_completion_tokens": body.get("max_output_tokens"),
        "reasoning_effort": (body.get("reasoning") or {}).get("effort"),
    }
    return replace(ask, body=chat, size=ask.size + len(encode(messages)))


def _compaction(chat: Ask, card: Card) -> Plan:
    """The conversation's user messages and, in place of the rest, what cannot be read by anybody else."""
    tier = chat.orders.tier or "default"
    prompt = prompt_of(chat, card)
    made = COMPACTION_TOKENS_MIN + chat.draws.extra % 100
    bill = Bill(
        usage_of(card, prompt, 0, made),
        chat.world.prices.cost((sampling_of(card, prompt, made),), Terms(tier, fixed=chat.orders.cost)),
    )
    suffix = chat.response_id[-16:]
    kept = [
        {"id": f"msg_{suffix}{index:04d}", "type": "message", "status": "completed", **as_input(message)}
        for index, message in enumerate(chat.body["messages"])
        if message["role"] == "user"
    ]
    compacted = {"id": f"cmp_{suffix}", "type": "compaction", "encrypted_content": f"c2lt{chat.draws.mark:08x}"}
    content = {
        "id": chat.response_id,
        "object": "response.compaction",
        "created_at": chat.created,
        "output": [*kept, compacted],
    }
    piece = Piece(whole(content, stated(bill, chat.orders), chat.orders), made)
    return Plan(200, (piece,), card.served_as, total=made, final=bill)
