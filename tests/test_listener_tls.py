"""The listener over TLS: its handshakes, and callers who take a reply slowly or not at all.

What is encrypted lies below the transport that a connection sees, so whether it is taken is found out differently.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from costbearer.simulator import RunningSimulator, running_simulator
from tests.edges import Edge, read_all, read_reply, running_edge, statuses

STALL_S = 0.6
LARGE = "output=60000"
"""A reply of some 200 kB, more than the system keeps for a caller who does not read."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as running:
        yield running


@pytest.fixture(scope="module")
def certificates() -> tuple[ssl.SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, authority


@pytest.fixture
def edge(
    tmp_path: Path, simulator: RunningSimulator, certificates: tuple[ssl.SSLContext, trustme.CA]
) -> Iterator[Edge]:
    with running_edge(tmp_path, simulator, tls=certificates[0], stall_timeout_s=STALL_S) as running:
        yield running


def connected(edge: Edge, authority: trustme.CA) -> ssl.SSLSocket:
    """A caller for whom the system keeps little."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return trusting.wrap_socket(edge.connect(receive_bytes=4096), server_hostname="127.0.0.1")


def test_tls(tmp_path: Path, simulator: RunningSimulator, certificates: tuple[ssl.SSLContext, trustme.CA]) -> None:
    context, authority = certificates
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    old = ssl.create_default_context()
    authority.configure_trust(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with running_edge(tmp_path, simulator, tls=context) as edge:
        with trusting.wrap_socket(edge.connect(), server_hostname="127.0.0.1") as caller:
            assert caller.version() == "TLSv1.3"
            caller.sendall(edge.request() + edge.request(lines="connection: close\r\n"))
            assert statuses(read_all(caller)) == [200, 200]
        with pytest.raises(ssl.SSLError), old.wrap_socket(edge.connect(), server_hostname="127.0.0.1"):
            pass
        with edge.connect() as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            assert b"HTTP/1.1" not in read_all(plain)
        # Whoever fails at the handshake, or leaves in it, is counted no longer.
        edge.connect().close()
        edge.await_connections(0)
        assert edge.inside(lambda: (dict(edge.listener._clients), len(edge.listener._shaking))) == ({}, 0)


@pytest.mark.parametrize("lines", ["", "connection: close\r\n"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_takes_nothing_is_given_up(
    edge: Edge, certificates: tuple[ssl.SSLContext, trustme.CA], stream: bool, lines: str
) -> None:
    with connected(edge, certificates[1]) as caller:
        caller.sendall(edge.request(f"{LARGE} chunks=600", max_tokens=60000, stream=stream, lines=lines))
        edge.until(lambda: any(each._transport.get_extra_info("socket") for each in edge.listener._open))
        edge.until(lambda: not edge.listener._open)


@pytest.mark.parametrize("lines", ["", "connection: close\r\n"])
def test_a_caller_who_takes_it_slowly_gets_it_all(
    edge: Edge, certificates: tuple[ssl.SSLContext, trustme.CA], lines: str
) -> None:
    """For longer than any deadline of a reply, at 96 kB a second."""
    with connected(edge, certificates[1]) as caller:
        caller.sendall(edge.request(LARGE, max_tokens=60000, lines=lines))
        answer = bytearray()
        began = time.monotonic()
        while not answer.endswith(b"}}}"):
            piece = caller.recv(4096)
            assert piece, f"cut after {len(answer)} bytes"
            answer += piece
            time.sleep(len(piece) / 96_000)
        assert time.monotonic() - began > 3 * STALL_S
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head
        if not lines:
            # What is idle afterwards is idle, and no caller who takes nothing.
            time.sleep(2 * STALL_S + 0.3)
            caller.sendall(edge.head("GET", "/v1/models"))
            assert statuses(read_reply(caller)) == [200]
