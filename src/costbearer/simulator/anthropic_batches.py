"""The simulated Message Batches of Anthropic.

Shapes follow https://docs.anthropic.com/en/api/creating-message-batches. A batch is done, billed and booked with the
call that creates it; retrievals find it under way as often as an order `polls` in one of its messages says. Only the
lines of its results state what was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.simulator import anthropic
from costbearer.simulator.reply import Ask, Bill, Piece, Plan, Refusal, encode
from costbearer.simulator.text import draw

PATH = "/v1/messages/batches"

PATHS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("POST", ""): "messages.batches.create",
        ("GET", ""): "messages.batches.list",
        ("GET", "{id}"): "messages.batches.retrieve",
        ("POST", "{id}/cancel"): "messages.batches.cancel",
        ("GET", "{id}/results"): "messages.batches.results",
    }
)


@dataclass(slots=True)
class MessageBatch:
    """A batch that is done; retrievals see it `polls` times before."""

    ended: dict[str, Any]
    results: bytes
    polls: int


def find(method: str, path: str) -> tuple[str, str] | None:
    """(operation, id of the batch) of a path about batches."""
    if path != PATH and not path.startswith(f"{PATH}/"):
        return None
    batch_id, _, below = path[len(PATH) + 1 :].partition("/")
    rest = f"{{id}}/{below}" if below else "{id}" if batch_id else ""
    operation = PATHS.get((method, rest))
    return None if operation is None else (operation, batch_id)


def answer(operation: str, batch_id: str, ask: Ask) -> Plan | Refusal:
    """The reply to a request about batches."""
    stored = ask.world.stored.get(batch_id)
    if operation == "messages.batches.create":
        return _create(ask)
    if operation == "messages.batches.list":
        found = [each.ended for each in ask.world.stored.values() if isinstance(each, MessageBatch)]
        return _told({"data": found, "has_more": False, "first_id": None, "last_id": None})
    if not isinstance(stored, MessageBatch):
        return Refusal(404, "not_found_error", "Message Batch not found.")
    if operation == "messages.batches.results":
        return Plan(200, (Piece(stored.results, 0),), content_type="application/x-jsonl")
    if stored.polls:
        stored.polls -= 1
        return _told(stored.ended | {"processing_status": "in_progress", "ended_at": None, "results_url": None})
    return _told(stored.ended)


def _told(document: dict[str, Any]) -> Plan:
    return Plan(200, (Piece(encode(document), 0),))


def _create(ask: Ask) -> Plan | Refusal:
    requests = ask.body.get("requests")
    if not isinstance(requests, list) or not requests:
        return anthropic.invalid("requests: at least one is required")
    batch_id = "msgbatch_" + ask.response_id[4:]
    results, bills, models = [], [], []
    for number, request in enumerate(requests):
        params = request["params"]
        made = _message(ask, params, number)
        if isinstance(made, Refusal):
            error = {"type": "error", "error": {"type": made.kind, "message": made.message}}
            results.append({"custom_id": request["custom_id"], "result": {"type": "errored", "error": error}})
            continue
        message = msgspec.Raw(made.pieces[0].data)
        results.append({"custom_id": request["custom_id"], "result": {"type": "succeeded", "message": message}})
        assert made.final is not None
        bills.append(made.final)
        models.append(made.model)
    counts = {"processing": 0, "succeeded": len(bills), "errored": len(results) - len(bills), "canceled": 0}
    created = datetime.fromtimestamp(ask.created, UTC)
    told = {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts | {"expired": 0},
        "created_at": created,
        "ended_at": created,
        "expires_at": created + timedelta(days=1),
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"https://api.anthropic.com{PATH}/{batch_id}/results",
    }
    content = b"".join(encode(each) + b"\n" for each in results)
    ask.world.stored[batch_id] = MessageBatch(told, content, ask.orders.polls)
    fresh = told | {"processing_status": "in_progress", "ended_at": None, "results_url": None}
    total = sum((made.cost for made in bills), Decimal(0))
    usage = {"messages": [made.usage for made in bills]}
    return Plan(200, (Piece(encode(fresh), 0),), models[0] if models else None, final=Bill(usage, total))


def _message(ask: Ask, params: dict[str, Any], number: int) -> Plan | Refusal:
    plain = replace(
        ask,
        body=params,
        size=len(encode(params)),
        orders=msgspec.structs.replace(ask.orders, tier="batch"),
        draws=draw(ask.world.seed, encode([params, number])),
        response_id=f"msg_{number}{ask.response_id[4:]}",
    )
    return anthropic.check(params, ask.world.prices) or anthropic.plan(plain)
