"""The simulated Gemini API's interactions: made, streamed, run in the background and kept.

Shapes follow https://ai.google.dev/api/interactions-api. An interaction is made as content is, of the same prompt with
the same counts, under the names of its own usage object. One in the background is generated, billed and booked with the
call that asked for it, which does not learn what it used; a retrieval says it, after `polls` earlier ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from costbearer.simulator.gemini import NAME, TIERS, Making, making_of, refused
from costbearer.simulator.prices import PriceList, Terms
from costbearer.simulator.reply import EVENTS, Ask, Bill, Piece, Plan, Refusal, World, encode, mistyped
from costbearer.simulator.text import slices

_PATH = re.compile(r"/v1(?:beta)?/interactions(?:/(?P<id>[^/]+)(?P<cancel>/cancel)?)?")
_FIELDS = """
    agent background generation_config input labels model previous_interaction_id response_format response_modalities
    service_tier store stream system_instruction tools
"""
FIELDS = frozenset(_FIELDS.split())
_TYPES: dict[str, tuple[type, ...]] = {
    "background": (bool,),
    "generation_config": (dict,),
    "input": (str, list, dict),
    "stream": (bool,),
    "tools": (list,),
}
_NAMES = {
    "promptTokenCount": "total_input_tokens",
    "cachedContentTokenCount": "total_cached_tokens",
    "candidatesTokenCount": "total_output_tokens",
    "thoughtsTokenCount": "total_thought_tokens",
    "toolUsePromptTokenCount": "total_tool_use_tokens",
    "totalTokenCount": "total_tokens",
}


@dataclass
class Kept:
    """An interaction that can be looked at again; `polls` retrievals will still find it under way."""

    final: dict[str, Any]
    polls: int


@dataclass(frozen=True, slots=True)
class Interactions:
    """One address: the collection, or one interaction and what is to be done with it."""

    operation: str
    id: str | None = None

    NAME = NAME

    def headers(self, request_id: str) -> tuple[tuple[str, str], ...]:  # noqa: ARG002 - all providers' signature
        """The headers of every reply; none names the call."""
        return ()

    def error_body(self, refusal: Refusal, request_id: str) -> bytes:  # noqa: ARG002 - all providers' signature
        """An error in the shape of this API."""
        error = {"code": refusal.status, "message": refusal.message, "status": refusal.kind}
        return encode({"error": error})

    def unauthorized(self) -> Refusal:
        """The credential is missing or wrong."""
        return refused(401, "Request had invalid authentication credentials.")

    def ordered(self, status: int) -> Refusal:
        """The error that Google gives with a status."""
        return refused(status, f"The simulator was told to answer {status}.")

    def invalid(self, message: str) -> Refusal:
        """A request that cannot be understood."""
        return refused(400, message)

    def models(self, prices: PriceList) -> bytes:  # noqa: ARG002 - all providers' signature
        """Interactions list no models."""
        return encode({})

    def understood(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request with its input as contents."""
        return {
            "model": body.get("model"),
            "stream": body.get("stream") is True,
            "messages": _contents(body.get("input")),
            "system": {"parts": [{"text": body.get("system_instruction") or ""}]},
            "metadata": body.get("metadata"),
            "body": body,
        }

    def check(self, body: dict[str, Any], prices: PriceList) -> Refusal | None:
        """What this API refuses with 400 or 404."""
        given = body["body"]
        for name in given:
            if name not in FIELDS:
                return self.invalid(f"Unknown field: {name}")
        wrong = mistyped(given, _TYPES)
        if wrong is not None:
            return self.invalid(f"Invalid value at '{wrong}'")
        if not body["messages"]:
            return self.invalid("input is required")
        if given.get("service_tier") not in TIERS[:2]:
            return self.invalid("Invalid value at 'service_tier'")
        if prices.find(body["model"], NAME) is None:
            return refused(404, f"models/{body['model']} is not found")
        return None

    def plan(self, ask: Ask) -> Plan | Refusal:
        """The reply to a request that has passed `check`."""
        given = ask.body["body"]
        card = ask.world.prices.cards[ask.body["model"]]
        config = given.get("generation_config") or {}
        tools = [_as_tool(tool) for tool in given.get("tools") or []]
        made = making_of(ask, card, {"maxOutputTokens": config.get("max_output_tokens")}, tools)
        if isinstance(made, str):
            return self.invalid(f"simulator: {made}")
        bill = partial(_bill, ask.world.prices, made, Terms(ask.orders.tier or "standard", fixed=ask.orders.cost))
        final = bill(made.tokens)
        background = given.get("background") is True
        told = _told(ask, made, None if ask.orders.no_usage else final.usage)
        if given.get("store") is not False:
            ask.world.stored[ask.response_id] = Kept(told, ask.orders.polls if background else 0)
        if ask.body["stream"]:
            pieces = _events(ask, made, told)
        else:
            shown = _under_way(told) if background else told
            pieces = (Piece(encode(shown), made.tokens),)
        error = {"event_type": "error", "error": {"code": "unavailable", "message": "The model is overloaded."}}
        return Plan(
            200,
            pieces,
            card.served_as,
            EVENTS if ask.body["stream"] else "application/json",
            stream=ask.body["stream"],
            total=made.tokens,
            final=final,
            bill=bill,
            error_event=_event(error),
        )

    def stored(self, world: World, query: Mapping[str, list[str]]) -> Plan | Refusal:
        """The reply to a request about a stored interaction; all of them are free."""
        found = world.stored.get(self.id or "")
        if not isinstance(found, Kept):
            return refused(404, f"Interaction {self.id} is not found")
        if self.operation == "interactions.delete":
            del world.stored[self.id or ""]
            return _whole({})
        if self.operation == "interactions.cancel":
            found.polls = 0
            found.final["status"] = "cancelled"
            return _whole(found.final)
        if query.get("stream", [""])[-1].lower() == "true":
            found.polls = 0
            completed = _event({"event_type": "interaction.completed", "interaction": found.final})
            return Plan(200, (Piece(completed, 0),), found.final["model"], EVENTS, stream=True)
        if found.polls:
            found.polls -= 1
            return _whole(_under_way(found.final))
        return _whole(found.final)


