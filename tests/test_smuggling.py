"""Requests that two parsers may read in two ways. None of them is served, and nothing behind one is read as a request.

The first two tables follow, description by description, the cases that a public corpus of desynchronisation attacks
(aws/http-desync-guardian) holds to be severe (58) and ambiguous (60); the others are what servers were found to
accept, and chunks. Each is sent as a call that would be served if it were framed honestly, with a key that is valid and
a body that fits one reading, and an honest request behind it on the same connection.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from costbearer.gateway.http1 import Head
from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import CHAT, Edge, chat, chunked, read_all, running_edge, statuses
from tests.system import free_port

BODY = chat("output=5")
BODY += b" " * (1000 - len(BODY))
"""Exactly the 1,000 bytes that most of the cases announce."""
FRAMING = (b"request_malformed", b"header_invalid", b"body_invalid", b"method_refused", b"headers_too_large")
NGINX, HAPROXY = Path("/usr/sbin/nginx"), Path("/usr/sbin/haproxy")


class Case(NamedTuple):
    """`lines` are the headers in question, without the line end of the last one."""

    lines: bytes
    method: bytes = b"POST"
    target: bytes = CHAT.encode()
    version: bytes = b" HTTP/1.1"
    body: bytes | None = None

    def request(self, key: str) -> bytes:
        standard = b"Host: gateway\r\nAuthorization: Bearer " + key.encode()
        lines = standard + (b"\r\n" + self.lines if self.lines else b"")
        body = self.body
        if body is None:
            body = chunked(BODY) if b"chunk" in self.lines.lower() else BODY
            body = b"" if self.method in {b"GET", b"HEAD"} and b"ength" not in self.lines else body
        return b"%b %b%b\r\n%b\r\n\r\n%b" % (self.method, self.target, self.version, lines, body)


def get(lines: bytes = b"", *, target: bytes = b"/v1/models", version: bytes = b" HTTP/1.1") -> Case:
    return Case(lines, b"GET", target, version)


TE = b"Transfer-Encoding: chunked"
CL = b"Content-Length: 1000"
X = b"X-Note: "
GET_TARGET = b"/v1/models"

SEVERE: dict[str, Case] = {
    "two lengths that differ": Case(CL + b"\r\nContent-Length: 100"),
    "a list of two lengths": Case(b"Content-Length: 1000,1000"),
    "two lengths, a blank between": Case(b"Content-Length: 1000 1000"),
    "a length with a point": Case(b"Content-Length: 1000.1000"),
    "a length beyond 64 bits": Case(b"Content-Length: 18446744073709551616"),
    "an unknown coding, xchunked": Case(b"Transfer-Encoding: xchunked"),
    "chunked followed by 0x11": Case(TE + b"\x11"),
    "a length followed by 0x11": Case(CL + b"\x11"),
    "chunked in two headers": Case(TE + b"\r\n" + TE),
    "chunked twice in a list": Case(b"Transfer-Encoding: chunked,chunked"),
    "a folded header that hides a coding": Case(CL + b"\r\n" + X + b"a\r\n b \n c \n Transfer-Encoding: chunked\r\n d"),
    "a header folded by line feeds": Case(CL + b"\r\n" + X + b"a\n b \n c Transfer-Encoding: chunked"),
    "carriage returns within a value": Case(CL + b"\r\n" + X + b"a\r b\r c."),
    "line feeds within a value": Case(CL + b"\r\n" + X + b"a\n b\n c."),
    "a carriage return within a name": Case(b"X-Note\r: 1000\r\n" + CL),
    "a line feed within a name": Case(b"X-Note\n: Content-Length:1000\r\n " + TE + b"\r\n" + CL),
    "a null within a name": Case(b"X-Note\x00: 1000\r\n" + CL),
    "a carriage return before a hidden length": Case(X + b"value\rcontent-length: 100\r\n" + CL),
    "a line feed before a hidden length": Case(X + b"value\n content-length: 100\r\n" + CL),
    "a null before a hidden length": Case(X + b"value\x00content-length: 100\r\n" + CL),
    "a null begins a line": Case(b"\x00X-Note: value\r\n" + CL),
    "a null begins a value": Case(X + b"\x00value\r\n" + CL),
    "a null ends a value": Case(X + b"value\x00\r\n" + CL),
    "a length whose name ends in a blank, and one": Case(b"Content-Length : 100\r\n" + CL),
    "a length whose name begins with a blank, and one": Case(b" Content-Length: 100\r\n" + CL),
    "a coding whose name ends in a blank, and one": Case(b"Transfer-Encoding : chunked\r\n" + TE),
    "a method with a control character": Case(b"", b"bad_method\x01", GET_TARGET),
    "0x01 before chunked": Case(b"Transfer-Encoding: \x01chunked"),
    "0x01 after chunked": Case(TE + b"\x01"),
    "0xa0 before chunked": Case(b"Transfer-Encoding: \xa0chunked"),
    "0xa0 after chunked": Case(TE + b"\xa0"),
    "0x01 before a length": Case(b"Content-Length: \x011000"),
    "0x01 after a length": Case(CL + b"\x01"),
    "0xa0 after a length": Case(CL + b"\xa0"),
    "a bad value elsewhere and a bad length": Case(X + b"a\x12\r\n" + CL + b"\x11"),
    "a bad value elsewhere and a bad coding": Case(X + b"a\x11\r\n" + TE + b"\x7f"),
    "a bad name, a null, and a coding with a tab": Case(b"X-Note\t: \x11\x12 \x00 bad\r\nTransfer-Encoding\t: chunked"),
    "a bad coding and a length that is none": Case(X + b"\x11a\r\n" + TE + b"\x80\r\nContent-Length: $9000"),
    "a tab in the target, a bad coding and length": Case(
        X + b"\x11a\r\n" + TE + b"\x80\r\nContent-Length: $9000", target=CHAT.encode() + b"\t/baz"
    ),
    "the version twice": get(version=b" HTTP/1.1 HTTP/1.1"),
    "a carriage return in the target": get(target=GET_TARGET + b"\rHTTP/1.1"),
    "a line feed in the target": get(target=GET_TARGET + b"\nHTTP/1.1"),
    "a whole request in the target": get(target=GET_TARGET + b"\tHTTP/1.1\r\nHost:localhost\r\n\r\nGET\t/v1/models\t"),
    "a null in the target": get(target=GET_TARGET + b"\x00HTTP/1.1"),
    "a null before the target": get(target=b"\x00" + GET_TARGET + b"HTTP/1.1"),
    "chunked twice and a length": Case(TE + b"\r\n" + TE + b"\r\nContent-Length: 4"),
    "a null in another header, coding and length": Case(X + b"gzip, \x00deflate\r\n" + TE + b"\r\nContent-Length: 4"),
    "a length, and a null before the coding's name": Case(b"Content-Length: 4\r\n\x00" + TE),
    "a length, and a carriage return before a hidden coding": Case(b"Content-Length: 4\r\n" + X + b"x\r" + TE),
    "a carriage return before the coding's name, and a length": Case(b"\r" + TE + b"\r\nContent-Length: 4"),
    "a carriage return before the coding's name": Case(b"\r" + TE),
    "a carriage return before a length's name, and a length": Case(b"\rContent-Length: 1000\r\nContent-Length: 100"),
    "a coding called chunk, and a length": Case(b"Transfer-Encoding: chunk\r\nContent-Length: 4"),
    "a coding called xchunked, and a length": Case(b"Transfer-Encoding: xchunked\r\nContent-Length: 4"),
    "chunked twice in a list, and a length": Case(b"Transfer-Encoding: chunked,chunked\r\nContent-Length: 4"),
    "chunked, then a coding called cow, and a length": Case(TE + b"\r\nTransfer-Encoding: cow\r\nContent-Length: 6"),
    "a null before the coding's name, after a length": Case(b"Content-Length: 6\r\n\x00" + TE + b"\r\nX-Note: a"),
    "a null before chunked, and a length": Case(b"Transfer-Encoding: \x00chunked\r\nContent-Length: 6"),
}

AMBIGUOUS: dict[str, Case] = {
    "the coding's name ends in a blank": Case(b"Transfer-Encoding : chunked"),
    "the coding's name ends in a tab": Case(b"Transfer-Encoding\t: chunked"),
    "0x01 before the coding's name": Case(b"\x01" + TE),
    "0x01 twice before the coding's name": Case(b"\x01\x01" + TE),
    "0x01 twice before the length's name": Case(b"\x01\x01Content-Length: 1"),
    "0x01 before the length's name": Case(b"\x01Content-Length: 1"),
    "a blank within the coding's name": Case(b"Transfer- Encoding: chunked"),
    "the coding's name with an underscore": Case(b"Transfer_Encoding: chunked"),
    "the length's name with an underscore": Case(b"Content_Length: 1000"),
    "the same length twice": Case(CL + b"\r\n" + CL),
    "chunked and a length": Case(TE + b"\r\nContent-Length: 100"),
    "gzip and a length": Case(b"Transfer-Encoding: gzip\r\nContent-Length: 100"),
    "GET with a length": get(CL),
    "GET in chunks": get(TE),
    "HEAD with a length": Case(CL, b"HEAD", b"/healthz"),
    "HEAD in chunks": Case(TE, b"HEAD", b"/healthz"),
    "the coding's name ends in a blank; a length": Case(b"Transfer-Encoding : chunked\r\n" + CL),
    "the coding's name begins with a blank; a length": Case(b" Transfer-Encoding: chunked\r\n" + CL),
    "both names begin with a blank": Case(b" Transfer-Encoding: chunked\r\n " + CL),
    "both names end in a blank": Case(b"Transfer-Encoding : chunked\r\nContent-Length : 1000"),
    "the coding's name goes on after a blank": Case(b"Transfer-Encoding x: chunked"),
    "the coding's name goes on after a blank, in capitals": Case(b"transfer-encoding XY: chunked"),
    "the coding's name ends in a blank and 0x01": Case(b"Transfer-Encoding \x01: chunked"),
    "an empty name": Case(b": chunked\r\n" + CL),
    "a name that begins with a colon": Case(b":X-Note:Transfer-Encoding:: chunked\r\n" + CL),
    "a name of blanks": Case(b"   \t\t  : chunked\r\n" + CL),
    "chunks in HTTP/1.0": Case(TE, version=b" HTTP/1.0"),
    "chunks in HTTP/0.9": Case(TE, version=b" HTTP/0.9"),
    "a length in HTTP/0.9": Case(CL, version=b" HTTP/0.9"),
    "chunks without a version": Case(TE, version=b" "),
    "a length without a version": Case(CL, version=b" "),
    "the coding's name with a long s": Case("Tran\u017ffer-Encoding: chunked".encode()),
    "the coding's name with a dotless i": Case("Transfer-Encod\u0131ng: chunked".encode()),
    "the coding's name with three hyphens": Case(b"Transfer---Encoding: chunked"),
    "the coding's name with three underscores": Case(b"Transfer___Encoding: chunked"),
    "wide blanks before the coding's name": Case("\u2003\u2003Transfer-Encoding: chunked".encode()),
    "wide blanks after the length's name": Case("Content-Length\u2003\u2003: 1000".encode()),
    "a wide dash in the coding's name": Case("Transfer\u2015Encoding: chunked".encode()),
    "0x88 after the coding's name": Case(b"Transfer-Encoding\x88: chunked"),
    "0xa0 before the length's name": Case(b"\xa0Content-Length: 1000"),
    "0x01 before the coding's name, after another header": Case(X + b"a\r\n\x01" + TE),
    "0x01 after the coding's name": Case(X + b"a\r\nTransfer-Encoding\x01: chunked"),
    "0x01 before the length's name, after another header": Case(X + b"a\r\n\x01" + CL),
    "0x01 after the length's name": Case(X + b"a\r\nContent-Length\x01: 1000"),
    "GET in chunks, and a bad value elsewhere": get(X + b"a\x01\r\n" + TE),
    "HEAD with a length, and a bad value elsewhere": Case(X + b"a\x01\r\nContent-Length: 9000", b"HEAD", b"/healthz"),
    "GET with a length, a tab in the target": get(X + b"a\x01\r\nContent-Length: 9000", target=GET_TARGET + b"\t/baz"),
    "a tab in the target": get(target=GET_TARGET + b"\tHTTP/1.1"),
    "0x01 in the target": get(target=GET_TARGET + b"\x01HTTP/1.1"),
    "GET as a browser sends it, with a length": get(b"Accept: */*\r\nConnection: keep-alive\r\nContent-Length: 22"),
    "GET as a browser sends it, in chunks": get(b"Accept: */*\r\nConnection: keep-alive\r\n" + TE),
    "chunks in HTTP/1.0 with keep-alive": Case(b"Connection: keep-alive\r\n" + TE, version=b" HTTP/1.0"),
    "the same small length twice": Case(b"Content-Length: 5\r\nContent-Length: 5"),
    "a length, then chunked": Case(b"Content-Length: 4\r\n" + TE),
    "the coding's name ends in a tab; a length": Case(b"Transfer-Encoding\t: chunked\r\nContent-Length: 4"),
    "deflate and a length": Case(b"Transfer-Encoding: deflate\r\nContent-Length: 4"),
    "five codings, the last of them chunked": Case(
        b"".join(b"Transfer-Encoding: %b\r\n" % coding for coding in (b"gzip", b"deflate", b"identity", b"compress"))
        + TE
        + b"\r\nContent-Length: 4"
    ),
    "chunked with a parameter, between tabs": Case(
        b"Transfer-Encoding: \t\t\t\tchunked;own;\t\t\t\t\r\nContent-Length: 4"
    ),
    "chunked in mixed case, length 4": Case(b"TrAnSfEr-EnCoDiNg: ChUnKeD\r\nContent-Length: 4"),
    "chunked in mixed case, length 6": Case(b"TrAnSfEr-EnCoDiNg: ChUnKeD\r\nContent-Length: 6"),
}

ACCEPTED_ELSEWHERE: dict[str, Case] = {
    "a length with a plus": Case(b"Content-Length: +1000"),
    "a length in hexadecimal": Case(b"Content-Length: 0x3e8"),
    "a negative length": Case(b"Content-Length: -1"),
    "an empty length": Case(b"Content-Length:"),
    "a length with an underscore": Case(b"Content-Length: 1_000"),
    "a length in Arabic digits": Case("Content-Length: \u0661\u0660\u0660\u0660".encode()),
    "chunked, then identity": Case(b"Transfer-Encoding: chunked, identity"),
    "gzip, then chunked": Case(b"Transfer-Encoding: gzip, chunked"),
    "chunked with the Kelvin sign for its k": Case("Transfer-Encoding: chun\u212aed".encode(), body=chunked(BODY)),
    "chunked in quotes": Case(b'Transfer-Encoding: "chunked"'),
    "an empty coding": Case(b"Transfer-Encoding:\r\nX-Note: chunked"),
    "line feeds for line ends": Case(CL + b"\nX-Note: a"),
    "two Hosts": Case(b"Host: other\r\n" + CL),
    "a Host with a path": get(b"", target=b"/v1/models HTTP/1.1\r\nHost: a/admin?x="),
    "two credentials of one name": Case(b"Authorization: Bearer x\r\n" + CL),
    "TRACE": Case(b"", b"TRACE", GET_TARGET),
    "CONNECT": Case(b"", b"CONNECT", b"gateway:443"),
    "an absolute target": get(target=b"http://other/v1/models"),
    "an asterisk for a target": Case(b"", b"OPTIONS", b"*"),
    "a null in the path": get(target=b"/v1/models%00"),
    "an escaped line end in the path": get(target=b"/v1/models%0d%0aHost:%20other"),
    "an escaped step of the path": get(target=b"/v1%2f..%2fadmin"),
    "an escape of an escape": get(target=b"/v1/%256dodels"),
    "a fragment": get(target=b"/v1/models#x"),
    "a tab in the query": get(target=b"/v1/models?a=\tHTTP/1.1"),
    "an empty line first": Case(b"", b"\r\nGET", GET_TARGET),
    "a lower-case method": Case(CL, b"post"),
    "an expectation that is none": Case(b"Expect: x 100-continue\r\n" + CL),
    "two expectations": Case(b"Expect: 100-continue\r\nExpect: 100-continue\r\n" + CL),
    "HTTP/2 without asking": Case(b"", b"PRI", b"*", b" HTTP/2.0"),
    "a version below": get(version=b" HTTP/1.1.1"),
    "a version above": get(version=b" HTTP/1.2"),
}

CHUNKS: dict[str, bytes] = {
    "a line feed ends the size": b"3e8\n%b\r\n0\r\n\r\n",
    "a carriage return ends the size": b"3e8\r%b\r\n0\r\n\r\n",
    "a line feed ends the data": b"3e8\r\n%b\n0\r\n\r\n",
    "nothing ends the data": b"3e8\r\n%b0\r\n\r\n",
    "two other bytes end the data": b"3e8\r\n%bXX0\r\n\r\n",
    "line feeds end the body": b"3e8\r\n%b\r\n0\n\n",
    "a line feed within an extension": b"3e8;a\nb\r\n%b\r\n0\r\n\r\n",
    "a carriage return within an extension": b"3e8;a\rb\r\n%b\r\n0\r\n\r\n",
    "an extension that is too long": b"3e8;" + b"a" * 300 + b"\r\n%b\r\n0\r\n\r\n",
    "an extension without a name": b"3e8;\r\n%b\r\n0\r\n\r\n",
    "a null within an extension": b"3e8;a\x00\r\n%b\r\n0\r\n\r\n",
    "a size beyond 32 bits": b"1000003e8\r\n%b\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"100000000000003e8\r\n%b\r\n0\r\n\r\n",
    "a size with leading zeros beyond measure": b"0" * 40 + b"3e8\r\n%b\r\n0\r\n\r\n",
    "a size with a plus": b"+3e8\r\n%b\r\n0\r\n\r\n",
    "a negative size": b"-3e8\r\n%b\r\n0\r\n\r\n",
    "a size that says it is hexadecimal": b"0x3e8\r\n%b\r\n0\r\n\r\n",
    "a size with an underscore": b"3_e8\r\n%b\r\n0\r\n\r\n",
    "a blank before the size": b" 3e8\r\n%b\r\n0\r\n\r\n",
    "a blank after the size": b"3e8 \r\n%b\r\n0\r\n\r\n",
    "a tab after the size": b"3e8\t\r\n%b\r\n0\r\n\r\n",
    "an empty size": b"\r\n%b\r\n0\r\n\r\n",
    "a size that is none": b"xyz\r\n%b\r\n0\r\n\r\n",
    "a size in wide digits": "\uff13e8".encode() + b"\r\n%b\r\n0\r\n\r\n",
    "a trailer that is a length": b"3e8\r\n%b\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a trailer that is a coding": b"3e8\r\n%b\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer that is a host": b"3e8\r\n%b\r\n0\r\nHost: other\r\n\r\n",
    "a trailer that is a credential": b"3e8\r\n%b\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "a trailer that is a request": b"3e8\r\n%b\r\n0\r\nGET /v1/models HTTP/1.1\r\n\r\n",
    "a trailer with a line feed": b"3e8\r\n%b\r\n0\r\nX-Note: a\nX: b\r\n\r\n",
    "a folded trailer": b"3e8\r\n%b\r\n0\r\nX-Note: a\r\n b\r\n\r\n",
    "trailers without end": b"3e8\r\n%b\r\n0\r\n" + b"X-Note: a\r\n" * 600 + b"\r\n",
}

ALL: dict[str, Case] = {
    **{f"severe: {name}": case for name, case in SEVERE.items()},
    **{f"ambiguous: {name}": case for name, case in AMBIGUOUS.items()},
    **{f"accepted elsewhere: {name}": case for name, case in ACCEPTED_ELSEWHERE.items()},
    **{f"chunks: {name}": Case(TE, body=data.replace(b"%b", BODY)) for name, data in CHUNKS.items()},
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, simulator: RunningSimulator) -> Iterator[Edge]:
    with running_edge(tmp_path_factory.mktemp("edge"), simulator) as running:
        yield running


def behind(edge: Edge) -> bytes:
    """The honest request that follows, the last one on its connection."""
    return edge.head("GET", "/v1/models", "connection: close\r\n")


def test_the_tables_are_whole() -> None:
    assert (len(SEVERE), len(AMBIGUOUS)) == (58, 60)


@pytest.mark.parametrize(
    "case",
    [Case(CL), Case(TE), Case(b"Transfer-Encoding: \tChunked "), Case(TE + b"\r\nX-Transfer-Encoding: gzip"), get()],
)
def test_framed_honestly_both_are_served(edge: Edge, case: Case) -> None:
    assert statuses(edge.exchange(case.request(edge.inner.key) + behind(edge))) == [200, 200]


def test_harmless_trailers_and_extensions_are_read_over(edge: Edge) -> None:
    body = b'3e8;a=1;b="c d"\r\n%b\r\n00\r\nX-Checksum: abc\r\nX-Empty:\r\n\r\n' % BODY
    assert statuses(edge.exchange(Case(TE, body=body).request(edge.inner.key) + behind(edge))) == [200, 200]


@pytest.mark.parametrize("name", ALL)
def test_none_is_served_and_nothing_behind_it(edge: Edge, name: str) -> None:
    before = edge.calls()
    answer = edge.exchange(ALL[name].request(edge.inner.key) + behind(edge))
    (status,) = statuses(answer)
    assert 400 <= status < 500, answer
    # For how it is framed, and not because something else is wrong with it.
    assert any(code in answer for code in FRAMING), answer
    assert b"connection: close\r\n" in answer
    assert b'"object":"list"' not in answer
    assert edge.calls() == before


# -- behind a proxy


class Front(NamedTuple):
    """A proxy in front of the gateway, which keeps its connections to it. `log` names the file of its requests."""

    name: str
    log: Path
    attempts: Callable[[str], int]
    """How often the request of this line of the log was sent to the gateway."""
    port: int

    def forwarded(self) -> int:
        """Requests that it has sent to the gateway, each attempt counted."""
        return sum(self.attempts(line) for line in self.log.read_text().splitlines())


@contextlib.contextmanager
def proxying(directory: Path, command: list[str | Path], port: int) -> Iterator[None]:
    """The proxy of this command, once it listens, until the end of the block."""
    with (directory / "access.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, f"{command[0]} does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def nginx(directory: Path, port: int) -> Iterator[Front]:
    front = free_port()
    (directory / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format attempts "$upstream_status"; access_log {directory}/access.log attempts;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream gateway {{ server 127.0.0.1:{port}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{front};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $host; proxy_request_buffering off;
    }}
  }}
}}
""")

    def attempts(line: str) -> int:
        return 0 if line in {"", "-"} else line.count(",") + 1

    with proxying(directory, [NGINX, "-p", directory, "-c", directory / "nginx.conf"], front):
        yield Front("nginx", directory / "access.log", attempts, front)


