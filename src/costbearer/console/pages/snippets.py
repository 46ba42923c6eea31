"""Ready lines for whoever gets a key: every official SDK, curl and the environment, with this gateway's address."""

from __future__ import annotations

from typing import NamedTuple


class Snippet(NamedTuple):
    """`name` is an id for the page, `title` what it is for."""

    name: str
    title: str
    text: str


def snippets(url: str) -> tuple[Snippet, ...]:
    """The lines for a gateway at `url`. The key itself is taken from the environment, never written into a file."""
    python = "import os\n"
    return (
        Snippet(
            "environment",
            "Environment",
            "export COSTBEARER_KEY='paste the key here'\n"
            f'export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY="$COSTBEARER_KEY"\n'
            f'export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY="$COSTBEARER_KEY"\n'
            f'export GOOGLE_GEMINI_BASE_URL={url} GEMINI_API_KEY="$COSTBEARER_KEY"',
        ),
        Snippet(
            "curl",
            "curl",
            f'curl -sS {url}/v1/chat/completions -H "Authorization: Bearer $COSTBEARER_KEY" \\\n'
            '  -H "Content-Type: application/json" \\\n'
            '  -d \'{"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "Hello"}]}\'',
        ),
        Snippet(
            "openai",
            "OpenAI SDK",
            f"{python}from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{url}/v1", api_key=os.environ["COSTBEARER_KEY"])\n'
            "answer = client.chat.completions.create(\n"
            '    model="gpt-4.1-mini", messages=[{"role": "user", "content": "Hello"}]\n)',
        ),
        Snippet(
            "anthropic",
            "Anthropic SDK",
            f"{python}from anthropic import Anthropic\n\n"
            f'client = Anthropic(base_url="{url}", api_key=os.environ["COSTBEARER_KEY"])\n'
            "answer = client.messages.create(\n"
            '    model="claude-haiku-4-5", max_tokens=100, messages=[{"role": "user", "content": "Hello"}]\n)',
        ),
        Snippet(
            "gemini",
            "Gemini SDK",
            f"{python}from google import genai\n\n"
            f'client = genai.Client(api_key=os.environ["COSTBEARER_KEY"], http_options={{"base_url": "{url}"}})\n'
            'answer = client.models.generate_content(model="gemini-2.5-flash", contents="Hello")',
        ),
        Snippet(
            "bedrock",
            "Bedrock (boto3)",
            f"{python}import boto3\n\n"
            "# boto3 sends a bearer to HTTPS alone: the gateway needs gateway.tls_certificate and gateway.tls_key.\n"
            'os.environ["AWS_BEARER_TOKEN_BEDROCK"] = os.environ["COSTBEARER_KEY"]\n'
            f'client = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url="{url}")\n'
            "answer = client.converse(\n"
            '    modelId="anthropic.claude-haiku-4-5-20251001-v1:0",\n'
            '    messages=[{"role": "user", "content": [{"text": "Hello"}]}],\n)',
        ),
    )
