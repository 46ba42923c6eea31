"""Bedrock and Azure by their own SDKs, boto3 and openai's AzureOpenAI, through a served gateway."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from costbearer.simulator import RunningSimulator, running_simulator
from tests.system import Server, running_server
from tests.tls import tls_front

pytestmark = pytest.mark.slow

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}"
NOVA = "us.amazon.nova-lite-v1:0"


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    providers = "".join(
        f"""
[providers.{name}]
base_url = "{simulator.origin}"
api_key_file = "{directory / "provider-key"}"
"""
        for name in ("bedrock", "azure")
    )
    routes = """
[[routes]]
model = "support-chat"
upstreams = ["azure"]
[[routes]]
model = "*"
upstreams = ["bedrock"]
"""
    with running_server(directory, simulator, extra=providers + routes) as running:
        yield running


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[tuple[str, Path]]:
    """boto3 sends a bearer to https alone."""
    with tls_front(server.gateway_port, server.directory) as front:
        yield front


def client_for(address: tuple[str, Path]) -> Any:
    return boto3.Session().client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=address[0],
        verify=str(address[1]),
        config=Config(retries={"max_attempts": 1}),
    )


@pytest.fixture
def aws(server: Server, address: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", server.issue())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    client = client_for(address)
    yield client
    client.close()


@pytest.fixture
def azure(server: Server) -> Iterator[openai.AzureOpenAI]:
    with openai.AzureOpenAI(
        azure_endpoint=server.gateway_url, api_key=server.issue(), api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


def turns(mark: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"text": f"Tell me about the sea. [[sim:mark={mark}]]"}]}]


def claude(mark: str) -> bytes:
    said = {"role": "user", "content": f"Tell me about the sea. [[sim:mark={mark}]]"}
    return json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 60, "messages": [said]}).encode()


def settled(server: Server, simulator: RunningSimulator, mark: str) -> dict[str, Any]:
    """The posted entry of the one call with this mark, after comparing it with the provider's books."""
    (line,) = simulator.books().where(mark=mark)
    end = time.monotonic() + 15
    while True:
        found: list[dict[str, Any]] = [
            entry for entry in server.entries() if entry["provider_request_id"] == line.request_id
        ]
        if found:
            assert Decimal(found[0]["cost_usd"]) == line.cost > 0
            assert found[0]["basis"] == "metered"
            return found[0]
        assert time.monotonic() < end, f"no entry for {mark}"
        time.sleep(0.1)


@pytest.mark.parametrize("model", [SONNET, ARN, NOVA])
def test_converse(aws: Any, server: Server, simulator: RunningSimulator, model: str) -> None:
    mark = f"converse-{model[:8]}"
    answer = aws.converse(modelId=model, messages=turns(mark), inferenceConfig={"maxTokens": 60})
    entry = settled(server, simulator, mark)
    assert answer["output"]["message"]["content"][0]["text"]
    assert answer["usage"]["outputTokens"] == entry["usage"]["output_tokens"]
    assert Decimal(answer["ResponseMetadata"]["HTTPHeaders"]["x-costbearer-cost-usd"]) == Decimal(entry["cost_usd"])
    assert answer["ResponseMetadata"]["RequestId"] == entry["provider_request_id"]


@pytest.mark.parametrize("model", [SONNET, ARN])
def test_converse_stream(aws: Any, server: Server, simulator: RunningSimulator, model: str) -> None:
    mark = f"converse-stream-{model[:8]}"
    answer = aws.converse_stream(modelId=model, messages=turns(mark), inferenceConfig={"maxTokens": 60})
    with contextlib.closing(answer["stream"]) as stream:
        events = list(stream)
    assert "".join(event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event)
    entry = settled(server, simulator, mark)
    assert events[-1]["metadata"]["usage"]["outputTokens"] == entry["usage"]["output_tokens"]


def test_invoke_model(aws: Any, server: Server, simulator: RunningSimulator) -> None:
    answer = aws.invoke_model(modelId=SONNET, body=claude("invoke"), requestMetadata='{"team":"pretended"}')
    with contextlib.closing(answer["body"]) as answered:
        used = json.loads(answered.read())["usage"]
    entry = settled(server, simulator, "invoke")
    assert used["output_tokens"] == entry["usage"]["output_tokens"]
    assert entry["team"] == "search"


def test_invoke_model_with_response_stream(aws: Any, server: Server, simulator: RunningSimulator) -> None:
    answer = aws.invoke_model_with_response_stream(modelId=SONNET, body=claude("invoke-stream"))
    with contextlib.closing(answer["body"]) as stream:
        events = [json.loads(event["chunk"]["bytes"]) for event in stream]
    entry = settled(server, simulator, "invoke-stream")
    meter = events[-1]["amazon-bedrock-invocationMetrics"]
    assert meter["outputTokenCount"] == entry["usage"]["output_tokens"]


def test_count_tokens_is_free(aws: Any, server: Server, simulator: RunningSimulator) -> None:
    counted = aws.count_tokens(modelId=SONNET, input={"converse": {"messages": turns("count")}})
    assert counted["inputTokens"] > 0
    (line,) = simulator.books().where(mark="count")
    assert not line.billed


def test_errors_of_ours_are_errors_of_boto3(address: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "cbk_wrong")
    client = client_for(address)
    with pytest.raises(ClientError) as refused:
        client.converse(modelId=SONNET, messages=turns("x"))
    client.close()
    assert refused.value.response["Error"]["Code"] == "key_invalid"
    assert refused.value.response["Error"]["Message"]
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401


def test_errors_in_a_stream_are_errors_of_boto3(aws: Any, simulator: RunningSimulator) -> None:
    broken = [{"role": "user", "content": [{"text": "Tell me. [[sim:output=40 chunks=9 reset_after=1500]]"}]}]
    stream = aws.converse_stream(modelId=SONNET, messages=broken)["stream"]
    with contextlib.closing(stream), pytest.raises(EventStreamError) as caught:
        list(stream)
    assert caught.value.response["Error"]["Code"] == "upstream_failed"


@pytest.mark.parametrize("stream", [False, True])
def test_azure(azure: openai.AzureOpenAI, server: Server, simulator: RunningSimulator, stream: bool) -> None:
    mark = f"azure-{stream}"
    said: Any = [{"role": "user", "content": f"Tell me about the sea. [[sim:mark={mark}]]"}]
    if stream:
        chunks = list(azure.chat.completions.create(model="support-chat", messages=said, max_tokens=60, stream=True))
        assert not chunks[0].choices, "what Azure's filter says of the prompt"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[1:])
    else:
        assert azure.chat.completions.create(model="support-chat", messages=said, max_tokens=60).usage
    entry = settled(server, simulator, mark)
    assert (entry["request_model"], entry["response_model"]) == ("support-chat", "gpt-4o-mini-2024-07-18")


def test_an_openai_caller_reaches_azure(server: Server, simulator: RunningSimulator) -> None:
    said: Any = [{"role": "user", "content": "Tell me about the sea. [[sim:mark=openai-to-azure]]"}]
    with openai.OpenAI(base_url=f"{server.gateway_url}/v1", api_key=server.issue(), max_retries=0) as client:
        assert client.chat.completions.create(model="support-chat", messages=said, max_tokens=60).usage
    assert settled(server, simulator, "openai-to-azure")["provider"] == "azure"


def test_errors_of_ours_are_errors_of_azures_sdk(server: Server) -> None:
    with (
        openai.AzureOpenAI(
            azure_endpoint=server.gateway_url, api_key="cbk_wrong", api_version="2024-10-21", max_retries=0
        ) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model="support-chat", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "key_invalid"
