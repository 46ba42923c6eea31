"""A request's body as a form (`multipart/form-data`), read part by part where it stands, and edited in place.

The format is RFC 7578 in RFC 2046's: parts between lines of `--boundary`, each with a few headers. Only the bytes
around a part and the texts that the gateway must understand are looked at; a file is never copied or decoded. What two
readers could understand differently (a field that comes twice, a name in an encoding of its own) is refused, so that a
provider cannot be made to see another model than the one that was priced.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from costbearer.dialects import body as bodies
from costbearer.dialects import jsonedit
from costbearer.dialects.base import CallRequest, Outgoing, Place
from costbearer.errors import BodyInvalid
from costbearer.usage import COUNT_MAX

FORM = "multipart/form-data"

PARTS_MAX = 1_000
"""The most parts of a form. The largest in use have a file, 16 images and a few dozen fields."""

HEADER_BYTES_MAX = 8 * 1024
"""The most bytes of one part's headers; browsers and SDKs send under 300."""

FIELD_BYTES_MAX = 64 * 1024
"""The most bytes of a field that the gateway reads (a model, a format, tags as JSON)."""

_BOUNDARY_PARAMETER = re.compile(r';\s*boundary=(?:"([^"\\]{1,200})"|([^\s";,]{1,200}))\s*(?=;|$)', re.IGNORECASE)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1: 1 to 70 of these, not ending in a space."""

_PARAMETER = re.compile(rb';[ \t]*([A-Za-z0-9_*-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))[ \t]*')
_ESCAPED = re.compile(rb"\\(.)")
_PADDING = re.compile(rb"[ \t]*(\r\n|\Z)")
_LINE = b"\r\n"


class Part(NamedTuple):
    """One part. `body[start:end]` is all of it from its boundary line to the next, `body[value:end]` its content."""

    name: str
    is_file: bool
    plain: bool
    start: int
    value: int
    end: int


class Form:
    """The parts of a form, with the reading interface of `body.Fields`; a field that is empty counts as absent.

    Raises:
        BodyInvalid: no or two boundaries, cut off, a part without a name, too many parts or too large a header.
    """

    __slots__ = ("_body", "_boundary", "parts")

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._boundary = boundary(content_type)
        self.parts = _parts(body, b"--" + self._boundary)

    def states(self, name: str) -> bool:
        """Is there such a part?"""
        return any(part.name == name for part in self.parts)

    def states_any(self, names: frozenset[str]) -> bool:
        """Is one of these parts there?"""
        return any(part.name in names for part in self.parts)

    def text(self, name: str) -> str | None:
        """A field's text."""
        found = [part for part in self.parts if part.name == name]
        if not found:
            return None
        if len(found) > 1:
            raise BodyInvalid(f'the form has the field "{name}" twice; send it once')
        return self._text(found[0]) or None

    def flag(self, name: str) -> bool | None:
        text = self.text(name)
        if text is None:
            return None
        flag = _FLAGS.get(text.lower())
        if flag is None:
            raise BodyInvalid(f'"{name}" must be true or false')
        return flag

    def whole(self, name: str, *, low: int = 0, high: int = COUNT_MAX) -> int | None:
        """A whole number in [low, high]."""
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal()):
            raise BodyInvalid(f'"{name}" must be a whole number')
        if len(text) > len(str(COUNT_MAX)) or not low <= int(text) <= high:
            raise BodyInvalid(f'"{name}" must lie between {low} and {high}')
        return int(text)

    def word(self, name: str) -> str | None:
        """A short text; anything else counts as absent, because it is the provider's to refuse."""
        return bodies.word(self.text(name))

    def model(self) -> str:
        """The field `model`, without which nothing can be routed or priced."""
        model = self.text("model")
        if model is None or not model.strip():
            raise BodyInvalid('the form has no field "model"; say which model the call is for')
        if len(model) > bodies.MODEL_LENGTH_MAX or not model.isprintable():
            raise BodyInvalid(f'"model" must be at most {bodies.MODEL_LENGTH_MAX} printable characters')
        return model

    def tags(self) -> tuple[str, ...] | None:
        """`metadata.tags`, unvalidated but for its type; None where there is none.

        It is in a field `metadata` as JSON, or in fields `metadata[tags][]`, as the SDKs spell a list inside an object.
        """
        spelt = [part for part in self.parts if part.name in _TAG_FIELDS]
        metadata = self.text("metadata")
        if metadata is None:
            return tuple(self._text(part) for part in spelt) if spelt else None
        if spelt:
            raise BodyInvalid('the form has both "metadata" and "metadata[tags]"; send one of them')
        return _json_tags(metadata)

    def content(self, name: str) -> bytes | None:
        """What a file holds; of several parts of this name the first."""
        for part in self.parts:
            if part.name == name:
                return self._body[part.value : part.end]
        return None

    def revised(self, *, tagged: bool, model: str | None) -> bytes:
        """The form without its tags if it is tagged and with another model if one is given; every other byte as it was.

        A model is put in front where the form has none.
        """
        pieces: list[bytes] = []
        done = 0
        if model is not None and not self.states("model"):
            done = self.parts[0].start
            pieces += (self._body[:done], self._part("model", model))
        for part in self.parts:
            value: bytes | None = None
            if part.name == "model" and model is not None:
                value = model.encode()
            elif tagged and part.name in _TAG_FIELDS:
                pieces.append(self._body[done : part.start])
                done = part.end + len(_LINE)
            elif tagged and part.name == "metadata":
                value = _untagged(self._body[part.value : part.end])
                if value is None:
                    pieces.append(self._body[done : part.start])
                    done = part.end + len(_LINE)
            if value is not None:
                pieces += (self._body[done : part.value], value)
                done = part.end
        pieces.append(self._body[done:])
        return b"".join(pieces)

    def _part(self, name: str, text: str) -> bytes:
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
        return head % (self._boundary, name.encode()) + text.encode() + _LINE

    def _text(self, part: Part) -> str:
        if part.is_file:
            raise BodyInvalid(f'"{part.name}" must be a field of the form, not a file')
        if not part.plain:
            raise BodyInvalid(f'"{part.name}" has a transfer encoding; send it as it is')
        if part.end - part.value > FIELD_BYTES_MAX:
            raise BodyInvalid(f'"{part.name}" is longer than {FIELD_BYTES_MAX} bytes')
        try:
            return self._body[part.value : part.end].decode()
        except UnicodeDecodeError:
            raise BodyInvalid(f'"{part.name}" is not UTF-8') from None


