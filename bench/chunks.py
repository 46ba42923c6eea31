"""Streams: chunks per second through the gateway against the same streams read from the provider directly."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench.machines import cpu_s
from bench.reading import reading_us
from costbearer.simulator import CREDENTIAL, running_simulator
from tests.system import running_server

STREAMS = 100
CHUNKS = 200


def measure(quick: bool) -> list[tuple[str, str]]:
    rounds = 1 if quick else 3
    direct: list[float] = []
    relayed: list[float] = []
    spent: list[float] = []
    with tempfile.TemporaryDirectory(prefix="costbearer-bench-") as name, running_simulator() as simulator:
        settings = "[ledger]\npost_interval_ms = 60000\n"
        with running_server(Path(name), simulator, workers=1, extra=settings) as server:
            key = server.issue()
            port = int(simulator.openai_base_url.split(":")[2].split("/")[0])
            asyncio.run(_streams(server.gateway_port, key, 10))
            (worker,) = server.roles()["workers"]
            for _ in range(rounds):
                direct.append(asyncio.run(_streams(port, CREDENTIAL, STREAMS)))
                before, began = cpu_s(worker), time.perf_counter()
                relayed.append(asyncio.run(_streams(server.gateway_port, key, STREAMS)))
                chunks = relayed[-1] * (time.perf_counter() - began)
                spent.append((cpu_s(worker) - before) / chunks * 1e6)
    relay_us = statistics.median(spent)
    reading = reading_us(1_000 if quick else 20_000)
    shares = ", ".join(
        f"{name} {us:.1f} µs ({us / (relay_us - reading['openai']):.0%})" for name, us in reading.items()
    )
    ratio = statistics.median(ours / theirs for ours, theirs in zip(relayed, direct, strict=True))
    return [
        (
            f"chunks/s through one worker, {STREAMS} streams at once; direct; ratio",
            f"{statistics.median(relayed):,.0f}; {statistics.median(direct):,.0f}; {ratio:.2f}",
        ),
        ("CPU of the worker per chunk, all of it", f"{relay_us:.1f} µs"),
        ("CPU: read the usage in a chunk (share of the relay without it)", shares),
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
