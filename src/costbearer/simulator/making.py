"""How a response of the Responses API is made: its answer, the items of its output, its bill, and its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any

from costbearer.simulator.openai import Choice, Prompt, choice_of, prompt_of
from costbearer.simulator.prices import Card, PriceList, Sampling, Terms
from costbearer.simulator.reply import EVENTS, Ask, Bill, Piece, Plan, encode, stated, whole
from costbearer.simulator.text import slices

SEARCH_TOKENS = 350
"""Input tokens that each search adds."""
FILE_SEARCH_USD = Decimal("0.0025")
CONTAINER_USD = Decimal("0.03")
IMAGE_MODEL = "gpt-image-1.5"
IMAGE_TEXT_TOKENS, IMAGE_TOKENS = 61, 1056
"""Tokens of the text that asks for an image, and of the image."""
IMAGE_USD = {"gpt-image-1.5": (Decimal("0.000005"), Decimal("0.000032"))}
"""US dollars per token of text in and of image out."""
STORED_MAX = 10_000
SERVED_TIER = {None: "default", "auto": "default", "default": "default", "flex": "flex", "priority": "priority"} | {
    "fast": "priority"
}


@dataclass(slots=True)
class Stored:
    """A response as it can be retrieved. `messages` are the conversation with its answer, in chat's words."""

    final: dict[str, Any]
    stream: tuple[Piece, ...]
    messages: list[dict[str, Any]]
    polls: int = 0
    background: bool = False
    input: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the provider's tools did. `opened` are pages, which cost nothing."""

    searches: int = 0
    opened: int = 0
    files: int = 0
    runs: int = 0
    containers: int = 0
    images: int = 0
    image_model: str = IMAGE_MODEL


