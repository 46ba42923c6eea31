"""One caller's connection: one request at a time, and how long anything of it may take.

A connection is also the *wire* its request is answered on: it holds one request until that is over, so nothing is made
anew for it. Everything a caller can hold open has a deadline: the head of a request, its body, an idle connection, a
reply that is not taken. Whoever accepted the connection watches them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal, Protocol, cast

from costbearer.errors import (
    BodyInvalid,
    CallRefused,
    HeadersTooLarge,
    RateLimited,
    RequestTimeout,
    ShuttingDown,
)
from costbearer.gateway import pipeline
from costbearer.gateway.edge import Leaver
from costbearer.gateway.http1 import (
    CLOSE,
    CONTINUE,
    END,
    HEAD_BYTES_MAX,
    NO_BODY,
    Clock,
    Head,
    HeadReader,
    reply_head,
    seeming_path,
)
from costbearer.gateway.incoming import IncomingBody
from costbearer.gateway.worker import Worker

HEAD_TIMEOUT_S = 15.0
"""For a whole head, from the connection or from its first byte."""
IDLE_TIMEOUT_S = 75.0
"""How long a connection is kept between two requests."""
LINGER_S = 1.0
LINGER_BYTES_MAX = 1024 * 1024
"""How long, and how much of what nobody reads any more, is awaited before a connection is closed behind a refusal: one
that is closed under bytes still coming loses the refusal with them."""
READ_AHEAD_BYTES = 64 * 1024
"""What a caller may send of its next requests before the one under way is answered."""
STALL_BYTES = 16 * 1024
"""A caller who takes less of a waiting reply than this in `gateway.stall_timeout_s` is given up."""
_TCP_INFO = struct.Struct("=24xI92xQ16xI")
"""Of Linux's `struct tcp_info`: segments not acknowledged yet, bytes acknowledged, bytes not sent yet."""

Waiting = Literal["head", "idle", "body", "reply", "linger", ""]


class Acceptor(Protocol):
    """Who let the connection in: what all connections share, and who counts them."""

    worker: Worker
    heads: HeadReader
    clock: Clock
    closing: bool
    body_bytes_free: int
    body_timeout_s: float
    stall_timeout_s: float

    def remember(self, connection: CallerConnection) -> None: ...

    def forget(self, connection: CallerConnection) -> None: ...


