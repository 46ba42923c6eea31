"""The reader of heads and of chunks: what it takes, what it refuses, and that pieces make no difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costbearer.errors import BodyInvalid, CallRefused
from costbearer.gateway import http1
from costbearer.gateway.http1 import Chunks, Clock, Head, HeadReader, reply_head

READER = HeadReader()
ARN = "arn:aws:bedrock:us-east-1:1:inference-profile/us.x"


def read(*lines: str | bytes, line: str = "GET /v1/models HTTP/1.1", host: bool = True) -> Head:
    """The head with these headers behind its Host."""
    head = [line, *(["Host: gateway"] if host else []), *lines]
    return READER.read(b"\r\n".join(part if isinstance(part, bytes) else part.encode() for part in head))


def code(*lines: str | bytes, line: str = "GET /v1/models HTTP/1.1", host: bool = True) -> str:
    with pytest.raises(CallRefused) as caught:
        read(*lines, line=line, host=host)
    return caught.value.code


# -- the request line


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/v1/models", "/v1/models", ""),
        ("/v1/models?", "/v1/models", ""),
        ("/v1/models?a=b&c=%20d?e", "/v1/models", "a=b&c=%20d?e"),
        ("/v1/models/gemini-2.5-pro:generateContent?alt=sse", "/v1/models/gemini-2.5-pro:generateContent", "alt=sse"),
        ("/v1/files/a%20b", "/v1/files/a b", ""),
        ("/v1/files/%7Eada", "/v1/files/~ada", ""),
        ("/v1/files/a+b", "/v1/files/a+b", ""),
        ("/model/a%3Ab%2Fc/converse", "/model/a:b/c/converse", ""),
        (
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/converse",
            f"/model/{ARN}/converse",
            "",
        ),
    ],
)
def test_targets(target: str, path: str, query: str) -> None:
    head = read(line=f"POST {target} HTTP/1.1")
    assert (head.method, head.path, head.query) == ("POST", path, query)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/2.0",
        "GET v1 HTTP/1.1",
        "GET http://gateway/v1 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /a?b#c HTTP/1.1",
        "GET /a?b\tc HTTP/1.1",
        "GET /a?\u00fc HTTP/1.1",
        "GET /\u00fc HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a|b HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /% HTTP/1.1",
        "GET /%4 HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET /%0d%0a HTTP/1.1",
        "GET /%7f HTTP/1.1",
        "GET /%25 HTTP/1.1",
        "GET /%252f HTTP/1.1",
        "GET /%5c HTTP/1.1",
        "GET /%c3%bc HTTP/1.1",
        "GET /v1%2Fmodels HTTP/1.1",
        "GET /v1%2fmodels HTTP/1.1",
        "GET /x/model/%2f HTTP/1.1",
    ],
)
def test_targets_and_versions_that_are_refused(line: str) -> None:
    assert code(line=line) == "request_malformed"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "get", "PRI", "GETT", ""])
def test_methods_that_are_not_answered(method: str) -> None:
    assert code(line=f"{method} / HTTP/1.1") == "method_refused"


def test_sizes() -> None:
    room = http1.TARGET_BYTES_MAX - 1
    assert len(read(line=f"GET /{'a' * room} HTTP/1.1").path) == room + 1
    assert code(line=f"GET /{'a' * (room + 1)} HTTP/1.1") == "target_too_long"
    assert len(read(*["a: b"] * (http1.HEADERS_MAX - 1)).headers) == 2
    assert code(*["a: b"] * http1.HEADERS_MAX) == "headers_too_large"
    assert code("a: " + "b" * http1.HEAD_BYTES_MAX) == "headers_too_large"


# -- headers


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X-Note: a", "a"),
        ("x-NOTE:a", "a"),
        ("X-Note: \t a b\t ", "a b"),
        ("X-Note:", ""),
        ("X-Note: a:b", "a:b"),
        ("X-Note: a\tb", "a\tb"),
        ("X-Note: Zo\u00eb \u4e2d", "Zo\u00eb \u4e2d"),
        (b"X-Note: Zo\xeb", "Zo\u00eb"),
        ("X-Note: \u00a0a\u00a0", "\u00a0a\u00a0"),
        ("X-Note: a\u0085b\u2028c", "a\u0085b\u2028c"),
    ],
)
def test_values(line: str | bytes, value: str) -> None:
    assert read(line).headers == {"host": "gateway", "x-note": value}


def test_several_of_a_name_are_joined_but_not_where_one_alone_may_be() -> None:
    assert read("Accept: a ", "accept:\tb").headers["accept"] == "a,b"
    for name in sorted(http1.SINGLE_HEADERS - {"host"}):
        assert code(f"{name}: chunked", f"{name.upper()}: chunked", line="POST / HTTP/1.1") == "header_invalid"


@pytest.mark.parametrize(
    "line",
    [
        "X-Note",
        "",
        ": a",
        " X-Note: a",
        "\tX-Note: a",
        "X-Note : a",
        "X-Note\t: a",
        "X Note: a",
        "X(Note): a",
        "X\u00fc: a",
        b"X\xff: a",
        b"X: a\x00",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x7f",
        b"X: a\x1b",
        b"X: a\r\r\n\nY: b",
        "Transfer_Encoding: chunked",
        "Content.Length: 5",
        "ContentLength: 5",
        "Transfer-Length: 5",
    ],
)
def test_lines_that_are_no_headers(line: str | bytes) -> None:
    assert code(line) == "request_malformed"


@pytest.mark.parametrize(
    "host", ["gateway", "gateway:4000", "127.0.0.1:1", "[::1]", "[::1]:4000", "a_b.example.", "xn--bcher-kva.example"]
)
def test_hosts(host: str) -> None:
    assert read(f"Host: {host}", host=False).headers["host"] == host


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a:b", "a:123456", "::1", "[::1", "a,b", "\u00fc", "a?b"])
def test_hosts_that_are_none(host: str) -> None:
    assert code(f"Host: {host}", host=False) == "header_invalid"


def test_there_is_a_host_but_in_http_1_0() -> None:
    assert code(host=False) == "header_invalid"
    old = read(host=False, line="GET / HTTP/1.0")
    assert (old.http_1_0, old.keep_alive) == (True, False)
    assert not read("Connection: keep-alive", line="GET / HTTP/1.0").keep_alive
    assert code("Host: a b", host=False, line="GET / HTTP/1.0") == "header_invalid"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((), True),
        (("Connection: keep-alive",), True),
        (("Connection: Close",), False),
        (("Connection: te, close",), False),
        (("Connection: te", "Connection: close"), False),
    ],
)
def test_whether_the_connection_is_kept(lines: tuple[str, ...], kept: bool) -> None:
    assert read(*lines).keep_alive is kept


def test_an_expectation_is_of_one_kind() -> None:
    assert read("Expect: 100-Continue").headers["expect"] == "100-Continue"
    for value in ("", "100-continue, x", "x 100-continue", "200-ok"):
        assert code(f"Expect: {value}") == "header_invalid"


# -- where the body ends


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((), 0),
        (("Content-Length: 0",), 0),
        (("Content-Length: 007",), 7),
        (("Content-Length: 999999999999999",), 999999999999999),
        (("Transfer-Encoding: chunked",), None),
        (("Transfer-Encoding: CHUNKED",), None),
    ],
)
def test_lengths(lines: tuple[str, ...], length: int | None) -> None:
    assert read(*lines, line="POST / HTTP/1.1").length == length


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        *(
            ("request_malformed", (f"Content-Length: {value}",))
            for value in ("", "-1", "+1", "1 1", "1,1", "0x1", "1.0", "1e3", "1_0", "\u0661", "\u00b2", "9" * 16)
        ),
        *(
            ("body_invalid", (f"Transfer-Encoding: {value}",))
            for value in ("", "gzip", "identity", "chunked, chunked", "gzip, chunked", "chunked;q=1", "chun\u212aed")
        ),
        ("request_malformed", ("Transfer-Encoding: chunked", "Content-Length: 1")),
        ("request_malformed", ("Content-Length: 0", "Transfer-Encoding: chunked")),
    ],
)
def test_lengths_that_are_none(expected: str, lines: tuple[str, ...]) -> None:
    assert code(*lines, line="POST / HTTP/1.1") == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_asks_for_something_brings_nothing(method: str) -> None:
    line = f"{method} / HTTP/1.1"
    assert read("Content-Length: 0", line=line).length == 0
    assert code("Content-Length: 1", line=line) == "request_malformed"
    assert code("Transfer-Encoding: chunked", line=line) == "request_malformed"
    assert read("Content-Length: 1", line="DELETE / HTTP/1.1").length == 1


def test_http_1_0_knows_no_chunks() -> None:
    assert code("Transfer-Encoding: chunked", line="POST / HTTP/1.0") == "request_malformed"
    assert read("Content-Length: 3", line="POST / HTTP/1.0").length == 3


# -- everything at once

TOKENS = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(lambda text: text.strip(" \t"))
PATHS = st.text("abz09._~!$&'()*+,;=:@/-", max_size=20).map(lambda text: "/" + text)


@given(
    method=st.sampled_from(sorted(http1.METHODS)),
    path=PATHS,
    query=st.text('abz09%&=?/-._~[]"{}|', max_size=20),
    headers=st.dictionaries(TOKENS.map(str.lower), VALUES, max_size=6),
)
def test_what_is_read_means_the_same_when_it_is_written_again(
    method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    headers = {"host": "gateway", **{f"x-{name}": value for name, value in headers.items()}}

    def written(path: str, query: str, headers: dict[str, str]) -> bytes:
        target = path + ("?" + query if query else "")
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode()

    head = READER.read(written(path, query, headers))
    assert (head.method, head.path, head.query, head.headers) == (method, path, query, headers)
    assert READER.read(written(head.path, head.query, head.headers)) == head


@given(st.binary(max_size=200), st.integers(0, 60))
def test_whatever_comes_is_read_or_refused(noise: bytes, at: int) -> None:
    """Nothing else is raised, and nothing that is read holds a line end or an upper-case name."""
    good = b"POST /v1/files/a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Length: 5"
    for data in (noise, good[:at] + noise[:3] + good[at:], good[:at] + noise[:3] + good[at + 3 :]):
        try:
            head = READER.read(data)
        except CallRefused:
            continue
        assert head.path.isascii() and head.path.startswith("/") and head.method in http1.METHODS
        for name, value in head.headers.items():
            assert name == name.lower() and not {"\r", "\n", "\0"} & set(name + value)
        assert head.length is None or 0 <= head.length < 10**http1.LENGTH_DIGITS_MAX


def test_header_names_are_remembered_and_few() -> None:
    reader = HeadReader()
    for number in range(http1.HEADER_NAMES_KNOWN_MAX * 2):
        head = reader.read(f"GET / HTTP/1.1\r\nHost: a\r\nX-{number}: b".encode())
        assert head.headers[f"x-{number}"] == "b"
    assert len(reader._names) == http1.HEADER_NAMES_KNOWN_MAX


# -- chunks


def parted(data: bytes, cuts: list[int]) -> tuple[bytes, Chunks]:
    """The body out of these bytes, fed in pieces."""
    chunks, body = Chunks(), bytearray()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if chunks.over:
            return bytes(body), chunks
        body += chunks.feed(data[begin:end])
    return bytes(body), chunks


@st.composite
def _framed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(the body, its chunks with sizes, extensions and trailers as senders may write them)."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    extension = st.sampled_from([b"", b";a", b";a=1", b';a="b c";d'])
    out = bytearray()
    for part in parts:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(part)
        out += size + draw(extension) + b"\r\n" + part + b"\r\n"
    out += b"0" * draw(st.integers(1, 3)) + draw(extension) + b"\r\n"
    out += b"".join(draw(st.lists(st.sampled_from([b"X-Sum: 5\r\n", b"a:\r\n"]), max_size=3))) + b"\r\n"
    return b"".join(parts), bytes(out)


@given(_framed(), st.data())
def test_pieces_make_no_difference(framed: tuple[bytes, bytes], data: st.DataObject) -> None:
    body, sent = framed
    rest = b"GET / HTTP/1.1"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    found, chunks = parted(sent + rest, cuts)
    assert (found, chunks.over) == (body, True)
    assert chunks.rest == (b"" if cuts and cuts[-1] == len(sent) else rest)
    one_by_one, last = parted(sent, list(range(1, len(sent))))
    assert (one_by_one, last.over, last.rest) == (body, True, b"")
    # Before its last byte it is never over.
    assert not parted(sent[:-1], [])[1].over


BROKEN = (
    b"\r\n", b"g\r\n", b"5 \r\n", b" 5\r\n", b"+5\r\n", b"-5\r\n", b"0x5\r\n", b"5\n\r\n", b"5;\r\n", b"5;\x00\r\n",
    b"5;a\nb\r\n", b"5;a\rb\r\n", b"123456789\r\n", b"5" + b";" + b"a" * 300, b"1\r\nab\r\n", b"1\r\na\n0\r\n",
    b"1\r\na0\r\n\r\n", b"0\r\nno colon\r\n", b"0\r\n: a\r\n", b"0\r\n a: b\r\n", b"0\r\na: b\x00\r\n",
    b"0\r\na: b\nc\r\n", b"0\r\nContent-Length: 5\r\n", b"0\r\nhost: a\r\n", b"0\r\n" + b"a: b\r\n" * 2000,
)  # fmt: skip


@pytest.mark.parametrize("data", BROKEN)
def test_chunks_that_are_broken(data: bytes) -> None:
    with pytest.raises(BodyInvalid):
        Chunks().feed(data)
    with pytest.raises(BodyInvalid):
        parted(data, list(range(1, len(data))))


# -- replies


def test_reply_heads() -> None:
    assert reply_head(200, [("a", "b"), ("c", "d")]) == b"HTTP/1.1 200 OK\r\na: b\r\nc: d\r\n\r\n"
    assert reply_head(529, []) == b"HTTP/1.1 529 \r\n\r\n"
    assert reply_head(429, [("a", "\u4e2d\u00eb")]) == b"HTTP/1.1 429 Too Many Requests\r\na: ?\xeb\r\n\r\n"


def test_the_date_moves_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, now = Clock(), 0.0
    monkeypatch.setattr("costbearer.gateway.http1.time.time", lambda: now)
    assert clock.header() == ("date", "Thu, 01 Jan 1970 00:00:00 GMT")
    now = 1.5
    assert clock.header() == ("date", "Thu, 01 Jan 1970 00:00:01 GMT")
