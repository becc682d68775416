"""Names under which a tier keeps things. Servers and people see them in logs, so they are printable where they can be.

PREFIX e:DIGEST   an entry
PREFIX g:TAG      the generation of a tag
PREFIX c:DIGEST   a claim

A DIGEST is of the request, under a key that all daemons with the secret of the tier have for the pool: it outlives
restarts, and says nothing to whoever has no secret.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b

TAG = b"g:"


def pool_key(secret: bytes, pool: str) -> bytes:
    """32 bytes under which the requests of a pool are hashed."""
    key = blake2b(secret, digest_size=32, person=b"tidegate tierkey").digest()
    return blake2b(pool.encode(), key=key, digest_size=32).digest()


def entry_name(prefix: bytes, key: bytes) -> bytes:
    return prefix + b"e:" + _text(key)


def claim_name(prefix: bytes, key: bytes) -> bytes:
    return prefix + b"c:" + _text(key)


def tag_name(prefix: bytes, tag: bytes) -> bytes:
    """With the tag as it is, so that it can be read back."""
    return prefix + TAG + tag


def short_tag_name(prefix: bytes, tag: bytes) -> bytes:
    """With a digest of the tag: for servers that take short and printable names only."""
    return prefix + TAG + _text(blake2b(tag, digest_size=24).digest())


def _text(octets: bytes) -> bytes:
    return urlsafe_b64encode(octets).rstrip(b"=")
