"""The members of a JSON object as bytes, and edits that leave every other byte as it was.

A gateway that decodes a body and encodes it again changes what its caller wrote: the order of members, the spelling of
numbers, white space. Here a member's value is never re-encoded; it is found, and cut out, replaced or put in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import call
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from costbearer.dialects.bounds import MEMBERS_MAX
from costbearer.errors import BodyInvalid

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HALF_A_PAIR = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}"')
_COMMA = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_SPACE = b" \t\r\n"
_EMPTY = re.compile(rb"[ \t\r\n]*}")
_COMMA_SIGN = ord(",")
_KEY = re.compile(rb'[ \t\r\n,]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)


class Name(str):
    """A member's name that equals no other, so that a dict of members keeps a name that comes twice."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


Members: TypeAlias = dict[Name, msgspec.Raw]


T = TypeVar("T")


def decoder(shape: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """A decoder of that shape, which may contain `Members`."""
    # The hook is called with the type and the text for each member: a function of ours would cost more than the parse.
    return msgspec.json.Decoder(shape, dec_hook=call).decode


named_members = decoder(dict[Name, msgspec.Raw])
"""An object's members by name, one that comes twice kept twice. Raises what the decoder raises (`reply.UNREADABLE`)
and checks no UTF-8."""


def doubtful(named: Members) -> bool:
    """Does one of the names come twice, or are there more than are read?"""
    return len(set(map(str, named))) < len(named) or len(named) > MEMBERS_MAX


class Member(NamedTuple):
    """One member of an object: `document[start:end]` is all of it, `document[value:end]` its value."""

    name: str
    start: int
    value: int
    end: int


def members(document: bytes, where: str = "the request body") -> dict[str, msgspec.Raw]:
    """The values of an object's members as they stand, by name (escapes in names resolved).

    Raises:
        BodyInvalid: not UTF-8, not JSON, cut off, not an object, nested too deep, more than `MEMBERS_MAX` members, or a
            name that comes twice: whoever reads such a body next may take the other value.
    """
    named = _decode(document, where)
    found = dict(zip(map(str, named), named.values(), strict=True))
    if len(found) < len(named):
        raise BodyInvalid(f"{where} has the member {_first_twice(named)[:60]!r} twice; send it once")
    return found


def locate(document: bytes, where: str = "the request body") -> list[Member]:
    """Where each member stands, in the document's order. Raises `BodyInvalid` as `members` does."""
    found: list[Member] = []
    at = document.find(b"{") + 1
    for name, value in members(document, where).items():
        key = _KEY.match(document, at)
        assert key is not None, "the decoder saw a member where none is"
        at = key.end() + memoryview(value).nbytes
        found.append(Member(name, key.start(1), key.end(), at))
    return found


class Revision:
    """Changes to the members of one object; `text` gives it with them made and every other byte as it was.

    Values are JSON text. Raises `BodyInvalid` as `members` does.
    """

    __slots__ = ("_document", "_inserted", "_members", "_removed", "_replaced")

    def __init__(self, document: bytes, where: str = "the request body") -> None:
        self._document = document
        self._members = locate(document, where)
        self._replaced: dict[str, bytes] = {}
        self._removed: set[str] = set()
        self._inserted: list[bytes] = []

    def names(self) -> list[str]:
        return [member.name for member in self._members]

    def value(self, name: str) -> bytes | None:
        """The value as it stood in the document."""
        for member in self._members:
            if member.name == name:
                return self._document[member.value : member.end]
        return None

    def replace(self, name: str, value: bytes) -> None:
        """Give a member another value; a member the object does not have changes nothing."""
        self._replaced[name] = value

    def remove(self, name: str) -> None:
        """Take a member out; a member the object does not have changes nothing."""
        self._removed.add(name)

    def insert(self, name: str, value: bytes) -> None:
        """Put a member in right after the first brace. It must not be there yet."""
        self._inserted.append(msgspec.json.encode(name) + b":" + value)

    def text(self) -> bytes:
        document = self._document
        previous = document.find(b"{") + 1
        pieces = [document[:previous], b",".join(self._inserted)]
        first = True
        for name, start, value, end in self._members:
            before, previous = document[previous:start], end
            if name in self._removed:
                continue
            if first:
                # The first member that stays brings no comma of its own.
                before = (b"," if self._inserted else b"") + (b"" if b"," in before else before)
                first = False
            pieces += (before, document[start:value], self._replaced.get(name, document[value:end]))
        pieces.append(document[previous:])
        return b"".join(pieces)


def once(document: bytes, key: bytes) -> int:
    """Where a name that the document has as a member's stands, if its bytes occur nowhere else; else -1.

    `key` is the name in its quotes, of letters and underscores: such a name can only be spelled otherwise with an
    escape that begins with `\\u`, so that in a document without one the only occurrence is the member.
    """
    at = document.find(key)
    return -1 if at < 0 or document.find(key, at + 1) >= 0 or b"\\u" in document else at


def cut(document: bytes, start: int, end: int) -> bytes:
    """The document without the member at [start, end), which may be of an object inside it; as `Revision.remove`."""
    before = start - 1
    while document[before] in _SPACE:
        before -= 1
    if document[before] == _COMMA_SIGN:
        before -= 1
        while document[before] in _SPACE:
            before -= 1
    else:
        comma = _COMMA.match(document, end)
        end = end if comma is None else comma.end()
    return document[: before + 1] + document[end:]


def prepend(document: bytes, name: str, value: bytes) -> bytes:
    """The object with one member put in right after its first brace. The document is known to be an object."""
    brace = document.find(b"{") + 1
    comma = b"" if _EMPTY.match(document, brace) else b","
    return b"".join((document[:brace], msgspec.json.encode(name), b":", value, comma, document[brace:]))


def kind(value: msgspec.Raw) -> str:
    """What a JSON value is, in words for an error message."""
    words = {0x7B: "an object", 0x5B: "an array", 0x22: "a string", 0x74: "true", 0x66: "false", 0x6E: "null"}
    return words.get(memoryview(value)[0], "a number")


def _first_twice(named: Members) -> str:
    """The name of which the second is found first. One of them does come twice."""
    seen: set[str] = set()
    for name in map(str, named):
        if name in seen:
            break
        seen.add(name)
    return name


def _counted(document: bytes, where: str) -> Members:
    """As `named_members`, of an object that may have too many: it is given up at the first that is one too many."""
    left = MEMBERS_MAX

    def made(kind: type[Name], text: str) -> Name:
        nonlocal left
        left -= 1
        if left < 0:
            raise BodyInvalid(f"{where} has more than {MEMBERS_MAX} members; no request has as many")
        return kind(text)

    return msgspec.json.decode(document, type=dict[Name, msgspec.Raw], dec_hook=made)


def _decode(document: bytes, where: str) -> Members:
    if not document.isascii():
        try:
            document.decode()
        except UnicodeDecodeError as fault:
            hint = " (it looks like gzip: send it uncompressed)" if document.startswith(_GZIP) else ""
            raise BodyInvalid(f"{where} is not UTF-8 at byte {fault.start}{hint}; send JSON in UTF-8") from None
    try:
        return named_members(document) if document.count(b":") <= MEMBERS_MAX else _counted(document, where)
    except msgspec.ValidationError as fault:
        raise BodyInvalid(f"{where} must be a JSON object: {fault}") from None
    except msgspec.DecodeError as fault:
        raise BodyInvalid(_fault(document, where, str(fault))) from None
    except RecursionError:
        raise BodyInvalid(f"{where} is nested too deep; flatten it") from None


def _fault(document: bytes, where: str, fault: str) -> str:
    if not document.strip(b" \t\r\n"):
        return f"{where} is empty; send a JSON object"
    if document.startswith(_BYTE_ORDER_MARK):
        return f"{where} begins with a byte order mark; send plain UTF-8"
    if "truncated" in fault and _HALF_A_PAIR.search(document):
        # The decoder waits for the other half beyond the end of the document.
        return f"{where} has half of a surrogate pair in a text; send valid Unicode"
    if "truncated" in fault:
        return f"{where} is cut off after {len(document)} bytes: its JSON does not end; send all of it"
    return f"{where} is not JSON: {fault.removeprefix('JSON is malformed: ')}; NaN and Infinity are not JSON either"