def find(method: str, path: str) -> Interactions | None:
    """What is asked at this address; None where it is none of this API's."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    if found["id"] is None:
        return Interactions("interactions")
    what = {("GET", ""): "retrieve", ("DELETE", ""): "delete", ("POST", "/cancel"): "cancel"}
    operation = what.get((method, found["cancel"] or ""))
    return None if operation is None else Interactions(f"interactions.{operation}", found["id"])


def _bill(prices: PriceList, made: Making, terms: Terms, generated: int) -> Bill:
    """The bill of `Making`, with its counts under the names of this API, which does not leave out zeros."""
    usage, cost = made.cost(prices, terms, generated)
    counts: dict[str, Any] = {name: usage.get(other, 0) for other, name in _NAMES.items()}
    counts["input_tokens_by_modality"] = [
        {"modality": each["modality"].lower(), "tokens": each["tokenCount"]} for each in usage["promptTokensDetails"]
    ]
    return Bill(counts, cost)


def _told(ask: Ask, made: Making, usage: dict[str, Any] | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "thought", "signature": "c2ltdWxhdGVk"}] if made.thoughts else []
    if made.queries:
        call: dict[str, Any] = {
            "type": "google_search_call",
            "id": f"{ask.response_id}_s",
            "arguments": {"queries": list(made.queries)},
        }
        steps += [call, {"type": "google_search_result", "call_id": call["id"], "result": []}]
    if made.text:
        steps.append({"type": "model_output", "content": [{"type": "text", "text": made.text}]})
    for index, each in enumerate(made.calls):
        function = each["functionCall"]
        called = {"type": "function_call", "id": f"{ask.response_id}_{index}", "name": function["name"]}
        steps.append(called | {"arguments": function["args"]})
    created = datetime.fromtimestamp(ask.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told: dict[str, Any] = {
        "id": ask.response_id,
        "object": "interaction",
        "model": made.card.served_as,
        "status": "requires_action" if made.calls else "incomplete" if made.limited else "completed",
        "created": created,
        "updated": created,
        "service_tier": ask.orders.tier or "standard",
        "steps": steps,
    }
    return told if usage is None else told | {"usage": usage}


def _under_way(told: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in told.items() if name not in ("usage", "steps")}
    return shown | {"status": "in_progress", "steps": []}


def _events(ask: Ask, made: Making, told: dict[str, Any]) -> tuple[Piece, ...]:
    begun = {name: value for name, value in _under_way(told).items() if name != "steps"}
    pieces = [Piece(_event({"event_type": "interaction.created", "interaction": begun}), 0)]
    done = 0
    for index, step in enumerate(told["steps"]):
        pieces.append(Piece(_event({"event_type": "step.start", "index": index, "step": {"type": step["type"]}}), 0))
        for delta, tokens in _deltas(ask, made, step):
            pieces.append(Piece(_event({"event_type": "step.delta", "index": index, "delta": delta}), tokens))
            done += tokens
        pieces.append(Piece(_event({"event_type": "step.stop", "index": index}), 0))
    final = {name: value for name, value in told.items() if name != "steps"}
    pieces.append(Piece(_event({"event_type": "interaction.completed", "interaction": final}), made.tokens - done))
    pieces.append(Piece(b"event: done\ndata: [DONE]\n\n", 0))
    return tuple(pieces)


def _deltas(ask: Ask, made: Making, step: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    if step["type"] == "thought":
        return [({"type": "thought_signature", "signature": step["signature"]}, made.thoughts)]
    if step["type"] == "model_output":
        number = ask.orders.chunks or max(1, made.candidate // 4)
        shown = slices(made.text, made.candidate, number)
        return [({"type": "text", "text": text}, tokens) for text, tokens in shown]
    if step["type"] == "google_search_call":
        return [({"type": "google_search_call", "arguments": step["arguments"]}, 0)]
    if step["type"] == "function_call":
        return [({"type": "arguments_delta", "arguments": encode(step["arguments"]).decode()}, 0)]
    return []


def _event(data: dict[str, Any]) -> bytes:
    return b"event: " + str(data["event_type"]).encode() + b"\ndata: " + encode(data) + b"\n\n"


def _whole(document: dict[str, Any]) -> Plan:
    return Plan(200, (Piece(encode(document), 0),))


def _contents(given: object) -> list[Any]:
    """The input's texts, each as a content."""
    if isinstance(given, str):
        return [{"parts": [{"text": given}]}]
    if isinstance(given, dict):
        nested = given.get("content")
        return _contents(given["text"]) if isinstance(given.get("text"), str) else _contents(nested)
    return [content for each in given for content in _contents(each)] if isinstance(given, list) else []


def _as_tool(tool: object) -> dict[str, Any]:
    """A tool in the words of `generateContent`."""
    if not isinstance(tool, dict):
        return {}
    if tool.get("type") == "google_search":
        return {"googleSearch": {}}
    return {"functionDeclarations": [{"name": tool.get("name"), "parameters": tool.get("parameters")}]}
