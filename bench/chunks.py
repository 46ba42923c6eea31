"""Streams: chunks per second through the gateway against the same streams read from the provider directly."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from costbearer.simulator import CREDENTIAL, running_simulator
from tests.system import running_server

STREAMS = 100
CHUNKS = 200


def measure(quick: bool) -> list[tuple[str, str]]:
    rounds = 1 if quick else 3
    direct: list[float] = []
    relayed: list[float] = []
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name, running_simulator() as simulator:
        settings = "[ledger]\npost_interval_ms = 60000\n"
        with running_server(Path(name), simulator, workers=1, extra=settings) as server:
            key = server.issue()
            port = int(simulator.openai_base_url.split(":")[2].split("/")[0])
            asyncio.run(_streams(server.gateway_port, key, 10))
            for _ in range(rounds):
                direct.append(asyncio.run(_streams(port, CREDENTIAL, STREAMS)))
                relayed.append(asyncio.run(_streams(server.gateway_port, key, STREAMS)))
    ratio = statistics.median(ours / theirs for ours, theirs in zip(relayed, direct, strict=True))
    return [
        (
            f"chunks/s through one worker, {STREAMS} streams at once; direct; ratio",
            f"{statistics.median(relayed):,.0f}; {statistics.median(direct):,.0f}; {ratio:.2f}",
        )
    ]


async def _streams(port: int, key: str, count: int) -> float:
    began = time.perf_counter()
    events = await asyncio.gather(*(_stream(port, key) for _ in range(count)))
    return sum(events) / (time.perf_counter() - began)


async def _stream(port: int, key: str) -> int:
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "stream": True,
            "max_tokens": 4 * CHUNKS,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": f"Go on. [[sim:output={2 * CHUNKS} chunks={CHUNKS} delay_ms=1]]"}],
        }
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    events = 0
    while data := await reader.read(65536):
        events += data.count(b"data: ")
    writer.close()
    return events
