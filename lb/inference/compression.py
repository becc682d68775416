"""Bodies with a Content-Encoding (RFC 9110 section 8.4): requests decompressed up to a limit, answers compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from lb.inference.errors import BodyTooLarge, OipError, UnknownEncoding

# What a 501 answer names in Accept-Encoding.
ACCEPTED = "gzip, deflate"
# Each member costs a copy of what is left: without a bound, a body of empty members would cost its length squared.
MAX_MEMBERS = 16
# Of answers. Less fits one packet anyway; more would hold up other requests, at 10 to 20 ms per MiB.
COMPRESS_LEAST = 1024
COMPRESS_MOST = 4 << 20
_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def decompress(encoding: bytes, body: bytes, limit: int) -> bytes:
    """The body without its encoding, of at most `limit` bytes.

    `encoding` is the Content-Encoding header: gzip (several members are one body, RFC 1952 section 2.2), deflate (the
    zlib format, RFC 1950) or identity. Raises UnknownEncoding for another, BodyTooLarge for more than `limit` bytes,
    and OipError for a body that is damaged or cut off.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    window = _WINDOW.get(name)
    if window is None:
        shown = name[:40].decode("latin-1")
        raise UnknownEncoding(f"Content-Encoding '{shown}' is not supported, only {ACCEPTED}")
    pieces: list[bytes] = []
    room = limit
    rest = body
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(window)
        try:
            # One byte more than there is room for tells a body that just fits from one that does not.
            piece = decoder.decompress(rest, room + 1)
        except zlib.error as error:
            raise OipError(f"the {name.decode()} body is damaged: {error}") from None
        if len(piece) > room:
            raise _too_large(limit)
        if not decoder.eof:
            raise OipError(f"the {name.decode()} body is cut off")
        pieces.append(piece)
        room -= len(piece)
        rest = decoder.unused_data
        if not rest:
            return b"".join(pieces)
        if window == 15:
            raise OipError("bytes follow the deflate body")
    raise OipError(f"the gzip body has more than {MAX_MEMBERS} members")


def compress(encoding: bytes, parts: Iterable[bytes | memoryview]) -> bytes:
    """A body of `parts` in the encoding gzip or deflate (the zlib format), at the fastest level."""
    encoder = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, _WINDOW[encoding])
    pieces = [encoder.compress(part) for part in parts]
    return b"".join([*pieces, encoder.flush()])


def _too_large(limit: int) -> OipError:
    return BodyTooLarge(f"the decompressed body is larger than {limit} bytes")
