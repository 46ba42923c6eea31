"""HTTP/1.1 as callers may send it: bytes in, values out, no I/O.

One grammar and no leniency: what two parsers could read in two ways is refused (RFC 9112 lets a server do so), because
whoever stands in front of the gateway may have read it the other way. So there is exactly one Host, one length, one
transfer coding, no bare line feed, no folded line, no blank before a colon, no target but a path. A refusal ends its
connection: where the next request would begin is no longer certain.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import msgspec

from costbearer.errors import (
    BodyInvalid,
    HeaderInvalid,
    HeadersTooLarge,
    MethodRefused,
    RequestMalformed,
    TargetTooLong,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What is answered at all; which of them a path takes is said by the table of endpoints. No TRACE, no CONNECT."""
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
SINGLE_HEADERS = frozenset(
    {
        *CREDENTIAL_HEADERS,
        "host",
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "expect",
        "x-costbearer-tags",
        "traceparent",
    }
)
"""Headers of which a second one makes the request ambiguous."""
HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
TARGET_BYTES_MAX = 8 * 1024
LENGTH_DIGITS_MAX = 15
CHUNK_LINE_BYTES_MAX = 256
TRAILER_BYTES_MAX = 4 * 1024
HEADER_NAMES_KNOWN_MAX = 512
"""How many header names are remembered as they are written: callers choose them, so the memory is bounded."""
END = b"\r\n\r\n"

_PRINTED = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))
"""What may stand in a line of a head: no control character but the tab."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"/[0-9A-Za-z._~!$&'()*+,;=:@/-]*")
_ESCAPED_PATH = re.compile(r"/(?:[0-9A-Za-z._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"[!\"$-~]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\x21-\x7e][\x20-\x7e\t]*)?")
_LIKE_FRAMING = re.compile(r"(?:transfer|content)[^a-z]*(?:encoding|length)")
"""Names that another parser may take for the ones that say where a body ends. Three of them are real headers."""
_REAL = frozenset({"transfer-encoding", "content-encoding", "content-length"})
_NAMES_OF_PARTS = "/model/"
"""Below this path an escaped slash is part of a name (an ARN), as AWS's SDKs send it; nowhere else is there one."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """One request's line and headers.

    `path` is decoded, and the only string that routes and authorizes; `query` is as it was sent. Header names are in
    lower case; several of one name are joined by a comma. `length` is the body's in bytes, None where it is in chunks.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    http_1_0: bool = False


class _Names(dict[str, str]):
    """Header names as they are written, and as they are looked up. Callers' SDKs write the same few."""

    def __missing__(self, written: str) -> str:
        if not _TOKEN.fullmatch(written):
            raise RequestMalformed(f"{written[:40]!r} is no header name")
        name = written.lower()
        if name not in _REAL and _LIKE_FRAMING.fullmatch(name):
            raise RequestMalformed(f"the header name {written[:40]!r} can be taken for one that frames the body")
        if len(self) < HEADER_NAMES_KNOWN_MAX:
            self[written] = name
        return name


class HeadReader:
    """Reads heads; remembers nothing of them but header names."""

    def __init__(self) -> None:
        self._names = _Names()

    def read(self, data: bytes) -> Head:
        """The head, without the blank line that ends it.

        Raises:
            RequestMalformed, HeaderInvalid, HeadersTooLarge, TargetTooLong, MethodRefused: it is not read any further.
            BodyInvalid: its body comes in a transfer coding other than chunks.
        """
        if len(data) > HEAD_BYTES_MAX:
            raise HeadersTooLarge(f"the headers are larger than {HEAD_BYTES_MAX} bytes")
        if data.replace(b"\r\n", b"").translate(None, _PRINTED):
            raise RequestMalformed("a control character, or a line that does not end in CR LF, is in the headers")
        lines = _text(data).split("\r\n")
        method, path, query, http_1_0 = _request_line(lines[0])
        headers = self._fields(lines)
        if "host" in headers:
            if not _HOST.fullmatch(headers["host"]):
                raise HeaderInvalid("the Host header is no host name or address, with or without a port")
        elif not http_1_0:
            raise HeaderInvalid("the Host header is missing")
        if "expect" in headers and headers["expect"].lower() != "100-continue":
            raise HeaderInvalid("the Expect header can only be 100-continue")
        length: int | None = 0
        if "transfer-encoding" in headers or "content-length" in headers:
            length = _framing(headers, http_1_0)
            if length != 0 and method in {"GET", "HEAD"}:
                raise RequestMalformed(f"a {method} request has no body")
        keep_alive = not http_1_0 and ("connection" not in headers or "close" not in headers["connection"].lower())
        return Head(method, path, query, headers, length, keep_alive, http_1_0)

    def _fields(self, lines: list[str]) -> dict[str, str]:
        if len(lines) > HEADERS_MAX + 1:
            raise HeadersTooLarge(f"{len(lines) - 1} headers; at most {HEADERS_MAX} are read")
        names = self._names
        headers: dict[str, str] = {}
        for line in lines[1:]:
            written, colon, value = line.partition(":")
            if not colon:
                raise RequestMalformed("a header has no colon")
            name = names[written]
            if name not in headers:
                headers[name] = value.strip(" \t")
            elif name in SINGLE_HEADERS:
                raise HeaderInvalid(f"the header {name} is there more than once")
            else:
                headers[name] += "," + value.strip(" \t")
        return headers


