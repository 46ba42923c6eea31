"""The provider's own books: one line per call, appended as JSON before the call's last byte leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from pathlib import Path
from typing import Any, Literal

import msgspec

from costbearer.errors import StoreFailed

Outcome = Literal["complete", "cut_by_client", "cut_by_fault", "error"]

_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation, Overflow])


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One call as the provider saw it.

    `usage` has the provider's own shape and counts what is billed, also where the reply never stated it. `cost_usd` is
    exact decimal text, "0" where `billed` is False (a refusal, a free operation). `generated_tokens` and `bytes_sent`
    (bytes of the body, before transfer coding) tell how far a call that was cut had come. `saw` names what should have
    stayed behind the gateway: `tags`, `baggage`, `x-costbearer`, `virtual_key`. `body` is kept on request only.
    """

    seq: int
    at: datetime
    provider: str
    operation: str
    request_id: str
    response_id: str | None
    request_model: str | None
    model: str | None
    mark: str
    stream: bool
    status: int
    usage: dict[str, Any] | None
    cost_usd: str
    billed: bool
    outcome: Outcome
    generated_tokens: int
    bytes_sent: int
    fault: str | None
    saw: tuple[str, ...]
    body_sha256: str
    body: str | None = None

    @property
    def cost(self) -> Decimal:
        """What was billed, in US dollars."""
        return Decimal(self.cost_usd)


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Billed calls, refused calls and what the billed ones cost, as exact decimal text."""

    billed: int
    refused: int
    cost_usd: str


class Statement:
    """What the books held at one moment."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = tuple(lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, **fields: object) -> Statement:
        """The lines whose fields have these values, such as `mark="a1"`, `billed=True`."""
        return Statement(
            line for line in self.lines if all(getattr(line, name) == value for name, value in fields.items())
        )

    def total(self, **fields: object) -> Decimal:
        """The sum in US dollars, exactly, of the lines that `where` would keep."""
        return _sum(self.where(**fields).lines if fields else self.lines)

    def totals(self) -> dict[str, dict[str, Total]]:
        """By provider, then by model, and `all` of each; `""` is a call that named no model the provider has."""
        groups: dict[str, dict[str, list[Line]]] = {}
        for line in self.lines:
            models = groups.setdefault(line.provider, {"all": []})
            models["all"].append(line)
            models.setdefault(line.model or "", []).append(line)
        return {
            provider: {model: _total(lines) for model, lines in models.items()} for provider, models in groups.items()
        }


def _sum(lines: Iterable[Line]) -> Decimal:
    total = Decimal(0)
    for line in lines:
        total = _EXACT.add(total, line.cost)
    return total


def _total(lines: list[Line]) -> Total:
    return Total(
        billed=sum(line.billed for line in lines),
        refused=sum(line.outcome == "error" for line in lines),
        cost_usd=format(_sum(lines), "f"),
    )


def read_books(path: Path) -> Statement:
    """The statement of a books file, also of one that a simulator in another process still writes.

    Raises:
        StoreFailed: a line is not one of these books.
    """
    decoder = msgspec.json.Decoder(Line)
    lines = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                break  # the writer is in the middle of it
            try:
                lines.append(decoder.decode(text))
            except msgspec.MsgspecError as error:
                raise StoreFailed(f"{path}, line {number}: not a line of a simulator's books ({error})") from error
    return Statement(lines)


class Books:
    """The open books. With a path the lines live in the file alone, so that a long run needs no memory; else in memory.

    Safe to read from another thread than the one that writes.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self._encode: Callable[[Line], bytes] = msgspec.json.Encoder().encode
        self._file = -1
        self._seq = 0
        if path is not None:
            self._seq = len(read_books(path)) if path.exists() else 0
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def next_seq(self) -> int:
        """The number of the next call; calls are numbered as they arrive and written as they end."""
        self._seq += 1
        return self._seq

    def add(self, line: Line) -> None:
        """Append one line; it is with the operating system when this returns.

        Raises:
            StoreFailed: the file took only a part of it.
        """
        if self.path is None:
            with self._lock:
                self._lines.append(line)
            return
        text = self._encode(line) + b"\n"
        if os.write(self._file, text) != len(text):
            raise StoreFailed(f"{self.path}: short write, the disk is full")

    def statement(self) -> Statement:
        """Everything so far."""
        if self.path is not None:
            return read_books(self.path)
        with self._lock:
            return Statement(self._lines)

    def reset(self) -> None:
        """Forget every line, in the file too."""
        with self._lock:
            self._lines.clear()
        if self.path is not None:
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
