"""Names that hide their model: what the configuration says of them, and what becomes of a reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from costbearer.config import Config, load
from costbearer.dialects.base import Reading
from costbearer.dialects.deployments import SPILLED_OVER, Deployment, as_deployed
from costbearer.errors import ConfigInvalid
from costbearer.usage import Usage, Work

USED = Usage(input_tokens=3, output_tokens=2)


def part(model: str) -> Work:
    return Work(model=model, usage=USED)


@pytest.mark.parametrize(
    ("reading", "deployment", "expected"),
    [
        (
            Reading(work=(part("gpt-4o"),), response_model="gpt-4o"),
            Deployment("gpt-4o-2024-08-06"),
            Reading(work=(part("gpt-4o-2024-08-06"),), response_model="gpt-4o"),
        ),
        (
            Reading(work=(part("m"),), tier="default"),
            Deployment("m", "provisioned", "datazonestandard"),
            Reading(work=(part("m"),), tier="provisioned", geo="datazonestandard"),
        ),
        (
            Reading(work=(part("m"),), tier="default", notes=(SPILLED_OVER,)),
            Deployment("m", "provisioned"),
            Reading(work=(part("m"),), tier="default", notes=(SPILLED_OVER,)),
        ),
        (
            Reading(work=(part("a"), part("adviser")), response_model="a"),
            Deployment("m"),
            Reading(work=(part("m"), part("adviser")), response_model="a"),
        ),
        (Reading(), Deployment("m"), Reading()),
    ],
)
def test_a_reading_is_priced_as_the_configuration_says(
    reading: Reading, deployment: Deployment, expected: Reading
) -> None:
    assert as_deployed(reading, deployment) == expected


def configured(directory: Path, text: str) -> Config:
    file = directory / "costbearer.toml"
    file.write_text(f'[providers.azure]\nbase_url = "https://x.openai.azure.com"\n{text}\n')
    return load(file, environ={"AZURE_OPENAI_API_KEY": "fake-key"})


def test_deployments_are_configured(tmp_path: Path) -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1"
    text = f'[providers.azure.deployments]\nprod = "gpt-4o"\n"{arn}" = {{ model = "m", tier = "provisioned" }}'
    assert configured(tmp_path, text).providers["azure"].deployments == {
        "prod": Deployment("gpt-4o"),
        arn: Deployment("m", "provisioned"),
    }
    assert configured(tmp_path, "").providers["azure"].deployments == {}


@pytest.mark.parametrize(
    "text",
    [
        'deployments = "prod"',
        "deployments = { prod = 3 }",
        'deployments = { prod = "" }',
        'deployments = { prod = { tier = "provisioned" } }',
        'deployments = { prod = { model = "m", sku = "x" } }',
        'deployments = { prod = { model = "m", geo = 1 } }',
    ],
)
def test_deployments_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="deployment"):
        configured(tmp_path, text)
