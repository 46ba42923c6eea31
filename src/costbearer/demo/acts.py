"""The acts of the demo: which agent, of which team, calls which API with which SDK."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

from costbearer.demo import chats, clouds, media
from costbearer.demo.stage import AUTHORITY, Stage

Play = Callable[[Stage, str], int]
"""What an act does: makes calls with its agent's key, and gives back how many requests they were."""


class Act(NamedTuple):
    """One agent's work. `package` is the SDK, which may be missing; `api` is what is called, in a few words.

    `https` where the SDK sends its key to HTTPS alone.
    """

    agent: str
    owner: str
    team: str
    workload: str
    package: str
    api: str
    play: Play
    https: bool = False

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its key."""
        return {"owner": self.owner, "team": self.team, "agent": self.agent, "workload": self.workload}

    @property
    def title(self) -> str:
        """SDK and API, for people."""
        return f"{self.package}, {self.api}"


ACTS: tuple[Act, ...] = (
    Act("ranker", "maria.lopez", "search", "rerank-results", "openai", "chat", chats.rank),
    Act("summarizer", "jonas.weber", "search", "answer-page", "openai", "chat streamed", chats.summarize),
    Act("campaign-writer", "lena.fischer", "growth", "newsletter", "openai", "chat with tools", chats.campaign),
    Act("triage-bot", "aiko.tanaka", "support", "inbox", "anthropic", "messages cached", chats.triage),
    Act("reply-drafter", "sam.okafor", "support", "inbox-replies", "anthropic", "messages streamed", chats.draft),
    Act("code-reviewer", "ivo.novak", "platform", "pull-requests", "anthropic", "messages", chats.review),
    Act("polyglot", "ivo.novak", "platform", "any-model", "openai", "chat of other providers", chats.translate),
    Act("broker", "ivo.novak", "platform", "cheapest-offer", "openai", "OpenRouter", chats.broker),
    Act("researcher", "maria.lopez", "search", "deep-answers", "openai", "responses", media.research),
    Act("indexer", "jonas.weber", "search", "nightly-index", "openai", "embeddings, moderations", media.index),
    Act("studio", "lena.fischer", "growth", "visuals", "openai", "images, audio", media.studio),
    Act("night-shift", "sam.okafor", "support", "weekly-digest", "openai", "files, batches", media.night_shift),
    Act("archivist", "aiko.tanaka", "support", "old-tickets", "anthropic", "message batches", chats.archive),
    Act("scout", "jonas.weber", "search", "web-answers", "google.genai", "Gemini", clouds.scout),
    Act("planner", "lena.fischer", "growth", "calendar", "google.genai", "Vertex AI", clouds.plan),
    Act("claims-reader", "sam.okafor", "support", "claims", "boto3", "Bedrock", clouds.claims, https=True),
    Act("helpdesk", "aiko.tanaka", "support", "chat-widget", "openai", "Azure OpenAI", clouds.helpdesk),
)


def perform(running: Stage) -> tuple[int, dict[str, str]]:
    """Play every act; gives back how many requests were made, and by agent why an act was left out."""
    made = 0
    left_out: dict[str, str] = {}
    for act in ACTS:
        if not _installed(act.package):
            left_out[act.agent] = f"the package {act.package} is not installed"
        elif act.https and running.https_url is None:
            left_out[act.agent] = f"it needs HTTPS, and the package {AUTHORITY}, which makes certificates, is missing"
        else:
            made += act.play(running, running.keys[act.agent])
    return made, left_out


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        # The parent of a dotted name is missing.
        return False
