"""Outcomes that the journal does not take at once: what waits for space, what never can be written, and how little is
kept of either."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from costbearer.config import Config
from costbearer.frames import PAYLOAD_BYTES_MAX, Outcome
from costbearer.gateway.settle import UNWRITABLE
from costbearer.money import ZERO
from costbearer.usage import MODELS_MAX, WORK_MAX
from tests.factories import make_entry
from tests.harness import FakeWire, Gateway, gateway, make_config, run
from tests.proxies import Origin

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
NAMES = 2_000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"


def stored(models: list[str], sizes: list[int]) -> bytes:
    """A reply with a stored file that looks like the output of a batch: a line for each pair."""
    lines = []
    for model, size in zip(models, sizes, strict=True):
        usage = {
            "prompt_tokens": size,
            "completion_tokens": 20,
            "total_tokens": size + 20,
            "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 3},
        }
        body = {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [], "usage": usage}
        lines.append(json.dumps({"id": "b", "custom_id": "r", "response": {"status_code": 200, "body": body}}))
    data = "\n".join(lines).encode() + b"\n"
    return HEAD % len(data) + data


def asking(tmp_path: Path, origin: Origin, body: Any) -> None:
    """Run `body` with a gateway in front of that provider."""

    async def with_gateway() -> None:
        server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            config: Config = make_config(tmp_path, f"{url}/v1", url)
            async with gateway(config) as running:
                await body(running)
            for writer in origin.writers:
                writer.close()

    run(with_gateway)


def longest_frame(running: Gateway) -> int:
    return max(len(msgspec.json.encode(frame)) for frame in running.frames())


def test_a_file_that_names_thousands_of_models_leaves_a_small_outcome(tmp_path: Path) -> None:
    reply = stored([f"m{number}-{'x' * 200}" for number in range(NAMES)], [10] * NAMES)

    async def body(running: Gateway) -> None:
        wire = await running.ask(b"", "/v1/files/file-1/content", method="GET")
        assert (wire.status, wire.whole) == (200, True)
        (entry,) = running.entries()
        assert (entry.basis, entry.cost_usd, entry.settlement) == ("metered", ZERO, None)
        assert "work_too_varied" in entry.notes
        assert longest_frame(running) < PAYLOAD_BYTES_MAX // MODELS_MAX
        assert running.worker.refused == []

    asking(tmp_path, Origin(reply), body)


def test_an_outcome_that_fits_into_no_frame_is_closed_as_unknown_and_not_kept(tmp_path: Path) -> None:
    """As many models and sizes as are told apart, and the longest names that are kept, of four bytes a character."""
    models = [f"{number % MODELS_MAX:02d}" + "\N{GRINNING FACE}" * 254 for number in range(WORK_MAX)]
    reply = stored(models, [1000 * (50 + number) for number in range(WORK_MAX)])

    async def body(running: Gateway) -> None:
        wire = await running.ask(b"", "/v1/files/file-1/content", method="GET")
        assert (wire.status, wire.whole) == (200, True)
        (entry,) = running.entries()
        assert (entry.basis, entry.cost_usd, entry.reason_unknown) == ("unknown", None, UNWRITABLE)
        assert (entry.status, entry.http_status, entry.settlement) == ("ok", 200, None)
        assert entry.bound_usd == 0, "it is free, whatever its file says"
        assert running.worker.refused == []
        assert running.worker.journal.open_intents == 0

    asking(tmp_path, Origin(reply), body)


def test_outcomes_that_a_full_disk_refused_are_written_when_it_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(running: Gateway) -> None:
        worker = running.worker
        calls = [asyncio.create_task(running.ask(CHAT)) for _ in range(3)]
        while worker.journal.open_intents < len(calls):
            await asyncio.sleep(0.01)
        with monkeypatch.context() as full:
            full.setattr(worker.journal._segment, "write", lambda _: errno.ENOSPC)
            wires: list[FakeWire] = await asyncio.gather(*calls)
            assert [wire.error_code for wire in wires] == ["not_recording"] * len(calls)
            assert len(worker.refused) == len(calls)
            worker._write_refused()
            assert len(worker.refused) == len(calls), "they wait"
        # What never can be written, here an outcome without an intent, does not hold up what is behind it.
        worker.refused.insert(0, Outcome(make_entry(worker.journal.id, 10**6)))
        worker._write_refused()
        assert worker.refused == []
        assert [entry.basis for entry in running.entries()] == ["metered"] * len(calls)

    asking(tmp_path, Origin(delay_s=0.2), body)
