"""How a call was served, in the words of price lists: which of a model's prices holds for it depends on that."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

MODEL_NAME_CHARS_MAX = 256
"""No provider names a model longer; a longer name is not matched at all, so that a caller cannot make matching slow."""


class Unrated(msgspec.Struct, frozen=True):
    """Why there is no price. `reason` is a machine code, `detail` says what was asked for.

    Reasons: `provider_unpriced`, `model_unpriced`, `tier_unpriced` (the context matches no price), `variant_unpriced`
    (the same, of its variant), `tier_committed` (a capacity commitment without a price per call: its price stands in a
    contract, not in a price list).
    """

    reason: str
    detail: str = ""


class Context(msgspec.Struct, frozen=True, gc=False):
    """How a call was served, in the provider's own words; None where it did not say.

    `variant` is what else the price may depend on: one word, or several joined by commas. A word's family is what
    stands before its `=`; the plain words are a family too. Known are `1024x1024` and `1024x1024/hd` (size and quality
    of generated images), `low`, `medium` and `high` (Perplexity's search context size, with `pro/` before it for its
    pro search), `container=4g` (a code interpreter's memory) and `tool=web_search_preview`. A word of a family that
    none of a model's prices depends on changes nothing; an unknown word of a family that one does is unpriced.
    """

    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    variant: str | None = None


PROVISIONED = "provisioned"
"""The tier of capacity that is paid by time: a call on it costs nothing more. The fee is a commitment of a contract."""

_ORDINARY = frozenset({"", "default", "standard", "auto"})
_TIERS: dict[str, dict[str, str]] = {
    # A request for `fast` comes back as `priority` and costs the same: openai SDK, ChatCompletion.service_tier.
    "openai": {"fast": "priority"},
    "azure": {"fast": "priority", "ptu": PROVISIONED},
    # The request's way to say "never priority": anthropic SDK, MessageCreateParams.service_tier.
    "anthropic": {"standard_only": ""},
    # usageMetadata.trafficType of Vertex AI, beside the Gemini API's serviceTier: google-genai SDK, TrafficType.
    "google": {
        "on_demand": "",
        "on_demand_priority": "priority",
        "on_demand_flex": "flex",
        "on_demand_offpeak": "offpeak",
        "provisioned_throughput": PROVISIONED,
    },
    # serviceTier.type of Converse: capacity that is reserved, and paid whether it is used or not.
    "aws": {"reserved": PROVISIONED},
}
_GEOS: dict[str, dict[str, str]] = {
    # usage.inference_geo: inference wherever there is room, or a model that has no such setting.
    "anthropic": {"global": "", "not_available": ""},
    "google": {"global": ""},
    # The deployment's SKU: GlobalStandard, DataZoneStandard; azure.microsoft.com/pricing/details/azure-openai.
    "azure": {"global": "", "globalstandard": "", "datazonestandard": "datazone"},
    # On Bedrock the inference profile's prefix, which is part of the model id, says where it runs and what it costs.
    "aws": {"global": ""},
}
_COMMITTED: dict[str, frozenset[str]] = {
    "anthropic": frozenset({"priority"}),
}
DIMENSIONS = ("tier", "speed", "geo", "variant")
"""What a context is made of, in the order in which a card's id spells it."""


def canonical(provider: str, context: Context) -> dict[str, str] | Unrated:
    """What is special about a context, in the archive's words: `{}` for standard, else such as `{"tier": "batch"}`.

    None, `default`, `standard` and `auto` say nothing special; case does not matter; a word that no table knows stays
    what it is and then matches no price.
    """
    special = words_of(provider, context)
    if special.get("tier") in _COMMITTED.get(provider, ()):
        return Unrated("tier_committed", special["tier"])
    return special


def words_of(provider: str, context: Context) -> dict[str, str]:
    """The same, of a tier too whose price stands in a contract."""
    special = {
        "tier": _word(context.tier, _TIERS.get(provider)),
        "speed": _word(context.speed, None),
        "geo": _word(context.geo, _GEOS.get(provider)),
        "variant": (context.variant or "").lower()[:MODEL_NAME_CHARS_MAX],
    }
    if special["tier"] == PROVISIONED:
        # What is paid by time costs nothing more, wherever and however fast it runs.
        special["speed"] = special["geo"] = ""
    elif provider == "google" and special["geo"]:
        special["geo"] = REGIONAL
    return {name: value for name, value in special.items() if value}


REGIONAL = "regional"
"""Every place of Vertex AI that is not `global` costs the same, a region like a multi-region."""


def _word(stated: str | None, names: Mapping[str, str] | None) -> str:
    value = (stated or "").lower()[:MODEL_NAME_CHARS_MAX]
    return "" if value in _ORDINARY else (names or {}).get(value, value)


def context_text(special: Mapping[str, str]) -> str:
    """A context as a card's id spells it: `standard`, `batch`, `batch+geo=us`, `variant=1024x1024:hd`."""
    # A slash would end this part of the id.
    named = ((name, value.replace("/", ":")) for name, value in special.items())
    return "+".join(value if name == "tier" else f"{name}={value}" for name, value in named) or "standard"


def context_from(text: str) -> dict[str, str]:
    """The context that `context_text` spelt."""
    parts = [part.partition("=") for part in text.split("+") if text != "standard"]
    return {name if value else "tier": (value or name).replace(":", "/") for name, _, value in parts}
