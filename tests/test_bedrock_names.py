"""What a Bedrock model id says, in all its forms."""

from __future__ import annotations

import pytest

from costbearer.dialects.bedrock_names import asked, is_prompt, named, path
from costbearer.errors import BodyInvalid

ARN = "arn:aws:bedrock:eu-west-1:123456789012:"


@pytest.mark.parametrize(
    ("model_id", "model", "tier"),
    [
        ("anthropic.claude-3-haiku-20240307-v1:0", "anthropic.claude-3-haiku-20240307-v1:0", None),
        ("us.anthropic.claude-opus-4-8-v1:0", "us.anthropic.claude-opus-4-8-v1:0", None),
        ("global.anthropic.claude-opus-5", "global.anthropic.claude-opus-5", None),
        (f"{ARN}inference-profile/eu.amazon.nova-pro-v1:0", "eu.amazon.nova-pro-v1:0", None),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", None),
        ("arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/us-gov.x.y", "us-gov.x.y", None),
        (f"{ARN}application-inference-profile/a1b2c3", f"{ARN}application-inference-profile/a1b2c3", None),
        (f"{ARN}provisioned-model/a1b2c3", f"{ARN}provisioned-model/a1b2c3", "provisioned"),
        (f"{ARN}imported-model/a1b2c3", f"{ARN}imported-model/a1b2c3", None),
        (f"{ARN}default-prompt-router/anthropic.claude:1", f"{ARN}default-prompt-router/anthropic.claude:1", None),
        (f"{ARN}prompt/PROMPT12345:1", f"{ARN}prompt/PROMPT12345:1", None),
        ("arn:of nothing", "arn:of nothing", None),
    ],
)
def test_the_model_and_the_tier(model_id: str, model: str, tier: str | None) -> None:
    assert asked(model_id) == named(model_id) == (model, tier)


@pytest.mark.parametrize("model_id", ["", "  ", "x" * 257, "a\nb"])
def test_what_cannot_be_a_name(model_id: str) -> None:
    with pytest.raises(BodyInvalid, match="model id"):
        asked(model_id)


def test_a_stored_prompt_is_one() -> None:
    assert is_prompt(f"{ARN}prompt/PROMPT12345:1")
    assert not is_prompt(f"{ARN}provisioned-model/prompt")
    assert not is_prompt("amazon.nova-lite-v1:0")


def test_paths_are_escaped_as_awss_own() -> None:
    assert path("us.amazon.nova-lite-v1:0", "converse") == "/model/us.amazon.nova-lite-v1%3A0/converse"
    assert path(f"{ARN}provisioned-model/x", "invoke") == (
        "/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Aprovisioned-model%2Fx/invoke"
    )