class CallerConnection(asyncio.Protocol):
    """One caller's connection, and the wire on which the request it carries is answered.

    Attributes:
        client: the address it comes from.
        head: the request it carries.
        gone: the caller has left; what is written goes nowhere.
        paused: the caller does not take what is written; `drained` waits until it does.
        caller: whom to tell that the caller leaves.
        deadline: when what is waited for must have come, by the loop's clock; 0 where nothing is.
    """

    __slots__ = (
        "_acceptor",
        "_acknowledged",
        "_answered",
        "_body",
        "_coming",
        "_discarded",
        "_drain_waiter",
        "_incoming",
        "_keep",
        "_loop",
        "_streaming",
        "_task",
        "_tls",
        "_transport",
        "_unread",
        "_unsent",
        "_waiting",
        "caller",
        "client",
        "counted",
        "deadline",
        "excess",
        "gone",
        "head",
        "paused",
    )

    _transport: asyncio.Transport
    head: Head

    def __init__(self, acceptor: Acceptor, client: str, *, excess: bool) -> None:
        """`excess`: the address has more connections than it may; the first request is told so."""
        self._acceptor = acceptor
        self._loop = acceptor.worker.loop
        self.client = client
        self.excess = excess
        self.counted = True
        self.gone = False
        self.paused = False
        self.caller: Leaver | None = None
        self.deadline = 0.0
        self._waiting: Waiting = ""
        self._task: asyncio.Task[None] | None = None
        self._unread = b""
        self._discarded = 0
        self._unsent = self._acknowledged = 0
        self._tls = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self._forget_request()

    def _forget_request(self) -> None:
        self._body: bytes | None = None
        self._incoming: IncomingBody | None = None
        self._coming: IncomingBody | None = None
        """The same until it is whole: what arrives is of it."""
        self._answered = self._streaming = self._keep = False

    def _wait_for(self, what: Waiting, seconds: float) -> None:
        self._waiting, self.deadline = what, self._loop.time() + seconds

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._acceptor.remember(self)
        self._wait_for("head", HEAD_TIMEOUT_S)
        if self._acceptor.closing:
            self._close()

    def data_received(self, data: bytes) -> None:
        if self._waiting == "linger":
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES_MAX:
                self.abort()
        elif self._coming is not None:
            self._take(self._coming, data)
        elif self._task is not None or self.paused:
            # One at a time: nothing is begun for a caller who is being answered, or who does not take the answer.
            self._unread += data
            if len(self._unread) > READ_AHEAD_BYTES:
                self._transport.pause_reading()
        elif self._unread:
            self._begin(self._unread + data, len(self._unread) - len(END))
        else:
            if self._waiting == "idle":
                self._wait_for("head", HEAD_TIMEOUT_S)
            self._begin(data, 0)

    def eof_received(self) -> None:
        """A caller who says that nothing more will come does not wait for an answer either (as nginx has it).

        The transport closes itself now, but not before what is written has been taken.
        """
        self._leave()
        self._see_off()

    def connection_lost(self, _: Exception | None) -> None:
        self._leave()
        self._acceptor.forget(self)

    def pause_writing(self) -> None:
        self.paused = True
        self._taken()
        self._wait_for("reply", self._acceptor.stall_timeout_s)

    def _taken(self) -> int:
        """How many bytes the caller has taken since it was last asked; `_unsent` says what still waits.

        Over TLS what was encrypted lies out of sight, below the transport that is seen. It waits as long as the system
        has some of it, and what the caller's system has acknowledged is taken.
        """
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if not self._tls:
            return before - self._unsent
        accepted = self._transport.get_extra_info("socket")
        if accepted is None or accepted.fileno() < 0:
            return 0
        said = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        flying, acknowledged, waiting = _TCP_INFO.unpack(said)
        taken, self._acknowledged = acknowledged - self._acknowledged, acknowledged
        self._unsent += waiting + flying
        return int(taken)

    def resume_writing(self) -> None:
        self.paused = False
        if self._waiting == "reply":
            self._waiting, self.deadline = "", 0.0
        self._wake(self._drain_waiter)
        if self._task is None and not self._waiting:
            self._next()

    def _leave(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._wake(self._drain_waiter)
        if self._coming is not None:
            self._coming.fail(BodyInvalid("the body was cut off: the connection ended before it was whole"))
        if self.caller is not None:
            self.caller.leave()

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- reading a request

    def _begin(self, data: bytes, searched: int) -> None:
        """A request begins with these bytes; up to `searched` they are known to hold no end of a head."""
        end = data.find(END, max(searched, 0))
        if end < 0:
            self._unread = data
            if len(data) > HEAD_BYTES_MAX:
                self._refuse(HeadersTooLarge(f"the headers are larger than {HEAD_BYTES_MAX} bytes"))
            return
        try:
            head = self.head = self._acceptor.heads.read(data[:end])
        except CallRefused as refused:
            self._refuse(refused, seeming_path(data))
            return
        self._unread = b""
        self._waiting, self.deadline = "", 0.0
        rest = data[end + len(END) :]
        length = head.length
        if length is None or length > len(rest) or length > self._acceptor.body_bytes_free:
            self._await_body(head, rest)
        else:
            self._body, self._unread = rest[:length], rest[length:]
        if self.excess:
            excess = RateLimited("too many connections of one address; gateway.connections_per_client_max is less")
            self._refuse(excess, head.path)
            return
        self._task = self._loop.create_task(self._serve())

    def _await_body(self, head: Head, rest: bytes) -> None:
        worker = self._acceptor.worker
        self._incoming = self._coming = IncomingBody(head.length, worker.body_bytes_max, worker.room)
        self._wait_for("body", self._acceptor.body_timeout_s)
        if rest:
            self._take(self._coming, rest)

    def _take(self, coming: IncomingBody, data: bytes) -> None:
        """The next bytes of the body under way, and perhaps of what follows it."""
        coming.feed(data)
        if coming.whole:
            self._coming = None
            self._unread = coming.rest
            self._waiting, self.deadline = "", 0.0
        elif coming.is_ahead:
            self._transport.pause_reading()

    def arrived(self) -> bytes | None:
        """The request's body, if it is small and came with its head."""
        return self._body

    async def read_body(self, key_id: str) -> bytes:
        """The request's body, once it has come; its room is this key's.

        Raises:
            BodyInvalid: cut off, too slow, or in chunks that cannot be read.
            BodyTooLarge: larger than `gateway.body_bytes_max`.
            RateLimited, GatewayBusy: there is no room for it.
        """
        incoming = self._incoming
        assert incoming is not None
        incoming.admit(key_id)
        if not incoming.whole and incoming.fault is None:
            if "expect" in self.head.headers and not self.head.http_1_0 and not self.gone:
                self._transport.write(CONTINUE)
            self._transport.resume_reading()
            await incoming.ended()
        return incoming.body()

    # -- the request under way

    async def _serve(self) -> None:
        try:
            await pipeline.serve(self._acceptor.worker, self.head, self)
        finally:
            self._task = None
            self._over()

    def _over(self) -> None:
        """The request is over, one way or another."""
        self.caller = None
        if self._incoming is not None:
            self._incoming.give_back()
        if self.gone:
            self._transport.close()
        elif not self._answered or self._streaming:
            # Nothing, or half a reply: what the caller has must not look whole.
            self.abort()
        elif not self._keep or self._acceptor.closing:
            self._close()
        else:
            self._forget_request()
            if not self.paused:
                self._next()

    def _next(self) -> None:
        """Wait for the next request, or begin it if it is there."""
        self._wait_for("idle", IDLE_TIMEOUT_S)
        if self._tls:
            # No mark is passed where a large reply is encrypted at once: whether it is taken has to be looked at.
            self._taken()
            if self._unsent:
                self._wait_for("idle", min(self._acceptor.stall_timeout_s, IDLE_TIMEOUT_S))
        if self._unread:
            data, self._unread = self._unread, b""
            self._wait_for("head", HEAD_TIMEOUT_S)
            self._transport.resume_reading()
            self._begin(data, 0)

    # -- the wire

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """The whole reply."""
        self._answered = True
        if self.gone:
            return
        head = self._reply_head(status, headers, None if status in NO_BODY else len(body))
        self._transport.write(head if self.head.method == "HEAD" else head + body)

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        """The head of a reply in pieces; `send` them, and `end` it."""
        self._answered = self._streaming = True
        if not self.gone:
            self._transport.write(self._reply_head(status, headers, -1))

    def send(self, data: bytes) -> None:
        """One piece of a reply."""
        if not self.gone:
            self._transport.write(data if self.head.http_1_0 else b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes) -> None:
        """The last piece, which may be empty, and the end of the reply."""
        self._streaming = False
        if self.gone:
            return
        if self.head.http_1_0:
            self._transport.write(data)
        else:
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")

    async def drained(self) -> None:
        """Wait until the caller takes what is written, or has gone."""
        while self.paused and not self.gone:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    def abort(self) -> None:
        """Drop the connection: whatever the caller has is all it gets, and it does not look whole."""
        if self._streaming and self.head.http_1_0 and not self.gone:
            # The end of such a reply is the end of its connection; only a reset says that there should be more.
            accepted = self._transport.get_extra_info("socket")
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._leave()
        self._transport.abort()

    def _reply_head(self, status: int, headers: list[tuple[str, str]], length: int | None) -> bytes:
        """`length` is -1 where it is not known, None where the status has none."""
        old = self.head.http_1_0
        self._keep = self.head.keep_alive and self._coming is None and not self._acceptor.closing
        said = [*headers, self._acceptor.clock.header()]
        if length == -1:
            if not old:
                said.append(("transfer-encoding", "chunked"))
        elif length is not None:
            said.append(("content-length", str(length)))
        if not self._keep:
            said.append(CLOSE)
        return reply_head(status, said)

    # -- the end

    def _refuse(self, refused: CallRefused, path: str = "/") -> None:
        """Answer what is no request, and close: where a next one would begin cannot be known."""
        self.head = Head("GET", "/", "", {}, 0, keep_alive=False)
        pipeline.refuse(self._acceptor.worker, self, refused, path)
        self._close()

    def _close(self) -> None:
        """Close once everything is written; a caller who still sends is listened to for a moment."""
        self._unread = b""
        self._transport.resume_reading()
        self._see_off()
        if self._transport.can_write_eof():
            with contextlib.suppress(RuntimeError, OSError):
                self._transport.write_eof()
                return
        self._transport.close()

    def _see_off(self) -> None:
        """No request follows: from now on there is a deadline for what is written to be taken."""
        self._taken()
        self._wait_for("linger", self._acceptor.stall_timeout_s if self._unsent else LINGER_S)

    def wind_up(self) -> None:
        """Close unless a request is under way. One whose body is still coming would be refused once it is there."""
        if self._task is None and self._waiting in {"idle", "head"}:
            self._transport.close()
        elif self._waiting == "body":
            self._fail(ShuttingDown("the gateway is shutting down; send the request again"))

    def _fail(self, fault: CallRefused) -> None:
        """The body is not waited for any longer. Whatever else arrives is still no next request."""
        self.deadline = 0.0
        if self._coming is not None:
            self._coming.fail(fault)

    def expire(self, now: float) -> None:
        """What was waited for has not come in time."""
        if self._waiting == "body":
            limit = self._acceptor.body_timeout_s
            self._fail(BodyInvalid(f"the body did not arrive within {limit:g} s"))
        elif self._waiting == "head" and self._unread:
            self._refuse(RequestTimeout(f"the headers did not arrive within {HEAD_TIMEOUT_S:g} s"))
        else:
            self._expire_reply(now)

    def _expire_reply(self, now: float) -> None:
        """Nothing is awaited but that what is written is taken, or that a next request comes."""
        waited = self._unsent
        taken = self._taken()
        if self._unsent:
            if taken < STALL_BYTES:
                self.abort()
            else:
                self.deadline = now + self._acceptor.stall_timeout_s
        elif self._tls and waited and self._waiting == "idle":
            self._wait_for("idle", IDLE_TIMEOUT_S)
        else:
            self._transport.close()