class Making:
    """One response: its answer, its items, its bill, and how it is told."""

    def __init__(self, ask: Ask, chat: Ask, card: Card) -> None:
        self._ask = ask
        self._card = card
        self._messages: list[dict[str, Any]] = chat.body["messages"]
        self._tools = self._used()
        self._choice = choice_of(chat, card, 0)
        prompt = prompt_of(chat, card)
        self._prompt = replace(prompt, total=prompt.total + SEARCH_TOKENS * self._tools.searches)
        self._tier = ask.orders.tier or SERVED_TIER[ask.body.get("service_tier")]
        self._items = self._output()
        self._bill = partial(
            _bill,
            ask.world.prices,
            card,
            self._prompt,
            self._choice,
            self._tools,
            Terms(self._tier, fixed=ask.orders.cost),
        )

    def plan(self) -> Plan:
        ask = self._ask
        bill = self._bill(self._choice.tokens)
        background = ask.body.get("background") is True
        final = self._response(self._status, self._items, None if ask.orders.no_usage else stated(bill, ask.orders))
        events = self._events(final)
        if ask.body.get("store") is not False:
            self._store(final, events, background)
        if ask.body.get("stream"):
            return Plan(
                200,
                events,
                self._card.served_as,
                EVENTS,
                stream=True,
                total=self._choice.tokens,
                final=bill,
                # In the background it is generated to its end, whoever still listens.
                bill=None if background else self._bill,
                error_event=_event(
                    "error", {"code": "server_error", "message": "The server had an error.", "param": None}
                ),
            )
        if background:
            body = encode(self._response("queued", [], None))
        else:
            content = {name: value for name, value in final.items() if name != "usage"}
            body = whole(content, stated(bill, ask.orders), ask.orders)
        total = self._choice.tokens
        return Plan(200, (Piece(body, total),), self._card.served_as, total=total, final=bill)

    def _used(self) -> Tools:
        wanted = self._ask.orders
        tool = provider_tools(self._ask.body).get("image_generation", {})
        searches = wanted.web_search or 0
        return Tools(
            searches=searches,
            opened=min(searches, 1),
            files=wanted.file_search,
            runs=wanted.code_interpreter,
            containers=min(wanted.code_interpreter, 2),
            images=wanted.images,
            image_model=tool.get("model", IMAGE_MODEL),
        )

    @property
    def _status(self) -> str:
        if self._ask.orders.fails:
            return "failed"
        return "incomplete" if self._choice.finish == "length" else "completed"

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        body = self._ask.body
        failed = {"code": "server_error", "message": "The model failed to generate a response."}
        tools = [
            {"model": IMAGE_MODEL, **tool} if tool.get("type") == "image_generation" else tool
            for tool in body.get("tools") or []
        ]
        return {
            "id": self._ask.response_id,
            "object": "response",
            "created_at": self._ask.created,
            "status": status,
            "background": body.get("background") is True,
            "error": failed if status == "failed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": self._card.served_as,
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": body.get("previous_response_id"),
            "service_tier": "auto" if status in ("queued", "in_progress") else self._tier,
            "store": body.get("store") is not False,
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": tools,
            "tool_usage": None if usage is None or self._ask.orders.no_tool_usage else self._tool_usage(),
            "usage": usage,
        }

    def _tool_usage(self) -> dict[str, Any]:
        text, image = IMAGE_TEXT_TOKENS * self._tools.images, IMAGE_TOKENS * self._tools.images
        return {
            "image_gen": {
                "input_tokens": text,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": text},
                "output_tokens": image,
                "output_tokens_details": {"image_tokens": image, "text_tokens": 0},
                "total_tokens": text + image,
            },
            "web_search": {"num_requests": self._tools.searches},
        }

    def _store(self, final: dict[str, Any], events: tuple[Piece, ...], background: bool) -> None:
        kept = self._ask.world.stored
        if len(kept) >= STORED_MAX:
            kept.clear()
        said = {"role": "assistant", "content": self._choice.text or encode(self._choice.calls).decode()}
        suffix = self._ask.response_id[-16:]
        given = [
            {"id": f"msg_{suffix}{index:04d}", "type": "message", "status": "completed", **as_input(as_message(item))}
            for index, item in enumerate(items_of(self._ask.body))
        ]
        # What is told of it later was not generated for whoever asks.
        silent = tuple(Piece(data, 0) for data, _ in events)
        polls = self._ask.orders.polls if background else 0
        kept[self._ask.response_id] = Stored(final, silent, [*self._messages, said], polls, background, given)

    def _output(self) -> list[dict[str, Any]]:
        suffix = self._ask.response_id[-16:]
        tools, choice = self._tools, self._choice
        items: list[dict[str, Any]] = []
        if choice.reasoning:
            items.append({"type": "reasoning", "summary": []})
        items += [_searched({"type": "search", "query": f"harbour {number}"}) for number in range(tools.searches)]
        items += [_searched({"type": "open_page", "url": "https://example.com/ledger"})] * tools.opened
        items += [
            {"type": "file_search_call", "status": "completed", "queries": ["quay"], "results": None}
        ] * tools.files
        for number in range(tools.runs):
            container = f"cntr_{suffix}{number % 2}"
            run = {"code": "print(1)", "container_id": container, "outputs": None, "status": "completed"}
            items.append({"type": "code_interpreter_call", **run})
        items += [{"type": "image_generation_call", "status": "completed", "result": "c2lt"}] * tools.images
        for call, name, arguments in choice.calls:
            called = {"call_id": call, "name": name, "arguments": arguments, "status": "completed"}
            items.append({"type": "function_call", **called})
        if not choice.calls and choice.tokens > choice.reasoning:
            part = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
            items.append({"type": "message", "role": "assistant", "status": "completed", "content": [part]})
        return [{"id": f"{item['type'][:3]}_{suffix}{number:04d}", **item} for number, item in enumerate(items)]

    def _events(self, final: dict[str, Any]) -> tuple[Piece, ...]:
        choice = self._choice
        told = _Events()
        opening = self._response("in_progress", [], None)
        told.add("response.created", response=opening)
        # Reasoning happens before anything is told of the answer.
        told.add("response.in_progress", choice.reasoning, response=opening)
        answers = max(1, len(choice.calls))
        shares = iter(slices("", choice.tokens - choice.reasoning, answers))
        for index, item in enumerate(self._items):
            kind = item["type"]
            if kind in ("message", "function_call"):
                _, share = next(shares)
                self._tell(told, index, item, share)
            else:
                told.add("response.output_item.added", output_index=index, item=item | {"status": "in_progress"})
                told.add("response.output_item.done", output_index=index, item=item)
        for _ in range(2 if self._ask.orders.usage_twice else 1):
            told.add(f"response.{self._status}", response=final)
        return tuple(told.pieces)

    def _tell(self, told: _Events, index: int, item: dict[str, Any], tokens: int) -> None:
        where = {"item_id": item["id"], "output_index": index}
        at: dict[str, int]
        opened: dict[str, Any]
        if item["type"] == "message":
            kind, at, text, opened = "output_text", {"content_index": 0}, self._choice.text, {"content": []}
        else:
            kind, at, text, opened = "function_call_arguments", {}, item["arguments"], {"arguments": ""}
        told.add("response.output_item.added", output_index=index, item=item | opened | {"status": "in_progress"})
        part = {"type": "output_text", "annotations": [], "logprobs": []}
        if at:
            told.add("response.content_part.added", **where, **at, part={**part, "text": ""})
        for piece, share in slices(text, tokens, self._ask.orders.chunks or max(1, -(-tokens // 4))):
            told.add(f"response.{kind}.delta", share, **where, **at, delta=piece)
        whole_text = {"text": text} if at else {"arguments": text, "name": item["name"]}
        told.add(f"response.{kind}.done", **where, **at, **whole_text)
        if at:
            told.add("response.content_part.done", **where, **at, part={**part, "text": text})
        told.add("response.output_item.done", output_index=index, item=item)


class _Events:
    """Events with their numbers, and the tokens generated before each."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def add(self, kind: str, tokens: int = 0, **members: Any) -> None:
        self.pieces.append(Piece(_event(kind, {"sequence_number": len(self.pieces), **members}), tokens))


def _event(kind: str, members: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **members}))


def _searched(action: dict[str, Any]) -> dict[str, Any]:
    return {"type": "web_search_call", "status": "completed", "action": action}


def _bill(
    prices: PriceList, card: Card, prompt: Prompt, choice: Choice, tools: Tools, terms: Terms, generated: int
) -> Bill:
    cost = prices.cost((sampling_of(card, prompt, generated),), terms, tools.searches)
    fees = Decimal(0) if terms.fixed is not None else _fees(tools)
    return Bill(usage_of(card, prompt, choice.reasoning, generated), cost + fees)


def provider_tools(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tools = body.get("tools") or []
    return {tool["type"].removesuffix("_preview"): tool for tool in tools if isinstance(tool, dict) and "type" in tool}


def items_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = body.get("input") or []
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [item for item in items if isinstance(item, dict)]


def as_message(item: dict[str, Any]) -> dict[str, Any]:
    if "role" in item:
        content = item.get("content")
        parts = content if isinstance(content, list) else []
        texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return {"role": item["role"], "content": "".join(texts) if texts else content}
    if item.get("type") == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    return {"role": "assistant", "content": encode(item).decode()}


def as_input(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    text = content if isinstance(content, str) else encode(content).decode()
    return {"role": message["role"], "content": [{"type": "input_text", "text": text}]}


def usage_of(card: Card, prompt: Prompt, reasoning: int, generated: int) -> dict[str, Any]:
    of_input: dict[str, Any] = {"cached_tokens": prompt.cached}
    if card.states_cache_writes:
        of_input["cache_write_tokens"] = prompt.written
    return {
        "input_tokens": prompt.total,
        "input_tokens_details": of_input,
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": min(reasoning, generated)},
        "total_tokens": prompt.total + generated,
    }


def sampling_of(card: Card, prompt: Prompt, generated: int) -> Sampling:
    rest = prompt.total - prompt.cached - prompt.written
    return Sampling(card.model, input=rest, output=generated, read=prompt.cached, write_5m=prompt.written)


def _fees(tools: Tools) -> Decimal:
    text, image = IMAGE_USD[tools.image_model]
    drawn = tools.images * (IMAGE_TEXT_TOKENS * text + IMAGE_TOKENS * image)
    return tools.files * FILE_SEARCH_USD + tools.containers * CONTAINER_USD + drawn
