"""How much of a request's body is looked into: the limits, and a count of values that costs no more than a search.

A decoder makes an object of everything it finds. A body of allowed size that is nothing but small values would hold its
worker for seconds, and all other callers with it; so they are counted before they are made. What is only passed over
(a text, a list of tokens) is not bounded here: that costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

MEMBERS_MAX = 4096
"""Members of one object that is read member by member. Requests have some tens, their metadata at most 64."""

VALUES_MAX = 100_000
"""Values in what is looked into, or translated: messages, their parts, tools, and whatever is inside of those. Some ten
thousand messages; reading as many takes up to a tenth of a second."""

BATCH_VALUES_MAX = 1_000_000
"""Values in a batch, of which little is looked at: the 100,000 requests that Anthropic takes have ten each."""

TAGS_BYTES_MAX = 128 * 1024
"""The list of a call's tags as it is written. All the tags that are kept, with every sign escaped, are no longer."""

T = TypeVar("T")


class TooMuch(ValueError):
    """More values than are looked into. To who looks it is as what cannot be read."""


def bounded(decode: Callable[[bytes | msgspec.Raw], T]) -> Callable[[bytes | msgspec.Raw], T]:
    """That decoder, for what a caller sends: where there are more than `VALUES_MAX` values it raises `TooMuch`."""

    def decoded(document: bytes | msgspec.Raw) -> T:
        if not few(document):
            raise TooMuch(f"more than {VALUES_MAX} values")
        return decode(document)

    return decoded


def few(document: bytes | msgspec.Raw, values_max: int = VALUES_MAX) -> bool:
    """Does the JSON text have at most so many values, if an empty array or object counts as two?

    They are counted by their marks, so that it takes no longer for many values than for few.
    """
    if memoryview(document).nbytes <= 2 * values_max:
        # A value and the mark that parts it from the next are two bytes.
        return True
    text = bytes(document)
    if _marks(text) < values_max:
        return True
    # Marks in texts are no values: without escapes, every other piece between two quotes is a text.
    if b"\\" in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if not 0 < text.count(b'"') <= 4 * values_max:
        # No texts at all, or more than there may be values and names of values.
        return False
    return _marks(b"".join(text.split(b'"')[::2])) < values_max


def _marks(text: bytes) -> int:
    """Every value but the outermost is the first of an array or object, or follows a comma."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")
