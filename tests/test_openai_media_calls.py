"""What the OpenAI SDK does beside chat, through the gateway to the simulator, whose books are the truth."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from costbearer import money
from costbearer.config import Config
from costbearer.dialects.openai_batches import read_batch, read_output
from costbearer.settlements import settlement
from costbearer.simulator import Line, RunningSimulator, running_simulator
from tests.harness import BOOK, Gateway, make_config, run
from tests.test_openai_audio import wave
from tests.test_openai_responses_sdk import sdk

Ask = Callable[[openai.AsyncOpenAI], Awaitable[Any]]

SOUND = ("talk.wav", wave(3.4), "audio/wav")
FOX = ("fox.png", b"\x89PNG\r\n\x1a\n--not-a-boundary\r\n", "image/png")


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, simulator: RunningSimulator) -> Config:
    return make_config(tmp_path, simulator.openai_base_url, simulator.anthropic_base_url)


def billed(simulator: RunningSimulator) -> list[Line]:
    return [line for line in simulator.books() if line.billed]


def books_total(simulator: RunningSimulator) -> Decimal:
    return money.total(money.usd(line.cost) for line in billed(simulator))


async def all_of(stream: Any) -> list[Any]:
    return [event async for event in await stream]


async def translated(client: openai.AsyncOpenAI) -> Any:
    with warnings.catch_warnings():
        # The SDK warns that whisper-1 will be shut down in 2027.
        warnings.simplefilter("ignore", DeprecationWarning)
        asked = client.audio.translations.create(model="whisper-1", file=SOUND, response_format="verbose_json")
    return await asked


IMAGE: dict[str, Any] = {"model": "gpt-image-1.5", "prompt": "A fox in the snow, at dawn."}
TRANSCRIPT: dict[str, Any] = {"model": "gpt-4o-mini-transcribe", "file": SOUND, "prompt": "Names: Ada, Grace."}
SPEECH: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": "Grüße aus Zürich 📒"}
PROMPT: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": ["Once upon", "a time"], "n": 2}
METERED: dict[str, tuple[Ask, list[str]]] = {
    "embeddings": (
        lambda client: client.embeddings.create(model="text-embedding-3-small", input=["Hello", "world, again"]),
        ["input"],
    ),
    "completions": (lambda client: client.completions.create(**PROMPT), ["input", "output"]),
    "completions streamed": (
        lambda client: all_of(client.completions.create(**PROMPT, stream=True)),
        ["input", "output"],
    ),
    "images": (lambda client: client.images.generate(**IMAGE, n=3), ["input", "image_output"]),
    "images streamed": (
        lambda client: all_of(client.images.generate(**IMAGE, stream=True, partial_images=1)),
        ["input", "image_output"],
    ),
    "edits": (lambda client: client.images.edit(**IMAGE, image=FOX), ["input", "image_input", "image_output"]),
    "edits streamed": (
        lambda client: all_of(client.images.edit(**IMAGE, image=FOX, stream=True)),
        ["input", "image_input", "image_output"],
    ),
    "transcriptions": (
        lambda client: client.audio.transcriptions.create(**TRANSCRIPT),
        ["input", "audio_input", "output"],
    ),
    "transcriptions streamed": (
        lambda client: all_of(client.audio.transcriptions.create(**TRANSCRIPT, stream=True)),
        ["input", "audio_input", "output"],
    ),
    "whisper": (
        lambda client: client.audio.transcriptions.create(model="whisper-1", file=SOUND),
        ["input_audio_second"],
    ),
    "whisper verbose": (
        translated,
        ["input_audio_second"],
    ),
    "whisper without usage": (
        lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=SOUND, response_format="verbose_json", prompt="[[sim:no_usage=1]]"
        ),
        ["input_audio_second"],
    ),
    "speech": (lambda client: client.audio.speech.create(**SPEECH), ["input_character"]),
}


@pytest.mark.parametrize("name", METERED)
def test_what_is_metered(name: str, config: Config, simulator: RunningSimulator) -> None:
    ask, meters = METERED[name]

    async def body() -> None:
        async with sdk(config) as (client, running):
            assert await ask(client)
            (entry,) = running.entries()
            assert (entry.status, entry.basis) == ("ok", "metered"), entry.notes
            assert entry.cost_usd == books_total(simulator) > 0
            assert [charge.meter for charge in entry.charges] == meters
            (line,) = simulator.books()
            assert line.saw == ()

    run(body)


def test_a_stream_of_speech_is_billed_by_token(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            asked: Any = SPEECH | {"model": "gpt-4o-mini-tts", "stream_format": "sse"}
            answer = await client.audio.speech.create(**asked)
            assert b"speech.audio.done" in answer.content
            (entry,) = running.entries()
            assert (entry.basis, entry.cost_usd) == ("metered", books_total(simulator))

    run(body)


UNKNOWN: dict[str, Ask] = {
    "speech of a model billed by token": lambda client: client.audio.speech.create(
        **SPEECH | {"model": "gpt-4o-mini-tts"}
    ),
    "a transcript as text": lambda client: client.audio.transcriptions.create(
        model="whisper-1", file=("talk.mp3", b"ID3 no header says how long", "audio/mpeg"), response_format="text"
    ),
    "an image without usage": lambda client: client.images.generate(
        model="gpt-image-1.5", prompt="A fox [[sim:no_usage=1]]"
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_states_nothing_is_unknown_and_never_0(name: str, config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            await UNKNOWN[name](client)
            (entry,) = running.entries()
            assert (entry.status, entry.basis, entry.cost_usd) == ("ok", "unknown", None)
            assert entry.reason_unknown == "usage_absent"
            assert books_total(simulator) > 0

    run(body)


def test_tags_in_a_form_describe_the_call_and_stay_here(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            tagged = {"metadata": {"tags": ["feature:minutes", "customer:acme"]}}
            await client.audio.transcriptions.create(**TRANSCRIPT, extra_body=tagged)
            (entry,) = running.entries()
            assert (entry.feature, entry.customer) == ("minutes", "acme")
            (line,) = billed(simulator)
            assert line.saw == ()
            assert entry.cost_usd == line.cost

    run(body)


def test_moderations_and_files_are_free(config: Config, simulator: RunningSimulator) -> None:
    async def body() -> None:
        async with sdk(config) as (client, running):
            assert (await client.moderations.create(input="Hello")).results
            stored = await client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch")
            assert (await client.files.retrieve(stored.id)).purpose == "batch"
            assert (await client.files.content(stored.id)).content == b"{}\n"
            assert [each.id async for each in client.files.list()] == [stored.id]
            assert (await client.files.delete(stored.id)).deleted
            entries = running.entries()
            assert {(entry.basis, entry.cost_usd) for entry in entries} == {("metered", money.ZERO)}
            assert len(entries) == 6
            assert books_total(simulator) == 0

    run(body)


def lines_of(*bodies: dict[str, Any]) -> bytes:
    requests = (
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/x", "body": body}
        for number, body in enumerate(bodies)
    )
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}


BATCHES: dict[str, tuple[str, tuple[dict[str, Any], ...], str]] = {
    "chat": ("/v1/chat/completions", (chat("One."), chat("Two.", max_tokens=9), chat("No.", n=1000)), ""),
    "chat, polled": ("/v1/chat/completions", (chat("One."), chat("Two.")), "polls=2"),
    "chat, usage in the lines": ("/v1/chat/completions", (chat("One."), chat("Two."), chat("3.", n=0)), "no_usage=1"),
    "images": ("/v1/images/generations", (IMAGE, IMAGE | {"n": 2}), ""),
    "nothing": ("/v1/chat/completions", (chat("No.", n=1000),), ""),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_costs_what_its_lines_cost(name: str, config: Config, simulator: RunningSimulator) -> None:
    endpoint, bodies, directive = BATCHES[name]

    async def body() -> None:
        async with sdk(config) as (client, running):
            source = await client.files.create(file=io.BytesIO(lines_of(*bodies)), purpose="batch")
            made = await client.batches.create(
                input_file_id=source.id,
                endpoint=endpoint,  # type: ignore[arg-type]
                completion_window="24h",
                metadata={"note": f"[[sim:{directive}]]"} if directive else {},
            )
            while (found := await client.batches.retrieve(made.id)).status != "completed":
                assert found.usage is None
            stated = read_batch(found.to_json().encode())
            assert stated is not None
            assert stated.ended
            reading = stated.reading
            if reading.job is not None and reading.job.state == "pending":
                assert reading.job.result_id == found.output_file_id
                assert found.output_file_id is not None
                content = (await client.files.content(found.output_file_id)).content
                (model,) = {each["model"] for each in bodies}
                done = reading.job._replace(state="done")
                reading = read_output(content.splitlines(), done, model)
            settled = settlement(reading, provider="openai", price_provider="openai", book=BOOK, at=at_of(running))
            assert settled is not None
            assert (settled.cost_usd, settled.basis) == (books_total(simulator), "metered")
            assert (settled.provider_response_id, settled.tier) == (made.id, "batch")
            assert (books_total(simulator) > 0) is (name != "nothing")

    run(body)


def at_of(running: Gateway) -> Any:
    return running.entries()[-1].started_at
