"""Text and tokens: an irregular but repeatable tokenizer, an endless author and the providers' prompt caches."""

from __future__ import annotations

import struct
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from typing import NamedTuple

BYTES_PER_TOKEN_MIN = 3.0
BYTES_PER_TOKEN_MAX = 5.5
OVERHEAD_TOKENS_MAX = 63
CACHE_TOKENS_MIN = 1024
CACHE_ENTRIES_MAX = 20_000
"""Prompts a cache remembers; the least recently used one goes first."""

_RATIO_STEPS = int((BYTES_PER_TOKEN_MAX - BYTES_PER_TOKEN_MIN) * 1000) + 1
_RATIO_MIN = int(BYTES_PER_TOKEN_MIN * 1000)

# It names what a careless reader of bytes would trip over: quotes, line ends, end markers and usage inside the text.
_PASSAGE = (
    "The harbour clerk wrote every crate into the day book before it left the quay, and signed the line. "
    "Where a crate was lost he wrote that too: \u201closs is an entry, silence is not\u201d. Naïve clerks in Zürich, "
    "東京 and São Paulo kept the same rule 📒.\n"
    'An answer may quote anything: "usage":{"prompt_tokens":1,"completion_tokens":1} or a line such as\n\n'
    "data: [DONE]\n\nevent: message_stop\n\nand yet be nothing but text. C:\\temp\\ledger.txt, tab\there, 50 % done. "
)
_CORPUS = _PASSAGE * 40


class Draws(NamedTuple):
    """Seven numbers that look random and depend on the seed and the text alone."""

    length: int
    ratio: int
    offset: int
    reasoning: int
    first: int
    extra: int
    mark: int


def draw(seed: int, *parts: bytes) -> Draws:
    """The draws for these bytes."""
    digest = blake2b(key=struct.pack("<q", seed), digest_size=32)
    for part in parts:
        digest.update(part)
    return Draws(*struct.unpack("<7I4x", digest.digest()))


def count(data: bytes, seed: int) -> int:
    """Tokens of this text: between 3 and 5.5 bytes each, a ratio that is the same for the same text and seed."""
    if not data:
        return 0
    ratio = _RATIO_MIN + zlib.crc32(data, seed & 0xFFFFFFFF) % _RATIO_STEPS
    return -(-len(data) * 1000 // ratio)


def write(tokens: int, draws: Draws) -> str:
    """A passage of about this many tokens, 3 to 5.5 characters each."""
    characters = tokens * (_RATIO_MIN + draws.ratio % _RATIO_STEPS) // 1000
    start = draws.offset % len(_PASSAGE)
    corpus = _CORPUS
    if start + characters > len(corpus):
        corpus = _PASSAGE * ((start + characters) // len(_PASSAGE) + 1)
    return corpus[start : start + characters]


def slices(text: str, tokens: int, parts: int) -> list[tuple[str, int]]:
    """The text and its tokens in this many parts, each as even as whole numbers allow."""
    result = []
    text_done = tokens_done = 0
    for part in range(1, parts + 1):
        text_end, tokens_end = len(text) * part // parts, tokens * part // parts
        result.append((text[text_done:text_end], tokens_end - tokens_done))
        text_done, tokens_done = text_end, tokens_end
    return result


class Segment(NamedTuple):
    """A part of a prompt. `ttl_s` is set where the caller asked that everything up to here be cached."""

    data: bytes
    tokens: int
    ttl_s: int | None = None


class Found(NamedTuple):
    """How a cache served a prompt: tokens read, and those written, by time to live in seconds."""

    read: int
    written: dict[int, int]


class PromptCache:
    """Which prompt prefixes a provider remembers, for how long. Prefixes end where segments end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def serve(self, scope: str, segments: Sequence[Segment]) -> Found:
        """Read the longest prefix that is remembered, write what the breakpoints ask for beyond it.

        A prefix below `CACHE_TOKENS_MIN` tokens is neither read nor written, as with the real providers.
        """
        points = [index for index, segment in enumerate(segments) if segment.ttl_s is not None]
        if not points or sum(segment.tokens for segment in segments) < CACHE_TOKENS_MIN:
            return Found(0, {})
        prefixes = self._prefixes(scope, segments[: points[-1] + 1])
        now = self._clock()
        read = 0
        for digest, tokens in reversed(prefixes):
            if tokens >= CACHE_TOKENS_MIN and self._ends.get(digest, 0.0) > now:
                read = tokens
                break
        written: dict[int, int] = {}
        done = read
        for point in points:
            digest, tokens = prefixes[point]
            ttl_s = segments[point].ttl_s
            if ttl_s is None or tokens < CACHE_TOKENS_MIN:
                continue
            if tokens > done:
                written[ttl_s] = written.get(ttl_s, 0) + tokens - done
                done = tokens
            self._remember(digest, now + ttl_s)
        return Found(read, written)

    def forget(self) -> None:
        """Empty it."""
        self._ends.clear()

    def _remember(self, digest: bytes, until: float) -> None:
        self._ends[digest] = max(until, self._ends.get(digest, 0.0))
        self._ends.move_to_end(digest)
        if len(self._ends) > CACHE_ENTRIES_MAX:
            self._ends.popitem(last=False)

    @staticmethod
    def _prefixes(scope: str, segments: Sequence[Segment]) -> list[tuple[bytes, int]]:
        running = sha256(scope.encode())
        tokens = 0
        prefixes = []
        for segment in segments:
            running.update(struct.pack("<I", len(segment.data)))
            running.update(segment.data)
            tokens += segment.tokens
            prefixes.append((running.digest(), tokens))
        return prefixes