Fields = Form | bodies.Fields


def is_form(content_type: str) -> bool:
    """Does a body of this type come as a form?"""
    return content_type.partition(";")[0].strip().lower() == FORM


def fields(body: bytes, place: Place) -> Fields:
    """The members of a JSON body, or the parts of a form, as the request's content type says. Raises `BodyInvalid`."""
    return Form(body, place.content_type) if is_form(place.content_type) else bodies.Fields(body)


def outgoing(request: CallRequest, path: str, model: str) -> Outgoing:
    """The request below `path`: tags off, model renamed, every other byte the caller's; a form with its own boundary.

    Where nothing must change the very same object is given back.
    """
    place, body = request.place, request.body
    form = is_form(place.content_type)
    renamed = model if model != request.model else None
    if request.has_tags or renamed is not None:
        if form:
            body = Form(body, place.content_type).revised(tagged=request.has_tags, model=renamed)
        else:
            body = bodies.revised(body, request.has_tags, renamed)
    content_type = place.content_type if form else Outgoing("", b"").content_type
    return Outgoing(path, body, content_type=content_type)


def boundary(content_type: str) -> bytes:
    """The boundary that a content type names. Raises `BodyInvalid` where that is not one."""
    found = _BOUNDARY_PARAMETER.findall(content_type)
    if len(found) != 1:
        raise BodyInvalid("the content type of the form names no boundary; let the HTTP client set it")
    text: str = found[0][0] or found[0][1]
    if _BOUNDARY.fullmatch(text) is None:
        raise BodyInvalid("the boundary of the form is not one; it has 1 to 70 letters, digits and marks")
    return text.encode()


_FLAGS = {"true": True, "false": False, "1": True, "0": False}
_TAG_FIELDS = frozenset({"metadata[tags]", "metadata[tags][]"})


def _json_tags(metadata: str) -> tuple[str, ...] | None:
    document = metadata.encode()
    if not metadata.lstrip().startswith("{"):
        # Some other form of metadata, of which the provider may know what it means.
        return None
    jsonedit.members(document, '"metadata"')
    return bodies.Fields(b'{"metadata":%b}' % document).tags()


