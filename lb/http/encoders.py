"""Encoders of content codings (RFC 9110 section 8.4.1), by the libraries that do it best: docs/adr/compression.md.

They are made only where a route compresses, and their libraries loaded only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_WINDOW = 18  # log2 of the bytes that br and zstd look back: 256 KiB, which bounds the memory of a stream


class Encoder(Protocol):
    """One body. Everything that was put in has come out behind `flush`; behind `finish` nothing may be put in."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """What comes out at once for `data`; often nothing."""

    def flush(self) -> bytes:
        """What is held back, so that whoever reads it can decode all that was put in."""

    def finish(self) -> bytes:
        """The rest, with the end of the coding."""


def encoders(coding: str, level: int) -> Callable[[], Encoder]:
    """A maker of encoders. Raises ImportError without the coding's package, ValueError for an unknown coding."""
    if coding == "gzip":
        return _gzip(level)
    if coding == "br":
        return _brotli(level)
    if coding == "zstd":
        return _zstd(level)
    raise ValueError(f"there is no coding {coding!r}")


def _gzip(level: int) -> Callable[[], Encoder]:
    from zlib_ng import zlib_ng

    class Gzip:
        __slots__ = ("_stream", "compress")

        def __init__(self) -> None:
            self._stream = zlib_ng.compressobj(level, zlib_ng.DEFLATED, 31)
            self.compress = self._stream.compress

        def flush(self) -> bytes:
            return bytes(self._stream.flush(zlib_ng.Z_SYNC_FLUSH))

        def finish(self) -> bytes:
            return bytes(self._stream.flush(zlib_ng.Z_FINISH))

    return Gzip


def _brotli(level: int) -> Callable[[], Encoder]:
    import brotli

    class Brotli:
        __slots__ = ("_stream", "compress", "finish", "flush")

        def __init__(self) -> None:
            self._stream = brotli.Compressor(quality=level, lgwin=_WINDOW)
            self.compress = self._stream.process
            self.flush = self._stream.flush
            self.finish = self._stream.finish

    return Brotli


def _zstd(level: int) -> Callable[[], Encoder]:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=_WINDOW)

    class Zstd:
        __slots__ = ("_stream", "compress")

        def __init__(self) -> None:
            # One for each body: a compressor has one stream at a time.
            self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
            self.compress = self._stream.compress

        def flush(self) -> bytes:
            return bytes(self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))

        def finish(self) -> bytes:
            return bytes(self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH))

    return Zstd
