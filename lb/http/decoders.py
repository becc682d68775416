"""Decoders of content codings (RFC 9110 section 8.4.1), by the libraries of `encoders`: docs/adr/compression.md.

They are made only where a route decompresses, and their libraries loaded only then. Each call is bounded: a decoder
takes `step` bytes at most, and gives about `MOST` bytes, so that a few bytes that unpack to gigabytes cost no more than
that before a limit is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

MOST = 64 * 1024  # bytes that one call gives; zstd gives up to 4 MiB, since its blocks come whole
_WINDOW = 8 << 20  # bytes that zstd may look back, by RFC 9659
CODINGS = ("gzip", "deflate", "br", "zstd")


class Decoder(Protocol):
    """One body. Calls raise ValueError for data that is damaged, or goes on behind its end."""

    step: int  # bytes that one call takes at most

    @property
    def holds(self) -> bool:
        """Whether more comes out for what was put in: by `decode(b"")`, before anything else is put in."""

    @property
    def whole(self) -> bool:
        """Whether the body may end here."""

    def decode(self, data: bytes, /) -> bytes:
        """What comes out at once for `data`."""


def decoders(coding: str) -> Callable[[], Decoder]:
    """A maker of decoders. Raises ImportError without the coding's package, ValueError for an unknown coding."""
    if coding == "gzip":
        return _inflate(31)
    if coding == "deflate":
        return _inflate(15)  # the zlib format (RFC 1950), as RFC 9110 section 8.4.1.2 has it
    if coding == "br":
        return _brotli()
    if coding == "zstd":
        return _zstd()
    raise ValueError(f"there is no coding {coding!r}")


def _inflate(window: int) -> Callable[[], Decoder]:
    from zlib_ng import zlib_ng

    class Inflate:
        __slots__ = ("_rest", "_stream", "holds")
        step = 4096  # what each of many small members copies of those behind it

        def __init__(self) -> None:
            self._stream: Any = zlib_ng.decompressobj(window)
            self._rest = b""
            self.holds = False

        @property
        def whole(self) -> bool:
            return bool(self._stream.eof) and not self._rest

        def decode(self, data: bytes) -> bytes:
            data = self._rest + data
            if self._stream.eof and data:
                if window == 15:
                    raise ValueError("bytes follow the end")
                self._stream = zlib_ng.decompressobj(window)  # members are one body (RFC 1952 section 2.2)
            try:
                out: bytes = self._stream.decompress(data, MOST)
            except zlib_ng.error as error:
                raise ValueError(str(error)) from None
            self._rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self.holds = bool(self._rest) or (len(out) >= MOST and not self._stream.eof)
            return out

    return Inflate


def _brotli() -> Callable[[], Decoder]:
    import brotli

    class Brotli:
        __slots__ = ("_stream", "holds")
        step = 4096

        def __init__(self) -> None:
            self._stream: Any = brotli.Decompressor()
            self.holds = False

        @property
        def whole(self) -> bool:
            return bool(self._stream.is_finished())

        def decode(self, data: bytes) -> bytes:
            if self._stream.is_finished() and data:
                raise ValueError("bytes follow the end")
            try:
                out: bytes = self._stream.process(data, output_buffer_limit=MOST)
            except brotli.error as error:
                raise ValueError(str(error)) from None
            full = len(out) >= MOST or not self._stream.can_accept_more_data()
            self.holds = full and not self._stream.is_finished()
            return out

    return Brotli


def _zstd() -> Callable[[], Decoder]:
    import zstandard

    class Zstd:
        __slots__ = ("_rest", "_stream", "holds")
        step = 128  # a block of 4 bytes gives up to 128 KiB

        def __init__(self) -> None:
            self._stream: Any = self._new()
            self._rest = b""
            self.holds = False

        def _new(self) -> Any:
            return zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()

        @property
        def whole(self) -> bool:
            return bool(self._stream.eof) and not self._rest

        def decode(self, data: bytes) -> bytes:
            data = self._rest + data
            if self._stream.eof and data:
                self._stream = self._new()  # frames are one body (RFC 8878 section 3.1)
            try:
                out: bytes = self._stream.decompress(data)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
            self._rest = self._stream.unused_data if self._stream.eof else b""
            self.holds = bool(self._rest)
            return out

    return Zstd
