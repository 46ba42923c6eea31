"""What a Bedrock model id says: `us.anthropic.claude-...`, or the ARN of a model, a profile, a commitment. Pure.

Forms: https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html and the parameter `modelId`
of https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

from costbearer.dialects.body import MODEL_LENGTH_MAX
from costbearer.errors import BodyInvalid

PROVISIONED = "provisioned"
"""The tier of a call to capacity that is paid by the hour; its tokens have no price of their own."""

_ARN = re.compile(r"arn:aws[a-z-]*:[a-z-]+:[a-z0-9-]*:[0-9]*:([a-z-]+)/(.+)")
_NAMED = frozenset({"foundation-model", "inference-profile"})
"""ARNs whose last part is the model's own id. All others (application inference profiles, provisioned, imported and
custom models, prompts, prompt routers) hide which model it is."""


class Named(NamedTuple):
    """What a model id says.

    `model` is the id under which the model has a price: without the ARN around it, but with the prefix of an inference
    profile, because `global.` and `us.` are different prices of the same model. An ARN that hides its model is kept
    whole. `tier` is `provisioned` where the id alone says that capacity was bought.
    """

    model: str
    tier: str | None = None


def named(model_id: str) -> Named:
    """Read a model id; one of no known form means itself."""
    if not model_id.startswith("arn:"):
        return Named(model_id)
    match = _ARN.fullmatch(model_id)
    if match is None:
        return Named(model_id)
    kind, name = match[1], match[2]
    if kind in _NAMED:
        return Named(name)
    return Named(model_id, PROVISIONED if kind == "provisioned-model" else None)


def is_prompt(model_id: str) -> bool:
    """Is it a stored prompt, whose text is in no request?"""
    match = _ARN.fullmatch(model_id)
    return match is not None and match[1] == "prompt"


def asked(model_id: str) -> Named:
    """The model of a request's path.

    Raises:
        BodyInvalid: it cannot be a model's name.
    """
    if not model_id.strip() or len(model_id) > MODEL_LENGTH_MAX or not model_id.isprintable():
        raise BodyInvalid(f"the model id in the path must be 1 to {MODEL_LENGTH_MAX} printable characters")
    return named(model_id)


def path(model_id: str, action: str) -> str:
    """The path of an action on a model, escaped as AWS's own SDKs do it."""
    return f"/model/{quote(model_id, safe='')}/{action}"
