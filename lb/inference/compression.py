"""Bodies with a Content-Encoding (RFC 9110 section 8.4): requests decompressed up to a limit, answers compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from lb.inference.errors import BodyTooLarge, OipError, UnknownEncoding

# What a 501 answer names in Accept-Encoding.
ACCEPTED = "gzip, deflate"
# A body of members without content would take time for each of its bytes.
MAX_MEMBERS = 16
RATIO = 100  # bytes that come out for each that goes in, where a route says nothing
FREE = 1 << 20  # bytes that may come out whatever their ratio
_STEP = 16 << 10  # bytes that go in at once
_PIECE = 64 << 10  # that come out
# Of answers. Less fits one packet anyway; more would hold up other requests, at 10 to 20 ms per MiB.
COMPRESS_LEAST = 1024
COMPRESS_MOST = 4 << 20
_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def decompressed(encoding: bytes, body: memoryview, limit: int, ratio: int) -> Iterator[bytes]:
    """The body without its encoding, of at most `limit` bytes, in pieces of at most 64 KiB; some may be empty.

    `encoding` is the Content-Encoding header: gzip (several members are one body, RFC 1952 section 2.2), deflate (the
    zlib format, RFC 1950) or identity. More than 1 MiB comes out of at most `ratio` times as many bytes as have gone
    in. Raises UnknownEncoding for another encoding, BodyTooLarge for more bytes, and OipError for a body that is
    damaged or cut off.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        if len(body) > limit:
            raise _too_large(limit)
        for at in range(0, len(body), _PIECE):
            yield bytes(body[at : at + _PIECE])
        return
    window = _WINDOW.get(name)
    if window is None:
        shown = name[:40].decode("latin-1")
        raise UnknownEncoding(f"Content-Encoding '{shown}' is not supported, only {ACCEPTED}")
    given = taken = 0
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(window)
        while not decoder.eof:
            rest: bytes | memoryview = decoder.unconsumed_tail
            if not rest:
                rest = body[taken : taken + _STEP]
                taken += len(rest)
                if not rest:
                    raise OipError(f"the {name.decode()} body is cut off")
            try:
                piece = decoder.decompress(rest, _PIECE)
            except zlib.error as error:
                raise OipError(f"the {name.decode()} body is damaged: {error}") from None
            given += len(piece)
            if given > limit:
                raise _too_large(limit)
            if given > FREE and given > taken * ratio:
                raise BodyTooLarge(f"the body is more than {ratio} times as large when it is decompressed")
            yield piece
        taken -= len(decoder.unused_data)
        if taken == len(body):
            return
        if window == 15:
            raise OipError("bytes follow the deflate body")
    raise OipError(f"the gzip body has more than {MAX_MEMBERS} members")


def decompress(encoding: bytes, body: bytes, limit: int, ratio: int = RATIO) -> bytes:
    """All of that at once: for bodies whose size is known to be small."""
    return b"".join(decompressed(encoding, memoryview(body), limit, ratio))


def compress(encoding: bytes, parts: Iterable[bytes | memoryview]) -> bytes:
    """A body of `parts` in the encoding gzip or deflate (the zlib format), at the fastest level."""
    encoder = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, _WINDOW[encoding])
    pieces = [encoder.compress(part) for part in parts]
    return b"".join([*pieces, encoder.flush()])


def _too_large(limit: int) -> OipError:
    return BodyTooLarge(f"the decompressed body is larger than {limit} bytes")