def seeming_path(data: bytes) -> str:
    """What stands where a request has its path, of bytes that are none: good for nothing but choosing words."""
    words = data[:TARGET_BYTES_MAX].partition(b"\r\n")[0].split(b" ")
    return words[1].decode("latin-1") if len(words) > 1 else "/"


def _text(data: bytes) -> str:
    """Headers are ASCII; what else callers put into a tag is read as UTF-8 or, where it is none, as Latin-1."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _request_line(line: str) -> tuple[str, str, str, bool]:
    """(method, decoded path, query, whether it is HTTP/1.0)."""
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise RequestMalformed("the request line is not METHOD /path HTTP/1.1")
    if method not in METHODS:
        raise MethodRefused(f"the method {method[:20]!r} is not answered")
    if len(target) > TARGET_BYTES_MAX:
        raise TargetTooLong(f"the request's path is longer than {TARGET_BYTES_MAX} bytes")
    path, _, query = target.partition("?")
    if not _PATH.fullmatch(path):
        path = _unescaped(path)
    if query and not _QUERY.fullmatch(query):
        raise RequestMalformed("the query holds a character that must be escaped")
    return method, path, query, version == "HTTP/1.0"


def _unescaped(path: str) -> str:
    """The path with its escapes resolved, once. An escape may hide neither a step of the path nor another escape."""
    if not _ESCAPED_PATH.fullmatch(path):
        raise RequestMalformed("the target is not a path that begins with / and holds only characters of a path")
    if not path.startswith(_NAMES_OF_PARTS) and "%2f" in path.lower():
        raise RequestMalformed("the path holds an escaped slash")
    decoded = unquote_to_bytes(path)
    if not decoded.isascii() or decoded.translate(None, _PRINTED) or any(mark in decoded for mark in (b"%", b"\\")):
        raise RequestMalformed("the path holds an escape that is not of a letter, digit or mark of a name")
    return decoded.decode()


def _framing(headers: dict[str, str], http_1_0: bool) -> int | None:
    """The body's length in bytes; None: it comes in chunks."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is None:
        assert length is not None
        if not (length.isascii() and length.isdigit()) or len(length) > LENGTH_DIGITS_MAX:
            raise RequestMalformed("Content-Length is no number of bytes")
        return int(length)
    # There are letters outside ASCII whose lower case is inside: the Kelvin sign makes a k.
    if not coding.isascii() or coding.lower() != "chunked":
        raise BodyInvalid("the transfer encoding must be chunked; compressed request bodies are not read")
    if length is not None:
        raise RequestMalformed("both Content-Length and Transfer-Encoding are there; send one")
    if http_1_0:
        raise RequestMalformed("HTTP/1.0 knows no Transfer-Encoding")
    return None


class Chunks:
    """Reads a body that comes in chunks. `over` once its end has come; `rest` is then what followed it."""

    def __init__(self) -> None:
        self.over = False
        self.rest = b""
        self._buffer = bytearray()
        self._left = 0
        self._closing = False
        """Whether the line end after a chunk's data is what comes next."""
        self._trailer: int | None = None

    def feed(self, data: bytes) -> bytes:
        """The part of the body that is in these bytes.

        Raises:
            BodyInvalid: the chunks are not framed as HTTP has them.
        """
        buffer, out = self._buffer, bytearray()
        buffer += data
        while not self.over:
            if self._left:
                taken = buffer[: self._left]
                if not taken:
                    break
                out += taken
                del buffer[: len(taken)]
                self._left -= len(taken)
                self._closing = not self._left
                continue
            if self._closing:
                if len(buffer) < 2 and b"\r\n".startswith(buffer):
                    break
                if not buffer.startswith(b"\r\n"):
                    _broken()
                del buffer[:2]
                self._closing = False
            line = self._line()
            if line is None:
                break
            self._read(line)
        if self.over:
            self.rest = bytes(buffer)
        return bytes(out)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > CHUNK_LINE_BYTES_MAX or (end < 0 and len(self._buffer) > CHUNK_LINE_BYTES_MAX):
            _broken()
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read(self, line: bytes) -> None:
        if self._trailer is None:
            size = _CHUNK.fullmatch(line)
            if size is None:
                _broken()
            self._left = int(size[1], 16)
            self._trailer = None if self._left else 0
            return
        # Trailers are read over, and none may be of a kind that somebody would act on: the request has been read.
        self._trailer += len(line)
        name, colon, value = line.partition(b":")
        if not line:
            self.over = True
        elif (
            not colon
            or self._trailer > TRAILER_BYTES_MAX
            or not _TOKEN.fullmatch(name.decode("latin-1"))
            or name.decode().lower() in SINGLE_HEADERS
            or value.translate(None, _PRINTED)
        ):
            _broken()


def _broken() -> NoReturn:
    raise BodyInvalid("the chunks of the body are not framed as HTTP has them")


_REASONS = {status.value: status.phrase for status in HTTPStatus}
NO_BODY = frozenset({204, 304})
"""Statuses whose replies have no body and say no length."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = ("connection", "close")


def reply_head(status: int, headers: list[tuple[str, str]]) -> bytes:
    """Status line and headers, with the blank line. The names and values are the gateway's or a provider's whose reply
    was parsed: none of them holds a line end."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1", "replace")


class Clock:
    """The Date header, made anew once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._header = ("date", "")

    def header(self) -> tuple[str, str]:
        second = int(time.time())
        if second != self._second:
            self._second, self._header = second, ("date", formatdate(second, usegmt=True))
        return self._header
