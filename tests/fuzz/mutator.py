"""A small mutator: damages corpus entries where it hurts. For runs without a coverage-guided engine.

Deterministic: the same seed gives the same inputs, so that a finding can be had again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b'"', b"\\", b"=", b"==", b"%00", b"\0", b"\x7f",
    b"\x80", b"\xff", b"0", b"-1", b"1", b"ffffffffffffffff", b"10000000000000000", b"9" * 30, b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Connection: close, host\r\n", b"Upgrade: x\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"0\r\n\r\n", b"1\r\nx\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", b"Via: 1.1 a\r\n",
    b"Forwarded: for=a\r\n",
    b"[::1]:80", b"[", b"]", b"{", b"}", b"null", b"1e400", b"\\u0000", b"\\ud800", b'"id":"x",', b"\x00\x00\x00",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x00\x00\x08\x06\x00\x00\x00\x00\x00", b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
]  # fmt: skip
LONGEST = 64 * 1024


def mutated(seeds: Sequence[bytes], dice: random.Random) -> Iterator[bytes]:
    """Inputs without end; `seeds` must not be empty."""
    while True:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 1, 2, 3, 5, 10))):
            _damage(data, seeds, dice)
        yield bytes(data[:LONGEST])


def _damage(data: bytearray, seeds: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randint(0, len(data))
    kind = dice.randrange(8)
    if kind == 0:
        data[at:at] = dice.choice(TOKENS)
    elif kind == 1:
        del data[at : at + dice.choice((1, 2, 4, 16, 64))]
    elif kind == 2 and at < len(data):
        data[at] = dice.randrange(256)
    elif kind == 3 and at < len(data):
        data[at] ^= 1 << dice.randrange(8)
    elif kind == 4:
        token = dice.choice(TOKENS)
        data[at : at + len(token)] = token
    elif kind == 5:  # a piece of itself once more
        start = dice.randint(0, len(data))
        data[at:at] = data[start : start + dice.choice((4, 32, 256))]
    elif kind == 6:  # a piece of another seed
        other = dice.choice(seeds)
        start = dice.randint(0, len(other))
        data[at:at] = other[start : start + dice.choice((8, 64, 512))]
    elif at < len(data):
        data[at] = (data[at] + dice.choice((1, 255))) % 256
