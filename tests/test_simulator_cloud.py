"""The simulated Bedrock and Azure by themselves: addresses, refusals, and books for what they serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from botocore.eventstream import EventStreamBuffer

from costbearer.simulator import CREDENTIAL, RunningSimulator, running_simulator

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SAID = {"messages": [{"role": "user", "content": [{"text": "Tell me about the sea."}]}]}
CHAT = "/openai/deployments/support-chat/chat/completions?api-version=2024-10-21"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningSimulator]:
    with running_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running: RunningSimulator) -> RunningSimulator:
    running.reset()
    return running


def post(simulator: RunningSimulator, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx2.Response:
    credential = {"authorization": f"Bearer {CREDENTIAL}"} if headers is None else headers
    return httpx2.post(simulator.origin + path, content=json.dumps(body), headers=credential)


def test_a_converse_bill(simulator: RunningSimulator) -> None:
    usage = post(simulator, f"/model/{SONNET}/converse", SAID).json()["usage"]
    (line,) = simulator.books()
    assert (line.provider, line.operation, line.request_model, line.billed) == ("bedrock", "converse", SONNET, True)
    million = Decimal(10) ** -6
    assert line.cost == (usage["inputTokens"] * Decimal("3.3") + usage["outputTokens"] * Decimal("16.5")) * million


def test_a_stream_has_the_answer_of_the_whole(simulator: RunningSimulator) -> None:
    whole = post(simulator, f"/model/{SONNET}/converse", SAID).json()
    buffer = EventStreamBuffer()
    buffer.add_data(post(simulator, f"/model/{SONNET}/converse-stream", SAID).content)
    events = [(event.headers[":event-type"], json.loads(event.payload)) for event in buffer]
    text = "".join(event["delta"]["text"] for name, event in events if name == "contentBlockDelta")
    assert text == whole["output"]["message"]["content"][0]["text"]
    assert events[-1][0] == "metadata"
    assert events[-1][1]["usage"] == whole["usage"]
    one, two = simulator.books()
    assert (one.cost, one.stream, two.stream) == (two.cost, False, True)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/model/no.such/converse", SAID, 400, "ValidationException"),
        (f"/model/{SONNET}/converse", {"messages": []}, 400, "ValidationException"),
        (f"/model/{SONNET}/converse", {**SAID, "inferenceConfig": {"maxTokens": "x"}}, 400, "ValidationException"),
        (f"/model/{SONNET}/converse", {**SAID, "requestMetadata": {f"k{n}": "" for n in range(17)}}, 400, "Validation"),
        (f"/model/{SONNET}/invoke", {"anthropic_version": "x", "messages": [], "max_tokens": 1}, 400, "Validation"),
        (
            f"/model/{SONNET}/invoke",
            {"anthropic_version": "x", "messages": [{}], "max_tokens": 1, "metadata": {"tags": []}},
            400,
            "ValidationException",
        ),
    ],
)
def test_what_bedrock_refuses(simulator: RunningSimulator, path: str, body: Any, status: int, kind: str) -> None:
    answer = post(simulator, path, body)
    assert (answer.status_code, answer.headers["x-amzn-errortype"].startswith(kind)) == (status, True)
    assert answer.json()["message"]
    assert simulator.books().total() == 0


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer x"}, {"authorization": "AWS4-HMAC-SHA256 x"}])
def test_bedrock_asks_for_its_credential(simulator: RunningSimulator, headers: dict[str, str]) -> None:
    assert post(simulator, f"/model/{SONNET}/converse", SAID, headers).status_code == 403


SAYS: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (CHAT.partition("?")[0], SAYS, 404, "404"),
        (CHAT.replace("support-chat", "nobody"), SAYS, 404, "DeploymentNotFound"),
        ("/openai/v1/chat/completions", SAYS, 404, "DeploymentNotFound"),
        (CHAT, {**SAYS, "messages": [{"role": "user", "content": "[[sim:status=400]]"}]}, 400, "content_filter"),
        (
            CHAT.replace("2024-10-21", "2024-02-01"),
            {**SAYS, "stream": True, "stream_options": {"include_usage": True}},
            400,
            None,
        ),
    ],
)
def test_what_azure_refuses(simulator: RunningSimulator, path: str, body: Any, status: int, code: str | None) -> None:
    answer = post(simulator, path, body, {"api-key": CREDENTIAL})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert simulator.books().total() == 0


def test_azure_asks_for_its_credential(simulator: RunningSimulator) -> None:
    assert post(simulator, CHAT, SAYS, {"api-key": "x"}).status_code == 401


def test_azure_serves_a_deployments_model(simulator: RunningSimulator) -> None:
    answer = post(simulator, CHAT, SAYS, {"api-key": CREDENTIAL})
    assert answer.json()["model"] == "gpt-4o-mini-2024-07-18"
    assert answer.json()["prompt_filter_results"]
    assert answer.headers["x-ms-deployment-name"] == "support-chat"
    (line,) = simulator.books()
    assert (line.provider, line.billed) == ("azure", True)
    assert line.request_id == answer.headers["apim-request-id"]
