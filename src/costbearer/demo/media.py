"""What the OpenAI package does beside chat: responses, embeddings, images, sound, files and batches."""

from __future__ import annotations

import io
import json
import time
import wave
from typing import Any

from costbearer.demo.chats import openai_client
from costbearer.demo.stage import Stage

RESULT_TIMEOUT_S = 20.0
POLL_S = 0.05
SOUND_HZ = 16_000


def research(running: Stage, key: str) -> int:
    """The Responses API: whole, streamed, with web searches, and in the background."""
    with openai_client(running, key) as client:
        client.responses.create(model="gpt-5", input="What is a cost bearer?")
        for _event in client.responses.create(model="gpt-5", input="And what is a cost centre?", stream=True):
            pass
        search: Any = [{"type": "web_search"}]
        client.responses.create(
            model="gpt-5", input="Who wrote about it first? [[sim:web_search=2]]", tools=search, service_tier="flex"
        )
        later = client.responses.create(
            model="gpt-5", input="Write the whole history. [[sim:polls=1]]", background=True
        )
        return 4 + _until(lambda: client.responses.retrieve(later.id).status == "completed")


def index(running: Stage, key: str) -> int:
    """Embeddings, which have no output; a moderation, which is free; a completion of the old kind."""
    with openai_client(running, key) as client:
        for number in range(3):
            page = f"Page {number}. " + "All about sandals, boots and shoes. " * 40
            client.embeddings.create(model="text-embedding-3-small", input=[page, page[::-1]])
        client.moderations.create(input="Is this page fit to be shown?")
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Title of the page:", max_tokens=16)
    return 5


def studio(running: Stage, key: str) -> int:
    """An image, priced by its tokens; a spoken text, by its characters; a transcript, by the tokens of its sound."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_HZ)
        file.writeframes(bytes(2 * SOUND_HZ * 3))
    with openai_client(running, key) as client:
        client.images.generate(model="gpt-image-1.5", prompt="A fox in the snow, at dawn.")
        client.audio.speech.create(model="tts-1", voice="alloy", input="Our newsletter, read aloud.")
        client.audio.transcriptions.create(
            model="gpt-4o-mini-transcribe", file=("talk.wav", sound.getvalue(), "audio/wav")
        )
    return 3


def night_shift(running: Stage, key: str) -> int:
    """A file of requests, half price: uploaded, run as a batch, its result asked for until it is there."""
    bodies = (
        {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": f"Digest ticket {number}."}],
            "max_tokens": 60,
        }
        for number in range(5)
    )
    lines = (
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(bodies)
    )
    source = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with openai_client(running, key) as client:
        stored = client.files.create(file=("requests.jsonl", source), purpose="batch")
        made = client.batches.create(
            input_file_id=stored.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"note": "[[sim:polls=1]]"},
        )
        return 2 + _until(lambda: client.batches.retrieve(made.id).status == "completed")


def _until(done: Any) -> int:
    """Ask until it is done; gives back how often that was.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + RESULT_TIMEOUT_S
    asked = 1
    while not done():
        if time.monotonic() > end:
            raise TimeoutError("work in the background did not end in time")
        asked += 1
        time.sleep(POLL_S)
    return asked
