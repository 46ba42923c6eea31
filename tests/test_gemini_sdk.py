"""Google's own SDK through the served gateway: what the ledger says each call cost is what the provider billed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator
from tests.system import Server, running_server

pytestmark = pytest.mark.slow

LITE, PRO, EMBEDDING = "gemini-3.1-flash-lite", "gemini-2.5-pro", "gemini-embedding-2"
PARAGRAPH = "A ledger that cannot be recomputed is an opinion; one that can is a proof. "
HELLO = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator(keep_bodies=True) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    (directory / "google-key").write_text(CREDENTIAL)
    google = f"""
[providers.google]
dialect = "gemini"
base_url = "{simulator.origin}"
api_key_file = "{directory / "google-key"}"
"""
    with running_server(directory, simulator, workers=1, extra=google) as running:
        yield running


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.issue()


def client_of(server: Server, key: str, mark: str, **more: Any) -> genai.Client:
    options = types.HttpOptions(base_url=server.gateway_url, headers={"x-costbearer-tags": f"mark:{mark}"})
    return genai.Client(http_options=options, **({"api_key": key} | more))


def posted(server: Server, mark: str) -> dict[str, Any]:
    """The one entry with this mark, once the bookkeeper has posted it."""
    end = time.monotonic() + 15
    while True:
        found: list[dict[str, Any]] = server.api("GET", "/api/v1/entries", params={"tag:mark": mark})["entries"]
        if found or time.monotonic() > end:
            (entry,) = found
            return entry
        time.sleep(0.1)


def check(server: Server, simulator: RunningSimulator, mark: str) -> dict[str, Any]:
    """The entry of this mark, after comparing it with the provider's books."""
    entry = posted(server, mark)
    (line,) = simulator.books().where(mark=mark)
    assert Decimal(entry["cost_usd"]) == line.cost
    assert line.cost > 0
    assert (entry["basis"], entry["status"], entry["provider"]) == ("metered", "ok", "google")
    assert entry["response_model"] in (line.model, None)
    assert line.saw == ()
    assert line.usage is not None
    stated = line.usage
    usage = entry["usage"]
    assert usage["input_tokens"] == stated["promptTokenCount"] + stated.get("toolUsePromptTokenCount", 0)
    return entry


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "model", "order", "tools"),
    [
        ("plain", LITE, "output=90", []),
        ("thoughtful", PRO, "output=200", []),
        ("cached", LITE, "output=30 cached=20", []),
        ("grounded", LITE, "output=40 web_search=3", [types.Tool(google_search=types.GoogleSearch())]),
        ("grounded2", PRO, "output=40 web_search=3", [types.Tool(google_search=types.GoogleSearch())]),
    ],
)
def test_content(
    server: Server,
    simulator: RunningSimulator,
    key: str,
    stream: bool,
    name: str,
    model: str,
    order: str,
    tools: list[Any],
) -> None:
    mark = f"{name}-{stream}".lower()
    prompt = f"{PARAGRAPH * 3}[[sim:mark={mark} {order}]]"
    config = types.GenerateContentConfig(tools=tools, max_output_tokens=500)
    with client_of(server, key, mark) as client:
        if stream:
            chunks = list(client.models.generate_content_stream(model=model, contents=prompt, config=config))
            assert "".join(chunk.text or "" for chunk in chunks)
            response_id = chunks[-1].response_id
        else:
            reply = client.models.generate_content(model=model, contents=prompt, config=config)
            response_id = reply.response_id
            assert reply.sdk_http_response is not None
            assert reply.sdk_http_response.headers is not None
            assert "x-costbearer-cost-usd" in reply.sdk_http_response.headers
    entry = check(server, simulator, mark)
    assert (entry["operation"], entry["stream"], entry["request_model"]) == ("chat", stream, model)
    assert entry["provider_response_id"] == response_id
    meters = {charge["meter"] for charge in entry["charges"]}
    assert ("web_search" in meters) is bool(tools)
    assert ("cache_read_input" in meters) is (name == "cached")


