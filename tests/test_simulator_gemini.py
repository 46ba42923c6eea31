"""The simulated Gemini API and Vertex AI, seen through the official SDK; every bill is computed again by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from costbearer.simulator import Line, RunningSimulator, running_simulator

LITE, PRO, EMBEDDING = "gemini-3.1-flash-lite", "gemini-2.5-pro", "gemini-embedding-2"
PARAGRAPH = "A ledger that cannot be recomputed is an opinion; one that can is a proof. "
SEARCH: Any = types.Tool(google_search=types.GoogleSearch())


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningSimulator]:
    with running_simulator(keep_bodies=True) as running:
        yield running


@pytest.fixture
def simulator(shared: RunningSimulator) -> RunningSimulator:
    shared.reset()
    return shared


@pytest.fixture
def client(simulator: RunningSimulator) -> Iterator[genai.Client]:
    with client_of(simulator) as made:
        yield made


def client_of(simulator: RunningSimulator, **more: Any) -> genai.Client:
    options = types.HttpOptions(base_url=simulator.origin)
    return genai.Client(http_options=options, **({"api_key": simulator.credential} | more))


def million(*lines: tuple[int | None, str]) -> Decimal:
    """The cost of (tokens, US dollars per million tokens) lines."""
    return sum((Decimal(tokens or 0) * Decimal(rate) for tokens, rate in lines), Decimal(0)) * Decimal("0.000001")


def only(simulator: RunningSimulator) -> Line:
    books = simulator.books()
    assert len(books) == 1
    return books.lines[0]


def test_content_that_comes_whole(simulator: RunningSimulator, client: genai.Client) -> None:
    reply = client.models.generate_content(model=LITE, contents="What is owed? [[sim:mark=a1 output=200]]")
    line, used = only(simulator), reply.usage_metadata
    assert used is not None
    assert (line.provider, line.operation, line.mark, line.model) == ("google", "generate_content", "a1", LITE)
    assert (line.response_id, line.outcome, line.stream, line.saw) == (reply.response_id, "complete", False, ())
    assert used.thoughts_token_count
    generated = (used.candidates_token_count or 0) + used.thoughts_token_count
    assert generated == line.generated_tokens == 200
    assert line.cost == million((used.prompt_token_count, "0.25"), (generated, "1.50"))
    assert reply.text
    assert reply.candidates is not None
    assert reply.candidates[0].finish_reason == types.FinishReason.STOP


def test_a_stream_states_the_usage_so_far(simulator: RunningSimulator, client: genai.Client) -> None:
    chunks = list(client.models.generate_content_stream(model=LITE, contents="Tell. [[sim:output=120 chunks=5]]"))
    used = [chunk.usage_metadata for chunk in chunks]
    assert len(chunks) == 6
    totals = [each.total_token_count or 0 for each in used if each is not None]
    assert totals == sorted(set(totals))
    line = only(simulator)
    assert line.stream
    assert line.usage is not None
    assert used[-1] is not None
    assert line.usage["totalTokenCount"] == used[-1].total_token_count
    assert used[0] is not None
    assert used[0].candidates_token_count is None


def test_both_forms_of_a_stream_say_the_same(simulator: RunningSimulator) -> None:
    address = f"{simulator.origin}/v1beta/models/{LITE}:streamGenerateContent"
    body = {"contents": [{"parts": [{"text": "Both forms. [[sim:output=40 chunks=3]]"}]}]}
    headers = {"x-goog-api-key": simulator.credential}
    listed = httpx2.post(address, json=body, headers=headers)
    events = httpx2.post(address + "?alt=sse", json=body, headers=headers)
    assert listed.headers["content-type"] == "application/json; charset=UTF-8"
    chunks = [json.loads(event[6:]) for event in events.text.split("\r\n\r\n") if event]
    for chunk, other in zip(chunks, listed.json(), strict=True):
        assert chunk["candidates"] == other["candidates"]
        assert chunk["usageMetadata"] == other["usageMetadata"]


def test_caches_searches_images_and_long_prompts(simulator: RunningSimulator, client: genai.Client) -> None:
    long = [PARAGRAPH * 120, "And now?"]
    contents: Any = [types.Content(role="user", parts=[types.Part(text=text)]) for text in long]
    client.models.generate_content(model=LITE, contents=contents)
    reply = client.models.generate_content(model=LITE, contents=contents)
    used = reply.usage_metadata
    assert used is not None
    cached = used.cached_content_token_count
    assert cached and used.prompt_token_count
    generated = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
    assert simulator.books().lines[-1].cost == million(
        (used.prompt_token_count - cached, "0.25"), (cached, "0.025"), (generated, "1.50")
    )
    for model, rate, search in ((LITE, ("0.25", "1.50"), "0.042"), (PRO, ("1.25", "10"), "0.035")):
        config = types.GenerateContentConfig(tools=[SEARCH])
        reply = client.models.generate_content(model=model, contents="Find it. [[sim:web_search=3]]", config=config)
        used = reply.usage_metadata
        assert used is not None
        assert used.tool_use_prompt_token_count
        generated = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
        tokens = (used.prompt_token_count or 0) + used.tool_use_prompt_token_count
        cost = million((tokens, rate[0]), (generated, rate[1])) + Decimal(search)
        assert simulator.books().lines[-1].cost == cost
    reply = client.models.generate_content(model=PRO, contents=PARAGRAPH * 14_000)
    used = reply.usage_metadata
    assert used is not None
    assert (used.prompt_token_count or 0) > 200_000
    generated = (used.candidates_token_count or 0) + (used.thoughts_token_count or 0)
    assert simulator.books().lines[-1].cost == million((used.prompt_token_count, "2.50"), (generated, "15"))


def test_an_image_is_a_modality(client: genai.Client) -> None:
    picture = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    reply = client.models.generate_content(model=LITE, contents=["What is this?", picture])
    used = reply.usage_metadata
    assert used is not None
    assert used.prompt_tokens_details is not None
    modalities = {each.modality: each.token_count for each in used.prompt_tokens_details}
    assert modalities[types.MediaModality.IMAGE] == 258


def test_functions_are_called_when_ordered(client: genai.Client) -> None:
    function = types.FunctionDeclaration(
        name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}}
    )
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[function])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    reply = client.models.generate_content(model=LITE, contents="Where? [[sim:tool=2]]", config=config)
    assert reply.function_calls is not None
    assert [call.name for call in reply.function_calls] == ["weather", "weather"]


def test_counting_is_free_and_embedding_is_not(simulator: RunningSimulator, client: genai.Client) -> None:
    assert client.models.count_tokens(model=LITE, contents="How many?").total_tokens
    line = only(simulator)
    assert (line.operation, line.billed, line.cost_usd) == ("count_tokens", False, "0")
    lines: Any = [types.Content(parts=[types.Part(text=text)]) for text in ("a line", "another line")]
    reply = client.models.embed_content(model=EMBEDDING, contents=lines)
    assert reply.embeddings is not None
    assert len(reply.embeddings) == 2
    line = simulator.books().lines[-1]
    assert line.usage is not None
    assert line.cost == million((line.usage["promptTokenCount"], "0.20"))


def test_vertex_has_labels_traffic_types_and_numbers(simulator: RunningSimulator) -> None:
    credentials = Credentials(token=simulator.credential)  # type: ignore[no-untyped-call]
    with client_of(
        simulator, api_key=None, vertexai=True, project="p", location="global", credentials=credentials
    ) as client:
        config = types.GenerateContentConfig(labels={"team": "search"})
        reply = client.models.generate_content(model=LITE, contents="Hello", config=config)
        used = reply.usage_metadata
        assert used is not None
        assert used.traffic_type == types.TrafficType.ON_DEMAND
        with pytest.raises(errors.ClientError, match="Invalid label"):
            config = types.GenerateContentConfig(labels={"team": "Search!"})
            client.models.generate_content(model=LITE, contents="Hello", config=config)
    address = f"{simulator.origin}/v1/projects/p/locations/global/publishers/google/models/{LITE}:generateContent"
    body = {"contents": [{"parts": [{"text": "x"}]}]}
    headers = {"authorization": f"Bearer {simulator.credential}"}
    told = httpx2.post(address, params={"$alt": "json;enum-encoding=int"}, json=body, headers=headers).json()
    assert told["usageMetadata"]["trafficType"] == 1
    assert told["usageMetadata"]["promptTokensDetails"][0]["modality"] == 1
    assert told["candidates"][0]["finishReason"] == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"contents": [{"parts": [{"text": "x"}]}], "metadata": {"tags": ["a:b"]}}, "metadata"),
        ({"contents": []}, "contents"),
        ({"contents": [{"parts": [{"text": "x"}]}], "labels": {"a": "b"}}, "labels"),
        ({"contents": [{"parts": [{"text": "x"}]}], "serviceTier": "golden"}, "service_tier"),
        ({"contents": [{"parts": [{"text": "[[sim:web_search=1]]"}]}]}, "googleSearch"),
    ],
)
def test_what_google_does_not_take_is_refused(simulator: RunningSimulator, body: dict[str, Any], says: str) -> None:
    address = f"{simulator.origin}/v1beta/models/{LITE}:generateContent"
    told = httpx2.post(address, json=body, headers={"x-goog-api-key": simulator.credential})
    assert told.status_code == 400
    assert told.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert says in told.json()["error"]["message"]


def test_a_wrong_key_and_a_wrong_model(simulator: RunningSimulator, client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as refused, client_of(simulator, api_key="wrong") as stranger:
        stranger.models.generate_content(model=LITE, contents="x")
    assert refused.value.code == 401
    with pytest.raises(errors.ClientError) as refused:
        client.models.generate_content(model="gemini-0", contents="x")
    assert refused.value.code == 404


def test_an_interaction_whole_and_streamed(simulator: RunningSimulator, client: genai.Client) -> None:
    made: Any = client.interactions.create(model=LITE, input="What is owed? [[sim:output=80]]")
    line, used = only(simulator), made.usage
    assert used is not None
    assert (made.status, line.response_id, line.operation) == ("completed", made.id, "interactions")
    generated = (used.total_output_tokens or 0) + (used.total_thought_tokens or 0)
    assert generated == 80
    assert line.cost == million((used.total_input_tokens, "0.25"), (generated, "1.50"))
    stream: Any = client.interactions.create(model=LITE, input="Stream it. [[sim:output=40 chunks=4]]", stream=True)
    events = list(stream)
    kinds = [event.event_type for event in events]
    assert (kinds[0], kinds[-1]) == ("interaction.created", "interaction.completed")
    assert kinds.count("step.delta") == 5
    assert simulator.books().lines[-1].outcome == "complete"


def test_an_interaction_in_the_background_says_later_what_it_used(
    simulator: RunningSimulator, client: genai.Client
) -> None:
    begun: Any = client.interactions.create(model=LITE, input="Think long. [[sim:polls=1]]", background=True)
    assert (begun.status, begun.usage) == ("in_progress", None)
    assert only(simulator).billed
    under_way: Any = client.interactions.get(id=begun.id)
    assert under_way.status == "in_progress"
    done: Any = client.interactions.get(id=begun.id)
    assert done.status == "completed"
    assert done.usage is not None
    line = simulator.books().lines[0]
    assert line.usage is not None
    assert line.usage["total_tokens"] == done.usage.total_tokens
    client.interactions.delete(id=begun.id)
    address = f"{simulator.origin}/v1beta/interactions/{begun.id}"
    assert httpx2.get(address, headers={"x-goog-api-key": simulator.credential}).status_code == 404
    assert sum(each.billed for each in simulator.books()) == 1
