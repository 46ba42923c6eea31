"""The simulated files and batches of OpenAI.

Shapes follow https://platform.openai.com/docs/api-reference/batch and /files. A batch is done, billed and booked with
the call that creates it; retrievals find it under way as often as its order `polls` says, which stands in its metadata.
Every request of it is a call as any other, at batch rates. The batch states what it used as a sum unless it is ordered
not to (`no_usage`); the lines of its output file state it for each request, with the tier `default` as the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec

from costbearer.simulator import openai, openai_media
from costbearer.simulator.openai import invalid
from costbearer.simulator.reply import Ask, Bill, Piece, Plan, Refusal, World, encode
from costbearer.simulator.text import draw

PATHS: Mapping[tuple[str, str, str], str] = MappingProxyType(
    {
        ("POST", "files", ""): "files.create",
        ("GET", "files", ""): "files.list",
        ("GET", "files", "{id}"): "files.retrieve",
        ("DELETE", "files", "{id}"): "files.delete",
        ("GET", "files", "{id}/content"): "files.content",
        ("POST", "batches", ""): "batches.create",
        ("GET", "batches", ""): "batches.list",
        ("GET", "batches", "{id}"): "batches.retrieve",
        ("POST", "batches", "{id}/cancel"): "batches.cancel",
    }
)

MEDIA_FACTOR = Decimal("0.5")
"""Of the price of a call, where the tables have no batch rates: embeddings, images, completions."""

_SUMMED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@dataclass(frozen=True, slots=True)
class File:
    """A stored file and what the API says of it."""

    told: dict[str, Any]
    content: bytes


@dataclass(slots=True)
class Batch:
    """A batch that is done; retrievals see it `polls` times before."""

    ended: dict[str, Any]
    polls: int


def find(method: str, path: str) -> tuple[str, str] | None:
    """(operation, id of the object) of a path about files or batches."""
    parts = path.removeprefix("/v1/").split("/")
    if len(parts) > 1:
        object_id, parts[1] = parts[1], "{id}"
    else:
        object_id = ""
    operation = PATHS.get((method, parts[0], "/".join(parts[1:])))
    return None if operation is None or not path.startswith("/v1/") else (operation, object_id)


def answer(operation: str, object_id: str, ask: Ask) -> Plan | Refusal:
    """The reply to a request about files or batches."""
    world = ask.world
    if operation == "files.create":
        return _upload(ask)
    if operation == "batches.create":
        return _create(ask)
    if operation in {"files.list", "batches.list"}:
        kind = File if operation == "files.list" else Batch
        found = [stored for stored in world.stored.values() if isinstance(stored, kind)]
        told = [stored.told if isinstance(stored, File) else stored.ended for stored in found]
        return _told({"object": "list", "data": told, "has_more": False})
    stored = world.stored.get(object_id)
    if operation.startswith("files."):
        return _of_file(world, operation, object_id, stored)
    if not isinstance(stored, Batch):
        return Refusal(404, "invalid_request_error", f"No batch found with id '{object_id}'.")
    if stored.polls:
        stored.polls -= 1
        unknown = {"status": "in_progress", "usage": None, "output_file_id": None, "completed_at": None}
        return _told(stored.ended | unknown)
    return _told(stored.ended)


def _told(document: dict[str, Any]) -> Plan:
    return Plan(200, (Piece(encode(document), 0),))


def _of_file(world: World, operation: str, file_id: str, stored: object) -> Plan | Refusal:
    if not isinstance(stored, File):
        return Refusal(404, "invalid_request_error", f"No such File object: {file_id}")
    if operation == "files.delete":
        del world.stored[file_id]
        return _told({"id": file_id, "object": "file", "deleted": True})
    if operation == "files.content":
        return Plan(200, (Piece(stored.content, 0),), content_type="application/octet-stream")
    return _told(stored.told)


def _keep(ask: Ask, file_id: str, purpose: str, content: bytes) -> dict[str, Any]:
    told = {
        "id": file_id,
        "object": "file",
        "bytes": len(content),
        "created_at": ask.created,
        "filename": f"{file_id}.jsonl",
        "purpose": purpose,
        "status": "processed",
    }
    ask.world.stored[file_id] = File(told, content)
    return told


def _upload(ask: Ask) -> Plan | Refusal:
    content, purpose = ask.body.get("file"), ask.body.get("purpose")
    if not isinstance(content, bytes) or not isinstance(purpose, str):
        return invalid("Missing required parameter: 'file' or 'purpose'.")
    return _told(_keep(ask, "file-" + ask.response_id[9:], purpose, content))


def _create(ask: Ask) -> Plan | Refusal:
    body, identity = ask.body, ask.response_id[9:]
    source, endpoint = ask.world.stored.get(str(body.get("input_file_id"))), body.get("endpoint")
    if not isinstance(source, File) or not isinstance(endpoint, str):
        return invalid("Invalid 'input_file_id' or 'endpoint'.")
    answers, bills, models = [], [], []
    for number, line in enumerate(source.content.splitlines()):
        request = msgspec.json.decode(line)
        document, made = _line(ask, endpoint, request["body"], number)
        response = {"status_code": 400 if made is None else 200, "request_id": f"r{number}", "body": document}
        answers.append(
            {"id": f"batch_req_{number}", "custom_id": request["custom_id"], "response": response, "error": None}
        )
        if made is not None:
            bills.append(made)
            models.append(document.get("model") or request["body"]["model"])
    output = "file-out" + identity
    _keep(ask, output, "batch_output", b"".join(encode(each) + b"\n" for each in answers))
    total = sum((made.cost for made in bills), Decimal(0))
    usage = _summed(bills)
    states = not ask.orders.no_usage and endpoint in _SUMMED
    told = {
        "id": "batch_" + identity,
        "object": "batch",
        "endpoint": endpoint,
        "input_file_id": body["input_file_id"],
        "completion_window": "24h",
        "status": "completed",
        "created_at": ask.created,
        "completed_at": ask.created,
        "metadata": body.get("metadata"),
        "model": models[0] if models and states else None,
        "output_file_id": output,
        "error_file_id": None,
        "request_counts": {"total": len(answers), "completed": len(bills), "failed": len(answers) - len(bills)},
        "usage": usage if states else None,
    }
    ask.world.stored[told["id"]] = Batch(told, ask.orders.polls)
    fresh = told | {"status": "validating", "usage": None, "output_file_id": None, "completed_at": None}
    final = Bill(usage, total if ask.orders.cost is None else ask.orders.cost)
    return Plan(200, (Piece(encode(fresh), 0),), models[0] if models else None, final=final)


def _line(ask: Ask, endpoint: str, body: dict[str, Any], number: int) -> tuple[dict[str, Any], Bill | None]:
    """The body that answers one request of a batch, and its bill; None where it was refused."""
    plain = replace(
        ask,
        body=body,
        size=len(encode(body)),
        orders=msgspec.structs.replace(ask.orders, tier="batch", no_usage=False, cost=None),
        draws=draw(ask.world.seed, encode([body, number])),
        response_id=f"chatcmpl-{number}{ask.response_id[9:]}",
    )
    made: Plan | Refusal
    if endpoint == "/v1/chat/completions":
        made = openai.check(body, ask.world.prices) or openai.plan(plain)
    else:
        made = openai_media.answer(openai_media.PATHS["POST", endpoint], plain)
    if isinstance(made, Refusal):
        return {"error": {"message": made.message, "type": made.kind, "code": made.code}}, None
    document: dict[str, Any] = msgspec.json.decode(made.pieces[0].data)
    assert made.final is not None
    if endpoint == "/v1/chat/completions":
        return document | {"service_tier": "default"}, made.final
    return document, Bill(made.final.usage, made.final.cost * MEDIA_FACTOR)


def _summed(bills: list[Bill]) -> dict[str, Any]:
    """The sum as the Batch object states it."""
    usages = [made.usage for made in bills]
    given = sum(usage.get("prompt_tokens", usage.get("input_tokens", 0)) for usage in usages)
    made = sum(usage.get("completion_tokens", usage.get("output_tokens", 0)) for usage in usages)
    cached = sum(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0) for usage in usages)
    reasoned = sum(usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0) for usage in usages)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": given + made,
    }