def _untagged(metadata: bytes) -> bytes | None:
    """The JSON text of `metadata` without its tags; None where nothing else is in it."""
    revision = jsonedit.Revision(metadata, '"metadata"')
    if revision.names() == ["tags"]:
        return None
    revision.remove("tags")
    return revision.text()


def _parts(body: bytes, delimiter: bytes) -> tuple[Part, ...]:
    found: list[Part] = []
    at = _opening(body, delimiter)
    while True:
        line_end = _PADDING.match(body, at + len(delimiter))
        if line_end is None or not line_end.group(1):
            raise BodyInvalid("the form is cut off: it has no closing boundary; send all of it")
        if len(found) == PARTS_MAX:
            raise BodyInvalid(f"the form has more than {PARTS_MAX} parts")
        end, is_last = _ending(body, line_end.end() - len(_LINE), delimiter)
        found.append(_part(body, at, line_end.end(), end))
        at = end + len(_LINE)
        if is_last:
            return tuple(found)


def _opening(body: bytes, delimiter: bytes) -> int:
    """Where the first boundary line begins: at the top, where every client puts it."""
    at = len(_LINE) if body.startswith(_LINE) else 0
    if not body.startswith(delimiter, at):
        raise BodyInvalid("the body does not begin with the boundary that its content type names; send a form")
    if body.startswith(b"--", at + len(delimiter)):
        raise BodyInvalid("the form has no parts")
    return at


def _ending(body: bytes, start: int, delimiter: bytes) -> tuple[int, bool]:
    """Where the part's content ends, and whether the form does: at the next whole boundary line.

    A line that only begins like one is content. Behind the last one there is nothing, or a more patient reader than
    this one could find more parts there.
    """
    at = start
    while (at := body.find(_LINE + delimiter, at)) >= 0:
        after = at + len(_LINE) + len(delimiter)
        if _PADDING.match(body, after):
            return at, False
        if body.startswith(b"--", after):
            if body[after + 2 :].strip(b" \t\r\n"):
                raise BodyInvalid("the form has something behind its closing boundary; send nothing there")
            return at, True
        at += len(_LINE)
    raise BodyInvalid("the form is cut off: it has no closing boundary; send all of it")


def _part(body: bytes, start: int, head: int, end: int) -> Part:
    blank = body.find(_LINE + _LINE, head - len(_LINE), min(end, head + HEADER_BYTES_MAX))
    if blank < 0:
        raise BodyInvalid(f"a part of the form has no headers that end within {HEADER_BYTES_MAX} bytes")
    disposition: bytes | None = None
    plain = True
    for line in body[head:blank].split(_LINE):
        label, _, value = line.partition(b":")
        label = label.strip().lower()
        if label == b"content-disposition":
            if disposition is not None:
                raise BodyInvalid("a part of the form has two content dispositions; send one")
            disposition = value
        elif label == b"content-transfer-encoding":
            plain = value.strip().lower() in {b"binary", b"7bit", b"8bit"}
    name, is_file = _named(disposition)
    return Part(name, is_file, plain, start, blank + 2 * len(_LINE), end)


def _named(disposition: bytes | None) -> tuple[str, bool]:
    """The part's name, and whether it is a file."""
    kind, semicolon, rest = (disposition or b"").strip().partition(b";")
    if kind.strip().lower() != b"form-data" or not semicolon:
        raise BodyInvalid('a part of the form is not "form-data" with a name')
    names: list[bytes] = []
    is_file = False
    at, rest = 0, semicolon + rest
    while at < len(rest):
        parameter = _PARAMETER.match(rest, at)
        if parameter is None:
            raise BodyInvalid("the content disposition of a part of the form cannot be read")
        at = parameter.end()
        label = parameter[1].lower()
        if label == b"name":
            names.append(_ESCAPED.sub(rb"\1", parameter[2]) if parameter[2] is not None else parameter[3])
        elif label == b"name*":
            raise BodyInvalid('a part of the form has an encoded name ("name*"); send it plainly')
        elif label in {b"filename", b"filename*"}:
            is_file = True
    if len(names) != 1:
        raise BodyInvalid('a part of the form must have one "name"')
    try:
        return names[0].decode(), is_file
    except UnicodeDecodeError:
        raise BodyInvalid("a part of the form has a name that is not UTF-8") from None
