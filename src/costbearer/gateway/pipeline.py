"""One request, one way through. Read top to bottom: this is what happens to every call.

authenticate -> read -> attribute -> resolve -> (open -> attempt)... -> relay -> close
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from costbearer.attribution import Said
from costbearer.dialects.base import JSON, Place
from costbearer.errors import CallRefused, EndpointNotMetered, JournalFailed, NotRecording, ShuttingDown
from costbearer.gateway import edge, replies
from costbearer.gateway.attempts import attempt
from costbearer.gateway.calls import Caller, Request
from costbearer.gateway.endpoints import HEALTH_PATHS, Endpoint, family, find, metered_paths
from costbearer.gateway.http1 import Head
from costbearer.gateway.relay import relay
from costbearer.gateway.worker import Worker

log = logging.getLogger("costbearer.gateway")


async def serve(worker: Worker, head: Head, wire: edge.Wire) -> None:
    """Answer one HTTP request. Every error a caller can meet leaves here in the caller's dialect."""
    if head.path in HEALTH_PATHS:
        replies.health(wire, {"alive": True} if head.path == "/healthz" else worker.state())
        return
    request_id = worker.new_request_id()
    found = find(head.method, head.path)
    dialect = worker.dialects[found[0].dialect if found else family(head.path)]
    worker.requests += 1
    try:
        if found is None:
            metered = metered_paths(dialect.name)
            raise EndpointNotMetered(f"{head.method} {head.path[:100]} is not metered; metered are {metered}")
        await _call(worker, head, wire, found, request_id)
    except CallRefused as refused:
        replies.refuse(wire, dialect, refused, request_id)
    except JournalFailed as failed:
        # An outcome was refused. Its intent stands, so the call is not lost; but nothing more may be promised.
        log.error("request %s: outcome refused: %s", request_id, failed.message)
        replies.refuse(wire, dialect, NotRecording("the gateway cannot record this call"), request_id)
    finally:
        worker.requests -= 1


def refuse(worker: Worker, wire: edge.Wire, refused: CallRefused, path: str) -> None:
    """Answer what is no request that could be served. `path` is what seems to be its path: it chooses the dialect."""
    replies.refuse(wire, worker.dialects[family(path)], refused, worker.new_request_id())


async def _call(
    worker: Worker, head: Head, wire: edge.Wire, found: tuple[Endpoint, Mapping[str, str]], request_id: str
) -> None:
    endpoint, params = found
    if worker.draining:
        raise ShuttingDown("the gateway is shutting down; send the request again")
    headers = head.headers
    now = datetime.now(UTC)
    record = await worker.authenticate(edge.credential(headers), now)
    bearer = worker.bearer(record, now)

    if endpoint.operation is None:
        anthropic = "anthropic-version" in headers
        names = worker.resolver.models("anthropic" if anthropic else "openai")
        replies.models(wire, names, anthropic=anthropic, request_id=request_id)
        return

    if endpoint.media != "none":
        edge.check_body(head, endpoint.media)
    body = wire.arrived()
    if body is None:
        body = await wire.read_body(bearer.key_id)
    dialect = worker.dialects[endpoint.dialect]
    place = Place(head.method, head.path, head.query, params, headers.get("content-type", JSON))
    asked = dialect.operations[endpoint.operation].read(body if endpoint.media != "none" else b"", place)
    attribution = worker.attributor.attribute(
        bearer,
        Said(
            tags_header=headers.get("x-costbearer-tags"),
            body_tags=asked.tags,
            baggage=headers.get("baggage"),
            traceparent=headers.get("traceparent"),
        ),
    )
    if asked.model:
        targets = worker.resolver.targets(asked.model, endpoint.dialect, endpoint.operation)
    else:
        wanted = headers.get("x-costbearer-provider")
        targets = worker.resolver.stored(endpoint.dialect, endpoint.operation, wanted)
    caller = Caller(wire, stream=asked.stream)
    request = Request(
        id=request_id,
        trace_id=attribution.trace_id or request_id.removeprefix("req_").rjust(32, "0"),
        dialect=dialect,
        asked=asked,
        headers=headers,
        bearer=bearer,
        attribution=attribution,
        targets=targets,
        caller=caller,
    )
    try:
        answer = await attempt(worker, request)
        await relay(worker, request, answer)
    finally:
        caller.end()