def test_a_long_prompt_pays_the_long_context_price(server: Server, simulator: RunningSimulator, key: str) -> None:
    with client_of(server, key, "long") as client:
        client.models.generate_content(model=PRO, contents=PARAGRAPH * 14_000 + "[[sim:mark=long output=20]]")
    entry = check(server, simulator, "long")
    assert {charge["unit_price_usd"] for charge in entry["charges"]} == {"0.000002500000", "0.000015000000"}


def test_counting_tokens_is_free(server: Server, key: str) -> None:
    with client_of(server, key, "count") as client:
        assert client.models.count_tokens(model=LITE, contents="How many?").total_tokens
    entry = posted(server, "count")
    assert (entry["operation"], entry["cost_usd"], entry["basis"]) == ("count_tokens", "0.000000000000", "metered")


def test_embeddings(server: Server, simulator: RunningSimulator, key: str) -> None:
    lines: Any = [types.Content(parts=[types.Part(text=f"{text} [[sim:mark=embed]]")]) for text in ("one", "another")]
    with client_of(server, key, "embed") as client:
        reply = client.models.embed_content(model=EMBEDDING, contents=lines)
    assert reply.embeddings is not None
    assert len(reply.embeddings) == 2
    assert check(server, simulator, "embed")["operation"] == "embeddings"


@pytest.mark.parametrize("stream", [False, True])
def test_interactions(server: Server, simulator: RunningSimulator, key: str, stream: bool) -> None:
    mark = f"interaction-{stream}".lower()
    prompt = f"Interact. [[sim:mark={mark} output=70 web_search=2]]"
    tools: Any = [{"type": "google_search"}]
    with client_of(server, key, mark) as client:
        made: Any = client.interactions.create(model=LITE, input=prompt, tools=tools, stream=stream)
        if stream:
            made = next(event.interaction for event in made if event.event_type == "interaction.completed")
    assert made.usage.total_tokens
    entry = posted(server, mark)
    (line,) = simulator.books().where(mark=mark)
    assert Decimal(entry["cost_usd"]) == line.cost
    assert (entry["basis"], entry["operation"], entry["provider_response_id"]) == ("metered", "interactions", made.id)
    assert {charge["meter"]: charge["quantity"] for charge in entry["charges"]}["web_search"] == 2
    assert line.saw == ()


def test_retrieving_an_interaction_is_free(server: Server, simulator: RunningSimulator, key: str) -> None:
    with client_of(server, key, "kept") as client:
        made: Any = client.interactions.create(model=LITE, input="Keep it. [[sim:mark=kept]]")
    with client_of(server, key, "looked") as client:
        found: Any = client.interactions.get(id=made.id)
    assert found.usage.total_tokens == made.usage.total_tokens
    entry = posted(server, "looked")
    assert (entry["operation"], entry["cost_usd"]) == ("interactions.retrieve", "0.000000000000")
    assert simulator.books().total(mark="kept") == Decimal(posted(server, "kept")["cost_usd"])


def test_vertex_keeps_the_verified_labels(server: Server, simulator: RunningSimulator, key: str) -> None:
    credentials = Credentials(token=key)  # type: ignore[no-untyped-call]
    with client_of(
        server, key, "vertex", api_key=None, vertexai=True, project="p", location="global", credentials=credentials
    ) as client:
        config = types.GenerateContentConfig(labels={"mine": "kept"})
        client.models.generate_content(model=LITE, contents="Hello [[sim:mark=vertex]]", config=config)
    entry = check(server, simulator, "vertex")
    assert (entry["tier"], entry["region"]) == ("ON_DEMAND", "global")
    (line,) = simulator.books().where(mark="vertex")
    assert line.body is not None
    labels = json.loads(line.body)["labels"]
    assert labels["mine"] == "kept"
    assert labels["costbearer_owner"] == "ada_byron"
    assert (labels["costbearer_team"], labels["costbearer_workload"]) == ("search", "rerank")


