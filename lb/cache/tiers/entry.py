"""What a tier keeps under a key: an answer with its times, cost and tags, in one encoding that vouches for itself.

Layout of version 1, little-endian:

    4  bytes   "TgC1"
    2  u16     number of tags
    8  u64     made at, Unix time, ns
    8  u64     fresh until, Unix time, ns
    8  u64     stale until, Unix time, ns
    8  u64     cost of the answer, µs of compute
    4  u32     length of the value, bytes
       for each tag: u16 length, the tag, 24 bytes generation
       the value
    16 bytes   keyed BLAKE2b of the key and all of the above

The checksum is keyed by the secret that the daemons of a tier have in common, and covers the key. A value that is torn,
has another layout, was written under another key, or by somebody without the secret is therefore no entry.
A generation is 8 random bytes and 16 bytes of the same keyed hash over its tag and them, for the same reasons. The
lowest bit of the first byte says where it comes from: 1 of a purge, 0 of a tag that had none.
"""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import blake2b

from msgspec import Struct

MAGIC = b"TgC1"
CHECKSUM = 16  # bytes
GENERATION = 24  # bytes
MOST_TAGS = 64
LONGEST_TAG = 250  # bytes

_HEAD = struct.Struct("<4sHQQQQI")
_LENGTH = struct.Struct("<H")
_DRAWN = GENERATION - CHECKSUM


class Entry(Struct, frozen=True):
    """An answer. `tags` has the generation of each tag as it was before the answer was computed, so that a purge that
    comes meanwhile wins."""

    value: bytes
    fresh_until: int  # Unix time, ns
    stale_until: int  # Unix time, ns; never before fresh_until
    cost_us: int = 0
    tags: tuple[tuple[bytes, bytes], ...] = ()  # tag, generation
    made_at: int = 0  # Unix time, ns


class Codec:
    """Encodes entries and generations under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._key = blake2b(secret, digest_size=32, person=b"tidegate tier").digest()

    def fits(self, entry: Entry) -> bool:
        """Whether the entry has no more tags than MOST_TAGS, and none longer than LONGEST_TAG."""
        tags = entry.tags
        return len(tags) <= MOST_TAGS and all(len(tag) <= LONGEST_TAG and len(g) == GENERATION for tag, g in tags)

    def encode(self, key: bytes, entry: Entry) -> bytes:
        """The layout above, of an entry that fits."""
        size = len(entry.value)
        times = entry.made_at, entry.fresh_until, entry.stale_until
        head = _HEAD.pack(MAGIC, len(entry.tags), *times, entry.cost_us, size)
        parts = [head, *(_LENGTH.pack(len(tag)) + tag + token for tag, token in entry.tags), entry.value]
        return b"".join((*parts, self._checksum(b"entry", key, *parts)))

    def decode(self, key: bytes, data: bytes) -> Entry | None:
        """The entry that was encoded under `key`; None for anything else."""
        if len(data) < _HEAD.size + CHECKSUM or data[:4] != MAGIC:
            return None
        body = memoryview(data)[:-CHECKSUM]
        if not hmac.compare_digest(self._checksum(b"entry", key, body), data[-CHECKSUM:]):
            return None
        # From here on the bytes are what some daemon with the secret has encoded.
        _, count, made_at, fresh_until, stale_until, cost_us, size = _HEAD.unpack_from(body)
        at, tags = _HEAD.size, []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size
            tags.append((bytes(body[at : at + length]), bytes(body[at + length : at + length + GENERATION])))
            at += length + GENERATION
        return Entry(bytes(body[at : at + size]), fresh_until, stale_until, cost_us, tuple(tags), made_at)

    def new_generation(self, tag: bytes, purged: bool = True) -> bytes:
        """A generation of `tag` that no other call gives, on any daemon; `purged`: it ends the one before."""
        drawn = bytearray(os.urandom(_DRAWN))
        drawn[0] = drawn[0] & 0xFE | purged
        return bytes(drawn) + self._checksum(b"generation", tag, drawn)

    def is_generation(self, tag: bytes, token: bytes | None) -> bool:
        """Whether `token` was made for `tag` by a daemon with the secret."""
        if token is None or len(token) != GENERATION:
            return False
        drawn = token[:_DRAWN]
        return hmac.compare_digest(self._checksum(b"generation", tag, drawn), token[_DRAWN:])

    def is_first_generation(self, tag: bytes, token: bytes | None) -> bool:
        """Whether `token` is a generation that was given to a tag without one: nothing was purged by it."""
        return self.is_generation(tag, token) and token is not None and not token[0] & 1

    def _checksum(self, kind: bytes, key: bytes, *parts: bytes | bytearray | memoryview) -> bytes:
        hashed = blake2b(_LENGTH.pack(len(key)) + key, digest_size=CHECKSUM, key=self._key, person=kind)
        for part in parts:
            hashed.update(part)
        return hashed.digest()
