"""Models at the clouds, by the clouds' own packages: google-genai, boto3, and OpenAI's for Azure."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from costbearer.demo.stage import Stage

FLASH, GEMINI_PRO, EMBEDDING = "gemini-3.1-flash-lite", "gemini-2.5-pro", "gemini-embedding-2"
SONNET, NOVA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.amazon.nova-lite-v1:0"
DEPLOYMENT = "support-chat"
API_VERSION = "2024-10-21"


def scout(running: Stage, key: str) -> int:
    """Gemini: whole, streamed, grounded in searches, and embeddings."""
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=running.gateway_url)
    searching = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())])
    with genai.Client(http_options=options, api_key=key) as client:
        client.models.generate_content(model=GEMINI_PRO, contents="Think about sandals.")
        for _chunk in client.models.generate_content_stream(model=FLASH, contents="Tell me about boots."):
            pass
        grounded = "Where are they sold? [[sim:web_search=2]]"
        client.models.generate_content(model=FLASH, contents=grounded, config=searching)
        # These replies carry no id of the call, so that both sides are told one.
        marked = types.EmbedContentConfig(
            http_options=types.HttpOptions(headers={"x-costbearer-tags": "mark:demo-index"})
        )
        client.models.embed_content(
            model=EMBEDDING, contents="Sandals and boots. [[sim:mark=demo-index]]", config=marked
        )
    return 4


def plan(running: Stage, key: str) -> int:
    """Vertex AI, which puts our verified labels into its own bills."""
    from google import genai
    from google.genai import types
    from google.oauth2.credentials import Credentials

    credentials = Credentials(token=key)  # type: ignore[no-untyped-call]
    options = types.HttpOptions(base_url=running.gateway_url)
    with genai.Client(
        http_options=options, vertexai=True, project="demo", location="global", credentials=credentials
    ) as client:
        client.models.generate_content(model=FLASH, contents="Plan the autumn campaign.")
    return 1


def claims(running: Stage, key: str) -> int:
    """Bedrock: both APIs, streamed and not; the virtual key is the Bedrock API key."""
    said: Any = [{"role": "user", "content": [{"text": "Is this claim covered?"}]}]
    native = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 80,
        "messages": [{"role": "user", "content": "Is that claim covered?"}],
    }
    with contextlib.closing(_bedrock(running, key)) as client:
        for model in (SONNET, NOVA):
            client.converse(modelId=model, messages=said, inferenceConfig={"maxTokens": 80})
        streamed = client.converse_stream(modelId=SONNET, messages=said, inferenceConfig={"maxTokens": 80})
        with contextlib.closing(streamed["stream"]) as events:
            list(events)
        answer = client.invoke_model(modelId=SONNET, body=json.dumps(native))
        with contextlib.closing(answer["body"]) as body:
            body.read()
        streamed = client.invoke_model_with_response_stream(modelId=SONNET, body=json.dumps(native))
        with contextlib.closing(streamed["body"]) as events:
            list(events)
    return 5


def _bedrock(running: Stage, key: str) -> Any:
    """A client that sends the key as `AWS_BEARER_TOKEN_BEDROCK` makes it do, without touching the environment."""
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.tokens import FrozenAuthToken

    class Bearer(botocore.session.Session):  # type: ignore[misc]
        def get_auth_token(self, **_: Any) -> FrozenAuthToken:
            return FrozenAuthToken(key)

    session = boto3.Session(botocore_session=Bearer(), region_name="us-east-1")
    return session.client(
        "bedrock-runtime",
        endpoint_url=running.https_url,
        verify=str(running.authority),
        config=Config(retries={"max_attempts": 1}, signature_version="bearer"),
    )


def helpdesk(running: Stage, key: str) -> int:
    """Azure OpenAI: the deployment's name says nothing of its model, the reply does."""
    import openai

    with openai.AzureOpenAI(
        azure_endpoint=running.gateway_url, api_key=key, api_version=API_VERSION, max_retries=0
    ) as client:
        said: Any = [{"role": "user", "content": "My parcel is late."}]
        client.chat.completions.create(model=DEPLOYMENT, messages=said, max_tokens=60)
        for _chunk in client.chat.completions.create(model=DEPLOYMENT, messages=said, max_tokens=60, stream=True):
            pass
    return 2