def test_a_stream_without_events_is_one_array_and_metered(
    server: Server, simulator: RunningSimulator, key: str
) -> None:
    body = {
        "contents": [{"role": "user", "parts": [{"text": "Array. [[sim:mark=array output=60 chunks=6]]"}]}],
        "metadata": {"tags": ["mark:array"]},
    }
    address = f"{server.gateway_url}/v1beta/models/{LITE}:streamGenerateContent"
    with httpx2.stream("POST", address, json=body, headers={"x-goog-api-key": key}) as reply:
        assert reply.headers["content-type"] == "application/json"
        chunks = json.loads(b"".join(reply.iter_raw()))
    assert len(chunks) >= 6
    entry = check(server, simulator, "array")
    assert (entry["stream"], entry["usage"]["output_tokens"]) == (True, 60)


def test_a_key_in_the_query_is_no_credential_and_never_reaches_the_provider(
    server: Server, simulator: RunningSimulator, key: str
) -> None:
    address = f"{server.gateway_url}/v1beta/models/{LITE}:generateContent"
    refused = httpx2.post(address, params={"key": key}, json=HELLO)
    assert refused.status_code == 401
    assert refused.json()["error"]["details"][0]["reason"] == "key_missing"
    told = httpx2.post(address, params={"key": "AIzaFAKE"}, json=HELLO, headers={"x-goog-api-key": key})
    assert told.status_code == 200, "the simulator would have seen two keys"
    assert simulator.books().lines[-1].saw == ()


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_is_estimated(server: Server, simulator: RunningSimulator, key: str, stream: bool) -> None:
    mark = f"cut-{stream}".lower()
    prompt = f"Cut. [[sim:mark={mark} output=80 chunks=8 close_after={900 if stream else 200}]]"
    with client_of(server, key, mark) as client, pytest.raises((errors.APIError, httpx2.HTTPError)):
        if stream:
            list(client.models.generate_content_stream(model=LITE, contents=prompt))
        else:
            client.models.generate_content(model=LITE, contents=prompt)
    entry = posted(server, mark)
    assert entry["basis"] == ("estimated" if stream else "unknown")
    assert (entry["cost_usd"] is not None) is stream
    assert entry["bound_usd"] is not None


def test_errors_are_the_providers_or_have_our_code(server: Server, simulator: RunningSimulator, key: str) -> None:
    with client_of(server, "cbk_wrong", "wrong") as stranger, pytest.raises(errors.ClientError) as refused:
        stranger.models.generate_content(model=LITE, contents="x")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    details: Any = refused.value.details
    assert details["error"]["details"][0]["reason"] == "key_invalid"
    with client_of(server, key, "refused") as client:
        with pytest.raises(errors.ClientError) as told:
            client.models.generate_content(model=LITE, contents="[[sim:mark=refused status=400]]")
        assert told.value.status == "INVALID_ARGUMENT"
        with pytest.raises(errors.ClientError) as unmetered:
            client.caches.list()
    assert posted(server, "refused")["cost_usd"] == "0.000000000000"
    details = unmetered.value.details
    assert details["error"]["details"][0]["reason"] == "endpoint_not_metered"


def test_everything_that_was_billed_is_in_the_ledger(server: Server, simulator: RunningSimulator, key: str) -> None:
    """Whatever is known of a reply adds up to what its line in the books says; retrievals add nothing."""
    for number in range(3):
        mark = f"summed-{number}"
        with client_of(server, key, mark) as client:
            made: Any = client.interactions.create(model=LITE, input=f"Add up. [[sim:mark={mark}]]")
        with client_of(server, key, f"looked-up-{number}") as client:
            client.interactions.get(id=made.id)
        posted(server, mark)
        posted(server, f"looked-up-{number}")
    billed = {line.response_id: line.cost for line in simulator.books() if line.billed}
    costs: dict[str, Decimal] = {}
    for entry in server.entries():
        if entry["basis"] == "metered" and entry["provider_response_id"]:
            known = costs.get(entry["provider_response_id"], Decimal(0))
            costs[entry["provider_response_id"]] = known + Decimal(entry["cost_usd"])
    assert len(costs) >= 3
    assert costs == {response_id: billed[response_id] for response_id in costs}