@contextlib.contextmanager
def haproxy(directory: Path, port: int) -> Iterator[Front]:
    front = free_port()
    (directory / "haproxy.cfg").write_text(f"""
global
  log stdout format raw local0
defaults
  mode http
  log global
  log-format "%s %rc"
  timeout connect 5s
  timeout client 5s
  timeout server 5s
  http-reuse always
frontend callers
  bind 127.0.0.1:{front}
  default_backend gateways
backend gateways
  server gateway 127.0.0.1:{port}
""")

    def attempts(line: str) -> int:
        server, retries = line.split()
        return int(retries) + 1 if server == "gateway" else 0

    with proxying(directory, [HAPROXY, "-db", "-f", directory / "haproxy.cfg"], front):
        yield Front("HAProxy", directory / "access.log", attempts, front)


def behind_proxy(
    directory: Path, simulator: RunningSimulator, proxy: Callable[[Path, int], AbstractContextManager[Front]]
) -> None:
    """What a proxy forwards and what the gateway takes for a request are counted apart, and are the same number.

    Behind each case an honest request from somebody else, over the same connections of the proxy, gets its own answer.
    """
    passed_on = 0
    with running_edge(directory, simulator) as edge, proxy(directory, edge.port) as front:
        read, heads = edge.listener.heads.read, 0

        def counted(data: bytes) -> Head:
            nonlocal heads
            heads += 1
            return read(data)

        edge.listener.heads.read = counted  # type: ignore[method-assign]
        for name, case in ALL.items():
            before = heads
            with socket.create_connection(("127.0.0.1", front.port), timeout=5) as caller:
                caller.sendall(case.request(edge.inner.key) + behind(edge))
                # A proxy waits for more where it reads a longer body than there is.
                caller.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    read_all(caller)
            passed_on += heads > before
            with socket.create_connection(("127.0.0.1", front.port), timeout=5) as other:
                other.sendall(behind(edge))
                honest = read_all(other)
            assert statuses(honest) == [200], (name, honest)
            assert b'"object":"list"' in honest, name
            end = time.monotonic() + 2
            while heads != front.forwarded() and time.monotonic() < end:
                time.sleep(0.01)
            assert heads == front.forwarded(), name
    print(
        f"\nbehind {front.name}: {len(ALL)} cases, {front.name} refused {len(ALL) - passed_on} and passed {passed_on} "
        f"on in its own framing; {heads} requests forwarded, {heads} read by the gateway"
    )


@pytest.mark.soak
@pytest.mark.skipif(not NGINX.exists(), reason="nginx is not installed")
def test_behind_nginx_no_request_appears_that_it_did_not_send(tmp_path: Path, simulator: RunningSimulator) -> None:
    behind_proxy(tmp_path, simulator, nginx)


@pytest.mark.soak
@pytest.mark.skipif(not HAPROXY.exists(), reason="HAProxy is not installed")
def test_behind_haproxy_no_request_appears_that_it_did_not_send(tmp_path: Path, simulator: RunningSimulator) -> None:
    behind_proxy(tmp_path, simulator, haproxy)
