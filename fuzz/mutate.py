"""Inputs near the seeds: the same for the same number, with nothing but the standard library."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

SIZE_MAX = 64 * 1024
"""What grows beyond it is cut: a fault that needs more is one of size, for which there are tests of their own."""

TOKENS: tuple[bytes, ...] = (
    *(b"\x00", b"\xff", b"\r", b"\n", b"\r\n\r\n", b"\n\n", b'"', b"\\", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"{", b"}", b"[", b"]", b"[[[[[[[[", b"{}", b"[]", b",", b":", b"null", b"true", b'""', b"\x1f\x8b", b"PAR1"),
    *(
        b"0",
        b"-1",
        b"1e999",
        b"-0.0",
        b"0.1",
        b"1E-400",
        b"NaN",
        b"9007199254740993",
        b"9" * 40,
        b"18446744073709551616",
    ),
    *(b"data: ", b"event: ", b"data:[DONE]\n\n", b"--", b"CBJ1", b"%00", b"%ff", b"=", b";", b"=1+1", b"../", b"'"),
)
"""Pieces at which readers stumble: ends, marks, numbers that fit nowhere, and the first bytes of formats."""


def mutations(seeds: Sequence[bytes], count: int, number: int = 0) -> Iterator[bytes]:
    """`count` inputs, each some seed changed in one to six places. Equal arguments give equal inputs."""
    draw = random.Random(number)
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 6)):
            _changed(draw, data, seeds)
        yield bytes(data[:SIZE_MAX])


def _changed(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = draw.randint(0, len(data))
    until = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
    match draw.randrange(8):
        case 0 if until > at:
            data[at] ^= 1 << draw.randrange(8)
        case 1:
            del data[at:until]
        case 2:
            data[at:at] = draw.choice(TOKENS)
        case 3:
            data[at:until] = draw.choice(TOKENS)
        case 4:
            data[at:at] = data[at:until] * draw.choice((1, 2, 40))
        case 5:
            other = draw.choice(seeds)
            begin = draw.randint(0, len(other))
            data[at:until] = other[begin : begin + draw.choice((4, 32, 256))]
        case 6:
            del data[at:]
        case _:
            data[at:at] = draw.randbytes(draw.randint(1, 8))
