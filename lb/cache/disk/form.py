"""An answer as a file has it: a head, the tags, the value, and a checksum over all of it under the secret of the keys.

The file is of no use to who has not the secret, for it cannot be found or made; a file that is torn, cut short or of
another key is none.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import blake2b

from msgspec import Struct

MAGIC = b"TgDisk1\n"
KEY = 32  # bytes
MOST_TAGS = 255

_HEAD = struct.Struct(f"<8s{KEY}sIIIQqqq")
_TAG = struct.Struct("<II")
_CHECKSUM = 16

Tags = tuple[tuple[int, int], ...]
"""Slots and generations, as of when the answer was made."""


class Stored(Struct, frozen=True):
    """What a file has. Times are ns."""

    key: bytes
    value: bytes
    tags: Tags
    run: int  # of the daemon that wrote it: generations of another one are others
    at: int  # Unix time of its writing
    age_ns: int  # of the answer then
    fresh_ns: int  # left of its freshness then
    error_ns: int  # of its use behind that
    cost_us: int


def pack(stored: Stored, secret: bytes) -> list[bytes]:
    """The parts of the file, in order."""
    head = _HEAD.pack(
        MAGIC, stored.key, stored.run, len(stored.tags), stored.cost_us, stored.at, stored.age_ns, stored.fresh_ns,
        stored.error_ns,
    )  # fmt: skip
    parts = [head, b"".join(_TAG.pack(*tag) for tag in stored.tags), stored.value]
    return [*parts, _checksum(parts, secret)]


def size_of(stored: Stored) -> int:
    """Bytes of the file."""
    return _HEAD.size + len(stored.tags) * _TAG.size + len(stored.value) + _CHECKSUM


def unpack(data: bytes, key: bytes, secret: bytes) -> Stored:
    """Raises ValueError where `data` is not what `pack` made of an answer of `key`."""
    if len(data) < _HEAD.size + _CHECKSUM:
        raise ValueError("it is cut short")
    magic, named, run, count, cost_us, at, age_ns, fresh_ns, error_ns = _HEAD.unpack_from(data)
    begin = _HEAD.size + count * _TAG.size
    end = len(data) - _CHECKSUM
    if magic != MAGIC or named != key or count > MOST_TAGS or begin > end:
        raise ValueError("it is of another kind")
    view = memoryview(data)
    if not hmac.compare_digest(_checksum([view[:end]], secret), data[end:]):
        raise ValueError("it is damaged")
    tags = tuple(_TAG.iter_unpack(view[_HEAD.size : begin]))
    return Stored(key, data[begin:end], tags, run, at, age_ns, fresh_ns, error_ns, cost_us)


def _checksum(parts: list[bytes] | list[memoryview], secret: bytes) -> bytes:
    digest = blake2b(digest_size=_CHECKSUM, key=secret)
    for part in parts:
        digest.update(part)
    return digest.digest()
