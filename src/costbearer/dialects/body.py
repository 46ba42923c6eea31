"""A request's body read member by member: only what the gateway must understand, each fault named with its place."""

from __future__ import annotations

import re

import msgspec

from costbearer.dialects import jsonedit
from costbearer.dialects.bounds import TAGS_BYTES_MAX
from costbearer.errors import BodyInvalid
from costbearer.usage import COUNT_MAX

MODEL_LENGTH_MAX = 256
"""Characters of a model's name. The longest in use are fine-tunes and organisation/model:variant paths of under 120."""

WORD_LENGTH_MAX = 64
"""Characters of a tier, speed or region; a longer one is no such word and is left to the provider to refuse."""

PLAIN_BYTES_MAX = 128 * 1024
"""The largest body whose texts are decoded on the way, which is quicker than to note where each stands up to there."""

_SPACE = rb"[ \t\r\n]*"
_TAGS = _SPACE.join((rb'"tags"', rb":", rb"")) + rb'\[[^\]"]*(?:"[^"\\]*"[^\]"]*)*\]'
_TAGS_MEMBER = re.compile(_TAGS)
_TAGS_ALONE = re.compile(_SPACE.join((rb'"metadata"', rb":", rb"\{", _TAGS, rb"\}")))
_MODEL_MEMBER = re.compile(_SPACE.join((rb'"model"', rb":", rb'("[^"\\]*")')))

_NULL = ord("n")
_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool)
_WHOLE = msgspec.json.Decoder(int)
_TEXTS = msgspec.json.Decoder(list[str])


class Fields:
    """The members of one JSON object. A member that is null counts as absent, as it does for the providers.

    Raises:
        BodyInvalid: as `jsonedit.members` does.
    """

    __slots__ = ("_members", "_prefix")

    def __init__(self, document: bytes, where: str = "the request body", prefix: str = "") -> None:
        self._members = jsonedit.members(document, where)
        self._prefix = prefix

    def states(self, name: str) -> bool:
        """Is the member there, be it null?"""
        return name in self._members

    def states_any(self, names: frozenset[str]) -> bool:
        """Is one of these members there and not null?"""
        return not names.isdisjoint(self._members) and any(self.raw(name) is not None for name in names)

    def raw(self, name: str) -> msgspec.Raw | None:
        """The value as it stands."""
        value = self._members.get(name)
        return None if value is None or memoryview(value)[0] == _NULL else value

    def object(self, name: str) -> Fields | None:
        value = self.raw(name)
        if value is None:
            return None
        if memoryview(value)[0] != ord("{"):
            raise self._wrong(name, "an object", value)
        path = f"{self._prefix}{name}"
        return Fields(bytes(value), f'"{path}"', f"{path}.")

    def flag(self, name: str) -> bool | None:
        value = self.raw(name)
        if value is None:
            return None
        try:
            return _FLAG.decode(value)
        except ValueError:
            raise self._wrong(name, "true or false", value) from None

    def whole(self, name: str, *, low: int = 0, high: int = COUNT_MAX) -> int | None:
        """A whole number in [low, high]."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            number = _WHOLE.decode(value)
        except ValueError:
            raise self._wrong(name, "a whole number", value) from None
        if not low <= number <= high:
            raise BodyInvalid(f'"{self._prefix}{name}" must lie between {low} and {high}')
        return number

    def word(self, name: str) -> str | None:
        """A short text; anything else counts as absent, because it is the provider's to refuse."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            return word(_TEXT.decode(value))
        except ValueError:
            return None

    def model(self) -> str:
        """The member `model`, without which nothing can be routed or priced."""
        value = self.raw("model")
        if value is None:
            raise BodyInvalid('the request body names no "model"; say which model the call is for')
        try:
            model = _TEXT.decode(value)
        except ValueError:
            raise self._wrong("model", "a string", value) from None
        if not model.strip():
            raise BodyInvalid('"model" is blank; say which model the call is for')
        if len(model) > MODEL_LENGTH_MAX or not model.isprintable():
            raise BodyInvalid(f'"model" must be at most {MODEL_LENGTH_MAX} printable characters')
        return model

    def tags(self) -> tuple[str, ...] | None:
        """`metadata.tags`, unvalidated but for its type; None where there is none."""
        metadata = self.object("metadata")
        if metadata is None or not metadata.states("tags"):
            return None
        value = metadata._members["tags"]
        if memoryview(value).nbytes > TAGS_BYTES_MAX:
            raise BodyInvalid(f'"metadata.tags" is longer than {TAGS_BYTES_MAX} bytes; no call has as many tags')
        try:
            return tuple(_TEXTS.decode(value))
        except (ValueError, RecursionError):
            raise BodyInvalid(
                f'"metadata.tags" must be a list of strings such as ["feature:search"], not {_content(value)}'
            ) from None

    def _wrong(self, name: str, expected: str, value: msgspec.Raw) -> BodyInvalid:
        return BodyInvalid(f'"{self._prefix}{name}" must be {expected}, not {jsonedit.kind(value)}')


def word(text: str | None) -> str | None:
    """The text if it can be a tier, a speed or a region."""
    return text if text is not None and 0 < len(text) <= WORD_LENGTH_MAX and text.isprintable() else None


def plain_tags(metadata: jsonedit.Members) -> tuple[str, ...] | None:
    """As `Fields.tags`, of the members of `metadata`. Raises `ValueError` where a name comes twice or tags are none."""
    if len(metadata) > 1 and jsonedit.doubtful(metadata):
        raise ValueError("a name comes twice")
    for name, value in metadata.items():
        if str(name) == "tags":
            return tuple(_TEXTS.decode(value))
    return None


def outgoing(body: bytes, tagged: bool, model: str | None) -> bytes | None:
    """A body that `Fields` has read, without its tags if it is tagged and with another model if one is given.

    Done where bytes alone show what to change, else None: where a name occurs more than once, or with an escape.
    """
    if tagged:
        at = jsonedit.once(body, b'"metadata"')
        if at < 0:
            return None
        found = _TAGS_ALONE.match(body, at)
        if found is None:
            at = jsonedit.once(body, b'"tags"')
            found = _TAGS_MEMBER.match(body, at) if at >= 0 else None
        if found is None:
            return None
        body = jsonedit.cut(body, found.start(), found.end())
    if model is not None:
        at = jsonedit.once(body, b'"model"')
        found = _MODEL_MEMBER.match(body, at) if at >= 0 else None
        if found is None:
            return None
        body = b"".join((body[: found.start(1)], msgspec.json.encode(model), body[found.end(1) :]))
    return body


def revised(body: bytes, tagged: bool, model: str | None) -> bytes:
    """As `outgoing`, of every body that `Fields` has read."""
    edited = outgoing(body, tagged, model)
    if edited is not None:
        return edited
    revision = jsonedit.Revision(body)
    if tagged:
        drop_tags(revision)
    if model is not None:
        revision.replace("model", msgspec.json.encode(model))
    return revision.text()


def drop_tags(revision: jsonedit.Revision) -> None:
    """Take `metadata.tags` out, and `metadata` itself where nothing else is in it."""
    metadata = revision.value("metadata")
    if metadata is None:
        return
    inner = jsonedit.Revision(metadata, '"metadata"')
    if inner.names() == ["tags"]:
        revision.remove("metadata")
    else:
        inner.remove("tags")
        revision.replace("metadata", inner.text())


def _content(value: msgspec.Raw) -> str:
    what = jsonedit.kind(value)
    return "an array with something else in it" if what == "an array" else what
